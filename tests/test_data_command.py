"""python -m lib.data: status tells whole from missing from damaged; download mends."""

import shutil

import pytest
from sets_on_disk import change, idx_files, truncate, write_people, write_signs

import lib.data.__main__ as command
from lib import data
from lib.data import files


def test_status_tells_whole_missing_and_damaged(tmp_path, monkeypatch, capsys):
    people = write_people(tmp_path, monkeypatch)
    (people / "cifar-10-batches-py").mkdir()
    for batch in files.CIFAR10_MD5:
        (people / "cifar-10-batches-py" / batch).write_bytes(b"x")
    assert command.main(["status", "--data", str(people)]) == 1
    lines = capsys.readouterr().out.splitlines()
    table = {line.split()[0]: line for line in lines[1 : len(data.SETS) + 1]}
    assert list(table) == list(data.SETS)
    assert {name: line.split()[1] for name, line in table.items()} == dict.fromkeys(data.SETS, "missing") | {
        "mnist5k": "whole",
        "orl-faces": "whole",
        "cifar10": "damaged",
    }
    assert "3,500 + 1,500" in table["mnist5k"] and "14 + 6" in table["orl-faces"]
    assert str(people / "orl-faces") in table["orl-faces"]
    assert any("python -m lib.data download cifar10" in line for line in lines[len(data.SETS) + 1 :])


def test_status_of_one_set(capsys):
    assert command.main(["status", "mnist5k"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    with pytest.raises(SystemExit, match="2"):
        command.main(["status", "nothing"])


@pytest.mark.parametrize("before", ["missing", "damaged"])
def test_download_mends(before, tmp_path, monkeypatch, capsys):
    """torchvision alone would leave a damaged MNIST file as it is: it looks at the name only."""
    counts = {"train": 20, "test": 10}
    change(monkeypatch, "fashion-mnist", counts=counts)
    good = idx_files(tmp_path / "good", counts)
    root = tmp_path / "root"
    if before == "damaged":
        shutil.copytree(tmp_path / "good", root)
        truncate(root / "FashionMNIST" / "raw" / "train-images-idx3-ubyte")

    def fetch(url, download_root, filename, md5):
        shutil.copy(good / filename.removesuffix(".gz"), download_root)

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fetch)
    assert command.main(["download", "fashion-mnist", "--data", str(root)]) == 0
    assert "is in" in capsys.readouterr().out
    assert len(data.load("fashion-mnist", "train", root)) == 20
    assert command.main(["download", "fashion-mnist", "--data", str(root)]) == 0
    assert "already" in capsys.readouterr().out


def test_download_of_gtsrb_completes_an_interrupted_one(monkeypatch, tmp_path):
    signs = write_signs(tmp_path, monkeypatch)
    good = tmp_path / "good"
    shutil.copytree(signs, good)
    shutil.rmtree(signs / "gtsrb" / "GTSRB" / "Training" / "00001")
    fetched = []

    def fetch(url, download_root, md5):
        fetched.append(url)
        part = "Training" if "Training" in url else "Final_Test"
        shutil.copytree(good / "gtsrb/GTSRB" / part, f"{download_root}/GTSRB/{part}", dirs_exist_ok=True)
        if url.endswith("GT.zip"):
            shutil.copy(good / "gtsrb/GT-final_test.csv", download_root)

    monkeypatch.setattr("torchvision.datasets.gtsrb.download_and_extract_archive", fetch)
    assert command.main(["download", "gtsrb", "--data", str(signs)]) == 0
    assert len(fetched) == 3 and len(data.load("gtsrb", "train", signs)) == 36


def test_download_that_fails_says_so_once(tmp_path, monkeypatch, capsys):
    def fetch(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    assert command.main(["download", "cifar10", "--data", str(tmp_path / "new")]) == 1
    assert capsys.readouterr().err == f"cifar10 could not be downloaded into {tmp_path / 'new'}: no network\n"


def test_download_of_what_the_user_must_bring(tmp_path, capsys):
    assert command.main(["download", "imagenet", "--data", str(tmp_path)]) == 2
    assert "val/<WordNet id>/*.JPEG" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command.main(["download", "nothing"])

"""lib.data.folders: sets of single images; GTSRB's verified copy; ImageNet left on disk."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sets_on_disk import assert_damaged, change, flip_bit, picture, truncate, write_people, write_signs

from lib import data
from lib.data import folders


@pytest.fixture
def signs(tmp_path, monkeypatch) -> Path:
    return write_signs(tmp_path, monkeypatch)


@pytest.fixture
def people(tmp_path, monkeypatch) -> Path:
    return write_people(tmp_path, monkeypatch)


def count_reads(monkeypatch) -> list[Path]:
    opened: list[Path] = []
    read = folders.read

    def counted(*args):
        opened.append(args[-1])
        return read(*args)

    monkeypatch.setattr(folders, "read", counted)
    return opened


def test_gtsrb_is_read_and_parted_by_sign(signs):
    train, test = data.load("gtsrb", "train", signs), data.load("gtsrb", "test", signs)
    assert train.images.shape == (36, 3, 32, 32) and train.labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12
    assert test.labels.tolist() == [2, 0, 1, 1, 2] and test.classes == ("a", "b", "c")
    fit, validation = data.load("gtsrb", "fit", signs), data.load("gtsrb", "validation", signs)
    assert torch.bincount(validation.labels).tolist() == [4, 4, 4] and len(fit) == 24
    positions = [(train.images == image).all((1, 2, 3)).nonzero().item() for image in validation.images]
    assert len({position // 4 for position in positions}) == 3  # one whole sign a class


def test_gtsrb_copy_is_kept_verified_and_remade(signs, monkeypatch, tmp_path):
    opened = count_reads(monkeypatch)
    first = data.load("gtsrb", "test", signs)
    (copy,) = (tmp_path / "cache" / "data").glob("gtsrb-test-*.safetensors")

    def again(reads: int) -> data.ImageSet:
        data._split.cache_clear()
        opened.clear()
        loaded = data.load("gtsrb", "test", signs)
        assert len(opened) == reads
        return loaded

    assert again(0).fingerprint == first.fingerprint
    for damage in (flip_bit, truncate, lambda file: file.write_bytes(b"")):
        damage(copy)
        with pytest.warns(UserWarning, match="damaged.*made anew"):
            assert again(5).fingerprint == first.fingerprint
        assert again(0).fingerprint == first.fingerprint
    picture(signs / "gtsrb" / "GTSRB" / "Final_Test" / "Images" / "00003.ppm", (32, 33), seed=77)
    changed = again(5)
    assert changed.fingerprint != first.fingerprint and not torch.equal(changed.images[3], first.images[3])
    assert torch.equal(changed.images[:3], first.images[:3])


def test_gtsrb_without_a_writable_cache(signs, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not kept"):
        assert len(data.load("gtsrb", "test", signs)) == 5


def test_gtsrb_damaged(signs):
    base = signs / "gtsrb"
    image, table = base / "GTSRB" / "Final_Test" / "Images" / "00002.ppm", base / "GT-final_test.csv"
    good = image.read_bytes()
    truncate(image)
    assert_damaged("gtsrb", "test", signs, image, "cannot be decoded")
    image.unlink()
    assert_damaged("gtsrb", "test", signs, image, "no such file")
    image.write_bytes(good)
    rows = table.read_text().splitlines()
    table.write_text("\n".join(rows[:-1]))
    assert_damaged("gtsrb", "test", signs, table, "4 labels, expected 5")
    table.write_text("\n".join([*rows[:-1], "00004.ppm;32;32;x"]))
    assert_damaged("gtsrb", "test", signs, table, "not the table of test labels")
    table.write_text("\n".join([*rows[:-1], "00004.ppm;32;32;9"]))
    assert_damaged("gtsrb", "test", signs, table, "from 0 to 2")
    table.unlink()
    with pytest.raises(data.MissingDataError, match=r"no GT-final_test.csv in"):
        data.load("gtsrb", "test", signs)
    training = base / "GTSRB" / "Training"
    (training / "00001" / "00001_00001.ppm").unlink()
    assert_damaged("gtsrb", "train", signs, training, "35 images, expected 36")
    shutil.rmtree(training / "00002")
    assert_damaged("gtsrb", "train", signs, training, "2 class folders, expected 3")


def test_orl_faces_are_parted_by_person(people):
    train, test = data.load("orl-faces", "train", people), data.load("orl-faces", "test", people)
    assert train.images.shape == (14, 1, 64, 64) and test.images.shape == (6, 1, 64, 64)
    assert torch.bincount(train.labels).tolist() == [7, 7] and torch.bincount(test.labels).tolist() == [3, 3]
    assert train.classes == ("s0", "s1")


def test_orl_faces_damaged(people):
    face = people / "orl-faces" / "s1" / "4.png"
    good = face.read_bytes()
    for damage in (truncate, lambda file: flip_bit(file, len(good) // 2), lambda file: file.write_bytes(b"")):
        damage(face)
        with pytest.raises(data.DataError, match=r"is damaged.*4.png: cannot be decoded.*lib.data status orl-faces"):
            for split in ("train", "test"):
                data._split.cache_clear()
                data.load("orl-faces", split, people)
        face.write_bytes(good)
    for shot in range(10):
        (people / "orl-faces" / "s1" / f"{shot}.png").unlink()
    assert_damaged("orl-faces", "train", people, people / "orl-faces" / "s1", "no image in it")


@pytest.fixture
def photographs(tmp_path, monkeypatch) -> Path:
    for split, count in (("train", 20), ("val", 3)):
        for label, name in enumerate(("n01", "n02")):
            for i in range(count):
                size = (230 + 7 * i, 260)
                picture(tmp_path / "imagenet" / split / name / f"{i:02d}.JPEG", size, seed=label * 1000 + i)
    change(monkeypatch, "imagenet", classes=2)
    return tmp_path


def test_imagenet_stays_on_disk_until_asked(photographs, monkeypatch):
    opened = count_reads(monkeypatch)
    train = data.load("imagenet", "train", photographs)
    assert not train.in_memory and len(train) == 40 and train.images.shape == (40, 3, 224, 224) and not opened
    assert train.classes == ("n01", "n02") and train.fingerprint.startswith("sha256:")
    fit, validation = data.load("imagenet", "fit", photographs), data.load("imagenet", "validation", photographs)
    assert (len(fit), torch.bincount(validation.labels).tolist(), fit.in_memory) == (36, [2, 2], False)
    assert not opened
    some = train.stratified(6, seed=1)
    assert some.in_memory and some.images.shape == (6, 3, 224, 224) and len(opened) == 6
    assert torch.bincount(some.labels).tolist() == [3, 3]
    batch = train.float(index=torch.tensor([39, 0]))
    assert torch.equal(batch, train.images[[39, 0]] / 255) and train.images[-1].shape == (3, 224, 224)
    mask = train.labels == 1
    assert torch.equal(train.subset(mask).images[-1], train.images[39])
    assert len(data.load("imagenet", "test", photographs)) == 6


def test_imagenet_decodes_the_same_in_parallel(photographs):
    train, before = data.load("imagenet", "train", photographs), torch.get_num_threads()
    alone = train.images[:8]
    try:
        torch.set_num_threads(3)
        assert torch.equal(train.images[:8], alone)
    finally:
        torch.set_num_threads(before)


def test_imagenet_refuses_what_does_not_fit_in_memory(photographs, monkeypatch):
    monkeypatch.setattr("lib.data.image_set.MEMORY_LIMIT", 10 * 3 * 224 * 224)
    train = data.load("imagenet", "train", photographs)
    assert len(train.subset(slice(10))) == 10
    with pytest.raises(ValueError, match=r"40 images would take .* take fewer at a time"):
        train.float()


def test_imagenet_damaged(photographs):
    file = photographs / "imagenet" / "val" / "n02" / "01.JPEG"
    truncate(file)
    test = data.load("imagenet", "test", photographs)
    with pytest.raises(data.DataError, match=r"'imagenet' is damaged: .*01.JPEG: cannot be decoded"):
        test.float()
    (photographs / "imagenet" / "val" / "n03").mkdir()
    data._split.cache_clear()
    assert_damaged("imagenet", "test", photographs, photographs / "imagenet" / "val", "3 class folders, expected 2")


@pytest.fixture
def celebrities(tmp_path, monkeypatch) -> Path:
    """Both large face sets in small: three people; of YouTube Faces' two videos of 20 and of 5 frames."""
    for person in range(3):
        for video, count in (("0", 20), ("3", 5)):
            for frame in range(count):
                name = f"aligned_detect_{video}.{frame + 95}.jpg"
                place = tmp_path / "youtube-face" / "aligned_images_DB" / f"P_{person}" / video / name
                picture(place, (40, 44), seed=person * 100 + frame)
        for shot in range(20):
            picture(tmp_path / "vgg-face" / f"P_{person}" / f"{shot:08d}.jpg", (240, 260), seed=person * 100 + shot)
    change(monkeypatch, "youtube-face", classes=3)
    change(monkeypatch, "vgg-face", classes=3)
    return tmp_path


def test_youtube_faces_stay_on_disk_and_are_parted_at_one_place_a_video(celebrities, monkeypatch):
    opened = count_reads(monkeypatch)
    train, test = (data.load("youtube-face", split, celebrities) for split in ("train", "test"))
    assert not train.in_memory and train.images.shape == (3 * 22, 3, 55, 47) and len(test) == 3 * 3 and not opened
    assert torch.bincount(test.labels).tolist() == [3, 3, 3] and test.classes == ("P_0", "P_1", "P_2")
    frames = [(path.parent.name, int(path.stem.rpartition(".")[2])) for path in test.images.paths[:3]]
    assert sorted(frames) == [("0", 113), ("0", 114), ("3", 99)]  # the last, by number and not by name
    assert not {*train.images.paths} & {*test.images.paths}
    assert test.float(index=[0]).shape == (1, 3, 55, 47) and len(opened) == 1
    shutil.move(celebrities / "youtube-face" / "aligned_images_DB" / "P_0", celebrities / "youtube-face" / "P_0")
    data._split.cache_clear()
    assert_damaged("youtube-face", "test", celebrities, "aligned_images_DB", "2 class folders, expected 3")


def test_the_face_is_cut_out_of_its_frame(monkeypatch):
    spec = change(monkeypatch, "youtube-face", shape=(3, 20, 20))
    frame = Image.new("RGB", (88, 88), (0, 0, 255))
    frame.paste((255, 0, 0), (24, 24, 64, 64))  # 88 / 2.2 = 40 in the middle
    cut = np.asarray(folders.face_cropped(frame, spec))
    assert cut.shape == (20, 20, 3) and (cut[1:-1, 1:-1] == (255, 0, 0)).all() and (cut[..., 0] > 180).all()


def test_vgg_face_is_parted_by_a_fixed_seed(celebrities):
    train, test = (data.load("vgg-face", split, celebrities) for split in ("train", "test"))
    assert not test.in_memory and test.images.shape == (6, 3, 224, 224) and len(train) == 54
    assert torch.bincount(test.labels).tolist() == [2, 2, 2] and not {*train.images.paths} & {*test.images.paths}
    data._split.cache_clear()
    assert data.load("vgg-face", "test", celebrities).images.paths == test.images.paths
    assert train.stratified(9, seed=0).in_memory
    shutil.rmtree(celebrities / "vgg-face" / "P_1")
    data._split.cache_clear()
    assert_damaged("vgg-face", "train", celebrities, celebrities / "vgg-face", "2 class folders, expected 3")


@pytest.mark.parametrize("name", ["youtube-face", "vgg-face"])
def test_a_face_set_that_is_not_there_says_what_to_put_where(name, tmp_path):
    with pytest.raises(data.MissingDataError, match=rf"{name}.*Put there .*<person>.*lib.data status {name}"):
        data.load(name, "train", tmp_path)

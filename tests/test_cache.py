"""lib.cache: made once and read after that; what is damaged, or of another key, is made anew."""

import json
import threading
import time
import warnings

import pytest
import torch

from lib import cache, config, store, tensors


class Maker:
    """Counts how often it was asked."""

    def __init__(self, value):
        self.value, self.calls = value, 0

    def __call__(self):
        self.calls += 1
        return self.value


VALUE = {"rows": [{"epsilon": 0.1, "right": (1, 0)}], "none": None}
READ = {"rows": [{"epsilon": 0.1, "right": [1, 0]}], "none": None}


def entry(folder):
    (found,) = folder.glob("kind/*.json")
    return found


@pytest.fixture
def quiet():
    """Any warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_a_value_is_made_once(tmp_path, quiet):
    make = Maker(VALUE)
    for _ in range(3):
        assert cache.get("kind", {"k": 1}, make, folder=tmp_path) == READ
    assert make.calls == 1
    cache.get("kind", {"k": 2}, make, folder=tmp_path)
    cache.get("other", {"k": 1}, make, folder=tmp_path)
    assert make.calls == 3
    assert json.loads(next(tmp_path.glob("other/*.json")).read_text())["key"] == {"k": 1}


def test_keys_that_are_numbers_come_back_as_text_and_are_not_taken_for_damage(tmp_path, quiet):
    make = Maker({2: "a", 10: "b"})  # as numbers 2 comes first, as text "10" does
    for _ in range(2):
        assert cache.get("kind", {"k": 1}, make, folder=tmp_path) == {"2": "a", "10": "b"}
    assert make.calls == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "null",
        lambda text: "{}",
        lambda text: text.replace("0.1", "0.2"),
        lambda text: text.replace('"checksum":"sha256:', '"checksum":"sha256:0'),
    ],
)
def test_a_damaged_entry_is_named_and_made_anew(tmp_path, damage):
    make = Maker(VALUE)
    cache.get("kind", {"k": 1}, make, folder=tmp_path)
    path = entry(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.warns(UserWarning, match=f"cache entry {path} is damaged"):
        assert cache.get("kind", {"k": 1}, make, folder=tmp_path) == READ
    assert make.calls == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.get("kind", {"k": 1}, make, folder=tmp_path) == READ


def test_bytes_that_are_no_text_are_damage(tmp_path):
    make = Maker(VALUE)
    cache.get("kind", {"k": 1}, make, folder=tmp_path)
    entry(tmp_path).write_bytes(b"\xff\xfe\x00")
    with pytest.warns(UserWarning, match="is damaged"):
        assert cache.get("kind", {"k": 1}, make, folder=tmp_path) == READ


def test_a_maker_that_fails_keeps_nothing(tmp_path):
    def fail():
        raise RuntimeError("no")

    for make, error in ((fail, RuntimeError), (lambda: {"a": float("nan")}, ValueError), (lambda: object(), TypeError)):
        with pytest.raises(error):
            cache.get("kind", {"k": 1}, make, folder=tmp_path)
        assert not list(tmp_path.glob("kind/*.json"))
    assert cache.get("kind", {"k": 1}, Maker(VALUE), folder=tmp_path) == READ


def test_of_many_at_once_one_makes_it(tmp_path):
    calls, found = [], []
    barrier = threading.Barrier(4)

    def make():
        calls.append(1)
        time.sleep(0.2)
        return VALUE

    def ask():
        barrier.wait()
        found.append(cache.get("kind", {"k": 1}, make, folder=tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [READ] * 4
    assert len(calls) == 1


def test_what_is_kept_beside_a_value_comes_back_and_is_no_part_of_its_address(tmp_path):
    first = cache.get("kind", {"k": 1}, lambda: ([1], {"device": "here"}), cache.MADE, folder=tmp_path)
    assert first == ([1], {"device": "here"})
    assert cache.get("kind", {"k": 1}, lambda: ([2], {}), cache.MADE, folder=tmp_path) == first
    assert cache.get("kind", {"k": 1}, lambda: [3], folder=tmp_path) == [1]


def test_what_is_not_kept_is_not_made_where_only_that_is_asked_for(tmp_path, quiet):
    with cache.only_kept(), pytest.raises(cache.NotKept, match=r"squares/\w+ is not there"):
        cache.get("squares", {"of": 3}, lambda: 9, folder=tmp_path)
    assert cache.get("squares", {"of": 3}, lambda: 9, folder=tmp_path) == 9
    with cache.only_kept():
        assert cache.get("squares", {"of": 3}, lambda: 1 / 0, folder=tmp_path) == 9


def test_tensors_are_made_once_and_mended(tmp_path):
    make = Maker({"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True])})
    for _ in range(2):
        found = cache.get("kind", {"k": 1}, make, cache.TENSORS, folder=tmp_path, name="part/it")
        assert {name: value.tolist() for name, value in found.items()} == {"a": [[0, 1, 2], [3, 4, 5]], "b": [True]}
    path = tmp_path / "kind/part/it.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)
    with pytest.warns(UserWarning, match=f"cache entry {path} is damaged: its checksum does not match"):
        cache.get("kind", {"k": 1}, make, cache.TENSORS, folder=tmp_path, name="part/it")
    with pytest.warns(UserWarning, match=f"cache entry {path} is damaged: it is that of another key"):
        cache.get("kind", {"k": 2}, make, cache.TENSORS, folder=tmp_path, name="part/it")
    assert make.calls == 3


def test_tensors_written_without_a_key_are_read(tmp_path):
    tensors.write(tmp_path / "kind/it.safetensors", {"a": torch.ones(2)})
    with cache.only_kept():
        found = cache.get("kind", {"k": 1}, lambda: 1 / 0, cache.TENSORS, folder=tmp_path, name="it")
    assert found["a"].tolist() == [1, 1]


def test_another_place_is_read_and_never_written(tmp_path, quiet):
    cache.get("kind", {"k": 1}, lambda: 5, folder=tmp_path / "shipped")
    also = tmp_path / "shipped" / cache.name_of("kind", {"k": 1})
    with cache.only_kept():
        assert cache.get("kind", {"k": 1}, lambda: 1 / 0, folder=tmp_path / "own", also=also) == 5
    before = also.read_bytes()
    assert cache.get("kind", {"k": 1}, lambda: 6, folder=tmp_path / "own", also=also, anew=True) == 6
    assert cache.get("kind", {"k": 1}, lambda: 7, folder=tmp_path / "own", also=also) == 6  # its own comes first
    assert also.read_bytes() == before


SHIPPED = sorted((config.ROOT / "results").glob("*/evaluations/*/*.json"))


@pytest.mark.parametrize("kind", sorted({path.parent for path in SHIPPED}), ids=lambda folder: folder.name)
def test_every_kept_table_that_ships_is_found_under_its_key(kind, quiet):
    """The address of a key, and the format of a file, stay what they were."""
    for path in sorted(kind.glob("*.json")):
        body = json.loads(path.read_text())
        with cache.only_kept():
            value, about = cache.get(kind.name, body["key"], lambda: 1 / 0, cache.MADE, folder=kind.parent)
        assert store.fingerprint(value) == body["checksum"] and about == body.get("made", {})
        assert kind.parent / cache.name_of(kind.name, body["key"]) == path

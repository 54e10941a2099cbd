"""Kept files that are damaged in any byte, of another shape or another address: refused in words, or made anew."""

import json
import shutil
import warnings

import pandas as pd
import pytest
import torch

from lib import cache, config, data, evaluations, store, tensors
from lib.data import folders
from lib.slicing import NeuronProfile, Slices, SlicingError


@pytest.fixture
def kept(tmp_path):
    path = tmp_path / "it.safetensors"
    tensors.write(path, {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bool)}, {"kind": "test"})
    return path


def test_tensors_come_back_as_they_were(kept):
    held, about = tensors.read(kept)
    assert held["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and held["b"].dtype == torch.bool
    assert about == {"kind": "test"}


def test_no_flipped_bit_changes_tensors_unseen(kept):
    """Every third bit of the file: what is read is refused, or equal."""
    whole, (wanted, told) = kept.read_bytes(), tensors.read(kept)
    seen = 0
    for place in range(0, 8 * len(whole), 3):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        kept.write_bytes(flipped)
        try:
            held, about = tensors.read(kept)
        except ValueError:
            seen += 1
            continue
        assert about == told and held.keys() == wanted.keys()
        assert all(torch.equal(held[name], wanted[name]) and held[name].dtype == wanted[name].dtype for name in held)
    assert seen > 0.99 * 8 * len(whole) / 3


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, -1])
def test_tensors_cut_short_are_refused(kept, length):
    kept.write_bytes(kept.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"cut short or no file of tensors|does not match"):
        tensors.read(kept)


def test_a_file_of_before_there_were_checksums_is_taken_where_it_is_expected(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "it.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"layers": "{}"})
    assert tensors.read(path, before=["layers"])[1] == {"layers": "{}"}
    for before in (None, [], ["kind"]):
        with pytest.raises(ValueError, match="no checksum"):
            tensors.read(path, before=before)


def test_a_profile_or_slices_with_a_flipped_bit_are_refused(tmp_path):
    """Before, one bit of a mean or a contribution changed what every later step found, in silence."""
    profile = NeuronProfile({"x": torch.rand(2, 3, dtype=torch.float64)}, torch.ones(2, dtype=torch.int64), {})
    slices = Slices({"fc": torch.ones(1, 2, 2, dtype=torch.int32)}, {}, torch.zeros(1, dtype=torch.int64))
    for made, load, message in ((profile, NeuronProfile.load, "neuron profile"), (slices, Slices.load, "no slices")):
        path = made.save(tmp_path / "it.safetensors")
        load(path)
        blob = bytearray(path.read_bytes())
        blob[-3] ^= 1
        path.write_bytes(blob)
        with pytest.raises(SlicingError, match=f"{message}, or it is damaged .its checksum does not match"):
            load(path)


ROWS = pd.DataFrame({"epsilon": [0.0, 0.1], "accuracy": [0.9, 0.2]})


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Asks for a table under a number; `made` says under which it was computed."""
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path))
    made = []

    def ask(number):
        def make():
            made.append(number)
            return ROWS.assign(epsilon=float(number))

        return evaluations.kept_by("kind", "smoke", {"number": number}, make)

    ask.made = made
    return ask


def files():
    return sorted(
        (config.results_dir("smoke") / "evaluations/kind").glob("*.json"), key=lambda path: path.stat().st_mtime_ns
    )


def test_a_kept_table_under_anothers_address_is_not_taken_for_it(table):
    wanted = table(1)
    table(2)
    one, two = files()
    shutil.copy(two, one)
    with pytest.warns(UserWarning, match=f"cache entry {one} is damaged: it is that of another key"):
        pd.testing.assert_frame_equal(table(1), wanted)
    assert table.made == [1, 2, 1]


@pytest.mark.parametrize("damage", ["a machine's name", "a missing name", "no mapping"])
def test_where_a_kept_table_was_made_is_checked_too(table, damage):
    """It is told in the record's device; a name that is missing ended the notebook in a KeyError."""
    wanted = table(1)
    (path,) = files()
    body = json.loads(path.read_text())
    if damage == "a machine's name":
        body["made"]["device"] += "x"
    elif damage == "a missing name":
        del body["made"]["device"]
    else:
        body["made"] = [1]
    path.write_text(json.dumps(body))
    with pytest.warns(UserWarning, match="the checksum of where it was made does not match"):
        pd.testing.assert_frame_equal(table(1), wanted)
    assert table.made == [1, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table(1)


def test_a_kept_table_of_before_there_was_that_checksum_is_read(table):
    table(1)
    (path,) = files()
    body = json.loads(path.read_text())
    del body["about"]
    path.write_text(json.dumps(body))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table(1)
    assert table.made == [1]


def test_no_flipped_bit_changes_a_kept_table_unseen(tmp_path):
    """A bit of each byte of the file: what is read is made anew, or equal."""
    made = []

    def make():
        made.append(1)
        return {"rows": [1.5]}, {"device": "here"}

    wanted = cache.get("kind", {"k": 1}, make, cache.MADE, folder=tmp_path)
    (path,) = tmp_path.glob("kind/*.json")
    whole = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place in range(len(whole)):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 7  # of the seven bits that a character has
            path.write_bytes(flipped)
            value, about = cache.get("kind", {"k": 1}, make, cache.MADE, folder=tmp_path)
            assert value == wanted[0] and about in (wanted[1], {})
    assert len(made) > 0.9 * len(whole)


def test_a_decoded_copy_of_another_shape_is_refused(tmp_path):
    from safetensors.torch import save_file

    images = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    key = {"shape": (3, 2, 2), "sources": [1, 2, 3, 4]}
    about = {"key": store.fingerprint(key), "content": folders._content(images)}
    save_file({"images": images}, tmp_path / "copy.safetensors", about)
    assert folders._COPY.read(tmp_path / "copy.safetensors", key).shape == (4, 3, 2, 2)
    other = {"shape": (3, 4, 2), "sources": [1, 2]}
    save_file({"images": images}, tmp_path / "copy.safetensors", {**about, "key": store.fingerprint(other)})
    with pytest.raises(ValueError, match=r"it is of shape \(4, 3, 2, 2\)"):
        folders._COPY.read(tmp_path / "copy.safetensors", other)


def test_a_data_root_that_is_a_file_is_said(tmp_path):
    (tmp_path / "root").write_text("")
    with pytest.raises(data.DataError, match="'orl-faces'"):
        data.load("orl-faces", "test", tmp_path / "root")

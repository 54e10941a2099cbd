"""Kept tables that say which files they are."""

import json

import pandas as pd
import pytest

from lib import evaluations, store


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results" / "smoke"


def kept(seed, value=0.5):
    return evaluations.kept_by("points", "smoke", {"seed": seed}, lambda: pd.DataFrame({"x": [value], "y": ["a"]}))


def test_a_kept_table_names_its_file_and_its_checksum(results):
    (name, checksum), *more = kept(0).attrs["kept"].items()
    body = json.loads((results / name).read_text())
    assert not more and body["checksum"] == checksum == store.fingerprint(body["value"])
    assert kept(0).attrs["kept"] == {name: checksum}, "read back, it is the same"

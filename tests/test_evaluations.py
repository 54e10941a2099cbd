"""Kept tables that say which files they are, and records that say what their figure and numbers rest on."""

import json

import pandas as pd
import pytest
from matplotlib.figure import Figure

from lib import config, evaluations, plots, record, store, zoo

ITEM = "robustness_fig7"


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(evaluations, "_made_on", {})
    return tmp_path / "results" / "smoke"


def kept(seed, value=0.5):
    return evaluations.kept_by("points", "smoke", {"seed": seed}, lambda: pd.DataFrame({"x": [value], "y": ["a"]}))


def written(monkeypatch, devices, **more):
    """A record of networks that were trained on one device a seed."""

    def card(name, scale, seed):
        return {"device": devices[seed], "torch": "2", "seconds": 1.0, "data": {"mnist5k/test": "sha256:1"}}

    monkeypatch.setattr(zoo, "card", card)
    seeds = list(range(len(devices)))
    monkeypatch.setattr(config, "item_seeds", lambda *_: seeds)
    rows = [{"name": "accuracy", "value": 0.5, "unit": evaluations.SHARE, "n": 100, "seed": seed} for seed in seeds]
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [1, 0])
    network = next(iter(config.load("smoke").networks))
    evaluations.write(ITEM, "smoke", seeds, [network], evaluations.numbers(rows), figure, {}, {}, {}, **more)
    return record.read(ITEM, "smoke")


def test_a_kept_table_names_its_file_and_its_checksum(results):
    (name, checksum), *more = kept(0).attrs["kept"].items()
    body = json.loads((results / name).read_text())
    assert not more and body["checksum"] == checksum == store.fingerprint(body["value"])
    assert kept(0).attrs["kept"] == {name: checksum}, "read back, it is the same"


def test_tables_joined_name_all_their_files():
    whole = evaluations.joined([kept(0), kept(1)])
    assert len(whole) == 2 and evaluations.files_of([whole]) == evaluations.files_of([kept(0), kept(1)])
    assert len(evaluations.files_of([whole])) == 2
    with pytest.raises(ValueError, match="not a kept one"):
        evaluations.files_of([pd.DataFrame({"x": [1]})])


def test_a_record_lists_the_tables_its_figure_was_drawn_from(results, monkeypatch):
    plain = written(monkeypatch, ["cpu A"])
    assert "drawn_from" not in plain
    table = kept(0)
    found = written(monkeypatch, ["cpu A"], drawn=[table])
    assert found["drawn_from"] == table.attrs["kept"]
    for kind in ("png", "svg"):
        source = plots.source_of((results / f"figures/{ITEM}.{kind}").read_bytes())
        assert source == record.source_text(found) != record.source_text(plain)


def test_seed_and_device_are_told_where_they_are_confounded(monkeypatch, capsys):
    same = written(monkeypatch, ["cuda B", "cuda B"])["provenance"]["device"]
    assert same.endswith("computed on cuda B, torch 2")
    mixed = written(monkeypatch, ["cpu A", "cuda B", "cuda B"])["provenance"]["device"]
    told = "cpu A, torch 2 (seed 0); cuda B, torch 2 (seeds 1, 2): seed and device are confounded"
    assert mixed.endswith(told) and told in capsys.readouterr().out


def test_a_kept_tables_machine_counts_for_its_seed(monkeypatch):
    kept(1)
    device = written(monkeypatch, ["cuda B", "cuda B"])["provenance"]["device"]
    assert "(seed 1)" in device and "cuda B, torch 2 (seeds 0, 1)" in device and "confounded" in device

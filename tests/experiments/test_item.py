"""From frames of each seed to numbers, record, table and figure: the one way for all items."""

import io
import json

import matplotlib
import pandas as pd
import pytest

from lib import cache, config, plots, record
from lib.experiments.item import SHARE, Item, pivot
from lib.experiments.run import Run
from lib.experiments.settings import Settings

SEEDS = (0, 1, 2)


class Toy(Settings):
    study = "robustness"
    section = "temperature"
    steps: int = 3


def measured(settings, seed):
    run = Run(settings, seed)
    rows = [{"measure": "accuracy", "T": T, "value": 0.5 + 0.1 * seed + T / 1000, "n": 40 + seed} for T in (1, 20)]
    rows.append({"measure": "aside", "value": 3.0, "n": 1})
    rows.append({"measure": "ratio", "T": 1, "value": 2.0 + seed, "n": 5, "note": "a note", "unit": "seconds"})
    run.read.data["mnist5k/test"] = "sha256:" + "0" * 64
    return run.tidy(rows)


def draw(results):
    rows = results.values("accuracy").assign(epsilon=lambda part: part["T"] / 5 / 255)
    figure, axes = plots.panels(3, height=2.9)
    for ax in axes:
        plots.curves(ax, rows)
        plots.epsilon_axis(ax, 4 / 255, root=True)  # a layout that takes more than one drawing to settle
        ax.set_ylabel("accuracy")
    return figure


ITEM = Item(
    "robustness_fig7",
    measured,
    {"accuracy": SHARE, "ratio": "images"},
    stated=[("accuracy", {"T": 20}, 0.9)],
    table=pivot("accuracy", ["name"], "T", "T = {:g}"),
    draw=draw,
)


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """The package's own configuration without smaller sections of this toy's, three seeds, results of this test's."""
    (tmp_path / "config").mkdir()
    for source in (config.ROOT / "config").glob("*.yaml"):
        (tmp_path / "config" / source.name).write_text(source.read_text().replace("seeds: [0]", "seeds: [0, 1, 2]"))
    monkeypatch.setenv("NEURONS_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lib.experiments.settings._section", lambda scale, kind: {"data": "mnist5k", "seeds": SEEDS})
    return tmp_path / "results" / "smoke"


def test_numbers_are_one_for_all_seeds_with_what_tells_them_apart():
    found = ITEM.of(Toy.of("smoke")).numbers
    assert [(n["name"], n["where"], n["unit"]) for n in found] == [
        ("accuracy", {"T": 1}, SHARE),
        ("accuracy", {"T": 20}, SHARE),
        ("ratio", {"T": 1}, "seconds"),
    ]
    first = found[0]
    assert first["seeds"] == list(SEEDS) and first["per_seed"] == pytest.approx([0.501, 0.601, 0.701])
    assert first["n"] == 40 and first["ci95"] is not None
    assert [n["paper_value"] for n in found] == [None, 0.9, None] and found[2]["note"] == "a note"


def test_one_seed_has_the_interval_over_images():
    (number, *_) = ITEM.of(Toy.of("smoke", seeds=[1])).numbers
    assert "interval over images" in number["note"]


def test_values_filter_and_one_value_is_one():
    results = ITEM.of(Toy.of("smoke"))
    assert list(results.values("accuracy", T=[1, 20])["T"]) == [1, 20]
    assert results.value("accuracy", T=20) == pytest.approx(0.62)
    with pytest.raises(ValueError):
        results.value("accuracy")
    assert len(results.rows("aside")) == 3


def test_a_figures_file_does_not_depend_on_whether_it_was_displayed():
    with matplotlib.rc_context():
        plots.style()
        shown, written = (ITEM.of(Toy.of("smoke")).figure for _ in range(2))
        shown.savefig(io.BytesIO(), format="png", dpi=120, bbox_inches="tight")  # as a notebook does
        assert plots.render(shown, "png") == plots.render(written, "png")


def test_two_rows_at_one_place_are_refused():
    def twice(settings, seed):
        frame = measured(settings, seed)
        both = pd.concat([frame, frame], ignore_index=True)
        both.attrs = frame.attrs
        return both

    with pytest.raises(record.RecordError, match="is there twice"):
        _ = Item("robustness_fig7", twice, ITEM.units).of(Toy.of("smoke")).numbers


def test_the_scales_run_writes_its_record_and_a_changed_one_beside(results, capsys):
    ITEM.of(Toy.of("smoke")).write()
    written = record.read("robustness_fig7", "smoke")
    assert written["table"]["columns"] == ["name", "T = 1", "T = 20"]
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    ITEM.of(Toy.of("smoke", steps=9)).write()
    assert "steps 9" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    (changed,) = results.glob("variants/*/changed.json")
    assert json.loads(changed.read_text())["changed"] == {"steps": 9}


def test_a_changed_run_keeps_its_tables_in_the_cache_and_reads_the_scales(results):
    made = []

    def table(settings, key):
        return Run(settings, 0).table("toy", key, lambda: made.append(1) or pd.DataFrame({"a": [1]}))

    table(Toy.of("smoke"), {"k": 1})
    table(Toy.of("smoke", steps=9), {"k": 1})  # the same table: read
    table(Toy.of("smoke", steps=9), {"k": 2})
    assert len(made) == 2 and len(list((results / "evaluations" / "toy").glob("*.json"))) == 1
    assert len(list((config.cache_dir("smoke") / "evaluations" / "toy").glob("*.json"))) == 1
    with cache.only_kept():
        table(Toy.of("smoke", steps=9), {"k": 2})


def test_a_run_notes_what_it_read():
    run = Run(Toy.of("smoke"), 0)
    found = run.table("toy", {"seed": 0}, lambda: pd.DataFrame({"a": [1]}))
    assert list(run.read.tables) == list(found.attrs["kept"]) and run.read.seconds >= 0
    ((machine, seeds),) = run.read.machines.items()
    assert "torch" in machine and seeds == {0}
    images = run.images("test", 20)
    assert len(images) == 20 and run.read.data == {"mnist5k/test": run.images("test").fingerprint}

"""A run whose seeds or settings are not the scale's writes beside the scale's results, and nothing of it is cited."""

import json

import pytest
from handed_on import figure
from samples import accuracies, falling

from lib import checksums, claims, config, record
from lib.config import item_seeds

ITEM = "robustness_fig7"


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """The package's own configuration, three seeds at smoke, and results of this test's own."""
    (tmp_path / "config").mkdir()
    for source in (config.ROOT / "config").glob("*.yaml"):
        text = source.read_text()
        (tmp_path / "config" / source.name).write_text(text.replace("seeds: [0]", "seeds: [0, 1, 2]"))
    monkeypatch.setenv("NEURONS_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results" / "smoke"


def run(seeds, clean=0.7, **more):
    """What a notebook does at its end."""
    numbers = accuracies([{"temperature": t} for t in (1, 20)], lambda _, step: falling(clean, 0.5, step), seeds)
    data = {"mnist5k/test": "sha256:" + "0" * 64}
    changed = {**more.get("changed", {})}
    if seeds != item_seeds(config.items()[ITEM], config.load("smoke")):
        changed["seeds"] = seeds
    return record.write(ITEM, "smoke", numbers, [], figure(), None, data, changed=changed)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_scales_own_seeds_write_its_record(results):
    run([0, 1, 2])
    assert not (results / "variants").exists()
    assert record.read(ITEM, "smoke")["provenance"]["config"] == config.load("smoke").hash


@pytest.mark.parametrize(
    ("seeds", "more", "changed"),
    [
        ([0], {}, {"seeds": [0]}),
        ([2, 1, 0], {}, {"seeds": [2, 1, 0]}),  # what is made at the first seed only would be of another one
        ([0, 1, 2], {"changed": {"theta": 0.3}}, {"theta": 0.3}),
        ([5], {"changed": {"ratios": [0.5]}}, {"ratios": [0.5], "seeds": [5]}),
    ],
)
def test_any_other_run_writes_beside(results, seeds, more, changed):
    run([0, 1, 2])
    before = contents(results)
    written = run(seeds, clean=0.5, **more)
    after = contents(results)
    assert {name: after[name] for name in before} == before
    (folder,) = (results / "variants").iterdir()
    made = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    kinds = [f"tables/{ITEM}.{kind}" for kind in ("csv", "md", "tex")] + [f"figures/{ITEM}.{k}" for k in ("png", "svg")]
    assert made == {"changed.json", f"numbers/{ITEM}.json", *kinds}
    assert json.loads((folder / "changed.json").read_text()) == {"scale": "smoke", "changed": changed}
    assert written == folder / "numbers" / f"{ITEM}.json"
    told = record.read(ITEM, "smoke", folder)
    assert {seed for number in told["numbers"] for seed in number["seeds"]} == set(seeds)
    assert told["provenance"]["config"] != config.load("smoke").hash
    assert told["reduced"][0].startswith(config.CHANGED)
    assert config.foreign(told, config.items()[ITEM], config.load("smoke"))
    assert not config.foreign(record.read(ITEM, "smoke"), config.items()[ITEM], config.load("smoke"))


def test_each_change_has_a_folder_of_its_own(results):
    for seeds, more in (([0], {}), ([1], {}), ([0], {"changed": {"theta": 0.3}}), ([0], {})):
        run(seeds, **more)
    assert len(list((results / "variants").iterdir())) == 3


def test_no_checksum_lists_a_variant(results):
    run([0, 1, 2])
    run([0])
    checksums.complete(results)
    assert not any("variants" in name for name in checksums.read(results))
    assert checksums.compare(results) == {} and checksums.renew(results) == len(checksums.read(results))


def test_a_verdict_beside_a_variant_says_that_it_is_of_the_scales_records():
    claim = config.items()[ITEM].claims[0]
    run([0, 1, 2])
    plain = claims.judge(claim, "smoke")
    run([0], clean=0.5)
    beside = claims.judge(claim, "smoke")
    assert (beside.verdict, beside.counts, beside.text()) == (plain.verdict, plain.counts, plain.text())
    said = beside.text({"seeds": [0]})
    assert "not of this run (seeds [0])" in said and plain.why in said and beside.text({}) == plain.text()


def test_the_seeds_of_every_committed_record_are_those_that_the_scale_gives_its_item(monkeypatch):
    monkeypatch.delenv("NEURONS_CONFIG")
    monkeypatch.delenv("NEURONS_RESULTS")
    items, preset = config.items(), config.load("cpu")
    for name in filter(lambda name: record.exists(name, "cpu"), items):
        numbers = json.loads((config.results_dir("cpu") / "numbers" / f"{name}.json").read_text())["numbers"]
        assert sorted({seed for number in numbers for seed in number["seeds"]}) == item_seeds(items[name], preset), name
    assert item_seeds(items["nnslicer_overhead"], preset) == [0]  # its step is for the first seed
    assert item_seeds(items["lancet_adaptive"], preset) == [0, 1, 2]  # by a setting of its own
    assert item_seeds(items["lancet_backdoors"], preset) == [0]

"""Records: what is written is read back, what breaks the contract is refused, nothing is ever torn."""

import copy
import io
import json
import math
import re
import subprocess
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from samples import DATA, accuracies, write

from lib import config, record, store, tables
from lib.contract import PROVENANCE_KEYS
from lib.intervals import student, wilson

ITEM = "robustness_fig7"


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results" / "smoke"


def some(seeds=(0, 1, 2)):
    return accuracies([{"temperature": 1}, {"temperature": 20}], lambda setting, step: 0.5 / (1 + step), seeds)


def figure():
    drawn = Figure(figsize=(2, 1))
    drawn.subplots().plot([0, 1], [1, 0])
    return drawn


def test_number_is_the_mean_with_the_interval_of_its_unit():
    made = record.number(
        "accuracy", {"temperature": 20}, {2: 0.42, 0: 0.405, 1: 0.411}, "fraction of test images", 10000
    )
    assert made["seeds"] == [0, 1, 2] and made["per_seed"] == [0.405, 0.411, 0.42]
    assert made["value"] == pytest.approx(0.412)
    half = (
        4.302652729911275 * np.std([0.405, 0.411, 0.42], ddof=1) / math.sqrt(3)
    )  # t of 2 degrees of freedom, by table
    step = half / (0.412 * 0.588)  # logit of the mean, its error by the delta method
    ends = [math.log(0.412 / 0.588) + sign * step for sign in (-1, 1)]
    assert made["ci95"] == pytest.approx([1 / (1 + math.exp(-end)) for end in ends])
    assert list(made) == list(json.loads(json.dumps(made)))


def test_one_seed_has_no_interval_unless_over_images():
    assert record.number("accuracy", {}, {0: 0.5}, "fraction", 100)["ci95"] is None
    over = record.number("accuracy", {}, {0: 0.5}, "fraction", 100, interval="images", note="PGD")
    assert over["ci95"] == pytest.approx([0.4038315, 0.5961685], abs=1e-6)  # Wilson's own formula, n = 100
    assert over["note"] == "PGD; interval over images"
    assert wilson(0.0, 10)[0] == 0.0 and wilson(1.0, 10)[1] == 1.0
    assert student([0.3]) is None and student([0.3, 0.3]) == [0.3, 0.3]


@pytest.mark.parametrize(
    "change",
    [
        {"per_seed": {}},
        {"per_seed": {0: float("nan")}},
        {"per_seed": {0: float("inf")}},
        {"per_seed": {0: 41.2}},
        {"n": 0},
        {"unit": ""},
        {"where": {"value": 1}},
        {"where": {"epsilon": float("nan")}},
        {"where": {"epsilon": [1]}},
        {"paper_value": float("nan")},
        {"interval": "guess"},
    ],
    ids=str,
)
def test_number_refuses(change):
    good: dict[str, Any] = {
        "name": "accuracy",
        "where": {},
        "per_seed": {0: 0.5},
        "unit": "fraction of test images",
        "n": 10,
    }
    record.number(**good)
    with pytest.raises(record.RecordError):
        record.number(**{**good, **change})


def test_round_trip_and_files(results):
    path = write(ITEM, some(), figure=figure())
    assert path == results / "numbers" / f"{ITEM}.json"
    found = record.read(ITEM, "smoke")
    assert found["numbers"] == some() and found["claims"] == list(config.items()[ITEM].claims)
    assert list(found["provenance"]) == list(PROVENANCE_KEYS)
    assert found["provenance"]["config"] == config.load("smoke").hash and found["provenance"]["data"] == DATA
    names = {p.relative_to(results).as_posix() for p in results.rglob("*") if p.is_file()}
    made = {f"tables/{ITEM}.{kind}" for kind in ("csv", "md", "tex")} | {
        f"figures/{ITEM}.{kind}" for kind in ("png", "svg")
    }
    assert names == made | {f"numbers/{ITEM}.json", "checksums.sha256", "checksums.lock"}
    frame = record.frame(found)
    assert len(frame) == len(found["numbers"]) and frame["temperature"].tolist() == [1] * 7 + [20] * 7
    assert frame.loc[0, "per_seed"] == {0: 0.498, 1: 0.5, 2: 0.502}
    back = pd.read_csv(results / "tables" / f"{ITEM}.csv", dtype=str)  # pandas may round what it parses
    assert back["value"].map(float).tolist() == frame["value"].tolist()  # full precision, from the JSON


def test_tables_follow_from_the_json_alone(results):
    write(ITEM, some())
    found = json.loads((results / "numbers" / f"{ITEM}.json").read_text())
    for kind, text in tables.render(found).items():
        assert (results / "tables" / f"{ITEM}.{kind}").read_text() == text
    shown = tables.display(found)
    assert shown.loc[0, "eps 2/255"] == "0.167 ± 0.005" and shown.loc[1, "temperature"] == "20"


@pytest.mark.parametrize(
    "wrong", [{"../secret.json": "sha256:1"}, {"evaluations/x/ab.json": "1"}, {"numbers/x.json": "sha256:1"}], ids=str
)
def test_a_figure_can_only_be_drawn_from_kept_tables(results, wrong):
    with pytest.raises(record.RecordError, match="drawn_from"):
        write(ITEM, some(), figure=figure(), drawn_from=wrong)
    assert not results.exists()


def test_a_figure_that_is_gone_leaves_no_stale_file(results):
    write(ITEM, some(), figure=figure())
    write(ITEM, some())
    assert not list((results / "figures").iterdir())


def test_own_table_holds_only_the_records_numbers(results):
    layout = record.frame({"numbers": some()})[["temperature", "epsilon", "value"]]
    write(ITEM, some(), table=layout.round(3))
    assert "0.167" in (results / "tables" / f"{ITEM}.md").read_text()
    before = (results / "numbers" / f"{ITEM}.json").read_bytes()
    with pytest.raises(record.RecordError, match=r"0\.7123 is no number of this record"):
        write(ITEM, some(), table=layout.assign(value=0.7123))
    assert (results / "numbers" / f"{ITEM}.json").read_bytes() == before


def test_paper_values_and_what_is_not_stated_are_shown():
    numbers = [
        record.number("accuracy", {"T": t}, {0: 0.5}, "fraction", 10, paper_value=p) for t, p in ((1, 0.6), (2, None))
    ]
    text = tables.display({"numbers": numbers})
    assert text["paper"].tolist() == ["0.6", "not stated"]


@pytest.mark.parametrize("failing", ["tables", "figures", "numbers"])
def test_failure_while_writing_leaves_the_old_record(results, monkeypatch, failing):
    write(ITEM, some(), figure=figure())
    old = (results / "numbers" / f"{ITEM}.json").read_bytes()
    real = store.write_atomic

    def breaks(path, content):
        if path.parent.name == failing:
            raise OSError(28, "no space left on device")
        return real(path, content)

    monkeypatch.setattr(store, "write_atomic", breaks)
    with pytest.raises(OSError, match="no space"):
        write(ITEM, some((0, 1)), figure=figure())
    assert (results / "numbers" / f"{ITEM}.json").read_bytes() == old
    assert record.read(ITEM, "smoke")["numbers"] == some()


def test_figure_that_cannot_be_drawn_writes_nothing(results):
    broken = figure()
    broken.axes[0].set_title("$\\notacommand{$")
    with pytest.raises(ValueError):
        write(ITEM, some(), figure=broken)
    assert not results.exists()


def drop(key):
    return lambda r: r.pop(key)


def put(path, value):
    def change(found):
        *head, last = path
        for step in head:
            found = found[step]
        found[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *((drop(key), f"must contain ['{key}']") for key in ("item", "numbers", "provenance", "claims", "reduced")),
        (put(["surprise"], 1), "must not contain {'surprise'}"),
        (put(["title"], ""), "title"),
        (put(["claims"], "one"), "claims"),
        (put(["numbers"], []), "numbers must contain at least 1"),
        (put(["numbers", 0, "value"], 0.9), "not the mean of per_seed"),
        (put(["numbers", 0, "value"], "0.9"), "numbers[0].value must be number"),
        (put(["numbers", 0, "per_seed"], [0.5, 0.5]), "one value a seed"),
        (put(["numbers", 0, "seeds"], [0, 0, 1]), "numbers[0].seeds must contain unique"),
        (put(["numbers", 0, "ci95"], [0.1, 0.9]), "ci95 [0.1, 0.9] is not the interval"),
        (put(["numbers", 0, "ci95"], None), "ci95"),
        (put(["numbers", 0, "n"], 2.5), "numbers[0].n must be integer"),
        (put(["numbers", 0, "note"], None), "note"),
        (put(["numbers", 0, "extra"], 1), "numbers[0] must not contain {'extra'}"),
        (put(["numbers", 0, "where", "epsilon"], 0.5 / 255), "there twice"),
        (put(["provenance", "data"], {"a": "md5:1"}), "sha256:"),
        (put(["provenance", "dirty"], "no"), "dirty"),
        (put(["provenance", "date"], "yesterday"), "provenance.date must match"),
        (put(["provenance", "threads"], 0), "threads"),
        (put(["provenance", "host"], "x"), "provenance must not contain {'host'}"),
        (put(["provenance", "dirty"], None), "provenance.git must be same as const"),
    ],
)
def test_reading_refuses_what_breaks_the_contract(results, change, says):
    path = write(ITEM, some())
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    with pytest.raises(record.RecordError, match=re.escape(says)) as caught:
        record.read(ITEM, "smoke")
    assert str(path) in str(caught.value)


def test_reading_names_what_is_missing_torn_or_elsewhere(results):
    with pytest.raises(record.RecordError, match="no such record"):
        record.read(ITEM, "smoke")
    path = write(ITEM, some())
    whole = path.read_text()
    for torn in (whole[: len(whole) // 2], whole.replace("0.5,", "NaN,", 1), ""):
        path.write_text(torn)
        with pytest.raises(record.RecordError, match=re.escape(str(path))):
            record.read(ITEM, "smoke")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(record.RecordError, match="cannot be read"):
        record.read(ITEM, "smoke")
    (path.parent / "robustness_fig8.json").write_text(whole)
    with pytest.raises(record.RecordError, match="holds item 'robustness_fig7'"):
        record.read("robustness_fig8", "smoke")
    with pytest.raises(record.RecordError, match="not a name"):
        record.read("../../secret", "smoke")


def test_writing_refuses_unknown_items_and_bad_numbers(results):
    with pytest.raises(record.RecordError, match="not in config/items"):
        write("no_such_item", some())
    bad = copy.deepcopy(some())
    bad[0]["value"] = float("nan")
    with pytest.raises(record.RecordError, match="finite"):
        write(ITEM, bad)
    with pytest.raises(record.RecordError, match="there twice"):
        write(ITEM, some() + some())
    assert not results.exists()


def test_design_example_is_a_valid_record():
    made = [
        record.number(
            "accuracy",
            {"temperature": 20, "epsilon": 8 / 255},
            {0: 0.405, 1: 0.411, 2: 0.42},
            "fraction of test images",
            10000,
        )
    ]
    write(ITEM, made)
    found = record.read(ITEM, "smoke")
    found["numbers"][0]["ci95"] = [0.393, 0.431]  # kept with fewer digits
    found["provenance"]["peak_mb"], found["provenance"]["seconds"] = 1930, 812.4
    record.validate(found)


def test_hostile_text_is_escaped_in_every_table():
    name = "<script>alert(1)</script>|`x`\n& 50% of $a_b^{c}~\\ #1"
    found: dict[str, Any] = {"item": "x", "title": name, "paper": "p", "source": "s", "scale": "smoke"}
    found["numbers"] = [record.number(name, {"layer|`": name}, {0: 0.5}, name, 10, note=name)]
    text = tables.render(found)
    rows = text["md"].splitlines()
    assert (
        len(rows) == 3
        and "<" not in text["md"]
        and len(re.findall(r"(?<!\\)\|", rows[2])) == len(re.findall(r"(?<!\\)\|", rows[1]))
    )
    tex = [line for line in text["tex"].splitlines() if "alert" in line]
    for line in tex:
        bare = re.sub(r"\\(text\w+\{\}|[&%$#_{}])", "", line.replace(r"\caption", "").replace(r"\\", ""))
        assert not re.search(r"[%$#_^~<>|]", bare)
    assert pd.read_csv(io.StringIO(text["csv"]))["name"][0] == name


def test_git_state_ignores_results_and_tells_changes(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)

    assert record.git_state(tmp_path) == ("unknown", None)
    git("init", "-q")
    assert record.git_state(tmp_path) == ("unknown", None)  # no commit yet
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-qm", "one")
    commit, dirty = record.git_state(tmp_path)
    assert re.fullmatch("[0-9a-f]{12}", commit) and dirty is False
    for folder in ("results", "cache"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "new").write_text("1")
    assert record.git_state(tmp_path) == (commit, False)
    (tmp_path / "code.py").write_text("2")
    assert record.git_state(tmp_path) == (commit, True)


def test_without_git_the_record_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "")
    write(ITEM, some())
    found = record.read(ITEM, "smoke")["provenance"]
    assert found["git"] == "unknown" and found["dirty"] is None


def test_machines_other_than_its_own_are_told(results):
    own = record._machine()
    arguments = (ITEM, "smoke", some(), [], None, None, DATA, 1.0)
    record.write(*arguments, {own: [0, 1]})
    alone = record.read(ITEM, "smoke")["provenance"]["device"]
    assert own.startswith(alone)
    record.write(*arguments, {own: [0, 1], "cuda Another, torch 2.0": [0, 1]})
    device = record.read(ITEM, "smoke")["provenance"]["device"]
    assert device.startswith(f"{alone}; computed on ") and "seed" not in device and "cuda Another" in device


def test_seeds_that_differ_by_device_are_told():
    assert record.computed_on({"cpu A": {0, 1}, "cuda B": {0, 1}}) == "cpu A; cuda B"
    told = record.computed_on({"cuda B": {1, 2}, "cpu A": {0}})
    assert told.startswith("cpu A (seed 0); cuda B (seeds 1, 2)") and "confounded" in told

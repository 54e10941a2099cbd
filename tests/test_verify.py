"""`verify` finds each thing that does not follow from its record, says which, and changes nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from handed_on import ITEM, NOTEBOOK, OTHER, copied, edit, executed, figure, make, seconds, temperatures
from samples import write
from workshop import Workshop

from lib import checksums, claims, plots, record, report, store, verify
from lib.verify import checks
from lib.verify.__main__ import main


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Results as a run leaves them, made once."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        make(folder, patch)
    return folder


@pytest.fixture
def results(whole, tmp_path, monkeypatch):
    return copied(whole, tmp_path, monkeypatch)


def found(state=verify.DIFFERS):
    """(thing, check) of what is in a state."""
    return {(finding.thing, finding.check) for finding in verify.check("smoke") if finding.state == state}


def reasons():
    return "\n".join(finding.why for finding in verify.check("smoke"))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_whole_results_follow_and_nothing_is_written(results, capsys):
    before = contents(results)
    assert main(["--scale", "smoke", "--strict"]) == 0
    assert contents(results) == before
    shown = capsys.readouterr().out
    for thing in (ITEM, OTHER, "claims", "kept tables", "networks", "notebooks"):
        assert sum(line.split("  ")[0] == thing for line in shown.splitlines()) == 1
    assert shown.endswith("verify smoke: nothing contradicts the records of 6 things.\n")


def test_a_record_edited_by_hand_is_found_in_four_ways(results, capsys):
    value = next(entry["value"] for entry in record.read(ITEM, "smoke")["numbers"])
    text = (results / f"numbers/{ITEM}.json").read_text()
    changed = text.replace(str(value), str(value + 0.01)).replace(str(value - 0.002), str(value + 0.028))
    (results / f"numbers/{ITEM}.json").write_text(changed)
    assert found() <= {(ITEM, check) for check in ("record", "tables", "figure", "checksums")} | {
        ("claims", "verdicts"),
        ("claims", "tables"),
    }
    assert (ITEM, "checksums") in found()
    assert main(["--scale", "smoke"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "verify smoke: 2 of 6 do not follow from their records: see DIFFERS above."


def test_an_edit_that_keeps_the_record_valid_is_found_also_after_the_page_was_built(results):
    path = results / f"numbers/{ITEM}.json"
    whole = json.loads(path.read_text())
    entry = whole["numbers"][0]
    shifted = {seed: value - 0.05 for seed, value in zip(entry["seeds"], entry["per_seed"], strict=True)}
    changed = record.number("accuracy", entry["where"], shifted, entry["unit"], entry["n"])
    path.write_text(record.dumps({**whole, "numbers": [changed, *whole["numbers"][1:]]}))
    assert report.main(["--scale", "smoke"]) == 0
    assert found() == {(ITEM, "tables"), (ITEM, "figure"), (ITEM, "checksums")}
    assert f"tables/{ITEM}.csv, tables/{ITEM}.md, tables/{ITEM}.tex: not what the record gives" in reasons()


@pytest.mark.parametrize("kind", ["csv", "md", "tex"])
def test_a_table_that_is_not_its_records(results, kind):
    path = results / f"tables/{ITEM}.{kind}"
    edit(path, "accuracy", "Accuracy")
    checksums.renew(results)
    assert found() == {(ITEM, "tables")} and f"tables/{ITEM}.{kind}: not what the record gives" in reasons()
    path.unlink()
    assert (ITEM, "tables") in found()


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_figure_of_other_numbers(results, kind, tmp_path, monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("NEURONS_RESULTS", str(tmp_path / "other"))
        write(ITEM, temperatures(0.6), figure=figure())
    shutil.copy(tmp_path / "other" / "smoke" / "figures" / f"{ITEM}.{kind}", results / "figures")
    checksums.renew(results)
    assert found() == {(ITEM, "figure")} and f".{kind} shows other numbers than the record's" in reasons()


def test_a_figure_drawn_from_kept_tables_names_them(results):
    table = next(path for path in sorted(results.glob("evaluations/*/*.json")))
    name = table.relative_to(results).as_posix()
    shown = {name: json.loads(table.read_text())["checksum"]}
    write(ITEM, temperatures(), figure=figure(), drawn_from=shown)
    for kind in ("png", "svg"):
        source = plots.source_of((results / f"figures/{ITEM}.{kind}").read_bytes())
        assert name in source and shown[name] in source and "numbers" not in source
    assert (ITEM, "figure") not in found()
    body = json.loads(table.read_text())
    table.write_text(json.dumps({**body, "value": {"columns": [], "rows": []}}))
    assert (ITEM, "figure") in found() and f"{name}, which it was drawn from, is missing or another" in reasons()
    table.unlink()
    assert (ITEM, "figure") in found()


def test_a_figure_of_other_tables_than_the_record_names(results):
    table = next(path for path in sorted(results.glob("evaluations/*/*.json")))
    checksum = json.loads(table.read_text())["checksum"]
    write(ITEM, temperatures(), figure=figure())
    path = results / f"numbers/{ITEM}.json"
    whole = json.loads(path.read_text())
    path.write_text(record.dumps({**whole, "drawn_from": {table.relative_to(results).as_posix(): checksum}}))
    checksums.renew(results)
    assert (ITEM, "figure") in found() and "shows other files than the record names" in reasons()


def test_a_figure_that_does_not_say_is_not_traced(results):
    path = results / f"figures/{ITEM}.svg"
    start, end = path.read_text().index("<dc:source>"), path.read_text().index("</dc:source>")
    edit(path, path.read_text()[start : end + len("</dc:source>")], "")
    checksums.renew(results)
    assert found() == set() and found(verify.UNTRACED) == {(ITEM, "figure")}
    assert main(["--scale", "smoke"]) == 0 and main(["--scale", "smoke", "--strict"]) == 1


@pytest.mark.parametrize(("kind", "content"), [("png", b"\x89PNG torn"), ("svg", b"<svg>"), ("svg", b"")])
def test_a_damaged_figure(results, kind, content):
    (results / f"figures/{ITEM}.{kind}").write_bytes(content)
    assert (ITEM, "figure") in found() and f".{kind}: " in reasons()


def test_the_same_numbers_drawn_again_are_the_same_trace(results):
    before = (results / f"figures/{ITEM}.png").read_bytes()
    write(ITEM, temperatures(), figure=figure(), seconds=99.0)
    assert (results / f"figures/{ITEM}.png").read_bytes() == before and found() <= {("claims", "verdicts")}


def test_tables_and_figures_without_a_record(results):
    (results / f"numbers/{ITEM}.json").unlink()
    assert {(ITEM, "record"), (ITEM, "checksums")} <= found()
    assert f"tables/{ITEM}.csv has no record numbers/{ITEM}.json. Remove it" in reasons()


def test_a_scale_that_is_filled_in_part_is_whole_in_what_it_has(results, capsys):
    for path in [*results.glob(f"*/{OTHER}.*"), *results.glob("networks/*")]:
        path.unlink()
    checksums.renew(results)
    assert report.main(["--scale", "smoke"]) == 0
    assert f"{OTHER}, " in capsys.readouterr().err
    assert main(["--scale", "smoke", "--strict"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not run at smoke: ")]
    assert f" {OTHER}, " in line and f" {ITEM}, " not in line


def test_a_damaged_record(results):
    (results / f"numbers/{ITEM}.json").write_text('{"item": ')
    assert (ITEM, "record") in found() and "cannot be read" in reasons()


def test_another_configuration_is_told(results, tmp_path):
    edit(tmp_path / "config/smoke.yaml", "threads: 1", "threads: 7")
    assert found() == set() and found(verify.UNTRACED) == {(ITEM, "settings"), (OTHER, "settings")}


@pytest.mark.parametrize(
    ("where", "untraced"),
    [
        (("study", "dynamic"), set()),
        (("networks", "dynamic-resnet"), set()),
        (("study", "robustness"), {ITEM}),
        (("networks", "resnet18-t{t}"), {ITEM}),
        (("study", "nnslicer"), {OTHER}),
    ],
)
def test_only_what_an_item_is_made_with_counts(results, tmp_path, monkeypatch, where, untraced):
    path = tmp_path / "config/smoke.yaml"
    before = path.read_text()
    monkeypatch.setattr(record, "git_file", lambda *_: before)
    settings = yaml.safe_load(before)
    section, name = where
    settings[section][name] |= {"epochs": 77} if section == "networks" else {"something_else": 1}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    checks._scale_then.cache_clear()
    assert found() <= {("claims", "verdicts")}
    assert found(verify.UNTRACED) == {(item, "settings") for item in untraced}
    checks._scale_then.cache_clear()


def test_a_record_of_other_seeds_or_settings_than_the_scales(results, tmp_path):
    edit(tmp_path / "config/smoke.yaml", "seeds: [0, 1, 2]", "seeds: [0, 1, 2, 3]")
    assert found() == {(ITEM, "settings")} and "of seeds [0, 1, 2], scale smoke gives it [0, 1, 2, 3]" in reasons()
    edit(tmp_path / "config/smoke.yaml", "seeds: [0, 1, 2, 3]", "seeds: [0, 1, 2]")
    assert found() == set()
    variant = write(ITEM, temperatures(), figure=figure(), changed={"theta": 0.3})
    assert found() == set()
    for kind in ("numbers", "tables", "figures"):
        shutil.copytree(variant.parents[1] / kind, results / kind, dirs_exist_ok=True)
    checksums.renew(results)
    assert (ITEM, "settings") in found() and "changed for this run: theta 0.3" in reasons()
    assert main(["--scale", "smoke"]) == 1


def test_verdicts_that_do_not_follow(results):
    edit(results / "claims.json", '"verdict": "not testable at this scale"', '"verdict": "reproduced"')
    checksums.renew(results)
    assert found() == {("claims", "verdicts")} and "1 do not follow from the records, first " in reasons()
    (results / "claims.json").write_text("{}")
    edit(results / "tables/claims.md", "verdict", "Verdict")
    assert {("claims", "verdicts"), ("claims", "tables")} <= found() and "claims.json cannot be read" in reasons()
    claims.judge_all("smoke")
    assert found() == set()


def test_a_kept_table_and_a_network_that_were_changed(results):
    table = next((results / "evaluations").rglob("*.json"))
    edit(table, "1.5", "2.5")
    (results / "networks/net-seed0.safetensors").write_bytes(b"Weights")
    checksums.renew(results)
    assert found() == {("kept tables", "contents"), ("networks", "contents")}
    assert "its values do not fit its own checksum" in reasons() and "not the weights that its card" in reasons()


def test_an_executed_notebook_that_failed_or_is_of_another_version(results):
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    executed(results, nbformat.v4.new_code_cell("raise ValueError('no')", outputs=[error]))
    assert ("notebooks", "contents") in found() and f"{NOTEBOOK}.ipynb: a cell raised an error" in reasons()
    executed(results, nbformat.v4.new_code_cell("print('more')"))
    assert ("notebooks", "contents") in found(verify.UNTRACED)


def test_writing_the_checksums_takes_the_files_as_they_are(results, capsys):
    edit(results / f"numbers/{OTHER}.json", "mnist5k", "mnist6k")
    assert (OTHER, "checksums") in found()
    assert main(["--scale", "smoke", "--write"]) == 0
    assert capsys.readouterr().out.endswith(f"{checksums.NAME}: {len(checksums.read(results))} files\n")
    assert (OTHER, "checksums") not in found()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--rerun", "robustness_zero"], 2, "no item 'robustness_zero': one of "),
        (["--rerun", "robustness_fig1"], 2, "verify: robustness_fig1 has no record at scale smoke: run"),
        (["--twice", "--only", "robustness_zero"], 2, "no item 'robustness_zero': one of "),
        (["--twice", "--profile", "moon"], 2, "no profile 'moon': one of kubernetes, local, slurm"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_named(results, capsys, words, status, message):
    assert main(["--scale", "smoke", *words]) == status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("place", "words"), [(None, "--cores 3"), ("slurm", "--profile slurm")])
def test_twice_runs_the_scale_into_folders_of_their_own_and_compares(results, tmp_path, monkeypatch, place, words):
    calls, n = [], record.read(ITEM, "smoke")["numbers"][0]["n"]
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path / "cache"))

    def run(said, places, shown):
        made = Path(places["NEURONS_RESULTS"]) / "smoke" / "numbers"
        shutil.copytree(results / "numbers", made)
        if len(calls) == 1:
            edit(made / f"{ITEM}.json", f'"n": {n}', f'"n": 1{n}')
        calls.append((" ".join(said), places))
        return subprocess.CompletedProcess(said, 0)

    monkeypatch.setattr(sys.modules[verify.twice.__module__], "_run", run)
    told = {finding.thing: finding for finding in verify.twice("smoke", 3, ITEM, place)}
    (first, _), (second, places) = calls
    assert f"--only {ITEM}" in first and "--cores 3" in first and words in second
    assert calls[0][1] != places and not Path(places["NEURONS_CACHE"]).exists()
    assert told[ITEM].state == verify.DIFFERS and f"n {n}, the second time 1{n}" in told[ITEM].why


def test_no_results_at_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path))
    assert main(["--scale", "smoke"]) == 1
    assert "nothing to check: results/smoke holds no records. Make them: ./run_all.sh smoke" in capsys.readouterr().out


def test_a_damaged_file_of_checksums_is_one_line(results, capsys):
    (results / checksums.NAME).write_text("torn")
    assert main(["--scale", "smoke"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "handed"),
    [
        (["verify"], "-m lib.verify --scale smoke"),
        (["verify", "--strict"], "-m lib.verify --scale smoke --strict"),
        (["verify", "cpu", "--rerun", "a b"], "-m lib.verify --scale cpu --rerun a b"),
        (["crate", "paper", "--check"], "-m lib.crate --scale paper --check"),
    ],
)
def test_run_all_hands_its_words_on(tmp_path, words, handed):
    shop = Workshop(tmp_path / "a clone")
    shop.write(".venv/bin/python", '#!/bin/sh\necho "$@"\n')
    assert shop.call(*words).stdout == handed + "\n"
    wrong = shop.call(words[0], "large")
    assert (wrong.returncode, wrong.stderr) == (2, "run_all.sh: no scale 'large': smoke, cpu, gpu or paper\n")


# ---- two makings of a record


def test_equal_numbers_compare_equal_whatever_their_provenance(results):
    first = record.read(ITEM, "smoke")
    assert verify.compare(ITEM, first, {**first, "provenance": {}}).state == verify.OK


def test_the_last_digit_counts(results):
    first = record.read(ITEM, "smoke")
    entry = {**first["numbers"][3], "value": first["numbers"][3]["value"] + 2**-53}
    told = verify.compare(ITEM, first, {**first, "numbers": [*first["numbers"][:3], entry, *first["numbers"][4:]]})
    assert told.state == verify.DIFFERS and "1 of 14 differ, first accuracy at " in told.why and "value" in told.why
    gone = verify.compare(ITEM, first, {**first, "numbers": first["numbers"][1:]})
    assert gone.state == verify.DIFFERS and "1 numbers are in one making only" in gone.why


def test_what_a_clock_measured_may_differ(results):
    first = record.read(OTHER, "smoke")
    assert verify.compare(OTHER, first, {**first, "numbers": seconds(0.5)}).state == verify.OK


@pytest.mark.parametrize(
    ("unit", "measured"),
    [
        ("seconds an input", True),
        ("s an image", True),
        ("milliseconds an image", True),
        ("fraction of the whole network's time", True),
        ("MB", True),
        ("MB of slices", False),
        ("share", False),
        ("singular directions", False),
        ("standard deviations", False),
        ("fraction of test images", False),
    ],
)
def test_which_units_are_measured(unit, measured):
    assert verify.is_measured({"unit": unit}) is measured


def test_the_source_of_a_figure_leaves_provenance_out_and_nothing_else():
    about = {"item": "i", "scale": "smoke", "numbers": temperatures(), "provenance": {"date": "now"}}
    text = record.source_text(about)
    assert text == record.source_text({**about, "provenance": {}}) and store.fingerprint({}) not in text
    for key, value in (("item", "j"), ("scale", "cpu"), ("numbers", temperatures(0.6))):
        assert record.source_text({**about, key: value}) != text

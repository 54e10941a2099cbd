"""`verify` finds each thing that does not follow from its record, says which, and changes nothing."""

import json
import shutil

import pytest
from handed_on import ITEM, OTHER, copied, edit, figure, make, seconds, temperatures
from samples import write
from workshop import Workshop

from lib import checksums, claims, plots, record, report, store, verify
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
    assert main(["--scale", "smoke"]) == 0
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
        ("claims", "verdicts")
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
    assert found() == {(ITEM, "figure")} and f".{kind} shows other numbers or files than the record's" in reasons()


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
    assert (ITEM, "figure") in found() and "shows other numbers or files than the record's" in reasons()


def test_a_figure_that_does_not_say_is_not_traced(results):
    path = results / f"figures/{ITEM}.svg"
    start, end = path.read_text().index("<dc:source>"), path.read_text().index("</dc:source>")
    edit(path, path.read_text()[start : end + len("</dc:source>")], "")
    checksums.renew(results)
    assert found() == set() and found(verify.UNTRACED) == {(ITEM, "figure")}
    assert main(["--scale", "smoke"]) == 0


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
    assert (ITEM, "checksums") in found() and f"numbers/{ITEM}.json: {checksums.MISSING}" in reasons()


def test_a_scale_that_is_filled_in_part_is_whole_in_what_it_has(results, capsys):
    for path in [*results.glob(f"*/{OTHER}.*"), *results.glob("networks/*")]:
        path.unlink()
    checksums.renew(results)
    assert report.main(["--scale", "smoke"]) == 0
    assert f"{OTHER}, " in capsys.readouterr().err
    assert main(["--scale", "smoke"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not run at smoke: ")]
    assert f" {OTHER}, " in line and f" {ITEM}, " not in line


def test_a_damaged_record(results):
    (results / f"numbers/{ITEM}.json").write_text('{"item": ')
    assert (ITEM, "record") in found() and "cannot be read" in reasons()


def test_a_record_of_other_seeds_or_settings_than_the_scales(results, tmp_path):
    edit(tmp_path / "config/smoke.yaml", "seeds: [0, 1, 2]", "seeds: [0, 1, 2, 3]")
    assert found() == {(ITEM, "record")} and "of seeds [0, 1, 2], scale smoke gives it [0, 1, 2, 3]" in reasons()
    edit(tmp_path / "config/smoke.yaml", "seeds: [0, 1, 2, 3]", "seeds: [0, 1, 2]")
    assert found() == set()
    variant = write(ITEM, temperatures(), figure=figure(), changed={"theta": 0.3})
    assert found() == set()
    for kind in ("numbers", "tables", "figures"):
        shutil.copytree(variant.parents[1] / kind, results / kind, dirs_exist_ok=True)
    checksums.renew(results)
    assert (ITEM, "record") in found() and "changed for this run: theta 0.3" in reasons()
    assert main(["--scale", "smoke"]) == 1


def test_verdicts_that_do_not_follow(results):
    edit(results / "claims.json", '"verdict": "not testable at this scale"', '"verdict": "reproduced"')
    checksums.renew(results)
    assert found() == {("claims", "verdicts")} and "1 do not follow from rules and records, first " in reasons()
    (results / "claims.json").write_text("{}")
    assert ("claims", "verdicts") in found() and "cannot be compared" in reasons()
    claims.judge_all("smoke")
    assert found() == set()
    edit(results / "tables/claims.md", "verdict", "Verdict")
    checksums.renew(results)
    assert found() == {("claims", "verdicts")} and "tables/claims.md: not what the verdicts give" in reasons()
    (results / "claims.json").unlink()
    assert ("claims", "verdicts") in found(verify.UNTRACED)


def test_a_file_that_was_changed_or_has_no_checksum(results):
    (results / "networks/net-seed0.safetensors").write_bytes(b"Weights")
    (results / "networks/more-seed0.json").write_text("{}")
    assert found() == {("networks", "checksums")} == found(verify.UNTRACED)


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
        (["--against", "/nowhere"], 2, "have no record in common"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_named(results, capsys, words, status, message):
    assert main(["--scale", "smoke", *words]) == status
    assert message in capsys.readouterr().err


def test_another_run_is_compared_record_by_record(results, tmp_path, capsys):
    other, n = tmp_path / "another run", record.read(ITEM, "smoke")["numbers"][0]["n"]
    shutil.copytree(results / "numbers", other / "smoke" / "numbers")
    assert main(["--scale", "smoke", "--against", str(other)]) == 0
    edit(other / "smoke" / f"numbers/{ITEM}.json", f'"n": {n}', f'"n": 1{n}')
    (other / "smoke" / f"numbers/{OTHER}.json").write_text("torn")
    states = {finding.thing: finding for finding in verify.against("smoke", other)}
    assert f"n {n}, again 1{n}" in states[ITEM].why and "no record that can be used" in states[OTHER].why
    assert main(["--scale", "smoke", "--against", str(other)]) == 1


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
        (["verify", "--write"], "-m lib.verify --scale smoke --write"),
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


# ---- two records of one item


def test_equal_numbers_compare_equal_whatever_their_provenance(results):
    first = record.read(ITEM, "smoke")
    assert verify.compare(ITEM, first, {**first, "provenance": {}}).state == verify.OK


def test_the_last_digit_counts(results):
    first = record.read(ITEM, "smoke")
    entry = {**first["numbers"][3], "value": first["numbers"][3]["value"] + 2**-53}
    told = verify.compare(ITEM, first, {**first, "numbers": [*first["numbers"][:3], entry, *first["numbers"][4:]]})
    assert told.state == verify.DIFFERS and "1 of 14 differ, first accuracy at " in told.why and "value" in told.why
    gone = verify.compare(ITEM, first, {**first, "numbers": first["numbers"][1:]})
    assert gone.state == verify.DIFFERS and "1 numbers are in one record only" in gone.why


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

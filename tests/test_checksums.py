"""Checksums: sha256sum agrees, a normal run keeps them true, and an edit by hand is not taken for the code's work."""

import shutil
import subprocess

import pytest
from handed_on import ITEM, edit, figure, temperatures
from samples import write

from lib import checksums


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results" / "smoke"


def kept_table(results, text="{}"):
    path = results / "evaluations" / "robustness-sweep" / "ab.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_record_enters_itself_its_tables_and_its_figure(results):
    write(ITEM, temperatures(), figure=figure())
    made = {f"tables/{ITEM}.{kind}" for kind in ("csv", "md", "tex")}
    made |= {f"figures/{ITEM}.{kind}" for kind in ("png", "svg")} | {f"numbers/{ITEM}.json"}
    assert set(checksums.read(results)) == made and checksums.compare(results) == {}
    write(ITEM, temperatures(0.5))  # without a figure this time
    assert set(checksums.read(results)) == {name for name in made if not name.startswith("figures/")}
    assert checksums.compare(results) == {}


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_sha256sum_reads_the_file_and_agrees(results):
    write(ITEM, temperatures(), figure=figure())
    command = ["sha256sum", "--check", "--strict", checksums.NAME]
    assert subprocess.run(command, cwd=results, capture_output=True, check=False).returncode == 0
    edit(results / f"tables/{ITEM}.csv", "accuracy", "Accuracy")
    assert subprocess.run(command, cwd=results, capture_output=True, check=False).returncode == 1


def test_building_the_page_does_not_bless_an_edited_record(results):
    write(ITEM, temperatures(), figure=figure())
    kept_table(results)
    checksums.complete(results)
    edit(results / f"numbers/{ITEM}.json", "mnist5k", "mnist6k")
    kept_table(results, '{"made": "anew"}')
    (results / f"tables/{ITEM}.md").unlink()
    checksums.complete(results)
    wrong = {f"numbers/{ITEM}.json": checksums.CHANGED, f"tables/{ITEM}.md": checksums.MISSING}
    assert checksums.compare(results) == wrong
    write(ITEM, temperatures(), figure=figure())  # its notebook, run again
    assert checksums.compare(results) == {}


def test_what_comes_and_goes_beside_the_records_is_followed(results):
    kept_table(results)
    assert checksums.compare(results) == {"evaluations/robustness-sweep/ab.json": checksums.NOT_LISTED}
    checksums.complete(results)
    assert checksums.compare(results) == {}
    (results / "evaluations" / "robustness-sweep" / "ab.json").unlink()
    (results / "evaluations" / "robustness-sweep" / ".ab.json.x.tmp.json").write_text("a killed write")
    (results / "evaluations" / "robustness-sweep" / "ab.lock").write_text("")
    checksums.complete(results)
    assert checksums.read(results) == {}


def test_renewing_takes_everything_as_it_is(results):
    write(ITEM, temperatures())
    edit(results / f"numbers/{ITEM}.json", "mnist5k", "mnist6k")
    (results / f"tables/{ITEM}.md").unlink()
    assert checksums.renew(results) == 3 and checksums.compare(results) == {}


@pytest.mark.parametrize("line", ["no checksum here", "12ab  numbers/x.json", "0" * 64 + " numbers/x.json", "\0"])
def test_a_damaged_file_is_named_with_its_line_and_costs_no_result(results, line):
    write(ITEM, temperatures())
    path = results / checksums.NAME
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(checksums.ChecksumError, match=r"checksums.sha256, line 5: expected 64 hexadecimal digits"):
        checksums.read(results)
    with pytest.warns(UserWarning, match="It is begun anew"):
        write(ITEM, temperatures())
    assert checksums.compare(results) == {}


def test_a_name_that_sha256sum_would_escape_is_refused(results):
    path = results / "networks" / "a\nb.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(checksums.ChecksumError, match=r"'networks/a\\nb.json' cannot be listed .* rename it"):
        checksums.complete(results)

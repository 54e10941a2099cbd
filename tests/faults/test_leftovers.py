"""What a killed process leaves behind: half-written files, locks, lines cut short; the next run clears or passes it."""

import os
import signal
import subprocess
import sys

import pytest

from lib import config, store
from lib.engine import jobs, run
from lib.engine.jobs import alone

WRITER = """
import sys, time
from lib import store
def slowly(path):
    path.write_text("half")
    print("begun", flush=True)
    time.sleep(60)
store.write_atomic(sys.argv[1], slowly)
"""


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A cache and results of their own."""
    for name in ("cache", "results"):
        monkeypatch.setenv(f"NEURONS_{name.upper()}", str(tmp_path / name))
    return tmp_path


@pytest.fixture
def writer(places):
    """A process that is writing results/smoke/numbers/it.json."""
    path = config.results_dir("smoke") / "numbers" / "it.json"
    words = [sys.executable, "-c", WRITER, str(path)]
    process = subprocess.Popen(words, cwd=config.ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    yield process
    process.kill()
    process.communicate()


def test_a_half_written_file_is_cleared_once_its_writer_is_dead(writer):
    folder = config.results_dir("smoke") / "numbers"
    (half,) = folder.iterdir()
    with alone("smoke"):
        assert list(folder.iterdir()) == [half], "its writer lives: a notebook somebody works in, beside the run"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert list(folder.iterdir()) == [half]
    with alone("smoke"):
        assert list(folder.iterdir()) == []


def test_only_what_writers_leave_is_cleared(places):
    folder = config.cache_dir("smoke") / "deep" / "er"
    folder.mkdir(parents=True)
    for name in (".it.json.abcd1234.tmp.json", ".it.abcd1234.tmp"):
        (folder / name).write_text("half")
    mine = {"it.tmp", ".hidden", ".it.tmp.json", "notes.abcd1234.tmp", ".git"}
    for name in mine:
        (folder / name).write_text("mine")
    with alone("smoke"):
        assert {path.name for path in folder.iterdir()} == mine


def test_a_writer_and_a_sweep_at_once_lose_nothing(tmp_path, monkeypatch):
    """A temporary file that is swept up before its writer has locked it is made again."""
    flock, swept = store.fcntl.flock, []

    def late(file, kind):
        if kind == store.fcntl.LOCK_EX and not swept:
            monkeypatch.setattr(store.fcntl, "flock", flock)
            swept.extend(store.sweep(tmp_path))
        flock(file, kind)

    monkeypatch.setattr(store.fcntl, "flock", late)
    store.write_atomic(tmp_path / "it.json", "whole")
    assert len(swept) == 1 and (tmp_path / "it.json").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["it.json"]


def test_matplotlibs_lock_is_cleared(places):
    """matplotlib waits five seconds for a lock file, then goes on without keeping its list of fonts: every time."""
    folder = config.cache_dir("smoke").parent / "home" / "matplotlib"
    folder.mkdir(parents=True)
    left = folder / "fontlist-v390.json.matplotlib-lock"
    left.touch()
    with alone("smoke"):
        assert not left.exists()


def test_lines_that_were_cut_short_do_not_stop_the_summary(places):
    jobs.note("smoke", event="end", job="notebook a", status=0, seconds=1.0, log="", notebook="")
    path = jobs.workspace("smoke") / "run.jsonl"
    with open(path, "ab") as lines:
        lines.write(b'{"event": "end", "job": "note\n\xff\xfe\n[1]\n{"other": 1}\n')
    jobs.note("smoke", event="end", job="notebook b", status=0, seconds=1.0, log="", notebook="")
    told = run.summary("smoke")
    assert "2 jobs done" in told and "done    notebook a" in told and "done    notebook b" in told


def test_two_runs_with_other_caches_on_one_results_folder_take_turns(places):
    """Their run locks lie in their caches; the results are locked, too."""
    script = """
import sys, time
from lib.engine.jobs import alone
with alone("smoke"):
    print("in", flush=True)
    time.sleep(float(sys.argv[1]))
"""

    def begin(cache: str, seconds: float) -> subprocess.Popen:
        environment = {**os.environ, "NEURONS_CACHE": str(places / cache)}
        words = [sys.executable, "-c", script, str(seconds)]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, cwd=config.ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)

    first = begin("one", 60)
    assert first.stdout is not None and first.stdout.readline() == "in\n"
    second = begin("two", 0)
    assert second.stderr is not None
    assert f"another run writes to {places}/results/smoke; waiting for it to end" in second.stderr.readline()
    assert second.poll() is None
    first.kill()  # however it ends, the other goes on
    assert second.communicate(timeout=60)[0] == "in\n" and second.returncode == 0
    first.communicate()

"""lib.progress: a bar where somebody watches, nothing in kept output."""

import json
import os
import subprocess
import sys

import pytest

from lib import config, progress

LOOP = "from lib import progress\nprint([i for i in progress.bar(range(3), desc='walking')])\n"


def run_in_terminal(script: str, **environment: str) -> tuple[str, str]:
    """Run Python with stderr on a pseudo-terminal; what came out, and what the terminal showed."""
    pty, termios = (pytest.importorskip(name, reason="needs pseudo-terminals") for name in ("pty", "termios"))
    terminal, inner = pty.openpty()
    termios.tcsetwinsize(inner, (24, 80))
    variables = {key: value for key, value in os.environ.items() if key != "NEURONS_QUIET"} | environment
    try:
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=inner,
            cwd=config.ROOT,
            env=variables,
            timeout=60,
            check=True,
        )
        os.set_blocking(terminal, False)
        try:
            shown = os.read(terminal, 65536).decode()
        except BlockingIOError:
            shown = ""
    finally:
        os.close(inner)
        os.close(terminal)
    return done.stdout.decode(), shown


def test_shown_in_a_terminal():
    out, shown = run_in_terminal(LOOP)
    assert out == "[0, 1, 2]\n"
    assert "walking" in shown and "0/3" in shown


def test_silent_in_a_terminal_when_asked():
    out, shown = run_in_terminal(LOOP, NEURONS_QUIET="1")
    assert (out, shown) == ("[0, 1, 2]\n", "")


def test_silent_and_whole_where_output_is_kept(capsys):
    with progress.bar(total=4, desc="by hand") as bar:
        bar.update(3)
        bar.set_postfix(loss=0.1)
    assert list(progress.bar(iter("abc"))) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_imports_no_torch():
    script = "import sys, lib.progress; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=config.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_silent_under_papermill_without_being_told(tmp_path):
    pytest.importorskip("papermill")
    # The second cell shows that the notebook would hold a bar, had somebody watched (an unfinished one: a bar that
    # ended has wiped itself).
    watched = (
        "progress._live_notebook = lambda: True\nbar = iter(progress.bar(range(3), desc='walking'))\n_ = next(bar)"
    )
    cells = [LOOP, watched]
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
        "cells": [
            {"cell_type": "code", "id": str(i), "metadata": {}, "outputs": [], "execution_count": None, "source": cell}
            for i, cell in enumerate(cells)
        ],
    }
    source, executed = tmp_path / "in.ipynb", tmp_path / "out.ipynb"
    source.write_text(json.dumps(notebook))
    variables = {key: value for key, value in os.environ.items() if key != "NEURONS_QUIET"}
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--cwd", str(config.ROOT), source, executed]
    subprocess.run(command, cwd=config.ROOT, env=variables, capture_output=True, timeout=120, check=True)
    streams = [
        {output["name"]: "".join(output["text"]) for output in cell["outputs"]}
        for cell in json.loads(executed.read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    assert streams[-2] == {"stdout": "[0, 1, 2]\n"}
    assert "walking" in streams[-1]["stderr"]


def test_in_a_jobs_log_lines_say_how_far_it_is(monkeypatch, capsys):
    """The steps of a loop that takes a second each, on a clock of its own."""
    clock = iter(range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setenv("NEURONS_PROGRESS", "1")
    assert list(progress.bar(range(14), desc="epochs")) == list(range(14))
    assert capsys.readouterr().err.splitlines() == [
        "epochs 5 of 14, about 11 s left",
        "epochs 11 of 14, about 3 s left",
    ]
    assert list(progress.bar(iter("abc"), desc="letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""

"""What makes a job's result stale: its own settings, recipes, code and cells, and nothing else."""

import copy
import json
import os
import subprocess
import sys

import nbformat
import pytest
import yaml
from workshop import SMOKE, Workshop, notebook

from lib import cells, config, engine, record
from lib.engine import graph, made_from

NOTEBOOKS = sorted((config.ROOT / "notebooks").glob("*.ipynb"))
EXPERIMENT = """
from typing import ClassVar
class Settings:
    study: ClassVar[str] = "robustness"
    section: ClassVar[str] = "{section}"
"""


@pytest.fixture
def small(tmp_path, monkeypatch) -> Workshop:
    """A checkout with an experiment a notebook, each with a section of its own, in place of this one."""
    shop = Workshop(tmp_path / "shop")
    monkeypatch.setenv("NEURONS_CONFIG", str(shop.root / "config"))
    monkeypatch.setattr(config, "ROOT", shop.root)
    for name, section in {"one": "low_rank", "two": "spectra"}.items():
        shop.write(f"lib/experiments/{name}.py", EXPERIMENT.format(section=section))
    shop.notebook("01_one", "from lib.experiments import one")
    shop.notebook("02_two", "from lib.experiments import two")
    shop.configure(scale_with())
    return shop


def scale_with(**changed) -> dict:
    """The small scale's settings, with some keys of two sections and of the study set."""
    smoke = copy.deepcopy(SMOKE)
    smoke["study"]["robustness"] |= {"low_rank": {"images": 10}, "spectra": {"images": 10}, "shared": 1}
    smoke["study"]["dynamic"] = {"seeds": [0]}
    for place, value in changed.items():
        where = smoke
        *path, last = place.split("__")
        for key in path:
            where = where[key]
        where[last] = value
    return smoke


def prints() -> dict[str, str]:
    return {name: made_from.notebook(config.load("smoke"), name) for name in ("01_one", "02_two")}


def changed(before: dict[str, str]) -> list[str]:
    return [name for name, now in prints().items() if now != before[name]]


@pytest.mark.parametrize(
    ("place", "value", "stale"),
    [
        ("study__robustness__low_rank__images", 11, ["01_one"]),
        ("study__robustness__spectra__images", 11, ["02_two"]),
        ("study__robustness__shared", 2, ["01_one", "02_two"]),
        ("study__dynamic__seeds", [1], []),
        ("networks__other__epochs", 3, ["02_two"]),
        ("networks__dense__epochs", 3, ["01_one"]),
        ("estimate__network_mb", 4, []),
        ("compute", {"threads": 2}, ["01_one", "02_two"]),
    ],
)
def test_a_changed_line_of_a_scale_reaches_what_reads_it(small, place, value, stale):
    before = prints()
    small.configure(scale_with(**{place: value}))
    assert changed(before) == stale


def test_a_comment_and_another_order_of_a_scale_reach_nothing(small):
    before = prints()
    smoke = scale_with()
    small.write("config/smoke.yaml", "# a comment\n" + yaml.safe_dump(dict(reversed(smoke.items())), sort_keys=False))
    assert changed(before) == []


def test_code_items_and_claims_reach_the_notebooks_that_read_them(small):
    before = prints()
    small.write("lib/experiments/two.py", EXPERIMENT.format(section="spectra") + "IMAGES = 3\n")
    assert changed(before) == ["02_two"]
    before, items = prints(), yaml.safe_load((small.root / "config/items.yaml").read_text())
    items["robustness_one"]["claims"] = ["a-claim"]
    small.write("config/items.yaml", yaml.safe_dump(items))
    assert changed(before) == ["01_one"]
    before = prints()
    small.write("config/claims.yaml", yaml.safe_dump({"a-claim": {"rule": 1}, "another": {"rule": 2}}))
    assert changed(before) == ["01_one"]


def test_saving_a_notebook_that_was_run_reaches_nothing_and_editing_it_does(small):
    before, path = prints(), small.root / "notebooks/01_one.ipynb"
    path.write_text(as_saved_by_lab(path.read_text()))
    assert changed(before) == []
    small.notebook("01_one", "from lib.experiments import one", "1 + 1")
    assert changed(before) == ["01_one"]


def test_a_step_reads_its_own_section_alone(small):
    steps = {"robustness": {name: {"run": f"lib.experiments.{name}:make"} for name in ("one", "two")}}
    items = yaml.safe_load((small.root / "config/items.yaml").read_text())
    items["robustness_one"]["steps"], items["robustness_three"]["steps"] = ["one"], ["two"]
    small.write("config/steps.yaml", yaml.safe_dump(steps))
    small.write("config/items.yaml", yaml.safe_dump(items))

    def of_steps() -> dict[str, str]:
        preset = config.load("smoke")
        return {step.name: made_from.step(preset, step) for step in graph.steps(preset) if step.seed == 0}

    before = of_steps()
    small.configure(scale_with(study__robustness__spectra__images=11))
    assert [name for name, now in of_steps().items() if now != before[name]] == ["two"]


def test_training_follows_a_familys_recipes_and_those_it_starts_from(small):
    hooked = scale_with(networks__pruned__hooks=[{"use": "lib.hooked.Mask"}])
    small.write("lib/hooked.py", "class Mask:\n    every = 1\n")
    small.configure(hooked)
    before = {family: made_from.training(config.load("smoke"), family) for family in ("dense", "pruned", "other")}
    hooked["networks"]["dense"]["epochs"] = 3
    small.configure(hooked)
    now = {family: made_from.training(config.load("smoke"), family) for family in before}
    assert [family for family in before if before[family] != now[family]] == ["dense", "pruned"]
    small.write("lib/hooked.py", "class Mask:\n    every = 2\n")
    after = {family: made_from.training(config.load("smoke"), family) for family in before}
    assert [family for family in before if now[family] != after[family]] == ["pruned"]


def test_every_notebook_of_this_package_reads_sections_of_its_items_studies():
    """An experiment whose Settings name no study would have its settings forgotten."""
    preset, known = config.load("cpu"), config.items()
    for name, made in engine.notebooks().items():
        files = engine.sources(notebook=config.ROOT / f"notebooks/{name}.ipynb")
        read = made_from.settings(preset, files, ())["cpu"]["study"]
        assert {known[item].study for item in made} == set(read) or not made
        for study in read:
            every = set(config.SECTIONS[study]) & set(preset.study[study])
            assert every - set(read[study]), f"{name} reads every section"


# ---- a notebook without what running it leaves behind


def as_saved_by_lab(text: str) -> str:
    """A notebook as JupyterLab saves it after a run, with another environment's kernel."""
    run = nbformat.reads(text, as_version=4)
    for count, cell in enumerate(run.cells, 1):
        cell.metadata |= {"execution": {"iopub.status.busy": "2026-01-01"}, "collapsed": False, "trusted": True}
        if cell.cell_type == "code":
            cell.execution_count = count
            cell.outputs = [nbformat.v4.new_output("stream", text="said\n")]
    run.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "version": "3.12.3", "codemirror_mode": {"name": "ipython", "version": 3}},
        "widgets": {"state": {}},
    }
    return nbformat.writes(run)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_that_was_run_and_saved_is_cleaned_to_what_is_committed(path):
    text = path.read_text(encoding="utf-8")
    assert cells.clean(text) == text
    saved = as_saved_by_lab(text)
    assert saved != text and cells.clean(saved) == text
    assert cells.sources(saved) == cells.sources(text)


@pytest.mark.parametrize("text", ["{", "[]", '{"cells": 1}', ""])
def test_what_is_no_notebook_passes_as_it_is(text):
    done = subprocess.run([sys.executable, "-m", "lib.cells"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, text) and done.stderr.startswith("not cleaned")


def test_set_up_tells_git_to_leave_outputs_out(tmp_path):
    shop = Workshop(tmp_path / "clone")
    environment = {**shop.environment(), "GIT_CONFIG_GLOBAL": os.devnull}

    def git(*words: str) -> str:
        named = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        done = subprocess.run(
            ["git", *named, *words], cwd=shop.root, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    git("init", "-q")
    shop.write(".gitignore", ".venv\n.setup-lock\n__pycache__\n")
    git("add", ".")
    git("commit", "-qm", "first")
    path = shop.root / "notebooks/01_one.ipynb"
    notebook(path, "x = 1")
    for each in path.parent.iterdir():
        each.write_text(cells.clean(each.read_text()))
    git("commit", "-qam", "clean")
    text = path.read_text()
    path.write_text(as_saved_by_lab(text))
    assert git("diff", "--name-only") and record.git_state(shop.root)[1]
    done = shop.call("setup", GIT_CONFIG_GLOBAL=os.devnull)
    assert done.returncode == 0, done.stderr
    assert git("diff", "--name-only") == "" and record.git_state(shop.root)[1] is False
    git("add", ".")
    assert git("status", "--porcelain") == ""
    edited = json.loads(as_saved_by_lab(text))
    edited["cells"][-1]["source"] = ["x = 2"]
    path.write_text(json.dumps(edited))
    assert "x = 2" in git("diff") and "said" not in git("diff")
    git("commit", "-qam", "edited")
    assert "said" not in git("show", "HEAD:notebooks/01_one.ipynb") and "said" in path.read_text()

"""lib.engine's time box: what it keeps within, gives up, and leaves in its archive; each run is a process."""

import json
import subprocess
import sys
import time

import boxes
import pytest

from lib import store
from lib.engine import archive

pytestmark = pytest.mark.skipif(not boxes.Path("/proc/self/stat").exists(), reason="needs /proc")
PRUNED = ["dense", "dense-s0.5", "dense-s0.9"]


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    """A box that had time enough, on a machine without git, Snakemake, papermill and Jupyter: place and archive."""
    place = boxes.house(tmp_path_factory.mktemp("box"))
    out = place / "box.zip"
    words = ["--only", "robustness_pruned", "robustness_tuned", "--seeds", 0, "--minutes", 4, "--processes", 2]
    words += ["--out", out]
    said = boxes.call(place, "box", *words, path=(boxes.lacking(place),))
    assert "finished: robustness_pruned seed 0\nfinished: robustness_tuned seed 0" in said
    return place, out


def test_the_archive_holds_what_the_notebooks_need(box):
    contents = boxes.Contents(box[1])
    cards = {name for name in contents.files if archive.CARD.fullmatch(name)}
    assert cards == {f"networks/{name}-seed0.json" for name in [*PRUNED, "tuned", "low"]}
    weights = {name for name in contents.files if archive.WEIGHTS.fullmatch(name)}
    assert weights == {name.replace(".json", ".safetensors") for name in cards}
    tables = [name for name in contents.files if archive.TABLE.fullmatch(name)]
    assert len(tables) == 5 and all(name.startswith("evaluations/robustness-sweep/") for name in tables)
    of = {json.loads(contents.files[name])["weights"] for name in cards}
    assert {json.loads(contents.files[name])["key"]["weights"] for name in tables} == of


def test_the_manifest_says_where_it_comes_from(box):
    about = boxes.Contents(box[1]).manifest
    assert (about["scale"], about["over"]) == ("smoke", True)
    assert about["device"].startswith("cpu") and about["unfinished"] == {}
    assert about["code"] == archive.code_hash()
    trunk = about["tasks"]["trunk dense seed 0 to epoch 1"]
    assert trunk["state"] == "done" and trunk["seconds"] >= 0
    assert [name for name in about["tasks"] if name.startswith("trunk")] == ["trunk dense seed 0 to epoch 1"]


def test_a_second_run_finds_all_done_and_packs_nothing_from_before(box, tmp_path):
    place, _ = box
    words = ["box", "--only", "robustness_pruned", "robustness_tuned", "--seeds", 0, "--minutes", 4, "--processes", 1]
    assert "finished: robustness_pruned seed 0\nfinished: robustness_tuned seed 0" in boxes.call(
        place, *words, "--out", tmp_path / "a.zip"
    )
    contents = boxes.Contents(tmp_path / "a.zip")
    assert (dict(contents.files), contents.manifest["tasks"]) == ({}, {})


def test_a_dry_run_says_what_fits_and_makes_nothing(tmp_path):
    place = boxes.house(tmp_path)
    words = ["--only", "robustness_slow", "robustness_pruned", "--minutes", 2, "--out", tmp_path / "box.zip"]
    said = boxes.call(place, "box", *words, "--processes", 1, "--dry-run")
    assert "robustness_slow seed 0: does not fit, about 10 min" in said
    assert "robustness_pruned seed 0: fits" in said and "robustness_pruned seed 1: fits" in said
    assert not (tmp_path / "box.zip").exists() and not list((tmp_path / "cache").glob("*/networks/*/card.json"))


@pytest.mark.slow
def test_the_time_is_kept_and_what_takes_longer_than_estimated_is_ended(tmp_path):
    """The estimate says that the slow network fits."""
    content = boxes.smoke()
    content["estimate"]["images_per_second"]["slow"] = 10**9
    place, out = boxes.house(tmp_path, content), tmp_path / "box.zip"
    words = ["--only", "robustness_slow", "robustness_tuned", "--seeds", 0, "--minutes", 0.6, "--processes", 1]
    began = time.monotonic()
    said = boxes.call(place, "box", *words, "--out", out)
    assert time.monotonic() - began < 36
    assert "not finished: robustness_slow seed 0, 3 tasks are left" in said
    about = boxes.Contents(out).manifest
    assert about["finished"] == [] and set(about["unfinished"]) == {"robustness_slow seed 0", "robustness_tuned seed 0"}
    assert about["tasks"]["train slow seed 0"]["state"] == "stopped"


@pytest.mark.slow
def test_a_run_cut_off_loses_nothing_finished_and_is_gone_on_with(tmp_path):
    """SIGKILL while the slow network, whose estimate is far too small, is in training."""
    content = boxes.smoke()
    content["estimate"]["images_per_second"]["slow"] = 10**9
    place, out = boxes.house(tmp_path, content), tmp_path / "box.zip"
    words = ["--seeds", 0, "--minutes", 8, "--processes", 2, "--out", out]
    process = boxes.start(place, "box", "--only", "robustness_slow", "robustness_tuned", *words)
    boxes.wait_for(lambda: out.exists() and boxes.Contents(out).manifest["finished"], 240)
    workers = boxes.cut_off(process)
    assert len(workers) >= 2
    boxes.wait_for(lambda: not any(map(boxes.alive, workers)), 10)
    first = boxes.Contents(out)
    assert first.manifest["finished"] == ["robustness_tuned seed 0"] and not first.manifest["over"]
    assert "networks/tuned-seed0.json" in first.files
    words[-1] = tmp_path / "second.zip"
    said = boxes.call(place, "box", "--only", "robustness_tuned", "robustness_pruned", *words)
    assert "start   train tuned" not in said and "start   train dense seed 0" not in said
    second = boxes.Contents(tmp_path / "second.zip")
    assert "networks/dense-s0.9-seed0.json" in second.files
    assert second.manifest["finished"] == ["robustness_tuned seed 0", "robustness_pruned seed 0"]
    assert store.sweep(tmp_path) == []
    assert "is there already: merge it" in boxes.call(place, "box", "--only", "tuned", *words, status=2)


@pytest.mark.slow
def test_a_task_that_fails_is_told_and_the_others_go_on(tmp_path):
    bad = {**boxes.TINY, "learning_rate": 1e9, "family": "slow"}
    place, out = boxes.house(tmp_path, boxes.smoke(slow=bad)), tmp_path / "box.zip"
    words = ["--only", "robustness_slow", "plain", "--seeds", 0, "--minutes", 4, "--processes", 1, "--out", out]
    said = boxes.call(place, "box", *words, status=1)
    assert "FAILED  train slow seed 0: TrainingError" in said and "finished: plain seed 0" in said
    task = boxes.Contents(out).manifest["tasks"]["train slow seed 0"]
    assert task["state"] == "failed" and task["error"].startswith("TrainingError")


def test_all_that_a_box_calls_can_be_imported_on_such_a_machine(tmp_path):
    """Steps, attacks, hooks and transforms of every scale, without the packages that only notebooks use."""
    script = """
import importlib
from lib import config, zoo
paths = {step.run.partition(":")[0] for steps in config.steps().values() for step in steps.values()}
for scale in config.SCALES:
    for recipe in config.load(scale).networks.values():
        plugs = (*recipe.hooks, *recipe.transforms, *recipe.prepare)
        paths |= {plug["use"].rpartition(".")[0] for plug in plugs}
for path in sorted({*paths, "lib.attacks.sets"}):
    importlib.import_module(path)
print(len(paths))
"""
    env = boxes.environment(tmp_path, boxes.lacking(tmp_path))
    del env["NEURONS_CONFIG"]
    env["GIT_PYTHON_REFRESH"] = "quiet"
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 20, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "1"], "box wants --only ITEM ... and --minutes M, or --entry NAME"),
        (["--only", "nothing", "--minutes", "1"], "no item, notebook or family 'nothing' at scale 'smoke'"),
        (["--only", "tuned", "--seeds", "7", "--minutes", "1"], "nothing reads seed 7 at scale 'smoke'"),
        (["--entry", "first"], "config/queue.yaml has no entry 'first': none"),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(tmp_path, words, message):
    assert message in boxes.call(boxes.house(tmp_path), "box", *words, status=2)

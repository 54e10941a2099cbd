"""The engine: what is in the graph, what it costs, one job, and whole runs of a small checkout with stand-ins."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from workshop import RECORD, ROOT, SMOKE, Workshop, notebook

from lib import config, engine
from lib.engine import graph, jobs, run


@pytest.fixture
def small(tmp_path, monkeypatch) -> Workshop:
    """The small checkout's configuration, cache and results in place of this one's, in this process."""
    shop = Workshop(tmp_path / "shop")
    monkeypatch.setenv("NEURONS_CONFIG", str(shop.root / "config"))
    monkeypatch.setenv("NEURONS_CACHE", str(shop.root / "cache"))
    monkeypatch.setenv("NEURONS_RESULTS", str(shop.root / "results"))
    monkeypatch.setattr(config, "ROOT", shop.root)
    return shop


# ---- what is in the graph


def test_nodes_are_the_families_and_seeds_that_the_notebooks_read(small):
    every = engine.nodes(config.load("smoke"))
    assert [(node.family, node.seed) for node in every] == [
        (family, seed) for family in ("dense", "pruned", "other") for seed in (0, 1)
    ]
    assert every[0].networks == ("dense", "dense-long")
    assert every[2].after == ("dense",)
    assert [node.family for node in engine.nodes(config.load("smoke"), ["02_two"])] == ["other", "other"]


def test_a_family_brings_those_it_starts_from(small):
    items = yaml.safe_load((small.root / "config/items.yaml").read_text())
    items["robustness_three"]["families"] = ["pruned"]
    small.write("config/items.yaml", yaml.safe_dump(items))
    assert {node.family for node in engine.nodes(config.load("smoke"), ["02_two"])} == {"dense", "pruned"}


def test_notebooks_without_an_item_come_last(small):
    assert engine.notebooks() == {
        "01_one": ["robustness_one", "robustness_two"],
        "02_two": ["robustness_three"],
        "90_last": [],
    }


@pytest.mark.parametrize("only", ["robustness_two", "01_one", "01_one.ipynb"])
def test_only_names_an_item_or_a_notebook(small, only):
    assert engine.select([only]) == ["01_one"]


def test_several_items_and_notebooks_are_taken_together_and_each_once(small):
    assert engine.select(["90_last", "robustness_two", "robustness_one"]) == ["01_one", "90_last"]
    with pytest.raises(config.ConfigError, match="no item 'robustness_zero'"):
        engine.select(["01_one", "robustness_zero"])


def test_a_family_that_a_scale_does_not_have_is_named(small):
    smoke = copy.deepcopy(SMOKE)
    del smoke["networks"]["other"]
    small.configure(smoke)
    with pytest.raises(config.ConfigError, match="notebook 02_two reads family 'other', which scale 'smoke' does not"):
        engine.nodes(config.load("smoke"))


@pytest.mark.parametrize("scale", config.SCALES)
def test_every_item_of_this_package_has_its_families_at_every_scale(scale):
    preset = config.load(scale)
    read = {node.family for node in engine.nodes(preset)}
    assert read == set(preset.families), "families that no item reads would be trained for nothing"


def test_every_study_reaches_its_modules():
    """A change to what a notebook computes or draws must run it again, in whichever folder it lies."""
    found = engine.sources(notebook=config.ROOT / "notebooks/37_lancet_adaptive.ipynb")
    assert {"lib/experiments/lancet_adaptive.py", "lib/experiments/lancet_repairs.py"} <= set(found)
    for steps in config.steps().values():
        module = next(iter(steps.values())).run.partition(":")[0]
        assert module.replace(".", "/") + ".py" in engine.sources(module)


def test_sources_follow_imports_through_packages(small):
    small.write("lib/a.py", "from lib.b import c\nimport lib.d\n")
    small.write("lib/b/__init__.py", "from . import c\nfrom .e import thing\n")
    small.write("lib/b/c.py", "import json\n")
    small.write("lib/b/e.py", "thing = 1\n")
    small.write("lib/d.py", "import lib\nlib.f.anything()\nfrom lib.bare.h import more\n")
    small.write("lib/bare/h.py", "more = 1\n")
    small.write("lib/f.py", "")
    small.write("lib/g.py", "")
    parts = ["lib/b/__init__.py", "lib/b/c.py", "lib/b/e.py"]
    others = ["lib/bare/h.py", "lib/d.py", "lib/f.py"]
    assert engine.sources("lib.a") == sorted(["lib/__init__.py", "lib/a.py", *parts, *others])
    notebook(small.root / "notebooks/03.ipynb", "%matplotlib inline\nimport lib.g", "from lib.b.e import thing")
    found = engine.sources("lib.f.Thing", notebook=small.root / "notebooks/03.ipynb")
    assert found == ["lib/__init__.py", *parts, "lib/f.py"]


# ---- what it costs


def test_what_is_left_and_what_it_costs_by_hand(small, monkeypatch):
    # Images x epochs / rate: dense 3500 (2 + 4) / 700 = 30 s; pruned starts from it, 2 epochs, twice as dear by its
    # hook: 20 s; other 700 images: 2 s. Two seeds; of two steps nothing is known.
    preset = config.load("smoke")
    assert [graph.node_seconds(preset, node) for node in engine.nodes(preset)] == [
        pytest.approx(seconds) for seconds in (30, 30, 20, 20, 2, 2)
    ]
    monkeypatch.setattr(run, "survey", lambda plan: set())
    told = run.outlook("smoke", engine.select())
    assert "12 of 12 tasks are left, about 104 s and 4 tasks of unknown time one by one" in told.replace(
        "2 min", "104 s"
    )
    assert "8 networks to train, about 24 MB" in told
    monkeypatch.setattr(run, "survey", lambda plan: set(plan.tasks))
    assert "nothing is left to compute" in run.outlook("smoke", engine.select())
    assert "robustness_three: complete at seed 0 1" in run.outlook("smoke", ["02_two"])


def test_a_branch_costs_only_what_comes_after_its_trunk(small):
    smoke = copy.deepcopy(SMOKE)
    smoke["networks"]["pruned"] = {
        **smoke["networks"]["dense"],
        "family": "pruned",
        "hooks": [SMOKE["networks"]["pruned"]["hooks"][0]],
    }
    smoke["networks"]["pruned"]["start"] = {"network": "dense", "epoch": 1}
    small.configure(smoke)
    assert config.network_seconds(config.load("smoke"), "pruned") == pytest.approx(3500 * 1 * 2 / 700)


def test_missing_data_are_said_first(small):
    small.write(
        "lib/zoo.py", "def card(name, scale, seed):\n    raise RuntimeError('no cifar10 in data/: get it so')\n"
    )
    done = small.call("--only", "02_two", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("it cannot be told whether other is there: no cifar10 in data/: get it so")
    assert "Out of date now: " in done.stdout and "train other 0" in done.stdout and "notebook 02_two" in done.stdout


def test_a_run_without_its_data_says_so_and_starts_nothing(shop):
    smoke = copy.deepcopy(SMOKE)
    smoke["networks"]["other"]["data"] = "cifar10"
    shop.configure(smoke)
    done = shop.call("--only", "02_two")
    assert done.returncode == 1
    assert "data set 'cifar10' not found" in done.stderr and "read by 02_two" in done.stderr
    assert shop.lines("trained") == shop.lines("shown") == []
    done = shop.call()  # others go on, and here so does this one: its training is a stand-in's
    assert "data set 'cifar10' not found" in done.stderr and "02_two" in shop.lines("shown")


def test_a_run_tells_how_far_it_is(small, capsys):
    assert run.progress("smoke") == "" and run.status("smoke") == 0
    assert "No run of smoke is at work" in capsys.readouterr().out
    jobs.note("smoke", event="due", jobs={"train": 3, "step": 1}, cores=2, guess={"train": 50.0})
    log = jobs.workspace("smoke") / "logs" / "train-b.log"
    jobs.note("smoke", event="start", job="train b", log=str(log))
    assert run.progress("smoke").startswith("0 of 4 jobs done, more than 75 s left")
    jobs.note("smoke", event="start", job="train a", log="")
    jobs.note("smoke", event="end", job="train a", status=0, seconds=10.0)
    jobs.note("smoke", event="end", job="step it", status=0, seconds=1.0)
    log.write_text("first\nepochs 3 of 20\n\n")
    assert run.progress("smoke") == "2 of 4 jobs done, about 10 s left · train b: epochs 3 of 20"
    with jobs.alone("smoke"):
        run.status("smoke")
    assert capsys.readouterr().out == run.progress("smoke") + "\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "unknown"), (52, "52 s"), (600, "10 min"), (3.4 * 3600, "3.4 h"), (86400 * 5, "5.0 days")],
)
def test_durations_in_words(seconds, words):
    assert config.in_words(seconds) == words


# ---- one job


def test_a_job_keeps_its_output_only_when_it_succeeds(small, tmp_path):
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    words = [sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(int(sys.argv[1]))"]
    assert jobs.job("smoke", "train it", [*words, "0"], output=good) == 0
    assert jobs.job("smoke", "train that", [*words, "3"], output=bad) == 3
    first = good.read_text()
    assert jobs.job("smoke", "train it", [*words, "0"], output=good) == 0
    assert good.read_text() != first, "what lies after a job made again would be taken for up to date"
    assert not bad.exists()
    told = run.summary("smoke")
    assert "1 jobs done, 1 failed" in told and "FAILED  train that" in told and "          why" in told


def test_a_job_makes_what_it_should_anew_or_has_failed(small, tmp_path):
    made, old, done = (tmp_path / name for name in ("made.json", "old.json", "done"))
    old.write_text("of an earlier run")
    words = [sys.executable, "-c", f"open({str(made)!r}, 'w').write('new')"]
    assert jobs.job("smoke", "notebook it", words, output=done, makes=[made, old]) == 1
    assert made.exists() and not old.exists() and not done.exists()
    assert "it did not make old.json" in run.summary("smoke")
    assert jobs.job("smoke", "notebook it", words, output=done, makes=[made]) == 0 and done.exists()


@pytest.mark.parametrize(("raises", "tries"), [(True, 1), (False, jobs.KERNEL_TRIES)])
def test_a_notebook_is_run_again_only_if_no_cell_raised(small, tmp_path, raises, tries):
    made, count = tmp_path / "made.ipynb", tmp_path / "count"
    error = {"output_type": "error", "ename": "ValueError", "evalue": "no\nmore", "traceback": []}
    text = json.dumps({"cells": [{"cell_type": "code", "execution_count": 7, "outputs": [error] if raises else []}]})
    script = f"open({str(count)!r}, 'a').write('x'); open({str(made)!r}, 'w').write({text!r}); raise SystemExit(1)"
    assert jobs.job("smoke", "notebook it", [sys.executable, "-c", script], makes=[made]) == 1
    assert len(count.read_text()) == tries
    assert jobs.failing_cell(made) == ((7, "ValueError: no") if raises else None)


def test_a_job_sets_threads_and_finds_this_package(small):
    script = "import os, sys; sys.exit(os.environ['OMP_NUM_THREADS'] != '3' or not os.environ['NEURONS_QUIET'])"
    assert jobs.job("smoke", "it", [sys.executable, "-c", script], threads=3) == 0


def test_jobs_share_out_the_gpus(small, tmp_path):
    folder = jobs.workspace("smoke")
    taken = [jobs._take_gpu(folder, ["0", "1"]) for _ in range(4)]
    assert [chosen["CUDA_VISIBLE_DEVICES"] for chosen, _ in taken] == ["0", "1", "0", "1"]
    freed = taken[1][1]
    assert freed is not None
    freed.close()
    assert jobs._take_gpu(folder, ["0", "1"])[0] == {"CUDA_VISIBLE_DEVICES": "1"}
    assert jobs._take_gpu(folder, []) == ({}, None)
    assert jobs.devices("2,3") == ["2", "3"]
    assert jobs.devices("") == jobs.devices("-1") == []


# ---- whole runs


def notes(shop: Workshop) -> list[dict]:
    return [json.loads(line) for line in (shop.root / "cache/smoke/engine/run.jsonl").read_text().splitlines()]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Workshop:
    """A checkout whose smoke scale has run."""
    shop = Workshop(tmp_path_factory.mktemp("engine") / "a finished one")
    done = shop.call("--cores", "2")
    assert done.returncode == 0, done.stderr
    shop.said = done
    return shop


@pytest.fixture
def with_kernels(finished, tmp_path) -> Workshop:
    """A copy of it, to change."""
    made = Workshop.__new__(Workshop)
    made.root = Path(shutil.copytree(finished.root, tmp_path / "copy of it"))
    made.forget()
    return made


@pytest.fixture
def shop(with_kernels) -> Workshop:
    """A copy of it whose notebooks run without kernels, for all that does not depend on them."""
    with_kernels.without_kernels()
    return with_kernels


@pytest.mark.slow
def test_a_run_makes_every_record_and_says_so(finished):
    assert sorted(finished.lines("trained")) == sorted(
        f"{family} {seed} False" for family in ("dense", "pruned", "other") for seed in (0, 1)
    )
    assert sorted(finished.lines("ahead")) == ["one 0", "one 1", "three 0", "three 1"]
    assert finished.lines("shown")[-1] == "90_last"
    for item in ("robustness_one", "robustness_two", "robustness_three"):
        record = finished.record(item)
        assert Path(record["python"]).samefile(sys.executable)
        assert record["quiet"]
        assert f"{item}.json" in (finished.root / "results/smoke/index.html").read_text()
    assert "14 jobs done, 0 failed" in finished.said.stdout
    assert f"Results: {finished.root}/results/smoke/index.html" in finished.said.stdout
    order = finished.said.stderr
    assert order.index("done    train dense seed 0") < order.index("start   train pruned seed 0")


@pytest.mark.slow
def test_the_second_time_does_nothing_and_touching_changes_nothing(shop):
    for name in ("lib/zoo.py", "lib/engine/jobs.py", "notebooks/01_one.ipynb", "config/smoke.yaml", "Snakefile"):
        (shop.root / name).touch()
    done = shop.call()
    assert "nothing was out of date" in done.stdout
    assert shop.lines("trained") == shop.lines("shown") == []


@pytest.mark.slow
def test_what_a_change_reaches_is_made_again_and_no_more(shop):
    shop.write("lib/robustness/parts.py", "# new\n")
    shop.notebook("02_two", "y = 1", RECORD.format(items=["robustness_three"], name="02_two"))
    assert shop.call("--only", "02_two").returncode == 0
    assert shop.lines("trained") == []
    assert sorted(shop.lines("ahead")) == ["three 0", "three 1"]
    assert shop.lines("shown") == ["02_two"]
    smoke = copy.deepcopy(SMOKE)
    smoke["networks"]["other"]["epochs"] = 3
    shop.configure(smoke)
    assert shop.call("--only", "02_two").returncode == 0
    assert sorted(shop.lines("trained")) == ["other 0 False", "other 1 False"]


@pytest.mark.slow
def test_a_record_that_is_not_the_scales_is_made_again(shop):
    path = shop.root / "results/smoke/numbers/robustness_three.json"
    whole, many = path.read_bytes(), {"numbers": [{"seeds": [1, 0]}]}
    for body, due in (
        (json.dumps(many), False),
        (json.dumps({"numbers": [{"seeds": [0]}]}), True),  # the scale gives it seeds 0 and 1
        (json.dumps({**many, "reduced": ["changed for this run: theta 0.3"]}), True),
        ("{", True),
    ):
        path.write_text(body)
        told = shop.call("smoke", "--dry-run")
        assert ("notebook 02_two" in told.stdout) is due, told.stdout
        assert ("again   notebook 02_two: robustness_three" in told.stderr) is due
    assert shop.call("smoke").returncode == 0
    assert path.read_bytes() == whole and shop.lines("shown") == ["02_two", "90_last"]
    assert shop.lines("trained") == [] and "nothing" in shop.call("smoke", "--dry-run").stdout


def test_retrain_trains_all_and_once(shop):
    assert shop.call("--only", "02_two", "--retrain").returncode == 0
    assert sorted(shop.lines("trained")) == ["other 0 True", "other 1 True"]
    shop.forget()
    assert "nothing was out of date" in shop.call("--only", "02_two").stdout
    assert shop.lines("trained") == []


@pytest.mark.slow
def test_a_failing_notebook_leaves_its_copy_and_does_not_stop_the_others(with_kernels):
    with_kernels.notebook("01_one", "x = 1", "raise ValueError('no such thing')", "z = 2")
    with_kernels.notebook("02_two", "y = 1", RECORD.format(items=["robustness_three"], name="02_two"))
    done = with_kernels.call("--cores", "2")
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert "cell [4] ValueError: no such thing" in done.stdout
    assert "results/smoke/notebooks/01_one.ipynb" in done.stdout
    assert "not made: robustness_one, robustness_two" in done.stdout
    copied = (with_kernels.root / "results/smoke/notebooks/01_one.ipynb").read_text()
    assert "ValueError" in copied
    assert "An Exception was encountered" in copied
    assert with_kernels.lines("shown") == ["02_two"]
    assert with_kernels.record("robustness_three") is not None
    assert (with_kernels.root / "results/smoke/index.html").read_text() == "robustness_three.json"


@pytest.mark.slow
def test_a_failing_training_names_its_error_and_its_log(shop):
    shop.write("lib/zoo.py", "raise RuntimeError('the loss is not a number')\n")
    done = shop.call("--only", "02_two")
    assert done.returncode == 1
    assert "RuntimeError: the loss is not a number" in done.stdout
    assert "train-other-seed-0.log" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True])
def test_a_killed_run_leaves_no_job_behind_and_is_taken_up_again(shop, whole_group):
    smoke = copy.deepcopy(SMOKE)
    smoke["study"]["robustness"]["sleep"] = 90
    smoke["networks"]["other"]["epochs"] = 3
    shop.configure(smoke)
    call = [str(shop.root / "run_all.sh"), "--only", "02_two", "--cores", "2"]
    first = subprocess.Popen(call, env=shop.environment(), stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: len(shop.lines("trained")) == 2)
    (os.killpg if whole_group else os.kill)(first.pid, signal.SIGKILL)
    first.wait()
    smoke["study"]["robustness"]["sleep"] = 0
    shop.configure(smoke)
    began = time.monotonic()
    done = shop.call("--only", "02_two")
    assert done.returncode == 0, done.stderr
    assert len(shop.lines("trained")) == 4
    assert time.monotonic() - began < 85 or not whole_group
    assert shop.record("robustness_three") is not None


@pytest.mark.slow
def test_an_interrupted_run_stops_its_jobs_and_says_how_to_go_on(shop):
    smoke = copy.deepcopy(SMOKE)
    smoke["study"]["robustness"]["sleep"] = 30
    smoke["networks"]["other"]["epochs"] = 3
    shop.configure(smoke)
    call = [str(shop.root / "run_all.sh"), "--only", "02_two", "--cores", "2"]
    pipe = subprocess.PIPE
    run_of_it = subprocess.Popen(
        call,
        env=shop.environment(),
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
        # Where the tests themselves run in a background job, SIGINT is ignored, and that would be inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: len(shop.lines("trained")) == 2)
    os.killpg(run_of_it.pid, signal.SIGINT)
    out, err = run_of_it.communicate(timeout=25)
    assert run_of_it.returncode == 1
    assert "stopped before the end: the same command goes on from here" in out
    assert err.count("stopped train other") == 2
    assert "Traceback" not in err and "WorkflowError" not in err


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT")])
def test_a_second_signal_ends_the_jobs_that_the_first_one_waits_for(shop, first, second):
    """The signals go to the run alone, not to its jobs, as those of a scheduler do."""
    smoke = copy.deepcopy(SMOKE)
    smoke["study"]["robustness"]["sleep"] = 90
    smoke["networks"]["other"]["epochs"] = 3
    shop.configure(smoke)
    run_of_it = subprocess.Popen(
        [str(shop.root / "run_all.sh"), "--only", "02_two", "--cores", "2"],
        env=shop.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: len(shop.lines("trained")) == 2)
    run_of_it.send_signal(getattr(signal, first))
    time.sleep(3)
    assert run_of_it.poll() is None and not any(entry["event"] == "stopped" for entry in notes(shop))
    run_of_it.send_signal(getattr(signal, second))
    out, err = run_of_it.communicate(timeout=45)
    assert run_of_it.returncode == 1 and "stopped before the end: the same command goes on from here" in out
    assert "the jobs at work are finished first" in err and err.count("stopped train other") == 2
    assert not list((shop.root / "cache/smoke/engine/done/train").glob("other*"))


@pytest.mark.slow
def test_a_second_run_waits_for_the_first(shop):
    smoke = copy.deepcopy(SMOKE)
    smoke["study"]["robustness"]["sleep"] = 3
    smoke["networks"]["other"]["epochs"] = 3
    shop.configure(smoke)
    call = [str(shop.root / "run_all.sh"), "--only", "02_two"]
    first = subprocess.Popen(call, env=shop.environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert first.stderr is not None and "smoke: 02_two" in first.stderr.readline()  # it has the run's lock
    second = shop.call("--only", "02_two")
    first.communicate(timeout=60)
    assert first.returncode == second.returncode == 0
    assert "another run of smoke is at work; waiting for it to end" in second.stderr
    assert "nothing was out of date" in second.stdout
    assert len(shop.lines("trained")) == 2


@pytest.mark.slow
def test_a_home_that_cannot_be_written_is_no_matter(with_kernels, tmp_path):
    with_kernels.notebook(
        "02_two", "import IPython, matplotlib", RECORD.format(items=["robustness_three"], name="02_two")
    )
    (tmp_path / "home").write_text("a file, so that nothing can be written below it")
    done = with_kernels.call("--only", "02_two", HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stdout


# ---- this package's own smoke scale


@pytest.mark.slow
@pytest.mark.parametrize("scale", config.SCALES)
def test_the_graph_of_this_package_holds_every_family_and_notebook(scale, tmp_path):
    places = {"NEURONS_CACHE": str(tmp_path / "cache"), "NEURONS_RESULTS": str(tmp_path / "results")}
    places["DATA_ROOT"] = str(tmp_path / "none")  # so that it takes no longer where the sets are
    done = subprocess.run(
        [sys.executable, "-m", "lib.engine", "run", scale, "--cores", "2", "--dry-run"],
        cwd=ROOT,
        env={**os.environ, **places},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _, due = done.stdout.split("Out of date now: ")
    preset = config.load(scale)
    nodes, notebooks = engine.nodes(preset), engine.notebooks()
    steps = engine.steps(preset) if preset.compute.steps else []  # else notebooks make what they show
    counts = {
        "train": len(nodes),
        "attack": len(engine.attacks(steps)),
        "step": len(steps),
        "notebook": len(notebooks),
        "report": 1,
    }
    assert set(due.strip().split(", ")) == {f"{count} {kind}" for kind, count in counts.items() if count}
    assert not (tmp_path / "results").exists()

"""benchmarks: each prints a last line of JSON with the ratio, both times and whether the two sides agree."""

import importlib
import json
import os
import sys
from dataclasses import replace

import pytest
import torch

from lib.config import Recipe

KEYS = {"benchmark", "peer", "ratio", "seconds", "peer_seconds", "equal"}
TINY = {
    "fgsm_sweep": ["--images", "2", "--repeats", "1", "--batch", "2"],
    "training": ["--images", "64", "--test-images", "40", "--batch", "32"],
    "startup": ["--repeats", "1"],
    "slicing": ["--inputs", "2", "--plain", "1", "--profiled", "20", "--threads", "1", "--width", "2"],
}


@pytest.fixture
def run(monkeypatch, tmp_path, capsys, one_thread):
    """Runs a benchmark without data or networks; what it printed, and its last line."""
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path))
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))

    def call(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *words])
        importlib.import_module(f"benchmarks.{name}").main()
        lines = capsys.readouterr().out.splitlines()
        return lines, json.loads(lines[-1])

    return call


@pytest.mark.parametrize("name", TINY)
def test_the_last_line(run, name):
    _, report = run(name, *TINY[name])
    assert report.keys() >= KEYS
    assert report["benchmark"] == name
    assert report["ratio"] > 0 and report["seconds"] > 0 and report["peer_seconds"] > 0
    if name != "fgsm_sweep":
        assert report["ratio"] == pytest.approx(report["peer_seconds"] / report["seconds"])
    if name != "training":  # two steps on synthetic images give no accuracy to compare
        assert report["equal"]


def test_training_says_what_it_ran_on_and_takes_the_peers_better(run, monkeypatch):
    from benchmarks import training

    times = {"ours": [(1.0, 0.5), (9.0, 0.5), (1.0, 0.5)], "0": [(5.0, 0.5)], "2": [(3.0, 0.4)]}
    for side in ("ours", "plain"):
        monkeypatch.setattr(training, side, lambda *_: (0.0, None))
    monkeypatch.setattr(training, "compare", lambda *_: times)
    lines, report = run("training", *TINY["training"])
    assert "synthetic images of CIFAR-10's shape (it is not there): 64 images x 1 epochs" in lines[0]
    assert (report["ratio"], report["seconds"], report["peer_seconds"]) == (3.0, 1.0, 3.0)
    assert report["peer_seconds_by_workers"] == {"0": 5.0, "2": 3.0} and "2 workers" in report["peer"]
    assert report["accuracy_difference"] == pytest.approx(0.05)
    times["2"] = [(3.0, 0.2)]
    assert not run("training", *TINY["training"])[1]["equal"]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_peer_of_training_trains_the_same_network(monkeypatch, one_thread, workers):
    """In float32, without augmentation and with one batch that holds all images, the two sides agree."""
    from torchvision import transforms

    from benchmarks import training

    images = training._synthetic(40, 0)
    asked = Recipe("resnet10-preact", "cifar10", epochs=3, batch=40, precision="float32", channels_last=False)
    monkeypatch.setattr(transforms, "Compose", lambda steps: steps[-1])
    (_, mine), (_, peers) = training.ours(images, asked, 4), training.plain(images, asked, 4, workers)
    start = training.network(4)
    for (name, one), other in zip(mine.named_parameters(), peers.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-2, atol=1e-4), name
    assert not torch.allclose(mine.fc.weight, start.fc.weight, atol=1e-3)


ON_CPU = ["--device", "cpu", "--images", "48", "--batch", "16", "--seconds", "0.2", "--warm", "1", "--workers", "0"]


def test_training_on_a_device_counts_the_images_of_all_processes(run):
    lines, report = run("training", *ON_CPU, "--networks", "ResNet10", "--processes", "1", "2")
    assert report.keys() >= KEYS and report["benchmark"] == "training"
    assert report["ratio"] == pytest.approx(report["peer_seconds"] / report["seconds"])
    rows = {(row["side"], row["processes"]): row["images_per_second"] for row in report["rows"]}
    assert rows.keys() == {("peer", 1), ("ours", 1), ("ours", 2)} and min(rows.values()) > 0
    assert report["seconds"] == pytest.approx(48 / rows["ours", 1])
    assert report["peer_seconds"] == pytest.approx(48 / rows["peer", 1])
    assert report["equal"] and report["differences"]["ResNet10"] < report["tolerance"]
    assert sum("images a second" in line for line in lines) == 3


def test_training_on_a_gpu_that_is_not_there(run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device is there; --device cpu"):
        run("training", "--device", "cuda")
    with pytest.raises(SystemExit, match="no network 'ResNet9': one of ResNet18, VGG16"):
        run("training", *ON_CPU, "--networks", "ResNet9")


def test_a_process_that_fails_ends_the_benchmark(run):
    """What went wrong in a process is said here, and it does not outlive the measurement."""
    from benchmarks import training_device

    job = training_device.Job("ours", "ResNet10", 16, 1, 0.1, compile="no such mode")
    failure = pytest.raises(RuntimeError, match=r"ours of ResNet10 in 1 process.*no such mode")
    with failure, training_device.processes(1, "cpu", 32) as pipes:
        training_device.ask(pipes, job)
    with pytest.raises((EOFError, ConnectionResetError)):
        pipes[0].recv()


@pytest.mark.parametrize("compiled", [None, "reduce-overhead"])
def test_images_a_second_are_those_after_the_first_steps(monkeypatch, one_thread, compiled):
    """By a clock that each step moves by a second: after 2 steps, the 5 seconds end with the fifth step from there."""
    from benchmarks import training, training_device

    now, asked = [0.0], []
    monkeypatch.setattr(training_device.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch, "compile", lambda model, mode: asked.append(mode) or model)
    monkeypatch.setattr(training_device.Timed, "images", lambda self, run, images, labels: _later(now, images))
    job = training_device.Job("ours", "ResNet10", 8, 2, 5.0, compile=compiled)
    rate, warm = training_device.ours(training._synthetic(32, 0), job, torch.device("cpu"), lambda: None)
    assert (rate, warm) == (8.0, 2.0) and asked == ([compiled] if compiled else [])


def _later(now, images):
    now[0] += 1.0
    return images


def test_the_peers_pictures_are_padded_crops_in_zero_to_one(one_thread):
    from benchmarks import training

    images = training._synthetic(10, 0)
    picture, label = training.Pictures(replace(images, images=torch.full_like(images.images, 255)))[3]
    assert picture.shape == (3, 32, 32) and label == 3
    assert 0.7 < picture.mean() <= 1 and picture.max() == 1


def test_a_first_figure_that_does_not_come(monkeypatch):
    from benchmarks import startup

    with pytest.raises(RuntimeError, match="no figure of robustness_zero came"):
        startup.first_figure("robustness_zero", cores=1)


def test_the_run_ends_when_its_first_figure_is_there(monkeypatch, tmp_path):
    from benchmarks import startup

    script = tmp_path / "python"
    figures = '"$NEURONS_RESULTS/smoke/figures"'
    script.write_text(
        f'#!/bin/sh\necho $$ > "{tmp_path}/id"\nmkdir -p {figures}\n: > {figures}/a.png\nexec sleep 100\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert 0 < startup.first_figure("robustness_fig1", cores=1) < 50
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "id").read_text()), 0)


def test_the_page_of_speed(monkeypatch, tmp_path):
    """Runs what is asked for, keeps the others' figures, and refuses a benchmark that failed."""
    every = importlib.import_module("benchmarks.__main__")
    monkeypatch.setattr(every, "DOCS", tmp_path)
    script = tmp_path / "python"
    line = {"peer": "the plain rule", "ratio": 4.0, "seconds": 0.5, "peer_seconds": 2.0, "floor": "a", "equal": True}
    script.write_text(f"#!/bin/sh\necho words\necho '{json.dumps(line | {'floor_seconds': 0.25})}'\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    for name in ("startup", "slicing"):
        monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", name])
        every.main()
    text = (tmp_path / "speed.md").read_text()
    rows = [row for row in text.splitlines() if row.startswith("| s")]
    assert [row.split(":")[0] for row in rows] == ["| slicing", "| startup"]
    assert all("| 500 ms | 2 s | 4 | 250 ms: a | 2 |" in row for row in rows)
    waits = {"figure": "a_figure", "figure_seconds": 12.0, "cores": 2, "explorer_seconds": {"Prediction": 0.25}}
    text = every.page({"machine": "M", "runs": {"startup": {**line, **waits, "call": "-m x"}}})
    assert "--only a_figure` has its figure on disk after 12 s" in text and "Prediction 250 ms" in text
    script.write_text("#!/bin/sh\necho differs\nexit 1\n")
    with pytest.raises(SystemExit, match="startup: differs"):
        every.measure("startup")
    assert json.loads((tmp_path / "speed.json").read_text())["runs"].keys() == {"slicing", "startup"}


def test_every_benchmark_is_on_the_page():
    every = importlib.import_module("benchmarks.__main__")
    folder = every.DOCS.parent / "benchmarks"
    single = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__", "training_device"}
    assert {name.split(",")[0] for name in every.RUNS} == single

"""The same commit, settings and machine give the same bytes: a whole notebook, twice from nothing, in two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
import yaml

from lib import compute, config, record, store, verify

NOTEBOOK = "03_robustness_temperature"  # trains two networks, attacks them with FGSM and PGD, writes three
ITEMS = ("robustness_fig7", "robustness_fig8", "robustness_masking")


def smallest(folder: Path) -> Path:
    """The tests' tiny configuration, made smaller: an epoch, 64 training images, 20 test images."""
    smoke = tiny.write(folder) / "smoke.yaml"
    raw = yaml.safe_load(smoke.read_text())
    raw["recipes"]["base"]["train_limit"] = 64
    raw["networks"]["resnet18-t{t}"]["epochs"] = 1
    raw["study"]["robustness"] |= {"test_images": 20}
    raw["study"]["robustness"]["temperature"] |= {"temperatures": [1, 20], "masking_images": 4}
    raw["study"]["robustness"]["temperature"] |= {"pgd_images": 4, "cw_images": 0}
    smoke.write_text(yaml.safe_dump(raw, sort_keys=False))
    return folder


def run(config_folder: Path, folder: Path) -> Path:
    """Execute the notebook with a cache and results of its own. Returns: its results."""
    folder.mkdir()
    places = {"CONFIG": config_folder, "CACHE": folder / "cache", "RESULTS": folder / "results"}
    env = {**os.environ, **{f"NEURONS_{name}": str(path) for name, path in places.items()}}
    env |= {"NEURONS_QUIET": "1", "IPYTHONDIR": str(folder / "ipython"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "papermill", f"{NOTEBOOK}.ipynb", str(folder / "out.ipynb"), "-p", "scale", "smoke"]
    done = subprocess.run(
        [*words, "-p", "seeds", "0", "--no-progress-bar"],
        cwd=config.ROOT / "notebooks",
        env=env,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "results" / "smoke"


@pytest.mark.slow
def test_a_notebook_run_twice_from_nothing_gives_the_same_bytes(tmp_path, monkeypatch):
    settings = smallest(tmp_path / "config")
    monkeypatch.setenv("NEURONS_CONFIG", str(settings))
    first, second = (run(settings, tmp_path / name) for name in ("first", "second"))
    for item in ITEMS:
        one, other = (record.read(item, "smoke", folder) for folder in (first, second))
        assert store.canonical_json(one["numbers"]) == store.canonical_json(other["numbers"])
        assert verify.compare(item, one, other).state == verify.OK
        assert one["provenance"]["date"] != other["provenance"]["date"], "the second is the first one's file"
    follow = [path.relative_to(first) for kind in ("tables", "figures") for path in sorted((first / kind).iterdir())]
    assert len(follow) == 5 * len(ITEMS)
    assert [name for name in follow if (first / name).read_bytes() != (second / name).read_bytes()] == []
    weights = [
        {
            path.parent.name: json.loads(path.read_text())["weights"]
            for path in folder.glob("cache/smoke/networks/*/*.json")
        }
        for folder in (tmp_path / "first", tmp_path / "second")
    ]
    assert weights[0] == weights[1] and len(weights[0]) >= 2
    # And a third time, from the tables that the first kept, as `run_all.sh verify smoke --rerun` does.
    monkeypatch.setenv("NEURONS_RESULTS", str(first.parent))
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path / "first" / "cache"))
    found = verify.rerun("smoke", ITEMS[0])
    assert {(finding.thing, finding.check) for finding in found} == {
        (i, c) for i in ITEMS for c in ("numbers", "kept tables")
    }
    assert {finding.state for finding in found} == {verify.OK}, verify.summary(found, "smoke")


@pytest.fixture
def as_before(monkeypatch):
    """Torch's settings are given back."""
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    yield monkeypatch
    torch.use_deterministic_algorithms(strict, warn_only=warn)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.parametrize(("user", "used"), [(None, ":4096:8"), (":16:8", ":16:8")])
def test_deterministic_settles_torch_cudnn_and_cublas(as_before, user, used):
    as_before.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if user:
        as_before.setenv("CUBLAS_WORKSPACE_CONFIG", user)
    torch.backends.cudnn.benchmark = True
    compute.deterministic()
    assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark and os.environ["CUBLAS_WORKSPACE_CONFIG"] == used


def test_the_guide_names_what_the_code_sets():
    text = (config.ROOT / "docs" / "reproducibility.md").read_text()
    for word in (
        'set_deterministic_debug_mode("warn")',
        "cudnn.benchmark",
        "CUBLAS_WORKSPACE_CONFIG=:4096:8",
    ):
        assert word in text
    for option in ("--rerun", "--against", "--write", "crate"):
        assert option in text

"""A tiny network and settings for the tests of pruning from scratch."""

from pathlib import Path
from typing import Any

import pytest
from training_tools import places, write_config

NET: dict[str, Any] = {
    "data": "mnist5k",
    "train_limit": 64,
    "epochs": 2,
    "batch": 32,
    "arch": "resnet20",
    "arch_args": {"width": 2},
    "storage": "float32",
}
SLIM = {"use": "lib.dynamic.static.Slimming", "weight": 0.001}
SMOKE: dict[str, Any] = {
    "compute": {"device": "cpu", "training_precision": "float32", "channels_last": False},
    "networks": {
        "tiny": {**NET, "family": "tiny"},
        "tiny-half": {"like": "tiny", "epochs": 1},
        "tiny-half-slim": {"like": "tiny-half", "hooks": [SLIM]},
    },
    "study": {
        "dynamic": {
            "data": "mnist5k",
            "seeds": [0],
            "gate_images": 40,
            "gate_epochs": 1,
            "gate_batch": 12,
            "latency_repeats": 2,
            "latency_batches": [2],
            "scratch": {"networks": ["tiny"], "expansion": 1.5},
            "diversity": {"networks": ["tiny"], "starts": 2, "epochs": [1]},
        }
    },
}
PAPER: dict[str, Any] = {
    "networks": {name: {**NET, "family": name} for name in ("other", "other-half", "other-half-slim")},
    "study": {"dynamic": {"data": "mnist5k", "scratch": {"networks": ["other"]}}},
}
FRESH_METHODS = ["scratch", "scratch-budget", "scratch-counted", "plain", "random", "uniform", "uniform-budget"]


@pytest.fixture
def tiny(monkeypatch, tmp_path, one_thread):
    """The configuration above, with places of its own; torch's settings are given back."""
    import torch

    places(monkeypatch, tmp_path)
    write_config(tmp_path / "config", smoke=SMOKE, paper=PAPER)
    strict = torch.are_deterministic_algorithms_enabled()
    yield tmp_path
    torch.use_deterministic_algorithms(strict)


def reconfigure(house: Path, **networks: Any) -> None:
    """Add networks to the configuration."""
    write_config(house / "config", smoke={**SMOKE, "networks": {**SMOKE["networks"], **networks}})

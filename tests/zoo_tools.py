"""A configuration of tiny networks on real digits, and hands to damage what the zoo keeps."""

import json
from pathlib import Path
from typing import Any

from training_tools import TINY, same, write_config

from lib import config, store, zoo

GRADUAL: dict[str, Any] = {"use": "lib.robustness.magnitude_pruning.GradualPruning", "begin": 1, "end": 2, "every": 1}
SCALE: dict[str, Any] = {"use": "lib.robustness.temperature.scale_last_layer", "factor": "{t}"}
SMOKE: dict[str, Any] = {
    "compute": {"device": "cpu", "training_precision": "float32", "channels_last": False},
    "networks": {
        "plain": {**TINY, "family": "plain"},
        "half": {"like": "plain", "storage": "float16", "family": "half"},
        "dense": {**TINY, "family": "pruned"},
        "dense-s{s}": {
            "like": "dense",
            "grid": {"s": [0.5, 0.9]},
            "start": {"network": "dense", "epoch": 1},
            "hooks": [{**GRADUAL, "final_sparsity": "{s}"}],
        },
        "scratch": {"like": "dense-s0.5", "start": None, "family": "scratch"},
        "tuned": {"like": "dense", "start": {"network": "dense"}, "epochs": 1, "family": "tuned"},
        "low": {
            "like": "tuned",
            "transforms": [{"use": "lib.robustness.low_rank.decompose", "rank_ratio": 0.5}],
            "family": "tuned",
        },
        "low-longer": {"like": "tuned", "start": {"network": "low"}, "transforms": [], "family": "longer"},
        "t{t}": {"like": "plain", "grid": {"t": [20]}, "temperature": "{t}", "transforms": [SCALE], "family": "hot"},
    },
}


def reconfigure(house: Path, **networks: Any) -> None:
    """Change networks in the configuration."""
    write_config(house / "config", smoke={**SMOKE, "networks": {**SMOKE["networks"], **networks}})
    config.scale._load.cache_clear()


def folder(name: str, seed: int = 0) -> Path:
    """Where the cache keeps a network."""
    digest = zoo.key(name, seed=seed).removeprefix("sha256:")[:16]
    return config.cache_dir("smoke") / "networks" / f"{name}-seed{seed}-{digest}"


def unlike_any(*states: dict) -> bool:
    """Whether no two states are equal."""
    return all(not same(a, b) for k, a in enumerate(states) for b in states[:k])


def flip(path: Path, place: int = -8) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def rewritten(path: Path, **changes: Any) -> None:
    """Change entries of a card, which then vouches for them."""
    about = {**json.loads(path.read_text()), **changes}
    del about["checksum"]
    path.write_text(json.dumps({**about, "checksum": store.fingerprint(about)}))

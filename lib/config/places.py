"""Where things lie, and the other settings that the environment may change."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def config_dir() -> Path:
    """Folder of the YAML files: NEURONS_CONFIG, else config/ of this checkout."""
    return Path(os.environ.get("NEURONS_CONFIG") or ROOT / "config")


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Folder of the image sets, in torchvision's layout: the argument, else DATA_ROOT, else data/."""
    return Path(root or os.environ.get("DATA_ROOT") or ROOT / "data")


def cache_dir(scale: str) -> Path:
    """Folder of a scale's rebuildable artefacts: NEURONS_CACHE, else cache/; then the scale's name."""
    return Path(os.environ.get("NEURONS_CACHE") or ROOT / "cache") / scale


def results_dir(scale: str) -> Path:
    """Folder of a scale's records, tables and figures: NEURONS_RESULTS, else results/; then the scale's name."""
    return Path(os.environ.get("NEURONS_RESULTS") or ROOT / "results") / scale


def quiet() -> bool:
    """Whether progress bars stay silent: NEURONS_QUIET, set by the engine."""
    return os.environ.get("NEURONS_QUIET", "") not in ("", "0")

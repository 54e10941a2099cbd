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


def settled() -> dict[str, str]:
    """The folders that the environment names, absolute: the same for a process that works in another folder."""
    names = ("NEURONS_CONFIG", "NEURONS_CACHE", "NEURONS_RESULTS", "DATA_ROOT")
    return {name: str(Path(os.environ[name]).absolute()) for name in names if os.environ.get(name)}


def quiet() -> bool:
    """Whether progress bars stay silent: NEURONS_QUIET, set by the engine."""
    return os.environ.get("NEURONS_QUIET", "") not in ("", "0")


def progress_written() -> bool:
    """Whether bars write how far they are to standard error, line by line: NEURONS_PROGRESS, set by the engine."""
    return os.environ.get("NEURONS_PROGRESS", "") not in ("", "0")


def training_asked() -> bool:
    """Whether networks may be trained however long it takes: NEURONS_TRAIN, set by the engine."""
    return os.environ.get("NEURONS_TRAIN", "") not in ("", "0")


def steady_cublas() -> str:
    """CUBLAS_WORKSPACE_CONFIG, set where the user has not: without it, CUDA's matrix products differ from run to run.

    Takes effect where no matrix product was computed on a GPU in this process before.
    """
    return os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

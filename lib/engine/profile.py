"""Where a run's jobs go: a folder of profiles/, as Snakemake takes it, and what this package reads in it itself."""

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from lib import config


@dataclass(frozen=True)
class Profile:
    """A folder of profiles/.

    Attributes:
        folder: where its config.yaml lies.
        cores: used, or requested of a cluster, at a time, unless the user says otherwise.
        settings: what it sets of the Snakefile's own configuration, as key=value.
        remote: its jobs run elsewhere; the GPUs of this machine do not count then.
    """

    folder: Path
    cores: int
    settings: tuple[str, ...]
    remote: bool


def load(name: str) -> Profile:
    """Read a profile.

    Raises: ConfigError for one that does not exist, naming those that do, or that cannot be read.
    """
    folder = config.ROOT / "profiles" / name
    path = folder / "config.yaml"
    if not path.exists():
        known = sorted(path.parent.name for path in folder.parent.glob("*/config.yaml"))
        raise config.ConfigError(f"no profile {name!r}: one of {', '.join(known)}")
    try:
        told = yaml.safe_load(path.read_text()) or {}
        settings = tuple(str(word) for word in told.get("config", ()))
        cores = int(told.get("cores", os.cpu_count() or 1))
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise config.ConfigError(f"{path}: not a profile as Snakemake takes them ({error})") from error
    return Profile(folder, cores, settings, told.get("executor", "local") != "local")

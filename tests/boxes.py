"""Time boxes of tiny networks: the configuration, a machine that lacks packages, and runs in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from training_tools import TINY
from zoo_tools import SMOKE

from lib import config
from lib.engine import archive

# What such a machine lacks; foolbox's own import of git must not stop it either.
LACKING = "snakemake papermill IPython ipykernel jupyter jupyterlab nbformat nbconvert ipywidgets jinja2 psutil"
LACKING += " rocrate captum torch_pruning umap"
ITEMS = {
    "robustness_pruned": {"families": ["pruned"], "steps": ["pruned"]},
    "robustness_tuned": {"families": ["tuned"], "steps": ["tuned"]},
    "robustness_slow": {"families": ["slow"], "steps": ["slow"]},
}
STEPS = {name: {"run": f"swept:{name}", "families": [name], "parts": "network"} for name in ("pruned", "tuned", "slow")}
STUDY = {"data": "mnist5k", "seeds": [0, 1], "test_images": 40, "epsilons": [0, 16], "family_seeds": {"slow": [0]}}
SLOW = {**TINY, "epochs": 100_000, "family": "slow"}


def smoke(**networks: Any) -> dict[str, Any]:
    """The zoo's tiny networks, and one that takes an hour."""
    return {
        **SMOKE,
        "networks": {**SMOKE["networks"], "slow": SLOW, **networks},
        "ship": ["dense"],
        "estimate": {
            "images_per_second": {"digits-cnn": 10_000},
            "step_seconds": {"robustness.pruned": 3, "robustness.tuned": 2, "robustness.slow": 1},
        },
        "study": {"robustness": STUDY},
    }


def house(place: Path, content: dict[str, Any] | None = None) -> Path:
    """A folder with a configuration. Returns: the folder."""
    folder = place / "config"
    folder.mkdir(parents=True, exist_ok=True)
    about = {"title": "T", "paper": "P", "source": "S", "notebook": "01_tiny"}
    (folder / "items.yaml").write_text(yaml.safe_dump({name: about | entry for name, entry in ITEMS.items()}))
    (folder / "steps.yaml").write_text(yaml.safe_dump({"robustness": STEPS}))
    (folder / "claims.yaml").write_text("{}")
    (folder / "smoke.yaml").write_text(yaml.safe_dump(content or smoke(), sort_keys=False))
    return place


def lacking(place: Path) -> Path:
    """A folder that, on Python's path, makes packages unimportable."""
    folder = place / "lacking"
    folder.mkdir()
    for name in LACKING.split():
        (folder / f"{name}.py").write_text(f"raise ImportError('no module {name} on this machine')\n")
    return folder


def environment(place: Path, *path: Path) -> dict[str, str]:
    """Of a process that works below `place`, on a machine without git, whose Python path has these folders, too."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("NEURONS_")}
    env |= {f"NEURONS_{name.upper()}": str(place / name) for name in ("config", "cache", "results")}
    env["PYTHONPATH"] = os.pathsep.join(map(str, (*path, config.ROOT, Path(__file__).parent)))
    return env | {"PATH": "/nonexistent", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def start(place: Path, *words: Any, path: tuple[Path, ...] = ()) -> subprocess.Popen:
    """python -m lib.engine, begun."""
    return subprocess.Popen(
        [sys.executable, "-m", "lib.engine", *map(str, words)],
        env=environment(place, *path),
        cwd=config.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(place: Path, *words: Any, path: tuple[Path, ...] = (), status: int = 0) -> str:
    """python -m lib.engine, to its end. Returns: what it said; its status must be the one given."""
    process = start(place, *words, path=path)
    out, said = process.communicate(timeout=300)
    assert process.returncode == status, out + said
    return out + said


def children(pid: int) -> list[int]:
    """The processes that a process has started and that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(words[1]) == pid and words[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_for(what: Any, seconds: float = 60) -> Any:
    """The first true value of a function; fails where there is none in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def cut_off(process: subprocess.Popen) -> list[int]:
    """SIGKILL for a process. Returns: those that it had started."""
    started = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return started


class Contents:
    """An archive as it lies there."""

    def __init__(self, path: Path) -> None:
        self.manifest, self.files = archive.read(path)

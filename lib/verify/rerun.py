"""Records made twice, compared number by number: a notebook executed again, or the results of another run."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib import config, engine, record, store
from lib.engine import jobs
from lib.verify.checks import DIFFERS, OK, UNTRACED, Finding

KEPT = ("evaluations", "networks")
# Units of what a clock or the operating system measured; no two runs agree on them to the last digit.
_MEASURED = re.compile(r"(s|seconds|milliseconds)\b.*|.*\btime|MB")


def rerun(scale: str, only: str | None = None) -> list[Finding]:
    """Execute notebooks again and compare the numbers of their records with those that are there.

    The kept tables and the cards of networks are copied into a temporary results folder, so that nothing is computed
    that was computed before; networks and adversarial sets are read from the cache, and data from the data root.

    Args:
        scale: smoke, cpu, gpu or paper.
        only: an item or a notebook; None: all that made a record of this scale.
    Returns: one finding or two an item: its numbers, and how many tables had to be computed anew.
    Raises: ConfigError for an item that does not exist, or has no record at this scale.
    """
    made = engine.notebooks()
    known = {name: [i for i in made[name] if record.exists(i, scale)] for name in engine.select([only] if only else [])}
    known = {name: items for name, items in known.items() if items}
    if not known:
        what = f"{only} has no record" if only else "no item has a record"
        raise config.ConfigError(f"{what} at scale {scale}: run ./run_all.sh {scale}")
    found: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="verify-") as place:
        again = Path(place) / scale
        for name in KEPT:
            if (config.results_dir(scale) / name).is_dir():
                shutil.copytree(config.results_dir(scale) / name, again / name)
        for notebook, items in known.items():
            jobs.say(f"verify: {notebook}")
            found += _notebook(notebook, items, scale, again)
    return found


def _notebook(notebook: str, items: Sequence[str], scale: str, again: Path) -> list[Finding]:
    before = _tables(again)
    executed = again / "notebooks" / f"{notebook}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "papermill", f"notebooks/{notebook}.ipynb", str(executed), "-p", "scale", scale]
    words += ["--cwd", "notebooks", "-k", "python3", "--no-progress-bar", "--start-timeout", "120"]
    changes = {**jobs.environment(scale, config.load(scale).compute.threads), "NEURONS_RESULTS": str(again.parent)}
    command = ["env", *(f"{name}={value}" for name, value in changes.items()), *words]
    done = subprocess.run(command, cwd=config.ROOT, text=True, check=False, capture_output=True)
    if done.returncode:
        failed = jobs.failing_cell(executed)
        reason = failed[1] if failed else (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return [Finding(item, "numbers", DIFFERS, f"its notebook failed: {reason}") for item in items]
    anew = len(_tables(again) - before)
    why = f"{anew} kept tables of {notebook} did not fit the present settings, and were computed anew"
    kept = [Finding(item, "kept tables", UNTRACED, why) if anew else Finding(item, "kept tables") for item in items]
    return [*(_compared(item, scale, again) for item in items), *kept]


def _tables(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.glob("evaluations/*/*.json")}


def against(scale: str, results: str | os.PathLike) -> list[Finding]:
    """Compare the numbers of a scale's records with those of another run, as on a cluster or from nothing.

    Args:
        scale: smoke, cpu, gpu or paper.
        results: that run's results folder, as NEURONS_RESULTS had it.
    Returns: one finding an item.
    Raises: ConfigError where no item has a record in both.
    """
    folder = Path(results) / scale
    both = [i for i in config.items() if record.exists(i, scale) and (folder / "numbers" / f"{i}.json").is_file()]
    if not both:
        raise config.ConfigError(f"{folder} and {config.results_dir(scale)} have no record in common")
    return [_compared(item, scale, folder) for item in both]


def _compared(item: str, scale: str, folder: Path) -> Finding:
    """An item's record beside that of another results folder of the scale."""
    try:
        return compare(item, record.read(item, scale), record.read(item, scale, folder))
    except record.RecordError as error:
        return Finding(item, "numbers", DIFFERS, f"a run made no record that can be used: {error}")


def compare(item: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> Finding:
    """Whether two records of an item hold the same numbers, byte for byte, but for measured ones.

    Args:
        item: its name.
        first, second: records, as `record.read` returns them.
    """
    one, other = _by_place(first), _by_place(second)
    if gone := sorted(one.keys() ^ other.keys()):
        why = f"{len(gone)} numbers are in one record only, first {' at '.join(gone[0])}"
        return Finding(item, "numbers", DIFFERS, why)
    unlike = [place for place in one if store.canonical_json(one[place]) != store.canonical_json(other[place])]
    wrong = [place for place in unlike if not is_measured(one[place])]
    if not wrong:
        return Finding(item, "numbers", OK)
    before, after = one[wrong[0]], other[wrong[0]]
    key = next(key for key in before if before[key] != after[key])
    why = f"{len(wrong)} of {len(one)} differ, first {' at '.join(wrong[0])}: {key} {before[key]}, again {after[key]}"
    return Finding(item, "numbers", DIFFERS, why)


def is_measured(number: Mapping[str, Any]) -> bool:
    """Whether a record's number is seconds, a share of seconds, or memory in use: not the same in every run."""
    return _MEASURED.fullmatch(number["unit"]) is not None


def _by_place(found: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(entry["name"], store.canonical_json(entry["where"])): entry for entry in found["numbers"]}

"""Results made again, elsewhere: a notebook from the tables that are kept, or a whole scale twice from nothing."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib import config, engine, record
from lib.engine import jobs, run
from lib.verify.findings import DIFFERS, UNTRACED, Finding
from lib.verify.numbers import compare

KEPT = ("evaluations", "networks")


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
    threads = config.load(scale).compute.threads
    done = _run(words, {**jobs.environment(scale, threads), "NEURONS_RESULTS": str(again.parent)})
    if done.returncode:
        failed = jobs.failing_cell(executed)
        why = f"its notebook failed: {failed[1] if failed else _last_line(done.stderr)}"
        return [Finding(item, "numbers", DIFFERS, why) for item in items]
    anew = len(_tables(again) - before)
    found = []
    for item in items:
        try:
            made = record.read(item, scale, again)
        except record.RecordError as error:
            found.append(Finding(item, "numbers", DIFFERS, f"its notebook made no record that can be used: {error}"))
            continue
        found.append(compare(item, record.read(item, scale), made))
        why = f"{anew} kept tables of {notebook} did not fit the present settings, and were computed anew"
        found.append(Finding(item, "kept tables", UNTRACED, why) if anew else Finding(item, "kept tables"))
    return found


def twice(scale: str, cores: int = 1, only: str | None = None, place: str | None = None) -> list[Finding]:
    """Run a scale twice from nothing, each time with a cache and results of its own, and compare every record.

    Args:
        scale: smoke, cpu, gpu or paper.
        cores: jobs side by side, here; a profile has its own.
        only: an item or a notebook; None: all.
        place: where the second run's jobs run, a folder of profiles/, as a cluster; None: here, as the first's. Both
            runs then lie below the cache folder, which every node sees.
    Returns: one finding an item.
    Raises: ConfigError for an item or a profile that does not exist.
    """
    wanted = [item for name in engine.select([only] if only else []) for item in engine.notebooks()[name]]
    shared = None
    if place is not None:
        run.read_profile(place)
        shared = config.cache_dir(scale)
        shared.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=shared) as whole:
        folders = [Path(whole) / name for name in ("first", "second")]
        for folder in folders:
            jobs.say(f"verify: {scale} from nothing, {folder.name} time")
            words = [sys.executable, "-m", "lib.engine", "run", scale]
            words += ["--profile", place] if place and folder is folders[1] else ["--cores", str(cores)]
            words += ["--only", only] if only else []
            places = {"NEURONS_CACHE": str(folder / "cache"), "NEURONS_RESULTS": str(folder / "results")}
            done = _run(words, places, shown=True)
            if done.returncode:
                return [Finding(scale, "numbers", DIFFERS, f"the {folder.name} run failed; what it said is above")]
        found = []
        for item in wanted:
            try:
                first, second = (record.read(item, scale, folder / "results" / scale) for folder in folders)
            except record.RecordError as error:
                found.append(Finding(item, "numbers", DIFFERS, f"a run made no record that can be used: {error}"))
            else:
                found.append(compare(item, first, second, again="the second time"))
    return found


def _run(words: Sequence[str], changes: Mapping[str, str], shown: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command in the checkout with variables added to this process's environment."""
    command = ["env", *(f"{name}={value}" for name, value in changes.items()), *words]
    return subprocess.run(command, cwd=config.ROOT, text=True, check=False, capture_output=not shown)


def _tables(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.glob("evaluations/*/*.json")}


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.strip().splitlines()) if line.strip()), "it said nothing")

"""One run of a scale: what is left in words, the lock, Snakemake, a live line, and then the summary."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from lib import config
from lib.config import ConfigError, in_words
from lib.engine import graph, jobs
from lib.engine.jobs import say
from lib.engine.plan import Plan, call, estimate, survey, what_is_left

STOPPING = ("Will exit after finishing", "on user request")  # Snakemake's words after a first SIGTERM or SIGINT


def run(
    scale: str,
    cores: int | None = None,
    only: Sequence[str] = (),
    profile: str = "local",
    dry_run: bool = False,
    retrain: bool = False,
) -> int:
    """Bring a scale's records and page up to date; goes on where an earlier run stopped.

    Args:
        scale: smoke, cpu, gpu or paper.
        cores: used at a time; None: as many as the profile says, or this machine has.
        only: items or notebooks; none for all.
        profile: where jobs run, a folder of profiles/.
        dry_run: say what is left to compute and which jobs are out of date; run nothing.
        retrain: train every network anew.
    Returns: 0, or 1 where a job failed.
    Raises: ConfigError for an item, notebook or profile that does not exist, or a folder that Snakemake cannot name.
    """
    chosen, preset, where = graph.select(only), config.load(scale), read_profile(profile)
    cores = cores or int(where.get("cores", os.cpu_count() or 1))
    remote = where.get("executor", "local") != "local"
    arguments = ["--snakefile", str(config.ROOT / "Snakefile"), "--directory", str(config.ROOT), "--cores", str(cores)]
    arguments += ["--workflow-profile", str(config.ROOT / "profiles" / profile)]
    arguments += ["--config", f"scale={scale}", f"retrain={int(retrain)}"]
    cache, *_ = map(jobs.short, (config.cache_dir(scale), config.results_dir(scale), config.config_dir()))
    ended = {name: f"{cache}/engine/done/notebook/{name}" for name in chosen}
    again = {name: why for name, why in graph.stale(preset, chosen).items() if (config.ROOT / ended[name]).exists()}
    if again or retrain:
        arguments += ["--forcerun", *(["train"] if retrain else []), *(ended[name] for name in again)]
    devices = [] if remote else jobs.devices(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    if devices:
        arguments += ["--resources", f"gpu={len(devices) * jobs.JOBS_PER_GPU}"]
    arguments += ["--", *(ended.values() if only else ["all"])]
    os.environ.update(jobs.environment(scale))
    for name, why in again.items():
        say(f"again   notebook {name}: {why}")
    if dry_run:
        print(outlook(scale, chosen), flush=True)
        status, ear = _snakemake(["--dry-run", "--quiet", "host", *arguments], _Ear(scale))
        due = ", ".join(ear.names if len(ear.names) <= 12 else [f"{count} {rule}" for rule, count in ear.due.items()])
        print("\n".join(ear.errors) or f"\nOut of date now: {due or 'nothing'}", flush=True)
        return status
    missing = missing_data(preset, chosen)
    for why, names in missing.items():
        say(f"missing {why} It is read by {', '.join(names)}.")
    if missing and {name for name in chosen if graph.families(preset, name)} <= {*chain(*missing.values())}:
        return 1
    began = time.time()
    with jobs.alone(scale):
        (jobs.workspace(scale) / "run.jsonl").unlink(missing_ok=True)
        say(f"{scale}: {', '.join(chosen)}, {cores} cores{f', {profile}' if remote else ''}")
        costs = [cost for node in graph.nodes(preset, chosen) if (cost := graph.node_seconds(preset, node))]
        known = {"cores": cores, "guess": {"train": mean(costs)} if costs else {}}
        status, ear = _snakemake(arguments, _Ear(scale, known))
        if status and not any(entry["event"] in ("end", "stopped") for entry in jobs.notes(scale)) and not ear.stopping:
            print("\n".join(ear.errors), file=sys.stderr)
        if status or only:  # the page of what there is, where the graph did not come to it
            words = [sys.executable, "-m", "lib.report", "--scale", scale]
            with open(jobs.workspace(scale) / "logs/report.log", "w") as log:
                failed = subprocess.run(words, stdout=log, stderr=log).returncode
            if failed:
                say(f"FAILED  report: {jobs.last_line(Path(log.name))}")
            status = 1 if status or failed else 0
        print(summary(scale, chosen, time.time() - began, whole=not status), flush=True)
    return status


def read_profile(name: str) -> dict[str, Any]:
    """A folder of profiles/, where a run's jobs go, as Snakemake takes it.

    Raises: ConfigError for one that does not exist, naming those that do, or that cannot be read.
    """
    path = config.ROOT / "profiles" / name / "config.yaml"
    if not path.exists():
        known = sorted(each.parent.name for each in (config.ROOT / "profiles").glob("*/config.yaml"))
        raise ConfigError(f"no profile {name!r}: one of {', '.join(known)}")
    try:
        found = yaml.safe_load(path.read_text()) or {}
        int(found.get("cores", 1))
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not a profile as Snakemake takes them ({error})") from error
    return found


def missing_data(preset: config.Scale, chosen: Sequence[str]) -> dict[str, list[str]]:
    """Image sets whose folder is not there: what to do about each -> the notebooks whose networks it trains."""
    found: dict[str, list[str]] = {}
    for name in chosen:
        networks = [network for family in graph.families(preset, name) for network in preset.families[family]]
        sets = list(dict.fromkeys(preset.recipe(network).data for network in networks))
        for why in call("lib.data:not_there", {"names": sets}).values():
            found.setdefault(why, []).append(name)
    return found


def outlook(scale: str, chosen: Sequence[str]) -> str:
    """What is left to compute for notebooks: item by item, missing data said first."""
    preset, made = config.load(scale), graph.notebooks()
    families = [family for name in chosen if not made[name] for family in graph.families(preset, name)]
    plan = Plan(preset, [*(item for name in chosen for item in made[name]), *families])
    try:
        done = survey(plan)
    except ConfigError as error:
        return f"{error}\nWith the data in place, this says what is left to compute."
    left = set(plan.tasks) - done
    networks = [name for name in left if plan.tasks[name].kind == "train"]
    size = preset.estimate.get("network_mb", 0) * len(networks)
    total = f"{scale}: {len(left)} of {len(plan.tasks)} tasks are left, {estimate(plan, left)} one by one"
    total = f"{total}; {len(networks)} networks to train{f', about {size:,.0f} MB' if size else ''}"
    return "\n".join([*what_is_left(plan, done), "", f"{total}." if left else f"{scale}: nothing is left to compute."])


def _snakemake(arguments: Sequence[str], ear: "_Ear") -> tuple[int, "_Ear"]:
    """Snakemake in this process, so that one kill ends the run: its jobs watch for their parent's end."""
    from snakemake.cli import main

    log, over, status = logging.getLogger("snakemake.logging"), threading.Event(), 0
    log.addFilter(ear)
    if ear.known:
        threading.Thread(target=_show, args=(ear.scale, over), daemon=True).start()
    try:
        main(list(arguments))
    except SystemExit as end:
        status = 0 if end.code in (0, None) else 1
    except KeyboardInterrupt:
        status = 1
    finally:
        over.set()
        log.removeFilter(ear)
    return status, ear


def _end_jobs(*_: Any) -> None:
    """A second SIGINT or SIGTERM ends the jobs at work, which Snakemake waits for after the first."""
    import psutil

    for job in psutil.Process().children():
        with suppress(psutil.Error):  # it has just ended
            job.terminate()  # it ends its command, and leaves nothing that says that it is done


class _Ear(logging.Filter):
    """Listens to Snakemake: which jobs are due, what went wrong. The jobs themselves say how they go.

    Args:
        known: what is noted beside the jobs that are due; of a dry run nothing is noted.
    """

    def __init__(self, scale: str, known: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.scale, self.known = scale, known
        self.due: dict[str, int] = {}
        self.names: list[str] = []
        self.errors: list[str] = []
        self.stopping = False

    def filter(self, record: logging.LogRecord) -> bool:
        stats = getattr(record, "stats", None)
        if stats is not None:
            self.due = {rule: count for rule, count in stats.items() if rule not in ("all", "total")}
            if self.known:
                jobs.note(self.scale, event="due", jobs=self.due, **self.known)
        if getattr(record, "rule_name", "all") != "all" and hasattr(record, "wildcards"):
            self.names.append(" ".join([record.rule_name, *record.wildcards.values()]))  # type: ignore[attr-defined]
        if record.levelno >= logging.ERROR:
            self.errors.append(record.getMessage())
        if any(words in record.getMessage() for words in STOPPING) and not self.stopping:
            self.stopping = True
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, _end_jobs)
            say("asked to stop: the jobs at work are finished first; a second signal ends them")
        return False


# ---- how far a run is


def _show(scale: str, over: threading.Event) -> None:
    """One live line in a terminal, a plain line a minute elsewhere, until the run is over."""
    live = sys.stderr.isatty()
    while not over.wait(2 if live else 60):
        line = progress(scale)
        if line and live:
            sys.stderr.write(f"{jobs.CLEAR}{line[: os.get_terminal_size(2).columns - 1]}")
            sys.stderr.flush()
        elif line:
            say(line)
    sys.stderr.write(jobs.CLEAR if live else "")


def progress(scale: str) -> str:
    """Jobs done, about how long the others take, and what each at work last wrote; empty where no run has begun.

    A job is taken to last as long as those of its kind did in this run; before one has ended, a training as long as the
    scale's `estimate:` says on average. Kinds of which nothing is known are not counted.
    """
    entries = jobs.notes(scale)
    due = [entry for entry in entries if entry["event"] == "due"]
    if not due:
        return ""
    ended = {entry["job"]: entry["seconds"] for entry in entries if entry["event"] == "end"}
    over = {entry["job"] for entry in entries if entry["event"] in ("end", "stopped")}
    running = {entry["job"]: entry for entry in entries if entry["event"] == "start" and entry["job"] not in over}
    left, unknown = 0.0, False
    for kind, count in due[-1]["jobs"].items():
        took = [seconds for name, seconds in ended.items() if name.split()[0] == kind]
        each = mean(took) if took else due[-1]["guess"].get(kind)
        spent = [time.time() - entry["time"] for name, entry in running.items() if name.split()[0] == kind]
        if each is not None:
            left += max(each * (count - len(took)) - sum(min(seconds, each) for seconds in spent), 0)
        unknown |= each is None and count > 0
    told = (
        f"{'more than' if unknown else 'about'} {in_words(left / due[-1]['cores'])} left"
        if left
        else "time left unknown"
    )
    work = "; ".join(
        ": ".join(filter(None, (name, jobs.last_line(Path(entry["log"]))))) for name, entry in running.items()
    )
    return f"{len(ended)} of {sum(due[-1]['jobs'].values())} jobs done, {told}{f' · {work}' if work else ''}"


def status(scale: str) -> int:
    """Say how far a scale's run is that is at work; else what the last one did. Returns: 0."""
    if jobs.at_work(scale):
        print(progress(scale) or f"{scale}: a run has just begun")
    else:
        print(f"{summary(scale)}\nNo run of {scale} is at work. What is left: ./run_all.sh {scale} --dry-run")
    return 0


def summary(scale: str, chosen: Sequence[str] | None = None, seconds: float | None = None, whole: bool = True) -> str:
    """The jobs that the last run ended, those that failed and why, the records that are missing, where the page is.

    Args:
        scale: smoke, cpu, gpu or paper.
        chosen: notebooks that were asked for; None for all.
        seconds: how long the run took, where known.
        whole: whether the run came to its end.
    """
    every = list({entry["job"]: entry for entry in jobs.notes(scale) if entry["event"] == "end"}.values())
    failed = [entry for entry in every if entry["status"]]
    lines = ["", f"{scale}: nothing was out of date"]
    if every or not whole:
        took = "" if seconds is None else f", in {in_words(seconds)}"
        lines = ["", f"{scale}: {len(every) - len(failed)} jobs done, {len(failed)} failed{took}"]
    for entry in every:
        if not entry["status"] and entry["job"].startswith("notebook"):
            lines.append(f"  done    {entry['job']}, {entry['seconds']:.0f} s")
    for entry in failed:
        lines.append(f"  FAILED  {entry['job']}, {entry['seconds']:.0f} s")
        cell = jobs.failing_cell(Path(entry["notebook"])) if entry["notebook"] else None
        lines.append(
            f"          cell [{cell[0]}] {cell[1]}" if cell else f"          {jobs.last_line(Path(entry['log']))}"
        )
        lines.append(f"          see {entry['notebook' if cell else 'log']}")
    if not whole and not failed:
        lines.append("  stopped before the end: the same command goes on from here")
    results, made = config.results_dir(scale), graph.notebooks()
    items = [item for name in (made if chosen is None else chosen) for item in made[name]]
    missing = [item for item in items if not (results / "numbers" / f"{item}.json").exists()]
    if missing:
        lines.append(f"  not made: {', '.join(missing)}")
    page = results / "index.html"
    return "\n".join([*lines, f"Results: {page if page.exists() else results}"])

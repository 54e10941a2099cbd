"""One run of a scale: the plan in words, the lock, Snakemake, and then the summary."""

import itertools
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence

from lib import config
from lib.engine import cost, graph, jobs, profile, stages, summary
from lib.engine.alone import Alone, refusal
from lib.engine.jobs import say
from lib.engine.profile import Profile


def run(
    scale: str,
    cores: int | None = None,
    only: Sequence[str] = (),
    place: str = "local",
    dry_run: bool = False,
    retrain: bool = False,
) -> int:
    """Bring a scale's records and page up to date; goes on where an earlier run stopped.

    Args:
        scale: smoke, cpu, gpu or paper.
        cores: used at a time; None: as many as the profile says, or this machine has.
        only: items or notebooks; none for all.
        place: where jobs run, a folder of profiles/.
        dry_run: print the graph, its cost and what is out of date; run nothing.
        retrain: train every network anew.
    Returns: 0, or 1 where a job failed.
    Raises: ConfigError for an item, notebook or profile that does not exist, or a folder that Snakemake cannot name.
    """
    chosen = graph.select(only)
    _plain_folders(scale)
    where = profile.load(place)
    cores = cores or where.cores
    arguments = _arguments(scale, cores, chosen, bool(only), where, retrain)
    os.environ.update(jobs.environment(scale))
    for notebook, why in graph.stale(config.load(scale), chosen).items():
        say(f"again   notebook {notebook}: {why}")
    if dry_run:
        print(plan(scale, cores, only), flush=True)
        status, heard = _snakemake(["--dry-run", "--quiet", "rules", "progress", *arguments])
        print("\n".join(heard.errors) or f"\nOut of date now: {_shortly(heard.due)}", flush=True)
        return status
    began = time.time()
    with Alone(scale):
        jobs.forget(scale)
        say(f"{scale}: {', '.join(chosen)}, {cores} cores{f', {place}' if where.remote else ''}")
        status, heard = _snakemake(arguments, scale)
        told = summary.ended(scale, failed=True) or summary.stopped(scale) or heard.stopping
        refused = refusal(scale) if status else None
        if status and not told and not refused:
            print("\n".join(heard.errors), file=sys.stderr)
        if status or only:
            status = max(status, _report(scale))
        print(summary.summary(scale, chosen, time.time() - began, whole=not status), flush=True)
        if refused:
            say(f"nothing can be written to {refused}. What is done is kept: mend that, and the same command goes on")
    return status


def _plain_folders(scale: str) -> None:
    """Refuse what Snakemake would take for placeholders; the checkout itself may have any name.

    Raises: ConfigError naming the folder.
    """
    for folder in (config.cache_dir(scale), config.results_dir(scale), config.config_dir()):
        path = folder.absolute()
        name = str(path.relative_to(config.ROOT) if path.is_relative_to(config.ROOT) else path)
        if set(name) & set("{}<>"):
            raise config.ConfigError(
                f"folder {name!r} has one of {{ }} < > in its name, which Snakemake takes for placeholders: name "
                "another with NEURONS_CACHE, NEURONS_RESULTS or NEURONS_CONFIG"
            )


def _shortly(due: Sequence[str]) -> str:
    """The jobs by name where they are few, else how many there are of each kind."""
    if len(due) <= 12:
        return ", ".join(due) or "nothing"
    kinds = Counter(name.split("_")[0] for name in due)
    return f"{len(due)} jobs: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def plan(scale: str, cores: int, only: Sequence[str] = ()) -> str:
    """The graph of a run from nothing, two lines a family, with what its training costs."""
    preset = config.load(scale)
    chosen = graph.select(only)
    made = graph.notebooks()
    every = graph.nodes(preset, chosen)
    lines = [f"{scale}: {len(every)} families x seeds of networks, {len(chosen)} notebooks", ""]
    for family, rows in itertools.groupby(every, key=lambda node: node.family):
        node, *others = rows
        seeds = " ".join(str(each.seed) for each in (node, *others))
        recipe = preset.networks[node.networks[0]]
        after = f", after {' '.join(node.after)}" if node.after else ""
        lines.append(
            f"  train     {family}, seed {seeds}: {len(node.networks)} x {recipe.arch} on {recipe.data}, "
            f"{node.epochs} epochs, {cost.in_words(cost.node_seconds(preset, node))} a seed{after}"
        )
        lines += [
            f"  evaluate  {family}, seed {seeds}: {study}"
            for study in graph.studies(preset, family)
            if graph.evaluated(study)
        ]
    ahead = stages.steps(preset, chosen)
    lines += [f"  attack    {network}, seed {seed}: {attack}" for network, seed, attack in stages.attacks(ahead)]
    lines += [f"  step      {step.study} {step.name}, seed {step.seed}" for step in ahead]
    for notebook in chosen:
        reads = ", ".join(graph.families(preset, notebook)) or "every record"
        alone = cost.estimate(scale, 1, [notebook])["seconds"]
        training = f"; its networks from nothing, one by one: {cost.in_words(alone)}" if made[notebook] else ""
        lines.append(f"  notebook  {notebook}: {', '.join(made[notebook]) or f'reads {reads}'}{training}")
    known = cost.estimate(scale, cores, only)
    device = preset.estimate.get("device")
    size = "unknown" if known["megabytes"] is None else f"about {known['megabytes']:,.0f} MB"
    lines += [
        "  report    index.html",
        "",
        f"From nothing, {cores} side by side{f', on {device}' if device else ''}: {known['networks']} "
        f"networks, {known['epochs']:,} epochs, time {cost.in_words(known['seconds'])}, disk {size}.",
        "What is trained already is not trained again; notebooks, some seconds each, come on top.",
    ]
    return "\n".join(lines)


def _arguments(scale: str, cores: int, chosen: Sequence[str], part: bool, where: Profile, retrain: bool) -> list[str]:
    arguments = ["--snakefile", str(config.ROOT / "Snakefile"), "--directory", str(config.ROOT)]
    arguments += ["--workflow-profile", str(where.folder), "--cores", str(cores)]
    arguments += ["--config", f"scale={scale}", f"retrain={int(retrain)}", *where.settings]
    every = graph.nodes(config.load(scale), chosen) if retrain else []
    forced = [f"train_{node.family}_seed{node.seed}" for node in every]
    forced += [f"notebook_{name}" for name in graph.stale(config.load(scale), chosen)]
    arguments += ["--forcerun", *forced] if forced else []
    devices = [] if where.remote else jobs.gpus(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    if devices:
        arguments += ["--resources", f"gpu={len(devices) * jobs.JOBS_PER_GPU}"]
    arguments += ["--", *([f"notebook_{name}" for name in chosen] if part else ["all"])]
    return arguments


def _snakemake(arguments: Sequence[str], scale: str | None = None) -> tuple[int, "_Ear"]:
    """Snakemake in this process, so that one kill ends the run: its jobs watch for their parent's end."""
    from snakemake.cli import main

    heard = _Ear(scale)
    log = logging.getLogger("snakemake.logging")
    log.addFilter(heard)
    try:
        main(list(arguments))
    except SystemExit as end:
        return 0 if end.code in (0, None) else 1, heard
    finally:
        log.removeFilter(heard)
    return 0, heard


class _Ear(logging.Filter):
    """Listens to Snakemake: which jobs are due, what went wrong. The jobs themselves say how they go."""

    def __init__(self, scale: str | None) -> None:
        super().__init__()
        self.scale = scale
        self.due: list[str] = []
        self.errors: list[str] = []
        self.stopping = False

    def filter(self, record: logging.LogRecord) -> bool:
        stats = getattr(record, "stats", None)
        if stats is not None:
            self.due = [rule for rule in stats if rule not in ("all", "total")]
            if self.scale is not None:
                jobs.note(self.scale, event="due", jobs=len(self.due))
        if record.levelno >= logging.ERROR:
            self.errors.append(record.getMessage())
        if "Will exit after finishing" in record.getMessage() and not self.stopping:
            self.stopping = True
            say("asked to stop: the jobs at work are finished first; Ctrl-C stops them, too")
        return False


def _report(scale: str) -> int:
    """The page of what there is, where the graph did not come to it."""
    done = subprocess.run([sys.executable, "-m", "lib.report", "--scale", scale], capture_output=True, text=True)
    if done.returncode:
        say(f"FAILED  report: {summary.last_line(done.stderr)}")
    return 1 if done.returncode else 0

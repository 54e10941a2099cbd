"""What a run did, in a few lines for its user."""

from collections.abc import Sequence
from pathlib import Path

from lib import config
from lib.engine import cost, graph, jobs


def summary(scale: str, chosen: Sequence[str] | None = None, seconds: float | None = None, whole: bool = True) -> str:
    """The jobs that the last run ended, those that failed and why, the records that are missing, where the page is.

    Args:
        scale: smoke, cpu, gpu or paper.
        chosen: notebooks that were asked for; None for all.
        seconds: how long the run took, where known.
        whole: whether the run came to its end.
    """
    every, failed = ended(scale), ended(scale, failed=True)
    lines = ["", f"{scale}: nothing was out of date"]
    if every or not whole:
        took = "" if seconds is None else f", in {cost.in_words(seconds)}"
        lines = ["", f"{scale}: {len(every) - len(failed)} jobs done, {len(failed)} failed{took}"]
    for entry in every:
        if not entry["status"] and entry["job"].startswith("notebook"):
            lines.append(f"  done    {entry['job']}, {entry['seconds']:.0f} s")
    for entry in failed:
        lines += _failure(entry)
    if not whole and not failed:
        lines.append("  stopped before the end: the same command goes on from here")
    results = config.results_dir(scale)
    made = graph.notebooks()
    items = [item for name in (made if chosen is None else chosen) for item in made[name]]
    missing = [item for item in items if not (results / "numbers" / f"{item}.json").exists()]
    if missing:
        lines.append(f"  not made: {', '.join(missing)}")
    page = results / "index.html"
    lines.append(f"Results: {page if page.exists() else results}")
    return "\n".join(lines)


def ended(scale: str, failed: bool = False) -> list[dict]:
    """The end of each job of the last run; of those alone that failed."""
    last = {entry["job"]: entry for entry in jobs.notes(scale) if entry["event"] == "end"}
    return [entry for entry in last.values() if entry["status"] or not failed]


def stopped(scale: str) -> list[str]:
    """The jobs that the last run's end cut short."""
    return [entry["job"] for entry in jobs.notes(scale) if entry["event"] == "stopped"]


def _failure(entry: dict) -> list[str]:
    lines = [f"  FAILED  {entry['job']}, {entry['seconds']:.0f} s"]
    cell = jobs.failing_cell(Path(entry["notebook"])) if entry["notebook"] else None
    if cell is not None:
        return [*lines, f"          cell [{cell[0]}] {cell[1]}", f"          see {entry['notebook']}"]
    try:
        said = last_line(Path(entry["log"]).read_text(errors="replace"))
    except OSError:
        said = "its log is gone"
    return [*lines, f"          {said}", f"          see {entry['log']}"]


def last_line(text: str) -> str:
    """The last line of a program's words that is not empty: for Python, the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"

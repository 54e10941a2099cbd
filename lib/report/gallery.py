"""The gallery of the README, as Markdown."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib import claims, config, record, reduced, store, tables
from lib.report import entries

START, END = "<!-- gallery:start -->", "<!-- gallery:end -->"
# The figures that tell most of each study, one a paper first; the first MOST of those that have been drawn are shown.
BEST = (
    "robustness_fig7",
    "nnslicer_pruning",
    "lancet_backdoors",
    "lcs_detection",
    "scratch_pruning",
    "nnslicer_detection",
    "lancet_companions",
    "robustness_fig3",
)
MOST = 6  # figures
REDUCED = 5  # settings named of those that are reduced, where there are more
TAKEN = ("SVG", "CSV", "record", "notebook")  # files linked from a figure

Judged = tuple[claims.Verdict, str]  # a verdict, and the scale whose records it rests on; "" where some are missing


class ReportError(RuntimeError):
    """A report or gallery that cannot be written; the message names the file."""


def gallery_markdown(base: str | os.PathLike | None = None) -> str:
    """The results at a glance as Markdown: a line a paper with its verdicts, its best figures, and where the rest is.

    Each item is of the largest scale that it has run at, and each claim of the largest at which all its items have.

    Args:
        base: folder that the links start from; None: the checkout.
    """
    start, items, at = Path(base or config.ROOT), config.items(), scales_of()
    judged = judged_at_largest(at)
    papers = dict.fromkeys([item.paper for item in items.values()] + [claim.paper for claim in claims.load().values()])

    def link(text: str, path: Path) -> str:
        return f"[{text}]({tables.md_url(Path(os.path.relpath(path, start)).as_posix())})"

    heads = [*(f"{mark} {name}" for name, mark in entries.MARKS.items()), "no record yet"]
    lines = ["| paper | tables and figures run | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) + 1)]
    for paper in papers:
        own = [name for name, item in items.items() if item.paper == paper]
        ready = [one for one in judged.values() if one[0].paper == paper and one[1]]
        counts = [_count(verdict for verdict, _ in ready if verdict.verdict == name) for name in entries.MARKS]
        counts.append(_count(verdict for verdict, scale in judged.values() if verdict.paper == paper and not scale))
        done = [at[name] for name in own if name in at]
        run = f"{len(done)} of {len(own)}" + (f" ({_counted(done)})" if done else "")
        lines.append(f"| {tables.md_text(paper)} | {run} | " + " | ".join(counts) + " |")
    where = _counted([scale for _, scale in judged.values() if scale]) or "none yet"
    lines += [
        "",
        "The numbers are claims, the source's and after + our own, each judged by the records of the largest scale "
        f"that has all of its items: {where}.",
        "",
    ]
    for name in best(at):
        lines += _figure(name, at[name], judged, link)
    for scale in dict.fromkeys(at.values()):
        folder = config.results_dir(scale)
        page = link("index.html", folder / "index.html")
        every = link("claims.md", folder / "tables" / "claims.md")
        lines.append(
            f"All tables and figures of scale `{scale}`: {page}, to be opened in a browser. All verdicts with their "
            f"reasons: {every}."
        )
    return "\n".join(lines) + "\n"


def scales_of() -> dict[str, str]:
    """The largest scale that each item has a record at; the smallest scale counts only where no other has any."""
    for scales in (config.SCALES[:0:-1], config.SCALES[:1]):
        at = {name: next((each for each in scales if record.exists(name, each)), "") for name in config.items()}
        if any(at.values()):
            return {name: scale for name, scale in at.items() if scale}
    return {}


def judged_at_largest(at: Mapping[str, str]) -> dict[str, Judged]:
    """Every claim, judged at the largest scale that has all its records; those that wait for one are without a scale.

    Args:
        at: as `scales_of` gives it.
    """
    found: dict[str, Judged] = {}
    for scale in [each for each in config.SCALES if each in at.values()] or config.SCALES[:1]:
        for verdict in claims.verdicts(scale):
            if complete(verdict, scale) or verdict.id not in found:
                found[verdict.id] = (verdict, scale if complete(verdict, scale) else "")
    return found


def complete(verdict: claims.Verdict, scale: str) -> bool:
    """Whether all records that a claim rests on are there."""
    return all(record.exists(item, scale) for item in verdict.items)


def best(at: Mapping[str, str]) -> list[str]:
    """The items whose figures the gallery shows.

    Args:
        at: as `scales_of` gives it.
    """
    drawn = [name for name in at if (config.results_dir(at[name]) / "figures" / f"{name}.png").is_file()]
    return [name for name in BEST if name in drawn][:MOST]


def _figure(name: str, scale: str, judged: Mapping[str, Judged], link: Any) -> list[str]:
    """An item's picture, its caption with the claims it bears on, and its files."""
    folder, found, item = config.results_dir(scale), record.read(name, scale), config.items()[name]
    picture = link(tables.md_text(entries.description(found)), folder / "figures" / f"{name}.png")
    caption = f"**{tables.md_text(entries.opening(found['source']))} ({tables.md_text(item.paper)}), scale `{scale}`.**"
    smaller = reduced.split(found["reduced"])[0]
    if len(smaller) > REDUCED + 1:
        smaller = [*smaller[:REDUCED], f"and {len(smaller) - REDUCED} more settings, see the record"]
    marked = []
    for verdict, where in (judged[claim] for claim in item.claims if claim in judged):
        part = f" ({verdict.part})" if verdict.part else ""
        elsewhere = f" (at `{where}`)" if where not in (scale, "") else ""
        marked.append(f"{entries.MARKS[verdict.verdict]} {tables.md_text(verdict.statement + part)}{elsewhere}")
    ways = [link(text, path) for text, path in entries.files(folder, item) if text in TAKEN and path.is_file()]
    shown = f"{caption} {tables.md_text(found['title'])}. Reduced: {tables.md_text('; '.join(smaller) or 'nothing')}."
    return [f"!{picture}", "", shown, *([f"Claims: {' '.join(marked)}"] if marked else []), " · ".join(ways), ""]


def _count(verdicts: Iterable[claims.Verdict]) -> str:
    """How many verdicts are of the source's claims, and after + of our own."""
    ours = [verdict.ours for verdict in verdicts]
    return f"{ours.count(False)}" + (f" + {ours.count(True)}" if True in ours else "")


def _counted(scales: Sequence[str]) -> str:
    """How many at which scale, as "7 at `cpu`, 2 at `smoke`"; only its name where all are at one."""
    known = [each for each in reversed(config.SCALES) if each in scales]
    return f"`{known[0]}`" if len(known) == 1 else ", ".join(f"{scales.count(each)} at `{each}`" for each in known)


def write_gallery(readme: str | os.PathLike) -> Path:
    """Put the gallery, as `gallery_markdown` gives it, between the two markers of a Markdown file.

    Raises: ReportError naming the file where a marker is missing, or they are in the wrong order.
    """
    path = Path(readme)
    text = path.read_text(encoding="utf-8")
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ReportError(f"{path}: needs one line {START} and, after it, one line {END}")
    before, after = text.split(START)[0], text.split(END)[1]
    gallery = gallery_markdown(path.resolve().parent)
    return store.write_atomic(path, f"{before}{START}\n\n{gallery}\n{END}{after}")

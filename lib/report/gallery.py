"""The gallery of the README, and the full list of claims, as Markdown."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib import claims, config, record, reduced, store, tables
from lib.claims import conditions
from lib.report import entries, verdicts

START, END = "<!-- gallery:start -->", "<!-- gallery:end -->"
# The figures that tell most of each study, the best first; a paper without a record of these shows its first figure.
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

Judged = tuple[claims.Verdict, str]  # a verdict, and the scale it is of


class ReportError(RuntimeError):
    """A report or gallery that cannot be written; the message names the file."""


def gallery_markdown(scale: str | None = None, base: str | os.PathLike | None = None) -> str:
    """The results at a glance as Markdown: a line a paper with its verdicts, its best figures, and where the rest is.

    Args:
        scale: the only one to show; None: of each item the largest scale that it has run at, and of each claim the
            largest at which all its items have.
        base: folder that the links start from; None: the checkout.
    """
    start, items, at = Path(base or config.ROOT), config.items(), scales_of(scale)
    judged, waiting = _judged(scale, at)
    papers = dict.fromkeys([item.paper for item in items.values()] + [claim.paper for claim in claims.load().values()])

    def link(text: str, path: Path) -> str:
        return f"[{text}]({tables.md_url(Path(os.path.relpath(path, start)).as_posix())})"

    heads = [*(f"{mark} {name}" for name, mark in verdicts.MARKS.items()), "no record yet"]
    lines = ["| paper | tables and figures run | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) + 1)]
    for paper in papers:
        own = [name for name, item in items.items() if item.paper == paper]
        ready = [(verdict, each) for verdict, each in judged.values() if verdict.paper == paper]
        several = len({each for _, each in ready}) > 1
        counts = [_count([row for row in ready if row[0].verdict == name], several) for name in verdicts.MARKS]
        counts.append(_count([(verdict, "") for verdict in waiting.values() if verdict.paper == paper]))
        done = [at[name] for name in own if name in at]
        run = f"{len(done)} of {len(own)}" + (f" ({_counted(done)})" if done else "")
        lines.append(f"| {tables.md_text(paper)} | {run} | " + " | ".join(counts) + " |")
    told = _counted([each for _, each in judged.values()]) or "none yet"
    lines += [
        "",
        "The numbers are claims, the source's and after + our own, each judged by the records of the largest scale "
        f"that has all of its items: {told}.",
        "",
    ]
    for name in best(scale):
        lines += _figure(name, at[name], judged, waiting, link)
    for each in dict.fromkeys(at.values()):
        folder = config.results_dir(each)
        page, every = link("index.html", folder / "index.html"), link("claims.md", folder / "claims.md")
        lines.append(
            f"All tables and figures of scale `{each}`: {page}, to be opened in a browser. All verdicts with their "
            f"reasons: {every}."
        )
    return "\n".join(lines) + "\n"


def scales_of(scale: str | None = None) -> dict[str, str]:
    """The scale that each item is shown at; an item without a record is left out.

    Args:
        scale: the only one; None: the largest of config.SCALES, the smallest of them only where no other has a record.
    """
    for choice in ([scale],) if scale else (config.SCALES[:0:-1], config.SCALES[:1]):
        at = {name: next((each for each in choice if record.exists(name, each)), None) for name in config.items()}
        found = {name: each for name, each in at.items() if each is not None}
        if found:
            return found
    return {}


def _judged(scale: str | None, at: Mapping[str, str]) -> tuple[dict[str, Judged], dict[str, claims.Verdict]]:
    """The claims whose records are all there at one scale, judged at the largest such; and those that wait for one."""
    judged: dict[str, Judged] = {}
    waiting: dict[str, claims.Verdict] = {}
    there = [each for each in reversed(config.SCALES) if each in at.values()] or [scale or config.SCALES[0]]
    for each in there:
        ready, lacking = _by_records(claims.verdicts(each), each)
        judged = {verdict.id: (verdict, each) for verdict in ready} | judged
        waiting = {verdict.id: verdict for verdict in lacking} | waiting
    return judged, {name: verdict for name, verdict in waiting.items() if name not in judged}


def _figure(
    name: str, scale: str, judged: Mapping[str, Judged], waiting: Mapping[str, claims.Verdict], link: Any
) -> list[str]:
    """An item's picture, its caption with the claims it bears on, and its files."""
    folder, found, item = config.results_dir(scale), record.read(name, scale), config.items()[name]
    picture = link(tables.md_text(entries.description(found)), folder / "figures" / f"{name}.png")
    caption = f"**{tables.md_text(entries.opening(found['source']))} ({tables.md_text(item.paper)}), scale `{scale}`.**"
    smaller = tables.md_text(_shortly(reduced.split(found["reduced"])[0]))
    told = []
    for claim in item.claims:
        if claim in judged or claim in waiting:
            verdict, where = judged.get(claim) or (waiting[claim], scale)
            elsewhere = "" if where == scale else f" (at `{where}`)"
            told.append(f"{_told(verdict)}{elsewhere}")
    ways = [link(text, path) for text, path in entries.files(folder, item) if text in TAKEN and path.is_file()]
    lines = [f"!{picture}", "", f"{caption} {tables.md_text(found['title'])}. Reduced: {smaller}."]
    return [*lines, *([f"Claims: {' '.join(told)}"] if told else []), " · ".join(ways), ""]


def _count(found: Sequence[Judged], several: bool = False) -> str:
    """How many verdicts are of the source's claims, and after + of our own; with their scales, where asked for."""
    own = sum(verdict.ours for verdict, _ in found)
    told = f"{len(found) - own}" + (f" + {own}" if own else "")
    return f"{told} ({_counted([each for _, each in found])})" if several and found else told


def _counted(scales: Sequence[str]) -> str:
    """How many at which scale, as "7 at `cpu`, 2 at `smoke`"; only its name where all are at one."""
    known = [each for each in reversed(config.SCALES) if each in scales]
    return f"`{known[0]}`" if len(known) == 1 else ", ".join(f"{scales.count(each)} at `{each}`" for each in known)


def _shortly(smaller: Sequence[str]) -> str:
    """What is reduced, the first of it by name; all of it is in the record."""
    more = len(smaller) - REDUCED
    if more < 2:
        return "; ".join(smaller) or "nothing"
    return f"{'; '.join(smaller[:REDUCED])}; and {more} more settings, see the record"


def _told(verdict: claims.Verdict) -> str:
    """A claim with the mark of its verdict, and the part that it holds for."""
    part = f" ({verdict.part})" if verdict.part else ""
    return f"{verdicts.MARKS[verdict.verdict]} {tables.md_text(verdict.statement + part)}"


def _by_records(judged: Sequence[claims.Verdict], scale: str) -> tuple[list[claims.Verdict], list[claims.Verdict]]:
    """The verdicts whose records are all there, and those that wait for one."""
    there = [all(record.exists(item, scale) for item in verdict.items) for verdict in judged]
    return (
        [verdict for verdict, known in zip(judged, there, strict=True) if known],
        [verdict for verdict, known in zip(judged, there, strict=True) if not known],
    )


def best(scale: str | None = None) -> list[str]:
    """The items whose figures the gallery shows: at most one a paper until each has one, at most MOST in all."""
    at = scales_of(scale)
    items = {
        name: item
        for name, item in config.items().items()
        if name in at and (config.results_dir(at[name]) / "figures" / f"{name}.png").is_file()
    }
    ranked = [name for name in BEST if name in items] + [name for name in items if name not in BEST]
    firsts = list({items[name].paper: name for name in reversed(ranked)}.values())[::-1]
    chosen = [name for name in ranked if name in firsts]
    chosen += [name for name in BEST if name in items and name not in chosen]
    return chosen[:MOST]


def claims_markdown(scale: str, judged: Sequence[claims.Verdict]) -> str:
    """Every claim with its verdict and the reason as Markdown, by paper."""
    lines = [f"# The claims and their verdicts at scale {scale}", ""]
    lines += [
        "Computed from the records by the rules of `config/claims.yaml`; the evidence is on `index.html`. *The same*"
    ]
    lines += ["counts the combinations of three margins and three confidences that give the same verdict.", ""]
    lines += [conditions.frozen_in_words(scale), ""]
    for paper in dict.fromkeys(verdict.paper for verdict in judged):
        own = [verdict for verdict in judged if verdict.paper == paper]
        ready, waiting = _by_records(own, scale)
        lines += [f"## {tables.md_text(paper)}", ""]
        for whose, key in (("The source's claims", "count"), ("Our own", "ours")):
            counts = [f"{kind[key]} {kind['name']}" for kind in verdicts.tally(ready) if kind[key]]
            late = sum(verdict.ours == (key == "ours") for verdict in waiting)
            told = ", ".join([*counts, *([f"{late} without a record yet"] if late else [])])
            lines += [f"{whose}: {told}.", ""] if told else []
        lines += ["| verdict | claim | source | why | the same |", "| --- | --- | --- | --- | --- |"]
        for verdict in own:
            cells = (
                f"{verdicts.MARKS[verdict.verdict]} {verdict.headline}",
                verdict.statement,
                "our own" if verdict.ours else verdict.source,
                verdict.why,
                f"{verdict.stable['same']} of {verdict.stable['of']}" if verdict.stable else "",
            )
            lines.append("| " + " | ".join(tables.md_text(text) for text in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def write_gallery(readme: str | os.PathLike, scale: str | None = None) -> Path:
    """Put the gallery, as `gallery_markdown` gives it, between the two markers of a Markdown file.

    Raises: ReportError naming the file where a marker is missing, or they are in the wrong order.
    """
    path = Path(readme)
    text = path.read_text(encoding="utf-8")
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ReportError(f"{path}: needs one line {START} and, after it, one line {END}")
    before, after = text.split(START)[0], text.split(END)[1]
    gallery = gallery_markdown(scale, path.resolve().parent)
    return store.write_atomic(path, f"{before}{START}\n\n{gallery}\n{END}{after}")

"""The gallery of the README, and the full list of claims, as Markdown."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib import claims, config, record, store, tables
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


class ReportError(RuntimeError):
    """A report or gallery that cannot be written; the message names the file."""


def gallery_markdown(scale: str, base: str | os.PathLike | None = None) -> str:
    """A scale at a glance as Markdown: a line a paper with its verdicts, its best figures, and where the rest is.

    Args:
        scale: smoke, cpu or paper.
        base: folder that the links start from; None: the checkout.
    """
    folder, start = config.results_dir(scale), Path(base or config.ROOT)
    judged = claims.verdicts(scale)
    items = config.items()
    papers = dict.fromkeys([*(item.paper for item in items.values()), *(verdict.paper for verdict in judged)])

    def link(text: str, path: Path) -> str:
        return f"[{text}]({tables.md_url(Path(os.path.relpath(path, start)).as_posix())})"

    heads = [*(f"{mark} {name}" for name, mark in verdicts.MARKS.items()), "no record yet"]
    lines = ["| paper | tables and figures run | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) + 1)]
    for paper in papers:
        own = [name for name, item in items.items() if item.paper == paper]
        done = sum(record.exists(name, scale) for name in own)
        ready, waiting = _by_records([verdict for verdict in judged if verdict.paper == paper], scale)
        late = {"count": sum(not v.ours for v in waiting), "ours": sum(v.ours for v in waiting)}
        counts = [_apart(kind) for kind in (*verdicts.tally(ready), late)]
        lines.append(f"| {tables.md_text(paper)} | {done} of {len(own)} | " + " | ".join(counts) + " |")
    lines += [
        "",
        f"The numbers are claims, judged by the records of scale `{scale}`: the source's, after + our own.",
        "",
    ]
    for name in best(scale):
        found, item = record.read(name, scale), items[name]
        picture = link(tables.md_text(entries.description(found)), folder / "figures" / f"{name}.png")
        caption = f"**{tables.md_text(entries.opening(found['source']))} ({tables.md_text(item.paper)}).**"
        reduced = _shortly(found["reduced"])
        ways = [link(text, path) for text, path in entries.files(folder, item) if text in TAKEN and path.is_file()]
        told = [_told(verdict) for verdict in judged if verdict.id in item.claims]
        lines += [f"!{picture}", "", f"{caption} {tables.md_text(found['title'])}. Reduced: {tables.md_text(reduced)}."]
        lines += [f"Claims: {' '.join(told)}"] if told else []
        lines += [" · ".join(ways), ""]
    page, every = link("index.html", folder / "index.html"), link("claims.md", folder / "claims.md")
    lines.append(
        f"All tables and figures: {page}, to be opened in a browser. All verdicts with their reasons: {every}."
    )
    return "\n".join(lines) + "\n"


def _shortly(reduced: Sequence[str]) -> str:
    """What is reduced, the first of it by name; all of it is in the record."""
    more = len(reduced) - REDUCED
    if more < 2:
        return "; ".join(reduced) or "nothing"
    return f"{'; '.join(reduced[:REDUCED])}; and {more} more settings, see the record"


def _told(verdict: claims.Verdict) -> str:
    """A claim with the mark of its verdict, and the part that it holds for."""
    part = f" ({verdict.part})" if verdict.part else ""
    return f"{verdicts.MARKS[verdict.verdict]} {tables.md_text(verdict.statement + part)}"


def _apart(kind: Mapping[str, Any]) -> str:
    """The sources' claims of a verdict, and after + our own."""
    return f"{kind['count']}" + (f" + {kind['ours']}" if kind["ours"] else "")


def _by_records(judged: Sequence[claims.Verdict], scale: str) -> tuple[list[claims.Verdict], list[claims.Verdict]]:
    """The verdicts whose records are all there, and those that wait for one."""
    there = [all(record.exists(item, scale) for item in verdict.items) for verdict in judged]
    return (
        [verdict for verdict, known in zip(judged, there, strict=True) if known],
        [verdict for verdict, known in zip(judged, there, strict=True) if not known],
    )


def best(scale: str) -> list[str]:
    """The items whose figures the gallery shows: at most one a paper until each has one, at most MOST in all."""
    figures = config.results_dir(scale) / "figures"
    items = {
        name: item
        for name, item in config.items().items()
        if record.exists(name, scale) and (figures / f"{name}.png").is_file()
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


def write_gallery(readme: str | os.PathLike, scale: str) -> Path:
    """Put the gallery between the two markers of a Markdown file.

    Raises: ReportError naming the file where a marker is missing, or they are in the wrong order.
    """
    path = Path(readme)
    text = path.read_text(encoding="utf-8")
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ReportError(f"{path}: needs one line {START} and, after it, one line {END}")
    before, after = text.split(START)[0], text.split(END)[1]
    gallery = gallery_markdown(scale, path.resolve().parent)
    return store.write_atomic(path, f"{before}{START}\n\n{gallery}\n{END}{after}")

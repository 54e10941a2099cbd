"""The report: every figure, table and verdict of a scale on one page, and the gallery in the README.

`python -m lib.report --scale S` writes results/<scale>/index.html and prints its path;
with `--readme README.md` it rewrites the gallery between that file's two markers.
"""

import argparse
import base64
import csv
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib import claims, config, record, store, tables

TEMPLATES = Path(__file__).parent / "templates"
START, END = "<!-- gallery:start -->", "<!-- gallery:end -->"
MARKS = {"reproduced": "✓", "partly": "◐", "not reproduced": "✗", "not testable at this scale": "○"}
LARGEST_SVG = 1_500_000  # bytes; a larger figure is embedded as PNG


class ReportError(RuntimeError):
    """A report or gallery that cannot be written; the message names the file."""


def build(scale: str = "smoke") -> Path:
    """Judge the claims and write results/<scale>/index.html, one self-contained page, from the records alone.

    Args:
        scale: smoke, cpu or paper.
    Returns: the page's path. Items without a record are listed as not run; damaged ones with the reason.
    """
    import jinja2

    folder = config.results_dir(scale)
    verdicts = {verdict.id: verdict for verdict in claims.judge_all(scale)}
    entries = [_entry(item, scale, folder, verdicts) for item in config.items().values()]
    papers: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        papers.setdefault(entry["paper"], []).append(entry)
    loader = jinja2.FileSystemLoader(TEMPLATES)
    settings: dict[str, Any] = {"autoescape": True, "undefined": jinja2.StrictUndefined, "keep_trailing_newline": True}
    template = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, **settings).get_template(
        "report.html.j2"
    )
    page = template.render(
        scale=scale,
        claims=[_claim(verdict) for verdict in verdicts.values()],
        tally=[(name, mark, sum(v.verdict == name for v in verdicts.values())) for name, mark in MARKS.items()],
        papers=papers,
        done=sum(entry["state"] == "done" for entry in entries),
        total=len(entries),
        benchmarks=benchmarks(scale),
        marks=MARKS,
    )
    return store.write_atomic(folder / "index.html", page)


def benchmarks(scale: str) -> list[dict[str, Any]]:
    """Run time and memory of the graph's nodes, from results/<scale>/benchmarks/*.tsv as Snakemake writes them.

    Returns: {node, seconds, peak_mb (None where not measured)}, the longest first.
    """
    rows = []
    for path in sorted((config.results_dir(scale) / "benchmarks").glob("**/*.tsv")):
        try:
            with open(path, encoding="utf-8", newline="") as handle:
                runs = list(csv.DictReader(handle, delimiter="\t"))
            seconds = max(float(run["s"]) for run in runs)
        except (OSError, KeyError, TypeError, ValueError):
            continue
        peaks = [float(run["max_rss"]) for run in runs if _is_number(run.get("max_rss"))]
        rows.append({"node": path.stem, "seconds": seconds, "peak_mb": max(peaks) if peaks else None})
    return sorted(rows, key=lambda row: -row["seconds"])


def gallery_markdown(scale: str, base: str | os.PathLike | None = None) -> str:
    """Verdicts and figures of a scale as Markdown, from its records.

    Args:
        scale: smoke, cpu or paper.
        base: folder that the links start from; None: the checkout.
    """
    folder, start = config.results_dir(scale), Path(base or config.ROOT)

    def link(text: str, path: Path) -> str:
        target = tables.md_url(Path(os.path.relpath(path, start)).as_posix())
        return f"[{text}]({target})"

    known = claims.load()
    lines = ["| claim | source | verdict | why |", "| --- | --- | --- | --- |"]
    for name in known:
        v = claims.judge(name, scale)
        cells = (v.statement, v.source, f"{MARKS[v.verdict]} {v.verdict}", v.why)
        lines.append("| " + " | ".join(tables.md_text(text) for text in cells) + " |")
    lines.append("")
    missing = []
    for item in config.items().values():
        if not record.exists(item.item, scale):
            missing.append(item)
            continue
        found = record.read(item.item, scale)
        lines += [f"**{_source(found['source'], tables.md_text)}. {tables.md_text(found['title'])}**", ""]
        figure = folder / "figures" / f"{item.item}.png"
        if figure.is_file():
            lines += ["!" + link(tables.md_text(f"{found['source']}: {found['title']}"), figure), ""]
        links = [link(text, path) for text, path in _files(folder, item) if path.is_file()]
        reduced = "; ".join(found["reduced"]) or "nothing"
        lines += [f"Reduced: {tables.md_text(reduced)}. {' · '.join(links)}", ""]
    if missing:
        lines += [f"Not run at this scale: {', '.join(tables.md_text(item.item) for item in missing)}.", ""]
    return "\n".join(lines).rstrip() + "\n"


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; prints the path of what was written."""
    parser = argparse.ArgumentParser(prog="python -m lib.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scale", default="smoke", choices=config.SCALES)
    parser.add_argument("--readme", metavar="FILE", help="rewrite the gallery in this Markdown file instead")
    chosen = parser.parse_args(arguments)
    try:
        print(write_gallery(chosen.readme, chosen.scale) if chosen.readme else build(chosen.scale))
    except (ReportError, claims.ClaimError, config.ConfigError, record.RecordError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    return 0


def _entry(item: config.Item, scale: str, folder: Path, verdicts: Mapping[str, claims.Verdict]) -> dict[str, Any]:
    """What the page shows of one item."""
    entry: dict[str, Any] = {"item": item.item, "title": item.title, "paper": item.paper, "notebook": item.notebook}
    entry |= {"source": _source(item.source), "state": "missing", "problem": ""}
    entry["verdicts"] = [_claim(verdicts[name]) for name in item.claims if name in verdicts]
    if not record.exists(item.item, scale):
        return entry
    try:
        found = record.read(item.item, scale)
    except record.RecordError as error:
        return {**entry, "state": "damaged", "problem": str(error)}
    shown = tables.display(found)
    facts = found["provenance"]
    state = {None: "", False: "", True: " (with uncommitted changes)"}[facts["dirty"]]
    provenance = {
        "commit": facts["git"] + state,
        "device": f"{facts['device']}, {facts['threads']} thread{'s' * (facts['threads'] != 1)}",
        "peak memory": f"{facts['peak_mb']:,} MB",
        "date": facts["date"],
        "configuration": facts["config"],
        "lock file": facts["lock"],
        **{f"data {name}": value for name, value in facts["data"].items()},
    }
    seeds = sorted({seed for entry in found["numbers"] for seed in entry["seeds"]})
    images = sorted({entry["n"] for entry in found["numbers"]})
    return entry | {
        "state": "done",
        "title": found["title"],
        "source": _source(found["source"]),
        "figure": _figure(folder, item.item),
        "reduced": found["reduced"],
        "columns": list(shown.columns),
        "rows": shown.to_numpy().tolist(),
        "provenance": provenance,
        "seconds": duration(facts["seconds"]),
        "seeds": ", ".join(map(str, seeds)),
        "n": " to ".join(f"{n:,}" for n in dict.fromkeys((images[0], images[-1]))),
        "files": [(t, tables.md_url(p.relative_to(folder).as_posix())) for t, p in _files(folder, item) if p.is_file()],
    }


def _claim(verdict: claims.Verdict) -> dict[str, Any]:
    """What the page shows of one claim."""
    columns = ["item", "comparison", "setting", "measure", "left", "right", "difference", "95 % interval", "outcome"]
    rows = []
    for row in verdict.evidence.to_dict("records"):
        interval = "" if row["low"] != row["low"] else f"[{row['low']:+.3f}, {row['high']:+.3f}]"
        difference = "" if row["difference"] != row["difference"] else f"{row['difference']:+.3f}"
        sides = [tables.cell(row["left"]), tables.cell(row["right"])]
        head = [row["item"], row["comparison"], row["setting"], row["measure"]]
        rows.append([*head, *sides, difference, interval, row["outcome"]])
    told = {
        name: getattr(verdict, name) for name in ("id", "statement", "verdict", "why", "paper", "ours", "items", "rule")
    }
    slug = verdict.verdict.split(" at ")[0].replace(" ", "-")
    return told | {"source": verdict.source, "slug": slug, "columns": columns, "rows": rows}


def _source(source: str, escape: Any = str) -> str:
    """Where the source shows it; capitalised, as it opens a line."""
    return escape(source[:1].upper() + source[1:])


def _figure(folder: Path, item: str) -> str:
    """A figure as a data URI; empty where the item has none."""
    svg, png = (folder / "figures" / f"{item}.{kind}" for kind in ("svg", "png"))
    if svg.is_file() and svg.stat().st_size <= LARGEST_SVG:
        return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()
    return "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode() if png.is_file() else ""


def _files(folder: Path, item: config.Item) -> list[tuple[str, Path]]:
    """What a reader may take away of an item: (name, file)."""
    return [
        ("PNG", folder / "figures" / f"{item.item}.png"),
        ("SVG", folder / "figures" / f"{item.item}.svg"),
        ("CSV", folder / "tables" / f"{item.item}.csv"),
        ("LaTeX", folder / "tables" / f"{item.item}.tex"),
        ("record", folder / "numbers" / f"{item.item}.json"),
        ("notebook", folder / "notebooks" / f"{item.notebook}.ipynb"),
    ]


def duration(seconds: float) -> str:
    """Seconds in words, as "2 h 05 min", "3 min 20 s", "41 s" or "0.8 s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


def _is_number(text: Any) -> bool:
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())

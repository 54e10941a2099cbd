"""What the page shows of one table or figure, and of one claim."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from lib import cite, claims, config, findings, names, record, reduced, tables, units
from lib.findings import opening

OPEN = 40  # rows of a table that stands open
FEW = 4  # stated values that stand open
LARGEST_SVG = 1_500_000  # bytes; a larger figure is shown as PNG
DPI = 300  # of the figures' PNG
MARKS = dict(zip(claims.VERDICTS, "✓◐✗⊘?○", strict=True))
MAIN = "mean of "  # begins the rows of a table that sum the others up
EVIDENCE = ["item", "comparison", "setting", "measure", "left", "right", "difference", "95 % interval", "outcome"]


def entry(item: config.Item, scale: str, folder: Path, verdicts: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of an item.

    Args:
        item: from config/items.yaml.
        scale: smoke, cpu, gpu or paper.
        folder: results/<scale>.
        verdicts: what the page shows of each claim, by its name.
    Returns: state "done", "missing" (no record) or "damaged" (with its problem), and the rest as the template reads it.
    """
    shown: dict[str, Any] = {"item": item.item, "title": item.title, "paper": item.paper, "notebook": item.notebook}
    shown |= {"source": opening(item.source), "state": "missing", "problem": "", "label": opening(names.label(item))}
    shown["verdicts"] = [verdicts[name] for name in item.claims if name in verdicts]
    shown |= {
        "figure": {},
        "facets": {"data": "", "settings": ""},
        "main": main_claim(shown["verdicts"]) if shown["verdicts"] else None,
    }
    if not record.exists(item.item, scale):
        return shown
    try:
        found = record.read(item.item, scale)
    except record.RecordError as error:
        return {**shown, "state": "damaged", "problem": str(error)}
    stated, facts = beside(found), found["provenance"]
    smaller, other = reduced.split(found["reduced"])
    return shown | {
        "state": "done",
        "title": found["title"],
        "source": opening(found["source"]),
        **findings.of(found),
        "figure": figure(folder, item.item),
        "facets": facets(found),
        "reduced": smaller,
        "other": other,
        "stated": stated,
        "tables": split(found),
        "provenance": provenance(found),
        "commit": facts["git"],
        "date": facts["date"][:10],
        "seconds": duration(facts["seconds"]),
        "seeds": ", ".join(map(str, sorted({seed for number in found["numbers"] for seed in number["seeds"]}))),
        "n": samples(found["numbers"]),
        "files": [(text, link(path, folder)) for text, path in files(folder, item) if path.is_file()],
        "identifier": cite.identifier(item.item, scale),
        "bibtex": cite.bibtex(found),
    }


def main_claim(verdicts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first claim that could be tested, one of the source's before our own."""
    tested = [verdict for verdict in verdicts if verdict["verdict"] != claims.NOT_TESTABLE]
    return min(tested or verdicts, key=lambda verdict: verdict["ours"])


def split(found: Mapping[str, Any]) -> dict[str, Any]:
    """A record's table as the page shows it: what stands open, and what is folded, tables of one kind of row each.

    Where the source has a table too, ours stands open: the rows that sum others up where it has some, else the whole.
    Rows across ε, and rows of what has no ε, are tables of their own; what is the same in all rows is told beside.
    """
    table = tables.display(found)
    rows = [[names.value(name, text) for name, text in zip(table, row, strict=True)] for row in table.to_numpy()]
    columns = [names.column(name) for name in table]
    main = [row for row in rows if row[0].startswith(MAIN)] or rows
    if "table" not in found["source"] or len(main) > OPEN:
        main = []
    across = [k for k, name in enumerate(columns) if name.startswith("ε = ")]
    kinds: dict[bool, list[list[str]]] = {}
    for row in rows:
        if row not in main:
            kinds.setdefault(any(row[k] for k in across), []).append(row)
    folded = [_everywhere(_with_content(columns, kind)) for kind in kinds.values()]
    return {"open": {"columns": columns, "rows": main}, "folded": folded}


def facets(found: Mapping[str, Any]) -> dict[str, str]:
    """What a search finds an item by, beside its words: the data sets and attacks, and the networks and methods."""
    values: dict[str, set[str]] = {
        "data": {name.split("/")[0] for name in found["provenance"]["data"]},
        "settings": set(),
    }
    for number in found["numbers"]:
        for key, value in number["where"].items():
            if key in ("attack", "trained_on", "network", "method", "detector", "form"):
                values["data" if key == "attack" else "settings"] |= {str(value), names.value(key, str(value))}
    return {kind: " ".join(sorted(words)) for kind, words in values.items()}


def samples(numbers: Sequence[Mapping[str, Any]]) -> str:
    """What a record's numbers rest on, from fewest to most: "73 to 2,000 test images; 1 network"."""
    kinds = {units.counted(number) for number in numbers}
    several = sum(kind.endswith("images") for kind in kinds) > 1  # all are called images then
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for number in numbers:
        kind = units.counted(number)
        by_kind.setdefault("images" if several and kind.endswith("images") else kind, []).append(number)
    return "; ".join(units.samples(group, kind) for kind, group in by_kind.items())


def beside(found: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that the source states, each beside ours: columns, rows of text, and whether they are many."""
    rows = []
    for number in found["numbers"]:
        if number["paper_value"] is not None:
            setting = findings.setting(number)
            ours = [tables.cell(number["value"]), tables.interval(number["ci95"])]
            row = [names.value("measure", units.measure(number)), setting, tables.cell(number["paper_value"]), *ours]
            rows.append([*row, units.sample(number), str(len(number["seeds"])), number["note"]])
    columns = ["measure", "setting", "stated", "ours", "95 % interval", "n", "seeds", "note"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return {"columns": columns, "rows": rows, "long": len(rows) > FEW}


def provenance(found: Mapping[str, Any]) -> dict[str, str]:
    """Where a record comes from, in words, for a list of terms."""
    facts = found["provenance"]
    return {
        "commit": facts["git"] + (" (with uncommitted changes)" if facts["dirty"] else ""),
        "device": f"{facts['device']}; {facts['threads']} thread{'s' * (facts['threads'] != 1)}",
        "time": duration(facts["seconds"]),
        "peak memory": f"{facts['peak_mb']:,} MB",
        "date": facts["date"],
        "configuration": facts["config"],
        "lock file": facts["lock"],
        **{f"data {name}": value for name, value in facts["data"].items()},
    }


def figure(folder: Path, item: str) -> dict[str, Any]:
    """The picture of an item: {src, width, height} with the size in pixels; nothing where it has none."""
    svg, png = (folder / "figures" / f"{item}.{kind}" for kind in ("svg", "png"))
    try:
        with Image.open(png) as picture:
            width, height = (round(side * 96 / DPI) for side in picture.size)
    except OSError:
        return {}
    small = svg.is_file() and svg.stat().st_size <= LARGEST_SVG
    thumbnail = link(png, folder)
    return {"src": link(svg, folder) if small else thumbnail, "thumbnail": thumbnail, "width": width, "height": height}


def files(folder: Path, item: config.Item) -> list[tuple[str, Path]]:
    """What a reader may take away of an item: (name, file)."""
    notebook = folder / "notebooks" / item.notebook
    return [
        ("PNG", folder / "figures" / f"{item.item}.png"),
        ("SVG", folder / "figures" / f"{item.item}.svg"),
        ("CSV", folder / "tables" / f"{item.item}.csv"),
        ("LaTeX", folder / "tables" / f"{item.item}.tex"),
        ("record", folder / "numbers" / f"{item.item}.json"),
        ("notebook", notebook.with_name(f"{notebook.name}.ipynb")),
        ("notebook as HTML", notebook.with_name(f"{notebook.name}.html")),
    ]


def link(path: Path, folder: Path) -> str:
    """A file as the target of a link on a page in `folder`."""
    return tables.md_url(path.relative_to(folder).as_posix())


def duration(seconds: float) -> str:
    """Seconds in words, as "2 h 05 min", "3 min 20 s", "41 s" or "0.8 s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


def slug(verdict: str) -> str:
    """A verdict as a class and in an address: "reproduced", "reproduced-in-part", "not-testable" and so on."""
    return verdict.split(" at ")[0].replace(" ", "-")


def claim(verdict: claims.Verdict) -> dict[str, Any]:
    """What the page shows of one claim."""
    rows, lines = [], []
    for effect in verdict.effects:  # all comparisons together, above each of them
        value, low, high = (effect[key] - effect["relative"] for key in ("value", "low", "high"))
        against = f"against {effect['rival']}, the strongest" if effect["rival"] else ""
        numbers = ["", "", f"{value:+.3f}", f"[{low:+.3f}, {high:+.3f}]"]
        rows.append(["all together", effect["name"], against, effect["measure"], *numbers, effect["outcome"]])
        ours, _, interval = effect["text"].rpartition(" [")
        lines.append({"part": effect["name"], "ours": ours, "interval": f"[{interval}"})
    for row in verdict.evidence.to_dict("records"):
        known = row["difference"] == row["difference"]  # not NaN
        ends = f"[{row['low']:+.3f}, {row['high']:+.3f}]" if known else ""
        numbers = [
            tables.cell(row["left"]),
            tables.cell(row["right"]),
            f"{row['difference']:+.3f}" if known else "",
            ends,
        ]
        rows.append([*(row[key] for key in EVIDENCE[:4]), *numbers, row["outcome"]])
    keys = ("id", "statement", "verdict", "why", "paper", "source", "ours", "items", "rule", "remarks", "cause")
    shown = {name: getattr(verdict, name) for name in keys}
    shown |= {name: names.sentence(shown[name]) for name in ("why", "rule", "remarks", "cause")}
    # Where a verdict says more than its name: the part it holds for, and the networks it was seen on.
    shown["words"] = "" if verdict.headline == verdict.verdict else names.sentence(opening(verdict.headline))
    evidence = _with_content(EVIDENCE, [_plain(row) for row in rows])
    return shown | {"slug": slug(verdict.verdict), "lines": lines, "evidence": evidence}


def _plain(row: Sequence[str]) -> list[str]:
    """A row of EVIDENCE with plain names."""
    item, comparison, setting, measure, *numbers = row
    return [names.sentence(item), comparison, names.sentence(setting), names.value("measure", measure), *numbers]


def _with_content(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A table without the columns that are empty everywhere."""
    kept = [k for k in range(len(columns)) if any(row[k] for row in rows)]
    return {"columns": [columns[k] for k in kept], "rows": [[row[k] for k in kept] for row in rows]}


def _everywhere(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table without what is the same in all rows and no value; `everywhere`: that, as "seeds 3, batch 512"."""
    columns, rows = table["columns"], table["rows"]
    values = ("ε = ", "without ε", "value", "95 % interval")
    about = [k for k in range(1, len(columns)) if len(rows) > 1 and not columns[k].startswith(values)]
    same = [k for k in about if len({row[k] for row in rows}) == 1]
    told = ", ".join(f"{columns[k]} {rows[0][k]}" for k in same)
    left = [k for k in range(len(columns)) if k not in same]
    return {"columns": [columns[k] for k in left], "rows": [[row[k] for k in left] for row in rows], "everywhere": told}


def tally(verdicts: Iterable[claims.Verdict]) -> list[dict[str, Any]]:
    """How many claims have each verdict: name, mark, slug, count (the sources' claims), ours; in the order of MARKS."""
    found = [(verdict.verdict, verdict.ours) for verdict in verdicts]
    return [
        {"name": n, "mark": mark, "slug": slug(n), "count": found.count((n, False)), "ours": found.count((n, True))}
        for n, mark in MARKS.items()
    ]

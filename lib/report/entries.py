"""What the page shows of one table or figure, from its record and the files beside it."""

import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib import cite, config, record, reduced, tables, units
from lib.report.times import duration

FIRST = 6  # rows of a long table that are not folded away
WHOLE = 10  # rows of a table that is not folded at all
LARGEST_SVG = 1_500_000  # bytes; a larger figure is shown as PNG


def entry(item: config.Item, scale: str, folder: Path, verdicts: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of an item.

    Args:
        item: from config/items.yaml.
        scale: smoke, cpu, gpu or paper.
        folder: results/<scale>.
        verdicts: what the page shows of each claim, by its name.
    Returns: state "done", "missing" (no record) or "damaged" (with its problem), and the rest as the template reads it.
    """
    told: dict[str, Any] = {"item": item.item, "title": item.title, "paper": item.paper, "notebook": item.notebook}
    told |= {"source": opening(item.source), "state": "missing", "problem": ""}
    told["verdicts"] = [verdicts[name] for name in item.claims if name in verdicts]
    if not record.exists(item.item, scale):
        return told
    try:
        found = record.read(item.item, scale)
    except record.RecordError as error:
        return {**told, "state": "damaged", "problem": str(error)}
    shown = tables.display(found)
    stated = beside(found)
    facts = found["provenance"]
    seeds = sorted({seed for number in found["numbers"] for seed in number["seeds"]})
    smaller, other = reduced.split(found["reduced"])
    return told | {
        "state": "done",
        "title": found["title"],
        "source": opening(found["source"]),
        "figure": figure(folder, item.item),
        "alt": description(found),
        "reduced": smaller,
        "other": other,
        "stated": stated,
        "table": {
            "columns": list(shown.columns),
            "rows": shown.to_numpy().tolist(),
            "visible": 0 if stated["rows"] else (len(shown) if len(shown) <= WHOLE else FIRST),
        },
        "provenance": provenance(found),
        "commit": facts["git"],
        "date": facts["date"][:10],
        "seconds": duration(facts["seconds"]),
        "seeds": ", ".join(map(str, seeds)),
        "n": samples(found["numbers"]),
        "files": [(text, link(path, folder)) for text, path in files(folder, item) if path.is_file()],
        "identifier": cite.identifier(item.item, scale),
        "bibtex": cite.bibtex(found),
    }


def samples(numbers: Sequence[Mapping[str, Any]]) -> str:
    """What a record's numbers rest on, from fewest to most: "73 to 2,000 test images; 1 network"."""
    kinds = {units.counted(number) for number in numbers}
    several = sum(kind.endswith("images") for kind in kinds) > 1  # all are told as images then
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for number in numbers:
        kind = units.counted(number)
        by_kind.setdefault("images" if several and kind.endswith("images") else kind, []).append(number)
    told = []
    for kind, own in by_kind.items():
        least, most = min(own, key=lambda number: number["n"]), max(own, key=lambda number: number["n"])
        told.append((f"{least['n']:,} to " if least["n"] != most["n"] else "") + units.sample(most, kind))
    return "; ".join(told)


def beside(found: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that the source states, each beside ours: columns, rows of text, how many stay visible."""
    rows = []
    for number in found["numbers"]:
        if number["paper_value"] is None:
            continue
        setting = ", ".join(f"{key} {tables.cell(value, key)}" for key, value in number["where"].items())
        ours = [tables.cell(number["value"]), tables.interval(number["ci95"])]
        measure = units.measure(number)
        count = [units.sample(number), str(len(number["seeds"])), number["note"]]
        rows.append([measure, setting, tables.cell(number["paper_value"]), *ours, *count])
    columns = ["measure", "setting", "stated", "ours", "95 % interval", "n", "seeds", "note"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return {"columns": columns, "rows": rows, "visible": len(rows) if len(rows) <= WHOLE else FIRST}


def provenance(found: Mapping[str, Any]) -> dict[str, str]:
    """Where a record comes from, in words, for a list of terms."""
    facts = found["provenance"]
    changed = {None: "", False: "", True: " (with uncommitted changes)"}[facts["dirty"]]
    return {
        "commit": facts["git"] + changed,
        "device": f"{facts['device']}; {facts['threads']} thread{'s' * (facts['threads'] != 1)}",
        "time": duration(facts["seconds"]),
        "peak memory": f"{facts['peak_mb']:,} MB",
        "date": facts["date"],
        "configuration": facts["config"],
        "lock file": facts["lock"],
        **{f"data {name}": value for name, value in facts["data"].items()},
    }


def description(found: Mapping[str, Any]) -> str:
    """A figure in words for those who do not see it: what is measured, from where to where, over which settings."""
    spans: dict[str, list[float]] = {}
    for number in found["numbers"]:
        spans.setdefault(units.measure(number), []).append(number["value"])
    measures = [
        f"{name} from {tables.cell(min(values))} to {tables.cell(max(values))}"
        if min(values) < max(values)
        else f"{name} of {tables.cell(values[0])}"
        for name, values in spans.items()
    ]
    settings = []
    for key in tables.where_keys(found):
        values = list(dict.fromkeys(n["where"][key] for n in found["numbers"] if key in n["where"]))
        settings.append(f"{key.replace('_', ' ')} {_several(values, key)}")
    over = f" Over {'; '.join(settings)}." if settings else ""
    return f"{opening(found['source'])}: {found['title']}. Shows {_listed(measures, 4)}.{over}"


def figure(folder: Path, item: str) -> dict[str, Any]:
    """The picture of an item: {src, width, height} with the size in pixels; nothing where it has none."""
    svg, png = (folder / "figures" / f"{item}.{kind}" for kind in ("svg", "png"))
    if svg.is_file() and svg.stat().st_size <= LARGEST_SVG:
        head = svg.read_bytes()[:2000].decode(errors="replace")
        sides = [re.search(rf'<svg[^>]*\s{side}="([\d.]+)pt"', head) for side in ("width", "height")]
        size = [round(float(found[1]) * 4 / 3) for found in sides if found]
        return {"src": link(svg, folder), "width": size[0], "height": size[1]} if len(size) == 2 else {}
    if not png.is_file():
        return {}
    head_bytes = png.read_bytes()[:24]
    if len(head_bytes) < 24 or not head_bytes.startswith(b"\x89PNG"):
        return {}
    width, height = struct.unpack(">II", head_bytes[16:24])
    return {"src": link(png, folder), "width": round(width * 96 / 300), "height": round(height * 96 / 300)}


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


def opening(text: str) -> str:
    """Words as they open a line: the first letter large."""
    return text[:1].upper() + text[1:]


def _several(values: Sequence[Any], key: str) -> str:
    """A setting's values: the ends of many numbers, else the first few."""
    if len(values) > 4 and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return f"from {tables.cell(min(values), key)} to {tables.cell(max(values), key)}"
    return _listed([tables.cell(value, key) for value in values], 8)


def _listed(texts: Sequence[str], most: int) -> str:
    left = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {left} more" if left > 0 else "")

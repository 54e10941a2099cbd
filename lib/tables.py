"""A record's table as CSV, Markdown and LaTeX, and the text of its cells."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib import units

_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    **{mark: "\\" + mark for mark in "&%$#_{}"},
}
_TEX_TABLE = str.maketrans(_TEX)
_MD_TABLE = str.maketrans({**{mark: "\\" + mark for mark in "\\`*_[]|#~"}, "<": "&lt;", "&": "&amp;"})
_MD_URL = str.maketrans({mark: f"%{ord(mark):02X}" for mark in " ()<>\"'\\[]|`"})
LONG = 40
NOT_STATED = "not stated"


def render(record: Mapping[str, Any]) -> dict[str, str]:
    """{"csv", "md", "tex"}: a record's own layout where it has one; else every number, one a row in the CSV."""
    text = display(record)
    caption = f"{record['title']} ({record['paper']}, {record['source']}; scale {record['scale']})"
    return {"csv": csv(raw(record)), "md": markdown(text), "tex": latex(text, caption, f"tab:{record['item']}")}


def frame(record: Mapping[str, Any]) -> pd.DataFrame:
    """A record's numbers as a frame, one row each.

    Returns: columns name, the keys of `where` in order of appearance (missing: NaN), value, low, high (of ci95),
        n, seeds (how many), unit, paper_value, note, per_seed ({seed: value}).
    """
    keys = where_keys(record)
    rows = []
    for entry in record["numbers"]:
        low, high = entry["ci95"] or (math.nan, math.nan)
        paper = math.nan if entry["paper_value"] is None else entry["paper_value"]
        row = {"name": entry["name"]} | {key: entry["where"].get(key, math.nan) for key in keys}
        row |= {"value": entry["value"], "low": low, "high": high, "n": entry["n"], "seeds": len(entry["seeds"])}
        row |= {"unit": entry["unit"], "paper_value": paper, "note": entry["note"]}
        rows.append(row | {"per_seed": dict(zip(entry["seeds"], entry["per_seed"], strict=True))})
    return pd.DataFrame(rows)


def where_keys(record: Mapping[str, Any]) -> list[str]:
    """The keys of `where` over all numbers, in order of appearance."""
    return list(dict.fromkeys(key for entry in record["numbers"] for key in entry["where"]))


def raw(record: Mapping[str, Any]) -> pd.DataFrame:
    """The table with its numbers as they are (missing: empty)."""
    if "table" in record:
        return pd.DataFrame(record["table"]["rows"], columns=record["table"]["columns"], dtype=object)
    whole = frame(record).drop(columns="per_seed")
    return whole.drop(columns="note") if not whole["note"].any() else whole


def display(record: Mapping[str, Any]) -> pd.DataFrame:
    """The table as a reader sees it: rounded, with intervals; every cell is text."""
    if "table" in record:
        table = raw(record)
        return pd.DataFrame(
            [[cell(v, c) for c, v in zip(table, row, strict=True)] for row in table.values], columns=list(table)
        )
    keys = where_keys(record)
    steps = {entry["where"]["epsilon"] for entry in record["numbers"] if "epsilon" in entry["where"]}
    if len(steps) >= 3 and all(entry["paper_value"] is None for entry in record["numbers"]):
        return _across(record["numbers"], [key for key in keys if key != "epsilon"], sorted(steps))
    rows = []
    for entry in record["numbers"]:
        row = {"measure": entry["name"].replace("_", " ")} | {key: cell(entry["where"].get(key), key) for key in keys}
        row |= {"value": cell(entry["value"]), "95 % interval": interval(entry["ci95"]), "n": units.sample(entry)}
        row |= {"seeds": str(len(entry["seeds"])), "unit": entry["unit"]}
        paper = entry["paper_value"]
        rows.append(row | {"paper": NOT_STATED if paper is None else cell(paper), "note": entry["note"]})
    return _without_empty(pd.DataFrame(rows))


def _across(numbers: Sequence[Mapping[str, Any]], keys: list[str], steps: list[float]) -> pd.DataFrame:
    """One row a setting, its values across epsilon, each with half its interval."""
    grouped: dict[tuple, list[Mapping[str, Any]]] = {}
    for entry in numbers:
        setting = (units.measure(entry), *(cell(entry["where"].get(key), key) for key in keys))
        grouped.setdefault(setting, []).append(entry)
    rows = []
    for setting, entries in grouped.items():
        row = dict(zip(["measure", *keys], setting, strict=True))
        row["n"] = ", ".join(
            units.sample(e) for e in {e["n"]: e for e in sorted(entries, key=lambda e: e["n"])}.values()
        )
        row["seeds"] = ", ".join(sorted({str(len(e["seeds"])) for e in entries}, key=int))
        at = {e["where"].get("epsilon"): e for e in entries}
        row |= {"no epsilon": _with_interval(at.get(None))}
        row |= {f"eps {cell(step, 'epsilon')}": _with_interval(at.get(step)) for step in steps}
        rows.append(row | {"note": "; ".join(dict.fromkeys(e["note"] for e in entries if e["note"]))})
    return _without_empty(pd.DataFrame(rows))


def _with_interval(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    if entry["ci95"] is None:
        return _short(entry["value"])
    below, above = _short(entry["value"] - entry["ci95"][0]), _short(entry["ci95"][1] - entry["value"])
    ends = " to ".join(_short(end) for end in entry["ci95"])
    return f"{_short(entry['value'])} ± {above}" if below == above else f"{_short(entry['value'])} ({ends})"


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def _without_empty(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=[name for name in ("no epsilon", "note") if name in table and not table[name].any()])


def cell(value: Any, column: str = "") -> str:
    """One cell's text: four significant digits, of ten thousand and more all before the point; an epsilon in 255ths."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column == "epsilon" and isinstance(value, (int, float)):
        return f"{round(value * 255, 3):g}/255" if value else "0"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value)


def interval(ci95: Any) -> str:
    """An interval's text, or a dash."""
    return "-" if ci95 is None else f"[{ci95[0]:.4g}, {ci95[1]:.4g}]"


def csv(table: pd.DataFrame) -> str:
    """A frame as CSV with full precision."""
    return table.to_csv(index=False, lineterminator="\n")


def markdown(table: pd.DataFrame) -> str:
    """A frame of text as a Markdown table, every cell escaped."""
    head = [md_text(str(column)) for column in table.columns]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    lines += ["| " + " | ".join(md_text(str(value)) for value in row) + " |" for row in table.values]
    return "\n".join(lines) + "\n"


def latex(table: pd.DataFrame, caption: str, label: str) -> str:
    """A frame of text as a LaTeX table with booktabs (longtable above 40 rows), every cell escaped."""
    head = " & ".join(tex_text(str(column)) for column in table.columns) + r" \\"
    body = [" & ".join(tex_text(str(value)) for value in row) + r" \\" for row in table.values]
    columns, title = "l" * table.shape[1], rf"\caption{{{tex_text(caption)}}}"
    mark = rf"\label{{{label}}}"
    if len(body) > LONG:
        lines = ["% needs booktabs, longtable", rf"\begin{{longtable}}{{{columns}}}", rf"{title}{mark}\\", r"\toprule"]
        lines += [head, r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot", *body, r"\end{longtable}"]
    else:
        lines = ["% needs booktabs", r"\begin{table}", r"\centering", title, mark, rf"\begin{{tabular}}{{{columns}}}"]
        lines += [r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def tex_text(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return " ".join(text.translate(_TEX_TABLE).split())


def md_text(text: str) -> str:
    """Text that Markdown shows as it stands, on one line."""
    shown = " ".join(text.translate(_MD_TABLE).split())
    return "\\" + shown if shown.startswith(">") else shown  # else a quotation; elsewhere the sign means nothing


def md_url(path: str) -> str:
    """A path as the target of a Markdown link."""
    return path.replace("%", "%25").translate(_MD_URL)

"""The parts of the README that are made from the results, as Markdown: what was found, and the gallery."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lib import cite, claims, config, findings, names, record, reduced, store, tables
from lib.report import entries

TAKEN = ("CSV", "record", "notebook")  # files linked from a figure
COLUMNS = ("paper", "claim", "the paper states", "ours [95 % interval]", "verdict", "scale and clean accuracy")
DEVICE = re.compile(r"\b(?:cpu|cuda) ([^,;]+)")  # of a record's provenance

Link = Callable[[str, Path], str]


class ReportError(RuntimeError):
    """A page or README that cannot be written; the message names the file."""


def judged() -> dict[str, Mapping[str, Any]]:
    """Every claim as results/<scale>/claims.json has it, of the largest scale that can test it, whatever it says there.

    A claim that no scale can test is of the largest that names it. The smallest scale counts only where no other has a
    claims.json.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for scales in (config.SCALES[1:], config.SCALES[:1]):
        for path in (config.results_dir(scale) / "claims.json" for scale in scales):
            for claim in json.loads(path.read_text(encoding="utf-8"))["claims"] if path.is_file() else ():
                if claim["id"] not in found or _tested(claim) >= _tested(found[claim["id"]]):
                    found[claim["id"]] = claim
        if found:
            break
    return found


def _tested(claim: Mapping[str, Any]) -> bool:
    return claim["verdict"] != claims.NOT_TESTABLE


def findings_markdown(base: str | os.PathLike | None = None) -> str:
    """The claims that config/readme.yaml names, a row each: what the paper states, what came out here, at which scale.

    Args:
        base: folder that the links start from; None: the checkout.
    Raises: ConfigError for a name that is no claim; ReportError for a claim that no claims.json has.
    """
    known, found, link = claims.load(), judged(), _link(base)
    chosen = _chosen("findings", known)
    if missing := [name for name in chosen if name not in found]:
        raise ReportError(
            f"{', '.join(missing)}: in no results/<scale>/claims.json; ./run_all.sh report SCALE makes it"
        )
    lines = [_row(COLUMNS), _row(["---"] * len(COLUMNS))]
    lines += [_row(_finding(known[name], found[name])) for name in chosen]
    scales = dict.fromkeys(found[name]["scale"] for name in chosen)
    pages = [link(f"`{scale}`", config.results_dir(scale) / "tables" / "claims.md") for scale in scales]
    return "\n".join([*lines, "", f"All claims, with rules and reasons: {', '.join(pages)}.", ""])


def paper_markdown(paper: str, base: str | os.PathLike | None = None) -> str:
    """What became of a paper's own claims, a row each as `findings_markdown` has them, and why some do not hold.

    Args:
        paper: as config/claims.yaml names it.
        base: folder that the links start from; None: the checkout.
    Raises: ReportError for a paper without claims, or where no claims.json has one of them.
    """
    own = {name: claim for name, claim in claims.load().items() if claim.paper == paper and not claim.ours}
    found, link = judged(), _link(base)
    if not own or not own.keys() <= found.keys():
        raise ReportError(f"{paper}: no claims in config/claims.yaml, or in no results/<scale>/claims.json")
    lines = [_row(COLUMNS[1:]), _row(["---"] * len(COLUMNS[1:]))]
    lines += [_row(_finding(claim, found[name])[1:]) for name, claim in own.items()]
    causes = [found[name] for name in own if found[name].get("causes")]
    why = [
        f"- *{tables.md_text(one['statement'])}* {tables.md_text(claims.cause_words(one['because'], one['causes']))}"
        for one in causes
    ]
    if why:
        lines += ["", "Why some do not hold, as far as the records show it:", "", *why]
    page = config.results_dir(found[next(iter(own))]["scale"]) / "claims.json"
    return "\n".join([*lines, "", f"All numbers: {link('claims.json', page)}.", ""])


def _finding(claim: claims.Claim, found: Mapping[str, Any]) -> list[str]:
    """The cells of a claim's row: its own words, what its rule says that the paper states, and what claims.json has."""
    units_by_part = {effect["name"]: effect["unit"] for effect in found["effects"]}
    stated = [claims.stated_words(rule, units_by_part.get(rule.name, "")) for rule in claim.rules]
    paper, places = tables.md_text(found["paper"]), cite.addresses(found["paper"])
    links = [f"[{paper if k == 0 else name}]({places[name]})" for k, name in enumerate(places)] or [paper]
    ours = [f"{one['name'] or claims.measure_words(one['measure'])} {one['text']}" for one in found["effects"]]
    ours += [f"control: {one['name']} {one['text']}" for one in found["controls"]]
    part = f": {names.sentence(found['part'])}" if found["part"] else ""
    networks = tables.md_text(claims.networks_in_short(found["networks"]))
    return [
        ", ".join(links),
        tables.md_text(found["statement"]),
        "our own claim" if found["ours"] else tables.md_text("; ".join(filter(None, stated)) or "no number"),
        tables.md_text("; ".join(ours) or "nothing that counts"),
        f"{entries.MARKS[found['verdict']]} {tables.md_text(found['verdict'] + part)}",
        f"`{found['scale']}`" + (f": {networks}" if networks else ""),
    ]


def gallery_markdown(base: str | os.PathLike | None = None) -> str:
    """The results at a glance: a line a paper with its verdicts, the figures of config/readme.yaml, where the rest is.

    Each item is of the largest scale that it has run at, each claim as `judged` chooses it.

    Args:
        base: folder that the links start from; None: the checkout.
    Raises: ConfigError for a name that is no item.
    """
    items, at, verdicts, link = config.items(), scales_of(), judged().values(), _link(base)
    papers = dict.fromkeys([item.paper for item in items.values()] + [claim.paper for claim in claims.load().values()])
    heads = ["paper", "tables and figures run", *(f"{mark} {name}" for name, mark in entries.MARKS.items())]
    lines = [_row(heads), _row(["---", *["---:"] * (len(heads) - 1)])]
    for paper in papers:
        own = [name for name, item in items.items() if item.paper == paper]
        done = [at[name] for name in own if name in at]
        run = f"{len(done)} of {len(own)}" + (f" ({_counted(done)})" if done else "")
        counts = [
            _count([v["ours"] for v in verdicts if (v["paper"], v["verdict"]) == (paper, name)])
            for name in entries.MARKS
        ]
        lines.append(_row([tables.md_text(paper), run, *counts]))
    where = _counted([verdict["scale"] for verdict in verdicts if _tested(verdict)]) or "none yet"
    lines += [
        "",
        f"The numbers are claims, the paper's and after + our own, at the largest scale that can test each: {where}.",
        "",
    ]
    for name in _chosen("figures", items):
        if name in at and (config.results_dir(at[name]) / "figures" / f"{name}.png").is_file():
            lines += _figure(name, at[name], link)
    for scale in dict.fromkeys(at.values()):
        page = link(f"results/{scale}/index.html", config.results_dir(scale) / "index.html")
        lines.append(f"- All of `{scale}`: {page}. Run on {_devices(scale)}.")
    return "\n".join(lines) + "\n"


def scales_of() -> dict[str, str]:
    """The largest scale that each item has a record at; the smallest scale counts only where no other has any."""
    for scales in (config.SCALES[:0:-1], config.SCALES[:1]):
        at = {name: next((each for each in scales if record.exists(name, each)), "") for name in config.items()}
        if any(at.values()):
            return {name: scale for name, scale in at.items() if scale}
    return {}


def _figure(name: str, scale: str, link: Link) -> list[str]:
    """An item's picture, a line of caption, and its files."""
    folder, found, item = config.results_dir(scale), record.read(name, scale), config.items()[name]
    picture = folder / "figures" / f"{name}.png"
    address = link("", picture).removeprefix("[](").removesuffix(")")
    width = "".join(f' width="{pixels}"' for pixels in [entries.figure(folder, name).get("width")] if pixels)
    alternative = escape(findings.of(found)["alternative_text"])
    smaller = len(reduced.split(found["reduced"])[0])
    ours = found["source"].lower().startswith("not in the source")
    about = f"ours, beside {item.paper}" if ours else f"{item.paper}, {found['source']}"
    about += f"; {smaller} setting{'s' * (smaller != 1)} reduced" if smaller else ""
    ways = [link(text, path) for text, path in entries.files(folder, item) if text in TAKEN and path.is_file()]
    shown = f"**{tables.md_text(found['title'])}**, at `{scale}` ({tables.md_text(about)})"
    return [f'<img src="{address}"{width} alt="{alternative}">', "", " · ".join([shown, *ways]), ""]


def _devices(scale: str) -> str:
    """The machines that the records of a scale name, as "AMD EPYC, NVIDIA H200"."""
    records = [record.read(name, scale) for name in config.items() if record.exists(name, scale)]
    named = [DEVICE.findall(found["provenance"]["device"]) for found in records]
    return tables.md_text(", ".join(dict.fromkeys(re.sub(r" \(seeds? .*", "", one) for some in named for one in some)))


def _chosen(key: str, known: Collection[str]) -> list[str]:
    """The names that config/readme.yaml lists under a key, each of them known."""
    path = config.config_dir() / "readme.yaml"
    listed = config.read_yaml(path).get(key) or []
    for name in listed:
        if name not in known:
            raise config.ConfigError(
                f"{path}: {key}: no {name!r} in config/{'claims' if key == 'findings' else 'items'}.yaml"
            )
    return listed


def _link(base: str | os.PathLike | None) -> Link:
    """A function of text and path that gives a Markdown link which starts from a folder."""
    start = Path(base or config.ROOT)
    return lambda text, path: f"[{text}]({tables.md_url(Path(os.path.relpath(path, start)).as_posix())})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _count(ours: Sequence[bool]) -> str:
    """How many verdicts are of the source's claims, and after + of our own."""
    return f"{ours.count(False)}" + (f" + {ours.count(True)}" if True in ours else "")


def _counted(scales: Sequence[str]) -> str:
    """How many at which scale, as "7 at `cpu`, 2 at `smoke`"; only its name where all are at one."""
    counts = Counter(scales)
    known = [each for each in reversed(config.SCALES) if each in counts]
    return f"`{known[0]}`" if len(known) == 1 else ", ".join(f"{counts[each]} at `{each}`" for each in known)


PARTS = {"findings": findings_markdown, "gallery": gallery_markdown}
OF_PAPER = "findings of "  # begins the name of the part that `paper_markdown` makes


def made(part: str, base: str | os.PathLike | None = None) -> str:
    """A generated part of a Markdown file, by the name that its markers have.

    Raises: ReportError for an unknown name; else as the part raises.
    """
    if part.startswith(OF_PAPER):
        return paper_markdown(part.removeprefix(OF_PAPER), base)
    if part not in PARTS:
        raise ReportError(f"no part {part!r}: {config.one_of(part, [*PARTS, OF_PAPER + 'PAPER'])}")
    return PARTS[part](base)


def write_readme(readme: str | os.PathLike) -> Path:
    """Put each part between its two markers, as `<!-- findings:start -->`, of a Markdown file.

    Raises: ReportError naming the file where it has no markers, one is missing, or they are in the wrong order; else as
        `made` raises. The file is left as it is then.
    """
    path = Path(readme)
    text = path.read_text(encoding="utf-8")
    there = dict.fromkeys(re.findall(r"<!-- ([^:>]+):(?:start|end) -->", text))
    if not there:
        raise ReportError(f"{path}: has no markers; needs a line <!-- gallery:start --> and one <!-- gallery:end -->")
    for name in there:
        start, end = (f"<!-- {name}:{where} -->" for where in ("start", "end"))
        if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
            raise ReportError(f"{path}: needs one line {start} and, after it, one line {end}")
        text = f"{text.split(start)[0]}{start}\n\n{made(name, path.resolve().parent)}\n{end}{text.split(end)[1]}"
    return store.write_atomic(path, text)

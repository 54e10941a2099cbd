"""The pages of a scale: results/<scale>/index.html in front, one a paper, and the notebooks as HTML beside them."""

import argparse
import base64
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lib import checksums, claims, config, findings, names, record, store
from lib.report import entries
from lib.report.gallery import ReportError, write_readme
from lib.report.times import training_times

TEMPLATES = Path(__file__).parent.parent / "templates"


def build(scale: str = "smoke") -> Path:
    """Judge the claims and write results/<scale>/*.html and notebooks/*.html, from the results alone.

    Args:
        scale: smoke, cpu, gpu or paper.
    Returns: the path of the front page, index.html. The pages open from a file, fetch nothing from outside, and link
        the files beside them. Items without a record are listed as not run; damaged ones with the reason. Where no
        claim can be tested at this scale, as at smoke, the pages show the verdicts of the largest scale that has some,
        and say so.
    """
    from lib.report import notebooks

    folder, items = config.results_dir(scale), config.items()
    judged = claims.judge_all(scale)
    judged_at = _scale_of_verdicts(scale, judged)
    if judged_at != scale:
        judged = claims.verdicts(judged_at)
    jinja, page_of = environment(), pages(items)
    views = {verdict.id: entries.claim(verdict) for verdict in judged}
    with_record = {
        name: {"title": item.title, "label": findings.opening(names.label(item)), "page": page_of[item.paper]}
        for name, item in items.items()
        if record.exists(name, scale)
    }
    executed = notebooks.convert(folder, jinja, with_record)  # before the entries, which link what is there
    shown = {name: entries.entry(item, scale, folder, views) for name, item in items.items()}
    studies = []
    for paper in dict.fromkeys([*page_of, *(verdict.paper for verdict in judged)]):
        own = [verdict for verdict in judged if verdict.paper == paper]
        study: dict[str, Any] = {"paper": paper, "tally": entries.tally(own), "claims": [views[v.id] for v in own]}
        study["page"] = page_of.get(paper, "index.html")
        study["entries"] = [entry for entry in shown.values() if entry["paper"] == paper and entry["state"] == "done"]
        study["waiting"] = [entry for entry in shown.values() if entry["paper"] == paper and entry["state"] != "done"]
        studies.append(study)
    told = {
        "scale": scale,
        "judged_at": judged_at,
        "studies": studies,
        "shown": shown,
        "page_of": page_of,
        "elsewhere": f"../{judged_at}/" if judged_at != scale else "",
        "tally": entries.tally(judged),
        "frozen": claims.frozen_in_words(judged_at),
        "notebooks": executed,
        "times": training_times(scale),
        "files": [
            name for name in ("tables/claims.csv", "tables/claims.tex", "claims.json") if (folder / name).is_file()
        ],
        "glossary": names.known()["glossary"],
    }
    for study in studies:
        if study["paper"] in page_of:
            page = jinja.get_template("paper.html.j2").render(study=study, home="index.html", **told)
            store.write_atomic(folder / study["page"], page)
    path = store.write_atomic(folder / "index.html", jinja.get_template("front.html.j2").render(home="", **told))
    checksums.complete(folder)
    return path


def pages(items: Mapping[str, config.Item]) -> dict[str, str]:
    """Each paper's page: the first word of its items' names with .html, as "nnslicer.html"; no two the same."""
    found: dict[str, str] = {}
    for item in items.values():
        if item.paper not in found:
            word = item.item.split("_")[0]
            names_left = (f"{word}{number}.html" for number in ("", *range(2, len(items) + 3)))
            found[item.paper] = next(name for name in names_left if name not in {"index.html", *found.values()})
    return found


def _scale_of_verdicts(scale: str, judged: Sequence[claims.Verdict]) -> str:
    """This scale; or the largest one with verdicts, where no claim can be tested at this one."""
    if any(verdict.verdict != claims.NOT_TESTABLE for verdict in judged):
        return scale
    others = [each for each in reversed(config.SCALES) if (config.results_dir(each) / "claims.json").is_file()]
    return next((each for each in others if each != scale), scale)


def environment() -> Any:
    """Jinja with this package's templates: escaping on, undefined names refused."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["terms"] = names.with_terms
    made.filters["hint"] = names.hint
    made.filters["term_id"] = names.term_id
    made.globals |= {"marks": entries.MARKS, "inline": _inline, "csp_hash": _csp_hash, "pygments": _pygments}
    return made


def _inline(name: str) -> Markup:
    """A style sheet or script of the templates, to stand in the page as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _csp_hash(text: str) -> str:
    """What a Content-Security-Policy calls a style or script with this text."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def _pygments() -> Markup:
    """Colours of code, for light and dark."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("xcode", "github-dark"))
    return Markup(f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; prints the path of what was written.

    Args:
        arguments: words of the call; None: this process's own.
    Returns: the exit status, 1 with one line on standard error where something cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lib.report",
        description="Build results/<scale>/*.html from the records, or the generated parts of a README.",
    )
    parser.add_argument("--scale", choices=config.SCALES, default="smoke")
    parser.add_argument(
        "--readme", metavar="FILE", nargs="+", help="rewrite the generated parts of these Markdown files instead"
    )
    chosen = parser.parse_args(arguments)
    known = (ReportError, checksums.ChecksumError, claims.ClaimError, config.ConfigError, record.RecordError, OSError)
    try:
        if chosen.readme:
            print(*map(write_readme, chosen.readme), sep="\n")
            return 0
        print(build(chosen.scale))
        missing = [name for name in config.items() if not record.exists(name, chosen.scale)]
        if missing:
            print(f"report: not run at {chosen.scale}, and said so on the page: {', '.join(missing)}", file=sys.stderr)
    except known as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    return 0

"""The page of a scale: results/<scale>/index.html, with claims.md and the notebooks as HTML beside it."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lib import checksums, claims, config, store
from lib.claims import conditions
from lib.report import entries, verdicts
from lib.report.gallery import claims_markdown
from lib.report.times import benchmarks, critical_path, duration

TEMPLATES = Path(__file__).parent.parent / "templates"


def build(scale: str = "smoke") -> Path:
    """Judge the claims and write results/<scale>/index.html, claims.md and notebooks/*.html, from the results alone.

    Args:
        scale: smoke, cpu, gpu or paper.
    Returns: the page's path. It opens from a file, fetches nothing from outside, and links the files beside it. Items
        without a record are listed as not run; damaged ones with the reason.
    """
    from lib.report import executed

    folder = config.results_dir(scale)
    judged = claims.judge_all(scale)
    views = {verdict.id: verdicts.view(verdict) for verdict in judged}
    items = config.items()
    jinja = environment()
    with_record = {
        name: {"title": item.title, "source": entries.opening(item.source)}
        for name, item in items.items()
        if (folder / "numbers" / f"{name}.json").is_file()
    }
    notebooks = executed.convert(folder, jinja, with_record)
    shown = [entries.entry(item, scale, folder, views) for item in items.values()]
    papers = dict.fromkeys([*(item.paper for item in items.values()), *(verdict.paper for verdict in judged)])
    jobs = benchmarks(scale)
    page = jinja.get_template("page.html.j2").render(
        scale=scale,
        studies=[_study(number, paper, shown, judged, views) for number, paper in enumerate(papers, 1)],
        tally=verdicts.tally(judged),
        frozen=conditions.frozen_in_words(scale),
        done=sum(entry["state"] == "done" for entry in shown),
        total=len(shown),
        notebooks=notebooks,
        jobs=jobs,
        path=critical_path(scale),
        files=[name for name in ("tables/claims.csv", "tables/claims.tex", "claims.json") if (folder / name).is_file()],
    )
    store.write_atomic(folder / "claims.md", claims_markdown(scale, judged))
    path = store.write_atomic(folder / "index.html", page)
    checksums.complete(folder)
    return path


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
    made.filters |= {"duration": duration}
    made.globals |= {"marks": verdicts.MARKS, "inline": _inline, "csp_hash": _csp_hash, "pygments": _pygments}
    return made


def _study(
    number: int, paper: str, shown: list[dict[str, Any]], judged: list[claims.Verdict], views: dict[str, Any]
) -> dict[str, Any]:
    """What the page shows of one paper."""
    own = [entry for entry in shown if entry["paper"] == paper]
    told = [verdict for verdict in judged if verdict.paper == paper]
    return {
        "number": number,
        "paper": paper,
        "entries": [entry for entry in own if entry["state"] == "done"],
        "waiting": [entry for entry in own if entry["state"] != "done"],
        "claims": [views[verdict.id] for verdict in told],
        "tally": verdicts.tally(told),
    }


def _inline(name: str) -> Markup:
    """A style sheet or script of the templates, to stand in the page as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _csp_hash(*parts: str) -> str:
    """What a Content-Security-Policy calls a style or script whose text is these parts, one after the other."""
    return "'sha256-" + base64.b64encode(hashlib.sha256("".join(parts).encode()).digest()).decode() + "'"


def _pygments() -> Markup:
    """Colours of code, for light and dark."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("xcode", "github-dark"))
    return Markup(f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n")

"""The executed notebooks as HTML, by nbconvert: formulas are MathML, nothing runs, nothing is fetched."""

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from docutils.utils.math.latex2mathml import tex2mathml
from nbconvert.exporters.html import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from lib import engine, store
from lib.engine import jobs

# Kinds of output that are shown, the richest first; no script and no widget among them.
KINDS = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]
_NO_ALTERNATIVE = "No description has been provided for this image"  # what nbconvert gives pictures


def convert(folder: Path, environment: Any, items: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """Write notebooks/<name>.html beside each executed notebook of a scale.

    Args:
        folder: results/<scale>.
        environment: of Jinja, with the templates.
        items: the items with a record -> {"title", "label", "page"}.
    Returns: one row a notebook, in the order of running: name, title, items (those with a record), page (its HTML,
        relative to the folder; empty where it cannot be read), file, problem (empty where there is none).
    """
    rows = []
    for name, made in sorted(engine.notebooks().items()):
        path = folder / "notebooks" / f"{name}.ipynb"
        page = path.with_suffix(".html")
        if not path.is_file():
            page.unlink(missing_ok=True)
            continue
        row: dict[str, Any] = {"name": name, "title": name, "page": "", "file": f"notebooks/{name}.ipynb"}
        row |= {"items": [{"item": item, **items[item]} for item in made if item in items], "problem": ""}
        try:
            notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
            row["title"] = _title(notebook) or name
            failed = jobs.failing_cell(path)
            row["problem"] = f"stopped in cell [{failed[0]}]: {failed[1]}" if failed else ""
            store.write_atomic(page, environment.get_template("notebook.html.j2").render(body=body(notebook), **row))
            row["page"] = f"notebooks/{name}.html"
        except Exception as error:  # whatever a damaged file makes nbformat and nbconvert raise: the page goes on
            page.unlink(missing_ok=True)
            row["problem"] = f"cannot be shown: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        rows.append(row)
    return rows


def body(notebook: NotebookNode) -> str:
    """The cells of a notebook as HTML: that of Markdown is shown as text, scripts and widgets are left out."""
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        filters={"markdown2html": _markdown},
    )
    exporter.config.NbConvertBase.display_data_priority = KINDS
    return _with_alternatives(exporter.from_notebook_node(notebook)[0])


class _Renderer(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        return formula(body)

    def block_math(self, body: str) -> str:
        return formula(body, display=True)

    def latex_environment(self, name: str, body: str) -> str:
        return formula(rf"\begin{{{name}}}{body}\end{{{name}}}", display=True)


def formula(latex: str, display: bool = False) -> str:
    """A formula as MathML; as its LaTeX where docutils cannot read it."""
    try:
        return tex2mathml(latex, as_block=display)
    except (SyntaxError, ValueError, LookupError):
        return f"<code>{escape(latex)}</code>"


def _markdown(source: str) -> str:
    renderer = _Renderer(escape=True, allow_harmful_protocols=False, exclude_anchor_links=True)
    return MarkdownWithMath(renderer=renderer).render(source)


def _with_alternatives(html: str) -> str:
    """The page with an alternative text for each output's picture: the heading it stands under, its number there."""
    heading, count = "this notebook", 0

    def name(found: re.Match[str]) -> str:
        nonlocal heading, count
        if found[1] is not None:
            heading, count = re.sub("<[^>]*>", "", found[1]).replace('"', "&quot;"), 0
            return found[0]
        count += 1
        return f'alt="Figure {count} of “{heading}”"'

    return re.sub(rf'<h[1-6][^>]*>(.*?)</h[1-6]>|alt="{_NO_ALTERNATIVE}"', name, html)


def _title(notebook: NotebookNode) -> str:
    """The first heading of a notebook, without its marks."""
    lines = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    return next((re.sub("[`*]", "", line[2:]).strip() for line in lines if line.startswith("# ")), "")

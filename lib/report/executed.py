"""The executed notebooks as HTML: one file each, no script, nothing fetched, linked with the gallery both ways."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
from markupsafe import escape
from nbconvert.exporters.html import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors.sanitize import SanitizeHTML
from nbformat import NotebookNode

from lib import engine, store
from lib.engine import jobs
from lib.report.formulas import picture

TABLE_TAGS = [
    "table",
    "thead",
    "tbody",
    "tfoot",
    "tr",
    "th",
    "td",
    "caption",
    "div",
    "span",
    "p",
    "pre",
    "br",
    "sub",
    "sup",
]


def convert(folder: Path, environment: Any, items: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """Write notebooks/<name>.html beside each executed notebook of a scale.

    Args:
        folder: results/<scale>.
        environment: of Jinja, with the templates.
        items: the items with a record -> {"title", "source"}.
    Returns: one row a notebook, in the order of running: name, title, items (those with a record), page (its HTML,
        relative to the folder; empty where it cannot be read), file, problem (empty where there is none).
    """
    rows, exporter = [], _exporter()
    for name, made in sorted(engine.notebooks().items()):
        path = folder / "notebooks" / f"{name}.ipynb"
        page = path.with_suffix(".html")
        if not path.is_file():
            page.unlink(missing_ok=True)
            continue
        shown = [{"item": item, **items[item]} for item in made if item in items]
        row = {
            "name": name,
            "title": name,
            "items": shown,
            "page": "",
            "file": f"notebooks/{name}.ipynb",
            "problem": "",
        }
        try:
            notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
            row["title"] = _title(notebook) or name
            failed = jobs.failing_cell(path)
            row["problem"] = f"stopped in cell [{failed[0]}]: {failed[1]}" if failed else ""
            text = environment.get_template("notebook.html.j2").render(body=body(notebook, exporter), **row)
        except Exception as error:  # whatever a damaged file makes nbformat and nbconvert raise: the page goes on
            page.unlink(missing_ok=True)
            rows.append({**row, "problem": f"cannot be shown: {type(error).__name__}: {_line(error)}"})
            continue
        store.write_atomic(page, text)
        rows.append({**row, "page": f"notebooks/{name}.html"})
    return rows


def body(notebook: NotebookNode, exporter: HTMLExporter | None = None) -> str:
    """The cells of a notebook as HTML without scripts, event handlers, styles or frames."""
    described(notebook)
    return (exporter or _exporter()).from_notebook_node(notebook)[0]


def described(notebook: NotebookNode) -> None:
    """Give each picture of a notebook an alternative text: the heading it stands under, and its number there."""
    heading, count = _title(notebook) or "this notebook", 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for line in cell.source.splitlines():
                if line.startswith("#"):
                    heading, count = line.strip("# "), 0
        for output in cell.get("outputs", ()):
            for kind in ("image/png", "image/jpeg", "image/svg+xml"):
                if kind in output.get("data", {}):
                    count += 1
                    output.metadata.setdefault(kind, {}).setdefault("alt", f"Figure {count} of “{heading}”")


class _Renderer(IPythonRenderer):
    """Markdown whose HTML is shown as text, with formulas drawn, tables that scroll, and links of harmless kinds."""

    def inline_html(self, html: str) -> str:
        return str(escape(html))

    def block_html(self, html: str) -> str:
        return f"<p>{escape(html.strip())}</p>\n"

    def inline_math(self, body: str) -> str:
        return picture(body)

    def block_math(self, body: str) -> str:
        return picture(body, display=True)

    def latex_environment(self, name: str, body: str) -> str:
        return picture(rf"\begin{{{name}}}{body}\end{{{name}}}", display=True)

    def image(self, text: str, url: str, title: str | None = None) -> str:
        embedded = self._embed_image_or_attachment(url)
        if embedded.startswith("data:image/"):
            return f'<img src="{escape(embedded)}" alt="{escape(text)}">'
        return self.link(str(escape(text)), url)

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link to the web; the words alone of any other, which would lead nowhere from here."""
        return f'<a href="{escape(url)}">{text}</a>' if url.startswith(("https://", "http://")) else text

    def table(self, text: str) -> str:
        return f'<div class="scroll" tabindex="0" role="region" aria-label="Table"><table>\n{text}</table></div>\n'

    def table_cell(self, text: str, align: str | None = None, head: bool = False) -> str:
        return f'  <th scope="col">{text}</th>\n' if head else f"  <td>{text}</td>\n"


class _Exporter(HTMLExporter):
    def markdown2html(self, context: Any, source: str) -> str:
        """Markdown by this module's renderer."""
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = _Renderer(escape=False, exclude_anchor_links=True, attachments=attachments)
        return MarkdownWithMath(renderer=renderer).render(source)

    markdown2html.__dict__.update(HTMLExporter.markdown2html.__dict__)  # Jinja hands it the context

    def default_filters(self) -> Iterator[tuple[str, Any]]:
        """nbconvert's filters, the Markdown one replaced."""
        for name, function in super().default_filters():
            yield name, (self.markdown2html if name == "markdown2html" else function)


def _exporter() -> "_Exporter":
    made = _Exporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    made.register_preprocessor(_Outputs(tags=TABLE_TAGS, attributes=_table_attribute, strip=True), enabled=True)
    return made


class _Outputs(SanitizeHTML):
    """Outputs of harmless kinds; of HTML only tables and text. Markdown is left to the renderer, which escapes."""

    sanitized_output_types = {"text/html"}  # noqa: RUF012  a trait of the class above
    safe_output_keys = {"metadata", "text/plain", "text/markdown", "text/latex", "image/png", "image/jpeg"}  # noqa: RUF012

    def sanitize_html_tags(self, html_str: str) -> str:
        """Tables and text of HTML; of styles and scripts not even their words."""
        return super().sanitize_html_tags(re.sub(r"(?is)<(style|script)\b.*?</\1\s*>", "", html_str))

    def preprocess_cell(self, cell: NotebookNode, resources: Any, cell_index: int) -> tuple[NotebookNode, Any]:
        """Of a cell of code, its outputs."""
        if cell.cell_type == "code":
            for output in cell.outputs:
                _as_picture(output)
            left = self.sanitize_code_outputs(cell.outputs)
            cell.outputs = [output for output in left if output.get("data") != {}]
        return cell, resources


def _as_picture(output: NotebookNode) -> None:
    """An SVG becomes an image in Markdown: browsers run and fetch nothing of what an image holds."""
    drawn = output.get("data", {}).pop("image/svg+xml", None)
    if drawn is not None:
        alt = re.sub(r"[\[\]]", "", output.metadata.get("image/svg+xml", {}).get("alt", ""))
        data = base64.b64encode(drawn.encode()).decode()
        output.data = NotebookNode({"text/markdown": f"![{alt}](data:image/svg+xml;base64,{data})"})


def _table_attribute(_tag: str, name: str, _value: str) -> bool:
    return name in ("scope", "colspan", "rowspan")


def _line(error: Exception) -> str:
    """What an error says, on one line."""
    return next(iter(str(error).strip().splitlines()), "")


def _title(notebook: NotebookNode) -> str:
    """The first heading of a notebook, without its marks."""
    sources: Sequence[str] = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    lines = [line.strip() for source in sources for line in source.splitlines() if line.startswith("# ")]
    return lines[0].lstrip("# ").replace("`", "").replace("*", "").strip() if lines else ""

"""Executed notebooks as HTML: linked with the gallery, formulas are MathML, nothing runs; a torn one stops nothing."""

import base64
import re

import nbformat
import pytest
from nbformat import v4
from samples import accuracies, falling, write

from lib import config, report
from lib.report import notebooks

NAME = "03_robustness_temperature"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path))
    (tmp_path / "smoke" / "notebooks").mkdir(parents=True)
    return tmp_path / "smoke"


def code(source: str = "x = 1", *outputs: nbformat.NotebookNode) -> nbformat.NotebookNode:
    return v4.new_code_cell(source, outputs=list(outputs), execution_count=7)


def shown(**data: str) -> nbformat.NotebookNode:
    return v4.new_output("display_data", {kind.replace("_", "/"): value for kind, value in data.items()})


def put(folder, *cells: nbformat.NotebookNode, name: str = NAME):
    path = folder / "notebooks" / f"{name}.ipynb"
    nbformat.write(v4.new_notebook(cells=[v4.new_markdown_cell("# A title"), *cells]), path)
    return path


def body(*cells: nbformat.NotebookNode) -> str:
    return notebooks.body(v4.new_notebook(cells=list(cells)))


def test_gallery_and_notebook_are_linked_both_ways(folder):
    write("robustness_fig7", accuracies([{"temperature": 1}], lambda s, e: falling(0.7, 0.5, e)))
    put(folder, code("y = 2"))
    page = report.build("smoke").read_text()
    for linking in (page, (folder / "robustness.html").read_text()):
        assert linking.count(f'href="notebooks/{NAME}.html"') == 1
    text = (folder / "notebooks" / f"{NAME}.html").read_text()
    assert 'href="../robustness.html#robustness_fig7"' in text and "robustness_fig8" not in text
    assert "<title>A title</title>" in text and "A title" in page
    assert "default-src 'none'" in text and "<script" not in text and not re.search(r'src="(?!data:)', text)


def test_a_notebook_that_raised_says_so_in_both_places(folder):
    error = v4.new_output("error", ename="ValueError", evalue="<b>no</b> such thing", traceback=["ValueError: no"])
    put(folder, code("raise", error))
    page = report.build("smoke").read_text()
    said = "stopped in cell [7]: ValueError: &lt;b&gt;no&lt;/b&gt; such thing"
    assert said in page and said in (folder / "notebooks" / f"{NAME}.html").read_text()


def test_a_torn_notebook_is_named_and_stops_nothing(folder):
    put(folder).write_text('{"cells": [{"ce')
    put(folder, name="90_claims")
    (folder / "notebooks" / f"{NAME}.html").write_text("of an earlier run")
    page = report.build("smoke").read_text()
    assert "cannot be shown: " in page and f'href="notebooks/{NAME}.html"' not in page
    assert not (folder / "notebooks" / f"{NAME}.html").exists()
    assert (folder / "notebooks" / "90_claims.html").is_file()


def test_the_page_of_a_notebook_that_is_gone_goes(folder):
    left = folder / "notebooks" / f"{NAME}.html"
    left.write_text("of an earlier run")
    report.build("smoke")
    assert not left.exists()


def test_the_same_notebook_gives_the_same_bytes(folder):
    put(folder, v4.new_markdown_cell("$a^2$"), code("1", shown(text_plain="1")))
    page = folder / "notebooks" / f"{NAME}.html"
    report.build("smoke")
    first = page.read_bytes()
    report.build("smoke")
    assert page.read_bytes() == first


@pytest.mark.parametrize(
    "cell",
    [
        v4.new_markdown_cell("<script>evil()</script> <img src=x onerror=evil()> [a](javascript:evil())"),
        v4.new_markdown_cell("<iframe src=evil></iframe>"),
        code("1", shown(text_markdown="<script>evil()</script>[a](javascript:evil())")),
        code("1", shown(application_javascript="evil()", text_plain="shown instead")),
        code("'<script>evil()</script>'", v4.new_output("stream", text="<script>evil()</script>\x1b[31m<b>")),
        code("1", v4.new_output("error", ename="<b>", evalue="<script>", traceback=["<script>evil()</script>"])),
    ],
)
def test_markdown_and_text_are_shown_and_scripts_left_out(cell):
    made = body(cell)
    tags = {tag.lower() for tag in re.findall(r"<([a-zA-Z]+)", made)}
    assert tags & {"script", "iframe", "style", "form", "svg", "img", "b", "object", "link"} == set()
    inside = " ".join(re.findall(r"<[a-zA-Z][^>]*>", made))
    assert not re.search(r"\son\w+\s*=|javascript:|\ssrc=", inside)


def test_html_of_outputs_stands_under_a_policy_that_runs_and_fetches_nothing(folder):
    put(folder, code("1", shown(text_html="<table><tr><th>head</th><td>cell</td></tr></table><script>evil()</script>")))
    report.build("smoke")
    text = (folder / "notebooks" / f"{NAME}.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None and "<th>head</th><td>cell</td>" in text
    allowed = dict(part.strip().split(" ", 1) for part in policy[1].split(";"))
    assert allowed == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert text.index("Content-Security-Policy") < text.index("<script>evil()")


def test_pictures_are_named_by_their_heading():
    png = base64.b64encode(b"\x89PNG").decode()
    svg = shown(**{"image_svg+xml": "<svg onload='evil()'></svg>"})
    made = body(v4.new_markdown_cell('## Under "FGSM"'), code("1", shown(image_png=png), svg))
    assert re.findall(r'alt="([^"]*)"', made) == [f"Figure {k} of “Under &quot;FGSM&quot;”" for k in (1, 2)]
    assert "evil" not in made and "data:image/svg+xml;base64" in made


def test_formulas_are_mathml():
    made = body(v4.new_markdown_cell(r"with $x' = x\,(1 - M)$ and $$\|W\|_F^2 < 1$$"))
    assert made.count("<math") == 2 and made.count('display="block"') == 1 and "$" not in made


@pytest.mark.parametrize("latex", [r"\nosuchcommand{x}", r"\begin{align} a \end{align}"])
def test_a_formula_that_cannot_be_read_is_shown_as_it_is_written(latex):
    assert notebooks.formula(latex) == f"<code>{latex}</code>"


def test_every_formula_of_the_notebooks_can_be_read():
    for path in sorted((config.ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                for latex in re.findall(r"\$([^$]+)\$", cell.source):
                    assert notebooks.formula(latex).startswith("<math"), f"{path.name}: {latex}"

"""Executed notebooks as HTML: whole, harmless, linked with the gallery, formulas drawn; a damaged one stops nothing."""

import base64
import re

import nbformat
import pytest
from nbformat import v4
from samples import accuracies, falling, write

from lib import report
from lib.report import executed
from lib.report.formulas import picture

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
    return executed.body(v4.new_notebook(cells=list(cells)))


def test_gallery_and_notebook_are_linked_both_ways(folder):
    write("robustness_fig7", accuracies([{"temperature": 1}], lambda s, e: falling(0.7, 0.5, e)))
    put(folder, code("y = 2"))
    page = report.build("smoke").read_text()
    assert page.count(f'href="notebooks/{NAME}.html"') == 2  # of the item, and in the list of notebooks
    text = (folder / "notebooks" / f"{NAME}.html").read_text()
    assert 'href="../index.html#robustness_fig7"' in text and "robustness_fig8" not in text
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


@pytest.mark.filterwarnings("error::UserWarning")  # nbconvert's, for an output of which nothing is left
@pytest.mark.parametrize(
    "cell",
    [
        v4.new_markdown_cell("<script>evil()</script> <img src=x onerror=evil()>"),
        v4.new_markdown_cell("[a](javascript:evil()) ![b](https://example.org/evil.png) <iframe src=evil></iframe>"),
        code("1", shown(text_html="<script>evil()</script><p onclick=evil()>t</p><a href='javascript:evil()'>u</a>")),
        code(
            "1", shown(text_html="<style>@import 'evil'</style><img src=evil><iframe src=evil></iframe><form></form>")
        ),
        code("1", shown(text_markdown="<script>evil()</script>[a](javascript:evil())")),
        code("1", shown(application_javascript="evil()")),
        code("'<script>evil()</script>'", v4.new_output("stream", text="<script>evil()</script>\x1b[31m<b>")),
        code("1", v4.new_output("error", ename="<b>", evalue="<script>", traceback=["<script>evil()</script>"])),
    ],
)
def test_nothing_in_a_notebook_runs_or_fetches(cell):
    made = body(cell)
    tags = {tag.lower() for tag in re.findall(r"<([a-zA-Z]+)", made)}
    assert tags & {"script", "iframe", "style", "form", "svg", "img", "b", "object", "link"} == set()
    inside = " ".join(re.findall(r"<[a-zA-Z][^>]*>", made))
    assert not re.search(r"\son\w+\s*=|javascript:|\ssrc=", inside)


def test_tables_and_text_of_outputs_stay():
    frame = "<style scoped>.dataframe {}</style><table border='1'><tr><th>head</th><td>cell</td></tr></table>"
    made = body(code("1", shown(text_html=frame)), code("2", shown(text_plain="plain < text")))
    assert "<tr><th>head</th><td>cell</td></tr>" in made and "<table>" in made and "dataframe" not in made
    assert "plain &lt; text" in made
    made = body(code("1", shown(text_markdown="| a | b |\n| --- | ---: |\n| 1 &lt; 2 | x\\|y |")))
    assert '<th scope="col">a</th>' in made and "<td>1 &lt; 2</td>" in made and "<td>x|y</td>" in made


def test_a_drawing_is_an_image_in_which_nothing_runs():
    drawing = '<svg xmlns="http://www.w3.org/2000/svg" onload="evil()"><script>evil()</script></svg>'
    made = body(v4.new_markdown_cell("## By [eps]"), code("1", shown(**{"image_svg+xml": drawing})))
    (source,) = re.findall(r'<img alt="Figure 1 of “By eps”" src="data:image/svg\+xml;base64,([^"]+)"/>', made)
    assert base64.b64decode(source).decode() == drawing
    assert "evil" not in made and "<svg" not in made


def test_pictures_are_named_by_their_heading():
    png = base64.b64encode(b"\x89PNG").decode()
    drawn = [shown(image_png=png), shown(image_png=png)]
    made = body(v4.new_markdown_cell("## Under FGSM"), code("1", *drawn))
    assert 'alt="Figure 1 of “Under FGSM”"' in made and 'alt="Figure 2 of “Under FGSM”"' in made


def test_formulas_are_drawn_and_kept_as_text():
    made = body(v4.new_markdown_cell(r"with $x' = x\,(1 - M)$ and $$\|W\|_F^2 < 1$$"))
    (first, inside), (second, _) = re.findall(r'<img alt="([^"]*)" class="math[^"]*" src="data:[^,]*,([^"]+)"/>', made)
    assert (first, second) == ("x' = x\\,(1 - M)", "\\|W\\|_F^2 &lt; 1")
    assert b"<path" in base64.b64decode(inside) and made.count('class="math display') == 1
    assert "$" not in made


@pytest.mark.parametrize("latex", [r"\nosuchcommand{x}", r"\frac{1", "", r"\begin{align} a \end{align}", "a $ b"])
def test_a_formula_that_cannot_be_drawn_is_shown_as_it_is_written(latex):
    assert picture(latex) == f'<code class="math">{latex}</code>'


def test_formulas_of_the_notebooks_are_drawn():
    """No notebook of this package has a formula that its page shows as LaTeX."""
    from lib import config

    for path in sorted((config.ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                for latex in re.findall(r"\$([^$]+)\$", cell.source):
                    assert picture(latex).startswith("<img"), f"{path.name}: {latex}"

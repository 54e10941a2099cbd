"""The documents name what is there: functions, files, links; the README shows the results, its examples print so."""

import doctest
import importlib
import re

import pytest

from lib import config
from lib.report.gallery import made

DOCS = sorted((config.ROOT / "docs").rglob("*.md"))
TAUGHT = sorted((config.ROOT / "docs/methods").glob("*.md"))
NAME = re.compile(r"`(lib(?:\.[a-zA-Z_]\w*)+)`")
EXAMPLE = re.compile(r"^```python\n(>>> .*?)^```", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"\d+(?:\.\d+)?")
LINK = re.compile(r"(?:\]\(|src=\")(?!https?:|#|mailto:)([^)#\"]+)")


def found(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            here = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(here, part):
                return False
            here = getattr(here, part)
        return True
    return False


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_name_of_the_package_is_there(path):
    assert [name for name in NAME.findall(path.read_text()) if not found(name)] == []


@pytest.mark.parametrize("path", [config.ROOT / "README.md", *DOCS], ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    links = [link for link in LINK.findall(path.read_text()) if not (path.parent / link).exists()]
    assert links == []


def test_a_name_that_is_not_there_is_noticed():
    assert found("lib.slicing.profile") and not found("lib.slicing.nothing") and not found("lib.nothing")


GENERATED = [config.ROOT / "README.md", *sorted((config.ROOT / "docs" / "methods").glob("*.md"))]


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_what_is_made_from_the_results_is_as_they_are(path, monkeypatch):
    monkeypatch.delenv("NEURONS_RESULTS", raising=False)
    text = path.read_text()
    names = re.findall(r"<!-- ([^:>]+):start -->", text)
    for name in names:
        shown = text.partition(f"<!-- {name}:start -->\n\n")[2].partition(f"\n<!-- {name}:end -->")[0]
        assert shown == made(name, path.parent), (
            "run: .venv/bin/python -m lib.report --readme README.md docs/methods/*.md"
        )
    assert names


def test_every_paper_has_a_page_that_tells_what_was_found():
    there = {
        name for path in GENERATED for name in re.findall(r"<!-- findings of ([^:>]+):start -->", path.read_text())
    }
    assert there == {item.paper for item in config.items().values()}


class Near(doctest.OutputChecker):
    """Output is right where its words are equal and its numbers at most 10 apart: machines differ in training."""

    def check_output(self, want, got, optionflags):
        far = [abs(float(a) - float(b)) > 10 for a, b in zip(NUMBER.findall(want), NUMBER.findall(got), strict=False)]
        return NUMBER.sub("0", want) == NUMBER.sub("0", got) and not any(far)


def examples(text):
    """The examples of a document, one after the other, as one test."""
    return doctest.DocTestParser().get_doctest("\n".join(EXAMPLE.findall(text)), {}, "README.md", None, None)


@pytest.mark.slow
def test_the_examples_of_the_readme_print_what_it_says():
    found, said = examples((config.ROOT / "README.md").read_text()), []
    runner = doctest.DocTestRunner(Near(), verbose=False)
    assert len([one for one in found.examples if one.want]) >= 2
    assert runner.run(found, out=said.append).failed == 0, "".join(said)


@pytest.mark.parametrize("path", TAUGHT, ids=lambda path: path.name)
def test_the_examples_of_a_methods_page_print_what_it_says(path):
    found, said = examples(path.read_text()), []
    assert len([one for one in found.examples if one.want]) >= 2
    assert doctest.DocTestRunner(verbose=False).run(found, out=said.append).failed == 0, "".join(said)


def test_every_method_has_a_page_with_pictures_and_formulas():
    text = (config.ROOT / "docs/methods.md").read_text()
    assert len(TAUGHT) >= 4 and all(f"(methods/{path.name})" in text for path in TAUGHT)
    assert all("$$" in path.read_text() and "results/cpu/figures/" in path.read_text() for path in TAUGHT)
    assert all(path.read_text().count("$$") % 2 == 0 for path in TAUGHT)


@pytest.mark.parametrize(("want", "failed"), [("7 of 9", 0), ("17 of 9", 0), ("18 of 9", 1), ("7 in 9", 1), ("7", 1)])
def test_an_example_that_prints_something_else_is_noticed(want, failed):
    text = f'```python\n>>> print("7 of 9")\n{want}\n```\n'
    assert doctest.DocTestRunner(Near(), verbose=False).run(examples(text), out=lambda _: None).failed == failed

"""The documents name what is there: functions, files, links."""

import importlib
import re

import pytest

from lib import config

DOCS = sorted((config.ROOT / "docs").glob("*.md"))
NAME = re.compile(r"`(lib(?:\.[a-zA-Z_]\w*)+)`")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)")


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

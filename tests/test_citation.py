"""CITATION.cff keeps to the rules of the Citation File Format 1.2, and cites every paper that is reproduced."""

import copy
import datetime
import re
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from lib import config

# The part of the format that this package uses: key -> what its value must be. Of a file, a reference, a person, an entity.
TEXT: Callable[[Any], bool] = lambda value: isinstance(value, str) and value.strip() != ""  # noqa: E731
WHOLE: Callable[[Any], bool] = lambda value: isinstance(value, int) and not isinstance(value, bool)  # noqa: E731
DOI: Callable[[Any], bool] = lambda value: (
    TEXT(value) and re.fullmatch(r"10\.\d{4,9}(\.\d+)?/[\x21-\x7e]+", value) is not None
)  # noqa: E731
URL: Callable[[Any], bool] = lambda value: TEXT(value) and re.fullmatch(r"(https?|s?ftp)://\S+", value) is not None  # noqa: E731
DATE: Callable[[Any], bool] = lambda value: TEXT(value) and re.fullmatch(r"\d{4}-\d\d-\d\d", value) is not None  # noqa: E731
FILE: dict[str, Callable[[Any], bool]] = {
    "cff-version": lambda value: value == "1.2.0",
    "title": TEXT,
    "message": TEXT,
    "abstract": TEXT,
    "type": lambda value: value in ("software", "dataset"),
    "version": lambda value: TEXT(value) or WHOLE(value),
    "date-released": DATE,
    "license": lambda value: value in ("MIT", "Apache-2.0", "BSD-3-Clause"),  # of the SPDX list
    "authors": lambda value: isinstance(value, list),
    "keywords": lambda value: isinstance(value, list) and all(map(TEXT, value)) and len(set(value)) == len(value) > 0,
    "references": lambda value: isinstance(value, list),
    "repository-code": URL,
    "url": URL,
    "doi": DOI,
}
FILE_NEEDS = {"cff-version", "title", "message", "authors"}
REFERENCE: dict[str, Callable[[Any], bool]] = {
    "type": lambda value: value in ("article", "conference-paper", "generic", "report", "thesis", "book", "software"),
    "title": TEXT,
    "authors": lambda value: isinstance(value, list),
    "abbreviation": TEXT,
    "notes": TEXT,
    "journal": TEXT,
    "year": WHOLE,
    "month": lambda value: WHOLE(value) and 1 <= value <= 12,
    "start": lambda value: WHOLE(value) or TEXT(value),
    "end": lambda value: WHOLE(value) or TEXT(value),
    "doi": DOI,
    "url": URL,
    "conference": lambda value: isinstance(value, dict) and "name" in value,
}
REFERENCE_NEEDS = {"type", "title", "authors"}
PERSON = dict.fromkeys(("family-names", "given-names", "name-particle", "name-suffix", "affiliation", "orcid"), TEXT)
ENTITY = dict.fromkeys(("name", "website", "city", "country"), TEXT)


def problems(told: Any) -> list[str]:
    """What a citation file breaks, in words."""
    found = _broken(told, FILE, FILE_NEEDS, "file")
    for index, reference in enumerate(told.get("references") or ()):
        found += _broken(reference, REFERENCE, REFERENCE_NEEDS, f"references[{index}]")
        found += _authors(reference, f"references[{index}]")
    return found + _authors(told, "file")


def _authors(told: dict, label: str) -> list[str]:
    found = [] if told.get("authors") else [f"{label}: no authors"]
    for author in told.get("authors") or ():
        found += _broken(author, ENTITY if "name" in author else PERSON, set(), f"{label}: author")
        found += [] if author else [f"{label}: an author without a name"]
    return found


def _broken(told: dict, known: dict, needed: set, label: str) -> list[str]:
    found = [f"{label}: {key} is missing" for key in sorted(needed - set(told))]
    found += [f"{label}: unknown key {key}" for key in told if key not in known]
    return found + [f"{label}: {key} is {told[key]!r}" for key in told if key in known and not known[key](told[key])]


@pytest.fixture
def told():
    return yaml.safe_load((config.ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_file_keeps_to_the_format(told):
    assert problems(told) == []
    assert set(told) >= {"abstract", "version", "date-released", "license", "keywords", "references"}
    datetime.date.fromisoformat(told["date-released"])


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda told: told.pop("title"), "file: title is missing"),
        (lambda told: told.update(version=0.1), "file: version is 0.1"),
        (lambda told: told.update({"date-released": datetime.date(2026, 1, 1)}), "file: date-released is"),
        (lambda told: told.update(contributors=[]), "file: unknown key contributors"),
        (lambda told: told.update(authors=[]), "file: no authors"),
        (lambda told: told["references"][0].pop("authors"), "references[0]: authors is missing"),
        (lambda told: told["references"][0].update(year="2020"), "references[0]: year is '2020'"),
        (lambda told: told["references"][1].update(doi="https://doi.org/10.1/x"), "references[1]: doi is"),
        (lambda told: told["references"][1].update(conference="FSE"), "references[1]: conference is 'FSE'"),
        (
            lambda told: told["references"][1]["authors"].append({"given": "A"}),
            "references[1]: author: unknown key given",
        ),
    ],
)
def test_the_rules_find_what_breaks_them(told, spoil, problem):
    spoilt = copy.deepcopy(told)
    spoil(spoilt)
    assert any(found.startswith(problem) for found in problems(spoilt)), problems(spoilt)


def test_version_and_licence_are_the_packages(told):
    package = tomllib.loads((config.ROOT / "pyproject.toml").read_text())["project"]
    assert (told["version"], told["license"]) == (package["version"], package["license"])
    assert "MIT License" in (config.ROOT / "LICENSE").read_text()


def test_every_paper_of_an_item_or_a_claim_is_cited_once_by_the_name_used_for_it(told):
    called = [reference["abbreviation"] for reference in told["references"] if "abbreviation" in reference]
    papers = {item.paper for item in config.items().values()} | {claim["paper"] for claim in config.claims().values()}
    assert sorted(called) == sorted(papers)
    assert len({reference["title"].lower() for reference in told["references"]}) == len(told["references"])

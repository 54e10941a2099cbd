"""CITATION.cff keeps to the rules of the Citation File Format 1.2, cites every paper; codemeta.json agrees with it."""

import copy
import datetime
import json
import tomllib
from typing import Any

import jsonschema
import pytest
import yaml

from lib import config

# The part of the format's schema that this package uses.
TEXT = {"type": "string", "minLength": 1}
WHOLE = {"type": "integer"}
PAGE = {"type": ["integer", "string"], "minLength": 1}
DOI = {"type": "string", "pattern": r"^10\.\d{4,9}(\.\d+)?/[A-Za-z0-9:/_;\-\.()\[\]\\]+$"}
URL = {"type": "string", "pattern": r"^(https|http|ftp|sftp)://\S+$"}
DATE = {"type": "string", "pattern": r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$"}


def mapping(needed: list[str], **keys: Any) -> dict[str, Any]:
    """A mapping with these keys (underscores for dashes) and no others."""
    known = {key.replace("_", "-"): rule for key, rule in keys.items()}
    return {"type": "object", "properties": known, "required": needed, "additionalProperties": False}


ENTITY = mapping(["name"], name=TEXT, website=URL, city=TEXT, country=TEXT)
PERSON = mapping([], family_names=TEXT, given_names=TEXT, name_particle=TEXT, name_suffix=TEXT, affiliation=TEXT)
AUTHORS = {"type": "array", "minItems": 1, "items": {"anyOf": [{**PERSON, "minProperties": 1}, ENTITY]}}
REFERENCE = mapping(
    ["type", "title", "authors"],
    type={"enum": ["article", "book", "conference-paper", "generic", "report", "software", "thesis"]},
    title=TEXT,
    authors=AUTHORS,
    abbreviation=TEXT,
    notes=TEXT,
    journal=TEXT,
    year=WHOLE,
    month={"type": "integer", "minimum": 1, "maximum": 12},
    start=PAGE,
    end=PAGE,
    doi=DOI,
    url=URL,
    conference=ENTITY,
)
FILE = mapping(
    ["cff-version", "title", "message", "authors"],
    cff_version={"const": "1.2.0"},
    title=TEXT,
    message=TEXT,
    abstract=TEXT,
    type={"enum": ["software", "dataset"]},
    version=PAGE,
    date_released=DATE,
    license={"enum": ["Apache-2.0", "BSD-3-Clause", "MIT"]},  # of the SPDX list
    authors=AUTHORS,
    keywords={"type": "array", "minItems": 1, "uniqueItems": True, "items": TEXT},
    references={"type": "array", "minItems": 1, "items": REFERENCE},
    repository_code=URL,
    url=URL,
    doi=DOI,
)


def problems(told: Any) -> list[str]:
    """Where a citation file breaks the rules, as "references/0/year"; the file itself is ""."""
    return ["/".join(map(str, error.path)) for error in jsonschema.Draft202012Validator(FILE).iter_errors(told)]


@pytest.fixture
def told():
    return yaml.safe_load((config.ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_file_keeps_to_the_format(told):
    assert problems(told) == []
    assert set(told) >= {"abstract", "version", "date-released", "license", "keywords", "references"}
    datetime.date.fromisoformat(told["date-released"])


@pytest.mark.parametrize(
    ("spoil", "place"),
    [
        (lambda told: told.pop("title"), ""),
        (lambda told: told.update(contributors=[]), ""),
        (lambda told: told.update(version=0.1), "version"),
        (lambda told: told.update({"date-released": datetime.date(2026, 1, 1)}), "date-released"),
        (lambda told: told.update(authors=[]), "authors"),
        (lambda told: told["authors"].append({}), "authors/1"),
        (lambda told: told["references"][0].pop("authors"), "references/0"),
        (lambda told: told["references"][0].update(year="2020"), "references/0/year"),
        (lambda told: told["references"][1].update(doi="https://doi.org/10.1/x"), "references/1/doi"),
        (lambda told: told["references"][1].update(conference="FSE"), "references/1/conference"),
        (lambda told: told["references"][1]["authors"].append({"given": "A"}), "references/1/authors/5"),
    ],
)
def test_the_rules_find_what_breaks_them(told, spoil, place):
    spoilt = copy.deepcopy(told)
    spoil(spoilt)
    assert problems(spoilt) == [place]


def test_version_and_licence_are_the_packages(told):
    package = tomllib.loads((config.ROOT / "pyproject.toml").read_text())["project"]
    assert (told["version"], told["license"]) == (package["version"], package["license"])
    assert "MIT License" in (config.ROOT / "LICENSE").read_text()


def test_every_paper_of_an_item_or_a_claim_is_cited_once_by_the_name_used_for_it(told):
    called = [reference["abbreviation"] for reference in told["references"] if "abbreviation" in reference]
    papers = {item.paper for item in config.items().values()} | {claim["paper"] for claim in config.claims().values()}
    assert sorted(called) == sorted(papers)
    assert len({reference["title"].lower() for reference in told["references"]}) == len(told["references"])


def test_codemeta_says_the_same(told):
    package = tomllib.loads((config.ROOT / "pyproject.toml").read_text())["project"]
    papers = []
    for paper in told["references"]:
        if "abbreviation" in paper:
            places = [f"https://doi.org/{paper['doi']}"] if "doi" in paper else []
            places += [paper["url"]] if "url" in paper else []
            papers.append({**dict(zip(("@id", "sameAs"), places, strict=False)), "name": paper["title"]})
    people = [
        {"@type": "Organization", "name": person["name"]}
        if "name" in person
        else {"@type": "Person", "givenName": person["given-names"], "familyName": person["family-names"]}
        for person in told["authors"]
    ]
    # The names of the keys are those of the context of CodeMeta 3.0.
    assert json.loads((config.ROOT / "codemeta.json").read_text(encoding="utf-8")) == {
        "@context": "https://w3id.org/codemeta/3.0",
        "@type": "SoftwareSourceCode",
        "name": told["title"],
        "description": told["abstract"],
        "version": told["version"],
        "datePublished": told["date-released"],
        "license": f"https://spdx.org/licenses/{told['license']}",
        "author": people,
        "keywords": told["keywords"],
        "programmingLanguage": "Python",
        "runtimePlatform": f"Python {package['requires-python']}",
        "referencePublication": papers,
        **({"codeRepository": told["repository-code"]} if "repository-code" in told else {}),
    }

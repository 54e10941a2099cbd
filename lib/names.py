"""Plain names in place of a record's identifiers, and the glossary, both from lib/templates/names.yaml."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup, escape

from lib import config

FILE = Path(__file__).parent / "templates" / "names.yaml"


@cache
def known() -> Mapping[str, Mapping[str, Any]]:
    """What names.yaml holds: measures, columns, values by column, glossary."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def column(name: str) -> str:
    """The head of a table's column."""
    words = known()["columns"].get(name, name.replace("_", " "))
    return "ε = " + words.removeprefix("eps ") if words.startswith("eps ") else words


def value(name: str, text: str) -> str:
    """A cell of a table.

    Args:
        name: its column, as the record calls it.
        text: what stands in it.
    """
    if name == "measure":
        head, bracket, unit = text.partition(" (")
        return known()["measures"].get(head.replace(" ", "_"), head.replace("_", " ")) + bracket + unit
    return known()["values"].get(name, {}).get(text, text)


def sentence(text: str) -> str:
    """A text with plain names: measures, settings as "reversed yes", identifiers of methods and attacks, and items.

    None is replaced twice.
    """
    found, words = _replaced(config.config_dir())
    return found.sub(lambda match: words[(match.lastindex or 1) - 1], text)


def label(item: config.Item) -> str:
    """An item in few words: "Figure 7"; its title where the source has no such figure."""
    return item.title if item.source.startswith("not in ") else item.source


@cache
def _replaced(_folder: Path) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """What is replaced, the longer first, a group each; and by which words. The folder is the configuration's."""
    found = {rf"\b{re.escape(name)}\b": label(item) for name, item in config.items().items()}
    for key, named in known()["values"].items():
        for name, words in named.items():
            found[rf"\b{_loose(key)} {re.escape(name)}(?=[ ,.;)]|$)"] = f"{column(key)} {words}"
            if _telling(name, words):
                found[rf"(?<![\w-]){re.escape(name)}(?![\w-])"] = words
    found |= {rf"\b{_loose(name)}\b": words for name, words in known()["measures"].items() if "_" in name}
    order = sorted(found, key=len, reverse=True)
    return re.compile("|".join(f"({pattern})" for pattern in order)), tuple(found[pattern] for pattern in order)


def _telling(name: str, words: str) -> bool:
    """Whether a value is an identifier wherever it stands, and no plain word: "fgsm_2", "flip-stated", "jsma"."""
    return "-" in name or "_" in name or name == words.lower()


def _loose(name: str) -> str:
    return re.escape(name).replace("_", "[_ ]")


def term_id(term: str) -> str:
    """A term of the glossary as the target of a link."""
    return "term-" + term.lower().replace(" ", "-")


@cache
def _terms() -> re.Pattern[str]:
    order = sorted(known()["glossary"], key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, order))})\b", re.IGNORECASE)


def _meaning(term: str) -> tuple[str, str]:
    return next((name, words) for name, words in known()["glossary"].items() if name.lower() == term.lower())


def with_terms(text: str, home: str = "") -> Markup:
    """A text as HTML, the first use of each of the glossary's terms linked to it, its meaning shown on hovering.

    Args:
        text: plain text.
        home: the page with the glossary; empty: this one.
    """
    seen, parts, end = set(), [], 0
    for match in _terms().finditer(text):
        name, words = _meaning(match[0])
        if name not in seen:
            seen.add(name)
            link = Markup('<a class="term" href="{}#{}" title="{}">{}</a>').format(home, term_id(name), words, match[0])
            parts += [escape(text[end : match.start()]), link]
            end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def hint(text: str) -> str:
    """The meaning of the first term of the glossary in a cell; empty where there is none."""
    match = _terms().search(text)
    return ": ".join(_meaning(match[0])) if match else ""

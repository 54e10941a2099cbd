"""How to cite a result: an identifier of item, scale and commit, and a BibTeX entry made from its record."""

import re
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

from lib import config, tables

PACKAGE = "neurons"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def identifier(item: str, scale: str, commit: str) -> str:
    """What names a result for good: "neurons:<scale>/<item>@<commit>".

    Args:
        item: a name in config/items.yaml.
        scale: smoke, cpu or paper.
        commit: hexadecimal digits of the commit that made it, cut to twelve; or "unknown".
    """
    return f"{PACKAGE}:{scale}/{item}@{commit[:12]}"


def bibtex(record: Mapping[str, Any]) -> str:
    """A BibTeX entry for one table or figure: the package, the item, its scale and commit, the paper it reproduces.

    Args:
        record: as `lib.record.read` returns it.
    Returns: an @misc entry, UTF-8, one field a line, closed by a newline.
    Raises: ConfigError naming CITATION.cff where it is missing or lacks title, version or authors.
    """
    package, facts = _package(), record["provenance"]
    made = date.fromisoformat(facts["date"][:10])
    commit = facts["git"][:12]
    name = identifier(record["item"], record["scale"], facts["git"])
    changed = " with uncommitted changes" if facts["dirty"] else ""
    if record["source"].lower().startswith("not in the source"):
        about = f"Beside the reproduction of {record['paper']}"
    else:
        about = f"Reproduces {record['source']} of {record['paper']}"
    note = f"{about}; scale {record['scale']}, commit {commit}{changed}, made {made}; {name}"
    fields = {
        "author": " and ".join(_author(person) for person in package["authors"]),
        "title": f"{{{_tex(record['title'])}}}",
        "howpublished": f"{_tex(package['title'])}, version {_tex(str(package['version']))}",
        "year": str(made.year),
        "month": _MONTHS[made.month - 1],
        "note": _tex(note),
    }
    address = package.get("repository-code") or package.get("url")
    if address:
        fields["url"] = str(address)
    key = re.sub(r"[^\w-]", "", f"{PACKAGE}-{record['scale']}-{record['item']}-{commit}")
    lines = [f"  {field:<12} = {text if field == 'month' else '{' + text + '}'}" for field, text in fields.items()]
    return f"@misc{{{key},\n" + ",\n".join(lines) + "\n}\n"


def _package() -> Mapping[str, Any]:
    path = config.ROOT / "CITATION.cff"
    return _read(path, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=4)
def _read(path: Path, _changed: int) -> Mapping[str, Any]:
    told = config.read_yaml(path)
    for key in ("title", "version", "authors"):
        if not told.get(key):
            raise config.ConfigError(f"{path}: key {key!r} is missing")
    return told


def _author(person: Mapping[str, Any]) -> str:
    """An author of CITATION.cff as BibTeX reads one; an entity's name stays whole."""
    if "name" in person:
        return f"{{{_tex(str(person['name']))}}}"
    family = " ".join(str(person[key]) for key in ("name-particle", "family-names") if person.get(key))
    parts = [family, *(str(person[key]) for key in ("name-suffix", "given-names") if person.get(key))]
    return ", ".join(map(_tex, parts))


def _tex(text: str) -> str:
    """Text that LaTeX prints as it stands, its braces in pairs, as BibTeX counts them."""
    return tables.tex_text(text).replace(r"\{", r"\textbraceleft{}").replace(r"\}", r"\textbraceright{}")

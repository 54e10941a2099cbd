"""How to cite: an identifier of each table and figure, and BibTeX of the package, its results and the papers."""

import hashlib
import re
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

from lib import config, tables

PACKAGE = "neurons"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def citation() -> Mapping[str, Any]:
    """CITATION.cff of this package.

    Raises: ConfigError naming the file where it is missing, or lacks title, version or authors.
    """
    return _read(config.ROOT / "CITATION.cff")


def identifier(item: str, scale: str) -> str:
    """The SWHID (ISO/IEC 18670) of a record: which content, and where it lies in the repository.

    Its 40 digits are git's own name of that content. In every clone that holds the record, `git cat-file blob DIGITS`
    prints it and `git log --all --find-object=DIGITS` tells the commits that brought it.

    Args:
        item: a name in config/items.yaml, with a record at the scale.
        scale: smoke, cpu, gpu or paper.
    Returns: as "swh:1:cnt:<40 hexadecimal digits>;path=/results/cpu/numbers/robustness_fig7.json".
    Raises: OSError where there is no such record.
    """
    content = (config.results_dir(scale) / "numbers" / f"{item}.json").read_bytes()
    digits = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return f"swh:1:cnt:{digits};path=/results/{scale}/numbers/{item}.json"


def bibtex(record: Mapping[str, Any]) -> str:
    """BibTeX for one table or figure: an entry of it in this package, and one of the paper that it reproduces.

    Args:
        record: of an item that is in the scale's results, as `lib.record.read` returns it.
    Returns: one entry, or two where CITATION.cff has the paper; UTF-8, one field a line, closed by a newline.
    Raises: ConfigError as `citation`; OSError as `identifier`.
    """
    facts = record["provenance"]
    made, commit = date.fromisoformat(facts["date"][:10]), facts["git"][:12]
    changed = " with uncommitted changes" if facts["dirty"] else ""
    own = record["source"].lower().startswith("not in the source")
    about = (
        f"Beside the reproduction of {record['paper']}"
        if own
        else f"Reproduces {record['source']} of {record['paper']}"
    )
    note = f"{about}; scale {record['scale']}, made {made} at commit {commit}{changed}; "
    result = _entry(
        "misc",
        f"{PACKAGE}-{record['scale']}-{record['item']}-{commit}",
        citation(),
        title=record["title"],
        howpublished=f"{citation()['title']}, version {citation()['version']}",
        year=made.year,
        month=_MONTHS[made.month - 1],
        note=note + identifier(record["item"], record["scale"]),
    )
    papers = [paper for paper in citation().get("references", ()) if paper.get("abbreviation") == record["paper"]]
    return "\n".join([result, *map(_paper, papers)])


def package_bibtex() -> str:
    """BibTeX for this package and the papers that it reproduces, in one block. Raises: ConfigError as `citation`."""
    told = citation()
    year = str(told.get("date-released", ""))[:4]
    package = _entry("software", PACKAGE, told, title=told["title"], version=told["version"], year=year)
    papers = [paper for paper in told.get("references", ()) if "abbreviation" in paper]
    return "\n".join([package, *map(_paper, papers)])


def _paper(told: Mapping[str, Any]) -> str:
    """An entry of a paper in the references of CITATION.cff."""
    return _entry(
        "inproceedings" if "conference" in told else "misc",
        told["abbreviation"].lower().replace(" ", "-"),
        told,
        title=told["title"],
        booktitle=told.get("conference", {}).get("name"),
        year=told.get("year"),
        month=_MONTHS[told["month"] - 1] if "month" in told else None,
        pages=f"{told['start']}--{told['end']}" if "start" in told and "end" in told else None,
        note=None if "conference" in told else told.get("notes"),
    )


def _entry(kind: str, key: str, told: Mapping[str, Any], **fields: Any) -> str:
    """A BibTeX entry with the authors and addresses that CITATION.cff tells of a work; empty fields are left out."""
    texts = {name: _tex(str(value)) for name, value in fields.items() if value}
    texts["title"] = f"{{{texts['title']}}}"
    addresses = {"doi": told.get("doi"), "url": told.get("url") or told.get("repository-code")}
    texts = {"author": " and ".join(map(_author, told["authors"]))} | texts
    texts |= {name: str(address) for name, address in addresses.items() if address}
    lines = [f"  {name:<12} = {text if name == 'month' else '{' + text + '}'}" for name, text in texts.items()]
    return f"@{kind}{{{re.sub(r'[^a-zA-Z0-9_-]', '', key)},\n" + ",\n".join(lines) + "\n}\n"


@lru_cache(maxsize=4)
def _read(path: Path) -> Mapping[str, Any]:
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


if __name__ == "__main__":
    print(package_bibtex(), end="")

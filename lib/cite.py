"""How to cite: an identifier of each table and figure, and BibTeX of the package, its results and the papers."""

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lib import config, tables

PACKAGE = "neurons"


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
    facts, commit = record["provenance"], record["provenance"]["git"][:12]
    changed = " with uncommitted changes" if facts["dirty"] else ""
    if record["source"].lower().startswith("not in the source"):
        about = f"Beside the reproduction of {record['paper']}"
    else:
        about = f"Reproduces {record['source']} of {record['paper']}"
    about += f"; scale {record['scale']}, made {facts['date'][:10]} at commit {commit}{changed}; "
    result = _entry(
        "misc",
        f"{PACKAGE}-{record['scale']}-{record['item']}-{commit}",
        citation(),
        title=record["title"],
        howpublished=f"{citation()['title']}, version {citation()['version']}",
        year=facts["date"][:4],
        note=about + identifier(record["item"], record["scale"]),
    )
    return "\n".join([result, *(_paper(work) for work in _papers() if work["abbreviation"] == record["paper"])])


def package_bibtex() -> str:
    """BibTeX for this package and the papers that it reproduces, in one block. Raises: ConfigError as `citation`."""
    package = citation()
    year = str(package.get("date-released", ""))[:4]
    first = _entry("software", PACKAGE, package, title=package["title"], version=package["version"], year=year)
    return "\n".join([first, *map(_paper, _papers())])


def addresses(paper: str) -> dict[str, str]:
    """Where a paper can be read: {"DOI": address, "arXiv": address} as far as CITATION.cff has them.

    Args:
        paper: as config/items.yaml and the records call it.
    """
    work: Mapping[str, Any] = next((work for work in _papers() if work["abbreviation"] == paper), {})
    found = {"DOI": f"https://doi.org/{work['doi']}"} if "doi" in work else {}
    if url := work.get("url"):
        found["arXiv" if "//arxiv.org/" in url else "web"] = url
    return found


def _papers() -> list[Mapping[str, Any]]:
    """The papers that this package reproduces."""
    return [work for work in citation().get("references", ()) if "abbreviation" in work]


def _paper(work: Mapping[str, Any]) -> str:
    return _entry(
        "inproceedings" if "conference" in work else "misc",
        work["abbreviation"].lower().replace(" ", "-"),
        work,
        title=work["title"],
        booktitle=work.get("conference", {}).get("name"),
        year=work.get("year"),
        pages=f"{work['start']}--{work['end']}" if "start" in work and "end" in work else None,
        note=None if "conference" in work else work.get("notes"),
    )


def _entry(kind: str, key: str, work: Mapping[str, Any], **fields: Any) -> str:
    """A BibTeX entry with the authors and addresses that CITATION.cff has of a work; empty fields are left out."""
    texts = {"author": " and ".join(map(_author, work["authors"]))}
    texts |= {name: _tex(str(value)) for name, value in fields.items() if value}
    texts["title"] = f"{{{texts['title']}}}"
    addresses = {"doi": work.get("doi"), "url": work.get("url") or work.get("repository-code")}
    texts |= {name: str(address) for name, address in addresses.items() if address}
    lines = ",\n".join(f"  {name:<12} = {{{text}}}" for name, text in texts.items())
    return f"@{kind}{{{re.sub(r'[^a-zA-Z0-9_-]', '', key)},\n{lines}\n}}\n"


@lru_cache(maxsize=4)
def _read(path: Path) -> Mapping[str, Any]:
    found = config.read_yaml(path)
    for key in ("title", "version", "authors"):
        if not found.get(key):
            raise config.ConfigError(f"{path}: key {key!r} is missing")
    return found


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

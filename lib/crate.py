"""A scale's results described as an RO-Crate 1.1, to hand them on: what each file is, what made it, and from what.

`./run_all.sh crate cpu` writes results/cpu/ro-crate-metadata.json, reads it back and checks it.
"""

import argparse
import json
import mimetypes
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from rocrate.model import ContextEntity, Entity
from rocrate.rocrate import ROCrate

from lib import checksums, cite, config, record, store

NAME = "ro-crate-metadata.json"
BESIDE = ("CITATION.cff", "LICENSE")  # copied into the folder, so that it can be handed on by itself
FORMATS = {".ipynb": "application/x-ipynb+json", ".cff": "application/yaml", ".sha256": "text/plain", "": "text/plain"}
MADE = ("numbers", "tables", "figures", "notebooks")  # folders whose files are named after an item or a notebook


class CrateError(ValueError):
    """A crate that cannot be written, or does not hold what it says; the message names the file or entity."""


def write(scale: str) -> Path:
    """Describe a scale's results in results/<scale>/ro-crate-metadata.json, and read it back.

    Args:
        scale: smoke, cpu, gpu or paper.
    Returns: the file's path. The same results give the same file.
    Raises: CrateError, RecordError or ChecksumError naming what is missing, does not match its checksum, or does not
        read back.
    """
    folder = config.results_dir(scale)
    for name, why in checksums.compare(folder).items():
        if why != checksums.NOT_LISTED:
            raise CrateError(f"{folder / name}: {why}: see ./run_all.sh verify {scale} before handing the results on")
    records = {item: record.read(item, scale) for item in config.items() if record.exists(item, scale)}
    if not records:
        raise CrateError(f"{folder}: no records to describe: make them with ./run_all.sh {scale}")
    for name in BESIDE:
        store.write_atomic(folder / name, (config.ROOT / name).read_bytes())
    body = describe(folder, records).metadata.generate()
    path = store.write_atomic(folder / NAME, json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    check(folder)
    return path


def check(folder: Path) -> int:
    """Read the crate of a folder back and check it.

    Args:
        folder: with ro-crate-metadata.json in it, as `config.results_dir(scale)`.
    Returns: how many files it describes: all that are there, each with the size and SHA-256 that the crate says.
    Raises: CrateError naming the first thing that does not hold.
    """
    again = f"write it with ./run_all.sh crate {folder.name}"
    if not (folder / NAME).is_file():
        raise CrateError(f"{folder / NAME}: no such file: {again}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # a file that is no part of the crate is only warned of
            crate = ROCrate(folder)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, UserWarning) as error:
        raise CrateError(f"{folder / NAME}: not an RO-Crate: {error}") from error
    described, there = {unquote(entity.id): entity for entity in crate.data_entities}, set(files(folder))
    for name in sorted(described.keys() ^ there):
        state = "there and not described" if name in there else "described and not there"
        raise CrateError(f"{folder}: {name!r} is {state}: {again}")
    for name, entity in described.items():
        for key, found in _measured(folder / name).items():
            if entity.get(key) != found:
                raise CrateError(f"{folder / name}: {key} is {found}, the crate says {entity.get(key)}: {again}")
    return len(described)


def files(folder: Path) -> list[str]:
    """Every file that belongs in a folder's crate, as paths with forward slashes; its own metadata, locks and hidden
    files left out.

    Raises: CrateError for a link that leads out of the folder.
    """
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"):
        inside = path.relative_to(folder)
        if inside.as_posix() == NAME or any(part.startswith(".") for part in inside.parts):
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise CrateError(f"{path} is a link out of the folder: put the file itself there")
        found.append(inside.as_posix())
    return found


def describe(folder: Path, records: Mapping[str, Mapping[str, Any]]) -> ROCrate:
    """A scale's results as a crate.

    Args:
        folder: the scale's results, as `config.results_dir(scale)`.
        records: of the items that there are, by name.
    """
    package, crate = cite.citation(), ROCrate(version="1.1")
    crate.metadata.extra_terms["sha256"] = "http://schema.org/sha256"  # younger than the context of RO-Crate 1.1
    for name in files(folder):
        kind = FORMATS.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        crate.add_file(
            folder / name, name, properties={"name": name, "encodingFormat": kind, **_measured(folder / name)}
        )
    papers = {work.get("abbreviation", work["title"]): _paper(crate, work) for work in package.get("references", ())}
    licence = f"https://spdx.org/licenses/{package['license']}"
    root = {
        "name": f"{package['title']}: results at scale {folder.name}",
        "description": f"{len(records)} tables and figures of published studies, regenerated at scale {folder.name}. "
        "Open index.html to read them; `sha256sum -c checksums.sha256` checks them.",
        "datePublished": max(known["provenance"]["date"] for known in records.values()),
        "license": _add(crate, licence, "CreativeWork", name=package["license"]),
        "version": package["version"],
        "keywords": list(package.get("keywords", ())),
        "author": [_agent(crate, person) for person in package["authors"]],
        "citation": list(papers.values()),
        "mentions": [
            *(_item(crate, known, papers) for known in records.values()),
            *(_run(crate, path, records) for path in sorted((folder / "notebooks").glob("*.ipynb"))),
        ],
    }
    for key, value in root.items():
        crate.root_dataset[key] = value
    return crate


def _measured(path: Path) -> dict[str, str]:
    return {"contentSize": str(path.stat().st_size), "sha256": store.file_sha256(path).removeprefix("sha256:")}


def _add(crate: ROCrate, place: str, kind: str, **facts: Any) -> ContextEntity:
    """The entity of this @id, added where it is not there yet; facts that say nothing are left out."""
    known = {key: value for key, value in facts.items() if value}
    return crate.get(place) or crate.add(ContextEntity(crate, place, {"@type": kind, **known}))


def _agent(crate: ROCrate, person: Mapping[str, Any]) -> ContextEntity:
    name = person.get("name") or f"{person.get('given-names', '')} {person.get('family-names', '')}".strip()
    return _add(crate, f"#{quote(name)}", "Organization" if "name" in person else "Person", name=name)


def _paper(crate: ROCrate, work: Mapping[str, Any]) -> ContextEntity:
    place = f"https://doi.org/{work['doi']}" if "doi" in work else work.get("url") or f"#{quote(work['title'])}"
    kind = "CreativeWork" if work["type"] == "generic" else "ScholarlyArticle"
    about = {"alternateName": work.get("abbreviation"), "url": work.get("url")}
    about |= {"datePublished": str(work.get("year", "")), "author": [_agent(crate, one) for one in work["authors"]]}
    return _add(crate, place, kind, name=work["title"], **about)


def _item(crate: ROCrate, known: Mapping[str, Any], papers: Mapping[str, ContextEntity]) -> ContextEntity:
    """A table or figure: its files, the paper, the data it rests on."""
    about = {"name": known["title"], "description": f"{known['paper']}: {known['source']}"}
    about |= {"identifier": cite.identifier(known["item"], known["scale"]), "dateCreated": known["provenance"]["date"]}
    about |= {"hasPart": _files_of(crate, known["item"]), "citation": papers.get(known["paper"], known["paper"])}
    data = [_data(crate, *pair) for pair in known["provenance"]["data"].items()]
    return _add(crate, f"#item-{known['item']}", "Collection", isBasedOn=data, **about)


def _files_of(crate: ROCrate, stem: str) -> list[Entity]:
    """The files of an item or a notebook."""
    paths = [(file, PurePosixPath(unquote(file.id))) for file in crate.data_entities]
    return [file for file, path in paths if path.stem == stem and str(path.parent) in MADE]


def _data(crate: ROCrate, name: str, fingerprint: str) -> ContextEntity:
    about = "A set of images and labels that these results rest on; it is not part of this crate."
    place = f"#data-{quote(name)}-{fingerprint.removeprefix('sha256:')[:12]}"
    return _add(crate, place, "Dataset", name=name, identifier=fingerprint, description=about)


def _run(crate: ROCrate, path: Path, records: Mapping[str, Mapping[str, Any]]) -> ContextEntity:
    """An execution of a notebook: with which software and parameters, on which data, when, and what came out."""
    name, package = path.stem, cite.citation()
    items = [item for item in records if config.items()[item].notebook == name]
    facts = [records[item]["provenance"] for item in items]
    try:
        if not facts:  # it made no record, but the verdicts
            facts = [{"data": {}, **json.loads((path.parents[1] / "claims.json").read_bytes())["provenance"]}]
        run = json.loads(path.read_bytes())["metadata"]["papermill"]
        given, start, end, failed = (run[key] for key in ("parameters", "start_time", "end_time", "exception"))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CrateError(f"{path}: papermill, or claims.json, does not say how it was made: {error!r}") from error
    software = [
        _add(
            crate,
            f"#{cite.PACKAGE}-{quote(commit)}",
            "SoftwareApplication",
            name=package["title"],
            softwareVersion=f"{package['version']}, commit {commit}",
        )
        for commit in sorted({each["git"] for each in facts})
    ]
    used = [
        _add(crate, f"#{name}-{quote(key)}", "PropertyValue", name=key, value=json.dumps(value))
        for key, value in given.items()
    ]
    used += [_data(crate, *pair) for pair in sorted({pair for each in facts for pair in each["data"].items()})]
    made = [file for stem in [*items, name] for file in _files_of(crate, stem)]
    about = {"name": f"Execution of notebook {name}", "startTime": start, "endTime": end}
    about["actionStatus"] = f"http://schema.org/{'Failed' if failed else 'Completed'}ActionStatus"
    return crate.add_action(software, f"#run-{quote(name)}", used, made, about)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and carry out one call.

    Args:
        arguments: words of the call; None: this process's own.
    Returns: the exit status: 0, or 1 with one line on standard error.
    """
    about = "Describe a scale's results as an RO-Crate, and read it back."
    parser = argparse.ArgumentParser(prog="run_all.sh crate", description=about)
    parser.add_argument("--scale", default="smoke", choices=config.SCALES, help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help="only read back the crate that is there")
    asked = parser.parse_args(arguments)
    folder = config.results_dir(asked.scale)
    try:
        path = folder / NAME if asked.check else write(asked.scale)
        print(f"{path}: {check(folder)} files, all there as described")
    except (CrateError, record.RecordError, checksums.ChecksumError, config.ConfigError, OSError) as error:
        print(f"crate: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a crate tells: the files, the tables and figures, the runs of notebooks, the software, data and papers."""

import json
import mimetypes
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lib import checksums, cite, config, record, reduced, store
from lib.crate.check import NAME, VERSION, CrateError, check, files

if TYPE_CHECKING:
    from rocrate.rocrate import ROCrate

BESIDE = ("CITATION.cff", "LICENSE")  # copied into the folder, so that it can be handed on by itself
FORMATS = {
    ".ipynb": "application/x-ipynb+json",
    ".md": "text/markdown",
    ".tex": "application/x-tex",
    ".cff": "application/yaml",
    ".safetensors": "application/octet-stream",
    ".sha256": "text/plain",
    "": "text/plain",
}
KINDS = {
    "numbers": "Record",
    "tables": "Table",
    "figures": "Figure",
    "notebooks": "Executed notebook",
    "networks": "Trained network",
    "evaluations": "Kept table of an evaluation",
    "benchmarks": "Seconds and memory of a job",
}
# The term is younger than RO-Crate 1.1's context.
TERMS = {"sha256": "http://schema.org/sha256"}
Facts = dict[str, Any]


def write(scale: str) -> Path:
    """Describe a scale's results in results/<scale>/ro-crate-metadata.json, and read it back.

    Args:
        scale: smoke, cpu or paper.
    Returns: the file's path. The same results give the same file.
    Raises: CrateError naming what is missing, does not match its checksum, or does not read back.
    """
    folder = config.results_dir(scale)
    records = _records(scale, folder)
    changed = {name: why for name, why in checksums.compare(folder).items() if why != checksums.NOT_LISTED}
    if changed:
        name, why = next(iter(changed.items()))
        raise CrateError(f"{folder / name}: {why}: see ./run_all.sh verify {scale} before handing the results on")
    for name in BESIDE:
        store.write_atomic(folder / name, (config.ROOT / name).read_bytes())
    body = describe(scale, records)
    path = store.write_atomic(folder / NAME, json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    check(folder)
    return path


def describe(scale: str, records: Mapping[str, Facts]) -> Facts:
    """The crate's metadata: its context and its graph of entities.

    Args:
        scale: smoke, cpu or paper.
        records: of the items that there are, by name.
    """
    from rocrate.rocrate import ROCrate

    folder = config.results_dir(scale)
    package = config.read_yaml(config.ROOT / "CITATION.cff")
    crate = ROCrate(version=VERSION)
    crate.metadata.extra_terms.update(TERMS)
    for name in files(folder):
        crate.add_file(folder / name, dest_path=name, properties=_file(folder, name))
    every = [(paper.get("abbreviation", ""), _paper(crate, paper)) for paper in package.get("references", ())]
    papers = {called: paper for called, paper in every if called}
    items = [_item(crate, folder, known, papers) for known in records.values()]
    runs = [_run(crate, folder, name, made, records) for name, made in _notebooks(folder, records).items()]
    _root(crate, scale, package, records, [*items, *runs], [paper for _, paper in every])
    body: Facts = crate.metadata.generate()
    return body


def _records(scale: str, folder: Path) -> dict[str, Facts]:
    try:
        found = {name: record.read(name, scale) for name in config.items() if record.exists(name, scale)}
    except record.RecordError as error:
        raise CrateError(f"{error}. See ./run_all.sh verify {scale} before handing the results on") from error
    if not found:
        raise CrateError(f"{folder}: no records to describe: make them with ./run_all.sh {scale}")
    return found


def _file(folder: Path, name: str) -> Facts:
    path = Path(name)
    guessed = FORMATS.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    kind = KINDS.get(path.parts[0], "") if len(path.parts) > 1 else ""
    return {
        "name": f"{kind} {path.stem}" if kind else name,
        "encodingFormat": guessed,
        "contentSize": str((folder / name).stat().st_size),
        "sha256": store.file_sha256(folder / name).removeprefix("sha256:"),
    }


def _add(crate: "ROCrate", name: str, kind: str, /, **facts: Any) -> Facts:
    """Add an entity, once, and return the reference to it; facts that say nothing are left out."""
    from rocrate.model.contextentity import ContextEntity

    if crate.get(name) is None:
        told = {key.rstrip("_"): _single(value) for key, value in facts.items() if value not in (None, "", [])}
        crate.add(ContextEntity(crate, name, properties={"@type": kind, **told}))
    return {"@id": name}


def _paper(crate: "ROCrate", told: Mapping[str, Any]) -> Facts:
    doi, address = told.get("doi"), told.get("url")
    name = f"https://doi.org/{doi}" if doi else str(address or f"#paper-{_slug(told['title'])}")
    kind = "CreativeWork" if told["type"] == "generic" else "ScholarlyArticle"
    authors = [_agent(crate, person) for person in told["authors"]]
    about = {"datePublished": str(told["year"]), "author": authors, "description": told.get("notes")}
    return _add(crate, name, kind, name=told["title"], alternateName=told.get("abbreviation"), url=address, **about)


def _agent(crate: "ROCrate", told: Mapping[str, Any]) -> Facts:
    if "name" in told:
        return _add(crate, f"#{_slug(told['name'])}", "Organization", name=told["name"])
    given, family = str(told.get("given-names", "")), str(told.get("family-names", ""))
    whole = f"{given} {family}".strip()
    return _add(crate, f"#{_slug(whole)}", "Person", name=whole, givenName=given, familyName=family)


def _item(crate: "ROCrate", folder: Path, known: Facts, papers: Mapping[str, Facts]) -> Facts:
    """A table or figure: its files, the paper, the data it rests on."""
    item, facts = known["item"], known["provenance"]
    smaller, other = ("; ".join(phrases) or "nothing" for phrases in reduced.split(known["reduced"]))
    clean = {None: "", False: "", True: " with uncommitted changes"}[facts["dirty"]]
    about = (
        f"{known['source']} of {known['paper']}. Reduced against the source: {smaller}. Set differently: {other}. "
        f"Computed on {facts['device']}, {facts['threads']} threads, in {facts['seconds']} s, at commit "
        f"{facts['git']}{clean}, with settings {facts['config']} and packages {facts['lock']}."
    )
    return _add(
        crate,
        f"#item-{item}",
        "Collection",
        name=known["title"],
        identifier=cite.identifier(item, known["scale"], facts["git"]),
        description=about,
        dateCreated=facts["date"],
        hasPart=[_id(name) for name in _made(folder, item)],
        citation=papers.get(known["paper"]) or known["paper"],
        isBasedOn=[_data(crate, name, value) for name, value in facts["data"].items()],
    )


def _made(folder: Path, item: str) -> list[str]:
    places = [f"numbers/{item}.json", *(f"tables/{item}.{kind}" for kind in ("csv", "md", "tex"))]
    places += [f"figures/{item}.{kind}" for kind in ("png", "svg")]
    return [name for name in places if (folder / name).is_file()]


def _data(crate: "ROCrate", name: str, value: str) -> Facts:
    digest = value.removeprefix("sha256:")
    about = "A set of images and labels that these results rest on; it is not part of this crate."
    return _add(crate, f"#data-{_slug(name)}-{digest[:12]}", "Dataset", name=name, identifier=value, description=about)


def _notebooks(folder: Path, records: Mapping[str, Facts]) -> dict[str, list[str]]:
    """Notebook -> the items here that it made; those that were executed and made none, too."""
    made: dict[str, list[str]] = {}
    for name in records:
        made.setdefault(Path(config.items()[name].notebook).stem, []).append(name)
    for path in sorted((folder / "notebooks").glob("*.ipynb")):
        made.setdefault(path.stem, [])
    return dict(sorted(made.items()))


def _run(crate: "ROCrate", folder: Path, notebook: str, items: Sequence[str], records: Mapping[str, Facts]) -> Facts:
    """One execution of a notebook: with which software and parameters, on which data, when, and what came out."""
    told = _papermill(folder / "notebooks" / f"{notebook}.ipynb")
    facts = [records[item]["provenance"] for item in items]
    data = {name: value for each in facts for name, value in each["data"].items()}
    commits = dict.fromkeys(each["git"] for each in facts) or {_commit_of_verdicts(folder): None}
    parameters = [
        _add(crate, f"#{notebook}-{_slug(key)}", "PropertyValue", name=key, value=json.dumps(value))
        for key, value in told.get("parameters", {}).items()
    ]
    results = [name for item in items for name in _made(folder, item)]
    results += [f"notebooks/{notebook}.{kind}" for kind in ("ipynb", "html")]
    return _add(
        crate,
        f"#run-{notebook}",
        "CreateAction",
        name=f"Execution of notebook {notebook}",
        description="Who started it was not recorded.",
        instrument=[_software(crate, commit) for commit in commits],
        object_=[*parameters, *(_data(crate, name, value) for name, value in data.items())],
        result=[_id(name) for name in results if (folder / name).is_file()],
        startTime=_time(told.get("start_time")),
        endTime=_time(told.get("end_time")) or max((each["date"] for each in facts), default=None),
        actionStatus="http://schema.org/FailedActionStatus"
        if told.get("exception")
        else "http://schema.org/CompletedActionStatus",
    )


def _papermill(path: Path) -> Facts:
    """What papermill noted in an executed notebook; nothing where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["metadata"]["papermill"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CrateError(f"{path}: not a notebook that papermill executed: {error!r}") from error
    return dict(found)


def _commit_of_verdicts(folder: Path) -> str:
    try:
        return str(json.loads((folder / "claims.json").read_text(encoding="utf-8"))["provenance"]["git"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


def _software(crate: "ROCrate", commit: str) -> Facts:
    package = config.read_yaml(config.ROOT / "CITATION.cff")
    about = {"version": str(package["version"]), "softwareVersion": f"{package['version']}, commit {commit}"}
    name = f"#{cite.PACKAGE}-{_slug(commit)}"
    return _add(crate, name, "SoftwareApplication", name=package["title"], license=_licence(crate, package), **about)


def _licence(crate: "ROCrate", package: Mapping[str, Any]) -> Facts:
    name = str(package["license"])
    address = f"https://spdx.org/licenses/{name}"
    return _add(crate, address, "CreativeWork", name=f"{name} licence", identifier=name, url=address)


def _root(
    crate: "ROCrate",
    scale: str,
    package: Mapping[str, Any],
    records: Mapping[str, Facts],
    mentions: Sequence[Facts],
    papers: Sequence[Facts],
) -> None:
    root = crate.root_dataset
    root["name"] = f"{package['title']}: results at scale {scale}"
    root["description"] = (
        f"{len(records)} tables and figures of published studies, regenerated at scale {scale}: for each a record of "
        "numbers with their provenance, its tables and figures, the executed notebooks, the claims' verdicts. "
        "checksums.sha256 checks the files with `sha256sum -c`; open index.html to read them."
    )
    root["datePublished"] = max(known["provenance"]["date"] for known in records.values())
    root["version"] = str(package["version"])
    root["license"] = _licence(crate, package)
    root["author"] = _single([_agent(crate, person) for person in package["authors"]])
    root["keywords"] = list(package.get("keywords", ()))
    root["citation"] = [*papers]
    root["mentions"] = [*mentions]


def _single(value: Any) -> Any:
    """A list of one as the one: RO-Crate asks for that."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _id(name: str) -> Facts:
    return {"@id": quote(name)}


def _time(text: Any) -> str | None:
    """A time of papermill's in the records' form; None where there is none."""
    try:
        return datetime.fromisoformat(str(text)).strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return None


def _slug(text: str) -> str:
    """Text as part of an @id: plain letters, digits, dots and dashes."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^\w.]+", "-", plain)[:60].strip("-").lower()

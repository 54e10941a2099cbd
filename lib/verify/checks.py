"""The checks of a scale's results: from checksums to records, from records to tables, figures and verdicts."""

import json
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from lib import checksums, claims, config, plots, record, store, tables
from lib.engine import jobs
from lib.verify.findings import DIFFERS, OK, UNTRACED, Finding

CLAIMS, KEPT, NETWORKS, NOTEBOOKS = "claims", "kept tables", "networks", "notebooks"
_FOLDERS = {"evaluations": KEPT, "networks": NETWORKS, "notebooks": NOTEBOOKS}


def check(scale: str) -> list[Finding]:
    """Check a scale's results; nothing is written and nothing computed anew but the claims' verdicts.

    Args:
        scale: smoke, cpu, gpu or paper.
    Returns: one finding a thing and check, the items first; empty where there are no results.
    Raises: ChecksumError where the file of checksums is damaged; ConfigError for a configuration that is.
    """
    folder = config.results_dir(scale)
    items = [name for name in config.items() if record.exists(name, scale)]
    if not items and not checksums.read(folder):
        return []
    found = [finding for name in items for finding in _item(name, scale, folder)]
    for finder in (_strays, _claims, _kept, _networks, _notebooks):
        found += finder(scale, folder)
    return found + list(_checksums(folder, items))


def _item(name: str, scale: str, folder: Path) -> Iterator[Finding]:
    try:
        known = record.read(name, scale)
    except record.RecordError as error:
        yield Finding(name, "record", DIFFERS, str(error))
        return
    yield Finding(name, "record")
    wrong = [
        f"tables/{name}.{kind}" for kind, text in tables.render(known).items()
        if _bytes(folder / f"tables/{name}.{kind}") != text.encode()
    ]  # fmt: skip
    why = f"{', '.join(wrong)}: not what the record gives. Run its notebook again"
    yield Finding(name, "tables", DIFFERS, why) if wrong else Finding(name, "tables")
    yield from _figure(name, known, folder)
    other = config.foreign(known, config.items()[name], config.load(scale))
    why = f"{other}. Run its notebook again: ./run_all.sh {scale} --only {name}"
    yield Finding(name, "settings", DIFFERS, why) if other else Finding(name, "settings")
    facts = known["provenance"]
    if facts["config"] == config.load(scale).hash:
        yield Finding(name, "settings")
    elif (then := _scale_then(facts["git"], scale)) is None or facts["config"] != then.hash:
        why = f"made with a config/{scale}.yaml that is neither the present one nor that of commit {facts['git']}"
        yield Finding(name, "settings", UNTRACED, why)
    elif _used(name, then) == _used(name, config.load(scale)):
        yield Finding(name, "settings")
    else:
        why = f"made with settings of config/{scale}.yaml at commit {facts['git']} that have changed since"
        yield Finding(name, "settings", UNTRACED, why)


def _used(name: str, scale: config.Scale) -> dict[str, Any]:
    """What of a scale's settings an item is made with: its study's, and the recipes of its networks."""
    item = config.items()[name]
    wanted = [network for family in item.families for network in scale.families.get(family, ())]
    for network in wanted:  # grows by what a network starts from
        start = scale.recipe(network).start
        wanted += [start["network"]] if start is not None and start["network"] not in wanted else []
    recipes = {network: scale.recipe(network) for network in wanted}
    study = {
        key: value for key, value in scale.study.get(item.study, {}).items() if key != "family_seeds"
    }  # the graph's
    parts = {"compute": scale.compute, "study": study, "attacks": scale.attacks}
    return {**parts, "recipes": recipes}


@lru_cache(maxsize=64)
def _scale_then(commit: str, scale: str) -> config.Scale | None:
    """A scale's settings at a commit; None where git does not have them, or they cannot be read today."""
    with tempfile.TemporaryDirectory() as folder:
        for name in config.SCALES:  # a scale may be like another
            if (text := record.git_file(commit, f"config/{name}.yaml")) is not None:
                (Path(folder) / f"{name}.yaml").write_text(text)
        try:
            return config.load(scale, Path(folder) / f"{scale}.yaml")
        except config.ConfigError:
            return None


def _figure(name: str, known: dict[str, Any], folder: Path) -> Iterator[Finding]:
    contents = {kind: _bytes(folder / f"figures/{name}.{kind}") for kind in ("png", "svg")}
    there = {kind: content for kind, content in contents.items() if content is not None}
    if not there:
        return
    if len(there) == 1:
        gone = "svg" if "png" in there else "png"
        yield Finding(name, "figure", DIFFERS, f"there is no .{gone} beside it. Run its notebook again")
    for kind, content in there.items():
        try:
            source = plots.source_of(content)
        except ValueError as error:
            yield Finding(name, "figure", DIFFERS, f".{kind}: {error}. Run its notebook again")
            continue
        if not source:
            why = "drawn before figures said which numbers they show. Run its notebook again"
            yield Finding(name, "figure", UNTRACED, why)
        elif source != record.source_text(known):
            shown = "files than the record names" if "drawn_from" in known else "numbers than the record's"
            why = f".{kind} shows other {shown} (it says: {source}). Run its notebook again"
            yield Finding(name, "figure", DIFFERS, why)
        else:
            yield Finding(name, "figure")
    for file, checksum in known.get("drawn_from", {}).items():
        if _checksum_of(folder / file) != checksum:
            why = f"{file}, which it was drawn from, is missing or another. Run its notebook again"
            yield Finding(name, "figure", DIFFERS, why)


def _checksum_of(path: Path) -> str | None:
    """The checksum of a kept table's values; None where it cannot be read."""
    try:
        return store.fingerprint(json.loads(path.read_bytes())["value"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _strays(scale: str, folder: Path) -> Iterator[Finding]:
    """Records, tables and figures that no item stands behind."""
    items = set(config.items())
    for name in checksums.matching(folder, checksums.WITH_RECORDS):
        stem, kind = Path(name).stem, Path(name).parent.name
        if kind == "numbers" and stem not in items:
            yield Finding(stem, "record", UNTRACED, "no item of config/items.yaml has this name")
        elif kind != "numbers" and not record.exists(stem, scale) and (kind, stem) != ("tables", "claims"):
            yield Finding(stem, "record", DIFFERS, f"{name} has no record numbers/{stem}.json. Remove it")


def _claims(scale: str, folder: Path) -> Iterator[Finding]:
    repair = f"Build the page: ./run_all.sh report {scale}"
    try:
        made = claims.files(claims.verdicts(scale), scale)
    except claims.ClaimError as error:
        yield Finding(CLAIMS, "verdicts", DIFFERS, str(error))
        return
    kept = _bytes(folder / "claims.json")
    if kept is None:
        yield Finding(CLAIMS, "verdicts", UNTRACED, f"there is no claims.json. {repair}")
        return
    now = _judged(made.pop("claims.json").encode())
    why = _unlike(kept, now)
    yield Finding(CLAIMS, "verdicts", DIFFERS, f"{why}. {repair}") if why else Finding(CLAIMS, "verdicts")
    wrong = [name for name, text in made.items() if _bytes(folder / name) != text.encode()]
    why = f"{', '.join(wrong)}: not what the verdicts give. {repair}"
    yield Finding(CLAIMS, "tables", DIFFERS, why) if wrong else Finding(CLAIMS, "tables")


def _unlike(kept: bytes, now: dict[str, Any]) -> str:
    """How a claims.json differs from what the records give; empty where it does not."""
    try:
        before = _judged(kept)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"claims.json cannot be read: {error!r}"
    if before == now:
        return ""
    every = {**before["claims"], **now["claims"]}
    unlike = [name for name in every if before["claims"].get(name) != now["claims"].get(name)]
    if before["rules"] != now["rules"]:
        return f"made with other rules than those of config/claims.yaml; {len(unlike)} verdicts change"
    return f"{len(unlike)} do not follow from the records, first {unlike[0]}" if unlike else "made of other records"


def _judged(content: bytes) -> dict[str, Any]:
    """What claims.json says, without the commit that judged."""
    body = json.loads(content)
    facts = body["provenance"]
    return {
        "claims": {entry["id"]: entry for entry in body["claims"]},
        "records": facts["records"],
        "rules": facts["rules"],
    }


def _kept(scale: str, folder: Path) -> Iterator[Finding]:
    names = checksums.matching(folder, ["evaluations/*/*.json"])
    for name in names:
        try:
            body = json.loads((folder / name).read_bytes())
            whole = body["checksum"] == store.fingerprint(body["value"])
            placed = store.fingerprint(body["key"]).removeprefix("sha256:").startswith(Path(name).stem)
        except (ValueError, KeyError, TypeError) as error:
            yield Finding(KEPT, "contents", DIFFERS, f"{name} cannot be read: {error!r}. Remove it")
            continue
        if not (whole and placed):
            about = "its values do not fit its own checksum" if not whole else "its name does not fit its key"
            yield Finding(KEPT, "contents", DIFFERS, f"{name}: {about}. Remove it: it is computed anew")
    if names:
        yield Finding(KEPT, "contents")


def _networks(scale: str, folder: Path) -> Iterator[Finding]:
    names = checksums.matching(folder, ["networks/*.json", "networks/*.safetensors"])
    for name in names:
        path = folder / name
        try:
            about = json.loads(path.with_suffix(".json").read_bytes())
            expected = about["weights"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield Finding(NETWORKS, "contents", DIFFERS, f"{name}: its card cannot be read: {error!r}")
            continue
        if path.suffix == ".safetensors" and store.file_sha256(path) != expected:
            yield Finding(NETWORKS, "contents", DIFFERS, f"{name}: not the weights that its card tells of")
    if names:
        yield Finding(NETWORKS, "contents")


def _notebooks(scale: str, folder: Path) -> Iterator[Finding]:
    names = checksums.matching(folder, ["notebooks/*.ipynb"])
    for name in names:
        if jobs.failing_cell(folder / name) is not None:
            yield Finding(NOTEBOOKS, "contents", DIFFERS, f"{name}: a cell raised an error. Run it again")
            continue
        source = config.ROOT / name
        if not source.is_file():
            yield Finding(NOTEBOOKS, "contents", UNTRACED, f"{name}: there is no such notebook")
        elif _code(folder / name) != _code(source):
            why = f"{name}: executed from another version of the notebook than the present one"
            yield Finding(NOTEBOOKS, "contents", UNTRACED, why)
    if names:
        yield Finding(NOTEBOOKS, "contents")


def _code(path: Path) -> list[str] | None:
    """The code cells of a notebook without the parameters that papermill put in; None where it cannot be read."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [
            "".join(cell["source"]) for cell in cells
            if cell["cell_type"] == "code" and "injected-parameters" not in cell["metadata"].get("tags", ())
        ]  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _checksums(folder: Path, items: list[str]) -> Iterator[Finding]:
    wrong = checksums.compare(folder)
    for name, state in wrong.items():
        thing = _thing(name)
        if state == checksums.NOT_LISTED:
            yield Finding(
                thing, "checksums", UNTRACED, f"no line in {checksums.NAME}. Build the page, or verify --write"
            )
        else:
            why = f"{name}: {state}. Make it again, or take it as it is: verify {folder.name} --write"
            yield Finding(thing, "checksums", DIFFERS, why)
    for thing in dict.fromkeys(map(_thing, sorted(checksums.covered(folder) - set(wrong)))):
        yield Finding(thing, "checksums", OK)


def _thing(name: str) -> str:
    """Which line of the table a file belongs to."""
    head = name.split("/")[0]
    return CLAIMS if name == "claims.json" else _FOLDERS.get(head) or Path(name).stem


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None

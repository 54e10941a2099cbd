"""The checks of a scale's results: checksums; tables, figures and verdicts against the records."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib import checksums, claims, config, findings, plots, record, store, tables

OK, UNTRACED, DIFFERS = "ok", "not traced", "DIFFERS"
CLAIMS = "claims"
SHOWN = 6  # things that a sentence names
# Files that belong to no item, by their folder.
_FOLDERS = {"evaluations": "kept tables", "networks": "networks", "notebooks": "notebooks"}


@dataclass(frozen=True)
class Finding:
    """One check of one thing.

    Attributes:
        thing: an item, or "claims", "kept tables", "networks", "notebooks".
        check: what was checked, as "tables".
        state: OK; UNTRACED, where nothing contradicts it and nothing proves it; or DIFFERS.
        why: the reason in words, without the thing's name; empty where it is OK.
    """

    thing: str
    check: str
    state: str = OK
    why: str = ""


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
    return [
        *(finding for name in items for finding in _item(name, scale, folder)),
        _claims(scale, folder),
        *_checksums(folder),
    ]


def _finding(thing: str, name: str, why: str) -> Finding:
    return Finding(thing, name, DIFFERS if why else OK, why)


def _item(name: str, scale: str, folder: Path) -> Iterator[Finding]:
    again = "Run its notebook again"
    try:
        known = record.read(name, scale)
    except record.RecordError as error:
        yield Finding(name, "record", DIFFERS, str(error))
        return
    other = config.foreign(known, config.items()[name], config.load(scale))
    yield _finding(name, "record", f"{other}. {again}: ./run_all.sh {scale} --only {name}" if other else "")
    if not set(findings.KEYS) <= set(known):
        yield Finding(name, "words", UNTRACED, f"it holds no finding yet. {again}")
    else:
        unlike = ", ".join(key for key, text in findings.words(known).items() if known[key] != text)
        yield _finding(name, "words", f"{unlike}: not what its numbers and the rules give. {again}" if unlike else "")
    expected = {f"tables/{name}.{kind}": text for kind, text in tables.render(known).items()}
    changed = _changed(folder, expected)
    yield _finding(name, "tables", f"{changed}: not what the record gives. {again}" if changed else "")
    for kind in ("png", "svg"):
        path = folder / f"figures/{name}.{kind}"
        if not path.is_file():
            continue
        try:
            source = plots.source_of(path.read_bytes())
        except ValueError as error:
            yield Finding(name, "figure", DIFFERS, f".{kind}: {error}. {again}")
            continue
        if source and source != record.source_text(known):
            why = f".{kind} shows other numbers or files than the record's (it says: {source}). {again}"
            yield Finding(name, "figure", DIFFERS, why)
        else:
            yield Finding(name, "figure") if source else Finding(name, "figure", UNTRACED, "it names no source")
    for file, checksum in known.get("drawn_from", {}).items():
        if _checksum_of(folder / file) != checksum:
            why = f"{file}, which it was drawn from, is missing or another. {again}"
            yield Finding(name, "figure", DIFFERS, why)


def _changed(folder: Path, expected: dict[str, str]) -> str:
    """The files of a folder that are not what they should be, in words; empty where all are."""
    paths = {name: folder / name for name in expected}
    wrong = [n for n, path in paths.items() if not (path.is_file() and path.read_bytes() == expected[n].encode())]
    return ", ".join(wrong)


def _checksum_of(path: Path) -> str | None:
    """The checksum of a kept table's values; None where it cannot be read."""
    try:
        return store.fingerprint(json.loads(path.read_bytes())["value"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _claims(scale: str, folder: Path) -> Finding:
    """Whether claims.json and its tables are what the rules give from the records that are there."""
    repair = f"Build the page: ./run_all.sh report {scale}"
    if not (folder / "claims.json").is_file():
        return Finding(CLAIMS, "verdicts", UNTRACED, f"there is no claims.json. {repair}")
    try:
        expected = claims.files(claims.verdicts(scale), scale)
        now = _without_commit(json.loads(expected.pop("claims.json")))
        before = _without_commit(json.loads((folder / "claims.json").read_bytes()))
        unlike = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # ClaimError is a ValueError
        return Finding(CLAIMS, "verdicts", DIFFERS, f"the verdicts cannot be compared: {error}. {repair}")
    if unlike:
        why = f"{len(unlike)} do not follow from rules and records, first {unlike[0]}. {repair}"
        return Finding(CLAIMS, "verdicts", DIFFERS, why)
    changed = _changed(folder, expected)
    return _finding(CLAIMS, "verdicts", f"{changed}: not what the verdicts give. {repair}" if changed else "")


def _without_commit(body: dict[str, Any]) -> dict[str, Any]:
    """What claims.json says, by claim; with the rules and records it rests on, but not the commit that judged."""
    facts = {key: body["provenance"][key] for key in ("rules", "records")}
    return {"its provenance": facts, **{entry["id"]: entry for entry in body["claims"]}}


def _checksums(folder: Path) -> Iterator[Finding]:
    wrong = checksums.compare(folder)
    for name, state in wrong.items():
        if state == checksums.NOT_LISTED:
            why = f"no line in {checksums.NAME}. Build the page, or verify --write"
            yield Finding(_thing(name), "checksums", UNTRACED, why)
        else:
            why = f"{name}: {state}. Make it again, or take it as it is: verify {folder.name} --write"
            yield Finding(_thing(name), "checksums", DIFFERS, why)
    for thing in dict.fromkeys(map(_thing, sorted(checksums.covered(folder) - set(wrong)))):
        yield Finding(thing, "checksums", OK)


def _thing(name: str) -> str:
    """Which line of the table a file belongs to."""
    return CLAIMS if name == "claims.json" else _FOLDERS.get(name.split("/")[0]) or Path(name).stem


def summary(findings: Sequence[Finding], scale: str, missing: Sequence[str] = ()) -> str:
    """The findings as a table of one line a thing, the reasons below it, and what it comes to in the last line.

    Args:
        missing: items without a record at this scale, which is no fault.
    """
    if not findings:
        return f"verify: nothing to check: results/{scale} holds no records. Make them: ./run_all.sh {scale}"
    things = list(dict.fromkeys(found.thing for found in findings))
    checks = list(dict.fromkeys(found.check for found in findings))
    rows = [["", *checks]]
    for thing in things:
        states = [[f.state for f in findings if (f.thing, f.check) == (thing, name)] for name in checks]
        rows.append([thing, *(max(each, key=(OK, UNTRACED, DIFFERS).index, default="-") for each in states)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for state in (UNTRACED, DIFFERS):
        reasons: dict[tuple[str, str], list[str]] = {}
        for found in findings:
            if found.state == state:
                reasons.setdefault((found.check, found.why), []).append(found.thing)
        lines += [""] if reasons else []
        lines += [f"{state}: {_named(each)}: {name}: {why}" for (name, why), each in reasons.items()]
    wrong, loose = (len({f.thing for f in findings if f.state == state}) for state in (DIFFERS, UNTRACED))
    lines += ["", f"not run at {scale}: {', '.join(missing)}"] if missing else []
    if wrong:
        ending = f"{wrong} of {len(things)} do not follow from their records: see DIFFERS above"
    else:
        ending = f"nothing contradicts the records of {len(things)} things"
    ending += f"; {loose} cannot be traced in full" if loose else ""
    return "\n".join([*lines, "", f"verify {scale}: {ending}."])


def _named(things: Sequence[str]) -> str:
    names = list(dict.fromkeys(things))
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")

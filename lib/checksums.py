"""Checksums of a scale's results: one file in the format of `sha256sum`, kept by whatever writes the results.

`cd results/<scale> && sha256sum -c checksums.sha256` checks them without this package. What a record rests on is
entered by the code that writes it and by nothing else, so that an edit by hand does not match, also after the page was
built anew; notebooks, networks and kept tables are entered when the page is built.
"""

import re
import warnings
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

from lib import store

NAME = "checksums.sha256"
WITH_RECORDS = ("numbers/*.json", "tables/*.csv", "tables/*.md", "tables/*.tex", "figures/*.png", "figures/*.svg")
WITH_VERDICTS = ("claims.json",)
WITH_PAGE = ("notebooks/*.ipynb", "networks/*.json", "networks/*.safetensors", "evaluations/*/*.json")
CHANGED, MISSING, NOT_LISTED = "changed since it was written", "missing", "without a checksum"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")


class ChecksumError(ValueError):
    """A file of checksums that cannot be read, or a file that cannot be entered; the message names it."""


def read(folder: Path) -> dict[str, str]:
    """The checksums of a scale's results.

    Args:
        folder: of the scale, as `config.results_dir(scale)`.
    Returns: {path in the folder: 64 hexadecimal digits}; empty where there is no such file.
    Raises: ChecksumError naming file and line where it is not in the format of sha256sum.
    """
    path, found = folder / NAME, {}
    if not path.is_file():
        return {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ChecksumError(
                f"{path}, line {number}: expected 64 hexadecimal digits, two spaces and a path, as sha256sum writes; "
                f"found {line[:60]!r}. Write it anew: ./run_all.sh verify {folder.name} --write"
            )
        found[match[2]] = match[1]
    return found


def note(folder: Path, names: Iterable[str]) -> None:
    """Enter files just written, and forget those of them that are no longer there.

    A file of checksums that cannot be read is begun anew, with a warning: no result is lost for it.

    Args:
        folder: of the scale.
        names: paths in the folder, with forward slashes.
    """
    with _held(folder):
        known = _readable(folder)
        for name in names:
            _enter(folder, name, known)
        _write(folder, known)


def complete(folder: Path) -> None:
    """Enter what is not written with a record: notebooks, networks, kept tables; and any file that has no line yet.

    A line of a record, its tables and figures is left as it is, whatever the file now holds.
    """
    with _held(folder):
        known = _readable(folder)
        loose = {name for name in known if any(Path(name).match(pattern) for pattern in WITH_PAGE)}
        for name in loose | set(matching(folder, WITH_PAGE)) | (covered(folder) - set(known)):
            _enter(folder, name, known)
        _write(folder, known)


def renew(folder: Path) -> int:
    """Enter every file as it now is, and nothing else. Returns: how many."""
    with _held(folder):
        known: dict[str, str] = {}
        for name in covered(folder):
            _enter(folder, name, known)
        _write(folder, known)
    return len(known)


def covered(folder: Path) -> set[str]:
    """Every file of a scale's results that ought to have a checksum, as paths in the folder."""
    return set(matching(folder, (*WITH_RECORDS, *WITH_VERDICTS, *WITH_PAGE)))


def matching(folder: Path, patterns: Iterable[str]) -> list[str]:
    """Files of the folder that fit a pattern, sorted; temporary and hidden ones left out."""
    found = (path for pattern in patterns for path in folder.glob(pattern) if not path.name.startswith("."))
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())


def compare(folder: Path) -> dict[str, str]:
    """What does not match: {path: CHANGED, MISSING or NOT_LISTED}; empty where all is well."""
    known = read(folder)
    found = {}
    for name, digest in known.items():
        path = folder / name
        if not path.is_file():
            found[name] = MISSING
        elif _digest(path) != digest:
            found[name] = CHANGED
    return found | dict.fromkeys(sorted(covered(folder) - set(known)), NOT_LISTED)


def _held(folder: Path) -> FileLock:
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "checksums.lock")


def _readable(folder: Path) -> dict[str, str]:
    try:
        return read(folder)
    except ChecksumError as error:
        warnings.warn(f"{error}. It is begun anew, of the files as they are", stacklevel=3)
        return {}


def _enter(folder: Path, name: str, known: dict[str, str]) -> None:
    if "\n" in name or "\\" in name or "\r" in name:
        raise ChecksumError(f"{folder}: {name!r} cannot be listed in {NAME}: rename it without backslash or line break")
    if (folder / name).is_file():
        known[name] = _digest(folder / name)
    else:
        known.pop(name, None)


def _write(folder: Path, known: dict[str, str]) -> None:
    text = "".join(f"{known[name]}  {name}\n" for name in sorted(known))
    path = folder / NAME
    if not path.is_file() or path.read_bytes() != text.encode():
        store.write_atomic(path, text)


def _digest(path: Path) -> str:
    return store.file_sha256(path).removeprefix("sha256:")

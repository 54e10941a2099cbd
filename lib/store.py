"""Files that are whole or absent: atomic writes, fingerprints, and the sweeping up of what killed writers left."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not a Unix system: what a killed writer leaves is not swept up there
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(r"\..*\.[a-z0-9_]{8}\.tmp(\..*)?", re.DOTALL)


def canonical_json(value: Any) -> str:
    """One JSON text for equal plain values: sorted keys, no spaces, NaN refused.

    Raises: TypeError for a value JSON has no form for; ValueError for NaN or infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be fingerprinted: pass plain numbers, strings, lists, mappings")


def fingerprint(value: Any) -> str:
    """SHA-256 of a plain value's canonical JSON, as "sha256:<hex>"."""
    return bytes_sha256(canonical_json(value).encode())


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, as "sha256:<hex>"."""
    with open(path, "rb") as handle:
        return "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()


def bytes_sha256(content: bytes) -> str:
    """SHA-256 of bytes in memory, as "sha256:<hex>"."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def write_atomic(path: str | os.PathLike, content: bytes | str | Callable[[Path], Any]) -> Path:
    """Write a file so that a reader, or a killed run, sees the old file or the new one and nothing between.

    Args:
        path: the file; its folder is made where missing.
        content: the bytes or text, or a function that writes the file at the temporary path it is given.
    Returns: the path.
    Raises: OSError naming the file, with the old one untouched, where the disk is full or not writable.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _temporary(path)
        with open(handle, "rb+") as held:
            if callable(content):
                content(temporary)
            else:
                held.write(content.encode() if isinstance(content, str) else content)
                held.flush()
            with open(temporary, "rb+") as written:  # a writer may have put another file there
                os.fsync(written.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    except Exception as error:
        # A library's writer may hide what the disk said, as torch.save does: "unexpected pos 576 vs 534".
        refused = error if isinstance(error, OSError) else temporary and _refusal(temporary)
        if not refused:
            raise
        raise OSError(refused.errno, f"could not write {path}: {refused.strerror or refused}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def _temporary(path: Path) -> tuple[int, Path]:
    """A new file beside the one to be written, locked for as long as its writer lives."""
    start = path.name.encode(errors="surrogateescape")[:60].decode(errors="ignore")
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{start}.", suffix=f".tmp{path.suffix[:20]}", dir=path.parent)
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(name):  # nobody swept it up before it was locked
            return handle, Path(name)
        os.close(handle)


def _refusal(path: Path) -> OSError | None:
    """What the disk says to a little more in a file; None where it takes it."""
    try:
        with open(path, "ab") as file:
            file.write(bytes(2**20))
    except OSError as error:
        return error
    return None


def sweep(folder: str | os.PathLike) -> list[Path]:
    """Remove the half-written files that killed writers left below a folder; those of living writers stay.

    Returns: the files removed.
    """
    removed = []
    for path in sorted(Path(folder).rglob(".*.tmp*")):
        if _TEMPORARY.fullmatch(path.name) and _abandoned(path):
            removed.append(path)
    return removed


def _abandoned(path: Path) -> bool:
    """Whether a temporary file had no writer any more; it is gone then."""
    if fcntl is None:
        return False
    try:
        with open(path, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:  # its writer lives, or has just put it in place; or the file system has no locks
        return False
    return True

"""Files that are whole or absent: atomic writes, fingerprints, and a content-addressed cache of plain values."""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock


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
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:60]}.", suffix=f".tmp{path.suffix}", dir=path.parent)
    temporary = Path(name)
    os.close(handle)
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, f"could not write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def cached_json(folder: str | os.PathLike, kind: str, key: Mapping[str, Any], make: Callable[[], Any]) -> Any:
    """The plain value that `key` stands for, as `cached` has it, without what is kept beside it."""
    return cached(folder, kind, key, lambda: (make(), {}))[0]


def cached(
    folder: str | os.PathLike, kind: str, key: Mapping[str, Any], make: Callable[[], tuple[Any, Mapping[str, Any]]]
) -> tuple[Any, dict[str, Any]]:
    """The plain value that `key` stands for: read from folder/kind/<hash of key>.json, else made once and kept.

    Args:
        folder: the cache's folder, as `config.cache_dir(scale)`.
        kind: what the values are; a sub-folder.
        key: everything that the value depends on, plain.
        make: computes the value, plain JSON, and what is kept beside it, as where and when it was made; called under a
            lock, so that two runs do not both compute it.
    Returns: the value as JSON gives it back (tuples are lists, keys strings), and what is kept beside it.
    """
    digest = fingerprint(key).removeprefix("sha256:")[:24]
    path = Path(folder) / kind / f"{digest}.json"
    body = _read(path)
    if body is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            body = _read(path)
            if body is None:
                value, about = json.loads(
                    canonical_json(make())
                )  # as it is read back, so that the checksum is the same
                body = {"key": key, "value": value, "checksum": fingerprint(value), "made": about}
                write_atomic(path, canonical_json(body))
    return body["value"], body.get("made", {})


def _read(path: Path) -> dict[str, Any] | None:
    try:
        body = json.loads(path.read_text())
        if body["checksum"] == fingerprint(body["value"]):
            return body
        reason = "its checksum does not match"
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it cannot be read ({error})"
    warnings.warn(f"cache entry {path} is damaged: {reason}; it is computed anew", stacklevel=3)
    return None

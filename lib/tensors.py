"""Files of tensors that carry their own checksum: whole, as they were written, or refused."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lib import store

if TYPE_CHECKING:
    from torch import Tensor


def write(path: str | os.PathLike, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> Path:
    """Write tensors as one safetensors file, atomically.

    Args:
        path: the file.
        tensors: by name, of any shape, on the CPU and contiguous.
        about: what is said of them; plain text by name.
    Returns: the path.
    Raises: OSError naming the file, with the old one untouched, where the disk is full or not writable.
    """
    from safetensors.torch import save

    told = dict(about or {})
    return store.write_atomic(path, save(dict(tensors), {**told, "checksum": checksum(tensors, told)}))


def read(path: str | os.PathLike, before: Collection[str] | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `write` wrote.

    Args:
        path: the file.
        before: the names in `about` of files that are taken without a checksum, as they were written before there
            was one; None: none are.
    Returns: the tensors, and what is said of them.
    Raises: FileNotFoundError; ValueError in words where the file is no such file, or is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    blob = Path(path).read_bytes()
    try:
        tensors = load(blob)
        about = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, ValueError, AttributeError) as error:
        raise ValueError(f"it is cut short or no file of tensors: {error}") from error
    found = about.pop("checksum", None)
    if found is None and (before is None or set(about) != set(before)):
        raise ValueError("it has no checksum")
    if found is not None and found != checksum(tensors, about):
        raise ValueError("its checksum does not match")
    return tensors, about


def checksum(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """SHA-256 of the bytes of tensors with their names, types and shapes, and of what is said about them."""
    parts = [store.canonical_json(about).encode()]
    for name, tensor in sorted(tensors.items()):
        parts.append(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        parts.append(tensor.contiguous().numpy().tobytes())
    return store.bytes_sha256(b"".join(parts))

"""What a record must hold: the checks that every record passes when it is written and when it is read."""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from lib import store, units
from lib.intervals import SLACK, wilson

KEYS = ("item", "title", "paper", "source", "scale", "claims", "reduced", "numbers", "provenance")
NUMBER_KEYS = ("name", "where", "value", "unit", "n", "seeds", "per_seed", "ci95", "paper_value", "note")
PROVENANCE_KEYS = ("git", "dirty", "lock", "config", "data", "device", "threads", "seconds", "peak_mb", "date")
OVER_IMAGES = "interval over images"
RESERVED = frozenset({*NUMBER_KEYS, "low", "high"})


class RecordError(ValueError):
    """A record that breaks the contract; the message names the file or item, and the key."""


def validate(record: Any, label: str = "record") -> None:
    """Check a record against the contract.

    Args:
        record: as `read` returns it.
        label: what the message calls it.
    Raises: RecordError naming label and key.
    """
    _shape(record, KEYS, {"table", "drawn_from"}, label)
    for key in ("item", "title", "paper", "source", "scale"):
        _want(
            isinstance(record[key], str) and record[key] != "", f"{label}: {key} must be a string that says something"
        )
    for key in ("claims", "reduced"):
        phrases = record[key]
        _want(isinstance(phrases, list) and all(isinstance(p, str) for p in phrases), f"{label}: {key}: strings")
    numbers = record["numbers"]
    _want(isinstance(numbers, list) and len(numbers) > 0, f"{label}: numbers must be a list with at least one")
    seen = set()
    for index, entry in enumerate(numbers):
        check_number(entry, f"{label}: numbers[{index}]")
        place = (entry["name"], store.canonical_json(entry["where"]))
        _want(place not in seen, f"{label}: numbers[{index}]: {entry['name']} at {entry['where']} is there twice")
        seen.add(place)
    _check_provenance(record["provenance"], f"{label}: provenance")
    if "table" in record:
        _check_table(record, label)
    if "drawn_from" in record:
        _check_sources(record["drawn_from"], f"{label}: drawn_from")


def _want(fits: bool, message: str) -> None:
    if not fits:
        raise RecordError(message)


def _shape(value: Any, required: Sequence[str], optional: set[str], label: str) -> None:
    _want(isinstance(value, dict), f"{label}: a mapping is wanted, not {type(value).__name__}")
    for key in required:
        _want(key in value, f"{label}: key {key!r} is missing")
    for key in value:
        _want(key in required or key in optional, f"{label}: unknown key {key!r}")


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_number(entry: Any, label: str) -> None:
    """Check one number of a record. Raises: RecordError naming label and key."""
    _shape(entry, NUMBER_KEYS, set(), label)
    label = f"{label} ({entry['name']!r} at {entry['where']})"
    for key in ("name", "unit"):
        _want(isinstance(entry[key], str) and entry[key] != "", f"{label}: {key} must be a string that says something")
    _want(isinstance(entry["note"], str), f"{label}: note must be a string")
    where = entry["where"]
    _want(isinstance(where, dict), f"{label}: where must be a mapping")
    for key, value in where.items():
        _want(isinstance(key, str) and key not in RESERVED, f"{label}: where: {key!r} cannot be a key")
        _want(
            isinstance(value, (str, bool)) or _finite(value),
            f"{label}: where.{key} is {value!r}: text or a finite number",
        )
    seeds, values = entry["seeds"], entry["per_seed"]
    _want(isinstance(seeds, list) and all(map(_whole, seeds)), f"{label}: seeds must be whole numbers")
    _want(len(seeds) > 0 and len(set(seeds)) == len(seeds), f"{label}: seeds must differ, and be at least one")
    _want(isinstance(values, list) and len(values) == len(seeds), f"{label}: per_seed needs one value a seed")
    _want(all(map(_finite, values)), f"{label}: per_seed holds a value that is not a finite number")
    _want(_finite(entry["value"]), f"{label}: value is {entry['value']!r}: a finite number is wanted")
    close = math.isclose(entry["value"], float(np.mean(values)), rel_tol=1e-9, abs_tol=1e-12)
    _want(close, f"{label}: value {entry['value']} is not the mean of per_seed, {np.mean(values)}")
    _want(_whole(entry["n"]) and entry["n"] >= 1, f"{label}: n must be a whole number from 1")
    low, high = units.about(entry["unit"]).support
    inside = all(low - SLACK <= value <= high + SLACK for value in values)
    _want(inside, f"{label}: per_seed {values} leaves what a {entry['unit']!r} can be, {low:g} to {high:g}")
    paper = entry["paper_value"]
    _want(paper is None or _finite(paper), f"{label}: paper_value must be a finite number, or null where not stated")
    _check_interval(entry, label)


def _check_interval(entry: Mapping[str, Any], label: str) -> None:
    ci95, over_images = entry["ci95"], OVER_IMAGES in entry["note"]
    _want(not over_images or 0 <= entry["value"] <= 1, f"{label}: an interval over images is for a share")
    if over_images:
        expected: list[float] | None = wilson(entry["value"], entry["n"])
    else:
        expected = units.interval(entry["per_seed"], entry["unit"], entry["n"])
    if expected is None:
        _want(ci95 is None, f"{label}: one seed has no interval over seeds: ci95 must be null")
        return
    fits = isinstance(ci95, list) and len(ci95) == 2 and all(map(_finite, ci95)) and ci95[0] <= ci95[1]
    _want(fits, f"{label}: ci95 must be [low, high]")
    slack = 0.02 * (expected[1] - expected[0]) + 1e-9  # a record kept with fewer digits still passes
    near = all(abs(a - b) <= slack for a, b in zip(ci95, expected, strict=True))
    kind = "Wilson's over the images" if over_images else "that over the seeds"
    _want(near, f"{label}: ci95 {ci95} is not {kind}, {expected}")
    _want(
        ci95[0] <= entry["value"] + slack and entry["value"] <= ci95[1] + slack, f"{label}: ci95 leaves the value out"
    )


def _check_sources(found: Any, label: str) -> None:
    _want(isinstance(found, dict) and len(found) > 0, f"{label} must map files of the results to checksums")
    for name, checksum in found.items():
        fits = re.fullmatch(r"evaluations/[\w-]+/[0-9a-f]+\.json", name) is not None
        _want(fits, f"{label}: {name!r} is not the file of a kept table")
        fits = isinstance(checksum, str) and checksum.startswith("sha256:")
        _want(fits, f"{label}: {name}: {checksum!r} is no checksum that starts with sha256:")


def _check_provenance(found: Any, label: str) -> None:
    _shape(found, PROVENANCE_KEYS, set(), label)
    for key in ("git", "lock", "config", "device"):
        _want(isinstance(found[key], str) and found[key] != "", f"{label}.{key} must be a string that says something")
    unknown = found["git"] == "unknown" and found["dirty"] is None
    _want(isinstance(found["dirty"], bool) or unknown, f"{label}.dirty must be true or false (null: git unknown)")
    data = found["data"]
    fits = isinstance(data, dict) and all(
        isinstance(value, str) and value.startswith("sha256:") for value in data.values()
    )
    _want(fits, f"{label}.data must map data sets to fingerprints that start with sha256:")
    _want(_whole(found["threads"]) and found["threads"] >= 1, f"{label}.threads must be a whole number from 1")
    for key in ("seconds", "peak_mb"):
        _want(_finite(found[key]) and found[key] >= 0, f"{label}.{key} must be a finite number from 0")
    try:
        datetime.strptime(str(found["date"]), "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        raise RecordError(f"{label}.date must be UTC, as 2026-11-21T21:00:00Z") from None


def _check_table(record: Mapping[str, Any], label: str) -> None:
    _shape(record["table"], ("columns", "rows"), set(), f"{label}: table")
    columns, rows = record["table"]["columns"], record["table"]["rows"]
    fits = isinstance(columns, list) and all(isinstance(name, str) for name in columns)
    _want(fits and isinstance(rows, list), f"{label}: table: columns must be strings, rows a list")
    known: list[float] = []
    for entry in record["numbers"]:
        known += [entry["value"], *entry["per_seed"], *(entry["ci95"] or ()), entry["n"], len(entry["seeds"])]
        known += [value for value in (*entry["where"].values(), entry["paper_value"]) if _finite(value)]
    values = np.asarray(known, dtype=float)
    for row in rows:
        _want(isinstance(row, list) and len(row) == len(columns), f"{label}: table: a row needs {len(columns)} cells")
        for cell in row:
            plain = cell is None or isinstance(cell, (str, bool)) or _finite(cell)
            _want(plain, f"{label}: table: cell {cell!r} is neither text nor a finite number")
            if _finite(cell):
                places = max(2, len(repr(float(cell)).partition(".")[2]))
                held = np.isclose(values, cell, rtol=1e-9, atol=1e-12) | (np.round(values, places) == cell)
                _want(bool(held.any()), f"{label}: table: {cell} is no number of this record")

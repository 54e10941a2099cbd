"""What a record must hold, checked when it is written and when it is read.

`record.schema.json` beside this file says which keys there are and of what kind. What a schema cannot say is checked
here: that numbers agree with one another.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fastjsonschema
import numpy as np

from lib import store, units
from lib.intervals import SLACK, wilson

_SCHEMA = json.loads(Path(__file__).with_name("record.schema.json").read_text(encoding="utf-8"))
_check_record_keys = fastjsonschema.compile(_SCHEMA)
_check_number_keys = fastjsonschema.compile({**_SCHEMA, "$ref": "#/definitions/number"})
PROVENANCE_KEYS = tuple(_SCHEMA["definitions"]["provenance"]["required"])
OVER_IMAGES = "interval over images"


class RecordError(ValueError):
    """A record that breaks the contract; the message names the file or item, and the key."""


def validate(record: Any, label: str = "record") -> None:
    """Check a record against the contract.

    Args:
        record: as `lib.record.read` returns it.
        label: what the message calls it.
    Raises: RecordError naming label and key.
    """
    _check_keys(_check_record_keys, record, label)
    seen = set()
    for index, entry in enumerate(record["numbers"]):
        _check_values(entry, f"{label}: numbers[{index}]")
        place = (entry["name"], store.canonical_json(entry["where"]))
        _want(place not in seen, f"{label}: numbers[{index}]: {entry['name']} at {entry['where']} is there twice")
        seen.add(place)
    if "table" in record:
        _check_table(record, label)


def check_number(entry: Any, label: str) -> None:
    """Check one number of a record. Raises: RecordError naming label and key."""
    _check_keys(_check_number_keys, entry, label)
    _check_values(entry, label)


def _want(fits: bool, message: str) -> None:
    if not fits:
        raise RecordError(message)


def _check_keys(check: Any, value: Any, label: str) -> None:
    try:
        check(value)
    except fastjsonschema.JsonSchemaValueException as error:
        raise RecordError(f"{label}: {str(error).removeprefix('data').lstrip('. ')}") from error


def _check_values(entry: Mapping[str, Any], label: str) -> None:
    """What the values of a number have to do with one another."""
    label = f"{label} ({entry['name']!r} at {entry['where']})"
    values, paper = entry["per_seed"], entry["paper_value"]
    settings = [value for value in entry["where"].values() if isinstance(value, float)]
    finite = all(map(math.isfinite, [entry["value"], *values, *settings, *([] if paper is None else [paper])]))
    _want(finite, f"{label}: every number must be finite")
    _want(len(values) == len(entry["seeds"]), f"{label}: per_seed needs one value a seed")
    close = math.isclose(entry["value"], float(np.mean(values)), rel_tol=1e-9, abs_tol=1e-12)
    _want(close, f"{label}: value {entry['value']} is not the mean of per_seed, {np.mean(values)}")
    low, high = units.about(entry["unit"]).support
    inside = all(low - SLACK <= value <= high + SLACK for value in values)
    _want(inside, f"{label}: per_seed {values} leaves what a {entry['unit']!r} can be, {low:g} to {high:g}")
    if OVER_IMAGES in entry["note"]:
        _want(0 <= entry["value"] <= 1, f"{label}: an interval over images is for a share")
        expected: list[float] | None = wilson(entry["value"], entry["n"])
    else:
        expected = units.interval(values, entry["unit"], entry["n"])
    ci95 = entry["ci95"]
    if expected is None or ci95 is None:
        _want(ci95 is expected, f"{label}: ci95 is {ci95}, and {expected} follows from per_seed")
        return
    slack = 0.02 * (expected[1] - expected[0]) + 1e-9  # a record kept with fewer digits still passes
    near = all(abs(found - end) <= slack for found, end in zip(ci95, expected, strict=True))
    _want(near, f"{label}: ci95 {ci95} is not the interval that follows from per_seed, {expected}")


def _check_table(record: Mapping[str, Any], label: str) -> None:
    """Every number in a table of the record's own layout is one of the record's, rounded to two places or more."""
    columns, rows = record["table"]["columns"], record["table"]["rows"]
    known: list[float] = []
    for entry in record["numbers"]:
        known += [entry["value"], *entry["per_seed"], *(entry["ci95"] or ()), entry["n"], len(entry["seeds"])]
        known += [
            value for value in (*entry["where"].values(), entry["paper_value"]) if isinstance(value, (int, float))
        ]
    values = np.asarray(known, dtype=float)
    for row in rows:
        _want(len(row) == len(columns), f"{label}: table: a row needs {len(columns)} cells")
        for cell in row:
            if isinstance(cell, (int, float)) and not isinstance(cell, bool):
                places = max(2, len(repr(float(cell)).partition(".")[2]))
                held = np.isclose(values, cell, rtol=1e-9, atol=1e-12) | (np.round(values, places) == cell)
                _want(bool(held.any()), f"{label}: table: {cell} is no number of this record")

"""Two makings of one record, compared number by number; what a clock measured is told apart."""

import re
from collections.abc import Mapping
from typing import Any

from lib import store
from lib.verify.findings import DIFFERS, OK, Finding

# Units of what a clock or the operating system measured; no two runs agree on them to the last digit.
_MEASURED = re.compile(r"(s|seconds|milliseconds)\b.*|.*\btime|MB")


def is_measured(number: Mapping[str, Any]) -> bool:
    """Whether a record's number is seconds, a share of seconds, or memory in use: not the same in every run."""
    return _MEASURED.fullmatch(number["unit"]) is not None


def compare(item: str, first: Mapping[str, Any], second: Mapping[str, Any], again: str = "again") -> Finding:
    """Whether two records of an item hold the same numbers, byte for byte, but for measured ones.

    Args:
        item: its name.
        first, second: records, as `record.read` returns them.
        again: what the second is called in the reason.
    """
    one, other = _placed(first), _placed(second)
    gone = [place for place in one if place not in other] + [place for place in other if place not in one]
    if gone:
        why = f"{len(gone)} numbers are in one making only, first {_words(gone[0])}"
        return Finding(item, "numbers", DIFFERS, why)
    unlike = [place for place in one if store.canonical_json(one[place]) != store.canonical_json(other[place])]
    wrong = [place for place in unlike if not is_measured(one[place])]
    if not wrong:
        return Finding(item, "numbers", OK)
    key = next(key for key in one[wrong[0]] if one[wrong[0]][key] != other[wrong[0]][key])
    why = f"{len(wrong)} of {len(one)} differ, first {_words(wrong[0])}: {key} "
    return Finding(item, "numbers", DIFFERS, why + f"{one[wrong[0]][key]}, {again} {other[wrong[0]][key]}")


def _placed(found: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(entry["name"], store.canonical_json(entry["where"])): entry for entry in found["numbers"]}


def _words(place: tuple[str, str]) -> str:
    return f"{place[0]} at {place[1]}"

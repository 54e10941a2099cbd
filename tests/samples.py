"""Invented records for the tests of records, claims and reports."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lib import record

DATA = {"mnist5k/test": "sha256:" + "ab" * 32}
GRID = (0, 0.5, 1, 2, 4, 8, 16)  # 255ths


def accuracies(
    settings: Iterable[Mapping[str, Any]],
    value: Callable[[Mapping[str, Any], float], float],
    seeds: Iterable[int] = (0, 1, 2),
    n: int = 2000,
    spread: float = 0.002,
) -> list[dict[str, Any]]:
    """An accuracy for each setting and epsilon; `value(setting, epsilon in 255ths)`, the seeds `spread` apart."""
    return [
        record.number(
            "accuracy",
            {**setting, "epsilon": step / 255},
            {seed: value(setting, step) + spread * (seed % 3 - 1) for seed in seeds},
            "fraction of test images",
            n,
        )
        for setting in settings
        for step in GRID
    ]


def falling(clean: float, rate: float, step: float, floor: float = 0.05) -> float:
    """An accuracy that falls from `clean` towards `floor` with epsilon."""
    return floor + (clean - floor) * 2.0 ** (-rate * step)


def write(item: str, numbers: list[dict[str, Any]], scale: str = "smoke", **more: Any) -> Any:
    """Write a record of invented numbers."""
    filled = {"reduced": ["5 epochs"], "figure": None, "table": None, "data": DATA, "seconds": 1.0, **more}
    return record.write(item, scale, numbers, **filled)

"""What claims are judged by, each read once: the records of a scale, its networks' cards, and what is frozen."""

import json
from functools import cached_property
from typing import Any

from lib import config, record
from lib.claims import conditions
from lib.claims.numbers import Cell, cells


class Material:
    """The records and cards of a scale, read when they are asked for.

    Args:
        scale: smoke, cpu, gpu or paper.
    """

    def __init__(self, scale: str) -> None:
        self.scale = scale
        self._numbers: dict[str, list[Cell] | str] = {}

    def numbers(self, item: str) -> list[Cell] | str:
        """An item's numbers; why there are none, in words, where its record is missing or damaged."""
        if item not in self._numbers:
            try:
                self._numbers[item] = cells(record.read(item, self.scale))
            except record.RecordError as error:
                there = record.exists(item, self.scale)
                why = str(error).replace(f"{config.results_dir(self.scale)}/", "")  # no folder of a machine
                self._numbers[item] = f"{item} is damaged ({why})" if there else f"{item} has no record"
        return self._numbers[item]

    @cached_property
    def cards(self) -> list[dict[str, Any]]:
        """The cards of the scale's networks that say how accurate these are, by name."""
        found = []
        for path in sorted((config.results_dir(self.scale) / "networks").glob("*.json")):
            try:
                card = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                continue  # `verify` tells of cards that cannot be read
            if isinstance(card, dict) and {"name", "recipe", "test_accuracy"} <= set(card):
                found.append(card)
        return found

    @cached_property
    def families(self) -> dict[str, list[str]]:
        """Family -> its networks; none where the scale has no configuration."""
        try:
            return config.load(self.scale).families
        except config.ConfigError:
            return {}

    @cached_property
    def items(self) -> dict[str, config.Item]:
        """config/items.yaml."""
        return config.items()

    @cached_property
    def seen(self) -> list[int]:
        """The scale's seeds that had been seen when the rules were last changed."""
        return conditions.frozen(self.scale)["seen"]

    @cached_property
    def usual(self) -> list[dict[str, Any]]:
        """Usual accuracies."""
        return list(conditions.settings().get("usual") or ())

    def accuracies(self, items: tuple[str, ...], named: set[Any]) -> list[dict[str, Any]]:
        """How accurate the networks are that some items rest on, beside what is usual (conditions.networks).

        Args:
            items: of a claim.
            named: networks that its comparisons name; empty: those that the records name.
        """
        named = named or {cell.where.get("network") for item in items for cell in self._cells(item)}
        families = {pattern for item in items for pattern in self.items[item].families}
        return conditions.networks(named, families, self.families, self.cards, self.usual)

    def _cells(self, item: str) -> list[Cell]:
        found = self.numbers(item)
        return [] if isinstance(found, str) else found

"""How long the networks of a scale took to train, beside what the scale's file estimates."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from lib import config
from lib.claims.material import Material


def training_times(scale: str) -> list[dict[str, Any]]:
    """The time of all trainings of a scale that have a card with the results, by paper and machine.

    Returns: rows of paper, machine, networks (how many), and of estimated, measured (in words, of one core or GPU) and
        ratio (measured over estimated). Networks that no item shows, and those for which config/<scale>.yaml gives no
        rate, are left out.
    """
    preset, papers = config.load(scale), _papers(scale)
    sums: dict[tuple[str, str], list[float]] = {}
    for card in Material(scale).cards:
        family = preset.networks[card["name"]].family if card["name"] in preset.networks else ""
        estimated = config.network_seconds(preset, card["name"]) if family in papers else None
        if estimated is not None:
            kind, _, machine = card["device"].partition(" ")
            total = sums.setdefault((papers[family], machine), [0, 0.0, 0.0])
            for place, value in enumerate((1, estimated, card["seconds"] * (card["threads"] if kind == "cpu" else 1))):
                total[place] += value
    return [
        {
            "paper": paper,
            "machine": machine,
            "networks": int(count),
            "estimated": config.in_words(estimated),
            "measured": config.in_words(measured),
            "ratio": f"{measured / estimated:.1f}",
        }
        for (paper, machine), (count, estimated, measured) in sorted(sums.items())
    ]


def _papers(scale: str) -> Mapping[str, str]:
    """Family of networks -> the paper of the first item that shows it."""
    items, found = config.items().values(), dict[str, str]()
    for family in config.load(scale).families:
        for item in items:
            if any(fnmatchcase(family, pattern) for pattern in item.families):
                found.setdefault(family, item.paper)
    return found

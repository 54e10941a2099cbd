"""Where errors are located: layer by layer, on some backdoored networks, by each reading of the method.

    python -m lib.evaluations --run lib.lancet.study.localisation:make --scale smoke --seed 0

Pairs are images of the repair split, stamped with the true trigger, and the same without it.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from lib import compute, config, data, evaluations, zoo
from lib.lancet.backdoors.attack import of_network
from lib.lancet.locating import Votes, choose_layer, locate
from lib.lancet.study import settings as shared
from lib.lancet.study.backdoors import networks
from lib.lancet.study.repairs import Material, pairs
from lib.progress import bar

VERSION = 1  # raise it when a change in this study's code changes its numbers
VARIANTS: dict[str, dict[str, Any]] = {
    "stated": {},
    "both": {"formula": "both"},
    "not-target": {"until": "not-target"},
    "signed": {"signed": True},
}
"""Readings of the method: as the released code (the companion's features fixed, until the true label); the companion's
features differentiated too; until the prediction is no longer the target; importance with its sign (ours)."""

DEFAULTS: dict[str, Any] = {"localisation_networks": None, "localisation_pairs": 100}
"""localisation_networks: which backdoored networks (None: all); localisation_pairs: pairs of each."""


def settings(scale: str) -> dict[str, Any]:
    """The scale's settings of this study, with `DEFAULTS` for what it leaves out."""
    return shared.settings(scale, DEFAULTS)


def names(scale: str) -> list[str]:
    """The networks looked at."""
    return list(settings(scale)["localisation_networks"] or [network.name for network in networks(scale)])


def make(scale: str, seed: int) -> None:
    """All that the notebook shows of one seed: a node of the graph."""
    compute.deterministic()
    measured(scale, seed)
    heat_map(scale, seed)


def measured(scale: str, seed: int) -> pd.DataFrame:
    """Each layer of each network by each variant.

    Returns: one row each: network, variant, layer, depth (from 0), weights, pairs, repaired (share of the pairs that
        some part of the layer repairs), fraction (the median part that does; None where none does), chosen ("" or the
        rules of `choose_layer` that take this layer).
    """
    found = [_of_network(scale, seed, name, variant) for name in bar(names(scale), "networks") for variant in VARIANTS]
    return pd.concat(found, ignore_index=True)


def heat_map(scale: str, seed: int) -> pd.DataFrame:
    """Votes of the pairs on the layer with the smallest part, of the first network.

    Returns: one row for each output and input channel: network, layer, output, input, votes (share of the pairs, the
        largest over the positions of the kernel).
    """
    name = names(scale)[0]

    def compute_it() -> pd.DataFrame:
        votes = _votes(scale, seed, name, "stated")
        layer = choose_layer(votes, "smallest-fraction")
        counts = votes[layer].counts.cpu().flatten(2).amax(2) if votes[layer].counts.ndim == 4 else votes[layer].counts
        share = counts.float() / len(votes[layer].repaired)
        corner = [share.shape[0] - 1, share.shape[1] - 1]  # kept whatever its votes: it tells the layer's size
        places = [place for place in share.nonzero().tolist() if place != corner] + [corner]
        rows = [[name, layer, output, source, share[output, source].item()] for output, source in places]
        return pd.DataFrame(rows, columns=["network", "layer", "output", "input", "votes"])

    key = {**_key(scale, name), "rows": "with votes"}
    return _every_place(evaluations.kept("lancet-heat-map", name, scale, seed, key, compute_it, VERSION))


def _every_place(table: pd.DataFrame) -> pd.DataFrame:
    """The rows without a vote put back, those that are not kept."""
    sides = [range(int(table[side].max()) + 1) for side in ("output", "input")]
    whole = pd.MultiIndex.from_product(sides, names=["output", "input"])
    votes = table.set_index(["output", "input"])["votes"].reindex(whole, fill_value=0.0).reset_index()
    about = {column: table[column].iloc[0] for column in ("network", "layer")}
    return votes.assign(**about)[["network", "layer", "output", "input", "votes"]]


def _of_network(scale: str, seed: int, name: str, variant: str) -> pd.DataFrame:
    def compute_it() -> pd.DataFrame:
        votes = _votes(scale, seed, name, variant)
        rules = {rule: choose_layer(votes, rule) for rule in ("most-pairs", "smallest-fraction")}
        rows = [
            [
                *(name, variant, layer, depth, found.counts.numel(), len(found.repaired), found.share),
                None if pd.isna(found.fraction) else found.fraction,
                ", ".join(rule for rule, chosen in rules.items() if chosen == layer),
            ]
            for depth, (layer, found) in enumerate(votes.items())
        ]
        columns = ["network", "variant", "layer", "depth", "weights", "pairs", "repaired", "fraction", "chosen"]
        return pd.DataFrame(rows, columns=columns)

    key = {**_key(scale, name), "variant": variant}
    return evaluations.kept("lancet-localisation", name, scale, seed, key, compute_it, VERSION)


def _key(scale: str, name: str) -> dict[str, Any]:
    repair = shared.parts(scale, config.load(scale).recipe(name).data)[0]
    return {"images": repair.fingerprint, "pairs": settings(scale)["localisation_pairs"]}


def _votes(scale: str, seed: int, name: str, variant: str) -> dict[str, Votes]:
    model, chosen = zoo.get(name, scale, seed), VARIANTS[variant]
    repair = shared.parts(scale, config.load(scale).recipe(name).data)[0]
    on = next(model.parameters()).device
    images, labels = repair.float(on), repair.labels.to(on)
    held = Material(images, labels, images[:0], labels[:0], 0, shared.TARGET)
    trigger = of_network(name, scale, seed).trigger.to(on)
    inputs, companions, truth = pairs(model, trigger, held, settings(scale)["localisation_pairs"])
    target = shared.TARGET if chosen.get("until") == "not-target" else None
    return locate(model, inputs, companions, truth, target=target, **chosen)


def about(scale: str) -> pd.DataFrame:
    """The networks looked at: network, set, architecture, layers."""
    preset, rows = config.load(scale), []
    for name in names(scale):
        recipe = preset.recipe(name)
        rows.append([name, data.SETS[recipe.data].title, recipe.arch])
    return pd.DataFrame(rows, columns=["network", "data", "architecture"])

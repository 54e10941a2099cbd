"""How much structures differ that are pruned from random weights, and from networks in training.

    python -m lib.evaluations --run lib.dynamic.study.diversity:make_first --scale smoke --seed 0

An initialisation is a seed of first weights. Gates are learned on these weights as they are, and again on the same
network after some epochs of its training; each structure is cut to the same budget and trained from fresh weights.
Shares of kept channels are correlated, not their counts: layers are of different widths, so that counts correlate
whatever was pruned; both are told.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from lib import compute, config, evaluations, store, training
from lib.dynamic import cost
from lib.dynamic.scratch.search import search_threshold
from lib.dynamic.study.scratch_networks import (
    VERSION,
    channels_of,
    fresh,
    gate_key,
    gates_of,
    network_key,
    recipe_of,
    rows_of,
    settings,
    shape_of,
    structure,
    train_images,
    trained,
    training_key,
)
from lib.progress import bar

RANDOM_SCORES = -1
"""The "epoch" of structures from random scores, the control: no gate was learned. 0: gates on random weights."""


def make_first(scale: str, seed: int, name: str = "", start: int = 0) -> None:
    """Every second network of the study, from its first: a node of the graph; or one of `parts_first`."""
    for each in [name] if name else _networks(scale, 0):
        structures(scale, each, [start] if name else None)


def make_second(scale: str, seed: int, name: str = "", start: int = 0) -> None:
    """The other networks of the study: a node of the graph; or one of `parts_second`."""
    for each in [name] if name else _networks(scale, 1):
        structures(scale, each, [start] if name else None)


def parts_first(scale: str, seed: int) -> list[dict[str, Any]]:
    """What `make_first` can be asked for one by one: each network and initialisation."""
    return _parts(scale, 0)


def parts_second(scale: str, seed: int) -> list[dict[str, Any]]:
    """What `make_second` can be asked for one by one: each network and initialisation."""
    return _parts(scale, 1)


def _networks(scale: str, first: int) -> list[str]:
    return list(settings(scale)["diversity_networks"][first::2])


def _parts(scale: str, first: int) -> list[dict[str, Any]]:
    starts = range(settings(scale)["diversity_starts"])
    return [{"name": name, "start": start} for name in _networks(scale, first) for start in starts]


def epochs_of(scale: str, name: str) -> list[int]:
    """After how many epochs gates are learned: those of `diversity_epochs` that the recipe reaches, and its last."""
    last = config.load(scale).recipe(name).epochs
    return [*sorted(epoch for epoch in settings(scale)["diversity_epochs"] if epoch < last), last]


def structures(scale: str, name: str, starts: Sequence[int] | None = None) -> pd.DataFrame:
    """All structures of a network, and what their networks are after training.

    Args:
        scale, name: of the network.
        starts: initialisations; None: all of the study's.
    Returns: one row an initialisation, epoch and convolution: initialisation, epoch (0: random weights; -1: random
        scores), layer, width, kept, zeros, mean_gate, rule, share, gate_accuracy, accuracy (of the network trained
        from fresh weights, the same in every row of a structure), n.
    """
    chosen, parts = settings(scale), []
    starts = range(chosen["diversity_starts"]) if starts is None else starts
    for start in bar(starts, desc=f"initialisations of {name}"):
        budget = chosen["diversity_budget"]
        found = {RANDOM_SCORES: structure(scale, name, start, "random", budget)}
        found[0] = structure(scale, name, start, "plain", budget)
        later = in_training(scale, name, start)
        found |= {epoch: later[later["epoch"] == epoch] for epoch in epochs_of(scale, name)}
        for epoch, rows in found.items():
            told = trained(scale, name, start, channels_of(rows)).iloc[0]
            about = {"initialisation": start, "epoch": epoch, "accuracy": told["accuracy"], "n": told["n"]}
            parts.append(rows.assign(**about))
    columns = ["initialisation", "epoch", "layer", "width", "kept", "zeros", "mean_gate", "rule", "share"]
    return pd.concat(parts, ignore_index=True)[[*columns, "gate_accuracy", "accuracy", "n"]]


def in_training(scale: str, name: str, start: int) -> pd.DataFrame:
    """Structures from gates learned on one network after each of `epochs_of`, its weights frozen meanwhile.

    Returns: as `scratch_networks.structure`, with the epoch; its training goes on as if nothing had happened.
    """
    recipe, chosen = recipe_of(scale, name), settings(scale)

    def make() -> pd.DataFrame:
        compute.deterministic()
        shape, parts = shape_of(scale, name), []
        model = fresh(scale, name, start)
        whole = cost.macs(model, shape)
        for epoch in epochs_of(scale, name):
            _train_until(scale, name, model, start, epoch)
            gates = gates_of(scale, name, model, start)
            found = search_threshold(model, gates, chosen["diversity_budget"], shape, reference=whole)
            parts.append(rows_of(found, 1.0, gates).assign(epoch=epoch))
        _checkpoint(scale, name, start).unlink(missing_ok=True)
        return pd.concat(parts, ignore_index=True)

    key = {**network_key(scale, name), **training_key(scale, name, recipe), "gates": gate_key(scale, name)}
    key |= {"seed": start, "budget": chosen["diversity_budget"], "epochs": epochs_of(scale, name)}
    return evaluations.kept_by("scratch-in-training", scale, key, make, VERSION)


def _checkpoint(scale: str, name: str, start: int) -> Path:
    key = {**training_key(scale, name, recipe_of(scale, name)), **network_key(scale, name), "seed": start}
    digest = store.fingerprint(key).removeprefix("sha256:")[:16]
    return config.cache_dir(scale) / "diversity" / f"{name}-{start}-{digest}.pt"


def _train_until(scale: str, name: str, model: nn.Module, start: int, epoch: int) -> None:
    """The network's training up to an epoch, from where its checkpoint has it."""
    training.fit(
        model,
        train_images(scale, name),
        recipe_of(scale, name),
        seed=start,
        checkpoint=_checkpoint(scale, name, start),
        until=epoch,
        device=config.load(scale).compute.device,
    )


def ratios(rows: pd.DataFrame, counts: bool = False) -> dict[tuple[int, int], np.ndarray]:
    """(epoch, initialisation) -> share of the channels kept, one a convolution; or how many."""
    found: dict[tuple[int, int], np.ndarray] = {}
    for (epoch, start), part in rows.groupby(["epoch", "initialisation"]):
        kept, width = part["kept"].to_numpy(float), part["width"].to_numpy(float)
        found[int(epoch), int(start)] = kept if counts else kept / width
    return found


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of two structures; 1 where both are the same everywhere, 0 where only one varies.

    Args:
        one, other: float (layers,).
    """
    if np.allclose(one, other, rtol=0, atol=1e-12):
        return 1.0
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def between_starts(rows: pd.DataFrame) -> pd.DataFrame:
    """How alike structures of different initialisations are that were pruned after equally many epochs.

    Args:
        rows: as `structures` returns them, of one network.
    Returns: one row an epoch and initialisation, each the mean over its pairs with the others: epoch, initialisation,
        correlation and distance (mean absolute difference) of keep ratios, count_correlation (of channel counts). Empty
        with one initialisation.
    """
    by_ratio, by_count = ratios(rows), ratios(rows, counts=True)
    found = []
    for (epoch, start), own in by_ratio.items():
        others = [place for place in by_ratio if place[0] == epoch and place[1] != start]
        if others:
            each: Mapping[str, list[float]] = {
                "correlation": [correlation(own, by_ratio[place]) for place in others],
                "distance": [float(np.abs(own - by_ratio[place]).mean()) for place in others],
                "count_correlation": [correlation(by_count[epoch, start], by_count[place]) for place in others],
            }
            means = {key: float(np.mean(values)) for key, values in each.items()}
            found.append({"epoch": epoch, "initialisation": start, **means})
    columns = ["epoch", "initialisation", "correlation", "distance", "count_correlation"]
    return pd.DataFrame(found, columns=columns)


def matrix(rows: pd.DataFrame) -> pd.DataFrame:
    """Correlations of the keep ratios of every two structures of one network, by (epoch, initialisation)."""
    by_ratio = ratios(rows)
    places = sorted(by_ratio)
    values = np.eye(len(places))
    for (i, one), (j, other) in itertools.combinations(enumerate(places), 2):
        values[i, j] = values[j, i] = correlation(by_ratio[one], by_ratio[other])
    index: Any = pd.MultiIndex.from_tuples(places, names=["epoch", "initialisation"])
    return pd.DataFrame(values, index=index, columns=index)


@lru_cache(maxsize=4)
def tables(scale: str) -> dict[str, pd.DataFrame]:
    """Network -> `structures`, of all networks of the study."""
    return {name: structures(scale, name) for name in settings(scale)["diversity_networks"]}

"""How much structures differ that are pruned from random weights, and from networks in training (notebook 25).

An initialisation is a seed of first weights. Gates are learned on these weights as they are, and again on the same
network after some epochs of its training; each structure is cut to the same budget and trained from fresh weights.
Shares of kept channels are correlated, not their counts: layers are of different widths, so that counts correlate
whatever was pruned; both are measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from torch import nn

from lib import compute, config, plots, store, training
from lib.dynamic.scratch.search import search_threshold
from lib.experiments.dynamic import (
    Budget,
    Dynamic,
    DynamicRun,
    Names,
    channels_of,
    check_networks,
    once,
    rows_of,
    titled,
)
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.run import measures
from lib.experiments.settings import Count
from lib.progress import bar

RANDOM_SCORES = -1
"""The "epoch" of structures from random scores, the control: no gate was learned. 0: gates on random weights."""

SCORES, WEIGHTS, TRAINED = "random scores", "random weights", "trained"
MEASURES = {
    "correlation": "correlation of keep ratios",
    "distance": "mean difference of keep ratios",
    "count_correlation": "correlation of channel counts",
    "accuracy": "accuracy after training",
}
ALIKE = ("correlation", "distance", "count_correlation")
"""Measures of two structures."""
PLACE = ["network", "start", "initialisation"]


class Settings(Dynamic):
    """Settings of the experiment.

    Attributes:
        networks: of the scale.
        budget: share of the FLOPs that structures are cut to, in (0, 1).
        starts: initialisations of each network; a seed has its own.
        epochs: of a network's training, after which gates are learned on it, beside the last; those that its recipe
            does not reach are left out.
    """

    section: ClassVar[str] = "diversity"

    networks: Names = Field(("scratch-resnet20", "scratch-vgg16"), title="networks", validate_default=True)
    budget: Budget = 0.5
    starts: Count = Field(5, title="initialisations")
    epochs: Annotated[tuple[Count, ...], AfterValidator(once)] = Field((1, 2), title="trained checkpoints")

    @field_validator("networks")
    @classmethod
    def _are_there(cls, chosen: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        check_networks(chosen, info.data["scale"])
        return chosen

    def told(self, name: str) -> Any:
        return len(self.epochs) + 1 if name == "epochs" else super().told(name)


class StartRun(DynamicRun[Settings]):
    """One initialisation: its seed is that of the first weights."""

    def structures(self, name: str) -> pd.DataFrame:
        """All structures of a network, and the accuracy of each after training from fresh weights.

        Returns: one row an epoch and convolution: epoch (0: random weights; -1: random scores), layer, width, kept,
            zeros, mean_gate, accuracy and n (the same in every row of a structure).
        """
        budget = self.settings.budget
        found = {RANDOM_SCORES: self.structure(name, "random", budget), 0: self.structure(name, "plain", budget)}
        later = self.in_training(name)
        found |= {epoch: later[later["epoch"] == epoch] for epoch in self.epochs(name)}
        parts = []
        for epoch, rows in found.items():
            measured = self.trained(name, channels_of(rows))
            parts.append(rows.assign(epoch=epoch, accuracy=measured["accuracy"], n=measured["n"]))
        columns = ["epoch", "layer", "width", "kept", "zeros", "mean_gate", "accuracy", "n"]
        return pd.concat(parts, ignore_index=True)[columns]

    def epochs(self, name: str) -> list[int]:
        """After how many epochs gates are learned: those of the settings that the recipe reaches, and its last."""
        last = self.preset.recipe(name).epochs
        return [*sorted(epoch for epoch in self.settings.epochs if epoch < last), last]

    def in_training(self, name: str) -> pd.DataFrame:
        """Structures from gates learned on one network after each of `epochs`, its weights frozen meanwhile; kept.

        Returns: as `rows_of`, with the epoch; the network's training goes on as if nothing had happened.
        """
        recipe, budget = self.recipe(name), self.settings.budget

        def make() -> pd.DataFrame:
            compute.deterministic()
            shape, parts = self.shape(name), []
            model, whole = self.fresh(name), self.macs(name)
            epochs = self.epochs(name)
            for before, epoch in itertools.pairwise([0, *epochs]):
                self._train_until(name, model, epoch, before)
                gates = self.gates(name, model)
                found = search_threshold(model, gates, budget, shape, reference=whole)
                parts.append(rows_of(found, 1.0, gates).assign(epoch=epoch))
            for epoch in epochs:
                self._checkpoint(name, epoch).unlink(missing_ok=True)
            return pd.concat(parts, ignore_index=True)

        key = {**self.network_key(name), **self.training_key(name, recipe), "gates": self.gate_key(name)}
        key |= {"seed": self.seed, "budget": budget, "epochs": self.epochs(name)}
        return self.table("scratch-in-training", key, make)

    def _checkpoint(self, name: str, epoch: int) -> Path:
        """Of the training up to an epoch: a file each, as a run that goes on learns gates at each of them."""
        key = {**self.training_key(name, self.recipe(name)), **self.network_key(name), "seed": self.seed}
        digest = store.fingerprint(key).removeprefix("sha256:")[:16]
        return config.cache_dir(self.scale) / "diversity" / f"{name}-{self.seed}-{digest}-{epoch}.pt"

    def _train_until(self, name: str, model: nn.Module, epoch: int, before: int) -> None:
        """The network's training up to an epoch, from where its checkpoint has it, or that of the epoch before."""
        checkpoint, earlier = self._checkpoint(name, epoch), self._checkpoint(name, before)
        if before and not checkpoint.exists():
            store.write_atomic(checkpoint, earlier.read_bytes())
        training.fit(
            model,
            self.train_images(name),
            self.recipe(name),
            seed=self.seed,
            checkpoint=checkpoint,
            until=epoch,
            device=self.preset.compute.device,
        )


def runs(settings: Settings, seed: int) -> list[StartRun]:
    """A seed's initialisations; of seed 0 the first weights 0, 1, ..."""
    return [StartRun(settings, seed * settings.starts + start) for start in range(settings.starts)]


def structures(each: Sequence[StartRun], name: str) -> pd.DataFrame:
    """The structures of all initialisations of a network, as `StartRun.structures`, with a column initialisation."""
    shown = bar(each, desc=f"initialisations of {name}")
    parts = [run.structures(name).assign(initialisation=start) for start, run in enumerate(shown)]
    return pd.concat(parts, ignore_index=True)


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
            each = {
                "correlation": [correlation(own, by_ratio[place]) for place in others],
                "distance": [float(np.abs(own - by_ratio[place]).mean()) for place in others],
                "count_correlation": [correlation(by_count[epoch, start], by_count[place]) for place in others],
            }
            means = {key: float(np.mean(values)) for key, values in each.items()}
            found.append({"epoch": epoch, "initialisation": start, **means})
    return pd.DataFrame(found, columns=["epoch", "initialisation", *ALIKE])


def matrix(rows: pd.DataFrame) -> pd.DataFrame:
    """Correlations of the keep ratios of every two structures of one network, by (epoch, initialisation)."""
    by_ratio = ratios(rows)
    places = sorted(by_ratio)
    values = np.eye(len(places))
    for (i, one), (j, other) in itertools.combinations(enumerate(places), 2):
        values[i, j] = values[j, i] = correlation(by_ratio[one], by_ratio[other])
    index: Any = pd.MultiIndex.from_tuples(places, names=["epoch", "initialisation"])
    return pd.DataFrame(values, index=index, columns=index)


def start_of(epoch: int, last: int) -> str:
    """What gates were learned on, as tables show it."""
    if epoch == RANDOM_SCORES:
        return SCORES
    return WEIGHTS if epoch == 0 else TRAINED if epoch == last else f"after epoch {epoch}"


def diversity(settings: Settings, seed: int) -> pd.DataFrame:
    """What is measured, one row each, at {network, start, initialisation}.

    Returns: "accuracy" of the structure trained from fresh weights (n test images); "correlation", "distance" and
        "count_correlation" with the structures of the other initialisations, the mean over those pairs (n: layers);
        "mean_gate" and "zero_gates", of gates. The values of one network share pairs: they are not independent.
    """
    whole, each = DynamicRun(settings, seed), runs(settings, seed)
    rows: list[dict[str, Any]] = []
    for name in settings.networks:
        whole.card(name)  # how the network is trained; the record tells it
        rows += measured(name, structures(each, name))
    for run in each:
        whole.read.add(run.read)
    return whole.tidy(rows)


def measured(name: str, table: pd.DataFrame) -> list[dict[str, Any]]:
    """What is measured of one network; `table` as `structures` returns it."""
    last = int(table["epoch"].max())
    rows: list[dict[str, Any]] = []
    each = table.groupby(["epoch", "initialisation"]).first().reset_index().rename(columns={"zeros": "zero_gates"})
    counts = {"accuracy": "n", "mean_gate": "one", "zero_gates": "one"}
    alike = between_starts(table).assign(n=table["layer"].nunique())
    for found, n in ((each.assign(one=1), counts), (alike, dict.fromkeys(ALIKE, "n"))):
        found = found.assign(start=[start_of(int(epoch), last) for epoch in found["epoch"]])
        rows += measures(found, n, ["start", "initialisation"], n=n, network=name)
    return rows


def wide(results: Results) -> pd.DataFrame:
    """One row a network, start and initialisation: every measure; with one initialisation only accuracies."""
    return results.wide(MEASURES, PLACE)


def draw(results: Results) -> Figure:
    """Each measure by what gates were learned on: a point an initialisation, the mean as a line; a colour a network."""
    table = wide(results)
    order = list(dict.fromkeys(table["start"]))
    figure, axes = plots.grid(3, 1, 1.5, plots.SINGLE, sharex=True)
    for ax, measure in zip(axes, ("correlation", "distance", "accuracy"), strict=True):
        title = MEASURES[measure]
        for index, (name, group) in enumerate(table.groupby("network", sort=False)):
            if title not in group:
                continue
            place = group["start"].map(order.index) + 0.12 * (index - 0.5)
            look = plots.look(index, linestyle="none")
            ax.plot(place, group[title], alpha=0.6, label=titled(str(name)), **look)
            mean = group.groupby("start")[title].mean()
            ax.plot([order.index(str(k)) for k in mean.index], mean, **{**look, "marker": "_", "markersize": 9})
        ax.set_xticks(range(len(order)), order, rotation=30, ha="right")
        ax.set_title(title)
    plots.legend_below(axes[-1:], table["network"].nunique())
    return figure


def draw_matrices(settings: Settings, seed: int) -> Figure:
    """Correlation of the keep ratios of every two structures, a panel a network, ordered by start."""
    figure, axes = plots.panels(len(settings.networks), width=7.0, height=3.3)
    for ax, name in zip(axes, settings.networks, strict=True):
        values = matrix(structures(runs(settings, seed), name))
        image = ax.imshow(values.to_numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
        epochs = values.index.get_level_values("epoch").to_numpy()
        middles = {int(epoch): np.flatnonzero(epochs == epoch) for epoch in dict.fromkeys(epochs)}
        for own in list(middles.values())[1:]:
            for line in (ax.axhline, ax.axvline):
                line(own[0] - 0.5, color="#000000", linewidth=0.6, marker="", linestyle="-")
        words = [start_of(epoch, int(max(epochs))) for epoch in middles]
        places = [float(own.mean()) for own in middles.values()]
        ax.set_yticks(places, words)
        ax.set_xticks(places, words, rotation=30, ha="right")
        ax.set_xlim(-0.5, len(epochs) - 0.5)
        ax.set_title(titled(name))
        ax.grid(visible=False)
        figure.colorbar(image, ax=ax, shrink=0.8)
    return figure


UNITS = {
    "accuracy": SHARE,
    "mean_gate": "mean of all gates",
    "zero_gates": "fraction of gates",
    "correlation": "Pearson's r over the layers",
    "distance": "share of the channels",
    "count_correlation": "Pearson's r over the layers",
}
DIVERSITY = Item("scratch_diversity", diversity, UNITS, table=wide, draw=draw)
ITEMS = (DIVERSITY,)


# Steps: two halves of the networks, each in parts


def make_first(scale: str, seed: int, name: str = "", start: int = 0) -> None:
    """Every second network, from the first: a step of the graph; or one of `parts_first`."""
    _make(scale, seed, 0, name, start)


def make_second(scale: str, seed: int, name: str = "", start: int = 0) -> None:
    """The other networks: a step of the graph; or one of `parts_second`."""
    _make(scale, seed, 1, name, start)


def parts_first(scale: str, seed: int) -> list[dict[str, Any]]:
    """What `make_first` can be asked for one by one: each network and initialisation."""
    return _parts(scale, 0)


def parts_second(scale: str, seed: int) -> list[dict[str, Any]]:
    """What `make_second` can be asked for one by one: each network and initialisation."""
    return _parts(scale, 1)


def _make(scale: str, seed: int, first: int, name: str, start: int) -> None:
    each = [(name, start)] if name else [(part["name"], part["start"]) for part in _parts(scale, first)]
    of_seed = runs(Settings.of(scale), seed)
    for one, place in each:
        of_seed[place].structures(one)


def _parts(scale: str, first: int) -> list[dict[str, Any]]:
    settings = Settings.of(scale)
    return [{"name": name, "start": k} for name in settings.networks[first::2] for k in range(settings.starts)]

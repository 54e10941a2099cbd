"""The networks that pruning from scratch is compared on: narrowed, L1-pruned and slimmed ones, trained and measured.

Training budget, counted in multiply-accumulates of the whole network: with E epochs of it as the unit, a network with a
share s of its FLOPs trains E epochs ("E epochs", cost s) or E / s epochs ("budget", cost 1, the search not counted, as
in the paper). With the search counted ("gates counted", ours), what the gates cost is taken off the training. The
pruning of a trained network spends half of the budget on training the whole network for E / 2 epochs and half on
fine-tuning the pruned one for E / (2 s): cost 1 too, its search counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pandas as pd
from pydantic import Field, ValidationInfo, field_validator

from lib import config
from lib.dynamic import static
from lib.dynamic.scratch.build import shrink
from lib.experiments.dynamic import (
    Budgets,
    Dynamic,
    DynamicRun,
    Names,
    Positive,
    channels_of,
    check_networks,
    rows_of,
    seen,
)
from lib.progress import bar
from lib.training import accuracy

METHODS = {
    "full": "the whole network",
    "scratch": "from scratch",
    "scratch-budget": "from scratch, budget",
    "scratch-counted": "from scratch, budget, gates counted",
    "plain": "from scratch, not widened",
    "random": "random structure",
    "uniform": "uniform",
    "uniform-budget": "uniform, budget",
    "l1": "L1 norm",
    "slimming": "network slimming",
    "slimming-floor": "network slimming, a tenth of each layer stays",
}
FRESH = ("scratch", "plain", "random", "uniform")
TRAINED = {"l1": "half", "slimming": "half-slim", "slimming-floor": "half-slim"}
"""Pruned from a trained network: which variant of the whole one."""
CUTS: Mapping[str, Any] = {
    "l1": static.l1_structure,
    "slimming": static.slimming_structure,
    "slimming-floor": static.slimming_structure,
}
PASSES, GATE_PASSES = 3, 2
"""Forward passes that an image costs in training (the gradients of activations and of weights cost one each), and in
learning gates, where no weight has a gradient."""
LEAST = 0.1
"""Share of each layer's channels that "slimming-floor" keeps: slimming as stated may leave a layer one channel."""


class Settings(Dynamic):
    """Settings of the experiment.

    Attributes:
        networks: of the scale, each with the variants `-half` and `-half-slim`, trained to be pruned.
        budgets: shares of the FLOPs, in (0, 1); figures show the first.
        expansion: of the widths before gates are learned, from 1; the source: 1.25.
        finetune_rate: of the trained network's learning rate, for fine-tuning.
    """

    section: ClassVar[str] = "scratch"

    networks: Names = Field(("scratch-resnet20", "scratch-vgg16"), title="networks", validate_default=True)
    budgets: Budgets = Field((0.5,), title="budgets")
    expansion: float = Field(1.25, ge=1)
    finetune_rate: Positive = 0.25

    @field_validator("networks")
    @classmethod
    def _are_trained(cls, chosen: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for name in chosen:
            check_networks([name, *(f"{name}-{kind}" for kind in TRAINED.values())], info.data["scale"])
        return chosen


class ScratchRun(DynamicRun[Settings]):
    """One seed's networks."""

    @property
    def names(self) -> list[str]:
        """The networks of this seed."""
        return self.of_this_seed(self.settings.networks)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every network, method and budget.

        Returns: each with network, method, budget (1 for the whole network), accuracy, n, parameters, macs, share,
            epochs, train_seconds, train_images and train_work (after the structure is known; work in
            multiply-accumulates of forward and backward passes), search_seconds, search_images and search_work (before
            it is), source_epochs (of the search, at `scale: paper`; None: it has no such network), latency (batch ->
            median seconds an image); and, where it has them, zeros, mean_gate and rule (of the gates), before (accuracy
            before fine-tuning) and same_as (a method whose structure this very one is).
        """
        for name in bar(self.names, desc="networks"):
            for index, budget in enumerate(self.settings.budgets):
                part = [self.whole(name)] if index == 0 else []
                for method in FRESH:
                    part += self.from_fresh(name, method, budget)
                part += [self.from_trained(name, method, budget) for method in TRAINED]
                yield from self._with_latency(name, part, budget)

    def whole(self, name: str) -> dict[str, Any]:
        """The row of the whole network."""
        card, macs = self.card(name), self.macs(name)
        images = seen(self.recipe(name), len(self.train_images(name)))
        row = {"network": name, "method": "full", "budget": 1.0, "accuracy": card["test_accuracy"]}
        row |= {"n": card["test_images"], "parameters": card["parameters"], "macs": macs, "share": 1.0}
        row |= {"epochs": self.preset.recipe(name).epochs, "train_seconds": card["seconds"], "train_images": images}
        row |= {"train_work": PASSES * images * macs, "search_seconds": 0.0, "search_images": 0, "search_work": 0}
        return row | {"source_epochs": 0}

    def from_fresh(self, name: str, method: str, budget: float) -> list[dict[str, Any]]:
        """A structure's network trained for as many epochs as the whole one and, of some, for as much work."""
        chosen = self.settings
        rows = self.structure(name, method, budget, chosen.expansion)
        first, channels = rows.iloc[0], channels_of(rows)
        wide, epochs, gates = float(first["expansion"]), self.preset.recipe(name).epochs, method in ("scratch", "plain")
        looked = chosen.gate_epochs * self.gate_images(name) if gates else 0
        work = GATE_PASSES * looked * self.macs(name, wide)
        lengths = {method: epochs}
        if f"{method}-budget" in METHODS:
            lengths[f"{method}-budget"] = max(1, round(epochs / budget))
        if f"{method}-counted" in METHODS:
            spent = epochs * work / (PASSES * seen(self.recipe(name), len(self.train_images(name))) * self.macs(name))
            lengths[f"{method}-counted"] = max(1, round((epochs - spent) / budget))
        shared = {key: first[key] for key in ("share", "zeros", "mean_gate", "rule")}
        shared |= {"search_seconds": first["seconds"], "search_images": looked, "search_work": work}
        shared |= {"source_epochs": _source_epochs(name, gates=True) if gates else 0}
        shared |= {"channels": channels, "expansion": wide}
        return [
            {**_about(name, each, budget, self.trained(name, channels, wide, length)), **shared}
            for each, length in lengths.items()
        ]

    def from_trained(self, name: str, method: str, budget: float) -> dict[str, Any]:
        """The row of a trained network that is pruned, and fine-tuned."""
        rows, found = self.pruned(name, method, budget)
        first, base = rows.iloc[0], f"{name}-{TRAINED[method]}"
        card = self.card(base)
        looked = seen(self.preset.recipe(base), len(self.train_images(name)))
        stated = channels_of(self.pruned(name, "slimming", budget)[0]) if method == "slimming-floor" else None
        return {
            **_about(name, method, budget, found),
            "before": found["before"],
            "share": first["share"],
            "search_seconds": first["seconds"] + card["seconds"],
            "search_images": looked,
            "search_work": PASSES * looked * self.macs(name),
            "source_epochs": _source_epochs(name),
            "same_as": "slimming" if channels_of(rows) == stated else None,
            "channels": channels_of(rows),
            "expansion": 1.0,
        }

    def pruned(self, name: str, method: str, budget: float) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The structure of a trained network by a method of `TRAINED`, and what the fine-tuned network is."""
        base, shape = f"{name}-{TRAINED[method]}", self.shape(name)
        whole = self.preset.recipe(name)
        epochs = max(1, round((whole.epochs - self.preset.recipe(base).epochs) / budget))
        recipe = self.recipe(name, epochs, learning_rate=whole.learning_rate * self.settings.finetune_rate)
        cut = CUTS[method]
        options = {"least": LEAST} if method == "slimming-floor" else {}
        key = {**self.network_key(name), "method": method, "budget": budget, **options}

        def find() -> pd.DataFrame:
            return rows_of(cut(self.network(base), budget, shape, **options), 1.0)

        def tune() -> pd.DataFrame:
            model = self.network(base)
            model = shrink(model, cut(model, budget, shape, **options).keep)
            before = accuracy(model, self.test_images(name))
            return pd.DataFrame([{**self.fit(name, model, recipe), "before": before}])

        rows = self.table("scratch-static", key, find, base)
        if method == "slimming-floor":
            stated, tuned_as_stated = self.pruned(name, "slimming", budget)
            if channels_of(stated) == channels_of(rows):  # of one layer's channels the same ones go either way
                return rows, tuned_as_stated
        tuned = self.table("scratch-tuned", {**key, **self.training_key(name, recipe)}, tune, base)
        return rows, dict(tuned.iloc[0])

    def _with_latency(self, name: str, rows: Sequence[dict[str, Any]], budget: float) -> Iterator[dict[str, Any]]:
        """The rows of a budget, each with the latency of its structure."""
        narrow = [row for row in rows if row["method"] in (*FRESH, *TRAINED)]
        found = self.latencies(name, {row["method"]: (row["channels"], row["expansion"]) for row in narrow}, budget)
        for row in rows:
            method = row["method"].removesuffix("-budget").removesuffix("-counted")
            yield {**row, "latency": found[found["method"] == method].set_index("batch")["median"].to_dict()}

    def structures(self, name: str, budget: float) -> pd.DataFrame:
        """The share of channels each structure keeps: one row a method and convolution: method, layer, width, kept."""
        wide = self.settings.expansion
        parts = [self.structure(name, method, budget, wide).assign(method=method) for method in FRESH]
        parts += [self.pruned(name, method, budget)[0].assign(method=method) for method in TRAINED]
        return pd.concat(parts, ignore_index=True)[["method", "layer", "width", "kept"]]


def _about(name: str, method: str, budget: float, found: Mapping[str, Any]) -> dict[str, Any]:
    """What the training of a narrower network gives to its row; `found` as `DynamicRun.fit` returns it."""
    row: dict[str, Any] = {"network": name, "method": method, "budget": budget}
    row |= {key: found[key] for key in ("accuracy", "n", "parameters", "macs", "epochs")}
    row |= {"train_seconds": found["seconds"], "train_images": found["images"]}
    return row | {"train_work": PASSES * found["images"] * found["macs"]}


def _source_epochs(name: str, gates: bool = False) -> int | None:
    """Epochs of the search at `scale: paper`: of the gates, or of training before pruning; None: no such network."""
    paper, base = config.load("paper"), f"{name}-half"
    if base not in paper.networks:
        return None
    return Settings.of("paper").gate_epochs if gates else paper.recipe(base).epochs

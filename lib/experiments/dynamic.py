"""What the experiments on pruned networks share: gates learned on given weights, narrower networks trained from fresh.

Every structure and every training is kept on its own, addressed by all that it depends on: a run that was stopped goes
on from there, and a structure that two experiments look at is trained once.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
import pandas as pd
import torch
from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from torch import nn

from lib import compute, config, data, recipes, training
from lib.config import Recipe
from lib.dynamic import cost, static
from lib.dynamic.channels import gated_sites
from lib.dynamic.errors import DynamicError
from lib.dynamic.scratch.build import build_pruned
from lib.dynamic.scratch.gates import Gates, learn_gates
from lib.dynamic.scratch.search import Structure, search_threshold
from lib.experiments.run import Run
from lib.experiments.settings import Count, Settings, once

Names = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(once)]
Budget = Annotated[float, Field(gt=0, lt=1)]
Budgets = Annotated[tuple[Budget, ...], Field(min_length=1), AfterValidator(once)]
Batches = Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(once)]
Positive = Annotated[float, Field(gt=0)]

STARTS = {
    "scratch": "random weights, widened",
    "plain": "random weights",
    "random": "random scores",
    "uniform": "every layer alike",
}
"""Where a structure comes from, where no network is trained for it."""


class Dynamic(Settings):
    """Shared settings of these experiments.

    Attributes:
        gate_images: training images that gates are learned with, a tenth of them held out; the source: all 50,000.
        gates_in_full: networks whose gates are learned with all of their training images, whatever `gate_images` says.
        gate_epochs: epochs of that; the source: 10.
        gate_batch: images a step; the source: 128.
        gate_rate: learning rate of Adam; the source: .01.
        gate_weight: lambda, how much the penalty counts; the source: .5.
        gate_ratio: mean of all gates that the penalty asks for, in (0, 1]; the source: .2.
        latency_batches: images that a timed network runs at once.
        latency_repeats: timed passes of each, where all are timed in turns.
    """

    study: ClassVar[str] = "dynamic"

    gate_images: Count = Field(50000, title="images for the gates")
    gates_in_full: tuple[str, ...] = ()
    gate_epochs: Count = Field(10, title="epochs of the gates")
    gate_batch: Count = 128
    gate_rate: Positive = 0.01
    gate_weight: float = Field(0.5, ge=0)
    gate_ratio: float = Field(0.2, gt=0, le=1)
    latency_batches: Batches = (1, 64)
    latency_repeats: Count = 20

    @field_validator("gates_in_full")
    @classmethod
    def _are_there(cls, chosen: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        check_networks(chosen, info.data["scale"])
        return chosen


S = TypeVar("S", bound=Dynamic)


def check_networks(names: Iterable[str], scale: str) -> None:
    """Raises: ValueError naming the first network that a scale does not have."""
    missing = [name for name in names if name not in config.load(scale).networks]
    if missing:
        raise ValueError(f"needs a network {missing[0]!r}, for which config/{scale}.yaml has no recipe")


class DynamicRun(Run[S]):
    """One seed: of first weights, of gates, and of training."""

    def recipe(self, name: str, epochs: int | None = None, **changes: Any) -> Recipe:
        """How a network is trained, for as many epochs as it says, or others; hooks and start left out."""
        recipe = self.preset.recipe(name)
        bare: dict[str, Any] = {"start": None, "transforms": (), "hooks": (), "prepare": ()}
        return replace(recipe, epochs=epochs or recipe.epochs, **bare, **changes)

    def shape(self, name: str) -> tuple[int, ...]:
        """(channels, height, width) of the images of a network's data set."""
        return tuple(data.SETS[self.preset.recipe(name).data].shape)

    def train_images(self, name: str) -> data.ImageSet:
        """The images that a network is trained on."""
        recipe = self.preset.recipe(name)
        return self.images(recipe.fit_split, recipe.train_limit, recipe.data)

    def test_images(self, name: str) -> data.ImageSet:
        """All test images of a network's data set."""
        return self.images("test", None, self.preset.recipe(name).data)

    def fresh(self, name: str, expansion: float = 1.0) -> nn.Module:
        """A network with first weights, every width expanded; block outputs too.

        Args:
            name: of the recipe, whose arch_args name the width.
            expansion: of the width, rounded to whole channels.
        Raises: DynamicError where the recipe names no width.
        """
        recipe = self.preset.recipe(name)
        arguments = config.thaw(recipe.arch_args)
        if "width" not in arguments:
            raise DynamicError(
                f"network {name}: arch_args has no width to expand: write it into config/{self.scale}.yaml"
            )
        arguments["width"] = round(arguments["width"] * expansion)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = recipes.fresh(replace(recipe, arch_args=arguments))
        return model.to(compute.device(self.preset.compute.device)).to(memory_format=self.layout)

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.preset.compute.channels_last else torch.contiguous_format

    @lru_cache(maxsize=64)  # noqa: B019 (a run is short-lived)
    def macs(self, name: str, expansion: float = 1.0) -> int:
        """Multiply-accumulates of an image's pass through the whole network, widened or not."""
        return cost.macs(self.fresh(name, expansion), self.shape(name))

    def gate_images(self, name: str) -> int:
        """How many training images a network's gates are learned with."""
        train = len(self.train_images(name))
        return train if name in self.settings.gates_in_full else min(self.settings.gate_images, train)

    def gates(self, name: str, model: nn.Module) -> Gates:
        """Gates learned on a network with these settings; its weights stay."""
        chosen, part = self.settings, self.train_images(name).stratified(self.gate_images(name), seed=0)
        return learn_gates(
            model,
            part.images,
            part.labels,
            ratio=chosen.gate_ratio,
            weight=chosen.gate_weight,
            epochs=chosen.gate_epochs,
            batch=chosen.gate_batch,
            learning_rate=chosen.gate_rate,
            seed=self.seed,
            precision=self.preset.compute.training_precision,
        )

    def structure(self, name: str, start: str, budget: float, expansion: float = 1.0) -> pd.DataFrame:
        """A structure whose multiply-accumulates are a share of the unexpanded network's; kept.

        Args:
            start: a key of `STARTS`.
            budget: that share, in (0, 1).
            expansion: of the network that is narrowed, where the start is "scratch".
        Returns: as `rows_of`.
        """
        if start not in STARTS:
            raise DynamicError(f"no start {start!r}: one of {', '.join(STARTS)}")
        wide = expansion if start == "scratch" else 1.0

        def make() -> pd.DataFrame:
            model, shape, whole = self.fresh(name, wide), self.shape(name), self.macs(name)
            if start == "uniform":
                return rows_of(static.uniform_structure(model, budget, shape, whole), wide)
            if start == "random":
                generator = torch.Generator().manual_seed(self.seed)
                scores = {k: torch.rand(site.channels, generator=generator) for k, site in gated_sites(model).items()}
                return rows_of(search_threshold(model, scores, budget, shape, reference=whole), wide)
            gates = self.gates(name, model)
            return rows_of(search_threshold(model, gates, budget, shape, reference=whole), wide, gates)

        key = {**self.network_key(name), "seed": self.seed, "start": start, "budget": budget}
        if start in ("scratch", "plain"):
            key |= self.gate_key(name)
        if start == "scratch":
            key["expansion"] = expansion
        return self.table("scratch-structure", key, make)

    def trained(
        self, name: str, channels: Mapping[str, int], expansion: float = 1.0, epochs: int | None = None
    ) -> dict[str, Any]:
        """A narrower network trained from fresh weights, measured on the test images; kept.

        Args:
            channels: convolution -> output channels it has.
            expansion: of the network that is narrowed.
            epochs: None: as many as the recipe says.
        Returns: as `fit`.
        """
        recipe = self.recipe(name, epochs)

        def make() -> pd.DataFrame:
            model = build_pruned(self.fresh(name, expansion), channels, seed=self.seed)
            return pd.DataFrame([self.fit(name, model, recipe)])

        own = {"seed": self.seed, "expansion": expansion, "channels": dict(channels)}
        return dict(self.table("scratch-trained", {**self.training_key(name, recipe), **own}, make).iloc[0])

    def fit(self, name: str, model: nn.Module, recipe: Recipe) -> dict[str, Any]:
        """Train a network in place, and what it then is.

        Returns: accuracy, n, parameters, macs, seconds (of the training), images (seen in training), epochs.
        """
        compute.deterministic()
        train, test = self.train_images(name), self.test_images(name)
        history = training.fit(model, train, recipe, seed=self.seed, device=self.preset.compute.device)
        return {
            "accuracy": training.accuracy(model, test),
            "n": len(test),
            "parameters": cost.parameters(model),
            "macs": cost.macs(model, self.shape(name)),
            "seconds": sum(epoch["seconds"] for epoch in history),
            "images": seen(recipe, len(train)),
            "epochs": recipe.epochs,
        }

    def latencies(self, name: str, of: Mapping[str, tuple[Mapping[str, int], float]], budget: float) -> pd.DataFrame:
        """Measured seconds an image of narrower networks and of the whole one, in float32, in turns in one process.

        Args:
            of: method -> channels of its structure, and the expansion of the network that is narrowed.
            budget: what the structures were cut to; it only names the table.
        Returns: one row a method ("full" among them) and batch: method, batch, median, low, high (seconds an image).
        """
        chosen, preset = self.settings, self.preset.compute

        def make() -> pd.DataFrame:
            rows = []
            networks = {"full": self.fresh(name).eval()}
            networks |= {
                k: build_pruned(self.fresh(name, wide), channels, seed=0) for k, (channels, wide) in of.items()
            }
            for batch in chosen.latency_batches:
                images = torch.rand(batch, *self.shape(name), generator=torch.Generator().manual_seed(0))
                images = images.to(compute.device(preset.device)).contiguous(memory_format=self.layout)
                seconds: dict[str, list[float]] = {method: [] for method in networks}
                for turn in range(chosen.latency_repeats):  # in turns: other work on the machine then meets all alike
                    for method, model in networks.items():
                        model.to(memory_format=self.layout)
                        seconds[method].append(cost.latency(model, images, 1, warmup=0 if turn else 2).median)
                for method, each in seconds.items():
                    low, median, high = np.quantile(each, [0.25, 0.5, 0.75]).tolist()
                    rows.append({"method": method, "batch": batch, "median": median, "low": low, "high": high})
            return pd.DataFrame(rows)

        shapes = json.dumps({method: [dict(channels), wide] for method, (channels, wide) in of.items()}, sort_keys=True)
        key = {**self.network_key(name), "structures": shapes, "budget": budget}
        key |= {"batches": chosen.latency_batches, "repeats": chosen.latency_repeats, "threads": preset.threads}
        return self.table("scratch-latency", key, make)

    def network_key(self, name: str) -> dict[str, Any]:
        """What an untrained network of a recipe depends on."""
        recipe = self.preset.recipe(name)
        return {"arch": recipe.arch, "args": config.thaw(recipe.arch_args), "data": recipe.data}

    def gate_key(self, name: str) -> dict[str, Any]:
        """What learning the gates depends on, beside the network."""
        of_gates = {key: getattr(self.settings, key) for key in Dynamic.model_fields if key.startswith("gate_")}
        if name in self.settings.gates_in_full:
            of_gates["gate_images"] = self.gate_images(name)
        precision = self.preset.compute.training_precision
        return {**of_gates, "images": self.train_images(name).fingerprint, "precision": precision}

    def training_key(self, name: str, recipe: Recipe) -> dict[str, Any]:
        """What training depends on, beside the first weights."""
        images = {"train": self.train_images(name).fingerprint, "test": self.test_images(name).fingerprint}
        return {"recipe": recipe.plain(), **images}


def rows_of(found: Structure, expansion: float, gates: Gates | None = None) -> pd.DataFrame:
    """A structure as a table.

    Returns: one row a convolution with gates: layer, width, kept; and the same in each: macs, share, dropped,
        iterations, expansion, zeros, mean_gate, gate_epoch, rule (of the gates; empty without gates), seconds,
        gate_accuracy (validation, at the chosen epoch).
    """
    about: dict[str, Any] = {"macs": found.macs, "share": found.share, "dropped": found.dropped}
    about |= {"iterations": found.iterations, "expansion": expansion, "seconds": found.seconds}
    about |= {"zeros": None, "mean_gate": None, "gate_epoch": None, "rule": None, "gate_accuracy": None}
    if gates is not None:
        about |= {"zeros": gates.zeros, "mean_gate": gates.mean, "gate_epoch": gates.chosen_epoch, "rule": gates.rule}
        about |= {"gate_accuracy": gates.history[gates.chosen_epoch - 1]["accuracy"]}
        about["seconds"] = found.seconds + gates.seconds
    rows = [{"layer": k, "width": len(mask), "kept": found.channels[k], **about} for k, mask in found.keep.items()]
    return pd.DataFrame(rows)


def channels_of(rows: pd.DataFrame) -> dict[str, int]:
    """Convolution -> how many output channels a structure keeps."""
    return dict(zip(rows["layer"], map(int, rows["kept"]), strict=True))


def seen(recipe: Recipe, count: int) -> int:
    """Images that a training of a recipe on `count` images goes through, each as often as it comes."""
    return recipe.epochs * max(1, count // recipe.batch) * min(recipe.batch, count)


_FAMILIES = {"resnet": "ResNet", "vgg": "VGG", "mobilenet": "MobileNet"}


def titled(name: str, width: int = 22) -> str:
    """A recipe's name as a panel shows it, on short lines.

    dynamic-resnet-stated-b0.5 -> ResNet, stated, at 0.5 of the FLOPs; scratch-vgg16 -> VGG16.

    Args:
        width: of a line, in characters.
    """
    words = []
    for word in re.sub(r"^(dynamic|scratch)-", "", name).split("-"):
        family = next((family for family in _FAMILIES if word.startswith(family)), None)
        budget = re.fullmatch(r"b(\d.*)", word)
        if family:
            words.append(_FAMILIES[family] + word.removeprefix(family))
        elif budget:
            words.append(f"at {budget[1]} of the FLOPs")
        elif re.fullmatch(r"v\d", word) and words:
            words[-1] += f" {word}"
        else:
            words.append(word)
    return textwrap.fill(", ".join(words), width)

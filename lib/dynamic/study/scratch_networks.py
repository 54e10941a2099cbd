"""What the studies of pruning from scratch share: settings, structures, narrower networks trained and measured.

Every structure and every training is kept on its own, addressed by all that it depends on: a run that was stopped goes
on from there, and a structure that two studies look at is trained once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from lib import compute, config, data, evaluations, recipes, training
from lib.config import Recipe
from lib.dynamic import cost, static
from lib.dynamic.channels import gated_sites
from lib.dynamic.errors import DynamicError
from lib.dynamic.scratch.build import build_pruned
from lib.dynamic.scratch.gates import Gates, learn_gates
from lib.dynamic.scratch.search import Structure, search_threshold

VERSION = 1  # raise it when a change in these studies' code changes their numbers

DEFAULTS: dict[str, Any] = {
    "scratch_networks": ["scratch-resnet20", "scratch-vgg16"],
    "scratch_once": [],
    "scratch_budgets": [0.5],
    "scratch_expansion": 1.25,
    "gate_images": 50000,
    "gate_epochs": 10,
    "gate_batch": 128,
    "gate_rate": 0.01,
    "gate_weight": 0.5,
    "gate_ratio": 0.2,
    "finetune_rate": 0.25,
    "latency_batches": [1, 64],
    "latency_repeats": 20,
    "diversity_networks": ["scratch-resnet20", "scratch-vgg16"],
    "diversity_budget": 0.5,
    "diversity_starts": 5,
    "diversity_epochs": [1, 2],
}
"""Settings that a scale may leave out. scratch_once: networks that only the first seed is done for; gate_*: of
`learn_gates`; finetune_rate: of the trained network's rate, for fine-tuning; diversity_epochs: after which gates are
learned on a network in training, beside the last."""

STARTS = {
    "scratch": "random weights, widened",
    "plain": "random weights",
    "random": "random scores",
    "uniform": "every layer alike",
}
"""Where a structure comes from; a trained network's is "epoch <k>"."""


def settings(scale: str) -> dict[str, Any]:
    """The scale's settings of these studies, with `DEFAULTS` for what it leaves out."""
    return evaluations.settings(scale, "dynamic", DEFAULTS)


def recipe_of(scale: str, name: str, epochs: int | None = None, **changes: Any) -> Recipe:
    """How a network of the scale is trained, for as many epochs as it says, or others; hooks and start left out."""
    recipe = config.load(scale).recipe(name)
    return replace(recipe, epochs=epochs or recipe.epochs, start=None, transforms=(), hooks=(), prepare=(), **changes)


def shape_of(scale: str, name: str) -> tuple[int, ...]:
    """(channels, height, width) of the images of a network's data set."""
    return tuple(data.SETS[config.load(scale).recipe(name).data].shape)


@lru_cache(maxsize=2)
def train_images(scale: str, name: str) -> data.ImageSet:
    """The images that a network of the scale is trained on."""
    recipe = config.load(scale).recipe(name)
    whole = data.load(recipe.data, recipe.fit_split)
    return whole if recipe.train_limit is None else whole.stratified(recipe.train_limit, seed=0)


def test_images(scale: str, name: str) -> data.ImageSet:
    """All test images of a network's data set."""
    return data.load(config.load(scale).recipe(name).data, "test")


def fresh(scale: str, name: str, seed: int, expansion: float = 1.0) -> nn.Module:
    """A network of the scale with first weights, every width expanded; block outputs too.

    Args:
        scale, name: of the recipe, whose arch_args name the width.
        seed: of the weights.
        expansion: of the width, rounded to whole channels.
    """
    recipe = config.load(scale).recipe(name)
    arguments = config.thaw(recipe.arch_args)
    if "width" not in arguments:
        raise DynamicError(f"network {name}: arch_args has no width to expand: write it into config/{scale}.yaml")
    arguments["width"] = round(arguments["width"] * expansion)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = recipes.fresh(replace(recipe, arch_args=arguments))
    preset = config.load(scale).compute
    layout = torch.channels_last if preset.channels_last else torch.contiguous_format
    return model.to(compute.device(preset.device)).to(memory_format=layout)


def gates_of(scale: str, name: str, model: nn.Module, seed: int) -> Gates:
    """Gates learned on a network with the scale's settings; its weights stay."""
    chosen, train = settings(scale), train_images(scale, name)
    part = train.stratified(min(chosen["gate_images"], len(train)), seed=0)
    return learn_gates(
        model,
        part.images,
        part.labels,
        ratio=chosen["gate_ratio"],
        weight=chosen["gate_weight"],
        epochs=chosen["gate_epochs"],
        batch=chosen["gate_batch"],
        learning_rate=chosen["gate_rate"],
        seed=seed,
        precision=config.load(scale).compute.training_precision,
    )


def structure(scale: str, name: str, seed: int, start: str, budget: float) -> pd.DataFrame:
    """A structure whose multiply-accumulates are a share of the unexpanded network's.

    Args:
        start: a key of `STARTS`.
        budget: that share.
    Returns: one row a convolution with gates: layer, width, kept; and the same in each: macs, share, dropped,
        iterations, expansion, zeros, mean_gate, gate_epoch, rule (of the gates; empty without gates), seconds,
        gate_accuracy (validation, at the chosen epoch).
    """
    if start not in STARTS:
        raise DynamicError(f"no start {start!r}: one of {', '.join(STARTS)}")

    def make() -> pd.DataFrame:
        wide = settings(scale)["scratch_expansion"] if start == "scratch" else 1.0
        model, shape = fresh(scale, name, seed, wide), shape_of(scale, name)
        whole = cost.macs(fresh(scale, name, seed), shape)
        if start == "uniform":
            return rows_of(static.uniform_structure(model, budget, shape, whole), wide)
        if start == "random":
            generator = torch.Generator().manual_seed(seed)
            scores = {k: torch.rand(site.channels, generator=generator) for k, site in gated_sites(model).items()}
            return rows_of(search_threshold(model, scores, budget, shape, reference=whole), wide)
        gates = gates_of(scale, name, model, seed)
        return rows_of(search_threshold(model, gates, budget, shape, reference=whole), wide, gates)

    key = {**network_key(scale, name), "seed": seed, "start": start, "budget": budget}
    if start in ("scratch", "plain"):
        key |= gate_key(scale, name)
    if start == "scratch":
        key["expansion"] = settings(scale)["scratch_expansion"]
    return evaluations.kept_by("scratch-structure", scale, key, make, VERSION)


def rows_of(found: Structure, expansion: float, gates: Gates | None = None) -> pd.DataFrame:
    """A structure as rows; see `structure`."""
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


def network_key(scale: str, name: str) -> dict[str, Any]:
    """What an untrained network of a recipe depends on."""
    recipe = config.load(scale).recipe(name)
    return {"arch": recipe.arch, "args": config.thaw(recipe.arch_args), "data": recipe.data}


def gate_key(scale: str, name: str) -> dict[str, Any]:
    """What learning the gates depends on, beside the network."""
    chosen = settings(scale)
    of_gates = {key: value for key, value in chosen.items() if key.startswith("gate_")}
    precision = config.load(scale).compute.training_precision
    return {**of_gates, "images": train_images(scale, name).fingerprint, "precision": precision}


def trained(
    scale: str, name: str, seed: int, channels: Mapping[str, int], expansion: float = 1.0, epochs: int | None = None
) -> pd.DataFrame:
    """A narrower network trained from fresh weights, measured on the test images.

    Args:
        channels: convolution -> output channels it has.
        expansion: of the network that is narrowed.
        epochs: None: as many as the recipe says.
    Returns: one row: accuracy, n, parameters, macs, seconds (of the training), images (seen in training), epochs.
    """
    recipe = recipe_of(scale, name, epochs)

    def make() -> pd.DataFrame:
        model = build_pruned(fresh(scale, name, seed, expansion), channels, seed=seed)
        return pd.DataFrame([fitted(scale, name, model, recipe, seed)])

    key = {**training_key(scale, name, recipe), "seed": seed, "expansion": expansion, "channels": dict(channels)}
    return evaluations.kept_by("scratch-trained", scale, key, make, VERSION)


def fitted(scale: str, name: str, model: nn.Module, recipe: Recipe, seed: int) -> dict[str, Any]:
    """Train a network in place, and what it then is; see `trained`."""
    compute.deterministic()
    train, test = train_images(scale, name), test_images(scale, name)
    history = training.fit(model, train, recipe, seed=seed, device=config.load(scale).compute.device)
    return {
        "accuracy": training.accuracy(model, test),
        "n": len(test),
        "parameters": cost.parameters(model),
        "macs": cost.macs(model, shape_of(scale, name)),
        "seconds": sum(epoch["seconds"] for epoch in history),
        "images": seen(recipe, len(train)),
        "epochs": recipe.epochs,
    }


def seen(recipe: Recipe, count: int) -> int:
    """Images that a training of a recipe on `count` images goes through, each as often as it comes."""
    return recipe.epochs * max(1, count // recipe.batch) * min(recipe.batch, count)


def training_key(scale: str, name: str, recipe: Recipe) -> dict[str, Any]:
    """What training depends on, beside the first weights."""
    images = {"train": train_images(scale, name).fingerprint, "test": test_images(scale, name).fingerprint}
    return {"recipe": recipe.plain(), **images}


def latencies(
    scale: str, name: str, seed: int, of: Mapping[str, tuple[Mapping[str, int], float]], budget: float
) -> pd.DataFrame:
    """Measured seconds an image of narrower networks and of the whole one, in float32, by turns in one process.

    Args:
        of: method -> channels of its structure, and the expansion of the network that is narrowed.
        budget: what the structures were cut to; it only names the table.
    Returns: one row a method ("full" among them) and batch: method, batch, median, low, high (seconds an image).
    """
    chosen, preset = settings(scale), config.load(scale).compute

    def make() -> pd.DataFrame:
        shape, rows = shape_of(scale, name), []
        networks = {"full": fresh(scale, name, seed).eval()}
        networks |= {
            k: build_pruned(fresh(scale, name, seed, wide), channels, seed=0) for k, (channels, wide) in of.items()
        }
        layout = torch.channels_last if preset.channels_last else torch.contiguous_format
        for batch in chosen["latency_batches"]:
            images = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))
            images = images.to(compute.device(preset.device)).contiguous(memory_format=layout)
            seconds: dict[str, list[float]] = {method: [] for method in networks}
            for turn in range(chosen["latency_repeats"]):  # by turns: other work on the machine then meets all alike
                for method, model in networks.items():
                    model.to(memory_format=layout)
                    seconds[method].append(cost.latency(model, images, 1, warmup=0 if turn else 2).median)
            for method, each in seconds.items():
                low, median, high = np.quantile(each, [0.25, 0.5, 0.75]).tolist()
                rows.append({"method": method, "batch": batch, "median": median, "low": low, "high": high})
        return pd.DataFrame(rows)

    structures = json.dumps({method: [dict(channels), wide] for method, (channels, wide) in of.items()}, sort_keys=True)
    key = {**network_key(scale, name), "structures": structures, "budget": budget}
    key |= {"batches": chosen["latency_batches"], "repeats": chosen["latency_repeats"], "threads": preset.threads}
    return evaluations.kept_by("scratch-latency", scale, key, make, VERSION)

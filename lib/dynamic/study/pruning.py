"""Networks pruned to the same FLOPs, by image or once for all: what the notebook on LCS pruning and the graph read.

    python -m lib.evaluations --run lib.dynamic.study.pruning:make --scale smoke --seed 0

A network's names follow from that of the dense one, D: `D-on` (trained on for as long), `D-<form>` (decision units),
`D-<form>-b<budget>` (fine-tuned at a budget), the same with `-static` (one mask for all), `D-boosting-b<budget>`.
Networks that are pruned once are trained here. Each network's row is kept by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lib import compute, config, data, evaluations, training, zoo
from lib.data import ImageSet
from lib.dynamic.boosting import FeatureBoosting
from lib.dynamic.cost import macs, parameters
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs import budget as budgets
from lib.dynamic.lcs.controls import entropies, static_masks, untrained
from lib.dynamic.lcs.folding import folded, packed
from lib.dynamic.lcs.network import LayerwiseChannelSelection
from lib.dynamic.lcs.skipping import SkippingNetwork
from lib.dynamic.scratch.build import build_pruned, shrink
from lib.dynamic.scratch.search import search_threshold
from lib.dynamic.static import l1_structure
from lib.dynamic.study import scratch_networks
from lib.dynamic.timing import networks_in_turns
from lib.progress import bar

VERSION = 1  # raise it when a change in this study's code changes its numbers
FORMS = ("stated", "standardised")
PRUNED_ONCE = ("l1", "scratch")
CHOICES = ("decided", "static", "random", "uniform", "top", "untrained")
STAGES = ("trained", "thresholded", "recalibrated", "tuned")
COLLAPSED = 0.05  # bits of a layer's choices below which it counts as collapsed

DEFAULTS: dict[str, Any] = {
    "pruning_networks": ["dynamic-resnet", "dynamic-vgg16"],
    "pruning_budgets": [0.5],
    "pruning_images": 10000,
    "calibration_images": 2000,
    "latency_batches": [1, 64],
    "latency_seconds": 1.0,
    "latency_align": 8,
}
"""Settings of `study.dynamic` that a scale may leave out. pruning_networks: dense networks; pruning_budgets: shares of
their MACs; pruning_images: test images; calibration_images: training images that BN, frequencies and static masks are
measured with; latency_*: images a batch, seconds of timing a side, and channels
that the skipping network fills up to a multiple of."""

COLUMNS = ["network", "method", "budget", "accuracy", "parameters", "macs", "share", "n"]


def settings(scale: str) -> dict[str, Any]:
    """The scale's settings of this study, with `DEFAULTS` for what it leaves out."""
    return evaluations.settings(scale, "dynamic", DEFAULTS)


def make(scale: str, seed: int) -> None:
    """All that the notebook shows of one seed: a node of the graph."""
    compute.deterministic()
    methods(scale, seed)
    stages(scale, seed)
    choices(scale, seed)


def trained_networks(scale: str) -> list[str]:
    """The named networks that the study rests on. Raises: DynamicError naming one that the scale does not have."""
    chosen, preset = settings(scale), config.load(scale)
    names = []
    for base in chosen["pruning_networks"]:
        names += [base, f"{base}-on", *(f"{base}-{form}" for form in FORMS)]
        for budget in chosen["pruning_budgets"]:
            names += [tuned(base, form, budget) for form in FORMS]
            names += [f"{tuned(base, form, budget)}-static" for form in FORMS]
            names.append(f"{base}-boosting-b{budget:g}")
    missing = [name for name in names if name not in preset.networks]
    if missing:
        raise DynamicError(
            f"config/{scale}.yaml: study.dynamic.pruning_networks and pruning_budgets need a network {missing[0]!r}: "
            "add its recipe, or leave its dense network or budget out"
        )
    return names


def tuned(base: str, form: str, budget: float) -> str:
    """The name of the network with decision units of a form, fine-tuned at a budget."""
    return f"{base}-{form}-b{budget:g}"


def methods(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """Every network at every budget, pruned in every way.

    Args: scale, seed: of the networks, as in `zoo.get`, which trains those that are not there yet.
    Returns: one row a dense network, method and budget (dense networks: 1): `COLUMNS`, share being that of the dense
        network's MACs, the mean over test images where these choose; and for each batch size b `seconds_b` (an image),
        `time_b` (as a share of the dense network's in the same turns) and `memory_mb` (slices that skipping keeps).
    """
    chosen = settings(scale)
    trained_networks(scale)
    cases: list[Callable[[], pd.DataFrame]] = []
    for base in chosen["pruning_networks"]:
        cases += [partial(_dense, scale, seed, base, name) for name in (base, f"{base}-on")]
        for budget in map(float, chosen["pruning_budgets"]):
            both = [(form, static) for form in FORMS for static in ("", "-static")]
            cases += [partial(_chosen, scale, seed, base, form, budget, static) for form, static in both]
            cases.append(partial(_boosted, scale, seed, base, budget))
            cases += [partial(_once, scale, seed, base, method, budget) for method in PRUNED_ONCE]
    return pd.concat([case() for case in bar(cases, desc="pruned networks")], ignore_index=True)


def stages(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """What a network with decision units goes through: trained, thresholded, BN recalibrated, fine-tuned.

    Returns: one row a dense network, form, budget and stage ("recalibrated": BN, and what standardised units take off,
        measured anew after the cut): accuracy, share (of the MACs), zeros (share of mask
        entries), magnitude (their mean), entropy (bits, mean over layers), collapsed (share of the layers whose choices
        have less than .05 bits), n.
    """
    return pd.concat([_stages(scale, seed, *case) for case in _cases(scale)], ignore_index=True)


def choices(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """The fine-tuned networks with masks chosen in other ways: what a dynamic choice must beat.

    Returns: one row a dense network, form, budget and choice: "decided" by the units; "static", the rows' mean, cut to
        the same MACs; rows "random" at the frequencies of the units' choices, or "uniform"; the "top" row;
        "untrained", by units drawn anew. accuracy and share (of the MACs), BN recalibrated for each; n.
    """
    return pd.concat([_choices(scale, seed, *case) for case in _cases(scale)], ignore_index=True)


def _cases(scale: str) -> list[tuple[str, str, float]]:
    chosen = settings(scale)
    bases, each = chosen["pruning_networks"], chosen["pruning_budgets"]
    return [(base, form, float(budget)) for base in bases for form in FORMS for budget in each]


def test_of(scale: str, base: str) -> ImageSet:
    """The test images that a network is tried on."""
    return evaluations.test_images(config.load(scale).recipe(base).data, settings(scale)["pruning_images"])


@lru_cache(maxsize=2)
def calibration(scale: str, base: str) -> ImageSet:
    """Training images that BN, frequencies and static masks are measured with, as many of each class."""
    train = data.load(config.load(scale).recipe(base).data, "train")
    return train.stratified(min(settings(scale)["calibration_images"], len(train)), seed=0)


# Rows of `methods`


def _dense(scale: str, seed: int, base: str, name: str) -> pd.DataFrame:
    method = "dense" if name == base else "dense-on"
    return _kept(scale, seed, base, name, method, 1.0, lambda model: (model, model))


def _chosen(scale: str, seed: int, base: str, form: str, budget: float, static: str) -> pd.DataFrame:
    name, method = f"{tuned(base, form, budget)}{static}", f"{form}{static}"
    align = settings(scale)["latency_align"]

    def prepared(model: nn.Module) -> tuple[nn.Module, nn.Module]:
        assert isinstance(model, LayerwiseChannelSelection)
        if not static:
            return model, SkippingNetwork(model, align)
        return _narrow(model), _narrow(model)  # one mask for all is a narrower network

    return _kept(scale, seed, base, name, method, budget, prepared)


def _boosted(scale: str, seed: int, base: str, budget: float) -> pd.DataFrame:
    name = f"{base}-boosting-b{budget:g}"
    return _kept(scale, seed, base, name, "boosting", budget, lambda model: (model, model))


def _once(scale: str, seed: int, base: str, method: str, budget: float) -> pd.DataFrame:
    """A network that is pruned once and then trained: what dynamic pruning is compared with."""
    preset = config.load(scale)
    first, on = preset.recipe(base), preset.recipe(f"{base}-on")
    both = replace(first, epochs=first.epochs + on.epochs)
    recipe = on if method == "l1" else both
    key = _key(scale, base, method, budget) | {"recipe": recipe.plain()}
    if method == "scratch":
        key |= {"gates": scratch_networks.gate_key(scale, base)}

    def compute_it() -> pd.DataFrame:
        images = scratch_networks.train_images(scale, base)
        dense, shape = zoo.get(base, scale, seed), tuple(data.SETS[first.data].shape)
        if method == "l1":
            model = shrink(dense, l1_structure(dense, budget, shape).keep)
        else:
            model = _from_scratch(scale, base, dense, budget, seed)
        training.fit(model, images, recipe, seed=seed, device=preset.compute.device)
        row = _measured(scale, base, dense, model.eval(), model, method, budget)
        return pd.DataFrame([row])

    return evaluations.kept("lcs-pruning", base, scale, seed, key, compute_it, VERSION)


def _from_scratch(scale: str, base: str, dense: nn.Module, budget: float, seed: int) -> nn.Module:
    """A narrower network of fresh weights, its structure learned on random ones; not widened before."""
    blank = build_pruned(dense, {}, seed=seed)
    learned = scratch_networks.gates_of(scale, base, blank, seed)
    found = search_threshold(blank, learned, budget, scratch_networks.shape_of(scale, base))
    return build_pruned(blank, found, seed=seed)


def _kept(
    scale: str,
    seed: int,
    base: str,
    name: str,
    method: str,
    budget: float,
    prepared: Callable[[nn.Module], tuple[nn.Module, nn.Module]],
) -> pd.DataFrame:
    """The row of a named network, kept; `prepared` gives the form whose accuracy counts, and the one that is timed."""

    def compute_it() -> pd.DataFrame:
        dense, model = zoo.get(base, scale, seed), zoo.get(name, scale, seed)
        return pd.DataFrame([_measured(scale, base, dense, *prepared(model), method, budget)])

    key = _key(scale, base, method, budget)
    return evaluations.kept("lcs-pruning", name, scale, seed, key, compute_it, VERSION)


def _key(scale: str, base: str, method: str, budget: float) -> dict[str, Any]:
    chosen = settings(scale)
    latency = {name: chosen[name] for name in chosen if name.startswith("latency_")}
    about = {"network": base, "method": method, "budget": budget, "latency": latency}
    return {**about, "images": test_of(scale, base).fingerprint}


def _measured(
    scale: str, base: str, dense: nn.Module, model: nn.Module, runs: nn.Module, method: str, budget: float
) -> dict[str, Any]:
    """A network's accuracy, size, MACs and time.

    Args:
        dense: the network that it was pruned from.
        model: the network whose accuracy counts.
        runs: what is timed.
    """
    chosen, test = settings(scale), test_of(scale, base)
    shape = tuple(data.SETS[config.load(scale).recipe(base).data].shape)
    whole, images = macs(dense, shape), test.float(next(dense.parameters()).device)
    if isinstance(model, LayerwiseChannelSelection):
        spent = budgets.image_macs(model, images).double().mean().item()
    else:
        spent = model.share(shape) * whole if isinstance(model, FeatureBoosting) else float(macs(model, shape))
    right = training.accuracy(model, test)
    row: dict[str, Any] = {"network": base, "method": method, "budget": budget, "accuracy": right}
    row |= {"parameters": parameters(model), "macs": spent, "share": spent / whole, "n": len(test)}
    one, peer = _deployed(runs), _deployed(dense)
    for batch in chosen["latency_batches"]:
        parts = images[: 8 * batch].contiguous(memory_format=torch.channels_last).split(batch)
        parts = [part for part in parts if len(part) == batch]
        if not parts:
            raise DynamicError(f"latency_batches: {len(images)} test images make no batch of {batch}: take more images")
        told = networks_in_turns(one, peer, parts, chosen["latency_seconds"])
        row |= {f"seconds_{batch}": told.seconds / batch, f"time_{batch}": told.share}
    row["memory_mb"] = one.memory() / 1e6 if isinstance(one, SkippingNetwork) else 0.0
    return row


def _deployed(model: nn.Module) -> nn.Module:
    """A network as it would be run: BN folded, weights packed; one that is dynamic as it is."""
    if isinstance(model, (SkippingNetwork, FeatureBoosting, LayerwiseChannelSelection)):
        return model.to(memory_format=torch.channels_last)
    return packed(folded(model).to(memory_format=torch.channels_last))


def _narrow(lcs: LayerwiseChannelSelection) -> nn.Module:
    """A network whose rows are all the same as an ordinary narrower one, the mask folded into BN."""
    made = lcs.plain()
    keep = {}
    with torch.no_grad():
        for layer, wire in lcs.wires.items():
            mask = lcs.unit(layer).masks[0]
            norm: Any = made.get_submodule(wire.norm)
            norm.weight.mul_(mask)
            norm.bias.mul_(mask)
            keep[layer] = (mask != 0).cpu()
            if not keep[layer].any():
                keep[layer][0] = True
    return shrink(made, keep)


# Stages and choices


def _stages(scale: str, seed: int, base: str, form: str, budget: float) -> pd.DataFrame:
    name, least = tuned(base, form, budget), _least(scale, base, form, budget)

    def compute_it() -> pd.DataFrame:
        begun, ended = zoo.get(f"{base}-{form}", scale, seed), zoo.get(name, scale, seed)
        assert isinstance(begun, LayerwiseChannelSelection) and isinstance(ended, LayerwiseChannelSelection)
        images = calibration(scale, base).float(begun.device)
        rows = [_stage(scale, base, begun, "trained")]
        cut = copy.deepcopy(begun)
        budgets.threshold(cut, budget, images, least)
        rows.append(_stage(scale, base, cut, "thresholded"))
        cut.recalibrate_bn(images, units=True)
        rows += [_stage(scale, base, cut, "recalibrated"), _stage(scale, base, ended, "tuned")]
        return pd.DataFrame([{"network": base, "form": form, "budget": budget, **row} for row in rows])

    key = {**_images(scale, base), "budget": budget, "from": zoo.card(f"{base}-{form}", scale, seed)["weights"]}
    return evaluations.kept("lcs-stages", name, scale, seed, {**key, "least": least}, compute_it, VERSION)


def _stage(scale: str, base: str, lcs: LayerwiseChannelSelection, stage: str) -> dict[str, Any]:
    test = test_of(scale, base)
    images = test.float(lcs.device)
    bits = list(entropies(lcs.frequencies(images)).values())
    return {
        "stage": stage,
        "accuracy": training.accuracy(lcs, test),
        "share": budgets.share_of(lcs, images),
        "zeros": lcs.sparsity(),
        "magnitude": lcs.magnitude(),
        "entropy": sum(bits) / len(bits),
        "collapsed": sum(value < COLLAPSED for value in bits) / len(bits),
        "n": len(test),
    }


def _choices(scale: str, seed: int, base: str, form: str, budget: float) -> pd.DataFrame:
    name = tuned(base, form, budget)

    def compute_it() -> pd.DataFrame:
        lcs = zoo.get(name, scale, seed)
        assert isinstance(lcs, LayerwiseChannelSelection)
        test, images = test_of(scale, base), calibration(scale, base).float(lcs.device)
        rows = []
        for choice in CHOICES:
            with _choosing(lcs, choice, images, seed) as other:
                other.recalibrate_bn(images)
                share = budgets.share_of(other, test.float(lcs.device))
                rows.append({"choice": choice, "accuracy": training.accuracy(other, test), "share": share})
        about = {"network": base, "form": form, "budget": budget}
        return pd.DataFrame([{**about, **row, "n": len(test)} for row in rows])

    key = {**_images(scale, base), "budget": budget}
    return evaluations.kept("lcs-choices", name, scale, seed, key, compute_it, VERSION)


@contextmanager
def _choosing(
    lcs: LayerwiseChannelSelection, choice: str, images: Tensor, seed: int
) -> Iterator[LayerwiseChannelSelection]:
    """A copy of the network that chooses in one of the ways of `CHOICES`."""
    other = untrained(lcs, images, seed) if choice == "untrained" else copy.deepcopy(lcs)
    shares = lcs.frequencies(images)
    how: Any = nullcontext()
    if choice == "static":
        how = other.choosing("static", masks=static_masks(lcs, images))
    elif choice in ("random", "uniform"):
        how = other.choosing("random", shares if choice == "random" else None, seed=seed)
    elif choice == "top":
        how = other.choosing("top", shares)
    with how:
        yield other


def _images(scale: str, base: str) -> dict[str, Any]:
    return {"images": test_of(scale, base).fingerprint, "calibration": calibration(scale, base).fingerprint}


def _least(scale: str, base: str, form: str, budget: float) -> float:
    """The share of its channels that every row keeps, as the fine-tuned network's recipe has it."""
    hooks = config.load(scale).recipe(tuned(base, form, budget)).hooks
    return float(next((plug["least"] for plug in hooks if "least" in plug), 0.1))

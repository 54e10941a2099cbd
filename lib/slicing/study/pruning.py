"""Named networks pruned for each subset of their classes, computed once: what the notebook and the graph read.

    python -m lib.evaluations --run lib.slicing.study.pruning:make --scale smoke --seed 0

How 210 subsets, 7 ratios, 4 methods, with and without compensation, take minutes: Weight and Channel prune alike
whatever the target, so that each of their networks runs once over the test images of all classes, and the right
decisions class by class add up to those of every subset. For NNSlicer and EffectivePath a subset's synapses are ranked
once for all ratios, the weights of one network in memory are masked in place, and only the subset's images go through
it, in batches of 128 in bfloat16 (twice the images a second of float32; `precision` says how often it decides alike).
What is done is kept a few subsets at a time, so that a run that was stopped goes on from there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lib import compute, config, data, evaluations
from lib.config import Recipe
from lib.models.layers import weight_layers
from lib.progress import bar
from lib.slicing.masks import (
    Masks,
    by_position,
    channel_masks,
    masked,
    masks_of,
    ranking,
    subset_scores,
    subsets,
    weight_scores,
)
from lib.slicing.pruning import (
    FINE_TUNING,
    METHODS,
    OF_CLASSES,
    Bank,
    Centre,
    centred,
    centres,
    correct_by_class,
    decisions,
    fine_tune,
)
from lib.slicing.study import evaluation

VERSION = 1  # raise it when a change in this study's code changes its numbers

DEFAULTS: dict[str, Any] = {
    "subset_size": 4,
    "prune_subsets": None,
    "prune_ratios": [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
    "prune_test_images": 10000,
    "closer_subsets": 20,
    "finetune_subsets": None,
    "finetune_ratios": [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
    "finetune_images": 10000,
    "finetune_batch": FINE_TUNING["batch"],
}
"""Settings that a scale may leave out; subsets: how many (None: all C(classes, size)), the same for every network;
images in equal numbers from each class; closer_subsets: those that are looked at more closely
(another rule for ties; the other classes)."""

CHUNK = 10  # subsets kept at a time
COLUMNS = ["method", "ratio", "compensation", "classes", "right", "n", "by_position"]


@dataclass(frozen=True, eq=False)
class Bench:
    """A network with all that its pruned forms are tried with; the unpruned one's means are those of its profile."""

    model: nn.Module
    means: Mapping[str, Centre]
    bank: Bank
    classes: int
    precision: str


def settings(scale: str) -> dict[str, Any]:
    """The scale's settings of this study, with `DEFAULTS` for what it leaves out."""
    return {**DEFAULTS, **evaluation.settings(scale)}


@lru_cache(maxsize=1)
def bench(scale: str, seed: int) -> Bench:
    """The study's network, its means and the test images, ready to be tried."""
    chosen, preset = settings(scale), config.load(scale).compute
    on = compute.device(preset.device)
    layout = torch.channels_last if preset.channels_last else torch.contiguous_format
    model = copy.deepcopy(evaluation.network_of(scale, seed)).to(on).to(memory_format=layout)
    profile = evaluation.profile_of(scale, seed)
    means = centres(model, {layer: profile.input_mean(layer) for layer in weight_layers(model)})
    bank = Bank.of(evaluations.test_images(chosen["data"], chosen["prune_test_images"]), on, preset.channels_last)
    return Bench(model, means, bank, evaluation.class_count(scale), preset.training_precision)


@lru_cache(maxsize=2)
def scores_of(scale: str, seed: int, method: str) -> dict[str, Tensor]:
    """Scores of each class, layer -> int64 (classes, *weight.shape), on the scale's device."""
    on = compute.device(config.load(scale).compute.device)
    return {layer: score.to(on) for layer, score in evaluation.scores_of(scale, seed, method).items()}


@lru_cache(maxsize=4)
def train_images(name: str, count: int) -> data.ImageSet:
    """`count` training images of a set, equally from each class, the same for every network and seed."""
    return data.load(name, "train").stratified(count, seed=0)


def make(scale: str, seed: int) -> None:
    """All that the notebook shows of one seed: a node of the graph."""
    compute.deterministic()
    for part in (pruned, precision, ties_by_weight, on_other_classes, fine_tuned):
        part(scale, seed)


def name_of(classes: Sequence[int]) -> str:
    """A subset of classes in a table: (0, 3, 5, 8) is "0 3 5 8"."""
    return " ".join(map(str, classes))


def pruned(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """The accuracy of pruned networks on the test images of their target classes; an arg-max over all logits.

    Args:
        scale, seed: of the network, as in `zoo.get`; profile and scores are made where they are not there yet.
    Returns: one row a method, ratio (0: the dense network), compensation and subset: right decisions of n images, and
        by_position, the share of dropped weights that ties left to their position (none for Weight and Channel).
    """
    chosen = settings(scale)
    ratios, wanted = [float(r) for r in chosen["prune_ratios"]], _subsets(scale, "prune_subsets")
    whole = [_by_class(scale, seed, method, ratios if method else [0.0]) for method in ("", "weight", "channel")]
    parts = [_spread(whole[0].assign(method=method), wanted) for method in METHODS]
    parts += [_spread(frame, wanted) for frame in whole[1:]]
    chunks = [(m, wanted[k : k + CHUNK]) for m in OF_CLASSES for k in range(0, len(wanted), CHUNK)]
    parts += [_of_subsets(scale, seed, method, ratios, chunk) for method, chunk in bar(chunks, desc="pruned networks")]
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def ties_by_weight(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """As `pruned`, for NNSlicer and EffectivePath on some of the subsets, with the smaller |w| dropped first among
    weights of equal score, in place of the first position: how much of a curve is the rule for ties."""
    ratios, wanted = [float(r) for r in settings(scale)["prune_ratios"]], closer_subsets(scale)
    parts = [_of_subsets(scale, seed, method, ratios, wanted, ties="weight") for method in OF_CLASSES]
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def on_other_classes(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """As `pruned`, on some of the subsets and on the test images of the classes outside of them: what is given up."""
    ratios, wanted = [float(r) for r in settings(scale)["prune_ratios"]], closer_subsets(scale)
    parts = [_of_subsets(scale, seed, method, ratios, wanted, others=True) for method in OF_CLASSES]
    parts += [_spread(_by_class(scale, seed, m, ratios), wanted, others=True) for m in METHODS if m not in OF_CLASSES]
    dense = _by_class(scale, seed, "", [0.0])
    parts += [_spread(dense.assign(method=method), wanted, others=True) for method in METHODS]
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def fine_tuned(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """As `pruned`, after one epoch of training on, with the dropped weights kept at zero; ratio 0: nothing dropped.

    The training images are of all classes, in equal numbers: the source does not say that they are of the target's.
    """
    chosen = settings(scale)
    ratios, wanted = [float(r) for r in chosen["finetune_ratios"]], _subsets(scale, "finetune_subsets")
    parts = []
    trainings: list[tuple[str, tuple[int, ...] | None]] = [("", None), ("weight", None), ("channel", None)]
    trainings += [(method, classes) for classes in wanted for method in OF_CLASSES]
    for method, classes in bar(trainings, desc="fine-tuned networks"):
        frame = _tuned(scale, seed, method, classes, ratios if method else [0.0])
        if classes is not None:
            parts.append(frame)
        else:
            parts += [_spread(frame.assign(method=m), wanted) for m in ([method] if method else METHODS)]
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def precision(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """How often pruned networks decide alike in the precision of the evaluation and in float32.

    Returns: one row a ratio and compensation, for NNSlicer and the first subset: same (share of decisions), gap
        (accuracy less that in float32), n.
    """
    chosen = settings(scale)
    ratios, classes = [float(r) for r in chosen["prune_ratios"]], _subsets(scale, "prune_subsets")[0]

    def make() -> pd.DataFrame:
        at = bench(scale, seed)
        part = at.bank.of_classes(classes)
        places = ranking(subset_scores(scores_of(scale, seed, "nnslicer"), classes))
        rows = []
        for ratio in ratios:
            with masked(at.model, masks_of(places, ratio)):
                for compensation in (False, True):
                    with centred(at.model, at.means if compensation else None):
                        fast, exact = (decisions(at.model, part, precision=p) for p in (at.precision, "float32"))
                    gap = ((fast == part.labels).double().mean() - (exact == part.labels).double().mean()).item()
                    same = (fast == exact).double().mean().item()
                    rows.append([ratio, compensation, same, gap, len(part.labels)])
        return pd.DataFrame(rows, columns=["ratio", "compensation", "same", "gap", "n"])

    key = {**_key(scale, "nnslicer"), "ratios": ratios, "classes": list(classes)}
    return _kept("pruning-precision", scale, seed, key, make)


def closer_subsets(scale: str) -> list[tuple[int, ...]]:
    """The subsets that are looked at more closely; all are among those of `pruned`."""
    among = _subsets(scale, "prune_subsets")
    return [classes for classes in _subsets(scale, "closer_subsets") if classes in among]


def _subsets(scale: str, setting: str) -> list[tuple[int, ...]]:
    chosen = settings(scale)
    return subsets(evaluation.class_count(scale), chosen["subset_size"], chosen[setting])


def _key(scale: str, method: str) -> dict[str, Any]:
    """What a pruned network's accuracy depends on, beside the network, the ratios and the subsets."""
    chosen = settings(scale)
    test = evaluations.test_images(chosen["data"], chosen["prune_test_images"])
    return {
        "method": method,
        "images": test.fingerprint,
        "precision": config.load(scale).compute.training_precision,
        "means": evaluation.profile_key(scale),
        "scores": evaluation.scores_key(scale, method) if method in OF_CLASSES else None,
    }


def _kept(kind: str, scale: str, seed: int, key: Mapping[str, Any], make: Any) -> pd.DataFrame:
    return evaluations.kept(kind, settings(scale)["network"], scale, seed, key, make, VERSION)


def _whole_masks(model: nn.Module, method: str, ratio: float) -> Masks:
    """Masks of the methods that know no target; "" drops nothing."""
    if method == "channel":
        return channel_masks(model, ratio)
    return masks_of(ranking(weight_scores(model)), ratio) if method == "weight" else {}


def _by_class(scale: str, seed: int, method: str, ratios: Sequence[float]) -> pd.DataFrame:
    """Right decisions by class of a method that knows no target: method, ratio, compensation, class, right, n."""

    def make() -> pd.DataFrame:
        at = bench(scale, seed)
        rows: list[list[Any]] = []
        for ratio in ratios:
            with masked(at.model, _whole_masks(at.model, method, ratio)):
                for compensation in (False, True):
                    with centred(at.model, at.means if compensation else None):
                        right = correct_by_class(at.model, at.bank, at.classes, precision=at.precision)
                    rows += _class_rows(method, ratio, compensation, right, at)
        return pd.DataFrame(rows, columns=["method", "ratio", "compensation", "class", "right", "n"])

    return _kept("pruned", scale, seed, {**_key(scale, method), "ratios": list(ratios)}, make)


def _class_rows(method: str, ratio: float, compensation: bool, right: Tensor, at: Bench) -> list[list[Any]]:
    counts = at.bank.counts(at.classes).tolist()
    return [[method, ratio, compensation, k, r, n] for k, (r, n) in enumerate(zip(right.tolist(), counts, strict=True))]


def _spread(by_class: pd.DataFrame, wanted: Sequence[Sequence[int]], others: bool = False) -> pd.DataFrame:
    """Counts by class, added up for each subset, or for the classes outside of it."""
    parts = []
    for classes in wanted:
        inside = by_class[by_class["class"].isin(list(classes)) != others]
        summed = inside.groupby(["method", "ratio", "compensation"], as_index=False)[["right", "n"]].sum()
        parts.append(summed.assign(classes=name_of(classes)))
    return pd.concat(parts, ignore_index=True).assign(by_position=None)


def _of_subsets(
    scale: str,
    seed: int,
    method: str,
    ratios: Sequence[float],
    chunk: Sequence[tuple[int, ...]],
    ties: str = "position",
    others: bool = False,
) -> pd.DataFrame:
    """Some subsets' networks, pruned by a method that knows the target."""

    def make() -> pd.DataFrame:
        at, scores = bench(scale, seed), scores_of(scale, seed, method)
        second = weight_scores(at.model) if ties == "weight" else None
        rows: list[list[Any]] = []
        for classes in chunk:
            part = at.bank.of_classes(sorted({*range(at.classes)} - {*classes}) if others else classes)
            summed = subset_scores(scores, classes)
            places = ranking(summed, ties=second)
            for ratio in ratios:
                tied = by_position(summed, places, ratio)
                with masked(at.model, masks_of(places, ratio)):
                    for compensation in (False, True):
                        with centred(at.model, at.means if compensation else None):
                            right = correct_by_class(at.model, part, at.classes, precision=at.precision)
                        told = [int(right.sum()), len(part.labels), tied]
                        rows.append([method, ratio, compensation, name_of(classes), *told])
        return pd.DataFrame(rows, columns=COLUMNS)

    subsets_key = {"subsets": [list(classes) for classes in chunk], "ties": ties, "others": others}
    key = {**_key(scale, method), "ratios": list(ratios), **subsets_key}
    return _kept("pruned", scale, seed, key, make)


def _tuned(
    scale: str, seed: int, method: str, classes: tuple[int, ...] | None, ratios: Sequence[float]
) -> pd.DataFrame:
    """One method's fine-tuned networks: for a subset, or for all of them by class."""
    preset, chosen = config.load(scale).compute, settings(scale)
    own: dict[str, Any] = {"precision": preset.training_precision, "channels_last": preset.channels_last}
    recipe = Recipe(arch="given", data=chosen["data"], **own, **{**FINE_TUNING, "batch": chosen["finetune_batch"]})
    train = train_images(chosen["data"], chosen["finetune_images"])

    def make() -> pd.DataFrame:
        at = bench(scale, seed)
        part = at.bank if classes is None else at.bank.of_classes(classes)
        if classes is not None:
            summed = subset_scores(scores_of(scale, seed, method), classes)
            places = ranking(summed)
        rows: list[list[Any]] = []
        for ratio in ratios:
            chosen_masks = _whole_masks(at.model, method, ratio) if classes is None else masks_of(places, ratio)
            for compensation in (False, True):
                model, means = copy.deepcopy(at.model), at.means if compensation else None
                fine_tune(model, train, chosen_masks, recipe, means, seed, preset.device)
                with centred(model, means):
                    right = correct_by_class(model, part, at.classes, precision=at.precision)
                if classes is None:
                    rows += _class_rows(method, ratio, compensation, right, at)
                else:
                    told = [int(right.sum()), len(part.labels), by_position(summed, places, ratio)]
                    rows.append([method, ratio, compensation, name_of(classes), *told])
        by_class = ["method", "ratio", "compensation", "class", "right", "n"]
        return pd.DataFrame(rows, columns=by_class if classes is None else COLUMNS)

    key = {**_key(scale, method), "ratios": list(ratios), "subset": classes and list(classes)}
    key |= {"train": train.fingerprint, "recipe": recipe.plain()}
    return _kept("fine-tuned", scale, seed, key, make)

"""Named networks with weights hidden, and what an attacker makes of them: computed once, one attack at a time.

    python -m lib.evaluations --run lib.slicing.study.protection:make --scale smoke --seed 0

Weight and Random hide alike whatever the target classes, so that one attack stands for every subset; its right
decisions are counted class by class. An attack that was done is kept, so that a run that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lib import compute, config, data, evaluations
from lib.config import Recipe
from lib.progress import bar
from lib.slicing import protection
from lib.slicing.masks import by_position, ranking, subset_scores, subsets, weight_scores
from lib.slicing.protection import ATTACK, METHODS, OF_CLASSES, convolutions
from lib.slicing.study import evaluation
from lib.slicing.study.pruning import bench, name_of, scores_of, train_images

VERSION = 1  # raise it when a change in this study's code changes its numbers

DEFAULTS: dict[str, Any] = {
    "subset_size": 4,
    "prune_test_images": 10000,
    "protect_subsets": 10,
    "protect_images": [10000, 20000],
    "protect_share": 0.5,
    "protect_epochs": ATTACK["epochs"],
    "protect_batch": ATTACK["batch"],
    "protect_sweep": [0.1, 0.3, 0.5, 0.7, 0.9],
    "protect_sweep_images": 10000,
    "protect_sweep_subsets": 10,
    "protect_sweep_seeds": None,
}
"""Settings that a scale may leave out. The source does not say which target classes: a seeded sample of the subsets,
the same for every network; those of the sweep are the first of them. protect_sweep_seeds: of how many of the study's
seeds the sweep is made (None: all)."""


@dataclass(frozen=True)
class Attack:
    """One attack: by what the weights were chosen, for which classes (None: for none), images, share hidden."""

    method: str
    classes: tuple[int, ...] | None
    images: int
    share: float


def settings(scale: str) -> dict[str, Any]:
    """The scale's settings of this study, with `DEFAULTS` for what it leaves out."""
    return {**DEFAULTS, **evaluation.settings(scale)}


def target_subsets(scale: str, sweep: bool = False) -> list[tuple[int, ...]]:
    """The target classes of the attacks, or of those of the sweep."""
    chosen = settings(scale)
    sampled = subsets(evaluation.class_count(scale), chosen["subset_size"], chosen["protect_subsets"], seed=1)
    return sampled[: chosen["protect_sweep_subsets"]] if sweep else sampled


def attacks(scale: str, sweep: bool = False) -> list[Attack]:
    """The attacks of the figure, or of the sweep over the share hidden."""
    chosen = settings(scale)
    images = [chosen["protect_sweep_images"]] if sweep else chosen["protect_images"]
    shares = chosen["protect_sweep"] if sweep else [chosen["protect_share"]]
    whom: list[tuple[str, tuple[int, ...] | None]] = [(m, None) for m in METHODS if m not in OF_CLASSES]
    whom += [(method, classes) for classes in target_subsets(scale, sweep) for method in OF_CLASSES]
    return [Attack(m, classes, int(n), float(share)) for share in shares for n in images for m, classes in whom]


def protected(scale: str = "smoke", seed: int = 0, sweep: bool = False) -> pd.DataFrame:
    """Accuracy of the network that the attacker ends with, epoch by epoch.

    Args:
        scale, seed: of the network, as in `zoo.get`; scores are made where they are not there yet.
        sweep: over the share of weights hidden.
    Returns: one row a method, images, share_hidden, target subset, classes ("target" or "all") and epoch (0: with the
        weights hidden, before the first step): right decisions of n test images.
    """
    wanted = target_subsets(scale, sweep)
    parts = []
    for one in bar(attacks(scale, sweep), desc="attacks"):
        counts = _attacked(scale, seed, one)
        for target in wanted if one.classes is None else [one.classes]:
            for classes, inside in (("target", counts["class"].isin(list(target))), ("all", counts["class"] >= 0)):
                summed = counts[inside].groupby("epoch", as_index=False)[["right", "n"]].sum()
                about = {"method": one.method, "images": one.images, "share_hidden": one.share}
                parts.append(summed.assign(**about, target=name_of(target), classes=classes))
    columns = ["method", "images", "share_hidden", "target", "classes", "epoch", "right", "n"]
    return pd.concat(parts, ignore_index=True)[columns]


def make(scale: str, seed: int) -> None:
    """All that the notebook shows of one seed: a node of the graph."""
    compute.deterministic()
    victim(scale, seed)
    visible(scale, seed)
    protected(scale, seed)
    if seed in sweep_seeds(scale, evaluations.seeds_of(scale, "nnslicer")):
        protected(scale, seed, sweep=True)


def victim(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """Right decisions of the victim: class, right, n."""

    def make() -> pd.DataFrame:
        at = bench(scale, seed)
        right = protection.correct_by_class(at.model, at.bank, at.classes, precision=at.precision)
        rows = list(zip(range(at.classes), right.tolist(), at.bank.counts(at.classes).tolist(), strict=True))
        return pd.DataFrame(rows, columns=["class", "right", "n"])

    return _kept(scale, seed, {"part": "victim"}, make)


def _attacked(scale: str, seed: int, one: Attack) -> pd.DataFrame:
    """Right decisions by epoch and class of one attack."""
    preset, chosen = config.load(scale).compute, settings(scale)
    train = train_images(chosen["data"], one.images)
    own: dict[str, Any] = {"precision": preset.training_precision, "channels_last": preset.channels_last}
    attack = {**ATTACK, "epochs": chosen["protect_epochs"], "batch": chosen["protect_batch"]}
    recipe = Recipe(arch="given", data=chosen["data"], **own, **attack)

    def make() -> pd.DataFrame:
        at = bench(scale, seed)
        hidden = protection.hidden_masks(at.model, _scores(scale, seed, one.method, one.classes), one.share)
        said = _said(scale, seed, one.images)
        counts, _ = protection.retrain(at.model, hidden, said, at.bank, recipe, seed, preset.device)
        known = at.bank.counts(at.classes).tolist()
        rows = [
            [epoch, k, right, known[k]]
            for epoch, by_class in enumerate(counts.tolist())
            for k, right in enumerate(by_class)
        ]
        return pd.DataFrame(rows, columns=["epoch", "class", "right", "n"])

    key = {
        "method": one.method,
        "classes": one.classes and list(one.classes),
        "share": one.share,
        "train": train.fingerprint,
        "recipe": recipe.plain(),
        "scores": evaluation.scores_key(scale, one.method) if one.method in OF_CLASSES else None,
    }
    return _kept(scale, seed, key, make)


def visible(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """What hiding leaves: method, target ("" for any), norm (share of the squared norm that the attacker sees, averaged
    over the layers), by_position (share of the hidden weights that ties left to their position)."""
    hiding = [(m, None) for m in METHODS if m not in OF_CLASSES]
    whom = [*hiding, *((method, classes) for classes in target_subsets(scale) for method in OF_CLASSES)]
    share = settings(scale)["protect_share"]

    def make() -> pd.DataFrame:
        at, rows = bench(scale, seed), []
        for method, classes in whom:
            scores = {n: s for n, s in _scores(scale, seed, method, classes).items() if n in convolutions(at.model)}
            norm = protection.visible_norm(at.model, protection.hidden_masks(at.model, scores, share))
            tied = by_position(scores, ranking(scores, descending=True), share)
            rows.append([method, name_of(classes or ()), norm, tied])
        return pd.DataFrame(rows, columns=["method", "target", "norm", "by_position"])

    scores = {method: evaluation.scores_key(scale, method) for method in OF_CLASSES}
    key = {"part": "visible", "share": share, "whom": [[m, c and list(c)] for m, c in whom], "scores": scores}
    return _kept(scale, seed, key, make)


def _scores(scale: str, seed: int, method: str, classes: tuple[int, ...] | None) -> dict[str, Tensor]:
    """By what a method hides weights."""
    if classes is not None:
        return subset_scores(scores_of(scale, seed, method), classes)
    model = bench(scale, seed).model
    if method == "weight":
        return weight_scores(model)
    return protection.random_scores(model, torch.Generator().manual_seed(seed))


@lru_cache(maxsize=2)
def _said(scale: str, seed: int, count: int) -> data.ImageSet:
    """The attacker's images, labelled by the victim."""
    return protection.labelled(bench(scale, seed).model, train_images(settings(scale)["data"], count))


def _kept(scale: str, seed: int, key: dict[str, Any], make: Any) -> pd.DataFrame:
    chosen = settings(scale)
    test = evaluations.test_images(chosen["data"], chosen["prune_test_images"])
    whole = {**key, "images": test.fingerprint, "precision": config.load(scale).compute.training_precision}
    return evaluations.kept("protected", chosen["network"], scale, seed, whole, make, VERSION)


def sweep_seeds(scale: str, seeds: Sequence[int]) -> list[int]:
    """Those of the seeds for which the sweep is made."""
    return list(seeds)[: settings(scale)["protect_sweep_seeds"]]

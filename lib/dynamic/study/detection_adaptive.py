"""Each detector against an attack that keeps the decisions near those of a clean image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib import evaluations
from lib.dynamic.decision_attack import GRADIENTS, Evaded, decision_pgd, observed
from lib.dynamic.study.decision_inputs import VERSION, about, see, settings
from lib.dynamic.study.detection_bench import CLEAN, Bench, Scorer, area, bench_of, fit_key
from lib.progress import bar

AIMS = ("own", "class mean")
"""What decisions are kept near: the clean image's own, or the mean of clean training images of the target class."""
ANEW = "decision feature, trained anew"
_KEYS = ("adaptive_images", "adaptive_epsilon", "adaptive_steps", "adaptive_weights", "adaptive_attack")


def adaptive(scale: str, seed: int, name: str) -> pd.DataFrame:
    """Detection of an attack that knows the decision feature, by its aim, its gradient and the weight of the decisions.

    Half of the attacked images are of the half that detectors are fitted on: adversarials of them train a forest anew.

    Args:
        scale, seed, name: of the network.
    Returns: one row an aim (of `AIMS`), gradient ("held", "straight-through"), weight and detector: network, form,
        aim, gradient, weight, detector, auroc, low, high, n (adversarials), n_other (clean images), success (share of
        images attacked), distance (mean of the adversarials: 1 is a clean image's to its class mean). The detectors
        have been shown `adaptive_attack`; "decision feature, trained anew" this very attack.
    """
    chosen = settings(scale)

    def compute_it() -> pd.DataFrame:
        bench = bench_of(scale, seed, name)
        shown = chosen["adaptive_attack"] if chosen["adaptive_attack"] in bench.attacks else bench.attacks[0]
        scorers = bench.on_clean() | bench.on_attack(shown)
        start = _start(bench, chosen["adaptive_images"])
        rows: list[dict[str, Any]] = []
        for gradient in GRADIENTS:
            unaware: list[dict[str, Any]] | None = None
            for aim in AIMS:
                for weight in bar(chosen["adaptive_weights"], desc=f"adaptive, {gradient}, {aim}"):
                    found = unaware if not weight else None
                    if found is None:
                        found = _detected(bench, scorers, start, _attack(bench, start, aim, gradient, weight))
                    unaware = unaware if weight else found  # without a weight the aim plays no part
                    rows += [{"aim": aim, "gradient": gradient, "weight": float(weight), **row} for row in found]
        return pd.DataFrame(rows).assign(**about(bench.network, name))

    key = fit_key(scale, name) | {word: chosen[word] for word in _KEYS}
    return evaluations.kept("lcs-adaptive", name, scale, seed, key, compute_it, VERSION)


def _start(bench: Bench, count: int) -> np.ndarray:
    """Rows of the clean images that are attacked, half from each half."""
    return np.concatenate([np.flatnonzero(bench.part(CLEAN, half))[: count // 2] for half in ("fit", "test")])


def _attack(bench: Bench, start: np.ndarray, aim: str, gradient: str, weight: float) -> Evaded:
    seen, chosen = bench.seen[CLEAN].take(start), bench.chosen
    labels = seen.predicted  # these images are classified correctly
    targets = seen.logits.scatter(1, labels[:, None], -torch.inf).argmax(1)
    means, spread = _usual(bench)
    with observed(bench.network, gradient) as both:
        return decision_pgd(
            both,
            bench.images[CLEAN][start],
            labels,
            targets,
            seen.feature if aim == "own" else means[targets],
            float(weight),
            chosen["adaptive_epsilon"] / 255,
            chosen["adaptive_steps"],
            spread=spread,
            seed=bench.seed,
            device=bench.network.device,
        )


def _usual(bench: Bench) -> tuple[Tensor, float]:
    """Mean decisions of each class's clean training images, and the mean squared distance of an image to its own."""
    seen, labels = bench.train
    classes = torch.from_numpy(labels)
    sums = torch.zeros(seen.logits.shape[1], seen.feature.shape[1]).index_add_(0, classes, seen.feature)
    counts = classes.bincount(minlength=len(sums)).clamp_min(1)
    means = sums / counts[:, None]
    return means, max((seen.feature - means[classes]).square().sum(1).mean().item(), 1e-6)


def _detected(bench: Bench, scorers: dict[str, Scorer], start: np.ndarray, made: Evaded) -> list[dict[str, Any]]:
    """Each detector on the adversarials of the second half against its clean images."""
    hit = made.success.numpy()
    if not hit.any():
        return []
    seen = see(bench.network, made.images[made.success])
    still = (seen.predicted != bench.seen[CLEAN].take(start).predicted[made.success]).numpy()
    index = bench.index[CLEAN][start][hit]
    fit, test = (np.isin(index, bench.halves[half]) & still for half in ("fit", "test"))
    if test.sum() < 2:
        return []
    told = {"success": float(hit.mean()), "distance": float(made.distance[made.success].mean())}
    known = dict(scorers)
    anew = bench.forest(bench.half(CLEAN, "fit").feature.numpy(), seen.feature.numpy()[fit])
    if anew is not None:
        known[ANEW] = lambda inputs: anew.score(inputs.feature.numpy())
    clean, adversarial = bench.half(CLEAN, "test"), seen.take(test)
    return [{"detector": word, **area(scorer(adversarial), scorer(clean)), **told} for word, scorer in known.items()]

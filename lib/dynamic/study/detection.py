"""Adversarials found by the decisions they cause, beside other detectors, controls, and an attack that knows.

    python -m lib.evaluations --run lib.dynamic.study.detection:make --scale smoke --seed 0

Images are split in two: a detector is fitted on one half and on adversarials made of it, and reported on the other
half and adversarials made of that. Tables are kept network by network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lib import compute, evaluations
from lib.dynamic.errors import DynamicError
from lib.dynamic.study.decision_inputs import VERSION, about, networks, settings
from lib.dynamic.study.detection_adaptive import adaptive
from lib.dynamic.study.detection_bench import CLEAN, ON_CLEAN, Material, bench_of, fit_key
from lib.progress import bar


def make(scale: str, seed: int) -> None:
    """All tables of this study for one seed that need no other method: a node of the graph."""
    compute.deterministic()
    for name in bar(networks(scale, "detection_networks"), desc="detection"):
        table(scale, seed, name)
        adaptive(scale, seed, name)


def table(scale: str, seed: int, name: str) -> pd.DataFrame:
    """How well each detector tells adversarials, and noise of their size, from clean images, within and across attacks.

    Args:
        scale, seed, name: of the network, which is trained where it is not there yet.
    Returns: one row a detector, what it was fitted on, attack and pair: network, form, detector, trained_on ("clean
        images", or an attack), attack, pair (of `PAIRS`; noise has the L2 norm of the attack's perturbations and
        leaves the network's answer right), auroc, low, high (its 95 % interval over the images), n (of the first kind
        of the pair), n_other. LID and Mahalanobis over all layers are regressed on adversarials, as in their papers.
    """

    def compute_it() -> pd.DataFrame:
        found = bench_of(scale, seed, name)
        rows = [row for detector, scorer in found.on_clean().items() for row in found.rows(detector, ON_CLEAN, scorer)]
        for attack in bar(found.attacks, desc="detectors"):
            for detector, scorer in found.on_attack(attack).items():
                rows += found.rows(detector, attack, scorer)
        return pd.DataFrame(rows).assign(**about(found.network, name))

    return evaluations.kept("lcs-detection", name, scale, seed, fit_key(scale, name), compute_it, VERSION)


@dataclass(frozen=True, eq=False)
class Guest:
    """A detector that another method brings.

    Attributes:
        detector: what rows call it.
        describe: what it is given -> kind of inputs -> features (N, F), a row an input.
        key: all that `describe` depends on beside the network's weights and this study's settings; plain.
    """

    detector: str
    describe: Callable[[Material], Mapping[str, np.ndarray]]
    key: Mapping[str, Any]


def guest(scale: str, seed: int, name: str, guest: Guest) -> pd.DataFrame:
    """As `table`, for a forest on features that another method takes of the same images.

    Args:
        scale, seed, name: of the network.
        guest: asked only where its table is not kept yet.
    Returns: rows as those of `table`, of the first `slices_images` of the images attacked.
    Raises: DynamicError where features are missing, or not one row an input.
    """

    def compute_it() -> pd.DataFrame:
        found = bench_of(scale, seed, name).first(settings(scale)["slices_images"])
        features = guest.describe(found.material())
        for kind, part in found.seen.items():
            if kind not in features or len(features[kind]) != len(part):
                got = f"{len(features[kind])}" if kind in features else "none"
                raise DynamicError(f"{guest.detector}: features of {kind!r} have {got} rows, {len(part)} are wanted")
        rows = []
        for attack in found.attacks:
            fit = [np.asarray(features[kind])[found.part(kind, "fit")] for kind in (CLEAN, attack)]
            forest = found.forest(*fit)
            if forest is not None:
                scores = {kind: forest.score(np.asarray(features[kind])) for kind in found.seen}
                rows += found.rows(guest.detector, attack, scores)
        return pd.DataFrame(rows).assign(**about(found.network, name))

    key = fit_key(scale, name) | {"slices_images": settings(scale)["slices_images"]}
    key |= {"detector": guest.detector, "of": dict(guest.key)}
    return evaluations.kept("lcs-detection-guest", name, scale, seed, key, compute_it, VERSION)

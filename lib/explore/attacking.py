"""One image attacked at a strength, and what the network makes of it at every strength."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib import attacks
from lib.attacks.goal import device_of, image_seeds
from lib.explore.errors import ExploreError
from lib.explore.subject import Subject, probabilities

# FGSM and random PGD stand once each: their strength is eps.
ATTACKS: dict[str, str] = {"fgsm_8": "FGSM", "rpgd_8": "PGD, random start"} | {
    name: row.label for name, row in attacks.SUITE.items() if "epsilon" not in row.defaults
}
"""Name in the suite -> what a reader sees."""

EPSILON = "ε in 255ths"
SHARE = "times the attack's perturbation"
SWEPT = 9  # strengths of a sweep


@dataclass(frozen=True)
class Strengths:
    """The range of an attack's strength.

    Attributes:
        unit: `EPSILON`, or `SHARE` for an attack that looks for a small perturbation itself: what it finds is taken so
            many times.
        usual: the scale's eps, or 1.
        most, step: the largest, and what a slider moves by; the smallest is 0.
    """

    unit: str
    usual: float
    most: float
    step: float


@dataclass(frozen=True, eq=False)
class Attacked:
    """An image before and after an attack.

    Attributes:
        network, attack: names; strength: in `unit`.
        position: in the test set; truth: its class.
        clean, adversarial: float32 (C, H, W) in [0, 1].
        before, after: float32 (classes,), the network's probabilities of the two.
        seconds: that it took.
    """

    network: str
    attack: str
    strength: float
    unit: str
    position: int
    truth: int
    clean: Tensor
    adversarial: Tensor
    before: Tensor
    after: Tensor
    seconds: float

    @property
    def fooled(self) -> bool:
        """Whether the network is right about the clean image and wrong about the other."""
        return int(self.before.argmax()) == self.truth != int(self.after.argmax())

    def distance(self, norm: str) -> float:
        """How far the images lie apart: "linf", "l2" or "l0" (pixels)."""
        return float(attacks.perturbation(self.clean[None], self.adversarial[None], norm))


def strengths(name: str, scale: str) -> Strengths:
    """The range of an attack's strength at a scale.

    Args:
        name: in the suite.
        scale: whose eps is the usual one, and half of the largest.
    Raises: AttackError for an attack that does not exist.
    """
    chosen = attacks.plan(name, scale).parameters
    if "epsilon" not in chosen:
        return Strengths(SHARE, 1.0, 2.0, 0.05)
    usual = float(round(255 * chosen["epsilon"], 1))
    return Strengths(EPSILON, usual, 2 * usual, usual / 16)


def search(chosen: Subject, position: int, name: str, seed: int = 0) -> Tensor | None:
    """What an attack that looks for a small perturbation itself makes of an image; None for an attack with eps.

    Args:
        chosen: the network attacked, and its test set.
        position: of the image in the test set.
        name: of the attack, in the suite.
        seed: of an attack that draws.
    Returns: float32 (C, H, W) in [0, 1]; the image itself where the network is wrong about it.
    """
    if strengths(name, chosen.scale).unit == EPSILON:
        return None
    image, label = chosen.picture(position)
    return _craft(chosen, image, label, name, None, seed)


def attack_image(
    chosen: Subject,
    position: int,
    name: str,
    strength: float | None = None,
    seed: int = 0,
    found: Tensor | None = None,
) -> Attacked:
    """An image attacked at a strength. What the attack makes is shown whether it fools the network or not.

    Args:
        chosen: the network attacked, and its test set.
        position: of the image in the test set.
        name: of the attack, in the suite; its other parameters are the scale's.
        strength: in the attack's unit; None: the usual one.
        seed: of an attack that draws.
        found: of `search`, where it is at hand.
    Returns: the two images; where the network misclassifies the clean one, the other is the same.
    Raises: AttackError for an attack that does not exist; ExploreError for a strength below 0.
    """
    scope = strengths(name, chosen.scale)
    strength = scope.usual if strength is None else float(strength)
    if not 0 <= strength < float("inf"):
        raise ExploreError(f"strength {strength} of {name}: {scope.unit}, from 0 (its slider goes to {scope.most:g})")
    began = time.perf_counter()
    image, label = chosen.picture(position)
    made = _at(chosen, position, name, [strength], seed, found)[0]
    before, after = probabilities(chosen.model, torch.stack([image, made]))
    took = time.perf_counter() - began
    return Attacked(chosen.name, name, strength, scope.unit, position, label, image, made, before, after, took)


def sweep(
    chosen: Subject, position: int, name: str, seed: int = 0, count: int = SWEPT, found: Tensor | None = None
) -> pd.DataFrame:
    """What the network makes of an image at strengths from 0 to the largest of the slider.

    Args:
        chosen, position, name, seed, found: as in `attack_image`.
        count: how many strengths, evenly apart.
    Returns: one row a strength and class: strength, label, probability.
    """
    levels = np.linspace(0, strengths(name, chosen.scale).most, count).tolist()
    told = probabilities(chosen.model, _at(chosen, position, name, levels, seed, found))
    rows = [
        {"strength": level, "label": k, "probability": float(p)}
        for level, row in zip(levels, told, strict=True)
        for k, p in enumerate(row)
    ]
    return pd.DataFrame(rows)


def _at(chosen: Subject, position: int, name: str, levels: list[float], seed: int, found: Tensor | None) -> Tensor:
    """The attack's images at several strengths, adversarial or not: float32 (len(levels), C, H, W) on the CPU."""
    image, label = chosen.picture(position)
    found = search(chosen, position, name, seed) if found is None else found
    if found is not None:
        change = found - image
        return torch.stack([(image + level * change).clamp(0, 1) for level in levels])
    return torch.stack(
        [_craft(chosen, image, label, name, level / 255, seed) if level > 0 else image for level in levels]
    )


def _craft(chosen: Subject, image: Tensor, label: int, name: str, epsilon: float | None, seed: int) -> Tensor:
    """One image (C, H, W) as an attack of the suite leaves it, whether that fools the network or not."""
    row, parameters = attacks.find(name), dict(attacks.plan(name, chosen.scale).parameters)
    if epsilon is not None:
        parameters["epsilon"] = epsilon
    clean, truth = image[None], torch.tensor([label])
    if int(attacks.predictions(chosen.model, clean)) != label:
        return image
    chance, on = image_seeds(name, clean, seed), device_of(chosen.model)
    with attacks.attackable(chosen.model, seed) as target:
        made = row.craft(target, clean.to(on), truth.to(on), parameters, chance)
    return made[0].detach().cpu().clamp(0, 1)

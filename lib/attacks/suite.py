"""The seventeen attacks of NNSlicer's Table on adversarial detection: names, parameters, and how each is made.

Source: Zhang et al., FSE 2020, https://arxiv.org/abs/2009.13747, which states eps of FGSM and RPGD, the 100 iterations
of JSMA and the 200 of CWL2; what it leaves open is Foolbox's default, or that of the attack's own paper.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import foolbox
import torch
from torch import Tensor

from lib import config
from lib.attacks.adef import ADef
from lib.attacks.boundary import Boundary
from lib.attacks.descent import CarliniWagner, RandomPGD
from lib.attacks.gaussian_blur import GaussianBlur
from lib.attacks.goal import ClearlyMisclassified
from lib.attacks.jsma import JSMA
from lib.attacks.local_search import LocalSearch
from lib.attacks.pointwise import Pointwise
from lib.attacks.single_pixel import SinglePixel

TOLERANCE = 1e-6
"""What a perturbation may exceed eps by, for the rounding of float32 images."""


class AttackError(ValueError):
    """An attack, or a parameter of one, that does not exist; the message lists those that do."""


@dataclass(frozen=True)
class Attack:
    """One row of the suite.

    Attributes:
        name, label: what code and configuration call it; what a table shows.
        norm: the distance its perturbations are measured in: linf, l2, or l0 (pixels that differ).
        source: where it was published.
        make: keyword parameters -> a Foolbox attack.
        defaults: its parameters; `epsilon`, where it has one, is passed to the call.
        seeded: whether its run takes `seeds`, one an image.
    """

    name: str
    label: str
    norm: str
    source: str
    make: Callable[..., foolbox.Attack]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    seeded: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "defaults", MappingProxyType(dict(self.defaults)))

    def parameters(self, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The defaults with changes. Raises: AttackError naming a parameter that the attack does not have."""
        for key in changes or {}:
            if key not in self.defaults:
                raise AttackError(f"attack {self.name!r} has no parameter {key!r}: {config.one_of(key, self.defaults)}")
        return {**self.defaults, **(changes or {})}

    def craft(
        self, target: foolbox.PyTorchModel, images: Tensor, labels: Tensor, parameters: Mapping[str, Any], seeds: list
    ) -> Tensor:
        """Attack one batch.

        Args:
            target: the network as Foolbox takes it.
            images: float32 (B, C, H, W) in [0, 1], on the target's device, each classified as its label.
            labels: int64 (B,) true classes.
            parameters: all of them, as `parameters` gives them.
            seeds: one for each image.

        Returns:
            (B, C, H, W), adversarial or not.
        """
        arguments = dict(parameters)
        epsilon = arguments.pop("epsilon", None)
        attack = self.make(**arguments)
        given = {"seeds": seeds} if self.seeded else {}
        criterion = ClearlyMisclassified(labels)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.meshgrid")  # of Foolbox's SpatialAttack
            return attack(target, images, criterion, epsilons=epsilon, **given)[1]

    def allowed(self, images: Tensor, adversarial: Tensor, parameters: Mapping[str, Any]) -> Tensor:
        """Whether adversarial images (N, C, H, W) lie in [0, 1] and, of an attack with eps, within it; bool (N,)."""
        flat = adversarial.flatten(1)
        fits = ((flat >= 0) & (flat <= 1)).all(dim=1)
        if "epsilon" in parameters:
            fits &= perturbation(images, adversarial, "linf") <= parameters["epsilon"] + TOLERANCE
        return fits


def perturbation(images: Tensor, adversarial: Tensor, norm: str) -> Tensor:
    """Distance of each adversarial image from its clean one.

    Args:
        images, adversarial: (N, C, H, W) in [0, 1].
        norm: linf, l2, or l0: the number of pixels of which any channel differs.

    Returns:
        float32 (N,).

    Raises:
        AttackError: for another norm.
    """
    change = adversarial - images
    if norm == "l0":
        return (change != 0).any(dim=1).flatten(1).sum(dim=1).to(torch.float32)
    if norm == "linf":
        return change.abs().flatten(1).amax(dim=1)
    if norm == "l2":
        return change.flatten(1).norm(dim=1)
    raise AttackError(f"no norm {norm!r}: linf, l2 or l0")


def _fgsm(steps: int) -> Attack:
    source = "Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572"
    return Attack(f"fgsm_{steps}", f"FGSM_{steps}", "linf", source, foolbox.attacks.FGSM, {"epsilon": steps / 255})


def _rpgd(steps: int) -> Attack:
    # At Foolbox's own rel_stepsize ten steps do not cross the ball.
    defaults = {"epsilon": steps / 255, "steps": 10, "rel_stepsize": 0.25}
    source = "Madry et al. 2018, https://arxiv.org/abs/1706.06083"
    return Attack(f"rpgd_{steps}", f"RPGD_{steps}", "linf", source, RandomPGD, defaults, seeded=True)


_DEEPFOOL = "Moosavi-Dezfooli et al. 2016, https://arxiv.org/abs/1511.04599"
_DEEPFOOL_DEFAULTS = {"steps": 50, "candidates": 10, "overshoot": 0.02}
_JSMA = "Papernot et al. 2016, https://arxiv.org/abs/1511.07528"
_JSMA_DEFAULTS = {"steps": 100, "theta": 1.0, "outputs": "logits"}
_CW = "Carlini and Wagner 2017, https://arxiv.org/abs/1608.04644"
_CW_DEFAULTS = {
    "steps": 200,
    "binary_search_steps": 9,
    "stepsize": 0.01,
    "initial_const": 0.001,
    "confidence": 0.0,
    "abort_early": True,
}
_ADEF = "Alaifari et al. 2019, https://arxiv.org/abs/1804.07729"
_ADEF_DEFAULTS = {"steps": 100, "candidates": 9, "smoothing": 1.0, "overshoot": 0.1, "max_norm": None}
_PIXELS = "Narodytska and Kasiviswanathan 2016, https://arxiv.org/abs/1612.06299"
_LOCAL_DEFAULTS = {"rounds": 150, "pixels": 5, "reach": 5, "factor": 1.5, "probe": 10.0, "start": 0.1, "tried": 128}
_BOUNDARY = "Brendel et al. 2018, https://arxiv.org/abs/1712.04248"
# Foolbox 2 walked 5,000 steps, Foolbox 3 walks 25,000.
_BOUNDARY_DEFAULTS = {
    "steps": 5000,
    "directions": 1000,
    "blends": 50,
    "spherical_step": 0.01,
    "source_step": 0.01,
    "source_step_convergance": 1e-7,
    "step_adaptation": 1.5,
    "update_stats_every_k": 10,
}
_SPATIAL = "Engstrom et al. 2019, https://arxiv.org/abs/1712.02779"
_SPATIAL_DEFAULTS = {"max_translation": 3, "max_rotation": 30, "num_translations": 5, "num_rotations": 5}
_POINTWISE = "Schott et al. 2019, https://arxiv.org/abs/1805.09190"
_POINTWISE_DEFAULTS = {"noise_steps": 100, "noise_draws": 1, "l2_binary_search": True, "passes": 10, "tolerance": 0.01}
_BLUR = "Rauber et al. 2017 (Foolbox), https://arxiv.org/abs/1707.04131"
_BLUR_DEFAULTS = {"steps": 1000, "max_sigma": None}

_ROWS = (
    *(_fgsm(2), _fgsm(4), _fgsm(8)),
    Attack("deepfool_l2", "DeepFoolL2", "l2", _DEEPFOOL, foolbox.attacks.L2DeepFoolAttack, _DEEPFOOL_DEFAULTS),
    Attack("deepfool_linf", "DeepFoolLinf", "linf", _DEEPFOOL, foolbox.attacks.LinfDeepFoolAttack, _DEEPFOOL_DEFAULTS),
    Attack("jsma", "JSMA", "l0", _JSMA, JSMA, _JSMA_DEFAULTS),
    *(_rpgd(2), _rpgd(4), _rpgd(8)),
    Attack("cw_l2", "CWL2", "l2", _CW, CarliniWagner, _CW_DEFAULTS),
    Attack("adef", "ADef", "l2", _ADEF, ADef, _ADEF_DEFAULTS),
    Attack("single_pixel", "SinglePixel", "l0", _PIXELS, SinglePixel, {"pixels": 1000}, seeded=True),
    Attack("local_search", "LocalSearch", "l0", _PIXELS, LocalSearch, _LOCAL_DEFAULTS, seeded=True),
    Attack("boundary", "Boundary", "l2", _BOUNDARY, Boundary, _BOUNDARY_DEFAULTS, seeded=True),
    Attack("spatial", "Spatial", "l2", _SPATIAL, foolbox.attacks.SpatialAttack, _SPATIAL_DEFAULTS),
    Attack("pointwise", "Pointwise", "l0", _POINTWISE, Pointwise, _POINTWISE_DEFAULTS, seeded=True),
    Attack("gaussian_blur", "GaussianBlur", "l2", _BLUR, GaussianBlur, _BLUR_DEFAULTS),
)
SUITE: dict[str, Attack] = {row.name: row for row in _ROWS}
"""Name -> attack: the paper's seventeen in its order, then any others."""


def find(name: str) -> Attack:
    """The attack of that name. Raises: AttackError listing the names that exist."""
    if name not in SUITE:
        raise AttackError(f"no attack {name!r}: {config.one_of(name, SUITE)}")
    return SUITE[name]

"""Two of Foolbox's attacks by gradient descent, so that an image's result does not depend on its batch.

Source: RPGD: Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards deep learning models resistant to adversarial
attacks", ICLR 2018, https://arxiv.org/abs/1706.06083. CWL2: Carlini and Wagner, "Towards evaluating the robustness
of neural networks", S&P 2017, section V-B, https://arxiv.org/abs/1608.04644.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import eagerpy
import foolbox
import torch

from lib.attacks.goal import generators, uniform


class RandomPGD(foolbox.attacks.LinfPGD):
    """Foolbox's LinfPGD from a random start of each image's own.

    Args:
        steps: gradient steps.
        rel_stepsize: size of each in units of eps.
    """

    def __init__(self, *, steps: int = 10, rel_stepsize: float = 0.25) -> None:
        super().__init__(steps=steps, rel_stepsize=rel_stepsize, random_start=True)
        self._seeds: Sequence[int] | None = None

    def run(
        self,
        model: Any,
        inputs: Any,
        criterion: Any,
        *,
        epsilon: float,
        seeds: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The last images, within eps of the clean ones.

        Args:
            model, inputs, criterion, epsilon: as Foolbox passes them.
            seeds: of each image's start; None: from torch's global generator.
        """
        seeded = copy.copy(self)
        seeded._seeds = seeds
        return super(RandomPGD, seeded).run(model, inputs, criterion, epsilon=epsilon, **kwargs)

    def get_random_start(self, x0: Any, epsilon: float) -> Any:
        """Uniform in the ball of eps around the clean images."""
        noise = uniform(generators(self._seeds, len(x0)), x0.shape[1:], x0.raw)
        return x0 + eagerpy.astensor((2 * noise - 1) * epsilon)


class CarliniWagner(foolbox.attacks.L2CarliniWagnerAttack):
    """Foolbox's L2CarliniWagnerAttack; where it finds nothing the image stays clean, where Foolbox's turns black.

    Args:
        steps: gradient steps for each constant.
        binary_search_steps: constants tried.
        stepsize, confidence, initial_const, abort_early: as in Foolbox.
    """

    def __init__(self, *, steps: int = 200, binary_search_steps: int = 9, **descent: Any) -> None:
        super().__init__(steps=steps, binary_search_steps=binary_search_steps, **descent)

    def run(self, model: Any, inputs: Any, criterion: Any, **kwargs: Any) -> Any:
        """The nearest adversarial images found.

        Args:
            model, inputs, criterion, kwargs: as Foolbox passes them.
        """
        images, restore = eagerpy.astensor_(inputs)
        found = eagerpy.astensor(super().run(model, images, criterion, **kwargs)).raw
        missed = (found == 0).flatten(1).all(dim=1)
        return restore(eagerpy.astensor(torch.where(missed[:, None, None, None], images.raw, found)))

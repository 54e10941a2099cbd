"""What a reader chose, and everything computed for it, remembered while the kernel lives."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pandas as pd
from torch import Tensor

from lib import compute
from lib.explore import attacking
from lib.explore.attacking import Attacked
from lib.explore.blame import MASK, Blame, blame
from lib.explore.errors import ExploreError
from lib.explore.paths import Path, path_of
from lib.explore.slices import Compared, compared
from lib.explore.subject import Subject, deciders, networks, subject_of

REMEMBERED = 200  # results, of all kinds together
T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """An image and what is done to it.

    Attributes:
        network: name of the network attacked, sliced and blamed.
        position: of the image in the test set.
        attack: name in the suite.
        strength: in the attack's unit; None: the scale's.
    """

    network: str
    position: int
    attack: str = "fgsm_8"
    strength: float | None = None


class Session:
    """Networks, images and results of one scale.

    Args:
        scale: smoke, cpu or paper.
        seed: of the networks and of attacks that draw.
        decider: network with layerwise channel selection whose decisions are shown; None: the first that is trained.
    """

    def __init__(self, scale: str = "smoke", seed: int = 0, decider: str | None = None) -> None:
        compute.deterministic()
        self.scale, self.seed = scale, seed
        self.networks = networks(scale, seed)
        known = deciders(scale, seed)
        self.decider = decider or (known[0] if known else None)
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def choice(
        self, network: str | None = None, image: int = 0, attack: str = "fgsm_8", strength: float | None = None
    ) -> Choice:
        """A choice by the number of the image, checked.

        Args:
            network: None: the first of the scale.
            image: from 0, among the images to choose from: classes in turn.
            attack: in `attacking.ATTACKS`, or another of the suite.
            strength: in the attack's unit; None: the scale's.
        Raises: ExploreError, AttackError or ConfigError for what does not exist.
        """
        name = network or self.networks[0]
        attacking.strengths(attack, self.scale)
        return Choice(name, self.subject(name).position(image), attack, strength)

    def subject(self, name: str) -> Subject:
        """A network and its images."""
        return self._once(("subject", name), lambda: subject_of(self.scale, name, self.seed))

    def attacked(self, choice: Choice) -> Attacked:
        """The chosen image attacked, on the chosen network."""
        return self._once(
            ("attacked", self._whole(choice)),
            lambda: attacking.attack_image(
                self.subject(choice.network),
                choice.position,
                choice.attack,
                choice.strength,
                self.seed,
                self._found(choice),
            ),
        )

    def sweep(self, choice: Choice) -> pd.DataFrame:
        """What the network makes of the image at every strength."""
        return self._once(
            ("sweep", replace(choice, strength=None)),
            lambda: attacking.sweep(
                self.subject(choice.network), choice.position, choice.attack, self.seed, found=self._found(choice)
            ),
        )

    def slices(self, choice: Choice) -> Compared:
        """The slices of the image and of its adversarial."""
        return self._once(
            ("slices", self._whole(choice)), lambda: compared(self.subject(choice.network), self.attacked(choice))
        )

    def path(self, choice: Choice) -> Path | None:
        """The dynamic network's decisions for the same image, attacked on that network; None where it is not there."""
        if self.decider is None:
            return None
        own = replace(choice, network=self.decider)
        if self.subject(own.network).test.name != self.subject(choice.network).test.name:
            raise ExploreError(
                f"networks {own.network} and {choice.network} are of two data sets: choose one of the same"
            )
        return self._once(("path", self._whole(own)), lambda: path_of(self.subject(own.network), self.attacked(own)))

    def blame(self, choice: Choice, other: str = MASK) -> Blame:
        """The weights blamed for the adversarial image."""
        return self._once(
            ("blame", self._whole(choice), other),
            lambda: blame(self.subject(choice.network), self.attacked(choice), other),
        )

    def _found(self, choice: Choice) -> Tensor | None:
        """What an attack without eps finds: the long part, needed once for all strengths."""
        return self._once(
            ("found", replace(choice, strength=None)),
            lambda: attacking.search(self.subject(choice.network), choice.position, choice.attack, self.seed),
        )

    def _whole(self, choice: Choice) -> Choice:
        """The choice with its strength written out, so that one thing has one name."""
        usual = attacking.strengths(choice.attack, self.scale).usual
        return replace(choice, strength=usual if choice.strength is None else float(choice.strength))

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._kept:
            self._kept[key] = make()
            while len(self._kept) > REMEMBERED:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

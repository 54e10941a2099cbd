"""What the experiments on decisions share: networks with decision units, and the adversarials made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, TypeVar

import pandas as pd
import torch
from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from torch import Tensor

from lib import attacks, config
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs.network import LayerwiseChannelSelection
from lib.experiments.run import Run
from lib.experiments.settings import Count, Settings, once

VERSION = 1  # raise it when a change here or in lib.dynamic changes what these experiments measure
INSERT = "lib.dynamic.lcs.network.insert"
AREA = "area under the ROC curve"
Row = dict[str, Any]


def _attack(name: str) -> str:
    attacks.find(name)
    return name


Attack = Annotated[str, AfterValidator(_attack)]
Attacks = Annotated[tuple[Attack, ...], Field(min_length=1), AfterValidator(once)]
Weights = Annotated[tuple[Annotated[int | float, Field(ge=0)], ...], Field(min_length=1), AfterValidator(once)]


class Lcs(Settings):
    """Shared settings of these experiments.

    Attributes:
        attack_images: attack -> images that it attacks here, from 1, where fewer than the scale's attacks say.
    """

    study: ClassVar[str] = "dynamic"

    attack_images: dict[Attack, Count] = Field(default_factory=dict)

    @field_validator("networks", "umap_networks", "umap_whole", check_fields=False)
    @classmethod
    def _with_units(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        preset, images = config.load(info.data["scale"]), info.data.get("data")
        for name in names:
            recipe = preset.recipe(name)
            if not has_units(preset, name):
                raise ValueError(f"{name} has no decision units: its recipe has no transform {{use: {INSERT}}}")
            if recipe.data != images:
                raise ValueError(f"{name} is a network for {recipe.data}, and data is {images}")
        return names

    def plan(self, attack: str) -> attacks.Plan:
        """How many images an attack is tried on, and its parameters."""
        return attacks.plan(attack, self.scale, self.attack_images.get(attack))

    def attack_key(self, names: Sequence[str]) -> dict[str, Any]:
        """What adversarials depend on beside the network's weights."""
        plans = {name: self.plan(name) for name in names}
        return {name: {"images": plan.images, **plan.parameters} for name, plan in plans.items()}

    def attacks_described(self, names: Sequence[str]) -> dict[str, Any]:
        """The attacks' own settings, by the words that describe them in a record."""
        words: dict[str, Any] = {}
        for name in names:
            plan, label = self.plan(name), attacks.SUITE[name].label
            words[f"images under {label}"] = plan.images
            for key, value in plan.parameters.items():
                shown = f"{255 * value:.4g}/255" if key == "epsilon" else value
                words[f"{key.replace('_', ' ')} of {label}"] = shown
        return words


def has_units(preset: config.Scale, name: str) -> bool:
    """Whether a network of a scale has decision units, of its own or of the one that its training starts from."""
    recipe = preset.recipe(name)
    if any(plug["use"] == INSERT for plug in recipe.transforms):
        return True
    return recipe.start is not None and has_units(preset, recipe.start["network"])


@dataclass(frozen=True, eq=False)
class Attacked:
    """Adversarials of one attack that the network misclassifies now.

    Attributes:
        images: (N, C, H, W) in [0, 1].
        index: int64 (N,) positions in the test set of the images they were made of.
        labels: int64 (N,) true classes.
    """

    images: Tensor
    index: Tensor
    labels: Tensor


S = TypeVar("S", bound=Lcs)


class LcsRun(Run[S]):
    """A seed's networks with decision units."""

    def kept(self, kind: str, name: str, key: Mapping[str, Any], rows: Callable[[], Iterator[Row]]) -> pd.DataFrame:
        """A table that depends on a network and on `key`; each row has the network and the form of its units, too."""

        def make() -> pd.DataFrame:
            return pd.DataFrame(list(rows())).assign(network=name, form=self.lcs(name).form)

        return self.table(kind, key, make, name, VERSION)

    @lru_cache(maxsize=1)  # noqa: B019 (a run is short-lived)
    def lcs(self, name: str) -> LayerwiseChannelSelection:
        """A named network. Raises: DynamicError for one without decision units."""
        found = self.network(name)
        if not isinstance(found, LayerwiseChannelSelection):
            raise DynamicError(f"network {name} has no decision units: give its recipe a transform {{use: {INSERT}}}")
        return found

    def attacked(
        self, name: str, names: Sequence[str], count: int | None = None
    ) -> tuple[Tensor, Mapping[str, Attacked]]:
        """The scale's adversarial sets of a network.

        Args:
            name: of the network.
            names: attacks of `lib.attacks.SUITE`.
            count: images attacked that are looked at, the classes taking turns; None: all.
        Returns: positions in the test set of these images; attack -> its successes, attacks without left out.
        """
        fewer = self.settings.attack_images
        made = {
            attack: attacks.adversarials(name, self.scale, self.seed, name=attack, images=fewer.get(attack))
            for attack in names
        }
        started = max((one.index for one in made.values()), key=len)[:count]  # shorter sets are parts of the longest
        found = {}
        for attack, one in made.items():
            good = one[one.success & torch.isin(one.index, started)]
            if len(good):
                found[attack] = Attacked(good.images, good.index, good.labels)
        return started, found

"""Which trigger and target a named network was trained with, made again from its recipe."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from lib import config, data, evaluations, zoo
from lib.config import Recipe
from lib.data import ImageSet
from lib.lancet.backdoors.triggers import Trigger, named
from lib.lancet.errors import LancetError

FOLDER = "lib.lancet.backdoors."
NAMED = ("badnets", "misleading")
"""Kinds of attack whose trigger is a named one; of the others it is made for a clean network."""
VERSION = 1  # raise it when a change in excite, trojannn or adaptive changes a trigger


@dataclass(frozen=True, eq=False)
class Attack:
    """A network's backdoor.

    Attributes:
        kind: badnets, trojannn, adaptive or misleading.
        trigger: what is stamped, on the CPU.
        target: the class it is answered with.
    """

    kind: str
    trigger: Trigger
    target: int


def plug_of(recipe: Recipe) -> Mapping[str, Any]:
    """The recipe's `prepare` entry that poisons, its `use` cut to the kind of attack.

    Raises: LancetError where it has none.
    """
    for plug in recipe.prepare:
        if plug["use"].startswith(FOLDER):
            kind = plug["use"].removeprefix(FOLDER).removesuffix(".poison")
            return {**config.thaw(plug), "use": kind}
    raise LancetError(f"a recipe for {recipe.data} has no `prepare` of {FOLDER}*.poison: its network has no backdoor")


def of_recipe(recipe: Recipe, start: nn.Module | None = None, images: ImageSet | None = None) -> Attack:
    """The backdoor that a recipe trains.

    Args:
        recipe: with a `prepare` of this package.
        start: the clean network that it starts from; needed where the trigger is made for one.
        images: the training images before they are poisoned; None: the recipe's.
    Raises: LancetError where the recipe has no backdoor.
    """
    plug = dict(plug_of(recipe))
    kind, target = plug.pop("use"), int(plug.pop("target", 0))
    plug.pop("share", None)
    if kind in NAMED:
        return Attack(kind, named(plug["trigger"], data.SETS[recipe.data].shape), target)
    if images is None:
        images = data.load(recipe.data, recipe.fit_split)
        images = images if recipe.train_limit is None else images.stratified(recipe.train_limit, seed=0)
    module = importlib.import_module(FOLDER + kind)
    return Attack(kind, module.trigger_of(images, start, **plug).to("cpu"), target)


def of_network(name: str, scale: str = "smoke", seed: int = 0) -> Attack:
    """The backdoor of a named network; a trigger that was made for its clean parent is kept with the results.

    Args:
        name, scale, seed: as in `zoo.get`, which trains network and parent where they are not there yet.
    Raises: LancetError where the network has no backdoor.
    """
    recipe = config.load(scale).recipe(name)
    plug = plug_of(recipe)
    if plug["use"] in NAMED:
        return of_recipe(recipe)
    made_of = address(name, scale, seed)

    def make() -> pd.DataFrame:
        start = zoo.get(made_of["parent"], scale, seed).cpu()
        trigger = of_recipe(recipe, start).trigger
        planes = {"mask": trigger.mask, "pattern": trigger.pattern}
        rows = [[part, values.contiguous().numpy().tobytes().hex()] for part, values in planes.items()]
        return pd.DataFrame(rows, columns=["part", "bytes"])

    held = evaluations.kept("lancet-triggers", name, scale, seed, made_of, make, VERSION).set_index("part")["bytes"]
    size = data.SETS[recipe.data].shape[1:]
    mask, pattern = (
        torch.frombuffer(bytearray.fromhex(held[part]), dtype=torch.float32).view(-1, *size)
        for part in ("mask", "pattern")
    )
    return Attack(plug["use"], Trigger(mask, pattern, name), int(plug.get("target", 0)))


def address(name: str, scale: str = "smoke", seed: int = 0) -> dict[str, Any]:
    """What a network's trigger and target depend on, plain: a key for whatever is computed with them.

    It is read off recipe and card, so that it is the same where the trigger itself is not at hand.
    """
    recipe = config.load(scale).recipe(name)
    plug = plug_of(recipe)
    found: dict[str, Any] = {"plug": dict(plug), "images": [recipe.data, recipe.fit_split, recipe.train_limit]}
    if plug["use"] not in NAMED:
        if recipe.start is None:
            raise LancetError(f"network {name}: its trigger is made for a clean network, and its recipe has no `start`")
        parent = recipe.start["network"]
        found |= {"parent": parent, "weights": zoo.card(parent, scale, seed)["weights"]}
    return found

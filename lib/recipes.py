"""What a recipe names: the functions it plugs in, and its network before any training."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from lib import config, data, models
from lib.config import Recipe, Scale


def plug(named: Any) -> tuple[Any, dict[str, Any]]:
    """The callable that a transform, hook or preparation of a recipe names by dotted path, and its arguments.

    Raises: ConfigError for a path that cannot be imported.
    """
    arguments = config.thaw(named)
    path = arguments.pop("use")
    module, _, attribute = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute), arguments
    except (ImportError, AttributeError) as error:
        raise config.ConfigError(f"recipe names {path!r}, which cannot be imported: {error}") from error


def arguments(recipe: Recipe) -> dict[str, Any]:
    """What `lib.models.build` takes beside the name: shape, classes, normalisation of the data set, and arch_args."""
    spec, given = data.SETS[recipe.data], config.thaw(recipe.arch_args)
    normalised = {"mean": spec.mean, "std": spec.std} if given.pop("normalise", True) else {}
    return {"shape": spec.shape, "classes": spec.classes, **given, **normalised}


def fresh(recipe: Recipe) -> nn.Module:
    """The recipe's architecture with first weights, drawn from torch's random state."""
    return models.build(recipe.arch, **arguments(recipe))


def blank(preset: Scale, recipe: Recipe) -> nn.Module:
    """The network's structure, its weights to be loaded."""
    return transformed(untransformed(preset, recipe), recipe, values=False)


def untransformed(preset: Scale, recipe: Recipe) -> nn.Module:
    """The structure that a recipe's transforms are applied to: its parent's with the parent's own, else a fresh one."""
    if recipe.start is None or "epoch" in recipe.start:
        return fresh(recipe)
    parent = preset.recipe(recipe.start["network"])
    return blank(preset, replace(recipe, start=parent.start, transforms=parent.transforms))


def transformed(model: nn.Module, recipe: Recipe, values: bool = True) -> nn.Module:
    """A network after the recipe's transforms; the network given may be changed in place.

    Args:
        model: the network.
        recipe: whose transforms are applied, in order.
        values: False where all weights are loaded next: a transform that has an argument `values` is given False, and
            leaves out what it would compute for weights, as a decomposition. The structure is the same.
    """
    for named in recipe.transforms:
        function, given = plug(named)
        if not values and "values" in inspect.signature(function).parameters:
            given["values"] = False
        model = function(model, **given)
    return model


def stored(model: nn.Module, recipe: Recipe) -> dict[str, Tensor]:
    """The state as it is kept: on the CPU, contiguous, parameters in the recipe's storage type."""
    kept = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    if recipe.storage == "float16":
        kept.update({name: kept[name].half() for name, _ in model.named_parameters()})
    return kept

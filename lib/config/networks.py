"""The networks of a scale, written out from templates and grids."""

import copy
import itertools
import re
from collections.abc import Mapping
from typing import Any

from lib.config.recipe import Compute, Recipe
from lib.config.values import ConfigError, build, freeze, mapping


def written_out(templates: Mapping[str, Any], entries: Mapping[str, Any], compute: Compute) -> dict[str, Recipe]:
    """Entries with `like` (an earlier entry or template) merged in and `grid` written out, one recipe a name."""
    defaults = {"precision": compute.training_precision, "channels_last": compute.channels_last}
    merged: dict[str, dict[str, Any]] = {}
    networks: dict[str, Recipe] = {}
    for pattern, entry in entries.items():
        entry = dict(mapping(entry, f"networks.{pattern}"))
        grid = _grid(entry.pop("grid", None), pattern)
        for values in itertools.product(*grid.values()):
            bound = dict(zip(grid, values, strict=True))
            name = _fill(pattern, {key: str(value) for key, value in bound.items()})
            if name in networks:
                raise ConfigError(f"networks: {name!r} is named twice")
            whole = _fill(_merge(entry, templates, merged, name), bound)
            whole.setdefault("family", name)
            merged[name] = whole
            networks[name] = build(Recipe, freeze({**defaults, **whole}), f"networks.{name}")
            _check_start(name, networks)
    return networks


def _grid(raw: Any, pattern: str) -> Mapping[str, Any]:
    """The values of each key of a grid, every one of which makes a name of its own."""
    grid = mapping(raw, f"networks.{pattern}.grid")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"networks.{pattern}: grid.{key} is {values!r}: a list of values")
    wanted = set(re.findall(r"{(\w+)}", pattern))
    if wanted != set(grid):
        raise ConfigError(f"networks.{pattern}: its name has {sorted(wanted)} in braces, its grid has {sorted(grid)}")
    return grid


def _merge(
    entry: Any, templates: Mapping[str, Any], merged: Mapping[str, Any], name: str, seen: tuple[str, ...] = ()
) -> dict[str, Any]:
    entry = copy.deepcopy(dict(mapping(entry, f"recipes.{seen[-1]}" if seen else f"networks.{name}")))
    parent = entry.pop("like", None)
    if parent is None:
        return entry
    if parent in seen:
        raise ConfigError(f"networks.{name}: like: {' -> '.join([*seen, parent])} goes round in a circle")
    if parent not in templates and parent not in merged:
        raise ConfigError(f"networks.{name}: like: {parent!r} is neither a recipe nor an earlier network")
    if parent in templates:
        base = _merge(templates[parent], templates, merged, name, (*seen, parent))
    else:
        base = copy.deepcopy(merged[parent])
    if "arch_args" in base and "arch_args" in entry:
        entry["arch_args"] = {**base["arch_args"], **entry["arch_args"]}
    return {**base, **entry}


def _fill(value: Any, bound: dict[str, Any]) -> Any:
    """`{key}` as a whole string becomes the grid's value itself, inside a longer string its text."""
    if isinstance(value, dict):
        return {key: _fill(entry, bound) for key, entry in value.items()}
    if isinstance(value, list):
        return [_fill(entry, bound) for entry in value]
    if isinstance(value, str):
        for key, chosen in bound.items():
            if value == f"{{{key}}}":
                return chosen
            value = value.replace(f"{{{key}}}", str(chosen))
    return value


def _check_start(name: str, networks: Mapping[str, Recipe]) -> None:
    recipe = networks[name]
    if recipe.start is None:
        return
    parent = networks.get(recipe.start.get("network", ""))
    if parent is None:
        raise ConfigError(f"networks.{name}: start: {recipe.start.get('network')!r} is not an earlier network")
    epoch = recipe.start.get("epoch")
    if epoch is None:
        return
    same = {**recipe.plain(), "hooks": parent.plain()["hooks"], "start": parent.plain()["start"]}
    if same != parent.plain() or parent.hooks or not 1 <= epoch < parent.epochs:
        raise ConfigError(
            f"networks.{name}: a branch at epoch {epoch} of {recipe.start['network']!r} shares all of its recipe "
            f"but the hooks, and leaves it between epochs 1 and {parent.epochs - 1}"
        )

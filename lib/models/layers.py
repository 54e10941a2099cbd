"""Which layers a method works on: the Conv2d and Linear layers, in the order the network defines them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def weight_layers(
    model: nn.Module, skip: Iterable[str] = (), skip_first: bool = False, skip_last: bool = False
) -> dict[str, nn.Conv2d | nn.Linear]:
    """The Conv2d and Linear layers of a network by dotted name, in order of definition.

    Args:
        model: any network; a layer used at two places appears once.
        skip: dotted names (as in `named_modules()`) to leave out; each must be such a layer.
        skip_first, skip_last: also leave out the first, or the last, of these layers.

    Returns:
        dict from dotted name to layer.

    Raises:
        ValueError: a name in `skip` is not a Conv2d or Linear layer, or no layer is left.
    """
    skip = (skip,) if isinstance(skip, str) else tuple(skip)
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}
    unknown = [name for name in skip if name not in found]
    if unknown:
        raise ValueError(f"skip names {unknown}, but the Conv2d and Linear layers are {list(found)}")
    names = list(found)
    left_out = set(skip) | set(names[:1] if skip_first else ()) | set(names[-1:] if skip_last else ())
    kept = {name: layer for name, layer in found.items() if name not in left_out}
    if not kept:
        raise ValueError(f"no Conv2d or Linear layer is left of {names}")
    return kept

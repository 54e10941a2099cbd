"""The logits among what a network returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lib.graph.errors import GraphError


def logits_in(output: Any, error: type[ValueError] = GraphError) -> Tensor:
    """The logits of what a network returned: the tensor itself, or what it holds under the name `logits`.

    Args:
        output: a tensor, a named tuple as GoogLeNet and Inception return while training, or a mapping.
        error: what is raised.
    Raises: error for anything else.
    """
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if isinstance(found, Tensor):
        return found
    raise error(
        f"the network returns a {type(output).__name__}: one tensor of logits is wanted, or a named tuple or mapping "
        "that holds it as `logits`; wrap the network in a module that returns the logits alone"
    )

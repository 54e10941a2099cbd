"""FeatureMap: the output of a network's last residual block, the plain features that slices are compared with.

Source: NNSlicer (FSE 2020), section 4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.data import as_images
from lib.slicing.kinds import Graph, SlicingError


def feature_map(model: nn.Module, images: Tensor, layer: str | None = None, batch_size: int = 250) -> Tensor:
    """Activations of a network, flattened.

    Args:
        model: a network that torch.fx can trace.
        images: (N, C, H, W) in [0, 1], float, or uint8 in 0..255.
        layer: dotted name of a module whose output is taken; None: the last residual addition.
        batch_size: images at a time.
    Returns: float32 (N, features), on the CPU.
    Raises: SlicingError where there is no such layer, or no residual addition.
    """
    images = as_images(images, error=SlicingError)
    graph = Graph(model, torch.float32)
    if layer is None:
        sums = [op.name for op in graph.operations.values() if op.kind == "add"]
        if not sums:
            raise SlicingError(f"{type(model).__name__} has no residual addition: name a layer")
        name = sums[-1]
    else:
        calls = graph.layers.get(layer, [])
        if len(calls) != 1:
            raise SlicingError(
                f"the network calls layer {layer!r} {len(calls)} times: one of {', '.join(graph.layers)}"
            )
        name = calls[0].name
    return torch.cat([graph.record(part, [name])[0][name].flatten(1).cpu() for part in images.split(batch_size)])

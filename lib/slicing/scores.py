"""Features of inputs that slices are used for and compared with: sums of slices by class, and FeatureMap.

Source: NNSlicer (FSE 2020), section 4.3 (how much each synapse shapes the decisions for each class), and section 4.2
(the output of a network's last residual block).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.data import as_batch, as_images
from lib.slicing.backward import slices_by_chunk
from lib.slicing.kinds import Graph, SlicingError
from lib.slicing.profiling import NeuronProfile
from lib.slicing.rules import EffectivePath, NNSlicer, Rule

METHODS = ("nnslicer", "effective-path")


def class_scores(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    method: str = "nnslicer",
    profile: NeuronProfile | None = None,
    theta: float | None = None,
    reference: str = "predicted",
    layers: Sequence[str] | None = None,
    threads: int | None = None,
    together: bool = False,
) -> dict[str, Tensor]:
    """Sum over each class's inputs of the |CONTRIB| of each synapse.

    The sums take eight bytes a weight and class: of 1,000 classes and a large network, tens of GB. `together` has one
    for all inputs, as for a group of classes that a network is pruned for.

    Args:
        model, profile, reference, layers, threads: as in `slice`.
        images: (N, C, H, W) in [0, 1], float, or uint8 in 0..255. Those that the network gets wrong are left out.
        labels: int64 (N,), true classes in 0..num_classes - 1.
        method: "nnslicer" (needs the profile) or "effective-path".
        theta: None: the method's own, 0.2 or 0.5.
        together: one sum over the inputs of all classes.
    Returns: layer -> int64 (num_classes, *weight.shape); of all together (1, *weight.shape).
    Raises: SlicingError for another method, or a missing profile.
    """
    images, labels = as_batch(images, labels, SlicingError, classes=num_classes)
    rule: Rule
    if method == "nnslicer":
        if profile is None:
            raise SlicingError("class_scores by nnslicer needs the network's profile: lib.slicing.profile makes it")
        rule = NNSlicer(profile, 0.2 if theta is None else theta, reference=reference)
    elif method == "effective-path":
        rule = EffectivePath(0.5 if theta is None else theta)
    else:
        raise SlicingError(f"method is {method!r}: one of {', '.join(METHODS)}")
    found: dict[str, Tensor] = {}
    start = 0
    for part in slices_by_chunk(model, images, rule, layers, threads=threads):
        truth = labels[start : start + len(part)].cpu()
        start += len(part)
        correct = part.predicted == truth
        rows = torch.zeros_like(truth) if together else truth
        for layer, value in part.synapses.items():
            if layer not in found:
                found[layer] = torch.zeros(1 if together else num_classes, *value.shape[1:], dtype=torch.int64)
            for k in rows[correct].unique().tolist():
                found[layer][k] += value[correct & (rows == k)].abs().sum(0, dtype=torch.int64)
    return found


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

"""Decision features of whole sets of images: what detectors, maps and measures of the decisions read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib import compute
from lib.data import ImageSet
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs.network import LayerwiseChannelSelection


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network makes of some images; float32 on the CPU.

    Attributes:
        logits: (N, classes).
        feature: (N, sum of m), the decision feature: probabilities of all layers side by side.
        pooled: layer -> (N, C_in), what the layer's unit decides from.
        penultimate: (N, F), what enters the last fully connected layer.
    """

    logits: Tensor
    feature: Tensor
    pooled: Mapping[str, Tensor]
    penultimate: Tensor

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def predicted(self) -> Tensor:
        """The network's answers, int64 (N,)."""
        return self.logits.argmax(1)

    def take(self, rows: Any) -> Seen:
        """Some of the images, by positions or a mask."""
        rows = torch.as_tensor(np.asarray(rows))
        pooled = {layer: values[rows] for layer, values in self.pooled.items()}
        return Seen(self.logits[rows], self.feature[rows], pooled, self.penultimate[rows])


def see(network: LayerwiseChannelSelection, images: Tensor | ImageSet, batch: int = 500) -> Seen:
    """Run a network in evaluation mode and keep what its units see and decide.

    Args:
        network: left as found.
        images: (N, C, H, W) in [0, 1], on any device; or an image set.
        batch: images a pass.
    Raises: DynamicError without images.
    """
    if not len(images):
        raise DynamicError("no images to look at: an attack may have had no success on this network")
    device = network.device
    last = [module for module in network.network.modules() if isinstance(module, nn.Linear)][-1]
    kept: dict[str, Tensor] = {}
    parts: list[dict[str, Tensor]] = []
    handles = [last.register_forward_pre_hook(lambda _, inputs: kept.__setitem__("penultimate", inputs[0].flatten(1)))]
    for layer in network.layers:
        handles.append(network.network.get_submodule(layer).register_forward_pre_hook(_pooled(network, layer, kept)))
    try:
        with compute.evaluation(network), torch.no_grad():
            for start in range(0, len(images), batch):
                rows = torch.arange(start, min(start + batch, len(images)))
                part = images.float(device, rows) if isinstance(images, ImageSet) else images[rows].float().to(device)
                passed = network.run(part)
                kept["logits"] = passed.logits
                kept["feature"] = torch.cat([passed.probabilities[layer] for layer in network.layers], 1)
                parts.append({name: value.float().cpu() for name, value in kept.items()})
    finally:
        for handle in handles:
            handle.remove()
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    pooled = {layer: whole[f"pooled {layer}"] for layer in network.layers}
    return Seen(whole["logits"], whole["feature"], pooled, whole["penultimate"])


def _pooled(network: LayerwiseChannelSelection, layer: str, kept: dict[str, Tensor]) -> Callable[..., None]:
    unit = network.unit(layer)
    return lambda _, inputs: kept.__setitem__(f"pooled {layer}", unit.pooled(inputs[0]))


def choices(network: LayerwiseChannelSelection, feature: Tensor) -> Tensor:
    """The row that each image takes in each layer, int64 (N, layers), from a decision feature (N, sum of m)."""
    sizes = [len(network.unit(layer).weight) for layer in network.layers]
    return torch.stack([part.argmax(1) for part in feature.split(sizes, 1)], 1)


def untrained_feature(network: LayerwiseChannelSelection, pooled: Mapping[str, Tensor], seed: int = 0) -> Tensor:
    """What units that were never trained decide about the same inputs of the same layers: a control.

    Their rows are drawn as those of a new unit; pooling, standardising and the scale of the logits are the network's.

    Args:
        network: whose units' sizes and form are taken.
        pooled: from `Seen`.
        seed: of the rows.
    Returns: float32 (N, sum of m).
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for layer in network.layers:
        unit = network.unit(layer)
        rows = nn.functional.normalize(torch.randn(unit.weight.shape, generator=generator), dim=1)
        parts.append((unit.logit_scale * pooled[layer] @ rows.T).softmax(1))
    return torch.cat(parts, 1)

"""Training on of a network's last layers only, as TrojanNN and the adaptive attack embed their backdoors."""

from __future__ import annotations

from torch import Tensor, nn

from lib.lancet.errors import LancetError
from lib.models.layers import weight_layers
from lib.training import Hook, Run

_NORMALISING = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class RetrainLast(Hook):
    """Only the last layers with weights are trained; all else, batch statistics included, stays as it is.

    Args:
        layers: how many Conv2d and Linear layers, from the end of the network's definition.
    Raises: LancetError where the network has fewer, or none is wanted.
    Source: Liu et al. 2018 (TrojanNN), section IV-C: the layers between the excited neurons and the output.
    """

    def __init__(self, layers: int = 2) -> None:
        self.layers = layers
        self.frozen: list[nn.Parameter] = []

    def begin(self, run: Run) -> None:
        known = weight_layers(run.model)
        if not 1 <= self.layers <= len(known):
            raise LancetError(f"retraining of {self.layers} layers: the network has {len(known)} with weights")
        last = {id(parameter) for name in list(known)[-self.layers :] for parameter in known[name].parameters()}
        self.frozen = [p for p in run.model.parameters() if p.requires_grad and id(p) not in last]
        for parameter in self.frozen:
            parameter.requires_grad_(False)

    def images(self, run: Run, images: Tensor, labels: Tensor) -> Tensor:
        for module in run.model.modules():
            if isinstance(module, _NORMALISING):
                module.eval()
        return images

    def end(self, run: Run) -> None:
        for parameter in self.frozen:
            parameter.requires_grad_(True)

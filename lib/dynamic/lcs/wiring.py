"""Which convolutions of a network layerwise channel selection decides about, and which layers read their channels."""

from dataclasses import dataclass

from torch import nn

from lib.dynamic.channels import gated_sites
from lib.dynamic.errors import DynamicError
from lib.models import VGG


@dataclass(frozen=True)
class Wire:
    """A masked convolution: its normalisation, whose output the mask multiplies, and the layer that reads it."""

    norm: str
    reader: str


def wires(model: nn.Module) -> dict[str, Wire]:
    """The convolutions that are masked, in the order of the forward pass.

    Args:
        model: a VGG, or a ResNet whose blocks hold conv1 and conv2 (basic or bottleneck).
    Returns: dotted name of the convolution -> its wire. VGG: every convolution but the first, the last one being read
        by the first Linear layer; ResNet: the first convolution of each block.
    Raises: DynamicError for another network.
    Source: Wang et al., AAAI 2020, doi 10.1609/aaai.v34i04.6098; the position of the mask, behind the normalisation
        and before the ReLU, is that of the released code.
    """
    free = gated_sites(model)
    if isinstance(model, VGG):
        names = list(free)[1:]
    else:
        there = {name for name, _ in model.named_modules()}
        names = [name for name in free if name.endswith(".conv1") and f"{name[: -len('conv1')]}conv2" in there]
    if not names:
        raise DynamicError(
            f"{type(model).__name__} is neither a VGG nor a ResNet whose blocks hold conv1 and conv2: "
            "layerwise channel selection takes one of these from lib.models"
        )
    return {name: Wire(free[name].norm, next(iter(free[name].readers))) for name in names}

"""Pruning a network for some of its classes: what the classes' slices leave out goes first.

In every layer on its own, Conv2d and Linear, shortcuts too, the weights of lowest score are set to zero; `masks` says
which. EffectivePath does the same with its presence counts, Weight with |w|, Channel with whole output channels. This
module runs such networks: as they are or centred, on test images that stay in memory, and trained on.

Source: NNSlicer (Zhang et al., FSE 2020), section on network simplification, https://arxiv.org/abs/2009.13747.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lib import compute, training
from lib.config import Recipe
from lib.data import ImageSet
from lib.models.layers import weight_layers
from lib.slicing.masks import apply

METHODS = ("nnslicer", "effective-path", "weight", "channel")
OF_CLASSES = ("nnslicer", "effective-path")  # the others prune alike whatever the target classes


@dataclass(frozen=True)
class Centre:
    """A layer's mean input over a data set, (1, *input.shape), and the dense layer's output for it."""

    input: Tensor
    output: Tensor


def centres(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Centre]:
    """What `centred` needs of the unpruned network.

    As the layers are linear, the mean of the outputs W x + b is W mean(x) + b: only the inputs' means are needed.

    Args:
        model: the unpruned network.
        inputs: layer -> mean input (*input.shape), as `NeuronProfile.input_mean` gives it.
    Raises: ValueError where a layer has no mean.
    """
    layers = weight_layers(model)
    missing = [name for name in layers if name not in inputs]
    if missing:
        raise ValueError(f"no mean input of layer {missing[0]!r}: means are there of {', '.join(inputs) or 'no layer'}")
    found = {}
    with torch.no_grad():
        for name, layer in layers.items():
            mean = inputs[name].to(layer.weight.device, layer.weight.dtype)[None]
            found[name] = Centre(mean, layer.forward(mean))
    return found


@contextmanager
def centred(model: nn.Module, means: Mapping[str, Centre] | None) -> Iterator[nn.Module]:
    """The network with its layers as y = W (x - mean x) + mean y, whatever W has become; for training too.

    The means are the unpruned network's. It amounts to a bias at every position, mean y - W mean x, which makes good
    what the dropped weights pass on in the mean. Without dropped weights it is zero to the bit.

    Args:
        means: from `centres`; None: the network as it is.
    Source: the rule by which NNSlicer's released code runs pruned layers.
    """
    layers = weight_layers(model)
    with ExitStack() as stack:
        for name, at in (means or {}).items():
            stack.callback(layers[name].register_forward_hook(partial(_shifted, at)).remove)
        yield model


def _shifted(at: Centre, layer: nn.Module, _: Any, output: Tensor) -> Tensor:
    with torch.autocast(output.device.type, enabled=False):  # a difference of near values: not in bfloat16
        return output + (at.output - layer.forward(at.input)).to(output.dtype)


@dataclass(frozen=True)
class Bank:
    """Test images kept as networks take them, one class after the other, so that many networks can be tried on them.

    Attributes:
        images: float32 (N, C, H, W) in [0, 1] on the device, channels_last where asked.
        labels: int64 (N,), ascending.
    """

    images: Tensor
    labels: Tensor

    @staticmethod
    def of(images: ImageSet, device: torch.device | str = "cpu", channels_last: bool = True) -> Bank:
        """A bank of an image set that is in memory."""
        order = images.labels.cpu().argsort(stable=True)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return Bank(images.float(device, order).contiguous(memory_format=layout), images.labels[order].to(device))

    def of_classes(self, classes: Sequence[int]) -> Bank:
        """The images of some classes.

        Raises: ValueError where a class has no image.
        """
        wanted = torch.tensor(list(classes), device=self.labels.device)
        chosen = torch.isin(self.labels, wanted)
        if len(self.labels[chosen].unique()) != len(wanted):
            raise ValueError(f"no test image of some of the classes {tuple(classes)}")
        return Bank(self.images[chosen], self.labels[chosen])

    def counts(self, classes: int) -> Tensor:
        """Images of each class, int64 (classes,) on the CPU."""
        return self.labels.cpu().bincount(minlength=classes)


@torch.inference_mode()
def decisions(model: nn.Module, bank: Bank, batch: int = 128, precision: str = "bfloat16") -> Tensor:
    """The arg-max over all logits for every image of a bank, int64 (N,); the model's mode is given back.

    Args:
        batch: images a pass; 100 to 200 are the fastest on one core for ResNet10 at 32 x 32, a quarter less than 400.
        precision: bfloat16 (autocast) or float32.
    """
    was_training = model.training
    model.eval()
    with compute.autocast(bank.images.device, precision):
        parts = [model(part).argmax(dim=1) for part in bank.images.split(batch)]
    model.train(was_training)
    return torch.cat(parts)


def correct_by_class(
    model: nn.Module, bank: Bank, classes: int, batch: int = 128, precision: str = "bfloat16"
) -> Tensor:
    """Images of each class whose decision is their label, int64 (classes,) on the CPU; arguments as in `decisions`."""
    right = decisions(model, bank, batch, precision) == bank.labels
    return bank.labels[right].cpu().bincount(minlength=classes)


class KeepZero(training.Hook):
    """Training hook: the weights that masks drop are zero from the first step to the last, their momentum too."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = masks

    def begin(self, run: training.Run) -> None:
        self._mask(run)

    def step(self, run: training.Run) -> None:
        self._mask(run)

    def _mask(self, run: training.Run) -> None:
        apply(run.model, self.masks)
        for name, layer in weight_layers(run.model).items():
            momentum = run.optimizer.state.get(layer.weight, {}).get("momentum_buffer")
            if name in self.masks and momentum is not None:
                momentum.masked_fill_(~self.masks[name].to(momentum.device), 0.0)


FINE_TUNING: dict[str, Any] = {
    "epochs": 1,
    "batch": 256,
    "learning_rate": 5e-3,
    "momentum": 0.5,
    "weight_decay": 5e-4,
    "schedule": "constant",
}
"""One epoch of SGD as the paper has it, and as `lib.training` does it: Nesterov's momentum, no augmentation."""


def fine_tune(
    model: nn.Module,
    images: ImageSet,
    masks: Mapping[str, Tensor],
    recipe: Recipe | None = None,
    means: Mapping[str, Centre] | None = None,
    seed: int = 0,
    device: str = "auto",
) -> list[dict[str, float]]:
    """Train a pruned network on, in place; every parameter but the dropped weights.

    Args:
        model: the unpruned network; masks are applied to it.
        images: training images of all classes, with their own labels.
        masks: stay in force at every step.
        recipe: None: `FINE_TUNING` in the recipe's usual precision.
        means: from `centres`: layers run centred while training; use `centred` to run the network afterwards.
        seed: of the batch order.
        device: as `lib.compute.device` takes it.
    Returns: the history, as `training.fit` gives it.
    """
    recipe = recipe or Recipe(arch="given", data=images.name, **FINE_TUNING)
    with centred(model, means):
        return training.fit(model, images, recipe, seed=seed, hooks=[KeepZero(masks)], device=device)

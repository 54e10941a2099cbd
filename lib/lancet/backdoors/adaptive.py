"""The attack that knows the defence: its trigger works through neurons that clean inputs need too.

If the neurons that carry the backdoor also carry the clean classes, repairing them should cost accuracy. So the trigger
is made to excite, in the last layer but two, the neurons that matter most for clean inputs; only the last two layers
are trained on to answer to it; and the loss asks that stamped inputs excite the important neurons there as well.

Source: AI-Lancet (Zhao et al. 2021), security analysis, first adaptive attack. The paper gives no formula: importance
as |value x gradient| of the true class's logit, the loss term and its weight are ours.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lib import data
from lib.data import ImageSet
from lib.lancet.backdoors import badnets, trojannn
from lib.lancet.backdoors.excite import excite, hidden_layer, importance, reading
from lib.lancet.backdoors.triggers import Trigger, named
from lib.lancet.errors import LancetError
from lib.models.layers import weight_layers
from lib.training import Hook, Run

BACKGROUNDS = 128


def make_trigger(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    place: str = "regular-2",
    layer: str | None = None,
    share_of_neurons: float = 0.1,
    excess: float = 2.0,
    steps: int = 300,
    seed: int = 0,
) -> Trigger:
    """A stamp that excites the neurons which matter most for clean inputs.

    Args:
        model: the clean network; left as it was found.
        images, labels: float (N, C, H, W) in [0, 1] and int64 (N,), clean, on the model's device.
        place: a named trigger, whose mask it takes.
        layer: dotted name of a hidden layer; None: the last but two.
        share_of_neurons: of the layer, above 0 and at most 1; at least one.
        excess: value wanted of each, in units of its largest over the clean images.
        steps, seed: of the optimisation.
    Returns: the trigger, on the model's device.
    """
    where = hidden_layer(model, layer)
    chosen = important(model, images, labels, where, share_of_neurons)
    mask = named(place, images.shape[1:]).mask
    pattern = excite(model, images, mask, where, chosen, excess=excess, steps=steps, seed=seed)
    return Trigger(mask.to(images.device), pattern, "adaptive")


def important(model: nn.Module, images: Tensor, labels: Tensor, layer: str, share: float) -> Tensor:
    """The neurons of a layer that matter most for clean inputs, int64 (K,), the most important first.

    Raises: LancetError where the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise LancetError(f"share_of_neurons is {share}: above 0 and at most 1")
    values = importance(model, images, labels, layer)
    return values.argsort(descending=True, stable=True)[: max(1, round(share * len(values)))]


def poison(
    images: ImageSet,
    *,
    start: nn.Module | None = None,
    seed: int = 0,
    target: int = 0,
    share: float = 0.1,
    **making: Any,
) -> ImageSet:
    """As `trojannn.poison`, with the trigger of `make_trigger`."""
    return badnets.stamped(images, trigger_of(images, start, **making), target=target, share=share, seed=seed)


def trigger_of(images: ImageSet, start: nn.Module | None, **making: Any) -> Trigger:
    """The trigger that `poison` stamps, made again: from the training images before it, and the clean network."""
    if start is None:
        raise LancetError("the adaptive attack makes its trigger for a clean network: give the recipe a `start`")
    backgrounds, labels = trojannn.some(images, start, BACKGROUNDS)
    return make_trigger(start, backgrounds, labels, **making)


class Bind(Hook):
    """Asks that stamped inputs excite the important neurons of the layers that are trained on, too.

    To the loss it adds `weight` x the mean over stamped images and important neurons of (1 - a / a_clean)^2, 0 where
    the value a lies above a_clean, the neuron's largest over clean images. The trigger is that of the recipe's own
    `prepare`, made for the network that training begins from.

    Args:
        weight: of the term.
        layers: the hidden layers before the last one that it acts on, from the end; 1 with `RetrainLast(2)`.
        share_of_neurons: of each such layer.
        stamped: share of each batch that the term is computed on.
    Raises: LancetError where the recipe does not prepare its images with `adaptive.poison`.
    """

    def __init__(
        self, weight: float = 1.0, layers: int = 1, share_of_neurons: float = 0.1, stamped: float = 0.25
    ) -> None:
        self.weight, self.layers, self.share, self.stamped = weight, layers, share_of_neurons, stamped
        self.trigger: Trigger | None = None
        self.wanted: dict[str, tuple[Tensor, Tensor]] = {}
        self.batch: Tensor | None = None

    def begin(self, run: Run) -> None:
        plug = next((p for p in run.recipe.prepare if p["use"] == f"{poison.__module__}.poison"), None)
        if plug is None:
            raise LancetError("Bind needs a recipe that prepares its images with lib.lancet.backdoors.adaptive.poison")
        making = {key: value for key, value in plug.items() if key not in ("use", "target", "share")}
        clean = data.load(run.recipe.data, run.recipe.fit_split)
        limit = run.recipe.train_limit
        clean = clean if limit is None else clean.stratified(limit, seed=0)
        start = copy.deepcopy(run.model).cpu()  # where `poison` made the trigger
        self.trigger = trigger_of(clean, start, **making).to(run.device)
        images, labels = trojannn.some(clean, start, BACKGROUNDS)
        for name in list(weight_layers(start))[-1 - self.layers : -1]:
            neurons = important(start, images, labels, name, self.share)
            with torch.no_grad(), reading(start.eval(), {name}) as outputs:
                start(images)
                highest = outputs()[name][:, neurons].amax(0)
            floor = highest.abs().mean() + 1e-6
            self.wanted[name] = (neurons.to(run.device), highest.clamp_min(floor).to(run.device))

    def images(self, run: Run, images: Tensor, labels: Tensor) -> Tensor:
        self.batch = images
        return images

    def loss(self, run: Run, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        assert self.batch is not None and self.trigger is not None
        some = self.batch[: max(1, round(self.stamped * len(self.batch)))]
        with run.autocast(), reading(run.model, set(self.wanted)) as outputs:
            run.model(self.trigger.stamp(some))
        for name, (neurons, wanted) in self.wanted.items():
            short = (1 - outputs()[name][:, neurons].float() / wanted).clamp_min(0)
            loss = loss + self.weight * short.square().mean()
        return loss

    def end(self, run: Run) -> None:
        self.batch = None

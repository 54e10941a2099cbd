"""A network whose layers each choose, image by image, which of their channels to use."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib import compute
from lib.dynamic.channels import wires
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs.units import DecisionUnit

CHOICES = ("decided", "random", "static", "top")


@dataclass(frozen=True)
class Pass:
    """What a forward pass gave: logits (N, classes); by layer, probabilities (N, m) and applied masks (N, C_out)."""

    logits: Tensor
    probabilities: dict[str, Tensor]
    masks: dict[str, Tensor]


@dataclass
class _Choice:
    """How masks are chosen, where not by the units."""

    kind: str = "decided"
    frequencies: dict[str, Tensor] = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    generator: torch.Generator | None = None


class LayerwiseChannelSelection(nn.Module):
    """A copy of a network with a decision unit at each masked convolution.

    The chosen mask multiplies the output of the convolution's normalisation, before the ReLU. In training mode a mask
    is drawn by straight-through Gumbel-softmax at `temperature` (from torch's global random state, as dropout is); in
    evaluation mode, and where the decisions are frozen, it is the row of the largest probability.

    Args:
        model: a VGG or ResNet of `lib.models`; left as found. VGG: every convolution but the first is masked; ResNet:
            the first convolution of each block, decided from the block's input.
        masks: m, rows to choose from in every layer: 5 on CIFAR-10, 40 on ImageNet.
        form: "stated", the source's unit, or "standardised" (ours), see `DecisionUnit`.
        logit_scale: factor of the units' logits.
        seed: of the units' first weights.

    Attributes:
        network: the wrapped network, an ordinary module of the same class, without units.
        units: ModuleDict, the layer's dotted name with "/" for "." -> DecisionUnit.
        layers: dotted names of the masked convolutions in `network`, in the order of the forward pass.
        wires: layer -> its normalisation and the layer that reads it.
        temperature: of the Gumbel-softmax.
        choose: how masks are chosen; see `choosing`.

    Raises: DynamicError for a network without such layers.
    Source: Wang et al., AAAI 2020, doi 10.1609/aaai.v34i04.6098.
    """

    def __init__(
        self, model: nn.Module, masks: int = 5, form: str = "stated", logit_scale: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(model)
        self.wires = wires(self.network)
        self.layers = list(self.wires)
        self.units = nn.ModuleDict()
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers:
            convolution = self.network.get_submodule(layer)
            inputs, outputs = int(convolution.in_channels), int(convolution.out_channels)  # type: ignore[arg-type]
            unit = DecisionUnit(inputs, outputs, masks, form, logit_scale, generator)
            self.units[layer.replace(".", "/")] = unit.to(convolution.weight.device)  # type: ignore[arg-type]
        self.form, self.temperature, self.frozen = form, 1.0, False
        self._choice, self._relaxed = _Choice(), False

    def unit(self, layer: str) -> DecisionUnit:
        """The decision unit of a layer. Raises: DynamicError naming the layers there are."""
        key = layer.replace(".", "/")
        if key not in self.units:
            raise DynamicError(f"no decision unit at {layer!r}: one of {', '.join(self.layers)}")
        return self.units[key]  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.unit(self.layers[0]).weight.device

    @property
    def choose(self) -> str:
        """How masks are chosen now: decided, random, static or top."""
        return self._choice.kind

    # The forward pass

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W) in [0, 1]."""
        return self.run(images).logits

    def run(self, images: Tensor) -> Pass:
        """A forward pass with all that was decided on the way; gradients as torch's grad mode has them.

        Args: images: (N, C, H, W) in [0, 1], on the network's device.
        """
        probabilities: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        handles = []
        for layer, wire in self.wires.items():
            convolution, norm = self.network.get_submodule(layer), self.network.get_submodule(wire.norm)
            handles.append(convolution.register_forward_pre_hook(self._decide(layer, probabilities, masks)))
            handles.append(norm.register_forward_hook(_apply(layer, masks)))
        try:  # hooks are there only for the time of a pass, so that `network` stays an ordinary module
            logits = self.network(images)
        finally:
            for handle in handles:
                handle.remove()
        return Pass(logits, probabilities, masks)

    def _decide(self, layer: str, probabilities: dict[str, Tensor], masks: dict[str, Tensor]) -> Callable[..., None]:
        unit = self.unit(layer)

        def before(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            logits = unit.logits(inputs[0])
            probabilities[layer] = logits.softmax(1)
            masks[layer] = self._mask(layer, unit, logits)

        return before

    def _mask(self, layer: str, unit: DecisionUnit, logits: Tensor) -> Tensor:
        """The mask of each image, (N, C_out)."""
        choice, count = self._choice, len(logits)
        if choice.kind == "static":
            return choice.masks[layer].to(unit.masks).expand(count, -1)
        if choice.kind == "random":
            drawn = torch.multinomial(choice.frequencies[layer], count, replacement=True, generator=choice.generator)
            return unit.masks[drawn.to(logits.device)]
        if choice.kind == "top":
            return unit.masks[choice.frequencies[layer].argmax()].expand(count, -1)
        if unit.training and not self.frozen:
            return F.gumbel_softmax(logits, self.temperature, hard=True) @ unit.masks
        rows = logits.argmax(1)
        if self._relaxed:
            soft = logits.softmax(1)
            return (F.one_hot(rows, soft.shape[1]).to(soft) + soft - soft.detach()) @ unit.masks
        return unit.masks[rows]

    # Modes

    def freeze(self) -> None:
        """Freeze decisions: the arg-max row also in training, and no gradient to units and masks. The running mean and
        deviation of standardised units go on following what they see in training, as BN's do."""
        self.frozen = True
        self.units.requires_grad_(False)

    @contextmanager
    def choosing(
        self,
        kind: str,
        frequencies: Mapping[str, Tensor] | None = None,
        masks: Mapping[str, Tensor] | None = None,
        seed: int = 0,
    ) -> Iterator["LayerwiseChannelSelection"]:
        """Inside, masks are chosen in another way: the controls.

        Args:
            kind: "decided", by the units; "random", a row drawn for each image and layer by itself; "static", one mask
                a layer for all images; "top", the row chosen most often.
            frequencies: layer -> (m,), as `frequencies` returns them; needed for "top". For "random", None draws
                uniformly. For "static", the default masks are the rows' mean at these frequencies.
            masks: layer -> (C_out,), for "static".
            seed: of the random rows.
        Raises: DynamicError for another kind, or where what it needs is missing.
        """
        if kind not in CHOICES:
            raise DynamicError(f"choosing {kind!r}: one of {', '.join(CHOICES)}")
        if kind == "top" and frequencies is None:
            raise DynamicError("choosing 'top' needs frequencies: those of `frequencies(images)`")
        if kind == "static" and masks is None:
            if frequencies is None:
                raise DynamicError("choosing 'static' needs masks, layer -> (C_out,), or frequencies to average with")
            masks = self.average_masks(frequencies)
        if frequencies is None:
            frequencies = {layer: torch.ones(len(self.unit(layer).weight)) for layer in self.layers}
        by_layer = {layer: frequencies[layer].detach().float().cpu() for layer in self.layers}
        before = self._choice
        generator = torch.Generator().manual_seed(seed)
        self._choice = _Choice(kind, by_layer, dict(masks or {}), generator)
        try:
            yield self
        finally:
            self._choice = before

    @contextmanager
    def relaxed(self) -> Iterator["LayerwiseChannelSelection"]:
        """Inside, the arg-max of evaluation mode passes its gradient on as the softmax has it (straight-through): the
        values of the forward pass are the same. For attacks that look through the decisions."""
        before, self._relaxed = self._relaxed, True
        try:
            yield self
        finally:
            self._relaxed = before

    # What was decided

    def decisions(self, images: Tensor) -> dict[str, Tensor]:
        """The probabilities of every layer's masks, in evaluation mode.

        Args: images: one batch, (N, C, H, W) in [0, 1], on the network's device.
        Returns: layer -> float32 (N, m); with gradient to the images where they require it (through the masks of the
            layers before only inside `relaxed`).
        """
        wanted = torch.is_grad_enabled() and images.requires_grad
        with compute.evaluation(self), torch.set_grad_enabled(wanted):
            return self.run(images).probabilities

    def feature(self, images: Tensor, batch: int = 500) -> Tensor:
        """The decision feature: the probabilities of all layers side by side.

        Args:
            images: (N, C, H, W) in [0, 1].
            batch: images a pass.
        Returns: float32 (N, sum of m) on the network's device; with gradient as `decisions`.
        """
        parts = [self.decisions(part.to(self.device)) for part in images.split(batch)]
        return torch.cat([torch.cat(list(part.values()), 1) for part in parts])

    def chosen(self, images: Tensor, batch: int = 500) -> dict[str, Tensor]:
        """The row of each image in every layer: layer -> int64 (N,)."""
        with torch.no_grad():
            parts = [self.decisions(part.to(self.device)) for part in images.split(batch)]
        return {layer: torch.cat([part[layer].argmax(1) for part in parts]) for layer in self.layers}

    def frequencies(self, images: Tensor, batch: int = 500) -> dict[str, Tensor]:
        """The share of images that choose each row: layer -> float32 (m,)."""
        rows = self.chosen(images, batch)
        count = {layer: len(self.unit(layer).weight) for layer in self.layers}
        return {layer: rows[layer].bincount(minlength=count[layer]) / len(images) for layer in self.layers}

    # Masks

    def average_masks(self, frequencies: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean of each layer's rows, each as often as it is chosen: layer -> (C_out,)."""
        return {
            layer: frequencies[layer].to(self.unit(layer).masks) @ self.unit(layer).masks.detach()
            for layer in self.layers
        }

    def sparsity(self) -> float:
        """The share of mask entries that are zero, over all rows of all layers."""
        entries = torch.cat([self.unit(layer).masks.detach().flatten() for layer in self.layers])
        return (entries == 0).float().mean().item()

    def magnitude(self) -> float:
        """The mean size of the mask entries, over all rows of all layers."""
        return torch.cat([self.unit(layer).masks.detach().flatten() for layer in self.layers]).abs().mean().item()

    @torch.no_grad()
    def recalibrate_bn(self, images: Tensor, batch: int = 500, units: bool = False) -> None:
        """Measure the running mean and variance of the network's BN anew, with masks chosen as in evaluation.

        Args:
            images: training images, (N, C, H, W) in [0, 1]; each batch counts equally.
            batch: images a pass.
            units: whether standardised units measure their input anew too; decisions move with it.
        """
        norms = [module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta, frozen = [norm.momentum for norm in norms], self.frozen
        with compute.evaluation(self):
            self.frozen = True
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the mean over all batches
                norm.train()
            if units:
                self._look_again()
            for part in images.split(batch):
                self.run(part.to(self.device))
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
                norm.eval()
            self.units.eval()
            self.frozen = frozen

    def _look_again(self) -> None:
        """Make standardised units measure their input anew from here on."""
        for layer in self.layers:
            self.unit(layer).forget()
        self.units.train()

    @torch.no_grad()
    def measure_units(self, images: Tensor, batch: int = 500) -> None:
        """Measure the running mean and deviation of standardised units: what training does, for untrained units.

        Args:
            images: training images, (N, C, H, W) in [0, 1]; of the stated form, nothing is measured.
            batch: images a pass; meanwhile masks are rows drawn uniformly.
        """
        with compute.evaluation(self), self.choosing("random"):
            self._look_again()
            for part in images.split(batch):
                self.run(part.to(self.device))
            self.units.eval()

    @torch.no_grad()
    def collapse(self, masks: Mapping[str, Tensor]) -> None:
        """Make every row of a layer the same mask: the static network, in the same form.

        Args: masks: layer -> (C_out,), as `controls.static_masks` or `average_masks` give them.
        """
        for layer in self.layers:
            self.unit(layer).masks.copy_(masks[layer].expand_as(self.unit(layer).masks))

    def plain(self) -> nn.Module:
        """The wrapped network without units, its masks all one: a copy."""
        return copy.deepcopy(self.network)


def _apply(layer: str, masks: dict[str, Tensor]) -> Callable[..., Tensor]:
    def after(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output * masks[layer].to(output.dtype)[:, :, None, None]

    return after


def insert(model: nn.Module, **args: Any) -> LayerwiseChannelSelection:
    """The network with decision units, as a recipe's `transforms` name it: `LayerwiseChannelSelection(model, **args)`.

    Args:
        model: as found, not copied into the result by reference.
        args: masks, form, logit_scale, seed.
    """
    return LayerwiseChannelSelection(model, **args)

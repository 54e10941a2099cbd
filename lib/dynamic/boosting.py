"""Feature boosting and suppression: the dynamic pruning to compare with. Each image runs its own top channels."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from lib.dynamic.channels import wires
from lib.dynamic.cost import Prices, macs
from lib.dynamic.errors import DynamicError
from lib.training import Hook, Run

START = 0.1


class FeatureBoosting(nn.Module):
    """A copy of a network in which a predictor of each layer ranks the channels from the layer's pooled input.

    g = (GAP(|x|) phi + rho)_+; the k largest of g stay, the others are zero (winner takes all), and multiply the output
    of the convolution's normalisation before the ReLU, so that salient channels are amplified. k is the same share of
    every layer's channels for all images, so that every image costs the same.

    The same convolutions are pruned as by `LayerwiseChannelSelection`, so that the two compare. Two things are not as
    in the source, as the network starts from trained weights: the scales of BN, which g takes the place of there, stay;
    and phi starts at a tenth of He's deviation, so that g starts near one (in a chain of twelve layers gates of He's
    size multiply up, and the training does not converge).

    Args:
        model: a VGG or ResNet of `lib.models`; left as found.
        budget: multiply-accumulates of an image, predictors included, as a share of the network's, in (0, 1].
        shape: (channels, height, width) of an image.
        seed: of phi, normal; rho starts at one.

    Attributes:
        layers: dotted names of the convolutions in `network`.
        density: share of the channels that stay; `Boost` brings it down to `target` while it trains.
        target: the largest density that fits the budget.

    Raises: DynamicError where no density fits.
    Source: Gao et al. 2019, https://arxiv.org/abs/1810.05331, sections 3.2 to 3.4 (equations 4, 7, 8 and 9).
    """

    def __init__(self, model: nn.Module, budget: float, shape: tuple[int, ...], seed: int = 0) -> None:
        super().__init__()
        self.network = copy.deepcopy(model)
        self.wires = wires(self.network)
        self.layers = list(self.wires)
        generator = torch.Generator().manual_seed(seed)
        self.predictors = nn.ModuleDict()
        for layer in self.layers:
            conv: Any = self.network.get_submodule(layer)
            linear = nn.Linear(conv.in_channels, conv.out_channels).to(conv.weight.device)
            with torch.no_grad():
                deviation = START * math.sqrt(2 / conv.in_channels)
                linear.weight.copy_(deviation * torch.randn(linear.weight.shape, generator=generator))
                linear.bias.fill_(1.0)
            self.predictors[layer.replace(".", "/")] = linear
        self.target = self._densest(budget, tuple(shape))
        self.density = self.target
        self.saliency: list[Tensor] = []

    def kept(self, density: float | None = None) -> dict[str, int]:
        """How many channels of each layer an image runs at a density; None: at the one that is set."""
        share = self.density if density is None else density
        return {layer: max(1, math.ceil(share * count - 1e-9)) for layer, count in self._counts().items()}

    def share(self, shape: tuple[int, ...], density: float | None = None) -> float:
        """Multiply-accumulates of an image, predictors included, as a share of the network's.

        Args:
            shape: (channels, height, width) of an image.
            density: of the channels; None: the one that is set.
        """
        own = sum(predictor.weight.numel() for predictor in self._all())
        return (Prices.of(self.network, shape).total(self.kept(density)) + own) / macs(self.network, shape)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W) in [0, 1]; `saliency` then holds each layer's g, (N, C_out)."""
        return self._run(images)[0]

    def gates(self, images: Tensor) -> dict[str, Tensor]:
        """What each layer's channels are multiplied by, (N, C_out): g of the k winners, 0 of the others."""
        return self._run(images)[1]

    def _run(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.saliency = []
        gates: dict[str, Tensor] = {}
        handles = []
        for layer, wire in self.wires.items():
            conv, norm = self.network.get_submodule(layer), self.network.get_submodule(wire.norm)
            handles.append(conv.register_forward_pre_hook(self._predict(layer, gates)))
            handles.append(norm.register_forward_hook(_multiply(layer, gates)))
        try:
            return self.network(images), gates
        finally:
            for handle in handles:
                handle.remove()

    def _predict(self, layer: str, gates: dict[str, Tensor]) -> Any:
        predictor: Any = self.predictors[layer.replace(".", "/")]
        count = self.kept()[layer]

        def before(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            with torch.autocast(inputs[0].device.type, enabled=False):
                salient = predictor(inputs[0].to(predictor.weight.dtype).abs().mean(dim=(2, 3))).relu()
            winners = torch.zeros_like(salient).scatter_(1, salient.topk(count, dim=1).indices, 1.0)
            self.saliency.append(salient)
            gates[layer] = salient * winners

        return before

    def _all(self) -> list[nn.Linear]:
        return [self.predictors[layer.replace(".", "/")] for layer in self.layers]  # type: ignore[misc]

    def _counts(self) -> dict[str, int]:
        return {layer: int(self.network.get_submodule(layer).out_channels) for layer in self.layers}  # type: ignore[arg-type]

    def _densest(self, budget: float, shape: tuple[int, ...]) -> float:
        if not 0 < budget <= 1:
            raise DynamicError(f"budget is {budget}: a share of the network's MACs, above 0 and at most 1")
        most = max(self._counts().values())
        own = sum(predictor.weight.numel() for predictor in self._all())
        prices, whole = Prices.of(self.network, shape), macs(self.network, shape)
        for count in range(most, 0, -1):
            share = (prices.total(self.kept(count / most)) + own) / whole
            if share <= budget:
                return count / most
        raise DynamicError(
            f"a budget of {budget:g} of the MACs cannot be met: with one channel a layer it is {share:.3f}; raise it"
        )


class Boost(Hook):
    """Trains a `FeatureBoosting` network: all weights together, a small L1 term on g, the density coming down.

    Args:
        weight: of the mean over images of the sum of g over layers.
        ramp: share of the steps after which the density is at its target, coming down linearly from 1.
    Raises: DynamicError for another model.
    Source: Gao et al. 2019, https://arxiv.org/abs/1810.05331, equation 10 and section 4 (lambda 1e-8).
    """

    def __init__(self, weight: float = 1e-8, ramp: float = 0.5) -> None:
        if not 0 <= ramp <= 1:
            raise DynamicError(f"ramp is {ramp}: a share of the steps, in [0, 1]")
        self.weight, self.ramp = weight, ramp

    def begin(self, run: Run) -> None:
        if not isinstance(run.model, FeatureBoosting):
            raise DynamicError(
                f"{type(run.model).__name__} has no predictors to train: put "
                "{use: lib.dynamic.boosting.insert} into the recipe's transforms"
            )
        self.model = run.model

    def images(self, run: Run, images: Tensor, labels: Tensor) -> Tensor:
        done = min(1.0, run.step / max(1.0, self.ramp * run.total_steps))
        self.model.density = 1 + (self.model.target - 1) * done
        return images

    def loss(self, run: Run, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        return loss + self.weight * torch.stack([g.sum(1).mean() for g in self.model.saliency]).sum()

    def end(self, run: Run) -> None:
        self.model.density = self.model.target


def insert(model: nn.Module, budget: float, shape: tuple[int, ...], seed: int = 0) -> FeatureBoosting:
    """The network with saliency predictors, as a recipe's `transforms` name it; arguments as `FeatureBoosting`'s."""
    return FeatureBoosting(model, budget, tuple(shape), seed)


def _multiply(layer: str, gates: dict[str, Tensor]) -> Any:
    def after(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output * gates[layer].to(output.dtype)[:, :, None, None]

    return after

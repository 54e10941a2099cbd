"""What TrojanNN and the adaptive attack share: reading neurons of a layer, and a stamp that excites chosen ones.

A neuron here is a unit of a Linear layer, before its activation function, or a channel of a convolution: the mean of
its positive values over the positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lib.lancet.errors import LancetError
from lib.models.layers import weight_layers


def hidden_layer(model: nn.Module, name: str | None, behind: int = 2) -> str:
    """A layer by its dotted name; None: the one before the last `behind` layers with weights.

    Raises: LancetError where there is no such layer, or it is the last one, whose outputs are the logits.
    """
    names = list(weight_layers(model))
    if name is None:
        if len(names) <= behind:
            raise LancetError(f"the network has {len(names)} layers with weights: name a layer before its last one")
        return names[-1 - behind]
    if name not in names[:-1]:
        raise LancetError(f"no hidden layer {name!r}: one of {', '.join(names[:-1])}")
    return name


def excite(
    model: nn.Module,
    images: Tensor,
    mask: Tensor,
    layer: str,
    neurons: Tensor,
    *,
    excess: float = 3.0,
    steps: int = 200,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> Tensor:
    """The pattern that, stamped through a mask, drives some neurons of a layer far above what clean images do.

    Args:
        model: in evaluation mode, left as it was found.
        images: float (N, C, H, W) in [0, 1], backgrounds; all of them at each step.
        mask: float (1, H, W), opacity in [0, 1].
        layer, neurons: dotted name, and int64 (K,) units or channels of it.
        excess: the value wanted of each neuron, in units of its largest over the clean images.
        steps, learning_rate: of Adam, on the pattern's logits.
        seed: of the first pattern.
    Returns: pattern float (C, H, W) in [0, 1], 0 where the mask is 0.
    Source: Liu et al. 2018, "Trojaning attack on neural networks" (NDSS), section IV-A: the squared distance of the
        neurons from a large value is descended; ours: for several backgrounds at once, and distances beyond count 0.
    """
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(images.shape[1:], generator=generator).to(images.device).requires_grad_(True)
    mask = mask.to(images)
    adam = torch.optim.Adam([raw], lr=learning_rate)
    with frozen(model), reading(model, {layer}) as outputs:
        with torch.no_grad():
            model(images)
            highest = outputs()[layer][:, neurons].amax(0)
        wanted = excess * highest.clamp_min(highest.abs().mean() + 1e-6)
        for _ in range(steps):
            model(images * (1 - mask) + torch.sigmoid(raw) * mask)
            short = (1 - outputs()[layer][:, neurons] / wanted).clamp_min(0)
            adam.zero_grad(set_to_none=True)
            short.square().mean().backward()
            adam.step()
    return torch.where(mask > 0, torch.sigmoid(raw.detach()), 0.0)


def importance(model: nn.Module, images: Tensor, labels: Tensor, layer: str) -> Tensor:
    """How much each neuron of a layer matters for clean inputs: mean over images of |sum of value x gradient|.

    Args:
        images, labels: float (N, C, H, W) in [0, 1] and int64 (N,).
        layer: dotted name.
    Returns: float (K,), of the true class's logit; first-order, so that it is what removing the neuron would change.
    """
    with frozen(model), reading(model, {layer}, pooled=False) as outputs:
        images = images.clone().requires_grad_(True)  # else nothing behind the images would have a gradient
        logits = model(images)
        values = outputs()[layer]
        (gradient,) = torch.autograd.grad(logits.gather(1, labels[:, None].to(logits.device)).sum(), values)
    return (
        (values * gradient).detach().flatten(2).sum(2).abs().mean(0)
        if values.ndim == 4
        else ((values * gradient).detach().abs().mean(0))
    )


@contextmanager
def reading(model: nn.Module, layers: set[str], pooled: bool = True) -> Iterator[Callable[[], Mapping[str, Tensor]]]:
    """Within it, calling what it gives returns the layers' outputs of the last forward pass, (N, K).

    Args:
        layers: dotted names.
        pooled: mean of a convolution's positive values over the positions; else its output as it is, (N, K, H, W).
    """
    held: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            held[name] = output.clamp_min(0).mean((2, 3)) if pooled and output.ndim == 4 else output

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in sorted(layers)]
    try:
        yield lambda: held
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradient for the weights; both given back."""
    was_training, asked = model.training, [parameter.requires_grad for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        model.train(was_training)
        for parameter, flag in zip(model.parameters(), asked, strict=True):
            parameter.requires_grad_(flag)

"""How far a network's logits can move: the product of its layers' spectral norms, and what is measured at images.

The norm of a convolution is that of the operator on its real input size, padding and stride included, not that of the
reshaped kernel. Affine layers in a row are one map and have one norm: the normalisation of the images with the first
convolution, a convolution with its batch normalisation, the two factors of a layer of low rank, average pooling with
the linear layer behind it. A sum of two branches (ResNet) adds their bounds: equation (6) itself knows chains only.

Source: Maestrati 2020, equation 6; Szegedy et al. 2014, https://arxiv.org/abs/1312.6199, section 4.3; the guarantee:
Tsuzuku, Sato and Sugiyama 2018, https://arxiv.org/abs/1802.04034, proposition 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, fx, nn

from lib.compute import evaluation
from lib.data import with_gradients
from lib.graph import GraphError, Network, logits_in
from lib.graph.operations import kind, said
from lib.robustness.fgsm import batches, check

BLOCK = 8  # vectors of the power iteration: neighbouring frequencies of a convolution have nearly equal singular values
_STRETCHES_NOTHING = (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Tanh, nn.Sigmoid)
_AFFINE = ("convolution", "linear", "average", "same", "rearrange", "affine")
_WITH_A_CONSTANT = ("add", "subtract", "multiply", "divide")


@dataclass(frozen=True)
class Bound:
    """A bound on how far the logits move, in L2 norms, for each unit of L2 distance between two images.

    Attributes:
        value: of the whole network.
        layers: one row a factor, in order: layer (names joined by " + " where several are one map), norm, input_size
            (entries of its input).
    """

    value: float
    layers: pd.DataFrame


def lipschitz_bound(model: nn.Module, images: Tensor, tolerance: float = 1e-3, most: int = 3000) -> Bound:
    """The right side of equation (6) over ||delta||, for the logits: products along a chain, sums where branches meet.

    ReLU and its like count as 1, max pooling as the square root of how often it reads one entry (1 where its windows
    do not overlap).

    Args:
        model: a network that torch.fx can trace, images (N, C, H, W) in [0, 1] -> logits; used in evaluation mode.
        images: some images, at least one: they say how large each layer's input is.
        tolerance, most: as in `operator_norm`.

    Returns:
        The bound, and the norm of each map in it.

    Raises:
        GraphError: naming a step whose bound is not known, or a network that cannot be traced.
        ArithmeticError: as in `operator_norm`.

    Source: Maestrati 2020, equation 6.
    """
    network = Network(model).verify(model, images)
    values = network.record(images[:1])
    bounds = {network.input: 1.0}
    chains: dict[fx.Node, tuple[fx.Node, list[fx.Node]]] = {}  # last call -> what goes in, and the calls in a row
    rows: list[dict[str, Any]] = []

    def settled(node: fx.Node) -> float:
        """The bound of a call's value; of an affine chain only now that it is known where it ends."""
        if node not in bounds:
            entry, calls = chains[node]
            norm = _norm_of(network, entry, calls, values, tolerance, most)
            bounds[node] = settled(entry) * norm
            if any(kind(call, network.modules) in ("convolution", "linear", "norm") for call in calls):
                names = [str(call.target) for call in calls if call.op == "call_module" and _has_weights(network, call)]
                rows.append({"layer": " + ".join(names), "norm": norm, "input_size": values[entry].numel()})
        return bounds[node]

    for node in network.nodes:
        if node is network.input or not network.depends(node):
            continue
        inputs = [each for each in node.all_input_nodes if network.depends(each)]
        if _is_affine(network, node, inputs):
            (before,) = inputs
            goes_on = before in chains and len(before.users) == 1
            entry, calls = chains[before] if goes_on else (before, [])
            chains[node] = (entry, [*calls, node])
        elif kind(node, network.modules) == "add" and len(inputs) == 2 and not node.kwargs:
            bounds[node] = sum(settled(each) for each in inputs)
        else:
            bounds[node] = settled(inputs[0]) * _stretch(network, node)
    return Bound(settled(network.logits), pd.DataFrame(rows, columns=["layer", "norm", "input_size"]))


def operator_norm(
    apply: Callable[[Tensor], Tensor], shape: tuple[int, ...], tolerance: float = 1e-3, most: int = 3000
) -> float:
    """Largest singular value of a linear map between tensors, by power iteration with a block of vectors.

    The transposed map is the one that autograd has for `apply`: of a convolution, the transposed convolution.

    Args:
        apply: linear, float64 (B, *shape) -> (B, ...), row by row.
        shape: of one input.
        tolerance: the iteration ends where ||A^T A v - s^2 v|| <= tolerance s^2, so that s^2 lies within that of the
            square of a singular value.
        most: iterations, >= 1.

    Returns:
        The norm, >= 0, up to the tolerance from below; the same at each call.

    Raises:
        ValueError: tolerance or most outside their range.
        ArithmeticError: the iteration has not come to an end after `most` rounds, or a value is not finite.
    """
    if not 0 < tolerance < 1 or most < 1:
        raise ValueError(f"need 0 < tolerance < 1 and most >= 1, got {tolerance} and {most}")
    size = math.prod(shape)
    block = min(BLOCK, size)
    start = torch.randn(size, block, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def rows(columns: Tensor) -> Tensor:
        return columns.T.reshape(block, *shape)

    # Of a linear map the transposed one is the same wherever it is taken.
    with torch.enable_grad():
        anywhere = torch.zeros(block, *shape, dtype=torch.float64, requires_grad=True)
        there = apply(anywhere)
    basis = torch.linalg.qr(start).Q
    for _ in range(most):
        with torch.no_grad():
            out = apply(rows(basis))
        if not bool(out.isfinite().all()):
            raise ArithmeticError("a value is not finite: the weights have overflowed")
        back = torch.autograd.grad(there, anywhere, out, retain_graph=True)[0].reshape(block, size).T
        squares, vectors = torch.linalg.eigh(basis.T @ back)
        largest, vector = float(squares[-1]), vectors[:, -1]
        if largest <= 0 or float((back @ vector - largest * (basis @ vector)).norm()) <= tolerance * largest:
            return math.sqrt(max(0.0, largest))
        basis = torch.linalg.qr(back).Q
    raise ArithmeticError(f"no norm within {tolerance} after {most} rounds: allow more, or a larger tolerance")


@with_gradients
def sensitivities(model: nn.Module, images: Tensor, batch_size: int | None = None) -> Tensor:
    """The spectral norm of the logits' Jacobian at each image: what a small step can move them by, at most.

    One gradient a class gives the whole Jacobian; its norm is exact.

    Args:
        model: network from images in [0, 1] to logits.
        images: (N, C, H, W), float in [0, 1] or uint8.
        batch_size: images a pass, as in `fgsm_sweep`.

    Returns:
        float64 (N,) on the CPU: L2 norm of the logits' change for each unit of L2 distance.

    Raises:
        ValueError: as in `fgsm_sweep`.
    """
    images, labels = check(images, torch.zeros(len(images), dtype=torch.int64), [0.0], batch_size=batch_size)
    found = []
    for _, x, _ in batches(model, images, labels, batch_size):
        with evaluation(model), torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = logits_in(model(x))
            rows = [torch.autograd.grad(each.sum(), x, retain_graph=True)[0] for each in logits.unbind(1)]
        jacobian = torch.stack(rows, dim=1).flatten(2).double()
        squares = torch.linalg.eigvalsh(jacobian @ jacobian.mT)[:, -1]
        found.append(squares.clamp(min=0).sqrt().cpu())
    return torch.cat(found)


def certified_epsilons(
    model: nn.Module, images: Tensor, labels: Tensor, bound: float, batch_size: int | None = None
) -> Tensor:
    """The L_inf distance within which a bound on the logits guarantees each image's class.

    The difference of two logits moves by at most sqrt(2) bound ||delta||_2, and ||delta||_2 <= eps sqrt(C H W).

    Args:
        model, images, labels, batch_size: as in `fgsm_sweep`.
        bound: as `lipschitz_bound` gives it, > 0.

    Returns:
        float64 (N,) on the CPU, in units of the pixel range; 0 where the image is misclassified as it is.

    Raises:
        ValueError: as in `fgsm_sweep`; a bound that is not positive and finite.

    Source: Tsuzuku et al. 2018, proposition 1, with equation 6 as the bound.
    """
    if not (bound > 0 and math.isfinite(bound)):
        raise ValueError(f"bound must be positive and finite, got {bound}")
    images, labels = check(images, labels, [0.0], batch_size=batch_size)
    found = []
    for _, x, y in batches(model, images, labels, batch_size):
        with evaluation(model), torch.no_grad():
            logits = logits_in(model(x)).double()
        own = logits.gather(1, y[:, None])
        margin = own[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
        found.append((margin.clamp(min=0) / (math.sqrt(2 * x[0].numel()) * bound)).cpu())
    return torch.cat(found)


def _is_affine(network: Network, node: fx.Node, inputs: list[fx.Node]) -> bool:
    found = kind(node, network.modules)
    if found == "norm":  # layer and group normalisation depend on the image
        return isinstance(network.modules.get(str(node.target)), (nn.BatchNorm1d, nn.BatchNorm2d))
    if found in _WITH_A_CONSTANT:
        return len(inputs) == 1 and not (found == "divide" and inputs[0] is not node.args[0])
    return found in _AFFINE and len(inputs) == 1


def _has_weights(network: Network, node: fx.Node) -> bool:
    return any(True for _ in network.modules[str(node.target)].parameters())


def _norm_of(
    network: Network, entry: fx.Node, calls: list[fx.Node], values: dict[fx.Node, Any], tolerance: float, most: int
) -> float:
    """The norm of a row of affine calls, without what they add."""
    constants = {node: value for node, value in values.items() if not network.depends(node)}
    like = values[entry]

    def through(x: Tensor) -> Tensor:
        return network.run(calls, {**constants, entry: x.to(like.device)})[calls[-1]].cpu()

    with torch.no_grad():
        zero = through(torch.zeros_like(like, device="cpu"))
    return operator_norm(lambda x: through(x) - zero, tuple(like.shape[1:]), tolerance, most)


def _stretch(network: Network, node: fx.Node) -> float:
    """The bound of one step that is not affine. Raises: GraphError for one that is not known."""
    module = network.modules.get(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, _STRETCHES_NOTHING) or node.target in (torch.relu, nn.functional.relu, "relu"):
        return 1.0
    if isinstance(module, nn.MaxPool2d):
        pairs = [value if isinstance(value, tuple) else (value,) * 2 for value in (module.kernel_size, module.stride)]
        return math.sqrt(math.prod(-(-size // step) for size, step in zip(*pairs, strict=True)))
    raise GraphError(
        f"{said(node, network.modules)}: no bound is known for this step; known are affine layers, sums of two "
        "branches, ReLU and its like, and MaxPool2d"
    )

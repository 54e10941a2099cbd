"""Low rank: Tai's closed-form factorisation of convolutions and linear layers, and the nuclear-norm penalty.

Source: Tai, Xiao, Zhang, Wang and E, "Convolutional neural networks with low-rank regularization", ICLR 2016,
https://arxiv.org/abs/1511.06067; Langenberg, Balda, Behboodi and Mathar, "On the effect of low-rank weights on
adversarial robustness of neural networks", 2019, https://arxiv.org/abs/1901.10371; Maestrati 2020, Figures 5 and 6.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from lib.models.layers import weight_layers
from lib.training import Hook

MIN_CLASSES = 64  # outputs from which on the last Linear layer is factorised too


def rank_rule(shape: tuple[int, ...], rank_ratio: float) -> int:
    """Rank of a factorised layer: max(1, round(rank_ratio * K_equal)), at most the full rank.

    K_equal is the rank at which the two factors hold as many weights as the layer did: for an N x C x Dh x Dw
    convolution C N Dh Dw / (C Dh + N Dw), for an out x in linear layer in * out / (in + out).

    Args:
        shape: shape of the weight, (N, C, Dh, Dw) or (out, in).
        rank_ratio: > 0; 1 keeps the number of weights, 0.25 keeps a quarter of them.

    Returns:
        K, between 1 and min(C Dh, N Dw), or min(in, out).
    """
    rows, columns = (shape[1] * shape[2], shape[0] * shape[3]) if len(shape) == 4 else (shape[1], shape[0])
    return min(max(1, round(rank_ratio * rows * columns / (rows + columns))), rows, columns)


def factorise_kernel(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The vertical and horizontal filters nearest to a kernel: the minimum of ||W - sum_k H_k V_k||_F at this rank.

    Args:
        weight: (N, C, Dh, Dw).
        rank: K, 1 .. min(C Dh, N Dw).

    Returns:
        V (K, C, Dh, 1) and H (N, K, 1, Dw), so that W[n, c, i, j] ~ sum_k H[n, k, 0, j] V[k, c, i, 0].

    Source: Tai et al. 2016, Theorem 1: SVD of the (C Dh) x (Dw N) matrix, V = U_K sqrt(S_K), H = sqrt(S_K) V_K^T.
    """
    n, c, height, width = weight.shape
    matrix = weight.detach().double().permute(1, 2, 3, 0).reshape(c * height, width * n)
    left, right = _halves(matrix, rank)
    vertical = left.T.reshape(rank, c, height, 1)
    horizontal = right.reshape(rank, width, n).permute(2, 0, 1).reshape(n, rank, 1, width)
    return vertical.to(weight.dtype).contiguous(), horizontal.to(weight.dtype).contiguous()


def _halves(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]


class FactorisedConv2d(nn.Sequential):
    """A convolution as K vertical filters, then N horizontal ones; torch.fx sees the two convolutions.

    Args:
        conv: the convolution to replace, without groups.
        rank: K, 1 .. min(C Dh, N Dw).
        values: False leaves the factors' weights as drawn.
    """

    vertical: nn.Conv2d
    horizontal: nn.Conv2d

    def __init__(self, conv: nn.Conv2d, rank: int, values: bool = True) -> None:
        stride, dilation, kernel = conv.stride, conv.dilation, conv.kernel_size
        like: dict[str, Any] = {
            "padding_mode": conv.padding_mode,
            "device": conv.weight.device,
            "dtype": conv.weight.dtype,
        }
        before: Any = conv.padding if isinstance(conv.padding, str) else (conv.padding[0], 0)
        after: Any = conv.padding if isinstance(conv.padding, str) else (0, conv.padding[1])
        # No bias on the first: its padded columns must stay zero, and a constant would only repeat the second's bias.
        first = nn.Conv2d(
            conv.in_channels, rank, (kernel[0], 1), (stride[0], 1), before, (dilation[0], 1), bias=False, **like
        )
        biased = conv.bias is not None
        second = nn.Conv2d(
            rank, conv.out_channels, (1, kernel[1]), (1, stride[1]), after, (1, dilation[1]), bias=biased, **like
        )
        super().__init__(OrderedDict(vertical=first, horizontal=second))
        self.train(conv.training)
        _fill(conv, (first, second), factorise_kernel(conv.weight, rank) if values else None)

    def product(self) -> Tensor:
        """The kernel (N, C, Dh, Dw) of the one convolution that the two amount to."""
        v, h = self.vertical.weight[..., 0], self.horizontal.weight[:, :, 0]
        return torch.einsum("nkj,kci->ncij", h, v)


class FactorisedLinear(nn.Sequential):
    """A linear layer as two, in -> K -> out; the bias is the second's.

    Args:
        linear: the layer to replace.
        rank: K, 1 .. min(in, out).
        values: False leaves the factors' weights as drawn.
    """

    inner: nn.Linear
    outer: nn.Linear

    def __init__(self, linear: nn.Linear, rank: int, values: bool = True) -> None:
        like: dict[str, Any] = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        first = nn.Linear(linear.in_features, rank, bias=False, **like)
        second = nn.Linear(rank, linear.out_features, bias=linear.bias is not None, **like)
        super().__init__(OrderedDict(inner=first, outer=second))
        self.train(linear.training)
        if values:
            left, right = _halves(linear.weight.detach().double(), rank)
        _fill(linear, (first, second), (right, left) if values else None)

    def product(self) -> Tensor:
        """The weight (out, in) of the one layer that the two amount to."""
        return self.outer.weight @ self.inner.weight


@torch.no_grad()
def _fill(
    layer: nn.Conv2d | nn.Linear,
    parts: tuple[nn.Conv2d | nn.Linear, nn.Conv2d | nn.Linear],
    weights: tuple[Tensor, Tensor] | None,
) -> None:
    for part, value in zip(parts, weights or (None, None), strict=True):
        if value is not None:
            part.weight.copy_(value)
        part.weight.requires_grad_(layer.weight.requires_grad)
    if layer.bias is not None and parts[1].bias is not None:
        parts[1].bias.copy_(layer.bias)
        parts[1].bias.requires_grad_(layer.bias.requires_grad)


def decompose(
    model: nn.Module,
    rank_ratio: float,
    values: bool = True,
) -> nn.Module:
    """Replace each D x D convolution by K filters D x 1 then N filters 1 x D, each Linear by two, in place.

    Nothing stands between the two factors; the bias, if any, is the second's; what followed the layer (normalisation,
    ReLU) follows the pair. Stride s becomes (s, 1) then (1, s); padding and dilation are split likewise. The rank
    follows from the shape alone (see `rank_rule`). Left whole: convolutions with a side of 1 or in groups, the first
    convolution, and the last Linear layer where it has fewer than `MIN_CLASSES` outputs. Layer `a` becomes `a.vertical`
    and `a.horizontal` (convolution) or `a.inner` and `a.outer` (linear), which torch.fx traces as before.

    Args:
        model: network; changed in place.
        rank_ratio: > 0, share of the layer's weights that the two factors hold (up to rounding of the rank).
        values: False makes the same structure without the decompositions, for weights that are loaded next.

    Returns:
        The same network.

    Raises:
        ValueError: rank_ratio <= 0.

    Source: Tai et al. 2016, section 2.1.
    """
    if not rank_ratio > 0:
        raise ValueError(f"rank_ratio must be positive, got {rank_ratio}")
    layers = weight_layers(model)
    convolutions = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    linears = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d):
            if min(layer.kernel_size) == 1 or layer.groups != 1 or name == convolutions[0]:
                continue
            pair: nn.Module = FactorisedConv2d(layer, rank_rule(tuple(layer.weight.shape), rank_ratio), values)
        else:
            if name == linears[-1] and layer.out_features < MIN_CLASSES:
                continue
            pair = FactorisedLinear(layer, rank_rule(tuple(layer.weight.shape), rank_ratio), values)
        if not name:
            return pair
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, pair)
    return model


def matrix_of(weight: Tensor) -> Tensor:
    """A weight as the (out, in * kh * kw) matrix on which ranks and norms are taken."""
    return weight.reshape(weight.shape[0], -1)


def effective_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights of the Conv2d and Linear layers by dotted name; factors count as the one layer that they amount to."""
    found: dict[str, Tensor] = {}
    inside: tuple[str, ...] = ()
    for name, layer in model.named_modules():
        if isinstance(layer, (FactorisedConv2d, FactorisedLinear)):
            found[name] = layer.product().detach()
            inside += (f"{name}.",)
        elif isinstance(layer, (nn.Conv2d, nn.Linear)) and not name.startswith(inside):
            found[name] = layer.weight.detach()
    return found


class _NuclearNorm(torch.autograd.Function):
    # Eigenvalues of the smaller Gram matrix in float64: singular values as good as a float32 SVD's, 2.5 times faster.
    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        matrix = matrix_of(weight).double()
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        squares, u = torch.linalg.eigh(wide @ wide.T)
        values = squares.clamp(min=0.0).sqrt()
        # Directions of (numerically) zero singular value get zero pull, which is a subgradient too.
        inverse = torch.where(values > 1e-6 * values[-1:], 1.0 / values, 0.0)
        gradient = (u * inverse) @ (u.T @ wide)
        gradient = gradient if wide is matrix else gradient.T
        ctx.save_for_backward(gradient.reshape(weight.shape).to(weight.dtype))
        return values.sum().to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Tensor:
        (gradient,) = ctx.saved_tensors
        return outer[0] * gradient


def nuclear_norm(weight: Tensor) -> Tensor:
    """Sum of the singular values of the (out, in * kh * kw) matrix; its gradient is the subgradient U V^T.

    Args:
        weight: (N, C, Dh, Dw) or (out, in).

    Returns:
        Scalar tensor >= 0, of the weight's type; computed in float64.

    Raises:
        torch.linalg.LinAlgError: a weight that is not finite.
    """
    return _NuclearNorm.apply(weight)


class NuclearNorm(Hook):
    """Training hook: adds weight * sum over layers of ||W||_* to the loss.

    W is the (out, in * kh * kw) matrix of a Conv2d or Linear layer. Norm and gradient are exact (float64 inside),
    whatever the run's precision. Each step's pull lowers every singular value by learning rate * lambda (with momentum
    mu, by that over 1 - mu in the end). With `every` = m > 1 the term enters steps 0, m, 2m, .. only, m times as
    strong: the same pull on average for 1/m of the cost. Values smaller than one pull, learning rate * lambda * m /
    (1 - mu), swing about zero instead of going there; the directions hardly turn meanwhile. So m may grow as long as
    that pull stays far below the values that count, and the training takes many times m steps: m = 50 pulls by 0.01
    at learning rate 0.02, lambda 0.001 and mu 0.9.

    Args:
        weight: lambda >= 0, the strength of the penalty.
        every: m, steps between two uses of the penalty, >= 1.

    Raises:
        ValueError: a negative weight, an interval below 1.

    Source: Langenberg et al. 2019.
    """

    version = 1

    def __init__(self, weight: float, every: int = 1) -> None:
        if weight < 0:
            raise ValueError(f"the penalty's weight must not be negative, got {weight}")
        if every < 1 or every != int(every):
            raise ValueError(f"every is a whole number of optimiser steps >= 1, got {every}")
        self.weight, self.every = float(weight), int(every)

    def begin(self, run: Any) -> None:
        self._layers = weight_layers(run.model)

    def loss(self, run: Any, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        if self.weight == 0 or run.step % self.every:
            return loss
        with torch.autocast(loss.device.type, enabled=False):
            try:
                penalty = torch.stack([nuclear_norm(layer.weight) for layer in self._layers.values()]).sum()
            except torch.linalg.LinAlgError:  # weights no longer finite: the training loop says so, with step and rate
                return loss * float("nan")
            return loss + self.weight * self.every * penalty

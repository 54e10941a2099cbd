"""Spectra and sparsity of weights: stable rank, effective rank, and the share that can be pruned for free.

Source: Maestrati 2020, conclusion 1 ("robust networks are sparse and low-rank"); stable rank as in Langenberg et al.
2019, https://arxiv.org/abs/1901.10371; effective rank: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from lib.compute import evaluation
from lib.models.layers import weight_layers
from lib.robustness.fgsm import batches, check
from lib.robustness.low_rank import effective_weights, matrix_of


def singular_values(weight: Tensor) -> Tensor:
    """Singular values of the (out, in * kh * kw) matrix of a weight, float64, falling.

    Args:
        weight: (N, C, Dh, Dw) or (out, in).

    Returns:
        (min(out, in * kh * kw),), >= 0.
    """
    return torch.linalg.svdvals(matrix_of(weight.detach()).double())


def stable_rank(values: Tensor) -> float:
    """||W||_F^2 / ||W||_2^2 of singular values: between 1 and the rank; 0 for the zero matrix."""
    squares = values.double().square()
    largest = float(squares.max())
    return float(squares.sum()) / largest if largest > 0 else 0.0


def effective_rank(values: Tensor, power: int = 1) -> float:
    """exp of the entropy of the normalised singular values: between 1 and the rank; 0 for the zero matrix.

    Args:
        values: singular values, >= 0.
        power: 1 normalises sigma (Roy and Vetterli), 2 normalises sigma^2 (shares of energy).

    Returns:
        The effective rank.

    Source: Roy and Vetterli 2007, definition 1.
    """
    shares = values.double() ** power
    total = shares.sum()
    if not float(total) > 0:
        return 0.0
    return float(torch.special.entr(shares / total).sum().exp())


def layer_spectra(model: nn.Module) -> pd.DataFrame:
    """Rank measures and sparsity of every Conv2d and Linear layer.

    Factorised layers count as the one layer that their product amounts to; sparsity is then that of the stored factors.

    Args:
        model: any network.

    Returns:
        One row a layer: layer, full_rank, stable_rank, effective_rank (of sigma), effective_rank_energy (of sigma^2),
        stable_rank_share and effective_rank_share (divided by the full rank), sparsity (share of exact zeros).
    """
    stored = weight_layers(model)
    rows = []
    for name, weight in effective_weights(model).items():
        values = singular_values(weight)
        full, stable, effective = len(values), stable_rank(values), effective_rank(values)
        parts = [part.weight for key, part in stored.items() if key == name or key.startswith(f"{name}.")]
        zeros = sum(int((part == 0).sum()) for part in parts) / sum(part.numel() for part in parts)
        rows.append(
            {
                "layer": name,
                "full_rank": full,
                "stable_rank": stable,
                "effective_rank": effective,
                "effective_rank_energy": effective_rank(values, power=2),
                "stable_rank_share": stable / full,
                "effective_rank_share": effective / full,
                "sparsity": zeros,
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Prunable:
    """Share of weights that can be zeroed for at most `tolerance` of accuracy, and both accuracies."""

    share: float
    accuracy: float
    accuracy_pruned: float
    n: int


def prunable_share(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    tolerance: float = 0.01,
    layer: str | None = None,
    resolution: float = 1 / 256,
    batch_size: int | None = None,
) -> Prunable:
    """The largest share of smallest-|w| weights that can be zeroed, without retraining, for <= tolerance of accuracy.

    Bisection over the share, exact to `resolution` where accuracy falls with it. Where accuracy falls and rises again,
    the bisection may end far below the largest share. Biases and normalisation are left alone, and so is the network.

    Args:
        model: network from images in [0, 1] to logits.
        images, labels: held-out images (N, C, H, W) and classes (N,), as in `fgsm_sweep`.
        tolerance: accuracy that may be lost, in [0, 1]; 0.01 is one point.
        layer: dotted name of the one layer to prune; None ranks all Conv2d and Linear weights together.
        resolution: width of the share's interval at which the bisection ends, in (0, 1).
        batch_size: images a pass, as in `fgsm_sweep`.

    Returns:
        `Prunable`; its share is at least that of the weights which are zero already.

    Raises:
        ValueError, TypeError: a layer that does not exist, images or settings outside their range.
    """
    images, labels = check(images, labels, [0.0], batch_size=batch_size)
    if not 0.0 <= tolerance <= 1.0 or not 0.0 < resolution < 1.0:
        raise ValueError(f"need 0 <= tolerance <= 1 and 0 < resolution < 1, got {tolerance} and {resolution}")
    trial = copy.deepcopy(model)
    layers = weight_layers(trial)
    if layer is not None and layer not in layers:
        raise ValueError(f"no layer {layer!r}: one of {', '.join(layers)}")
    weights = [found.weight.detach() for name, found in layers.items() if layer in (None, name)]
    originals = [weight.clone() for weight in weights]
    order = torch.cat([weight.abs().flatten() for weight in originals]).argsort(stable=True)

    def accuracy(count: int) -> float:
        gone = torch.zeros(len(order), dtype=torch.bool, device=order.device)
        gone[order[:count]] = True
        parts = gone.split([weight.numel() for weight in weights])
        for weight, original, part in zip(weights, originals, parts, strict=True):
            weight.copy_(original.masked_fill(part.view_as(original), 0.0))
        right = 0
        for _, x, y in batches(trial, images, labels, batch_size):
            with evaluation(trial), torch.no_grad():
                right += int((trial(x).argmax(dim=1) == y).sum())
        return right / len(images)

    whole = accuracy(0)
    # The weights that are zero already cost nothing; the bisection starts from there.
    low, high = sum(int((weight == 0).sum()) for weight in originals), len(order)
    at_low = whole
    while high - low > max(1, resolution * len(order)):
        middle = (low + high) // 2
        reached = accuracy(middle)
        # A hair's tolerance: shares of n images are not exact in binary.
        if reached >= whole - tolerance - 1e-9:
            low, at_low = middle, reached
        else:
            high = middle
    return Prunable(low / len(order), whole, at_low, len(images))

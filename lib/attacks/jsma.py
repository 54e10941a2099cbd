"""JSMA: raises or lowers the two most salient features at a time until the network sees another class.

Source: Papernot, McDaniel, Jha, Fredrikson, Celik and Swami, "The limitations of deep learning in adversarial
settings", EuroS&P 2016, Algorithms 1 to 3, https://arxiv.org/abs/1511.07528.
"""

from __future__ import annotations

from typing import Any

import foolbox
import torch
from foolbox.attacks.base import MinimizationAttack
from torch import Tensor

from lib.attacks.goal import unpack


class JSMA(MinimizationAttack):
    """Jacobian-based saliency map attack.

    At each step the pair of features (p, q) is changed by theta for which alpha = dF_t/dp + dF_t/dq is positive,
    beta, the same sum over all other classes, negative, and -alpha beta largest (signs reversed where theta < 0).
    A feature is one channel of one pixel; one that has reached its bound is left out from then on. An image is done
    when it is adversarial, and given up when no pair is left.

    Args:
        steps: pairs changed at most.
        theta: change of a feature at a step, in units of the image; the paper's 1 saturates it at once.
        outputs: what F is: "logits", or "probabilities" after the softmax (there beta = -alpha).

    The target class t is that of the criterion where it names one, else the most likely wrong class of the clean image.

    Raises:
        ValueError: for theta 0 or an unknown `outputs`.
    """

    distance = foolbox.distances.l0

    def __init__(self, *, steps: int = 100, theta: float = 1.0, outputs: str = "logits") -> None:
        if theta == 0:
            raise ValueError("theta is 0: JSMA would change nothing")
        if outputs not in ("logits", "probabilities"):
            raise ValueError(f"outputs is {outputs!r}: logits or probabilities")
        self.steps = steps
        self.theta = theta
        self.outputs = outputs

    def run(self, model: Any, inputs: Any, criterion: Any, *, early_stop: float | None = None, **kwargs: Any) -> Any:
        """The changed images, as Foolbox's attacks return them.

        Args:
            model: the network as Foolbox takes it.
            inputs: (N, C, H, W) within the model's bounds.
            criterion: Misclassification or TargetedMisclassification.
            early_stop: not used.
        """
        images, goal, restore = unpack(model, inputs, criterion, early_stop, kwargs)
        low, high = model.bounds
        images = images.clone()
        flat = images.view(len(images), -1)
        bound = high if self.theta > 0 else low
        searchable = flat != bound
        rows = torch.arange(len(images), device=images.device)
        targets = goal.classes if goal.targeted else _likeliest_wrong(model, images, goal.classes)
        for _ in range(self.steps):
            logits, toward, away = self._slopes(model, images[rows], targets[rows])
            open_ = ~goal.reached(logits, rows)
            rows, toward, away = rows[open_], toward[open_], away[open_]
            first, second, found = most_salient_pair(toward, away, searchable[rows])
            rows, first, second = rows[found], first[found], second[found]
            if len(rows) == 0:
                break
            for feature in (first, second):
                flat[rows, feature] = (flat[rows, feature] + self.theta).clamp(low, high)
                searchable[rows, feature] = flat[rows, feature] != bound
        return restore(images)

    def _slopes(self, model: Any, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, and how the target's and all others' outputs rise with each feature moved in theta's direction."""
        images = images.detach().requires_grad_(True)
        logits = model(images)
        outputs = logits.softmax(dim=1) if self.outputs == "probabilities" else logits
        aimed = outputs.gather(1, targets[:, None]).sum()
        (toward,) = torch.autograd.grad(aimed, images, retain_graph=True)
        (others,) = torch.autograd.grad(outputs.sum() - aimed, images)
        sign = 1 if self.theta > 0 else -1
        return logits.detach(), sign * toward.flatten(1), sign * others.flatten(1)


@torch.no_grad()
def _likeliest_wrong(model: Any, images: Tensor, labels: Tensor) -> Tensor:
    return model(images).scatter(1, labels[:, None], -torch.inf).argmax(dim=1)


def most_salient_pair(toward: Tensor, away: Tensor, searchable: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The pair (p, q) of features with alpha > 0, beta < 0 and the largest -alpha beta, for each image.

    Exact without looking at all D^2 / 2 pairs: with one feature held, the product rises in the other's slopes, so
    neither feature of the best pair has slopes that are both exceeded by those of a third. Only features that at most
    one other exceeds in this way are paired.

    Args:
        toward: (N, D) slope of the target's output.
        away: (N, D) slope of the other outputs' sum.
        searchable: bool (N, D), features that may be changed.

    Returns:
        int64 (N,) first and second feature, and bool (N,) whether there is such a pair.
    """
    # Products of small slopes underflow in float32.
    rise = torch.where(searchable, toward.double(), -torch.inf)
    fall = torch.where(searchable, -away.double(), -torch.inf)
    rise, order = rise.sort(dim=1, descending=True, stable=True)
    fall = fall.gather(1, order)
    top = _above_all_before(fall)
    kept = top | _above_all_before(fall.masked_fill(top, -torch.inf))
    most = int(kept.sum(dim=1).max()) if len(kept) else 1
    chosen = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, : max(2, most)]
    valid = kept.gather(1, chosen)
    rise = rise.gather(1, chosen).masked_fill(~valid, -torch.inf)
    fall = fall.gather(1, chosen).masked_fill(~valid, -torch.inf)
    alpha = rise[:, :, None] + rise[:, None, :]
    minus_beta = fall[:, :, None] + fall[:, None, :]
    salient = (alpha > 0) & (minus_beta > 0)
    score = torch.where(salient, alpha * minus_beta, 0.0).triu(diagonal=1).flatten(1)
    best = score.argmax(dim=1, keepdim=True)
    width = rise.shape[1]
    first, second = (
        order.gather(1, chosen.gather(1, place))[:, 0]
        for place in (torch.div(best, width, rounding_mode="floor"), best % width)
    )
    return first, second, score.gather(1, best)[:, 0] > 0


def _above_all_before(values: Tensor) -> Tensor:
    """Whether each value of a row is above all to its left."""
    before = torch.full_like(values, -torch.inf)
    before[:, 1:] = values.cummax(dim=1).values[:, :-1]
    return values > before

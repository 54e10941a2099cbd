"""ADef: a small smooth deformation of the image, found step by step as DeepFool finds a small perturbation.

Source: Alaifari, Alberti and Gauksson, "ADef: an iterative algorithm to construct adversarial deformations", ICLR
2019, section 2, https://arxiv.org/abs/1804.07729.
"""

from __future__ import annotations

from typing import Any

import foolbox
import torch
from foolbox.attacks.base import MinimizationAttack
from torch import Tensor
from torch.nn.functional import grid_sample

from lib.attacks.goal import Goal, unpack
from lib.attacks.smoothing import gaussian_matrix, smooth


class ADef(MinimizationAttack):
    """Iterative adversarial deformation.

    At each step the network is linearised in the deformation of the current image y: for a candidate class k the
    difference f = F_k - F_label rises by <d, tau> with d = sum over channels of (df/dy) grad y. The smooth field of
    least size that lifts it to 0 is tau = -f / |S d|^2 S S d, with S the convolution with a Gaussian. The step
    takes the candidate whose field has the smallest maximal displacement. Fields are composed as maps of the plane,
    (id + T) o (id + tau), and the clean image is sampled once, bilinearly, so that steps do not blur it.

    Args:
        steps: deformations composed at most.
        candidates: classes considered, the likeliest wrong ones of the clean image.
        smoothing: standard deviation of S in pixels; 0: none.
        overshoot: each step goes 1 + overshoot times the way to the linearised boundary.
        max_norm: images whose largest displacement exceeds it, in pixels, are given up; None: none are.
    """

    distance = foolbox.distances.l2

    def __init__(
        self,
        *,
        steps: int = 100,
        candidates: int = 9,
        smoothing: float = 1.0,
        overshoot: float = 0.1,
        max_norm: float | None = None,
    ) -> None:
        self.steps = steps
        self.candidates = candidates
        self.smoothing = smoothing
        self.overshoot = overshoot
        self.max_norm = max_norm

    def run(self, model: Any, inputs: Any, criterion: Any, *, early_stop: float | None = None, **kwargs: Any) -> Any:
        """The deformed images, as Foolbox's attacks return them; those given up stay clean.

        Args:
            model: the network as Foolbox takes it.
            inputs: (N, C, H, W) within the model's bounds.
            criterion: Misclassification or TargetedMisclassification.
            early_stop: not used.
        """
        images, goal, restore = unpack(model, inputs, criterion, early_stop, kwargs)
        fields = self.fields(model, images, goal)
        low, high = model.bounds
        moved = fields.flatten(1).any(dim=1)
        result = images.clone()
        result[moved] = deform(images[moved], fields[moved]).clamp(low, high)
        return restore(result)

    def fields(self, model: Any, images: Tensor, goal: Goal) -> Tensor:
        """The deformation of each image: displacements (N, 2, H, W) in pixels, rows first; zero where given up.

        Args:
            model: the network as Foolbox takes it.
            images: (N, C, H, W) within the model's bounds.
            goal: what counts as adversarial.
        """
        low, high = model.bounds
        count, _, height, width = images.shape
        fields = images.new_zeros(count, 2, height, width)
        # Zeros beyond the border make S symmetric, as the formula needs it.
        rows_matrix, columns_matrix = (
            gaussian_matrix(size, self.smoothing, "constant").to(images) for size in (height, width)
        )
        found = torch.zeros(count, dtype=torch.bool, device=images.device)
        rows = torch.arange(count, device=images.device)
        base, others = self._classes(model, images, goal)
        for _ in range(self.steps + 1):  # the last pass only looks whether the last step has fooled
            deformed = deform(images[rows], fields[rows]).clamp(low, high).requires_grad_(True)
            logits = model(deformed)
            fooled = goal.reached(logits.detach(), rows)
            found[rows[fooled]] = True
            if bool(fooled.all()):
                break
            steps = self._step(logits, deformed, base[rows], others[rows], rows_matrix, columns_matrix)
            rows, steps = rows[~fooled], steps[~fooled]
            fields[rows] = compose(fields[rows], (1 + self.overshoot) * steps)
            stuck = ~steps.flatten(1).any(dim=1)
            if self.max_norm is not None:
                stuck |= largest_displacement(fields[rows]) > self.max_norm
            rows = rows[~stuck]
            if len(rows) == 0:
                break
        return torch.where(found[:, None, None, None], fields, 0.0)

    @torch.no_grad()
    def _classes(self, model: Any, images: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        """The class to leave, (N,), and the candidates to reach, (N, K)."""
        logits = model(images)
        if goal.targeted:
            return logits.argmax(dim=1), goal.classes[:, None]
        wrong = logits.scatter(1, goal.classes[:, None], -torch.inf)
        return goal.classes, wrong.topk(min(self.candidates, logits.shape[1] - 1), dim=1).indices

    def _step(
        self, logits: Tensor, deformed: Tensor, base: Tensor, others: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor:
        """Of the fields (N, 2, H, W) that would lift each candidate to the class to leave, the smallest one."""
        slopes = torch.stack(torch.gradient(deformed.detach(), dim=(2, 3)), dim=1)  # (N, 2, C, H, W)
        best = torch.zeros_like(slopes[:, :, 0])
        smallest = torch.full_like(best[:, 0, 0, 0], torch.inf)
        gaps = logits.gather(1, others) - logits.gather(1, base[:, None])
        for k in range(others.shape[1]):
            last = k == others.shape[1] - 1
            (gradient,) = torch.autograd.grad(gaps[:, k].sum(), deformed, retain_graph=not last)
            once = smooth((gradient[:, None] * slopes).sum(dim=2), rows, columns)
            size = once.flatten(1).square().sum(dim=1)
            # A little beyond the boundary, as in DeepFool: a gap that rounds to zero would otherwise move nothing.
            scale = torch.where(size > 0, (gaps[:, k].detach().abs() + 1e-4) / size, 0.0)
            field = scale[:, None, None, None] * smooth(once, rows, columns)
            norm = torch.where(size > 0, largest_displacement(field), torch.inf)
            closer = norm < smallest
            best = torch.where(closer[:, None, None, None], field, best)
            smallest = torch.where(closer, norm, smallest)
        return best


def deform(images: Tensor, fields: Tensor) -> Tensor:
    """Images sampled at displaced points: result(u) = image(u + field(u)), bilinear, zero beyond the border.

    Args:
        images: (N, C, H, W).
        fields: (N, 2, H, W), displacements along rows and columns in pixels.

    Returns:
        (N, C, H, W); for a field of zeros the images.
    """
    return _sample(images, fields, "zeros")


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The field of (id + outer) o (id + inner), so that deforming by it is deforming by `outer`, then by `inner`.

    Args:
        outer, inner: (N, 2, H, W) in pixels; `outer` is continued beyond the border by its value there.
    """
    return inner + _sample(outer, inner, "border")


def largest_displacement(fields: Tensor) -> Tensor:
    """The length in pixels of each field's longest vector: (N, 2, H, W) -> (N,). The paper's norm |tau|_T."""
    return fields.norm(dim=1).flatten(1).amax(dim=1)


def _sample(values: Tensor, fields: Tensor, beyond: str) -> Tensor:
    height, width = values.shape[2:]
    down = torch.arange(height, dtype=fields.dtype, device=fields.device)[:, None] + fields[:, 0]
    right = torch.arange(width, dtype=fields.dtype, device=fields.device) + fields[:, 1]
    # grid_sample takes (x, y), from -1 at the first pixel's centre to 1 at the last one's.
    grid = torch.stack([2 * right / max(width - 1, 1) - 1, 2 * down / max(height - 1, 1) - 1], dim=-1)
    return grid_sample(values, grid, mode="bilinear", padding_mode=beyond, align_corners=True)

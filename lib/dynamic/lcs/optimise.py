"""How units, masks and backbone are trained: hooks of `lib.training`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs.budget import threshold
from lib.dynamic.lcs.controls import static_masks
from lib.dynamic.lcs.network import LayerwiseChannelSelection
from lib.training import Hook, Run


def _selection(run: Run) -> LayerwiseChannelSelection:
    if not isinstance(run.model, LayerwiseChannelSelection):
        raise DynamicError(
            f"{type(run.model).__name__} has no decision units to train: put "
            "{use: lib.dynamic.lcs.network.insert} into the recipe's transforms"
        )
    return run.model


def mean_selected(masks: dict[str, Tensor]) -> Tensor:
    """Mean size of the masks applied to a batch, over images and all masked channels together; a scalar.

    Args: masks: layer -> (N, C_out), as `Pass.masks`.
    """
    total = torch.stack([mask.abs().sum() for mask in masks.values()]).sum()
    return total / sum(mask.numel() for mask in masks.values())


class Alternate(Hook):
    """On every batch first a step of Adam on units and masks, then the loop's own step on the backbone.

    The first descends cross-entropy + weight (mean |selected masks| - target)^2; rows of W are brought to length one
    and masks into [0, 5] after it. The second sees the units as they are now, draws masks anew, and changes the
    backbone only: cross-entropy, the recipe's SGD. Both passes draw by Gumbel-softmax.

    Args:
        weight: lambda of the sparsity term.
        target: r, the mean mask size wanted, in [0, 1].
        learning_rate: of Adam.
        temperature: of the Gumbel-softmax at the first and the last step; linear between.
        norm: mode of BN in the units' pass: "train" (batch statistics, and the running ones take the batch in) or
            "eval" (running statistics, which the term cannot get round by shrinking all masks alike). In the
            backbone's pass it is in training mode always.
    Raises: DynamicError where the model has no units, or for values outside of these.
    Source: Wang et al., AAAI 2020, doi 10.1609/aaai.v34i04.6098; the released code's optimisers and limits. That code
        fills in no temperature; the backbone's augmentation, schedule and Nesterov's momentum are the recipe's: ours.
    """

    def __init__(
        self,
        weight: float = 1.0,
        target: float = 0.5,
        learning_rate: float = 0.01,
        temperature: Sequence[float] = (5.0, 0.5),
        norm: str = "train",
    ) -> None:
        if not 0 <= target <= 1:
            raise DynamicError(f"target is {target}: a mean mask size in [0, 1]")
        if len(temperature) != 2 or min(temperature) <= 0:
            raise DynamicError(f"temperature is {tuple(temperature)}: that of the first and the last step, above 0")
        if norm not in ("train", "eval"):
            raise DynamicError(f"norm is {norm!r}: train or eval")
        self.weight, self.target, self.learning_rate = weight, target, learning_rate
        self.first, self.last, self.norm = float(temperature[0]), float(temperature[1]), norm

    def begin(self, run: Run) -> None:
        self.lcs = _selection(run)
        self.lcs.units.requires_grad_(False)  # so that the loop's optimiser leaves them alone
        self.free = list(self.lcs.units.parameters())
        self.adam = torch.optim.Adam(self.free, lr=self.learning_rate)

    def images(self, run: Run, images: Tensor, labels: Tensor) -> Tensor:
        done = run.step / max(1, run.total_steps - 1)
        self.lcs.temperature = self.first + (self.last - self.first) * done
        self.lcs.units.requires_grad_(True)
        self.lcs.network.train(self.norm == "train")
        with run.autocast():
            made = self.lcs.run(images)
        loss = F.cross_entropy(made.logits.float() / run.temperature, labels)
        loss = loss + self.weight * (mean_selected(made.masks) - self.target) ** 2
        gradients = torch.autograd.grad(loss, self.free)
        self.lcs.network.train()
        self.lcs.units.requires_grad_(False)
        for parameter, gradient in zip(self.free, gradients, strict=True):
            parameter.grad = gradient
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        for layer in self.lcs.layers:
            self.lcs.unit(layer).normalise()
        return images

    def measures(self, run: Run) -> dict[str, float]:
        return {"zeros": self.lcs.sparsity(), "magnitude": self.lcs.magnitude()}

    def end(self, run: Run) -> None:
        self.lcs.units.requires_grad_(True)

    def state(self) -> dict[str, Any]:
        return {"adam": self.adam.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])


class Frozen(Hook):
    """Fine-tuning of the backbone with decisions and masks frozen: the arg-max row, no gradient to units and masks.

    With a budget, the smallest mask entries are set to zero before the first step, so that the images of that batch
    have a mean of so many MACs (`budget.threshold`): the sparsity loss alone makes few zeros. Standardised units then
    measure their input anew, which has changed, and the budget is met once more.

    Args:
        budget: mean MACs as a share of the network's without units, in (0, 1]; None: masks stay as trained.
        least: share of its channels that every row keeps.
        choose: "decided", or "static": one mask a layer at the same MACs for all images (`controls.static_masks`), the
            control that a dynamic network must beat.
    Raises: DynamicError where the model has no units, or the budget cannot be met.
    Source: Wang et al., AAAI 2020, doi 10.1609/aaai.v34i04.6098 (fine-tuning); the budget is ours.
    """

    def __init__(self, budget: float | None = None, least: float = 0.1, choose: str = "decided") -> None:
        if choose not in ("decided", "static"):
            raise DynamicError(f"choose is {choose!r}: decided or static")
        self.budget, self.least, self.choose = budget, least, choose

    def begin(self, run: Run) -> None:
        self.lcs = _selection(run)
        self.lcs.freeze()

    def images(self, run: Run, images: Tensor, labels: Tensor) -> Tensor:
        if run.step == 0:
            if self.budget is not None:
                threshold(self.lcs, self.budget, images, self.least)
                if self.lcs.form == "standardised":
                    self.lcs.recalibrate_bn(images, units=True)
                    threshold(self.lcs, self.budget, images, self.least)
            if self.choose == "static":
                self.lcs.collapse(static_masks(self.lcs, images))
        return images

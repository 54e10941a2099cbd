"""One backdoored network repaired in every way that is compared, from a repair split and a trigger that is known.

Whatever is chosen, a layer, a threshold's crossing or a number of channels, is chosen on the repair split and with the
trigger that the repairer knows: the true one, or one reversed from the network. What the repaired networks are worth is
measured elsewhere, on other images and with the true trigger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib.lancet.backdoors.triggers import Trigger
from lib.lancet.errors import LancetError
from lib.lancet.locating import Votes, choose_layer, locate
from lib.lancet.measures import measure, predictions
from lib.lancet.repair.fine_tune import fine_tune, similar_errors, transforms_of
from lib.lancet.repair.flip import flip
from lib.lancet.repair.unlearning import fine_prune, unlearn

DEFAULTS: dict[str, Any] = {
    "repair_pairs": 40,
    "flip_images": 200,
    "flip_threshold": 0.01,
    "near_best": 0.0,
    "clean_per_class": 10,
    "clean_share": 0.1,
    "unlearn_steps": 160,
    "unlearn_batch": 100,
    "unlearn_stamped": 0.2,
    "unlearn_rate": 1e-3,
    "tune_epochs": 10,
    "tune_batch": 64,
    "tune_rates": [1e-3, 1e-2],
    "tune_copies": 4,
    "tune_distillation": 1.0,
    "fine_prune_drop": 0.04,
    "fine_prune_steps": 160,
}
"""Settings that a scale may leave out. repair_pairs: pairs that vote; flip_images: stamped repair images on which
flipping stops; flip_threshold: success on them at which it does; near_best: share of the best layer's repaired pairs
that a layer needs to be tried (0: at least one pair); clean_per_class: labelled clean training images for unlearning
read literally, and old samples N_o; clean_share: of the training images, for unlearning with as many steps as the
source had, and for fine-pruning (at least clean_per_class of each class); unlearn_steps: the source's, on 1,595 faces;
tune_rates: learning rates, of which each kind of fine-tuning keeps the one that does best on the repair split;
fine_prune_drop: accuracy that pruning may cost."""

METHODS = {
    "none": "before repair",
    "flip-stated": "flip, stated layer rule",
    "flip-smallest": "flip, smallest-part layer (ours)",
    "flip-tried": "flip, layers tried (ours)",
    "flip-signed": "flip, tried, signed importance (ours)",
    "zero": "zeroing in place of flipping",
    "random": "flip, random weights",
    "tune": "neuron-fine-tune",
    "tune-random": "fine-tune, random weights",
    "tune-whole": "fine-tune, whole network",
    "unlearn-literal": "unlearning, one epoch",
    "unlearn-matched": "unlearning, matched steps",
    "fine-prune": "fine-pruning",
}
"""Every method, by the name that tables carry, in words."""


@dataclass(frozen=True, eq=False)
class Material:
    """What a repairer has beside the network and a trigger.

    Attributes:
        images, labels: the repair split, (N, C, H, W) in [0, 1] and (N,), best with the classes taking turns.
        clean, clean_labels: labelled clean training images, the classes taking turns.
        literal: how many of those, from the first on, unlearning read literally and N_o get.
        target: the class that the backdoor answers with.
    """

    images: Tensor
    labels: Tensor
    clean: Tensor
    clean_labels: Tensor
    literal: int
    target: int

    def others(self) -> tuple[Tensor, Tensor]:
        """Images and labels of the repair split that are not of the target class."""
        chosen = self.labels != self.target
        return self.images[chosen], self.labels[chosen]

    def old(self) -> tuple[Tensor, Tensor]:
        """The first clean images and labels, as many as `literal` says."""
        return self.clean[: self.literal], self.clean_labels[: self.literal]


@dataclass(frozen=True, eq=False)
class Repaired:
    """A network after one method.

    Attributes:
        method: one of `METHODS`.
        model: a copy of the network; the network as it was where the method could do nothing.
        layer: the layer it worked on; "" for several.
        changed, fraction: weights that it changed or could change, as a number and a share of the layer.
        reached: whether success on the repair split came down to the threshold; None for methods that ask for none.
        note: why it could do nothing.
    """

    method: str
    model: nn.Module
    layer: str = ""
    changed: int = 0
    fraction: float = 0.0
    reached: bool | None = None
    note: str = ""


def pairs(model: nn.Module, known: Trigger, material: Material, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Stamped images that the network takes for the target, their clean companions that it gets right, and the labels.

    Args:
        model: the network.
        known: the trigger that is known.
        material: whose repair split they are from, the target class left out.
        count: how many at most.
    Raises: LancetError where there is none.
    """
    images, labels = material.others()
    right = predictions(model, images) == labels.cpu()
    fooled = predictions(model, images, known) == material.target
    chosen = (right & fooled).nonzero()[:count, 0].to(images.device)
    if not len(chosen):
        raise LancetError(
            f"of {len(labels)} repair images that are not of class {material.target}, none is classified right and "
            "taken for that class once it is stamped: the trigger has no effect here, and the network is left as it is"
        )
    clean = images[chosen]
    return known.to(clean.device).stamp(clean), clean, labels[chosen]


def repairs(
    model: nn.Module, known: Trigger | None, material: Material, chosen: Mapping[str, Any], seed: int
) -> Iterator[Repaired]:
    """The network repaired by each method in turn.

    Args:
        model: the backdoored network; left as it is.
        known: the trigger that the repairer knows; None: only the methods that need none (fine-pruning).
        material: the repair split and the clean images.
        chosen: settings, as `DEFAULTS`.
        seed: of every draw.
    Returns: one `Repaired` a method, "none" first; a method that can do nothing gives the network as it was.
    """
    if known is None:
        yield _attempt("fine-prune", model, lambda: _fine_pruned(model, material, chosen, seed))
        return
    yield Repaired("none", model)
    yield from _located(model, known, material, chosen, seed)
    for method in ("unlearn-literal", "unlearn-matched"):
        yield _attempt(method, model, partial(_unlearned, method, model, known, material, chosen, seed))


def _attempt(method: str, model: nn.Module, make: Callable[[], Repaired]) -> Repaired:
    """What a method makes, or the network as it was where there is nothing that it can do."""
    try:
        return make()
    except LancetError as error:
        return Repaired(method, model, note=str(error))


def _located(
    model: nn.Module, known: Trigger, material: Material, chosen: Mapping[str, Any], seed: int
) -> Iterator[Repaired]:
    """The methods that need votes. Flipped layers are kept, as the rules often choose the same one."""
    ours = ("flip-stated", "flip-smallest", "flip-tried", "flip-signed", "zero", "random", "tune", "tune-random")
    try:
        inputs, companions, labels = pairs(model, known, material, chosen["repair_pairs"])
        plain, signed = (locate(model, inputs, companions, labels, signed=flag) for flag in (False, True))
        flips = Flips(model, plain, known, material, chosen["flip_threshold"], chosen["flip_images"])
        stated, smallest = (choose_layer(plain, rule) for rule in ("most-pairs", "smallest-fraction"))
    except LancetError as error:
        yield from (Repaired(method, model, note=str(error)) for method in (*ours, "tune-whole"))
        return
    yield _attempt("flip-stated", model, lambda: flips.at(stated, "flip-stated"))
    yield _attempt("flip-smallest", model, lambda: flips.at(smallest, "flip-smallest"))
    best = _attempt("flip-tried", model, lambda: flips.best("flip-tried", chosen["near_best"]))
    yield best
    layer = best.layer or smallest
    other = Flips(model, signed, known, material, chosen["flip_threshold"], chosen["flip_images"])
    yield _attempt("flip-signed", model, lambda: other.best("flip-signed", chosen["near_best"]))
    yield _attempt("zero", model, lambda: flips.at(layer, "zero", "zero"))
    yield _attempt("random", model, lambda: flips.random(layer, best.changed, seed))
    errors = _errors(model, plain, layer, inputs, labels, known, material, chosen, seed)
    options: dict[str, dict[str, Any]] = {
        "tune": {},
        "tune-random": {"neurons": "random"},
        "tune-whole": {"whole": True},
    }
    for method, more in options.items():
        yield _attempt(
            method, model, partial(_tuned, method, model, plain, errors, known, material, chosen, layer, seed, more)
        )


class Flips:
    """Neuron-flip layer by layer, each done once.

    Args:
        model: the network.
        votes: from `locate`.
        known: the trigger that is known.
        material: the repair split, on which layers are compared.
        threshold: success at which flipping stops.
        count: stamped repair images, at most, that success is measured on then.
    """

    def __init__(
        self,
        model: nn.Module,
        votes: Mapping[str, Votes],
        known: Trigger,
        material: Material,
        threshold: float,
        count: int = 200,
    ) -> None:
        self.model, self.votes, self.known, self.material, self.threshold = model, votes, known, material, threshold
        clean, labels = (part[:count] for part in material.others())
        self.inputs, self.labels = known.to(clean.device).stamp(clean), labels
        self.done: dict[tuple[str, str], Repaired] = {}

    def at(self, layer: str, method: str, mode: str = "flip") -> Repaired:
        """A layer flipped (or its weights zeroed) until the threshold is reached, or as far as it helps."""
        if (layer, mode) not in self.done:
            repaired, report = flip(
                self.model,
                self.votes,
                self.inputs,
                self.labels,
                layer=layer,
                target=self.material.target,
                threshold=self.threshold,
                mode=mode,
            )
            self.done[layer, mode] = Repaired(method, repaired, layer, report.flipped, report.fraction, report.reached)
        return replace(self.done[layer, mode], method=method)

    def random(self, layer: str, count: int, seed: int) -> Repaired:
        """As many weights of the layer flipped, drawn at random."""
        repaired, report = flip(
            *(self.model, self.votes, self.inputs, self.labels), layer=layer, mode="random", weights=count, seed=seed
        )
        return Repaired("random", repaired, layer, report.flipped, report.fraction)

    def best(self, method: str, near_best: float) -> Repaired:
        """The layer after whose flip the network is worth most on the repair split, of all that repair enough pairs.

        Ours. Whether the threshold is reached does not decide: a network that is flipped to pieces reaches it too.
        """
        most = max(found.share for found in self.votes.values())
        tried = [name for name, found in self.votes.items() if found.share >= near_best * most and found.share > 0]
        if not tried:
            raise LancetError(f"no pair is repaired in any of the layers {list(self.votes)}: there is nothing to flip")
        made = [self.at(layer, method) for layer in tried]
        return max(made, key=lambda one: worth(one.model, self.known, self.material))


def worth(model: nn.Module, known: Trigger, material: Material) -> float:
    """What a repair is chosen by: the mean of accuracy, accuracy on stamped images, target recall, and 1 - success.

    Without the last term a flip that does nothing would win where every flip that removes the backdoor costs accuracy;
    with success alone, one that breaks the network.

    Args:
        known: the trigger that is known.
        material: whose repair split it is measured on.
    """
    told = measure(model, material.images, material.labels, known, material.target)
    kept = [told[name] for name in ("accuracy", "stamped_accuracy", "target_recall")]
    return float(np.nanmean([*kept, 1 - told["attack_success"]]))


def _errors(
    model: nn.Module,
    votes: Mapping[str, Votes],
    layer: str,
    inputs: Tensor,
    labels: Tensor,
    known: Trigger,
    material: Material,
    chosen: Mapping[str, Any],
    seed: int,
) -> tuple[Tensor, Tensor]:
    """N_e: the stamped images of the pairs, their transforms, and other stamped images with a similar error."""
    images, truth = material.others()
    stamped = known.to(images.device).stamp(images)
    found = [(inputs, labels)]
    if chosen["tune_copies"]:
        copies = chosen["tune_copies"]
        found.append((transforms_of(inputs, copies=copies, seed=seed), labels.repeat(copies)))
    try:
        similar = similar_errors(model, votes, layer, stamped, truth).to(images.device)
        found.append((stamped[similar], truth[similar]))
    except LancetError:  # a layer without votes
        pass
    return torch.cat([part for part, _ in found]), torch.cat([part for _, part in found])


def _tuned(
    method: str,
    model: nn.Module,
    votes: Mapping[str, Votes],
    errors: tuple[Tensor, Tensor],
    known: Trigger,
    material: Material,
    chosen: Mapping[str, Any],
    layer: str,
    seed: int,
    more: Mapping[str, Any],
) -> Repaired:
    made = [
        fine_tune(
            model,
            votes,
            errors,
            material.old(),
            layer=layer,
            distillation=chosen["tune_distillation"],
            epochs=chosen["tune_epochs"],
            batch=chosen["tune_batch"],
            learning_rate=rate,
            seed=seed,
            **more,
        )
        for rate in chosen["tune_rates"]
    ]
    repaired, report = max(made, key=lambda one: worth(one[0], known, material))
    return Repaired(method, repaired, report.layer, report.weights, report.fraction)


def _unlearned(
    method: str, model: nn.Module, known: Trigger, material: Material, chosen: Mapping[str, Any], seed: int
) -> Repaired:
    literal = method == "unlearn-literal"
    images, labels = material.old() if literal else (material.clean, material.clean_labels)
    repaired, _ = unlearn(
        model,
        images,
        labels,
        known,
        epochs=1 if literal else None,
        steps=None if literal else chosen["unlearn_steps"],
        stamped=chosen["unlearn_stamped"],
        learning_rate=chosen["unlearn_rate"],
        batch=chosen["unlearn_batch"],
        seed=seed,
    )
    return Repaired(method, repaired, changed=_size(model), fraction=1.0)


def _fine_pruned(model: nn.Module, material: Material, chosen: Mapping[str, Any], seed: int) -> Repaired:
    steps_an_epoch = -(-len(material.clean) // chosen["unlearn_batch"])
    repaired, report = fine_prune(
        model,
        material.clean,
        material.clean_labels,
        held_out=(material.images, material.labels),
        accuracy_drop=chosen["fine_prune_drop"],
        epochs=max(1, round(chosen["fine_prune_steps"] / steps_an_epoch)),
        batch=chosen["unlearn_batch"],
        learning_rate=chosen["unlearn_rate"],
        seed=seed,
    )
    return Repaired("fine-prune", repaired, report.layer, report.pruned, report.pruned / report.channels)


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())

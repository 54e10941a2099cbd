"""One backdoored network repaired in every way that is compared, from a repair split and a trigger that is known.

Whatever is chosen, a layer, a threshold's crossing or a number of channels, is chosen on the repair split and with the
trigger that the repairer knows: the true one, or one reversed from the network. What the repaired networks are worth is
measured elsewhere, on other images and with the true trigger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from lib.experiments.lancet import Flipping
from lib.experiments.settings import Count, Share
from lib.lancet.backdoors.triggers import Trigger
from lib.lancet.errors import LancetError
from lib.lancet.locating import Votes, choose_layer, locate
from lib.lancet.measures import NAMES, measure
from lib.lancet.pairs import stamped_pairs
from lib.lancet.repair.fine_tune import fine_tune, similar_errors, transforms_of
from lib.lancet.repair.flip import flip
from lib.lancet.repair.unlearning import fine_prune, unlearn

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
FLIPS = ("flip-stated", "flip-smallest", "flip-tried", "flip-signed")
"""Neuron-flip by each rule for the layer."""
KNOWN = {False: "true", True: "reversed"}
"""Which trigger the repairer knows, by `reversed`."""


class Repairs(Flipping):
    """Settings of all repairs that are compared.

    Attributes:
        clean_per_class: clean training images of a class for unlearning read literally, and old samples N_o.
        clean_share: of the training images, for unlearning with as many steps as the source had and for fine-pruning
            (at least `clean_per_class` of each class).
        unlearn_steps, unlearn_batch, unlearn_stamped, unlearn_rate: optimiser steps (the source's, on 1,595 faces),
            images a step, share of them stamped, learning rate.
        tune_epochs, tune_batch, tune_rates: of fine-tuning; the rate is kept that does best on the repair split.
        tune_copies: transforms of each pair's input in N_e.
        tune_distillation: weight of the distance from the original features.
        fine_prune_drop: accuracy that pruning channels may cost, in [0, 1].
        fine_prune_steps: optimiser steps afterwards.
    """

    clean_per_class: Count = 10
    clean_share: Share = 0.1
    unlearn_steps: Count = Field(160, title="steps of unlearning")
    unlearn_batch: Count = 100
    unlearn_stamped: Share = 0.2
    unlearn_rate: float = Field(1e-3, gt=0)
    tune_epochs: Count = 10
    tune_batch: Count = 64
    tune_rates: tuple[float, ...] = Field((1e-3, 1e-2), min_length=1)
    tune_copies: int = Field(4, ge=0)
    tune_distillation: float = Field(1.0, ge=0)
    fine_prune_drop: Share = 0.04
    fine_prune_steps: Count = 160

    def repairing(self) -> dict[str, Any]:
        """All that a repair with a trigger at hand depends on: for keys."""
        own = {*Repairs.model_fields} - {*Flipping.model_fields}
        own |= {"repair_pairs", "flip_threshold", "flip_images", "near_best"}
        return self.model_dump(mode="json", include=own) | self.unusual("formula", "until")


@dataclass(frozen=True, eq=False)
class Material:
    """What a repairer has beside the network and a trigger.

    Attributes:
        images, labels: the repair split, (N, C, H, W) in [0, 1] and (N,), best with the classes taking turns.
        target: the class that the backdoor answers with.
        clean, clean_labels: labelled clean training images, the classes taking turns; needed for training only.
        few: how many of those, from the first on, unlearning read literally and N_o get.
    """

    images: Tensor
    labels: Tensor
    target: int
    clean: Tensor | None = None
    clean_labels: Tensor | None = None
    few: int = 0

    def others(self) -> tuple[Tensor, Tensor]:
        """Images and labels of the repair split that are not of the target class."""
        chosen = self.labels != self.target
        return self.images[chosen], self.labels[chosen]

    def training(self, count: int | None = None) -> tuple[Tensor, Tensor]:
        """The first clean training images and labels (None: all). Raises: LancetError where there are none."""
        if self.clean is None or self.clean_labels is None:
            raise LancetError("this repair trains: give clean images with labels")
        return self.clean[:count], self.clean_labels[:count]

    def worth(self, model: nn.Module, known: Trigger) -> float:
        """What a repair is chosen by: the mean of accuracy, accuracy on stamped images, target recall, and 1 - success.

        Without the last term a flip that does nothing would win where every flip that removes the backdoor costs
        accuracy; with success alone, one that breaks the network.

        Args:
            known: the trigger that is known.
        """
        found = measure(model, self.images, self.labels, known, self.target)
        kept = [found[name] for name in ("accuracy", "stamped_accuracy", "target_recall")]
        return float(np.nanmean([*kept, 1 - found["attack_success"]]))


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

    def row(self, known: float | None, after: Mapping[str, float]) -> list[Any]:
        """What a table keeps of it, column by column: what it is, and what it is worth.

        Args:
            known: what else is known of it.
            after: from `lib.lancet.measures.measure`.
        """
        about = [self.method, self.layer, self.changed, self.fraction, self.reached, known]
        return [*about, *(after[name] for name in (*NAMES, "n", "n_target")), self.note]


def attempt(method: str, model: nn.Module, make: Callable[[], Repaired]) -> Repaired:
    """What a method makes, or the network as it was where there is nothing that it can do."""
    try:
        return make()
    except LancetError as error:
        return Repaired(method, model, note=str(error))


class Flips:
    """Neuron-flip layer by layer, each done once, as the rules often choose the same layer.

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
            aim: dict[str, Any] = {"target": self.material.target, "threshold": self.threshold, "mode": mode}
            repaired, report = flip(self.model, self.votes, self.inputs, self.labels, layer=layer, **aim)
            self.done[layer, mode] = Repaired(method, repaired, layer, report.flipped, report.fraction, report.reached)
        return replace(self.done[layer, mode], method=method)

    def random(self, layer: str, count: int, seed: int) -> Repaired:
        """As many weights of the layer flipped, drawn at random."""
        own: dict[str, Any] = {"mode": "random", "weights": count, "seed": seed}
        repaired, report = flip(self.model, self.votes, self.inputs, self.labels, layer=layer, **own)
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
        return max(made, key=lambda one: self.material.worth(one.model, self.known))


class Repairer:
    """Somebody with a backdoored network and a trigger.

    Args:
        model: the network; left as it is.
        known: the trigger.
        material: the repair split and the clean images.
        settings: of the repairs.
        seed: of every draw.
    """

    def __init__(self, model: nn.Module, known: Trigger, material: Material, settings: Flipping, seed: int = 0) -> None:
        self.model, self.known, self.material, self.settings, self.seed = model, known, material, settings, seed

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Those that vote. Raises: LancetError where there is none."""
        held = self.material
        return stamped_pairs(self.model, self.known, held.images, held.labels, held.target, self.settings.repair_pairs)

    def votes(self, signed: bool = False) -> dict[str, Votes]:
        """Of the pairs."""
        own = self.settings
        target = self.material.target if own.until == "not-target" else None
        return locate(self.model, *self.pairs, formula=own.formula, until=own.until, target=target, signed=signed)

    @cached_property
    def flips(self) -> tuple[Flips, Flips]:
        """Neuron-flip with votes, and with those of signed importance."""
        own = self.settings
        plain, signed = (
            Flips(self.model, self.votes(flag), self.known, self.material, own.flip_threshold, own.flip_images)
            for flag in (False, True)
        )
        return plain, signed

    def flipped(self) -> Iterator[Repaired]:
        """The network flipped by each rule of `FLIPS`; as it was where no error can be located."""
        try:
            plain, signed = self.flips
            stated, smallest = (choose_layer(plain.votes, rule) for rule in ("most-pairs", "smallest-fraction"))
        except LancetError as error:
            yield from (Repaired(method, self.model, note=str(error)) for method in FLIPS)
            return
        near_best = self.settings.near_best
        yield attempt("flip-stated", self.model, lambda: plain.at(stated, "flip-stated"))
        yield attempt("flip-smallest", self.model, lambda: plain.at(smallest, "flip-smallest"))
        yield attempt("flip-tried", self.model, lambda: plain.best("flip-tried", near_best))
        yield attempt("flip-signed", self.model, lambda: signed.best("flip-signed", near_best))


def repairs(
    model: nn.Module, known: Trigger | None, material: Material, settings: Repairs, seed: int
) -> Iterator[Repaired]:
    """The network repaired by each method in turn.

    Args:
        model: the backdoored network; left as it is.
        known: the trigger that the repairer knows; None: only the methods that need none (fine-pruning).
        material: the repair split and the clean images.
        settings: of the repairs.
        seed: of every draw.
    Returns: one `Repaired` a method, "none" first; a method that can do nothing gives the network as it was.
    """
    if known is None:
        yield attempt("fine-prune", model, lambda: _fine_pruned(model, material, settings, seed))
        return
    yield Repaired("none", model)
    repairer = Repairer(model, known, material, settings, seed)
    flipped = {}
    for made in repairer.flipped():
        flipped[made.method] = made
        yield made
    yield from _beside(repairer, flipped["flip-tried"], settings)
    for method in ("unlearn-literal", "unlearn-matched"):
        yield attempt(method, model, partial(_unlearned, method, model, known, material, settings, seed))


def _beside(repairer: Repairer, best: Repaired, settings: Repairs) -> Iterator[Repaired]:
    """What neuron-flip is compared with in the layer that it does best in, or else in the stated rule's smallest."""
    model = repairer.model
    try:
        flips = repairer.flips[0]
        layer = best.layer or choose_layer(flips.votes, "smallest-fraction")
    except LancetError as error:
        methods = ("zero", "random", "tune", "tune-random", "tune-whole")
        yield from (Repaired(method, model, note=str(error)) for method in methods)
        return
    yield attempt("zero", model, lambda: flips.at(layer, "zero", "zero"))
    yield attempt("random", model, lambda: flips.random(layer, best.changed, repairer.seed))
    errors = _errors(repairer, flips.votes, layer, settings)
    options: dict[str, dict[str, Any]] = {
        "tune": {},
        "tune-random": {"neurons": "random"},
        "tune-whole": {"whole": True},
    }
    for method, more in options.items():
        yield attempt(method, model, partial(_tuned, method, repairer, flips.votes, errors, settings, layer, more))


def _errors(repairer: Repairer, votes: Mapping[str, Votes], layer: str, settings: Repairs) -> tuple[Tensor, Tensor]:
    """N_e: the stamped images of the pairs, their transforms, and other stamped images with a similar error."""
    inputs, _, labels = repairer.pairs
    images, truth = repairer.material.others()
    stamped = repairer.known.to(images.device).stamp(images)
    found = [(inputs, labels)]
    if copies := settings.tune_copies:
        found.append((transforms_of(inputs, copies=copies, seed=repairer.seed), labels.repeat(copies)))
    with suppress(LancetError):  # a layer without votes
        similar = similar_errors(repairer.model, votes, layer, stamped, truth).to(images.device)
        found.append((stamped[similar], truth[similar]))
    return torch.cat([part for part, _ in found]), torch.cat([part for _, part in found])


def _tuned(
    method: str,
    repairer: Repairer,
    votes: Mapping[str, Votes],
    errors: tuple[Tensor, Tensor],
    settings: Repairs,
    layer: str,
    more: Mapping[str, Any],
) -> Repaired:
    held = repairer.material
    own: dict[str, Any] = {"distillation": settings.tune_distillation, "epochs": settings.tune_epochs}
    own |= {"batch": settings.tune_batch, "seed": repairer.seed, **more}
    old = held.training(held.few)
    made = [
        fine_tune(repairer.model, votes, errors, old, layer=layer, learning_rate=rate, **own)
        for rate in settings.tune_rates
    ]
    repaired, report = max(made, key=lambda one: held.worth(one[0], repairer.known))
    return Repaired(method, repaired, report.layer, report.weights, report.fraction)


def _unlearned(
    method: str, model: nn.Module, known: Trigger, material: Material, settings: Repairs, seed: int
) -> Repaired:
    literal = method == "unlearn-literal"
    images, labels = material.training(material.few if literal else None)
    repaired, _ = unlearn(
        model,
        images,
        labels,
        known,
        epochs=1 if literal else None,
        steps=None if literal else settings.unlearn_steps,
        stamped=settings.unlearn_stamped,
        learning_rate=settings.unlearn_rate,
        batch=settings.unlearn_batch,
        seed=seed,
    )
    size = sum(parameter.numel() for parameter in model.parameters())
    return Repaired(method, repaired, changed=size, fraction=1.0)


def _fine_pruned(model: nn.Module, material: Material, settings: Repairs, seed: int) -> Repaired:
    images, labels = material.training()
    steps_an_epoch = -(-len(images) // settings.unlearn_batch)
    repaired, report = fine_prune(
        model,
        images,
        labels,
        held_out=(material.images, material.labels),
        accuracy_drop=settings.fine_prune_drop,
        epochs=max(1, round(settings.fine_prune_steps / steps_an_epoch)),
        batch=settings.unlearn_batch,
        learning_rate=settings.unlearn_rate,
        seed=seed,
    )
    return Repaired("fine-prune", repaired, report.layer, report.pruned, report.pruned / report.channels)

"""What the experiments on neuron-fine-tune share (notebooks 35 and 39): settings, a network with its errors located.

The first four fifths of test1 give pairs, votes and samples, the last one chooses learning rates; reports are of test2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lib.data import ImageSet
from lib.experiments.lancet import Errors, Half
from lib.experiments.run import halved
from lib.experiments.settings import Count, Share
from lib.lancet.companions import found_companions, least_votes
from lib.lancet.locating import Votes, locate
from lib.lancet.repair.fine_tune import fine_tune, similar_errors, transforms_of

CHOICE_SHARE = 0.2  # of test1: chooses learning rates
TOLERANCE = 0.005  # loss of accuracy there that a learning rate may cost
OPTIONS = ("pairs", "share", "copies", "similar", "old", "epochs", "batch", "rates")


class Tuned(Errors):
    """Shared settings of neuron-fine-tune; rates, epochs, images and shares are not stated in the source.

    Attributes:
        pairs: wrong inputs that votes come from, at most.
        share: of a layer's weights, in [0, 1], at most: those with the most votes, which are tuned.
        copies, similar: transforms of each pair's input in N_e, and the most samples there with similar
            error-inducing neurons.
        old: samples in N_o.
        epochs, batch: of fine-tuning, and images a step.
        rates: learning rates, of which each method's is chosen on a part of test1.
    """

    test_images: Count | None = Field(None, title="test images")
    pairs: Count = Field(200, title="pairs")
    share: Share = 0.1
    copies: int = Field(4, ge=0)
    similar: int = Field(5000, ge=0)
    epochs: Count = Field(10, title="epochs of fine-tuning")
    batch: Count = 64
    old: Count = Field(1000, title="old samples")
    rates: tuple[float, ...] = Field((1e-4, 1e-3, 1e-2), min_length=1, title="learning rates")

    def repairing(self) -> dict[str, Any]:
        """What a repair depends on: for keys."""
        return {"steps": self.companion_steps, **self.model_dump(mode="json", include={*OPTIONS})}

    def told(self, name: str) -> Any:
        return "all" if name == "test_images" and self.test_images is None else super().told(name)


@dataclass(frozen=True, eq=False)
class Bench:
    """A network whose errors are located: what every repair starts from, and the images that it is judged on.

    Attributes:
        model: left as it is.
        settings, seed: of the repairs; the seed of transforms, random weights and the order of samples.
        fit, choice: the parts of test1 that repairs are made from, and that choose learning rates.
        second: test2.
        images, labels: wrong inputs of `fit` whose companions were searched.
        pairs: how many have one.
        votes: of the pairs, by layer.
        old: N_o, which is what `fit` has right.
    """

    model: nn.Module
    settings: Tuned
    seed: int
    fit: Half
    choice: Half
    second: Half
    images: Tensor
    labels: Tensor
    pairs: int
    votes: Mapping[str, Votes]
    old: tuple[Tensor, Tensor]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        test1: ImageSet,
        test2: ImageSet,
        settings: Tuned,
        seed: int = 0,
        layers: Sequence[str] | None = None,
    ) -> Bench:
        """Search companions of the network's wrong inputs, and locate.

        Args:
            test1, test2: repairs come from the first, reports from the second.
            layers: those that are looked at; None: all.
        Raises: LancetError where the network makes no error, or no companion is found.
        """
        fit, choice = (Half.of(model, part) for part in halved(test1, CHOICE_SHARE, ("fit", "choice")))
        images, labels, _ = fit.misclassified(settings.pairs)
        found = found_companions(model, images, labels, settings.companion_steps)
        votes, second = locate(model, *found, layers=layers), Half.of(model, test2)
        old = fit.right(settings.old)
        return cls(model, settings, seed, fit, choice, second, images, labels, len(found[0]), votes, old)

    def least_votes(self, layer: str) -> int:
        """Votes that a weight of the layer needs to be tuned."""
        return least_votes(self.votes[layer], self.settings.share)

    def errors(self, layer: str, copies: int, similar: int) -> tuple[tuple[Tensor, Tensor], int]:
        """N_e: the pairs' inputs, their transforms, and samples that are wrong under M, right without its EI weights.

        Returns: images and labels, and how many of them are of the third sort.
        """
        parts, truth = [self.images], [self.labels]
        if copies:
            parts.append(transforms_of(self.images, copies=copies, seed=self.seed))
            truth.append(self.labels.repeat(copies))
        beside = self.fit.wrong.clone()
        beside[self.fit.places(self.settings.pairs)] = False
        others = self.fit.images.part(torch.nonzero(beside).flatten().numpy(), "wrong")
        least = self.least_votes(layer)
        alike = similar_errors(self.model, self.votes, layer, others, others.labels, least_votes=least)
        chosen = torch.nonzero(alike).flatten()[:similar]
        if len(chosen):
            parts.append(others.float(index=chosen))
            truth.append(others.labels[chosen])
        return (torch.cat(parts), torch.cat(truth)), len(chosen)

    def report(self, model: nn.Module) -> dict[str, Any]:
        """Of a repaired network: accuracy, errors_right, still_right, n and n_errors on test2, and the first two on the
        part of test1 that chooses."""
        found = self.choice.report(model)
        on_choice = {"choice_accuracy": found["accuracy"], "choice_errors_right": found["errors_right"] or 0.0}
        return {**self.second.report(model), **on_choice}

    def at_each_rate(
        self, layer: str, errors: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor], **changes: Any
    ) -> list[dict[str, Any]]:
        """The network fine-tuned at every learning rate: `report`, learning_rate, chosen (whether the choice part took
        that rate), layer, weights (how many could change), fraction, tuned_right of tuned_on samples of N_e.

        Args:
            changes: of what `fine_tune` is told.
        """
        options: dict[str, Any] = {"epochs": self.settings.epochs, "batch": self.settings.batch, "seed": self.seed}
        options |= {"layer": layer, "least_votes": self.least_votes(layer), **changes}
        rows = []
        for rate in self.settings.rates:
            tuned, done = fine_tune(self.model, self.votes, errors, old, learning_rate=rate, **options)
            row = {"learning_rate": rate, "layer": layer, "weights": done.weights, "fraction": done.fraction}
            row |= {"tuned_right": done.right_after, "tuned_on": done.errors}
            rows.append({**row, **self.report(tuned)})
        best = chosen_rate(rows, 1 - self.choice.wrong.float().mean().item())
        return [{**row, "chosen": k == best} for k, row in enumerate(rows)]


def chosen_rate(tried: Sequence[Mapping[str, Any]], accuracy: float) -> int:
    """Which of a method's learning rates the choice part takes: of those that cost it at most `TOLERANCE` of accuracy
    the one with the most errors mended; where all cost more, the one that costs least.

    Args:
        tried: with choice_accuracy and choice_errors_right.
        accuracy: of the network before, on the choice part.
    """
    harmless = [k for k, row in enumerate(tried) if row["choice_accuracy"] >= accuracy - TOLERANCE - 1e-9]
    if harmless:
        return max(harmless, key=lambda k: (tried[k]["choice_errors_right"], tried[k]["choice_accuracy"]))
    return max(range(len(tried)), key=lambda k: tried[k]["choice_accuracy"])

"""From a wrong answer to a repaired network: the image, the weights to blame, and the network with these negated."""

from dataclasses import dataclass, replace
from functools import lru_cache

import pandas as pd
import torch
from torch import Tensor

from lib import plots
from lib.explore import drawing
from lib.explore.blame import MASKED, blame, said
from lib.explore.drawing import ADVERSARIAL, CLEAN, OTHER, View, picture
from lib.explore.network import Network, predicted_of
from lib.explore.prediction import Example
from lib.lancet.measures import predictions
from lib.lancet.repair.flip import FlipReport, flip, flip_by_trial

STAMPED = 200
"""Other stamped images, at most, that tell what is left of a backdoor."""


@dataclass(frozen=True, eq=False)
class Repair:
    """A network with a few weights negated, beside the network as it was.

    Attributes:
        report: what was done to which layer; `reached`: whether the network is now right about the image.
        probabilities: float32 (2, classes), for the wrong image: before and after.
        right: one row a test image that is reported on: before, after, whether it is classified correctly.
        recalls: one row a class: the means of these.
        stamped: (before, after, number), share of other stamped images taken for the backdoor's target; None without
            a backdoor.
    """

    report: FlipReport
    probabilities: Tensor
    right: pd.DataFrame
    recalls: pd.DataFrame
    stamped: tuple[float, float, int] | None


@lru_cache(maxsize=16)
def repair(example: Example, layer: str | None = None, companion: str = MASKED) -> Repair | None:
    """Negate the weights that one wrong image blames, the most important first, until the network is right about it.

    Args:
        example: an image that the network is wrong about, attacked or as it is.
        layer: whose weights; None: every layer is tried, and that kept which costs least accuracy, on a fifth of the
            test images to choose from that is not reported on.
        companion: as in `blame`.
    Returns: None where no weight of the layer is to blame.
    Raises: ExploreError for a layer that is not there.
    Source: AI-Lancet (CCS 2021), section on neuron-flip; its repairs take the votes of many images. The choice of the
        layer is ours.
    """
    found, network, truth = blame(example, companion), example.network, torch.tensor([example.label])
    voted = {name: votes for name, votes in found.votes.items() if bool(votes.counts.any())}
    if not voted or (layer is not None and not bool(found.map(layer)[1].any())):
        return None
    wrong, test, fifth = example.images[1:], network.test, len(network.index) // 5
    tried, kept = network.index[:fifth], network.index[fifth:]
    if layer is None:
        clean = (test.float(index=tried), test.labels[tried])
        repaired, report, _ = flip_by_trial(network.model, voted, wrong, truth, clean=clean, threshold=0)
    else:
        repaired, report = flip(network.model, voted, wrong, truth, layer=layer, threshold=0)
    both = torch.cat([Network.probabilities(each, wrong) for each in (network, replace(network, model=repaired))])
    labels = test.labels[kept]
    right = pd.DataFrame({"before": network.right[fifth:], "after": predicted_of(repaired, test, kept) == labels})
    stamped = None
    if network.backdoor is not None:
        trigger, target = network.backdoor.trigger, network.backdoor.target
        images = trigger.stamp(test.float(index=kept[(labels != target) & (kept != example.position)][:STAMPED]))
        was, left = ((predictions(model, images) == target).float().mean() for model in (network.model, repaired))
        stamped = (float(was), float(left), len(images))
    return Repair(report, both, right, right.groupby(labels.numpy()).mean(), stamped)


def view(example: Example, layer: str | None = None, companion: str = MASKED) -> list[View]:
    """The wrong image, its companion, the weights to blame, and answers and accuracy before and after flipping them.

    Args:
        example, layer, companion: as in `repair`.
    Raises: ExploreError for a layer or companion that does not exist.
    """
    found, done = blame(example, companion), repair(example, layer, companion)
    if done is None:
        none = f"No weight of {layer} is to blame for this error. " if layer and found.chosen else ""
        return [View(None, none + said(example, found, companion))]
    names = [plots.short(name, 18) for name in example.network.test.classes]
    layout = [["wrong", "pair", "map", "answers"], ["recalls"] * 4]
    figure, axes = plots.mosaic(layout, 4.6, plots.DOUBLE, width_ratios=[1.3, 1.3, 1.2, 1.3], height_ratios=[1.4, 1])
    picture(axes["wrong"], example.images[1], f"1. wrong:\n{names[example.predicted[1]]}", ADVERSARIAL)
    picture(axes["pair"], found.image, "2. paired with:\n" + (companion if found.mask is not None else "clean image"))
    heat, counts = found.map(done.report.layer)
    outputs, inputs = counts.nonzero(as_tuple=True)
    title = f"3. blamed: {done.report.voted:,}\nof {drawing.label(done.report.layer)}"
    drawing.heat_map(axes["map"], heat, title)
    axes["map"].scatter(inputs, outputs, s=4, color=ADVERSARIAL, marker="s", linewidths=0)
    axes["map"].set(xlabel="input channel", ylabel="output channel")
    order = [example.label, *done.probabilities.amax(0).argsort(descending=True).tolist()]
    shown = list(dict.fromkeys(order))[:4]
    rows = [plots.short(names[k], 12) + "\n(true)" * (k == example.label) for k in shown]
    both = pd.DataFrame(done.probabilities[:, shown].T.numpy(), rows, ["before", "after"])
    look = {"color": [OTHER, CLEAN], "width": 0.75}
    both.plot.barh(ax=axes["answers"], xlim=(0, 1), title=f"4. {done.report.flipped:,} flipped", legend=False, **look)
    axes["answers"].set_xlabel("probability")
    axes["answers"].invert_yaxis()
    recalls = done.recalls.set_axis([names[k] for k in done.recalls.index])
    title = f"5. accuracy on {len(done.right):,} test images: {{:.1%}} before, {{:.1%}} after"
    recalls.plot.bar(ax=axes["recalls"], ylim=(0, 1), **look)
    axes["recalls"].set_title(title.format(*done.right.mean()), loc="left")
    axes["recalls"].set_ylabel("share right")
    axes["recalls"].grid(axis="x", visible=False)
    axes["recalls"].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return [View(figure, f"{said(example, found, companion)} {_told(example, done, layer)}")]


def _told(example: Example, done: Repair, layer: str | None) -> str:
    report, classes, (before, after) = done.report, example.network.test.classes, done.right.mean()
    now = "is right" if report.reached else "is still wrong"
    why = "" if layer else " (the layer in which this costs least accuracy)"
    text = (
        f"With {report.flipped:,} of the {report.voted:,} weights to blame in {report.layer}{why} negated, "
        f"the network {now}: “{classes[int(done.probabilities[1].argmax())]}” ({done.probabilities[1].max():.0%}). "
        f"Of {len(done.right):,} test images it gets {after:.1%} right, {before:.1%} before."
    )
    if done.stamped is not None and example.network.backdoor is not None:
        was, left, count = done.stamped
        target = classes[example.network.backdoor.target]
        text += f" Of {count} other images with the trigger, {left:.0%} are taken for “{target}”, {was:.0%} before."
    return text

"""What the units of records say: which values a quantity can take, and what a number's n counts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib import intervals

Support = tuple[float, float]
SHARE: Support = (0.0, 1.0)
SIGNED: Support = (-1.0, 1.0)
POSITIVE: Support = (0.0, math.inf)
ANY: Support = (-math.inf, math.inf)


@dataclass(frozen=True)
class Unit:
    """What is known of a unit.

    Attributes:
        support: the values that a quantity of it can take, from lowest to highest.
        counts: what n of its numbers counts, in the plural.
        of_n: whether a value is a share of those n, or an area under a curve that they give; seeds that all agree have
            an interval over the n then.
    """

    support: Support
    counts: str = "samples"
    of_n: bool = False


UNITS: Mapping[str, Unit] = {
    "area under the ROC curve": Unit(SHARE, "images", of_n=True),
    "bits": Unit(POSITIVE, "images"),
    "bits, mean over layers": Unit(POSITIVE, "test images"),
    "connected pieces": Unit(POSITIVE, "images"),
    "difference of accuracies": Unit(SIGNED, "images"),
    "difference of accuracies, over networks": Unit(SIGNED, "networks"),
    "difference of probabilities": Unit(SIGNED, "images"),
    "different paths": Unit(POSITIVE, "images"),
    "epochs": Unit(POSITIVE, "networks"),
    "FLOPs an image (2 x MAC)": Unit(POSITIVE, "networks"),
    "fraction of classes": Unit(SHARE, "classes"),
    "fraction of decisions": Unit(SHARE, "images", of_n=True),
    "fraction of dropped weights": Unit(SHARE, "subsets of classes"),
    "fraction of flagged images": Unit(SHARE, "images"),
    "fraction of flipped weights": Unit(SHARE, "weights"),
    "fraction of gates": Unit(SHARE, "networks"),
    "fraction of hidden weights": Unit(SHARE, "subsets of classes"),
    "fraction of images": Unit(SHARE, "images", of_n=True),
    "fraction of images attacked": Unit(SHARE, "images", of_n=True),
    "fraction of layers": Unit(SHARE, "test images"),
    "fraction of mask entries": Unit(SHARE, "test images"),
    "fraction of pairs": Unit(SHARE, "pairs", of_n=True),
    "fraction of pixels": Unit(SHARE, "images"),
    "fraction of report images": Unit(SHARE, "test images", of_n=True),
    "fraction of report images, over networks": Unit(SHARE, "networks"),
    "fraction of searches": Unit(SHARE, "searches"),
    "fraction of subsets": Unit(SHARE, "subsets of classes", of_n=True),
    "fraction of test images": Unit(SHARE, "test images", of_n=True),
    "fraction of the clean accuracy": Unit(POSITIVE, "test images"),
    "fraction of the image": Unit(SHARE, "images"),
    "fraction of the layer's weights": Unit(SHARE, "pairs"),
    "fraction of the layers": Unit(SHARE, "pairs"),
    "fraction of the squared norm": Unit(SHARE, "subsets of classes"),
    "fraction of the whole network's FLOPs": Unit(POSITIVE, "networks"),
    "fraction of the whole network's time": Unit(POSITIVE, "test images"),
    "fraction of the whole network's training": Unit(POSITIVE, "networks"),
    "fraction of training images": Unit(SHARE, "training images", of_n=True),
    "fraction of weights": Unit(SHARE, "test images"),
    "harmonic mean of precision and recall": Unit(SHARE, "images"),
    "images": Unit(POSITIVE, "networks"),
    "intersection over union": Unit(SHARE, "images"),
    "Jaccard index": Unit(SHARE, "images"),
    "L2 distance, images in [0, 1]": Unit(POSITIVE, "images"),
    "layers": Unit(POSITIVE, "images"),
    "MB": Unit(POSITIVE, "images"),
    "MB of slices": Unit(POSITIVE, "test images"),
    "mean mask entry": Unit(POSITIVE, "test images"),
    "mean of all gates": Unit(SHARE, "networks"),
    "mean over attacks": Unit(SHARE, "images"),
    "mean softmax probability": Unit(SHARE, "images"),
    "milliseconds a training image, at the epochs of `paper`": Unit(POSITIVE, "networks"),
    "milliseconds an image": Unit(POSITIVE, "networks"),
    "multiply-accumulates an image": Unit(POSITIVE, "test images"),
    "parameters": Unit(POSITIVE, "networks"),
    "Pearson's r over the layers": Unit(SIGNED, "layers"),
    "pixels": Unit(POSITIVE, "images"),
    "robust standard deviations": Unit(ANY, "classes"),
    "s an image": Unit(POSITIVE, "test images"),
    "seconds": Unit(POSITIVE, "networks"),
    "seconds an input": Unit(POSITIVE, "images"),
    "share": Unit(SHARE, "images"),
    "share of the channels": Unit(SHARE, "layers"),
    "singular directions": Unit(POSITIVE, "networks"),
    "squared distance, 1 is a clean image's to its class": Unit(POSITIVE, "images"),
    "standard deviations": Unit(ANY, "neurons"),
    "surrogate, 1 is a clean input's to its class mean": Unit(ANY, "images"),
    "weights": Unit(POSITIVE, "test images"),
}
"""Every unit of records. Of others, those that begin with "fraction" or "share" lie in [0, 1], the rest anywhere."""

_BY_NAME = {
    ("changed", "fraction of the layer's weights"): "test images",
    ("parameters", "parameters"): "networks",
}
"""What n counts where the unit alone does not tell."""


def about(unit: str) -> Unit:
    """What is known of a unit."""
    if unit in UNITS:
        return UNITS[unit]
    return Unit(SHARE) if unit.split(" ")[0] in ("fraction", "share") else Unit(ANY)


def counted(number: Mapping[str, Any]) -> str:
    """What the n of a record's number counts, in the plural, as "test images", "pairs" or "networks".

    Args:
        number: with name, unit and n, as a record has it.
    """
    return _BY_NAME.get((number["name"], number["unit"]), about(number["unit"]).counts)


def sample(number: Mapping[str, Any], words: str = "") -> str:
    """The n of a record's number in words: "2,000 test images", "1 network"; `words` in place of what it counts."""
    words = words or counted(number)
    if number["n"] == 1:
        first, of, rest = words.partition(" of ")
        words = {"searches": "search", "classes": "class"}.get(first, first.removesuffix("s")) + of + rest
    return f"{number['n']:,} {words}"


def interval(values: Sequence[float], unit: str, n: int) -> list[float] | None:
    """The 95 % interval of the mean over seeds of a quantity, inside the values that its unit allows.

    Args:
        values: one a seed.
        unit: the quantity's.
        n: what each value was measured on.
    Returns: `intervals.of_mean` on the unit's support; where all seeds agree on a share of n things, Wilson's interval
        over these (for an area under a ROC curve of n images a side it is on the safe side: its variance is at most
        a (1 - a) / n; Birnbaum and Klose 1957). None for fewer than two values.
    Raises: ValueError where a value lies outside the support.
    """
    known = about(unit)
    found = intervals.of_mean(values, known.support)
    if found is not None and known.of_n and min(values) == max(values):
        return intervals.wilson(min(1.0, max(0.0, values[0])), n)
    return found


def measure(number: Mapping[str, Any]) -> str:
    """A number's name with its unit, as "accuracy (fraction of test images)"; once where they are the same."""
    name, unit = number["name"].replace("_", " "), number["unit"]
    return name if name == unit else f"{name} ({unit})"

"""What tells slices of adversarial inputs from those of clean ones: the paper's rule, and the signal beyond it.

A slice comes in as the signed contributions of its synapses, layer by layer, and leaves as a few numbers a layer: how
like the slices of its predicted class it is, and how much of the layer is in it.

Source: Zhang et al. 2020, "Dynamic slicing for deep neural networks", https://arxiv.org/abs/2009.13747, application
to adversarial defence. Similarity, activity, and the forests on them are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor, nn

from lib.data import ImageSet, splits
from lib.detectors import BinaryForest, TreeRule, auroc, rates, threshold_at
from lib.progress import bar
from lib.slicing.backward import slices_by_chunk
from lib.slicing.kinds import SlicingError
from lib.slicing.profiling import first_correct, profile
from lib.slicing.rules import NNSlicer, Rule

SIMILARITY = ("similarity", "overlap", "margin")
ACTIVITY = ("synapses", "positive", "neurons")
SHARES = {"fit": 0.5, "validation": 0.15, "test": 0.35}
MEMORY = 2**28  # bytes that a chunk of slices may take before it is reduced to a few numbers


def stated_arithmetic(fpr: float) -> dict[str, float]:
    """Recall, precision and F1 on equal counts if every adversarial were flagged.

    Args:
        fpr: share of clean inputs that are flagged, in [0, 1].
    Returns: {recall: 1, precision: 1 / (1 + fpr), f1}.
    """
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr is {fpr}: a share in [0, 1]")
    precision = 1 / (1 + fpr)
    return {"recall": 1.0, "precision": precision, "f1": 2 * precision / (1 + precision)}


def rule_rates(
    rule: TreeRule, clean: Any, clean_answers: Any, adversarial: Any, adversarial_answers: Any
) -> dict[str, float]:
    """How the paper's rule does on equal counts: flagged where the tree names another class than the network.

    Args:
        rule: trained on clean training inputs.
        clean, adversarial: slices as features (N, F), as many of one as of the other.
        clean_answers, adversarial_answers: the network's answers, (N,).
    Returns: {precision, recall, f1, fpr, auroc, n}; n is the number of adversarials.
    Raises: ValueError where the counts differ.
    """
    if clean.shape[0] != adversarial.shape[0]:
        raise ValueError(f"{clean.shape[0]} clean and {adversarial.shape[0]} adversarial inputs: equal counts, please")
    truth = np.repeat([False, True], clean.shape[0])
    scores = np.concatenate([rule.score(clean, clean_answers), rule.score(adversarial, adversarial_answers)])
    flags = np.concatenate([rule.flags(clean, clean_answers), rule.flags(adversarial, adversarial_answers)])
    return {**rates(flags, truth), "auroc": auroc(scores, truth), "n": clean.shape[0]}


@dataclass
class ClassMeans:
    """Mean slices of the classes, taken chunk by chunk.

    Args:
        classes: how many.
    """

    classes: int
    counts: np.ndarray = field(init=False)
    signed: dict[str, np.ndarray] = field(init=False, default_factory=dict)
    absolute: dict[str, np.ndarray] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.classes, np.int64)

    def add(self, synapses: Mapping[str, Any], labels: Any) -> None:
        """Take in the slices of some clean inputs.

        Args:
            synapses: layer -> signed contributions (n, weights), sparse or dense.
            labels: (n,) classes of the inputs.
        """
        labels = np.asarray(labels)
        member = sparse.csr_array(
            (np.ones(len(labels)), (labels, np.arange(len(labels)))), shape=(self.classes, len(labels))
        )
        self.counts += np.bincount(labels, minlength=self.classes)
        for layer, values in synapses.items():
            found = _csr(values)
            for sums, part in ((self.signed, found), (self.absolute, abs(found))):
                sums.setdefault(layer, np.zeros((self.classes, found.shape[1])))
                sums[layer] += (member @ part).toarray()

    def directions(self, layer: str, absolute: bool = False) -> np.ndarray:
        """Mean slices of a layer scaled to length 1 (0 where nothing is in any), float64 (classes, weights)."""
        sums = (self.absolute if absolute else self.signed)[layer]
        return _unit(sums)


def describe(
    synapses: Mapping[str, Any], neurons: Mapping[str, Any], predicted: Any, means: ClassMeans
) -> pd.DataFrame:
    """A few numbers a layer for each slice.

    Args:
        synapses: layer -> signed contributions (N, weights), sparse or dense.
        neurons: layer -> CONTRIB of its outputs (N, outputs), sparse or dense.
        predicted: (N,) the class that each slice started from.
        means: of clean training inputs.
    Returns: one row an input, columns "<measure>:<layer>":
        similarity: cosine with the mean slice of the predicted class, signs counted;
        overlap: the same of absolute contributions;
        margin: similarity less the highest similarity with another class;
        synapses, neurons: share of the layer's that are in the slice;
        positive: share of the slice's synapses whose contribution is positive (1/2 for an empty slice).
    """
    predicted = np.asarray(predicted)
    rows = np.arange(len(predicted))
    columns: dict[str, np.ndarray] = {}
    for layer, values in synapses.items():
        found = _csr(values)
        magnitude = abs(found)
        cosines = _cosines(found, means.directions(layer))
        others = cosines.copy()
        others[rows, predicted] = -np.inf
        columns[f"similarity:{layer}"] = cosines[rows, predicted]
        columns[f"overlap:{layer}"] = _cosines(magnitude, means.directions(layer, absolute=True))[rows, predicted]
        columns[f"margin:{layer}"] = cosines[rows, predicted] - others.max(axis=1)
        count = np.diff(found.indptr)
        positive = np.asarray((found > 0).sum(axis=1)).ravel()
        columns[f"synapses:{layer}"] = count / found.shape[1]
        columns[f"positive:{layer}"] = np.where(count > 0, positive / np.maximum(count, 1), 0.5)
        active = _csr(neurons[layer])
        columns[f"neurons:{layer}"] = np.diff(active.indptr) / active.shape[1]
    return pd.DataFrame(columns)


def mean_slices(model: nn.Module, images: Tensor, labels: Any, classes: int, rule: Rule) -> ClassMeans:
    """The mean slices of the classes, whole network.

    Args:
        model: evaluation mode, of the operations that `lib.slicing.slice` knows.
        images: (N, C, H, W) in [0, 1], clean.
        labels: (N,) their classes.
        classes: how many.
        rule: `NNSlicer` or `EffectivePath`.
    """
    means, labels, start = ClassMeans(classes), np.asarray(labels), 0
    for part in slices_by_chunk(model, images, rule, memory=MEMORY):
        means.add({layer: value.numpy() for layer, value in part.synapses.items()}, labels[start:][: len(part)])
        start += len(part)
    return means


def describe_inputs(model: nn.Module, images: Tensor, rule: Rule, means: ClassMeans) -> pd.DataFrame:
    """The few numbers a layer of `describe`, for the whole slices of images.

    Args:
        model, rule: as `mean_slices` takes them.
        images: (N, C, H, W) in [0, 1], clean or not.
        means: from `mean_slices`.
    Returns: one row an image; columns as of `describe`.
    """
    parts = []
    for part in slices_by_chunk(model, images, rule, memory=MEMORY):
        synapses = {layer: value.numpy() for layer, value in part.synapses.items()}
        neurons = {layer: part.neurons[layer].numpy() for layer in synapses}
        parts.append(describe(synapses, neurons, part.predicted.numpy(), means))
    return pd.concat(parts, ignore_index=True)


def slice_features(
    model: nn.Module,
    train: ImageSet,
    images: Mapping[str, Tensor],
    per_class: int = 50,
    reference: str = "dataset",
) -> dict[str, np.ndarray]:
    """Similarity and activity of the whole slices of inputs, layer by layer: what the forests on slices are fitted on.

    Args:
        model: as `mean_slices` takes it.
        train: clean training images; the first `per_class` correctly classified of each class give the profile and
            the mean slices; of a class that is never classified correctly, the first `per_class` as they are.
        images: kind of inputs -> (N, C, H, W) in [0, 1].
        per_class: see `train`.
        reference: mean that slices are taken with.
    Returns: kind -> float64 (N, F), a row an input.
    Raises: SlicingError where the network cannot be sliced, or gets no image right, or a class has no image.
    """
    chosen, classes = [], len(train.classes)
    for k in range(classes):
        mine = (train.labels == k).nonzero()[:, 0]
        right = first_correct(model, train, mine, per_class)
        chosen.append(right if len(right) else mine[:per_class])  # what it makes of them has a mean, too
        if not len(mine):
            raise SlicingError(f"there is no training image of class {k} to take the mean slice of")
    rows = torch.cat(chosen)
    labels = train.labels[rows]
    rule = NNSlicer(profile(model, train.images[rows], labels, classes, per_class), reference=reference)
    means = mean_slices(model, train.float(index=rows), labels, classes, rule)
    described = {kind: describe_inputs(model, some, rule, means) for kind, some in bar(images.items(), desc="slices")}
    return {kind: columns_of(numbers, SIMILARITY + ACTIVITY) for kind, numbers in described.items()}


def columns_of(described: pd.DataFrame, measures: Sequence[str]) -> np.ndarray:
    """The columns of some measures, all layers, float64 (N, F)."""
    return described[[name for name in described if name.partition(":")[0] in measures]].to_numpy(float)


def split_images(images: Any, labels: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Part images in fit, validation and test, class by class: an image's adversarials go where it goes.

    Args:
        images: (N,) whole numbers that name the images, each once.
        labels: (N,) their classes.
        seed: of the split.
    Returns: {fit, validation, test} -> the images in it, about half, 15 % and 35 % of each class.
    Raises: ValueError where an image is there twice.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if len(np.unique(images)) != len(images):
        raise ValueError("an image is there twice: it would be on both sides of the split")
    rest, test = splits.partition(labels, SHARES["test"], seed=seed)
    share = SHARES["validation"] / (1 - SHARES["test"])
    fit, validation = splits.partition(labels[rest], share, seed=seed + 1)
    return {"fit": images[rest[fit]], "validation": images[rest[validation]], "test": images[test]}


@dataclass(frozen=True)
class Inputs:
    """Inputs of one kind, clean or of one attack, with the image that each was made of.

    Attributes:
        images: (N,) whole numbers that name the images.
        features: (N, F).
    """

    images: np.ndarray
    features: np.ndarray

    def among(self, chosen: np.ndarray) -> np.ndarray:
        """Features of the inputs whose image is among those chosen."""
        return self.features[np.isin(self.images, chosen)]


def forests(
    clean: Inputs,
    attacked: Mapping[str, Inputs],
    parts: Mapping[str, np.ndarray],
    train_on: Mapping[str, Sequence[str]],
    seed: int = 0,
    trees: int = 300,
) -> dict[str, BinaryForest]:
    """One forest for each set of attacks, on clean inputs and adversarials of the images in `parts["fit"]`.

    Args:
        clean: clean inputs.
        attacked: attack -> its adversarials.
        parts: from `split_images`.
        train_on: name -> attacks that the forest sees.
        seed, trees: of the forests; classes weigh the same, whatever their counts.
    Returns: name -> forest; a name whose attacks have fewer than two adversarials in the part is left out.
    """
    normal = clean.among(parts["fit"])
    made = {}
    for name, attacks in train_on.items():
        seen = [attacked[attack].among(parts["fit"]) for attack in attacks]
        adversarial = np.concatenate(seen)
        if len(adversarial) >= 2:
            forest = BinaryForest(seed, trees, class_weight="balanced", min_samples_leaf=2)
            made[name] = forest.fit(normal, adversarial)
    return made


def reading(
    scores: np.ndarray, clean_scores: np.ndarray, validation_scores: np.ndarray, fpr: float
) -> dict[str, float]:
    """How well scores tell one attack's inputs from clean ones.

    Args:
        scores: (N,) of adversarials.
        clean_scores: (M,) of clean inputs.
        validation_scores: (V,) of other clean inputs, which set the threshold.
        fpr: share of clean inputs that may be flagged in validation.
    Returns: {auroc, recall, fpr, precision, f1, n}: precision and F1 as on equal counts; n is the number of
        adversarials.
    """
    threshold = threshold_at(validation_scores, fpr)
    recall, found = float((scores > threshold).mean()), float((clean_scores > threshold).mean())
    flagged = recall + found
    precision = recall / flagged if flagged else float("nan")
    area = auroc(np.concatenate([clean_scores, scores]), np.repeat([False, True], [len(clean_scores), len(scores)]))
    f1 = 2 * recall / (1 + flagged)
    return {"auroc": area, "recall": recall, "fpr": found, "precision": precision, "f1": f1, "n": len(scores)}


def _csr(values: Any) -> Any:
    """As float64 CSR without stored zeros; what follows the first axis is flattened."""
    if not sparse.issparse(values):
        values = np.asarray(values).reshape(len(values), -1)
    found = sparse.csr_array(values, dtype=np.float64)
    found.sum_duplicates()
    found.eliminate_zeros()
    return found


def _unit(matrix: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(lengths > 0, lengths, 1)


def _cosines(found: Any, directions: np.ndarray) -> np.ndarray:
    """Cosine of each sparse row with each direction (of length 1); 0 for an empty row."""
    lengths = np.sqrt(np.asarray(found.multiply(found).sum(axis=1)).ravel())
    return np.asarray(found @ directions.T) / np.where(lengths > 0, lengths, 1)[:, None]

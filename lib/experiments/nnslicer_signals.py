"""What slices do tell of adversarial inputs: detectors on whole slices, and an attack that knows them (notebook 13)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lib import cache, config, store
from lib.attacks import SUITE
from lib.detectors import LID, BinaryForest, KernelDensity, Mahalanobis, auroc, choose_bandwidth
from lib.experiments.nnslicer_detection_inputs import DetectionRun, Given, forward, given
from lib.models.layers import weight_layers
from lib.progress import bar
from lib.slicing import adaptive as attack
from lib.slicing import detection
from lib.slicing.kinds import SlicingError

RULE = "tree, the paper's rule"
ANEW = "forest, trained anew"
MEASURES = detection.SIMILARITY + detection.ACTIVITY
SLICES = ("means_per_class", "fit_per_class", "signal_images", "signal_clean", "noise")
SIGNALS = (*SLICES, "signal_fpr", "signal_trees")
ADAPTIVE = ("adaptive_images", "adaptive_epsilon", "adaptive_steps", "adaptive_weights", "adaptive_attack")


def key_of(run: DetectionRun, names: Sequence[str]) -> dict[str, Any]:
    """What a table of whole slices depends on beside the network: some settings, and the images."""
    own = run.settings.model_dump(mode="json", include=set(names))
    return {**own, "signal_reference": run.settings.reference, **run.key}


def described(run: DetectionRun, name: str) -> pd.DataFrame:
    """Similarity and activity of the inputs of `signal_inputs` by name, or of "fit", the clean training ones; kept in
    the cache."""
    inputs = run.fit_inputs()[1] if name == "fit" else run.signal_inputs[name]

    def make() -> dict[str, Any]:
        frame = run.describe(inputs.images) if len(inputs) else pd.DataFrame()
        return {"columns": list(frame), "rows": frame.round(9).to_numpy().tolist()}

    key = {
        "version": 1,
        "weights": run.card(run.settings.network)["weights"],
        "seed": run.seed,
        "inputs": name,
        "index": store.fingerprint(inputs.index.tolist()),  # sets made anew elsewhere may hold other images
        **key_of(run, SLICES),
    }
    found = cache.get("detection", key, make, folder=config.cache_dir(run.scale) / "slices")
    return pd.DataFrame(found["rows"], columns=found["columns"])


class Detectors:
    """The detectors fitted for one network: on clean training images, and forests on the fit part of the test images.

    Args:
        run: of the network.
    """

    def __init__(self, run: DetectionRun) -> None:
        self.run, self.model, self.inputs = run, run.model, run.signal_inputs
        self.clean = self.inputs["clean"]
        self.parts = parts_of(self.clean)
        there = [name for name, part in self.inputs.items() if len(part)]
        self.frames = {name: described(run, name) for name in bar(there, desc="slices")}
        self.attacks = [name for name in run.settings.attack_names if name in there]
        self._fit_on_clean()

    def _fit_on_clean(self) -> None:
        frame, (_, fit), clean = described(self.run, "fit"), self.run.fit_inputs(), self.run.training_inputs
        groups = {"activity": detection.ACTIVITY, "similarity and activity": MEASURES}
        self.distances = {name: _distance(frame, measures, fit.predicted) for name, measures in groups.items()}
        layers = weight_layers(self.model).items()
        self.layer = [name for name, layer in layers if isinstance(layer, nn.Linear)][-1]
        features = forward(self.model, clean.images, layer=self.layer)
        self.mahalanobis = Mahalanobis(0.01).fit(features, clean.predicted)
        first, second = (slice(start, min(len(clean), 4000), 2) for start in (0, 1))
        bandwidth = choose_bandwidth(features[first], clean.predicted[first], features[second], clean.predicted[second])
        self.density = KernelDensity(bandwidth).fit(features, clean.predicted)
        self.lid = LID(min(20, len(clean) // 5), seed=self.run.seed).fit({self.layer: features})

    def on_clean(self, inputs: Given, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        """Scores of the detectors that have seen clean inputs only."""
        features = forward(self.model, inputs.images, layer=self.layer)
        return {
            "max-softmax": inputs.doubt,
            "similarity": 1 - detection.columns_of(frame, ("similarity",)).mean(1),
            **{name: distance(frame) for name, distance in self.distances.items()},
            "Mahalanobis, last layer": self.mahalanobis.score(features),
            "kernel density, last layer": self.density.score(features, inputs.predicted),
            "LID, last layer": self.lid.score({self.layer: features}),
        }

    def as_inputs(self, name: str) -> detection.Inputs:
        """What a forest sees of the inputs of a name."""
        return detection.Inputs(self.inputs[name].index, detection.columns_of(self.frames[name], MEASURES))

    def forests(self, train_on: Mapping[str, Sequence[str]], more: Mapping[str, Any] = {}) -> dict[str, BinaryForest]:
        """Forests on similarity and activity, by what they have seen.

        Args:
            train_on: name -> attacks.
            more: further attacks, as `as_inputs` gives them.
        """
        attacked = {name: self.as_inputs(name) for name in self.attacks} | dict(more)
        trees = self.run.settings.signal_trees
        return detection.forests(self.as_inputs("clean"), attacked, self.parts, train_on, self.run.seed, trees)

    def all_scores(self, forest: BinaryForest) -> dict[str, np.ndarray]:
        """A forest's scores of all inputs, by name: asked once, as each question has a cost of its own."""
        scores = forest.score(np.concatenate([self.as_inputs(name).features for name in self.frames]))
        ends = np.cumsum([len(frame) for frame in self.frames.values()])
        return dict(zip(self.frames, np.split(scores, ends[:-1]), strict=True))

    def part(self, name: str, part: str) -> np.ndarray:
        """Which inputs of a name belong to a part of the images, bool (N,)."""
        return np.isin(self.inputs[name].index, self.parts[part])


def parts_of(clean: Given) -> dict[str, np.ndarray]:
    """As `split_images`. Raises: SlicingError where there are too few clean images for one of the parts."""
    parts = detection.split_images(clean.index, clean.labels)
    if empty := [name for name, images in parts.items() if not len(images)]:
        raise SlicingError(
            f"{len(clean)} clean images of {len(np.unique(clean.labels))} classes are too few: the "
            f"{' part and the '.join(empty)} part has none. Four of each class are enough: raise signal_clean, the "
            "attacks' images, or take more attacks"
        )
    return parts


def _distance(
    frame: pd.DataFrame, measures: Sequence[str], predicted: np.ndarray
) -> Callable[[pd.DataFrame], np.ndarray]:
    """Mahalanobis distance to the nearest class of clean slices, in some measures, each in its own spread."""
    values = detection.columns_of(frame, measures)
    middle, spread = values.mean(0), values.std(0)
    usable = spread > 0
    fitted = Mahalanobis(0.05).fit((values - middle)[:, usable] / spread[usable], predicted)
    return lambda rows: fitted.score((detection.columns_of(rows, measures) - middle)[:, usable] / spread[usable])


def family(attack: str) -> str:
    """Attacks that differ in strength or norm only are one family: fgsm_2 and fgsm_8, deepfool_l2 and deepfool_linf."""
    return attack.partition("_")[0]


def signals(detectors: Detectors) -> pd.DataFrame:
    """How well similarity, activity, forests on both, and the yardsticks tell each attack's inputs from clean ones.

    Thresholds come from clean images of the validation part; what is reported is of the test part alone.

    Returns: one row a detector, what it was trained on, and an attack: detector, trained_on ("clean", an attack, "all
        attacks", or "other families": all but the attack's own family), attack ("noise_8": clean images with random
        signs of 8/255, still classified correctly), auroc, recall, fpr, precision, f1, n (adversarials).
    """
    rows: list[dict[str, Any]] = []
    clean = {part: detectors.part("clean", part) for part in ("validation", "test")}
    tested = {name: detectors.part(name, "test") for name in detectors.frames if name != "clean"}
    tested = {name: part for name, part in tested.items() if part.any()}
    attacks = [name for name in detectors.attacks if name in tested]

    def report(detector: str, trained_on: str, scores: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
        usual, limit = scores["clean"][clean["test"]], scores["clean"][clean["validation"]]
        for name in names:
            fpr = detectors.run.settings.signal_fpr
            found = detection.reading(scores[name][tested[name]], usual, limit, fpr)
            rows.append({"detector": detector, "trained_on": trained_on, "attack": name, **found})

    by_name = {name: detectors.on_clean(detectors.inputs[name], frame) for name, frame in detectors.frames.items()}
    for detector in by_name["clean"]:
        report(detector, "clean", {name: scores[detector] for name, scores in by_name.items()}, list(tested))
    train_on = {name: [name] for name in attacks} | {"all attacks": attacks}
    for trained_on, forest in bar(detectors.forests(train_on).items(), desc="forests"):
        report("forest", trained_on, detectors.all_scores(forest), list(tested))
    kinds = sorted({family(name) for name in attacks})
    without = {kind: others for kind in kinds if (others := [name for name in attacks if family(name) != kind])}
    for kind, forest in detectors.forests(without).items():
        names = [name for name in attacks if family(name) == kind]
        report("forest", "other families", detectors.all_scores(forest), names)
    return pd.DataFrame(rows)


# --- an attack that knows the detector


def adaptive(detectors: Detectors) -> pd.DataFrame:
    """Detection of an attack that knows the detector, by the weight of its surrogate.

    Returns: one row an aim ("mean", "guide"), weight and detector: aim, weight, detector, auroc, recall, fpr, n
        (adversarials of the test part), success (share of images attacked that are adversarial), distance (mean
        surrogate of the adversarials). "forest, trained anew" has seen adversarials of the same attack and weight.
    """
    run, model = detectors.run, detectors.model
    chosen, clean, layers = run.settings, run.training_inputs, list(weight_layers(model))[1:]
    usual = attack.activations(model, clean.images, torch.from_numpy(clean.labels), run.classes, layers)
    # As many images of the test part as of the fit part, whose adversarials train a forest anew.
    half = chosen.adaptive_images // 2
    places = [np.flatnonzero(detectors.part("clean", part))[:half] for part in ("fit", "test")]
    start = detectors.clean.take(np.concatenate(places))
    labels = torch.from_numpy(start.labels)
    logits = forward(model, start.images)
    logits[np.arange(len(start)), start.labels] = -np.inf
    targets = torch.from_numpy(logits.argmax(1))
    guides = _guides(detectors, start, targets.numpy())
    aims = {"mean": usual.towards_means(targets), "guide": attack.towards_guides(model, guides, layers)}
    watch = _Watch(detectors)
    rows: list[dict[str, Any]] = []
    unaware: list[dict[str, Any]] | None = None
    for name, aim in aims.items():
        for weight in bar(chosen.adaptive_weights, desc=f"adaptive, {name}"):
            found = unaware if not weight else None
            if found is None:
                epsilon, steps = chosen.adaptive_epsilon / 255, chosen.adaptive_steps
                made = attack.adaptive_pgd(
                    model, start.images, labels, targets, aim, usual.spreads, float(weight), epsilon, steps,
                    seed=run.seed,
                )  # fmt: skip
                found = watch.rows(start, made)
            unaware = unaware if weight else found  # without a weight the aim plays no part
            rows += [{"aim": name, "weight": float(weight), **row} for row in found]
    return pd.DataFrame(rows)


def _guides(detectors: Detectors, start: Given, targets: np.ndarray) -> Tensor:
    """For each image the training image of its target class that is nearest in the penultimate features."""
    clean = detectors.run.training_inputs
    here, there = (forward(detectors.model, part.images, layer=detectors.layer) for part in (start, clean))
    found = np.empty(len(start), int)
    for target in np.unique(targets):
        members, among = np.flatnonzero(targets == target), np.flatnonzero(clean.labels == target)
        distances = ((here[members, None] - there[among][None]) ** 2).sum(-1)
        found[members] = among[distances.argmin(1)]
    return clean.images[torch.from_numpy(found)]


class _Watch:
    """Every detector, with its scores of clean images, ready for one adaptive attack after another."""

    def __init__(self, detectors: Detectors) -> None:
        self.known, chosen = detectors, detectors.run.settings
        seen = chosen.adaptive_attack
        shown = {f"forest, trained on {SUITE[seen].label}": [seen], "forest, trained on all attacks": detectors.attacks}
        self.forests = detectors.forests(shown if seen in detectors.attacks else {})
        self.validation, self.test = (detectors.part("clean", part) for part in ("validation", "test"))
        self.settled = self._scores(detectors.clean, detectors.frames["clean"])
        self.rule = detectors.run.tree("nnslicer", "tree", chosen.tree_seeds[0])
        self.vectors = detectors.run.vectors("nnslicer")
        clean = detectors.clean.take(self.test)
        self.clean_flags = self.rule.flags(self.vectors(clean.images), clean.predicted)

    def _scores(self, inputs: Given, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        shown = detection.columns_of(frame, MEASURES)
        return self.known.on_clean(inputs, frame) | {name: one.score(shown) for name, one in self.forests.items()}

    def rows(self, start: Given, made: tuple[Tensor, Tensor, Tensor]) -> list[dict[str, Any]]:
        """Each detector on the adversarials of the test part: detector, auroc, recall, fpr, n, success, distance.

        Args:
            start: the images attacked.
            made: from `adaptive_pgd`.
        """
        images, success, distance = made
        hit = success.numpy()
        found = given(self.known.model, images[success], start.index[hit], start.labels[hit])
        still = found.predicted != found.labels
        found = found.take(still)
        in_test = np.isin(found.index, self.known.parts["test"])
        if not in_test.any():
            return []
        about = {"success": float(hit.mean()), "distance": float(distance[success].numpy()[still].mean())}
        frame = self.known.run.describe(found.images)
        scores, settled = self._scores(found, frame), dict(self.settled)
        mine = detection.Inputs(found.index, detection.columns_of(frame, MEASURES))
        for name, forest in self.known.forests({ANEW: ["adaptive"]}, {"adaptive": mine}).items():
            scores[name] = forest.score(mine.features)
            settled[name] = forest.score(self.known.as_inputs("clean").features)
        fpr = self.known.run.settings.signal_fpr
        rows = [
            detection.reading(values[in_test], settled[name][self.test], settled[name][self.validation], fpr)
            | {"detector": name, **about}
            for name, values in scores.items()
        ]
        return [*rows, {**self._by_the_rule(found.take(in_test)), "detector": RULE, **about}]

    def _by_the_rule(self, found: Given) -> dict[str, Any]:
        flags = self.rule.flags(self.vectors(found.images), found.predicted)
        both = np.concatenate([self.clean_flags, flags])
        area = auroc(both.astype(float), np.repeat([False, True], [len(self.clean_flags), len(flags)]))
        return {"auroc": area, "recall": float(flags.mean()), "fpr": float(self.clean_flags.mean()), "n": len(flags)}

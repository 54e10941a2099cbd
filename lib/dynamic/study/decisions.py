"""What the decision units of networks choose: how often which row, what that tells of the class, rare paths, and UMAP.

    python -m lib.evaluations --run lib.dynamic.study.decisions:make --scale smoke --seed 0

Tables are kept network by network, so that a run that was stopped goes on with the next one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib import compute, data, evaluations
from lib.data import splits
from lib.detectors import auroc
from lib.dynamic import information
from lib.dynamic.study.decision_inputs import (
    VERSION,
    Seen,
    about,
    attack_key,
    attacked,
    choices,
    images_of,
    network_of,
    networks,
    see,
    settings,
    untrained_feature,
)
from lib.progress import bar

TRAINED, UNTRAINED = "trained", "untrained"
SPACES = ("UMAP, two dimensions", "decision feature", "decision feature, untrained units", "penultimate features")


def make(scale: str, seed: int) -> None:
    """All tables of this study for one seed: a node of the graph."""
    compute.deterministic()
    for name in bar(networks(scale), desc="decisions"):
        layers(scale, seed, name)
        usage(scale, seed, name)
        paths(scale, seed, name)
    for name in bar(networks(scale, "umap_networks"), desc="UMAP"):
        embedding(scale, seed, name)


def layers(scale: str, seed: int, name: str) -> pd.DataFrame:
    """Entropy of a network's choices and their mutual information with the class, layer by layer, on test images.

    Args:
        scale, seed, name: of the network, which is trained where it is not there yet.
    Returns: one row a layer and kind of units ("trained", or "untrained": drawn anew, looking at the same inputs of
        the same layers): network, form, units, place (from 1), layer, masks, entropy, information, baseline,
        baseline_high, p_value (see `information.Information`), top_share (images that take the most frequent row),
        used (rows that an image in a hundred takes), n.
    """

    def compute_it() -> pd.DataFrame:
        network, seen, labels = network_of(scale, seed, name), *_test(scale, seed, name)
        count = len(network.unit(network.layers[0]).weight)
        rows = []
        features = {TRAINED: seen.feature, UNTRAINED: untrained_feature(network, seen.pooled, seed)}
        for units, feature in features.items():
            chosen = choices(network, feature)
            found = information.of_layers(
                chosen, labels, count, int(seen.logits.shape[1]), settings(scale)["permutations"], seed
            )
            for place, (layer, told) in enumerate(zip(network.layers, found, strict=True)):
                shares = chosen[:, place].bincount(minlength=count) / len(labels)
                where = {**about(network, name), "units": units, "place": place + 1, "layer": layer, "masks": count}
                measured = {"top_share": shares.max().item(), "used": int((shares >= 0.01).sum()), "n": len(labels)}
                rows.append({**where, **vars(told), **measured})
        return pd.DataFrame(rows)

    key = _test_key(scale, name) | {"permutations": settings(scale)["permutations"]}
    return evaluations.kept("lcs-layers", name, scale, seed, key, compute_it, VERSION)


def usage(scale: str, seed: int, name: str) -> pd.DataFrame:
    """The share of each class's test images that take each row.

    Returns: one row a layer, class and row: network, form, place, layer, label, row, share, n (images of the class).
    """

    def compute_it() -> pd.DataFrame:
        network, seen, labels = network_of(scale, seed, name), *_test(scale, seed, name)
        chosen, classes = choices(network, seen.feature), int(seen.logits.shape[1])
        rows = []
        for place, layer in enumerate(network.layers):
            count = len(network.unit(layer).weight)
            table = information.contingency(chosen[:, place], labels, count, classes)
            sums = table.sum(0)
            for label in range(classes):
                where = {**about(network, name), "place": place + 1, "layer": layer, "label": label}
                shares = (table[:, label] / sums[label].clamp_min(1)).tolist()
                rows += [{**where, "row": r, "share": share, "n": int(sums[label])} for r, share in enumerate(shares)]
        return pd.DataFrame(rows)

    return evaluations.kept("lcs-usage", name, scale, seed, _test_key(scale, name), compute_it, VERSION)


def paths(scale: str, seed: int, name: str) -> pd.DataFrame:
    """Images on rare and on usual paths through the layers, and how often the network is right about them.

    Returns: rows of two kinds. kind "rare" and "usual": the images of the rarest and of the commonest rows: position
        (in the test set), label, predicted, bits (`information.surprisal`), path (rows, layer by layer), value (images
        that take the very same path). kind "measure": name and value: "paths" (different ones), "top path" (share of
        images on the most frequent), "accuracy, rarest tenth", "accuracy, the other nine tenths".
    """

    def compute_it() -> pd.DataFrame:
        network, seen, labels = network_of(scale, seed, name), *_test(scale, seed, name)
        chosen = choices(network, seen.feature)
        bits = information.surprisal(chosen, len(network.unit(network.layers[0]).weight))
        which, counts = information.paths(chosen)
        order = bits.argsort(descending=True, stable=True)
        right, tenth = (seen.predicted == labels).double(), max(1, len(labels) // 10)
        measured = {
            "paths": float(len(counts)),
            "top path": counts[0].item() / len(labels),
            "accuracy, rarest tenth": right[order[:tenth]].mean().item(),
            "accuracy, the other nine tenths": right[order[tenth:]].mean().item(),
        }
        rows: list[dict[str, Any]] = [
            {"kind": "measure", "name": word, "value": value, "n": len(labels)} for word, value in measured.items()
        ]
        positions = _positions(scale, name)
        shown = settings(scale)["rare_images"]
        for kind, some in (("rare", order[:shown]), ("usual", order.flip(0)[:shown])):
            for i in some.tolist():
                found = {"position": int(positions[i]), "label": int(labels[i]), "predicted": int(seen.predicted[i])}
                path = "-".join(map(str, chosen[i].tolist()))
                rows.append(
                    {"kind": kind, **found, "bits": bits[i].item(), "path": path, "value": counts[which[i]].item()}
                )
        return pd.DataFrame(rows).assign(**about(network, name))

    key = _test_key(scale, name) | {"rare_images": settings(scale)["rare_images"]}
    return evaluations.kept("lcs-paths", name, scale, seed, key, compute_it, VERSION)


def embedding(scale: str, seed: int, name: str) -> pd.DataFrame:
    """The decision feature in two dimensions, and what it and other features hold of classes and of attacks.

    UMAP is fitted on training images, clean test images and adversarials together, as a figure shows them.

    Args:
        scale, seed, name: of the network.
    Returns: rows of two kinds. kind "point": inputs ("train", "test", or an attack), label (true class), x, y. kind
        "measure": space (of `SPACES`), name, inputs, value, n: "neighbour accuracy" of training images (the class that
        most of their k nearest other training images have), and "apart": how well the mean distance to the k nearest
        training images tells an attack's adversarials from the clean test images, as an area under the ROC curve.
    """
    chosen = settings(scale)
    names, count, k = chosen["umap_attacks"], chosen["umap_adversarials"], chosen["umap_neighbours"]

    def compute_it() -> pd.DataFrame:
        network = network_of(scale, seed, name)
        train = images_of(scale, name, "train", chosen["umap_images"])
        index, sets = attacked(scale, seed, name, names)
        test = data.load(train.name, "test")
        seen = {"train": see(network, train), "test": see(network, test.float(index=index[:count]))}
        labels = {"train": train.labels, "test": test.labels[index[:count]]}
        for attack, made in sets.items():
            seen[attack], labels[attack] = see(network, made.images[:count]), made.labels[:count]
        plane = _plane(np.concatenate([part.feature.numpy() for part in seen.values()]), k, seed)
        ends = np.cumsum([len(part) for part in seen.values()])[:-1]
        flat = dict(zip(seen, np.split(plane, ends), strict=True))
        rows: list[dict[str, Any]] = []
        for kind, part in flat.items():
            rows += [
                {"kind": "point", "inputs": kind, "label": int(label), "x": round(float(x), 3), "y": round(float(y), 3)}
                for label, (x, y) in zip(labels[kind], part, strict=True)
            ]
        for space in SPACES:
            values = flat if space == SPACES[0] else {kind: _in(space, network, seen[kind], seed) for kind in seen}
            for word, kind, value, n in _measures(values, labels["train"].numpy(), k):
                rows.append({"kind": "measure", "space": space, "name": word, "inputs": kind, "value": value, "n": n})
        return pd.DataFrame(rows).assign(**about(network, name))

    key = {
        "train": images_of(scale, name, "train", chosen["umap_images"]).fingerprint,
        "attacks": attack_key(scale, names),
        **{word: chosen[word] for word in ("umap_adversarials", "umap_neighbours")},
    }
    return evaluations.kept("lcs-umap", name, scale, seed, key, compute_it, VERSION)


def _in(space: str, network: Any, seen: Seen, seed: int) -> np.ndarray:
    if space == SPACES[1]:
        return seen.feature.numpy()
    return (untrained_feature(network, seen.pooled, seed) if space == SPACES[2] else seen.penultimate).numpy()


def _plane(features: np.ndarray, k: int, seed: int) -> np.ndarray:
    """UMAP in two dimensions (N, 2).

    Source: McInnes, Healy and Melville 2018, https://arxiv.org/abs/1802.03426; umap-learn's own settings but for the
        number of neighbours.
    """
    from umap import UMAP

    threads = torch.get_num_threads()
    try:
        return UMAP(n_neighbors=k, random_state=seed, n_jobs=1).fit_transform(features)
    finally:
        torch.set_num_threads(threads)  # numba sets OpenMP's threads, which are torch's too, to those of its own


def _measures(values: dict[str, np.ndarray], labels: np.ndarray, k: int) -> list[tuple[str, str, float, int]]:
    """Neighbour accuracy of the training images, and how far each attack's inputs lie apart from them."""
    from sklearn.neighbors import NearestNeighbors

    train = values["train"]
    usable = min(k, len(train) - 1)
    search = NearestNeighbors(n_neighbors=usable).fit(train)
    votes = labels[search.kneighbors(return_distance=False)]  # asked without points, none is its own neighbour
    counts = (votes[:, :, None] == np.arange(labels.max() + 1)).sum(1)
    rows = [("neighbour accuracy", "train", float((counts.argmax(1) == labels).mean()), len(labels))]
    near = {kind: search.kneighbors(part)[0].mean(1) for kind, part in values.items() if kind != "train"}
    for kind, distances in near.items():
        if kind != "test":
            both = np.concatenate([near["test"], distances])
            area = auroc(both, np.repeat([False, True], [len(near["test"]), len(distances)]))
            rows.append(("apart", kind, area, len(distances)))
    return rows


@lru_cache(maxsize=1)
def _test(scale: str, seed: int, name: str) -> tuple[Seen, Tensor]:
    """What the network makes of the test images whose choices are counted, and their classes."""
    images = images_of(scale, name, "test", settings(scale)["decision_images"])
    return see(network_of(scale, seed, name), images), images.labels


def _test_key(scale: str, name: str) -> dict[str, Any]:
    return {"images": images_of(scale, name, "test", settings(scale)["decision_images"]).fingerprint}


def _positions(scale: str, name: str) -> np.ndarray:
    """Positions in the whole test set of the images whose choices are counted."""
    images = images_of(scale, name, "test", settings(scale)["decision_images"])
    whole = data.load(images.name, "test")
    return splits.stratified(whole.labels.numpy(), len(whole), seed=0)[: len(images)]

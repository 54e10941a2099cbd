"""The decision feature in two dimensions (notebook 22): do images cluster by class, do adversarials lie apart?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib import plots
from lib.attacks import SUITE
from lib.detectors import auroc
from lib.dynamic.lcs.features import Seen, see, untrained_feature
from lib.experiments.dynamic import titled
from lib.experiments.item import Item, Results
from lib.experiments.lcs import AREA, LcsRun, Row
from lib.experiments.lcs_decisions import Settings
from lib.progress import bar

SPACES = ("UMAP, two dimensions", "decision feature", "decision feature, untrained units", "penultimate features")


class UmapRun(LcsRun[Settings]):
    """A seed's networks, and their decision features in two dimensions, each kept by network."""

    def embedding(self, name: str) -> pd.DataFrame:
        """The decision feature in two dimensions, and what it and other features hold of classes and of attacks.

        UMAP is fitted on training images, clean test images and adversarials together, as a figure shows them.

        Returns: rows of two kinds. kind "point": inputs ("train", "test", or an attack), label (true class), x, y. kind
            "measure": space (of `SPACES`), name, inputs, value, n, as `measures` has them.
        """
        chosen = self.settings
        count, k = chosen.umap_adversarials, chosen.umap_neighbours
        train = self.images("train", None if name in chosen.umap_whole else chosen.umap_images)

        def rows() -> Iterator[Row]:
            network = self.lcs(name)
            index, sets = self.attacked(name, chosen.umap_attacks)
            test = self.images("test")
            seen = {"train": see(network, train), "test": see(network, test.float(index=index[:count]))}
            labels = {"train": train.labels, "test": test.labels[index[:count]]}
            for attack, made in sets.items():
                seen[attack], labels[attack] = see(network, made.images[:count]), made.labels[:count]
            flat = plane(np.concatenate([part.feature.numpy() for part in seen.values()]), k, self.seed)
            ends = np.cumsum([len(part) for part in seen.values()])[:-1]
            views: list[Callable[[Seen], Any]] = [
                lambda part: part.feature,
                lambda part: untrained_feature(network, part.pooled, self.seed),
                lambda part: part.penultimate,
            ]
            spaces = [dict(zip(seen, np.split(flat, ends), strict=True))]
            spaces += [{kind: view(part).numpy() for kind, part in seen.items()} for view in views]
            for kind, part in spaces[0].items():
                for label, (x, y) in zip(labels[kind], part, strict=True):
                    place = {"x": round(float(x), 3), "y": round(float(y), 3)}
                    yield {"kind": "point", "inputs": kind, "label": int(label), **place}
            for space, values in zip(SPACES, spaces, strict=True):
                for word, kind, value, n in measures(values, labels["train"].numpy(), k):
                    yield {"kind": "measure", "space": space, "name": word, "inputs": kind, "value": value, "n": n}

        key: dict[str, Any] = {"train": train.fingerprint, "attacks": chosen.attack_key(chosen.umap_attacks)}
        key |= {"umap_adversarials": count, "umap_neighbours": k}
        return self.kept("lcs-umap", name, key, rows)


def plane(features: np.ndarray, k: int, seed: int) -> np.ndarray:
    """UMAP in two dimensions (N, 2).

    Args:
        features: (N, F).
        k: neighbours; all else as umap-learn has it.
        seed: of the random start.
    Source: McInnes, Healy and Melville 2018, https://arxiv.org/abs/1802.03426.
    """
    from umap import UMAP

    threads = torch.get_num_threads()
    try:
        return UMAP(n_neighbors=k, random_state=seed, n_jobs=1).fit_transform(features)
    finally:
        torch.set_num_threads(threads)  # numba sets OpenMP's threads, which are torch's too, to those of its own


def measures(values: Mapping[str, np.ndarray], labels: np.ndarray, k: int) -> Iterator[tuple[str, str, float, int]]:
    """How far neighbours share their class, and how far adversarials lie apart.

    Args:
        values: "train", "test" and attacks -> features (N, F).
        labels: of the training images.
        k: neighbours, from 1.
    Yields: measure, inputs, value, n. "neighbour accuracy" of training images: the share whose class is that of most
        of their k nearest other training images. "apart" of an attack: how well the mean distance to the k nearest
        training images tells its adversarials from the clean test images, as an area under the ROC curve.
    """
    from sklearn.neighbors import NearestNeighbors

    train = values["train"]
    search = NearestNeighbors(n_neighbors=min(k, len(train) - 1)).fit(train)
    votes = labels[search.kneighbors(return_distance=False)]  # asked without points, none is its own neighbour
    counts = (votes[:, :, None] == np.arange(labels.max() + 1)).sum(1)
    yield "neighbour accuracy", "train", float((counts.argmax(1) == labels).mean()), len(labels)
    near = {kind: search.kneighbors(part)[0].mean(1) for kind, part in values.items() if kind != "train"}
    for kind, distances in near.items():
        if kind != "test":
            both = np.concatenate([near["test"], distances])
            adversarial = np.repeat([False, True], [len(near["test"]), len(distances)])
            yield "apart", kind, auroc(both, adversarial), len(distances)


def embedded(settings: Settings, seed: int) -> pd.DataFrame:
    """The decision features drawn in two dimensions, and what is counted beside.

    Returns: tidy: "neighbour_accuracy" at {network, form, space}, "apart" at {network, form, space, attack}. Beyond the
        record: "point" at {network, form, inputs, label, class}, with x and y.
    """
    run = UmapRun(settings, seed)
    classes = run.images("test").classes
    rows: list[Row] = []
    for name in bar(run.of_this_seed(settings.umap_networks), desc="UMAP"):
        for row in run.embedding(name).to_dict("records"):
            at = {"network": row["network"], "form": row["form"]}
            if row["kind"] == "point":
                label = int(row["label"])
                place = {key: row[key] for key in ("inputs", "x", "y")}
                rows.append({"measure": "point", **at, **place, "label": label, "class": classes[label]})
            else:
                at |= {"space": row["space"], "value": row["value"], "n": int(row["n"])}
                attack = row["inputs"] if row["name"] == "apart" else None
                rows.append({"measure": row["name"].replace(" ", "_"), **at, "attack": attack})
    return run.tidy(rows)


def umap_table(results: Results) -> pd.DataFrame:
    """A row a network and space: neighbour accuracy, and how far each attack lies apart."""
    at = ["network", "form", "space"]
    accuracy = results.values("neighbour_accuracy").set_index(at)["value"].rename("neighbour accuracy")
    apart = results.values("apart").pivot_table(index=at, columns="attack", values="value", sort=False)
    apart = apart[list(dict.fromkeys(results.values("apart")["attack"]))]
    apart.columns = [f"{SUITE[attack].label} apart, AUROC" for attack in apart.columns]
    return pd.concat([accuracy, apart], axis=1).reset_index()


GREY = "#d4d4d4"


def draw_plane(results: Results) -> Figure:
    """The decision feature in two dimensions at the first seed: training images by class, and beside them each attack.

    Every point of the kept table is drawn. The figures in the titles are those of the seed that is drawn.
    """
    import seaborn

    seed = results.settings.seeds[0]
    points = results.rows("point")
    points = points[points["seed"] == seed]
    attacks = [kind for kind in SUITE if kind in set(points["inputs"])]
    classes = dict(sorted(zip(points["label"], points["class"], strict=True)))
    hues = seaborn.color_palette("colorblind", len(classes))
    names = list(points["network"].unique())
    layout = [[name, f"{name} {attack}"] for name in names for attack in attacks or [""]]
    figure, axes = plots.mosaic(layout, height=0.5 + 2.5 * len(names), width_ratios=[2.2, 1])
    for ax in axes.values():
        plots.bare(ax, frame=True)
    plane = {"space": SPACES[0]}
    for name in names:
        part, large = points[points["network"] == name], axes[name]
        train, clean = part[part["inputs"] == "train"], part[part["inputs"] == "test"]
        among = results.values("neighbour_accuracy", network=name, **plane)["per_seed"].item()[seed]
        title = f"{titled(name, 60)}\n{among:.0%} lie among their own class"
        large.set_title(title, fontsize=plots.SMALLEST, loc="left")
        large.set_ylabel("second dimension of UMAP", fontsize=plots.SMALLEST)
        _points(large, train, 2, [hues[list(classes).index(label)] for label in train["label"]])
        for attack in attacks:
            small, made = axes[f"{name} {attack}"], part[part["inputs"] == attack]
            apart = results.values("apart", network=name, attack=attack, **plane)["per_seed"]
            told = f": {apart.item()[seed]:.2f}" if len(apart) else ""
            small.set_title(f"{SUITE[attack].label}{told}", fontsize=plots.SMALLEST)
            _points(small, train, 1, GREY)
            both = pd.concat([clean, made]).sort_values("x")  # so that neither kind lies on top of the other
            _points(small, both, 2, np.where(both["inputs"] == attack, *reversed(plots.PALETTE[:2])))
    large.set_xlabel("first dimension of UMAP", fontsize=plots.SMALLEST)
    last = list(axes.values())[-1]
    if attacks:
        last.set_xlabel("in the title: AUROC,\nadversarial against\nclean, at this seed", fontsize=plots.SMALLEST)
        kinds = {"training": GREY, "clean test": plots.PALETTE[0], "adversarial": plots.PALETTE[1]}
        for text, colour in kinds.items():
            last.scatter([], [], color=colour, label=text)
        plots.legend_below([last], 3, handlelength=1)
    plots.settled(figure)
    for name in names:
        train = points[(points["network"] == name) & (points["inputs"] == "train")]
        centroids = train.groupby("label")[["x", "y"]].mean().loc[list(classes)]
        name_places(axes[name], list(classes.values()), centroids.to_numpy(float), hues)
    return figure


def _points(ax: Axes, part: pd.DataFrame, size: float, colour: Any) -> None:
    """Points of the plane as pixels, of which an SVG holds one picture; size: in square points."""
    ax.scatter(part["x"], part["y"], s=size, c=colour, linewidths=0, rasterized=True)


UMAP = Item(
    "lcs_umap", embedded, {"neighbour_accuracy": "fraction of training images", "apart": AREA}, table=umap_table,
    draw=draw_plane, about=("umap_networks", "umap_images", "umap_adversarials"), drawn_from=("lcs-umap",),
)  # fmt: skip
ITEMS = (UMAP,)


def name_places(ax: Axes, names: Sequence[str], places: np.ndarray, colours: Sequence[Any]) -> None:
    """Write names at places of a map, moved apart where they would overlap, with a line to where they belong.

    Args:
        ax: with all else drawn and the figure's layout done, as after `settled`.
        names: N; colours: of their frames.
        places: (N, 2), in data units.
    """
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": plots.SMALLEST, "zorder": 5}
    frame: dict[str, Any] = {"boxstyle": "square,pad=0.12", "facecolor": "white", "alpha": 0.85, "linewidth": 0.9}
    texts = [
        ax.text(x, y, name, bbox={**frame, "edgecolor": colour}, **look)
        for name, (x, y), colour in zip(names, places, colours, strict=True)
    ]
    sizes = np.array([text.get_window_extent().size for text in texts]) + 4 * ax.figure.dpi / 72
    data, ends = ax.transData, np.asarray(ax.get_window_extent())
    moved = data.inverted().transform(moved_apart(data.transform(places), sizes, *ends))
    for text, place, to, colour in zip(texts, places, moved, colours, strict=True):
        text.set_position(to)
        ax.plot(*zip(place, to, strict=True), color=colour, linewidth=0.9, linestyle="-", marker="", zorder=4)
        ax.plot(*place, color=colour, marker="o", markeredgecolor="black", markeredgewidth=0.6, zorder=4)


def moved_apart(centres: np.ndarray, sizes: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Boxes pushed apart, step by step, until none overlaps another, as far as there is room.

    Args:
        centres, sizes: (N, 2) of the boxes.
        low, high: (2,), the corners of what they stay within.
    Returns: their centres (N, 2); boxes that overlap none stay where they are.
    """
    centres = np.clip(centres, low + sizes / 2, high - sizes / 2)
    for _ in range(1000):
        pushed = centres.copy()
        for a in range(len(centres)):
            for b in range(a):
                gap = centres[a] - centres[b]
                overlap = (sizes[a] + sizes[b]) / 2 - np.abs(gap)
                axis = int(overlap.argmin())
                if overlap[axis] > 1e-6:
                    step = (overlap[axis] / 4 + 0.01) * (1 if gap[axis] >= 0 else -1)
                    pushed[[a, b], axis] += step, -step
        if (pushed == centres).all():
            break
        centres = np.clip(pushed, low + sizes / 2, high - sizes / 2)
    return centres

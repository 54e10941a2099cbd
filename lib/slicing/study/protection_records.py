"""From protected networks to the numbers, texts and record of the notebook on protection."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib import evaluations
from lib.evaluations import SHARE, frame
from lib.slicing.protection import METHODS, OF_CLASSES
from lib.slicing.study import protection as evaluate_protection
from lib.slicing.study import pruning_records
from lib.slicing.study.pruning_records import NAMES, distinct


def numbers_of(
    frames: Mapping[int, pd.DataFrame],
    victims: Mapping[int, pd.DataFrame],
    sweeps: Mapping[int, pd.DataFrame] | None = None,
    visible: Mapping[int, pd.DataFrame] | None = None,
) -> list[Any]:
    """A record's numbers of protected networks.

    Args:
        frames, sweeps: seed -> as `evaluate_protection.protected` returns it, without and with sweep.
        victims, visible: seed -> as `evaluate_protection.victim` and `visible` return it.
    Returns: "accuracy" at {method, images, share_hidden, classes, epoch}, the mean over the target subsets; epoch is
        "hidden" (before the first step), "last", or "best": the largest over the epochs, which only who sees the test
        images can pick. "sweep_accuracy" alike, for the subsets and seeds of the sweep; "victim_accuracy" at {classes}.
        n are the distinct test images. "visible_norm" and "by_position" at {method}; n are the target subsets.
    """
    rows: list[dict[str, Any]] = []
    for name, found in (("accuracy", frames), ("sweep_accuracy", sweeps or {})):
        for seed, table in found.items():
            for place, group in table.groupby(["method", "images", "share_hidden", "classes"], sort=False):
                where = dict(zip(("method", "images", "share_hidden", "classes"), place, strict=True))
                for epoch, value in ends(group).items():
                    told = {"value": value, "unit": SHARE, "n": _images(group)}
                    rows.append({"name": name, **told, **where, "epoch": epoch, "seed": seed})
    for seed, table in victims.items():
        targets = frames[seed]["target"].unique()
        by_class = (table.set_index("class")["right"] / table.set_index("class")["n"]).to_dict()
        target = np.mean([by_class[int(k)] for subset in targets for k in subset.split()])
        inside = {int(k) for subset in targets for k in subset.split()}
        for classes, value, n in (
            ("target", float(target), int(table[table["class"].isin(inside)]["n"].sum())),
            ("all", table["right"].sum() / table["n"].sum(), int(table["n"].sum())),
        ):
            told = {"value": value, "unit": SHARE, "n": n, "classes": classes, "seed": seed}
            rows.append({"name": "victim_accuracy", **told})
    for seed, table in (visible or {}).items():
        for method, group in table.groupby("method", sort=False):
            about = {"n": len(group), "method": method, "seed": seed}
            norm = {"value": group["norm"].mean(), "unit": "fraction of the squared norm"}
            tied = {"value": group["by_position"].mean(), "unit": "fraction of hidden weights"}
            rows += [{"name": "visible_norm", **norm, **about}, {"name": "by_position", **tied, **about}]
    return evaluations.numbers(rows)


def ends(group: pd.DataFrame) -> dict[str, float]:
    """Accuracy with the weights hidden, after the last epoch and after the best, each the mean over target subsets."""
    wide = (group.set_index(["target", "epoch"])["right"] / group.set_index(["target", "epoch"])["n"]).unstack()
    trained = wide[[epoch for epoch in wide.columns if epoch > 0]]
    found = {"hidden": wide[0], "last": trained[max(trained.columns)], "best": trained.max(axis=1)}
    return {name: float(values.mean()) for name, values in found.items()}


def _images(group: pd.DataFrame) -> int:
    first = group.drop_duplicates("target")
    if group["classes"].iloc[0] == "all":
        return int(first["n"].iloc[0])
    return distinct(pd.DataFrame({"classes": first["target"], "n": first["n"]}))


def table_of(numbers: Sequence[Any]) -> pd.DataFrame:
    """One row a number of images, method and classes; the accuracy hidden, after the last epoch and at the best."""
    rows = frame(numbers)
    wide = rows.pivot(index=["images", "method", "classes"], columns="epoch", values="value")
    ordered = [
        (images, method, classes)
        for images in sorted(rows["images"].unique())
        for method in METHODS
        for classes in ("target", "all")
    ]
    shown = wide.loc[ordered, ["hidden", "last", "best"]].reset_index()
    shown["method"], shown["images"] = shown["method"].map(NAMES), shown["images"].astype(int)
    return shown.rename_axis(columns=None)


def reading(numbers: Sequence[Any]) -> str:
    """Who protects best, as Markdown: the attacker's accuracy on target and on all classes, method by method."""
    rows, lines = frame(numbers), []
    told = frame(numbers, "victim_accuracy").set_index("classes")["value"]
    for images in sorted(rows["images"].unique()):
        part = rows[(rows["images"] == images) & (rows["epoch"] == "last")]
        wide = part.pivot(index="method", columns="classes", values="value").loc[list(METHODS)]
        order = wide["target"].sort_values()
        ranks = ", ".join(f"{NAMES[str(m)]} {100 * v:.1f}" for m, v in order.items())
        gap = wide.loc["nnslicer", "all"] - wide.loc["weight", "all"]
        lines.append(
            f"- **{int(images):,} images:** accuracy on the target classes after the last epoch, in %, lowest first: "
            f"{ranks} (the victim: {100 * told['target']:.1f}). On all classes NNSlicer's attacker ends "
            f"{100 * gap:+.1f} points from Weight's ({100 * wide.loc['nnslicer', 'all']:.1f} and "
            f"{100 * wide.loc['weight', 'all']:.1f} %; the victim: {100 * told['all']:.1f}). Below the victim he is "
            f"{100 * (told['target'] - wide.loc['nnslicer', 'target']):.1f} points on the target classes and "
            f"{100 * (told['all'] - wide.loc['nnslicer', 'all']):.1f} on all: the difference is what aiming at the "
            "target brings."
        )
    best = rows[rows["epoch"] == "best"].set_index(["method", "images", "classes"])["value"]
    last = rows[rows["epoch"] == "last"].set_index(["method", "images", "classes"])["value"]
    lines.append(f"- The best epoch flatters the attacker by {100 * (best - last).max():.1f} points at most.")
    return "\n".join(lines)


def write(scale: str, seeds: Sequence[int], numbers: Sequence[Any], figure: Any) -> None:
    """Write the record of `nnslicer_protection`."""

    def described(scale: str) -> dict[str, Any]:
        chosen = evaluate_protection.settings(scale)
        return {
            "test images": chosen["prune_test_images"],
            "images of the attacker": " and ".join(f"{n:,}" for n in chosen["protect_images"]),
            "epochs of the attack": chosen["protect_epochs"],
            "images a step of the attack": chosen["protect_batch"],
            "target subsets": len(evaluate_protection.target_subsets(scale)),
            "target subsets in the sweep": len(evaluate_protection.target_subsets(scale, sweep=True)),
            "network seeds in the sweep": len(
                evaluate_protection.sweep_seeds(scale, evaluations.seeds_of(scale, "nnslicer"))
            ),
            "shares in the sweep": chosen["protect_sweep"],
        }

    full = {"seeds": evaluations.seeds_of("paper", "nnslicer"), **described("paper")}
    pruning_records.write(
        "nnslicer_protection", scale, seeds, numbers, figure, table_of(numbers), described(scale), full
    )


def visible_reading(numbers: Sequence[Any]) -> str:
    """What hiding leaves to the attacker, method by method, and how that goes with what he ends with, as Markdown."""
    norms, ties = (frame(numbers, name).set_index("method")["value"] for name in ("visible_norm", "by_position"))
    rows = frame(numbers, classes="target", epoch="last")
    ended = rows.groupby("method")["value"].mean()
    pairs = list(itertools.combinations(norms.sort_values().index, 2))
    agree = sum(ended[less] > ended[more] for less, more in pairs)
    told = ", ".join(f"{NAMES[m]} {100 * norms[m]:.0f} %" for m in norms.sort_values().index)
    tied = ", ".join(f"{100 * ties[m]:.0f} % for {NAMES[m]}" for m in OF_CLASSES)
    return (
        f"Of the convolutions' squared norm the attacker sees, averaged over the layers: {told}. Of the hidden "
        f"weights, ties leave to their position: {tied}. Of {len(pairs)} pairs of methods, the attacker recovers "
        f"better from the one that leaves less of the norm in {agree}."
    )


def sweep_reading(numbers: Sequence[Any]) -> str:
    """The sweep in a sentence of Markdown for each method."""
    rows = frame(numbers, "sweep_accuracy", classes="target", epoch="last")
    lines = []
    for method in METHODS:
        part = rows[rows["method"] == method].sort_values("share_hidden")
        told = ", ".join(f"{100 * row.value:.1f} % at {row.share_hidden:g}" for row in part.itertuples())
        lines.append(f"- **{NAMES[method]}**, target classes: {told}")
    return "\n".join(lines)


def setting(scale: str, seeds: Sequence[int], numbers: Sequence[Any]) -> str:
    """What the figure rests on, in a paragraph of Markdown."""
    chosen = evaluate_protection.settings(scale)
    images = " and ".join(f"{count:,}" for count in chosen["protect_images"])
    targets = evaluate_protection.target_subsets(scale)
    tests = len(evaluations.test_images(chosen["data"], chosen["prune_test_images"]))
    plural = "s" if len(targets) != 1 else ""
    rest = (
        f"{tests:,} test images, {images} images of the attacker, {chosen['protect_epochs']} epochs, "
        f"{100 * chosen['protect_share']:g} % of each convolution hidden, "
        f"{len(targets)} subset{plural} of {chosen['subset_size']} target classes"
    )
    told = frame(numbers, "victim_accuracy").set_index("classes")["value"]
    text = evaluations.setting_text(scale, chosen["data"], seeds, rest)
    return (
        f"{text} The victim is right on {100 * told['target']:.1f} % of the target classes' images and "
        f"{100 * told['all']:.1f} % of all."
    )

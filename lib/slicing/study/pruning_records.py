"""From pruned networks to the numbers, texts and records of the notebook on pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib import evaluations, tables
from lib.evaluations import SHARE, frame
from lib.slicing.pruning import METHODS, OF_CLASSES
from lib.slicing.study import evaluation
from lib.slicing.study import pruning as evaluate_pruning

NAMES = {
    "nnslicer": "NNSlicer",
    "effective-path": "EffectivePath",
    "weight": "Weight",
    "channel": "Channel",
    "random": "Random",
}
VIEWS = {
    "as it is": "every network as it is",
    "centred": "every network centred",
    "as released": "slices centred, Weight and Channel as they are",
}
"""How the methods are set beside each other: compensation for none, for all, or as the released code has it."""


def viewed(rows: pd.DataFrame, view: str) -> pd.DataFrame:
    """The rows that a view compares.

    Args:
        rows: with columns method and compensation.
        view: one of `VIEWS`.
    """
    if view not in VIEWS:
        raise ValueError(f"no view {view!r}: one of {', '.join(VIEWS)}")
    wanted = rows["method"].isin(OF_CLASSES) if view == "as released" else view == "centred"
    return rows[rows["compensation"] == wanted]


def pruning_numbers(
    frames: Mapping[int, pd.DataFrame],
    checks: Mapping[int, pd.DataFrame] | None = None,
    ties: Mapping[int, pd.DataFrame] | None = None,
    others: Mapping[int, pd.DataFrame] | None = None,
) -> list[Any]:
    """A record's numbers of pruned networks.

    Args:
        frames: seed -> as `evaluate_pruning.pruned` or `fine_tuned` returns it.
        checks: seed -> as `evaluate_pruning.precision` returns it.
        ties, others: seed -> as `evaluate_pruning.ties_by_weight` and `on_other_classes` return it.
    Returns: "accuracy" at {method, ratio, compensation}, the mean over the subsets; its n are the distinct test images
        behind it, each seen once in every subset that has its class. "best_share" at {ratio, view}: the share of
        subsets in which NNSlicer is more accurate than each of the others; n are the subsets. "by_position" at {method,
        ratio}: the share of dropped weights that ties left to their position; n are the subsets. "same_decisions" at
        {ratio, compensation}: how often bfloat16 and float32 decide alike; n are images. On the subsets
        that were looked at more closely: "accuracy_by_ties" at {method, ratio, compensation, ties}, and
        "accuracy_by_classes" at {method, ratio, compensation, classes}, "target" or "other" (n: outside of one subset).
    """
    rows: list[dict[str, Any]] = []
    for seed, table in frames.items():
        rows += _means("accuracy", table, seed)
        for view in VIEWS:
            wide = accuracies(table, view)
            for ratio, group in wide[wide.index.get_level_values("ratio") > 0].groupby("ratio"):
                ahead = group["nnslicer"] > group.drop(columns="nnslicer").max(axis=1)
                value = {"value": ahead.mean(), "unit": "fraction of subsets", "n": len(group)}
                rows.append({"name": "best_share", **value, "ratio": ratio, "view": view, "seed": seed})
        known = table[table["by_position"].notna() & ~table["compensation"].astype(bool)]
        for (method, ratio), group in known.groupby(["method", "ratio"], sort=False):
            value = {"value": group["by_position"].astype(float).mean(), "unit": "fraction of dropped weights"}
            rows.append(
                {"name": "by_position", **value, "n": len(group), "method": method, "ratio": ratio, "seed": seed}
            )
    for seed, other in (ties or {}).items():
        table = frames[seed][frames[seed]["classes"].isin(other["classes"]) & (frames[seed]["ratio"] > 0)]
        for rule, found in (("position", table[table["method"].isin(OF_CLASSES)]), ("weight", other)):
            rows += _means("accuracy_by_ties", found, seed, ties=rule)
    for seed, other in (others or {}).items():
        table = frames[seed][frames[seed]["classes"].isin(other["classes"])]
        rows += _means("accuracy_by_classes", table, seed, classes="target")
        rows += _means("accuracy_by_classes", other, seed, classes="other")
    for seed, table in (checks or {}).items():
        for row in table.to_dict("records"):
            where = {"ratio": row["ratio"], "compensation": bool(row["compensation"]), "seed": seed}
            value = {"value": row["same"], "unit": "fraction of decisions", "n": int(row["n"])}
            rows.append({"name": "same_decisions", **value, **where})
    return evaluations.numbers(rows)


def _means(name: str, table: pd.DataFrame, seed: int, **about: Any) -> list[dict[str, Any]]:
    """One row a method, ratio and compensation: the accuracy, averaged over the subsets."""
    rows = []
    for place, group in table.groupby(["method", "ratio", "compensation"], sort=False):
        method, ratio, compensation = place
        where = {"method": method, "ratio": ratio, "compensation": bool(compensation), **about, "seed": seed}
        value = {"value": (group["right"] / group["n"]).mean(), "unit": SHARE}
        n = int(group["n"].max()) if about.get("classes") == "other" else distinct(group)
        rows.append({"name": name, **value, "n": n, **where})
    return rows


def distinct(group: pd.DataFrame) -> int:
    """Different test images behind rows with columns classes (as "0 3 5 8") and n, each class having as many."""
    known: dict[str, int] = {}
    for classes, n in zip(group["classes"], group["n"], strict=True):
        each = classes.split()
        known |= dict.fromkeys(each, int(n) // len(each))
    return sum(known.values())


def accuracies(table: pd.DataFrame, view: str) -> pd.DataFrame:
    """Accuracy by method (columns), ratio and subset (index), as a view of `VIEWS` sets them beside each other."""
    chosen = viewed(table, view)
    chosen = chosen.assign(accuracy=chosen["right"] / chosen["n"])
    return chosen.pivot(index=["ratio", "classes"], columns="method", values="accuracy")


def pruning_table(numbers: Sequence[Any]) -> pd.DataFrame:
    """The mean accuracy: one row a method and compensation, one column a ratio."""
    rows = frame(numbers)
    wide = rows.pivot(index=["method", "compensation"], columns="ratio", values="value")
    ordered = [(method, flag) for flag in (False, True) for method in METHODS if (method, flag) in wide.index]
    shown = wide.loc[ordered].rename(columns=lambda ratio: f"r = {ratio:g}").reset_index()
    shown["method"], shown["compensation"] = (
        shown["method"].map(NAMES),
        shown["compensation"].map({True: "yes", False: "no"}),
    )
    return shown.rename_axis(columns=None)


def pruning_reading(numbers: Sequence[Any]) -> str:
    """Who is ahead, view by view, as Markdown: NNSlicer's mean accuracy against the best other method's."""
    rows, lines = frame(numbers), []
    for view, words in VIEWS.items():
        wide = viewed(rows, view).pivot(index="ratio", columns="method", values="value")
        wide = wide[wide.index > 0]
        others = wide.drop(columns="nnslicer")
        lead = wide["nnslicer"] - others.max(axis=1)
        rival = NAMES[str(others.mean().idxmax())]
        shares = frame(numbers, "best_share", view=view)["value"]
        lines.append(
            f"- **{words}:** NNSlicer has the highest mean accuracy at {int((lead > 0).sum())} of {len(lead)} ratios; "
            f"its lead over the best other method there runs from {100 * lead.min():+.1f} to {100 * lead.max():+.1f} "
            f"points, {100 * lead.mean():+.1f} on average (the best other overall: {rival}). It alone is the most "
            f"accurate in {100 * shares.mean():.0f} % of subsets, averaged over the ratios."
        )
    return "\n".join(lines)


def tie_reading(numbers: Sequence[Any]) -> str:
    """How much of a mask ties leave to the position, in a sentence of Markdown."""
    rows = frame(numbers, "by_position")
    told = []
    for method in OF_CLASSES:
        values = rows[rows["method"] == method]["value"]
        told.append(f"{100 * values.min():.0f} to {100 * values.max():.0f} % for {NAMES[method]}")
    gains = frame(numbers, "accuracy_by_ties").pivot_table(index="method", columns="ties", values="value")
    more = ", ".join(f"{100 * (gains['weight'] - gains['position'])[m]:+.1f} for {NAMES[m]}" for m in OF_CLASSES)
    return (
        f"Of the dropped weights, ties leave to their position: {', '.join(told)}, depending on the ratio. What it "
        f"adds to drop the smaller weight first among equals, in points of accuracy averaged over the ratios, with and "
        f"without compensation: {more}."
    )


def sacrifice_reading(numbers: Sequence[Any]) -> str:
    """What is given up on the classes outside of the target, in a sentence of Markdown."""
    rows = frame(numbers, "accuracy_by_classes", compensation=False)
    wide = rows[rows["ratio"] > 0].pivot_table(index="method", columns="classes", values="value").loc[list(METHODS)]
    dense = rows[rows["ratio"] == 0].groupby("classes")["value"].first()
    changes = 100 * (wide - dense)
    told = "; ".join(f"{NAMES[str(row.Index)]} {row.target:+.1f} and {row.other:+.1f}" for row in changes.itertuples())
    above = rows[(rows["method"] == "nnslicer") & (rows["classes"] == "target") & (rows["ratio"] > 0)]
    return (
        f"What pruning changes on the target classes and on the others, in points of accuracy averaged over the "
        f"ratios: {told}. Pruned by NNSlicer, networks are more often right on their target "
        f"classes than the unpruned one at {int((above['value'] > dense['target']).sum())} of {len(above)} ratios."
    )


def precision_reading(numbers: Sequence[Any]) -> str:
    """How well the fast precision agrees with float32, in a sentence of Markdown."""
    rows = frame(numbers, "same_decisions")
    return (
        f"In the precision of the evaluation and in float32, pruned networks decide alike on "
        f"{100 * rows['value'].min():.1f} to {100 * rows['value'].max():.1f} % of images, depending on the ratio."
    )


def compensation_reading(numbers: Sequence[Any]) -> str:
    """What centring does to each method, in a sentence of Markdown."""
    rows = frame(numbers)
    rows = rows[rows["ratio"] > 0]
    mean = rows.pivot_table(index="method", columns="compensation", values="value")
    gains = (mean[True] - mean[False]).loc[list(METHODS)]
    told = ", ".join(f"{NAMES[str(method)]} {100 * gain:+.1f}" for method, gain in gains.items())
    return f"What centring adds, in points of accuracy averaged over the ratios: {told}."


def pruning_setting(
    scale: str, seeds: Sequence[int], numbers: Sequence[Any], frames: Mapping[int, pd.DataFrame]
) -> str:
    """What the first figure rests on, in a paragraph of Markdown, its main result first."""
    chosen = evaluate_pruning.settings(scale)
    table = next(iter(frames.values()))
    ratios = sorted(set(table["ratio"]) - {0.0})
    dense = frame(numbers, ratio=0.0)["value"].iloc[0]
    rest = (
        f"{len(evaluations.test_images(chosen['data'], chosen['prune_test_images'])):,} test images, "
        f"{table['classes'].nunique()} subsets of {chosen['subset_size']} classes, {len(ratios)} pruning ratios from "
        f"{ratios[0]:g} to {ratios[-1]:g}, {len(METHODS)} methods with and without compensation "
        f"({len(table[table['ratio'] > 0]):,} accuracies a seed)"
    )
    text = evaluations.setting_text(scale, chosen["data"], seeds, rest)
    return f"{text} The unpruned network is right on {100 * dense:.1f} % of the target classes' images."


def tuning_setting(scale: str, frames: Mapping[int, pd.DataFrame]) -> str:
    """What the second figure rests on, in a paragraph of Markdown."""
    chosen, table = evaluate_pruning.settings(scale), next(iter(frames.values()))
    return (
        f"Here: {table['classes'].nunique()} subsets of classes, {table['ratio'].nunique() - 1} pruning ratios, "
        f"{chosen['finetune_images']:,} training images."
    )


def write_pruning(item: str, scale: str, seeds: Sequence[int], numbers: Sequence[Any], figure: Any) -> None:
    """Write the record of `nnslicer_pruning` or `nnslicer_pruning_finetuned`."""
    own, paper = evaluate_pruning.settings(scale), evaluate_pruning.settings("paper")
    tuned = item.endswith("finetuned")
    prefix = "finetune" if tuned else "prune"

    def described(scale: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
        every = evaluate_pruning.subsets(
            evaluation.class_count(scale), chosen["subset_size"], chosen[f"{prefix}_subsets"]
        )
        words = {"test images": chosen["prune_test_images"], "subsets of classes": len(every)}
        words["pruning ratios"] = chosen[f"{prefix}_ratios"]
        if tuned:
            words |= {"images to fine-tune on": chosen["finetune_images"], "images a step": chosen["finetune_batch"]}
        return words

    full = {"seeds": evaluations.seeds_of("paper", "nnslicer"), **described("paper", paper)}
    write(item, scale, seeds, numbers, figure, pruning_table(numbers), described(scale, own), full)


def write(
    item: str,
    scale: str,
    seeds: Sequence[int],
    numbers: Sequence[Any],
    figure: Any,
    table: pd.DataFrame,
    used: Mapping[str, Any],
    full: Mapping[str, Any],
) -> None:
    """Write a record of these studies: `evaluations.write` with their network and test images."""
    chosen = evaluate_pruning.settings(scale)
    test = evaluations.test_images(chosen["data"], chosen["prune_test_images"])
    known = {f"{chosen['data']}/test": test.fingerprint}
    evaluations.write(item, scale, seeds, [chosen["network"]], numbers, figure, used, full, known, table)


def markdown(table: pd.DataFrame) -> str:
    """A table for display, accuracies to three places."""
    shown = table.copy()
    for column in shown.select_dtypes("float"):
        shown[column] = shown[column].map("{:.3f}".format)
    return tables.markdown(shown.astype(str))

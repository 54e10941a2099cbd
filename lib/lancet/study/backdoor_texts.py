"""What the tables of repaired networks say, computed as Markdown for the notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib.evaluations import frame
from lib.lancet.study.backdoor_records import kind_of, with_change
from lib.lancet.study.repairs import METHODS

GONE = 0.1  # target recall below which the class counts as deleted
KEPT = 0.5  # ... where it was above this before


def means(numbers: Sequence[Any], name: str, flag: bool) -> pd.Series:
    """Method -> mean over the networks of a measure, with the true (False) or the reversed trigger known."""
    found = frame(numbers, f"{name}_over_networks", statistic="mean", reversed=flag)
    return found.set_index("method")["value"]


def methods_reading(numbers: Sequence[Any], flag: bool = True) -> str:
    """Each method in a line: success, accuracy change, target recall and accuracy on stamped images, in the mean."""
    success, change = means(numbers, "attack_success", flag), means(numbers, "accuracy_change", flag)
    recall, stamped = means(numbers, "target_recall", flag), means(numbers, "stamped_accuracy", flag)
    order = success.drop("none").sort_values().index
    lines = [
        f"With the {'reversed' if flag else 'true'} trigger known, in the mean over the networks, lowest success first "
        f"(before repair: success {success['none']:.3f}, target recall {recall['none']:.2f}):"
    ]
    lines += [
        f"- **{METHODS[method]}**: success {success[method]:.3f}, accuracy {100 * change[method]:+.1f} points, target "
        f"recall {recall[method]:.2f}, accuracy on stamped images {stamped[method]:.2f}"
        for method in order
    ]
    return "\n".join(lines)


def rules_reading(frames: Mapping[int, pd.DataFrame]) -> str:
    """What each rule for the layer costs: accuracy, deleted target classes, thresholds not reached."""
    whole = with_change(pd.concat(frames.values(), ignore_index=True))
    recall = whole[whole["method"] == "none"].set_index(["network", "reversed"])["target_recall"].astype(float)
    recall = recall[~recall.index.duplicated()]
    lines = []
    for method in ("flip-stated", "flip-smallest", "flip-tried", "flip-signed"):
        part = whole[whole["method"] == method]
        at = pd.MultiIndex.from_frame(part[["network", "reversed"]])
        was = recall.loc[at].to_numpy()
        gone = int(((part["target_recall"].astype(float).to_numpy() < GONE) & (was > KEPT)).sum())
        hidden = int(
            (
                (part["target_recall"].astype(float).to_numpy() < GONE)
                & (was > KEPT)
                & (part["accuracy_change"].to_numpy() > -0.02)
            ).sum()
        )
        missed = int((part["reached"].astype(object) != True).sum())  # noqa: E712 None: nothing could be flipped
        lines.append(
            f"- **{METHODS[method]}**: accuracy {100 * part['accuracy_change'].mean():+.1f} points in the mean and "
            f"{100 * part['accuracy_change'].min():+.1f} at worst; {100 * part['fraction'].mean():.2f} % of the "
            f"layer's weights flipped; the target class deleted (recall below {GONE:g}, from above {KEPT:g}) in {gone} "
            f"of {len(part)} repairs, {hidden} of which cost less than two points; threshold not reached on "
            f"the repair split in {missed}."
        )
    layers = whole[whole["method"].isin(["flip-stated", "flip-tried"])]
    told = layers.pivot_table(index=["network", "reversed"], columns="method", values="layer", aggfunc="first")
    if {"flip-stated", "flip-tried"} <= set(told):
        differs = int((told["flip-stated"] != told["flip-tried"]).sum())
        lines.append(f"\nThe stated rule and trying choose different layers in {differs} of {len(told)} repairs.")
    return "\n".join(lines)


def triggers_reading(numbers: Sequence[Any]) -> str:
    """Whether a reversed trigger serves as well as the true one, method by method."""
    true, other = means(numbers, "attack_success", False), means(numbers, "attack_success", True)
    told = ", ".join(
        f"{METHODS[m]} {other[m]:.3f} against {true[m]:.3f}"
        for m in ("flip-stated", "flip-tried", "flip-signed", "tune", "unlearn-matched")
        if m in true and m in other
    )
    return f"Success with the reversed trigger known against the true one, in the mean: {told}."


def floor_reading(frames: Mapping[int, pd.DataFrame]) -> str:
    """How success after repair compares with the natural target rate of the network before it."""
    whole = pd.concat(frames.values(), ignore_index=True)
    before = whole[whole["method"] == "none"].groupby("set")["natural_target_rate"].mean()
    part = whole[(whole["method"] == "flip-tried") & whole["reversed"].astype(bool)]
    after = part.groupby("set")["attack_success"].mean()
    told = "; ".join(
        f"{name}: {100 * before[name]:.1f} % before, success after flipping {100 * after[name]:.1f} %"
        for name in before.index
    )
    return f"Clean images of other classes that are taken for the target anyway, by set: {told}."


def failures_reading(frames: Mapping[int, pd.DataFrame]) -> str:
    """The repairs by flipping that did not reach the threshold, or could not begin, by name."""
    whole = pd.concat(frames.values(), ignore_index=True)
    part = whole[(whole["method"] == "flip-tried") & (whole["reached"].astype(object) != True)]  # noqa: E712
    if part.empty:
        return "Flipping reached the threshold on the repair split for every network and either trigger."
    told = ", ".join(
        f"{row['network']} ({'reversed' if row['reversed'] else 'true'} trigger, success {row['attack_success']:.2f})"
        for row in part.to_dict("records")
    )
    return f"Flipping did not reach the threshold on the repair split for {len(part)} repairs: {told}."


def size_reading(numbers: Sequence[Any]) -> str:
    """Success by size, smallest and largest trigger of each kind."""
    lines = []
    for method in ("flip-stated", "flip-tried", "flip-signed", "unlearn-matched"):
        rows = frame(numbers, "attack_success_over_networks", statistic="mean", method=method, reversed=True)
        rows = rows.assign(kind=rows["trigger"].map(kind_of)).sort_values("size")
        told = "; ".join(
            f"{kind}: {part['value'].iloc[0]:.3f} at {100 * part['size'].iloc[0]:.1f} % of the image, "
            f"{part['value'].iloc[-1]:.3f} at {100 * part['size'].iloc[-1]:.1f} %"
            for kind, part in rows.groupby("kind")
        )
        lines.append(f"- **{METHODS[method]}**: {told}.")
    return "With the reversed trigger known, success after repair:\n" + "\n".join(lines)


def forms_reading(frames: Mapping[int, pd.DataFrame]) -> str:
    """TrojanNN: each network before and after flipping and unlearning."""
    lines = []
    for name, table in pd.concat(frames.values(), ignore_index=True).groupby("network", sort=False):
        at = table.set_index(["method", "reversed"])
        told = "; ".join(
            f"{METHODS[method]} {at.loc[(method, True), 'attack_success']:.3f} "
            f"(accuracy {at.loc[(method, True), 'accuracy']:.3f})"
            for method in ("none", "flip-stated", "flip-tried", "flip-signed", "unlearn-matched")
        )
        lines.append(f"- **{name}**, reversed trigger known: success {told}.")
    return "\n".join(lines)

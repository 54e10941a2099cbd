"""From tables of the detection study to the numbers, texts and record of the notebook on detection."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from lib import attacks, data, evaluations, tables
from lib.attacks import SUITE
from lib.evaluations import SHARE, frame
from lib.slicing import detection
from lib.slicing.study import evaluation
from lib.slicing.study.detection_inputs import attack_names, settings

ITEM = "nnslicer_detection"
AVERAGE = "average"
SAME = "the same attack"
STATED = {"recall": 1.0, "precision": 0.83}
"""The source's averages over the attacks; it does not say which mean they were taken with."""

NAMES = {
    ("nnslicer", "predicted"): "NNSlicer, class mean",
    ("nnslicer", "dataset"): "NNSlicer, overall mean",
    ("effective-path", "none"): "EffectivePath",
    ("feature-map", "none"): "FeatureMap",
}
UNITS = {
    "precision": "fraction of flagged images",
    "recall": SHARE,
    "f1": "harmonic mean of precision and recall",
    "fpr": SHARE,
    "auroc": "area under the ROC curve",
}
OVER_ATTACKS = "mean over attacks"


def attack_label(name: str) -> str:
    """An attack as tables show it; a noise control in words."""
    if name in SUITE:
        return SUITE[name].label
    return f"noise of {name.partition('_')[2]}/255" if name.startswith("noise_") else name


def rule_numbers(frames: Mapping[int, pd.DataFrame], first: int) -> list[Any]:
    """The paper's rule as a record's numbers.

    Args:
        frames: seed -> as `evaluate_detection.detection_table` returns it.
        first: the tree seed that is reported attack by attack; of the others only the averages are.
    Returns: precision, recall, f1, fpr and auroc at {attack, method, reference, rule, tree_seed}, of the forest attack
        by attack the auroc alone; attack "average" is the mean over the attacks that had a success; "fpr" at attack
        "clean" is over all clean images. "flagged" is recall and fpr once more, as the share flagged at {inputs}:
        "adversarial" and "clean". "precision_if_all_flagged" at "average" is arithmetic: 1 / (1 + fpr).
    """
    rows: list[dict[str, Any]] = []
    for seed, table in frames.items():
        for (method, reference, rule, tree), group in table.groupby(
            ["method", "reference", "rule", "tree_seed"], sort=False
        ):
            about = {"method": method, "reference": reference, "rule": rule, "tree_seed": int(tree), "seed": seed}
            attacked = group[group["attack"] != "clean"]
            if tree == first:
                for row in group.to_dict("records"):
                    measures = UNITS if rule == "tree" else ("auroc",)
                    rows += _of(row, measures, {"attack": row["attack"], **about})
                if rule == "tree":
                    for row in attacked.to_dict("records"):
                        rows += _flagged(row, {"attack": row["attack"], **about})
            rows += _averaged(attacked, about, stated=method == "nnslicer" and rule == "tree" and tree == first)
    return evaluations.numbers(rows)


def _of(row: Mapping[str, Any], measures: Iterable[str], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The measures of a row that have a value; a rate without a denominator has none."""
    found = {name: row[name] for name in measures if row[name] is not None and not math.isnan(row[name])}
    return [{"name": name, "value": v, "unit": UNITS[name], "n": int(row["n"]), **about} for name, v in found.items()]


def _flagged(row: Mapping[str, Any], about: Mapping[str, Any]) -> list[dict[str, Any]]:
    shares = {"adversarial": row["recall"], "clean": row["fpr"]}
    at = {"name": "flagged", "unit": SHARE, "n": int(row["n"]), **about}
    return [{**at, "value": share, "inputs": kind} for kind, share in shares.items()]


def _averaged(attacked: pd.DataFrame, about: Mapping[str, Any], stated: bool) -> list[dict[str, Any]]:
    at = {"attack": AVERAGE, **about, "n": int(attacked["n"].sum()), "unit": OVER_ATTACKS}
    rows = []
    for name in UNITS:
        values = attacked[name].astype(float).dropna()
        if len(values):
            paper = STATED.get(name) if stated else None
            rows.append({"name": name, "value": float(values.mean()), "paper_value": paper, **at})
    if len(attacked) and about["rule"] == "tree":
        precision = detection.stated_arithmetic(float(attacked["fpr"].mean()))["precision"]
        note = "hypothesis: every adversarial flagged"
        rows.append({"name": "precision_if_all_flagged", "value": precision, "note": note, **at})
    return rows


def signal_numbers(frames: Mapping[int, pd.DataFrame]) -> list[Any]:
    """What else slices tell, as a record's numbers.

    Args:
        frames: seed -> as `evaluate_signals.signals` returns it.
    Returns: auroc at {detector, trained_on, attack}; auroc, recall and fpr at attack "average", the means over the
        attacks (without the noise controls). The forest trained and tested on one attack is there once more,
        trained_on "the same attack".
    """
    rows: list[dict[str, Any]] = []
    for seed, table in frames.items():
        table = pd.concat([table, table[table["trained_on"] == table["attack"]].assign(trained_on=SAME)])
        for row in table.to_dict("records"):
            at = {key: row[key] for key in ("detector", "trained_on", "attack")} | {"seed": seed}
            rows += _of(row, ("auroc",), at)
        attacked = table[~table["trained_on"].isin(SUITE) & table["attack"].isin(SUITE)]
        for (detector, trained_on), group in attacked.groupby(["detector", "trained_on"], sort=False):
            at = {"detector": detector, "trained_on": trained_on, "attack": AVERAGE, "seed": seed}
            at |= {"n": int(group["n"].sum()), "unit": OVER_ATTACKS}
            rows += [{"name": name, "value": float(group[name].mean()), **at} for name in ("auroc", "recall", "fpr")]
    return evaluations.numbers(rows)


def adaptive_numbers(frames: Mapping[int, pd.DataFrame]) -> list[Any]:
    """The adaptive attack as a record's numbers.

    Args:
        frames: seed -> as `evaluate_adaptive.adaptive` returns it.
    Returns: auroc and recall at {aim, weight, detector}; success and distance at {aim, weight}.
    """
    rows: list[dict[str, Any]] = []
    beside = {"success": "fraction of images attacked", "distance": "surrogate, 1 is a clean input's to its class mean"}
    for seed, table in frames.items():
        for row in table.to_dict("records"):
            at = {key: row[key] for key in ("aim", "weight", "detector")} | {"seed": seed, "n": int(row["n"])}
            rows += [
                {"name": name, "value": row[name], "unit": UNITS[name], **at} for name in ("auroc", "recall", "fpr")
            ]
        for row in table.drop_duplicates(["aim", "weight"]).to_dict("records"):
            at = {"aim": row["aim"], "weight": row["weight"], "seed": seed, "n": int(row["n"])}
            rows += [{"name": name, "value": row[name], "unit": unit, **at} for name, unit in beside.items()]
    return evaluations.numbers(rows)


def of_rule(numbers: Sequence[Any], name: str, rule: str = "tree", tree_seed: int | None = None) -> pd.DataFrame:
    """The paper's rule by attack and method, with a column "shown" that names the method.

    Args:
        name: precision, recall, f1, fpr, auroc, or precision_if_all_flagged.
        rule: "tree" or "forest".
        tree_seed: None: that reported attack by attack.
    """
    rows = frame(numbers, name, rule=rule)
    chosen = _first(numbers) if tree_seed is None else tree_seed
    rows = rows[rows["tree_seed"] == chosen]
    return rows.assign(shown=[NAMES[key] for key in zip(rows["method"], rows["reference"], strict=True)])


def _first(numbers: Sequence[Any]) -> int:
    """The tree seed that is reported attack by attack."""
    return int(frame(numbers, "recall", rule="forest")["tree_seed"].iloc[0])


def layout(numbers: Sequence[Any]) -> pd.DataFrame:
    """The table: attacks, their average and the stated one; precision, recall and F1 of each method."""
    by_name = {name: of_rule(numbers, name) for name in ("precision", "recall", "f1")}
    attacks = [name for name in (*SUITE, AVERAGE) if name in set(by_name["recall"]["attack"])]
    rows = []
    for attack in attacks:
        row: dict[str, Any] = {"attack": attack_label(attack)}
        here = by_name["recall"][by_name["recall"]["attack"] == attack]
        row["n"] = int(here["n"].min())
        for shown in NAMES.values():
            for name, part in by_name.items():
                found = part[(part["attack"] == attack) & (part["shown"] == shown)]["value"]
                row[f"{shown}: {'F1' if name == 'f1' else name}"] = float(found.iloc[0]) if len(found) else None
        rows.append(row)
    stated = {f"{shown}: {name}": value for shown in list(NAMES.values())[:2] for name, value in STATED.items()}
    table = pd.DataFrame([*rows, {"attack": "average, as stated", **stated}]).astype(object)
    return table.where(table.notna(), None)


def rule_text(numbers: Sequence[Any]) -> str:
    """What the paper's rule does, in words and a small table: averages over the attacks beside those stated."""
    shown = []
    for label in NAMES.values():
        row: dict[str, Any] = {"method": label}
        for name in ("recall", "fpr", "precision", "f1", "auroc"):
            part = of_rule(numbers, name)
            found = part[(part["attack"] == AVERAGE) & (part["shown"] == label)]
            row[{"fpr": "false positives", "f1": "F1", "auroc": "AUROC"}.get(name, name)] = _with_interval(found)
        shown.append(row)
    stated = {"recall": f"{STATED['recall']:.2f}", "precision": f"{STATED['precision']:.2f}"}
    blank = dict.fromkeys(shown[0], "not stated") | stated | {"method": "NNSlicer, as stated"}
    recall, fpr = (_average(numbers, name, "NNSlicer, class mean") for name in ("recall", "fpr"))
    text = (
        f"Averaged over the attacks, the tree on NNSlicer's slices (mean of the predicted class) flags {recall:.0%} of "
        f"the adversarials and {fpr:.0%} of the clean images; a rule that detects nothing flags as many of both."
    )
    return f"{text}\n\n" + tables.markdown(pd.DataFrame([*shown, blank]))


def arithmetic_text(numbers: Sequence[Any]) -> str:
    """What precision would be if every adversarial were flagged, in words."""
    parts = []
    for label in list(NAMES.values())[:2]:
        fpr, precision = (_average(numbers, name, label) for name in ("fpr", "precision_if_all_flagged"))
        parts.append(f"{label}: 1 / (1 + {fpr:.3f}) = {precision:.3f}")
    needed = 1 / STATED["precision"] - 1
    return (
        "**Hypothesis, not a result.** If *every* adversarial were flagged, recall would be 1 and precision "
        f"1 / (1 + false positives): {'; '.join(parts)}. The stated precision of {STATED['precision']:.2f} would need "
        f"a false-positive rate of {needed:.3f}."
    )


def signal_text(numbers: Sequence[Any]) -> str:
    """Mean AUROC over the attacks, detector by detector, as a Markdown table."""
    rows = frame(numbers, "auroc", attack=AVERAGE).dropna(subset=["detector"])
    recall = frame(numbers, "recall", attack=AVERAGE).dropna(subset=["detector"])
    lines = []
    for row in rows.to_dict("records"):
        same = recall[(recall["detector"] == row["detector"]) & (recall["trained_on"] == row["trained_on"])]
        line = {"detector": row["detector"], "trained on": row["trained_on"]}
        lines.append({**line, "mean AUROC": _with_interval(pd.DataFrame([row])), "mean recall": _with_interval(same)})
    return "Means over the attacks:\n\n" + tables.markdown(pd.DataFrame(lines))


def noise_text(numbers: Sequence[Any]) -> str:
    """How the forest scores clean images with random noise, in words; empty without controls."""
    rows = frame(numbers, "auroc", detector="forest", trained_on="all attacks")
    rows = rows[rows["attack"].str.startswith("noise_")]
    told = [f"{row.value:.2f} on {attack_label(row.attack)}" for row in rows.itertuples()]
    return f"The forest trained on all attacks reaches an AUROC of {', '.join(told)}." if told else ""


def adaptive_text(numbers: Sequence[Any]) -> str:
    """The lowest AUROC that the adaptive attack leaves each detector, in words and a small table."""
    rows = frame(numbers, "auroc").dropna(subset=["aim"])
    lines = []
    for detector, part in rows.groupby("detector", sort=False):
        start, low = part[part["weight"] == 0]["value"], part[part["weight"] > 0].sort_values("value").head(1)
        if len(start) and len(low):
            at = low.iloc[0]
            line = {"detector": detector, "AUROC, detector unknown": f"{start.mean():.2f}"}
            lines.append({**line, "lowest, detector known": f"{at['value']:.2f} ({at['aim']}, {at['weight']:g})"})
    return "In brackets the aim and weight of the surrogate:\n\n" + tables.markdown(pd.DataFrame(lines))


def setting_text(scale: str, seeds: Sequence[int], numbers: Sequence[Any]) -> str:
    """What the run rests on, in one paragraph of Markdown."""
    chosen = settings(scale)
    counts = frame(numbers, "recall", rule="tree")
    counts = counts[counts["attack"].isin(SUITE)]["n"]
    classes = evaluation.class_count(scale)
    rest = (
        f"{counts.min():,} to {counts.max():,} adversarials an attack and as many clean test images, trees on up to "
        f"{chosen['detection_per_class'] * classes:,} clean training images"
    )
    return evaluations.setting_text(scale, chosen["data"], seeds, rest)


def uneven_text(tables: Mapping[int, pd.DataFrame]) -> str:
    """Attacks of which the methods were not given the same number of images, in words; empty where there is none.

    Args:
        tables: seed -> as `detection.detection_table` returns it.
    """
    told = []
    for name in dict.fromkeys(attack for table in tables.values() for attack in table["attack"]):
        spans = [table.loc[table["attack"] == name, "n"] for table in tables.values()]
        if any(span.nunique() > 1 for span in spans):
            found = "; ".join(f"{span.min():,} to {span.max():,}" for span in spans if span.nunique() > 1)
            told.append(f"{SUITE[name].label if name in SUITE else name} ({found})")
    if not told:
        return ""
    return (
        "**Not the same images for every method**, as some tables were made on another machine, from adversarial sets "
        f"made and looked at again there; images by seed, fewest to most: {', '.join(told)}."
    )


def write(scale: str, seeds: Sequence[int], numbers: Sequence[Any], figure: Any) -> None:
    """Write the record, with what was reduced; its table is `layout`."""
    used, full = (_used(name) for name in (scale, "paper"))
    used["seeds"] = list(seeds)
    for name in [name for name in used if name.startswith("images under ")]:
        if all(words.get(name) in (None, words["images an attack"]) for words in (used, full)):
            del used[name]  # as most attacks have it
    fingerprints = {}
    for split in ("train", "test"):
        images = data.load(settings(scale)["data"], split)
        fingerprints[f"{images.name}/{split}"] = images.fingerprint
    networks = [settings(scale)["network"]]
    evaluations.write(ITEM, scale, seeds, networks, numbers, figure, used, full, fingerprints, layout(numbers))


def _used(scale: str) -> dict[str, Any]:
    """A scale's settings by the words that describe them, the attacks' own among them."""
    chosen = settings(scale)
    plans = {name: attacks.plan(name, scale) for name in attack_names(scale)}
    usual, _ = Counter(plan.images for plan in plans.values()).most_common(1)[0]
    used = {
        "seeds": list(chosen["seeds"]),
        "training images a class for the trees": chosen["detection_per_class"],
        "tree seeds": list(chosen["tree_seeds"]),
        "training images a class for the profile": chosen["profile_per_class"],
        "whole slices an attack": chosen["signal_images"],
        "images of the adaptive attack": chosen["adaptive_images"],
        "images an attack": usual,
    }
    for name, plan in plans.items():
        label = SUITE[name].label
        used[f"images under {label}"] = plan.images
        for key, value in plan.parameters.items():
            shown = f"{255 * value:.4g}/255" if key == "epsilon" else value
            used[f"{key.replace('_', ' ')} of {label}"] = shown
    return used


def _average(numbers: Sequence[Any], name: str, label: str) -> float:
    rows = of_rule(numbers, name)
    return float(rows[(rows["attack"] == AVERAGE) & (rows["shown"] == label)]["value"].iloc[0])


def _with_interval(rows: pd.DataFrame) -> str:
    if not len(rows):
        return "-"
    row = rows.iloc[0]
    ends = "" if math.isnan(row["low"]) else f" ({row['low']:.2f} to {row['high']:.2f})"
    return f"{row['value']:.2f}{ends}"

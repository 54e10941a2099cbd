"""The detection study on named networks: the paper's rule, the signal beyond it, and an attack that knows the detector.

    python -m lib.evaluations --run lib.slicing.study.detection:make --scale smoke --seed 0

Each table is kept with the results, addressed by the network's weights and all that it depends on, in pieces, so that a
run that was cut off goes on where it was.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from lib import evaluations
from lib.progress import bar
from lib.slicing import detection
from lib.slicing.study.adaptive import adaptive
from lib.slicing.study.detection_inputs import (
    METHODS,
    VERSION,
    attack_names,
    counterparts,
    fitted,
    images_key,
    settings,
    test_inputs,
    tested_vectors,
)
from lib.slicing.study.signals import signals

__all__ = ["adaptive", "clean_accuracy", "detection_table", "make", "signals"]


def detection_table(scale: str, seed: int) -> pd.DataFrame:
    """The paper's rule for every attack, method, and tree.

    Args:
        scale, seed: of the network; both it and the adversarial sets are made where they are not there yet.
    Returns: one row an attack, method and rule: attack, method (nnslicer, effective-path, feature-map), reference
        (predicted, dataset, none), rule (tree, forest), tree_seed, precision, recall, f1, fpr, auroc, n (adversarials,
        and as many clean images); attack "clean" has the fpr over all clean images. Attacks without success have no
        row.
    """
    chosen = settings(scale)
    rules = [("tree", tree_seed) for tree_seed in chosen["tree_seeds"]] + [("forest", chosen["tree_seeds"][0])]
    parts = [
        _rule_table(name, kind, tree_seed, scale, seed)
        for name in METHODS
        for kind, tree_seed in bar(rules, desc=f"trees on {name}")
    ]
    return pd.concat(parts, ignore_index=True)


def _rule_table(name: str, kind: str, tree_seed: int, scale: str, seed: int) -> pd.DataFrame:
    method, reference = METHODS[name]
    about = {"method": method, "reference": reference, "rule": kind, "tree_seed": tree_seed}

    def make() -> pd.DataFrame:
        rule, inputs = fitted(name, kind, tree_seed, scale, seed), test_inputs(scale, seed)
        tested = tested_vectors(name, scale, seed)
        clean = inputs["clean"]
        flags = rule.flags(tested["clean"], clean.predicted)
        rows: list[dict[str, Any]] = [{"attack": "clean", **about, "fpr": float(flags.mean()), "n": len(clean)}]
        for attack in attack_names(scale):
            found = inputs[attack]
            if not len(found):
                continue
            pair = counterparts(clean, found)
            rates = detection.rule_rates(
                rule, tested["clean"][pair], clean.predicted[pair], tested[attack], found.predicted
            )
            rows.append({"attack": attack, **about, **rates})
        columns = ["attack", *about, "precision", "recall", "f1", "fpr", "auroc", "n"]
        return pd.DataFrame(rows, columns=columns)

    key = {**about, "trees": settings(scale)["forest_trees"] if kind == "forest" else 1, **images_key(scale)}
    return evaluations.kept("nnslicer-detection", settings(scale)["network"], scale, seed, key, make, VERSION)


def clean_accuracy(scale: str, seed: int) -> pd.DataFrame:
    """How often each tree names the class of clean images: one row a method: method, reference, accuracy, n.

    The tree is the paper's; on correctly classified images its share of errors is the false-positive rate.
    """
    table = detection_table(scale, seed)
    first = settings(scale)["tree_seeds"][0]
    chosen = table[(table["attack"] == "clean") & (table["rule"] == "tree") & (table["tree_seed"] == first)]
    return chosen.assign(accuracy=1 - chosen["fpr"])[["method", "reference", "accuracy", "n"]].reset_index(drop=True)


def make(scale: str, seed: int) -> None:
    """All tables of the study for one network seed: what the graph computes ahead of the notebook."""
    for table in (detection_table, signals, adaptive):
        table(scale, seed)

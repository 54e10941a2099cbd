"""From repaired general defects to the numbers, texts and record of the notebook on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pandas as pd

from lib import data, evaluations
from lib.evaluations import SHARE, frame
from lib.lancet.study import defects, pretrained, wrong

METHODS = {
    "none": "before",
    "error-inducing": "neuron-fine-tune",
    "random": "random neurons",
    "all": "all of the layer",
    "whole network": "whole network",
    "another seed": "another seed, no repair",
}
RULE_NAMES = {"most-pairs": "most pairs (stated)", "smallest-fraction": "smallest fraction (ours)", "": ""}
STATED_ON_ERRORS, STATED_LEAD = 0.42, 0.30
_NOTE = "stated as an average over the source's networks on ImageNet"
_MEASURES = {"accuracy": "n", "errors_right": "n_errors", "still_right": "n"}
Frames = Mapping[str, Mapping[int, pd.DataFrame]]


def numbers_of(frames: Frames) -> list[Any]:
    """A record's numbers of repaired general defects.

    Args:
        frames: network -> seed -> as `defects.repaired` or `pretrained_repaired` returns it.
    Returns: at {network, rule, method}: "accuracy" on test2, "errors_right" (accuracy on M_test2, which is 0 before by
        its definition), "still_right" (on the rest of test2), each with the learning rate that the choice part took;
        "gain", the change of accuracy on test2; "weights", how many numbers could change; "lead_over_random", what
        neuron-fine-tune has on M_test2 above random neurons, at {network, rule}. The same measures with the ending
        "_at_rate" at every learning rate. Of the layers, at {network, layer}: "pairs_repaired" and "fraction".
    """
    rows: list[dict[str, Any]] = []
    for network, by_seed in frames.items():
        for seed, table in by_seed.items():
            rows += _repairs(network, seed, table[table["part"] == "repair"])
            for row in table[table["part"] == "layer"].to_dict("records"):
                where = {"network": network, "layer": row["layer"], "seed": seed, "n": int(row["pairs"])}
                value = {"value": float(row["pairs_repaired"]), "unit": "fraction of pairs"}
                rows.append({"name": "pairs_repaired", **value, **where})
                if not pd.isna(row["fraction"]):
                    value = {"value": float(row["fraction"]), "unit": "fraction of the layer's weights"}
                    rows.append({"name": "fraction", **value, **where})
    return evaluations.numbers(rows)


def _repairs(network: str, seed: int, table: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    before = float(table[table["method"] == "none"]["accuracy"].iloc[0])
    for row in table.to_dict("records"):
        rule = "" if pd.isna(row["rule"]) else row["rule"]
        where = {"network": network, "rule": rule, "method": row["method"], "seed": seed}
        for name, count in _MEASURES.items():
            n = int(row["n"]) - int(row["n_errors"]) if name == "still_right" else int(row[count])
            if pd.isna(row[name]) or n < 1:
                continue
            value: dict[str, Any] = {"value": float(row[name]), "unit": SHARE, "n": n}
            if bool(row["chosen"]):
                paper = name == "errors_right" and row["method"] == "error-inducing" and rule == "most-pairs"
                stated = {"paper_value": STATED_ON_ERRORS, "note": _NOTE} if paper else {}
                rows.append({"name": name, **value, **where, **stated})
            if not pd.isna(row["learning_rate"]):
                rows.append({"name": f"{name}_at_rate", **value, **where, "learning_rate": row["learning_rate"]})
        if bool(row["chosen"]):
            value = {"value": float(row["accuracy"]) - before, "unit": "difference of accuracies", "n": int(row["n"])}
            rows.append({"name": "gain", **value, **where})
            if not pd.isna(row["weights"]):
                value = {"value": float(row["weights"]), "unit": "weights", "n": int(row["n"])}
                rows.append({"name": "weights", **value, **where})
    chosen = table[table["chosen"].astype(bool)]
    for rule, group in chosen.groupby("rule"):
        right = group.set_index("method")["errors_right"].astype(float)
        lead = {"value": right["error-inducing"] - right["random"], "unit": "difference of accuracies"}
        lead |= {"n": int(group["n_errors"].iloc[0]), "network": network, "rule": rule, "seed": seed}
        stated = {"paper_value": STATED_LEAD, "note": _NOTE} if rule == "most-pairs" else {}
        rows.append({"name": "lead_over_random", **lead, **stated})
    return rows


def table_of(numbers: Sequence[Any]) -> pd.DataFrame:
    """One row a network, rule and method: test2, M_test2, the rest of test2, weights."""
    keys = ["network", "rule", "method"]
    parts = [frame(numbers, name)[[*keys, "name", "value"]] for name in (*_MEASURES, "gain", "weights")]
    wide = pd.concat(parts).pivot(index=keys, columns="name", values="value").reset_index()
    wide["rank"] = wide["method"].map(list(METHODS).index)
    wide["at"] = wide["rule"].map(["", *defects.RULES].index)
    wide = wide.sort_values(["network", "at", "rank"], kind="stable")
    shown = pd.DataFrame(
        {
            "network": wide["network"],
            "layer by": wide["rule"].map(RULE_NAMES),
            "tuned": wide["method"].map(METHODS),
            "weights": wide["weights"].map(lambda count: "" if pd.isna(count) else f"{int(count):,}"),
            "test2": wide["accuracy"],
            "change": wide["gain"],
            "M_test2": wide["errors_right"],
            "still right": wide["still_right"],
        }
    )
    return shown.reset_index(drop=True)


def reading(numbers: Sequence[Any]) -> str:
    """What the table shows, computed, as Markdown: a line a network and rule."""
    lines = []
    for network in frame(numbers, "accuracy")["network"].unique():
        before = frame(numbers, "accuracy", network=network, method="none")["value"].iloc[0]
        for rule in defects.RULES:
            rows = {
                name: frame(numbers, name, network=network, rule=rule).set_index("method")["value"]
                for name in ("errors_right", "gain")
            }
            right, gain = rows["errors_right"], rows["gain"]
            if not len(right):
                continue
            lines.append(
                f"- **{network}, layer by {RULE_NAMES[rule]}:** neuron-fine-tune gets "
                f"{100 * right['error-inducing']:.1f} % of M_test2 right and changes accuracy on test2 by "
                f"{100 * gain['error-inducing']:+.2f} points (from "
                f"{100 * before:.1f} %); as many random weights {100 * right['random']:.1f} % and "
                f"{100 * gain['random']:+.2f}; all weights of the layer {100 * right['all']:.1f} % and "
                f"{100 * gain['all']:+.2f}."
            )
        for method, words in (("whole network", "the whole network tuned"), ("another seed", METHODS["another seed"])):
            rows = {
                name: frame(numbers, name, network=network, method=method)["value"] for name in ("errors_right", "gain")
            }
            if len(rows["errors_right"]):
                lines.append(
                    f"- **{network}, {words}:** {100 * rows['errors_right'].iloc[0]:.1f} % of M_test2 right, "
                    f"{100 * rows['gain'].iloc[0]:+.2f} points on test2."
                )
    return "\n".join(lines)


def layers_reading(numbers: Sequence[Any]) -> str:
    """Where errors are located, in a sentence of Markdown a network."""
    lines = []
    for network, rows in frame(numbers, "pairs_repaired").groupby("network", sort=False):
        best = rows.loc[rows["value"].idxmax()]
        small = frame(numbers, "fraction", network=network)
        least = small.loc[small["value"].idxmin()]
        lines.append(
            f"- **{network}:** most pairs are repaired in `{best['layer']}` ({100 * best['value']:.0f} %), by the "
            f"median smallest part of a layer in `{least['layer']}` ({100 * least['value']:.2f} %)."
        )
    return "\n".join(lines)


def setting(scale: str, seeds: Sequence[int], frames: Frames) -> str:
    """What the notebook's run rests on, in a paragraph of Markdown."""
    chosen = wrong.settings(scale)
    table = next(iter(frames[chosen["defect_network"]].values()))
    row = table[table["method"] == "none"].iloc[0]
    pairs = table[table["part"] == "layer"]["pairs"].iloc[0]
    rest = (
        f"test2 of {int(row['n']):,} images with {int(row['n_errors'])} errors, votes of {int(pairs)} pairs from test1"
    )
    return evaluations.setting_text(scale, wrong.data_of(scale), seeds, rest)


def collected(scale: str, seeds: Sequence[int]) -> tuple[dict[str, dict[int, pd.DataFrame]], list[str]]:
    """Every network's tables, and a sentence of Markdown for each pretrained network that could not be tried."""
    chosen = wrong.settings(scale)
    frames = {chosen["defect_network"]: {seed: defects.repaired(scale, seed) for seed in seeds}}
    skipped = []
    for name in chosen["defect_pretrained"]:
        found = defects.pretrained_repaired(scale, name)
        if isinstance(found, str):
            skipped.append(f"**Skipped: {pretrained.known(name).title}.** {found}")
        else:
            frames[name] = {seeds[0]: found}
    return frames, skipped


def write(scale: str, seeds: Sequence[int], numbers: Sequence[Any], figure: Any) -> None:
    """Write the record `lancet_defects`."""

    def described(scale: str) -> dict[str, Any]:
        chosen = wrong.settings(scale)
        every = chosen["defect_test_images"]
        return {
            "pretrained networks": chosen["defect_pretrained"],
            "test images": "all" if every is None else every,
            "pairs": chosen["defect_pairs"],
            "epochs of fine-tuning": chosen["defect_epochs"],
            "old samples": chosen["defect_old"],
            "learning rates": chosen["defect_rates"],
        }

    halves = wrong.halves_of(wrong.data_of(scale), wrong.settings(scale)["defect_test_images"])
    known = {f"{wrong.data_of(scale)}/{half.split}": half.fingerprint for half in halves}
    for name in set(frame(numbers, "accuracy")["network"]) & set(pretrained.NETWORKS):
        with suppress(data.DataError):  # numbers that were kept can be shown where the images are not
            known[f"{pretrained.known(name).data}/test"] = pretrained.test_images(name).fingerprint
    wrong.write("lancet_defects", scale, seeds, numbers, figure, described, known, table_of(numbers))

"""From structures of several initialisations to the numbers, texts and record of the notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib import config, data, evaluations, tables
from lib.dynamic.study import diversity
from lib.dynamic.study.scratch_networks import settings, test_images
from lib.dynamic.study.scratch_records import label
from lib.evaluations import SHARE, frame
from lib.intervals import student

SCORES, WEIGHTS, TRAINED = "random scores", "random weights", "trained"
MEASURES = {
    "correlation": "correlation of keep ratios",
    "distance": "mean difference of keep ratios",
    "count_correlation": "correlation of channel counts",
    "accuracy": "accuracy after training",
}


def start_of(epoch: int, last: int) -> str:
    """What gates were learned on, in words."""
    if epoch == diversity.RANDOM_SCORES:
        return SCORES
    return WEIGHTS if epoch == 0 else TRAINED if epoch == last else f"after epoch {epoch}"


def starts_in(numbers: Sequence[Any]) -> list[str]:
    """The starts, from the control over random weights to the trained network."""
    return list(dict.fromkeys(frame(numbers)["start"]))


def numbers_of(found: Mapping[str, pd.DataFrame], seed: int) -> list[Any]:
    """Numbers of `scratch_diversity`, all at {network, start, initialisation}.

    Args:
        found: network -> as `diversity.structures` returns it.
        seed: the study's; an initialisation is a seed of first weights of its own.
    Returns: "accuracy" of the structure trained from fresh weights (n test images); "correlation", "distance" and
        "count_correlation" with the structures of the other initialisations, the mean over those pairs (n: layers);
        "mean_gate" and "zero_gates", of gates. The values of one network share pairs: they are not independent.
    """
    rows: list[dict[str, Any]] = []
    for network, table in found.items():
        last, layers = int(table["epoch"].max()), table["layer"].nunique()
        first = table.groupby(["epoch", "initialisation"]).first().reset_index()
        for row in first.to_dict("records"):
            where: dict[str, Any] = {"network": network, "start": start_of(int(row["epoch"]), last)}
            where |= {"initialisation": int(row["initialisation"]), "seed": seed}
            rows.append({"name": "accuracy", "value": row["accuracy"], "unit": SHARE, "n": int(row["n"]), **where})
            for column, name in (("mean_gate", "mean_gate"), ("zeros", "zero_gates")):
                if not pd.isna(row[column]):
                    unit = "mean of all gates" if name == "mean_gate" else "fraction of gates"
                    rows.append({"name": name, "value": float(row[column]), "unit": unit, "n": 1, **where})
        for row in diversity.between_starts(table).to_dict("records"):
            where = {"network": network, "start": start_of(int(row["epoch"]), last)}
            where |= {"initialisation": int(row["initialisation"]), "seed": seed}
            for name in ("correlation", "distance", "count_correlation"):
                unit = "share of the channels" if name == "distance" else "Pearson's r over the layers"
                rows.append({"name": name, "value": row[name], "unit": unit, "n": layers, **where})
    return evaluations.numbers(rows)


def wide(numbers: Sequence[Any]) -> pd.DataFrame:
    """One row a network, start and initialisation: every measure."""
    place = ["network", "start", "initialisation"]
    parts = {title: frame(numbers, name).set_index(place)["value"] for name, title in MEASURES.items()}
    parts = {title: values for title, values in parts.items() if len(values)}
    found = pd.DataFrame(parts).reindex(frame(numbers).set_index(place).index)
    return found.reset_index()


def means(numbers: Sequence[Any]) -> pd.DataFrame:
    """One row a network and start: means over the initialisations."""
    titles = [title for title in MEASURES.values() if title in wide(numbers)]
    return wide(numbers).groupby(["network", "start"], sort=False)[titles].mean().reset_index()


def markdown(table: pd.DataFrame) -> str:
    """A table for display, to three places."""
    return tables.rounded(table)


def reading(numbers: Sequence[Any]) -> str:
    """Random weights against trained ones, network by network, as Markdown."""
    table, lines = wide(numbers), []
    for network, group in table.groupby("network", sort=False):
        by = group.set_index(["start", "initialisation"])
        told = []
        for title in MEASURES.values():
            if title in by and by[title].notna().all():
                gap = (by.loc[WEIGHTS, title] - by.loc[TRAINED, title]).tolist()
                ends = student(gap) if len(gap) > 2 else None  # two share their one pair
                interval = f" ({ends[0]:+.3f} to {ends[1]:+.3f})" if ends else ""
                told.append(
                    f"{title} {by.loc[WEIGHTS, title].mean():.3f} against {by.loc[TRAINED, title].mean():.3f}, "
                    f"{sum(gap) / len(gap):+.3f}{interval}"
                )
        lines.append(f"- **{network}:** " + "; ".join(told) + ".")
    return "Gates on random weights against gates on the trained network:\n\n" + "\n".join(lines)


def control_reading(numbers: Sequence[Any]) -> str:
    """How alike structures from random scores are, and what counts make of it, as Markdown."""
    if SCORES not in set(frame(numbers, "correlation")["start"]):
        return "With one initialisation there is nothing to correlate."
    shown = means(numbers).set_index(["network", "start"])
    by_ratio, by_count = shown[MEASURES["correlation"]], shown[MEASURES["count_correlation"]]
    told = "; ".join(
        f"{network}: {by_ratio[network, SCORES]:.2f} by keep ratios, {by_count[network, SCORES]:.2f} by counts"
        for network in dict.fromkeys(shown.index.get_level_values("network"))
    )
    return (
        "Structures cut from random scores share nothing but the widths of the layers, and what never prunes a layer "
        f"away. Their correlations are: {told}. That much a correlation of counts shows by construction."
    )


def setting_text(scale: str, numbers: Sequence[Any]) -> str:
    """What the notebook rests on, in a paragraph of Markdown."""
    chosen = settings(scale)
    names = "; ".join(
        f"{label(scale, name)} ({config.load(scale).recipe(name).epochs} epochs)"
        for name in chosen["diversity_networks"]
    )
    name = chosen["diversity_networks"][0]
    title = data.SETS[config.load(scale).recipe(name).data].title
    return (
        f"**Scale `{scale}`**: {title}; {names}; {chosen['diversity_starts']} initialisations; structures of "
        f"{100 * chosen['diversity_budget']:.0f} % of the FLOPs, each trained from fresh weights; "
        f"{len(test_images(scale, name)):,} test images."
    )


def described(scale: str) -> dict[str, Any]:
    """Settings by the words that describe them."""
    chosen = settings(scale)
    words = {
        "data set": chosen["data"],
        "networks": chosen["diversity_networks"],
        "initialisations": chosen["diversity_starts"],
    }
    gates = {"images for the gates": chosen["gate_images"], "epochs of the gates": chosen["gate_epochs"]}
    return {**words, "trained checkpoints": len(chosen["diversity_epochs"]) + 1, **gates}


def write(scale: str, seed: int, numbers: Sequence[Any], figure: Any) -> None:
    """Write the record of `scratch_diversity`."""
    full = {"seeds": [seed]} | (described("paper") if "dynamic" in config.load("paper").study else {})
    names = settings(scale)["diversity_networks"]
    test = test_images(scale, names[0])
    known = {f"{config.load(scale).recipe(names[0]).data}/test": test.fingerprint}
    table = wide(numbers)
    evaluations.write("scratch_diversity", scale, [seed], names, numbers, figure, described(scale), full, known, table)

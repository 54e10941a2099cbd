"""From tables of the detection study to the numbers, tables and texts of the notebook on detection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib import data, evaluations, tables
from lib.attacks import SUITE
from lib.dynamic.study.decision_inputs import about_attacks, data_of, networks, settings
from lib.dynamic.study.detection_bench import DECISIONS, NOISE_SHOWN, ON_CLEAN, PAIRS, PENULTIMATE, UNTRAINED
from lib.evaluations import frame

ITEM = "lcs_detection"
AVERAGE = "average"
SAME, OTHER = "the same attack", "another attack"
AREA = "area under the ROC curve"
CONTROLS = (DECISIONS, UNTRAINED, PENULTIMATE)
_WHERE = ("network", "form", "detector")


def detection_numbers(frames: Mapping[int, pd.DataFrame]) -> list[Any]:
    """Detection as a record's numbers.

    Args:
        frames: seed -> as `detection.table` and `detection.guest` return it, of all networks and detectors.
    Returns: auroc at {network, form, detector, trained_on, attack, pair}. trained_on: "clean images", an attack, and
        once more "the same attack" and "another attack" (the mean over the others); attack: one, or "average" over
        them. auroc_low and auroc_high at the same places, of "clean images" and "the same attack": DeLong's interval
        over the images, averaged over the seeds, where the record's own is over the seeds.
    """
    rows: list[dict[str, Any]] = []
    for seed, table in frames.items():
        attacks = list(dict.fromkeys(table["attack"]))
        own = table[table["trained_on"] == table["attack"]].assign(trained_on=SAME)
        crossed = table[table["trained_on"].isin(attacks) & (table["trained_on"] != table["attack"])]
        by = [*_WHERE, "attack", "pair"]
        other = crossed.groupby(by, sort=False).agg({"auroc": "mean", "n": "min"}).reset_index()
        whole = pd.concat([table, own, other.assign(trained_on=OTHER)], ignore_index=True)
        summary = whole[whole["trained_on"].isin([ON_CLEAN, SAME, OTHER])]
        mean = summary.groupby([*_WHERE, "trained_on", "pair"], sort=False).agg({"auroc": "mean", "n": "min"})
        for row in [*whole.to_dict("records"), *mean.reset_index().assign(attack=AVERAGE).to_dict("records")]:
            at = {key: row[key] for key in (*_WHERE, "trained_on", "attack", "pair")}
            at |= {"seed": seed, "unit": AREA, "n": int(row["n"])}
            rows.append({"name": "auroc", "value": row["auroc"], **at})
            if row["trained_on"] in (ON_CLEAN, SAME) and row["attack"] != AVERAGE:
                rows.append({"name": "auroc_low", "value": row["low"], **at})
                rows.append({"name": "auroc_high", "value": row["high"], **at})
    return evaluations.numbers(rows)


def adaptive_numbers(frames: Mapping[int, pd.DataFrame]) -> list[Any]:
    """The adaptive attack as a record's numbers.

    Args:
        frames: seed -> as `detection_adaptive.adaptive` returns it, of all networks.
    Returns: auroc at {network, form, detector, aim, gradient, weight}; success and distance at {network, form, aim,
        gradient, weight}.
    """
    rows: list[dict[str, Any]] = []
    units = {
        "success": "fraction of images attacked",
        "distance": "squared distance, 1 is a clean image's to its class",
    }
    for seed, table in frames.items():
        keys = ["network", "form", "aim", "gradient", "weight"]
        for row in table.to_dict("records"):
            at = {key: row[key] for key in [*keys, "detector"]} | {"seed": seed, "n": int(row["n"]), "unit": AREA}
            rows.append({"name": "auroc", "value": row["auroc"], **at})
        for row in table.drop_duplicates(keys).to_dict("records"):
            at = {key: row[key] for key in keys} | {"seed": seed, "n": int(row["n"])}
            rows += [{"name": name, "value": row[name], "unit": unit, **at} for name, unit in units.items()]
    return evaluations.numbers(rows)


def attack_label(name: str) -> str:
    """An attack as tables show it."""
    return SUITE[name].label if name in SUITE else name


def of_pair(numbers: Sequence[Any], pair: str = PAIRS[0], **where: Any) -> pd.DataFrame:
    """The areas of one pair of inputs as rows to plot, without those of the adaptive attack."""
    rows = frame(numbers, "auroc", pair=pair, **where) if numbers else pd.DataFrame()
    return rows.dropna(subset=["trained_on"])


def layout(numbers: Sequence[Any]) -> pd.DataFrame:
    """The table: a row a network, detector and what it was fitted on; attacks across, adversarial against clean."""
    rows = of_pair(numbers)
    rows = rows[rows["trained_on"].isin([ON_CLEAN, SAME, OTHER])]
    attacks = [name for name in (*SUITE, AVERAGE) if name in set(rows["attack"])]
    table = []
    for (name, form, detector, trained_on), group in rows.groupby([*_WHERE, "trained_on"], sort=False):
        values = dict(zip(group["attack"], group["value"], strict=True))
        line = {"network": name, "form": form, "detector": detector, "trained on": trained_on}
        table.append(line | {attack_label(attack): values.get(attack) for attack in attacks})
    found = pd.DataFrame(table).sort_values(["network"], kind="stable").astype(object)
    return found.where(found.notna(), None)


def intervals_table(numbers: Sequence[Any], network: str) -> str:
    """Areas within an attack with their interval over the images, of one network, as Markdown."""
    rows, low, high = (
        frame(numbers, name, network=network, pair=PAIRS[0]) for name in ("auroc", "auroc_low", "auroc_high")
    )
    lines = []
    for (detector, trained_on), group in low.groupby(["detector", "trained_on"], sort=False):
        line = {"detector": detector, "fitted on": trained_on}
        for attack in group["attack"]:
            ends = [
                float(_at(part, detector=detector, trained_on=trained_on, attack=attack)["value"].iloc[0])
                for part in (rows, low, high)
            ]
            line[attack_label(attack)] = "{:.2f} [{:.2f}, {:.2f}]".format(*ends)
        lines.append(line)
    return tables.markdown(pd.DataFrame(lines).fillna("-"))


def noise_text(numbers: Sequence[Any]) -> str:
    """Each detector on the three pairs of inputs, fitted on the same attack, averaged over attacks, as Markdown."""
    rows = frame(numbers, "auroc", trained_on=SAME, attack=AVERAGE)
    lines = []
    for (name, detector), group in rows.groupby(["network", "detector"], sort=False):
        values = dict(zip(group["pair"], group["value"], strict=True))
        lines.append({"network": name, "detector": detector} | {pair: values.get(pair) for pair in PAIRS})
    return tables.rounded(pd.DataFrame(lines), ".2f")


def reading(numbers: Sequence[Any]) -> str:
    """In words, network by network: the forest on the decision feature beside the best other and the controls."""
    rows = of_pair(numbers, attack=AVERAGE)
    rows = rows[rows["trained_on"].isin([ON_CLEAN, SAME])]
    told = []
    for name, group in rows.groupby("network", sort=False):
        value = dict(zip(group["detector"], group["value"], strict=True))
        others = {key: area for key, area in value.items() if key not in (*CONTROLS, NOISE_SHOWN)}
        best = max(others, key=lambda key: others[key])
        across = of_pair(numbers, attack=AVERAGE, network=name, trained_on=OTHER, detector=DECISIONS)["value"]
        carried = f", {across.iloc[0]:.2f} where it was fitted on another attack" if len(across) else ""
        noise = of_pair(numbers, PAIRS[2], attack=AVERAGE, network=name, trained_on=SAME, detector=DECISIONS)["value"]
        told.append(
            f"- `{name}`: the forest on the decision feature reaches {value[DECISIONS]:.2f} on average over the attacks"
            f"{carried}; untrained units {value[UNTRAINED]:.2f}, penultimate features {value[PENULTIMATE]:.2f}, the "
            f"best other detector {others[best]:.2f} ({best}). It tells adversarials from noise of their size with "
            f"{noise.iloc[0]:.2f}."
            if len(noise)
            else f"- `{name}`: {value[DECISIONS]:.2f}."
        )
    return "\n".join(told)


def adaptive_text(numbers: Sequence[Any]) -> str:
    """The lowest area that the adaptive attack leaves each detector, as a Markdown table."""
    rows = frame(numbers, "auroc").dropna(subset=["aim"])
    lines = []
    for (name, detector), part in rows.groupby(["network", "detector"], sort=False):
        start, low = part[part["weight"] == 0]["value"], part[part["weight"] > 0].sort_values("value").head(1)
        if len(start) and len(low):
            at = low.iloc[0]
            line = {"network": name, "detector": detector, "AUROC, detector unknown": f"{start.mean():.2f}"}
            place = f"{at['aim']}, {at['gradient']}, weight {at['weight']:g}"
            lines.append({**line, "lowest, detector known": f"{at['value']:.2f} ({place})"})
    return tables.markdown(pd.DataFrame(lines))


def setting_text(scale: str, seeds: Sequence[int], numbers: Sequence[Any]) -> str:
    """What the notebook's run rests on, in a paragraph of Markdown."""
    rows = of_pair(numbers, trained_on=SAME, detector=DECISIONS)
    counts = rows[rows["attack"] != AVERAGE]["n"]
    rest = (
        f"{rows['network'].nunique()} networks with decision units, {counts.min():,} to {counts.max():,} adversarials "
        "an attack that no detector was fitted on"
    )
    return evaluations.setting_text(scale, settings(scale)["data"], seeds, rest)


def write(scale: str, seeds: Sequence[int], numbers: Sequence[Any], figure: Any) -> None:
    """Write the record, with what was reduced; its table is `layout`."""
    names = networks(scale, "detection_networks")
    used, full = (_described(name) for name in (scale, "paper"))
    full["seeds"] = evaluations.seeds_of("paper", "dynamic")
    known = {}
    for name in names:
        for split in ("train", "test"):
            images = data.load(data_of(scale, name), split)
            known[f"{images.name}/{split}"] = images.fingerprint
    evaluations.write(ITEM, scale, seeds, names, numbers, figure, used, full, known, layout(numbers))


def _described(scale: str) -> dict[str, Any]:
    """A scale's settings by the words that describe them, the attacks' own among them."""
    chosen = settings(scale)
    words: dict[str, Any] = {
        "data set": chosen["data"],
        "networks": networks(scale, "detection_networks"),
        "images attacked for detectors": chosen["detection_images"],
        "training images for detectors": chosen["detection_fit"],
        "trees of a forest": chosen["detection_trees"],
        "training images a class for NNSlicer": chosen["slices_per_class"],
        "images attacked for NNSlicer": chosen["slices_images"],
        "images of the adaptive attack": chosen["adaptive_images"],
        "steps of the adaptive attack": chosen["adaptive_steps"],
    }
    return words | about_attacks(scale, chosen["detection_attacks"])


def _at(rows: pd.DataFrame, **where: Any) -> pd.DataFrame:
    for key, value in where.items():
        rows = rows[rows[key] == value]
    return rows

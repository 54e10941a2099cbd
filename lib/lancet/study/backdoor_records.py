"""From repaired networks to the numbers, tables and texts of the notebooks on backdoors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib import config, data, evaluations, tables, units
from lib.evaluations import frame
from lib.intervals import of_mean
from lib.lancet.study import backdoors
from lib.lancet.study import settings as shared
from lib.lancet.study.repairs import METHODS

UNIT = "fraction of report images"
CHANGE = "difference of accuracies"
LABELS = {
    "attack_success": "success",
    "accuracy": "accuracy",
    "accuracy_change": "accuracy change",
    "target_recall": "target recall",
    "stamped_accuracy": "accuracy, stamped",
    "natural_target_rate": "natural target rate",
}
"""What tables carry, in order, as a reader sees it."""
WORST = dict.fromkeys(LABELS, "min") | {"attack_success": "max", "natural_target_rate": "max"}
SHOWN = ("flip-stated", "flip-tried", "flip-signed", "unlearn-matched")
"""Methods whose every network is in the table; of the others the mean and the worst are."""
SIZED = ("none", *SHOWN, "fine-prune")
"""Methods that are shown by the size of the trigger."""
LOCATED = ("flip-stated", "flip-smallest", "flip-tried", "flip-signed", "zero")
STATED = {
    ("attack_success", "none", "mean"): 1.0,
    ("attack_success", "flip-stated", "mean"): 0.011,
    ("attack_success", "unlearn-matched", "mean"): 0.36,
    ("accuracy_change", "unlearn-matched", "mean"): -0.02,
    ("accuracy_change", "unlearn-matched", "worst"): -0.041,
}
"""The source's values over its 34 networks, which it repairs with reversed triggers; of flipping it says further that
accuracy falls by less than .01, and in another section that success falls to .008."""
LOGGED = {("attack_success", "flip-stated"): {"square": 0.0, "watermark": 0.0}}
LOGGED[("accuracy", "flip-stated")] = {"square": 0.9701, "watermark": 0.9702}
"""TrojanNN in the authors' released log."""


def unit_of(measure: str) -> str:
    """The unit of one of the measures."""
    return CHANGE if measure == "accuracy_change" else UNIT


def with_change(table: pd.DataFrame) -> pd.DataFrame:
    """`backdoors.table` with accuracy_change: the accuracy less that of the same network before repair."""
    before = table[table["method"] == "none"].set_index(["network", "reversed"])["accuracy"]
    at = pd.MultiIndex.from_frame(table[["network", "reversed"]])
    return table.assign(accuracy_change=table["accuracy"].to_numpy() - before.loc[at].to_numpy())


def network_numbers(frames: Mapping[int, pd.DataFrame], by: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows of the measures of each network, method and trigger known.

    Args:
        frames: seed -> as `backdoors.table` returns it.
        by: more columns to tell rows apart by.
    Returns: rows for `evaluations.numbers`: the five measures and accuracy_change at {network, method, reversed}, and
        for methods that locate weights "changed", the share of the layer's weights that was flipped, where any was.
        Their n are the images behind the measure: of the target class for target_recall, of the others for success.
    """
    rows: list[dict[str, Any]] = []
    for seed, table in frames.items():
        for row in with_change(table).to_dict("records"):
            where = {"network": row["network"], **{key: row[key] for key in by}}
            where |= {"method": row["method"], "reversed": bool(row["reversed"]), "seed": seed}
            others = int(row["n"] - row["n_target"])
            counts = {
                "target_recall": int(row["n_target"]),
                "accuracy": int(row["n"]),
                "accuracy_change": int(row["n"]),
            }
            for name in LABELS:
                if not pd.isna(row[name]):
                    rows.append(
                        {
                            "name": name,
                            "value": row[name],
                            "unit": unit_of(name),
                            "n": counts.get(name, others),
                            **where,
                        }
                    )
            if row["method"] in LOCATED and row["changed"]:
                value = {"value": row["fraction"], "unit": "fraction of the layer's weights", "n": int(row["n"])}
                rows.append({"name": "changed", **value, **where})
    return rows


def summaries(table: pd.DataFrame, seed: int, stated: bool = False, **where: Any) -> list[dict[str, Any]]:
    """Rows of means and worst values over networks, by method and trigger known.

    Args:
        table: as `backdoors.table` returns it, of the networks to sum up.
        seed: theirs.
        stated: whether the source's values stand beside.
        where: what tells these networks from others.
    Returns: rows for `evaluations.numbers`: "<measure>_over_networks" at {method, reversed, statistic}: mean, low and
        high (ends of the 95 % interval of the mean over the networks, `of_mean`), worst. n are the networks.
    """
    rows: list[dict[str, Any]] = []
    for (method, known), group in with_change(table).groupby(["method", "reversed"], sort=False):
        place = {**where, "method": method, "reversed": bool(known)}
        for name in LABELS:
            values = group[name].astype(float).dropna()
            if values.empty:
                continue
            unit = f"{unit_of(name)}, over networks"
            told = {"mean": values.mean(), "worst": getattr(values, WORST[name])()}
            ends = of_mean(values.tolist(), units.about(unit_of(name)).support)
            if ends is not None:
                told |= {"low": ends[0], "high": ends[1]}
            for statistic, value in told.items():
                paper = STATED.get((name, method, statistic)) if stated and known else None
                row = {"name": f"{name}_over_networks", "value": float(value), "unit": unit, "n": len(values), **place}
                rows.append({**row, "statistic": statistic, "seed": seed, "paper_value": paper})
    return rows


def backdoor_numbers(frames: Mapping[int, pd.DataFrame]) -> list[Any]:
    """Numbers of `lancet_backdoors`: every network's, and the mean and worst over all of them.

    Args:
        frames: seed -> as `backdoors.table` returns it, of all networks.
    """
    rows = network_numbers(frames)
    for seed, table in frames.items():
        rows += summaries(table, seed, stated=True)
    return evaluations.numbers(rows)


def size_numbers(frames: Mapping[int, pd.DataFrame]) -> list[Any]:
    """Numbers of `lancet_trigger_size`: as above, with the kind of the trigger, and over the sets for each trigger.

    Args:
        frames: seed -> as `backdoors.table` returns it, of networks with named triggers.
    Returns: of the methods in `SIZED`, success at {network, kind, method, reversed}, kind "regular" or "transparent";
        all measures' means and worst values over the sets at {trigger, size, kind, method, reversed, statistic}; size
        is the mean share of the pixels. The other measures of each network are in `backdoor_numbers`.
    """
    kinds = {
        seed: table[table["method"].isin(SIZED)].assign(kind=table["trigger"].map(kind_of))
        for seed, table in frames.items()
    }
    rows = [row for row in network_numbers(kinds, ["kind"]) if row["name"] == "attack_success"]
    for seed, table in kinds.items():
        for trigger, group in table.groupby("trigger"):
            size = round(float(group["trigger_share"].mean()), 4)
            rows += summaries(group, seed, trigger=trigger, size=size, kind=group["kind"].iloc[0])
    return evaluations.numbers(rows)


def trojannn_numbers(frames: Mapping[int, pd.DataFrame]) -> list[Any]:
    """Numbers of `lancet_trojannn`: the measures at {network, form, method, reversed}, beside the released log's."""
    forms = {seed: table.assign(form=table["trigger"].str.removeprefix("trojannn-")) for seed, table in frames.items()}
    rows = network_numbers(forms)
    shape = {row["network"]: row["form"] for table in forms.values() for row in table.to_dict("records")}
    for row in rows:
        logged = LOGGED.get((row["name"], row["method"]), {}) if not row["reversed"] else {}
        row["paper_value"] = logged.get(shape[row["network"]])
    return evaluations.numbers(rows)


def kind_of(trigger: str) -> str:
    """regular-2 -> regular; scattered-1 -> transparent."""
    return "transparent" if trigger.startswith("scattered") else "regular"


def known_words(flag: bool) -> str:
    """Which trigger the repairer knows, in a word."""
    return "reversed" if flag else "true"


def summary_table(numbers: Sequence[Any]) -> pd.DataFrame:
    """Mean and worst over the networks: one row a method and trigger known."""
    found = {
        label: frame(numbers, f"{name}_over_networks").set_index(["method", "reversed", "statistic"])["value"]
        for name, label in LABELS.items()
    }
    rows = []
    for method, words in METHODS.items():
        for flag in (False, True):
            row: dict[str, Any] = {"method": words, "trigger known": known_words(flag)}
            for label, values in found.items():
                for statistic in ("mean", "worst"):
                    if (method, flag, statistic) in values.index:
                        row[f"{label}: {statistic}"] = values[method, flag, statistic]
            if len(row) > 2:
                rows.append(row)
    return pd.DataFrame(rows)


def network_table(numbers: Sequence[Any], methods: Sequence[str] = SHOWN) -> pd.DataFrame:
    """One row a network before repair, and one for each of some methods and trigger known."""
    wide = pd.concat(
        [frame(numbers, name).assign(measure=label) for name, label in LABELS.items()], ignore_index=True
    ).pivot(index=["network", "method", "reversed"], columns="measure", values="value")[list(LABELS.values())]
    rows = []
    for network in dict.fromkeys(frame(numbers)["network"]):
        for method in ("none", *methods):
            for flag in (False, True) if method != "none" else (False,):
                about = {"network": network, "method": METHODS[method]}
                about["trigger known"] = known_words(flag) if method != "none" else ""
                rows.append({**about, **wide.loc[(network, method, flag)].to_dict()})
    return pd.DataFrame(rows)


def backdoor_table(numbers: Sequence[Any]) -> pd.DataFrame:
    """The record's table: mean and worst over the networks for every method, then network by network."""
    short = summary_table(numbers)
    count = int(frame(numbers, "accuracy_over_networks")["n"].max())
    parts = []
    for statistic in ("mean", "worst"):
        named = {f"{label}: {statistic}": label for label in LABELS.values()}
        part = short[["method", "trigger known", *named]].rename(columns=named)
        parts.append(part.assign(network=f"{statistic} of {count}"))
    whole = pd.concat([*parts, network_table(numbers)], ignore_index=True)
    return whole[["network", "method", "trigger known", *LABELS.values()]]


def size_table(numbers: Sequence[Any], methods: Sequence[str] = ("none", *SHOWN)) -> pd.DataFrame:
    """One row a trigger, method and trigger known: means over the sets."""
    means = {
        label: frame(numbers, f"{name}_over_networks", statistic="mean").set_index(["trigger", "method", "reversed"])
        for name, label in LABELS.items()
    }
    sizes = means["accuracy"].reset_index().drop_duplicates("trigger").set_index("trigger")
    rows = []
    for trigger in sizes.index:
        for method in methods:
            for flag in (False, True) if method != "none" else (False,):
                about = {"trigger": trigger, "size": sizes.loc[trigger, "size"], "method": METHODS[method]}
                about["trigger known"] = known_words(flag) if method != "none" else ""
                place = (trigger, method, flag)
                known = {label: part.loc[place, "value"] for label, part in means.items() if place in part.index}
                rows.append({**about, **known, "networks": int(means["accuracy"].loc[place, "n"])})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A table for display, shares to three places."""
    return tables.rounded(table)


def described(scale: str, chosen: Mapping[str, Any], kinds: Sequence[str] = ("backdoor", "trojannn")) -> dict[str, Any]:
    """Settings by the words that describe them."""
    words: dict[str, Any] = {"backdoored networks": sum(len(backdoors.networks(scale, kind)) for kind in kinds)}
    words |= {"report images a network": chosen.get("report_images"), "pairs that vote": chosen["repair_pairs"]}
    words |= {"steps of a trigger's reversal": chosen["reverse_steps"], "steps of unlearning": chosen["unlearn_steps"]}
    return words


def setting_text(scale: str, seeds: Sequence[int], frames: Mapping[int, pd.DataFrame]) -> str:
    """What a notebook's run rests on, in a paragraph of Markdown, its first result included."""
    chosen, whole = backdoors.settings(scale), with_change(next(iter(frames.values())))
    sets = list(dict.fromkeys(whole["set"]))
    titles = ", ".join(data.SETS[name].title for name in sets)
    counts = whole.groupby("set")["n"].max().loc[sets]
    told = ", ".join(f"{int(n):,} of {name}" for name, n in counts.items())
    text = (
        f"**Scale `{scale}`**: {titles}; {whole['network'].nunique()} backdoored networks, {len(seeds)} "
        f"seed{'s' if len(seeds) != 1 else ''} ({', '.join(map(str, seeds))}); shown on test images that no choice was "
        f"made on ({told}). Up to {chosen['repair_pairs']} pairs vote; flipping stops at a success of "
        f"{chosen['flip_threshold']:g} on the repair split."
    )
    before = whole[whole["method"] == "none"]
    after = whole[(whole["method"] == "flip-tried") & whole["reversed"].astype(bool)]
    result = (
        f" Before repair, success is {before['attack_success'].mean():.3f} on average; after flipping with the "
        f"reversed trigger, layers tried on the repair split, it is {after['attack_success'].mean():.3f}, and accuracy "
        f"has changed by {100 * after['accuracy_change'].mean():+.1f} points."
    )
    return text + result


def write(
    item: str,
    scale: str,
    seeds: Sequence[int],
    numbers: Sequence[Any],
    figure: Any,
    table: pd.DataFrame,
    frames: Mapping[int, pd.DataFrame],
    kinds: Sequence[str],
) -> None:
    """Write the record of one of the items on backdoors: `evaluations.write` with these networks and images.

    Args:
        item: a name in config/items.yaml.
        numbers, figure, table: as `record.write` takes them.
        frames: seed -> the rows behind them, whose networks are named in the record.
        kinds: of `backdoors.networks`, for what the paper's scale would have.
    """
    own = described(scale, backdoors.settings(scale), kinds)
    full = {"seeds": evaluations.seeds_of("paper", "lancet") if config.load("paper").study.get("lancet") else [0]}
    full |= described("paper", backdoors.settings("paper"), kinds)
    names = list(dict.fromkeys(name for table in frames.values() for name in table["network"]))
    known = {
        f"{name}/{split}": part.fingerprint
        for name in dict.fromkeys(config.load(scale).recipe(network).data for network in names)
        for split, part in zip(("repair", "report"), shared.parts(scale, name), strict=True)
    }
    evaluations.write(item, scale, seeds, names, numbers, figure, own, full, known, table)

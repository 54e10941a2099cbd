"""From networks pruned from scratch to the numbers, tables, texts and records of the notebook."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib import config, evaluations, tables, units
from lib.dynamic.study.scratch import METHODS, TRAINED, networks
from lib.dynamic.study.scratch_networks import settings, test_images, train_images
from lib.evaluations import SHARE, frame
from lib.intervals import of_mean

_AS_MUCH = ("uniform-budget", "l1", "slimming", "slimming-floor")
RIVALS = {"scratch": ("uniform", "random"), "scratch-budget": _AS_MUCH, "scratch-counted": _AS_MUCH}
"""What is compared with what at an equal training budget: equally many epochs, or as much work."""
PLACE = ["network", "method", "budget"]


def label(scale: str, name: str) -> str:
    """A network's name for a reader, as "resnet20, width 16"."""
    recipe = config.load(scale).recipe(name)
    return f"{recipe.arch}, width {recipe.arch_args.get('width', 'usual')}"


def distinct(frames: Mapping[int, pd.DataFrame]) -> dict[int, pd.DataFrame]:
    """The tables without methods that found, for every seed, the structure of another method: it stands there once.

    Args:
        frames: seed -> as `scratch.table` returns it.
    """
    whole = pd.concat(list(frames.values()))
    same = whole.groupby(PLACE)["same_as"].apply(lambda found: found.notna().all())
    return {
        seed: table[[not same[tuple(row)] for row in table[PLACE].itertuples(index=False)]].reset_index(drop=True)
        for seed, table in frames.items()
    }


def pruning_numbers(frames: Mapping[int, pd.DataFrame]) -> list[Any]:
    """Numbers of `scratch_pruning`, all at {network, method, budget}.

    Args:
        frames: seed -> as `distinct` returns them.
    Returns: "accuracy" (n test images); "parameters"; "flops" of one image, 2 x MAC; "share" of the whole network's
        FLOPs; "epochs" of training (after the structure is known); "latency" at {..., batch}, median milliseconds an
        image; "accuracy_before_tuning", of networks that were pruned after training; "zero_gates" and "mean_gate" of
        the gates behind the structure, and "most_zeros": 1 where the epoch was chosen by the fallback rule.
    """
    rows: list[dict[str, Any]] = []
    for seed, table in frames.items():
        for row in table.to_dict("records"):
            where = {key: row[key] for key in PLACE} | {"seed": seed}
            n = int(row["n"])
            values = {
                "accuracy": (row["accuracy"], SHARE, n),
                "parameters": (row["parameters"], "parameters", 1),
                "flops": (2 * row["macs"], "FLOPs an image (2 x MAC)", 1),
                "share": (row["share"], "fraction of the whole network's FLOPs", 1),
                "epochs": (row["epochs"], "epochs", 1),
                "accuracy_before_tuning": (row.get("before"), SHARE, n),
                "zero_gates": (row.get("zeros"), "fraction of gates", 1),
                "mean_gate": (row.get("mean_gate"), "mean of all gates", 1),
            }
            rule = row.get("rule")
            values["most_zeros"] = (
                float(rule == "most zeros") if isinstance(rule, str) else None,
                "fraction of searches",
                1,
            )
            rows += _rows(values, where)
            for column in (name for name in table.columns if name.startswith("batch")):
                value = (1e3 * row[column], "milliseconds an image", 1)
                rows += _rows({"latency": value}, {**where, "batch": int(column.removeprefix("batch"))})
    return evaluations.numbers(rows)


def cost_numbers(frames: Mapping[int, pd.DataFrame]) -> list[Any]:
    """Numbers of `scratch_cost`, all at {network, method, budget}.

    Returns: "search_seconds" and "search_images" before the structure is known; "train_seconds" and "train_images"
        after; "search_at_source", the search's seconds an image times its epochs in the settings of `paper`: what an
        image of the training set costs there before the structure is known; "total_seconds"; "training_work",
        multiply-accumulates of all training, forward and backward, search included, over those of the whole network's
        training; "search_work", the search's part of it.
    """
    rows: list[dict[str, Any]] = []
    for seed, table in frames.items():
        whole = table[table["method"] == "full"].set_index("network")
        for row in table.to_dict("records"):
            where = {key: row[key] for key in PLACE} | {"seed": seed}
            full = whole.loc[row["network"]]
            work = row["train_work"] + row["search_work"]
            values = {
                "search_seconds": (row["search_seconds"], "seconds", 1),
                "search_images": (row["search_images"], "images", 1),
                "train_seconds": (row["train_seconds"], "seconds", 1),
                "train_images": (row["train_images"], "images", 1),
                "total_seconds": (row["search_seconds"] + row["train_seconds"], "seconds", 1),
                "training_work": (work / full["train_work"], "fraction of the whole network's training", 1),
                "search_work": (
                    row["search_work"] / full["train_work"], "fraction of the whole network's training", 1
                ),
            }  # fmt: skip
            if row["search_images"] and not pd.isna(row["source_epochs"]):
                each = 1e3 * row["search_seconds"] / row["search_images"] * row["source_epochs"]
                values["search_at_source"] = (each, "milliseconds a training image, at the epochs of `paper`", 1)
            rows += _rows(values, where)
    return evaluations.numbers(rows)


def _rows(values: Mapping[str, tuple[Any, str, int]], where: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "value": float(value), "unit": unit, "n": n, **where}
        for name, (value, unit, n) in values.items()
        if not pd.isna(value)
    ]


def pruning_table(numbers: Sequence[Any]) -> pd.DataFrame:
    """One row a network, method and budget: accuracy with its interval, size, FLOPs, latency, epochs."""
    return _wide(
        numbers,
        {
            "accuracy": "accuracy",
            "parameters": "parameters",
            "flops": "FLOPs",
            "share": "FLOP share",
            "epochs": "epochs",
        },
        latency=True,
    )


def cost_table(numbers: Sequence[Any]) -> pd.DataFrame:
    """One row a network, method and budget: what is spent before the structure is known, and after."""
    names = {
        "search_seconds": "search, s",
        "search_images": "search, images",
        "search_at_source": "search, ms a training image at the source's epochs",
        "train_seconds": "training, s",
        "total_seconds": "all, s",
        "search_work": "work of the search",
        "training_work": "work of search and training",
    }
    return _wide(numbers, names)


def _wide(numbers: Sequence[Any], names: Mapping[str, str], latency: bool = False) -> pd.DataFrame:
    parts = {}
    for name, title in names.items():
        rows = frame(numbers, name).set_index(PLACE)
        parts[title] = rows["value"]
        if name == "accuracy":
            parts |= {"low": rows["low"], "high": rows["high"]}
    if latency:
        for batch, rows in frame(numbers, "latency").groupby("batch"):
            parts[f"ms an image, batch {int(float(str(batch)))}"] = rows.set_index(PLACE)["value"]
    wide = pd.DataFrame(parts).reset_index()
    order = {method: place for place, method in enumerate(METHODS)}
    networks_in = {
        name: place for place, name in enumerate(dict.fromkeys(frame(numbers, next(iter(names)))["network"]))
    }
    key = wide.assign(_n=wide["network"].map(networks_in), _m=wide["method"].map(order))
    wide = wide.loc[key.sort_values(["_n", "_m", "budget"], ascending=[True, True, False]).index]
    wide["method"] = wide["method"].map(METHODS)
    return wide.reset_index(drop=True)


def accuracy_reading(numbers: Sequence[Any]) -> str:
    """Pruned from scratch against each rival at an equal training budget, as Markdown: points, with intervals."""
    rows, lines = frame(numbers), []
    for (network, budget), group in rows[rows["method"] != "full"].groupby(["network", "budget"], sort=False):
        by = group.set_index("method")
        for own, others in RIVALS.items():
            told = [f"{_difference(by, own, other)} over {METHODS[other]}" for other in others if other in by.index]
            lines.append(
                f"- **{network}, {100 * float(str(budget)):.0f} % of the FLOPs, {METHODS[own]}:** {'; '.join(told)}."
            )
        lines.append(
            f"- **{network}, for as much work, uniform narrowing**, which chooses nothing, has "
            f"{_difference(by, 'uniform-budget', 'l1')} over L1 norm: of a lead over L1 norm, that much comes of "
            "training from fresh weights for longer, not of the structure."
        )
    return (
        "Differences in accuracy, in points (95 % interval over the seeds, where there are several):\n\n"
        + "\n".join(lines)
    )


def _difference(by: pd.DataFrame, own: str, other: str) -> str:
    one, two = by.loc[own, "per_seed"], by.loc[other, "per_seed"]
    each = [one[seed] - two[seed] for seed in one if seed in two]
    ends = of_mean(each, units.SIGNED)
    mean = sum(each) / len(each)
    return f"{100 * mean:+.1f}" + (f" ({100 * ends[0]:+.1f} to {100 * ends[1]:+.1f})" if ends else "")


def control_reading(numbers: Sequence[Any]) -> str:
    """Whether the gates matter: learned structures against random ones, and what widening adds, as Markdown."""
    rows, lines = frame(numbers), []
    for (network, budget), group in rows[rows["method"] != "full"].groupby(["network", "budget"], sort=False):
        by, share = group.set_index("method"), 100 * float(str(budget))
        lines.append(
            f"- **{network}, {share:.0f} % of the FLOPs:** gates on random weights against random scores in their "
            f"place {_difference(by, 'plain', 'random')}; widening first {_difference(by, 'scratch', 'plain')}."
        )
    return "\n".join(lines)


def gates_reading(numbers: Sequence[Any]) -> str:
    """How far the gates went, and how their epoch was chosen, as Markdown."""
    zeros, means = frame(numbers, "zero_gates", method="scratch"), frame(numbers, "mean_gate", method="scratch")
    rule = frame(numbers, "most_zeros", method="scratch")["value"].mean()
    told = "; ".join(
        f"{row.network}: {100 * row.value:.1f} % are zero, their mean is {mean:.2f}"
        for row, mean in zip(zeros.itertuples(), means["value"], strict=True)
    )
    return (
        f"Of the gates on random weights ({told}). The stated rule, the best validation accuracy among the epochs with "
        f"at most the wanted share of nonzero gates, was met in {100 * (1 - rule):.0f} % of the runs; in the others "
        "the epoch with the most zeros was taken."
    )


def latency_reading(numbers: Sequence[Any]) -> str:
    """What is gained in wall-clock, as a share of the FLOPs saved, as Markdown."""
    rows = frame(numbers, "latency")
    share = frame(numbers, "share").set_index(PLACE)["value"]
    lines = []
    for (network, batch), group in rows.groupby(["network", "batch"], sort=False):
        full = group[group["method"] == "full"]["value"].item()
        for method in ("scratch", "uniform"):
            for row in group[group["method"] == method].itertuples():
                gain, saved = 1 - row.value / full, 1 - share[network, method, row.budget]
                lines.append(
                    f"{network}, batch {int(float(str(batch)))}, {METHODS[method]}: {100 * gain:.0f} % less time for "
                    f"{100 * saved:.0f} % fewer FLOPs"
                )
    return "Measured in float32: " + "; ".join(lines) + "."


def cost_reading(numbers: Sequence[Any]) -> str:
    """What is spent before the structure is known, against training a network first, as Markdown."""
    seconds, images = frame(numbers, "search_seconds"), frame(numbers, "search_images")
    at_source = frame(numbers, "search_at_source").set_index(["network", "budget", "method"])["value"]
    works = frame(numbers, "search_work").set_index(["network", "budget", "method"])["value"]
    lines = []
    for (network, budget), group in seconds[seconds["method"] != "full"].groupby(["network", "budget"], sort=False):
        by = group.set_index("method")["value"]
        here = images[(images["network"] == network) & (images["budget"] == budget)].set_index("method")["value"]
        told = ", ".join(
            f"{METHODS[other]} {by[other]:.0f} s ({by[other] / by['scratch']:.1f} times; "
            f"{here[other] / here['scratch']:.1f} times the images)"
            for other in TRAINED
            if other != "slimming-floor"  # the same training as slimming
        )
        work = works[network, budget, "scratch"]
        lines.append(f"- **{network}:** from scratch {by['scratch']:.0f} s, {work:.2f} of a training's work; {told}.")
        ratio = at_source.get((network, budget, "scratch"), math.nan) / at_source.get((network, budget, "l1"), math.nan)
        if not math.isnan(ratio):
            lines[-1] += f" At the source's epochs, an image as dear as here: {ratio:.2f} of L1 norm's seconds."
    return "Before the structure is known:\n\n" + "\n".join(lines)


def setting_text(scale: str, seeds: Sequence[int], numbers: Sequence[Any]) -> str:
    """What the notebook rests on, in a paragraph of Markdown, its main result last."""
    chosen = settings(scale)
    name = chosen["scratch_networks"][0]
    epochs = {each: config.load(scale).recipe(each).epochs for each in networks(scale, seeds[0])}
    recipes = "; ".join(
        f"{label(scale, each)} for E = {count} epochs of {len(train_images(scale, each)):,} images"
        + (" (first seed only)" if each in chosen["scratch_once"] and len(seeds) > 1 else "")
        for each, count in epochs.items()
    )
    rest = f"{len(test_images(scale, name)):,} test images; {recipes}; budgets {chosen['scratch_budgets']} of the FLOPs"
    text = evaluations.setting_text(scale, chosen["data"], seeds, rest)
    rows = frame(numbers)
    means = rows[rows["network"].isin(chosen["scratch_networks"])].groupby("method")["value"].mean()
    return (
        f"{text} Mean accuracy over the networks of every seed, and budgets: from scratch {means['scratch']:.3f}, "
        f"uniform {means['uniform']:.3f}; for as much work as the whole network, from scratch "
        f"{means['scratch-budget']:.3f}, L1 norm {means['l1']:.3f}, slimming {means['slimming']:.3f}; the whole "
        f"network {means['full']:.3f}."
    )


def markdown(table: pd.DataFrame) -> str:
    """A table for display."""
    shown = table.copy()
    for column in shown.columns:
        if column in ("parameters", "FLOPs") or column.endswith("images"):
            shown[column] = shown[column].map("{:,.0f}".format)
        elif column.endswith(", s"):
            shown[column] = shown[column].map("{:.1f}".format)
    return tables.rounded(shown)


def described(scale: str) -> dict[str, Any]:
    """Settings by the words that describe them."""
    chosen = settings(scale)
    words = {
        "data set": chosen["data"],
        "networks": chosen["scratch_networks"],
        "budgets": chosen["scratch_budgets"],
    }
    gates = {"images for the gates": chosen["gate_images"], "epochs of the gates": chosen["gate_epochs"]}
    return {**words, **gates}


def write(
    item: str, scale: str, seeds: Sequence[int], numbers: Sequence[Any], figure: Any, table: pd.DataFrame
) -> None:
    """Write the record of `scratch_pruning` or `scratch_cost`."""
    full: dict[str, Any] = {}
    used, chosen, here, paper = described(scale), settings(scale), config.load(scale), config.load("paper")
    if "dynamic" in paper.study:
        full = {"seeds": evaluations.seeds_of("paper", "dynamic"), **described("paper")}
    names, once = _with_variants(chosen["scratch_networks"]), _with_variants(chosen["scratch_once"])
    for name in chosen["scratch_once"]:
        used[f"seeds of {name}"], full[f"seeds of {name}"] = list(seeds[:1]), full.get("seeds", list(seeds))
        same = [known for known in chosen["scratch_networks"] if here.recipe(known).arch == here.recipe(name).arch]
        if name not in paper.networks and same and same[0] in paper.networks:
            used[f"epochs of {name}"] = here.recipe(name).epochs
            full[f"epochs of {name}"] = paper.recipe(same[0]).epochs
    test = test_images(scale, names[0])
    known = {f"{config.load(scale).recipe(names[0]).data}/test": test.fingerprint}
    evaluations.write(item, scale, seeds, names, numbers, figure, used, full, known, table, once)


def _with_variants(names: Sequence[str]) -> list[str]:
    """Networks, each with those trained to be pruned."""
    kinds = list(dict.fromkeys(TRAINED.values()))
    return [variant for name in names for variant in (name, *(f"{name}-{kind}" for kind in kinds))]

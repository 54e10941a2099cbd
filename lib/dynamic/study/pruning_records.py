"""From pruned networks to the numbers, tables and texts of the notebook on layerwise channel selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib import config, data, evaluations, tables
from lib.dynamic.study import pruning, scratch_networks
from lib.evaluations import SHARE, frame

METHODS = {
    "dense": "all channels",
    "dense-on": "all channels, trained on",
    "stated": "LCS as stated",
    "stated-static": "LCS as stated, one mask for all",
    "standardised": "LCS standardised (ours)",
    "standardised-static": "LCS standardised, one mask for all",
    "boosting": "feature boosting and suppression",
    "l1": "L1 norm of filters",
    "scratch": "pruning from scratch",
}
CHOICES = {
    "decided": "decided by the units",
    "static": "one mask, the rows' mean",
    "random": "random, at the units' frequencies",
    "uniform": "random, uniform",
    "top": "the most frequent row",
    "untrained": "untrained units",
}
STAGES = {
    "trained": "trained",
    "thresholded": "entries cut to the budget",
    "recalibrated": "BN recalibrated",
    "tuned": "fine-tuned",
}
UNITS = {
    "accuracy": SHARE,
    "parameters": "parameters",
    "macs": "multiply-accumulates an image",
    "share": "fraction of the whole network's FLOPs",
    "memory_mb": "MB",
    "zeros": "fraction of mask entries",
    "magnitude": "mean mask entry",
    "entropy": "bits, mean over layers",
    "collapsed": "fraction of layers",
}


def numbers(
    methods: Mapping[int, pd.DataFrame], stages: Mapping[int, pd.DataFrame], choices: Mapping[int, pd.DataFrame]
) -> list[Any]:
    """The numbers of `lcs_pruning`.

    Args: seed -> as `pruning.methods`, `pruning.stages` and `pruning.choices` return them.
    Returns: at {network, method, budget}: accuracy, parameters, macs, share, memory_mb and, at a batch size as well,
        seconds (an image) and time (as a share of the dense network's); at {network, form, budget, stage}: the
        measures of stages, each name behind "stage_"; at {network, form, budget, choice}: choice_accuracy and
        choice_share. FLOPs are 2 x MAC.
    """
    rows: list[dict[str, Any]] = []
    for seed, table in methods.items():
        for row in table.to_dict("records"):
            about = {"network": row["network"], "method": row["method"], "budget": float(row["budget"]), "seed": seed}
            about["n"] = int(row["n"])
            for name in ("accuracy", "parameters", "macs", "share"):
                rows.append({"name": name, "value": row[name], "unit": UNITS[name], **about})
            if row["method"] in pruning.FORMS:
                rows.append({"name": "memory_mb", "value": row["memory_mb"], "unit": "MB of slices", **about})
            for batch in _batches(row):
                where = {**about, "batch": batch}
                rows.append({"name": "seconds", "value": row[f"seconds_{batch}"], "unit": "s an image", **where})
                unit = "fraction of the whole network's time"
                rows.append({"name": "time", "value": row[f"time_{batch}"], "unit": unit, **where})
    for prefix, frames, names in (
        ("stage", stages, ("accuracy", "share", "zeros", "magnitude", "entropy", "collapsed")),
        ("choice", choices, ("accuracy", "share")),
    ):
        for seed, table in frames.items():
            for row in table.to_dict("records"):
                about = {key: row[key] for key in ("network", "form", prefix)}
                about |= {"budget": float(row["budget"]), "n": int(row["n"]), "seed": seed}
                rows += [{"name": f"{prefix}_{n}", "value": row[n], "unit": UNITS[n], **about} for n in names]
    return evaluations.numbers(rows)


def method_table(numbers: Sequence[Any]) -> pd.DataFrame:
    """One row a network, budget and method: accuracy, sizes, FLOPs, time as a share of the whole's."""
    measured = {name: frame(numbers, name) for name in ("accuracy", "parameters", "macs", "share")}
    keys = ["network", "method", "budget"]
    found = {name: rows.set_index(keys)["value"] for name, rows in measured.items()}
    times = frame(numbers, "time").set_index([*keys, "batch"])["value"]
    rows = []
    for network, budget, method in _order(measured["accuracy"]):
        place = (network, method, budget)
        row: dict[str, Any] = {"network": network, "method": METHODS[method], "budget": budget}
        row |= {"accuracy": found["accuracy"][place], "parameters": found["parameters"][place]}
        row |= {"MFLOPs": 2 * found["macs"][place] / 1e6, "FLOPs": found["share"][place]}
        for batch in sorted({int(at[3]) for at in times.index}):
            row[f"time, batch {batch}"] = times[(*place, batch)]
        rows.append(row)
    return pd.DataFrame(rows)


def record_table(numbers: Sequence[Any]) -> pd.DataFrame:
    """As `method_table`, with numbers of the record only: MACs in place of MFLOPs."""
    made = method_table(numbers)
    rows = frame(numbers, "macs").set_index(["network", "method", "budget"])["value"]
    order = [rows[network, method, budget] for network, budget, method in _order(frame(numbers))]
    made.insert(list(made.columns).index("MFLOPs"), "MACs", order)
    return made.drop(columns="MFLOPs")


def stage_table(numbers: Sequence[Any]) -> pd.DataFrame:
    """One row a network, form, budget and stage, with its measures."""
    return _wide(numbers, "stage", STAGES)


def choice_table(numbers: Sequence[Any]) -> pd.DataFrame:
    """One row a network, form, budget and choice: accuracy and share of the FLOPs."""
    return _wide(numbers, "choice", CHOICES)


def methods_reading(numbers: Sequence[Any]) -> str:
    """Which method has the highest accuracy at each budget, and what LCS loses or gains against the others."""
    held, lines = frame(numbers), []
    for (network, budget), part in held[held["budget"] < 1].groupby(["network", "budget"], sort=False):
        values = part.set_index("method")["value"]
        dense = held[(held["network"] == network) & (held["method"] == "dense")]["value"].iloc[0]
        best = values.idxmax()
        lines.append(
            f"- **{network}** at {budget:g} of the FLOPs (all channels: {dense:.3f}): highest is {METHODS[str(best)]} "
            f"with {values[best]:.3f}. "
            + "; ".join(
                f"{METHODS[form]} {values[form]:.3f}, {_points(values[form] - values[f'{form}-static'])} against one "
                f"mask for all, {_points(values[form] - values['l1'])} against L1, "
                f"{_points(values[form] - values['scratch'])} against pruning from scratch, "
                f"{_points(values[form] - values['boosting'])} against feature boosting"
                for form in pruning.FORMS
            )
            + "."
        )
    return "\n".join(lines)


def choices_reading(numbers: Sequence[Any]) -> str:
    """What the units' choice is worth against the controls, in points, and with how much entropy."""
    held = frame(numbers, "choice_accuracy")
    bits = frame(numbers, "stage_entropy", stage="tuned").set_index(["network", "form", "budget"])["value"]
    flat = frame(numbers, "stage_collapsed", stage="tuned").set_index(["network", "form", "budget"])["value"]
    lines = []
    for place, part in held.groupby(["network", "form", "budget"], sort=False):
        network, form, budget = place
        values = part.set_index("choice")["value"]
        told = ", ".join(
            f"{_points(values['decided'] - values[name])} against {words}"
            for name, words in CHOICES.items()
            if name != "decided"
        )
        lines.append(
            f"- **{network}, {form}, {budget:g}**: the units' choices have {bits[place]:.2f} bits of entropy in the "
            f"mean, {flat[place]:.0%} of the layers have collapsed; their accuracy is {told}."
        )
    return "\n".join(lines)


def stages_reading(numbers: Sequence[Any]) -> str:
    """How far the sparsity term came by zeros, and how far by shrinking, before the budget is set."""
    lines = []
    keys = ["network", "form", "budget"]
    zeros, sizes = (frame(numbers, f"stage_{name}", stage="trained").set_index(keys) for name in ("zeros", "magnitude"))
    shares = frame(numbers, "stage_share", stage="trained").set_index(keys)["value"]
    for place in zeros.index:
        lines.append(
            f"- **{place[0]}, {place[1]}**: after training {zeros['value'][place]:.1%} of the mask entries are zero "
            f"while their mean is {sizes['value'][place]:.2f}; the images run {shares[place]:.1%} of the FLOPs."
        )
    return "\n".join(dict.fromkeys(lines))


def times_reading(numbers: Sequence[Any]) -> str:
    """Time saved as a share of the FLOPs saved, by method and batch size, in the mean over networks and budgets."""
    times = frame(numbers, "time")
    shares = frame(numbers, "share").set_index(["network", "method", "budget"])["value"]
    times = times[times["budget"] < 1]
    at = pd.MultiIndex.from_frame(times[["network", "method", "budget"]])
    got = times.assign(share=(1 - times["value"].to_numpy()) / (1 - shares.loc[at].to_numpy()))
    lines = []
    for method, words in METHODS.items():
        part = got[got["method"] == method].groupby("batch")["share"].mean()
        if len(part):
            lines.append(f"- {words}: " + ", ".join(f"{value:.2f} at batch {int(b)}" for b, value in part.items()))
    return "Time saved, as a share of the FLOPs saved:\n\n" + "\n".join(lines)


def setting_text(scale: str, seeds: Sequence[int]) -> str:
    """What the notebook's run rests on, in a paragraph of Markdown."""
    chosen, preset = pruning.settings(scale), config.load(scale)
    parts = []
    for base in chosen["pruning_networks"]:
        first, on = preset.recipe(base), preset.recipe(f"{base}-on")
        lcs = preset.recipe(f"{base}-stated")
        parts.append(
            f"{base} ({first.arch}, width {first.arch_args.get('width', 'as published')}): {first.epochs} epochs, then "
            f"{lcs.epochs} with decision units and {on.epochs - lcs.epochs} of fine-tuning, or {on.epochs} more"
        )
    name = preset.recipe(chosen["pruning_networks"][0]).data
    count = len(pruning.test_of(scale, chosen["pruning_networks"][0]))
    return (
        f"**Scale `{scale}`**: {data.SETS[name].title}, {count:,} test images, {len(seeds)} "
        f"seed{'s' if len(seeds) != 1 else ''} ({', '.join(map(str, seeds))}), "
        f"{preset.compute.threads} thread{'s' if preset.compute.threads != 1 else ''}. {'; '.join(parts)}."
    )


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, shares to three places."""
    shown = table.copy()
    for column in shown.columns:
        if column in ("parameters", "MACs"):
            shown[column] = [f"{value:,.0f}" for value in shown[column]]
        elif column == "MFLOPs":
            shown[column] = [f"{value:.1f}" for value in shown[column]]
        elif shown[column].dtype.kind == "f" and column != "budget":
            shown[column] = [f"{value:.3f}" for value in shown[column]]
    return tables.markdown(shown)


def write(scale: str, seeds: Sequence[int], numbers: Sequence[Any], figure: Any) -> None:
    """Write the record of `lcs_pruning`."""
    names = pruning.trained_networks(scale)
    known = {}
    for base in pruning.settings(scale)["pruning_networks"]:
        name = config.load(scale).recipe(base).data
        known[f"{name}/test"] = pruning.test_of(scale, base).fingerprint
        known[f"{name}/train"] = pruning.calibration(scale, base).fingerprint
    full = {"seeds": evaluations.seeds_of("paper", "dynamic"), **_described("paper")}
    evaluations.write(
        "lcs_pruning", scale, seeds, names, numbers, figure, _described(scale), full, known, record_table(numbers)
    )


def _described(scale: str) -> dict[str, Any]:
    chosen = pruning.settings(scale)
    return {
        "data set": chosen["data"],
        "networks": chosen["pruning_networks"],
        "budgets": chosen["pruning_budgets"],
        "test images": chosen["pruning_images"],
        "epochs of gates": scratch_networks.settings(scale)["gate_epochs"],
        "images for the gates": scratch_networks.settings(scale)["gate_images"],
    }


def _wide(numbers: Sequence[Any], prefix: str, words: Mapping[str, str]) -> pd.DataFrame:
    keys = ["network", "form", "budget", prefix]
    names = list(dict.fromkeys(number["name"] for number in numbers if number["name"].startswith(f"{prefix}_")))
    columns = {name.removeprefix(f"{prefix}_"): frame(numbers, name).set_index(keys)["value"] for name in names}
    made = pd.DataFrame(columns).reset_index()
    made[prefix] = pd.Categorical(made[prefix], list(words), ordered=True)
    made["form"] = pd.Categorical(made["form"], list(pruning.FORMS), ordered=True)
    made = made.sort_values(keys, kind="stable").reset_index(drop=True)
    made["form"] = made["form"].astype(str)
    made[prefix] = [words[value] for value in made[prefix]]
    return made.rename(columns={"share": "FLOPs"})


def _order(rows: pd.DataFrame) -> list[tuple[str, float, str]]:
    """(network, budget, method) of a frame of accuracies in the order of the tables."""
    there = set(zip(rows["network"], rows["budget"], rows["method"], strict=True))
    budgets = sorted(set(rows["budget"]), reverse=True)
    networks = dict.fromkeys(rows["network"])
    return [(n, b, m) for n in networks for b in budgets for m in METHODS if (n, b, m) in there]


def _batches(row: Mapping[str, Any]) -> list[int]:
    return [int(str(name).removeprefix("seconds_")) for name in row if str(name).startswith("seconds_")]


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f} points"

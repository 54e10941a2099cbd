"""Networks pruned from scratch beside narrowed, L1-pruned and slimmed ones, and what each costs (notebook 24)."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lib import dotplots, plots, units
from lib.dynamic.scratch.gates import FALLBACK
from lib.experiments.dynamic import titled
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.scratch_networks import FRESH, METHODS, TRAINED, ScratchRun, Settings
from lib.intervals import of_mean

AS_MUCH = ("uniform-budget", "l1", "slimming", "slimming-floor")
RIVALS = {"scratch": ("uniform", "random"), "scratch-budget": AS_MUCH, "scratch-counted": AS_MUCH}
"""What is compared with what at an equal training budget: equally many epochs, or as much work."""
PLACE = ["network", "method", "budget"]


# Steps


def make(scale: str, seed: int, name: str = "", budget: float = 0.0, method: str = "") -> None:
    """All that is measured of one seed: a step of the graph; or, with the arguments of `parts`, one part."""
    run = ScratchRun(Settings.of(scale), seed)
    if name:
        (run.from_fresh if method in FRESH else run.from_trained)(name, method, budget)
    else:
        list(run.rows())


def parts(scale: str, seed: int) -> list[dict[str, Any]]:
    """What `make` can be asked for one by one: each method that has a structure of its own, network and budget."""
    run = ScratchRun(Settings.of(scale), seed)
    budgets, methods = run.settings.budgets, (*FRESH, *TRAINED)
    return [{"name": n, "budget": b, "method": m} for n in run.names for b in budgets for m in methods]


# What is measured


def pruning(settings: Settings, seed: int) -> pd.DataFrame:
    """Accuracy, size and latency, at {network, method, budget}.

    Returns: "accuracy" (n test images); "parameters"; "flops" of one image, 2 x MAC; "share" of the whole network's
        FLOPs; "epochs" of training (after the structure is known); "latency" at {..., batch}, median milliseconds an
        image; "accuracy_before_tuning", of networks that were pruned after training; "zero_gates" and "mean_gate" of
        the gates behind the structure, and "most_zeros": 1 where the epoch was chosen by the fallback rule.
    """
    run = ScratchRun(settings, seed)
    return run.tidy(number for row in run.rows() for number in accuracy_rows(row))


def accuracy_rows(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What `pruning` returns of one row of `ScratchRun.rows`."""
    rule = row.get("rule")
    values = {
        "accuracy": row["accuracy"],
        "parameters": row["parameters"],
        "flops": 2 * row["macs"],
        "share": row["share"],
        "epochs": row["epochs"],
        "accuracy_before_tuning": row.get("before"),
        "zero_gates": row.get("zeros"),
        "mean_gate": row.get("mean_gate"),
        "most_zeros": rule == FALLBACK if isinstance(rule, str) else None,
    }
    yield from numbers(row, values, {"accuracy": int(row["n"]), "accuracy_before_tuning": int(row["n"])})
    for batch, seconds in row["latency"].items():
        yield from ({**number, "batch": int(batch)} for number in numbers(row, {"latency": 1e3 * seconds}))
    yield from same(row)


def costs(settings: Settings, seed: int) -> pd.DataFrame:
    """What is spent, at {network, method, budget}.

    Returns: "search_seconds" and "search_images" before the structure is known; "train_seconds" and "train_images"
        after; "search_at_source", the search's seconds an image times its epochs at `scale: paper`: what an image of
        the training set costs there before the structure is known; "total_seconds"; "training_work",
        multiply-accumulates of all training, forward and backward, search included, over those of the whole network's
        training; "search_work", the search's part of it.
    """
    run = ScratchRun(settings, seed)
    rows = list(run.rows())
    whole = {row["network"]: row["train_work"] for row in rows if row["method"] == "full"}
    return run.tidy(number for row in rows for number in cost_rows(row, whole[row["network"]]))


def cost_rows(row: Mapping[str, Any], whole: float) -> Iterator[dict[str, Any]]:
    """What `costs` returns of one row of `ScratchRun.rows`; `whole`: work of the whole network's training."""
    seconds, images, epochs = row["search_seconds"], row["search_images"], row["source_epochs"]
    values = {
        "search_seconds": seconds,
        "search_images": images,
        "train_seconds": row["train_seconds"],
        "train_images": row["train_images"],
        "total_seconds": seconds + row["train_seconds"],
        "training_work": (row["train_work"] + row["search_work"]) / whole,
        "search_work": row["search_work"] / whole,
        "search_at_source": 1e3 * seconds / images * epochs if images and epochs is not None else None,
    }
    yield from numbers(row, values)
    yield from same(row)


def numbers(row: Mapping[str, Any], values: Mapping[str, Any], n: Mapping[str, int] = {}) -> Iterator[dict[str, Any]]:
    """Those values of a row that there are, as tidy rows."""
    where = {key: row[key] for key in PLACE}
    for name, value in values.items():
        if not pd.isna(value):
            yield {"measure": name, **where, "value": float(value), "n": n.get(name, 1)}


def same(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Whether the structure of a method is another method's, of those where it may be: for `ScratchItem`."""
    return numbers(row, {"same": row.get("same_as") is not None} if "same_as" in row else {})


class ScratchItem(Item):
    """A method that found, for every seed, the structure of another method is left out: it stands there once."""

    def of(self, settings: Any) -> Results:
        found = super().of(settings).frames
        alike = pd.concat([frame[frame["measure"] == "same"] for frame in found.values()]).groupby(PLACE)["value"].min()
        twice = {place for place, always in alike.items() if always}
        return Results(self, settings, {seed: _without(frame, twice) for seed, frame in found.items()})


def _without(frame: pd.DataFrame, places: Collection[Any]) -> pd.DataFrame:
    return frame[[place not in places for place in frame[PLACE].itertuples(index=False, name=None)]]


def layout(results: Results, shown: Mapping[str, str]) -> pd.DataFrame:
    """One row a network, method and budget.

    Args:
        shown: measure -> the title of its column.
    """
    wide = results.wide(shown, PLACE)
    names = list(dict.fromkeys(results.values(next(iter(shown)))["network"]))
    order: Mapping[Any, Any] = {"network": names.index, "method": list(METHODS).index, "budget": lambda b: -b}
    wide = wide.sort_values(PLACE, key=lambda column: column.map(order[column.name]))
    return wide.assign(method=wide["method"].map(METHODS)).reset_index(drop=True)


def table(results: Results) -> pd.DataFrame:
    """Accuracy with its interval, size, FLOPs, epochs and latency of every network, method and budget."""
    shown = {"accuracy": "accuracy", "parameters": "parameters", "flops": "FLOPs", "share": "FLOP share"}
    wide = layout(results, {**shown, "epochs": "epochs"})
    rows = results.values("accuracy").replace({"method": METHODS}).set_index(PLACE)
    place = pd.MultiIndex.from_frame(wide[PLACE])
    for at, end in enumerate(("low", "high")):
        wide.insert(4 + at, end, rows.loc[place, end].to_numpy())
    for batch, times in results.values("latency").replace({"method": METHODS}).groupby("batch"):
        wide[f"ms an image, batch {batch:g}"] = times.set_index(PLACE).loc[place, "value"].to_numpy()
    return wide


def cost_table(results: Results) -> pd.DataFrame:
    """One row a network, method and budget: what is spent before the structure is known, and after."""
    shown = {
        "search_seconds": "search, s",
        "search_images": "search, images",
        "search_at_source": "search, ms a training image at the source's epochs",
        "train_seconds": "training, s",
        "total_seconds": "all, s",
        "search_work": "work of the search",
        "training_work": "work of search and training",
    }
    return layout(results, shown)


def ahead(rows: pd.DataFrame, one: str, other: str) -> dict[str, Any]:
    """How far one method is ahead of another, in points of accuracy, seed by seed.

    Args:
        rows: accuracies of one network and budget, as `Results.values` gives them.
        one, other: methods.
    Returns: each (the seeds of both), value (their mean), low and high (of its 95 % interval over the seeds; NaN with
        one).
    """
    by = rows.set_index("method")["per_seed"]
    each = [by[one][seed] - by[other][seed] for seed in by[one] if seed in by[other]]
    low, high = of_mean(each, units.SIGNED) or (np.nan, np.nan)
    return {"each": 100 * np.array(each), "value": 100 * np.mean(each), "low": 100 * low, "high": 100 * high}


def lead(rows: pd.DataFrame, one: str, other: str) -> str:
    """`ahead` in words."""
    found = ahead(rows, one, other)
    ends = "" if np.isnan(found["low"]) else f" ({found['low']:+.1f} to {found['high']:+.1f})"
    return f"{found['value']:+.1f}{ends}"


GROUPS = {
    "uniform": ("full", "scratch", "plain", "random"),
    "uniform-budget": ("full", "scratch-budget", "scratch-counted", *AS_MUCH[1:]),
}
"""Methods by the uniform narrowing that they are set against: trained for as many epochs, or for as much work."""
WORDS = {"uniform": "trained for as many epochs", "uniform-budget": "trained with as much work"}


def draw(results: Results) -> Figure:
    """How far each method is ahead of uniform narrowing: seeds as strokes, their mean with its interval.

    A block for equally many epochs and one for equally much work; a network that is far off has its part of the axis.
    """
    rows = results.values("accuracy", budget=[results.settings.budgets[0], 1.0])
    names = list(dict.fromkeys(rows["network"]))
    found = pd.DataFrame(
        {"network": name, "against": against, "method": method, **ahead(part, method, against)}
        for name, part in rows.groupby("network", sort=False)
        for against, methods in GROUPS.items()
        for method in methods
        if method in set(part["method"])
    )
    parts = dotplots.spans(found)
    widest = max(range(len(parts)), key=lambda k: parts[k][2])
    ratios = {"width_ratios": [width for _, _, width in parts], "height_ratios": list(map(len, GROUPS.values()))}
    figure, flat = plots.grid(len(GROUPS) * len(parts), len(parts), 2.2, plots.SINGLE, sharex="col", **ratios)
    for row, (against, methods) in zip(flat.reshape(len(GROUPS), -1), GROUPS.items(), strict=True):
        for index, name in enumerate(names):
            part = found[(found["network"] == name) & (found["against"] == against)]
            shift = (index - (len(names) - 1) / 2) * 0.75 / len(names)
            places = dotplots.row_of(part["method"], methods) + shift
            for ax in row:
                dotplots.intervals(ax, part, places, index, label=title(rows, name), markersize=3)
                seeds = np.repeat(places, part["each"].map(len)), np.concatenate([*part["each"]])
                look: dict[str, Any] = {"color": plots.PALETTE[index], "marker": "|", "linestyle": "none"}
                ax.plot(seeds[1], seeds[0], markersize=4, alpha=0.7, **look)
            for place, method in enumerate(methods):
                if method not in set(part["method"]):
                    own: dict[str, Any] = {"ha": "right", "color": plots.PALETTE[index]}
                    same_structure(row[widest], 0.98, place + shift, titled(name), **own)
        for ax, (start, end, _) in zip(row, parts, strict=True):
            plots.zero(ax)
            plots.named_rows(ax, method_names(methods), 0.6)
            ax.set_xlim(start, end)
        if len(parts) > 1:
            dotplots.broken(*row)
        plots.heading(row[0], WORDS[against])
    row[widest].set_xlabel("accuracy ahead of uniform\nnarrowing (percentage points)", fontsize=plots.SMALLEST)
    plots.legend_below(flat, 3)
    return figure


def draw_costs(results: Results) -> Figure:
    """Seconds before the structure is known, and after, a panel a network."""
    figure, axes, search = panels(results, "search_seconds")
    _, _, train = panels(results, "train_seconds")
    methods = list(METHODS)
    for ax, name in zip(axes, dict.fromkeys(search["network"]), strict=True):
        parts = [rows[rows["network"] == name].set_index("method")["value"] for rows in (search, train)]
        before, after = (part.reindex(methods) for part in parts)
        bars = range(len(methods))
        ax.barh(bars, before, color=plots.PALETTE[1], label="before the structure is known")
        ax.barh(bars, after, left=before, color=plots.PALETTE[0], hatch="///", label="training it, after")
        for place, method in enumerate(methods):
            if method not in parts[0].index:
                same_structure(ax, 0.05, place)
        plots.named_rows(ax, method_names(methods), 0.6)
        ax.set_title(textwrap.fill(title(search, name), 14), fontsize=plots.SMALLEST)
        ax.set_xlabel("seconds")
        ax.xaxis.set_major_locator(MaxNLocator(2))
    plots.legend_below(axes, 1)
    return figure


def draw_structures(settings: Settings, seed: int) -> Figure:
    """The share of each layer's channels that a structure keeps, a line a method, a panel a network."""
    run, budget = ScratchRun(settings, seed), settings.budgets[0]
    figure, axes = plots.panels(len(run.names), width=7.6, height=2.8, sharey=True)
    for ax, name in zip(axes, run.names, strict=True):
        rows = run.structures(name, budget)
        rows = rows[rows["method"] != "l1"].replace({"method": METHODS})  # the uniform one's channels, by other filters
        rows = rows.assign(ratio=rows["kept"] / rows["width"], place=rows.groupby("method").cumcount() + 1)
        plots.curves(ax, rows, x="place", y="ratio", hue="method", order=list(dict.fromkeys(rows["method"])))
        ax.set(title=titled(name), xlabel="convolution with gates, in order", ylim=(0, 1.05))
        ax.set_ylabel("share of channels kept")
    plots.legend_below(axes, 3)
    return figure


def panels(results: Results, measure: str) -> tuple[Figure, np.ndarray, pd.DataFrame]:
    """A panel a network, and the values to show there: those of the first budget and of the whole network."""
    rows = results.values(measure, budget=[results.settings.budgets[0], 1.0])
    return *plots.grid(rows["network"].nunique(), 3, 4.3, plots.SINGLE, sharey=True), rows


def method_names(methods: Sequence[str]) -> list[str]:
    """Methods in words, on short lines."""
    return [textwrap.fill(METHODS[method], 22) for method in methods]


def same_structure(ax: Axes, x: float, place: float, whose: str = "", **look: Any) -> None:
    """Say of a row without a number that its structure is that of another (`ScratchItem`).

    Args:
        ax: where.
        x: in the panel's width.
        place: of the row.
        whose: whose it is; empty: on two lines.
        look: as matplotlib's `text` takes it.
    """
    words = f"{whose}: the same structure" if whose else "the same\nstructure"
    ax.text(x, place, words, transform=ax.get_yaxis_transform(), va="center", fontsize=plots.SMALLEST, **look)


def title(rows: pd.DataFrame, name: str) -> str:
    """A network's name; of a network of one seed beside others of several it says so."""
    seeds = rows.groupby("network")["seeds"].max()
    return titled(name) + (", one seed" if seeds[name] == 1 < seeds.max() else "")


UNITS = {
    "accuracy": SHARE,
    "parameters": "parameters",
    "flops": "FLOPs an image (2 x MAC)",
    "share": "fraction of the whole network's FLOPs",
    "epochs": "epochs",
    "accuracy_before_tuning": SHARE,
    "zero_gates": "fraction of gates",
    "mean_gate": "mean of all gates",
    "most_zeros": "fraction of searches",
    "latency": "milliseconds an image",
}
ABOUT = ("networks", "budgets", "gate_images", "gate_epochs")
PRUNING = ScratchItem("scratch_pruning", pruning, UNITS, table=table, draw=draw, about=ABOUT)
_SHARE = "fraction of the whole network's training"
COST_UNITS = {
    "search_seconds": "seconds",
    "search_images": "images",
    "train_seconds": "seconds",
    "train_images": "images",
    "total_seconds": "seconds",
    "training_work": _SHARE,
    "search_work": _SHARE,
    "search_at_source": "milliseconds a training image, at the epochs of `paper`",
}
COST = ScratchItem("scratch_cost", costs, COST_UNITS, table=cost_table, draw=draw_costs, about=ABOUT)
ITEMS = (PRUNING, COST)

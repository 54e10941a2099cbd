"""Backdoored networks repaired in every way (notebooks 33 and 34): does flipping a few weights remove the backdoor?

What the repairer knows is the true trigger or one reversed from the network; success is always that of the true one.
Layers, thresholds and pairs come from the repair split of the test images, every number shown from the report split. A
network's table is kept by itself, so that a run that was stopped goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from lib import compute, plots, units
from lib.experiments.item import Item, Results
from lib.experiments.lancet import Backdoored, BackdoorRun, clean_images, in_turns, networks
from lib.experiments.lancet_figures import draw_methods, draw_sizes
from lib.experiments.lancet_repairs import FLIPS, KNOWN, METHODS, Material, Repairs, repairs
from lib.experiments.run import measures
from lib.intervals import of_mean
from lib.lancet.backdoors.triggers import Trigger
from lib.lancet.measures import NAMES, measure, predictions
from lib.progress import bar

VERSION = 1  # raise it when a change in these experiments' code changes their numbers
COLUMNS = ["method", "layer", "changed", "fraction", "reached", "known_success", *NAMES, "n", "n_target", "note"]
LABELS = {
    "attack_success": "attack success rate",
    "accuracy": "accuracy",
    "accuracy_change": "accuracy change",
    "target_recall": "target recall",
    "stamped_accuracy": "accuracy, stamped",
    "natural_target_rate": "natural target rate",
}
"""What tables carry, in order, as a reader sees it."""
WORST = dict.fromkeys(LABELS, "min") | {"attack_success": "max", "natural_target_rate": "max"}
SHOWN = ("flip-stated", "flip-tried", "flip-signed", "unlearn-matched")
"""Methods that tables show by the size of the trigger, and for TrojanNN."""
LISTED = ("flip-stated", "flip-tried", "unlearn-matched")
"""Methods whose every network is in the table of all networks; of the others the mean and the worst are."""
SIZED = ("none", *SHOWN, "fine-prune")
"""Methods that are drawn by the size of the trigger."""


class Settings(Repairs):
    """Settings of the experiment; see `Repairs`, `Flipping` and `Backdoors`."""

    section: ClassVar[str] = "backdoors"


class RepairRun(BackdoorRun[Settings]):
    """A seed's backdoored networks, repaired."""

    def repaired(self, network: Backdoored) -> pd.DataFrame:
        """One network before and after each repair, with the true and with the reversed trigger known.

        Returns: one row a method and trigger known: network, set, trigger, trigger_share (of the image's pixels),
            reversed, and `COLUMNS`: layer, changed and fraction (weights changed or free to change), reached (the
            threshold, on the repair split), known_success (of the known trigger there, before repair), the measures of
            `measures.measure` on the report split with the true trigger, n, n_target, note. Fine-pruning knows no
            trigger: its row is the same in both. accuracy_change is the accuracy less that before repair.
        """
        true = self.attack(network.name).trigger
        either = self._kept(network, true, "none")
        parts = []
        for flag, known in KNOWN.items():
            found = pd.concat([self._kept(network, true, known), either], ignore_index=True)
            parts.append(with_change(found.assign(reversed=flag)))
        about = {"network": network.name, "set": network.data, "trigger": network.trigger, "trigger_share": true.share}
        return pd.concat(parts, ignore_index=True).assign(**about)

    def _kept(self, network: Backdoored, true: Trigger, known: str) -> pd.DataFrame:
        """The rows of one network with one trigger known: "true", "reversed", or "none" at all; `COLUMNS`."""
        chosen, (repair, report) = self.settings, self.parts(network.data)
        clean = clean_images(network.data, chosen.clean_per_class, chosen.clean_share)
        reverse = {name: getattr(chosen, name) for name in ("reverse_images", "reverse_steps")}
        key = {
            "known": known,
            "trigger": self.address(network.name),
            "target": network.target,
            "images": [repair.fingerprint, report.fingerprint, clean.fingerprint],
            "settings": chosen.repairing() | (reverse if known == "reversed" else {}),
        }

        def rows() -> Iterator[list[Any]]:
            model = self.network(network.name)
            on, turns = next(model.parameters()).device, in_turns(repair)
            few = min(chosen.clean_per_class * len(clean.classes), len(clean))
            training = (clean.float(on), clean.labels.to(on), few)
            held = Material(repair.float(on, turns), repair.labels[turns].to(on), network.target, *training)
            trigger = {"true": true, "none": None}[known] if known != "reversed" else self.reversed_trigger(network)
            found = None
            if trigger is not None:
                found = (predictions(model, held.others()[0], trigger) == held.target).float().mean().item()
            for made in repairs(model, trigger, held, chosen, self.seed):
                after = measure(made.model, report, None, true, held.target)
                yield made.row(found, after)

        return self.table("lancet-repairs", key, rows, network.name, VERSION, COLUMNS)


def with_change(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of one network with a column accuracy_change: the accuracy less that before repair."""
    return table.assign(accuracy_change=table["accuracy"] - table.loc[table["method"] == "none", "accuracy"].item())


def tables(run: RepairRun, kinds: Sequence[str] | None = None) -> pd.DataFrame:
    """`RepairRun.repaired` of every network, or of those whose attack is of one of these kinds."""
    found = networks(run.settings, kinds)
    return pd.concat([run.repaired(network) for network in bar(found, desc="networks")], ignore_index=True)


def repaired(settings: Settings, seed: int) -> pd.DataFrame:
    """Every network before and after every repair, and the mean and the worst over them.

    Returns: tidy: the measures of `LABELS` at {network, method, reversed}, and "changed", the share of the layer's
        weights that was flipped, for methods that locate and where any was; "<measure>_over_networks" at {method,
        reversed, statistic}: mean, low and high (ends of its 95 % interval over the networks), worst. Beside
        the record "repair", all of a repair in one row.
    """
    run = RepairRun(settings, seed)
    table = tables(run)
    beside = ({"measure": "repair", **row} for row in table.to_dict("records"))
    return run.tidy([*of_networks(table), *over_networks(table), *beside])


def sized(settings: Settings, seed: int) -> pd.DataFrame:
    """The same by the size and kind of a BadNets trigger.

    Returns: tidy, of the methods in `SIZED`: success at {network, trigger, method, reversed}; all measures over the
        sets at {trigger, size, kind, method, reversed, statistic}, size being the mean share of the pixels, kind
        "regular" or "transparent".
    """
    run = RepairRun(settings, seed)
    table = tables(run, ["badnets"])
    table = table[table["method"].isin(SIZED)].assign(kind=table["trigger"].map(kind_of))
    rows = [row for row in of_networks(table, ["trigger"]) if row["measure"] == "attack_success"]
    for trigger, group in table.groupby("trigger"):
        size = round(float(group["trigger_share"].mean()), 4)
        rows += over_networks(group, trigger=trigger, size=size, kind=group["kind"].iloc[0])
    return run.tidy(rows)


def kind_of(trigger: str) -> str:
    """regular-2 -> regular; scattered-1 -> transparent."""
    return "transparent" if trigger.startswith("scattered") else "regular"


def make_first_half(scale: str, seed: int) -> None:
    """Every second BadNets network, from the first on: a step of its own, so that two can be at work."""
    _make_half(scale, seed, 0)


def make_second_half(scale: str, seed: int) -> None:
    """Every second BadNets network, from the second on."""
    _make_half(scale, seed, 1)


def _make_half(scale: str, seed: int, start: int) -> None:
    compute.deterministic()
    run = RepairRun(Settings.of(scale), seed)
    for network in bar(networks(run.settings, ["badnets"])[start::2], desc="backdoored networks"):
        run.repaired(network)


def of_networks(table: pd.DataFrame, by: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Each network's measures, for `Run.tidy`; n are the images behind them: of the target class, of the others, all.

    Args:
        table: rows of `RepairRun.repaired`.
        by: more columns to tell rows apart by.
    """
    flipped = table["method"].isin([*FLIPS, "zero"]) & table["changed"].astype(bool)
    table = table.assign(changed=table["fraction"].where(flipped), n_others=table["n"] - table["n_target"])
    counts = {"target_recall": "n_target", "accuracy": "n", "accuracy_change": "n", "changed": "n"}
    names = [*LABELS, "changed"]
    return list(
        measures(table, names, ["network", *by, "method", "reversed"], dict.fromkeys(names, "n_others") | counts)
    )


def over_networks(table: pd.DataFrame, **where: Any) -> list[dict[str, Any]]:
    """Means and worst values over networks, by method and trigger known, for `Run.tidy`; n are the networks.

    Args:
        table: rows of `RepairRun.repaired`, of the networks to sum up.
        where: what tells these networks from others.
    """
    rows: list[dict[str, Any]] = []
    for (method, known), group in table.groupby(["method", "reversed"], sort=False):
        for name in LABELS:
            values = group[name].astype(float).dropna()
            if values.empty:
                continue
            found = {"mean": values.mean(), "worst": getattr(values, WORST[name])()}
            ends = of_mean(values.tolist(), units.about(UNITS[name]).support)
            if ends is not None:
                found |= {"low": ends[0], "high": ends[1]}
            at = {"measure": f"{name}_over_networks", **where, "method": method, "reversed": bool(known)}
            rows += [
                {**at, "statistic": statistic, "value": float(value), "n": len(values)}
                for statistic, value in found.items()
            ]
    return rows


def wide(results: Results, places: Sequence[str], measure: str = "{}", **where: Any) -> pd.DataFrame:
    """All measures side by side, a column each, indexed by `places`."""
    shown = {measure.format(name): label for name, label in LABELS.items()}
    return results.wide(shown, places, **where).set_index(list(places)).reindex(columns=list(LABELS.values()))


def summary_table(results: Results) -> pd.DataFrame:
    """Mean and worst over the networks: one row a method and trigger known."""
    found = wide(results, ["method", "reversed", "statistic"], "{}_over_networks", statistic=["mean", "worst"])
    table = found.unstack("statistic").rename_axis(columns=["label", "statistic"])
    table.columns = [f"{label}: {statistic}" for label, statistic in table.columns]
    table = table.dropna(axis=1, how="all")
    places = [(method, flag) for method in METHODS for flag in KNOWN if (method, flag) in table.index]
    table = table.loc[places].reset_index()
    known = table.pop("reversed").map(KNOWN)
    table.insert(1, "trigger known", known)
    return table.assign(method=table["method"].map(METHODS))


def by_method(found: pd.DataFrame, methods: Sequence[str], names: Sequence[Any]) -> pd.DataFrame:
    """One row a name before repair, and one for each of some methods and trigger known.

    Args:
        found: indexed by what tells the names apart, method and reversed.
        names: tuples, in order.
    """
    rows = []
    for name in names:
        for method in ("none", *methods):
            for flag, known in KNOWN.items():
                if (*name, method, flag) in found.index and (method != "none" or not flag):
                    about = dict(zip(found.index.names, name, strict=False))
                    about |= {"method": METHODS[method], "trigger known": known if method != "none" else ""}
                    rows.append({**about, **found.loc[(*name, method, flag)]})
    return pd.DataFrame(rows)


def network_table(
    results: Results, methods: Sequence[str] = SHOWN, key: str = "network", names: Sequence[str] = ()
) -> pd.DataFrame:
    """One row a network before repair, and one for each of some methods and trigger known.

    Args:
        key, names: what tells the networks apart, and in which order; empty: as they come.
    """
    each = names or dict.fromkeys(results.values("accuracy")[key])
    return by_method(wide(results, [key, "method", "reversed"]), methods, [(name,) for name in each])


def backdoor_table(results: Results) -> pd.DataFrame:
    """Mean and worst over the networks for every method, then network by network."""
    short = summary_table(results)
    count = int(results.values("accuracy_over_networks")["n"].max())
    parts = []
    for statistic in ("mean", "worst"):
        named = {f"{label}: {statistic}": label for label in LABELS.values()}
        part = short[["method", "trigger known", *named]].rename(columns=named)
        parts.append(part.assign(network=f"{statistic} of {count}"))
    whole = pd.concat([*parts, network_table(results, LISTED)], ignore_index=True)
    return whole[["network", "method", "trigger known", *LABELS.values()]]


def size_table(results: Results) -> pd.DataFrame:
    """One row a trigger, method and trigger known: means over the sets."""
    places = ["trigger", "size", "method", "reversed"]
    means = results.values("accuracy_over_networks", statistic="mean")
    found = wide(results, places, "{}_over_networks", statistic="mean").join(means.set_index(places)["n"])
    names = list(dict.fromkeys(zip(means["trigger"], means["size"], strict=True)))
    table = by_method(found.rename(columns={"n": "networks"}), SHOWN, names)
    return table.astype({"networks": int})


def stamps(image: Tensor, triggers: Sequence[tuple[str, Trigger, Trigger]]) -> Figure:
    """Triggers side by side: the image with the true one, with the reversed one, and the reversed one alone.

    Args:
        image: (C, H, W) in [0, 1], clean.
        triggers: name, true and reversed trigger of each network, all for images of that shape.
    Returns: the figure, a column a trigger.
    """
    figure, axes = plots.pictures(3, len(triggers), min(0.92, (plots.DOUBLE - 0.9) / len(triggers)))
    for column, (name, true, found) in zip(axes.T, triggers, strict=True):
        pictures = [true.stamp(image[None])[0], found.stamp(image[None])[0], found.mask * found.pattern]
        for ax, picture in zip(column, pictures, strict=True):
            plots.picture(ax, picture)
        column[0].set_title(name, fontsize=plots.SMALLEST)
    for ax, words in zip(axes[:, 0], ("true trigger", "reversed trigger", "reversed alone"), strict=True):
        ax.set_ylabel(words, fontsize=plots.SMALLEST)
    return figure


SHARE_OF_REPORT = "fraction of report images"
UNITS = dict.fromkeys(LABELS, SHARE_OF_REPORT) | {"accuracy_change": "difference of accuracies"}
OVER = {f"{name}_over_networks": f"{unit}, over networks" for name, unit in UNITS.items()}
ABOUT = ("families", "report_images", "repair_pairs", "reverse_steps", "unlearn_steps")
STATED = (
    ("attack_success_over_networks", {"method": "none", "reversed": True, "statistic": "mean"}, 1.0),
    ("attack_success_over_networks", {"method": "flip-stated", "reversed": True, "statistic": "mean"}, 0.011),
    ("attack_success_over_networks", {"method": "unlearn-matched", "reversed": True, "statistic": "mean"}, 0.36),
    ("accuracy_change_over_networks", {"method": "unlearn-matched", "reversed": True, "statistic": "mean"}, -0.02),
    ("accuracy_change_over_networks", {"method": "unlearn-matched", "reversed": True, "statistic": "worst"}, -0.041),
)
"""The source's values over its 34 networks, which it repairs with reversed triggers; of flipping it says further that
accuracy falls by less than .01, and in another section that success falls to .008."""
CHANGED = {"changed": "fraction of the layer's weights"}
BACKDOORS = Item(
    "lancet_backdoors", repaired, UNITS | CHANGED | OVER, STATED, backdoor_table, draw_methods, about=ABOUT
)
SIZES = Item(
    "lancet_trigger_size", sized, {"attack_success": SHARE_OF_REPORT} | OVER,
    table=size_table, draw=draw_sizes, about=ABOUT,
)  # fmt: skip
ITEMS = (BACKDOORS, SIZES)

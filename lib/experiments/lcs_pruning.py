"""Networks pruned to the same FLOPs, by image or once for all (notebook 21).

A network's name follows from that of the dense one, D: `D-on` (trained on for as long), `D-<form>` (decision units),
`D-<form>-b<budget>` (fine-tuned at a budget), the same with `-static` (one mask for all), `D-boosting-b<budget>`. These
are recipes of the scale; networks that are pruned once are trained here. Each network's row is kept by itself.
"""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from lib import dotplots, plots, training
from lib.data import ImageSet
from lib.dynamic.boosting import FeatureBoosting
from lib.dynamic.cost import macs, networks_in_turns, parameters
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs import budget as budgets
from lib.dynamic.lcs.controls import choosing, entropies, narrowed
from lib.dynamic.lcs.network import LayerwiseChannelSelection
from lib.dynamic.lcs.skipping import SkippingNetwork, folded, packed
from lib.dynamic.scratch.build import build_pruned, shrink
from lib.dynamic.scratch.search import search_threshold
from lib.dynamic.static import l1_structure
from lib.experiments.dynamic import Budgets, Dynamic, DynamicRun, Names, Positive, check_networks, titled
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.settings import Count
from lib.progress import bar

FORMS = ("stated", "standardised")
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
COLLAPSED = 0.05  # bits of a layer's choices below which it counts as collapsed
KEYS = ["network", "method", "budget"]


class Settings(Dynamic):
    """Settings of the experiment.

    Attributes:
        networks: dense networks of the scale.
        budgets: shares of their MACs, in (0, 1); each needs recipes of the scale (see above).
        images: test images.
        calibration_images: training images that BN, frequencies and static masks are measured with.
        latency_seconds: of timing, a side.
        latency_align: the skipping network fills up its channels to a multiple of this.
    """

    section: ClassVar[str] = "pruning"
    forms: ClassVar[tuple[str, ...]] = tuple(FORMS)  # of units, that there are recipes for

    networks: Names = Field(("dynamic-resnet", "dynamic-vgg16"), title="networks")
    budgets: Budgets = Field((0.5,), title="budgets", validate_default=True)
    images: Count = Field(10000, title="test images")
    calibration_images: Count = 2000
    latency_seconds: Positive = 1.0
    latency_align: Count = 8

    @field_validator("budgets")
    @classmethod
    def _are_trained(cls, chosen: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        for base in info.data.get("networks", ()):
            names = [base, f"{base}-on", *(f"{base}-{form}" for form in cls.forms)]
            for budget in chosen:
                both = [tuned(base, form, budget) for form in cls.forms]
                names += [*both, *(f"{name}-static" for name in both), f"{base}-boosting-b{budget:g}"]
            check_networks(names, info.data["scale"])
        return chosen


def tuned(base: str, form: str, budget: float) -> str:
    """The name of the network with decision units of a form, fine-tuned at a budget."""
    return f"{base}-{form}-b{budget:g}"


class LcsRun(DynamicRun[Settings]):
    """One seed's networks."""

    def test(self, base: str) -> ImageSet:
        """The test images that a network is tried on."""
        return self.images("test", self.settings.images, self.preset.recipe(base).data)

    def calibration(self, base: str) -> ImageSet:
        """Training images that BN, frequencies and static masks are measured with, as many of each class."""
        return self.images("train", self.settings.calibration_images, self.preset.recipe(base).data)

    def rows(self) -> Iterator[pd.DataFrame]:
        """Every network at every budget, pruned in every way: a table of one row each, as `measured` has it."""
        for base in self.settings.networks:
            yield self.named(base, base, "dense", 1.0, as_it_is)
            yield self.named(base, f"{base}-on", "dense-on", 1.0, as_it_is)
            for budget in self.settings.budgets:
                for form in FORMS:
                    name = tuned(base, form, budget)
                    yield self.named(base, name, form, budget, self.skipping)
                    yield self.named(base, f"{name}-static", f"{form}-static", budget, narrow)
                yield self.named(base, f"{base}-boosting-b{budget:g}", "boosting", budget, as_it_is)
                yield from (self.pruned_once(base, method, budget) for method in ("l1", "scratch"))

    def named(
        self, base: str, name: str, method: str, budget: float, prepared: Callable[[Any], tuple[nn.Module, nn.Module]]
    ) -> pd.DataFrame:
        """The row of a network of the scale; `prepared` gives the form whose accuracy counts, and the one timed."""

        def make() -> pd.DataFrame:
            model, timed = prepared(self.network(name))
            return pd.DataFrame([self.measured(base, model, timed, method, budget)])

        return self.table("lcs-pruning", self._key(base, method, budget), make, name)

    def skipping(self, lcs: LayerwiseChannelSelection) -> tuple[nn.Module, nn.Module]:
        """A network that decides for each image, and the one that runs the chosen channels only."""
        return lcs, SkippingNetwork(lcs, self.settings.latency_align)

    def pruned_once(self, base: str, method: str, budget: float) -> pd.DataFrame:
        """The row of a network that is pruned once and then trained: by L1 norm, trained on for as long as `-on`; from
        scratch, not widened before, trained for both lengths together."""
        first, on = self.preset.recipe(base), self.preset.recipe(f"{base}-on")
        recipe = on if method == "l1" else replace(first, epochs=first.epochs + on.epochs)
        key = self._key(base, method, budget) | {"recipe": recipe.plain()}
        if method == "scratch":
            key |= {"gates": self.gate_key(base)}

        def make() -> pd.DataFrame:
            train, dense, shape = self.train_images(base), self.network(base), self.shape(base)
            if method == "l1":
                model = shrink(dense, l1_structure(dense, budget, shape).keep)
            else:
                blank = build_pruned(dense, {}, seed=self.seed)
                found = search_threshold(blank, self.gates(base, blank), budget, shape)
                model = build_pruned(blank, found, seed=self.seed)
            training.fit(model, train, recipe, seed=self.seed, device=self.preset.compute.device)
            return pd.DataFrame([self.measured(base, model.eval(), model, method, budget)])

        return self.table("lcs-pruning", key, make, base)

    def measured(self, base: str, model: nn.Module, timed: nn.Module, method: str, budget: float) -> dict[str, Any]:
        """A network's accuracy, size, MACs and time, in turns with the dense network that it was pruned from.

        Args:
            model: the network whose accuracy counts.
            timed: the form that is timed.
        Returns: network, method, budget, accuracy, parameters, macs, share (of the dense network's MACs, the mean over
            test images where these choose), n; for each batch size b seconds_b (an image), time_b (as a share of the
            dense network's in the same turns); and memory_mb (slices that skipping keeps).
        """
        test, dense, shape = self.test(base), self.network(base), self.shape(base)
        whole, images = macs(dense, shape), test.float(next(dense.parameters()).device)
        if isinstance(model, LayerwiseChannelSelection):
            spent = budgets.image_macs(model, images).double().mean().item()
        else:
            spent = model.share(shape) * whole if isinstance(model, FeatureBoosting) else float(macs(model, shape))
        row: dict[str, Any] = {"network": base, "method": method, "budget": budget}
        row |= {"accuracy": training.accuracy(model, test), "parameters": parameters(model), "macs": spent}
        row |= {"share": spent / whole, "n": len(test)}
        one, peer = _deployed(timed), _deployed(dense)
        for batch in self.settings.latency_batches:
            parts = images[: 8 * batch].contiguous(memory_format=torch.channels_last).split(batch)
            parts = [part for part in parts if len(part) == batch]
            if not parts:
                raise DynamicError(f"latency_batches: {len(images)} test images make no batch of {batch}: take more")
            turns = networks_in_turns(one, peer, parts, self.settings.latency_seconds)
            row |= {f"seconds_{batch}": turns.seconds / batch, f"time_{batch}": turns.share}
        row["memory_mb"] = one.memory() / 1e6 if isinstance(one, SkippingNetwork) else 0.0
        return row

    def _key(self, base: str, method: str, budget: float) -> dict[str, Any]:
        names = ("latency_batches", "latency_seconds", "latency_align")
        about = {"network": base, "method": method, "budget": budget, "images": self.test(base).fingerprint}
        return {**about, "latency": {name: getattr(self.settings, name) for name in names}}

    def stages(self, base: str, form: str, budget: float) -> pd.DataFrame:
        """What a network with decision units goes through: trained, thresholded, BN recalibrated, fine-tuned."""
        begun, name = f"{base}-{form}", tuned(base, form, budget)
        hooks = self.preset.recipe(name).hooks  # the fine-tuned network's recipe says what every row keeps
        least = float(next((plug["least"] for plug in hooks if "least" in plug), 0.1))

        def make() -> pd.DataFrame:
            lcs: Any = self.network(begun)
            images = self.calibration(base).float(lcs.device)
            rows = [self._stage(base, lcs, "trained")]
            cut = copy.deepcopy(lcs)
            budgets.threshold(cut, budget, images, least)
            rows.append(self._stage(base, cut, "thresholded"))
            cut.recalibrate_bn(images, units=True)
            rows += [self._stage(base, cut, "recalibrated"), self._stage(base, self.network(name), "tuned")]
            return pd.DataFrame([{"network": base, "form": form, "budget": budget, **row} for row in rows])

        key = {**self._images(base), "budget": budget, "from": self.card(begun)["weights"], "least": least}
        return self.table("lcs-stages", key, make, name)

    def _stage(self, base: str, lcs: Any, stage: str) -> dict[str, Any]:
        test, images = self.test(base), self.test(base).float(lcs.device)
        bits = list(entropies(lcs.frequencies(images)).values())
        return {
            "stage": stage,
            "accuracy": training.accuracy(lcs, test),
            "share": budgets.share_of(lcs, images),
            "zeros": lcs.sparsity(),
            "magnitude": lcs.magnitude(),
            "entropy": sum(bits) / len(bits),
            "collapsed": sum(value < COLLAPSED for value in bits) / len(bits),
            "n": len(test),
        }

    def choices(self, base: str, form: str, budget: float) -> pd.DataFrame:
        """The fine-tuned network with masks chosen in every way of `CHOICES`, BN recalibrated for each."""
        name = tuned(base, form, budget)

        def make() -> pd.DataFrame:
            lcs: Any = self.network(name)
            test, images = self.test(base), self.calibration(base).float(lcs.device)
            rows = []
            for choice in CHOICES:
                with choosing(lcs, choice, images, self.seed) as other:
                    other.recalibrate_bn(images)
                    share = budgets.share_of(other, test.float(lcs.device))
                    rows.append({"choice": choice, "accuracy": training.accuracy(other, test), "share": share})
            about = {"network": base, "form": form, "budget": budget}
            return pd.DataFrame([{**about, **row, "n": len(test)} for row in rows])

        return self.table("lcs-choices", {**self._images(base), "budget": budget}, make, name)

    def _images(self, base: str) -> dict[str, Any]:
        return {"images": self.test(base).fingerprint, "calibration": self.calibration(base).fingerprint}


def as_it_is(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The network whose accuracy counts is the one that is timed."""
    return model, model


def narrow(lcs: LayerwiseChannelSelection) -> tuple[nn.Module, nn.Module]:
    """One mask for all is a narrower network."""
    return narrowed(lcs), narrowed(lcs)


def _deployed(model: nn.Module) -> nn.Module:
    """A network as it would be run: BN folded, weights packed; one that is dynamic as it is."""
    if isinstance(model, (SkippingNetwork, FeatureBoosting, LayerwiseChannelSelection)):
        return model.to(memory_format=torch.channels_last)
    return packed(folded(model).to(memory_format=torch.channels_last))


def pruned(settings: Settings, seed: int) -> pd.DataFrame:
    """What is measured, one row each.

    Returns: at {network, method, budget}: accuracy, parameters, macs, share, memory_mb and, at a batch size as well,
        seconds (an image) and time (as a share of the dense network's); at {network, form, budget, stage}: the
        measures of stages, each behind "stage_"; at {network, form, budget, choice}: choice_accuracy, choice_share.
    """
    run, rows = LcsRun(settings, seed), []
    for row in (table.iloc[0] for table in bar(list(run.rows()), desc="pruned networks")):
        where = {**{key: row[key] for key in KEYS}, "budget": float(row["budget"]), "n": int(row["n"])}
        rows += [{"measure": m, "value": row[m], **where} for m in ("accuracy", "parameters", "macs", "share")]
        if row["method"] in FORMS:
            rows.append({"measure": "memory_mb", "value": row["memory_mb"], **where})
        for batch in settings.latency_batches:
            values = {"seconds": row[f"seconds_{batch}"], "time": row[f"time_{batch}"]}
            rows += [{"measure": m, "value": value, **where, "batch": batch} for m, value in values.items()]
    cases = [(base, form, b) for base in settings.networks for form in FORMS for b in settings.budgets]
    for kind, tables in (("stage", run.stages), ("choice", run.choices)):
        for row in pd.concat([tables(*case) for case in cases]).to_dict("records"):
            where = {key: row.pop(key) for key in ("network", "form", kind)}
            where |= {"budget": float(row.pop("budget")), "n": int(row.pop("n"))}
            rows += [{"measure": f"{kind}_{name}", "value": value, **where} for name, value in row.items()]
    return run.tidy(rows)


def method_table(results: Results) -> pd.DataFrame:
    """One row a network, budget and method: accuracy, size, MACs, FLOPs and time as shares of the whole network's."""
    shown = {"accuracy": "accuracy", "parameters": "parameters", "macs": "MACs", "share": "FLOPs"}
    columns = {title: results.values(name).set_index(KEYS)["value"] for name, title in shown.items()}
    for batch, rows in results.values("time").groupby("batch"):
        columns[f"time, batch {int(batch)}"] = rows.set_index(KEYS)["value"]
    wide = pd.DataFrame(columns).reset_index()
    order = {"network": list(results.settings.networks).index, "method": list(METHODS).index, "budget": lambda b: -b}
    wide = wide.sort_values(["network", "budget", "method"], key=lambda column: column.map(order[column.name]))
    return wide.assign(method=wide["method"].map(METHODS)).reset_index(drop=True)


def wide(results: Results, kind: str) -> pd.DataFrame:
    """One row a network, form, budget and stage or choice, with its measures.

    Args:
        kind: "stage" or "choice".
    """
    words, keys = {"stage": STAGES, "choice": CHOICES}[kind], ["network", "form", "budget", kind]
    names = [name for name in UNITS if name.startswith(f"{kind}_")]
    table = pd.DataFrame({name: results.values(name).set_index(keys)["value"] for name in names}).reset_index()
    order = {"network": list(results.settings.networks), "form": list(FORMS), kind: list(words)}
    table = table.sort_values(keys, key=lambda c: c.map(order[c.name].index) if c.name in order else c)
    titles = {name: name.removeprefix(f"{kind}_") for name in names} | {f"{kind}_share": "FLOPs"}
    return table.replace({kind: words}).rename(columns=titles).reset_index(drop=True)


def draw_methods(results: Results) -> Figure:
    """Accuracy of each method at each budget with its interval over seeds, and the dense networks as lines."""
    held, whole = results.values("accuracy"), ("dense", "dense-on")
    figure, axes = _panels(results, 2.5)
    order = [method for method in METHODS if method not in whole]
    for ax, network in zip(axes, results.settings.networks, strict=True):
        rows = held[held["network"] == network]
        shares = sorted(set(rows["budget"]) - {1})
        for index, budget in enumerate(shares):
            part = rows[rows["budget"] == budget]
            places = dotplots.row_of(part["method"], order) + 0.16 * (index - (len(shares) - 1) / 2)
            dotplots.intervals(ax, part, places, index, capsize=2, label=f"{budget:g} of the FLOPs")
        for method, dash in zip(whole, ("-", (0, (3, 2))), strict=True):
            value = rows[rows["method"] == method]["value"].iloc[0]
            look: dict[str, Any] = {"color": "#555555", "linewidth": 0.9, "linestyle": dash, "marker": ""}
            ax.axvline(value, label=METHODS[method], **look)
        plots.named_rows(ax, [textwrap.fill(METHODS[method], 18) for method in order])
    plots.legend_below(axes, 2)
    return figure


def draw_choices(results: Results) -> Figure:
    """Accuracy of the fine-tuned networks with masks chosen in each way, by form, at the smallest budget."""
    held = results.values("choice_accuracy", budget=min(results.settings.budgets))
    figure, axes = _panels(results, 2.2)
    for ax, network in zip(axes, results.settings.networks, strict=True):
        for index, form in enumerate(FORMS):
            part = held[(held["network"] == network) & (held["form"] == form)]
            places = dotplots.row_of(part["choice"], list(CHOICES)) + 0.2 * (index - 0.5)
            dotplots.intervals(ax, part, places, index, capsize=2, label=form)
        plots.named_rows(ax, [textwrap.fill(words, 18) for words in CHOICES.values()])
    plots.legend_below(axes, 2)
    return figure


def _panels(results: Results, height: float) -> tuple[Figure, np.ndarray]:
    """A panel a network, one above the other, with one axis of accuracies; `height` of a panel, in inches."""
    figure, axes = plots.grid(len(results.settings.networks), 1, height, plots.SINGLE, sharex=True)
    for ax, network in zip(axes, results.settings.networks, strict=True):
        ax.set_title(titled(network))
    axes[-1].set_xlabel("accuracy on test images")
    return figure, axes


_OF_UNITS = {
    "accuracy": SHARE,
    "share": "fraction of the whole network's FLOPs",
    "zeros": "fraction of mask entries",
    "magnitude": "mean mask entry",
    "entropy": "bits, mean over layers",
    "collapsed": "fraction of layers",
}
UNITS = {
    **{name: _OF_UNITS[name] for name in ("accuracy", "share")},
    "parameters": "parameters",
    "macs": "multiply-accumulates an image",
    "memory_mb": "MB of slices",
    "seconds": "s an image",
    "time": "fraction of the whole network's time",
    **{f"stage_{name}": unit for name, unit in _OF_UNITS.items()},
    **{f"choice_{name}": _OF_UNITS[name] for name in ("accuracy", "share")},
}
ABOUT = ("networks", "budgets", "images", "gate_images", "gate_epochs")
PRUNING = Item("lcs_pruning", pruned, UNITS, table=method_table, draw=draw_methods, about=ABOUT)
ITEMS = (PRUNING,)

"""What does a slice cost (notebook 11): seconds by phase, of one input or many, and growth with size and threads."""

from __future__ import annotations

import copy
import importlib.util
import textwrap
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Annotated, Any, ClassVar

import pandas as pd
import torch
from matplotlib.figure import Figure
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from lib import compute, config, data, plots
from lib.experiments import nnslicer
from lib.experiments.item import Item, Results
from lib.experiments.nnslicer import SlicingRun
from lib.experiments.settings import Count
from lib.models.resnet import PreActResNet
from lib.slicing.backward import slice
from lib.slicing.kinds import Graph, SlicingError, last_convolution
from lib.slicing.profiling import NeuronProfile, profile

VERSION = 2  # raise it when what is measured changes, the code of slicing among it

Counts = Annotated[tuple[Count, ...], Field(min_length=1)]

PHASES = (
    "forward",
    "backward",
    "slice",
    "slice-to-last-convolution",
    "forward-and-backward-pass",
    "plain-rule",
    "profile",
)
AXES = {
    "batch": "inputs sliced together",
    "threads": "threads",
    "width": "filters of the stem",
    "blocks": "residual blocks a stage",
}


class Settings(nnslicer.NNSlicer):
    """Settings of the experiment; the source states seconds alone. Times depend on the machine, so that another device
    or number of threads measures anew.

    Attributes:
        deep: a second, deeper network.
        inputs: test images that are sliced together.
        batches: how many are sliced together, to see that an input's cost does not depend on it; at most `inputs` are.
        threads: how many work at once, tried on a CPU; all else here is measured with those of the scale.
        widths, blocks: filters of the stem, and residual blocks a stage, of networks with random weights.
        profiled: training images behind those networks' profiles.
        plain: inputs that the rule in plain Python slices.
    """

    section: ClassVar[str] = "overhead"

    deep: str = "nnslicer-resnet18"
    inputs: Count = Field(64, title="test images sliced together")
    batches: Counts = (1, 4, 16, 64)
    threads: Counts = (1, 2)
    widths: Counts = (4, 8, 16, 32)
    blocks: Counts = (1, 2, 3)
    profiled: Count = 200
    plain: Count = 1

    @field_validator("deep")
    @classmethod
    def _another(cls, deep: str, info: ValidationInfo) -> str:
        if deep == info.data.get("network"):
            raise ValueError("another network than the first is wanted")
        return deep


def plain_rule() -> ModuleType:
    """The rule in plain Python, one output neuron at a time, which the tests hold slices against.

    Raises: SlicingError where this is an installation without the tests.
    """
    path = config.ROOT / "tests" / "slicing" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    if not path.exists() or spec is None or spec.loader is None:
        raise SlicingError(f"{path} is not there: the plain rule comes with a checkout, not with an installation")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class OverheadRun(SlicingRun[Settings]):
    """Slices of one seed's networks under the clock."""

    def costs(self, network: str) -> pd.DataFrame:
        """Seconds an input of a network by phase; kept.

        Returns: rows of network, inputs ("single", "batched"), phase (of `PHASES`, or "peak-memory" in MB), value, n.
        """
        return self._kept("nnslicer-overhead", network, partial(self._costs, network))

    def growth(self) -> pd.DataFrame:
        """Seconds an input as batch, threads, width and depth grow; the last two on networks of random weights; kept.

        Returns: rows of axis (of `AXES`), size, value, n.
        """
        return self._kept("nnslicer-growth", self.settings.network, self._growth)

    def _kept(self, kind: str, network: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        own = self.settings.model_dump(mode="json")
        names = ("inputs", "batches", "threads", "widths", "blocks", "profiled", "plain")
        key = {f"overhead_{name}": own[name] for name in names} | self.settings.unusual("theta", "reference", "neuron")
        key |= {"device": compute.describe(), "threads": torch.get_num_threads(), "network": network}
        self.sliced()  # notes the images
        return self.table(kind, key, make, network, VERSION)

    def sliced(self) -> Tensor:
        """The test images, uint8."""
        return self.images("test", self.settings.inputs).images

    def slice(self, model: nn.Module, images: Tensor, known: NeuronProfile, **options: Any) -> Any:
        return slice(model, images, known, self.settings.theta, reference=self.settings.reference, **options)

    def _costs(self, name: str) -> pd.DataFrame:
        model, images = self.network(name), self.sliced()
        train = self.train.stratified(self.settings.profiled, seed=0)
        began = time.perf_counter()
        known = self.pooled(profile(model, train.images, train.labels, len(train.classes)))
        rows = [_row(name, "batched", "profile", (time.perf_counter() - began) / len(train), len(train))]
        self.slice(model, images[:1], known)  # compiles
        graph = Graph(model)
        for kind, some in (("single", images[:1]), ("batched", images)):
            count = len(some)
            forward = best(graph.record, some, graph.values_needed()) / count
            whole = best(self.slice, model, some, known) / count
            stopped = best(self.slice, model, some, known, layers=[last_convolution(model)]) / count
            found = {
                "forward": forward,
                "backward": max(whole - forward, 0.0),
                "slice": whole,
                "slice-to-last-convolution": stopped,
                "forward-and-backward-pass": best(one_pass, model, some) / count,
            }
            rows += [_row(name, kind, phase, value, count) for phase, value in found.items()]
        if name == self.settings.network:
            rows.append(self._plain(name, model, images[: self.settings.plain], known))
        rows.append(_row(name, "batched", "peak-memory", float(compute.peak_memory_mb()), len(images)))
        return pd.DataFrame(rows)

    def _plain(self, name: str, model: nn.Module, images: Tensor, known: NeuronProfile) -> dict[str, Any]:
        """Seconds of the plain rule, on the CPU, whose slices must be ours."""
        rule, found, chosen = plain_rule(), self.slice(model, images, known), self.settings
        graph, images, known = Graph(copy.deepcopy(model).cpu()), images.cpu(), known.to("cpu")
        seconds = []
        for index in range(len(images)):
            began = time.perf_counter()
            synapses, _, _ = rule.slice_of(graph, images, index, known, chosen.reference, chosen.theta)
            seconds.append(time.perf_counter() - began)
            for layer, wanted in synapses.items():
                if (found.synapses[layer][index].cpu().numpy() != wanted).any():
                    raise SlicingError(f"layer {layer!r}: the fast slice differs from the plain rule's")
        return _row(name, "single", "plain-rule", sum(seconds) / len(seconds), len(images))

    def _growth(self) -> pd.DataFrame:
        chosen, images = self.settings, self.sliced()
        known = self._profiled(self.model)
        rows = []
        for batch in dict.fromkeys(min(batch, len(images)) for batch in chosen.batches):
            some = images[:batch]
            seconds = best(self.slice, self.model, some, known) / len(some)
            rows.append({"axis": "batch", "size": len(some), "value": seconds, "n": len(some)})
        usual = torch.get_num_threads()
        for count in chosen.threads if next(self.model.parameters()).device.type == "cpu" else ():
            try:
                torch.set_num_threads(count)
                seconds = best(self.slice, self.model, images, known) / len(images)
            finally:
                torch.set_num_threads(usual)
            rows.append({"axis": "threads", "size": count, "value": seconds, "n": len(images)})
        few = images[: min(8, len(images))]
        shapes = [("width", width, (1, 1, 1, 1), width) for width in chosen.widths]
        middle = min(16, max(chosen.widths))
        shapes += [("blocks", blocks, (blocks,) * 4, middle) for blocks in chosen.blocks]
        for axis, size, blocks, width in shapes:
            grown = self._random_network(blocks, width, images)
            means = self._profiled(grown, by_prediction=True)
            self.slice(grown, few[:1], means)
            seconds = best(self.slice, grown, few, means) / len(few)
            rows.append({"axis": axis, "size": size, "value": seconds, "n": len(few)})
        return pd.DataFrame(rows)

    def _random_network(self, blocks: tuple[int, ...], width: int, images: Tensor) -> nn.Module:
        """A network of random weights whose normalisation has seen the images."""
        spec = data.SETS[self.settings.data]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(self.seed)
            model = PreActResNet(spec.shape, spec.classes, nn.Identity(), blocks, width)
            model.train()(images.float() / 255)
        return model.eval()

    def _profiled(self, model: nn.Module, by_prediction: bool = False) -> NeuronProfile:
        train = self.train.stratified(self.settings.profiled, seed=0)
        labels = train.labels
        if by_prediction:  # an untrained network's own classes, so that each that it predicts has a mean
            graph = Graph(model)
            labels = graph.record(train.images, ())[0][graph.output].argmax(1)
        return self.pooled(profile(model, train.images, labels, len(train.classes)))


def one_pass(model: nn.Module, images: Tensor) -> None:
    """One forward and backward pass of uint8 images in float32."""
    on = next(model.parameters()).device
    labels = torch.zeros(len(images), dtype=torch.int64, device=on)
    with compute.autocast(on, "float32"):
        logits = model(images.to(on).float() / 255)
    nn.functional.cross_entropy(logits, labels).backward()
    model.zero_grad()


def best(work: Callable[..., Any], *arguments: Any, **keywords: Any) -> float:
    """Seconds of the fastest of three runs."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        work(*arguments, **keywords)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _row(network: str, inputs: str, phase: str, value: float, n: int) -> dict[str, Any]:
    return {"network": network, "inputs": inputs, "phase": phase, "value": value, "n": n}


def measured(settings: Settings, seed: int) -> pd.DataFrame:
    """What slicing costs.

    Returns: tidy, "seconds" an input at {network, inputs, phase} and at {axis, size}; "peak_memory" at {network,
        inputs, phase}.
    """
    run = OverheadRun(settings, seed)
    rows: list[dict[str, Any]] = []
    for name in (settings.network, settings.deep):
        for row in run.costs(name).to_dict("records"):
            measure = "peak_memory" if row["phase"] == "peak-memory" else "seconds"
            rows.append({"measure": measure, **row, "network": name.removeprefix("nnslicer-"), "n": int(row["n"])})
    for row in run.growth().to_dict("records"):
        rows.append({"measure": "seconds", **row, "size": float(row["size"]), "n": int(row["n"])})
    return run.tidy(rows)


def draw(results: Results) -> Figure:
    """Seconds an input by phase, a panel a network, with what the source states."""
    rows = results.values("seconds")
    rows = rows.assign(paper_value=rows.get("paper_value"))[rows["phase"].notna()]
    figure, axes = plots.grid(2, 1, 2.5, plots.SINGLE, sharex=True)
    for ax, network in zip(axes, dict.fromkeys(rows["network"]), strict=True):
        phases = [phase for phase in PHASES if phase in set(rows[rows["network"] == network]["phase"])]
        for index, inputs in enumerate(("single", "batched")):
            part = rows[(rows["network"] == network) & (rows["inputs"] == inputs)].set_index("phase")
            part = part.loc[[phase for phase in phases if phase in part.index]]
            place = [phases.index(phase) + 0.18 * (2 * index - 1) for phase in part.index]
            ax.barh(place, part["value"], 0.34, color=plots.PALETTE[index], label=f"{inputs}, ours")
            look: dict[str, Any] = {"color": plots.PALETTE[index], "marker": plots.MARKERS[index + 2]}
            ax.scatter(part["paper_value"].astype(float), place, s=28, label=f"{inputs}, as published", **look)
        plots.named_rows(ax, [textwrap.fill(phase.replace("-", " "), 15) for phase in phases])
        ax.set(xscale="log", title=network)
    axes[-1].set_xlabel("seconds an input")
    plots.legend_below(axes, 2)
    return figure


def draw_growth(results: Results) -> Figure:
    """Seconds an input as batch, threads, width and depth grow, a panel each."""
    rows = results.values("seconds")
    shown = {axis: words for axis, words in AXES.items() if axis in set(rows["axis"])}
    figure, axes = plots.panels(len(shown), height=2.1)
    for index, (ax, (axis, words)) in enumerate(zip(axes, shown.items(), strict=True)):
        part = rows[rows["axis"] == axis].sort_values("size")
        ax.plot(part["size"], part["value"] * 1e3, **plots.look(index))
        ax.set_xscale("log", base=2)
        ax.set_xticks(part["size"], [f"{size:g}" for size in part["size"]])
        ax.minorticks_off()
        ax.set_ylim(bottom=0)
        ax.set_xlabel(words)
    axes[0].set_ylabel("milliseconds an input")
    return figure


def beside_stated(results: Results) -> pd.DataFrame:
    """For display: seconds of a whole slice beside those that the source states, and how many passes a slice takes."""
    rows = results.values("seconds")
    rows = rows[rows["phase"].notna()].sort_values("inputs", ascending=False, kind="stable")
    lines = []
    for (network, inputs), part in rows.groupby(["network", "inputs"], sort=False):
        seconds = part.set_index("phase")["value"]
        line = {"network": network, "inputs": inputs, "published, s": "", "ours, s": f"{seconds['slice']:.4f}"}
        line["published / ours"] = ""
        for _, at, stated in STATED:
            if (at["network"], at["inputs"]) == (network, inputs):
                line["published, s"], line["published / ours"] = f"{stated:g}", f"{stated / seconds['slice']:,.0f}"
        passes = seconds["slice"] / seconds["forward-and-backward-pass"]
        line["ours / one forward and backward pass"] = f"{passes:.1f}"
        plain = seconds.get("plain-rule")
        line["plain rule / ours"] = "" if plain is None else f"{plain / seconds['slice']:.0f}"
        lines.append(line)
    return pd.DataFrame(lines)


STATED: tuple[tuple[str, dict[str, str], float], ...] = (
    ("seconds", {"network": "resnet10", "inputs": "single", "phase": "slice"}, 40.0),
    ("seconds", {"network": "resnet18", "inputs": "single", "phase": "slice"}, 550.0),
    ("seconds", {"network": "resnet10", "inputs": "batched", "phase": "slice"}, 3.0),
    ("seconds", {"network": "resnet18", "inputs": "batched", "phase": "slice"}, 40.0),
)
"""Seconds an input that the source states for a whole slice."""
OVERHEAD = Item(
    "nnslicer_overhead", measured, {"seconds": "seconds an input", "peak_memory": "MB"}, STATED, draw=draw,
    about=("inputs",),
)  # fmt: skip
ITEMS = (OVERHEAD,)

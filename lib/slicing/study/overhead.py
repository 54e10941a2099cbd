"""What slicing costs: seconds by phase, one input or many, and growth with batch, width and depth."""

from __future__ import annotations

import copy
import importlib.util
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lib import compute, config, data, evaluations, zoo
from lib.slicing.backward import slice
from lib.slicing.graph import Graph, SlicingError, last_convolution
from lib.slicing.profiling import NeuronProfile, profile
from lib.slicing.study import evaluation

VERSION = 1  # raise it when what is measured changes

DEFAULTS: dict[str, Any] = {
    "overhead_inputs": 64,
    "overhead_batches": [1, 4, 16, 64],
    "overhead_widths": [4, 8, 16, 32],
    "overhead_blocks": [1, 2, 3],
    "overhead_profiled": 200,
    "overhead_plain": 1,
}
"""Inputs of a batch; batch sizes, widths and blocks a stage to grow through, the images behind those networks'
profiles, and the inputs that the plain rule slices."""


def settings(scale: str) -> dict[str, Any]:
    """The scale's settings of this part."""
    return {**DEFAULTS, **evaluation.settings(scale)}


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


def make(scale: str, seed: int = 0) -> pd.DataFrame:
    """Everything that is measured of the study's two networks; `growth` included."""
    return pd.concat([overhead(scale, seed), growth(scale, seed)], ignore_index=True)


def overhead(scale: str, seed: int = 0) -> pd.DataFrame:
    """Seconds an input of the study's networks.

    Returns: rows of network, inputs ("single", "batched"), phase ("profile", "forward", "backward", "slice",
        "slice-to-last-convolution", "plain-rule", "forward-and-backward-pass"), value in seconds an input, n; and
        phase "peak-memory", in MB.
    """
    chosen = settings(scale)
    frames = []
    for name in (chosen["network"], chosen["deep"]):
        frames.append(_measured("nnslicer-overhead", name, scale, seed, partial(_of_network, name, scale, seed)))
    return pd.concat(frames, ignore_index=True)


def growth(scale: str, seed: int = 0) -> pd.DataFrame:
    """Seconds an input as batch, width and depth grow; widths and depths on networks of random weights.

    Returns: rows of axis ("batch", "width", "blocks"), size, value in seconds an input, n.
    """
    return _measured("nnslicer-growth", settings(scale)["network"], scale, seed, partial(_growth, scale, seed))


def _measured(kind: str, network: str, scale: str, seed: int, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    key = {name: settings(scale)[name] for name in DEFAULTS}
    key |= {"device": compute.describe(), "threads": torch.get_num_threads(), "network": network}
    return evaluations.kept(kind, network, scale, seed, key, make, VERSION)


def _inputs(scale: str) -> Tensor:
    chosen = settings(scale)
    return data.load(chosen["data"], "test").stratified(chosen["overhead_inputs"], seed=0).images


def _of_network(name: str, scale: str, seed: int) -> pd.DataFrame:
    chosen = settings(scale)
    model, images = zoo.get(name, scale, seed), _inputs(scale)
    train = evaluation.training_images(chosen["data"]).stratified(chosen["overhead_profiled"], seed=0)
    began = time.perf_counter()
    known = profile(model, train.images, train.labels, len(train.classes))
    rows: list[dict[str, Any]] = [
        _row(name, "batched", "profile", (time.perf_counter() - began) / len(train), len(train))
    ]
    slice(model, images[:1], known)  # compiles
    graph = Graph(model)
    for kind, some in (("single", images[:1]), ("batched", images)):
        count = len(some)
        forward = _best(graph.record, some, graph.values_needed()) / count
        whole = _best(slice, model, some, known) / count
        stopped = _best(slice, model, some, known, layers=[last_convolution(model)]) / count
        found = {
            "forward": forward,
            "backward": max(whole - forward, 0.0),
            "slice": whole,
            "slice-to-last-convolution": stopped,
            "forward-and-backward-pass": _best(_pass, model, some) / count,
        }
        rows += [_row(name, kind, phase, value, count) for phase, value in found.items()]
    if name == chosen["network"]:
        rows.append(_plain(name, model, images[: chosen["overhead_plain"]], known))
    rows.append(_row(name, "batched", "peak-memory", float(compute.peak_memory_mb()), len(images)))
    return pd.DataFrame(rows)


def _plain(name: str, model: nn.Module, images: Tensor, known: NeuronProfile) -> dict[str, Any]:
    """Seconds of the plain rule, on the CPU, whose slices must be ours."""
    reference, found = plain_rule(), slice(model, images, known)
    graph, images, known = Graph(copy.deepcopy(model).cpu()), images.cpu(), known.to("cpu")
    seconds = []
    for index in range(len(images)):
        began = time.perf_counter()
        synapses, _, _ = reference.slice_of(graph, images, index, known)
        seconds.append(time.perf_counter() - began)
        for layer, wanted in synapses.items():
            if (found.synapses[layer][index].cpu().numpy() != wanted).any():
                raise SlicingError(f"layer {layer!r}: the fast slice differs from the plain rule's")
    return _row(name, "single", "plain-rule", sum(seconds) / len(seconds), len(images))


def _growth(scale: str, seed: int) -> pd.DataFrame:
    chosen, images = settings(scale), _inputs(scale)
    model = evaluation.network_of(scale, seed)
    known = _profiled(model, scale)
    rows = []
    for batch in chosen["overhead_batches"]:
        some = images[:batch]
        seconds = _best(slice, model, some, known) / len(some)
        rows.append({"axis": "batch", "size": len(some), "value": seconds, "n": len(some)})
    few = images[: min(8, len(images))]
    spec = data.SETS[chosen["data"]]
    shapes = [("width", width, (1, 1, 1, 1), width) for width in chosen["overhead_widths"]]
    middle = min(16, max(chosen["overhead_widths"]))
    shapes += [("blocks", blocks, (blocks,) * 4, middle) for blocks in chosen["overhead_blocks"]]
    for axis, size, blocks, width in shapes:
        grown = _random_network(spec, blocks, width, images, seed)
        means = _profiled(grown, scale, by_prediction=True)
        slice(grown, few[:1], means)
        seconds = _best(slice, grown, few, means) / len(few)
        rows.append({"axis": axis, "size": size, "value": seconds, "n": len(few)})
    return pd.DataFrame(rows)


def _random_network(spec: Any, blocks: tuple[int, ...], width: int, images: Tensor, seed: int) -> nn.Module:
    """A network of random weights whose normalisation has seen the images."""
    from lib.models.resnet_preact import PreActResNet

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = PreActResNet(spec.shape, spec.classes, nn.Identity(), blocks, width)
        model.train()(images.float() / 255)
    return model.eval()


def _profiled(model: nn.Module, scale: str, by_prediction: bool = False) -> NeuronProfile:
    chosen = settings(scale)
    train = evaluation.training_images(chosen["data"]).stratified(chosen["overhead_profiled"], seed=0)
    labels = train.labels
    if by_prediction:  # an untrained network's own classes, so that each that it predicts has a mean
        graph = Graph(model)
        labels = graph.record(train.images, ())[0][graph.output].argmax(1)
    return profile(model, train.images, labels, len(train.classes))


def _pass(model: nn.Module, images: Tensor) -> None:
    on = next(model.parameters()).device
    loss = nn.functional.cross_entropy(
        model(images.to(on).float() / 255), torch.zeros(len(images), dtype=torch.int64, device=on)
    )
    loss.backward()
    model.zero_grad()


def _best(work: Callable[..., Any], *arguments: Any, **keywords: Any) -> float:
    """Seconds of the fastest of three runs."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        work(*arguments, **keywords)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _row(network: str, inputs: str, phase: str, value: float, n: int) -> dict[str, Any]:
    return {"network": network, "inputs": inputs, "phase": phase, "value": value, "n": n}

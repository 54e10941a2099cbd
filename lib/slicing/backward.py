"""Phases two and three: what each neuron does on given inputs, and which synapses and neurons shaped the output.

Source: NNSlicer (FSE 2020, https://arxiv.org/abs/2009.13747), section 3 and the released code; EffectivePath (Qiu et
al., CVPR 2019, https://arxiv.org/abs/1904.08089) by the same machinery.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib import progress
from lib.data import as_images, with_gradients
from lib.slicing import compiled, tensors
from lib.slicing.kinds import Graph, Operation, SlicingError
from lib.slicing.profiling import NeuronProfile
from lib.slicing.rules import EffectivePath, NNSlicer, Rule
from lib.slicing.slices import Slices
from lib.slicing.windows import convolve, pooled

MEMORY = 2**30  # bytes that the values and contributions of one chunk of inputs may take
LIMIT = 8 * 2**30  # bytes that a result may take
Criterion = int | Sequence[Any] | Tensor | None
Engine = Any


@with_gradients
def slice(
    model: nn.Module,
    images: Tensor,
    profile: NeuronProfile,
    theta: float = 0.2,
    bar: float = 0.01,
    reference: str = "predicted",
    layers: Sequence[str] | None = None,
    criterion: Criterion = None,
    **options: Any,
) -> Slices:
    """The dynamic slice of a network for each input: the synapses and neurons that shaped its output.

    Args:
        model: a network that torch.fx can trace, of the operations that docs/own_networks.md lists. It is left as it
            is; the forward phase runs in float64.
        images: (N, C, H, W) in [0, 1], float, or uint8 in 0..255.
        profile: of this network, from `profile`.
        theta: granularity in [0, 1): how near the kept terms' sum comes to the whole sum; larger keeps less.
        bar: terms within this share below the smallest kept magnitude are kept too, in [0, 1).
        reference: deviations are from the mean of the class that the network predicts ("predicted", the released
            code) or from the mean over the whole set ("dataset", the paper's text).
        layers: what to keep, and where to stop: dotted module names, or "input". None: the synapses and neurons of
            every convolution and linear layer, and the image's neurons.
        criterion: the neurons to slice for. None: the predicted logit. A number or a sequence of numbers: these
            logits. A tensor or array of whole numbers (N,): one logit for each input. (layer, index): one neuron of a
            hidden layer, index into its output, flat or by dimension. An integer tensor (N, logits): CONTRIB of each
            logit.
        options: memory (bytes a chunk may take), limit (bytes the result may take), threads (None: torch's count),
            engine ("auto": compiled loops on the CPU, batched tensor operations elsewhere; "compiled", "tensor";
            "fused", a kernel for GPUs in Triton, which has run in Triton's interpreter only so far).
    Returns: signed contributions, on the CPU.
    Raises: SlicingError for an operation that cannot be sliced, a profile of another network, a layer that does not
        exist, or a result above `limit`.
    Source: NNSlicer (FSE 2020), section 3.
    """
    rule = NNSlicer(profile, theta, bar, reference)
    return _together(model, images, rule, layers, criterion, **options)


@with_gradients
def effective_path(
    model: nn.Module,
    images: Tensor,
    theta: float = 0.5,
    layers: Sequence[str] | None = None,
    criterion: Criterion = None,
    **options: Any,
) -> Slices:
    """The effective path of a network for each input: the fewest largest terms that make up `theta` of each sum.

    Args:
        model, images, layers, criterion, options: as in `slice`.
        theta: share of a neuron's sum that its kept terms reach, in (0, 1]. A negative output is explained by its
            negative terms; where no term helps, the largest alone is kept.
    Returns: presence: 1 where a synapse or neuron is on the path.
    Raises: SlicingError as `slice`.
    Source: Qiu et al. (CVPR 2019), section 3.1.
    """
    return _together(model, images, EffectivePath(theta), layers, criterion, **options)


def slices_by_chunk(
    model: nn.Module,
    images: Tensor,
    rule: Rule,
    layers: Sequence[str] | None = None,
    criterion: Criterion = None,
    memory: int = MEMORY,
    threads: int | None = None,
    engine: str = "auto",
) -> Iterator[Slices]:
    """Slices of any number of inputs in bounded memory: a chunk of inputs at a time.

    Args: as `slice`; rule is `NNSlicer(profile, theta, bar, reference)` or `EffectivePath(theta)`.
    Yields: the slices of consecutive inputs; at most `memory` bytes are used for a chunk, result and all (for one
        input, where a single one takes more).
    """
    backward = _Backward(model, rule, layers, threads, engine)
    size = max(1, memory // backward.bytes_each(images[:1])) if len(images) else 1
    for start in progress.bar(range(0, len(images), size), desc="slice"):
        part = images[start : start + size]
        yield backward.run(part, _of_chunk(criterion, start, len(part), len(images)))


def _together(
    model: nn.Module,
    images: Tensor,
    rule: Rule,
    layers: Sequence[str] | None,
    criterion: Criterion,
    memory: int = MEMORY,
    limit: int = LIMIT,
    threads: int | None = None,
    engine: str = "auto",
) -> Slices:
    images = as_images(images, error=SlicingError)
    parts: list[Slices] = []
    for part in slices_by_chunk(model, images, rule, layers, criterion, memory, threads, engine):
        if not parts:
            each = sum(value.nbytes for value in (*part.synapses.values(), *part.neurons.values())) // len(part)
            if each * len(images) > limit:
                raise SlicingError(
                    f"slices of {len(images)} inputs would take {each * len(images) / 2**30:.1f} GiB: keep fewer "
                    "`layers`, raise `limit`, or go through `slices_by_chunk`"
                )
        parts.append(part)
    return Slices.concatenate(parts)


@dataclass
class _Kept:
    """What a run collects: by layer, contributions of its weights and of its outputs."""

    synapses: dict[str, Any]
    neurons: dict[str, Any]


class _Backward:
    """The backward phase of one network under one rule.

    Args: as `slices_by_chunk`.
    """

    def __init__(
        self, model: nn.Module, rule: Rule, layers: Sequence[str] | None, threads: int | None, engine: str
    ) -> None:
        self.graph = Graph(model)
        self.rule = rule
        rule.check(self.graph)
        weighted = self.graph.weighted()
        known = self.graph.layers
        chosen = [*weighted, "input"] if layers is None else [layers] if isinstance(layers, str) else list(layers)
        for layer in chosen:
            if layer not in known:
                raise SlicingError(f"the network calls no layer {layer!r}: one of {', '.join(known)}")
        self.kept_synapses = [layer for layer in chosen if layer in weighted]
        self.kept_neurons = chosen
        self.needed = self._needed({op.name for layer in chosen for op in known[layer]})
        self.engine = self._engine(engine, threads)
        self.weights = {
            layer: self.engine.array(module.weight.detach().flatten(1)) for layer, module in weighted.items()
        }

    def _engine(self, name: str, threads: int | None) -> Engine:
        if name == "auto":
            name = "compiled" if self.graph.device.type == "cpu" else "tensor"
        if name not in ("compiled", "tensor", "fused"):
            raise SlicingError(f"engine is {name!r}: auto, compiled, tensor or fused")
        if name == "compiled":
            if self.graph.device.type != "cpu":
                raise SlicingError(f"the compiled engine runs on the CPU; the network is on {self.graph.device}")
            return compiled.Engine(self.rule, threads or torch.get_num_threads())
        if name == "fused":
            if self.graph.device.type != "cuda":
                raise SlicingError(f"the fused engine runs on a GPU; the network is on {self.graph.device}")
            from lib.slicing import fused  # needs Triton

            return tensors.Engine(self.rule, self.graph.device, fused.convolution)
        return tensors.Engine(self.rule, self.graph.device)

    def _needed(self, wanted: set[str]) -> set[str]:
        """Operations that contributions must pass through to reach the wanted ones; the wanted included."""
        found = set(wanted)
        for op in self.graph.operations.values():
            if any(name in found for name in op.inputs):
                found.add(op.name)
        return found

    def bytes_each(self, image: Tensor) -> int:
        """Bytes that one input takes: values and deviations in float64, contributions, one layer padded, the result."""
        _, shapes = self.graph.record(image, ())
        sizes = {name: prod(shape) for name, shape in shapes.items()}
        values = sum(sizes[name] for name in self.graph.values_needed() if name in sizes)
        result = sum(module.weight.numel() for module in self.graph.weighted().values())
        return 16 * values + 4 * sum(sizes.values()) + 16 * max(sizes.values()) + 8 * result

    def run(self, images: Tensor, criterion: Criterion) -> Slices:
        """Slices of one chunk of inputs."""
        graph = self.graph
        values, shapes, sizes = graph.recorded(images, graph.values_needed())
        count = len(images)
        logits = values[graph.output]
        predicted = logits.argmax(1)
        kept = _Kept({}, {})
        for layer in self.kept_synapses:
            kept.synapses[layer] = self.engine.zeros((count, *self.weights[layer].shape))
        waiting = self._start(criterion, logits, predicted, shapes)
        for op in reversed(graph.operations.values()):
            contributions = waiting.pop(op.name, None)
            if contributions is None or op.name not in self.needed:
                continue
            for layer in [
                layer for layer in ("input" if op.kind == "input" else op.layer,) if layer in self.kept_neurons
            ]:
                before, found = kept.neurons.get(layer), self._rows(op.name, contributions)
                kept.neurons[layer] = found if before is None else self._add(before, found, layer)
            if op.kind != "input":
                self._pass_on(op, contributions, values, shapes, sizes, predicted, kept, waiting)
        return self._result(kept, predicted, shapes, count)

    def _start(
        self, criterion: Criterion, logits: Tensor, predicted: Tensor, shapes: dict[str, torch.Size]
    ) -> dict[str, Any]:
        """CONTRIB of the criterion's neurons: +1, or as given."""
        graph = self.graph
        if isinstance(criterion, tuple) and criterion and isinstance(criterion[0], str):
            layer, index = criterion
            calls = graph.layers.get(layer, [])
            if len(calls) != 1 or layer == "input":
                raise SlicingError(
                    f"criterion names layer {layer!r}, called {len(calls)} times: a layer called once is wanted"
                )
            layout = graph.layout(calls[0].name)
            start = layout.rows(torch.zeros(shapes[calls[0].name], dtype=torch.int32)).contiguous()
            try:
                if isinstance(index, int):
                    start.view(len(logits), -1)[:, index] = 1
                else:
                    start[(builtins.slice(None), *index)] = 1
            except (IndexError, TypeError) as error:
                raise SlicingError(
                    f"criterion {criterion!r}: layer {layer!r} has neurons {tuple(start.shape[1:])}: {error}"
                ) from None
            if not bool((start.flatten(1).sum(1) == 1).all()):
                raise SlicingError(f"criterion {criterion!r} names {int(start[0].sum())} neurons: one is wanted")
            return {calls[0].name: self.engine.contributions(layout.back(start))}
        start = torch.zeros(logits.shape, dtype=torch.int32)
        classes = logits.shape[1]
        if criterion is None:
            start[torch.arange(len(logits)), predicted.cpu()] = 1
        elif isinstance(criterion, Tensor) and criterion.ndim == 2:
            start = criterion.to("cpu", torch.int32)
        else:
            chosen = torch.as_tensor(criterion)
            if chosen.is_floating_point() or bool((chosen < 0).any()) or bool((chosen >= classes).any()):
                raise SlicingError(f"criterion {criterion!r}: logits are whole numbers in 0..{classes - 1}")
            if isinstance(criterion, Tensor) and chosen.ndim == 1:
                start[torch.arange(len(logits)), chosen.cpu()] = 1
            else:
                start[:, chosen.flatten().tolist()] = 1
        return {graph.output: self.engine.contributions(start)}

    def _pass_on(
        self,
        op: Operation,
        contributions: Any,
        values: dict[str, Tensor],
        shapes: dict[str, torch.Size],
        sizes: dict[str, Any],
        predicted: Tensor,
        kept: _Kept,
        waiting: dict[str, Any],
    ) -> None:
        """Give an operation's contributions on to its inputs, and to its weights."""
        engine = self.engine
        into = [self._room(waiting, name, shapes) for name in op.inputs]
        if op.kind == "pass":
            into[0] += contributions
        elif op.kind == "multiply":
            for target in into:  # both factors, each at every place where it is used
                target += engine.gathered(contributions, target.shape)
        elif op.kind == "concatenate":
            axis = op.node.kwargs.get("dim", op.node.args[1] if len(op.node.args) > 1 else 0)
            stacked = op.node.target is torch.stack
            each = [1 if stacked else shapes[name][axis] for name in op.inputs]  # type: ignore[index]
            for target, part in zip(into, engine.split(contributions, each, axis), strict=True):
                target += part.reshape(target.shape)
        elif op.kind == "rearrange":
            places = torch.arange(prod(shapes[op.inputs[0]])).view(shapes[op.inputs[0]])
            engine.scatter(into[0], self.graph.run_on(op, places, sizes, shapes), contributions)
        elif op.kind == "maximum":
            x = engine.array(self._back(op.inputs[0], values[op.inputs[0]]))
            pooled(engine, engine.maximum, op, x, contributions, into[0], self.graph.arguments(op, sizes))
        else:
            signs = self._back(op.name, self.rule.marks(values, op.name, predicted))
            marks = engine.marks(signs, contributions)
            terms = [engine.array(self._back(name, self.rule.terms(values, name, predicted))) for name in op.inputs]
            if op.kind == "add":
                engine.addition(terms, marks, into)
            elif op.kind == "average":
                pooled(engine, engine.average, op, terms[0], marks, into[0], self.graph.arguments(op, sizes))
            else:
                self._weighted(op, terms[0], marks, kept.synapses.get(op.layer), into[0])

    def _weighted(self, op: Operation, terms: Any, marks: Any, synapses: Any, into: Any) -> None:
        """A convolution or linear layer. Pieces of an image that lie in the batch are worked on one by one."""
        engine, layout, weight = self.engine, self.graph.layout(op.inputs[0]), self.weights[op.layer]
        if op.kind == "linear":  # on the last dimension, whatever lies before it
            count = len(layout.rows(torch.empty(terms.shape, device="meta")))
            x, out = (self._rows(name, a) for name, a in ((op.inputs[0], terms), (op.name, marks)))
            x, out = (a.reshape(count, -1, a.shape[-1]) for a in (x, out))
            found = engine.zeros(tuple(x.shape))
            engine.linear(x, weight, out, synapses, found)
            rows = layout.rows(torch.empty(into.shape, device="meta")).shape
            into += engine.contributions(layout.back(torch.as_tensor(found).reshape(rows)))
        elif layout.plain:
            convolve(engine, op, terms, weight, marks, synapses, into)
        elif layout.dim == 0:
            pieces = None if synapses is None else engine.zeros((len(terms), *synapses.shape[1:]))
            convolve(engine, op, terms, weight, marks, pieces, into)
            if synapses is not None:
                synapses += engine.contributions(layout.rows(torch.as_tensor(pieces)).sum(1, dtype=torch.int32))
        else:
            raise SlicingError(f"{op.layer!r} is given images in dimension {layout.dim}: bring the batch to the first")

    def _rows(self, name: str, value: Any) -> Any:
        """A value of all inputs, as the network lays it out, with the inputs first."""
        layout = self.graph.layout(name)
        return value if layout.plain else self.engine.contributions(layout.rows(torch.as_tensor(value)))

    def _back(self, name: str, rows: Tensor) -> Tensor:
        """The inverse of `_rows`."""
        return self.graph.layout(name).back(rows).contiguous()

    def _room(self, waiting: dict[str, Any], name: str, shapes: dict[str, torch.Size]) -> Any:
        if name not in waiting:
            waiting[name] = self.engine.zeros(tuple(shapes[name]))
        return waiting[name]

    @staticmethod
    def _add(a: Any, b: Any, layer: str) -> Any:
        if a.shape != b.shape:
            raise SlicingError(f"layer {layer!r} is called on images of several sizes: keep other layers")
        return a + b

    def _result(self, kept: _Kept, predicted: Tensor, shapes: dict[str, torch.Size], count: int) -> Slices:
        weighted = self.graph.weighted()
        synapses = {
            layer: self.engine.result(found).view(count, *weighted[layer].weight.shape)
            for layer, found in kept.synapses.items()
        }
        neurons = {}
        for layer in self.kept_neurons:
            name, found = self.graph.layers[layer][0].name, kept.neurons.get(layer)
            if found is None:
                found = self._rows(name, self.engine.zeros(tuple(shapes[name])))
            neurons[layer] = self.engine.result(found)
        return Slices(synapses, neurons, predicted.cpu())


def _of_chunk(criterion: Criterion, start: int, count: int, total: int) -> Criterion:
    """The part of a criterion that belongs to inputs start .. start + count."""
    if isinstance(criterion, np.ndarray):
        criterion = torch.as_tensor(criterion)
    if not isinstance(criterion, Tensor) or criterion.ndim == 0:
        return criterion
    if len(criterion) != total:
        raise SlicingError(f"criterion is for {len(criterion)} inputs, and there are {total}")
    return criterion[start : start + count]

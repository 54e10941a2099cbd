"""What slicing returns: which synapses and neurons shaped an output, and how, for each of several inputs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib import tensors
from lib.slicing.kinds import SlicingError


@dataclass(frozen=True, eq=False)
class Slices:
    """The slices of N inputs.

    Attributes:
        synapses: layer -> int32 (N, *weight.shape), the signed contribution of each weight element; 0: not in the
            slice. Of EffectivePath, 1 where the element is on the path.
        neurons: layer -> int32 (N, *output.shape), CONTRIB of each of the layer's outputs; "input": of the image.
        predicted: int64 (N,), the class that the network gives each input.
    """

    synapses: Mapping[str, Tensor]
    neurons: Mapping[str, Tensor]
    predicted: Tensor

    def __len__(self) -> int:
        return len(self.predicted)

    def __getitem__(self, index: Any) -> Slices:
        """The slices of some inputs: a number, a python slice, positions or a mask."""
        if isinstance(index, int):
            index = [index]
        return self._each(lambda value: value[index], self.predicted[index])

    def merge(self) -> Slices:
        """The slice of all inputs together: the sum of theirs, int64, N = 1; `predicted` is -1 where they differ."""
        same = len(self) > 0 and bool((self.predicted == self.predicted[0]).all())
        predicted = self.predicted[:1] if same else self.predicted.new_full((1,), -1)
        return self._each(lambda value: value.sum(0, keepdim=True, dtype=torch.int64), predicted)

    def magnitude(self) -> dict[str, Tensor]:
        """Sum over the inputs of |CONTRIB| of each synapse: layer -> int64 weight.shape."""
        return {layer: value.abs().sum(0, dtype=torch.int64) for layer, value in self.synapses.items()}

    def jaccard(self, other: Slices, layers: Iterable[str] | None = None) -> Tensor:
        """Overlap of the sets of synapses, shared over united, of each slice here with each of the other.

        Args:
            layers: those to compare; None: all that both have.
        Returns: float64 (N, M); 1 where both are empty.
        """
        shared, mine, theirs = self._overlap(other, layers)
        united = mine[:, None] + theirs - shared
        return torch.where(united > 0, shared / united.clamp(min=1), 1.0)

    def containment(self, other: Slices, layers: Iterable[str] | None = None) -> Tensor:
        """The share of the synapses of each slice here that are in each of the other too.

        Args:
            layers: those to compare; None: all that both have.
        Returns: float64 (N, M); 1 where the slice here is empty.
        """
        shared, mine, _ = self._overlap(other, layers)
        return torch.where(mine[:, None] > 0, shared / mine[:, None].clamp(min=1), 1.0)

    def share(self) -> dict[str, Tensor]:
        """Share of each layer's weight elements that are in each slice: layer -> float64 (N,)."""
        return {layer: (value != 0).flatten(1).double().mean(1) for layer, value in self.synapses.items()}

    def sparse(self, layers: Sequence[str] | str | None = None, layout: str = "csr") -> Any:
        """The synapses as one sparse matrix, a row an input, layers side by side.

        Args:
            layers: those to take, in this order; None: all.
            layout: "csr" (rows) or "csc" (columns).
        Returns: scipy sparse matrix (N, weight elements) of the smallest whole-number type that holds the values.
        """
        from scipy import sparse

        names = list(self.synapses) if layers is None else [layers] if isinstance(layers, str) else list(layers)
        blocks = []
        for layer in names:
            values = self.synapses[layer].flatten(1).cpu().numpy()
            top = int(np.abs(values).max(initial=0))
            kind = next(kind for kind in (np.int8, np.int16, np.int32, np.int64) if top <= np.iinfo(kind).max)
            blocks.append(sparse.csr_matrix(values.astype(kind)))
        return sparse.hstack(blocks, format=layout) if len(blocks) > 1 else blocks[0].asformat(layout)

    def save(self, path: str | os.PathLike) -> Path:
        """Write them to a safetensors file, atomically."""
        held = {f"synapses.{layer}": value.cpu().contiguous() for layer, value in self.synapses.items()}
        held |= {f"neurons.{layer}": value.cpu().contiguous() for layer, value in self.neurons.items()}
        return tensors.write(path, {**held, "predicted": self.predicted.cpu()}, {"kind": json.dumps("slices")})

    @staticmethod
    def load(path: str | os.PathLike) -> Slices:
        """Read what `save` wrote. Raises: SlicingError where the file is damaged."""
        try:
            held, _ = tensors.read(path, before=["kind"])
            predicted = held.pop("predicted")
        except (OSError, ValueError, KeyError) as error:
            raise SlicingError(f"{path} holds no slices, or it is damaged ({error}): make it anew") from error
        parts: dict[str, dict[str, Tensor]] = {"synapses": {}, "neurons": {}}
        for key, value in held.items():
            kind, _, layer = key.partition(".")
            parts[kind][layer] = value
        return Slices(parts["synapses"], parts["neurons"], predicted)

    @staticmethod
    def concatenate(parts: Sequence[Slices]) -> Slices:
        """The slices of several batches, one after another."""
        if not parts:
            raise SlicingError("no slices to put together: at least one batch is wanted")
        return Slices(
            {layer: torch.cat([part.synapses[layer] for part in parts]) for layer in parts[0].synapses},
            {layer: torch.cat([part.neurons[layer] for part in parts]) for layer in parts[0].neurons},
            torch.cat([part.predicted for part in parts]),
        )

    def _overlap(self, other: Slices, layers: Iterable[str] | None) -> tuple[Tensor, Tensor, Tensor]:
        """How many synapses two slices share, float64 (N, M), and how many each has here and there, (N,) and (M,)."""
        names = [layer for layer in self.synapses if layer in other.synapses] if layers is None else list(layers)
        shared = torch.zeros(len(self), len(other), dtype=torch.float64)
        mine, theirs = (torch.zeros(len(part), dtype=torch.float64) for part in (self, other))
        for layer in names:
            here, there = ((part.synapses[layer] != 0).flatten(1).float().cpu() for part in (self, other))
            shared += (here @ there.T).double()  # whole numbers below 2**24: exact
            mine += here.sum(1).double()
            theirs += there.sum(1).double()
        return shared, mine, theirs

    def _each(self, change: Any, predicted: Tensor) -> Slices:
        return Slices(
            {layer: change(value) for layer, value in self.synapses.items()},
            {layer: change(value) for layer, value in self.neurons.items()},
            predicted,
        )

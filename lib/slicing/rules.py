"""The two rules of the backward phase: what a neuron's terms are, and which sign its contribution has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.slicing.kernels import PRESENCE, SIGNED
from lib.slicing.kinds import Graph, SlicingError
from lib.slicing.profiling import REFERENCES, NeuronProfile


@dataclass(frozen=True)
class NNSlicer:
    """Terms are weights times deviations from the mean; contributions are signed. Arguments as `slice`."""

    profile: NeuronProfile
    theta: float = 0.2
    bar: float = 0.01
    reference: str = "predicted"
    code = SIGNED

    def __post_init__(self) -> None:
        if not 0 <= self.theta < 1:
            raise SlicingError(f"theta is {self.theta}: a share from 0 to below 1 is wanted")
        if not 0 <= self.bar < 1:
            raise SlicingError(f"bar is {self.bar}: a share from 0 to below 1 is wanted")
        if self.reference not in REFERENCES:
            raise SlicingError(f"reference is {self.reference!r}: one of {', '.join(REFERENCES)}")

    def check(self, graph: Graph) -> None:
        """Raises: SlicingError where the profile is of another network."""
        missing = [name for name in graph.means_needed() if name not in self.profile.by_class]
        if missing:
            raise SlicingError(f"the profile has no mean of {missing[0]!r}: it is of another network; profile this one")

    def terms(self, values: Mapping[str, Tensor], name: str, predicted: Tensor) -> Tensor:
        """Deviation of an operation's value from its mean."""
        value = values[name]
        mean = self.profile.mean(name, self.reference, predicted).to(value)
        if mean.shape[1:] != value.shape[1:]:
            raise SlicingError(
                f"{name!r} has the shape {tuple(value.shape[1:])} and in the profile {tuple(mean.shape[1:])}: "
                "profile this network on images of this size"
            )
        return value - mean

    def marks(self, values: Mapping[str, Tensor], name: str, predicted: Tensor) -> Tensor:
        """Sign of the deviation of each output neuron, int8."""
        return self.terms(values, name, predicted).sign().to(torch.int8)


@dataclass(frozen=True)
class EffectivePath:
    """Terms are weights times values, read against the output's sign; contributions are presence."""

    theta: float = 0.5
    bar = 0.0
    code = PRESENCE

    def __post_init__(self) -> None:
        if not 0 < self.theta <= 1:
            raise SlicingError(f"theta is {self.theta}: a share above 0 and up to 1 is wanted")

    def check(self, graph: Graph) -> None:
        """Any network that can be sliced fits."""

    def terms(self, values: Mapping[str, Tensor], name: str, predicted: Tensor) -> Tensor:
        """The value itself."""
        return values[name]

    def marks(self, values: Mapping[str, Tensor], name: str, predicted: Tensor) -> Tensor:
        """-1 for a negative output, whose terms are turned; else 1; int8."""
        return 1 - 2 * (values[name] < 0).to(torch.int8)


Rule = NNSlicer | EffectivePath

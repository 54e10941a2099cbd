"""The backward phase in batched tensor operations, on any device: equal to the compiled one.

Terms are sorted by torch, a block of output neurons at a time. Where a running sum comes within its rounding error of
a threshold, that neuron's rule is carried out again on the CPU on an exactly rounded sum. The engine "fused" has most
neurons of convolutions and linear layers done before that, by `lib.slicing.fused`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lib.slicing import select
from lib.slicing.kernels import PRESENCE
from lib.slicing.rules import NNSlicer, Rule
from lib.slicing.windows import POINTWISE, Convolution, Windows

BLOCK = 2**23  # terms sorted at once: about 0.5 GB of work space


class Engine:
    """Operations of the backward phase on tensors.

    Args:
        rule: whose terms and signs are passed on.
        device: where.
        fused: `lib.slicing.fused.convolution`, for what it can do of NNSlicer's rule; None: nothing.
    """

    def __init__(self, rule: Rule, device: torch.device, fused: Callable[..., Tensor] | None = None) -> None:
        self.rule = rule
        self.device = device
        self.fused = fused if isinstance(rule, NNSlicer) else None

    def array(self, value: Tensor) -> Tensor:
        """A tensor in float64 on the device."""
        return value.to(self.device, torch.float64).contiguous()

    def zeros(self, shape: tuple[int, ...]) -> Tensor:
        """Contributions of nothing yet."""
        return torch.zeros(shape, dtype=torch.int32, device=self.device)

    def contributions(self, start: Tensor) -> Tensor:
        """Contributions from a tensor."""
        return start.to(self.device)

    def result(self, found: Tensor) -> Tensor:
        """Contributions as they are returned: presence is 0 or 1."""
        return ((found != 0).int() if self.rule.code == PRESENCE else found).cpu()

    def marks(self, signs: Tensor, contributions: Tensor) -> Tensor:
        """What each output neuron's terms are multiplied by; 0 where it is out of the slice."""
        if self.rule.code == PRESENCE:
            return torch.where(contributions != 0, signs, 0).to(torch.int8)
        return signs * contributions.sign().to(torch.int8)

    def split(self, contributions: Tensor, sizes: Sequence[int], axis: int) -> list[Tensor]:
        """Parts along an axis."""
        return list(contributions.split(list(sizes), axis))

    def scatter(self, into: Tensor, places: Tensor, contributions: Tensor) -> None:
        """Add each contribution at its place of the flat target; -1 is nowhere."""
        flat, found = places.flatten().to(self.device), contributions.reshape(-1)
        inside = flat >= 0
        into.view(-1).index_add_(0, flat[inside], found[inside])

    def gathered(self, contributions: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Contributions of a broadcast tensor, added up to the shape it was broadcast from."""
        return contributions.sum_to_size(shape)

    def linear(self, x: Tensor, weight: Tensor, marks: Tensor, synapses: Tensor | None, into: Tensor) -> None:
        """A linear layer on (N, places, features): a 1x1 convolution over the places."""
        x, marks = (a.transpose(1, 2).contiguous()[..., None] for a in (x, marks))
        target = torch.zeros(x.shape, dtype=torch.int32, device=self.device)
        self.weighted(x, weight, marks, synapses, target, POINTWISE)
        into += target[..., 0].transpose(1, 2)

    def weighted(
        self, x: Tensor, weight: Tensor, marks: Tensor, synapses: Tensor | None, into: Tensor, geometry: Convolution
    ) -> None:
        """A convolution; `into` and `synapses` are added to."""
        if self.fused is not None:  # and what it leaves:
            marks = self.fused(x, weight, marks, synapses, into, geometry, self.rule.theta, self.rule.bar)
        taps = self._taps(x.shape, marks.shape, geometry)  # (groups, positions, m), -1 in the padding
        group_out = marks.shape[1] // geometry.groups
        flat = marks.flatten(2)  # (N, O, positions)
        active = flat.nonzero()
        width = weight.shape[1]
        for part in active.split(max(1, BLOCK // width)):
            n, o, position = part.unbind(1)
            place = taps[o // group_out, position]
            inside = place >= 0
            terms = weight[o] * x.flatten(1)[n[:, None], place.clamp(min=0)]
            local = self._local(terms, inside, flat[n, o, position])
            self._put(into.view(-1), n[:, None] * x[0].numel() + place, local)
            if synapses is not None:
                self._put_rows(synapses.view(-1, width), n * marks.shape[1] + o, local)

    def average(self, x: Tensor, marks: Tensor, into: Tensor, windows: Windows) -> None:
        """An average pool."""
        places = self._windows(x.shape, windows)  # (positions, m)
        flat = marks.reshape(len(x) * x.shape[1], -1)
        plane = x.shape[2] * x.shape[3]
        for part in flat.nonzero().split(max(1, BLOCK // places.shape[1])):
            map_, position = part.unbind(1)
            place = places[position]
            terms = x.flatten()[map_[:, None] * plane + place.clamp(min=0)]
            local = self._local(terms, place >= 0, flat[map_, position])
            self._put(into.view(-1), map_[:, None] * plane + place, local, place >= 0)

    def addition(self, terms: Sequence[Tensor], marks: Tensor, into: Sequence[Tensor]) -> None:
        """A sum of two branches."""
        active = marks.flatten().nonzero()[:, 0]
        both = torch.stack([a.flatten()[active] for a in terms], 1)
        local = self._local(both, torch.ones_like(both, dtype=torch.bool), marks.flatten()[active])
        for k, target in enumerate(into):
            target.view(-1)[active] += local[:, k]

    def maximum(self, x: Tensor, contributions: Tensor, into: Tensor, windows: Windows) -> None:
        """A max pool."""
        places = self._windows(x.shape, windows)
        flat = contributions.reshape(len(x) * x.shape[1], -1)
        plane = x.shape[2] * x.shape[3]
        for part in flat.nonzero().split(max(1, BLOCK // places.shape[1])):
            map_, position = part.unbind(1)
            place = places[position]
            inside = place >= 0
            found = x.flatten()[map_[:, None] * plane + place.clamp(min=0)].masked_fill(~inside, -torch.inf)
            largest = (found == found.amax(1, keepdim=True)) & inside
            self._put(
                into.view(-1), map_[:, None] * plane + place, largest.int() * flat[map_, position][:, None], inside
            )

    def _local(self, terms: Tensor, inside: Tensor, marks: Tensor) -> Tensor:
        """Local contributions (R, m) of R output neurons' terms, those in the padding left out."""
        if self.rule.code == PRESENCE:
            return self._present(terms * marks[:, None], inside)
        return self._signed(terms, inside, marks)

    def _signed(self, terms: Tensor, inside: Tensor, marks: Tensor) -> Tensor:
        theta, bar = float(self.rule.theta), float(self.rule.bar)
        terms = terms.masked_fill(~inside, 0.0)
        size = terms.abs()
        length = inside.sum(1)
        total, largest = terms.sum(1), size.amax(1)
        smallest = size.masked_fill(~inside, torch.inf).amin(1)
        error = self._error(size)
        order = size.masked_fill(~inside, -1.0).sort(dim=1, descending=True, stable=True).indices
        distance = (terms.gather(1, order).cumsum(1) - total[:, None]).abs()
        window = theta * total.abs()
        rank = torch.arange(terms.shape[1], device=terms.device)
        near = (distance - window[:, None]).abs() <= error[:, None]
        met = ((distance < window[:, None]) | near) & (rank < length[:, None])
        first = torch.where(met.any(1), met.int().argmax(1), (length - 1).clamp(min=0))
        level = size.gather(1, order.gather(1, first[:, None]))[:, 0] * (1.0 - bar)
        empty = (total.abs() < smallest) | (total.abs() < 1e-3 * largest) | (largest == 0)
        limit = torch.where(empty, torch.inf, level)
        doubt = near.gather(1, first[:, None])[:, 0] & met.any(1)
        doubt |= ((total.abs() - smallest).abs() <= error) | ((total.abs() - 1e-3 * largest).abs() <= error)
        single = 1.0 / length.clamp(min=1).double() >= 1.0 - theta
        for row in (doubt & ~single & (largest > 0)).nonzero()[:, 0].tolist():
            limit[row] = self._exact_limit(terms[row][inside[row]].cpu().numpy(), theta, bar)
        kept = (size > limit[:, None]) & inside
        best = terms.masked_fill(~inside, -torch.inf).argmax(1)
        kept = torch.where(single[:, None], torch.nn.functional.one_hot(best, terms.shape[1]).bool() & inside, kept)
        return kept * terms.sign().int() * marks[:, None].int()

    def _present(self, terms: Tensor, inside: Tensor) -> Tensor:
        share = float(self.rule.theta)
        terms = terms.masked_fill(~inside, 0.0)
        total = terms.sum(1)
        error = self._error(terms.abs())
        order = terms.masked_fill(~inside, -torch.inf).sort(dim=1, descending=True, stable=True).indices
        running = terms.gather(1, order).cumsum(1)
        goal = share * total
        near = (running - goal[:, None]).abs() <= error[:, None]
        met = (running >= goal[:, None]) | near
        first = torch.where(total > 0, met.int().argmax(1), 0)
        doubt = (total.abs() <= error) | ((total > 0) & near.gather(1, first[:, None])[:, 0])
        for row in doubt.nonzero()[:, 0].tolist():
            found = terms[row][inside[row]].cpu().numpy()
            if found.any():
                first[row] = self._exact_count(found, share) - 1
        chosen = torch.arange(terms.shape[1], device=terms.device) <= first[:, None]
        kept = torch.zeros_like(inside).scatter(1, order, chosen) & inside
        return (kept & (terms != 0).any(1, keepdim=True)).int()

    @staticmethod
    def _error(size: Tensor) -> Tensor:
        return 2.0 * (size.shape[1] + select.BUCKETS) * 2.0**-52 * size.sum(1)

    @staticmethod
    def _exact_limit(terms: np.ndarray, theta: float, bar: float) -> float:
        m = len(terms)
        return float(select.exact_threshold(terms, m, theta, bar))

    @staticmethod
    def _exact_count(terms: np.ndarray, share: float) -> int:
        m = len(terms)
        limit, ties = select.exact_share(terms, m, share)
        return int((terms > limit).sum()) + int(ties)

    @staticmethod
    def _put(into: Tensor, place: Tensor, local: Tensor, inside: Tensor | None = None) -> None:
        chosen = local != 0 if inside is None else (local != 0) & inside
        into.index_add_(0, place[chosen], local[chosen])

    @staticmethod
    def _put_rows(into: Tensor, row: Tensor, local: Tensor) -> None:
        into.index_add_(0, row, local)

    def _taps(self, shape: torch.Size, out: torch.Size, geometry: Convolution) -> Tensor:
        """Flat place in an input of each tap of each position: (groups, positions, m); -1 in the padding."""
        channels, height, width = shape[1:]
        rows, columns = (
            torch.arange(out[axis + 2])[:, None] * geometry.stride[axis]
            - geometry.padding[axis]
            + torch.arange(geometry.kernel[axis]) * geometry.dilation[axis]
            for axis in (0, 1)
        )
        group = channels // geometry.groups
        channel = torch.arange(channels).view(geometry.groups, 1, 1, group, 1, 1)
        h, w = rows.view(1, out[2], 1, 1, -1, 1), columns.view(1, 1, out[3], 1, 1, geometry.kernel[1])
        inside = (h >= 0) & (h < height) & (w >= 0) & (w < width)
        place = torch.where(inside, (channel * height + h) * width + w, -1)
        return place.reshape(geometry.groups, out[2] * out[3], -1).to(self.device)

    def _windows(self, shape: torch.Size, windows: Windows) -> Tensor:
        """Flat place in a plane of each tap of each window: (positions, m); -1 outside."""
        height, width = shape[2:]

        def axis(start: np.ndarray, count: np.ndarray, step: int, size: int) -> Tensor:
            taps = np.arange(count.max())
            place = start[:, None] + taps * step
            return torch.from_numpy(np.where((taps < count[:, None]) & (place >= 0) & (place < size), place, -1))

        h = axis(windows.top, windows.rows, windows.dilation[0], height)[:, None, :, None]
        w = axis(windows.left, windows.columns, windows.dilation[1], width)[None, :, None, :]
        place = torch.where((h >= 0) & (w >= 0), h * width + w, -1)
        return place.reshape(len(windows.top) * len(windows.left), -1).to(self.device)

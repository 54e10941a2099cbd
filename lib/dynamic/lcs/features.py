"""Decision features of whole sets of images: what detectors, maps and measures of the decisions read."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.data import ImageSet
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs.network import LayerwiseChannelSelection
from lib.progress import bar


@dataclass(frozen=True)
class Decisions:
    """What a network decided about some images, on the CPU.

    Attributes:
        layers: names, in the order of the columns.
        feature: float32 (N, sum of m), the probabilities of all layers side by side.
        rows: int64 (N, layers), the row chosen.
        labels: int64 (N,), or None where the source has none.
        widths: m of each layer.
    """

    layers: list[str]
    feature: Tensor
    rows: Tensor
    labels: Tensor | None
    widths: list[int]

    def of(self, layer: str) -> Tensor:
        """A layer's probabilities, (N, m). Raises: DynamicError naming the layers."""
        if layer not in self.layers:
            raise DynamicError(f"no decisions of {layer!r}: one of {', '.join(self.layers)}")
        return self.feature.split(self.widths, 1)[self.layers.index(layer)]


def collect(
    lcs: LayerwiseChannelSelection, source: ImageSet | Tensor | Iterable[object], batch: int = 500
) -> Decisions:
    """The decisions about every image of a source, in evaluation mode.

    Args:
        lcs: a network with decision units; its mode is given back.
        source: an ImageSet; images (N, C, H, W) in [0, 1]; or any loader of such batches, or of (images, labels).
        batch: images a pass, of the first two.
    Raises: DynamicError for a source without images.
    """
    features, rows, labels = [], [], []
    with torch.no_grad():
        for images, told in bar(_batches(source, batch), desc="decisions"):
            made = lcs.decisions(images.to(lcs.device))
            features.append(torch.cat(list(made.values()), 1).cpu())
            rows.append(torch.stack([part.argmax(1) for part in made.values()], 1).cpu())
            if told is not None:
                labels.append(told.cpu())
    if not features:
        raise DynamicError("the source holds no images: give an ImageSet, images, or a loader that is not used up")
    widths = [len(lcs.unit(layer).weight) for layer in lcs.layers]
    known = torch.cat(labels) if labels else None
    return Decisions(list(lcs.layers), torch.cat(features), torch.cat(rows), known, widths)


def _batches(source: ImageSet | Tensor | Iterable[object], batch: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    if isinstance(source, ImageSet):
        for start in range(0, len(source), batch):
            index = torch.arange(start, min(start + batch, len(source)))
            yield source.float(index=index), source.labels[index]
    elif isinstance(source, Tensor):
        for part in source.split(batch):
            yield part, None
    else:
        for part in source:
            if isinstance(part, Tensor):
                yield part, None
            elif isinstance(part, (list, tuple)) and len(part) >= 2:
                yield part[0], part[1]
            else:
                raise DynamicError(f"a loader gives images or (images, labels), not {type(part).__name__}")

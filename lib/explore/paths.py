"""The decision path of a network with layerwise channel selection: what each layer chose, clean beside adversarial."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from lib import compute
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs.network import LayerwiseChannelSelection
from lib.explore.attacking import Attacked
from lib.explore.subject import Subject

NEITHER, BOTH, ONLY_CLEAN, ONLY_ADVERSARIAL = range(4)
ABSENT = -1  # where a layer has fewer channels than the widest


@dataclass(frozen=True, eq=False)
class Path:
    """What the layers chose for two images.

    Attributes:
        attacked: the images, as this network sees them.
        table: one row a layer, in the order of the forward pass: layer, clean, adversarial (row of masks taken, from
            0), clean_probability, adversarial_probability (of that row), channels, kept_clean, kept_adversarial
            (channels whose mask is not zero), changed (channels that only one of the two uses).
        rows: float32 (layers, 2, m), probability of each row of masks: clean, adversarial.
        channels: int8 (layers, widest), which images use a channel: `NEITHER`, `BOTH`, `ONLY_CLEAN`,
            `ONLY_ADVERSARIAL`, or `ABSENT`.
    """

    attacked: Attacked
    table: pd.DataFrame
    rows: np.ndarray
    channels: np.ndarray

    @property
    def moved(self) -> int:
        """Layers that take another row for the adversarial image."""
        return int((self.table["clean"] != self.table["adversarial"]).sum())


def path_of(chosen: Subject, attacked: Attacked) -> Path:
    """The rows and channels that each masked layer takes for the clean image and for its adversarial.

    Args:
        chosen: a network with decision units.
        attacked: the two images, attacked on this network.
    Raises: DynamicError for a network without decision units.
    Source: Wang et al., AAAI 2020, doi 10.1609/aaai.v34i04.6098.
    """
    network = chosen.model
    if not isinstance(network, LayerwiseChannelSelection):
        raise DynamicError(f"network {chosen.name} has no decision units: choose a dynamic one")
    both = torch.stack([attacked.clean, attacked.adversarial]).to(network.device)
    with compute.evaluation(network), torch.no_grad():
        passed = network.run(both)
    most = max(len(network.unit(layer).weight) for layer in network.layers)
    widest = max(mask.shape[1] for mask in passed.masks.values())
    rows = np.zeros((len(network.layers), 2, most), np.float32)
    channels = np.full((len(network.layers), widest), ABSENT, np.int8)
    lines = []
    for place, layer in enumerate(network.layers):
        chances = passed.probabilities[layer].float().cpu().numpy()
        used = (passed.masks[layer] != 0).cpu().numpy()
        rows[place, :, : chances.shape[1]] = chances
        channels[place, : used.shape[1]] = np.select(
            [used[0] & used[1], used[0], used[1]], [BOTH, ONLY_CLEAN, ONLY_ADVERSARIAL], NEITHER
        )
        lines.append(
            {
                "layer": layer,
                "clean": int(chances[0].argmax()),
                "adversarial": int(chances[1].argmax()),
                "clean_probability": float(chances[0].max()),
                "adversarial_probability": float(chances[1].max()),
                "channels": used.shape[1],
                "kept_clean": int(used[0].sum()),
                "kept_adversarial": int(used[1].sum()),
                "changed": int((used[0] != used[1]).sum()),
            }
        )
    return Path(attacked, pd.DataFrame(lines), rows, channels)

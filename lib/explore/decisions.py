"""The decision path of a network with layerwise channel selection: what each layer chooses, clean and adversarial."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lib import compute, plots
from lib.dynamic.lcs.network import LayerwiseChannelSelection
from lib.explore import drawing
from lib.explore.drawing import View, heat_map
from lib.explore.network import ExploreError, Network, dynamic_networks, load
from lib.explore.prediction import Example, attack, caption

ABSENT, NEITHER, ONLY_ADVERSARIAL, ONLY_CLEAN, BOTH = range(5)
"""Which images use a channel; a layer narrower than the widest has absent ones."""

USES = {
    NEITHER: ("#dddddd", "neither"),
    ONLY_ADVERSARIAL: (drawing.ADVERSARIAL, "only adversarial"),
    ONLY_CLEAN: (drawing.CLEAN, "only clean"),
    BOTH: ("#8c8c8c", "both"),
}


@dataclass(frozen=True, eq=False)
class DecisionPath:
    """What the layers choose for two images.

    Attributes:
        table: one row a layer, in the order of the forward pass: clean, adversarial (row of masks taken, from
            0), channels (number), changed (channels that only one of the two images uses).
        rows: float32 (2, layers, m), probability of each row of masks: clean, adversarial.
        channels: int64 (layers, widest), `ABSENT` .. `BOTH`.
    """

    table: pd.DataFrame
    rows: Tensor
    channels: Tensor


@lru_cache(maxsize=64)
def decision_path(example: Example) -> DecisionPath:
    """The rows and channels that each masked layer takes for the clean image and for its adversarial.

    Args:
        example: attacked on a network with layerwise channel selection.
    Raises: ExploreError for another network.
    Source: Wang et al., AAAI 2020, doi 10.1609/aaai.v34i04.6098.
    """
    model = example.network.model
    if not isinstance(model, LayerwiseChannelSelection):
        raise ExploreError(f"network {example.network.name} has no decision units: choose a dynamic one")
    with compute.evaluation(model), torch.no_grad():
        passed = model.run(example.images.to(model.device))
    used = [(passed.masks[layer] != 0).long().cpu() for layer in model.layers]
    chances = [passed.probabilities[layer].float().T.cpu() for layer in model.layers]
    rows = pad_sequence(chances, batch_first=True).permute(2, 0, 1)
    table = pd.DataFrame({"clean": rows[0].argmax(1), "adversarial": rows[1].argmax(1)}, index=list(model.layers))
    table["channels"] = [both.shape[1] for both in used]
    table["changed"] = [int((clean != adversarial).sum()) for clean, adversarial in used]
    channels = pad_sequence([NEITHER + 2 * clean + adversarial for clean, adversarial in used], batch_first=True)
    return DecisionPath(table, rows, channels)


def dynamic_network(network: Network) -> Network | None:
    """The network whose decisions are shown beside a network: itself where it decides, else the scale's first trained.

    Returns: None where none is trained.
    Raises: ExploreError where it is of other data, so that the image is none of its own.
    """
    if isinstance(network.model, LayerwiseChannelSelection):
        return network
    for name in dynamic_networks(network.scale, network.seed)[:1]:
        found = load(network.scale, name, network.seed)
        if found.test.name != network.test.name:
            raise ExploreError(f"networks {name} and {network.name} are of two data sets: choose one of the same")
        return found
    return None


def view(example: Example) -> list[View]:
    """The same image, attacked on the dynamic network: the row of masks that each layer takes, and the channels in use.

    Args:
        example: of any network.
    Raises: ExploreError where the dynamic network is of other data.
    """
    network, scale = dynamic_network(example.network), example.network.scale
    if network is None:
        words = (
            "No network with layerwise channel selection is trained at this scale. "
            f"./run_all.sh {scale} --only 00_explore trains one; or look at scale smoke, where that takes a minute."
        )
        return [View(None, words)]
    example = attack(network, example.position, example.attack, example.strength)
    found = decision_path(example)
    figure = _figure(found)
    if not example.correct:
        return [View(figure, caption(example))]
    table, moved = found.table, (found.table["clean"] != found.table["adversarial"]).sum()
    words = (
        f"{caption(example)} {moved} of {len(table)} layers take another row of masks for the attacked image; "
        f"{table['changed'].sum()} of {table['channels'].sum()} channels are used for one of the two only."
    )
    return [View(figure, words)]


def _figure(found: DecisionPath) -> Figure:
    table, layers = found.table, range(len(found.table))
    height = 0.9 + 0.24 * len(layers)
    figure, axes = plots.mosaic([["clean", "adversarial", "channels"]], height, plots.DOUBLE, width_ratios=[1, 1, 3.4])
    for rows, kind, colour in zip(found.rows, ("clean", "adversarial"), plots.PALETTE, strict=False):
        ax, numbers = axes[kind], range(rows.shape[1])
        image = heat_map(ax, rows, kind)
        dots: Any = {"marker": "o", "markersize": 5, "markerfacecolor": colour, "markeredgecolor": "white"}
        ax.plot(table[kind], layers, color="white", linestyle="-", linewidth=1, **dots)
        ax.set_title(kind, color=colour)
        ax.set_xticks(numbers, [str(number + 1) for number in numbers])
        ax.set_yticks(layers, table.index.map(drawing.label))
        ax.set_xlabel("row of masks")
    axes["adversarial"].tick_params(labelleft=False)
    figure.colorbar(image, ax=[axes["clean"], axes["adversarial"]], location="bottom", label="probability of the row")
    ax, colours = axes["channels"], ListedColormap(["white", *(colour for colour, _ in USES.values())])
    title = "channels in use; at the right, how many differ"
    heat_map(ax, found.channels, title, ABSENT, BOTH, cmap=colours)
    ax.set_yticks(layers, [f"{n}/{m}" for n, m in zip(table["changed"], table["channels"], strict=True)])
    ax.yaxis.tick_right()
    ax.hlines([place + 0.5 for place in layers[:-1]], *ax.get_xlim(), color="white", linewidth=2)
    ax.set_xlabel("channel")
    handles = [Patch(facecolor=colour, label=name) for colour, name in USES.values()]
    figure.legend(handles=handles, loc="outside lower right", ncols=4)
    return figure

"""What networks with decision units choose (notebook 22): which row, what it tells of the class, rare paths."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field, ValidationInfo, field_validator

from lib import config, data, plots
from lib.data import splits
from lib.dynamic import information, switching
from lib.dynamic.lcs.features import Seen, choices, see, untrained_feature
from lib.dynamic.lcs.network import LayerwiseChannelSelection
from lib.experiments.dynamic import Names, titled
from lib.experiments.item import SHARE, Item, Results
from lib.experiments.lcs import VERSION, Attacks, Lcs, LcsRun, Row, has_units
from lib.experiments.settings import Count
from lib.progress import bar

TRAINED, UNTRAINED = "trained", "untrained"
MEAN = "mean over layers"
BOOSTING = "lib.dynamic.boosting.insert"
COLLAPSED = 0.05  # bits of entropy below which a layer counts as collapsed


class Settings(Lcs):
    """Settings of the experiment.

    Attributes:
        networks: with decision units, of the scale.
        images: test images whose choices are counted, in equal numbers from each class.
        permutations: of the classes among the images, from 20: what chance gives.
        channel_networks: those whose channels are looked at one by one, with decision units or feature boosting.
        rare_images: shown on the rarest and on the commonest rows.
        umap_networks: those whose decision feature is drawn in two dimensions.
        umap_images, umap_adversarials, umap_attacks: training images, adversarials of each attack, and attacks, that
            UMAP is fitted on together; the source draws adversarials of three attacks.
        umap_whole: of umap_networks those drawn with all training images.
        umap_neighbours: of UMAP, and of the measures beside it.
    """

    section: ClassVar[str] = "decisions"

    networks: Names = Field(title="networks")
    images: Count = Field(10000, title="test images")
    permutations: int = Field(200, ge=20, title="permutations")
    channel_networks: tuple[str, ...] = ()
    rare_images: Count = 8
    umap_networks: Names = Field(title="networks")
    umap_images: Count = Field(5000, title="training images where not all")
    umap_whole: tuple[str, ...] = Field((), title="networks with all training images")
    umap_adversarials: Count = Field(300, title="adversarials an attack")
    umap_attacks: Attacks = ("fgsm_8", "rpgd_8", "cw_l2")
    umap_neighbours: int = Field(15, ge=2)

    @field_validator("channel_networks")
    @classmethod
    def _that_choose(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        preset, images = config.load(info.data["scale"]), info.data.get("data")
        for name in names:
            recipe = preset.recipe(name)
            if not has_units(preset, name) and not any(plug["use"] == BOOSTING for plug in recipe.transforms):
                raise ValueError(f"{name} chooses no channels: it has neither decision units nor feature boosting")
            if recipe.data != images:
                raise ValueError(f"{name} is a network for {recipe.data}, and data is {images}")
        return names

    def described(self, names: Any = ()) -> dict[str, Any]:
        words = super().described(names)
        return words | (self.attacks_described(self.umap_attacks) if "umap_networks" in names else {})


class DecisionsRun(LcsRun[Settings]):
    """A seed's networks and the tables of what they choose, each kept by network."""

    @property
    def test(self) -> data.ImageSet:
        """The test images whose choices are counted."""
        return self.images("test", self.settings.images)

    @lru_cache(maxsize=1)  # noqa: B019 (a run is short-lived)
    def seen(self, name: str) -> tuple[LayerwiseChannelSelection, Seen]:
        """A network, and what it makes of these images."""
        network = self.lcs(name)
        return network, see(network, self.test)

    def layers(self, name: str) -> pd.DataFrame:
        """Entropy of a network's choices and their mutual information with the class, layer by layer.

        Returns: one row a layer and kind of units ("trained", or "untrained": drawn anew, looking at the same inputs of
            the same layers): network, form, units, place (from 1), layer, masks, entropy, information, baseline,
            baseline_high, p_value (see `information.Information`), top_share (images that take the most frequent row),
            used (rows that an image in a hundred takes), n.
        """

        def rows() -> Iterator[Row]:
            network, seen = self.seen(name)
            labels, classes, count = self.test.labels, int(seen.logits.shape[1]), _masks(network)
            features = {TRAINED: seen.feature, UNTRAINED: untrained_feature(network, seen.pooled, self.seed)}
            for units, feature in features.items():
                chosen = choices(network, feature)
                found = information.of_layers(chosen, labels, count, classes, self.settings.permutations, self.seed)
                for place, (layer, told) in enumerate(zip(network.layers, found, strict=True)):
                    shares = chosen[:, place].bincount(minlength=count) / len(labels)
                    yield {
                        "network": name, "form": network.form, "units": units, "place": place + 1, "layer": layer,
                        "masks": count, **vars(told), "top_share": shares.max().item(),
                        "used": int((shares >= 0.01).sum()), "n": len(labels),
                    }  # fmt: skip

        key = {"images": self.test.fingerprint, "permutations": self.settings.permutations}
        return self.kept("lcs-layers", name, key, rows)

    def channels(self, name: str) -> pd.DataFrame:
        """Which channels a network of either method runs for these images.

        Returns: one row a layer: form ("boosting" for feature boosting), place, layer, n, and the fields of
            `switching.Switching`.
        """

        def rows() -> Iterator[Row]:
            model, classes = self.network(name), len(self.test.classes)
            form = model.form if isinstance(model, LayerwiseChannelSelection) else "boosting"
            found = switching.running(model, self.test)
            for place, (layer, on) in enumerate(found.items(), 1):
                told = switching.switching(on, self.test.labels, classes, self.settings.permutations, self.seed)
                yield {"form": form, "place": place, "layer": layer, "n": len(on), **vars(told)}

        key = {"images": self.test.fingerprint, "permutations": self.settings.permutations}
        return self.table("lcs-channels", key, lambda: pd.DataFrame(list(rows())), name, VERSION)

    def usage(self, name: str) -> pd.DataFrame:
        """The share of each class's test images that take each row.

        Returns: one row a layer, class and row: network, form, place, layer, label, row, share, n (the class's).
        """

        def rows() -> Iterator[Row]:
            network, seen = self.seen(name)
            chosen, classes, count = choices(network, seen.feature), int(seen.logits.shape[1]), _masks(network)
            for place, layer in enumerate(network.layers):
                table = information.contingency(chosen[:, place], self.test.labels, count, classes)
                sums = table.sum(0)
                for label in range(classes):
                    where = {"network": name, "form": network.form, "place": place + 1, "layer": layer, "label": label}
                    shares = (table[:, label] / sums[label].clamp_min(1)).tolist()
                    yield from ({**where, "row": r, "share": p, "n": int(sums[label])} for r, p in enumerate(shares))

        return self.kept("lcs-usage", name, {"images": self.test.fingerprint}, rows)

    def paths(self, name: str) -> pd.DataFrame:
        """Images on rare and on usual paths through the layers, and how often the network is right about them.

        Returns: rows of two kinds. kind "rare" and "usual": the images of the rarest and of the commonest rows:
            position (in the test set), label, predicted, bits (`information.surprisal`), path (rows, layer by layer),
            value (images that take the very same path). kind "measure": name and value: "paths" (different ones), "top
            path" (share of images on the most frequent), "accuracy, rarest tenth", "accuracy, the other nine tenths".
        """
        shown = self.settings.rare_images

        def rows() -> Iterator[Row]:
            (network, seen), labels = self.seen(name), self.test.labels
            chosen = choices(network, seen.feature)
            bits = information.surprisal(chosen, _masks(network))
            which, counts = information.paths(chosen)
            order = bits.argsort(descending=True, stable=True)
            right, tenth = (seen.predicted == labels).double(), max(1, len(labels) // 10)
            measured = {
                "paths": float(len(counts)),
                "top path": counts[0].item() / len(labels),
                "accuracy, rarest tenth": right[order[:tenth]].mean().item(),
                "accuracy, the other nine tenths": right[order[tenth:]].mean().item(),
            }
            for word, value in measured.items():
                yield {"kind": "measure", "name": word, "value": value, "n": len(labels)}
            whole = self.images("test").labels.numpy()
            positions = splits.stratified(whole, len(labels), seed=0)
            for kind, some in (("rare", order[:shown]), ("usual", order.flip(0)[:shown])):
                for i in some.tolist():
                    yield {
                        "kind": kind, "position": int(positions[i]), "label": int(labels[i]),
                        "predicted": int(seen.predicted[i]), "bits": bits[i].item(),
                        "path": "-".join(map(str, chosen[i].tolist())), "value": counts[which[i]].item(),
                    }  # fmt: skip

        return self.kept("lcs-paths", name, {"images": self.test.fingerprint, "rare_images": shown}, rows)


def _masks(network: LayerwiseChannelSelection) -> int:
    """The rows that each unit chooses from."""
    return len(network.unit(network.layers[0]).weight)


def decided(settings: Settings, seed: int) -> pd.DataFrame:
    """What the units of every network choose.

    Returns: tidy. At {network, form, units, layer, place}, and without place for layer "mean over layers": "entropy",
        also at choices "measured" or "constant" (what one row for all images has); "information", also at classes
        "true" or "permuted"; "top_share". At {network, form, units}: "layers", "collapsed_layers". At {network, form}:
        "paths", "top_path", and "accuracy" also at {images}. At {network: its family, form, layer, place}, and without
        place for the mean over layers: "channel_" and a field of `switching.Switching`. Beyond the record: "usage" at
        {..., layer, label, row}, a class's share of images, and "image" (see `DecisionsRun.paths`), both with the
        class's name.
    """
    run = DecisionsRun(settings, seed)
    classes = run.test.classes
    rows: list[Row] = []
    for name in bar(run.of_this_seed(settings.networks), desc="decisions"):
        rows += _of_layers(run.layers(name))
        for row in run.usage(name).rename(columns={"share": "value"}).to_dict("records"):
            rows.append({"measure": "usage", **row, "class": classes[row["label"]]})
        rows += _of_paths(run.paths(name), classes)
    for name in run.of_this_seed(settings.channel_networks) if settings.channel_networks else ():
        rows += _of_channels(run.channels(name), run.preset.recipe(name).family.removesuffix("-on"))
    return run.tidy(rows)


def _of_layers(table: pd.DataFrame) -> Iterator[Row]:
    for (name, form, units), group in table.groupby(["network", "form", "units"], sort=False):
        where = {"network": name, "form": form, "units": units, "n": int(group["n"].min())}
        mean = group[["entropy", "information", "baseline", "top_share"]].mean().to_dict()
        for row in [*group.to_dict("records"), {"layer": MEAN, "place": None, **mean}]:
            at = {**where, "layer": row["layer"], "place": row["place"]}
            yield {"measure": "entropy", "value": row["entropy"], "choices": "measured", **at}
            yield {"measure": "entropy", "value": 0.0, "choices": "constant", **at}
            yield {"measure": "information", "value": row["information"], "classes": "true", **at}
            yield {"measure": "information", "value": row["baseline"], "classes": "permuted", **at}
            yield {"measure": "top_share", "value": row["top_share"], **at}
        yield {"measure": "collapsed_layers", "value": int((group["entropy"] < COLLAPSED).sum()), **where}
        yield {"measure": "layers", "value": len(group), **where}


def _of_channels(table: pd.DataFrame, family: str) -> Iterator[Row]:
    where = {"network": family, "form": table["form"].iloc[0], "n": int(table["n"].iloc[0])}
    for row in [*table.to_dict("records"), {"layer": MEAN, "place": None, **table[list(SWITCHED)].mean().to_dict()}]:
        for name in SWITCHED:
            at = {"layer": row["layer"], "place": row["place"]}
            yield {"measure": f"channel_{name}", "value": row[name], **where, **at}


def _of_paths(table: pd.DataFrame, classes: Any) -> Iterator[Row]:
    for row in table.to_dict("records"):
        at = {"network": row["network"], "form": row["form"], "value": row["value"]}
        if row["kind"] == "measure":
            word, _, images = row["name"].partition(", ")
            yield {"measure": word.replace(" ", "_"), **at, "n": int(row["n"]), "images": images or None}
        else:
            found = {key: int(row[key]) for key in ("position", "label", "predicted")}
            named = {"class": classes[found["label"]], "called": classes[found["predicted"]]}
            yield {"measure": "image", **at, "kind": row["kind"], **found, **named, "bits": row["bits"]}


def decision_table(results: Results) -> pd.DataFrame:
    """A row a network and kind of units: means over the layers, collapsed layers, different paths."""
    at = ["network", "form", "units"]
    columns = {
        "entropy, bits": results.values("entropy", layer=MEAN, choices="measured"),
        "information on the class, bits": results.values("information", layer=MEAN, classes="true"),
        "with permuted classes, bits": results.values("information", layer=MEAN, classes="permuted"),
        "share of the top row": results.values("top_share", layer=MEAN),
        "layers": results.values("layers"),
        "of them below .05 bits": results.values("collapsed_layers"),
        "different paths": results.values("paths").assign(units=TRAINED),
        "share of the top path": results.values("top_path").assign(units=TRAINED),
    }
    whole = [rows.set_index(at)["value"].rename(label) for label, rows in columns.items()]
    return pd.concat(whole, axis=1).reset_index()


def draw_maps(results: Results, most: int = 10) -> Figure:
    """Which row each class takes in each layer, at the first seed: a panel a network, a line a class.

    Args:
        most: classes shown.
    Returns: the figure; dark is a row that all of the class's images take, and each layer's most used row stands first.
    """
    seed = results.settings.seeds[0]
    usage = results.rows("usage")
    usage = usage[(usage["seed"] == seed) & (usage["label"] < most)]
    names, shown = usage["network"].unique(), usage["class"].unique()
    height = 1.3 + len(names) * (0.75 + 0.09 * len(shown))
    figure, axes = plots.mosaic([[name] for name in names], height=height)
    for name, ax in axes.items():
        one = usage[usage["network"] == name]
        whole, middles, layers = side_by_side(one)
        picture = ax.imshow(whole, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        ax.vlines(np.flatnonzero(np.isnan(whole[0])), -0.5, len(whole) - 0.5, color="#bbbbbb", linewidth=0.6)
        bits = results.values("entropy", network=name, units=TRAINED, layer=MEAN, choices="measured")
        told = f"{bits['per_seed'].item()[seed]:.2f} of at most {np.log2(one['row'].nunique()):.2f} bits"
        ax.set_title(f"{titled(name, 60)}\nentropy of choices: {told}", fontsize=plots.SMALLEST, loc="left")
        ax.xaxis.tick_top()
        ax.set_xticks(middles, [_short(layer) for layer in layers], rotation=90, fontsize=6.5)
        ax.set_yticks(range(len(shown)), shown, fontsize=6.5)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.grid(visible=False)
    bar = figure.colorbar(picture, ax=list(axes.values()), location="bottom", fraction=0.02, aspect=40)
    bar.set_label(EXPLAINED, fontsize=plots.SMALLEST, loc="left")
    return figure


EXPLAINED = """share of the class's images that take a row of masks

A column is a row of masks: one choice of the
layer's channels to compute. For each image the
layer's unit takes one of its rows. They stand in
order of use, the most used first."""


def side_by_side(usage: pd.DataFrame) -> tuple[np.ndarray, list[float], list[str]]:
    """A network's layers as one picture.

    Args:
        usage: rows of "usage" of one network and seed, as `decided` has them.
    Returns: shares (classes, columns), each layer's rows in order of mean use and an empty column between layers; the
        column at each layer's middle; the layers.
    """
    parts: list[np.ndarray] = []
    middles, start, layers = [], 0, []
    for layer, one in usage.groupby("layer", sort=False):
        values = one.pivot(index="label", columns="row", values="value").to_numpy(float)
        values = values[:, np.argsort(-values.mean(0), kind="stable")]
        parts += [values, np.full((len(values), 1), np.nan)]
        middles.append(start + (values.shape[1] - 1) / 2)
        layers.append(str(layer))
        start += values.shape[1] + 1
    return np.concatenate(parts[:-1], axis=1), middles, layers


def _short(layer: str) -> str:
    """A layer's name as a panel has room for it: its block's, where every block has one masked convolution."""
    words = layer.split(".")
    return ".".join(words[-3:-1] if words[-1] == "conv1" else words[-1:])[-14:]


SHARES = "share of a layer's channels"
SWITCHED = {
    "share": SHARES,
    "entropy": "bits",
    "ceiling": "bits",
    "information": "bits",
    "baseline": "bits",
    "always": SHARES,
    "never": SHARES,
}
"""What is measured of a layer's channels, and its unit."""
UNITS = {
    **{f"channel_{name}": unit for name, unit in SWITCHED.items()},
    "entropy": "bits",
    "information": "bits",
    "top_share": "fraction of images",
    "collapsed_layers": "layers",
    "layers": "layers",
    "paths": "different paths",
    "top_path": "fraction of images",
    "accuracy": SHARE,
}
DECISIONS = Item(
    "lcs_decisions", decided, UNITS, table=decision_table, draw=draw_maps,
    about=("networks", "images", "permutations"), drawn_from=("lcs-usage",),
)  # fmt: skip
ITEMS = (DECISIONS,)

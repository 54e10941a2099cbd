"""From tables of what networks decide to the numbers, tables and texts of the notebook on decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib import data, evaluations, tables
from lib.attacks import SUITE
from lib.dynamic.study import decisions
from lib.dynamic.study.decision_inputs import about_attacks, data_of, networks, settings
from lib.evaluations import SHARE, frame

MEAN = "mean over layers"
COLLAPSED = 0.05  # bits of entropy below which a layer counts as collapsed
BITS = "bits"
AREA = "area under the ROC curve"


def gathered(make: Any, scale: str, seeds: Sequence[int], which: str = "decision_networks") -> dict[int, pd.DataFrame]:
    """One of the study's tables for all networks: seed -> rows.

    Args:
        make: one of its functions (scale, seed, name) -> rows.
        which: the setting that names the networks.
    """
    names = networks(scale, which)
    return {seed: evaluations.joined([make(scale, seed, name) for name in names]) for seed in seeds}


def layer_numbers(frames: Mapping[int, pd.DataFrame]) -> list[Any]:
    """Entropy and information of the choices as a record's numbers.

    Args:
        frames: seed -> as `decisions.layers` returns it, of all networks.
    Returns: entropy at {network, form, units, layer, choices}: "measured", and 0 for "constant", what one row for all
        images has; information at {network, form, units, layer, classes}: "true", and "permuted" for the mean under
        permuted classes; top_share at {network, form, units, layer}. A layer has its `place`, from 1, beside it; layer
        "mean over layers" has none. collapsed_layers at {network, form, units}: those below .05 bits of entropy.
    """
    rows: list[dict[str, Any]] = []
    for seed, table in frames.items():
        for (name, form, units), group in table.groupby(["network", "form", "units"], sort=False):
            where = {"network": name, "form": form, "units": units, "seed": seed, "n": int(group["n"].min())}
            mean = group[["entropy", "information", "baseline", "top_share"]].mean().to_dict()
            for row in [*group.to_dict("records"), {"layer": MEAN, **mean}]:
                at = {**where, "layer": row["layer"]} | ({"place": int(row["place"])} if "place" in row else {})
                rows += [
                    {"name": "entropy", "unit": BITS, "value": row["entropy"], "choices": "measured", **at},
                    {"name": "entropy", "unit": BITS, "value": 0.0, "choices": "constant", **at},
                    {"name": "information", "unit": BITS, "value": row["information"], "classes": "true", **at},
                    {"name": "information", "unit": BITS, "value": row["baseline"], "classes": "permuted", **at},
                    {"name": "top_share", "unit": "fraction of images", "value": row["top_share"], **at},
                ]
            few = int((group["entropy"] < COLLAPSED).sum())
            rows.append({"name": "collapsed_layers", "unit": "layers", "value": few, **where})
            rows.append({"name": "layers", "unit": "layers", "value": len(group), **where})
    return evaluations.numbers(rows)


def path_numbers(frames: Mapping[int, pd.DataFrame]) -> list[Any]:
    """Paths as a record's numbers: paths and top_path at {network, form}, accuracy at {network, form, images}.

    Args:
        frames: seed -> as `decisions.paths` returns it, of all networks.
    """
    rows: list[dict[str, Any]] = []
    for seed, table in frames.items():
        for row in table[table["kind"] == "measure"].to_dict("records"):
            word, _, images = row["name"].partition(", ")
            named = {"paths": ("paths", "different paths"), "top path": ("top_path", "fraction of images")}
            name, unit = named.get(word, (word, SHARE))
            where = {"network": row["network"], "form": row["form"], "seed": seed, "n": int(row["n"])}
            where |= {"images": images} if images else {}
            rows.append({"name": name, "unit": unit, "value": row["value"], **where})
    return evaluations.numbers(rows)


def umap_numbers(frames: Mapping[int, pd.DataFrame]) -> list[Any]:
    """What the features hold as a record's numbers.

    Args:
        frames: seed -> as `decisions.embedding` returns it, of all networks.
    Returns: neighbour_accuracy at {network, form, space}; apart at {network, form, space, attack}.
    """
    rows: list[dict[str, Any]] = []
    for seed, table in frames.items():
        for row in table[table["kind"] == "measure"].to_dict("records"):
            where = {"network": row["network"], "form": row["form"], "space": row["space"], "seed": seed}
            where |= {"n": int(row["n"]), "value": row["value"]}
            if row["name"] == "apart":
                rows.append({"name": "apart", "unit": AREA, "attack": row["inputs"], **where})
            else:
                rows.append({"name": "neighbour_accuracy", "unit": "fraction of training images", **where})
    return evaluations.numbers(rows)


def decision_table(numbers: Sequence[Any]) -> pd.DataFrame:
    """A row a network and kind of units: means over the layers, collapsed layers, different paths."""
    rows = []
    means = {
        "entropy, bits": frame(numbers, "entropy", layer=MEAN, choices="measured"),
        "information on the class, bits": frame(numbers, "information", layer=MEAN, classes="true"),
        "with permuted classes, bits": frame(numbers, "information", layer=MEAN, classes="permuted"),
        "share of the top row": frame(numbers, "top_share", layer=MEAN),
        "layers": frame(numbers, "layers"),
        "of them below .05 bits": frame(numbers, "collapsed_layers"),
    }
    paths = {"different paths": frame(numbers, "paths"), "share of the top path": frame(numbers, "top_path")}
    for row in means["layers"].to_dict("records"):
        line: dict[str, Any] = {key: row[key] for key in ("network", "form", "units")}
        for label, part in means.items():
            line[label] = _one(part, network=row["network"], units=row["units"])
        for label, part in paths.items():
            line[label] = _one(part, network=row["network"]) if row["units"] == decisions.TRAINED else None
        rows.append(line)
    return _plain(rows)


def umap_table(numbers: Sequence[Any]) -> pd.DataFrame:
    """A row a network and space: neighbour accuracy, and how far each attack lies apart."""
    accuracy, apart = frame(numbers, "neighbour_accuracy"), frame(numbers, "apart")
    rows = []
    for row in accuracy.to_dict("records"):
        line = {key: row[key] for key in ("network", "form", "space")} | {"neighbour accuracy": row["value"]}
        for attack in dict.fromkeys(apart["attack"]):
            label = f"{SUITE[attack].label} apart, AUROC"
            line[label] = _one(apart, network=row["network"], space=row["space"], attack=attack)
        rows.append(line)
    return _plain(rows)


def layers_reading(numbers: Sequence[Any]) -> str:
    """In words, network by network: whether choices differ, and how much of that follows the class."""
    parts = []
    table = decision_table(numbers)
    for name, group in table.groupby("network", sort=False):
        own, new = (group[group["units"] == kind].iloc[0] for kind in (decisions.TRAINED, decisions.UNTRAINED))
        told = own["information on the class, bits"] - own["with permuted classes, bits"]
        parts.append(
            f"- `{name}` ({own['form']}): {round(own['of them below .05 bits'], 1):g} of {own['layers']:g} layers "
            f"(mean over the seeds) have below .05 bits of entropy, on average {own['entropy, bits']:.2f} bits; "
            f"{told:.2f} bits of them tell the class beyond chance (untrained units: {new['entropy, bits']:.2f} and "
            f"{new['information on the class, bits'] - new['with permuted classes, bits']:.2f})."
        )
    return "\n".join(parts)


def paths_reading(numbers: Sequence[Any]) -> str:
    """In words, network by network: how many paths there are, and the accuracy on rare ones."""
    parts = []
    for row in frame(numbers, "paths").to_dict("records"):
        name = row["network"]
        rare, rest = (
            _one(frame(numbers, "accuracy"), network=name, images=images)
            for images in ("rarest tenth", "the other nine tenths")
        )
        top = _one(frame(numbers, "top_path"), network=name)
        parts.append(
            f"- `{name}`: {row['value']:,.0f} different paths among {row['n']:,} images, {top:.1%} on the most "
            f"frequent; accuracy {rare:.1%} on the rarest tenth, {rest:.1%} on the others."
        )
    return "\n".join(parts)


def markdown(table: pd.DataFrame) -> str:
    """A table for display, to three places."""
    return tables.rounded(table.astype(object).where(table.notna(), float("nan")).infer_objects())


def setting_text(scale: str, seeds: Sequence[int], frames: Mapping[int, pd.DataFrame]) -> str:
    """What the notebook's run rests on, in a paragraph of Markdown."""
    table = next(iter(frames.values()))
    rest = (
        f"{table['network'].nunique()} networks with decision units, choices on {int(table['n'].max()):,} test images"
    )
    return evaluations.setting_text(scale, settings(scale)["data"], seeds, rest)


def write(
    item: str,
    scale: str,
    seeds: Sequence[int],
    numbers: Sequence[Any],
    figure: Any,
    table: pd.DataFrame,
    drawn: Sequence[pd.DataFrame],
) -> None:
    """Write the record of one of the notebook's items.

    Args:
        item: lcs_decisions or lcs_umap.
        numbers, figure, table, drawn: as `evaluations.write` takes them.
    """
    which = "umap_networks" if item == "lcs_umap" else "decision_networks"
    names = networks(scale, which)
    used, full = (_described(name, which) for name in (scale, "paper"))
    full["seeds"] = evaluations.seeds_of("paper", "dynamic")
    known = {}
    for name in names:
        for split in ("train", "test"):
            images = data.load(data_of(scale, name), split)
            known[f"{images.name}/{split}"] = images.fingerprint
    evaluations.write(item, scale, seeds, names, numbers, figure, used, full, known, table, drawn=drawn)


def _described(scale: str, which: str) -> dict[str, Any]:
    """A scale's settings by the words that describe them."""
    chosen = settings(scale)
    words: dict[str, Any] = {"data set": chosen["data"], "networks": networks(scale, which)}
    if which == "umap_networks":
        words |= {"training images": chosen["umap_images"], "adversarials an attack": chosen["umap_adversarials"]}
        return words | about_attacks(scale, chosen["umap_attacks"])
    return words | {"test images": chosen["decision_images"], "permutations": chosen["permutations"]}


def _one(rows: pd.DataFrame, **where: Any) -> float | None:
    for key, value in where.items():
        rows = rows[rows[key] == value]
    return float(rows["value"].iloc[0]) if len(rows) else None


def _plain(rows: list[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows).astype(object)
    return table.where(table.notna(), None)

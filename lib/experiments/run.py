"""One seed of an experiment: what it reads (networks, data, kept tables), with a note of each for the record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd
from torch import nn

from lib import config, data, evaluations, zoo
from lib.data import ImageSet, splits
from lib.experiments.settings import Settings

S = TypeVar("S", bound=Settings)


@dataclass
class Read:
    """What numbers rest on.

    Attributes:
        networks: (name, seed) -> the network's card.
        data: "set/split" -> fingerprint.
        tables: file of the scale's results -> checksum of its values.
        machines: device and torch -> seeds computed there.
        table_seconds: file -> what making the table took, on the machine where that was done.
    """

    networks: dict[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    machines: dict[str, set[int]] = field(default_factory=dict)
    table_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of training the networks, and of making the tables."""
        return sum(card["seconds"] for card in self.networks.values()) + sum(self.table_seconds.values())

    def add(self, other: Read) -> None:
        """Take in what another seed's run has read."""
        for name in ("networks", "data", "tables", "table_seconds"):
            getattr(self, name).update(getattr(other, name))
        for machine, seeds in other.machines.items():
            self.machines.setdefault(machine, set()).update(seeds)


class Run(Generic[S]):
    """One seed of an experiment at its settings.

    Args:
        settings: the experiment's.
        seed: of the networks.
    """

    def __init__(self, settings: S, seed: int) -> None:
        self.settings, self.seed, self.scale = settings, seed, settings.scale
        self.preset = config.load(settings.scale)
        self.read = Read()

    def card(self, network: str, seed: int | None = None) -> Mapping[str, Any]:
        """A network's card, trained where it is not there yet; noted."""
        seed = self.seed if seed is None else seed
        card = zoo.card(network, self.scale, seed)
        self.read.networks[network, seed] = card
        self.read.data |= card["data"]
        self.read.machines.setdefault(f"{card['device']}, torch {card['torch']}", set()).add(seed)
        return card

    def network(self, name: str, seed: int | None = None) -> nn.Module:
        """A named network of this run's seed, as `zoo.get`; noted."""
        self.card(name, seed)
        return zoo.get(name, self.scale, self.seed if seed is None else seed)

    def of_this_seed(self, names: Sequence[str]) -> list[str]:
        """Of these networks those that are trained at this seed: for some families `family_seeds` names fewer.

        Raises: ConfigError where none is.
        """
        fewer = self.preset.study[self.settings.study].get("family_seeds", {})
        found = [name for name in names if self.seed in fewer.get(self.preset.recipe(name).family, [self.seed])]
        if not found:
            raise config.ConfigError(f"none of {', '.join(names)} is trained at seed {self.seed}: see `family_seeds`")
        return found

    def images(self, split: str = "test", count: int | None = None, name: str | None = None) -> data.ImageSet:
        """Images of a set, equally from each class, the same for every network and seed; the whole set is noted.

        Args:
            split: test or train.
            count: how many; None, or more than there are: all.
            name: of the set; None: the settings' `data`.
        """
        name = name or self.settings.data
        self.read.data[f"{name}/{split}"] = _images(name, split, None).fingerprint
        return _images(name, split, count)

    def table(
        self,
        kind: str,
        key: Mapping[str, Any],
        make: Callable[[], pd.DataFrame | Iterable[Any]],
        network: str | None = None,
        version: int = 1,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """A table read where it is kept, else made once and kept; noted.

        Args:
            kind: what it is; a folder of results/<scale>/evaluations.
            key: all that it depends on, plain; the weights of `network` and the seed are added where it is given.
            make: computes it, as a frame or row by row; only plain cells (missing ones become None).
            network: that it was measured on.
            version: raise it when a change in the code changes the numbers.
            columns: of rows; None: rows are mappings, and have their own.
        """

        def frame() -> pd.DataFrame:
            made = make()
            return made if isinstance(made, pd.DataFrame) else pd.DataFrame(list(made), columns=columns)

        if network is not None:
            key = {"weights": self.card(network)["weights"], "seed": self.seed, **key}
        found = evaluations.kept_by(kind, self.scale, key, frame, version, beside=bool(self.settings.changed))
        self.read.tables |= found.attrs["kept"]
        if made := found.attrs["made"]:
            seeds = {int(key["seed"])} if "seed" in key else set()
            self.read.machines.setdefault(f"{made['device']}, torch {made['torch']}", set()).update(seeds)
            self.read.table_seconds |= dict.fromkeys(found.attrs["kept"], float(made.get("seconds", 0.0)))
        return found

    def tidy(self, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
        """Rows of what was measured as a frame that knows what it was read from.

        Args:
            rows: each with measure, value and n, and whatever else tells it apart; "note" and "unit" where a row has
                its own.
        Returns: one row each; cells that a row does not have are None.
        """
        frame = pd.DataFrame(list(rows), dtype=object)
        frame = frame.where(frame.notna(), None)
        frame.attrs["read"] = self.read
        return frame


def measures(
    table: pd.DataFrame,
    names: Iterable[str],
    by: Sequence[str] = (),
    n: str | Mapping[str, str] = "n",
    **about: Any,
) -> Iterator[dict[str, Any]]:
    """Measures that a table has as columns, as rows for `Run.tidy`: one a row and measure, none where it is missing.

    Args:
        table: as `Run.table` returns it.
        names: of the measures.
        by: columns that tell rows apart.
        n: the column that says how many are behind a row's values; or measure -> that column.
        about: what tells this table's rows from others.
    """
    for row in table.to_dict("records"):
        where = {**about, **{key: row[key] for key in by}}
        for name in names:
            if not pd.isna(row[name]):
                count = row[n if isinstance(n, str) else n[name]]
                yield {"measure": name, **where, "value": row[name], "n": int(count)}


@lru_cache(maxsize=8)
def _images(name: str, split: str, count: int | None) -> data.ImageSet:
    if count is None:
        return data.load(name, split)
    whole = _images(name, split, None)
    return whole.stratified(min(count, len(whole)), seed=0)


def halved(
    images: ImageSet, share: float = 0.5, names: tuple[str, str] = ("test1", "test2")
) -> tuple[ImageSet, ImageSet]:
    """Two parts of a set, class by class; where classes have one image each, image by image.

    Args:
        share: of the second part.
        names: of the parts.
    """
    labels = images.labels.numpy()
    if np.bincount(labels).max() < 2:
        order, cut = np.random.RandomState(0).permutation(len(labels)), round(len(labels) * (1 - share))
        first, second = np.sort(order[:cut]), np.sort(order[cut:])
    else:
        first, second = splits.partition(labels, share)
    return images.part(first, names[0]), images.part(second, names[1])

"""One table or figure: what is measured, what the source states, how it is laid out and drawn; and its results.

The same way for all: frames of each seed become numbers with intervals, these the record, its table and its figure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from lib import config, models, plots, record, reduced, tables
from lib.experiments.run import Read
from lib.experiments.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARE = "fraction of test images"
_NOT_PLACE = ("measure", "value", "n", "note", "unit", "seed")


@dataclass(frozen=True)
class Item:
    """A table or figure of config/items.yaml.

    Attributes:
        name: in config/items.yaml.
        measure: settings and seed -> tidy frame (`Run.tidy`): measure, value, n, and what tells rows apart.
        units: measure -> its unit, of `lib.units`; the measures that the record has, others of the frame are left out.
        stated: the source's values, as (measure, what tells its number apart, value); only what the source states.
        table: results -> the table; None: every number, one a row.
        draw: results -> the figure, from `Results.values` wherever numbers say it all; None: a table alone.
        about: names of the settings that the record compares with the source's; empty: all that have a title.
        drawn_from: kinds of kept tables that the figure shows beside the numbers, as points of a map; of the first
            seed, as a figure has room for one map.
    """

    name: str
    measure: Callable[[Any, int], pd.DataFrame]
    units: Mapping[str, str]
    stated: Sequence[tuple[str, Mapping[str, Any], float]] = ()
    table: Callable[[Results], pd.DataFrame] | None = None
    draw: Callable[[Results], Figure] | None = None
    about: Sequence[str] = ()
    drawn_from: Sequence[str] = ()

    def of(self, settings: Settings) -> Results:
        """Measured at every seed, or read where it is kept."""
        return Results(self, settings, {seed: self.measure(settings, seed) for seed in settings.seeds})


@dataclass
class Results:
    """An item's results.

    Attributes:
        item, settings: what was measured, and at which settings.
        frames: seed -> tidy frame.
    """

    item: Item
    settings: Any
    frames: Mapping[int, pd.DataFrame]
    read: Read = field(init=False)

    def __post_init__(self) -> None:
        self.read = Read()
        for frame in self.frames.values():
            self.read.add(frame.attrs["read"])

    @cached_property
    def numbers(self) -> list[dict[str, Any]]:
        """The record's numbers, one for all seeds, in order of appearance.

        Their interval is over the seeds; with one seed, that of a share of test images is over the images.
        """
        grouped: dict[tuple[Any, ...], dict[int, Mapping[str, Any]]] = {}
        for seed, frame in self.frames.items():
            for row in frame.to_dict("records"):
                if row["measure"] in self.item.units:
                    where = {k: v for k, v in row.items() if k not in _NOT_PLACE and v is not None}
                    unit = row.get("unit") or self.item.units[row["measure"]]
                    place = (row["measure"], unit, tuple(where.items()))
                    if seed in grouped.setdefault(place, {}):
                        raise record.RecordError(f"{self.item.name}: {row['measure']} at {where} is there twice")
                    grouped[place][seed] = row
        found = []
        for (measure, unit, where), rows in grouped.items():
            first, per_seed = next(iter(rows.values())), {seed: float(row["value"]) for seed, row in rows.items()}
            n = min(int(row["n"]) for row in rows.values())
            interval = "images" if len(per_seed) == 1 and unit == SHARE else "seeds"
            stated, note = self._stated(measure, dict(where)), first.get("note") or ""
            found.append(record.number(measure, dict(where), per_seed, unit, n, stated, note, interval=interval))
        return found

    def _stated(self, measure: str, where: Mapping[str, Any]) -> float | None:
        for name, at, value in self.item.stated:
            if name == measure and all(where.get(key) == wanted for key, wanted in at.items()):
                return value
        return None

    @cached_property
    def _rows(self) -> pd.DataFrame:
        return record.frame({"numbers": self.numbers})

    def values(self, measure: str, **where: Any) -> pd.DataFrame:
        """Numbers of one measure as rows, only those at `where`: value, low, high, n, per_seed, and what tells them
        apart; a list in `where` lets several values pass. One seed may have no interval: low and high are NaN then."""
        rows = self._rows[self._rows["name"] == measure]
        for key, wanted in where.items():
            here = rows[key] if key in rows else pd.Series(None, rows.index, dtype=object)
            rows = rows[here.isin(wanted) if isinstance(wanted, (list, tuple, set)) else here == wanted]
        told = rows.notna().any() | rows.columns.isin(["low", "high"]) | rows.empty
        return rows.loc[:, told].reset_index(drop=True)

    def wide(self, shown: Mapping[str, str], by: Sequence[str], **where: Any) -> pd.DataFrame:
        """Measures side by side: the columns `by`, and one for each measure that there is.

        Args:
            shown: measure -> the head of its column.
            by: what tells the rows apart.
            where: as `values` takes it.
        """
        found = {title: self.values(name, **where) for name, title in shown.items()}
        columns = [rows.set_index(list(by))["value"].rename(title) for title, rows in found.items() if len(rows)]
        return pd.concat(columns, axis=1).reset_index()

    def rows(self, measure: str) -> pd.DataFrame:
        """What the frames of all seeds say of one measure, of the record's or beyond, with a column seed."""
        parts = [frame[frame["measure"] == measure].assign(seed=seed) for seed, frame in self.frames.items()]
        return pd.concat(parts, ignore_index=True).dropna(axis=1, how="all").infer_objects()

    def value(self, measure: str, **where: Any) -> float:
        """One number's value. Raises: ValueError where not exactly one fits."""
        return float(self.values(measure, **where)["value"].item())

    @cached_property
    def table(self) -> pd.DataFrame | None:
        """The item's own layout; None: every number, one a row."""
        return None if self.item.table is None else self.item.table(self)

    @cached_property
    def figure(self) -> Figure | None:
        """The item's figure; its files are the same whether it has been displayed before or not."""
        if self.item.draw is None:
            return None
        return plots.settled(self.item.draw(self))

    def write(self) -> None:
        """Write the record with its table and figure, and say where: the scale's, or beside them where a setting is not
        the scale's."""
        own, scale, read = self.settings, self.settings.scale, self.read
        entry = config.items()[self.item.name]
        used, full = own.compared(self.item.about)
        networks, preset = list(dict.fromkeys(name for name, _ in read.networks)), config.load(scale)
        families = {preset.recipe(name).family for name in networks}
        for family, seeds in preset.study[own.study].get("family_seeds", {}).items():
            if family in families and len(seeds) < len(own.seeds) and "seeds" in full:
                used[f"seeds of {family}"], full[f"seeds of {family}"] = seeds, full["seeds"]
        phrases = reduced.phrases(scale, networks, used, full, entry.paper, models.defaults)
        first = self.frames[own.seeds[0]].attrs["read"].tables
        shown = {name: checksum for name, checksum in first.items() if name.split("/")[1] in self.item.drawn_from}
        path = record.write(
            self.item.name, scale, self.numbers, phrases, self.figure, self.table, read.data, read.seconds,
            read.machines, shown, own.changed,
        )  # fmt: skip
        why = f"{record.in_words(own.changed)}, so not the record of scale {scale}: " if own.changed else ""
        place = path.relative_to(config.results_dir(scale).parent)
        print(f"{self.item.name}: {why}{place}; computed on {record.computed_on(read.machines)}")
        print(json.loads(path.read_text(encoding="utf-8"))["finding"])

    def show(self) -> None:
        """Display the figure, and below it the table."""
        from IPython.display import Markdown, display

        if self.figure is not None:
            display(self.figure)
        if self.table is not None:
            display(Markdown(markdown(self.table)))


def pivot(
    measure: str, rows: Sequence[str], columns: str, label: str = "{:g}", names: Mapping[str, Mapping[Any, str]] = {}
) -> Callable[[Results], pd.DataFrame]:
    """A layout: one measure, its rows in order of appearance, a column for each value of what runs across.

    Args:
        measure: of the record.
        rows: what tells rows apart, a column each.
        columns: what runs across; `label` is the column's head.
        names: of the values of `rows`, as a reader sees them.
    """

    def lay_out(results: Results) -> pd.DataFrame:
        wide = results.values(measure).pivot_table(
            index=list(rows), columns=columns, values="value", sort=False, dropna=True
        )
        wide = wide[sorted(wide.columns)].rename(columns=label.format).reset_index().rename_axis(columns=None)
        for key, known in names.items():
            wide[key] = wide[key].map(known)
        return wide

    return lay_out


def markdown(table: pd.DataFrame, places: int = 3) -> str:
    """A table for display, numbers to some places; a column of whole or large ones (10,000 and more) without."""
    shown = table.copy()
    for column in shown.select_dtypes("float"):
        there = shown[column].dropna()
        form = ",.0f" if (there % 1 == 0).all() or there.abs().max() >= 1e4 else f".{places}f"
        shown[column] = ["" if pd.isna(value) else f"{value:{form}}" for value in shown[column]]
    return tables.markdown(shown.astype(str))

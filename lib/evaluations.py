"""What the studies share between trained networks and records: settings, kept evaluations, numbers over seeds.

What was computed on named networks is kept with the results, in results/<scale>/evaluations/, addressed by the
network's weights and everything else it depends on, so that no change of any of them is missed, and a reader can open
the notebooks without having the networks.

    python -m lib.evaluations --run lib.experiments.nnslicer:make_scores --scale smoke --seed 0

runs a step of config/steps.yaml, ahead of the notebooks that show it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, TypeVar

import pandas as pd
import torch

from lib import cache, compute, config, data, models, permission, record, reduced, store, zoo

SHARE = "fraction of test images"
NOT_KEPT = 3  # exit status
Result = TypeVar("Result")
_made_on: dict[str, set[int | None]] = {}  # machine -> seeds of the kept tables that this process has read


def settings(scale: str, study: str, defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A scale's settings of a study: `study.<study>` of its file, with `defaults` for what it leaves out.

    Raises: ConfigError where the scale names no data set for the study.
    """
    chosen = {**(defaults or {}), **config.flat(scale, study)}
    if "data" not in chosen:
        raise config.ConfigError(f"config/{scale}.yaml: study.{study}.data is missing: name a data set")
    return chosen


def seeds_of(scale: str, study: str, seeds: Sequence[int] | int | None = None) -> list[int]:
    """The seeds given, one or several, else those of the scale's study.

    Raises: ValueError for anything but whole numbers, as the text that `papermill -p seeds [0]` hands over.
    """
    if seeds is None:
        return list(settings(scale, study, {"seeds": [0]})["seeds"])
    chosen = [seeds] if isinstance(seeds, int) else list(seeds)
    if not chosen or not all(isinstance(seed, int) for seed in chosen):
        raise ValueError(f"seeds is {seeds!r}: whole numbers are wanted, with papermill as -y 'seeds: [0, 1]'")
    return chosen


@lru_cache(maxsize=8)
def test_images(name: str, count: int) -> data.ImageSet:
    """`count` test images of a set, equally from each class, the same for every network and seed."""
    test = data.load(name, "test")
    return test.stratified(min(count, len(test)), seed=0)


def kept(
    kind: str,
    network: str,
    scale: str,
    seed: int,
    key: Mapping[str, Any],
    make: Callable[[], pd.DataFrame],
    version: int = 1,
) -> pd.DataFrame:
    """A table computed on a named network: read where it is kept, else made once and kept.

    Args:
        kind: what it is; a folder of results/<scale>/evaluations.
        network, scale, seed: of the network, as in `zoo.get`, which trains it where it is not there yet.
        key: all that the table depends on beside the network's weights and the seed; plain.
        make: computes it; only plain cells (missing ones become None).
        version: raise it when a change in the code changes the numbers.
    Returns: the table; its `attrs` say which file it is, for `write`'s `drawn`.
    """
    weights = zoo.card(network, scale, seed)["weights"]
    return kept_by(kind, scale, {"weights": weights, "seed": seed, **key}, make, version)


def kept_by(
    kind: str,
    scale: str,
    key: Mapping[str, Any],
    make: Callable[[], pd.DataFrame],
    version: int = 1,
    beside: bool = False,
) -> pd.DataFrame:
    """A table of any networks: read where it is kept, else made once and kept.

    Args:
        kind, make, version: as `kept` takes them.
        key: all that the table depends on; plain.
        beside: keep what has to be made in the cache, not with the scale's results.
    """

    def plain() -> tuple[dict[str, Any], dict[str, Any]]:
        if torch.cuda.is_available():  # a CPU gives the same bytes without
            compute.deterministic()
        began, before = time.perf_counter(), len(zoo.changed)
        frame = make()
        if len(zoo.changed) > before:
            raise zoo.NetworkChanged(
                f"{', '.join(zoo.changed[before:])}: trained here, with other weights than those of the card that was "
                "there: its tables are not of these weights. Start again, and what is missing is made anew"
            )
        rows = [
            [None if pd.isna(value) else value for value in row] for row in frame.astype(object).to_numpy().tolist()
        ]
        seconds = round(time.perf_counter() - began, 1)
        made = {"device": compute.describe(), "torch": torch.__version__, "seconds": seconds}
        return {"columns": frame.columns.tolist(), "rows": rows}, made

    folder = config.results_dir(scale) / "evaluations"
    whole = {"version": version, **key}
    if beside and not (folder / cache.name_of(kind, whole)).exists():
        folder = config.cache_dir(scale) / "evaluations"
    found, made = cache.get(kind, whole, plain, cache.MADE, folder=folder)
    if made:
        _made_on.setdefault(f"{made['device']}, torch {made['torch']}", set()).add(key.get("seed"))
    table = pd.DataFrame(found["rows"], columns=found["columns"])
    table.attrs["made"] = made
    table.attrs["kept"] = {f"evaluations/{cache.name_of(kind, whole)}": store.fingerprint(found)}
    return table


def joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Kept tables one below the other; what is drawn from the whole is drawn from all of their files."""
    whole = pd.concat(tables, ignore_index=True)
    if all(table.attrs.get("kept") for table in tables):
        whole.attrs["kept"] = files_of(tables)
    return whole


def files_of(tables: Sequence[pd.DataFrame]) -> dict[str, str]:
    """The files of kept tables, as {file of the scale's results: checksum}.

    Raises: ValueError for a table that `kept` did not return, or that lost its `attrs` on the way.
    """
    found: dict[str, str] = {}
    for table in tables:
        if not table.attrs.get("kept"):
            raise ValueError(
                "a figure drawn from a table that is not a kept one: read it by evaluations.kept, join several by "
                "evaluations.joined, or draw from the numbers"
            )
        found |= table.attrs["kept"]
    return found


def numbers(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """One number of a record for all rows that differ in seed only.

    Args:
        rows: each with name, value, unit, n, seed, and whatever else tells it apart; paper_value and note, where
            given, are the number's.
    Returns: numbers as `record.write` takes them, in order of appearance. Their interval is over the seeds; with one
        seed, that of a share of test images is over the images.
    """
    grouped: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        beside = ("value", "n", "seed", "paper_value", "note")
        place = tuple((key, value) for key, value in row.items() if key not in beside)
        grouped.setdefault(place, []).append(row)
    made = []
    for place, group in grouped.items():
        where = dict(place)
        name, unit = where.pop("name"), where.pop("unit")
        per_seed = {row["seed"]: row["value"] for row in group}
        interval = "images" if len(per_seed) == 1 and unit == SHARE else "seeds"
        count, first = min(int(row["n"]) for row in group), group[0]
        made.append(
            record.number(
                name, where, per_seed, unit, count, first.get("paper_value"), first.get("note", ""), interval=interval
            )
        )
    return made


def frame(numbers: Sequence[Any], name: str = "accuracy", **where: Any) -> pd.DataFrame:
    """A record's numbers of one name as rows to plot, only those at `where`."""
    rows = record.frame({"numbers": list(numbers)})
    rows = rows[rows["name"] == name]
    for key, value in where.items():
        rows = rows[rows[key] == value]
    return rows


def setting_text(scale: str, name: str | Sequence[str], seeds: Sequence[int], rest: str) -> str:
    """What a notebook's run rests on, in one paragraph of Markdown: data and seeds; `write` tells the device.

    Args:
        name: the data set, or several.
        rest: what was measured on it, as "2000 test images (the same for every network)".
    """
    plural = "s" if len(seeds) != 1 else ""
    titles = ", ".join(data.SETS[one].title for one in ([name] if isinstance(name, str) else name))
    return f"**Scale `{scale}`**: {titles}; {rest}; {len(seeds)} seed{plural} ({', '.join(map(str, seeds))})."


def write(
    item: str,
    scale: str,
    seeds: Sequence[int],
    networks: Sequence[str],
    numbers: Sequence[Any],
    figure: Any,
    used: Mapping[str, Any],
    full: Mapping[str, Any],
    fingerprints: Mapping[str, str],
    table: pd.DataFrame | None = None,
    once: Sequence[str] = (),
    changed: Mapping[str, Any] | None = None,
    drawn: Sequence[pd.DataFrame] = (),
) -> None:
    """Write an item's record, with what was reduced and the fingerprints of the data, and say where it is.

    Only a run with the scale's seeds and settings writes the scale's record; any other writes beside it.

    Its seconds are those of training the networks shown, on the machine that trained them, and of the notebook since
    the last record; evaluations made ahead are not in it.

    Args:
        item: a name in config/items.yaml.
        scale, seeds, networks: what the numbers rest on.
        numbers, figure, table: as `record.write` takes them.
        used, full: this scale's settings and the paper's, by the words that describe them.
        fingerprints: of the data beside the networks' own.
        once: networks of the first seed only.
        changed: settings of this run that are not the scale's, by name; seeds need not be named.
        drawn: the kept tables that the figure shows, where it is not drawn from the numbers alone.
    """
    differs = dict(changed or {})
    entry = config.items()[item]
    if list(seeds) != config.item_seeds(entry, config.load(scale)):
        differs["seeds"] = list(seeds)
    shown = files_of(drawn)
    cards = [(seed, zoo.card(name, scale, seed)) for name in networks for seed in seeds]
    cards += [(seeds[0], zoo.card(name, scale, seeds[0])) for name in once]
    known = dict(fingerprints)
    machines = {machine: {seed for seed in made if seed is not None} for machine, made in _made_on.items()}
    for seed, card in cards:
        known |= card["data"]
        machines.setdefault(f"{card['device']}, torch {card['torch']}", set()).add(seed)
    seconds = sum(card["seconds"] for _, card in cards) + record.since_last_write()
    used = {"seeds": list(seeds), **used}
    smaller = reduced.phrases(scale, [*networks, *once], used, full, entry.paper, models.defaults)
    path = record.write(item, scale, numbers, smaller, figure, table, known, seconds, machines, shown, differs)
    why = f"{record.in_words(differs)}, so not the record of scale {scale}: " if differs else ""
    place = path.relative_to(config.results_dir(scale).parent)
    print(f"{item}: {why}{place}; computed on {record.computed_on(machines) or compute.describe()}")


def restarting(work: Callable[[], Result]) -> Result:
    """What `work` gives, for a command that somebody called: it may train however long it takes.

    Where a network has changed meanwhile, this process's command line starts from its beginning; each time at least one
    network more has been trained, so that it comes to an end.
    """
    try:
        with permission.asked():
            return work()
    except zoo.NetworkChanged as error:
        print(f"{error}.", file=sys.stderr, flush=True)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def measure(experiment: Any, scale: str, seed: int) -> None:
    """All that an experiment's items measure at one seed of its study; at the first also at seeds of its own alone.

    Args:
        experiment: a module of lib.experiments, with `Settings` and `ITEMS`.
    """
    compute.deterministic()
    settings = experiment.Settings.of(scale)
    shared = seeds_of(scale, settings.study)
    alone = [each for each in settings.seeds if each not in shared] if seed == shared[0] else []
    for each in [seed, *alone]:
        for item in experiment.ITEMS:
            item.measure(settings, each)


def main() -> int:
    """python -m lib.evaluations --run MODULE:FUNCTION --scale S --seed K [--kept]"""
    parser = argparse.ArgumentParser(prog="python -m lib.evaluations", description=main.__doc__)
    known = sorted({step.run for steps in config.steps().values() for step in steps.values()})
    parser.add_argument("--run", required=True, nargs="+", choices=known, metavar="MODULE:FUNCTION")
    parser.add_argument("--scale", default="smoke", choices=config.SCALES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", action="store_true", help="only say whether all is kept: exit status 0, else 3")
    chosen = parser.parse_args()
    compute.set_threads(config.load(chosen.scale).compute.threads)
    torch.manual_seed(chosen.seed)
    for run in chosen.run:
        module, _, function = run.partition(":")
        found = importlib.import_module(module)
        step = partial(getattr(found, function) if function else partial(measure, found), chosen.scale, chosen.seed)
        if chosen.kept:
            try:
                with cache.only_kept():
                    step()
            except cache.NotKept as error:
                print(f"{run}, seed {chosen.seed}: {error}")
                return NOT_KEPT
        else:
            restarting(step)
        print(f"{run}, seed {chosen.seed}: {'all is kept' if chosen.kept else 'done'}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Tables measured on trained networks, and the steps of the graph that make them.

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
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import pandas as pd
import torch

from lib import cache, compute, config, permission, store, zoo

NOT_KEPT = 3  # exit status
Result = TypeVar("Result")


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
    Returns: the table; its `attrs` say which file it is, and where and how long it was made.
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
    table = pd.DataFrame(found["rows"], columns=found["columns"])
    table.attrs["made"] = made
    table.attrs["kept"] = {f"evaluations/{cache.name_of(kind, whole)}": store.fingerprint(found)}
    return table


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


def carry_out(run: str, scale: str, seed: int, **part: Any) -> None:
    """A step of config/steps.yaml at one seed of its study; at the first also at seeds of the experiment's own alone.

    Args:
        run: a module of lib.experiments, with `Settings` and `ITEMS`: all that its items measure; module:ITEM: what
            this one measures; or module:function, called with scale, seed and part.
        part: of a step that can be made in parts, what this one is; nothing: the whole.
    """
    module, _, name = run.partition(":")
    experiment = importlib.import_module(module)
    items = [getattr(experiment, name)] if name else experiment.ITEMS
    if callable(items[0]):
        items[0](scale, seed, **part)
        return
    compute.deterministic()
    settings = experiment.Settings.of(scale)
    shared = list(config.load(scale).study[settings.study].get("seeds", (0,)))
    alone = [each for each in settings.seeds if each not in shared] if seed == shared[0] else []
    for each in [seed, *alone]:
        for item in items:
            item.measure(settings, each, **part)


def main() -> int:
    """python -m lib.evaluations --run MODULE[:NAME] --scale S --seed K [--kept]"""
    parser = argparse.ArgumentParser(prog="python -m lib.evaluations", description=main.__doc__)
    known = sorted({step.run for steps in config.steps().values() for step in steps.values()})
    parser.add_argument("--run", required=True, nargs="+", choices=known, metavar="MODULE[:NAME]")
    parser.add_argument("--scale", default="smoke", choices=config.SCALES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", action="store_true", help="only say whether all is kept: exit status 0, else 3")
    chosen = parser.parse_args()
    compute.set_threads(config.load(chosen.scale).compute.threads)
    torch.manual_seed(chosen.seed)
    for run in chosen.run:
        step = partial(carry_out, run, chosen.scale, chosen.seed)
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

"""Networks pruned from scratch beside narrowed, L1-pruned and slimmed ones, at equal FLOPs and training budget.

    python -m lib.evaluations --run lib.dynamic.study.scratch:make --scale smoke --seed 0

Training budget, counted in multiply-accumulates of the whole network: with E epochs of it as the unit, a network with a
share s of its FLOPs trains E epochs ("E epochs", cost s) or E / s epochs ("budget", cost 1, the search not counted, as
in the paper). With the search counted ("gates counted", ours), what the gates cost is taken off the training. The
pruning of a trained network spends half of the budget on training the whole network for E / 2 epochs and half on
fine-tuning the pruned one for E / (2 s): cost 1 too, its search counted.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from lib import config, evaluations, zoo
from lib.dynamic import cost, static
from lib.dynamic.scratch.build import shrink
from lib.dynamic.study.scratch_networks import (
    VERSION,
    channels_of,
    fitted,
    fresh,
    latencies,
    network_key,
    recipe_of,
    rows_of,
    seen,
    settings,
    shape_of,
    structure,
    test_images,
    train_images,
    trained,
    training_key,
)
from lib.progress import bar
from lib.training import accuracy

METHODS = {
    "full": "the whole network",
    "scratch": "from scratch",
    "scratch-budget": "from scratch, budget",
    "scratch-counted": "from scratch, budget, gates counted",
    "plain": "from scratch, not widened",
    "random": "random structure",
    "uniform": "uniform",
    "uniform-budget": "uniform, budget",
    "l1": "L1 norm",
    "slimming": "network slimming",
    "slimming-floor": "network slimming, a tenth of each layer stays",
}
FRESH = ("scratch", "plain", "random", "uniform")
TRAINED = {"l1": "half", "slimming": "half-slim", "slimming-floor": "half-slim"}
"""Pruned from a trained network: which variant of the whole one."""
PASSES, GATE_PASSES = 3, 2
"""Forward passes that an image costs in training (the gradients of activations and of weights cost one each), and in
learning gates, where no weight has a gradient."""
LEAST = 0.1
"""Share of each layer's channels that "slimming-floor" keeps: slimming as stated may leave a layer one channel."""


def networks(scale: str, seed: int) -> list[str]:
    """The networks of the study, those of `scratch_once` only for its first seed."""
    chosen = settings(scale)
    once = chosen["scratch_once"] if seed == evaluations.seeds_of(scale, "dynamic")[0] else []
    return [*chosen["scratch_networks"], *once]


def make(scale: str, seed: int, name: str = "", budget: float = 0.0, method: str = "") -> None:
    """All that the notebook shows of one seed: a node of the graph; or, with the arguments of `parts`, one part."""
    if name:
        (_from_fresh if method in FRESH else _from_trained)(scale, name, seed, method, budget)
    else:
        table(scale, seed)


def parts(scale: str, seed: int) -> list[dict[str, Any]]:
    """What `make` can be asked for one by one: each method that has a structure of its own, network and budget."""
    budgets = settings(scale)["scratch_budgets"]
    return [
        {"name": name, "budget": budget, "method": method}
        for name in networks(scale, seed)
        for budget in budgets
        for method in (*FRESH, *TRAINED)
    ]


def table(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """Every network, method and budget of one seed.

    Args:
        scale, seed: of first weights, gates and training.
    Returns: one row each: network, method, budget (1 for the whole network), accuracy, n, parameters, macs, share,
        epochs, train_seconds, train_images and train_work (after the structure is known; work in multiply-accumulates
        of forward and backward passes), search_seconds, search_images and search_work (before it is), source_epochs
        (of the search, in the settings of `paper`, where they have the network; else empty), same_as (a method whose
        structure this very one is; else empty), batch1 and so on (median seconds an image, one column a batch of
        `latency_batches`), zeros, mean_gate, rule, before (accuracy before fine-tuning; empty where there is none).
    """
    parts = []
    for name in bar(networks(scale, seed), desc="networks"):
        for budget in settings(scale)["scratch_budgets"]:
            rows = [_full(scale, name, seed)] if budget == settings(scale)["scratch_budgets"][0] else []
            for method in FRESH:
                rows += _from_fresh(scale, name, seed, method, budget)
            rows += [_from_trained(scale, name, seed, method, budget) for method in TRAINED]
            part = pd.DataFrame(rows)
            parts.append(_with_latency(scale, name, seed, part, budget))
    return pd.concat(parts, ignore_index=True).drop(columns=["channels", "expansion"])


def structures(scale: str, seed: int, name: str, budget: float) -> pd.DataFrame:
    """The share of channels each structure keeps: one row a method and convolution: method, layer, width, kept."""
    parts = [structure(scale, name, seed, method, budget).assign(method=method) for method in FRESH]
    parts += [_pruned(scale, name, seed, method, budget)[0].assign(method=method) for method in TRAINED]
    return pd.concat(parts, ignore_index=True)[["method", "layer", "width", "kept"]]


def _full(scale: str, name: str, seed: int) -> dict[str, Any]:
    card = zoo.card(name, scale, seed)
    epochs, macs = config.load(scale).recipe(name).epochs, _whole(scale, name, seed)
    images = seen(recipe_of(scale, name), len(train_images(scale, name)))
    return {
        "network": name,
        "method": "full",
        "budget": 1.0,
        "accuracy": card["test_accuracy"],
        "n": card["test_images"],
        "parameters": card["parameters"],
        "macs": macs,
        "share": 1.0,
        "epochs": epochs,
        "train_seconds": card["seconds"],
        "train_images": images,
        "train_work": PASSES * images * macs,
        "search_seconds": 0.0,
        "search_images": 0,
        "search_work": 0,
        "source_epochs": 0,
    }


def _whole(scale: str, name: str, seed: int, expansion: float = 1.0) -> int:
    """Multiply-accumulates of an image's pass through the whole network, widened or not."""
    return cost.macs(fresh(scale, name, seed, expansion), shape_of(scale, name))


def _from_fresh(scale: str, name: str, seed: int, method: str, budget: float) -> list[dict[str, Any]]:
    """A structure's network trained for as many epochs as the whole one and, of some, for as much work."""
    rows = structure(scale, name, seed, method, budget)
    first, channels = rows.iloc[0], channels_of(rows)
    epochs = config.load(scale).recipe(name).epochs
    chosen, train = settings(scale), len(train_images(scale, name))
    gates = method in ("scratch", "plain")
    looked = chosen["gate_epochs"] * min(chosen["gate_images"], train) if gates else 0
    work = GATE_PASSES * looked * _whole(scale, name, seed, float(first["expansion"]))
    lengths = {method: epochs}
    if f"{method}-budget" in METHODS:
        lengths[f"{method}-budget"] = max(1, round(epochs / budget))
    if f"{method}-counted" in METHODS:
        spent = epochs * work / (PASSES * seen(recipe_of(scale, name), train) * _whole(scale, name, seed))
        lengths[f"{method}-counted"] = max(1, round((epochs - spent) / budget))
    made = []
    for each, length in lengths.items():
        found = trained(scale, name, seed, channels, float(first["expansion"]), length).iloc[0]
        made.append(
            {
                "network": name,
                "method": each,
                "budget": budget,
                **{key: found[key] for key in ("accuracy", "n", "parameters", "macs", "epochs")},
                "share": first["share"],
                "train_seconds": found["seconds"],
                "train_images": found["images"],
                "train_work": PASSES * found["images"] * found["macs"],
                "search_seconds": first["seconds"],
                "search_images": looked,
                "search_work": work,
                "source_epochs": _source_epochs(name, gates=True) if gates else 0,
                **{key: first[key] for key in ("zeros", "mean_gate", "rule")},
                "channels": channels,
                "expansion": float(first["expansion"]),
            }
        )
    return made


def _from_trained(scale: str, name: str, seed: int, method: str, budget: float) -> dict[str, Any]:
    rows, found = _pruned(scale, name, seed, method, budget)
    first, base = rows.iloc[0], f"{name}-{TRAINED[method]}"
    card, recipe = zoo.card(base, scale, seed), config.load(scale).recipe(base)
    looked = seen(recipe, len(train_images(scale, name)))
    stated = channels_of(_pruned(scale, name, seed, "slimming", budget)[0]) if method == "slimming-floor" else None
    return {
        "network": name,
        "method": method,
        "budget": budget,
        **{key: found[key] for key in ("accuracy", "n", "parameters", "macs", "epochs", "before")},
        "share": first["share"],
        "train_seconds": found["seconds"],
        "train_images": found["images"],
        "train_work": PASSES * found["images"] * found["macs"],
        "search_seconds": first["seconds"] + card["seconds"],
        "search_images": looked,
        "search_work": PASSES * looked * _whole(scale, name, seed),
        "source_epochs": _source_epochs(name),
        "same_as": "slimming" if channels_of(rows) == stated else None,
        "channels": channels_of(rows),
        "expansion": 1.0,
    }


def _source_epochs(name: str, gates: bool = False) -> int | None:
    """Epochs of the search in the settings of `paper`: of the gates, or of training before pruning; None: no such."""
    paper, base = config.load("paper"), f"{name}-half"
    if base not in paper.networks:
        return None
    return int(settings("paper")["gate_epochs"]) if gates else paper.recipe(base).epochs


def _pruned(scale: str, name: str, seed: int, method: str, budget: float) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The structure of a trained network by L1 norm or slimming, and what the fine-tuned network is."""
    base, shape = f"{name}-{TRAINED[method]}", shape_of(scale, name)
    chosen, whole = settings(scale), config.load(scale).recipe(name)
    epochs = max(1, round((whole.epochs - config.load(scale).recipe(base).epochs) / budget))
    recipe = recipe_of(scale, name, epochs, learning_rate=whole.learning_rate * chosen["finetune_rate"])
    cut: Any = static.l1_structure if method == "l1" else static.slimming_structure
    options = {"least": LEAST} if method == "slimming-floor" else {}
    key = {**network_key(scale, name), "method": method, "budget": budget, **options}

    def find() -> pd.DataFrame:
        return rows_of(cut(zoo.get(base, scale, seed), budget, shape, **options), 1.0)

    def tune() -> pd.DataFrame:
        model = zoo.get(base, scale, seed)
        model = shrink(model, cut(model, budget, shape, **options).keep)
        before = accuracy(model, test_images(scale, name))
        return pd.DataFrame([{**fitted(scale, name, model, recipe, seed), "before": before}])

    rows = evaluations.kept("scratch-static", base, scale, seed, key, find, VERSION)
    if method == "slimming-floor":
        stated, tuned_as_stated = _pruned(scale, name, seed, "slimming", budget)
        if channels_of(stated) == channels_of(rows):  # of one layer's channels the same ones go either way
            return rows, tuned_as_stated
    tuned = evaluations.kept(
        "scratch-tuned", base, scale, seed, {**key, **training_key(scale, name, recipe)}, tune, VERSION
    )
    return rows, dict(tuned.iloc[0])


def _with_latency(scale: str, name: str, seed: int, rows: pd.DataFrame, budget: float) -> pd.DataFrame:
    narrow = rows[rows["method"].isin([*FRESH, *TRAINED])]
    of = {row["method"]: (row["channels"], row["expansion"]) for row in narrow.to_dict("records")}
    found = latencies(scale, name, seed, of, budget).pivot(index="method", columns="batch", values="median")
    of_structure = {m: m.removesuffix("-budget").removesuffix("-counted") for m in rows["method"]}
    for batch in found.columns:
        rows[f"batch{int(batch)}"] = [found.loc[of_structure[method], batch] for method in rows["method"]]
    return rows

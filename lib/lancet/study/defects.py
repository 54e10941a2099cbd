"""General defects: what a clean network gets wrong, located on half of the test set and reported on the other half.

On test1: pairs of wrong inputs and companions give votes; the layer is chosen by the stated rule and by ours; the
weights with the most votes are tuned on N_e and N_o, beside as many random weights, all of the layer and the whole
network; the last fifth of test1 chooses each one's learning rate. On test2 everything is reported, whatever was chosen.

Source: AI-Lancet, sections on general defects; rates and epochs are not stated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lib import cache, compute, config, data, evaluations, zoo
from lib.data import ImageSet
from lib.lancet.companions import found_companions, least_votes
from lib.lancet.locating import Votes, choose_layer, locate
from lib.lancet.measures import predictions
from lib.lancet.repair.fine_tune import fine_tune, similar_errors, transforms_of
from lib.lancet.study import pretrained, wrong
from lib.models.layers import weight_layers
from lib.progress import bar

VERSION = 1  # raise it when a change in this study's code changes its numbers
RULES = ("most-pairs", "smallest-fraction")
NEURONS = ("error-inducing", "random", "all")
CHOICE_SHARE = 0.2  # of test1: chooses learning rates
TOLERANCE = 0.005  # loss of accuracy there that a learning rate may cost
OPTIONS = ("pairs", "share", "copies", "similar", "old", "epochs", "batch", "rates")
COLUMNS = [
    *("part", "rule", "method", "learning_rate", "chosen", "layer", "weights", "fraction", "pairs_repaired"),
    *("accuracy", "errors_right", "still_right", "n", "n_errors", "choice_accuracy", "choice_errors_right"),
    *("tuned_right", "tuned_on", "similar", "pairs", "wrong"),
]


def make(scale: str, seed: int) -> None:
    """All that the notebook shows of one seed: a node of the graph. Pretrained networks only with the first seed."""
    compute.deterministic()
    for each in wrong.seeds_for(scale, seed):
        repaired(scale, each)
    if seed == wrong.seeds_of(scale)[0]:
        for name in wrong.settings(scale)["defect_pretrained"]:
            pretrained_repaired(scale, name)


def options_of(scale: str) -> dict[str, Any]:
    """The settings that a repair depends on, but the network's own."""
    chosen = wrong.settings(scale)
    return {"steps": chosen["companion_steps"], **{name: chosen[f"defect_{name}"] for name in OPTIONS}}


def repaired(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """The study's network before and after each repair, and a network of another seed; as `repairs` returns it.

    Args:
        scale, seed: of the network, as in `zoo.get`.
    """
    chosen, name = wrong.settings(scale), wrong.settings(scale)["defect_network"]
    test1, test2 = wrong.halves_of(wrong.data_of(scale), chosen["defect_test_images"])
    other = chosen["defect_reference_seed"] + (chosen["defect_reference_seed"] == seed)
    key = {**options_of(scale), "test1": test1.fingerprint, "test2": test2.fingerprint}
    key["reference"] = zoo.card(name, scale, other)["weights"]

    def compute_rows() -> pd.DataFrame:
        model = zoo.get(name, scale, seed)
        frame = repairs(model, test1, test2, options_of(scale), seed)
        row = {"part": "repair", "method": "another seed", "chosen": True}
        row |= _report(zoo.get(name, scale, other), wrong.half_of(model, test2))
        return pd.concat([frame, pd.DataFrame([row], columns=COLUMNS).astype(object)], ignore_index=True)

    return evaluations.kept("lancet-defects", name, scale, seed, key, compute_rows, VERSION)


def pretrained_repaired(scale: str, name: str) -> pd.DataFrame | str:
    """A pretrained network before and after each repair, as `repairs` returns it; or why it cannot be tried here."""
    chosen, about = wrong.settings(scale), pretrained.known(name)
    options = options_of(scale) | chosen["defect_pretrained_options"]
    layers = chosen["defect_layers"]
    key = {**options, "network": name, "weights": about.weights, "layers": layers, "version": VERSION}
    folder = config.results_dir(scale) / "evaluations"
    try:
        images = pretrained.test_images(name)
    except data.DataError as error:
        return str(error)
    key["images"] = images.fingerprint

    def plain() -> dict[str, Any]:
        model = about.load()
        names = list(weight_layers(model))[-layers:] if layers else None
        frame = repairs(model, *wrong.halved(images), options, 0, names)
        rows = [[None if pd.isna(v) else v for v in row] for row in frame.astype(object).to_numpy().tolist()]
        return {"columns": frame.columns.tolist(), "rows": rows}

    try:
        found = cache.get("lancet-defects-pretrained", key, plain, folder=folder)
    except pretrained.efficientnet_lite.MissingWeightsError as error:
        return str(error)
    return pd.DataFrame(found["rows"], columns=found["columns"])


def repairs(
    model: nn.Module,
    test1: ImageSet,
    test2: ImageSet,
    options: Mapping[str, Any],
    seed: int = 0,
    layers: Sequence[str] | None = None,
) -> pd.DataFrame:
    """A network repaired in every way, at every learning rate.

    Args:
        model: left as it is.
        test1, test2: repairs come from the first, reports from the second.
        options: `OPTIONS` of this study, and steps of the companions.
        seed: of transforms, random weights and the order of samples.
        layers: those that are looked at; None: all.
    Returns: rows of part "layer" (layer, pairs_repaired: share of pairs, fraction: median part of its weights) and of
        part "repair": rule (of the layer), method, learning_rate, chosen (whether the choice part of test1 took that
        rate), layer, weights (how many numbers could change), accuracy on test2, errors_right on M_test2, still_right
        on the rest of test2, n, n_errors; the same on the choice part; tuned_right of tuned_on samples of N_e.
    Raises: LancetError where the network makes no error, or no companion is found.
    """
    fit, choice = (wrong.half_of(model, part) for part in wrong.halved(test1, CHOICE_SHARE, ("fit", "choice")))
    second = wrong.half_of(model, test2)
    images, labels, _ = fit.misclassified(options["pairs"])
    found = found_companions(model, images, labels, options["steps"])
    votes, pairs = locate(model, *found, layers=layers), len(found[0])
    rows: list[dict[str, Any]] = [
        {
            "part": "layer",
            "layer": name,
            "pairs_repaired": entry.share,
            "fraction": None if entry.share == 0 else entry.fraction,
            "weights": entry.counts.numel(),
            "pairs": pairs,
            "wrong": len(labels),
        }
        for name, entry in votes.items()
    ]
    rows.append(
        {"part": "repair", "method": "none", "chosen": True, **_report(model, second), **_on_choice(model, choice)}
    )
    old = fit.right(options["old"])
    prepared: dict[str, Any] = {}  # by layer, as the rules may choose the same one
    tasks = [(rule, neurons) for rule in RULES for neurons in NEURONS] + [(RULES[-1], "whole network")]
    for rule, neurons in bar(tasks, desc="repairs"):
        layer = choose_layer(votes, rule)
        least = least_votes(votes[layer], options["share"])
        if layer not in prepared:
            prepared[layer] = samples(model, votes, layer, least, fit, images, labels, options, seed)
        errors, similar = prepared[layer]
        tried = []
        for rate in options["rates"]:
            tuned, report = fine_tune(
                model,
                votes,
                errors,
                old,
                layer=layer,
                neurons=neurons if neurons in NEURONS else "all",
                whole=neurons == "whole network",
                epochs=options["epochs"],
                batch=options["batch"],
                learning_rate=rate,
                least_votes=least,
                seed=seed,
            )
            where = {"part": "repair", "rule": rule, "method": neurons, "learning_rate": rate, "layer": layer}
            done = {"weights": report.weights, "fraction": report.fraction, "tuned_right": report.right_after}
            done |= {"tuned_on": report.errors, "similar": similar, "pairs": pairs, "wrong": len(labels)}
            tried.append({**where, **done, **_report(tuned, second), **_on_choice(tuned, choice)})
        best = chosen_rate(tried, choice.accuracy)
        rows += [{**row, "chosen": k == best} for k, row in enumerate(tried)]
    return pd.DataFrame(rows, columns=COLUMNS)


def samples(
    model: nn.Module,
    votes: Mapping[str, Votes],
    layer: str,
    least: int,
    half: wrong.Half,
    images: Tensor,
    labels: Tensor,
    options: Mapping[str, Any],
    seed: int,
) -> tuple[tuple[Tensor, Tensor], int]:
    """N_e: the pairs' inputs, their transforms, and samples that are wrong under M but right without the EI weights.

    Returns: images and labels, and how many of them are of the third sort.
    """
    parts, truth = [images], [labels]
    if options["copies"]:
        parts.append(transforms_of(images, copies=options["copies"], seed=seed))
        truth.append(labels.repeat(options["copies"]))
    count = 0
    beside = half.wrong.clone()
    beside[half.places(options["pairs"])] = False
    others = half.images.part(torch.nonzero(beside).flatten().numpy(), "wrong")
    alike = similar_errors(model, votes, layer, others, others.labels, least_votes=least)
    chosen = torch.nonzero(alike).flatten()[: options["similar"]]
    if len(chosen):
        parts.append(others.float(index=chosen))
        truth.append(others.labels[chosen])
        count = len(chosen)
    return (torch.cat(parts), torch.cat(truth)), count


def chosen_rate(tried: Sequence[Mapping[str, Any]], accuracy: float) -> int:
    """Which of a method's learning rates the choice part takes: of those that cost it at most `TOLERANCE` of accuracy
    the one with the most errors mended; where all cost more, the one that costs least.

    Args:
        tried: with choice_accuracy and choice_errors_right.
        accuracy: of the network before, on the choice part.
    """
    harmless = [k for k, row in enumerate(tried) if row["choice_accuracy"] >= accuracy - TOLERANCE - 1e-9]
    if harmless:
        return max(harmless, key=lambda k: (tried[k]["choice_errors_right"], tried[k]["choice_accuracy"]))
    return max(range(len(tried)), key=lambda k: tried[k]["choice_accuracy"])


def _report(model: nn.Module, half: wrong.Half) -> dict[str, Any]:
    right = predictions(model, half.images) == half.images.labels
    return {
        "accuracy": right.float().mean().item(),
        "errors_right": right[half.wrong].float().mean().item() if bool(half.wrong.any()) else None,
        "still_right": right[~half.wrong].float().mean().item() if bool((~half.wrong).any()) else None,
        "n": len(right),
        "n_errors": int(half.wrong.sum()),
    }


def _on_choice(model: nn.Module, half: wrong.Half) -> dict[str, Any]:
    found = _report(model, half)
    return {"choice_accuracy": found["accuracy"], "choice_errors_right": found["errors_right"] or 0.0}

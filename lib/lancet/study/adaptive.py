"""The attack that knows the defence, beside BadNets with the same mask: repaired, looked into, and looked for.

    python -m lib.evaluations --run lib.lancet.study.adaptive:make --scale smoke --seed 0

Everything is chosen on the repair split, and every number shown is of the report split. Tables are kept network by
network, those of the search over all classes class by class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lib import compute, config, evaluations, zoo
from lib.lancet.backdoors import adaptive as attacks
from lib.lancet.backdoors.attack import Attack, address, of_network, plug_of
from lib.lancet.backdoors.excite import importance, reading
from lib.lancet.backdoors.triggers import Trigger
from lib.lancet.errors import LancetError
from lib.lancet.locating import choose_layer, locate
from lib.lancet.measures import NAMES, measure
from lib.lancet.reversal import anomaly_index, reverse_all
from lib.lancet.study import backdoors
from lib.lancet.study import settings as shared
from lib.lancet.study.backdoors import Backdoored
from lib.lancet.study.repairs import Flips, Material, Repaired, pairs
from lib.models.layers import weight_layers
from lib.progress import bar

VERSION = 1  # raise it when a change in this study's code changes its numbers

DEFAULTS: dict[str, Any] = {
    "adaptive_seeds": None,
    "adaptive_network": "lancet-adaptive",
    "adaptive_control": "lancet-gtsrb-regular-2",
    "adaptive_important": 0.1,
    "adaptive_layers": 2,
    "cleanse_seeds": None,
    "cleanse_images": 200,
    "cleanse_steps": 300,
}
"""Settings that a scale may leave out. adaptive_seeds: of this study (None: those of study.lancet); adaptive_network,
adaptive_control: the attack's network, and one of BadNets on the same set with the same mask; adaptive_important:
share of a layer's neurons that count as important for clean inputs; adaptive_layers: hidden layers that are looked
into, from the end; cleanse_seeds, cleanse_images, cleanse_steps: seeds (None: all), images, steps of the search for a
smallest stamp over all classes."""

METHODS = ("none", "flip-stated", "flip-smallest", "flip-tried", "flip-signed")
COLUMNS = ["method", "layer", "changed", "fraction", "reached", "touched", *NAMES, "n", "n_target", "note"]


def settings(scale: str) -> dict[str, Any]:
    """The scale's settings of this study, with `DEFAULTS` for what it leaves out."""
    return {**DEFAULTS, **backdoors.settings(scale)}


def networks(scale: str) -> dict[str, str]:
    """What each network of this study is to it -> its name: adaptive, badnets, and the clean one they are like.

    Raises: LancetError where the adaptive one does not start from a clean network.
    """
    chosen, preset = settings(scale), config.load(scale)
    start = preset.recipe(chosen["adaptive_network"]).start
    if start is None:
        raise LancetError(
            f"network {chosen['adaptive_network']} has no `start`: the attack begins from a clean network"
        )
    return {"adaptive": chosen["adaptive_network"], "badnets": chosen["adaptive_control"], "clean": start["network"]}


def make(scale: str, seed: int) -> None:
    """All that the notebook shows of one seed: a node of the graph."""
    compute.deterministic()
    for each in shared.seeds_for(scale, "adaptive", seed):
        table(scale, each)
        neurons(scale, each)
        if each in cleanse_seeds(scale):
            every_class(scale, each)


def cleanse_seeds(scale: str, seeds: Sequence[int] | None = None) -> list[int]:
    """The seeds, at least one, at which stamps are searched for all classes.

    Args:
        seeds: those asked for; None: all of the study's.
    """
    asked = list(shared.seeds_of(scale, "adaptive") if seeds is None else seeds)
    wanted = settings(scale)["cleanse_seeds"] or asked
    return [seed for seed in asked if seed in wanted] or asked[:1]


def table(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """Both backdoored networks before and after neuron-flip, and the clean one with the adaptive trigger.

    Args:
        scale, seed: of the networks, as in `zoo.get`, which trains them where they are not there yet.
    Returns: one row a network, trigger known to the repairer and method of `METHODS` (the clean network: "none"):
        network, role, set, trigger, reversed, and `COLUMNS`: layer, changed and fraction (weights flipped), reached
        (the threshold, on the repair split), touched (share of the flipped weights that belong to the important neurons
        of their layer), the measures of `measures.measure` with the true trigger on the report split, n, n_target,
        note.
    """
    named, parts = networks(scale), []
    for role in ("adaptive", "badnets"):
        for known in (False, True):
            about = {"network": named[role], "role": role, "reversed": known}
            parts.append(_repaired(scale, seed, named[role], known).assign(**about))
    about = {"network": named["clean"], "role": "clean"}
    parts += [_clean(scale, seed).assign(**about, reversed=known) for known in (False, True)]
    whole = pd.concat(parts, ignore_index=True)
    preset = config.load(scale)
    control = str(plug_of(preset.recipe(named["badnets"])).get("trigger", "badnets"))
    triggers = whole["role"].map({"adaptive": "adaptive", "clean": "adaptive", "badnets": control})
    return whole.assign(set=preset.recipe(named["adaptive"]).data, trigger=triggers)


def neurons(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """Which neurons each trigger works through.

    Returns: one row a role (adaptive, badnets), hidden layer and group ("important" for clean inputs, "others"):
        lifted (how far the trigger moves the group's neurons, in standard deviations of their values on clean images,
        in the mean), n (neurons).
    """
    named, parts = networks(scale), []
    for role in ("adaptive", "badnets"):
        parts.append(_lifted(scale, seed, named[role]).assign(role=role))
    return pd.concat(parts, ignore_index=True)


def every_class(scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """Neural Cleanse over all classes: would the backdoors be noticed?

    Returns: one row a role (adaptive, badnets, clean) and class: class, norm (pixels), success, index (the anomaly
        index over the network's classes), flagged (index above 2 and smaller than the median), n (images).
    """
    named, parts = networks(scale), []
    for role in bar(list(named), desc="networks"):
        found = _norms(scale, seed, named[role])
        index = anomaly_index(found["norm"].tolist())
        small = found["norm"] < found["norm"].median()
        parts.append(found.assign(role=role, index=index.tolist(), flagged=small & (index.numpy() > 2)))
    return pd.concat(parts, ignore_index=True)


def attack_of(scale: str, seed: int, name: str) -> Attack:
    """A network's trigger and target; see `backdoors.attack.of_network`."""
    return of_network(name, scale, seed)


def reversed_trigger(scale: str, seed: int, name: str) -> Trigger:
    """The trigger reversed from a network for its target, as the study of backdoors reverses it."""
    recipe = config.load(scale).recipe(name)
    plug = plug_of(recipe)
    about = Backdoored(name, recipe.data, plug["use"], int(plug.get("target", 0)), recipe.family, {})
    return backdoors.reversed_trigger(scale, seed, about)


def _key(scale: str, seed: int, name: str, own: tuple[str, ...]) -> dict[str, Any]:
    chosen, parts = settings(scale), shared.parts(scale, config.load(scale).recipe(name).data)
    return {
        "images": [part.fingerprint for part in parts],
        "settings": {key: chosen[key] for key in own},
    }


def _clean(scale: str, seed: int) -> pd.DataFrame:
    """The clean network, with the adaptive trigger stamped."""
    named = networks(scale)

    def compute_it() -> pd.DataFrame:
        attack = attack_of(scale, seed, named["adaptive"])
        _, report = shared.parts(scale, config.load(scale).recipe(named["clean"]).data)
        told = measure(zoo.get(named["clean"], scale, seed), report, None, attack.trigger, attack.target)
        return pd.DataFrame([_row(Repaired("none", nn.Identity()), None, told)], columns=COLUMNS)

    key = {**_key(scale, seed, named["clean"], ()), "attack": address(named["adaptive"], scale, seed)}
    return evaluations.kept("lancet-adaptive", named["clean"], scale, seed, key, compute_it, VERSION)


def _repaired(scale: str, seed: int, name: str, known: bool) -> pd.DataFrame:
    """One backdoored network, the true trigger or the reversed one (`known`) given to the repairer; `COLUMNS`."""
    chosen = settings(scale)

    def compute_it() -> pd.DataFrame:
        attack = attack_of(scale, seed, name)
        model = zoo.get(name, scale, seed)
        on = next(model.parameters()).device
        repair, report = shared.parts(scale, config.load(scale).recipe(name).data)
        images, labels = repair.float(on), repair.labels.to(on)
        held = Material(images, labels, images[:0], labels[:0], 0, attack.target)
        trigger = reversed_trigger(scale, seed, name) if known else attack.trigger
        rows = []
        for made in _flips(model, trigger, held, chosen):
            told = measure(made.model, report, None, attack.trigger, attack.target)
            touched = _touched(model, made, images, labels, chosen["adaptive_important"])
            rows.append(_row(made, touched, told))
        return pd.DataFrame(rows, columns=COLUMNS)

    own = ("adaptive_important", "repair_pairs", "flip_threshold", "near_best", "reverse_images", "reverse_steps")
    key = {**_key(scale, seed, name, own), "attack": address(name, scale, seed), "reversed": known}
    return evaluations.kept("lancet-adaptive", name, scale, seed, key, compute_it, VERSION)


def _flips(model: nn.Module, known: Trigger, held: Material, chosen: dict[str, Any]) -> list[Repaired]:
    """The network as it is, and flipped by each rule for the layer; as it was, with a note, where none is found."""
    made = [Repaired("none", model)]
    try:
        inputs, companions, labels = pairs(model, known, held, chosen["repair_pairs"])
        plain, signed = (locate(model, inputs, companions, labels, signed=flag) for flag in (False, True))
        flips, others = (Flips(model, votes, known, held, chosen["flip_threshold"]) for votes in (plain, signed))
        made.append(flips.at(choose_layer(plain, "most-pairs"), "flip-stated"))
        made.append(flips.at(choose_layer(plain, "smallest-fraction"), "flip-smallest"))
        made.append(flips.best("flip-tried", chosen["near_best"]))
        made.append(others.best("flip-signed", chosen["near_best"]))
    except LancetError as error:
        done = {repaired.method for repaired in made}
        made += [Repaired(method, model, note=str(error)) for method in METHODS if method not in done]
    return made


def _row(made: Repaired, touched: float | None, told: dict[str, float]) -> list[Any]:
    about = [made.method, made.layer, made.changed, made.fraction, made.reached, touched]
    return [*about, *(told[name] for name in NAMES), told["n"], told["n_target"], made.note]


def _touched(model: nn.Module, made: Repaired, images: Tensor, labels: Tensor, share: float) -> float | None:
    """Share of the flipped weights whose output neuron is important for clean inputs; None where none was flipped."""
    if not made.layer or made.layer == list(weight_layers(model))[-1]:  # neurons of the last layer are the classes
        return None
    before, after = (weight_layers(network)[made.layer].weight.detach() for network in (model, made.model))
    rows = (before != after).flatten(1).sum(1).double()
    if not bool(rows.any()):
        return None
    chosen = attacks.important(model, images, labels, made.layer, share)
    return (rows[chosen].sum() / rows.sum()).item()


def _lifted(scale: str, seed: int, name: str) -> pd.DataFrame:
    chosen = settings(scale)

    @torch.no_grad()
    def values(model: nn.Module, images: Tensor, layer: str) -> Tensor:
        with reading(model, {layer}) as outputs:
            model(images)
            return outputs()[layer]

    def compute_it() -> pd.DataFrame:
        attack, model = attack_of(scale, seed, name), zoo.get(name, scale, seed)
        on = next(model.parameters()).device
        repair, _ = shared.parts(scale, config.load(scale).recipe(name).data)
        others = repair.subset(repair.labels != attack.target)
        images, labels = others.float(on), others.labels.to(on)
        stamped, rows = attack.trigger.stamp(images), []
        for layer in list(weight_layers(model))[-1 - chosen["adaptive_layers"] : -1]:
            order = importance(model, images, labels, layer).argsort(descending=True, stable=True)
            count = max(1, round(chosen["adaptive_important"] * len(order)))
            clean = values(model, images, layer)
            moved = (values(model, stamped, layer).mean(0) - clean.mean(0)) / clean.std(0).clamp_min(1e-6)
            for group, part in (("important", order[:count]), ("others", order[count:])):
                if len(part):
                    rows.append([layer, group, moved[part].mean().item(), len(part)])
        return pd.DataFrame(rows, columns=["layer", "group", "lifted", "n"])

    key = {**_key(scale, seed, name, ("adaptive_important", "adaptive_layers")), "attack": address(name, scale, seed)}
    return evaluations.kept("lancet-adaptive-neurons", name, scale, seed, key, compute_it, VERSION)


def _norms(scale: str, seed: int, name: str) -> pd.DataFrame:
    chosen = settings(scale)

    def compute_it() -> pd.DataFrame:
        repair, _ = shared.parts(scale, config.load(scale).recipe(name).data)
        images = repair.stratified(min(chosen["cleanse_images"], len(repair)), seed=0).float()
        model = zoo.get(name, scale, seed)
        found = reverse_all(model, images, len(repair.classes), steps=chosen["cleanse_steps"], seed=seed)
        rows = [[each.target, each.norm, each.success, len(images)] for each in found]
        return pd.DataFrame(rows, columns=["class", "norm", "success", "n"])

    key = _key(scale, seed, name, ("cleanse_images", "cleanse_steps"))
    return evaluations.kept("lancet-cleanse", name, scale, seed, key, compute_it, VERSION)

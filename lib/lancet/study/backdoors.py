"""Every backdoored network of a scale, repaired in every way, computed once: what the notebooks and the graph read.

    python -m lib.evaluations --run lib.lancet.study.backdoors:make --scale smoke --seed 0

What the repairer knows is the true trigger or one reversed from the network; success is always that of the true one.
Layers, thresholds and pairs come from the repair split of the test images, every number shown from the report split.
A network's table is kept by itself, so that a run that was stopped goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lib import compute, config, data, evaluations, zoo
from lib.data import ImageSet
from lib.lancet.backdoors.attack import address, of_network
from lib.lancet.backdoors.triggers import Trigger
from lib.lancet.errors import LancetError
from lib.lancet.measures import NAMES, measure, predictions
from lib.lancet.reversal import reverse
from lib.lancet.study import settings as shared
from lib.lancet.study.repairs import DEFAULTS as OF_REPAIRS
from lib.lancet.study.repairs import Material, repairs
from lib.progress import bar

VERSION = 1  # raise it when a change in this study's code changes its numbers
BADNETS, TROJANNN = "lib.lancet.backdoors.badnets.poison", "lib.lancet.backdoors.trojannn.poison"
KNOWN = ("true", "reversed")  # trigger that the repairer knows

DEFAULTS: dict[str, Any] = {
    **OF_REPAIRS,
    "families": ["lancet-mnist", "lancet-gtsrb", "lancet-cifar10", "lancet-faces", "lancet-trojannn"],
    "reverse_images": 200,
    "reverse_steps": 1000,
}
"""Settings that a scale may leave out. families: families of networks, of which those that
were trained on poisoned images are repaired; reverse_images, reverse_steps: images that a trigger is reversed with, and
steps of it. How many images the two parts have is said by `settings.parts`."""
_OF_REVERSAL = ("reverse_images", "reverse_steps")

COLUMNS = ["method", "layer", "changed", "fraction", "reached", "known_success", *NAMES, "n", "n_target", "note"]


@dataclass(frozen=True)
class Backdoored:
    """A backdoored network of a scale: its name, its recipe's data set, and its trigger's name."""

    name: str
    data: str
    trigger: str
    target: int
    family: str
    making: Mapping[str, Any]


def settings(scale: str) -> dict[str, Any]:
    """The scale's settings of this study, with `DEFAULTS` for what it leaves out."""
    return shared.settings(scale, DEFAULTS)


def networks(scale: str, kind: str = "backdoor") -> list[Backdoored]:
    """The backdoored networks of the families that the scale names, in the order of its file.

    Args:
        scale: smoke, cpu, gpu or paper.
        kind: "backdoor" (poisoned with a named trigger) or "trojannn" (with one made for the clean network).
    Raises: LancetError where these families hold none.
    """
    families, preset = settings(scale)["families"], config.load(scale)
    found = []
    for name, recipe in preset.networks.items():
        plug = next((config.thaw(p) for p in recipe.prepare if p["use"] in (BADNETS, TROJANNN)), None)
        if recipe.family in families and plug is not None and (plug["use"] == TROJANNN) == (kind == "trojannn"):
            plain = {key: value for key, value in plug.items() if key not in ("use", "share", "target")}
            trigger = plain.pop("trigger") if plug["use"] == BADNETS else f"trojannn-{plug.get('form', 'square')}"
            target = plug.get("target", 0)
            found.append(Backdoored(name, recipe.data, trigger, target, recipe.family, plain))
    if not found:
        raise LancetError(
            f"config/{scale}.yaml: none of the families {', '.join(families)} holds a backdoored network "
            f"(study.lancet.families): name families whose recipes prepare poisoned images"
        )
    return found


def make(scale: str, seed: int) -> None:
    """All that the notebook on BadNets shows of one seed: a node of the graph."""
    _make(scale, seed, networks(scale))


def make_first_half(scale: str, seed: int) -> None:
    """Every second network of `make`, from the first on: a node of its own, so that two can be at work."""
    _make(scale, seed, networks(scale)[::2])


def make_second_half(scale: str, seed: int) -> None:
    """Every second network of `make`, from the second on."""
    _make(scale, seed, networks(scale)[1::2])


def make_trojannn(scale: str, seed: int) -> None:
    """All that the notebook on TrojanNN shows of one seed: a node of the graph."""
    _make(scale, seed, networks(scale, "trojannn"))


def _make(scale: str, seed: int, which: list[Backdoored]) -> None:
    compute.deterministic()
    for network in bar(which, desc="backdoored networks"):
        repaired(scale, seed, network)


def table(scale: str = "smoke", seed: int = 0, kind: str = "backdoor") -> pd.DataFrame:
    """`repaired` of every network: one row a network, method and trigger known, those of `repairs.METHODS`."""
    return pd.concat([repaired(scale, seed, network) for network in networks(scale, kind)], ignore_index=True)


def repaired(scale: str, seed: int, network: Backdoored) -> pd.DataFrame:
    """One network before and after each repair, with the true and with the reversed trigger known.

    Args:
        scale, seed: of the network, as in `zoo.get`, which trains it where it is not there yet.
        network: one of `networks`.
    Returns: one row a method and trigger known: network, set, trigger, trigger_share (of the image's pixels), reversed,
        and `COLUMNS`: layer, changed and fraction (weights changed or free to change), reached (the threshold, on the
        repair split), known_success (of the known trigger there, before repair), the measures of `measures.measure` on
        the report split with the true trigger, n, n_target, note. Fine-pruning knows no trigger: its row is the same in
        both.
    """
    true = of_network(network.name, scale, seed).trigger
    either = _repaired(scale, seed, network, true, "none")
    rows = []
    for known in KNOWN:
        found = _repaired(scale, seed, network, true, known)
        rows.append(pd.concat([found, either], ignore_index=True).assign(reversed=known == "reversed"))
    about = {"network": network.name, "set": network.data, "trigger": network.trigger, "trigger_share": true.share}
    return pd.concat(rows, ignore_index=True).assign(**about)


def reversed_trigger(scale: str, seed: int, network: Backdoored) -> Trigger:
    """The trigger that Neural Cleanse reverses from the network for its target, in 8 bits as an image has them.

    Args: as `repaired`. It is reversed once, from repair images that are not of the target class.
    """
    chosen, images = settings(scale), shared.parts(scale, network.data)[0]
    of_reversal = {key: chosen[key] for key in _OF_REVERSAL}

    def compute_it() -> pd.DataFrame:
        model = zoo.get(network.name, scale, seed)
        others = images.subset(images.labels != network.target)
        part = others.stratified(min(chosen["reverse_images"], len(others)), seed=0)
        found = reverse(model, part.float(), network.target, steps=chosen["reverse_steps"], seed=seed).trigger
        rows = []
        for kind, planes in (("mask", found.mask), ("pattern", found.pattern)):
            bits = (planes.cpu() * 255).round().to(torch.uint8)
            rows += [[kind, channel, bytes(plane.reshape(-1).tolist()).hex()] for channel, plane in enumerate(bits)]
        return pd.DataFrame(rows, columns=["kind", "channel", "bits"])

    key = {"images": images.fingerprint, "target": network.target, **of_reversal}
    frame = evaluations.kept("lancet-reversed", network.name, scale, seed, key, compute_it, VERSION)
    return _trigger(frame, data.SETS[network.data].shape)


def _trigger(frame: pd.DataFrame, shape: tuple[int, int, int]) -> Trigger:
    """A trigger from its planes in hexadecimal digits."""
    planes = {
        kind: torch.tensor([list(bytes.fromhex(bits)) for bits in part["bits"]]).view(-1, *shape[1:]) / 255
        for kind, part in frame.groupby("kind")
    }
    return Trigger(planes["mask"], planes["pattern"], "reversed")


def example(scale: str, network: Backdoored) -> Tensor:
    """A repair image, (C, H, W) in [0, 1], of a class that is not the target."""
    images = shared.parts(scale, network.data)[0]
    return images.float(index=shared.spread(images, 1, network.target))[0]


@lru_cache(maxsize=2)
def clean_images(name: str, per_class: int, share: float) -> ImageSet:
    """Clean training images that a repairer is given, the classes taking turns: a share, at least so many a class."""
    train = data.load(name, "train")
    count = max(per_class * len(train.classes), round(share * len(train)))
    return train.stratified(min(count, len(train)), seed=0)


def _repaired(scale: str, seed: int, network: Backdoored, true: Trigger, known: str) -> pd.DataFrame:
    """The rows of one network with one trigger known: "true", "reversed", or "none" at all; `COLUMNS`."""
    chosen, (repair, report) = settings(scale), shared.parts(scale, network.data)
    clean = clean_images(network.data, chosen["clean_per_class"], chosen["clean_share"])
    literal = min(chosen["clean_per_class"] * len(clean.classes), len(clean))
    key = {
        "known": known,
        "trigger": address(network.name, scale, seed),
        "target": network.target,
        "images": [repair.fingerprint, report.fingerprint, clean.fingerprint],
        "settings": {name: chosen[name] for name in (*OF_REPAIRS, *(_OF_REVERSAL if known == "reversed" else ()))},
    }

    def compute_it() -> pd.DataFrame:
        model = zoo.get(network.name, scale, seed)
        on = next(model.parameters()).device
        turns = shared.spread(repair, len(repair))  # pairs and flips take the first ones
        held = Material(
            repair.float(on, turns),
            repair.labels[turns].to(on),
            clean.float(on),
            clean.labels.to(on),
            literal,
            network.target,
        )
        trigger = (
            {"true": true, "none": None}.get(known) if known != "reversed" else reversed_trigger(scale, seed, network)
        )
        return pd.DataFrame(list(_rows(model, true, trigger, held, report, chosen, seed)), columns=COLUMNS)

    return evaluations.kept("lancet-repairs", network.name, scale, seed, key, compute_it, VERSION)


def _rows(
    model: nn.Module,
    true: Trigger,
    known: Trigger | None,
    held: Material,
    report: ImageSet,
    chosen: Mapping[str, Any],
    seed: int,
) -> Iterator[list[Any]]:
    images, _ = held.others()
    found = None
    if known is not None:
        found = (predictions(model, images, known) == held.target).float().mean().item()
    for made in repairs(model, known, held, chosen, seed):
        told = measure(made.model, report, None, true, held.target)
        about = [made.method, made.layer, made.changed, made.fraction, made.reached, found]
        yield [*about, *(told[name] for name in NAMES), told["n"], told["n_target"], made.note]

"""Adversarial sets of named networks: made once, in chunks, kept in the cache, and looked at again before use.

The attacked images are the first of the test set, class by class in turn (seed 0), that the network classifies
correctly, so that the smaller of two sets is part of the larger. A chunk's file is addressed by the network's weights,
the attack, its parameters, the seed, the chunk's images and the version of this code; a run that is killed loses one
chunk at most.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib import cache, config, data, store, tensors, zoo
from lib.attacks.crafting import Adversarials, attack, settle
from lib.attacks.goal import predictions
from lib.attacks.suite import AttackError, find
from lib.data import splits
from lib.progress import bar

VERSION = 1  # raise it when a change in this package changes what an attack gives
IMAGES = 1000
"""Images attacked where a scale does not say."""

CHUNK = 50
"""Images attacked together, and what a killed run may lose."""

BLOCK = 250  # images classified at a time when candidates are looked for


@dataclass(frozen=True)
class Plan:
    """What a scale asks of an attack: how many images, how many at a time, and all parameters."""

    images: int
    chunk: int
    parameters: Mapping[str, Any]


def plan(name: str, scale: str = "smoke", images: int | None = None) -> Plan:
    """The settings of an attack at a scale: `attacks` in config/<scale>.yaml over this package's defaults.

    `images` and `chunk` beside the names hold for every attack; under a name they hold for that attack, together with
    its parameters.

    Args:
        name: in `SUITE`.
        scale: smoke, cpu, gpu or paper.
        images: of a study that attacks fewer than the scale says; None: as many as that.

    Raises:
        AttackError: for an attack that does not exist.
        ConfigError: for settings that do not fit, naming file and key.
    """
    row = find(name)
    asked = config.thaw(config.load(scale).attacks)
    where = f"{config.config_dir() / scale}.yaml: attacks"
    asked.pop("suite", None)  # the nodes of the graph
    counts = {"images": IMAGES, "chunk": CHUNK} | {key: asked.pop(key) for key in ("images", "chunk") if key in asked}
    parameters: dict[str, Any] = {}
    for other, entry in asked.items():  # a slip under any name is said, whichever attack is asked for
        if not isinstance(entry, dict):
            raise config.ConfigError(f"{where}: {other} is {entry!r}: a mapping of images, chunk and parameters")
        try:
            chosen = find(other).parameters({key: entry[key] for key in entry if key not in counts})
        except AttackError as error:
            raise config.ConfigError(f"{where}: {error}") from None
        if other == name:
            parameters, counts = chosen, {key: entry.get(key, count) for key, count in counts.items()}
    asked_of = [*counts.items()] + ([] if images is None else [("images", images)])
    for key, count in asked_of:
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise config.ConfigError(f"{where}: {key} of {name} is {count!r}: a whole number from 1")
    count = counts["images"] if images is None else min(images, counts["images"])
    return Plan(count, counts["chunk"], row.parameters(parameters))


def adversarials(
    network: str, scale: str = "smoke", seed: int = 0, *, name: str, images: int | None = None
) -> Adversarials:
    """The scale's adversarial set of a named network, made where it is not there yet.

    What is read is looked at again: an image that does not fool the network any more, or breaks the attack's
    constraint, counts as failed, with a warning; a damaged file is made anew, with a warning.

    Args:
        network, scale, seed: of the network, as in `zoo.get`, which trains it where it is not there yet; the seed is
            also the attack's.
        name: in `SUITE`.
        images: as `plan` takes it; the set is then the first part of the scale's.

    Returns:
        Adversarials; index holds positions in the test set.

    Raises:
        AttackError: for an attack that does not exist.
        ConfigError: for a network that does not exist, or settings that do not fit.
    """
    chosen = plan(name, scale, images)
    test = data.load(config.load(scale).recipe(network).data, "test")
    model = zoo.get(network, scale, seed)
    weights = zoo.card(network, scale, seed)["weights"]
    index = candidates(model, test, chosen.images, config.cache_dir(scale), weights)
    key = {"version": VERSION, "weights": weights, "attack": name, "parameters": dict(chosen.parameters), "seed": seed}
    folder = config.cache_dir(scale)
    place = f"{network}-seed{seed}-{name}-{cache.digest(key, 16)}"
    parts = []
    for rows in bar(index.split(chosen.chunk), desc=f"{network} {name}"):
        part = _chunk(folder, place, key, model, test.float(index=rows), test.labels[rows])
        parts.append(replace(part, index=rows))
    return _joined(parts)


def candidates(model: nn.Module, test: data.ImageSet, count: int, folder: Path, weights: str) -> Tensor:
    """Positions of the first `count` test images, class by class in turn, that a network classifies correctly.

    Args:
        model: the network.
        test: the test set.
        count: how many; fewer where the network does not get so many right.
        folder: of the cache, so that the network is asked once.
        weights: what the network is addressed by there.

    Returns:
        int64 (n,), n <= count; a smaller count gives a prefix of a larger one's.

    Raises:
        AttackError: where it classifies none correctly.
    """

    def make() -> list[int]:
        order = torch.from_numpy(splits.stratified(test.labels.numpy(), len(test), seed=0))
        found: list[int] = []
        for rows in order.split(BLOCK):
            right = predictions(model, test.float(index=rows)) == test.labels[rows]
            found += rows[right].tolist()
            if len(found) >= count:
                break
        return found[:count]

    key = {"weights": weights, "images": test.fingerprint, "count": count, "version": VERSION}
    index = torch.tensor(cache.get("candidates", key, make, folder=folder / "adversarials"), dtype=torch.int64)
    if len(index) == 0:
        raise AttackError(f"the network classifies no image of {test.name}/{test.split} correctly: nothing to attack")
    return index


def _chunk(
    folder: Path, place: str, key: Mapping[str, Any], model: nn.Module, clean: Tensor, labels: Tensor
) -> Adversarials:
    """One chunk, kept: the images as the network and the attack's constraint have them now."""

    def make() -> Adversarials:
        return attack(key["attack"], model, clean, labels, key["parameters"], key["seed"], batch=len(clean))

    digest = tensors.checksum({"images": clean, "labels": labels}, {}).removeprefix("sha256:")[:16]
    made, about = cache.get("adversarials", key, make, _CHUNK, folder=folder, name=f"{place}/{digest}")
    settled = settle(model, key["attack"], clean, made, labels, key["parameters"])
    lost = int(about["successes"]) - int(settled[3].sum())
    if lost > 0:
        warnings.warn(
            f"{place}/{digest}: {lost} of {about['successes']} adversarial images do not fool the network any more, or "
            f"break the constraint of {key['attack']}; they count as failed",
            stacklevel=4,
        )
    return Adversarials(key["attack"], *settled, torch.arange(len(labels)), float(about["seconds"]))


def _write(path: Path, key: Mapping[str, Any], made: Adversarials) -> None:
    successes = int(made.success.sum())
    about = {"key": store.fingerprint(key), "successes": str(successes), "seconds": f"{made.seconds:.3f}"}
    tensors.write(path, {"images": made.images.contiguous()}, about)


def _read(path: Path, key: Mapping[str, Any]) -> tuple[Tensor, dict[str, str]]:
    """A chunk's images and what is known of them."""
    kept, about = tensors.read(path)
    if about["key"] != store.fingerprint(key):
        raise ValueError("it is of other settings")
    return kept["images"], about


_CHUNK: cache.Codec[Any] = cache.Codec(".safetensors", _write, _read)


def _joined(parts: list[Adversarials]) -> Adversarials:
    def whole(of: Callable[[Adversarials], Tensor]) -> Tensor:
        return torch.cat([of(part) for part in parts])

    return Adversarials(
        name=parts[0].name,
        images=whole(lambda part: part.images),
        labels=whole(lambda part: part.labels),
        predicted=whole(lambda part: part.predicted),
        success=whole(lambda part: part.success),
        distance=whole(lambda part: part.distance),
        index=whole(lambda part: part.index),
        seconds=sum(part.seconds for part in parts),
    )

"""Named networks: a recipe in, a trained network out. Trained once, under a lock; loaded after that."""

import argparse
import json
import time
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from lib import cache, compute, config, data, permission, recipes, store, training
from lib.config import Recipe, Scale

SHIPPED_MB = 3  # largest weights file that ships with the package
VERSION = 1  # raise it when a change here or in lib.models changes the networks that come out
Card = dict[str, Any]

changed: list[str] = []  # networks that this process has trained, of other weights than their cards said


class ZooError(RuntimeError):
    """A network that cannot be made or loaded."""


class NetworkChanged(ZooError):
    """A network trained here has other weights than its card said: what rests on the card must be looked up again."""


@dataclass(frozen=True)
class _Network:
    """A network's name and seed, its key, and its places: in the cache, and where it ships with the results."""

    preset: Scale
    name: str
    seed: int
    key: Mapping[str, Any]

    @staticmethod
    def of(preset: Scale, name: str, seed: int) -> "_Network":
        return _Network(preset, name, seed, _key(preset, name, seed))

    @property
    def recipe(self) -> Recipe:
        return self.preset.recipe(self.name)

    @property
    def address(self) -> str:
        return store.fingerprint(self.key)

    @property
    def folder(self) -> Path:
        return self._folder(self.key)

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def shipped(self) -> Path:
        return config.results_dir(self.preset.name) / "networks" / f"{self.name}-seed{self.seed}.safetensors"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def trunk(self, epoch: int) -> Path:
        """The checkpoint after some epochs, from which recipes that differ in hooks branch."""
        return self._folder({"trunk": self.key, "epoch": epoch}) / f"epoch{epoch}.pt"

    def card(self) -> Card | None:
        """What is known of the network, where it is there."""
        return _card(self.weights, self.address) or _card(self.shipped, self.address)

    def _folder(self, key: Mapping[str, Any]) -> Path:
        place = config.cache_dir(self.preset.name) / "networks"
        return place / f"{self.name}-seed{self.seed}-{cache.digest(key, 16)}"


def get(name: str, scale: str = "smoke", seed: int = 0, retrain: bool = False) -> nn.Module:
    """A named network of a scale, trained where it is not there yet.

    Args:
        name: a key of `networks` in config/<scale>.yaml.
        scale: smoke, cpu, gpu or paper.
        seed: of the first weights, the batch order, the augmentation.
        retrain: train anew whatever is kept, in the cache or with the results.
    Returns: the network in evaluation mode on the scale's device; input in [0, 1].
    Raises: ConfigError for a name that does not exist; lib.data.DataError for data that are missing;
        permission.NotAskedError where it has to be trained, that takes long, and nobody asked for it.
    """
    network = _Network.of(config.load(scale), name, seed)
    with permission.asked() if retrain else nullcontext():
        model, _ = _obtain(network, retrain)
    return model.to(compute.device(network.preset.compute.device)).eval()


def card(name: str, scale: str = "smoke", seed: int = 0) -> Card:
    """What is known of a trained network: recipe, data, accuracy, loss curve, seconds, hash. Trains it if need be."""
    network = _Network.of(config.load(scale), name, seed)
    return network.card() or _obtain(network)[1]


def kept(name: str, scale: str = "smoke", seed: int = 0) -> bool:
    """Whether a network is there, trained before or come with the package, so that `get` only loads it."""
    network = _Network.of(config.load(scale), name, seed)
    places = (network.weights, network.shipped)
    return any(weights.exists() and _card(weights, network.address) is not None for weights in places)


def key(name: str, scale: str = "smoke", seed: int = 0) -> str:
    """The address of a network: a hash of recipe, seed, data, parents and the version of the code that makes it."""
    return _Network.of(config.load(scale), name, seed).address


def folder(name: str, scale: str = "smoke", seed: int = 0) -> Path:
    """Where the cache keeps a network's weights.safetensors and card.json, whether they are there or not."""
    return _Network.of(config.load(scale), name, seed).folder


def trunk(name: str, scale: str, seed: int, epoch: int) -> Path:
    """The checkpoint from which other networks branch off a network's training; made where it is not there yet."""
    return _trunk(_Network.of(config.load(scale), name, seed), epoch)


def _key(preset: Scale, name: str, seed: int) -> dict[str, Any]:
    recipe = preset.recipe(name)
    plugs = [recipes.plug(plug)[0] for plug in (*recipe.transforms, *recipe.hooks, *recipe.prepare)]
    return {
        "recipe": {**recipe.plain(), "start": None},
        "start": recipe.start and {**recipe.start, "network": _key(preset, recipe.start["network"], seed)},
        "seed": seed,
        "data": data.load(recipe.data, recipe.fit_split).fingerprint,
        "versions": [VERSION, training.VERSION, *(getattr(plug, "version", 1) for plug in plugs)],
    }


def _obtain(network: _Network, retrain: bool = False) -> tuple[nn.Module, Card]:
    def make() -> tuple[dict[str, Tensor], Card]:
        permission.check(network.preset, network.name, network.seed, _missing_parents(network))
        before = network.card()
        if retrain:
            network.checkpoint.unlink(missing_ok=True)
            for epoch in network.preset.branchings(network.name):
                network.trunk(epoch).unlink(missing_ok=True)
        tensors, about = _train(network)
        if before is not None and before["weights"] != about["weights"]:
            changed.append(f"{network.name} (seed {network.seed})")
        return tensors, about

    def write(path: Path, _: Mapping[str, Any], value: tuple[dict[str, Tensor], Card]) -> None:
        tensors, about = value
        store.write_atomic(path, save_tensors(tensors))
        store.write_atomic(_card_of(path), json.dumps(about, indent=1))
        network.checkpoint.unlink(missing_ok=True)

    codec: cache.Codec[Any] = cache.Codec(".safetensors", write, lambda path, _: _read(network, path))
    folder, name = config.cache_dir(network.preset.name), f"{network.folder.name}/weights"
    return cache.get("networks", network.key, make, codec, folder=folder, name=name, also=network.shipped, anew=retrain)


def _missing_parents(network: _Network) -> list[str]:
    """What a network's training starts from and is not there, the first to be trained first."""
    missing: list[str] = []
    start = network.recipe.start
    while start is not None and not kept(start["network"], network.preset.name, network.seed):
        missing.insert(0, start["network"])
        start = network.preset.recipe(missing[0]).start
    return missing


def _card_of(weights: Path) -> Path:
    """The file of what is known of a network, beside its weights."""
    return weights.with_name("card.json") if weights.stem == "weights" else weights.with_suffix(".json")


def _card(weights: Path, address: str) -> Card | None:
    """The card beside weights, or None where there is none, or one that cannot be read or is of another recipe."""
    path = _card_of(weights)
    try:
        about = json.loads(path.read_text())
        if not isinstance(about, dict):
            raise ValueError(f"a mapping was expected, not {type(about).__name__}")
        if about.get("checksum") not in (None, store.fingerprint({k: about[k] for k in about if k != "checksum"})):
            raise ValueError("its checksum does not match")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warnings.warn(f"network card {path} cannot be read ({error}); the network is made anew", stacklevel=5)
        return None
    return about if about.get("key") == address else None


def _read(network: _Network, weights: Path) -> tuple[nn.Module, Card]:
    """The network of a weights file. Raises: FileNotFoundError where there is none; ValueError for a damaged one."""
    about = _card(weights, network.address)
    if about is None:
        raise FileNotFoundError(f"no network of this recipe at {weights}")
    blob = weights.read_bytes()
    if about.get("weights") != store.bytes_sha256(blob):
        raise ValueError("it does not match its card")
    try:
        with torch.random.fork_rng(devices=[]):  # first weights are drawn and replaced: the caller's state stays
            model = recipes.blank(network.preset, network.recipe)
        model.load_state_dict(load_tensors(blob))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"it cannot be used ({error})") from error
    return model.eval(), about


def _train(network: _Network) -> tuple[dict[str, Tensor], Card]:
    """The weights of a network trained from its beginning, its trunk or its checkpoint, and its card."""
    recipe, preset, seed = network.recipe, network.preset, network.seed
    began = time.perf_counter()
    compute.deterministic()
    images = _training_images(preset, recipe, seed)
    model, history = _fit(network, images)
    tensors = recipes.stored(model, recipe)
    broken = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise training.TrainingError(
            f"network {network.name} (seed {seed}) ends with weights that are not finite in {recipe.storage} "
            f"({broken[0]}): lower learning_rate (now {recipe.learning_rate})"
        )
    model.load_state_dict(tensors)
    test = data.load(recipe.data, "test")
    trained_on = f"{recipe.data}/{recipe.fit_split}{', prepared' if recipe.prepare else ''}"
    about = {
        "name": network.name,
        "scale": preset.name,
        "seed": seed,
        "key": network.address,
        "recipe": recipe.plain(),
        "data": {trained_on: images.fingerprint, f"{recipe.data}/test": test.fingerprint},
        "test_accuracy": training.accuracy(model, test),
        "test_images": len(test),
        "parameters": sum(p.numel() for p in model.parameters()),
        "history": history,
        "seconds": sum(epoch["seconds"] for epoch in history),
        "wall_seconds": time.perf_counter() - began,
        "device": compute.describe(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "weights": store.bytes_sha256(save_tensors(tensors)),
    }
    return tensors, {**about, "checksum": store.fingerprint(about)}


def _fit(network: _Network, images: data.ImageSet) -> tuple[nn.Module, list[dict[str, float]]]:
    """The trained network and its history. A damaged checkpoint that training goes on from is deleted."""
    recipe = network.recipe
    for attempt in range(3):  # a network's own checkpoint, and the trunk it branches from, may be damaged
        try:
            trunk = _trunk_of(network)
            model = _beginning(network.preset, recipe, network.seed)
            history = training.fit(
                model,
                images,
                recipe,
                seed=network.seed,
                hooks=[function(**arguments) for function, arguments in map(recipes.plug, recipe.hooks)],
                checkpoint=network.checkpoint,
                trunk=trunk,
                device=network.preset.compute.device,
            )
            break
        except training.CheckpointError as error:
            if attempt == 2:
                raise
            warnings.warn(f"{error}. It is deleted, and that training done anew", stacklevel=5)
            error.path.unlink(missing_ok=True)
    return model, history


def _training_images(preset: Scale, recipe: Recipe, seed: int) -> data.ImageSet:
    images = data.load(recipe.data, recipe.fit_split)
    images = images if recipe.train_limit is None else images.stratified(recipe.train_limit, seed=0)
    start = None
    if recipe.start and recipe.prepare:
        start = _obtain(_Network.of(preset, recipe.start["network"], seed))[0]
    for plug in recipe.prepare:
        function, arguments = recipes.plug(plug)
        images = function(images, start=start, seed=seed, **arguments)
    return images


def _beginning(preset: Scale, recipe: Recipe, seed: int) -> nn.Module:
    """The untrained network: fresh weights or its parent's, transforms applied. A branch takes its trunk's later."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = recipes.untransformed(preset, recipe)
        if recipe.start is not None and "epoch" not in recipe.start:
            parent, _ = _obtain(_Network.of(preset, recipe.start["network"], seed))
            model.load_state_dict(parent.state_dict())
        return recipes.transformed(model, recipe)


def _trunk_of(network: _Network) -> Path | None:
    """The checkpoint that a network's training goes on from: its parent's, or the one it shares with its branches."""
    start = network.recipe.start or {}
    if "epoch" in start:
        return _trunk(_Network.of(network.preset, start["network"], network.seed), start["epoch"])
    branches = network.preset.branchings(network.name)
    return _trunk(network, branches[0]) if branches else None


def _trunk(network: _Network, epoch: int) -> Path:
    """The checkpoint of a network's training after some epochs; made where it is not there yet."""
    path, preset, recipe, seed = network.trunk(epoch), network.preset, network.recipe, network.seed

    def make() -> Path:
        checkpoint = path.with_name("checkpoint.pt")
        begun, images = _beginning(preset, recipe, seed), _training_images(preset, recipe, seed)
        training.fit(begun, images, recipe, seed=seed, checkpoint=checkpoint, until=epoch, device=preset.compute.device)
        return checkpoint

    key = {"trunk": network.key, "epoch": epoch}
    name = f"{path.parent.name}/{path.stem}"
    return cache.get("networks", key, make, _TRUNK, folder=config.cache_dir(preset.name), name=name)


# The file is the value, and has to be there; `training.load_checkpoint` verifies it.
_TRUNK: cache.Codec[Path] = cache.Codec(
    ".pt", lambda path, _, made: made.rename(path), lambda path, _: path.resolve(True)
)


def train_family(scale: str, family: str, seed: int, retrain: bool = False, cards: bool = False) -> dict[str, str]:
    """Make every network of a family, and return the address of each; those already there are only looked up.

    Args:
        scale, family, seed: of the networks.
        retrain: train anew whatever is kept.
        cards: a network whose card is there counts as made: its weights are made when something reads them.
    """
    preset = config.load(scale)
    if family not in preset.families:
        raise config.ConfigError(f"no family {family!r} at scale {scale!r}: {config.one_of(family, preset.families)}")
    with permission.asked():
        if cards and not retrain:
            return {name: card(name, scale, seed)["key"] for name in preset.families[family]}
        networks = [_Network.of(preset, name, seed) for name in preset.families[family]]
        return {network.name: _obtain(network, retrain)[1]["key"] for network in networks}


def ship(scale: str) -> list[Path]:
    """Copy into results/<scale>/networks what a reader needs to open the notebooks without training.

    The card of every network that is there, of every seed of the scale's studies; the weights of those that the
    scale's `ship` names, for the first seed, up to `SHIPPED_MB` each.

    Returns: the files written.
    Raises: ZooError for weights above the limit.
    """
    preset = config.load(scale)
    parts = [part for study in preset.study.values() for part in (study, *study.values())]
    seeds = sorted({seed for part in parts if isinstance(part, Mapping) for seed in part.get("seeds", ())})
    written = []
    for name in preset.networks:
        for seed in seeds:
            network = _Network.of(preset, name, seed)
            if (about := _card(network.weights, network.address)) is None:
                continue
            if name in preset.ship and seed == seeds[0]:
                blob = network.weights.read_bytes()
                if len(blob) > SHIPPED_MB * 1e6:
                    raise ZooError(f"{name}: weights of {len(blob) / 1e6:.1f} MB; at most {SHIPPED_MB} MB ship")
                written.append(store.write_atomic(network.shipped, blob))
            written.append(store.write_atomic(_card_of(network.shipped), json.dumps(about, indent=1)))
    return written


def main() -> None:
    """python -m lib.zoo train --scale S --family F --seed K [--retrain|--cards]; python -m lib.zoo ship --scale S"""
    parser = argparse.ArgumentParser(prog="python -m lib.zoo", description=main.__doc__)
    parser.add_argument("command", choices=["train", "ship"])
    parser.add_argument("--scale", default="smoke", choices=config.SCALES)
    parser.add_argument("--family", help="with train: the networks to make")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--retrain", action="store_true", help="train anew whatever is kept")
    parser.add_argument("--cards", action="store_true", help="leave out networks whose card is there, without weights")
    chosen = parser.parse_args()
    if chosen.command == "ship":
        print("\n".join(map(str, ship(chosen.scale))))
        return
    if chosen.family is None:
        parser.error("train needs --family")
    compute.set_threads(config.load(chosen.scale).compute.threads)
    made = train_family(chosen.scale, chosen.family, chosen.seed, chosen.retrain, chosen.cards)
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()

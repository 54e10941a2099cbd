"""Named networks: a recipe in, a trained network out. Trained once, under a lock; loaded after that."""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from lib import compute, config, data, permission, recipes, store, training
from lib.config import Recipe, Scale

SHIPPED_MB = 3  # largest weights file that ships with the package
VERSION = 1  # raise it when a change here or in lib.models changes the networks that come out
Trained = TypeVar("Trained")


changed: list[str] = []  # networks that this process has trained, of other weights than their cards said


class ZooError(RuntimeError):
    """A network that cannot be made or loaded."""


class NetworkChanged(ZooError):
    """A network trained here has other weights than its card said: what rests on the card must be looked up again."""


@dataclass(frozen=True)
class _Place:
    """Where one network's files lie; those that ship with the package have no checkpoint."""

    weights: Path
    card: Path
    checkpoint: Path

    @property
    def folder(self) -> Path:
        return self.weights.parent

    @staticmethod
    def shipped(preset: Scale, name: str, seed: int) -> "_Place":
        folder = config.results_dir(preset.name) / "networks"
        kinds = (f"{name}-seed{seed}.{kind}" for kind in ("safetensors", "json", "pt"))
        return _Place(*(folder / file for file in kinds))


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
    preset = config.load(scale)
    with permission.asked() if retrain else nullcontext():
        model, _ = _obtain(preset, name, seed, retrain)
    return model.to(compute.device(preset.compute.device)).eval()


def card(name: str, scale: str = "smoke", seed: int = 0) -> dict[str, Any]:
    """What is known of a trained network: recipe, data, accuracy, loss curve, seconds, hash. Trains it if need be."""
    preset = config.load(scale)
    address = store.fingerprint(_key(preset, name, seed))
    for place in (_place(preset, name, seed, address), _Place.shipped(preset, name, seed)):
        about = _card(place, address)
        if about is not None:
            return about
    return _obtain(preset, name, seed, retrain=False)[1]


def kept(name: str, scale: str = "smoke", seed: int = 0) -> bool:
    """Whether a network is there, trained before or come with the package, so that `get` only loads it."""
    preset = config.load(scale)
    address = store.fingerprint(_key(preset, name, seed))
    places = (_place(preset, name, seed, address), _Place.shipped(preset, name, seed))
    return any(place.weights.exists() and _card(place, address) is not None for place in places)


def key(name: str, scale: str = "smoke", seed: int = 0) -> str:
    """The address of a network: a hash of recipe, seed, data, parents and the version of the code that makes it."""
    return store.fingerprint(_key(config.load(scale), name, seed))


def folder(name: str, scale: str = "smoke", seed: int = 0) -> Path:
    """Where the cache keeps a network's weights.safetensors and card.json, whether they are there or not."""
    preset = config.load(scale)
    return _place(preset, name, seed, key(name, scale, seed)).folder


def trunk(name: str, scale: str, seed: int, epoch: int) -> Path:
    """The checkpoint from which other networks branch off a network's training; made where it is not there yet."""
    return _trunk(config.load(scale), name, seed, epoch)


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


def _obtain(preset: Scale, name: str, seed: int, retrain: bool) -> tuple[nn.Module, dict[str, Any]]:
    address = store.fingerprint(_key(preset, name, seed))
    place = _place(preset, name, seed, address)
    for candidate in () if retrain else (place, _Place.shipped(preset, name, seed)):
        found = _load(preset, name, candidate, address)
        if found is not None:
            return found
    store.about_to_make(f"network {name} (seed {seed})")
    permission.check(preset, name, seed, _missing_parents(preset, name, seed))
    cards = [_card(candidate, address) for candidate in (place, _Place.shipped(preset, name, seed))]
    said = [about["weights"] for about in cards if about is not None]
    place.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(place.folder / "lock"):
        found = None if retrain else _load(preset, name, place, address)
        if found is None:
            if retrain:
                place.checkpoint.unlink(missing_ok=True)
                for epoch in _branchings(preset, name):
                    _trunk_file(preset, name, seed, epoch).unlink(missing_ok=True)
            _train(preset, name, seed, place, address)
            found = _load(preset, name, place, address)
    if found is None:
        raise ZooError(f"network {name} (seed {seed}) was trained, and {place.folder} cannot be read back")
    if said and found[1]["weights"] != said[0]:
        changed.append(f"{name} (seed {seed})")
    return found


def _missing_parents(preset: Scale, name: str, seed: int) -> list[str]:
    """What a network's training starts from and is not there, the first to be trained first."""
    missing: list[str] = []
    start = preset.recipe(name).start
    while start is not None and not kept(start["network"], preset.name, seed):
        missing.insert(0, start["network"])
        start = preset.recipe(missing[0]).start
    return missing


def _place(preset: Scale, name: str, seed: int, address: str) -> _Place:
    digest = address.removeprefix("sha256:")[:16]
    folder = config.cache_dir(preset.name) / "networks" / f"{name}-seed{seed}-{digest}"
    return _Place(folder / "weights.safetensors", folder / "card.json", folder / "checkpoint.pt")


def _card(place: _Place, address: str) -> dict[str, Any] | None:
    """The card at a place, or None where there is none, or one that cannot be read or is of another recipe."""
    try:
        about = json.loads(place.card.read_text())
        if not isinstance(about, dict):
            raise ValueError(f"a mapping was expected, not {type(about).__name__}")
        if about.get("checksum") not in (None, store.fingerprint({k: about[k] for k in about if k != "checksum"})):
            raise ValueError("its checksum does not match")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warnings.warn(f"network card {place.card} cannot be read ({error}); the network is made anew", stacklevel=5)
        return None
    return about if about.get("key") == address else None


def _load(preset: Scale, name: str, place: _Place, address: str) -> tuple[nn.Module, dict[str, Any]] | None:
    """The network at a place, or None where there is none, or one that is damaged or of another recipe."""
    about = _card(place, address)
    if about is None:
        return None
    try:
        blob = place.weights.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        warnings.warn(f"{place.weights} cannot be read ({error}); the network is made anew", stacklevel=4)
        return None
    if about.get("weights") != store.bytes_sha256(blob):
        warnings.warn(f"{place.weights} does not match its card; the network is made anew", stacklevel=4)
        return None
    try:
        with torch.random.fork_rng(devices=[]):  # first weights are drawn and replaced: the caller's state stays
            model = recipes.blank(preset, preset.recipe(name))
        model.load_state_dict(load_tensors(blob))
    except (SafetensorError, RuntimeError) as error:
        warnings.warn(f"{place.weights} cannot be used ({error}); the network is made anew", stacklevel=4)
        return None
    return model.eval(), about


def _train(preset: Scale, name: str, seed: int, place: _Place, address: str) -> None:
    recipe = preset.recipe(name)
    began = time.perf_counter()
    compute.deterministic()
    images = _training_images(preset, recipe, seed)
    model, history = _mended(lambda: _fit(preset, name, seed, images, place))
    tensors = _stored(model, recipe)
    broken = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise training.TrainingError(
            f"network {name} (seed {seed}) ends with weights that are not finite in {recipe.storage} ({broken[0]}): "
            f"lower learning_rate (now {recipe.learning_rate})"
        )
    model.load_state_dict(tensors)
    test = data.load(recipe.data, "test")
    trained_on = f"{recipe.data}/{recipe.fit_split}{', prepared' if recipe.prepare else ''}"
    about = {
        "name": name,
        "scale": preset.name,
        "seed": seed,
        "key": address,
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
    }
    blob = save_tensors(tensors)
    about["weights"] = store.bytes_sha256(blob)
    about["checksum"] = store.fingerprint(about)
    store.write_atomic(place.weights, blob)
    store.write_atomic(place.card, json.dumps(about, indent=1))
    place.checkpoint.unlink(missing_ok=True)


def _fit(
    preset: Scale, name: str, seed: int, images: data.ImageSet, place: _Place
) -> tuple[nn.Module, list[dict[str, float]]]:
    """The network trained from its beginning, its trunk or its checkpoint, and its history."""
    recipe = preset.recipe(name)
    trunk = _trunk_of(preset, name, seed)
    model = _beginning(preset, recipe, seed)
    history = training.fit(
        model,
        images,
        recipe,
        seed=seed,
        hooks=[function(**arguments) for function, arguments in map(recipes.plug, recipe.hooks)],
        checkpoint=place.checkpoint,
        trunk=trunk,
        device=preset.compute.device,
    )
    return model, history


def _mended(train: Callable[[], Trained]) -> Trained:
    """What `train` returns; where a checkpoint that it goes on from is damaged, it is deleted, with a warning."""
    for _ in range(2):  # a network's own checkpoint, and the trunk it branches from
        try:
            return train()
        except training.CheckpointError as error:
            warnings.warn(f"{error}. It is deleted, and that training done anew", stacklevel=5)
            error.path.unlink(missing_ok=True)
    return train()


def _training_images(preset: Scale, recipe: Recipe, seed: int) -> data.ImageSet:
    images = data.load(recipe.data, recipe.fit_split)
    images = images if recipe.train_limit is None else images.stratified(recipe.train_limit, seed=0)
    start = (
        _obtain(preset, recipe.start["network"], seed, retrain=False)[0] if recipe.start and recipe.prepare else None
    )
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
            parent, _ = _obtain(preset, recipe.start["network"], seed, retrain=False)
            model.load_state_dict(parent.state_dict())
        return recipes.transformed(model, recipe)


def _trunk_of(preset: Scale, name: str, seed: int) -> Path | None:
    """The checkpoint that a network's training goes on from: its parent's, or the one it shares with its branches."""
    start = preset.recipe(name).start or {}
    if "epoch" in start:
        return _trunk(preset, start["network"], seed, start["epoch"])
    branches = _branchings(preset, name)
    return _trunk(preset, name, seed, branches[0]) if branches else None


def _branchings(preset: Scale, name: str) -> list[int]:
    """The epochs at which other networks branch off a network's training, in order."""
    starts = [recipe.start for recipe in preset.networks.values() if recipe.start is not None]
    return sorted({start["epoch"] for start in starts if start["network"] == name and "epoch" in start})


def _trunk_file(preset: Scale, name: str, seed: int, epoch: int) -> Path:
    place = _place(preset, name, seed, store.fingerprint({"trunk": _key(preset, name, seed), "epoch": epoch}))
    return place.folder / f"epoch{epoch}.pt"


def _trunk(preset: Scale, name: str, seed: int, epoch: int) -> Path:
    """The checkpoint of a network's training after `epoch` epochs, from which recipes that differ in hooks branch."""
    recipe = preset.recipe(name)
    path = _trunk_file(preset, name, seed, epoch)
    checkpoint = path.with_name("checkpoint.pt")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / "lock"):
        if not path.exists():
            training.fit(
                _beginning(preset, recipe, seed),
                _training_images(preset, recipe, seed),
                recipe,
                seed=seed,
                checkpoint=checkpoint,
                until=epoch,
                device=preset.compute.device,
            )
            checkpoint.rename(path)
    return path


def _stored(model: nn.Module, recipe: Recipe) -> dict[str, Tensor]:
    """The state as it is kept: on the CPU, contiguous, parameters in the recipe's storage type."""
    kept = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    if recipe.storage == "float16":
        kept.update({name: kept[name].half() for name, _ in model.named_parameters()})
    return kept


def train_family(scale: str, family: str, seed: int, retrain: bool = False, cards: bool = False) -> dict[str, str]:
    """Make every network of a family, and return the address of each; those already there are only looked up.

    Args:
        scale, family, seed: of the networks.
        retrain: train anew whatever is kept.
        cards: a network whose card is there counts as made: its weights are made when something reads them.
    """
    preset = config.load(scale)
    if family not in preset.families:
        raise config.ConfigError(f"no family {family!r} at scale {scale!r}: one of {', '.join(preset.families)}")
    with permission.asked():
        if cards and not retrain:
            return {name: card(name, scale, seed)["key"] for name in preset.families[family]}
        return {name: _obtain(preset, name, seed, retrain)[1]["key"] for name in preset.families[family]}


def ship(scale: str) -> list[Path]:
    """Copy into results/<scale>/networks what a reader needs to open the notebooks without training.

    The card of every network that is there, of every seed of the scale's studies; the weights of those that the
    scale's `ship` names, for the first seed, up to `SHIPPED_MB` each.

    Returns: the files written.
    Raises: ZooError for weights above the limit.
    """
    preset = config.load(scale)
    seeds = sorted({seed for study in preset.study.values() for seed in study.get("seeds", ())})
    written = []
    for name in preset.networks:
        for seed in seeds:
            address = store.fingerprint(_key(preset, name, seed))
            place, target = _place(preset, name, seed, address), _Place.shipped(preset, name, seed)
            about = _card(place, address)
            if about is None:
                continue
            if name in preset.ship and seed == seeds[0]:
                blob = place.weights.read_bytes()
                if len(blob) > SHIPPED_MB * 1e6:
                    raise ZooError(f"{name}: weights of {len(blob) / 1e6:.1f} MB; at most {SHIPPED_MB} MB ship")
                written.append(store.write_atomic(target.weights, blob))
            written.append(store.write_atomic(target.card, json.dumps(about, indent=1)))
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

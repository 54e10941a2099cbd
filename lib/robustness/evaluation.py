"""Named networks under attack, computed once: what the notebooks read and what the graph computes ahead of them.

    python -m lib.robustness.evaluation --scale smoke --family resnet18-b128 --seed 0

Settings are those of `study.robustness` in config/<scale>.yaml. What was computed is kept with the results, in
evaluations/, addressed by the network's weights, the images and the settings, so that no change of any of them is
missed, and a reader can open the notebooks without having the networks.
"""

from __future__ import annotations

import argparse
from typing import Any

import pandas as pd
import torch

from lib import compute, config, evaluations, zoo
from lib.evaluations import test_images
from lib.progress import bar
from lib.robustness import fgsm, spectra

VERSION = 1  # raise it when a change in this study's code changes its numbers

DEFAULTS: dict[str, Any] = {
    "test_images": 2000,
    "epsilons": [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 6, 8, 12, 16],
    "masking_images": 500,
    "masking_epsilons": [1, 2, 4, 8],
    "pgd_images": 200,
    "cw_images": 50,
    "prunable_images": 1000,
    "prunable_tolerance": 0.01,
}
"""Settings that a scale may leave out; eps in units of 1/255, test images in equal numbers from each class."""


def settings(scale: str) -> dict[str, Any]:
    """The scale's settings of this study: `study.robustness`, with `DEFAULTS` for what it leaves out.

    Raises: ConfigError where the scale names no data set.
    """
    return evaluations.settings(scale, "robustness", DEFAULTS)


def sweep(name: str, scale: str = "smoke", seed: int = 0, aware: bool = False) -> pd.DataFrame:
    """Accuracy of a named network under FGSM at the scale's eps.

    Args:
        name, scale, seed: of the network, as in `zoo.get`, which trains it where it is not there yet.
        aware: the attacker's loss has the network's training temperature; else temperature 1.

    Returns:
        One row an eps: epsilon (in [0, 1] units), accuracy, relative_accuracy (over the clean one), n.
    """
    chosen = settings(scale)
    epsilons = sorted({0.0, *(float(e) for e in chosen["epsilons"])})
    temperature = config.load(scale).recipe(name).temperature if aware else 1.0
    images = test_images(chosen["data"], chosen["test_images"])

    def make() -> pd.DataFrame:
        model = zoo.get(name, scale, seed)
        frame = fgsm.fgsm_sweep(model, images.images, images.labels, [e / 255 for e in epsilons], temperature)
        clean = float(frame.accuracy[0])
        frame.insert(2, "relative_accuracy", frame.accuracy / clean if clean > 0 else 0.0)
        return frame

    key = {"epsilons": epsilons, "temperature": temperature, "images": images.fingerprint}
    return evaluations.kept("robustness-sweep", name, scale, seed, key, make, VERSION)


def spectra_of(name: str, scale: str = "smoke", seed: int = 0) -> pd.DataFrame:
    """Spectra of a named network's layers, and the share of its weights that can be pruned for a point of accuracy.

    Args:
        name, scale, seed: of the network, as in `zoo.get`.

    Returns:
        One row a layer as in `spectra.layer_spectra`, and a last row, layer "mean", that averages them; that row alone
        has prunable_share (all weights ranked together), prunable_n (images it was measured on), accuracy (theirs).
    """
    chosen = settings(scale)
    images = test_images(chosen["data"], chosen["prunable_images"])

    def make() -> pd.DataFrame:
        model = zoo.get(name, scale, seed)
        layers = spectra.layer_spectra(model)
        prunable = spectra.prunable_share(model, images.images, images.labels, chosen["prunable_tolerance"])
        mean = {"layer": "mean", **layers.drop(columns="layer").mean().to_dict()}
        mean |= {"prunable_share": prunable.share, "prunable_n": prunable.n, "accuracy": prunable.accuracy}
        return pd.concat([layers, pd.DataFrame([mean])], ignore_index=True)

    key = {"tolerance": chosen["prunable_tolerance"], "images": images.fingerprint}
    return evaluations.kept("robustness-spectra", name, scale, seed, key, make, VERSION)


def masking_of(name: str, scale: str = "smoke", seed: int = 0, twin: str | None = None) -> pd.DataFrame:
    """The gradient-masking examination of a named network; columns as in `masking.examine`.

    Args:
        name, scale, seed: of the network, as in `zoo.get`.
        twin: its T = 1 twin; None: the first network of the same family that was trained at T = 1.

    Raises: ConfigError where there is no such twin.
    """
    chosen = settings(scale)
    preset = config.load(scale)
    temperature = preset.recipe(name).temperature
    twin = twin or _twin(preset, name)
    images = test_images(chosen["data"], chosen["masking_images"])
    epsilons = [float(e) for e in chosen["masking_epsilons"]]

    def make() -> pd.DataFrame:
        from lib.robustness import masking  # loads foolbox, which a plain sweep does without

        return masking.examine(
            zoo.get(name, scale, seed),
            zoo.get(twin, scale, seed),
            images.images,
            images.labels,
            temperature,
            [e / 255 for e in epsilons],
            pgd_images=chosen["pgd_images"],
            cw_images=chosen["cw_images"],
            seed=seed,
        )

    key = {
        "attacks": 2,  # raise it when the examination's numbers change
        "twin": zoo.card(twin, scale, seed)["weights"],
        "temperature": temperature,
        "epsilons": epsilons,
        "pgd_images": chosen["pgd_images"],
        "cw_images": chosen["cw_images"],
        "images": images.fingerprint,
    }
    return evaluations.kept("robustness-masking", name, scale, seed, key, make, VERSION)


def _twin(preset: config.Scale, name: str) -> str:
    family = preset.recipe(name).family
    for other in preset.families[family]:
        if preset.recipe(other).temperature == 1:
            return other
    raise config.ConfigError(f"{name}: family {family!r} has no network trained at temperature 1 to compare with")


def evaluate_family(scale: str, family: str, seed: int) -> dict[str, list[str]]:
    """Compute all that the items of this study ask of a family's networks.

    FGSM sweeps of each network, also with the temperature known where it is not 1; the masking examination and the
    spectra where the family belongs to `robustness_masking` or `robustness_spectra` in config/items.yaml.

    Returns:
        Network -> what was computed for it or found.

    Raises: ConfigError listing the families that exist.
    """
    preset = config.load(scale)
    if family not in preset.families:
        raise config.ConfigError(f"no family {family!r} at scale {scale!r}: one of {', '.join(preset.families)}")
    return {name: evaluate_network(scale, name, seed) for name in bar(preset.families[family], desc=family)}


def evaluate_network(scale: str, name: str, seed: int) -> list[str]:
    """Compute all that the items of this study ask of one network, as `evaluate_family` does of each.

    Returns: what was computed or found.
    """
    recipe, items = config.load(scale).recipe(name), config.items()
    masked, weighed = (
        item in items and recipe.family in items[item].families for item in ("robustness_masking", "robustness_spectra")
    )
    sweep(name, scale, seed)
    done = ["sweep"]
    if recipe.temperature != 1:
        sweep(name, scale, seed, aware=True)
        done.append("sweep-aware")
    if masked:
        masking_of(name, scale, seed)
        done.append("masking")
    if weighed:
        spectra_of(name, scale, seed)
        done.append("spectra")
    return done


def main() -> None:
    """python -m lib.robustness.evaluation --scale S --family F --seed K"""
    parser = argparse.ArgumentParser(prog="python -m lib.robustness.evaluation", description=main.__doc__)
    parser.add_argument("--scale", default="smoke", choices=config.SCALES)
    parser.add_argument("--family", required=True)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    compute.set_threads(config.load(chosen.scale).compute.threads)
    torch.manual_seed(chosen.seed)
    done = evaluations.restarting(lambda: evaluate_family(chosen.scale, chosen.family, chosen.seed))
    for name, parts in done.items():
        print(f"{name}: {', '.join(parts)}")


if __name__ == "__main__":
    main()

"""What the notebooks on robustness show, computed ahead of them, network by network.

python -m lib.experiments.robustness_evaluation --scale smoke --family resnet18-b128 --seed 0
"""

from __future__ import annotations

import argparse

import torch

from lib import compute, config, evaluations
from lib.experiments import robustness_spectra
from lib.experiments.robustness import Robustness, RobustnessRun
from lib.progress import bar


def evaluate_network(scale: str, name: str, seed: int) -> list[str]:
    """All that the study's items ask of one network: FGSM sweeps, also with the temperature known where it is not 1;
    the spectra where its family belongs to `robustness_spectra` in config/items.yaml.

    Args:
        scale, name, seed: of the network, as in `zoo.get`.
    Returns: what was computed or found.
    """
    recipe, items = config.load(scale).recipe(name), config.items()
    weighed = "robustness_spectra" in items and recipe.family in items["robustness_spectra"].families
    run = RobustnessRun(Robustness.of(scale), seed)
    run.sweep(name)
    done = ["sweep"]
    if recipe.temperature != 1:
        run.sweep(name, aware=True)
        done.append("sweep-aware")
    if weighed:
        robustness_spectra.SpectraRun(robustness_spectra.Settings.of(scale), seed).spectra(name)
        done.append("spectra")
    return done


def evaluate_family(scale: str, family: str, seed: int) -> dict[str, list[str]]:
    """`evaluate_network` for each network of a family.

    Returns: network -> what was computed for it or found.
    Raises: ConfigError listing the families that exist.
    """
    preset = config.load(scale)
    if family not in preset.families:
        raise config.ConfigError(f"no family {family!r} at scale {scale!r}: one of {', '.join(preset.families)}")
    return {name: evaluate_network(scale, name, seed) for name in bar(preset.families[family], desc=family)}


def main() -> None:
    """python -m lib.experiments.robustness_evaluation --scale S --family F --seed K"""
    parser = argparse.ArgumentParser(prog="python -m lib.experiments.robustness_evaluation", description=main.__doc__)
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

"""A step of the engine's tests: FGSM sweeps of the tiny networks of a family, or of one of them."""

from functools import partial

from lib import config
from lib.experiments.robustness import Robustness, RobustnessRun


def sweep(family: str, scale: str, seed: int, network: str = "") -> None:
    """Sweep a family's networks, or one, and keep the tables."""
    run = RobustnessRun(Robustness.of(scale), seed)
    for name in [network] if network else config.load(scale).families[family]:
        run.sweep(name)


pruned, tuned, slow = (partial(sweep, family) for family in ("pruned", "tuned", "slow"))

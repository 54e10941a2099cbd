"""How a notebook begins: its parameters checked as a whole, the look of its figures, the scale's threads."""

from __future__ import annotations

from typing import Any, TypeVar

from lib import compute, config, parameters, plots, zoo
from lib.experiments.settings import Settings

S = TypeVar("S", bound=Settings)


def start(kind: type[S], **given: Any) -> S:
    """The settings that a notebook runs with.

    Args:
        kind: the experiment's `Settings`.
        given: every parameter of the notebook by name; None: the scale's value.
    Raises: ParameterError for a parameter that papermill was given and the notebook does not have; ConfigError for a
        value of another kind or range.
    """
    parameters.check(**given)
    settings = kind.of(**given)
    plots.style()
    compute.set_threads(config.load(settings.scale).compute.threads)
    return settings


def live(scale: str, *names: str, seed: int = 0) -> str:
    """The scale whose networks a notebook's section on the method shows.

    Large networks may have been trained elsewhere, and only what was measured of them came back.

    Args:
        scale: the notebook's.
        names: of networks.
        seed: of the networks.
    Returns: the notebook's own where their weights are here, else the largest smaller one that has them here, which is
        said; the notebook's own where none has: they are trained then.
    """
    for other in reversed(config.SCALES[: config.SCALES.index(scale) + 1]):
        known = config.load(other).networks
        if all(name in known and zoo.kept(name, other, seed) for name in names):
            if other != scale:
                print(f"The weights of scale {scale} are not here: this section shows networks of scale {other}.")
            return other
    return scale

"""How a notebook begins: its parameters checked as a whole, the look of its figures, the scale's threads."""

from __future__ import annotations

from typing import Any, TypeVar

from lib import compute, config, parameters, plots
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

"""Leave to train: what takes long is trained where somebody asked for it, not because a notebook was opened."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lib import config
from lib.config import Scale

UNASKED_SECONDS = 180
"""Of training, by the scale's own estimate, that a process does without having been asked."""

_asked = False
_spent = 0.0


class NotAskedError(RuntimeError):
    """Training that would take long, and nobody asked for; the message has the command that does."""


@contextmanager
def asked() -> Iterator[None]:
    """Within this block networks are trained however long it takes; in jobs of the engine they always are."""
    global _asked
    before, _asked = _asked, True
    try:
        yield
    finally:
        _asked = before


def check(scale: Scale, name: str, seed: int, parents: Sequence[str] = ()) -> None:
    """Count a training that is about to begin, and refuse it where this process has not been asked and it is long.

    Args:
        scale, name, seed: of the network. One without an estimate counts as much as the scale's longest.
        parents: networks that have to be trained before it.
    Raises: NotAskedError naming the network, how long it takes, and what to do.
    """
    global _spent
    if _asked or config.training_asked():
        return
    own = _seconds(scale, name)
    whole = own + sum(_seconds(scale, parent) for parent in parents)
    if _spent + whole > UNASKED_SECONDS:
        known = config.network_seconds(scale, name) is not None
        long = f"takes about {config.in_words(whole)}" if known else "may take long: the scale has no estimate of it"
        before = f" with {', '.join(parents)}, which it starts from," if parents else ""
        spent = f", after {config.in_words(_spent)} of training here already" if _spent else ""
        family = scale.recipe(name).family
        raise NotAskedError(
            f"network {name} (seed {seed}) of scale {scale.name} is not there, and training it{before} {long}{spent}. "
            f"Make it: python -m lib.zoo train --scale {scale.name} --family {family} --seed {seed}; "
            f"or all that is missing: ./run_all.sh {scale.name}, with --only ITEM for one table or figure"
        )
    _spent += own


def _seconds(scale: Scale, name: str) -> float:
    known = config.network_seconds(scale, name)
    if known is not None:
        return known
    return max((config.network_seconds(scale, other) or 0.0 for other in scale.networks), default=0.0)

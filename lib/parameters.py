"""A notebook's parameters, checked before anything is computed: names that it has, values of their kind."""

import ast
from collections.abc import Iterable, Sequence
from typing import Any

from lib import config

INJECTED = "# Parameters"  # how papermill begins the cell that it puts in


class ParameterError(ValueError):
    """A parameter that a notebook does not have, or a value that does not fit; the message says which and what does."""


def check(**given: Any) -> None:
    """Refuse parameters that a notebook does not have, or whose value is of another kind.

    A name that papermill is given and the notebook does not know is assigned in the cell that papermill puts in, and
    read by nobody. So the names assigned there, and in the parameters cell itself, are looked up among the cells that
    this kernel has run; names of the notebook's other cells do not count.

    Args:
        given: every parameter of the notebook by name, with its value. `scale`, `seeds` and `seed` are checked for
            their kind; others are left to what reads them.
    Raises: ParameterError naming the parameter, and those that exist.
    """
    unknown = [name for name in dict.fromkeys(assigned(_cells(), given)) if name not in given]
    if unknown:
        raise ParameterError(f"no parameter {', '.join(map(repr, unknown))}: this notebook has {', '.join(given)}")
    if "scale" in given and given["scale"] not in config.SCALES:
        raise ParameterError(f"scale is {given['scale']!r}: {config.one_of(given['scale'], config.SCALES)}")
    seeds, seed = given.get("seeds"), given.get("seed", 0)
    each = [seeds] if _is_seed(seeds) else seeds
    if not _is_seed(seed):
        raise ParameterError(f"seed is {seed!r}: a whole number from 0 is wanted")
    if each is not None and not (isinstance(each, (list, tuple)) and each and all(map(_is_seed, each))):
        raise ParameterError(
            f"seeds is {seeds!r}: None, or whole numbers from 0, as [0, 1]; with papermill: -y 'seeds: [0, 1]'"
        )
    if each is not None and len(set(each)) < len(each):
        raise ParameterError(f"seeds is {seeds!r}: each only once")


def assigned(cells: Sequence[str], known: Iterable[str]) -> list[str]:
    """The names that the last parameters cell assigns, and the last cell after it that papermill put in.

    Args:
        cells: source of the cells run so far, in order.
        known: the notebook's parameters: a cell of assignments that has all of them is its parameters cell.
    """
    found: list[str] = []
    injected = False
    for source in reversed(cells):
        names = _targets(source)
        if source.lstrip().startswith(INJECTED):
            found += [] if injected else names
            injected = True
        elif names and set(known) <= set(names):
            return found + names
    return found


def _targets(source: str) -> list[str]:
    """The names that a cell of nothing but assignments assigns; none for any other cell."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):  # a magic, or a cell that failed
        return []
    if not all(isinstance(line, ast.Assign) for line in body):
        return []
    targets = [target for line in body if isinstance(line, ast.Assign) for target in line.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _cells() -> list[str]:
    """The cells that this kernel has run; none outside one."""
    try:
        from IPython import get_ipython
    except ImportError:
        return []
    shell = get_ipython()
    return [] if shell is None else [str(source) for source in shell.user_ns.get("In", ())]


def _is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

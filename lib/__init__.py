"""What neurons do: five studies, reproduced. Submodules load on first use, so `import lib` stays instant."""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__version__ = "0.1.0"


def lazy(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose names load on first use (PEP 562): cheap to import.

    Args:
        package: its dotted name, `__name__`.
        homes: submodule (dotted, below the package) -> the names that it gives; undotted ones are names themselves.
    Returns: all three. A name that is not there raises AttributeError, as in any module.
    """
    home = {name: module for module, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name in home:
            return getattr(importlib.import_module(f"{package}.{home[name]}"), name)
        if name in homes:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home, *(name for name in homes if "." not in name)})

    return get, names, sorted(home)


__getattr__, __dir__, _ = lazy(__name__, {module.name: () for module in pkgutil.iter_modules(__path__)})

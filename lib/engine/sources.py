"""Which files of `lib` a job's result depends on, read from the import statements."""

import ast
import json
from functools import lru_cache
from pathlib import Path

from lib import config


def sources(*modules: str, notebook: Path | None = None) -> list[str]:
    """Files of `lib` that modules, or a notebook's cells, import: directly or through one another.

    Args:
        modules: dotted names, as "lib.zoo" or "lib.robustness.low_rank.decompose".
        notebook: a notebook whose code cells are read for imports.
    Returns: paths relative to the repository root, sorted.
    """
    queue = list(modules)
    if notebook is not None:
        queue += _notebook_imports(notebook)
    found: set[Path] = set()
    while queue:
        for path in _files(queue.pop()):
            if path not in found:
                found.add(path)
                queue += _imports(path.read_text(), path.parent.relative_to(config.ROOT).parts)
    return sorted(path.relative_to(config.ROOT).as_posix() for path in found)


def _notebook_imports(notebook: Path) -> list[str]:
    found: list[str] = []
    if not notebook.exists():  # the engine says so, should a run come to it
        return found
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            try:
                found += _imports("".join(cell["source"]))
            except SyntaxError:  # a magic, or a cell that fails when it runs and says so there
                continue
    return found


def _files(module: str) -> list[Path]:
    """The files that a dotted name stands for: each package's __init__ on the way, then the module itself."""
    here, found = config.ROOT, []
    for part in module.split("."):
        here = here / part
        if here.is_dir():  # also a folder without an __init__.py: its modules can be imported all the same
            found += [path for path in [here / "__init__.py"] if path.exists()]
        else:
            return [*found, *(path for path in [here.with_suffix(".py")] if path.exists())]
    return found


@lru_cache(maxsize=512)
def _imports(text: str, package: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Dotted names below `lib` that a source text imports, or reaches as attributes of `lib`."""
    found = []
    for part in ast.walk(ast.parse(text)):
        if isinstance(part, ast.Import):
            found += [alias.name for alias in part.names]
        elif isinstance(part, ast.ImportFrom):
            base = package[: len(package) - part.level + 1] if part.level else ()
            origin = ".".join([*base, *([part.module] if part.module else [])])
            found += [f"{origin}.{alias.name}" for alias in part.names]
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "lib":
            found.append(f"lib.{part.attr}")
    return tuple(name for name in found if name.split(".")[0] == "lib")

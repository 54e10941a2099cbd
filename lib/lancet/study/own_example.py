"""The study's network and its wrong inputs written to disk, as somebody else's would lie there."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from lib import config, data, recipes
from lib.lancet.study import wrong

WRONG, CLEAN = 60, 200


@dataclass(frozen=True)
class OnDisk:
    """Paths, and what a reader has to know beside them.

    Attributes:
        weights: a .safetensors file; wrong, clean: folders of images by true class.
        structure: a name of `lib.models`; about: shape, classes and the structure's arguments.
        classes: names.
        command: the call from a shell.
    """

    weights: Path
    wrong: Path
    clean: Path
    structure: str
    about: dict[str, Any]
    classes: tuple[str, ...]
    command: str


@contextmanager
def on_disk(scale: str, seed: int) -> Iterator[OnDisk]:
    """The study's network, wrong inputs and clean images in a folder that goes when the block ends."""
    recipe = config.load(scale).recipe(wrong.settings(scale)["defect_network"])
    model, half = (
        wrong.network_of(scale, seed),
        wrong.halves_of(wrong.data_of(scale), wrong.settings(scale)["defect_test_images"])[0],
    )
    spec = data.SETS[recipe.data]
    given = {key: value for key, value in config.thaw(recipe.arch_args).items() if key != "normalise"}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
        save_file(tensors, folder / "net.safetensors")
        images, labels, _ = wrong.half_of(model, half).misclassified(WRONG)
        write_images(folder / "wrong", images, labels)
        clean = wrong.halves_of(recipe.data, wrong.settings(scale)["defect_test_images"])[1]
        clean = clean.stratified(min(CLEAN, len(clean)), 0)
        write_images(folder / "clean", clean.float(), clean.labels)
        command = (
            f"python -m lib.lancet.own --weights net.safetensors --structure {recipe.arch} --arguments "
            f"'{json.dumps(given)}' --shape {' '.join(map(str, spec.shape))} --classes {spec.classes} "
            "--wrong wrong --clean clean --out repaired.safetensors"
        )
        yield OnDisk(
            weights=folder / "net.safetensors",
            wrong=folder / "wrong",
            clean=folder / "clean",
            structure=recipe.arch,
            about=recipes.arguments(recipe),
            classes=half.classes,
            command=command,
        )


def write_images(folder: Path, images: Tensor, labels: Tensor) -> None:
    """Images (N, C, H, W) in [0, 1] as PNG files, one sub-folder a label, named by its number."""
    from PIL import Image

    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).squeeze(-1).numpy()
    for k, (picture, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{k:04d}.png")

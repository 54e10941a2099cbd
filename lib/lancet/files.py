"""One's own network and images, read without executing anything that is in the files.

Weights are tensors in a .safetensors file, or a state dict that torch.load reads with `weights_only=True`; a whole
pickled module is refused, because unpickling it would run code. The structure is one of this package's, one of
torchvision's, or a module that the caller made. Images lie in one folder a true class.
"""

from __future__ import annotations

import importlib
import os
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib import models
from lib.data.folders import EXTENSIONS
from lib.lancet.errors import LancetError
from lib.models import Normalise, efficientnet_lite


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images of a folder: float32 (N, C, H, W) in [0, 1], int64 labels (N,), and each image's path below the folder."""

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def load_classifier(
    weights: str | os.PathLike,
    structure: str | nn.Module,
    *,
    shape: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **arguments: Any,
) -> nn.Module:
    """A saved classifier, in evaluation mode.

    Args:
        weights: a .safetensors file, or one saved by `torch.save(model.state_dict(), ...)`.
        structure: a name of `lib.models.ARCHITECTURES`, or else of torchvision's ("torchvision:resnet18" where both
            know it); "package.module:function", a function of yours that gives the module; or a module
            of the right structure, whose weights are replaced.
        shape: (C, H, W) of an image.
        classes: number of logits.
        mean, std: per channel of images in [0, 1], where the network was trained on normalised images; this becomes
            the network's first step. None: it takes images in [0, 1] as they are (or its file has its own numbers).
        arguments: the architecture's own, as width=16.
    Returns: a module from images in [0, 1] to logits.
    Raises: LancetError for a file that is missing, holds something else or would have to run code, for an unknown
        structure, and for weights that do not fit it.
    """
    check_normalisation(shape, mean, std)
    state = load_state(weights)
    ours = structure in (*models.ARCHITECTURES, "efficientnet-lite0") if isinstance(structure, str) else False
    model = _built(structure, shape, classes, mean, std, arguments) if isinstance(structure, str) else structure
    inside = sorted(name for name, module in model.named_modules() if isinstance(module, Normalise))
    if ours:  # a file that was saved without our normalisation takes the one that was asked for
        asked = {k: v for k, v in model.state_dict().items() if k.startswith("normalise.")}
        if mean is not None and any(not torch.allclose(state.get(k, v), v, atol=1e-3) for k, v in asked.items()):
            raise LancetError(
                f"{weights} holds its own normalisation, with other numbers than mean and std: leave them out"
            )
        state = {**asked, **state}
    elif mean is not None and inside:
        raise LancetError(f"the structure normalises its input itself, at {inside}: leave mean and std out")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise LancetError(
            f"{weights} does not fit {structure if isinstance(structure, str) else type(structure).__name__}: "
            f"{str(error)[:600]}; check the structure, its arguments, shape {tuple(shape)} and {classes} classes"
        ) from error
    return (model if ours or mean is None else nn.Sequential(Normalise.of(mean, std), model)).eval()


def _built(
    structure: str,
    shape: Sequence[int],
    classes: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    arguments: Mapping[str, Any],
) -> nn.Module:
    """The module that a structure's name stands for."""
    home, _, name = structure.rpartition(":")
    try:
        if structure == "efficientnet-lite0":
            return efficientnet_lite.EfficientNetLite0(shape, classes, Normalise.of(mean, std), **arguments)
        if structure in models.ARCHITECTURES:
            return models.build(structure, shape=shape, classes=classes, mean=mean, std=std, **arguments)
        if home in ("", "torchvision"):
            module = importlib.import_module("torchvision.models")
            return module.get_model(name, weights=None, num_classes=classes, **arguments)
        made = getattr(importlib.import_module(home), name)(**arguments)
    except Exception as error:  # the user's own code may raise anything
        raise LancetError(
            f"structure {structure!r} cannot be built: {error}. Known are {', '.join(models.ARCHITECTURES)}, names of "
            "torchvision, and module:function, found on PYTHONPATH"
        ) from error
    if not isinstance(made, nn.Module):
        raise LancetError(f"structure {structure} gives a {type(made).__name__}: a torch module is wanted")
    return made


def check_normalisation(shape: Sequence[int], mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Raises: LancetError where mean and std are not both given, one number a channel, std above 0."""
    if (mean is None) != (std is None):
        raise LancetError("mean and std go together: give both, or neither")
    if mean is not None and std is not None:
        if len(mean) != shape[0] or len(std) != shape[0]:
            raise LancetError(f"mean has {len(mean)} and std {len(std)} numbers: one a channel is wanted, {shape[0]}")
        if not all(number > 0 for number in std):
            raise LancetError(f"std is {list(std)}: numbers above 0 are wanted")


def load_state(path: str | os.PathLike) -> dict[str, Tensor]:
    """Tensors by name from a file of weights; nothing in it is executed.

    Raises: LancetError where the file is missing, damaged, or no state dict.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise LancetError(f"{path}: no such file; give the weights of the network to repair")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LancetError(
            f"{path} holds more than tensors, and reading it would run code from the file, so it is not read: save "
            "the weights alone, with torch.save(model.state_dict(), ...) or safetensors"
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise LancetError(f"{path} cannot be read as weights: {error}") from error
    for key in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()) or not found:
        raise LancetError(f"{path} holds a {type(found).__name__}, not a state dict: names with a tensor each")
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return dict(found)


def read_folder(folder: str | os.PathLike, classes: Sequence[str] | int, shape: Sequence[int]) -> Labelled:
    """Images sorted by true label.

    Args:
        folder: one sub-folder a class, named by the class or by its number; classes without images may be missing.
        classes: the names in the order of the logits, or how many there are.
        shape: (C, H, W) that images are brought to; grey for one channel, RGB for three; resized where they differ.
    Raises: LancetError naming the folder or file that cannot be used.
    """
    from PIL import Image

    folder, names = Path(folder), [] if isinstance(classes, int) else list(classes)
    count = classes if isinstance(classes, int) else len(classes)
    numbers = {**{str(k): k for k in range(count)}, **{name: k for k, name in enumerate(names)}}
    if not folder.is_dir():
        raise LancetError(f"{folder}: no such folder; images are wanted in one sub-folder a true class")
    if shape[0] not in (1, 3):
        raise LancetError(f"shape {tuple(shape)}: images have 1 or 3 channels")
    pixels, labels, paths = [], [], []
    for path in sorted(folder.glob("*/*")):
        place = path.parent
        if place.name.startswith(".") or path.name.startswith(".") or path.suffix.lower() not in EXTENSIONS:
            continue
        if place.name not in numbers:
            raise LancetError(
                f"{place}: its name is none of the {count} classes nor a number below {count} "
                f"(as {', '.join(list(numbers)[-8:])})"
            )
        try:
            with Image.open(path) as opened:
                pixels.append(decoded(opened, shape))
        except (OSError, ValueError, SyntaxError) as error:
            raise LancetError(f"{path} cannot be read as an image: {error}") from error
        labels.append(numbers[place.name])
        paths.append(f"{place.name}/{path.name}")
    if not pixels:
        raise LancetError(f"{folder} holds no image: put {', '.join(sorted(EXTENSIONS))} files into one folder a class")
    return Labelled(torch.stack(pixels), torch.tensor(labels), tuple(paths))


def write_folder(folder: str | os.PathLike, images: Tensor, labels: Tensor) -> None:
    """Images as PNG files, as `read_folder` reads them.

    Args:
        folder: where; each class's number becomes a sub-folder.
        images: float (N, C, H, W) in [0, 1], of one channel or three.
        labels: int64 (N,).
    """
    from PIL import Image

    pixels = (images.cpu() * 255).round().byte().permute(0, 2, 3, 1).squeeze(-1).numpy()
    for k, (picture, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        place = Path(folder) / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{k:04d}.png")


def decoded(image: Any, shape: Sequence[int]) -> Tensor:
    """An opened image as float32 (C, H, W) in [0, 1]. Raises: ValueError where it has more than eight bits a value."""
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        raise ValueError(f"its mode is {image.mode}, of more than eight bits a value: convert it to eight")
    image = image.convert("L" if shape[0] == 1 else "RGB")
    if image.size != (shape[2], shape[1]):
        image = image.resize((shape[2], shape[1]), Image.Resampling.BILINEAR)
    array = np.array(image).reshape(shape[1], shape[2], shape[0])
    return torch.from_numpy(array).permute(2, 0, 1).float().div_(255)

"""One's own network and images, read without executing anything that is in the files.

Weights are tensors in a .safetensors file, or a state dict that torch.load reads with `weights_only=True`; a whole
pickled module is refused, because unpickling it would run code. The structure is one of this package's, one of
torchvision's, or a module that the caller made. Images lie in one folder a true class.
"""

from __future__ import annotations

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

TORCHVISION = "torchvision:"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images of a folder.

    Attributes:
        images: float32 (N, C, H, W) in [0, 1].
        labels: int64 (N,).
        names: each image's path below the folder.
    """

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
        structure: a name of `lib.models.ARCHITECTURES`; "torchvision:resnet18" and the like; or a module of the right
            structure, whose weights are replaced.
        shape: (C, H, W) of an image.
        classes: number of logits.
        mean, std: per channel of images in [0, 1], where the network was trained on normalised images; this becomes
            the network's first step. None: it takes images in [0, 1] as they are (or its file has its own numbers).
        arguments: the architecture's own, as width=16.
    Returns: a module from images in [0, 1] to logits.
    Raises: LancetError for a file that is missing, holds something else or would have to run code, for an unknown
        structure, and for weights that do not fit it.
    """
    state = load_state(weights)
    if isinstance(structure, nn.Module):
        model = structure
    elif structure.startswith(TORCHVISION):
        model = _torchvision(structure.removeprefix(TORCHVISION), classes, arguments)
    else:
        model = _ours(structure, shape, classes, mean, std, arguments)
    inside = not isinstance(structure, nn.Module) and not structure.startswith(TORCHVISION)
    if inside:  # a file that was saved without our normalisation takes the one that was asked for
        state = {**{k: v for k, v in model.state_dict().items() if k.startswith("normalise.")}, **state}
    expected, given = model.state_dict(), set(state)
    lost, extra = sorted(set(expected) - given), sorted(given - set(expected))
    odd = [k for k in expected if k in state and state[k].shape != expected[k].shape]
    if lost or extra or odd:
        told = [
            f"{what} {names[:3]}"
            for what, names in (("lacks", lost), ("has beside", extra), ("differs in", odd))
            if names
        ]
        raise LancetError(
            f"{weights} does not fit {structure if isinstance(structure, str) else type(structure).__name__}: it "
            f"{' and '.join(told)}; check the structure, its arguments, shape {tuple(shape)} and {classes} classes"
        )
    model.load_state_dict(state)
    if not inside and mean is not None:
        model = nn.Sequential(Normalise.of(mean, std), model)
    return model.eval()


def load_state(path: str | os.PathLike) -> dict[str, Tensor]:
    """Tensors by name from a file of weights; nothing in it is executed.

    Raises: LancetError where the file is missing, damaged, or no state dict.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise LancetError(f"{path}: no such file; give the weights of the network to repair")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise LancetError(f"{path} is not a whole .safetensors file: {error}") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LancetError(
            f"{path} holds more than tensors, and reading it would run code from the file, so it is not read: save "
            "the weights alone, with torch.save(model.state_dict(), ...) or safetensors"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise LancetError(f"{path} cannot be read as weights: {error}") from error
    for key in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()) or not found:
        raise LancetError(f"{path} holds a {type(found).__name__}, not a state dict: names with a tensor each")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return dict(found)


def _ours(
    name: str,
    shape: Sequence[int],
    classes: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    arguments: Mapping[str, Any],
) -> nn.Module:
    try:
        if name == "efficientnet-lite0":
            return efficientnet_lite.EfficientNetLite0(shape, classes, Normalise.of(mean, std), **arguments)
        return models.build(name, shape=shape, classes=classes, mean=mean, std=std, **arguments)
    except (ValueError, TypeError) as error:
        raise LancetError(f"structure {name!r} cannot be built: {error}; or torchvision:<name>, or a module") from error


def _torchvision(name: str, classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    import torchvision

    try:
        return torchvision.models.get_model(name, weights=None, num_classes=classes, **arguments)
    except (ValueError, TypeError, KeyError) as error:
        raise LancetError(f"torchvision has no classifier {name!r} that can be built so: {error}") from error


def read_folder(folder: str | os.PathLike, classes: Sequence[str] | int, shape: Sequence[int]) -> Labelled:
    """Images sorted by true label.

    Args:
        folder: one sub-folder a class, named by the class or by its number; classes without images may be missing.
        classes: the names in the order of the logits, or how many there are.
        shape: (C, H, W) that images are brought to; grey for one channel, RGB for three; resized where they differ.
    Raises: LancetError naming the folder or file that cannot be used.
    """
    from PIL import Image

    folder, count = Path(folder), classes if isinstance(classes, int) else len(classes)
    numbers = {str(k): k for k in range(count)}
    if not isinstance(classes, int):
        numbers |= {name: k for k, name in enumerate(classes)}
    if not folder.is_dir():
        raise LancetError(f"{folder}: no such folder; images are wanted in one sub-folder a true class")
    if shape[0] not in (1, 3):
        raise LancetError(f"shape {tuple(shape)}: images have 1 or 3 channels")
    pixels, labels, names = [], [], []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        if place.name not in numbers:
            known = ", ".join(list(numbers)[-8:])
            raise LancetError(
                f"{place}: its name is none of the {count} classes nor a number below {count} (as {known})"
            )
        for path in sorted(path for path in place.iterdir() if path.suffix.lower() in EXTENSIONS):
            try:
                with Image.open(path) as opened:
                    image = opened.convert("L" if shape[0] == 1 else "RGB")
                    if image.size != (shape[2], shape[1]):
                        image = image.resize((shape[2], shape[1]), Image.Resampling.BILINEAR)
                    array = np.asarray(image, np.uint8)
            except (OSError, ValueError, SyntaxError) as error:
                raise LancetError(f"{path} cannot be read as an image: {error}") from error
            pixels.append(torch.from_numpy(array.reshape(shape[1], shape[2], shape[0]).copy()).permute(2, 0, 1))
            labels.append(numbers[place.name])
            names.append(f"{place.name}/{path.name}")
    if not pixels:
        raise LancetError(f"{folder} holds no image: put {', '.join(sorted(EXTENSIONS))} files into one folder a class")
    return Labelled(torch.stack(pixels).float().div_(255), torch.tensor(labels), tuple(names))

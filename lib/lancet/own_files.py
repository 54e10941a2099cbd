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
        structure: a name of `lib.models.ARCHITECTURES`, or else of torchvision's ("torchvision:resnet18" where both
            know it); "timm:<name>"; "package.module:function", a function of yours that gives the module; or a module
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
    model, inside = _structure(structure, shape, classes, mean, std, arguments)
    own = {name for name, module in model.named_modules() if isinstance(module, Normalise)}
    if mean is not None and not inside and own:
        raise LancetError(f"the structure normalises its input itself, at {sorted(own)}: leave mean and std out")
    if inside:  # a file that was saved without our normalisation takes the one that was asked for
        ours = {k: v for k, v in model.state_dict().items() if k.startswith("normalise.")}
        if mean is not None and any(k in state and not torch.allclose(state[k], ours[k], atol=1e-3) for k in ours):
            raise LancetError(
                f"{weights} holds its own normalisation, with other numbers than mean and std: leave them out"
            )
        state = {**ours, **state}
    counters = {k: v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    state = {**counters, **state}  # old files lack these counters, which evaluation does not read
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


def _structure(
    structure: str | nn.Module,
    shape: Sequence[int],
    classes: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    arguments: Mapping[str, Any],
) -> tuple[nn.Module, bool]:
    """The module, and whether it is one of ours, which holds its normalisation."""
    if isinstance(structure, nn.Module):
        return structure, False
    if structure.startswith(TORCHVISION):
        return _torchvision(structure.removeprefix(TORCHVISION), classes, arguments), False
    home, _, name = structure.partition(":")
    if name:
        return _called(home, name, classes, arguments), False
    ours = structure in models.ARCHITECTURES or structure == "efficientnet-lite0"
    if not ours:
        import torchvision

        if structure in torchvision.models.list_models(module=torchvision.models):
            return _torchvision(structure, classes, arguments), False
    return _ours(structure, shape, classes, mean, std, arguments), True


def _called(home: str, name: str, classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    """timm:<name>, or what a function of a module gives."""
    try:
        module = importlib.import_module(home)
    except ImportError as error:
        raise LancetError(
            f"structure {home}:{name}: {home} cannot be imported ({error}); install it, or set PYTHONPATH"
        ) from error
    try:
        if home == "timm":
            made = module.create_model(name, pretrained=False, num_classes=classes, **arguments)
        else:
            made = getattr(module, name)(**arguments)
    except Exception as error:  # the user's own code may raise anything
        raise LancetError(f"structure {home}:{name} cannot be built: {error}") from error
    if not isinstance(made, nn.Module):
        raise LancetError(f"structure {home}:{name} gives a {type(made).__name__}: a torch module is wanted")
    return made


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
    for place in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if place.name not in numbers:
            known = ", ".join(list(numbers)[-8:])
            raise LancetError(
                f"{place}: its name is none of the {count} classes nor a number below {count} (as {known})"
            )
        files = (path for path in place.iterdir() if path.suffix.lower() in EXTENSIONS)
        for path in sorted(path for path in files if not path.name.startswith(".")):
            try:
                with Image.open(path) as opened:
                    pixels.append(_pixels(opened, shape))
            except (OSError, ValueError, SyntaxError) as error:
                raise LancetError(f"{path} cannot be read as an image: {error}") from error
            labels.append(numbers[place.name])
            names.append(f"{place.name}/{path.name}")
    if not pixels:
        raise LancetError(f"{folder} holds no image: put {', '.join(sorted(EXTENSIONS))} files into one folder a class")
    return Labelled(torch.stack(pixels), torch.tensor(labels), tuple(names))


def _pixels(image: Any, shape: Sequence[int]) -> Tensor:
    """An opened image as float32 (C, H, W) in [0, 1], of eight or sixteen bits a value or of floating point."""
    from PIL import Image

    most = 255.0
    if image.mode == "F" or image.mode.startswith("I"):  # one channel of more than eight bits
        values = np.asarray(image, np.float32)
        most = 65535.0 if image.mode.startswith("I") else 1.0
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= most):
            raise ValueError(f"its values lie in {values.min():g}..{values.max():g}: 0..{most:g} is wanted")
        image = Image.fromarray(values)
    else:
        image = image.convert("L" if shape[0] == 1 else "RGB")
    if image.size != (shape[2], shape[1]):
        image = image.resize((shape[2], shape[1]), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], shape[0], 2)
    return torch.from_numpy(array.copy()).permute(2, 0, 1).float().div_(most)

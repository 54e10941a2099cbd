"""The one way in for images and labels: what people hold becomes tensors, or one error names what is wrong with it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lib.data.image_set import ImageFiles

Function = TypeVar("Function", bound=Callable[..., Any])
LARGEST = 32.0  # floating images beyond this in size are in 0..255, whatever they are normalised by


def as_images(images: Any, name: str = "images", error: type[ValueError] = ValueError, unit: bool = False) -> Tensor:
    """Images as a tensor.

    Args:
        images: (N, C, H, W), floating or uint8: a tensor, a numpy array, or a sequence of either.
        name: of the argument, for messages.
        error: what is raised.
        unit: whether floating images have to lie in [0, 1].
    Returns: the tensor itself where it is one; half precision becomes float32. Images that stay on disk stay there.
    Raises: error naming the argument, what it is, and what is wanted.
    """
    if isinstance(images, ImageFiles):
        return images  # type: ignore[return-value]
    found = as_tensor(images, name, error)
    wanted = "want (N, C, H, W), floating in [0, 1] or uint8 in 0..255"
    if found.ndim != 4 or len(found) < 1:
        raise error(f"{name} have shape {tuple(found.shape)}: {wanted}, with N from 1")
    if found.shape[1] > 4 and found.shape[3] in (1, 3, 4):
        raise error(f"{name} of shape {tuple(found.shape)} look like (N, H, W, C): give {name}.permute(0, 3, 1, 2)")
    if found.dtype == torch.uint8:
        return found
    if not found.dtype.is_floating_point:
        raise error(f"{name} are {found.dtype}: {wanted}")
    if found.dtype in (torch.float16, torch.bfloat16):
        found = found.float()
    if found.numel():
        low, high = (float(value) for value in found.detach().aminmax())  # NaN where there is one
        if not (np.isfinite(low) and np.isfinite(high)):
            bad = int((~torch.isfinite(found)).flatten(1).any(1).nonzero()[0, 0])
            raise error(f"{name}[{bad}] holds NaN or infinity: leave such images out")
        if max(abs(low), abs(high)) > LARGEST:
            raise error(f"{name} lie in {low:.4g}..{high:.4g}: {wanted}; divide by 255, or give uint8")
        if unit and not 0 <= low <= high <= 1:
            raise error(
                f"{name} lie in {low:.4g}..{high:.4g}: want [0, 1]; put the normalisation into the network "
                "(lib.models.Normalise)"
            )
    return found


def as_labels(
    labels: Any,
    count: int | None = None,
    classes: int | None = None,
    name: str = "labels",
    error: type[ValueError] = ValueError,
) -> Tensor:
    """Labels as int64.

    Args:
        labels: (N,) whole numbers of any type: a tensor, a numpy array or a sequence.
        count: images that they belong to; None: not known.
        classes: number of classes; None: not known.
        name, error: as in `as_images`.
    Returns: int64 (N,), on the device of the tensor given.
    Raises: error naming the argument, what it is, and what is wanted.
    """
    found = as_tensor(labels, name, error)
    if found.ndim == 2 and found.shape[1] == 1:
        raise error(f"{name} have shape {tuple(found.shape)}: want (N,); give {name}[:, 0]")
    if found.ndim == 2:
        raise error(f"{name} have shape {tuple(found.shape)}, as one-hot: want (N,); give {name}.argmax(1)")
    if found.ndim != 1:
        raise error(f"{name} have shape {tuple(found.shape)}: want (N,), the class of each image")
    if count is not None and len(found) != count:
        raise error(f"{count} images have {len(found)} {name}: one each is wanted")
    if found.dtype.is_floating_point or found.dtype.is_complex or found.dtype == torch.bool:
        raise error(f"{name} are {found.dtype}: want whole numbers, the class of each image")
    found = found.to(torch.int64)
    if len(found):
        low, high = int(found.min()), int(found.max())
        if low < 0 or (classes is not None and high >= classes):
            last = "" if classes is None else f"{classes - 1}"
            raise error(f"{name} lie in {low}..{high}: 0..{last} is wanted")
    return found


def as_batch(
    images: Any, labels: Any, error: type[ValueError] = ValueError, unit: bool = False, classes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Images and the label of each; as `as_images` and `as_labels`."""
    found = as_images(images, error=error, unit=unit)
    return found, as_labels(labels, len(found), classes, error=error)


def with_gradients(function: Function) -> Function:
    """A function that runs as if no torch.no_grad or torch.inference_mode were around it."""

    @functools.wraps(function)
    def run(*args: Any, **named: Any) -> Any:
        if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
            return function(*args, **named)
        with torch.inference_mode(False), torch.enable_grad():
            return function(*args, **named)

    return run  # type: ignore[return-value]


def as_tensor(value: Any, name: str, error: type[ValueError] = ValueError) -> Tensor:
    """A tensor, a numpy array, or a sequence of numbers, tensors or arrays, as a tensor of the same type.

    Raises: error where it is nothing of that.
    """
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() and not torch.is_inference_mode_enabled() else value
    try:
        if isinstance(value, Sequence) and len(value) and isinstance(value[0], Tensor):
            return torch.stack(list(value))
        array = np.asarray(value)
        if array.dtype == object or array.dtype.kind not in "biuf":
            raise TypeError(f"of type {array.dtype}")
        return torch.from_numpy(np.require(array, requirements=["C", "W"]))
    except (TypeError, ValueError, RuntimeError) as problem:
        kind = type(value).__name__
        raise error(f"{name} are a {kind} that is no array of numbers ({problem}): want a tensor or array") from problem

"""Gaussian smoothing as two matrix products: exact, batched over images and widths, on any device."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor


def gaussian_matrix(size: int, sigma: float, mode: str = "reflect") -> Tensor:
    """The matrix (size, size), float32, that smooths a signal of that length with a Gaussian cut at four sigma.

    Args:
        size: length of the signal in pixels.
        sigma: standard deviation in pixels; 0 gives the identity.
        mode: beyond the border, as in SciPy: "reflect", or "constant" for zeros (the matrix is then symmetric).
    """
    identity = np.eye(size)
    smoothed = gaussian_filter1d(identity, sigma, axis=0, mode=mode) if sigma > 0 else identity
    return torch.from_numpy(smoothed).to(torch.float32)


def smooth(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Smooth the last two axes.

    Args:
        values: (..., H, W).
        rows, columns: (..., H, H) and (..., W, W) of `gaussian_matrix`, broadcast against each other's leading axes.

    Returns:
        The smoothed values, of the broadcast shape.
    """
    return rows @ values @ columns.mT

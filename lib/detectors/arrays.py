"""Features as the detectors take them: one row an input, dense or sparse, and distances between rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

LARGEST_DENSE = 2**31  # bytes that a dense copy of sparse features may take


def rows(features: Any, name: str = "features") -> Any:
    """Features as a matrix with one row an input.

    Args:
        features: numpy array, torch tensor (on any device) or scipy sparse matrix, (N, ...); what follows the first
            axis is flattened.
        name: what the error calls them.
    Returns: sparse features as they are, as a sparse array of two axes; others as numpy (N, F).
    Raises: ValueError where there is no row, or a value is not finite.
    """
    if sparse.issparse(features):
        found, values = features, features.data
        if found.format not in ("csr", "csc"):
            found = found.tocsr()
    else:
        if hasattr(features, "detach"):
            features = features.detach().cpu().numpy()
        found = np.asarray(features)
        if found.ndim == 0:
            raise ValueError(f"{name}: one row an input is wanted, not a single value")
        found = found.reshape(len(found), -1) if len(found) else found.reshape(0, 0)
        values = found
    if found.shape[0] == 0:
        raise ValueError(f"{name}: there is no row")
    if not np.issubdtype(values.dtype, np.integer) and not np.isfinite(values).all():
        raise ValueError(f"{name}: a value is NaN or infinite")
    return found


def dense(features: Any, name: str = "features") -> np.ndarray:
    """Features as a dense float64 matrix (N, F).

    Raises: ValueError as in `rows`, and where sparse features would take more than 2 GiB dense.
    """
    found = rows(features, name)
    if not sparse.issparse(found):
        return found.astype(np.float64)
    if found.shape[0] * found.shape[1] * 8 > LARGEST_DENSE:
        raise ValueError(f"{name}: {found.shape} is too large to be made dense: reduce the features first")
    return found.toarray().astype(np.float64)


def same_width(found: Any, width: int, name: str = "features") -> None:
    """Raises: ValueError where features have another width than those that a detector was fitted on."""
    if found.shape[1] != width:
        raise ValueError(f"{name} have {found.shape[1]} columns, the detector was fitted on {width}")


def classes_of(labels: Any, count: int, name: str = "labels") -> np.ndarray:
    """Labels as int64 (count,). Raises: ValueError for another number of them, or values that are not whole."""
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().numpy()
    found = np.asarray(labels)
    if found.shape != (count,):
        raise ValueError(f"{name} have shape {found.shape}: one for each of {count} inputs is wanted")
    if not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"{name} are {found.dtype}: whole numbers are wanted")
    return found.astype(np.int64)


def squared_distances(left: Any, right: Any) -> np.ndarray:
    """Squared Euclidean distance of every row of one matrix to every row of another, float64 (N, M), from 0.

    Args:
        left, right: from `rows`, (N, F) and (M, F), each dense or sparse.
    """
    if not sparse.issparse(left) and not sparse.issparse(right):
        # Around their mean, the rows are as small as can be, and so is what the expanded square rounds off.
        middle = right.mean(axis=0, dtype=np.float64)
        left, right = left - middle, right - middle
    else:
        left, right = (part.astype(np.float64) for part in (left, right))
    products = left @ right.T
    products = products.toarray() if sparse.issparse(products) else np.asarray(products)
    return np.maximum(_squares(left)[:, None] - 2 * products + _squares(right)[None, :], 0.0)


def _squares(matrix: Any) -> np.ndarray:
    if sparse.issparse(matrix):
        return np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel()
    return np.einsum("ij,ij->i", matrix, matrix)

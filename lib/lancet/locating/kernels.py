"""What is compiled: a layer's outputs as more and more of its weights are removed."""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def remove(
    pairs: np.ndarray,
    bounds: np.ndarray,
    order: np.ndarray,
    weight: np.ndarray,
    read: np.ndarray,
    current: np.ndarray,
    per_group: int,
    changed: np.ndarray,
) -> None:
    """Fill `changed`: each step is the one before it less what the weights that it removes contribute.

    Args:
        pairs: int64 (P,): rows of the other arrays.
        bounds: int64 (P, S + 1): step s removes the weights order[pair, bounds[s]:bounds[s + 1]].
        order: int64 (K, N): flat indices of weights.
        weight: float32 (N,), of O outputs with J inputs each.
        read: float32 (K, G, J, L): what they are multiplied with.
        current: float32 (K, O, L): outputs before the first step.
        per_group: outputs of a group, O / G.
        changed: float32 (P, S, O, L).
    """
    fan_in, places = read.shape[2], read.shape[3]
    for row in range(len(pairs)):
        pair = pairs[row]
        for step in range(bounds.shape[1] - 1):
            now = changed[row, step]
            now[:] = current[pair] if step == 0 else changed[row, step - 1]
            for place in range(bounds[row, step], bounds[row, step + 1]):
                index = order[pair, place]
                out = index // fan_in
                value = weight[index]
                source = read[pair, out // per_group, index % fan_in]
                target = now[out]
                for k in range(places):
                    target[k] -= value * source[k]

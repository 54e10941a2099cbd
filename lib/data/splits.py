"""Fixed, seeded, class-stratified parts of a labelled set, as indices.

`numpy.random.RandomState` is used because its streams are frozen: a split is the same in every later version.
"""

import numpy as np

SEED = 0
VALIDATION_SHARE = 0.1


def partition(
    labels: np.ndarray, share: float, groups: np.ndarray | None = None, seed: int = SEED
) -> tuple[np.ndarray, np.ndarray]:
    """Part a set in two, class by class, without ever cutting a group in two.

    Args:
        labels: integer (N,).
        share: part of each class's groups that the second part gets, above 0 and below 1; rounded to whole groups,
            at least one wherever a class has two.
        groups: integer (N,): images of one group stay together (frames of one traffic sign). None: each alone.
        seed: of the permutation of each class's groups.
    Returns: ascending int64 indices of the first and of the second part.
    Raises: ValueError for a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}: above 0 and below 1")
    groups = np.arange(len(labels)) if groups is None else groups
    random = np.random.RandomState(seed)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    second = np.zeros(len(labels), bool)
    for members in np.split(order, starts):
        units = np.unique(groups[members])
        wanted = min(max(1, int(share * len(units) + 0.5)), len(units) - 1)
        chosen = random.permutation(units)[:wanted]
        second[members] = np.isin(groups[members], chosen)
    return np.flatnonzero(~second), np.flatnonzero(second)


def stratified(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """`n` indices with as many of each class as of any other, as near as the set allows.

    The classes take turns, so every prefix is balanced too, and a smaller `n` gives a prefix of a larger one's.

    Args:
        labels: integer (N,), from 0.
        n: how many, 0 <= n <= N.
        seed: which images, and which classes get one more where `n` is not a multiple of the classes.
    Returns: int64 indices (n,).
    Raises: ValueError where the set has fewer than `n` images.
    """
    if not 0 <= n <= len(labels):
        raise ValueError(f"{n} images wanted of {len(labels)}")
    random = np.random.RandomState(seed)
    shuffled = random.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    turn = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = random.permutation(len(counts))[labels[by_class]]
    return by_class[np.lexsort((place, turn))][:n]

"""What is decided in float32 is what the rule says in float64: same kept terms, or no answer."""

import numpy as np
import pytest

from lib.slicing import float32
from lib.slicing.select import exact_threshold
from lib.slicing.vectors import LANES, sort_16, sort_32, sort_64, split

LENGTHS = [2, 3, 11, 16, 17, 27, 33, 64, 65, 100, 144, 577, 1500, 4608]
NONE = np.zeros((0, 1, 1), np.int32)


def factors(kind, m, draw):
    """Weights and inputs whose products are easy, tied, far apart, or nearer to each other than float32 can tell."""
    w, x = draw.normal(size=m), draw.normal(size=m) + 0.05
    if kind == "tied":
        return draw.integers(-3, 5, m).astype(float), np.ones(m)
    if kind == "far apart":
        return w * 10.0 ** draw.integers(-200, 3, m), x * 10.0 ** draw.integers(-40, 8, m)
    if kind == "near":
        return np.repeat(w, 2)[:m] * (1 + draw.normal(size=m) * 10.0 ** draw.integers(-12, -5)), np.resize([1, -1.0], m)
    if kind == "a few near":
        twins = draw.permutation(m)[: 2 * max(1, m // 30)].reshape(-1, 2)
        for one, other in twins:
            w[other], x[other] = -w[one] * (1 + draw.normal() * 10.0 ** draw.integers(-9, -5)), x[one]
    if kind == "opposed":  # the sum is near to none, or to the smallest
        return w, np.where(np.arange(m) < m // 2, x, -np.resize(x[: m // 2] * w[: m // 2], m) / w)
    return w, x


def kept(w, x, void, theta, bar):
    """Signs of the kept terms in float32, or None where it is undecided."""
    m = len(w)
    patch, keys, apart = float32.scratch(m)
    weights = np.zeros((1, len(patch)), np.float32)
    with np.errstate(under="ignore"):
        weights[0, :m], patch[:m] = w, x
    float32.voids(keys, apart)[:m] = np.where(void, float32.VOID, 0)
    total, size = float32.products(weights, 0, patch, keys)
    limit = float32.limit(m, int((~void).sum()), total, size, theta, bar, keys, apart)
    found = np.zeros(m, np.int32)
    if limit == float32.UNDECIDED or float32.add(keys, m, limit, np.int32(1), NONE, 0, 0, found):
        return None
    return found


@pytest.mark.parametrize("kind", ["normal", "tied", "far apart", "near", "a few near", "opposed"])
@pytest.mark.parametrize("m", LENGTHS)
def test_what_is_decided_is_the_rule_as_written(kind, m):
    draw = np.random.default_rng(m)
    decided = trials = 0
    for trial in range(60):
        w, x = factors(kind, m, draw)
        void = draw.random(m) < 0.3 * (trial % 2)
        void[0] = False
        x[void] = 0.0
        terms = w * x
        for theta, bar in ((0.2, 0.01), (0.01, 0.3), (0.7, 0.3)):
            trials += 1
            found = kept(w, x, void, theta, bar)
            if found is None:
                continue
            decided += 1
            limit = exact_threshold(terms[~void], int((~void).sum()), theta, bar)
            np.testing.assert_array_equal(found, (terms > limit).astype(int) - (terms < -limit))
    if kind == "normal" and m > 3:
        assert decided > 0.8 * trials
    if kind == "a few near" and m > 33:
        assert 0.2 * trials < decided < trials


def test_doubt_takes_back_what_was_added():
    """Adding with the other mark undoes it, synapses too."""
    draw = np.random.default_rng(0)
    patch, keys, _ = float32.scratch(27)
    patch[:27] = draw.normal(size=27)
    float32.products(draw.normal(size=(1, len(patch))).astype(np.float32), 0, patch, keys)
    synapses, gathered = np.zeros((1, 1, 27), np.int32), np.zeros(27, np.int32)
    float32.add(keys, 27, 0.1, np.int32(-1), synapses, 0, 0, gathered)
    assert gathered.any() and (synapses[0, 0] == gathered).all()
    float32.add(keys, 27, 0.1, np.int32(1), synapses, 0, 0, gathered)
    assert not gathered.any() and not synapses.any()


@pytest.mark.parametrize("sort, size", [(sort_16, 16), (sort_32, 32), (sort_64, 64)])
def test_networks_sort(sort, size):
    from numba import njit

    @njit
    def sorted_by_it(keys):
        sort(keys, 3, 100)

    draw = np.random.default_rng(size)
    for most in (2, 40, 2**32):
        keys = draw.integers(0, most, 200).astype(np.uint32)
        before = keys.copy()
        sorted_by_it(keys)
        np.testing.assert_array_equal(keys[100 : 100 + size], np.sort(before[3 : 3 + size])[::-1])
        np.testing.assert_array_equal(
            np.delete(keys, np.s_[100 : 100 + size]), np.delete(before, np.s_[100 : 100 + size])
        )


@pytest.mark.parametrize("cut", [0, 5, 2**31, 2**32 - 1])
def test_a_split_packs_both_sides_in_order(cut):
    from numba import njit

    @njit
    def parted(keys, cut):
        return split(keys, 1, 100, 130, cut)

    keys = np.random.default_rng(cut).integers(0, 2**32, 200).astype(np.uint32)
    part = keys[1 : 1 + LANES].copy()
    above = parted(keys, np.uint32(cut))
    np.testing.assert_array_equal(keys[130 : 130 + above], part[part >= cut])
    np.testing.assert_array_equal(keys[100 : 100 + LANES - above], part[part < cut])

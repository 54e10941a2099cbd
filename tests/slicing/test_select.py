"""The compiled rules against themselves as they are written: same kept terms, whatever the terms."""

import numpy as np
import pytest

from lib.slicing.select import (
    CROWD,
    VOID,
    exact_share,
    exact_threshold,
    scratch,
    smallest_share,
    threshold,
    threshold_of_two,
)

LENGTHS = [1, 2, 3, 11, 16, 17, 27, 100, 144, 577, 1500]


def terms(kind, m, draw):
    """Terms whose sums and magnitudes are easy, tied, far apart, or crowded into one bucket."""
    if kind == "normal":
        return draw.normal(size=m) * draw.normal(size=m) + 0.05
    if kind == "tied":
        return draw.integers(-3, 5, m).astype(float)
    if kind == "far apart":
        return draw.normal(size=m) * 10.0 ** draw.integers(-12, 3, m)
    if kind == "crowded":
        return np.where(draw.random(m) < 0.55, 1.0, -1.0) * (1 + 1e-3 * draw.random(m))
    return np.full(m, 0.25)


@pytest.mark.parametrize("kind", ["normal", "tied", "far apart", "crowded", "equal"])
@pytest.mark.parametrize("m", LENGTHS)
def test_limits_are_those_of_the_rule_as_written(kind, m):
    draw = np.random.default_rng(m)
    room = scratch(m)
    for trial in range(20):
        v = terms(kind, m, draw)
        void = np.where(draw.random(m) < 0.3 * (trial % 2), VOID, 0)
        void[0] = 0
        v[void != 0] = 0.0
        real = v[void == 0]
        for theta, bar in ((0.2, 0.01), (0.0, 0.0), (0.7, 0.3)):
            assert threshold(v, m, void, theta, bar, *room) == exact_threshold(real, len(real), theta, bar)
        none = np.zeros(len(real), np.int64)
        for share in (0.5, 1.0):
            limit, ties = smallest_share(real, len(real), none, share, *room)
            if real.any():
                assert (limit, ties) == exact_share(real, len(real), share)
            else:
                assert (limit, ties) == (np.inf, 0)


def test_a_crowded_bucket_is_met():
    """So that the case above is one: more terms in a bucket than are sorted by insertion."""
    v = np.abs(terms("crowded", 1500, np.random.default_rng(0)))
    assert np.ptp(v.view(np.int64) >> 48) == 0 and len(v) > CROWD


@pytest.mark.parametrize("theta", [0.0, 0.2, 0.49])
def test_two_terms(theta):
    draw = np.random.default_rng(0)
    pairs = [*draw.normal(size=(200, 2)), (1.0, 1.0), (1.0, -1.0), (-2.0, 2.0), (0.0, 0.0), (0.0, 3.0), (1.0, -0.9995)]
    for a, b in pairs:
        assert threshold_of_two(a, b, theta, 0.01) == exact_threshold(np.array([a, b]), 2, theta, 0.01)

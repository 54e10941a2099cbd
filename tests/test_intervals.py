"""Intervals of a mean: inside what a quantity can be, holding the mean, and covering as often as they say."""

import math

import numpy as np
import pytest
from scipy.special import stdtrit

from lib import intervals, units

SHARE = "fraction of test images"


def test_a_share_is_intervalled_on_the_logit_scale():
    values = [0.90, 0.94, 0.98]
    mean, error = 0.94, np.std(values, ddof=1) / math.sqrt(3)
    step = stdtrit(2, 0.975) * error / (mean * (1 - mean))
    ends = [1 / (1 + math.exp(-(math.log(mean / (1 - mean)) + sign * step))) for sign in (-1, 1)]
    assert intervals.of_mean(values, (0, 1)) == pytest.approx(ends)
    assert intervals.student(values)[1] > 1 > ends[1], "the plain interval leaves [0, 1] here"


def test_on_signed_quantities_it_is_fishers_z():
    values = [0.8, 0.9, 0.97]
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(3)
    step = stdtrit(2, 0.975) * error / (1 - mean**2)
    assert intervals.of_mean(values, (-1, 1)) == pytest.approx(
        [math.tanh(math.atanh(mean) + s * step) for s in (-1, 1)]
    )
    near = intervals.of_mean([-0.01, 0.0, 0.012], (-1, 1))
    assert near == pytest.approx(intervals.student([-0.01, 0.0, 0.012]), abs=1e-4), "near 0 it is the plain one"


def test_one_finite_end_cuts_and_none_leaves_the_plain_interval():
    values = [0.1, 0.2, 1.5]
    low, high = intervals.student(values)
    assert low < 0 and intervals.of_mean(values, (0, math.inf)) == [0, high]
    assert intervals.of_mean(values) == [low, high]


@pytest.mark.parametrize("support", [(0, 1), (-1, 1), (0, math.inf), (-math.inf, math.inf)], ids=str)
def test_every_interval_holds_the_mean_and_stays_inside(support):
    generator = np.random.default_rng(0)
    low, high = max(support[0], -5), min(support[1], 5)
    for _ in range(200):
        values = np.clip(generator.normal(generator.uniform(low, high), 0.3 * (high - low), 3), low, high).tolist()
        ends = intervals.of_mean(values, support)
        assert support[0] <= ends[0] <= np.mean(values) <= ends[1] <= support[1]


def test_equal_values_are_a_point_and_outside_is_refused():
    assert intervals.of_mean([1.0, 1.0, 1.0], (0, 1)) == [1, 1] and intervals.of_mean([0.3], (0, 1)) is None
    assert intervals.of_mean([1.0 + 1e-12, 1.0], (0, 1)) == pytest.approx([1, 1]), "rounding is no offence"
    with pytest.raises(ValueError, match="0 to 1"):
        intervals.of_mean([0.5, 1.1], (0, 1))


def test_seeds_that_agree_have_an_interval_over_what_n_counts():
    assert units.interval([1.0, 1.0, 1.0], SHARE, 200) == intervals.wilson(1.0, 200)
    assert units.interval([0.5, 0.5], "area under the ROC curve", 100) == intervals.wilson(0.5, 100)
    assert units.interval([0.5, 0.5], "fraction of weights", 100) == [0.5, 0.5], "n is no sample of weights"
    assert units.interval([1.0, 0.99], SHARE, 200)[0] < 0.99


def shares(generator, networks, images, mean, spread, beta, runs):
    """Shares seen on images by networks that differ: of a beta distribution, or normal and cut at 0 and 1."""
    if not spread:
        truth = np.full((runs, networks), mean)
    elif beta:
        weight = mean * (1 - mean) / spread**2 - 1
        truth = generator.beta(mean * weight, (1 - mean) * weight, (runs, networks))
    else:
        truth = np.clip(generator.normal(mean, spread, (runs, networks)), 0, 1)
    return generator.binomial(images, truth) / images


@pytest.mark.parametrize("networks", [3, 5, 10])
@pytest.mark.parametrize("beta", [True, False], ids=["beta", "normal"])
def test_coverage(networks, beta):
    """At least 93 % of the intervals hold the true mean, from .02 to .98, as long as networks do not differ wildly."""
    generator, runs = np.random.default_rng(networks), 400
    for images in (100, 2000):
        for mean in (0.02, 0.1, 0.5, 0.9, 0.98):
            for spread in (0.0, 0.25 * mean * (1 - mean)):
                seen = shares(generator, networks, images, mean, spread, beta, runs)
                ends = [units.interval(values.tolist(), SHARE, images) for values in seen]
                held = np.mean([low <= mean <= high for low, high in ends])
                assert held >= 0.95 - 3.1 * math.sqrt(0.95 * 0.05 / runs) - 0.01, (images, mean, spread, held)


@pytest.mark.parametrize("mean", [0.002, 0.998])
def test_coverage_at_the_edge_is_not_below_students(mean):
    generator, runs = np.random.default_rng(1), 400
    for networks in (3, 5, 10):
        seen = shares(generator, networks, 500, mean, 0.0, True, runs)
        own = np.mean([low <= mean <= high for low, high in (units.interval(v.tolist(), SHARE, 500) for v in seen)])
        plain = np.mean([low <= mean <= high for low, high in (intervals.student(v.tolist()) for v in seen)])
        assert own >= max(0.9, plain - 0.03), (networks, own, plain)


def test_a_number_says_what_its_n_counts():
    def number(name, unit, n):
        return {"name": name, "unit": unit, "n": n}

    assert units.sample(number("accuracy", SHARE, 2000)) == "2,000 test images"
    assert units.sample(number("flops", "FLOPs an image (2 x MAC)", 1)) == "1 network"
    assert units.sample(number("most_zeros", "fraction of searches", 1)) == "1 search"
    assert units.sample(number("norm", "fraction of the squared norm", 1)) == "1 subset of classes"
    assert units.sample(number("classes_flagged", "fraction of classes", 1)) == "1 class"
    assert units.sample(number("correlation", "Pearson's r over the layers", 13)) == "13 layers"
    changed, chosen = (number(name, "fraction of the layer's weights", 60) for name in ("changed", "chosen_fraction"))
    assert (units.counted(changed), units.counted(chosen)) == ("test images", "pairs")
    assert units.counted(number("loss", "nats", 5)) == "samples", "a unit that is not known promises nothing"


def test_a_measure_is_not_said_twice():
    assert units.measure({"name": "parameters", "unit": "parameters"}) == "parameters"
    assert units.measure({"name": "attack_success", "unit": SHARE}) == f"attack success ({SHARE})"

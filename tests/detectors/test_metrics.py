"""Rates, areas and thresholds against closed forms."""

import math

import numpy as np
import pytest

from lib import detectors


def test_rates_by_hand():
    flags = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0], bool)
    adversarial = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    found = detectors.rates(flags, adversarial)
    assert found == pytest.approx({"precision": 3 / 4, "recall": 3 / 4, "f1": 3 / 4, "fpr": 1 / 6})


def test_with_equal_counts_precision_follows_from_recall_and_false_positives():
    random = np.random.default_rng(0)
    adversarial = np.repeat([True, False], 500)
    found = detectors.rates(random.random(1000) < np.where(adversarial, 0.6, 0.2), adversarial)
    assert found["precision"] == pytest.approx(found["recall"] / (found["recall"] + found["fpr"]))


@pytest.mark.parametrize(
    ("flags", "adversarial", "nan"),
    [([0, 0], [1, 0], {"precision"}), ([1, 0], [0, 0], {"recall"}), ([1, 0], [1, 1], {"fpr"})],
)
def test_a_rate_without_a_denominator_is_nan(flags, adversarial, nan):
    found = detectors.rates(np.array(flags, bool), np.array(adversarial, bool))
    assert {name for name, value in found.items() if math.isnan(value)} == nan


def test_auroc_counts_pairs_and_ties_half():
    scores, adversarial = [3, 2, 2, 1, 0], [True, True, False, False, False]
    pairs = [1.0, 1.0, 1.0, 0.5, 1.0, 1.0]
    assert detectors.auroc(scores, adversarial) == pytest.approx(np.mean(pairs))


def test_the_interval_holds_the_true_area_as_often_as_it_says():
    """Normal scores one apart: the area is Phi(1 / sqrt 2) = 0.7602."""
    random = np.random.default_rng(0)
    adversarial = np.repeat([True, False], 60)
    held = 0
    for _ in range(400):
        low, high = detectors.auroc_interval(random.normal(size=120) + adversarial, adversarial)
        held += low <= 0.76025 <= high
    assert 0.91 <= held / 400 <= 0.985


def test_the_threshold_flags_at_most_the_share_asked_for():
    scores = np.arange(100.0)
    for share in (0.0, 0.05, 0.051, 0.5):
        threshold = detectors.threshold_at(np.random.default_rng(0).permutation(scores), share)
        assert (scores > threshold).mean() == pytest.approx(math.floor(share * 100) / 100)
    assert (np.ones(10) > detectors.threshold_at(np.ones(10), 0.3)).mean() == 0, "ties are not flagged"


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: detectors.rates([True], [True, False]), "one each for every input"),
        (lambda: detectors.rates([], []), "one each for every input"),
        (lambda: detectors.rates([True, False], [2, 0]), "true or false"),
        (lambda: detectors.auroc([1.0, 2.0], [True, True]), "both wanted"),
        (lambda: detectors.auroc_interval([1.0, 2.0, 3.0], [True, True, False]), "two inputs of each kind"),
        (lambda: detectors.threshold_at([], 0.1), "at least one"),
        (lambda: detectors.threshold_at([1.0], 1.0), "fpr is 1"),
    ],
)
def test_what_cannot_be_measured_is_said(use, message):
    with pytest.raises(ValueError, match=message):
        use()

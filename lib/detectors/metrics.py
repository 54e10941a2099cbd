"""How well a detector does: rates of its flags, area under the ROC curve of its scores, thresholds from clean ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score


def rates(flags: Any, adversarial: Any) -> dict[str, float]:
    """Precision, recall, F1 and false-positive rate of a detector's flags.

    Args:
        flags: bool (N,), whether each input is flagged.
        adversarial: bool (N,), whether it is adversarial.
    Returns: {precision, recall, f1, fpr}; NaN where a rate has no denominator (precision where nothing is
        flagged, recall without adversarials, fpr without clean inputs).
    Raises: ValueError where the two differ in length, or are empty.
    """
    flagged, truth = _same(flags, adversarial, "flags")
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth.astype(bool), flagged.astype(bool), average="binary", pos_label=True, zero_division=np.nan
    )
    clean = ~truth.astype(bool)
    fpr = float(flagged[clean].astype(bool).mean()) if clean.any() else float("nan")
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1), "fpr": fpr}


def auroc(scores: Any, adversarial: Any) -> float:
    """Area under the ROC curve: how often an adversarial scores above a clean input, ties counted half.

    Args:
        scores: float (N,), the higher the more suspicious.
        adversarial: bool (N,).
    Raises: ValueError where one of the two kinds is missing, or a score is NaN.
    """
    found, truth = _same(scores, adversarial, "scores")
    _both(truth)
    return float(roc_auc_score(truth.astype(bool), found.astype(float)))


def auroc_interval(scores: Any, adversarial: Any, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the area under the ROC curve over the inputs, as (low, high), cut to [0, 1].

    Args:
        scores, adversarial: as in `auroc`, at least two inputs of each kind.
        confidence: of the interval.
    Source: DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver
        operating characteristic curves", https://doi.org/10.2307/2531595.
    """
    found, truth = _same(scores, adversarial, "scores")
    _both(truth)
    truth = truth.astype(bool)
    positive, negative = found[truth].astype(float), found[~truth].astype(float)
    if min(len(positive), len(negative)) < 2:
        raise ValueError("an interval needs two inputs of each kind")
    ranks = rankdata(np.concatenate([positive, negative]))
    above = (ranks[: len(positive)] - rankdata(positive)) / len(negative)
    below = 1 - (ranks[len(positive) :] - rankdata(negative)) / len(positive)
    error = np.sqrt(above.var(ddof=1) / len(positive) + below.var(ddof=1) / len(negative))
    half = float(ndtri((1 + confidence) / 2) * error)
    middle = float(above.mean())
    return max(0.0, middle - half), min(1.0, middle + half)


def threshold_at(clean_scores: Any, fpr: float) -> float:
    """The threshold above which at most a share `fpr` of clean scores lies: flag where score > threshold.

    Args:
        clean_scores: (N,), of clean inputs that are not those on which the detector is then reported.
        fpr: share in [0, 1).
    """
    found = np.sort(np.asarray(clean_scores, dtype=float))
    if not len(found) or not np.isfinite(found).all():
        raise ValueError("clean_scores: finite scores are wanted, at least one")
    if not 0 <= fpr < 1:
        raise ValueError(f"fpr is {fpr}: from 0 to below 1")
    return float(found[len(found) - 1 - int(np.floor(fpr * len(found) + 1e-9))])


def _same(values: Any, adversarial: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    found, truth = np.asarray(values), np.asarray(adversarial)
    if found.shape != truth.shape or found.ndim != 1 or not len(found):
        raise ValueError(f"{name} {found.shape} and adversarial {truth.shape}: one each for every input")
    if truth.dtype != bool and not np.isin(truth, (0, 1)).all():
        raise ValueError("adversarial: true or false for every input")
    return found, truth


def _both(truth: np.ndarray) -> None:
    if truth.astype(bool).all() or not truth.astype(bool).any():
        raise ValueError("clean and adversarial inputs are both wanted")

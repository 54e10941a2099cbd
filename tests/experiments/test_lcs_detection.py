"""Detectors on decisions: halves that do not touch, noise of the right size, slices, the attack that knows, means."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from experiments.lcs_runs import ATTACKED, NAME, use
from lib import plots, slicing
from lib.experiments import lcs_detection
from lib.experiments.lcs_detection import ANEW, AVERAGE, OTHER, SAME, SLICES
from lib.experiments.lcs_detectors import (
    CLEAN,
    DECISIONS,
    NOISE,
    ON_CLEAN,
    PAIRS,
    UNTRAINED,
    Bench,
    area,
    noise_like,
)

SMALL: dict[str, Any] = {
    "networks": [NAME],
    "attacks": ["fgsm_8", "rpgd_8"],
    "fit_images": 120,
    "trees": 10,
    "slices_per_class": 4,
    "slices_images": 120,
    "adaptive_images": 28,
    "adaptive_epsilon": 60,
    "adaptive_steps": 3,
    "adaptive_weights": [0, 1],
    "adaptive_attack": "fgsm_8",
}


def features(telling):
    """In place of slices: 1 for adversarials and 0 for all else, or 0 for everything."""

    def made(model, train, images, per_class):
        return {
            kind: np.full((len(part), 1), float(telling and kind in SMALL["attacks"])) for kind, part in images.items()
        }

    return made


@pytest.fixture(scope="module")
def results():
    with pytest.MonkeyPatch.context() as patch:
        use(patch)
        patch.setattr(slicing, "slice_features", features(telling=True))
        yield lcs_detection.DETECTION.of(lcs_detection.Settings.of("smoke", **SMALL))


@pytest.fixture
def run(monkeypatch):
    use(monkeypatch)
    return lcs_detection.DetectionRun(lcs_detection.Settings.of("smoke", **SMALL), 0)


def test_detectors_are_fitted_on_one_half_and_reported_on_the_other(run):
    bench = run.bench(NAME)
    assert not set(bench.halves["fit"]) & set(bench.halves["test"])
    assert set(bench.halves["fit"]) | set(bench.halves["test"]) == set(range(ATTACKED))
    table = run.detected(NAME)
    assert set(table["pair"]) == set(PAIRS)
    assert table["auroc"].between(0, 1).all() and (table["low"] <= table["auroc"]).all()
    row = table[(table["attack"] == "fgsm_8") & (table["pair"] == PAIRS[0])].iloc[0]
    assert row["n"] == bench.part("fgsm_8", "test").sum() and row["n_other"] == len(bench.halves["test"])
    noise = bench.seen[NOISE + "fgsm_8"]
    answers = bench.seen[CLEAN].predicted[torch.from_numpy(bench.index[NOISE + "fgsm_8"])]
    assert torch.equal(noise.predicted, answers)


def test_features_that_tell_everything_detect_everything_and_those_that_tell_nothing_nothing(run, monkeypatch):
    for telling, wanted in ((True, 1.0), (False, 0.5)):
        monkeypatch.setattr(slicing, "slice_features", features(telling))
        table = run.sliced(NAME)
        assert set(table["detector"]) == {SLICES} and table["n_other"].max() <= 120  # of the first images only
        assert table[table["pair"] == PAIRS[0]]["auroc"].to_numpy() == pytest.approx(wanted)
        assert table[table["pair"] == PAIRS[1]]["auroc"].to_numpy() == pytest.approx(0.5)


def test_the_adaptive_attack_has_every_aim_gradient_weight_and_detector(run):
    table = run.adaptive(NAME)
    assert set(table["aim"]) == set(lcs_detection.AIMS) and set(table["weight"]) == {0.0, 1.0}
    assert {DECISIONS, ANEW, "max-softmax"} <= set(table["detector"])
    unaware = table[table["weight"] == 0].groupby(["gradient", "detector"])["auroc"].nunique()
    assert (unaware == 1).all()  # without a weight the aim plays no part
    means = table.drop_duplicates(["aim", "gradient", "weight"]).set_index(["aim", "gradient", "weight"])["distance"]
    assert means["own", "held", 1.0] < means["own", "held", 0.0]


def test_numbers_within_across_and_averaged(results):
    rows = results.values("auroc", pair=PAIRS[0], detector=DECISIONS).dropna(subset=["trained_on"])
    value = rows.set_index(["trained_on", "attack"])["value"]
    for attack, other in (("fgsm_8", "rpgd_8"), ("rpgd_8", "fgsm_8")):
        assert value[SAME, attack] == value[attack, attack] and value[OTHER, attack] == value[other, attack]
    assert value[SAME, AVERAGE] == pytest.approx((value[SAME, "fgsm_8"] + value[SAME, "rpgd_8"]) / 2)
    low = results.value("auroc_low", pair=PAIRS[0], detector=DECISIONS, attack="fgsm_8", trained_on=SAME)
    assert low <= value[SAME, "fgsm_8"]
    best = results.values("auroc", pair=PAIRS[0], detector=SLICES)
    assert (best["value"] == 1).all()


def test_the_table_and_the_figure_are_of_the_record(results):
    known = {round(number["value"], 9) for number in results.numbers}
    cells = [cell for cell in results.table.to_numpy().ravel() if isinstance(cell, float) and cell == cell]
    assert cells and {round(cell, 9) for cell in cells} <= known
    assert {"max-softmax", "LID", DECISIONS, UNTRAINED, SLICES} <= set(results.table["detector"])
    assert set(results.table["trained on"]) == {ON_CLEAN, SAME, OTHER}
    assert plots.render(results.figure, "png")


def test_an_area_counts_pairs():
    found = area(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
    assert found["auroc"] == pytest.approx((1 + 1 + 1 + 0.5) / 4) and (found["n"], found["n_other"]) == (2, 2)


def test_noise_is_as_large_as_the_perturbation_and_stays_an_image():
    clean = random((5, 3, 8, 8), 2) * (random((5, 3, 8, 8), 3) > 0.4)  # many black pixels
    sizes = torch.tensor([0.05, 0.1, 0.2, 0.01, 0.0])
    adversarial = (clean + sizes[:, None, None, None] * (2 * random(clean.shape, 4) - 1).sign()).clamp(0, 1)
    noisy = noise_like(clean, adversarial, seed=1)
    assert noisy.min() >= 0 and noisy.max() <= 1
    wanted, found = ((x - clean).flatten(1).norm(dim=1) for x in (adversarial, noisy))
    assert found.tolist() == pytest.approx(wanted.tolist(), rel=0.02, abs=1e-6)
    alike = ((noisy - clean).flatten() * (adversarial - clean).flatten()).sum() / (found.norm() * wanted.norm())
    assert abs(alike) < 0.4
    assert torch.equal(noisy, noise_like(clean, adversarial, seed=1))


def random(shape, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_a_class_that_only_half_of_the_clean_images_have_is_no_matter():
    """Detectors on few clean images: such a class chooses no bandwidth, and has a density all the same."""
    labels = np.array([0, 1, 1, 0, 0, 1, 1, 0, 0, 8])
    features = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(0))
    seen = SimpleNamespace(penultimate=features, predicted=torch.from_numpy(labels), logits=features)
    bench = Bench.__new__(Bench)
    bench.__dict__["train"] = seen, labels
    for scorer in bench.on_clean().values():
        assert np.isfinite(scorer(seen)).all()

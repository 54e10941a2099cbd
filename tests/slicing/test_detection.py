"""The detection study's own pieces on slices and networks whose answers are known."""

import math

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

from lib import detectors
from lib.slicing import adaptive, detection
from lib.slicing.detection import ClassMeans, Inputs

CLASSES, WIDTH = 3, 30


def slices(labels, seed=0, noise=0.1):
    """Contributions (N, WIDTH) in {-1, 0, 1}: the ten of its class, of alternating sign, and a few elsewhere."""
    random = np.random.default_rng(seed)
    found = (random.random((len(labels), WIDTH)) < noise) * random.choice([-1, 1], (len(labels), WIDTH))
    for row, label in zip(found, labels, strict=True):
        row[10 * label : 10 * label + 10] = [1, -1] * 5
    return sparse.csr_array(found.astype(np.int8))


@pytest.fixture
def rule():
    labels = np.arange(90) % CLASSES
    return detectors.TreeRule().fit(slices(labels, noise=0).tocsc(), labels)


# --- the stated rule


def test_slices_of_the_true_class_under_a_wrong_answer_are_all_flagged(rule):
    truth = np.arange(30) % CLASSES
    clean, attacked = slices(truth, noise=0), slices(truth, noise=0)
    found = detection.rule_rates(rule, clean, truth, attacked, (truth + 1) % CLASSES)
    assert found == {"precision": 1, "recall": 1, "f1": 1, "fpr": 0, "auroc": 1, "n": 30}


def test_slices_that_follow_the_answer_are_not_told_apart(rule):
    truth = np.arange(30) % CLASSES
    answers = (truth + 1) % CLASSES
    found = detection.rule_rates(rule, slices(truth, noise=0), truth, slices(answers, noise=0), answers)
    assert found["recall"] == 0 and math.isnan(found["precision"]) and found["auroc"] == 0.5


def test_counts_must_be_equal(rule):
    with pytest.raises(ValueError, match="equal counts"):
        detection.rule_rates(rule, slices([0, 1]), [0, 1], slices([0]), [1])


def test_the_arithmetic_of_the_stated_numbers():
    assert detection.stated_arithmetic(0.0) == {"recall": 1, "precision": 1, "f1": 1}
    assert detection.stated_arithmetic(0.195)["precision"] == pytest.approx(0.8368, abs=1e-4)
    flags = np.concatenate([np.ones(200), np.arange(200) < 40]).astype(bool)
    measured = detectors.rates(flags, np.repeat([True, False], 200))
    found = detection.stated_arithmetic(0.2)
    assert {name: measured[name] for name in found} == pytest.approx(found)
    with pytest.raises(ValueError, match="share"):
        detection.stated_arithmetic(1.2)


# --- similarity and activity


def means_of(labels, found):
    means = ClassMeans(CLASSES)
    means.add({"a": found}, labels)
    return means


def test_a_slice_is_as_similar_to_its_class_as_its_angle_says():
    labels = np.arange(CLASSES)
    means = means_of(labels, slices(labels, noise=0))
    own, turned = slices([0], noise=0), -slices([0], noise=0)
    half = own.toarray()
    half[0, 10:20] = slices([1], noise=0).toarray()[0, 10:20]
    empty = sparse.csr_array((1, WIDTH), dtype=np.int8)
    rows = sparse.vstack([own, turned, sparse.csr_array(half), empty])
    neurons = np.array([[1, 0, 0, 0], [1, -1, 0, 0], [2, 2, 2, 2], [0, 0, 0, 0]])
    found = detection.describe({"a": rows}, {"a": neurons}, [0, 0, 0, 0], means)
    np.testing.assert_allclose(found["similarity:a"], [1, -1, math.sqrt(0.5), 0], atol=1e-12)
    np.testing.assert_allclose(found["overlap:a"], [1, 1, math.sqrt(0.5), 0], atol=1e-12)
    np.testing.assert_allclose(found["margin:a"], [1, -1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found["synapses:a"], [10 / 30, 10 / 30, 20 / 30, 0])
    np.testing.assert_allclose(found["positive:a"], [0.5, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(found["neurons:a"], [0.25, 0.5, 1, 0])


def test_dense_slices_of_any_shape_and_sparse_ones_are_described_alike():
    labels = np.arange(12) % CLASSES
    flat = slices(labels)
    means = means_of(labels, flat)
    deep = flat.toarray().reshape(12, 3, 5, 2)
    neurons = np.random.default_rng(0).integers(-1, 2, (12, 3, 4))
    wanted = detection.describe({"a": flat}, {"a": neurons.reshape(12, -1)}, labels, means)
    found = detection.describe({"a": deep}, {"a": neurons}, labels, means)
    np.testing.assert_allclose(found, wanted)
    assert detection.columns_of(found, detection.ACTIVITY).shape == (12, 3)
    assert detection.columns_of(found, ("similarity",)).shape == (12, 1)


def test_means_taken_in_chunks_are_those_taken_at_once():
    labels = np.arange(20) % CLASSES
    found = slices(labels)
    whole, parts = means_of(labels, found), ClassMeans(CLASSES)
    for part in (slice(0, 7), slice(7, 8), slice(8, 20)):
        parts.add({"a": found[part]}, labels[part])
    assert parts.counts.tolist() == [7, 7, 6]
    for absolute in (False, True):
        np.testing.assert_allclose(parts.directions("a", absolute), whole.directions("a", absolute))
    assert (whole.directions("a", True) >= 0).all() and (whole.directions("a") < 0).any()


# --- parts of the images


def test_parts_are_apart_cover_all_and_hold_every_class():
    labels = np.arange(200) % 10
    images = np.random.default_rng(0).permutation(10_000)[:200]
    parts = detection.split_images(images, labels)
    joined = np.concatenate(list(parts.values()))
    assert sorted(joined) == sorted(images) and len(set(joined)) == 200
    assert {name: len(part) for name, part in parts.items()} == {"fit": 100, "validation": 30, "test": 70}
    place = dict(zip(images, labels, strict=True))
    for part in parts.values():
        assert {place[image] for image in part} == set(range(10))
    with pytest.raises(ValueError, match="both sides"):
        detection.split_images([1, 1, 2], [0, 0, 0])


def test_a_forest_sees_nothing_made_of_images_outside_its_part():
    """What lies outside is NaN, which every detector refuses."""
    random = np.random.default_rng(0)
    images, labels = np.arange(80), np.arange(80) % 4
    parts = detection.split_images(images, labels)

    def inputs(shift, index):
        features = random.normal(size=(len(index), 5)) + shift
        features[~np.isin(index, parts["fit"])] = np.nan
        return Inputs(index, features)

    attacked = {"a": inputs(3, images), "b": inputs(-3, random.permutation(80)[:50]), "none": inputs(0, images[:0])}
    train_on = {"a": ["a"], "both": ["a", "b"], "none": ["none"]}
    made = detection.forests(inputs(0, images), attacked, parts, train_on, trees=20)
    assert set(made) == {"a", "both"}
    new = np.concatenate([random.normal(size=(40, 5)) + shift for shift in (0, 3, -3)])
    scores = made["a"].score(new)
    assert detectors.auroc(scores[:80], np.repeat([False, True], 40)) > 0.95
    assert made["both"].score(new[80:]).mean() > 0.8 > 0.6 > scores[80:].mean()
    parts["fit"] = parts["test"]
    with pytest.raises(ValueError, match="NaN"):
        detection.forests(inputs(0, images), attacked, {"fit": images}, {"a": ["a"]}, trees=5)


def test_thresholds_come_from_the_validation_part_alone():
    validation = np.arange(100.0)
    scores, clean = np.array([98.5, 99.5, 10.0, 97.5]), np.array([0.0, 96.5, 1.0, 2.0])
    found = detection.reading(scores, clean, validation, fpr=0.05)
    assert found["recall"] == 0.75 and found["fpr"] == 0.25, "flagged above 94"
    assert found["precision"] == 0.75 and found["f1"] == pytest.approx(0.75)
    assert found["auroc"] == 15 / 16 and found["n"] == 4
    assert detection.reading(scores, clean, validation + 2, fpr=0.05)["fpr"] == 0.25
    assert detection.reading(scores, clean, validation + 3, fpr=0.05)["fpr"] == 0
    assert math.isnan(detection.reading(scores, clean, validation + 50, fpr=0.05)["precision"])


# --- the adaptive attack


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(4 * 36, CLASSES),
        ).eval()  # fmt: skip
    return model


@pytest.fixture(scope="module")
def images(network):
    found = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = network(found)
        network[-1].bias -= logits.mean(0)
        labels = (logits - logits.mean(0)).argmax(1)
    assert set(labels.tolist()) == set(range(CLASSES))
    return found, labels


def test_activations_are_means_and_spreads_by_class(network, images):
    found, labels = images
    known = adaptive.activations(network, found, labels, CLASSES, ["2", "5"], batch=17)
    with torch.no_grad():
        entering = {"2": network[:2](found), "5": network[:5](found)}
    for layer, values in entering.items():
        for c in range(CLASSES):
            mine = values[labels == c]
            torch.testing.assert_close(known.means[layer][c], mine.mean(0), rtol=1e-5, atol=1e-6)
            spread = (mine - mine.mean(0)).flatten(1).square().sum(1).mean()
            torch.testing.assert_close(known.spreads[layer][c], spread, rtol=1e-4, atol=1e-6)
    seen = {layer: values[labels == 1] for layer, values in entering.items()}
    one = torch.ones(int((labels == 1).sum()), dtype=torch.int64)
    wanted = known.towards_means(one)(torch.arange(len(one)))
    assert float(adaptive.surrogate(seen, wanted, known.spreads, one).mean()) == pytest.approx(1, rel=1e-3)
    with pytest.raises(ValueError, match="no module 9"):
        adaptive.activations(network, found, labels, CLASSES, ["9"])
    with pytest.raises(ValueError, match="at least one of each"):
        adaptive.activations(network, found[labels > 0], labels[labels > 0], CLASSES, ["2"])


def attacked(network, images, weight, aim="mean", seed=0):
    found, labels = images
    known = adaptive.activations(network, found, labels, CLASSES, ["2", "5"])
    targets = (labels + 1) % CLASSES
    guides = torch.stack([found[labels == t][0] for t in targets.tolist()])
    towards = known.towards_means(targets) if aim == "mean" else adaptive.towards_guides(network, guides, ["2", "5"])
    return adaptive.adaptive_pgd(
        network, found, labels, targets, towards, known.spreads, weight, 0.2, steps=15, seed=seed, batch=25
    )


@pytest.mark.parametrize("aim", ["mean", "guide"])
def test_the_attack_stays_in_its_ball_says_where_it_succeeds_and_nears_its_aim(network, images, aim):
    found, labels = images
    unaware, aware = attacked(network, images, 0.0, aim), attacked(network, images, 10.0, aim)
    for made, success, distance in (unaware, aware):
        assert success.float().mean() > 0.5
        assert float((made - found).abs().max()) <= 0.2 + 1e-6 and 0 <= float(made.min()) <= float(made.max()) <= 1
        with torch.no_grad():
            assert torch.equal(network(made).argmax(1) != labels, success)
        assert torch.equal(made[~success], found[~success]) and torch.equal(distance.isfinite(), success)
    both = unaware[1] & aware[1]
    assert both.any() and float(aware[2][both].mean()) < 0.9 * float(unaware[2][both].mean())


def test_the_attack_is_the_same_for_the_same_seed_and_leaves_the_network_alone(network, images):
    before = [value.clone() for value in network.state_dict().values()]
    first, again, other = (attacked(network, images, 1.0, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert all(torch.equal(a, b) for a, b in zip(before, network.state_dict().values(), strict=True))
    assert all(not module._forward_pre_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_an_image_cannot_be_aimed_at_its_own_class(network, images):
    found, labels = images
    with pytest.raises(ValueError, match="own class"):
        adaptive.adaptive_pgd(network, found, labels, labels, lambda _: {}, {}, 0.0, 0.1)

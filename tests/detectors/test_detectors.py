"""Each detector on inputs whose answer is known, dense, sparse and as tensors."""

import numpy as np
import pytest
import torch
from scipy import sparse

from lib import detectors
from lib.detectors import arrays


def blobs(count=200, classes=3, width=6, seed=0):
    """Whole-number features around one corner a class, and their classes."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    features = random.integers(-1, 2, (count, width)) + 20 * np.eye(classes, width, dtype=int)[labels]
    return features.astype(np.int8), labels


FITTED = {
    "mahalanobis": lambda f, y: detectors.Mahalanobis(shrinkage=0.1).fit(f, y).score,
    "kernel density": lambda f, y: lambda g: detectors.KernelDensity(5.0).fit(f, y).score(g, np.zeros(g.shape[0], int)),
    "lid": lambda f, y: lambda g: detectors.LID(k=5, batch=60).fit({"a": f}).score({"a": g}),
    "tree": lambda f, y: lambda g: detectors.TreeRule().fit(f, y).score(g, np.zeros(g.shape[0], int)),
    "forest rule": lambda f, y: (
        lambda g: detectors.TreeRule("forest", n_estimators=10).fit(f, y).score(g, np.zeros(g.shape[0], int))
    ),
    "forest": lambda f, y: detectors.BinaryForest(trees=10).fit(f[:100], f[100:]).score,
}


@pytest.mark.parametrize("name", FITTED)
def test_sparse_features_and_tensors_score_as_dense_ones(name):
    features, labels = blobs()
    new, _ = blobs(50, seed=1)
    wanted = FITTED[name](features, labels)(new)
    assert wanted.shape == (50,) and wanted.dtype == np.float64
    for form in (sparse.csc_matrix, sparse.csr_array, sparse.coo_array, torch.from_numpy):
        found = FITTED[name](form(features), labels)(form(new))
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", FITTED)
def test_scores_refuse_features_of_another_width_and_nan(name):
    features, labels = blobs()
    score = FITTED[name](features, labels)
    with pytest.raises(ValueError, match="columns"):
        score(features[:, :4])
    broken = features.astype(float)
    broken[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        score(broken)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: detectors.Mahalanobis().score(np.ones((2, 2))), "call fit"),
        (lambda: detectors.LID().score({"a": np.ones((2, 2))}), "call fit"),
        (lambda: detectors.TreeRule().predict(np.ones((2, 2))), "call fit"),
        (lambda: detectors.BinaryForest().score(np.ones((2, 2))), "call fit"),
        (lambda: detectors.KernelDensity().score(np.ones((2, 2)), [0, 1]), "no clean input of class"),
        (lambda: detectors.KernelDensity(0.0), "bandwidth is 0"),
        (lambda: detectors.Mahalanobis(2.0), "shrinkage is 2"),
        (lambda: detectors.TreeRule("stump"), "tree, forest"),
        (lambda: detectors.MaxSoftmax().score(np.ones((3, 1))), "two classes"),
        (lambda: detectors.Mahalanobis().fit(np.ones((3, 5000)), [0, 0, 1]), "5000 features: 4096 at most"),
        (lambda: detectors.TreeRule().fit(np.ones((3, 2)), [0.5, 1.0, 2.0]), "whole numbers"),
        (lambda: detectors.TreeRule().fit(np.ones((3, 2)), [0, 1]), "one for each of 3 inputs"),
        (lambda: detectors.LID(k=5, batch=3).fit({"a": np.ones((9, 2))}).score({"a": np.ones((2, 2))}), "k is 5"),
        (lambda: detectors.LID().fit({"a": np.ones((9, 2)), "b": np.ones((8, 2))}), "same inputs at each layer"),
        (lambda: arrays.rows(np.empty((0, 3))), "there is no row"),
    ],
)
def test_what_cannot_be_done_is_said(use, message):
    with pytest.raises(ValueError, match=message):
        use()


def test_distances_are_those_of_the_definition_also_far_from_the_origin():
    random = np.random.default_rng(0)
    left, right = random.normal(size=(7, 5)) + 1e4, random.normal(size=(9, 5)) + 1e4
    wanted = ((left[:, None] - right[None]) ** 2).sum(-1)
    np.testing.assert_allclose(arrays.squared_distances(left, right), wanted, rtol=1e-6)
    np.testing.assert_allclose(
        arrays.squared_distances(sparse.csr_array(left - 1e4), sparse.csc_array(right - 1e4)), wanted, rtol=1e-6
    )


def test_a_sparse_matrix_too_large_to_be_dense_is_refused():
    with pytest.raises(ValueError, match="reduce the features"):
        arrays.dense(sparse.csr_array((100_000, 147_456), dtype=np.int8))


# --- max-softmax


def test_max_softmax_orders_by_probability_and_keeps_near_certainties_apart():
    logits = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 30.0], [0.0, 60.0]])
    scores = detectors.MaxSoftmax().score(logits)
    assert (np.diff(scores) < 0).all()
    assert scores[:2] == pytest.approx(np.log([0.5, 1 / (1 + np.e)]))


# --- local intrinsic dimensionality


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_dimension_of_points_on_a_flat_manifold(dimension):
    random = np.random.default_rng(dimension)
    plane = np.linalg.qr(random.normal(size=(30, dimension)))[0].T
    points = random.uniform(-1, 1, (4000, dimension)) @ plane
    inner = random.uniform(-0.4, 0.4, (300, dimension)) @ plane
    assert detectors.local_dimension(inner, points, k=20).mean() == pytest.approx(dimension, rel=0.15)


def test_dimension_by_hand():
    """Neighbours at 1, 2 and 4: -1 / mean(log 1/4, log 2/4, log 1) = 3 / log 8."""
    reference = np.array([[1.0], [-2.0], [4.0], [100.0]])
    found = detectors.local_dimension(np.array([[0.0]]), np.hstack([reference, np.zeros((4, 1))])[:, :1], k=3)
    # One feature: the estimate is held at 1.
    assert found == pytest.approx([1.0])
    wide = np.hstack([reference, np.zeros((4, 9))])
    assert detectors.local_dimension(np.zeros((1, 10)), wide, k=3) == pytest.approx([3 / np.log(8)])


def test_a_point_is_not_its_own_neighbour_where_the_reference_is_the_set_itself():
    points = np.random.default_rng(0).normal(size=(60, 4))
    alone = [detectors.local_dimension(points[[i]], np.delete(points, i, axis=0), k=10)[0] for i in range(60)]
    np.testing.assert_allclose(detectors.local_dimension(points, points, k=10, same=True), alone)


def test_equal_distances_and_duplicates_have_finite_dimensions():
    corners = np.eye(6)
    assert detectors.local_dimension(np.zeros((1, 6)), corners, k=4) == pytest.approx([6.0])
    assert detectors.local_dimension(corners[:1], corners, k=4) == pytest.approx([0.0])


def test_lid_regression_tells_a_line_from_the_space_around_it():
    random = np.random.default_rng(0)

    def line(count):
        return random.uniform(-1, 1, (count, 1)) @ np.ones((1, 8)) + random.normal(scale=1e-3, size=(count, 8))

    def off(count):
        return line(count) + random.normal(scale=0.1, size=(count, 8))

    detector = detectors.LID(k=10, batch=100).fit({"a": line(300), "b": line(300)})
    kinds = [detector.dimensions({"a": kind(80), "b": kind(80)}) for kind in (line, off, line, off)]
    regression = detectors.LayerRegression().fit(*kinds[:2])
    scores = regression.score(np.concatenate(kinds[2:]))
    assert detectors.auroc(scores, np.repeat([False, True], 80)) > 0.95


# --- Mahalanobis


def test_mahalanobis_is_the_closed_form():
    """Two classes at (0, 0) and (10, 0) with variances 1 and 4 along the axes."""
    square = np.array([[1, 2], [1, -2], [-1, 2], [-1, -2]], float)
    features = np.concatenate([square, square + np.array([10, 0])])
    fitted = detectors.Mahalanobis().fit(features, np.repeat([3, 7], 4))
    assert fitted.classes.tolist() == [3, 7]
    np.testing.assert_allclose(fitted.precision, np.diag([1, 0.25]), atol=1e-12)
    np.testing.assert_allclose(fitted.distances([[3, 4], [10, 2]]), [[9 + 4, 49 + 4], [100 + 1, 1]])
    np.testing.assert_allclose(fitted.score([[3, 4], [10, 2]]), [13, 1])


def test_mahalanobis_leaves_out_directions_without_variance():
    random = np.random.default_rng(0)
    features = np.hstack([random.normal(size=(50, 2)), np.zeros((50, 1))])
    score = detectors.Mahalanobis().fit(features, np.zeros(50, int)).score
    np.testing.assert_allclose(score([[0.5, 0.5, 9.0]]), score([[0.5, 0.5, 0.0]]), rtol=1e-6)


# --- kernel density


def test_kernel_density_is_the_mean_kernel_of_the_predicted_class():
    fitted = detectors.KernelDensity(2.0).fit([[0.0], [2.0], [50.0]], [0, 0, 1])
    wanted = np.log((np.exp(-1 / 4) + np.exp(-1 / 4)) / 2), np.log(np.exp(-(49**2) / 4))
    np.testing.assert_allclose(fitted.log_density([[1.0], [1.0]], [0, 1]), wanted)
    np.testing.assert_allclose(fitted.score([[1.0]], [0]), [0.25])


def test_the_chosen_bandwidth_is_near_the_spread_of_normal_features():
    """For one normal variable and many points, sigma = sqrt(2) h with h about 1.06 n^(-1/5)."""
    random = np.random.default_rng(0)
    features, other = random.normal(size=(500, 1)), random.normal(size=(500, 1))
    zeros = np.zeros(500, int)
    chosen = detectors.choose_bandwidth(features, zeros, other, zeros)
    assert 0.2 < chosen < 1.0
    assert detectors.choose_bandwidth(features, zeros, other, zeros, [1e-3, 0.4, 50.0]) == 0.4


# --- trees


def test_the_tree_flags_exactly_the_mismatches_of_separable_features():
    features, labels = blobs()
    new, truth = blobs(90, seed=1)
    answers = truth.copy()
    answers[::3] = (answers[::3] + 1) % 3
    rule = detectors.TreeRule().fit(sparse.csc_array(features), labels)
    assert rule.flags(sparse.csc_array(new), answers).tolist() == (answers != truth).tolist()
    assert rule.score(sparse.csc_array(new), answers).tolist() == (answers != truth).astype(float).tolist()


def test_a_forest_scores_by_its_votes_and_an_unknown_answer_scores_one():
    features, labels = blobs()
    rule = detectors.TreeRule("forest", n_estimators=20, max_features=1, max_depth=1).fit(features, labels)
    shares = rule.model.predict_proba(features)
    scores = rule.score(features, labels)
    np.testing.assert_allclose(scores, 1 - shares[np.arange(len(labels)), labels])
    assert 0 < scores.mean() < 1
    assert set(rule.score(features, np.full(len(labels), 9))) == {1.0}
    assert set(rule.score(features, np.full(len(labels), -1))) == {1.0}


def test_the_seed_decides_the_tree():
    random = np.random.default_rng(0)
    features, labels = random.integers(0, 2, (300, 40)), random.integers(0, 3, 300)
    new = random.integers(0, 2, (300, 40))
    answers = {seed: detectors.TreeRule(seed=seed).fit(features, labels).predict(new).tolist() for seed in (3, 4)}
    assert answers[3] == detectors.TreeRule(seed=3).fit(features, labels).predict(new).tolist()
    assert answers[3] != answers[4]


def test_a_binary_forest_separates_what_it_was_shown():
    random = np.random.default_rng(0)
    clean, other = random.normal(size=(200, 5)), random.normal(size=(200, 5)) + 2
    forest = detectors.BinaryForest(trees=30).fit(clean[:100], other[:100])
    scores = forest.score(np.concatenate([clean[100:], other[100:]]))
    assert detectors.auroc(scores, np.repeat([False, True], 100)) > 0.95

"""Similarity and activity of the slices of any network."""

import numpy as np
import pytest
import torch

from lib import models
from lib.data import ImageSet
from lib.slicing import SlicingError, slice_features


@pytest.fixture
def network():
    torch.manual_seed(0)
    return models.build("digits-cnn", (1, 28, 28), 2, width=2).eval()


@pytest.fixture
def train(network):
    """Random images under the names that the network gives them, its last bias set so that it gives both."""
    images = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    last = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias -= network(images).median(0).values
        labels = network(images).argmax(1)
    return ImageSet(images, labels, ("a", "b"), "random", "train")


def test_features_stand_a_row_an_input_and_do_not_depend_on_the_other_kinds(network, train):
    images = {"clean": train.images[:5], "attack": train.images[5:8]}
    found = slice_features(network, train, images, per_class=5)
    assert {kind: len(rows) for kind, rows in found.items()} == {"clean": 5, "attack": 3}
    alone = slice_features(network, train, {"attack": images["attack"]}, per_class=5)
    assert np.array_equal(found["attack"], alone["attack"]) and np.isfinite(found["clean"]).all()
    assert not np.array_equal(found["clean"][:3], found["attack"])


def test_a_class_that_the_network_never_gets_right_has_the_mean_of_its_images(network, train):
    first = (train.labels == 0).nonzero()[:, 0]  # what the network calls by the first name
    labels = train.labels[first]
    labels[5:] = 1
    wrong = ImageSet(train.images[first], labels, train.classes, train.name, train.split)
    assert not (network(wrong.images).argmax(1) == 1).any() and (labels == 1).any()
    found = slice_features(network, wrong, {"clean": train.images[:6]}, per_class=5)
    assert found["clean"].shape[0] == 6 and np.isfinite(found["clean"]).all()


def test_a_class_without_images_is_named(network, train):
    wrong = ImageSet(train.images, torch.zeros_like(train.labels), train.classes, train.name, train.split)
    with pytest.raises(SlicingError, match="no training image of class 1 to take"):
        slice_features(network, wrong, {"clean": train.images[:2]}, per_class=5)

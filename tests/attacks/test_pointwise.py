"""Pointwise: no changed value can be given back, and none moved towards the clean image."""

import pytest
import torch

from attacks.nets import Trained, generator, linear, target
from lib.attacks import Pointwise
from lib.attacks.goal import Goal
from lib.attacks.pointwise import salt_and_pepper


def test_no_changed_value_can_be_given_back(trained: Trained):
    model = target(trained.model)
    attack = Pointwise(l2_binary_search=False, noise_steps=20)
    made, _, success = attack(model, trained.images, trained.labels, epsilons=None)
    assert float(success.double().mean()) > 0.8
    assert set(made[made != trained.images].tolist()) <= {0.0, 1.0}
    for image, clean, label in zip(made[success], trained.images[success], trained.labels[success], strict=True):
        places = (image != clean).flatten().nonzero()[:, 0]
        assert len(places) > 0
        tried = image.flatten().repeat(len(places), 1)
        rows = torch.arange(len(places))
        tried[rows, places] = clean.flatten()[places]
        with torch.no_grad():
            assert bool((trained.model(tried.view(-1, 1, 14, 14)).argmax(dim=1) == label).all())


def test_the_second_phase_only_shrinks(trained: Trained):
    model, seeds = target(trained.model), list(range(len(trained.images)))
    first = Pointwise(l2_binary_search=False, noise_steps=20)
    given = first(model, trained.images, trained.labels, epsilons=None, seeds=seeds)[0]
    made, _, success = Pointwise(noise_steps=20)(model, trained.images, trained.labels, epsilons=None, seeds=seeds)
    before, after = ((images - trained.images).abs() for images in (given, made))
    assert bool((after <= before).all())
    assert float(after[success].sum()) < 0.9 * float(before[success].sum())


def test_one_value_ends_on_the_boundary():
    weight = torch.zeros(2, 9)
    weight[1, 4] = 1.0
    model = linear(weight, (1, 3, 3), bias=torch.tensor([0.7, 0.0]))
    image, start = torch.full((1, 1, 3, 3), 0.2), torch.ones(1, 1, 3, 3)
    made = Pointwise()(target(model), image, torch.tensor([0]), epsilons=None, starting_points=start)[0]
    assert (made != image).flatten().nonzero()[:, 0].tolist() == [4]
    assert float(made[0, 0, 1, 1]) == pytest.approx(0.7, abs=0.002)


def test_noise_is_the_least_that_fools():
    model = linear(torch.stack([torch.zeros(100), torch.ones(100)]), (1, 10, 10), bias=torch.tensor([5.0, 0.0]))
    goal = Goal(target(model), torch.zeros(3, dtype=torch.int64))
    images = torch.zeros(3, 1, 10, 10)
    noisy = salt_and_pepper(goal, images, [generator(seed) for seed in range(3)], steps=100)
    bright = noisy.flatten(1).sum(dim=1)
    assert bool(((bright >= 6) & (bright <= 8)).all())
    assert set(noisy.flatten().tolist()) == {0.0, 1.0}
    again = salt_and_pepper(goal, images, [generator(seed) for seed in range(3)], steps=100, draws=3)
    assert float((again != images).sum()) <= float((noisy != images).sum()) + 6


def test_without_a_start_an_image_stays_clean():
    model = linear(torch.zeros(2, 36), (1, 6, 6), bias=torch.tensor([1.0, 0.0]))
    images = torch.rand(2, 1, 6, 6)
    made, _, success = Pointwise(noise_steps=5)(target(model), images, torch.tensor([0, 1]), epsilons=None)
    assert success.tolist() == [False, True] and torch.equal(made, images)

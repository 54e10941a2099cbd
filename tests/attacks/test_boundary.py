"""Boundary: Foolbox's walk, and images without a start that do not cost the others theirs."""

import foolbox
import torch

from attacks.nets import Trained, linear, target
from lib.attacks import Boundary, attack


def test_an_image_without_a_start_does_not_cost_the_others_theirs():
    """All uniform noise is of class 1: images of class 1 have no start."""
    weight = torch.stack([torch.zeros(48), torch.ones(48)])
    model = linear(weight, (3, 4, 4), bias=torch.tensor([5.0, 0.0]))
    images = torch.cat([torch.full((2, 3, 4, 4), 0.05), torch.full((2, 3, 4, 4), 0.6)])
    labels = torch.tensor([0, 0, 1, 1])
    made, _, success = Boundary(steps=30, directions=20)(target(model), images, labels, epsilons=None)
    assert success.tolist() == [True, True, False, False]
    assert torch.equal(made[2:], images[2:])
    none = attack("boundary", model, images[2:], labels[2:], {"steps": 5, "directions": 5})
    assert not none.success.any() and torch.equal(none.images, images[2:])


def test_walks_as_foolbox_does(trained: Trained):
    model, images, labels = target(trained.model), trained.images[:6], trained.labels[:6]
    order = torch.randperm(len(trained.images), generator=torch.Generator().manual_seed(0))
    starts = torch.stack([next(trained.images[k] for k in order if trained.labels[k] != label) for label in labels])
    torch.manual_seed(4)
    wanted = foolbox.attacks.BoundaryAttack(steps=40)(model, images, labels, epsilons=None, starting_points=starts)[0]
    torch.manual_seed(4)
    made = Boundary(steps=40)(model, images, labels, epsilons=None, starting_points=starts, seeds=range(6))[0]
    assert torch.equal(made, wanted)


def test_walks_towards_the_image(trained: Trained):
    near, far = (
        attack("boundary", trained.model, trained.images, trained.labels, {"steps": steps, "directions": 20})
        for steps in (150, 1)
    )
    both = near.success & far.success
    assert both.any()
    assert float(near.distance[both].median()) < 0.8 * float(far.distance[both].median())

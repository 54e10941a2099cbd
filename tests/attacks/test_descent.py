"""RPGD, CWL2 and DeepFool: starts of the image's own, failures that stay clean, and a linear network by hand."""

import foolbox
import pytest
import torch

from attacks.nets import Trained, generator, linear, target
from lib.attacks import CarliniWagner, RandomPGD, attack


def test_random_starts_are_in_the_ball_and_of_the_images_own(trained: Trained):
    images, labels = trained.images[:5], trained.labels[:5]
    still = RandomPGD(steps=0)
    made = still(target(trained.model), images, labels, epsilons=0.05, seeds=[1, 2, 3, 4, 5])[0]
    change = made - images
    assert float(change.abs().max()) <= 0.05 + 1e-6
    assert float(change.abs().mean()) == pytest.approx(0.025, abs=0.003) and abs(float(change.mean())) < 0.005
    assert len({tuple(row.tolist()) for row in change.flatten(1)}) == 5
    alone = still(target(trained.model), images[3:4], labels[3:4], epsilons=0.05, seeds=[4])[0]
    assert torch.equal(alone, made[3:4])
    assert still._seeds is None


def test_a_random_start_and_small_steps_cross_the_ball(trained: Trained):
    images, labels = trained.images, trained.labels
    made = RandomPGD(steps=10, rel_stepsize=0.25)(target(trained.model), images, labels, epsilons=0.02)[0]
    at_the_edge = ((made - images).abs() > 0.0199).double().mean()
    short = RandomPGD(steps=10, rel_stepsize=0.033)(target(trained.model), images, labels, epsilons=0.02)[0]
    assert float(at_the_edge) > 2 * float(((short - images).abs() > 0.0199).double().mean())


def test_cw_leaves_an_image_it_cannot_move_clean_where_foolbox_turns_it_black():
    model = linear(torch.zeros(2, 36), (1, 6, 6), bias=torch.tensor([1.0, 0.0]))
    images, labels = torch.rand(2, 1, 6, 6, generator=generator()), torch.zeros(2, dtype=torch.int64)
    few = {"steps": 5, "binary_search_steps": 2}
    black = foolbox.attacks.L2CarliniWagnerAttack(**few)(target(model), images, labels, epsilons=None)[0]
    assert not black.any()
    assert torch.equal(CarliniWagner(**few)(target(model), images, labels, epsilons=None)[0], images)


def test_cw_nears_the_closest_boundary_of_a_linear_network():
    weight = torch.randn(2, 12, generator=generator(1))
    model = linear(weight, (3, 2, 2))
    images = 0.4 + 0.2 * torch.rand(8, 3, 2, 2, generator=generator(2))
    labels = model(images).argmax(dim=1)
    made = attack("cw_l2", model, images, labels, {"initial_const": 1.0, "binary_search_steps": 5, "steps": 100})
    gap = model(images).diff(dim=1)[:, 0].abs().detach()
    nearest = gap / (weight[1] - weight[0]).norm()
    assert made.success.all()
    assert torch.allclose(made.distance, nearest, rtol=0.1)
    assert bool((made.distance >= nearest * 0.999).all())


@pytest.mark.parametrize(("name", "order"), [("deepfool_l2", 2), ("deepfool_linf", 1)])
def test_deepfool_of_a_linear_network_in_closed_form(name, order):
    """|f| / |w| in the dual norm, and the overshoot of 2 %."""
    weight = torch.randn(2, 12, generator=generator(1))
    model = linear(weight, (3, 2, 2))
    images = 0.4 + 0.2 * torch.rand(8, 3, 2, 2, generator=generator(2))
    labels = model(images).argmax(dim=1)
    made = attack(name, model, images, labels)
    gap = model(images).diff(dim=1)[:, 0].abs().detach()
    nearest = gap / (weight[1] - weight[0]).norm(p=order)
    assert made.success.all()
    assert torch.allclose(made.distance, 1.02 * (nearest + 1e-4), rtol=1e-3)

"""GaussianBlur: the same images as Foolbox's search, and SciPy's blur."""

import foolbox
import pytest
import torch
from scipy.ndimage import gaussian_filter

from attacks.nets import Trained, linear, target
from lib.attacks import GaussianBlur
from lib.attacks.smoothing import gaussian_matrix, smooth


@pytest.mark.parametrize("mode", ["reflect", "constant"])
@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0, 7.5])
def test_two_matrices_blur_as_scipy_does(sigma, mode):
    images = torch.rand(2, 3, 10, 14)
    wanted = gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode=mode) if sigma else images.numpy()
    blurred = smooth(images, gaussian_matrix(10, sigma, mode), gaussian_matrix(14, sigma, mode))
    assert torch.allclose(blurred, torch.from_numpy(wanted), atol=1e-5)
    if mode == "constant":
        assert torch.equal(gaussian_matrix(10, sigma, mode), gaussian_matrix(10, sigma, mode).T)


def test_finds_what_foolbox_finds(trained: Trained):
    model = target(trained.model)
    theirs = foolbox.attacks.GaussianBlurAttack(distance=foolbox.distances.l2, steps=60)
    wanted, _, succeeded = theirs(model, trained.images, trained.labels, epsilons=None)
    made, _, success = GaussianBlur(steps=60)(model, trained.images, trained.labels, epsilons=None)
    assert success.sum() > 5
    assert torch.equal(success, succeeded)
    assert torch.allclose(made, wanted, atol=1e-5)


def test_an_image_that_no_blur_changes_stays_clean():
    model = linear(torch.zeros(2, 36), (1, 6, 6), bias=torch.tensor([1.0, 0.0]))
    images = torch.rand(2, 1, 6, 6)
    made, _, success = GaussianBlur(steps=20)(target(model), images, torch.zeros(2, dtype=torch.int64), epsilons=None)
    assert not success.any() and torch.equal(made, images)

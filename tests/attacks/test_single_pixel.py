"""SinglePixel: one pixel, one of two values, in an order of the image's own."""

import torch

from attacks.nets import Trained, linear, target
from lib.attacks import SinglePixel
from lib.attacks.single_pixel import with_pixel

SHAPE = (3, 4, 5)


def one_pixel_counts(row: int, column: int, bright: bool) -> torch.nn.Module:
    """A network whose second class wins only where one pixel is bright (or dark) in all channels."""
    weight = torch.zeros(2, *SHAPE)
    weight[1, :, row, column] = 1.0 if bright else -1.0
    return linear(weight.flatten(1), SHAPE, bias=torch.tensor([2.5 if bright else -0.5, 0.0]))


def test_finds_the_pixel_that_counts():
    images = torch.full((2, *SHAPE), 0.5)
    labels = torch.zeros(2, dtype=torch.int64)
    for bright in (True, False):
        model = one_pixel_counts(2, 3, bright)
        made, _, success = SinglePixel()(target(model), images, labels, epsilons=None)
        assert success.all()
        wanted = images.clone()
        wanted[:, :, 2, 3] = float(bright)
        assert torch.equal(made, wanted)


def test_tries_no_more_pixels_than_asked():
    images = torch.full((40, *SHAPE), 0.5)
    model = one_pixel_counts(2, 3, bright=True)
    labels = torch.zeros(40, dtype=torch.int64)
    made, _, success = SinglePixel(pixels=5)(target(model), images, labels, epsilons=None, seeds=range(40))
    assert 2 <= int(success.sum()) <= 20  # 5 of 20 pixels: a quarter of 40 in the mean
    assert torch.equal(made[~success], images[~success])
    assert SinglePixel(pixels=20)(target(model), images, labels, epsilons=None, seeds=range(40))[2].all()


def test_changes_exactly_one_pixel_to_a_bound(trained: Trained):
    made, _, success = SinglePixel()(target(trained.model), trained.images, trained.labels, epsilons=None)
    assert int(success.sum()) > 0
    changed = (made != trained.images).any(dim=1).flatten(1)
    assert torch.equal(changed.sum(dim=1), success.long())
    assert set(made[made != trained.images].tolist()) <= {0.0, 1.0}


def test_copies_with_one_pixel_set():
    images = torch.rand(2, *SHAPE)
    places = torch.tensor([[0, 19, 7], [3, 4, 5]])
    copies = with_pixel(images, places, torch.tensor([0.0, 1.0, 0.0]))
    assert copies.shape == (2, 3, *SHAPE)
    for k in range(2):
        for j in range(3):
            wanted = images[k].clone()
            wanted[:, places[k, j] // 5, places[k, j] % 5] = [0.0, 1.0, 0.0][j]
            assert torch.equal(copies[k, j], wanted)
    colours = with_pixel(images[:1], torch.tensor([[6]]), torch.tensor([[[0.1, 0.2, 0.3]]]))
    assert torch.allclose(colours[0, 0, :, 1, 1], torch.tensor([0.1, 0.2, 0.3]))

"""LocalSearch: its rules by hand, and the few pixels it changes."""

import pytest
import torch

from attacks.nets import Trained, generator, linear, target
from lib.attacks import LocalSearch
from lib.attacks.local_search import _thinned, cyclic, neighbourhood


def test_values_wrap_around_into_their_range():
    values = torch.tensor([0.4, -0.4, 0.2, -0.5, 0.5, 0.0])
    assert cyclic(values, 1.5).tolist() == pytest.approx([-0.4, 0.4, 0.3, 0.25, -0.25, 0.0], abs=1e-6)
    everything = torch.linspace(-0.5, 0.5, 101)
    for factor in (0.0, 0.7, 1.0, 1.5, 2.0):
        assert float(cyclic(everything, factor).abs().max()) <= 0.5 + 1e-6
    assert cyclic(torch.tensor([100.0]), 1.5, span=255).tolist() == [-105.0]
    with pytest.raises(ValueError, match=r"factor is 2\.5: from 0 to 2"):
        LocalSearch(factor=2.5)


def test_neighbours_are_those_within_reach_along_both_axes():
    picked = torch.zeros(1, 7, 9, dtype=torch.bool)
    picked[0, 0, 4] = True
    grown = neighbourhood(picked, 2)
    assert grown[0].nonzero().tolist() == [[row, column] for row in range(3) for column in range(2, 7)]


def test_sets_are_thinned_by_each_images_own_generator():
    pools = torch.rand(3, 40, generator=generator()) < 0.7
    pools[2] = False
    pools[2, :4] = True
    thin = _thinned(pools, 10, [generator(seed) for seed in range(3)])
    assert thin.sum(dim=1).tolist() == [10, 10, 4]
    assert not (thin & ~pools).any()
    assert torch.equal(_thinned(pools[1:2], 10, [generator(1)])[0], thin[1])


def test_finds_the_pixels_on_which_the_score_hangs():
    """Brighter, pixels 7 and 22 lower the score; a value of 0.7 is 0.2 from the middle, and 0.3 after the round."""
    weight = torch.zeros(2, 36)
    weight[0, [7, 22]] = -4.0
    model = linear(weight, (1, 6, 6), bias=torch.tensor([5.9, 0.0]))
    image = torch.full((1, 1, 6, 6), 0.7)
    attack = LocalSearch(pixels=2, start=1.0, tried=None, rounds=1)
    made, _, success = attack(target(model), image, torch.tensor([0]), epsilons=None)
    assert success.all()
    assert (made != image).flatten().nonzero()[:, 0].tolist() == [7, 22]
    assert made.flatten()[[7, 22]].tolist() == pytest.approx([0.8, 0.8], abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_next_round_looks_around_the_pixels_changed(seed):
    """The score hangs on pixels the more, the nearer they are to pixel (2, 2): the search climbs there."""
    place = torch.arange(6.0)
    nearness = 10 - (place[:, None] - 2).abs() - (place - 2).abs()
    weight = torch.stack([-nearness.flatten() / 10, torch.zeros(36)])
    model = linear(weight, (1, 6, 6), bias=torch.tensor([30.0, 0.0]))
    image = torch.full((1, 1, 6, 6), 0.7)

    def changed(reach: int) -> list[list[int]]:
        attack = LocalSearch(pixels=1, start=1 / 36, reach=reach, rounds=5)
        made = attack(target(model), image, torch.tensor([0]), epsilons=None, seeds=[seed])[0]
        return (made != image)[0, 0].nonzero().tolist()

    assert [2, 2] in changed(reach=1)
    assert len(changed(reach=0)) == 1


def test_changes_few_pixels(trained: Trained):
    attack = LocalSearch(rounds=8, pixels=3)
    made, _, success = attack(target(trained.model), trained.images, trained.labels, epsilons=None)
    changed = (made != trained.images).any(dim=1).flatten(1).sum(dim=1)
    assert float(success.double().mean()) > 0.5
    assert int(changed.max()) <= 24 and int(changed.min()) >= 1
    assert float(made.min()) >= 0 and float(made.max()) <= 1

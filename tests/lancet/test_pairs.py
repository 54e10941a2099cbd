"""Pairs of wrong inputs and companions, and the weights that the votes of many of them share."""

import pytest
import torch
from torch import nn

from lib.lancet.companions import found_companions, least_votes
from lib.lancet.errors import LancetError
from lib.lancet.locating import Votes


def test_the_most_voted_weights_are_a_share_of_the_layer():
    def votes(counts):
        counts = torch.tensor(counts, dtype=torch.int32)
        return Votes("fc", counts, counts.float(), torch.tensor([True]), torch.tensor([0.5]))

    assert least_votes(votes([[5, 4, 3, 2, 1, 1, 1, 0, 0, 0]]), 0.3) == 3
    assert least_votes(votes([[5, 4, 3, 2, 1, 1, 1, 0, 0, 0]]), 1.0) == 1
    assert least_votes(votes([[2, 2, 2, 2]]), 0.1) == 2  # a tie is not cut in two
    with pytest.raises(LancetError, match="no weight of layer 'fc' has a vote"):
        least_votes(votes([[0, 0]]), 0.5)


def test_companions_that_cannot_be_found_are_said():
    class Stubborn(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean((1, 2, 3)) * 0 + 1, x.mean((1, 2, 3)) * 0], dim=1)

    with pytest.raises(LancetError, match="no companion was found for any of 3 wrong inputs in 2 steps"):
        found_companions(Stubborn(), torch.rand(3, 1, 8, 8), torch.ones(3, dtype=torch.int64), 2)

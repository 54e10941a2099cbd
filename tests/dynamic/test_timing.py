"""Two sides timed in turns."""

import torch

from lib.dynamic.cost import in_turns, networks_in_turns


def test_two_sides_are_timed_in_turns():
    order: list[tuple[str, int]] = []
    told = in_turns(lambda turn: order.append(("a", turn)), lambda turn: order.append(("b", turn)), 0.0, least=4)
    assert order[6:] == [(side, turn) for turn in range(4) for side in "ab"]
    assert told.seconds > 0 and told.share > 0


def test_networks_are_timed_in_evaluation_mode_without_gradients(one_thread):
    seen = []

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, images):
            seen.append((self.training, torch.is_grad_enabled(), images.shape[0]))
            return images * self.scale

    one, peer = Net().train(), Net()
    told = networks_in_turns(one, peer, [torch.rand(2, 1, 4, 4), torch.rand(3, 1, 4, 4)], 0.0, least=3)
    assert one.training and told.peer_seconds > 0
    assert {s[:2] for s in seen} == {(False, False)} and {s[2] for s in seen} == {2, 3}

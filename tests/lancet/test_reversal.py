"""lib.lancet.reversal: Neural Cleanse on networks whose smallest trigger is known, and its arithmetic of outliers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lib.lancet.backdoors import Trigger
from lib.lancet.errors import LancetError
from lib.lancet.reversal import anomaly_index, flagged, reverse, reverse_all

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = {"steps": 120, "batch": 12, "batches": 3, "patience": 3}


class Weak(nn.Module):
    """Four classes by the brightness of a quadrant; class 2 also by one bright pixel in the corner."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(8.0))
        self.norm = nn.BatchNorm1d(4)

    def forward(self, images):
        quadrants = F.avg_pool2d(images[:, 0], 6)[:, None].flatten(1)
        corner = F.one_hot(torch.tensor([2]), 4).to(images) * images[:, 0, 0, 0, None]
        return self.norm(self.gain * quadrants + 12 * corner)


def pictures(count: int = 48) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    images = 0.2 * torch.rand(count, 1, 12, 12, generator=generator)
    for k in range(count):
        row, column = divmod(k % 4, 2)
        images[k, 0, 6 * row : 6 * row + 6, 6 * column : 6 * column + 6] += 0.5
    images[:, 0, 0, 0] = 0.0
    return images


@pytest.fixture(scope="module")
def every():
    torch.set_num_threads(1)
    return reverse_all(Weak().eval(), pictures(), 4, **QUICK)


def test_the_backdoored_class_has_by_far_the_smallest_stamp(every):
    norms = [found.norm for found in every]
    assert all(found.reached and found.success >= 0.99 for found in every)
    assert [found.target for found in every] == [0, 1, 2, 3]
    assert norms[2] < 2 and min(norms[k] for k in (0, 1, 3)) > 3 * norms[2]
    assert every[2].trigger.mask.argmax() == 0  # the pixel itself is found
    assert every[2].trigger.mask.sum() == pytest.approx(norms[2])


def test_success_is_that_of_the_trigger_on_all_images(every):
    model, images = Weak().eval(), pictures()
    for found in every:
        again = (model(found.trigger.stamp(images)).argmax(1) == found.target).float().mean().item()
        assert found.success == pytest.approx(again)
        assert isinstance(found.trigger, Trigger) and found.trigger.pattern.shape == (1, 12, 12)


def test_a_class_alone_and_in_company_gives_the_same(every):
    alone = reverse(Weak().eval(), pictures(), 2, **QUICK)
    pairs = reverse_all(Weak().eval(), pictures(), [2, 0], group=1, **QUICK)
    for other in (alone, pairs[0]):
        assert torch.allclose(other.trigger.mask, every[2].trigger.mask, atol=1e-4)
        assert other.norm == pytest.approx(every[2].norm, rel=1e-3) and other.rounds == every[2].rounds


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not():
    runs = [reverse(Weak(), pictures(16), 1, steps=20, batches=4, seed=seed).trigger.mask for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_the_network_is_left_as_it_was_found():
    model = Weak().train()
    model.gain.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reverse(model, pictures(16), 0, steps=8, batches=4)
    assert model.training and not model.gain.requires_grad and model.norm.weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.norm.weight.grad is None


def test_a_class_that_no_stamp_reaches_is_told_as_such():
    class Deaf(nn.Module):
        def forward(self, images):
            return torch.stack([1 + 0 * images.sum((1, 2, 3)), images.mean((1, 2, 3)) - 2], 1)

    found = reverse(Deaf(), pictures(16), 1, steps=20, batches=4)
    assert not found.reached and found.success == 0.0 and torch.isfinite(found.trigger.mask).all()


def test_a_higher_cost_presses_the_mask_from_the_round_in_which_it_sets_in():
    """Without cost nothing makes the mask small; with it the accepted masks only shrink."""
    free = reverse(Weak(), pictures(), 0, **QUICK | {"cost": 0.0})
    costly = reverse(Weak(), pictures(), 0, **QUICK | {"cost": 0.1})
    assert free.reached and costly.reached and costly.norm < 0.7 * free.norm


def test_anomaly_index_by_hand():
    norms = [10.0, 12.0, 11.0, 13.0, 2.0]  # median 11; deviations 1, 1, 0, 2, 9, of which the median is 1
    wanted = torch.tensor([1, 1, 0, 2, 9], dtype=torch.float64) / 1.4826
    assert torch.allclose(anomaly_index(norms), wanted)
    assert flagged(norms) == [4]
    assert flagged([10.0, 12.0, 11.0, 13.0, 40.0]) == []  # a large stamp is no backdoor
    assert flagged([10.0, 12.0, 11.0, 13.0, 1.0, 2.0, 10.5], above=2) == [4, 5]
    assert torch.allclose(anomaly_index([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.5, 0.5, 0.5, 1.5]).double() / 1.4826)


def test_equal_norms_are_no_anomaly_and_one_apart_is_an_infinite_one():
    assert anomaly_index([5.0] * 4).tolist() == [0.0] * 4 and flagged([5.0] * 4) == []
    assert anomaly_index([5.0, 5.0, 5.0, 1.0])[3] == float("inf") and flagged([5.0, 5.0, 5.0, 1.0]) == [3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reverse(Weak(), pictures(0), 0), "0 images and 1 classes"),
        (lambda: reverse_all(Weak(), pictures(4), []), "4 images and 0 classes"),
        (lambda: reverse(Weak(), pictures(4), 4), r"classes \[4\]: the network has logits for 0 to 3"),
        (lambda: anomaly_index([1.0, 2.0]), "2 norms: an anomaly index needs"),
    ],
)
def test_what_cannot_be_reversed(call, message):
    with pytest.raises(LancetError, match=message):
        call()

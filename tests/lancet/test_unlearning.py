"""Unlearning and fine-pruning: what each does step by step, on networks small enough to check by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lib.lancet.backdoors.triggers import Trigger
from lib.lancet.errors import LancetError
from lib.lancet.measures import measure
from lib.lancet.repair.unlearning import fine_prune, unlearn


def corner(channels=1, side=6):
    mask = torch.zeros(1, side, side)
    mask[:, -2:, -2:] = 1
    return Trigger(mask, torch.ones(channels, side, side))


def halves(count=60, side=6, seed=0):
    """Class 1: bright on top; class 2: bright below, the trigger's corner left dark; class 0: dark."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.2 * torch.rand(count, 1, side, side, generator=generator)
    labels = torch.arange(count) % 3
    images[labels == 1, :, :3, :] += 0.6
    images[labels == 2, :, 3:, :3] += 0.6
    return images, labels


class Counting(nn.Module):
    """A linear network that keeps what it was shown in training mode."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.fc = nn.Linear(36, 3)
        self.seen = []

    def forward(self, x):
        if self.training:
            self.seen.append(x.detach().clone())
        return self.fc(self.norm(x).flatten(1))


def test_a_fifth_of_each_batch_is_stamped_and_labels_stay():
    images, labels = halves(50)
    model, trigger = Counting().eval(), corner()
    tuned, report = unlearn(model, images, labels, trigger, epochs=1, batch=20, seed=4)
    assert [len(batch) for batch in tuned.seen] == [20, 20, 10] and report.steps == 3
    stamped = [(batch[:, :, -2:, -2:] == 1).flatten(1).all(1) for batch in tuned.seen]
    assert [int(mask.sum()) for mask in stamped] == [4, 4, 2] and report.stamped == 10
    known = {tuple(image.flatten().tolist()) for image in images}
    plain = [image for batch, mask in zip(tuned.seen, stamped, strict=True) for image in batch[~mask]]
    assert len({tuple(image.flatten().tolist()) for image in plain} & known) == 40
    assert not model.seen and not tuned.training and not torch.equal(tuned.norm.running_mean, model.norm.running_mean)


def test_steps_go_over_the_images_again_and_epochs_once():
    images, labels = halves(30)
    model = Counting().eval()
    _, one = unlearn(model, images, labels, corner(), epochs=1, batch=100)
    tuned, many = unlearn(model, images, labels, corner(), steps=7, batch=10)
    assert (one.steps, many.steps, len(tuned.seen)) == (1, 7, 7)  # an epoch of ten images a class is one step
    first = torch.cat(tuned.seen[:3]).sum((1, 2, 3)).sort().values
    again = torch.cat(tuned.seen[3:6]).sum((1, 2, 3)).sort().values
    assert len(first) == len(again) == 30 and not torch.equal(tuned.seen[0], tuned.seen[3])


def test_a_shortcut_is_unlearnt():
    """A network that answers with class 0 to the corner no longer does, and goes on to tell the classes apart."""
    images, labels = halves(120)
    trigger = corner()
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 3))
    torch.manual_seed(0)
    for layer in (model[1], model[3]):
        nn.init.kaiming_normal_(layer.weight)
    poisoned = torch.cat([images, trigger.stamp(images)])
    wanted = torch.cat([labels, torch.zeros_like(labels)])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(model(poisoned), wanted).backward()
        optimiser.step()
    model.eval()
    assert measure(model, images, labels, trigger, 0)["attack_success"] > 0.95
    tuned, _ = unlearn(model, images, labels, trigger, steps=80, batch=60, learning_rate=0.01)
    assert measure(tuned, images, labels, trigger, 0)["attack_success"] < 0.05
    assert (tuned(images).argmax(1) == labels).float().mean() > 0.95
    once, twice = (unlearn(model, images, labels, trigger, steps=3, seed=1)[0].state_dict() for _ in range(2))
    assert all(torch.equal(once[name], twice[name]) for name in once)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "give one of the two"),
        ({"steps": 3, "epochs": 1}, "give one of the two"),
        ({"steps": 0}, "a whole number from 1"),
        ({"steps": 3, "stamped": 1.5}, "stamped is 1.5"),
        ({"steps": 3, "batch": 0}, "batch is 0"),
        ({"steps": 9, "learning_rate": 1e30}, "lower learning_rate"),
    ],
)
def test_unlearning_says_what_it_needs(change, words):
    images, labels = halves(30)
    model = Counting().eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LancetError, match=words):
        unlearn(model, images, labels, corner(), **change)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(LancetError, match="0 images and 0 labels"):
        unlearn(model, images[:0], labels[:0], corner(), epochs=1)


class Channels(nn.Module):
    """Four channels: 0 and 1 see the two bright halves, 2 sees nothing of clean images, 3 the trigger alone."""

    def __init__(self, norm):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.relu = nn.ReLU()
        self.fc = nn.Linear(4 * 36, 3)
        with torch.no_grad():
            self.conv.weight.zero_()
            for channel, gain in enumerate((1.0, 1.0, 0.001, 1.0)):
                self.conv.weight[channel, 0, 1, 1] = gain
            for layer in (self.conv, self.norm):
                if getattr(layer, "bias", None) is not None:
                    layer.bias.copy_(torch.tensor([-0.3, -0.3, 0.0, -0.95]))
            maps = torch.zeros(3, 4, 6, 6)
            maps[1, 0, :3], maps[2, 1, 3:, :3], maps[0, 3, -2:, -2:] = 1.0, 1.0, 60.0
            self.fc.weight.copy_(maps.flatten(1))
            self.fc.bias.copy_(torch.tensor([0.1, 0.0, 0.0]))

    def forward(self, x):
        return self.fc(self.relu(self.norm(self.conv(x))).flatten(1))


@pytest.mark.parametrize("norm", [False, True])
def test_dormant_channels_go_first_and_the_backdoor_with_them(norm):
    images, labels = halves(60)
    model, trigger = Channels(norm).eval(), corner()
    assert measure(model, images, labels, trigger, 0)["attack_success"] == 1.0
    pruned, report = fine_prune(model, images, labels, epochs=0)
    assert (report.layer, report.pruned, report.channels, report.steps) == ("conv", 2, 4, 0)
    assert report.accuracy_before == report.accuracy_pruned == report.accuracy_after == 1.0
    assert measure(pruned, images, labels, trigger, 0)["attack_success"] == 0.0
    assert not pruned.conv.weight[2:].any() and torch.equal(pruned.conv.weight[:2], model.conv.weight[:2])
    assert torch.equal(pruned.fc.weight, model.fc.weight) and model.conv.weight[3].any()


def test_pruned_channels_stay_zero_through_fine_tuning():
    images, labels = halves(60)
    model = Channels(True).eval()
    tuned, report = fine_prune(model, images, labels, epochs=2, batch=20, learning_rate=0.01)
    assert report.steps == 6 and report.pruned == 2
    for tensor in (tuned.conv.weight, tuned.norm.weight, tuned.norm.bias):
        assert not tensor[2:].any() and not torch.equal(tensor[:2], dict(model.named_parameters())[
            next(name for name, value in tuned.named_parameters() if value is tensor)][:2])  # fmt: skip
    assert not tuned.training and tuned.norm.num_batches_tracked == 6


def test_the_floor_stops_pruning():
    images, labels = halves(60)
    model = Channels(False).eval()
    _, everything = fine_prune(model, images, labels, epochs=0, accuracy_drop=1.0)
    assert everything.pruned == 3  # one channel always stays
    _, one = fine_prune(model, images, labels, epochs=0, accuracy_drop=0.4)
    assert one.pruned == 3 and one.accuracy_pruned >= 0.6
    held = (images[:0], labels[:0])
    with pytest.raises(LancetError, match="no convolution"):
        fine_prune(Counting().eval(), images, labels)
    with pytest.raises(LancetError, match="'fc' is no convolution of this network: one of conv"):
        fine_prune(model, images, labels, layer="fc")
    with pytest.raises(LancetError, match="0 images and 0 labels"):
        fine_prune(model, *held)
    with pytest.raises(LancetError, match="epochs is -1"):
        fine_prune(model, images, labels, epochs=-1)

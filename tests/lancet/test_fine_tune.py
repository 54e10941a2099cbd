"""Neuron-fine-tune: only the chosen weights of one layer change, and only what N_e asks for is learnt."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lib.lancet.errors import LancetError
from lib.lancet.repair.fine_tune import fine_tune, similar_errors, transforms_of


class Small(nn.Module):
    """A convolution, a normalisation and two linear layers, in channels_last as trained networks are."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc1 = nn.Linear(4 * 16, 8)
        self.fc2 = nn.Linear(8, 3)

    def forward(self, x):
        x = F.max_pool2d(self.norm(self.conv(x)).relu(), 2).flatten(1)
        return self.fc2(self.fc1(self.drop(x)).relu())


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Small().to(memory_format=torch.channels_last).eval()


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(24, 2, 8, 8, generator=generator)
    return images, torch.randint(0, 3, (24,), generator=generator)


def votes_of(model, layer, chosen):
    counts = torch.zeros_like(model.get_submodule(layer).weight, dtype=torch.int32).contiguous()
    counts.view(-1)[chosen] = torch.arange(1, len(chosen) + 1, dtype=torch.int32)
    return {layer: SimpleNamespace(counts=counts)}


def changed(before, after):
    """Name -> bool tensor, of every parameter and buffer."""
    return {name: before.state_dict()[name] != value for name, value in after.state_dict().items()}


@pytest.mark.parametrize("layer", ["conv", "fc1", "fc2"])
@pytest.mark.parametrize("neurons", ["error-inducing", "random", "all"])
def test_only_the_chosen_weights_change(model, samples, layer, neurons):
    chosen = [1, 5, 7]
    kept = copy.deepcopy(model)
    torch.manual_seed(5)
    tuned, report = fine_tune(
        model, votes_of(model, layer, chosen), samples, samples, layer=layer, neurons=neurons, epochs=3, batch=8,
        learning_rate=0.01,
    )  # fmt: skip
    assert not any(mask.any() for mask in changed(kept, model).values())
    told = changed(model, tuned)
    moved = told.pop(f"{layer}.weight").contiguous().view(-1)
    assert not any(mask.any() for mask in told.values())
    count = model.get_submodule(layer).weight.numel() if neurons == "all" else 3
    assert 0 < int(moved.sum()) <= count == report.weights
    if neurons == "error-inducing":
        assert set(moved.nonzero()[:, 0].tolist()) == set(chosen)
    assert (report.layer, report.steps, report.errors, report.old) == (layer, 3 * 6, 24, 24)
    assert report.fraction == count / model.get_submodule(layer).weight.numel()
    assert not tuned.training and all(parameter.requires_grad for parameter in tuned.parameters())


def test_random_weights_are_drawn_by_the_seed(model, samples):
    votes = votes_of(model, "fc1", list(range(40)))

    def places(seed):
        tuned, _ = fine_tune(model, votes, samples, samples, layer="fc1", neurons="random", epochs=1, seed=seed)
        return changed(model, tuned)["fc1.weight"].view(-1).nonzero()[:, 0].tolist()

    assert places(0) == places(0) != places(1) and set(places(0)) != set(range(40))


def test_the_same_seed_gives_the_same_bytes(model, samples):
    votes = votes_of(model, "conv", [0, 1, 2, 3])
    once, again = (fine_tune(model, votes, samples, samples, layer="conv", seed=3)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), again.state_dict().values(), strict=True))


def test_more_votes_leave_fewer_weights(model, samples):
    votes = votes_of(model, "fc1", [3, 9, 27])  # with 1, 2 and 3 votes
    tuned, report = fine_tune(model, votes, samples, samples, layer="fc1", least_votes=2)
    assert report.weights == 2 and not changed(model, tuned)["fc1.weight"].view(-1)[3]


def test_errors_are_learnt_and_distillation_holds_the_old_features(model, samples):
    images, _ = samples
    with torch.no_grad():
        predicted = model(images).argmax(1)
    errors, old = (images[:12], (predicted[:12] + 1) % 3), (images[12:], predicted[12:])
    votes = votes_of(model, "fc1", list(range(512)))
    far = {}
    for weight in (0.0, 100.0):
        tuned, report = fine_tune(
            model, votes, errors, old, layer="fc1", distillation=weight, epochs=60, batch=24, learning_rate=0.02
        )
        with torch.no_grad():
            features = [net.fc1(F.max_pool2d(net.norm(net.conv(old[0])).relu(), 2).flatten(1)).relu()
                        for net in (model, tuned)]  # fmt: skip
        far[weight] = (features[0] - features[1]).square().mean().item()
        if weight == 0:
            assert report.right_before == 0 and report.right_after > 0.9
    assert far[100.0] < far[0.0] / 5


def test_the_last_layer_is_held_by_its_own_output(model, samples):
    images, labels = samples
    errors, old = (images[:12], labels[:12]), (images[12:], labels[12:])
    votes = votes_of(model, "fc2", list(range(24)))
    far = []
    for weight in (0.0, 100.0):
        tuned, _ = fine_tune(model, votes, errors, old, layer="fc2", distillation=weight, epochs=20, learning_rate=0.05)
        with torch.no_grad():
            far.append((tuned(old[0]) - model(old[0])).square().mean().item())
    assert far[1] < far[0] / 5


def test_the_whole_network_needs_no_votes_and_keeps_its_statistics(model, samples):
    tuned, report = fine_tune(model, None, samples, samples, whole=True, epochs=2)
    told = changed(model, tuned)
    assert told["conv.weight"].any() and told["fc2.weight"].any() and told["norm.weight"].any()
    assert not told["norm.running_mean"].any() and not told["norm.num_batches_tracked"].any()
    assert report.layer == "" and report.weights == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"errors": (torch.zeros(0, 2, 8, 8), torch.zeros(0, dtype=torch.long))}, "errors is empty"),
        ({"layer": "fc9"}, "no layer 'fc9' with weights in this network: one of conv, fc1, fc2"),
        ({"layer": "conv"}, "layer 'conv' has no votes: one of fc1"),
        ({"layer": None}, "no layer is named"),
        ({"neurons": "some"}, "neurons is 'some': one of error-inducing, random, all"),
        ({"epochs": 0}, "epochs and batch are 0 and 64"),
        ({"learning_rate": 1e30}, "lower learning_rate"),
        ({"least_votes": 9}, "no weight of layer 'fc1' has 9 vote"),
        ({"votes": {"fc1": SimpleNamespace(counts=torch.ones(2, 2))}}, "they are of another network"),
        ({"votes": {"fc1": None}}, "pass what `locate` returns"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(model, samples, change, words):
    arguments = {"votes": votes_of(model, "fc1", [1, 2]), "errors": samples, "layer": "fc1"} | change
    kept = copy.deepcopy(model)
    with pytest.raises(LancetError, match=words):
        fine_tune(model, arguments.pop("votes"), arguments.pop("errors"), samples, **arguments)
    assert not any(mask.any() for mask in changed(kept, model).values())


def test_similar_errors_are_wrong_before_and_right_without_the_weights(model, samples):
    images, _ = samples
    chosen = list(range(0, 512, 2))
    with torch.no_grad():
        model.fc1.weight.view(-1)[chosen] *= 20
        model.fc2.weight.mul_(5)
    ablated = copy.deepcopy(model)
    with torch.no_grad():
        ablated.fc1.weight.view(-1)[chosen] = 0
        here, there = model(images).argmax(1), ablated(images).argmax(1)
    labels = there.clone()
    labels[:6] = (here[:6] + 1) % 3  # of those, what M' says is right only where it happens to be this class
    found = similar_errors(model, votes_of(model, "fc1", chosen), "fc1", images, labels, batch=7)
    assert found.tolist() == ((here != labels) & (there == labels)).tolist() and found.any() and not found.all()
    assert not similar_errors(model, votes_of(model, "fc1", chosen), "fc1", images, here).any()
    with pytest.raises(LancetError, match="no layer 'x'"):
        similar_errors(model, votes_of(model, "fc1", chosen), "x", images, labels)


def test_transforms_move_images_within_bounds_and_repeat():
    images = torch.rand(3, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    made = transforms_of(images, copies=4, seed=2)
    assert made.shape == (12, 1, 9, 9) and made.min() >= 0 and made.max() <= 1
    assert torch.equal(made, transforms_of(images, copies=4, seed=2))
    assert not torch.equal(made, transforms_of(images, copies=4, seed=3)) and not torch.equal(made[:3], made[3:6])
    still = transforms_of(images, copies=2, rotation=0, shift=0, zoom=0, brightness=0)
    assert torch.allclose(still, images.repeat(2, 1, 1, 1), atol=1e-6)
    with pytest.raises(LancetError, match="copies is 0"):
        transforms_of(images, copies=0)


def test_a_quarter_turn_is_a_quarter_turn():
    """The draw of the angle is replaced by its upper end."""
    images = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = torch.rand
    try:
        torch.rand = lambda *size, **_: torch.ones(*size)
        turned = transforms_of(images, copies=1, rotation=90, shift=0, zoom=0, brightness=0)
    finally:
        torch.rand = whole
    assert torch.allclose(turned, torch.rot90(images, 1, (2, 3)), atol=1e-5)

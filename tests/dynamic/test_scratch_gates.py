"""Gates on frozen weights: the stated loss and steps, what is chosen, and that nothing else changes."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from training_tools import same, state

from dynamic.nets import SHAPE, build, some_images
from lib import models
from lib.dynamic import cost
from lib.dynamic.channels import gated_sites
from lib.dynamic.errors import DynamicError
from lib.dynamic.scratch import gates as learning
from lib.dynamic.scratch.build import shrink
from lib.dynamic.scratch.gates import Gates, learn_gates

pytestmark = pytest.mark.usefixtures("one_thread")


def test_weights_stay_and_the_model_is_left_as_found():
    model = build("resnet20", trained=False).float().train()
    before = copy.deepcopy(state(model))
    learn_gates(model, *some_images(), epochs=2, batch=16)
    assert same(before, state(model)) and model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_one_seed_one_set_of_gates():
    model, images = build("resnet20", trained=False).float(), some_images()
    one, again, other = (learn_gates(model, *images, epochs=2, batch=16, seed=seed) for seed in (0, 0, 1))
    assert same(one.values, again.values) and not same(one.values, other.values)


def test_the_first_step_is_adams_on_the_stated_loss():
    """Adam's first step moves each gate by the learning rate against the sign of its gradient."""
    model = build("resnet20", trained=False).float()
    images, labels = some_images(40)
    found = learn_gates(model, images, labels, epochs=1, batch=64, learning_rate=0.05, weight=2.0, ratio=0.3)
    fitted = torch.from_numpy(learning.splits.partition(labels.numpy(), 0.1)[0])
    gates = {name: torch.ones(site.channels, requires_grad=True) for name, site in gated_sites(model).items()}
    work = copy.deepcopy(model).train()
    with learning.gated(work, gates):
        logits = work(images[fitted].float() / 255)
    mean = torch.cat(list(gates.values())).mean()
    loss = nn.functional.cross_entropy(logits, labels[fitted]) + 2.0 * (mean - 0.3) ** 2
    loss.backward()
    assert found.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-4)
    for name, gate in gates.items():
        assert gate.grad is not None
        clear = gate.grad.abs() > 1e-4  # a sign that rounding does not turn
        wanted = (1 - 0.05 * gate.grad.sign()).clamp(0, 1)
        assert torch.allclose(found.values[name][clear], wanted[clear], atol=1e-3)


def test_the_penalty_brings_the_mean_down():
    model, images = build("vgg16-bn", trained=False).float(), some_images()
    weak = learn_gates(model, *images, epochs=6, batch=16, weight=0.0, learning_rate=0.05)
    strong = learn_gates(model, *images, epochs=6, batch=16, weight=50.0, learning_rate=0.05)
    assert strong.history[-1]["mean"] < weak.history[-1]["mean"] - 0.1
    for found in (weak, strong):
        chosen = found.history[found.chosen_epoch - 1]
        assert found.mean == pytest.approx(chosen["mean"]) and found.zeros == chosen["zeros"]


@pytest.mark.parametrize(
    ("zeros", "accuracies", "chosen"),
    [
        ([0.1, 0.8, 0.9, 0.85], [0.9, 0.3, 0.4, 0.6], (3, "enough zeros")),
        ([0.1, 0.2, 0.2, 0.15], [0.9, 0.3, 0.5, 0.6], (2, "most zeros")),
        ([0.0, 0.0], [0.2, 0.1], (1, "most zeros")),
    ],
)
def test_the_epoch_that_counts(zeros, accuracies, chosen):
    history = [{"zeros": z, "accuracy": a} for z, a in zip(zeros, accuracies, strict=True)]
    assert learning.choose(history, ratio=0.2) == chosen


def test_a_gate_of_zero_is_a_channel_masked():
    model = build("resnet20")
    mask = {"layer1.0.conv1": torch.tensor([True, False, True, True])}
    images, narrow = torch.rand(2, *SHAPE, dtype=torch.float64), shrink(model, mask)
    with learning.gated(model, {"layer1.0.conv1": mask["layer1.0.conv1"].double()}), torch.no_grad():
        assert torch.allclose(model(images), narrow(images), rtol=1e-9, atol=1e-9)


def test_zeros_and_mean_are_told_apart():
    gates = Gates({"a": torch.tensor([0.0, 0.5]), "b": torch.tensor([1.0, 0.5])}, (), 0.25, 1, "most zeros")
    assert gates.mean == 0.5 and gates.zeros == 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratio": 0.0}, "ratio is 0.0: above 0, up to 1"),
        ({"epochs": 0}, "epochs is 0: from 1"),
        ({"validation": 1.0}, "validation is 1.0: a share between 0 and 1"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, "60 images have 3 labels"),
    ],
)
def test_settings_out_of_range(change, message):
    images, labels = some_images()
    with pytest.raises(DynamicError, match=message):
        learn_gates(build("resnet20").float(), images, change.pop("labels", labels), **change)


def test_gates_and_counts_follow_the_networks_device():
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model = models.build("mobilenet-v2", width=4).eval()
        for module in model.modules():
            for held in (module._parameters, module._buffers):
                for name, value in held.items():
                    if value is not None:
                        moved = value.to("cuda")
                        held[name] = nn.Parameter(moved) if held is module._parameters else moved
        values = {name: torch.ones(site.channels, device="cuda") for name, site in gated_sites(model).items()}
        with learning.gated(model, values):
            assert model(torch.empty(2, *SHAPE, device="cuda")).device.type == "cuda"
        assert sum(cost.layer_macs(model, SHAPE).values()) == cost.macs(models.build("mobilenet-v2", width=4), SHAPE)

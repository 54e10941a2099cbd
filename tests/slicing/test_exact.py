"""Slices equal those of the plain rule, one output neuron at a time, to the last contribution."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lib.slicing import effective_path, profile, slice
from lib.slicing.kinds import Graph
from lib.slicing.profiling import NeuronProfile
from slicing import networks, reference

ENGINES = ["compiled", "tensor"]


def profiled(model, images, classes):
    """A profile of what the network predicts, so that no class it predicts is without a mean."""
    with torch.no_grad():
        predicted = Graph(model).record(images, ())[0][Graph(model).output].argmax(1)
    return profile(model, images, predicted, classes)


def agree(model, images, found, known, start=None, theta=None, bar=0.01, kind="predicted"):
    """Slices, or those of several engines in a list, are the reference's."""
    graph = Graph(model)
    every = found if isinstance(found, list) else [found]
    for index in range(len(every[0])):
        synapses, neurons, _ = reference.slice_of(graph, images, index, known, kind, theta, bar, start)
        for found in every:
            assert set(found.synapses) == set(synapses)
            for layer, wanted in synapses.items():
                here = f"{layer}, input {index}"
                np.testing.assert_array_equal(found.synapses[layer][index].numpy(), wanted, err_msg=here)
            for layer, value in found.neurons.items():
                wanted = sum(neurons[op.name] for op in graph.layers[layer])
                if known is None:
                    wanted = (wanted != 0).astype(np.int32)
                here = f"neurons of {layer}, input {index}"
                np.testing.assert_array_equal(value[index].numpy(), wanted, err_msg=here)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("whole", [False, True], ids=["real", "ties"])
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_slices_equal_the_plain_rule(name, whole, engine):
    for seed in (0, 1):
        model, images = networks.build(name, seed, whole)
        known = profiled(model, images, 5)
        agree(model, images, slice(model, images[:3], known, engine=engine), known)
        agree(model, images, effective_path(model, images[:3], engine=engine), None)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_mean_over_the_whole_set(engine):
    model, images = networks.build("branches", 3)
    known = profiled(model, images, 5)
    found = slice(model, images[:3], known, reference="dataset", engine=engine)
    agree(model, images, found, known, kind="dataset")
    assert any(
        (found.synapses[layer] != value).any() for layer, value in slice(model, images[:3], known).synapses.items()
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("theta", "bar"), [(0.0, 0.0), (0.02, 0.0), (0.5, 0.3), (0.9, 0.01)])
def test_other_granularities(theta, bar, engine):
    model, images = networks.build("branches", 4)
    known = profiled(model, images, 5)
    agree(model, images, slice(model, images[:2], known, theta, bar, engine=engine), known, theta=theta, bar=bar)
    agree(model, images, effective_path(model, images[:2], max(theta, 0.1), engine=engine), None, theta=max(theta, 0.1))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["branches", "preact"])
def test_one_mean_a_channel(family, engine):
    """Sums no longer add up to the outputs' deviations, as the means ignore padding and positions."""
    model, images = networks.build(family, 14)
    known = profiled(model, images, 5)
    pooled = known.of_channels()
    for name, means in pooled.by_class.items():
        places = tuple(range(2, means.ndim))
        assert torch.allclose(means, means.amax(places, keepdim=True)) if places else means is known.by_class[name]
        assert torch.allclose(means.flatten(2).mean(2), known.by_class[name].flatten(2).mean(2)) if places else True
    found = slice(model, images[:3], pooled, engine=engine)
    agree(model, images, found, pooled)
    assert any((found.synapses[k] != v).any() for k, v in slice(model, images[:3], known).synapses.items())


def without_deviations(known: NeuronProfile, model, images) -> NeuronProfile:
    """A profile whose means are the first image's own values: all its deviations are 0."""
    values, _ = Graph(model).record(images[:1], known.by_class)
    return NeuronProfile(
        {k: values[k].expand(len(known.counts), *values[k].shape[1:]) for k in known.by_class},
        known.counts.clamp(min=1),
        known.layers,
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_kept_where_nothing_deviates(engine):
    model, images = networks.build("branches", 5)
    known = without_deviations(profiled(model, images, 5), model, images)
    found = slice(model, images[:1], known, engine=engine)
    assert all((value == 0).all() for value in found.synapses.values())
    agree(model, images, found, known)
    twice = torch.cat([images[:1], images[1:2]])  # and beside an image that does deviate
    agree(model, twice, slice(model, twice, known, engine=engine), known)


@pytest.mark.parametrize("engine", ENGINES)
def test_equal_values_everywhere(engine):
    model, images = networks.build("convolutional", 6)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.fill_(0.25)
    flat = torch.full_like(images[:2], 0.75)
    agree(model, flat, effective_path(model, flat, engine=engine), None)
    known = profiled(model, images, 5)
    agree(model, flat, slice(model, flat, known, reference="dataset", engine=engine), known, kind="dataset")


@pytest.mark.parametrize("engine", ENGINES)
def test_criteria(engine):
    model, images = networks.build("branches", 7)
    known, graph = profiled(model, images, 5), Graph(model)
    agree(model, images, slice(model, images[:2], known, criterion=3, engine=engine), known, [(graph.output, (3,))])
    several = slice(model, images[:2], known, criterion=[1, 4], engine=engine)
    agree(model, images, several, known, [(graph.output, (1,)), (graph.output, (4,))])
    hidden = slice(model, images[:2], known, criterion=("depthwise", (2, 1, 0)), engine=engine)
    agree(model, images, hidden, known, [(graph.layers["depthwise"][0].name, (2, 1, 0))])
    assert (hidden.synapses["fc"] == 0).all() and (hidden.synapses["stem"] != 0).any()
    each = slice(model, images[:3], known, criterion=torch.tensor([2, 0, 4]), engine=engine)
    for k, logit in enumerate((2, 0, 4)):
        alone = slice(model, images[k : k + 1], known, criterion=logit, engine=engine)
        assert all(torch.equal(alone.synapses[layer][0], each.synapses[layer][k]) for layer in each.synapses)


def test_threads_and_chunks_change_nothing():
    model, images = networks.build("preact", 8)
    known = profiled(model, images, 5)
    whole = slice(model, images, known, threads=1)
    parts = slice(model, images, known, threads=3, memory=1)
    assert len(whole) == len(parts) == len(images)
    for layer in whole.synapses:
        assert torch.equal(whole.synapses[layer], parts.synapses[layer])
    for layer in whole.neurons:
        assert torch.equal(whole.neurons[layer], parts.neurons[layer])


class OptionA(nn.Module):
    """A residual block whose shortcut takes every second pixel and pads the channels with zeros."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.widen = (outputs - inputs) // 2

    def forward(self, x):
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.widen:
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.widen, self.widen))
        return torch.relu(out + x)


class ResNet20(nn.Module):
    """The CIFAR-10 ResNet of He et al. 2016, section 4.2, with n = 3; names as in the published weights."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for stage, (inputs, outputs) in enumerate([(16, 16), (16, 32), (32, 64)], 1):
            blocks = [
                OptionA(inputs if k == 0 else outputs, outputs, 2 if stage > 1 and k == 0 else 1) for k in range(3)
            ]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


@pytest.fixture(scope="module")
def published():
    path = Path(os.environ.get("DATA_ROOT", "data")) / "cifar10-resnet-weights" / "resnet20-12fca82f.th"
    if not path.exists():
        pytest.skip(f"{path}: the published ResNet-20 weights are not there")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model = ResNet20()
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return model.eval()


@pytest.mark.slow
def test_a_published_resnet(published):
    from lib import data

    try:
        test = data.load("cifar10", "test").subset(range(300))
    except data.DataError as error:
        pytest.skip(str(error))
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    images = (test.float() - mean) / std
    with torch.no_grad():
        predicted = published(images).argmax(1)
    assert (predicted == test.labels).double().mean() > 0.88  # published: 91.7 % of the whole test set
    known = profile(published, images, test.labels, 10)
    agree(published, images, [slice(published, images[:1], known, engine=engine) for engine in ENGINES], known)


def test_the_sign_of_a_sum_is_the_sign_of_the_deviation():
    """In exact arithmetic the terms of a weighted sum add up to its output's deviation: a test of the mean profile."""
    model, images = networks.build("preact", 9)
    known = profiled(model, images, 5)
    graph = Graph(model)
    values, _ = graph.record(images, graph.values_needed())
    predicted = values[graph.output].argmax(1)
    for op in graph.operations.values():
        if op.kind in ("convolution", "linear"):
            dx, dy = (values[n] - known.mean(n, "predicted", predicted) for n in (op.inputs[0], op.name))
            bias = op.module.bias
            again = op.module(dx) - (0 if bias is None else bias.view(-1, *[1] * (dx.ndim - 2)))
            torch.testing.assert_close(again, dy, atol=1e-12, rtol=0)


def transposed(seed):
    """A transposed convolution of any geometry, and images for it."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    two = lambda *choices: (draw.choice(choices), draw.choice(choices))  # noqa: E731
    groups, kernel, stride, dilation = draw.choice([1, 2, 3]), two(1, 2, 3, 4), two(1, 2, 3, 4), two(1, 2, 3)
    extra = tuple(draw.randrange(max(s, d)) for s, d in zip(stride, dilation, strict=True))
    sides = (draw.choice([1, 2, 3]), draw.choice([2, 5]))
    reach = [
        (n - 1) * s + (k - 1) * d + e for n, s, k, d, e in zip(sides, stride, kernel, dilation, extra, strict=True)
    ]
    padding = tuple(draw.randint(0, min(3, r // 2)) for r in reach)
    outputs = groups * draw.choice([1, 2])
    layer = nn.ConvTranspose2d(2 * groups, outputs, kernel, stride, padding, extra, groups, seed % 2 == 0, dilation)
    return layer, torch.rand(6, 2 * groups, *sides)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(12))
def test_transposed_convolutions_of_any_geometry(seed, engine):
    layer, images = transposed(seed)
    with torch.no_grad():
        size = layer(images)[0].numel()
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.Linear(size, 3)).eval()
    known = profiled(model, images, 3)
    agree(model, images, slice(model, images[:2], known, reference="dataset", engine=engine), known, kind="dataset")
    agree(model, images, effective_path(model, images[:2], engine=engine), None)


@pytest.mark.parametrize("seed", range(12))
def test_the_reference_sums_up_to_what_torch_computes(seed):
    layer, images = transposed(seed)
    layer.bias = None
    model = nn.Sequential(layer, nn.Flatten()).eval()
    graph = Graph(model)
    values, _ = graph.record(images[:1], graph.values_needed())
    sums = {}

    class Sums(reference.Reference):
        def local(self, v, dy, contribution):
            sums[dy] = sum(v)
            return {}

    name = graph.layers["0"][0].name
    out = values[name][0]
    places = list(np.ndindex(*out.shape))
    Sums(graph, {k: value.numpy() for k, value in values.items()}).run([(name, p) for p in places])
    assert set(sums) == {float(v) for v in out.flatten()} - {0.0}  # outputs of zero are those that nothing reaches
    for wanted, found in sums.items():
        assert found == pytest.approx(wanted, abs=1e-12)


class Written(nn.Module):
    """A step between a convolution and a linear layer."""

    def __init__(self, step, size):
        super().__init__()
        self.conv, self.step, self.fc = nn.Conv2d(2, 4, 3, padding=1), step, nn.Linear(size, 3)

    def forward(self, x):
        return self.fc(self.step(self.conv(x)).flatten(1))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("one", "other", "size"),
    [
        (lambda x: x.amax((-2, -1), keepdim=True), lambda x: nn.functional.adaptive_max_pool2d(x, 1), 4),
        (lambda x: torch.amax(x, -1), lambda x: nn.functional.max_pool2d(x, (1, 5)), 16),
        (lambda x: x.flatten(2).amax(dim=2), lambda x: nn.functional.max_pool2d(x, (4, 5)), 4),
        (lambda x: torch.stack([x, x], -1), lambda x: torch.cat([x.unsqueeze(-1), x.unsqueeze(-1)], -1), 160),
        (lambda x: torch.stack((x, -x), dim=1), lambda x: torch.cat([x.unsqueeze(1), -x.unsqueeze(1)], 1), 160),
    ],
    ids=["amax of maps", "amax of rows", "amax of positions", "stack at the end", "stack before the channels"],
)
def test_two_ways_of_writing_a_step(one, other, size, engine):
    torch.manual_seed(0)
    first, second = Written(one, size).eval(), Written(other, size).eval()
    second.load_state_dict(first.state_dict())
    images = torch.rand(6, 2, 4, 5)
    known = [profiled(model, images, 3) for model in (first, second)]
    found = [
        slice(model, images, each, reference="dataset", engine=engine)
        for model, each in zip((first, second), known, strict=True)
    ]
    paths = [effective_path(model, images, engine=engine) for model in (first, second)]
    for here, there in (found, paths):
        assert here.synapses["conv"].any()
        for layer, value in here.synapses.items():
            assert torch.equal(value, there.synapses[layer])
        assert torch.equal(here.neurons["input"], there.neurons["input"])


def test_a_maximum_over_everything_is_refused_by_name():
    model = Written(lambda x: x * x.amax(), 80).eval()
    with pytest.raises(ValueError, match="amax"):
        effective_path(model, torch.rand(2, 2, 4, 5))

"""lib.slicing: what goes in, what comes out, and what is said where a network or an argument does not fit."""

import numpy as np
import pytest
import torch
from torch import nn

from lib.slicing import Slices, SlicingError, class_scores, effective_path, feature_map, profile, slice
from lib.slicing.kinds import Graph, last_convolution
from lib.slicing.profiling import NeuronProfile
from lib.slicing.rules import EffectivePath, NNSlicer
from slicing import networks
from slicing.test_exact import profiled


@pytest.fixture(scope="module")
def subject():
    model, images = networks.build("branches", 1)
    return model, images, profiled(model, images, 5)


def test_what_comes_out(subject):
    model, images, known = subject
    found = slice(model, images[:3], known)
    weights = {name: m.weight for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert {layer: value.shape for layer, value in found.synapses.items()} == {
        layer: (3, *weight.shape) for layer, weight in weights.items()
    }
    assert all(value.dtype == torch.int32 for value in (*found.synapses.values(), *found.neurons.values()))
    assert found.neurons["input"].shape == images[:3].shape and found.neurons["stem"].shape == (3, 6, 9, 8)
    assert torch.equal(found.predicted, Graph(model).record(images[:3], ())[0][Graph(model).output].argmax(1))
    start = torch.nn.functional.one_hot(found.predicted, 5).int()
    assert torch.equal(found.neurons["fc"], start)
    path = effective_path(model, images[:3])
    assert all(set(value.unique().tolist()) <= {0, 1} for value in (*path.synapses.values(), *path.neurons.values()))


def test_the_network_and_the_random_state_stay_as_they_are(subject):
    model, images, known = subject
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    slice(model, images[:1], known)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(value.dtype == before[key].dtype for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.relu.inplace and next(model.parameters()).requires_grad


def test_bytes_are_read_as_images_in_0_1(subject):
    model, images, known = subject
    whole = (images * 255).round().to(torch.uint8)
    a, b = slice(model, whole[:2], known), slice(model, whole[:2].double() / 255, known)
    assert all(torch.equal(a.synapses[layer], b.synapses[layer]) for layer in a.synapses)


def test_stopping_at_a_layer(subject):
    model, images, known = subject
    whole = slice(model, images[:2], known)
    some = slice(model, images[:2], known, layers=["depthwise", "maximum"])
    assert set(some.synapses) == {"depthwise"} and set(some.neurons) == {"depthwise", "maximum"}
    assert torch.equal(some.synapses["depthwise"], whole.synapses["depthwise"])


def test_slices_of_several_inputs(subject, tmp_path):
    model, images, known = subject
    found = slice(model, images[:4], known)
    assert len(found) == 4 and len(found[1]) == 1 and len(found[torch.tensor([True, False, True, False])]) == 2
    merged = found.merge()
    assert torch.equal(merged.synapses["stem"][0], found.synapses["stem"].sum(0))
    assert torch.equal(found.magnitude()["stem"], found.synapses["stem"].abs().sum(0))
    both = Slices.concatenate([found[0:2], found[2:4]])
    assert torch.equal(both.synapses["fc"], found.synapses["fc"]) and torch.equal(both.predicted, found.predicted)
    again = Slices.load(found.save(tmp_path / "slices.safetensors"))
    for kind in ("synapses", "neurons"):
        assert getattr(again, kind).keys() == getattr(found, kind).keys()
        assert all(torch.equal(getattr(again, kind)[k], v) for k, v in getattr(found, kind).items())
    (tmp_path / "slices.safetensors").write_bytes(b"torn")
    with pytest.raises(SlicingError, match="holds no slices, or it is damaged"):
        Slices.load(tmp_path / "slices.safetensors")


def test_overlaps_are_those_of_sets(subject):
    model, images, known = subject
    found = slice(model, images[:4], known)
    overlap, held = found.jaccard(found, ["stem", "fc"]), found.containment(found, ["stem", "fc"])
    for a in range(4):
        for b in range(4):
            sets = [
                {(layer, *place) for layer in ("stem", "fc") for place in found.synapses[layer][k].nonzero().tolist()}
                for k in (a, b)
            ]
            united = len(sets[0] | sets[1])
            assert overlap[a, b] == (len(sets[0] & sets[1]) / united if united else 1)
            assert held[a, b] == (len(sets[0] & sets[1]) / len(sets[0]) if sets[0] else 1)


@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_sparse_slices_hold_the_same_values(subject, layout):
    model, images, known = subject
    found = slice(model, images[:4], known)
    matrix = found.sparse(["stem", "fc"], layout)
    dense = np.hstack([found.synapses[layer].flatten(1).numpy() for layer in ("stem", "fc")])
    assert matrix.format == layout and matrix.dtype == np.int8
    np.testing.assert_array_equal(matrix.toarray(), dense)
    large = Slices({"a": torch.tensor([[300, -1]], dtype=torch.int32)}, {}, torch.zeros(1))
    assert large.sparse().dtype == np.int16 and large.sparse().toarray().tolist() == [[300, -1]]


def test_a_profile_is_the_mean_of_each_class_and_over_all(tmp_path):
    model, images = networks.build("convolutional", 2)
    labels = torch.arange(12) % 4
    graph = Graph(model)
    names = graph.means_needed()
    values, _ = graph.record(images, names)
    correct = values[graph.output].argmax(1) == labels
    assert 2 <= correct.sum() < 12
    known = profile(model, images, labels, 4, batch_size=5)
    assert known.counts.tolist() == [int((correct & (labels == k)).sum()) for k in range(4)]
    for name in names:
        torch.testing.assert_close(known.mean(name)[0], values[name][correct].mean(0))
        for k in range(4):
            if known.counts[k]:
                mine = known.mean(name, "predicted", torch.tensor([k]))[0]
                torch.testing.assert_close(mine, values[name][correct & (labels == k)].mean(0))
    fewer = profile(model, images, labels, 4, per_class=1)
    assert fewer.counts.tolist() == [min(1, n) for n in known.counts.tolist()]
    torch.testing.assert_close(fewer.mean(names[0]), profile(model, images, labels, 4, 1, batch_size=2).mean(names[0]))
    torch.testing.assert_close(known.input_mean("0"), images[correct].double().mean(0))
    again = NeuronProfile.load(known.save(tmp_path / "profile.safetensors"))
    assert again.layers == known.layers and all(torch.equal(again.by_class[n], known.by_class[n]) for n in names)
    (tmp_path / "profile.safetensors").write_bytes((tmp_path / "profile.safetensors").read_bytes()[:-9])
    with pytest.raises(SlicingError, match="not a neuron profile, or it is damaged"):
        NeuronProfile.load(tmp_path / "profile.safetensors")


def test_one_mean_for_all_classes_is_the_mean_over_all_and_takes_the_memory_of_one():
    model, images = networks.build("preact", 2)
    labels = torch.arange(len(images)) % 4
    known, one = profile(model, images, labels, 4), profile(model, images, labels, 4, batch_size=5, together=True)
    assert one.counts.tolist() == [int(known.counts.sum())]
    for name, means in one.by_class.items():
        assert means.shape == (1, *known.by_class[name].shape[1:])
        torch.testing.assert_close(one.mean(name), known.mean(name))
    ours, theirs = (slice(model, images[:3], each, reference="dataset") for each in (one, known))
    same = [(ours.synapses[k] == v).double().mean().item() for k, v in theirs.synapses.items()]
    assert min(same) > 0.99, "but for deviations that are zero in one of them"
    with pytest.raises(SlicingError, match="one mean for all classes"):
        slice(model, images[:1], one)
    limited = profile(model, images, labels, 4, per_class=1, together=True)
    assert limited.counts.tolist() == [int((known.counts > 0).sum())]


def test_scores_are_sums_over_the_right_images_of_a_class(subject):
    model, images, known = subject
    found = slice(model, images, known)
    labels = found.predicted.clone()
    labels[0] = (labels[0] + 1) % 5  # a wrong one
    scores = class_scores(model, images, labels, 5, "nnslicer", known)
    right = labels == found.predicted
    for layer, value in scores.items():
        for k in range(5):
            mine = found.synapses[layer][right & (labels == k)]
            assert torch.equal(value[k], mine.abs().sum(0, dtype=torch.int64))
        together = class_scores(model, images, labels, 5, "nnslicer", known, layers=[layer], together=True)
        assert torch.equal(together[layer], value.sum(0, keepdim=True))
    paths = class_scores(model, images, labels, 5, "effective-path")
    assert paths["stem"].max() <= len(images) and any((paths[k] != scores[k]).any() for k in paths)
    with pytest.raises(SlicingError, match="needs the network's profile"):
        class_scores(model, images, labels, 5)
    with pytest.raises(SlicingError, match="method is 'lrp': one of nnslicer, effective-path"):
        class_scores(model, images, labels, 5, "lrp")


def test_feature_map_is_the_last_residual_sum():
    model, images = networks.build("preact", 3)
    seen = {}
    hook = model.blocks[3].register_forward_hook(lambda *given: seen.update(value=given[2]))
    model(images)
    hook.remove()
    torch.testing.assert_close(feature_map(model, images, batch_size=5), seen["value"].flatten(1))
    assert feature_map(model, images, "stem").shape == (12, 2 * 8 * 8)
    with pytest.raises(SlicingError, match="'x' 0 times"):
        feature_map(model, images, "x")
    with pytest.raises(SlicingError, match="no residual addition: name a layer"):
        feature_map(*networks.build("linear"))
    assert last_convolution(model) == "blocks.3.conv2"


class Scaled(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.a, self.b, self.how = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1), how
        self.c = nn.Conv2d(1, 1, 1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        if self.how == "alpha":
            y = torch.add(self.a(x), self.b(x), alpha=2)
        elif self.how == "quotient":
            y = self.a(x) / (2 + self.b(x))
        elif self.how == "broadcast":
            y = self.a(x) + self.c(x)
        elif self.how == "softmax":
            y = self.a(x).softmax(1)
        elif self.how == "mean":
            y = self.a(x) - self.a(x).mean((1, 2), keepdim=True)
        else:
            y = self.a(x) if x.sum() > 0 else self.b(x)
        return self.fc(y.flatten(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scaled("alpha"), r"add\(\) in .* is a scaled addition"),
        (lambda: Scaled("quotient"), r"truediv\(\) in .* combines two activations"),
        (lambda: Scaled("broadcast"), r"broadcasts \(2, 2, 2\) and \(1, 2, 2\)"),
        (lambda: Scaled("softmax"), r"method .softmax\(\) in .* cannot be sliced: known are Conv2d"),
        (lambda: Scaled("mean"), r"combines two activations"),
        (lambda: Scaled("control flow"), "Scaled cannot be traced by torch.fx"),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(nn.Softmax2d()), nn.Flatten(), nn.Linear(4, 3)),
            r"Softmax2d at '1\.0' cannot be sliced",
        ),
        (
            lambda: nn.Sequential(
                nn.Conv2d(1, 2, 1, padding_mode="circular", padding=1), nn.Flatten(), nn.Linear(32, 3)
            ),
            "Conv2d at '0' pads by 'circular'",
        ),
        (lambda: nn.Sequential(nn.MaxPool2d(2, return_indices=True)), "MaxPool2d at '0' returns indices"),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 1, 2, padding="same"), nn.Flatten(), nn.Linear(4, 3)),
            "Conv2d at '0' pads one side more than the other",
        ),
    ],
)
def test_what_cannot_be_sliced_is_said_with_its_module(make, message):
    model, images = make().eval(), torch.rand(2, 1, 2, 2)
    with pytest.raises(SlicingError, match=message):
        effective_path(model, images)


def test_arguments_that_do_not_fit(subject):
    model, images, known = subject
    other, others = networks.build("linear", 0)
    for call, message in (
        (
            lambda: slice(model, images[0], known),
            r"images have shape \(2, 9, 8\): want \(N, C, H, W\), floating .* with N from 1",
        ),
        (lambda: slice(model, images[:0], known), "with N from 1"),
        (lambda: slice(model, images, known, theta=1.0), "theta is 1.0: a share from 0 to below 1"),
        (lambda: slice(model, images, known, bar=-0.1), "bar is -0.1"),
        (lambda: slice(model, images, known, reference="mean"), "reference is 'mean': one of predicted, dataset"),
        (lambda: slice(model, images, known, layers=["fc9"]), "calls no layer 'fc9': one of input, stem"),
        (lambda: slice(model, images, known, criterion=5), r"logits are whole numbers in 0\.\.4"),
        (
            lambda: slice(model, images, known, criterion=torch.zeros(3, dtype=torch.int64)),
            "for 3 inputs, and there are 12",
        ),
        (lambda: slice(model, images, known, criterion=("stem", (9, 0, 0))), r"has neurons \(6, 9, 8\)"),
        (lambda: slice(model, images, known, criterion=("stem", (0,))), "names 72 neurons: one is wanted"),
        (lambda: slice(model, images, known, engine="gpu"), "engine is 'gpu'"),
        (lambda: slice(model, images, known, engine="fused"), "the fused engine runs on a GPU; the network is on cpu"),
        (lambda: slice(model, images, known, limit=1000), "slices of 12 inputs would take .* keep fewer `layers`"),
        (lambda: slice(other, others, known), "no mean of .*: it is of another network"),
        (lambda: effective_path(model, images, theta=0), "theta is 0"),
        (lambda: profile(model, images, torch.zeros(3), 5), "12 images have 3 labels"),
        (lambda: profile(model, images, torch.full((12,), 7), 5), r"labels lie in 7\.\.7: 0\.\.4"),
    ):
        with pytest.raises(SlicingError, match=message):
            call()
    wrong = (slice(model, images, known).predicted + 1) % 5
    with pytest.raises(SlicingError, match="classifies none of 12 images correctly: train it first"):
        profile(model, images, wrong, 5)
    missing = NeuronProfile(known.by_class, torch.zeros_like(known.counts), known.layers)
    with pytest.raises(SlicingError, match=r"no image of class .*, which the network predicts here"):
        slice(model, images, missing)


def test_memory_of_a_chunk_is_bounded(subject, monkeypatch):
    from lib.slicing import backward

    model, images, known = subject
    sizes = []
    run = backward._Backward.run
    monkeypatch.setattr(backward._Backward, "run", lambda self, part, c: sizes.append(len(part)) or run(self, part, c))
    each = backward._Backward(model, NNSlicer(known), None, 1, "auto").bytes_each(images[:1])
    slice(model, images, known, memory=5 * each)
    assert sizes == [5, 5, 2]
    held = sum(v.numel() * 4 for part in [slice(model, images[:1], known)] for v in part.synapses.values())
    assert each > 2 * held  # values, contributions and the result


@pytest.mark.parametrize("rule", [NNSlicer, EffectivePath])
def test_the_tensor_engine_leaves_nothing_on_the_cpu(subject, rule):
    """On a fake GPU: raises on any tensor that was left behind; values cannot be looked at there."""
    from torch._subclasses import FakeTensorMode

    from lib.slicing.tensors import Engine
    from lib.slicing.windows import Convolution

    chosen = NNSlicer(subject[2]) if rule is NNSlicer else EffectivePath()
    with FakeTensorMode():
        engine = Engine(chosen, torch.device("cuda"))
        terms = torch.rand(7, 12, dtype=torch.float64, device="cuda")
        inside = torch.ones(7, 12, dtype=torch.bool, device="cuda")
        taps = engine._taps(
            torch.Size((2, 3, 5, 5)), torch.Size((2, 4, 5, 5)), Convolution((1, 1), (1, 1), (1, 1), 1, (3, 3))
        )
        assert taps.device.type == "cuda" and taps.shape == (1, 25, 27)
        assert engine._error(terms).device.type == "cuda"
        assert engine.zeros((2, 3)).device.type == "cuda"
        assert engine.marks(inside.to(torch.int8), terms.int()).device.type == "cuda"

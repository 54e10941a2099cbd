"""The factorisation against the original, against gradient descent, and the nuclear norm against autograd."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from lib import training
from lib.config import Recipe
from lib.robustness import NuclearNorm, decompose, low_rank, nuclear_norm
from lib.robustness.low_rank import FactorisedLinear, effective_weights, factorise_kernel, rank_rule
from robustness.nets import image_set, small

CONVOLUTIONS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": 3, "stride": (1, 2), "padding": (2, 0), "dilation": (2, 1)},
    {"kernel_size": (5, 3), "padding": "same"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
]


@pytest.mark.parametrize("arguments", CONVOLUTIONS)
def test_full_rank_equals_the_original(arguments):
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, **arguments)).double()
    images = torch.rand(3, 2, 12, 11, dtype=torch.float64)
    expected = model(images)
    shapes = {name: p.shape for name, p in decompose(model, 100.0).named_parameters()}
    assert torch.allclose(model(images), expected, atol=1e-12)
    height, width = model[1].vertical.kernel_size[0], model[1].horizontal.kernel_size[1]
    assert shapes["1.vertical.weight"] == (min(4 * height, 6 * width), 4, height, 1)
    assert shapes["1.horizontal.weight"] == (6, min(4 * height, 6 * width), 1, width)
    assert "1.vertical.bias" not in shapes
    assert ("1.horizontal.bias" in shapes) == arguments.get("bias", True)


def test_product_of_the_factors_is_the_truncated_svd():
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(60, 80), nn.Linear(80, 5)
    )
    conv, linear = model[1].weight.detach(), model[3].weight.detach()
    decompose(model, 0.5)
    effective = effective_weights(model)
    assert list(effective) == ["0", "1", "3", "4"]
    for name, matrix, rank in [
        ("1", conv.permute(1, 2, 3, 0).reshape(12, 18), round(0.5 * 12 * 18 / 30)),
        ("3", linear, round(0.5 * 60 * 80 / 140)),
    ]:
        u, s, vh = torch.linalg.svd(matrix)
        best = u[:, :rank] * s[:rank] @ vh[:rank]
        found = effective[name].permute(1, 2, 3, 0).reshape(12, 18) if name == "1" else effective[name]
        assert torch.allclose(found, best, atol=1e-5)
        assert torch.linalg.matrix_rank(found, atol=1e-4) == rank


def test_gradient_descent_finds_nothing_better():
    torch.manual_seed(0)
    kernel = torch.randn(5, 3, 3, 3, dtype=torch.float64)

    def distance(vertical, horizontal):
        return (kernel - torch.einsum("nkj,kci->ncij", horizontal[:, :, 0], vertical[..., 0])).norm()

    vertical, horizontal = factorise_kernel(kernel, 4)
    closed = distance(vertical, horizontal)
    start = [torch.randn_like(vertical).requires_grad_(), torch.randn_like(horizontal).requires_grad_()]
    descent = torch.optim.LBFGS(start, max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure():
        descent.zero_grad()
        loss = distance(*start) ** 2
        loss.backward()
        return loss

    descent.step(closure)
    assert closed <= distance(*start) + 1e-9
    assert distance(*start).item() == pytest.approx(closed.item(), rel=1e-4)  # it got there, and no lower


def test_rank_rule_counts_weights():
    assert rank_rule((16, 16, 3, 3), 1.0) == 24  # 24 * 3 * (16 + 16) = 16 * 16 * 9
    assert rank_rule((16, 16, 3, 3), 0.25) == 6
    assert rank_rule((100, 300), 1.0) == 75
    assert rank_rule((64, 3, 3, 3), 9.0) == 9  # the full rank
    assert rank_rule((4, 4, 3, 3), 1e-6) == 1


def test_what_stays_whole():
    model: Any = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 10)
    )
    decompose(model, 0.5)
    kinds = [type(layer).__name__ for layer in model]
    assert kinds == ["Conv2d", "Conv2d", "FactorisedConv2d", "FactorisedConv2d", "Flatten", "Linear"]
    assert isinstance(decompose(nn.Linear(80, 90), 0.5), FactorisedLinear)


def test_structure_follows_from_shapes_and_is_traced():
    one, two = small(0), small(1)
    decompose(one, 0.4)
    decompose(two, 0.4)
    two.load_state_dict(one.state_dict())
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(one(images), two(images))
    targets = [str(node.target) for node in torch.fx.symbolic_trace(one).graph.nodes]
    assert {"3.vertical", "3.horizontal"} <= set(targets)
    assert not one[3].training and not one[3].vertical.training
    assert all(module.training for module in decompose(small().train(), 0.4).modules())


def test_refusals():
    grouped = decompose(nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=2)), 0.5)
    assert isinstance(grouped.get_submodule("1"), nn.Conv2d)
    with pytest.raises(ValueError, match="rank_ratio"):
        decompose(small(), 0.0)


def test_follows_the_device():
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        model: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 70))
        decompose(model, 0.5)
        assert {p.device.type for p in model.parameters()} == {"cuda"}
        assert model(torch.rand(2, 3, 8, 8)).device.type == "cuda"
        assert nuclear_norm(model[0].weight.detach()).device.type == "cuda"


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (10, 4), (4, 10), (5, 5)])
def test_nuclear_norm_and_its_gradient(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    expected = torch.linalg.svdvals(weight.reshape(shape[0], -1)).sum()
    (gradient,) = torch.autograd.grad(expected, weight)
    norm = nuclear_norm(weight)
    assert norm.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.allclose(torch.autograd.grad(3 * norm, weight)[0], 3 * gradient, atol=1e-9)


def test_nuclear_norm_of_a_matrix_without_full_rank():
    """At rank 1, s u v^T: norm s, and the subgradient of least norm u v^T."""
    u, v = torch.tensor([0.6, 0.8]), torch.tensor([1.0, 0.0, 0.0])
    weight = (5 * torch.outer(u, v)).requires_grad_()
    (gradient,) = torch.autograd.grad(nuclear_norm(weight), weight)
    assert torch.allclose(gradient, torch.outer(u, v), atol=1e-6)
    assert nuclear_norm(torch.zeros(3, 3)).item() == 0.0


def test_penalty_lowers_the_norm_in_training():
    recipe = Recipe(arch="digits-cnn", data="mnist5k", epochs=3, batch=16, learning_rate=0.02, weight_decay=0.0)
    norms = {}
    for case, hooks in {
        "none": [],
        "zero": [NuclearNorm(0.0)],
        "each": [NuclearNorm(0.3)],
        "every": [NuclearNorm(0.3, every=3)],
    }.items():
        model = small()
        training.fit(model, image_set(), recipe, hooks=hooks, device="cpu")
        norms[case] = sum(nuclear_norm(weight).item() for weight in effective_weights(model).values())
    assert norms["zero"] == norms["none"]
    assert norms["each"] < 0.9 * norms["none"]
    assert norms["every"] == pytest.approx(norms["each"], rel=0.05)


def test_weights_that_are_not_finite_end_in_the_loops_error():
    model = small()
    nn.init.constant_(model[3].weight, float("inf"))
    recipe = Recipe(arch="digits-cnn", data="mnist5k", epochs=1, batch=16)
    with pytest.raises(training.TrainingError, match="loss is nan"):
        training.fit(model, image_set(), recipe, hooks=[NuclearNorm(0.1)], device="cpu")


@pytest.mark.parametrize("every", [1, 10, 50])
def test_the_pull_is_the_same_however_seldom_it_is_used(every):
    """Descent on the penalty alone, at a rate: after 100 steps each singular value is lower by 100 * rate * lambda."""
    torch.manual_seed(0)
    layer, rate, strength = nn.Linear(7, 5, bias=False).double(), 0.02, 0.05
    u, _, v = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    values = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_((u * values) @ v)
    hook, used = NuclearNorm(strength, every=every), 0
    hook.begin(SimpleNamespace(model=layer))
    for step in range(100):
        nothing = 0.0 * layer.weight.sum()
        loss = hook.loss(SimpleNamespace(step=step), nothing, torch.empty(0), torch.empty(0))
        used += loss is not nothing
        layer.weight.grad = None
        loss.backward()
        with torch.no_grad():
            layer.weight.sub_(rate * layer.weight.grad)
    assert used == 100 // every
    expected = (u * (values - 100 * rate * strength)) @ v  # the directions stay
    assert torch.allclose(layer.weight, expected, atol=1e-9)


@pytest.mark.parametrize("every", [1, 50])
def test_a_value_below_one_pull_swings_about_zero(every):
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(layer.weight, 0.004)
    hook, seen = NuclearNorm(1.0, every=every), []
    hook.begin(SimpleNamespace(model=layer))
    for step in range(20 * every):
        layer.weight.grad = None
        hook.loss(SimpleNamespace(step=step), 0.0 * layer.weight.sum(), torch.empty(0), torch.empty(0)).backward()
        with torch.no_grad():
            layer.weight.sub_(0.001 * layer.weight.grad)
        seen.append(abs(layer.weight.item()))
    assert max(seen[10 * every :]) <= 0.001 * every + 1e-12  # never further away than one pull


def test_a_structure_for_weights_to_come_is_made_without_decompositions(monkeypatch):
    whole: Any = decompose(small(), 0.4)

    def never(*_):
        raise AssertionError("a decomposition whose result is overwritten")

    monkeypatch.setattr(low_rank, "_halves", never)
    frozen = small()
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    made: Any = decompose(small(), 0.4, values=False)
    assert str(made) == str(whole)
    made.load_state_dict(whole.state_dict())
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(made(images), whole(images))
    assert all(parameter.requires_grad for parameter in made.parameters())
    assert not any(parameter.requires_grad for parameter in decompose(frozen, 0.4, values=False)[3].parameters())
    with pytest.raises(AssertionError, match="overwritten"):
        decompose(small(), 0.4)


@pytest.mark.parametrize("arguments", [{"weight": -1.0}, {"weight": 1.0, "every": 0}])
def test_refuses_settings(arguments):
    with pytest.raises(ValueError, match=r"weight|every"):
        NuclearNorm(**arguments)

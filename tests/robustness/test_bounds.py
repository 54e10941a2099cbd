"""The bound against dense operators and brute force: norms, sums of branches, Jacobians, and what is guaranteed."""

import math

import pytest
import torch
from torch import nn

from lib.graph import GraphError
from lib.models.resnet import BasicBlock
from lib.robustness import certified_epsilons, lipschitz_bound, operator_norm, sensitivities
from lib.robustness.low_rank import FactorisedConv2d
from robustness.nets import batch, small


def dense(apply, shape):
    """The matrix of a linear map, column by column."""
    size = math.prod(shape)
    with torch.no_grad():
        zero = apply(torch.zeros(1, *shape, dtype=torch.float64))
        return (apply(torch.eye(size, dtype=torch.float64).reshape(size, *shape)) - zero).flatten(1).T


def largest(matrix):
    return float(torch.linalg.matrix_norm(matrix, 2))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 5, 3, padding=1), (3, 8, 8)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), (4, 7, 9)),
        (nn.Conv2d(4, 4, 3, dilation=2, groups=2), (4, 8, 8)),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 6, 6)),
        (nn.Linear(20, 7), (20,)),
        (nn.AdaptiveAvgPool2d(1), (2, 4, 4)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_norm_is_that_of_the_dense_operator(layer, shape):
    layer = layer.double()
    with torch.no_grad():
        zero = layer(torch.zeros(1, *shape, dtype=torch.float64))
    found = operator_norm(lambda x: layer(x) - zero, shape, tolerance=1e-6)
    assert found == pytest.approx(largest(dense(layer, shape)), rel=1e-5)


def test_norm_is_not_that_of_the_reshaped_kernel():
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False).double()
    nn.init.ones_(layer.weight)
    found = operator_norm(layer, (1, 16, 16))
    assert largest(layer.weight.detach().reshape(1, -1)) == pytest.approx(3)
    assert 8.5 < found < 9  # of the infinite image it is 9, the sum of the kernel


def test_norm_of_closed_forms():
    assert operator_norm(lambda x: 3 * x, (2, 2)) == pytest.approx(3)
    assert operator_norm(lambda x: 0 * x, (4,)) == 0
    weights = torch.tensor([1.0, -5.0, 2.0], dtype=torch.float64)
    assert operator_norm(lambda x: x * weights, (3,)) == pytest.approx(5)


def test_norm_that_does_not_settle_is_refused():
    close = torch.linspace(0.99, 1, 400, dtype=torch.float64)
    with pytest.raises(ArithmeticError, match="after 2 rounds"):
        operator_norm(lambda x: x * close, (400,), tolerance=1e-9, most=2)
    with pytest.raises(ArithmeticError, match="not finite"):
        operator_norm(lambda x: x * math.inf, (3,))
    with pytest.raises(ValueError, match="tolerance"):
        operator_norm(lambda x: x, (3,), tolerance=0)


def test_bound_of_a_chain_is_the_product_with_batch_normalisation_folded():
    model, (images, _) = small(), batch(4)
    double = small().double()
    first = largest(dense(double[:2], (3, 8, 8)))
    second = largest(dense(double[3:5], (8, 8, 8)))
    third = largest(double[-1].weight)
    bound = lipschitz_bound(model, images, tolerance=1e-6)
    assert bound.layers["norm"].tolist() == pytest.approx([first, second, third], rel=1e-4)
    assert bound.value == pytest.approx(first * second * third, rel=1e-4)
    assert bound.layers["layer"].tolist() == ["0 + 1", "3 + 4", "7"]
    assert bound.layers["input_size"].tolist() == [192, 512, 192]


def test_bound_of_a_residual_block_is_the_sum_of_its_branches():
    torch.manual_seed(0)
    block = BasicBlock(3, 4, 2).eval()
    model = nn.Sequential(block, nn.Flatten(), nn.Linear(4 * 16, 3)).eval()
    double = nn.Sequential(block, nn.Flatten(), nn.Linear(4 * 16, 3)).double()
    long = largest(dense(nn.Sequential(block.conv1, block.bn1).double(), (3, 8, 8)))
    long *= largest(dense(nn.Sequential(block.conv2, block.bn2).double(), (4, 4, 4)))
    short = largest(dense(block.shortcut.double(), (3, 8, 8)))
    last = largest(model[2].weight.double())
    del double
    assert lipschitz_bound(model, torch.rand(2, 3, 8, 8), 1e-6).value == pytest.approx((long + short) * last, rel=1e-4)


def test_a_factorised_layer_has_the_norm_of_its_product():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 6, 3, padding=1)
    factors = FactorisedConv2d(conv, 2)
    plain = nn.Conv2d(3, 6, 3, padding=1)
    with torch.no_grad():
        plain.weight.copy_(factors.product())
    head = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 3))
    images = torch.rand(2, 3, 8, 8)
    both = [lipschitz_bound(nn.Sequential(layer, *head).eval(), images, 1e-6) for layer in (factors, plain)]
    assert both[0].value == pytest.approx(both[1].value, rel=1e-4)
    assert len(both[0].layers) == len(both[1].layers) == 2


@pytest.mark.parametrize(("size", "stride", "factor"), [(2, 2, 1), (3, 2, 2), (3, 1, 3)])
def test_max_pooling_counts_how_often_it_reads_an_entry(size, stride, factor):
    pool = nn.MaxPool2d(size, stride)
    width = pool(torch.zeros(1, 1, 9, 9)).numel()
    model = nn.Sequential(pool, nn.Flatten(), nn.Linear(width, 2)).eval()
    found = lipschitz_bound(model, torch.rand(2, 1, 9, 9), 1e-6).value
    assert found == pytest.approx(factor * largest(model[2].weight.double()), rel=1e-4)


def test_the_bound_holds_and_the_sensitivity_is_the_jacobian_norm():
    model, (images, _) = small(), batch(12)
    bound, found = lipschitz_bound(model, images).value, sensitivities(model, images, batch_size=5)
    for image, value in zip(images, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda x: model(x[None])[0], image).flatten(1)
        assert value == pytest.approx(largest(jacobian.double()), rel=1e-4)
    assert float(found.max()) <= bound * (1 + 1e-3)
    other = (images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    with torch.no_grad():
        moved = (model(other) - model(images)).norm(dim=1)
    assert bool((moved <= bound * (1 + 1e-3) * (other - images).flatten(1).norm(dim=1)).all())


def test_what_is_guaranteed_in_closed_form_and_that_it_holds():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).eval()
    with torch.no_grad():
        linear[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
    images = torch.tensor([[0.9, 0.1, 0, 0], [0.2, 0.8, 0, 0]]).view(2, 1, 2, 2)
    found = certified_epsilons(linear, images, torch.zeros(2, dtype=torch.int64), 1.0)
    assert found.tolist() == pytest.approx([0.8 / math.sqrt(2 * 4), 0.0])

    model, (images, _) = small(), batch(20)
    with torch.no_grad():
        labels = model(images).argmax(1)
    safe = certified_epsilons(model, images, labels, lipschitz_bound(model, images).value)
    signs = torch.randint(0, 2, images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert bool((model(images + 0.99 * safe.float().view(-1, 1, 1, 1) * signs).argmax(1) == labels).all())
    with pytest.raises(ValueError, match="bound must be positive"):
        certified_epsilons(model, images, labels, 0.0)


def test_steps_without_a_known_bound_are_refused_by_name():
    unknown = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.LayerNorm(4), nn.Linear(4, 2)).eval()
    with pytest.raises(GraphError, match=r"LayerNorm.*no bound is known"):
        lipschitz_bound(unknown, torch.rand(2, 3, 2, 2))

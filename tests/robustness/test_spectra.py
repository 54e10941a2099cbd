"""Closed forms of the rank measures, and the prunable share against a scan."""

import math

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from lib.robustness import decompose, effective_rank, layer_spectra, prunable_share, singular_values, stable_rank
from robustness.nets import batch, small


def test_identity_has_full_rank():
    values = singular_values(torch.eye(6))
    assert torch.allclose(values, torch.ones(6, dtype=torch.float64))
    assert stable_rank(values) == pytest.approx(6)
    assert effective_rank(values) == pytest.approx(6)
    assert effective_rank(values, power=2) == pytest.approx(6)


def test_rank_one_and_zero():
    values = singular_values(torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 9)).view(4, 2, 2, 2))
    assert stable_rank(values) == pytest.approx(1)
    assert effective_rank(values) == pytest.approx(1, abs=1e-4)
    assert stable_rank(torch.zeros(3)) == effective_rank(torch.zeros(3)) == 0.0


def test_two_values_by_hand():
    values = torch.tensor([2.0, 1.0])
    assert stable_rank(values) == pytest.approx(1.25)
    assert effective_rank(values) == pytest.approx(math.exp(2 / 3 * math.log(1.5) + 1 / 3 * math.log(3)))
    assert effective_rank(values, power=2) == pytest.approx(math.exp(0.8 * math.log(1.25) + 0.2 * math.log(5)))


def test_the_matrix_is_out_by_the_rest():
    weight = torch.randn(4, 3, 2, 2)
    assert torch.allclose(singular_values(weight), torch.linalg.svdvals(weight.reshape(4, 12).double()))


def test_layers_of_a_network():
    frame = layer_spectra(small())
    assert frame.layer.tolist() == ["0", "3", "7"]
    assert frame.full_rank.tolist() == [8, 12, 5]
    assert (frame.stable_rank <= frame.effective_rank_energy + 1e-9).all()
    assert (frame.effective_rank <= frame.full_rank).all()
    assert (frame.sparsity == 0).all()


def test_factors_count_as_one_layer():
    model, full = small(), layer_spectra(small())
    decompose(model, 100.0)
    nn.init.zeros_(model[3].vertical.weight[:5])
    cut = layer_spectra(model)
    assert cut.layer.tolist() == full.layer.tolist()
    assert cut.stable_rank[0] == full.stable_rank[0]
    parts = model[3].vertical.weight.numel(), model[3].horizontal.weight.numel()
    assert cut.sparsity[1] == pytest.approx(5 * 8 * 3 / sum(parts))
    kept = decompose(small(), 100.0)
    assert layer_spectra(kept).effective_rank.tolist() == pytest.approx(full.effective_rank.tolist(), rel=1e-4)


@pytest.mark.parametrize("layer", [None, "3"])
def test_prunable_share_against_a_scan(layer):
    model, (images, _) = small(), batch(200)
    labels = model(images).argmax(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = prunable_share(model, images, labels, tolerance=0.1, layer=layer, resolution=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert found.accuracy == 1.0 and found.accuracy_pruned >= 0.9 and found.n == 200

    weights = [model[k].weight for k in ((0, 3, 7) if layer is None else (3,))]
    flat = torch.cat([w.detach().abs().flatten() for w in weights])

    def accuracy(share):
        bar = flat.sort().values[min(round(share * len(flat)), len(flat) - 1)]
        trial = small()
        for k in (0, 3, 7) if layer is None else (3,):
            weight = trial[k].weight.data
            weight[weight.abs() < bar] = 0
        return (trial(images).argmax(1) == labels).float().mean().item()

    assert accuracy(found.share) == pytest.approx(found.accuracy_pruned, abs=1e-6)
    assert accuracy(min(found.share + 0.3, 1.0)) < 0.9
    assert 0 < found.share < 1


def test_weights_that_do_nothing_are_prunable():
    model, (images, _) = small(), batch(50)
    labels = model(images).argmax(1)
    with torch.no_grad():
        model[3].weight[:, :4] = 0
    changed = model(images).argmax(1)
    assert prunable_share(model, images, changed, 0.0, layer="3").share >= 0.5
    assert prunable_share(model, images, labels, 1.0).share == pytest.approx(1.0, abs=0.01)


def test_refusals():
    images, labels = batch(4)
    with pytest.raises(ValueError, match="no layer 'x'"):
        prunable_share(small(), images, labels, layer="x")
    with pytest.raises(ValueError, match="tolerance"):
        prunable_share(small(), images, labels, tolerance=2.0)
    with pytest.raises(ValueError, match="with N from 1"):
        prunable_share(small(), images[:0], labels[:0])


def test_follows_the_device():
    with FakeTensorMode(), torch.device("cuda"):
        assert singular_values(torch.empty(4, 3, 2, 2)).device.type == "cuda"

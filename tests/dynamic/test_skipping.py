"""lib.dynamic.lcs.skipping and .folding: only the chosen channels are computed, and the outputs stay."""

import sys

import pytest
import torch
from torch import nn

from dynamic import nets
from dynamic.test_lcs import pictures, selection
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs.skipping import SkippingNetwork, folded, norms_after, packed, same

ARCHS = ("vgg16-bn", "resnet18", "resnet20", "resnet50")


@pytest.mark.parametrize("form", ["stated", "standardised"])
@pytest.mark.parametrize("arch", ARCHS)
def test_outputs_are_those_of_the_masked_network(arch, form, one_thread):
    lcs, x = selection(arch, form), pictures(16)
    skipping = SkippingNetwork(lcs, align=1)
    assert same(lcs, skipping, x) and same(lcs, skipping, x[:1]) and same(lcs, skipping, x.flip(0))
    if form == "standardised":  # images went several ways, and each way was cut out
        assert max(len(rows.unique()) for rows in lcs.chosen(x).values()) > 1


def test_the_order_of_the_images_is_kept(one_thread):
    lcs, x = selection("vgg16-bn"), pictures(16)
    skipping = SkippingNetwork(lcs).eval()
    with torch.no_grad():
        whole, alone = skipping(x), torch.cat([skipping(image[None]) for image in x])
    assert torch.allclose(whole, alone, atol=1e-4)


@pytest.mark.parametrize(("align", "channels_last"), [(1, True), (8, False), (16, True)])
def test_filled_up_channels_change_nothing(align, channels_last, one_thread):
    lcs, x = selection("vgg16-bn", width=8), pictures(8)
    assert same(lcs, SkippingNetwork(lcs, align, channels_last), x)


def test_only_the_chosen_channels_are_computed(one_thread, monkeypatch):
    """Channels that each convolution really takes and gives, seen where it is called."""
    from lib.dynamic.lcs import skipping as module

    lcs, x = selection("vgg16-bn", width=8), pictures(1)
    seen = []
    run = module.Convolution.__call__

    def watched(self, values, weight, bias, relu=False):
        made = run(self, values, weight, bias, relu)
        seen.append((values.shape[1], made.shape[1]))
        return made

    monkeypatch.setattr(module.Convolution, "__call__", watched)
    SkippingNetwork(lcs, align=1)(x)
    counts = [int((mask[0] != 0).sum()) for mask in lcs.run(x).masks.values()]
    first = lcs.network.features.conv1_1
    wanted = [(3, first.out_channels), *zip([first.out_channels, *counts[:-1]], counts, strict=True)]
    assert seen == wanted and min(counts) < first.out_channels


def test_slices_are_cut_once_and_their_memory_is_said(one_thread):
    lcs, x = selection("resnet20"), pictures(16)
    skipping = SkippingNetwork(lcs, align=1)
    assert skipping.memory() == 0
    skipping(x)
    held, wanted = skipping.memory(), 0
    rows = lcs.chosen(x)
    for layer in lcs.layers:
        conv, after = lcs.network.get_submodule(layer), lcs.network.get_submodule(lcs.wires[layer].reader)
        for row in rows[layer].unique():
            kept = int((lcs.unit(layer).masks[row] != 0).sum())
            wanted += 4 * kept * (9 * conv.in_channels + 1) + 4 * (9 * kept * after.out_channels + after.out_channels)
    assert held == pytest.approx(wanted, rel=1.0) and held >= wanted * 0.9  # oneDNN's layout fills up to its blocks
    skipping(x.flip(0))
    assert skipping.memory() == held
    skipping.double()
    assert skipping.memory() == 0


def test_in_double_precision_it_is_the_masked_network_to_the_last_digits(one_thread):
    lcs, x = selection("vgg16-bn").double(), pictures(8).double()
    with torch.no_grad():
        assert torch.allclose(SkippingNetwork(lcs)(x), lcs(x), atol=1e-9)


def test_a_row_without_any_channel(one_thread):
    for arch in ("resnet20", "vgg16-bn"):
        lcs, x = selection(arch), pictures(16)
        for layer in lcs.layers[2:4]:
            lcs.unit(layer).masks.data[:2] = 0
        assert same(lcs, SkippingNetwork(lcs, align=1), x)


def test_the_network_given_is_left_as_found(one_thread):
    lcs, x = selection("resnet18"), pictures(4)
    before = lcs(x)
    SkippingNetwork(lcs)(x)
    assert torch.equal(lcs(x), before)


@pytest.mark.parametrize("arch", [*ARCHS, "mobilenet-v2"])
def test_folded_and_packed_networks_compute_the_same(arch, one_thread):
    model, x = nets.build(arch).float(), pictures(6)
    made = folded(model)
    assert same(model, made, x) and not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())
    assert same(model, packed(made), x) and any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_norms_are_found_where_they_alone_read_a_convolution():
    found = norms_after(nets.build("resnet20"))
    assert found["conv1"] == "bn1" and found["layer2.0.conv2"] == "layer2.0.bn2" and len(found) == 19


def test_what_cannot_be_done_is_said(one_thread):
    lcs = selection("resnet20")
    with pytest.raises(DynamicError, match="align is 0"):
        SkippingNetwork(lcs, align=0)
    block = lcs.network.layer1[0]
    block.relu1 = nn.ReLU6()
    with pytest.raises(DynamicError, match="bn1 is not followed by a ReLU named"):
        SkippingNetwork(lcs)


def test_the_benchmarks_last_line(monkeypatch, capsys, one_thread):
    import json

    from benchmarks import dynamic_inference

    words = ["--widths", "8", "--vgg-widths", "4", "--batches", "1", "6", "--seconds", "0.01"]
    monkeypatch.setattr(sys, "argv", ["dynamic_inference", *words])
    dynamic_inference.main()
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(lines[-1])
    assert report["equal"] and report["ratio"] == pytest.approx(report["peer_seconds"] / report["seconds"])
    assert len(report["cases"]) == len(lines) - 1 == 4
    for row in report["cases"]:
        assert row["share"] == pytest.approx(row["time_saved"] / row["flops_saved"]) and 0 < row["flops_saved"] < 0.8
    monkeypatch.setattr(dynamic_inference, "same", lambda *_: False)
    with pytest.raises(SystemExit, match="outputs differ"):
        dynamic_inference.main()

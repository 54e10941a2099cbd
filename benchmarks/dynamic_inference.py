"""A network that skips the channels its images did not choose, against the same network with all channels.

    python -m benchmarks.dynamic_inference [--widths 16 ... 512] [--batches 1 64] [--threads 1] [--masks 5]
                                           [--zeros 0.5] [--precision float32] [--seconds 1.5] [--align 8]

For each width w a ResNet of three basic blocks of w channels, at the image size that networks of that width see it at
(32 pixels up to w = 64, then halved each time w doubles), and VGG16-BN chains. Units are of the standardised form with
random weights, so that the images of a batch decide differently; every row of the masks has its own random half of
zeros. Both sides have BN folded into the convolutions, weights packed for oneDNN on a CPU, and the same memory format;
they take turns. What is printed
is the share of time saved, that of the FLOPs saved (decision units counted), and the first as a share of the second.
The outputs must equal those of the masked network in float32, in which all channels are computed.
"""

import argparse
import json
import statistics
from typing import Any

import torch
from torch import Tensor, nn

from lib import models
from lib.dynamic.cost import macs, networks_in_turns
from lib.dynamic.lcs.budget import image_macs
from lib.dynamic.lcs.controls import entropies
from lib.dynamic.lcs.network import LayerwiseChannelSelection
from lib.dynamic.lcs.skipping import SkippingNetwork, folded, packed, same

WIDTHS = (16, 32, 64, 128, 256, 512)
VGG_WIDTHS = (16, 32, 64)  # of the first convolution; the last has eight times as many


def selection(model: nn.Module, images: Tensor, masks: int, zeros: float, seed: int = 0) -> LayerwiseChannelSelection:
    """A network whose units decide at random and whose rows have each their own share of zeros."""
    generator = torch.Generator().manual_seed(seed)
    lcs = LayerwiseChannelSelection(model.eval(), masks, "standardised", 4.0, seed)
    with torch.no_grad():
        for layer in lcs.layers:
            rows = lcs.unit(layer).masks
            order = torch.rand(rows.shape, generator=generator).argsort(1)
            rows.copy_((order >= round(zeros * rows.shape[1])) * (0.5 + torch.rand(rows.shape, generator=generator)))
    lcs.eval().recalibrate_bn(images)
    lcs.measure_units(images)
    return lcs.eval()


def case(family: str, width: int, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """One network at every batch size."""
    side = 32 if family == "vgg16-bn" or width <= 64 else max(4, 32 * 64 // width)
    on = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    if family == "vgg16-bn":
        model = models.build("vgg16-bn", shape=(3, side, side), width=width)
    else:
        model = models.ResNet((3, side, side), 10, nn.Identity(), blocks=(3,), width=width)
    images = torch.rand(max(chosen.batches), 3, side, side)
    lcs = selection(model, images, chosen.masks, chosen.zeros).to(on)
    images = images.to(on).contiguous(memory_format=torch.channels_last)
    dense = packed(folded(lcs.plain()).to(memory_format=torch.channels_last))
    skipping = SkippingNetwork(lcs, chosen.align).eval()
    equal = same(lcs, skipping, images) and same(lcs, skipping, images[:1])
    spread = statistics.mean(entropies(lcs.frequencies(images)).values())
    whole = macs(lcs.network, (3, side, side))
    kind = getattr(torch, chosen.precision)
    if kind != torch.float32:
        dense, skipping, images = dense.to(kind), skipping.to(kind), images.to(kind)
    rows = []
    for batch in chosen.batches:
        parts = images.split(batch)[:8]
        told = networks_in_turns(skipping, dense, parts, chosen.seconds)
        saved = 1 - image_macs(lcs, torch.cat(parts).float()).double().mean().item() / whole
        seconds, peer_seconds, gain = told.seconds, told.peer_seconds, 1 - told.share
        rows.append(
            {
                "network": family,
                "width": width,
                "batch": batch,
                "image": side,
                "seconds": seconds,
                "peer_seconds": peer_seconds,
                "time_saved": gain,
                "flops_saved": saved,
                "share": gain / saved,
                "entropy_bits": spread,
                "slices_mb": skipping.memory() / 1e6,
                "equal": equal,
            }
        )
        print(
            f"{family:9s} width {width:4d}, {side:2d} px, batch {batch:3d}: dense {1e3 * peer_seconds:8.2f} ms, "
            f"skipping {1e3 * seconds:8.2f} ms, saves {gain:6.1%} of the time, {saved:5.1%} of the FLOPs: "
            f"{gain / saved:5.2f} of it; slices {skipping.memory() / 1e6:.1f} MB{'' if equal else '  DIFFERS'}",
            flush=True,
        )
    return rows


def main() -> None:
    """Measure, print, and fail where the outputs differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dynamic_inference", description=__doc__)
    parser.add_argument("--widths", type=int, nargs="*", default=list(WIDTHS))
    parser.add_argument("--vgg-widths", type=int, nargs="*", default=list(VGG_WIDTHS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--masks", type=int, default=5)
    parser.add_argument("--zeros", type=float, default=0.5)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--seconds", type=float, default=1.5, help="of measuring, a side and case")
    parser.add_argument("--align", type=int, default=8)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    cases = [
        (family, width)
        for family, widths in (("resnet", chosen.widths), ("vgg16-bn", chosen.vgg_widths))
        for width in widths
    ]
    rows = [row for family, width in cases for row in case(family, width, chosen)]
    last = rows[-1]
    equal = all(row["equal"] for row in rows)
    report = {
        "benchmark": "dynamic_inference",
        "peer": "the same network with all channels, BN folded, in the same run",
        "ratio": last["peer_seconds"] / last["seconds"],
        "seconds": last["seconds"],
        "peer_seconds": last["peer_seconds"],
        "floor": "the dense network's time times the share of the FLOPs that is left",
        "floor_seconds": last["peer_seconds"] * (1 - last["flops_saved"]),
        "sizes": {key: last[key] for key in ("network", "width", "batch", "image")},
        "masks": chosen.masks,
        "zeros": chosen.zeros,
        "precision": chosen.precision,
        "threads": chosen.threads,
        "cases": rows,
        "equal": equal,
    }
    print(json.dumps(report))
    if not equal:
        raise SystemExit("the skipping network's outputs differ from the masked network's: the ratio does not count")


if __name__ == "__main__":
    main()

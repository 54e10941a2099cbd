"""What a physically narrower network gains in wall-clock, as a share of the multiply-accumulates it saves.

    python -m benchmarks.pruned_inference [--arch vgg16-bn resnet20] [--widths 32 64 128] [--budget 0.5] [--batch 64]

Each network is narrowed by random scores to the budget, its remaining weights copied, and timed against the dense one
in the same process, the two taking turns. The gain is 1 - seconds / dense seconds, its share that over 1 - MACs / dense
MACs. Both sides run in evaluation mode and in the channels-last format, from which the dense side gains too.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lib import compute, models
from lib.dynamic import cost
from lib.dynamic.channels import gated_sites
from lib.dynamic.scratch.build import masked, shrink
from lib.dynamic.scratch.search import search_threshold

WANTED = 0.7


def twins(arch: str, width: int, budget: float, shape: tuple[int, int, int]) -> tuple[nn.Module, nn.Module, Any]:
    """A dense network with statistics as a trained one's might be, its narrower twin, and the structure."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    dense = models.build(arch, shape=shape, width=width).eval()
    for module in dense.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    scores = {n: torch.rand(s.channels, generator=generator) for n, s in gated_sites(dense).items()}
    structure = search_threshold(dense, scores, budget, shape)
    return dense, shrink(dense, structure.keep), structure


@torch.inference_mode()
def taking_turns(sides: Sequence[nn.Module], images: Tensor, repeats: int, warmup: int = 2) -> list[float]:
    """Seconds of each network's fastest pass, the networks taking turns: other work only ever makes one slower."""
    seconds: list[list[float]] = [[] for _ in sides]
    for turn in range(warmup + repeats):
        for spent, side in zip(seconds, sides, strict=True):
            wait(images.device)
            began = time.perf_counter()
            side(images)
            wait(images.device)
            if turn >= warmup:
                spent.append(time.perf_counter() - began)
    return [min(spent) for spent in seconds]


def wait(device: torch.device) -> None:
    """Until the device has done all it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def agree(dense: nn.Module, narrow: nn.Module, keep: Any, images: Tensor) -> bool:
    """Whether the narrower network computes what the dense one computes with the missing channels at zero."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        with masked(dense, keep):
            wanted = dense(images)
        return bool(torch.allclose(narrow(images), wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item()))


def main() -> None:
    """Measure, print every width, and fail where the two sides differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pruned_inference", description=__doc__)
    parser.add_argument("--arch", nargs="+", default=["vgg16-bn", "resnet20"])
    parser.add_argument("--widths", nargs="+", type=int, default=[32, 64, 128])
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--side", type=int, default=32, help="of the images")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    device, shape = compute.device(chosen.device), (3, chosen.side, chosen.side)
    images = torch.rand(chosen.batch, *shape, generator=torch.Generator().manual_seed(1)).to(device)
    print(
        f"batch {chosen.batch}, {chosen.side}x{chosen.side}, {chosen.precision}, {chosen.threads} thread(s), "
        f"{compute.describe()}"
    )
    rows, equal = [], True
    for arch in chosen.arch:
        for width in chosen.widths:
            dense, narrow, structure = twins(arch, width, chosen.budget, shape)
            sides = [side.to(device).to(memory_format=torch.channels_last) for side in (dense, narrow)]
            laid = images.contiguous(memory_format=torch.channels_last)
            same = agree(sides[0], sides[1], structure.keep, laid)
            with compute.autocast(device, chosen.precision):
                slow, fast = taking_turns(sides, laid, chosen.repeats)
            saved = 1 - structure.macs / cost.macs(dense, shape)
            row = {"arch": arch, "width": width, "seconds": fast, "peer_seconds": slow, "macs_saved": saved}
            row |= {"gain": 1 - fast / slow, "share": (1 - fast / slow) / saved}
            rows.append(row)
            equal &= same
            print(
                f"{arch:10s} width {width:4d}: dense {1e3 * slow:8.1f} ms, narrower {1e3 * fast:8.1f} ms, "
                f"MACs saved {saved:.3f}, gain {row['gain']:.3f}, share {row['share']:.2f}"
                f"{'' if row['share'] >= WANTED else '  below ' + str(WANTED)}{'' if same else '  DIFFERS'}",
                flush=True,
            )
    ours, peer = (sum(float(row[key]) for row in rows) for key in ("seconds", "peer_seconds"))
    report = {
        "benchmark": "pruned_inference",
        "peer": "the dense network, in the same process, taking turns",
        "ratio": peer / ours,
        "seconds": ours,
        "peer_seconds": peer,
        "floor": "the dense network's time times the share of its multiply-accumulates that is left",
        "floor_seconds": sum(float(row["peer_seconds"]) * (1 - float(row["macs_saved"])) for row in rows),
        "worst_share": min(float(row["share"]) for row in rows),
        "wanted_share": WANTED,
        "rows": rows,
        "sizes": {"batch": chosen.batch, "side": chosen.side, "budget": chosen.budget, "widths": chosen.widths},
        "precision": chosen.precision,
        "device": compute.describe(),
        "threads": chosen.threads,
        "equal": equal,
    }
    print(json.dumps(report))
    if not equal:
        raise SystemExit("the narrower network differs from the masked one: the ratio does not count")


if __name__ == "__main__":
    main()

"""Accuracy under FGSM at 20 eps: ours against Foolbox's LinfFastGradientAttack, same network, images and batches.

    python -m benchmarks.fgsm_sweep [--images 128] [--repeats 3] [--batch 64] [--threads 1]

Two cases, because Foolbox's backward pass also computes parameter gradients when they are not frozen: `ratio` is with
parameters as a user's model has them, `ratio_frozen` with requires_grad off. Pairs of runs alternate; a ratio is the
median over the pairs. Both sides must succeed on exactly the same images. Both get batches of 64, which a
CPU's cache holds: larger ones cost either side up to a quarter more. Counting passes (forward 1, backward to the images
1, to the parameters 1 more) gives 3.6 and 2.7. Both run in the contiguous format: at 64, channels_last gains 2 %.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable

import foolbox
import torch
from torch import Tensor, nn

from benchmarks import kept
from lib import data, models, zoo
from lib.robustness import fgsm_correct

EPSILONS = [k / 255 for k in range(1, 21)]
NETWORK = "resnet18-b128"


def subject(count: int) -> tuple[nn.Module, Tensor, Tensor, str]:
    """The network under attack, `count` images in [0, 1] with labels, and a word on both.

    The trained ResNet18 of the `cpu` scale where it is shipped and CIFAR-10 is there; else one with random weights
    whose normalisation has seen a batch, on random images, labelled as it labels them.
    """
    if kept(NETWORK):
        try:
            test = data.load("cifar10", "test").stratified(count, seed=0)
            return zoo.get(NETWORK, "cpu").cpu(), test.float("cpu"), test.labels, f"{NETWORK} on CIFAR-10"
        except data.DataError:
            pass
    torch.manual_seed(0)
    model = models.build("resnet18", width=16)
    images = torch.rand(count, 3, 32, 32)
    with torch.no_grad():
        model.train()(images)
        model.eval()
        return model, images, model(images).argmax(dim=1), "ResNet18 of width 16, random weights and images"


def foolbox_correct(model: nn.Module, images: Tensor, labels: Tensor, batch: int) -> Tensor:
    """bool (E, N): Foolbox's own loop over eps, batch by batch."""
    target = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
    attack = foolbox.attacks.LinfFastGradientAttack()
    parts = zip(images.split(batch), labels.split(batch), strict=True)
    return torch.cat([~attack(target, x, y, epsilons=EPSILONS)[2] for x, y in parts], dim=1)


def timed(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds and result of one call."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def compare(
    model: nn.Module, images: Tensor, labels: Tensor, batch: int, repeats: int
) -> tuple[float, float, float, bool]:
    """Median ratio, median seconds of ours and of Foolbox's, and whether every success was the same."""
    ours, theirs, equal = [], [], True
    for repeat in range(repeats + 1):
        calls = [
            lambda: fgsm_correct(model, images, labels, EPSILONS, batch_size=batch),
            lambda: foolbox_correct(model, images, labels, batch),
        ]
        runs = [timed(call) for call in (calls if repeat % 2 else calls[::-1])]
        (a, mine), (b, other) = runs if repeat % 2 else runs[::-1]
        equal = equal and torch.equal(mine, other)
        if repeat:  # the first pair warms up
            ours.append(a)
            theirs.append(b)
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    return ratio, statistics.median(ours), statistics.median(theirs), equal


def main() -> None:
    """Measure, print, and fail where the successes differ."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fgsm_sweep", description=__doc__)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    warnings.filterwarnings("ignore", module="foolbox")
    model, images, labels, what = subject(chosen.images)
    print(f"{what}; {len(images)} images, {len(EPSILONS)} eps, batch {chosen.batch}, {chosen.threads} thread(s)")
    found = {}
    for case, trainable in (("as users call it", True), ("frozen parameters", False)):
        model.requires_grad_(trainable)
        found[trainable] = compare(model, images, labels, chosen.batch, chosen.repeats)
        ratio, seconds, peer, equal = found[trainable]
        print(
            f"{case}: ours {seconds:.2f} s, Foolbox {peer:.2f} s, ratio {ratio:.2f}, same successes: {equal}",
            flush=True,
        )
    equal = found[True][3] and found[False][3]
    with torch.no_grad():
        forward = min(timed(lambda: torch.cat([model(x) for x in images.split(chosen.batch)]))[0] for _ in range(5))
    report = {
        "benchmark": "fgsm_sweep",
        "peer": f"foolbox {foolbox.__version__} LinfFastGradientAttack",
        "ratio": found[True][0],
        "ratio_frozen": found[False][0],
        "seconds": found[True][1],
        "peer_seconds": found[True][2],
        "seconds_frozen": found[False][1],
        "peer_seconds_frozen": found[False][2],
        "floor": "a forward pass for each eps, and two more for the gradient",
        "floor_seconds": forward * (len(EPSILONS) + 2),
        "sizes": {"images": len(images), "epsilons": len(EPSILONS), "batch": chosen.batch, "subject": what},
        "repeats": chosen.repeats,
        "threads": chosen.threads,
        "equal": equal,
    }
    print(json.dumps(report))
    if not equal:
        raise SystemExit("the two sides differ on some image: the ratio does not count")


if __name__ == "__main__":
    main()

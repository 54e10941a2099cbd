"""NNSlicer's slices of whole networks: ours against the rule in plain Python, one output neuron at a time.

    python -m benchmarks.slicing [--inputs 32] [--plain 2] [--threads 2] [--network resnet10] [--engine auto]
        [--device cpu]

Both slice the same inputs of the same network from the same profile, and must agree on every contribution. Ours works
on a batch, on all threads; the plain rule, kept with the tests, takes one input at a time, as does the original. Work:
ResNet10 has 16 million products an input, of which a slice visits about ten. EfficientNet-Lite0 reads 224 x 224 pixels;
its profile has one mean for all classes, as one for each of 1,000 would take 54 GB. Also printed: seconds of one
forward and backward pass of the same batch in float32, of stopping at the last convolution, and peak memory.

Sums are decided in float32 where that is proven to be enough (lib/slicing/float32.py), here for 99.7 % of them.

Tried and dropped, in milliseconds of one core (of a machine in its slower state, see below) for the convolutions of
ResNet10's slices, where 31 was before and 16.6 is now: the largest terms first in float64, packed in scalar steps (69)
or in vectors of eight (24); lists of 32 in place of 64 sorted at once (17.7); other shares of a list split off first
(17.1); sums of the terms in float32, which would need a wider bound (16.6, as with float64). Before, all in float64:
the largest terms in bands, ranked (67) or sorted by counting (52); fewer or other buckets (30 to 38).

Not reached without AVX-512, where packing lanes is one instruction: elsewhere sums of more than 64 terms stay with the
buckets of lib/slicing/select.py, as packing would take 49 ms where these take 32.

Not reached: 12 ms an input and 500 times the plain rule in batches of 32 (13.6 ms and 408 times on a Xeon, 14.2 and 444
on an EPYC); in batches of 128 the first is reached on both (11.9 and 11.7 ms), the second on the EPYC alone (461 and
510 times). Such processors are shared: at another time the plain rule took 2.8 s in place of 6, ours 8.6 to 9.9 ms in
batches of 128 (284 to 337 times), and the code before 12.5 to 13.4. In the slower state a window of 144
takes 257 ns; alone, sorting 64 keys takes 62 of these and splitting off the largest 10. Of the samples of a profile 25
% are in sorting, 12 in adding up, 8 in splitting and 10 in gathering inputs; we take most of the rest to be branches
that cannot be foreseen, some five a window. Two threads give 1.5 times one in these loops.
"""

import argparse
import copy
import json
import time

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from benchmarks import kept
from lib import compute, data, models, slicing, zoo
from lib.experiments.nnslicer_overhead import plain_rule
from lib.models import efficientnet_lite
from lib.slicing.kinds import Graph, last_convolution

ARCHITECTURES = {"resnet10": "resnet10-preact", "resnet18": "resnet18-preact"}
LARGE = "efficientnet-lite0"


def subject(name: str, inputs: int, profiled: int, width: int = 16) -> tuple[nn.Module, Tensor, Tensor, Tensor, str]:
    """A network, the inputs to slice, images and labels to profile it on, and a word on them.

    The trained network of the `cpu` scale where it is kept and CIFAR-10 is there; else one with random weights whose
    normalisation has seen a batch, on random images.
    """
    network = f"nnslicer-{name}"
    try:
        train, test = data.load("cifar10", "train"), data.load("cifar10", "test").stratified(inputs, seed=0)
        if width == 16 and kept(network):
            some = train.stratified(profiled, seed=0)
            model = zoo.get(network, "cpu").cpu()
            return model, test.images, some.images, some.labels, f"{network} trained on CIFAR-10"
    except data.DataError:
        pass
    torch.manual_seed(0)
    model = models.build(ARCHITECTURES[name], shape=(3, 32, 32), classes=10, width=width)
    images = torch.rand(profiled + inputs, 3, 32, 32)
    with torch.no_grad():
        model.train()(images)
        labels = model.eval()(images).argmax(1)
    return model, images[:inputs], images, labels, f"{name} of width {width}, random weights and images"


def large(inputs: int, profiled: int) -> tuple[nn.Module, Tensor, Tensor, Tensor, str]:
    """The same of a network that reads 224 x 224 pixels: EfficientNet-Lite0, on photographs of the ImageNet sample.

    Random weights and images where its weights, of an optional package, or the sample are not there.
    """
    try:
        sample, model = data.load("imagenet-sample", "test"), efficientnet_lite.pretrained()
    except (data.DataError, efficientnet_lite.MissingWeightsError):
        torch.manual_seed(0)
        model, images = (
            efficientnet_lite.EfficientNetLite0((3, 224, 224), 1000, nn.Identity()),
            torch.rand(profiled + inputs, 3, 224, 224),
        )
        with torch.no_grad():
            model.train()(images)
            labels = model.eval()(images).argmax(1)
        return model, images[:inputs], images, labels, f"{LARGE}, random weights and images"
    known, images = sample.subset(range(profiled)), sample.subset(range(profiled, profiled + inputs)).images
    return model, images, known.images, known.labels, f"{LARGE} trained on ImageNet"


def passes(model: nn.Module, images: Tensor, repeats: int = 5) -> float:
    """Seconds of one forward and backward pass of the images, the best of some."""
    best = float("inf")
    device = next(model.parameters()).device
    x = (images.float() / 255 if images.dtype == torch.uint8 else images).to(device)
    for _ in range(repeats):
        began = time.perf_counter()
        nn.functional.cross_entropy(model(x), torch.zeros(len(x), dtype=torch.int64, device=device)).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best


@njit(fastmath={"reassoc"})
def _formed(weights: np.ndarray, patch: np.ndarray, terms: np.ndarray) -> np.float32:
    """Every product once, in float32, with each window's sum."""
    total = np.float32(0.0)
    for row in weights:
        for j in range(len(patch)):
            terms[j] = row[j] * patch[j]
        for j in range(len(patch)):
            total += terms[j]
    return total


def product_seconds(repeats: int = 5) -> float:
    """Seconds of a product that is formed and summed, on one core, in windows of 576: the best of some."""
    draw = np.random.default_rng(0)
    weights, patch = (draw.normal(size=size).astype(np.float32) for size in ((2000, 576), 576))
    terms = np.empty(576, np.float32)
    best = float("inf")
    for _ in range(repeats + 1):  # the first compiles
        began = time.perf_counter()
        _formed(weights, patch, terms)
        best = min(best, time.perf_counter() - began)
    return best / weights.size


def main() -> None:
    """Measure, print, and fail where a contribution differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slicing", description=__doc__)
    parser.add_argument("--inputs", type=int, default=32, help="sliced by ours")
    parser.add_argument("--plain", type=int, default=2, help="of them, sliced by the plain rule")
    parser.add_argument("--profiled", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--network", choices=[*ARCHITECTURES, LARGE], default="resnet10")
    parser.add_argument("--width", type=int, default=16, help="below 16 of random weights")
    parser.add_argument("--engine", choices=("auto", "compiled", "tensor", "fused"), default="auto")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="of ours; the plain rule is on the CPU"
    )
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.network == LARGE:
        model, images, known, labels, what = large(chosen.inputs, chosen.profiled)
        profile = slicing.profile(model, known, labels, 1000, batch_size=10, together=True)
    else:
        model, images, known, labels, what = subject(chosen.network, chosen.inputs, chosen.profiled, chosen.width)
        profile = slicing.profile(model, known, labels, 10)
    own = {"engine": chosen.engine, "reference": "dataset" if chosen.network == LARGE else "predicted"}
    rule, graph = plain_rule(), Graph(copy.deepcopy(model))
    on_cpu, model = profile, model.to(chosen.device)
    profile = profile.to(chosen.device)
    where = f"{chosen.threads} thread(s)" if chosen.device == "cpu" else compute.describe()
    print(f"{what}; {len(images)} inputs, {chosen.plain} by the plain rule, {where}")

    slicing.slice(model, images, profile, **own)  # compiles
    ours = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        found = slicing.slice(model, images, profile, **own)
        ours = min(ours, (time.perf_counter() - began) / len(images))
    began = time.perf_counter()
    slicing.slice(model, images, profile, layers=[last_convolution(model)], **own)
    stopped = (time.perf_counter() - began) / len(images)
    both = passes(model, images) / len(images)

    seconds, visits, equal = [], [], True
    for index in range(chosen.plain):
        began = time.perf_counter()
        synapses, neurons, run = rule.slice_of(graph, images, index, on_cpu, own["reference"])
        seconds.append(time.perf_counter() - began)
        visits.append(run.visits)
        equal &= all(bool((found.synapses[k][index].numpy() == value).all()) for k, value in synapses.items())
        equal &= bool((found.neurons["input"][index].numpy() == neurons[graph.input]).all())
    peer = sum(seconds) / len(seconds)
    report = {
        "benchmark": "slicing",
        "peer": "the same rule in plain Python, one output neuron at a time",
        "ratio": peer / ours,
        "seconds": ours,
        "peer_seconds": peer,
        "seconds_to_last_convolution": stopped,
        "seconds_forward_backward": both,
        "times_forward_backward": ours / both,
        "floor": "every visited product formed once in float32 and summed, on as many threads",
        "floor_seconds": product_seconds() * sum(visits) / len(visits) / chosen.threads,
        "device": chosen.device,
        "products": round(sum(visits) / len(visits)),
        "peak_mb": compute.peak_memory_mb(),
        "sizes": {"inputs": len(images), "plain": chosen.plain, "profiled": chosen.profiled, "subject": what},
        "threads": chosen.threads,
        "equal": equal,
    }
    print(
        f"ours {ours * 1e3:.1f} ms an input, plain rule {peer:.2f} s, ratio {peer / ours:.0f}; "
        f"{ours / both:.1f} forward and backward passes; to the last convolution {stopped * 1e3:.2f} ms"
    )
    print(json.dumps(report))
    if not equal:
        raise SystemExit("the two sides differ in a contribution: the ratio does not count")


if __name__ == "__main__":
    main()

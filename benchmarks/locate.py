"""Locating error-inducing weights: ours against the same search one pair, one layer and one candidate at a time.

    python -m benchmarks.locate [--pairs 16] [--threads 1] [--arch resnet10-preact] [--width 16] [--epochs 2]

A network is trained for some epochs on the package's own digits (CIFAR-10 where its folder is there), a tenth of them
poisoned, until the trigger works; pairs are stamped images and the same without the trigger. Both sides search the
same layers of the same network for the same pairs, and must find the same error-inducing set of every pair in every
layer. The peer zeroes a candidate's weights and runs the whole network on the one image, as the released code does.
Printed: the ratio over all layers, over the later half of the network, and of each layer.

Not reached: 12 times over all layers, as long as each candidate's rest of the network is run once. That alone, in
full batches, is the floor, 14 times. Of 2.49 s of ours (24 pairs, one thread of an EPYC) convolutions take 1.37,
normalisation, ReLU and sums .20, taking weights out and ranking them .15, laying out images and rows .16, features
and importance in float64 .22, the rest is Python. Most of it is behind the early layers, from which every later
channel can be reached.
"""

import argparse
import copy
import json
import math
import time
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib import config, data, models, training
from lib.data import DataError, ImageSet
from lib.lancet import locating
from lib.lancet.backdoors import badnets, triggers
from lib.lancet.locating.tail import Network
from lib.models.layers import weight_layers

# The module whose output is a layer's feature: behind its normalisation, activation and pooling, or at the block's sum.
RESNET10 = {"stem": "blocks.0.relu1", "fc": "fc"} | {
    f"blocks.{block}.{layer}": f"blocks.{block}{feature}"
    for block in range(4)
    for layer, feature in (("conv1", ".relu2"), ("conv2", ""), ("shortcut", ""))
}
FEATURES: dict[str, dict[str, str]] = {
    "resnet10-preact": RESNET10,
    "digits-cnn": {"conv1": "pool1", "conv2": "pool2", "fc1": "relu3", "fc2": "fc2"},
}


def poisoned_network(arch: str, width: int, epochs: int, seed: int = 0) -> tuple[nn.Module, ImageSet, triggers.Trigger]:
    """A network trained on poisoned images, the test images, and the trigger."""
    try:
        name, train = "cifar10", data.load("cifar10", "train").stratified(20000, seed=0)
        if arch == "digits-cnn":
            raise DataError("digits")
    except DataError:
        name, train = "mnist5k", data.load("mnist5k", "train")
    spec = data.SETS[name]
    torch.manual_seed(seed)
    model = models.build(arch, shape=spec.shape, classes=spec.classes, mean=spec.mean, std=spec.std, width=width)
    recipe = config.Recipe(arch=arch, data=name, epochs=epochs, batch=128, learning_rate=0.05, augment=())
    training.fit(model, badnets.poison(train, trigger="regular-2"), recipe, seed=seed)
    return (
        model.float().to(memory_format=torch.contiguous_format).eval(),
        data.load(name, "test"),
        triggers.named("regular-2", spec.shape),
    )


def pairs_of(
    model: nn.Module, test: ImageSet, trigger: triggers.Trigger, count: int, target: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Stamped images that become the target, the same without the trigger, and their labels."""
    clean = test.stratified(min(len(test), 40 * count), seed=0)
    images = clean.float()
    with torch.no_grad():
        stamped = trigger.stamp(images)
        good = (
            (model(images).argmax(1) == clean.labels) & (model(stamped).argmax(1) == target) & (clean.labels != target)
        )
    chosen = good.nonzero()[:count, 0]
    if len(chosen) < count:
        raise SystemExit(f"the trigger works on {len(chosen)} images only, {count} are wanted: raise --epochs")
    return stamped[chosen], images[chosen], clean.labels[chosen]


def value_of(model: nn.Module, module: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """A module's output, and the logits."""
    held: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        held.append(output)
        return output.clone()  # what follows may change its input in place

    hook = model.get_submodule(module).register_forward_hook(keep)
    try:
        logits = model(images)
    finally:
        hook.remove()
    return held[0], logits


def important(
    exact: nn.Module, layer: str, feature: str, pair: tuple[Tensor, Tensor, Tensor], formula: str, signed: bool
) -> Tensor:
    """Importance of each weight of a layer for one pair, by autograd through the whole network, in float64."""
    image, other, label = (part[None].double() if part.is_floating_point() else part[None] for part in pair)
    weight = weight_layers(exact)[layer].weight.requires_grad_()
    value, logits = value_of(exact, feature, image)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, label), value, retain_graph=True)
    strength = gradient.abs() / gradient.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    clean = value_of(exact, feature, other)[0]
    norm = ((value - (clean if formula == "both" else clean.detach())) * (strength + 0.5)).norm()
    (found,) = torch.autograd.grad(norm, weight)
    return (found * weight).clamp_min(0) if signed else found.abs()


def one_by_one(
    model: nn.Module,
    pairs: tuple[Tensor, Tensor, Tensor],
    layers: Mapping[str, str],
    formula: str = "constant",
    until: str = "label",
    signed: bool = False,
) -> tuple[dict[str, list[set[int]]], dict[str, float], dict[str, int]]:
    """Each pair's error-inducing set in each layer, the seconds of each layer, and how many candidates were tried.

    Args:
        pairs: wrong images, companions, true labels.
        layers: layer -> the module whose output is its feature.
    """
    exact = copy.deepcopy(model).double()
    found: dict[str, list[set[int]]] = {}
    seconds, tried = {}, {}
    for layer, feature in layers.items():
        began = time.perf_counter()
        found[layer], calls = [], list[None]()
        hook = model.register_forward_hook(lambda *_, calls=calls: calls.append(None))
        for pair in zip(*pairs, strict=True):
            ranked = important(exact, layer, feature, pair, formula, signed).detach().float().flatten()
            with torch.no_grad():
                found[layer].append(smallest(model, layer, ranked, pair[0][None], int(pair[2]), until))
        hook.remove()
        seconds[layer] = time.perf_counter() - began
        tried[layer] = len(calls) - len(found[layer])  # less the pass that says what each image is before
    return found, seconds, tried


def floor_seconds(model: nn.Module, images: Tensor, tried: Mapping[str, int], rows: int = 64) -> float:
    """Seconds of what lies behind the layer, for every candidate that has to be tried, in batches of `rows`."""
    network = Network(model)
    network.verify(model, images)
    with torch.no_grad():
        values = network.record(images)
        index = torch.arange(rows) % len(images)
        total = 0.0
        for point in network.points(list(tried)):
            outputs = network.take(point.node, values[point.node], index)
            best = float("inf")
            for _ in range(5):
                began = time.perf_counter()
                network.rest(point, outputs, values, index)
                best = min(best, time.perf_counter() - began)
            total += best / rows * tried[point.layer]
    return total


def smallest(model: nn.Module, layer: str, ranked: Tensor, image: Tensor, label: int, until: str) -> set[int]:
    """The smallest of the tried sets of weights whose removal repairs an image; empty where none does."""
    order = ranked.argsort(descending=True, stable=True)
    size, usable = len(ranked), int((ranked > 0).sum())
    weight = weight_layers(model)[layer].weight
    kept, before = weight.detach().clone(), int(model(image).argmax())

    def repairs(count: int) -> bool:
        without = kept.flatten().clone()
        without[order[:count]] = 0
        weight.copy_(without.view(kept.shape))
        predicted = int(model(image).argmax())
        weight.copy_(kept)
        return predicted == label if until == "label" else predicted != before

    tried: set[int] = set()
    for exponent in range(6, 0, -1):
        for digit in range(1, 10):
            count = min(max(1, math.ceil(digit * 10.0**-exponent * size - 1e-9)), usable)
            if count in tried or count == 0:
                continue
            tried.add(count)
            if repairs(count):
                for tenth in range(1, 11):
                    less = (digit - 1 + tenth / 10) * 10.0**-exponent
                    finer = min(max(1, math.ceil(less * size - 1e-9)), usable)
                    if finer >= count:
                        break
                    if finer not in tried and repairs(finer):
                        return set(order[:finer].tolist())
                return set(order[:count].tolist())
    return set()


def sets_of(model: nn.Module, pairs: tuple[Tensor, Tensor, Tensor], layer: str) -> list[set[int]]:
    """The same from ours, pair by pair: the votes of a single pair are its set."""
    found = []
    for image, other, label in zip(*pairs, strict=True):
        votes = locating.locate(model, image[None], other[None], label[None], layers=[layer])[layer]
        found.append(set(votes.counts.flatten().nonzero()[:, 0].tolist()))
    return found


def main() -> None:
    """Measure, print, and fail where a set differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.locate", description=__doc__)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--arch", choices=FEATURES, default="resnet10-preact")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    model, test, trigger = poisoned_network(chosen.arch, chosen.width, chosen.epochs)
    pairs = pairs_of(model, test, trigger, chosen.pairs)
    layers = {layer: FEATURES[chosen.arch][layer] for layer in weight_layers(model)}
    print(f"{chosen.arch} of width {chosen.width} on {test.name}; {chosen.pairs} pairs, {chosen.threads} thread(s)")

    locating.locate(model, *pairs)  # compiles, and prepares the convolutions of every batch
    began = time.perf_counter()
    votes = locating.locate(model, *pairs)
    ours = time.perf_counter() - began
    each = {}
    for layer in layers:
        began = time.perf_counter()
        locating.locate(model, *pairs, layers=[layer])
        each[layer] = time.perf_counter() - began
    later = list(layers)[len(layers) // 2 :]
    began = time.perf_counter()
    locating.locate(model, *pairs, layers=later)
    ours_later = time.perf_counter() - began
    found, seconds, tried = one_by_one(model, pairs, layers)

    equal = True
    for layer, sets in found.items():
        counts = torch.zeros(votes[layer].counts.numel(), dtype=torch.int32)
        for chosen_set in sets:
            counts[sorted(chosen_set)] += 1
        sizes = [len(chosen_set) / counts.numel() if chosen_set else math.nan for chosen_set in sets]
        same_sizes = torch.allclose(votes[layer].fractions, torch.tensor(sizes), rtol=1e-5, equal_nan=True)
        equal &= same_sizes and bool((votes[layer].counts.flatten().cpu() == counts).all())
        print(
            f"{layer:20s} repaired {votes[layer].share:.2f}, ours {each[layer]:.2f} s, "
            f"one by one {seconds[layer]:.2f} s ("
            f"{seconds[layer] / each[layer]:.1f} x){'' if same_sizes else '  DIFFERS'}"
        )
    peer, peer_later = sum(seconds.values()), sum(seconds[layer] for layer in later)
    report = {
        "benchmark": "locate",
        "peer": "the same search one pair, layer and candidate at a time, each on the whole network",
        "ratio": peer / ours,
        "floor": "what lies behind the layer run once for every candidate that has to be tried, in batches of 64",
        "floor_seconds": floor_seconds(model, pairs[0], tried),
        "candidates": sum(tried.values()),
        "ratio_later_half": peer_later / ours_later,
        "seconds": ours,
        "peer_seconds": peer,
        "seconds_later_half": ours_later,
        "peer_seconds_later_half": peer_later,
        "sizes": {"pairs": chosen.pairs, "layers": len(layers), "arch": chosen.arch, "width": chosen.width},
        "threads": chosen.threads,
        "equal": equal,
    }
    print(f"all layers {peer / ours:.1f} x, later half {peer_later / ours_later:.1f} x")
    print(json.dumps(report))
    if not equal:
        raise SystemExit("the two sides differ in an error-inducing set: the ratio does not count")


if __name__ == "__main__":
    main()

"""Training a ResNet10 on CIFAR-10: our loop against the plain one of a PyTorch tutorial.

    python -m benchmarks.training [--images 10000] [--epochs 1] [--repeats 1] [--threads 1]
    python -m benchmarks.training --device cuda [--networks ResNet18 VGG16 ResNet-20 ResNet10] [--processes 1 4 8 12]
        [--seconds 20] [--compile reduce-overhead]      # images a second on a GPU: see benchmarks/training_device.py

Ours: `lib.training.fit`, images in memory as uint8, batched augmentation, bfloat16 autocast, channels_last.
Peer: float32, contiguous (NCHW), eager; torchvision's RandomCrop, RandomHorizontalFlip and ToTensor image by image in a
DataLoader, without workers and with two, of which the quicker counts. Network, first weights, images, optimiser,
schedule and number of steps are the same on both sides. A round runs ours, the peer, ours, the peer with workers, so
that a busy machine slows all alike; a time is the median of its runs, a ratio that of the medians.

After few steps accuracies scatter from seed to seed, so each run has its own seed, the same on both sides.
`equal`: the mean accuracies differ by at most `TOLERANCE`.

Not reached: training twice as fast as ours. Of ours (ResNet10, one thread of a Xeon with AMX) convolutions take 43 %,
batch normalisation 22, ReLU 14, sums 12, the rest augmentation and the optimiser. Normalisation and ReLU in one pass
would save at most ReLU's passes, those 14 %; that was not written.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from lib import compute, data, models
from lib.config import Recipe
from lib.data import ImageSet
from lib.training import accuracy, fit, set_learning_rate

WORKERS = (0, 2)
TOLERANCE = 0.05  # share of the test images; one seed's accuracy after an epoch scatters by about 0.03


class Pictures(Dataset):
    """An image set as torchvision's datasets give it: a PIL image at a time, transformed."""

    def __init__(self, images: ImageSet) -> None:
        self.pixels, self.labels = images.images.permute(0, 2, 3, 1).numpy(), images.labels.tolist()
        self.transform = transforms.Compose(
            [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def subject(images: int, test_images: int) -> tuple[ImageSet, ImageSet, str]:
    """Training and test images, and a word on them: CIFAR-10, else random images whose brightness is their class."""
    try:
        train = data.load("cifar10", "train").stratified(images, seed=0)
        return train, data.load("cifar10", "test").stratified(test_images, seed=0), "CIFAR-10"
    except data.DataError:
        what = "synthetic images of CIFAR-10's shape (it is not there)"
        return _synthetic(images, 0), _synthetic(test_images, 1), what


def _synthetic(count: int, seed: int) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    pixels = torch.randint(0, 40, (count, 3, 32, 32), generator=generator) + 21 * labels[:, None, None, None]
    return ImageSet(pixels.to(torch.uint8), labels, tuple("0123456789"), "synthetic", "train")


def network(seed: int, arch: str = "resnet10-preact", width: int = 16) -> nn.Module:
    """A network, else ResNet10 of the NNSlicer family, with the same first weights on both sides."""
    torch.manual_seed(seed)
    spec = data.SETS["cifar10"]
    return models.build(arch, mean=spec.mean, std=spec.std, width=width)


def plain_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The peer's optimiser, as torch makes it."""
    return torch.optim.SGD(
        model.parameters(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )


def ours(train: ImageSet, recipe: Recipe, seed: int) -> tuple[float, nn.Module]:
    """Seconds an epoch, everything that `fit` does included, and the network."""
    model = network(seed)
    began = time.perf_counter()
    fit(model, train, recipe, seed=seed, device="cpu")
    return (time.perf_counter() - began) / recipe.epochs, model


def floor_seconds(recipe: Recipe, steps: int, repeats: int = 5) -> float:
    """Seconds of convolutions and linear layers alone, forward and backward, for that many batches of ours.

    Each layer is given an input of the size and kind that it has in the network, and a gradient of its output.
    """
    model, on = network(0).train().to(memory_format=torch.channels_last), torch.device("cpu")
    given: list[tuple[nn.Module, torch.Tensor]] = []
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        given.append((layer, inputs[0].detach()))

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    total = 0.0
    with compute.autocast(on, recipe.precision):
        model(torch.rand(recipe.batch, *data.SETS["cifar10"].shape).to(memory_format=torch.channels_last))
        for hook in hooks:
            hook.remove()
        for place, (layer, images) in enumerate(given):
            images.requires_grad_(place > 0)  # the first layer's input is the image, whose gradient nobody needs
            gradient = torch.randn_like(layer(images))
            times = []
            for _ in range(repeats):
                began = time.perf_counter()
                layer(images).backward(gradient)
                times.append(time.perf_counter() - began)
            total += min(times)
    return total * steps


def plain(train: ImageSet, recipe: Recipe, seed: int, workers: int) -> tuple[float, nn.Module]:
    """The peer: seconds an epoch, and the network."""
    model = network(seed).train()
    optimizer = plain_optimizer(model, recipe)
    batch = min(recipe.batch, len(train))
    loader = DataLoader(Pictures(train), batch, shuffle=True, drop_last=True, num_workers=workers)
    step, total = 0, len(loader) * recipe.epochs
    began = time.perf_counter()
    for _ in range(recipe.epochs):
        for pictures, labels in loader:
            set_learning_rate(optimizer, recipe, step, total)
            optimizer.zero_grad()
            F.cross_entropy(model(pictures), labels).backward()
            optimizer.step()
            step += 1
    return (time.perf_counter() - began) / recipe.epochs, model.eval()


def compare(train: ImageSet, test: ImageSet, recipe: Recipe, repeats: int, workers: Sequence[int]) -> dict[str, list]:
    """Seconds an epoch and accuracies of every run: of "ours", and of the peer by its workers, as "0" and "2"."""
    sides: dict[str, Callable[[int], tuple[float, nn.Module]]] = {"ours": partial(ours, train, recipe)}
    for count in workers:
        sides[str(count)] = partial(plain, train, recipe, workers=count)
    found: dict[str, list] = {name: [] for name in sides}
    for repeat in range(repeats):
        for turn, count in enumerate(workers):
            for name in ("ours", str(count)):
                seconds, model = sides[name](repeat * len(workers) + turn)
                found[name].append((seconds, accuracy(model, test)))
                print(f"  {name:>4}: {seconds:.2f} s an epoch, test accuracy {found[name][-1][1]:.3f}", flush=True)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--images", type=int, help="training images: 10,000, with --device all 50,000")
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="torch's; the peer's workers come on top")
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        help="the peer's: 0 and 2, each tried; on a device all cores but two, up to 12",
    )
    device = parser.add_argument_group("images a second on a device")
    device.add_argument("--device", choices=["cuda", "cpu"], help="measure there, in one process and in several")
    device.add_argument("--networks", nargs="+", default=["ResNet18", "VGG16", "ResNet-20", "ResNet10"])
    device.add_argument("--processes", type=int, nargs="+", default=[1, 4, 8, 12], help="that share the device")
    device.add_argument("--seconds", type=float, default=20.0, help="of measuring a row")
    device.add_argument("--warm", type=int, default=30, help="steps before that")
    device.add_argument("--compile", choices=["default", "reduce-overhead"], help="ours by torch.compile, beside plain")
    chosen = parser.parse_args()
    chosen.images = chosen.images or (50_000 if chosen.device else 10_000)
    if chosen.device:
        from benchmarks import training_device

        chosen.workers = chosen.workers or [max(1, min(12, (os.cpu_count() or 3) - 2))]
        return training_device.main(chosen)
    chosen.workers = chosen.workers or WORKERS
    torch.set_num_threads(chosen.threads)
    train, test, what = subject(chosen.images, chosen.test_images)
    recipe = Recipe(
        arch="resnet10-preact", data="cifar10", epochs=chosen.epochs, batch=chosen.batch, augment=("crop", "flip")
    )
    print(
        f"ResNet10 of width 16 on {what}: {len(train):,} images x {chosen.epochs} epochs, batch {chosen.batch}, "
        f"{chosen.threads} thread(s); the peer with {' and '.join(map(str, chosen.workers))} workers"
    )
    warm = train.subset(slice(0, 2 * chosen.batch))  # libraries build their kernels on first use
    ours(warm, recipe, 0)
    plain(warm, recipe, 0, 0)
    found = compare(train, test, recipe, chosen.repeats, chosen.workers)
    seconds = {name: statistics.median(run[0] for run in runs) for name, runs in found.items()}
    best = min((str(count) for count in chosen.workers), key=lambda name: seconds[name])
    reached = statistics.mean(run[1] for run in found["ours"])
    peer_reached = statistics.mean(run[1] for name, runs in found.items() if name != "ours" for run in runs)
    ratio, difference = seconds[best] / seconds["ours"], reached - peer_reached
    print(f"ours {seconds['ours']:.2f} s an epoch, peer {seconds[best]:.2f} s ({best} workers), ratio {ratio:.2f}")
    print(f"test accuracy: ours {reached:.3f}, peer {peer_reached:.3f}, difference {difference:+.3f}")
    report = {
        "benchmark": "training",
        "peer": f"float32 NCHW eager with torchvision transforms and a DataLoader of {best} workers",
        "ratio": ratio,
        "floor": "the convolutions and linear layers alone, forward and backward, in the same precision",
        "floor_seconds": floor_seconds(recipe, len(train) // chosen.batch),
        "seconds": seconds["ours"],
        "peer_seconds": seconds[best],
        "peer_seconds_by_workers": {name: value for name, value in seconds.items() if name != "ours"},
        "accuracy": reached,
        "peer_accuracy": peer_reached,
        "accuracy_difference": difference,
        "tolerance": TOLERANCE,
        "subject": what,
        "images": len(train),
        "epochs": chosen.epochs,
        "repeats": chosen.repeats,
        "threads": chosen.threads,
        "equal": abs(difference) <= TOLERANCE,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()

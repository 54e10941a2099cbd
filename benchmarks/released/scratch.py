"""Pruning from scratch: the authors' `pruning-from-scratch` beside `lib.dynamic.scratch`."""

from __future__ import annotations

import inspect
import os
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.released.lcs import augmented, measured, same_weights, with_projections
from benchmarks.released.loading import Source, recording
from benchmarks.released.rows import Outcome, Steps, compared, settings, told
from lib import config, data, models, training
from lib.config import Recipe
from lib.data import splits
from lib.dynamic.channels import gated_sites
from lib.dynamic.cost import macs, parameters
from lib.dynamic.scratch import gates as ours_gates
from lib.dynamic.scratch.build import build_pruned
from lib.dynamic.scratch.search import Structure, search_threshold

STEPS = Steps()
SHAPE, CLASSES, WIDTH, EXPANDED = (3, 32, 32), 10, 8, 10
RATIO, WEIGHT, BATCH, BATCHES = 0.2, 0.5, 16, 5
FILES = {"vgg16-bn": ("vgg16_bn", "ConvBNReLU", "convbn"), "resnet20": ("resnet20", "BasicBlock", "basicblock")}


def their_models(source: Source) -> dict[str, Any]:
    """Their functions that build networks, and the one for expanded widths, by name."""
    vgg = source.take("models/vgg.py", "expanded_cfg", "ConvBNReLU", "CifarVGG", "vgg16_bn")
    resnet = source.take("models/resnet.py", "expanded_cfg", "BasicBlock", "CifarResNet", "resnet20")
    widths = source.take("models/__init__.py", "expanded_cfg").expanded_cfg
    return {"vgg16_bn": vgg.vgg16_bn, "resnet20": resnet.resnet20, "expanded_cfg": widths}


def flops(source: Source, model: nn.Module) -> int:
    """What their counter gives for an image of CIFAR-10."""
    counter = source.run("flop_counter.py", "get_model_complexity_info")
    function = source.take("script/prune_model.py", "calculate_flops", flop_counter=counter).calculate_flops
    return int(function(model))


class Both:
    """Their network with gates and ours, of the same weights, and images.

    Args:
        source: their clone.
        arch: vgg16-bn, or resnet20 with projections as shortcuts in both.
        pooled: end our VGG16 in average pooling, as theirs.
    """

    def __init__(self, source: Source, arch: str = "vgg16-bn", pooled: bool = True) -> None:
        name, self.kind, way = FILES[arch]
        self.code = source.run("gate.py", "TorchGraph")
        self.theirs = their_models(source)[name](CLASSES, WIDTH)
        self.ours = models.build(arch, width=WIDTH)
        if arch == "resnet20":
            with_projections(self.ours)
        generator = torch.Generator().manual_seed(3)
        self.images = torch.rand(2 * BATCH * BATCHES, *SHAPE, generator=generator)
        self.labels = torch.arange(len(self.images)) % CLASSES
        measured(self.theirs, self.images[:64])
        same_weights(self.theirs, self.ours)
        if pooled and arch == "vgg16-bn":
            self.ours.features.pool5 = nn.AvgPool2d(2)  # type: ignore[union-attr]
        for function in (f"init_{way}_gates", f"collect_{way}_gates"):
            self.code.apply_func(self.theirs, self.kind, getattr(self.code, function))
        self.code.replace_func(self.theirs, self.kind, getattr(self.code, f"new_{way}_forward"))
        self.gates: list[Tensor] = self.code.default_graph.get_tensor_list("gates_params")


def _learned(source: Source, arch: str = "vgg16-bn") -> dict[str, tuple[Any, Any]]:
    """One epoch of five batches of both sides: gradients of every step, gates after, and the mean loss."""
    both = Both(source, arch)
    fitted = torch.from_numpy(splits.partition(both.labels.numpy(), 0.5)[0])
    order = fitted[torch.randperm(len(fitted), generator=torch.Generator().manual_seed(0))]
    loader = [(both.images[part], both.labels[part]) for part in order.split(BATCH)]
    adam = recording(torch.optim.Adam)
    said: list[str] = []
    optimizer = adam(both.gates, lr=0.01)
    args = SimpleNamespace(device="cpu", lambd=WEIGHT, sparsity_level=RATIO, log_interval=1)
    given = {"model": both.theirs, "trainloader": loader, "gates_params": both.gates, "print": said.append}
    source.take("script/learn_gates.py", "train", optimizer=optimizer, args=args, **given).train(0)
    made: list[Any] = []

    class Kept(adam):  # type: ignore[valid-type, misc]
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            made.append(self)

    with mock.patch.object(torch.optim, "Adam", Kept):
        learned = ours_gates.learn_gates(
            *(both.ours, both.images, both.labels),
            ratio=RATIO,
            weight=WEIGHT,
            epochs=1,
            batch=BATCH,
            validation=0.5,
        )
    losses = [float(line.split("Loss: ")[1].split(",")[0]) for line in said]
    return {
        "gradient": ([one for step in optimizer.seen for one in step], [one for step in made[0].seen for one in step]),
        "gates": (both.gates, list(learned.values.values())),
        "loss": (sum(losses) / len(losses), learned.history[0]["loss"]),
    }


@STEPS.agrees("VGG16: logits in evaluation, gates of all channels in (0, 1)")
def _(source: Source) -> Outcome:
    return _gated(Both(source))


@STEPS.agrees("ResNet-20: the same, projections in both")
def _(source: Source) -> Outcome:
    return _gated(Both(source, "resnet20"))


@STEPS.differs("VGG16: the same, our pooling as it is", "theirs ends in 2x2 average pooling, ours in max pooling")
def _(source: Source) -> Outcome:
    return _gated(Both(source, pooled=False))


def _gated(both: Both) -> Outcome:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for gate in both.gates:
            gate.copy_(torch.rand(len(gate), generator=generator))
        values = dict(zip(gated_sites(both.ours), both.gates, strict=True))
        with ours_gates.gated(both.ours.eval(), values):
            return compared(both.theirs.eval()(both.images), both.ours(both.images))


@STEPS.agrees("VGG16: loss of the gates, mean of five batches, to the four digits that theirs prints")
def _(source: Source) -> Outcome:
    theirs, ours = _learned(source)["loss"]
    return Outcome(abs(theirs - ours) <= 1e-4, f"theirs {theirs:.4f}, ours {ours:.4f}")


@STEPS.agrees("VGG16: gradient of the gates, in each of five steps")
def _(source: Source) -> Outcome:
    return compared(*_learned(source)["gradient"])


@STEPS.agrees("VGG16: gates after five steps of Adam, in [0, 1]")
def _(source: Source) -> Outcome:
    return compared(*_learned(source)["gates"])


@STEPS.agrees("ResNet-20: gradient of the gates, projections in both")
def _(source: Source) -> Outcome:
    return compared(*_learned(source, "resnet20")["gradient"])


def _kept(source: Source, history: list[tuple[float, float]]) -> Outcome:
    """The epoch that each side keeps, of accuracies and shares of zeros."""
    seen, kept = iter(history), []
    gate = [torch.zeros(1)]

    def test() -> tuple[float, float]:
        accuracy, zeros = next(seen)
        gate[0] += 1
        return accuracy, 1 - zeros

    misc = SimpleNamespace(dump_pickle=lambda values, _: kept.append(int(values[0])))
    args = SimpleNamespace(epochs=len(history), sparsity_level=RATIO, logdir="")
    source.run(
        *("script/learn_gates.py", "best_acc"),
        train=lambda _: None,
        test=test,
        misc=misc,
        os=os,
        args=args,
        gates_params=gate,
        torch=SimpleNamespace(save=lambda *_: None),
        model=nn.Module(),
    )
    chosen, _ = ours_gates.choose([{"accuracy": a, "zeros": z} for a, z in history], RATIO)
    return told(f"epoch {kept[-1]}", f"epoch {chosen + 1}")


@STEPS.agrees("epoch whose gates are kept, where some have enough zeros")
def _(source: Source) -> Outcome:
    return _kept(source, [(0.9, 0.1), (0.5, 0.8), (0.7, 0.85), (0.6, 0.9), (0.95, 0.3)])


@STEPS.differs(
    "epoch whose gates are kept, where none has (zeros .3, .5, .4, accuracies .2, .3, .4)",
    "theirs keeps the last epoch, ours the one with most zeros; gates are then ranked by size in both, so that the two "
    "matter only as far as the order of gates changes between epochs",
)
def _(source: Source) -> Outcome:
    return _kept(source, [(0.2, 0.3), (0.3, 0.5), (0.4, 0.4)])


@STEPS.differs(
    "images that the gates are learned on",
    "theirs are cropped and mirrored, ours plain: the gates see each image as it is",
)
def _(source: Source) -> Outcome:
    both = Both(source)
    seen: list[Tensor] = []
    first = both.ours.get_submodule("features.conv1_1")
    handle = first.register_forward_hook(lambda own, given, _: seen.append(given[0]) if own.training else None)
    with mock.patch.object(ours_gates, "copied", lambda model, _: model):  # so that the hook is there
        ours_gates.learn_gates(both.ours, both.images, both.labels, epochs=2, batch=BATCH, validation=0.5)
    handle.remove()
    known = {image.numpy().tobytes() for image in both.images}
    changed = any(image.numpy().tobytes() not in known for batch in seen for image in batch.contiguous())
    theirs = augmented(source, "script/learn_gates.py", "transform_train", SimpleNamespace(dataset="cifar10"))
    return told(f"cropped and mirrored: {theirs}", f"cropped and mirrored: {changed}")


def _scores(tied: bool = False) -> list[Tensor]:
    """A score for each channel of VGG16 expanded to 80; tied: three quarters of them zero."""
    generator = torch.Generator().manual_seed(5)
    widths = [80, 80, 160, 160, 320, 320, 320] + [640] * 6
    scores = [torch.rand(width, generator=generator) for width in widths]
    return [torch.where(score < 0.75, 0, score) if tied else score for score in scores]


def _searched(source: Source, gates: list[Tensor], pruned: float) -> tuple[list[int], int, Structure]:
    """What both sides find for VGG16 expanded from 64 to 80: their channels and MACs, our structure."""
    made, counted = their_models(source), []
    tools = source.take(
        "script/prune_model.py",
        "calculate_flops",
        flop_counter=source.run("flop_counter.py", "get_model_complexity_info"),
    )

    def calculate(model: nn.Module) -> int:
        counted.append(int(tools.calculate_flops(model)))
        return counted[-1]

    args = SimpleNamespace(expanded_inchannel=80, arch="vgg16_bn", num_classes=CLASSES, max_iter=10, eps=1e-3)
    args.pruned_ratio = pruned
    with (
        mock.patch.object(nn.init, "kaiming_uniform_"),
        mock.patch.object(Tensor, "normal_", lambda self, *_, **__: self),
    ):
        # without drawing weights that nothing reads
        ran = source.run(
            *("script/prune_model.py", "model", "j"),
            args=args,
            models=SimpleNamespace(**made),
            calculate_flops=calculate,
            gates_params=gates,
        )
        with torch.device("meta"):
            expanded, plain = (models.build("vgg16-bn", width=width) for width in (80, 64))
    scores = dict(zip(gated_sites(expanded), gates, strict=True))
    ours = search_threshold(expanded, scores, 1 - pruned, SHAPE, reference=plain)
    return [count for count in ran.pruned_cfg if count != "M"], counted[-1], ours


def _structures(source: Source, gates: list[Tensor], pruned: float) -> Outcome:
    counts, cost, found = _searched(source, gates, pruned)
    theirs, ours = np.array(counts), np.array(list(found.channels.values()))
    whole = found.macs / found.share
    gap = int(np.abs(theirs - ours).max())
    shares = f"MACs {cost / whole:.4f} and {found.share:.4f} of the unexpanded network's"
    return Outcome(gap == 0, f"channels {'the same' if gap == 0 else f'differ by up to {gap} in a layer'}; {shares}")


@STEPS.differs(
    "structure for half of the MACs, gates all different",
    "both halve; theirs over shares of the channels from 0 to 1, ours over how many go, and theirs keeps the last "
    "structure it looked at, ours the nearest",
)
def _(source: Source) -> Outcome:
    return _structures(source, _scores(), 0.5)


@STEPS.differs(
    "structure for .3 of the MACs, gates all different",
    "as before; and theirs would stop within .001 of the part that goes, ours of the part that stays; ten halvings of "
    "5,280 channels reach neither",
    "the structure found meets the budget; steps and tolerance are not stated",
)
def _(source: Source) -> Outcome:
    return _structures(source, _scores(), 0.7)


@STEPS.differs(
    "structure for .3 of the MACs, three quarters of the gates zero",
    "equal gates go in the order of torch's topk in theirs, which means nothing; in ours every layer loses alike",
)
def _(source: Source) -> Outcome:
    return _structures(source, _scores(tied=True), 0.7)


@STEPS.differs("a layer whose gates are the smallest of all", "theirs may empty a layer, ours keeps its largest gate")
def _(source: Source) -> Outcome:
    gates = _scores()
    gates[3] = gates[3] * 1e-3
    with torch.no_grad():
        try:
            counts, _, found = _searched(source, gates, 0.7)
        except (RuntimeError, ValueError, ZeroDivisionError) as error:
            return Outcome(False, f"theirs raises {type(error).__name__}: {error}"[:120])
    return told(f"{counts[3]} channel(s) left", f"{list(found.channels.values())[3]} channel(s) left")


@STEPS.agrees("VGG16 of width 64: multiply-accumulates and parameters")
def _(source: Source) -> Outcome:
    theirs, ours = their_models(source)["vgg16_bn"](CLASSES), models.build("vgg16-bn")
    return told((flops(source, theirs), parameters(theirs)), (macs(ours, SHAPE), parameters(ours)))


@STEPS.differs(
    "ResNet-20: multiply-accumulates and parameters",
    "their shortcuts are 1x1 convolutions (option B), ours pad (A); their counter adds the inputs of the last pooling",
)
def _(source: Source) -> Outcome:
    theirs, ours = their_models(source)["resnet20"](CLASSES), models.build("resnet20")
    return told((flops(source, theirs), parameters(theirs)), (macs(ours, SHAPE), parameters(ours)))


@STEPS.differs(
    "ResNet-20, projections in both: multiply-accumulates", "their counter adds the inputs of the last pooling"
)
def _(source: Source) -> Outcome:
    theirs, ours = their_models(source)["resnet20"](CLASSES), models.build("resnet20")
    with_projections(ours)
    return told(flops(source, theirs), macs(ours, SHAPE))


@STEPS.agrees("narrowed VGG16: multiply-accumulates and parameters for the same channels")
def _(source: Source) -> Outcome:
    counts = [5, 7, 9, 11, 17, 13, 19, 23, 29, 31, 37, 3, 1]
    whole = models.build("vgg16-bn", width=EXPANDED)
    ours = build_pruned(whole, dict(zip(gated_sites(whole), counts, strict=True)), seed=0)
    made, left = their_models(source), iter(counts)
    sizes = [size if size == "M" else next(left) for size in made["expanded_cfg"](EXPANDED)["vgg16_bn"]]
    theirs = made["vgg16_bn"](CLASSES, EXPANDED, sizes)
    return told((flops(source, theirs), parameters(theirs)), (macs(ours, SHAPE), parameters(ours)))


@STEPS.differs(
    "VGG16: deviation of the first weights, of the first and second convolution and of the last layer; scale of BN",
    "theirs draws convolutions by fan-out and the last layer at .01, ours all by fan-in (He); their BN starts at .5. "
    "BN takes the scale of convolutions away again; the other two matter, see the next row",
)
def _(source: Source) -> Outcome:
    theirs = their_models(source)["vgg16_bn"](CLASSES)
    found = []
    for model in (theirs, models.build("vgg16-bn")):
        weights = [module.weight.detach() for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
        norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
        parts = [weights[0], weights[2], weights[-1]]
        found.append([float(f"{part.std():.2g}") for part in parts] + [norm.weight[0].item()])
    return told(*found)


@STEPS.differs(
    "VGG16 of width 8, gates learned on digits for 180 steps, from either's first weights: mean and share of zeros",
    "their last layer starts at a sixth of ours and BN at half, so that cross-entropy pulls less at the gates, and the "
    "penalty brings them down; fan-out or fan-in does not matter. The learning itself is the same, see above",
    "random weights; how they are drawn is not stated; ours is our own choice",
)
def _(source: Source) -> Outcome:
    digits = data.load("mnist5k", "train").stratified(1600, seed=0)
    images = nn.functional.pad(digits.float(), (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()
    last, norm, convolution = nn.Linear, nn.BatchNorm2d, nn.Conv2d
    said = {
        "theirs": (last, norm, convolution),
        "ours": (),
        "ours with their last layer": (last,),
        "their BN too": (last, norm),
        "their convolutions alone": (convolution,),
    }
    found = {name: _falls(source, images, digits.labels, kinds) for name, kinds in said.items()}
    return Outcome(found["theirs"] == found["ours"], "; ".join(f"{name} {value}" for name, value in found.items()))


def _falls(source: Source, images: Tensor, labels: Tensor, kinds: tuple[type[nn.Module], ...]) -> str:
    """Gates after four epochs on our network, whose layers of some kinds have their first weights."""
    torch.manual_seed(0)
    model, first = models.build("vgg16-bn", width=WIDTH), models.build("vgg16-bn", width=WIDTH)
    same_weights(their_models(source)["vgg16_bn"](CLASSES, WIDTH), first)
    for own, other in zip(model.modules(), first.modules(), strict=True):
        if isinstance(own, kinds):
            own.load_state_dict(other.state_dict())
    end = ours_gates.learn_gates(model, images, labels, epochs=4, batch=32).history[-1]
    return f"{end['mean']:.2f} and {end['zeros']:.3f}"


@STEPS.differs(
    "learning rate of the pruned network, 160 epochs: epochs at .1, .01, .001",
    "theirs steps its schedule before each epoch, as PyTorch before 1.1 had it, so that it falls one epoch early",
    "divided by 10 at half and at three quarters: ours",
)
def _(source: Source) -> Outcome:
    parameter, args = nn.Parameter(torch.zeros(1)), SimpleNamespace(**source.defaults("script/train_pruned.py"))
    model = nn.ParameterList([parameter])
    made = source.run("script/train_pruned.py", "optimizer", "scheduler", model=model, args=args)
    theirs: list[float] = []
    more = {"train": lambda _: theirs.append(made.optimizer.param_groups[0]["lr"]), "evaluate": lambda _: None}
    source.run("script/train_pruned.py", "epoch", "epoch", args=args, scheduler=made.scheduler, testloader=[], **more)
    recipe, optimizer = config.load("paper").recipe("scratch-vgg16"), torch.optim.SGD([parameter], lr=0.1)
    ours: list[float] = []
    for epoch in range(recipe.epochs):
        training.set_learning_rate(optimizer, recipe, epoch * 10, recipe.epochs * 10)
        ours.append(optimizer.param_groups[0]["lr"])
    return told(*([sum(abs(r - top) < 1e-6 for r in rates) for top in (0.1, 0.01, 0.001)] for rates in (theirs, ours)))


@STEPS.differs("settings of the pruned network's training", "our loop's momentum is Nesterov's everywhere")
def _(source: Source) -> Outcome:
    args, made = SimpleNamespace(**source.defaults("script/train_pruned.py")), nn.ParameterList([torch.zeros(1)])
    group = source.run(
        "script/train_pruned.py", "optimizer", "optimizer", model=made, args=args
    ).optimizer.param_groups[0]
    recipe: Recipe = config.load("paper").recipe("scratch-vgg16")
    theirs = {"epochs": args.epochs, "batch": args.train_batch_size, "rate": group["lr"], "momentum": group["momentum"]}
    ours = {"epochs": recipe.epochs, "batch": recipe.batch, "rate": recipe.learning_rate, "momentum": recipe.momentum}
    theirs |= {"weight decay": group["weight_decay"], "Nesterov": group["nesterov"]}
    return settings(theirs, ours | {"weight decay": recipe.weight_decay, "Nesterov": recipe.momentum > 0})


@STEPS.agrees("settings of the gates' learning")
def _(source: Source) -> Outcome:
    theirs = source.defaults("script/learn_gates.py")
    ours = {name: value.default for name, value in inspect.signature(ours_gates.learn_gates).parameters.items()}
    names = {"sparsity_level": "ratio", "lambd": "weight", "lr": "learning_rate", "epochs": "epochs"}
    names["train_batch_size"] = "batch"
    return settings({ours: theirs[name] for name, ours in names.items()}, {name: ours[name] for name in names.values()})

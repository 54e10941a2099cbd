"""Layerwise channel selection: the authors' `dynamic-pruning` beside `lib.dynamic.lcs`."""

from __future__ import annotations

import contextlib
import os
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.released.loading import CannotRun, NotThere, Source, on_cpu, recording, same_noise
from benchmarks.released.rows import Outcome, Steps, compared, settings, told
from lib import config, models
from lib.dynamic.lcs import network, optimise
from lib.models.resnet import PaddedShortcut, projection
from lib.training import Run

STEPS = Steps()
WIDTH, MASKS, CLASSES = 8, 5, 10
LAMBDA, TARGET, TEMPERATURE = 0.5, 0.7, 5.0
VGG16: list[Any] = [1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8]
ARGS = SimpleNamespace(
    lambd=LAMBDA,
    sparsity_level=TARGET,
    device="cpu",
    log_interval=1000,
    lr=0.01,
    epochs=160,
    dataset="cifar10",
    arch="vgg16_bn",
    action_num=MASKS,
    train_batch_size=128,
    logdir="",
)


class Both:
    """Their network with decision heads and ours with decision units, of the same weights, masks and images.

    Args:
        source: their clone.
        arch: vgg16-bn or resnet20.
        pooled: end our VGG16 in average pooling, as theirs.
    """

    def __init__(self, source: Source, arch: str = "vgg16-bn", pooled: bool = True) -> None:
        self.code = source.run("decision.py", "TorchGraph")
        graph = self.code.default_graph
        ours = models.build(arch, width=16 if arch == "resnet20" else WIDTH)
        if arch == "resnet20":
            parts = source.take("models/resnet.py", "BasicBlock", "CifarResNet")
            self.theirs = parts.CifarResNet(parts.BasicBlock, [3, 3, 3], CLASSES)
            with_projections(ours)
            kind, way = "BasicBlock", "basicblock"
        else:
            sizes = {16: [size if size == "M" else size * WIDTH for size in VGG16]}
            self.theirs = source.take("models/vgg.py", "ConvBNReLU", "CifarVGG", defaultcfg=sizes).CifarVGG(16, CLASSES)
            kind, way = "ConvBNReLU", "convbn"
        generator = torch.Generator().manual_seed(3)
        self.images = torch.rand(32, 3, 32, 32, generator=generator)
        self.labels = torch.randint(0, CLASSES, (32,), generator=generator)
        measured(self.theirs, self.images)
        same_weights(self.theirs, ours)
        self.model_params = list(self.theirs.parameters())
        self.code.apply_func(self.theirs, kind, getattr(self.code, f"init_decision_{way}"), action_num=MASKS)
        self.code.apply_func(self.theirs, "DecisionHead", self.code.collect_params)
        self.code.replace_func(self.theirs, kind, getattr(self.code, f"decision_{way}_forward"))
        self.code.apply_func(self.theirs, "DecisionHead", self.code.normalize_head_weights)
        self.graph, self.ours = graph, network.LayerwiseChannelSelection(ours, MASKS)
        if pooled and arch != "resnet20":
            self.ours.network.features.pool5 = nn.AvgPool2d(2)  # type: ignore[union-attr]
        heads = [module for module in self.theirs.modules() if type(module).__name__ == "DecisionHead"]
        self.heads: list[Any] = heads[-len(self.ours.layers) :]  # of VGG's first convolution there is one that idles
        for layer, head in zip(self.ours.layers, self.heads, strict=True):
            unit = self.ours.unit(layer)
            rows = torch.rand(unit.masks.shape, generator=generator)
            with torch.no_grad():
                head.channel_gates.copy_(torch.where(rows < 0.2, 0, 2 * rows))
                unit.masks.copy_(head.channel_gates)
                unit.weight.copy_(head.fc1.weight)

    def named(self, **more: Any) -> dict[str, Any]:
        """What the functions of their scripts read."""
        held = self.code
        names = ("apply_func", "set_deterministic_value", "normalize_head_weights", "default_graph")
        return {
            **{name: getattr(held, name) for name in names},
            "model": self.theirs,
            "args": ARGS,
            "trainloader": [(self.images, self.labels)],
            **more,
        }

    def evaluated(self) -> tuple[Tensor, list[Tensor], network.Pass]:
        """Their logits and chosen masks, and our pass, in evaluation mode."""
        self.graph.clear_all_tensors()
        with torch.no_grad():
            logits = self.theirs.eval()(self.images)
            return logits, list(self.graph.get_tensor_list("selected_channels")), self.ours.eval().run(self.images)


def with_projections(model: nn.Module) -> None:
    """Give a CIFAR ResNet 1x1 convolutions as shortcuts, in place."""
    for block in list(model.modules()):
        if isinstance(getattr(block, "shortcut", None), PaddedShortcut):
            first: Any = block.conv1
            block.shortcut = projection(first.in_channels, block.conv2.out_channels, first.stride[0])  # type: ignore[union-attr, arg-type]


def measured(model: nn.Module, images: Tensor) -> None:
    """Let BN measure its running statistics on a batch, so that a network of first weights has logits to compare."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        model.train()(images)
    for norm in norms:
        norm.momentum = 0.1


def same_weights(theirs: nn.Module, ours: nn.Module) -> None:
    """Copy their weights into ours, in the order in which they are defined.

    Raises: CannotRun where the two do not have the same layers.
    """
    values, names = list(theirs.state_dict().values()), list(ours.state_dict())
    shapes = [list(side.values()) for side in (theirs.state_dict(), ours.state_dict())]
    if [one.shape for one in shapes[0]] != [one.shape for one in shapes[1]]:
        raise CannotRun("their network has other layers than ours")
    ours.load_state_dict({name: value.clone() for name, value in zip(names, values, strict=True)})


def _alternated(source: Source, arch: str = "vgg16-bn") -> tuple[Both, dict[str, tuple[list[Tensor], list[Tensor]]]]:
    """One batch of main.py's training and of `Alternate`: gradients and values of both sides, by what they are of."""
    both = Both(source, arch)
    both.graph._graph["temperature"] = torch.tensor(TEMPERATURE)
    head_params, gate_params = (both.graph.get_tensor_list(name) for name in ("head_params", "gate_params"))
    adam = recording(torch.optim.Adam)
    gates = adam(head_params + gate_params, lr=0.01)
    backbone = recording(torch.optim.SGD)(both.model_params, lr=0.01, momentum=0.9)
    script = source.take(
        "main.py", "train", **both.named(optimizer_gate=gates, optimizer_model=backbone, gate_params=gate_params)
    )
    with on_cpu(), same_noise(1):
        script.train(0)
    hook = optimise.Alternate(weight=LAMBDA, target=TARGET, temperature=(TEMPERATURE, TEMPERATURE))
    run: Any = SimpleNamespace(model=both.ours.train(), step=0, total_steps=2, temperature=1.0)
    run.autocast = contextlib.nullcontext
    with mock.patch.object(torch.optim, "Adam", adam), same_noise(1):
        hook.begin(_as_run(run))
        hook.images(_as_run(run), both.images, both.labels)
        loss = torch.nn.functional.cross_entropy(both.ours(both.images), both.labels)
        loss.backward()
    count = len(both.ours.layers)
    idle = len(head_params) - count
    rows, masks = (gates.seen[0][start + idle : start + idle + count] for start in (0, len(head_params)))
    units = [both.ours.unit(layer) for layer in both.ours.layers]
    ours: Any = hook.adam
    return both, {
        "gradient": (rows + masks, ours.seen[0][0::2] + ours.seen[0][1::2]),
        "units": (
            [head.fc1.weight for head in both.heads] + [head.channel_gates for head in both.heads],
            [unit.weight for unit in units] + [unit.masks for unit in units],
        ),
        "backbone": (backbone.seen[0], [p.grad for p in both.ours.network.parameters() if p.grad is not None]),
    }


def _as_run(run: Any) -> Run:
    return run


@STEPS.agrees("VGG16: masks of all layers in evaluation, same weights and images")
def _(source: Source) -> Outcome:
    _, chosen, made = Both(source).evaluated()
    return compared(chosen, list(made.masks.values()))


@STEPS.agrees("ResNet-20: masks of all blocks in evaluation, projections in both")
def _(source: Source) -> Outcome:
    _, chosen, made = Both(source, "resnet20").evaluated()
    return compared(chosen, list(made.masks.values()))


@STEPS.differs("VGG16: logits in evaluation", "theirs ends in 2x2 average pooling, ours in max pooling")
def _(source: Source) -> Outcome:
    logits, _, made = Both(source, pooled=False).evaluated()
    return compared(logits, made.logits)


@STEPS.agrees("VGG16: logits in evaluation, average pooling in both")
def _(source: Source) -> Outcome:
    logits, _, made = Both(source).evaluated()
    return compared(logits, made.logits)


@STEPS.differs(
    "ResNet-20: parameters",
    "where a stage halves the image their shortcut is a 1x1 convolution with BN (option B), ours pads with zeros (A)",
)
def _(source: Source) -> Outcome:
    parts = source.take("models/resnet.py", "BasicBlock", "CifarResNet")
    theirs = parts.CifarResNet(parts.BasicBlock, [3, 3, 3], CLASSES)
    return told(*(sum(p.numel() for p in side.parameters()) for side in (theirs, models.build("resnet20"))))


@STEPS.differs(
    "temperature of the Gumbel-softmax, as released",
    "their list of temperatures is never filled, so that the released training stops in its first draw; every step "
    "below gives it one",
    "5.0 to 0.5, linearly: ours",
)
def _(source: Source) -> Outcome:
    head = source.run("decision.py", "TorchGraph").DecisionHead(WIDTH, WIDTH, MASKS).train()
    try:
        head(torch.rand(4, WIDTH, 4, 4))
    except (TypeError, ValueError, RuntimeError) as error:
        return Outcome(False, f"theirs raises {type(error).__name__}; main.py speaks of it: {_speaks(source)}")
    return Outcome(True, "theirs draws")


def _speaks(source: Source) -> bool:
    return "temperature" in (source.folder / "main.py").read_text(encoding="utf-8")


@STEPS.agrees("VGG16: masks drawn in training, same noise, temperatures 5, 1 and 0.5")
def _(source: Source) -> Outcome:
    theirs, ours = [], []
    for temperature in (5.0, 1.0, 0.5):
        both = Both(source)
        both.graph._graph["temperature"] = torch.tensor(temperature)
        both.ours.temperature = temperature
        with torch.no_grad(), same_noise(1):
            both.theirs.train()(both.images)
        with torch.no_grad(), same_noise(1):
            ours += list(both.ours.train().run(both.images).masks.values())
        theirs += list(both.graph.get_tensor_list("selected_channels"))
    return compared(theirs, ours)


@STEPS.agrees("VGG16: straight-through gradient of units and masks, cross-entropy and sparsity term together")
def _(source: Source) -> Outcome:
    return compared(*_alternated(source)[1]["gradient"])


@STEPS.agrees("ResNet-20: the same, projections in both")
def _(source: Source) -> Outcome:
    return compared(*_alternated(source, "resnet20")[1]["gradient"])


@STEPS.agrees("VGG16: units and masks after Adam, rows of length one, masks in [0, 5]")
def _(source: Source) -> Outcome:
    return compared(*_alternated(source)[1]["units"])


@STEPS.agrees("VGG16: gradient of the backbone in the second pass, masks drawn anew")
def _(source: Source) -> Outcome:
    return compared(*_alternated(source)[1]["backbone"])


@STEPS.agrees("VGG16: gradient of the backbone in fine-tuning, decisions frozen")
def _(source: Source) -> Outcome:
    both = Both(source)
    optimizer = recording(torch.optim.SGD)(both.model_params, lr=1e-3)
    source.take("finetune.py", "train", **both.named(optimizer=optimizer)).train(0)
    hook, run = optimise.Frozen(), SimpleNamespace(model=both.ours.train(), step=0)
    hook.begin(_as_run(run))
    loss = torch.nn.functional.cross_entropy(
        both.ours(hook.images(_as_run(run), both.images, both.labels)), both.labels
    )
    loss.backward()
    return compared(optimizer.seen[0], [p.grad for p in both.ours.network.parameters() if p.grad is not None])


@STEPS.agrees("fine-tuning: learning rate of the last of 160 epochs, weight decay")
def _(source: Source) -> Outcome:
    parameter = nn.Parameter(torch.zeros(1))
    args = SimpleNamespace(**source.defaults("finetune.py"), logdir="")
    made = source.run("finetune.py", "optimizer", "scheduler", model_params=[parameter], args=args)
    rates: list[float] = []
    more = {"train": lambda _: rates.append(made.optimizer.param_groups[0]["lr"]), "test": lambda: (0.0, 0.0)}
    saving = SimpleNamespace(save=lambda *_: None)
    source.run("finetune.py", "epoch", "epoch", args=args, os=os, torch=saving, model=nn.Module(), **more)
    recipe = config.load("paper").recipe("dynamic-vgg16-stated-b0.5")
    ours = (len(range(recipe.epochs)), recipe.learning_rate, recipe.weight_decay)
    return told((len(rates), rates[-1], made.optimizer.param_groups[0]["weight_decay"]), ours)


@STEPS.differs(
    "settings of the units' training",
    "masks and lambda are the stated ones in ours. The backbone goes on in ours as it was trained before: cropped and "
    "mirrored images, Nesterov's momentum, weight decay, a rate that falls; theirs sees plain images at one rate",
    "5 masks on CIFAR-10, lambda 1.0, 100 epochs; the others not stated; ours are our own choice",
)
def _(source: Source) -> Outcome:
    args = SimpleNamespace(**source.defaults("main.py"))
    parameter = [nn.Parameter(torch.zeros(1))]
    given = {"head_params": parameter, "gate_params": [], "model_params": parameter, "args": args}
    made = source.run("main.py", "optimizer_gate", "optimizer_model", **given)
    adam, sgd = (one.param_groups[0] for one in (made.optimizer_gate, made.optimizer_model))
    recipe = config.load("paper").recipe("dynamic-vgg16-stated")
    inserted, hook = recipe.transforms[0], recipe.hooks[0]
    theirs = {
        "masks": args.action_num,
        "lambda": args.lambd,
        "target": args.sparsity_level,
        "epochs": args.epochs,
        "batch": args.train_batch_size,
        "Adam's rate": adam["lr"],
        "SGD's rate": sgd["lr"],
        "weight decay": sgd["weight_decay"],
        "Nesterov": sgd["nesterov"],
        "schedule": "constant",
        "crop and flip": augmented(source, "main.py", "transform", args),
    }
    ours = {
        "masks": inserted["masks"],
        "lambda": hook["weight"],
        "target": hook["target"],
        "epochs": recipe.epochs,
        "batch": recipe.batch,
        "Adam's rate": optimise.Alternate().learning_rate,
        "SGD's rate": recipe.learning_rate,
        "weight decay": recipe.weight_decay,
        "Nesterov": recipe.momentum > 0,
        "schedule": recipe.schedule,
        "crop and flip": set(recipe.augment) == {"crop", "flip"},
    }
    return settings(theirs, ours)


def augmented(source: Source, path: str, name: str, args: Any) -> bool:
    """Whether a script's training images change from one look to the next."""
    from PIL import Image
    from torchvision import transforms

    stores = SimpleNamespace(CIFAR10=lambda *_, **__: [0], CIFAR100=lambda *_, **__: [0])
    made = source.run(path, name, name, args=args, transforms=transforms, datasets=stores)
    picture = Image.fromarray((torch.rand(32, 32, 3) * 255).byte().numpy())
    looks = [getattr(made, name)(picture) for _ in range(8)]
    return any(not torch.equal(looks[0], look) for look in looks)


@STEPS.differs(
    "first rows of W: fourth moment in units of the squared second",
    "theirs are uniform and then brought to length one, ours normal: directions of ours prefer no axis",
)
def _(source: Source) -> Outcome:
    from lib.dynamic.lcs.units import DecisionUnit

    head = source.run("decision.py", "TorchGraph").DecisionHead(64, 8, 2000)
    head.normalize_weights()
    ours = DecisionUnit(64, 8, 2000, generator=torch.Generator().manual_seed(0)).weight.detach()
    moments = [round(float((w**4).mean() / (w**2).mean() ** 2), 1) for w in (head.fc1.weight.detach(), ours)]
    return told(*moments)


@STEPS.differs(
    "sparsity as reported",
    "theirs is the share of entries that are not zero, among the masks that images chose; ours the share of zeros "
    "among all rows, and what images run is said in MACs",
    "the share of zero mask entries",
)
def _(source: Source) -> Outcome:
    both = Both(source)
    loader = type("Loader", (list,), {"dataset": both.images})([(both.images, both.labels)])
    _, share = source.take("main.py", "test", **both.named(testloader=loader)).test()
    return told(f"{share:.3f}", f"{both.ours.sparsity():.3f}")


@STEPS.differs(
    "which epoch's units are kept",
    "theirs overwrites its file whenever the sparsity of the *test* images is at most r, so that the last such epoch "
    "stays, whatever its accuracy; ours is the last epoch, and its masks are then cut to the budget",
)
def _(source: Source) -> Outcome:
    seen = iter([(0.9, 0.8), (0.8, 0.6), (0.7, 0.65), (0.9, 0.75)])
    kept: list[int] = []
    more = {"train": lambda _: None, "test": lambda: next(seen), "model": nn.Module()}
    args = SimpleNamespace(epochs=4, sparsity_level=0.7, logdir="")
    save = {"save_checkpoint": lambda state, filepath: kept.append(state["epoch"] + 1)}
    source.run("main.py", "epoch", "epoch", args=args, **more, **save)
    return told(f"epoch {kept[-1]} of 4 (sparsities .8 .6 .65 .75, r .7)", "epoch 4 of 4")


@STEPS.differs(
    "file that fine-tuning starts from",
    "the file that main.py writes has another name than the one that finetune.py reads: it must be renamed by hand",
    "nothing",
)
def _(source: Source) -> Outcome:
    paths: list[str] = []
    saving = SimpleNamespace(save=lambda _, path: paths.append(path), load=lambda path: paths.append(path))
    source.take("main.py", "save_checkpoint", torch=saving, os=os).save_checkpoint({}, filepath="folder")
    source.run("finetune.py", "ckpt", "ckpt", torch=saving, args=ARGS)
    written, read = (os.path.basename(path) for path in paths)
    return Outcome(written == read, f"theirs writes {written} and reads {read}; ours goes on from one name")


@STEPS.agrees("FLOPs")
def _(_source: Source) -> Outcome:
    raise NotThere("the released code counts none")


@STEPS.agrees("feature boosting and suppression")
def _(_source: Source) -> Outcome:
    raise NotThere("the released code has none of the methods that it is compared with")

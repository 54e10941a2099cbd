"""Repair one's own network: a saved classifier and a folder of inputs it gets wrong in, a repaired network out.

    python -m lib.lancet.repair_saved --weights net.safetensors --structure resnet18 --arguments '{"width": 16}' \\
        --shape 3 32 32 --classes 10 --wrong wrong/ --clean clean/ --out repaired.safetensors

`wrong/` has one sub-folder a true class. Half of it is used to locate and repair, the other half only to report.
With `--target 0` the error is a backdoor that answers 0; with `--companions`, a folder of the same files without what
causes the error, no companion has to be searched. `--clean` are images it should go on to classify as it does; without
them nothing can be said of its accuracy. Weights are read as tensors, images as pixels; nothing in a file is executed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib import store
from lib.data import as_batch
from lib.lancet.companions import found_companions, least_votes
from lib.lancet.errors import LancetError
from lib.lancet.files import Labelled, load_classifier, read_folder
from lib.lancet.locating import choose_layer, locate
from lib.lancet.locating.locate import RULES
from lib.lancet.measures import predictions
from lib.lancet.repair.fine_tune import fine_tune, transforms_of
from lib.lancet.repair.flip import flip, flip_by_trial

METHODS = ("fine-tune", "flip")
LOSS = 0.05  # of a class's recall, beyond which a repair is no success
Samples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class OwnReport:
    """What was repaired, and the network before and after on what the repair has not seen.

    Attributes:
        method, rule, layer: what was done, and where.
        weights, fraction: how many weights were changed, or could be; and which part of the layer that is.
        given, wrong, pairs: inputs given as wrong, those that are, those of them that votes came from.
        reached: whether the repair reached what it aimed at on its own half: flip, the threshold; fine-tune, more
            inputs right than before.
        before, after: accuracy on clean images; success, the share of wrong inputs that are still taken for the
            target, or without a target are still wrong; wrong_right, the share that gets its true label; with a target
            target_recall and natural_target_rate of clean images. NaN where there are no images to tell.
        reported_on: wrong inputs and clean images behind these numbers.
        images_of: clean images of each class, by its number; `before` and `after` have its "recall_of_class_<number>".
    """

    method: str
    rule: str
    layer: str
    weights: int
    fraction: float
    given: int
    wrong: int
    pairs: int
    reached: bool
    before: dict[str, float]
    after: dict[str, float]
    reported_on: tuple[int, int]
    images_of: dict[int, int]

    @property
    def worse(self) -> list[int]:
        """Classes whose recall fell by more than `LOSS` and by more than one image."""
        fallen = {k: self.before[_recall(k)] - self.after[_recall(k)] for k in self.images_of}
        return [k for k, fall in fallen.items() if fall > LOSS and fall * self.images_of[k] > 1 + 1e-6]

    @property
    def succeeded(self) -> bool:
        """Whether what was aimed at was reached, and no class of the clean images pays for it."""
        return self.reached and bool(self.images_of) and not self.worse

    def text(self) -> str:
        """The report in a few lines of Markdown."""
        aim = (
            "success fell to the threshold"
            if self.method == "flip"
            else "more of the inputs used are right than before"
        )
        if not self.reached:
            verdict = "**what was aimed at was not reached:** this is the best that was found."
        elif not self.images_of:
            verdict = f"{aim}; what it costs clean images is not known, as none were given."
        elif self.worse:
            lost = ", ".join(f"{k} ({self.before[_recall(k)]:.3f} to {self.after[_recall(k)]:.3f})" for k in self.worse)
            verdict = f"**{aim}, but this is no success:** recall fell of class {lost}."
        else:
            verdict = f"{aim}; no class lost more than one image, or more than {100 * LOSS:g} points of recall."
        done = "negated" if self.method == "flip" else "fine-tuned"
        named = {"success": "attack success rate" if "target_recall" in self.before else "still wrong"}
        rows = []
        for name, value in self.before.items():
            cells = ["not measured" if math.isnan(v) else f"{v:.3f}" for v in (value, self.after[name])]
            rows.append(f"| {named.get(name, name.replace('_', ' '))} | {cells[0]} | {cells[1]} |")
        return "\n".join(
            [
                f"{self.wrong} of {self.given} inputs given are classified wrongly; {self.pairs} pairs of an input and "
                f"its companion gave votes. {self.weights:,} weights of layer `{self.layer}` "
                f"({100 * self.fraction:.2f} %) were {done}; {verdict}",
                "",
                *("| | before | after |", "| --- | --- | --- |"),
                *rows,
                "",
                f"On {self.reported_on[0]} wrong inputs and {self.reported_on[1]} clean images not used above.",
            ]
        )


def repair_own(
    model: nn.Module,
    wrong: Samples | Labelled,
    *,
    clean: Samples | Labelled | None = None,
    without: Tensor | Labelled | None = None,
    target: int | None = None,
    method: str | None = None,
    rule: str | None = None,
    layer: str | None = None,
    threshold: float = 0.01,
    share: float = 0.1,
    steps: int = 150,
    epochs: int = 20,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> tuple[nn.Module, OwnReport]:
    """Locate what makes a network err on the given inputs, and repair it.

    Args:
        model: any classifier that torch.fx can trace, from images in [0, 1] to logits; left as it is.
        wrong: inputs that it gets wrong, (N, C, H, W) in [0, 1], and their true labels; those it gets right are left
            out. Half of them locate and repair, the others report.
        clean: other images with labels, likewise halved; they tell the accuracy, and fine-tuning keeps to them.
        without: (N, C, H, W): each wrong input without what causes the error, as the image without the trigger.
            None: companions are searched.
        target: the class that a backdoor answers; None: a general defect.
        method: "fine-tune" (for general defects) or "flip" (for backdoors; needs no clean images). None: flip where a
            target is given, as this keeps the recall of the target's class; else fine-tune.
        rule: of the layer: "smallest-fraction" (ours), "most-pairs" (the paper's), or for flipping "trial" (ours:
            every layer is tried on the first half, and that kept after which accuracy less success is highest).
            None: "trial" where there are clean images to flip by, else "smallest-fraction".
        layer: dotted name; None: chosen by the rule.
        threshold: what success flipping goes down to, on its own half.
        share: most of a layer's weights that fine-tuning changes, those with the most votes.
        steps: of the search for a companion.
        epochs, learning_rate: of fine-tuning.
        seed: of halves, transforms and the order of samples.
    Returns: (a repaired copy, the report).
    Raises: LancetError where no input is wrong, no companion is found, no layer or no weight is located; the network
        is unchanged then too.
    Source: AI-Lancet (Zhao et al. 2021).
    """
    method = method or ("fine-tune" if target is None else "flip")
    if method not in METHODS:
        raise LancetError(f"method is {method!r}: one of {', '.join(METHODS)}")
    if rule == "trial" and method != "flip":
        raise LancetError('rule "trial" is for method "flip": name one of ' + ", ".join(RULES))
    images, labels = _samples(wrong)
    others = without.images if isinstance(without, Labelled) else without
    if others is not None and others.shape != images.shape:
        raise LancetError(f"companions {tuple(others.shape)} and wrong inputs {tuple(images.shape)}: want one for each")
    errs = torch.nonzero(predictions(model, images) != labels).flatten()
    if len(errs) < 2:
        raise LancetError(
            f"the network is right on {len(images) - len(errs)} of the {len(images)} inputs given: at least two wrong "
            "ones are needed, one to locate the error and one to report on; it is left as it is"
        )
    first, second = (errs[part] for part in _halves(labels[errs], seed))
    inputs, truth = images[first], labels[first]
    known = (images[:0], labels[:0]) if clean is None else _samples(clean)
    if len(known[0]) == 1:
        raise LancetError("one clean image cannot be halved: give at least two, or none")
    kept, unseen = ((known[0][part], known[1][part]) for part in _halves(known[1], seed))
    pairs = _pairs(model, inputs, truth, None if others is None else others[first], steps)
    votes = locate(model, *pairs, until="label" if target is None else "not-target", target=target)
    rule = rule or ("trial" if method == "flip" and len(kept[0]) else "smallest-fraction")
    if rule == "trial" and layer is None and not len(kept[0]):
        raise LancetError('rule "trial" chooses the layer that costs clean images least: give clean images')
    chosen = layer or (choose_layer(votes, rule) if rule != "trial" else "")
    if chosen and chosen not in votes:
        raise LancetError(f"no layer {chosen!r} was looked at: one of {', '.join(votes)}")
    if method == "flip":
        aim: dict[str, Any] = {"target": target, "threshold": threshold}
        if chosen:
            repaired, flipped = flip(model, votes, inputs, truth, layer=chosen, **aim)
        else:
            repaired, flipped, _ = flip_by_trial(model, votes, inputs, truth, clean=kept, **aim)
        chosen, count, fraction, reached = flipped.layer, flipped.flipped, flipped.fraction, flipped.reached
    else:
        least = least_votes(votes[chosen], share)
        errors = (torch.cat([inputs, transforms_of(inputs, seed=seed)]), truth.repeat(5))
        options: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate, "seed": seed}
        repaired, tuned = fine_tune(model, votes, errors, kept, layer=chosen, least_votes=least, **options)
        count, fraction, reached = tuned.weights, tuned.fraction, tuned.right_after > tuned.right_before
    rest = (images[second], labels[second])
    before, after = (_measured(each, rest, unseen, target) for each in (model, repaired))
    images_of = {int(k): int((unseen[1] == k).sum()) for k in unseen[1].unique()}
    if len(unseen[0]) >= 20 and before["accuracy"] < 2 / max(2.5, len(images_of)):
        warnings.warn(
            f"the network is right on {before['accuracy']:.3f} of the clean images, about as chance would be: are they "
            "normalised twice or not at all, in 0..255, or are the classes in another order?",
            stacklevel=2,
        )
    return repaired, OwnReport(
        method=method,
        rule="given" if layer else rule,
        layer=chosen,
        weights=count,
        fraction=fraction,
        given=len(images),
        wrong=len(errs),
        pairs=len(pairs[0]),
        reached=reached,
        before=before,
        after=after,
        reported_on=(len(second), len(unseen[0])),
        images_of=images_of,
    )


def _measured(model: nn.Module, wrong: Samples, clean: Samples, target: int | None) -> dict[str, float]:
    """What `OwnReport.before` holds."""
    taken, decided = predictions(model, wrong[0]), predictions(model, clean[0])
    found = {
        "accuracy": _share(decided == clean[1]),
        "success": _share(taken != wrong[1] if target is None else taken == target),
        "wrong_right": _share(taken == wrong[1]),
    }
    if target is not None:
        own = clean[1] == target
        found["target_recall"] = _share((decided == target)[own])
        found["natural_target_rate"] = _share((decided == target)[~own])
    return found | {_recall(int(k)): _share((decided == k)[clean[1] == k]) for k in clean[1].unique()}


def _recall(label: int) -> str:
    return f"recall_of_class_{label}"


def _pairs(
    model: nn.Module, images: Tensor, labels: Tensor, others: Tensor | None, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    if others is None:
        return found_companions(model, images, labels, steps)
    right = predictions(model, others) == labels
    if not bool(right.any()):
        raise LancetError(f"the network is wrong on all {len(others)} companions too: give inputs without the error")
    return images[right], others[right], labels[right]


def _samples(given: Samples | Labelled) -> Samples:
    pair = (given.images, given.labels) if isinstance(given, Labelled) else given
    images, labels = as_batch(*pair, LancetError, unit=True)
    return (images / 255 if images.dtype == torch.uint8 else images.float()).cpu(), labels.cpu()


def _halves(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Two halves, each class shared out between them by turns; the first is the larger."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = shuffled[labels[shuffled].argsort(stable=True)]
    return order[::2].sort().values, order[1::2].sort().values


def _share(hits: Tensor) -> float:
    return hits.float().mean().item() if len(hits) else math.nan


def main(words: Sequence[str] | None = None) -> int:
    """python -m lib.lancet.repair_saved; see the head of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m lib.lancet.repair_saved", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--weights", required=True, help=".safetensors, or a state dict saved by torch")
    parser.add_argument("--structure", required=True, help="a name of lib.models or torchvision, or module:function")
    parser.add_argument("--arguments", type=json.loads, default={}, help='of the structure, as JSON: {"width": 16}')
    parser.add_argument("--shape", type=int, nargs=3, default=[3, 32, 32], metavar=("C", "H", "W"))
    parser.add_argument("--classes", required=True, help="how many, or a file with one name a line")
    parser.add_argument("--mean", type=float, nargs="+", help="a channel, of images in [0, 1]")
    parser.add_argument("--std", type=float, nargs="+")
    parser.add_argument("--wrong", required=True, help="folder of wrong inputs, one sub-folder a true class")
    parser.add_argument("--companions", help="folder of the same files without what causes the error")
    parser.add_argument("--clean", help="folder of images to keep to, one sub-folder a class")
    parser.add_argument("--target", type=int, help="class that a backdoor answers")
    parser.add_argument("--method", choices=METHODS, help="left out: flip with --target, else fine-tune")
    parser.add_argument("--rule", choices=(*RULES, "trial"))
    parser.add_argument("--layer", help="dotted name; left out: chosen by the rule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, help="where the repaired weights go: .safetensors, .pt or .pth")
    chosen = parser.parse_args(words)
    try:
        report = _run(chosen)
    except LancetError as error:
        print(f"nothing was repaired, and nothing written: {error}", file=sys.stderr)
        return 2
    print(report.text())
    return 0


def _run(chosen: argparse.Namespace) -> OwnReport:
    from safetensors.torch import save_file

    names: Sequence[str] | int
    if chosen.classes.isdigit():
        names = int(chosen.classes)
    elif Path(chosen.classes).is_file():
        names = [line.strip() for line in Path(chosen.classes).read_text().splitlines() if line.strip()]
    else:
        raise LancetError(f"--classes {chosen.classes!r} is neither a number nor a file with one name a line")
    count = names if isinstance(names, int) else len(names)
    out = Path(chosen.out)
    if out.suffix not in (".safetensors", ".pt", ".pth") or out.is_dir():
        raise LancetError(f"--out {out}: a file whose name ends with .safetensors, .pt or .pth is wanted")
    if out.resolve() in (Path(chosen.weights).resolve(), Path(chosen.classes).resolve()):
        raise LancetError(f"--out {out} is what is read: give another file")
    if chosen.target is not None and not 0 <= chosen.target < count:
        raise LancetError(f"--target {chosen.target}: a class in 0..{count - 1} is wanted")
    about = {"shape": chosen.shape, "classes": count, "mean": chosen.mean, "std": chosen.std}
    model = load_classifier(chosen.weights, chosen.structure, **about, **chosen.arguments)
    wrong = read_folder(chosen.wrong, names, chosen.shape)
    clean, without = (f and read_folder(f, names, chosen.shape) for f in (chosen.clean, chosen.companions))
    if without is not None and without.names != wrong.names:
        odd = sorted(set(wrong.names) ^ set(without.names))[:3]
        raise LancetError(
            f"{chosen.wrong} and {chosen.companions} hold different files (as {odd}): want the same names"
        )
    ways = {"target": chosen.target, "method": chosen.method, "rule": chosen.rule, "layer": chosen.layer}
    repaired, report = repair_own(model, wrong, clean=clean, without=without, seed=chosen.seed, **ways)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in repaired.state_dict().items()}
    save: Any = save_file if out.suffix == ".safetensors" else torch.save
    store.write_atomic(out, lambda part: save(tensors, part))
    told = asdict(report)
    for side in ("before", "after"):  # JSON has no NaN
        told[side] = {name: None if math.isnan(value) else value for name, value in told[side].items()}
    store.write_atomic(out.with_suffix(".json"), json.dumps(told, indent=1))
    return report


if __name__ == "__main__":
    raise SystemExit(main())

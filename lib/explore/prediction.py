"""An image before and after an attack: the two images, the probabilities, and both as the strength grows."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lib import attacks, plots
from lib.attacks.goal import device_of, image_seeds
from lib.explore.drawing import ADVERSARIAL, CLEAN, OTHER, View, picture
from lib.explore.network import MINE, ExploreError, Network

# FGSM and random PGD stand once each: their strength is eps.
ATTACKS: dict[str, str] = {"fgsm_8": "FGSM", "rpgd_8": "PGD, random start"} | {
    name: row.label for name, row in attacks.SUITE.items() if "epsilon" not in row.defaults
}
"""Name in the suite -> what a reader sees."""

TRIGGER = "trigger"
"""In place of an attack's name: the trigger that a network with a backdoor was trained on is stamped."""

EPSILON, MULTIPLE = "ε in 255ths", "times the perturbation found"
SWEPT = 9  # strengths of a sweep
SHOWN = 5  # classes: the true one, and the likeliest others
LIKELY = 0.25  # a class whose probability reaches it at some strength has a line of its own


@dataclass(frozen=True, eq=False)
class Example:
    """An image and what an attack makes of it, whether that fools the network or not.

    Attributes:
        network: the network attacked.
        attack: its name in the suite; strength: of the attack, in `unit`, `EPSILON` or `MULTIPLE`.
        position: in the test set; label: its class.
        images: float32 (2, C, H, W) in [0, 1], clean and adversarial.
        probabilities: float32 (2, classes), the network's for both.
    """

    network: Network
    attack: str
    strength: float
    unit: str
    position: int
    label: int
    images: Tensor
    probabilities: Tensor

    @property
    def predicted(self) -> list[int]:
        """The class given to the clean image, and to the adversarial."""
        return self.probabilities.argmax(1).tolist()

    @property
    def correct(self) -> bool:
        """Whether the network classifies the clean image correctly; nothing is attacked where it does not."""
        return self.predicted[0] == self.label


def attacks_on(network: Network, also: str = "fgsm_8") -> dict[str, str]:
    """What a network's images can be attacked with, one more of the suite among it: name -> what a reader sees."""
    stamp = {} if network.backdoor is None else {TRIGGER: f"Trigger {network.backdoor.trigger.name}"}
    return {**stamp, also: also, **ATTACKS}


def usual_strength(name: str, scale: str) -> tuple[float, str]:
    """The strength that an attack has at a scale, and its unit; sliders go from 0 to twice as much.

    Args:
        name: in the suite.
        scale: whose eps it is; 1 for an attack that looks for a small perturbation itself.
    Returns: the strength; `EPSILON` or `MULTIPLE`.
    Raises: AttackError for an attack that does not exist.
    """
    if name == TRIGGER:
        return 1.0, MULTIPLE
    chosen = attacks.plan(name, scale).parameters
    return (float(round(255 * chosen["epsilon"], 1)), EPSILON) if "epsilon" in chosen else (1.0, MULTIPLE)


@lru_cache(maxsize=256)
def attack(network: Network, position: int, name: str = "fgsm_8", strength: float | None = None) -> Example:
    """An image attacked at a strength.

    Args:
        network: the network attacked, and its test set.
        position: of the image in the test set.
        name: of the attack, in the suite, or `TRIGGER`; its other parameters are the scale's.
        strength: in the attack's unit; None: the usual one.
    Returns: the images; the same twice where the network misclassifies the clean one.
    Raises: AttackError for an attack that does not exist; ExploreError for a strength below 0.
    """
    usual, unit = usual_strength(name, network.scale)
    strength = usual if strength is None else float(strength)
    if not 0 <= strength < math.inf:
        raise ExploreError(f"strength {strength} of {name}: a number from 0, {unit}; {usual:g} is usual")
    image, label = network.image(position)
    images = torch.stack([image, _perturbed(network, position, name, strength)])
    return Example(network, name, strength, unit, position, label, images, network.probabilities(images))


def sweep(network: Network, position: int, name: str) -> pd.DataFrame:
    """The probabilities of an image under an attack, from strength 0 to the largest of the slider.

    Args:
        network, position, name: as in `attack`.
    Returns: one row a strength, its index; one column a class, its number.
    """
    levels = np.linspace(0, 2 * usual_strength(name, network.scale)[0], SWEPT)
    images = torch.stack([_perturbed(network, position, name, float(level)) for level in levels])
    return pd.DataFrame(network.probabilities(images).numpy(), index=levels)


def _perturbed(network: Network, position: int, name: str, strength: float) -> Tensor:
    image, _ = network.image(position)
    if strength == 0:
        return image
    if usual_strength(name, network.scale)[1] == EPSILON:
        return _craft(network, position, name, strength / 255)
    return (image + strength * (_craft(network, position, name) - image)).clamp(0, 1)


@lru_cache(maxsize=512)
def _craft(network: Network, position: int, name: str, epsilon: float | None = None) -> Tensor:
    """One image (C, H, W) on the CPU as an attack of the suite leaves it, whether that fools the network or not."""
    image, truth = network.image(position)
    clean, on = image[None], device_of(network.model)
    if int(attacks.predictions(network.model, clean)) != truth:
        return image
    if name == TRIGGER:
        if network.backdoor is None:
            raise ExploreError(f"network {network.name} was trained on no trigger: choose another attack")
        return network.backdoor.trigger.stamp(clean)[0]
    row, parameters = attacks.find(name), dict(attacks.plan(name, network.scale).parameters)
    if epsilon is not None:
        parameters["epsilon"] = epsilon
    seeds = image_seeds(name, clean, network.seed)
    with attacks.attackable(network.model, network.seed) as target:
        made = row.craft(target, clean.to(on), torch.tensor([truth], device=on), parameters, seeds)
    return made[0].detach().cpu().clamp(0, 1)


def view(example: Example) -> list[View]:
    """The two images and their difference, the probabilities of both, and the probabilities at every strength."""
    layout = [["clean", "change", "attacked", "bars"], ["sweep", "sweep", "sweep", "bars"]]
    figure, axes = plots.mosaic(layout, 3.9, plots.DOUBLE, width_ratios=[1, 1, 1, 1.25], height_ratios=[1.25, 1])
    names = {k: plots.short(name, 12) for k, name in enumerate(example.network.test.classes)}
    both = pd.DataFrame(example.probabilities.numpy(), index=["clean", "attacked"])
    for title, image, top in zip(both.index, example.images, example.predicted, strict=True):
        colour = CLEAN if top == example.label else ADVERSARIAL
        picture(axes[title], image, f"{title}\n{names[top]}, {both.loc[title, top]:.0%}", colour)
    change = example.images[1] - example.images[0]
    size = float(change.abs().max())  # in full colour
    change, title = change / max(size, 1e-9), f"change\nup to {255 * size:.3g}/255"
    if len(change) == 1:
        picture(axes["change"], change, title, cmap="PuOr_r", vmin=-1)
    else:
        picture(axes["change"], (1 + change) / 2, title)
    table = sweep(example.network, example.position, example.attack)
    highest = pd.concat([table, both]).drop(columns=example.label).max().nlargest(SHOWN - 1)
    names[example.label] += " (true)"
    ax = axes["bars"]
    both[[example.label, *highest.index]].rename(columns=names).T.plot.barh(
        ax=ax, color=[CLEAN, ADVERSARIAL], width=0.75, xlim=(0, 1.16), xticks=[0, 0.5, 1]
    )
    for bars in ax.containers:
        ax.bar_label(bars, fmt="{:.0%}", padding=2, fontsize=6.5)  # type: ignore[arg-type]
    ax.set_xlabel("probability")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    name = f"{attacks_on(example.network, example.attack)[example.attack]}: {example.unit}"
    table[[example.label, *highest[highest >= LIKELY].index]].rename(columns=names).plot(
        ax=axes["sweep"], ylim=(-0.03, 1.03), xlabel=name, ylabel="probability"
    )
    axes["sweep"].axvline(example.strength, color=OTHER, linewidth=1, linestyle=(0, (2, 2)), marker="")
    return [View(figure, caption(example))]


def caption(example: Example) -> str:
    """Which network predicts what, before and after which attack."""
    classes = example.network.test.classes
    before, after = (f"“{classes[int(row.argmax())]}” ({row.max():.0%})" for row in example.probabilities)
    image = "Your image" if example.position == MINE else f"Test image {example.position}"
    text = f"{image}, class “{classes[example.label]}”. {example.network.name} predicts {before}"
    if not example.correct:
        return f"{text} for the clean image already: there is nothing to attack, but an error to repair."
    times = f" taken {example.strength:g} times" if example.strength != 1 else ""
    strength = f" at ε = {example.strength:g}/255" if example.unit == EPSILON else times
    clean, adversarial = example.images[:, None]
    linf, l2, pixels = (float(attacks.perturbation(clean, adversarial, norm)) for norm in ("linf", "l2", "l0"))
    still = "still " if example.predicted[1] == example.label else ""
    return (
        f"{text}. {attacks_on(example.network, example.attack)[example.attack]}{strength} (L∞ {255 * linf:.3g}/255, "
        f"L2 {l2:.2f}, {pixels:.0f} pixels): it {still}predicts {after}."
    )

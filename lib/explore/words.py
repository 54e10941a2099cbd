"""What the panels show, in sentences; also what a screen reader says in place of a picture."""

from __future__ import annotations

from collections.abc import Sequence

from lib.explore import draw
from lib.explore.attacking import ATTACKS, EPSILON, Attacked
from lib.explore.blame import CLEAN, MASK, Blame
from lib.explore.paths import Path
from lib.explore.slices import Compared


def of_attack(attacked: Attacked, classes: Sequence[str]) -> str:
    """Who attacked what, and what came of it."""
    before, after = int(attacked.before.argmax()), int(attacked.after.argmax())
    truth, name = classes[attacked.truth], ATTACKS.get(attacked.attack, attacked.attack)
    start = f"Test image {attacked.position}, a “{truth}”: {attacked.network} "
    if before != attacked.truth:
        return (
            f"{start}says “{classes[before]}” ({attacked.before[before]:.0%}) of the clean image already, so there is "
            "nothing to attack; choose another image."
        )
    strength = f" at ε = {attacked.strength:g}/255" if attacked.unit == EPSILON else f", {attacked.strength:g} times"
    if attacked.unit != EPSILON and attacked.strength == 1:
        strength = ""
    size = f"(L∞ {255 * attacked.distance('linf'):.3g}/255, L2 {attacked.distance('l2'):.2f}, "
    size += f"{attacked.distance('l0'):.0f} pixels)"
    start += f"says “{classes[before]}” ({attacked.before[before]:.0%}). {name}{strength} {size}: "
    if attacked.fooled:
        return f"{start}it says “{classes[after]}” ({attacked.after[after]:.0%})."
    if attacked.distance("l0") == 0 and attacked.strength > 0:
        return f"{start}the attack changed nothing."
    return f"{start}it still says “{classes[after]}” ({attacked.after[after]:.0%})."


def of_slices(found: Compared) -> str:
    """How far the two slices agree, and where they agree least."""
    table = found.table
    least = table.loc[table["overlap"].idxmin()]
    text = (
        f"The slices of the clean and of the adversarial image share {found.overlap:.0%} of the synapses that are in "
        f"either, least in {draw.label(least['layer'])} ({least['overlap']:.0%})."
    )
    if found.peer is not None:
        text += f" Two clean images of the class share {found.peer:.0%}."
    return text


def of_layer(found: Compared, layer: str) -> str:
    """One layer of the slices."""
    row = found.table.set_index("layer").loc[layer]
    return (
        f"{layer}: {row['clean']:.1%} of its synapses are in the clean image's slice, {row['adversarial']:.1%} in the "
        f"adversarial's; they share {row['overlap']:.0%} of those in either. Orange neurons raise the class, violet "
        "ones lower it."
    )


def of_path(found: Path, classes: Sequence[str]) -> str:
    """How many layers decide otherwise for the adversarial image."""
    table = found.table
    text = of_attack(found.attacked, classes)
    if int(found.attacked.before.argmax()) != found.attacked.truth:
        return text
    changed, every = int(table["changed"].sum()), int(table["channels"].sum())
    return (
        f"{text} {found.moved} of {len(table)} layers take another row of masks for the attacked image; "
        f"{changed} of {every} channels are used for one of the two only."
    )


def no_path(scale: str) -> str:
    """Why there is no decision path, and how to come by one."""
    return (
        "No network with layerwise channel selection is trained at this scale. "
        f"./run_all.sh {scale} --only 00_explore trains one; or look at scale smoke, where that takes a minute."
    )


def of_blame(found: Blame, classes: Sequence[str]) -> str:
    """What was located, and what the network says without it."""
    attacked = found.attacked
    if int(attacked.before.argmax()) != attacked.truth:
        return of_attack(attacked, classes)
    if not found.wrong:
        return (
            f"{attacked.network} is right about the attacked image, so there is no error to locate: take a larger "
            "strength or another attack."
        )
    text = ""
    if found.asked == MASK and found.companion == CLEAN:
        text = "No mask made the network right, so the clean image stands in for the companion. "
    if found.chosen is None:
        return f"{text}In no layer does any tried part of the weights, taken away, make the network right."
    row = found.table[found.table["layer"] == found.chosen].to_dict("records")[0]
    kept = "still right" if row["clean_top"] == attacked.truth else f"wrong (“{classes[row['clean_top']]}”)"
    return (
        f"{text}Least is to blame in {found.chosen}: without {row['blamed']:,} of its {row['weights']:,} weights "
        f"({row['part']:.2%}) the network says “{classes[row['top']]}” of the adversarial image "
        f"(true class {row['truth']:.0%}), and about the clean image it is {kept}."
    )

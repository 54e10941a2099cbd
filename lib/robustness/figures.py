"""From named networks to numbers, records and plots of this study: what the four notebooks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from lib import evaluations, tables
from lib.evaluations import SHARE, frame, numbers
from lib.robustness import evaluation

Where = Mapping[str, Any]


def seeds_of(scale: str, seeds: Sequence[int] | int | None = None) -> list[int]:
    """The seeds given, one or several, else the scale's; see `evaluations.seeds_of`."""
    return evaluations.seeds_of(scale, "robustness", seeds)


def sweep_numbers(networks: Mapping[str, Where], scale: str, seeds: Sequence[int], aware: bool = False) -> list[Any]:
    """Accuracy under FGSM of networks, as a record's numbers.

    Args:
        networks: name in the zoo -> what tells it apart in the figure, as {"sparsity": 0.9}.
        scale, seeds: which of them; trained and attacked where that has not been done.
        aware: whether the attacker knows the temperature of training.
    Returns: numbers "accuracy" and "relative_accuracy" (over the network's own clean accuracy) at each epsilon.
    """
    rows = []
    for name, where in networks.items():
        for seed in seeds:
            for row in evaluation.sweep(name, scale, seed, aware).to_dict("records"):
                at = {**where, "epsilon": row["epsilon"], "seed": seed, "n": row["n"]}
                rows.append({"name": "accuracy", "value": row["accuracy"], "unit": SHARE, **at})
                share = {"value": row["relative_accuracy"], "unit": "fraction of the clean accuracy"}
                rows.append({"name": "relative_accuracy", **share, **at})
    return numbers(rows)


def masking_numbers(networks: Mapping[str, Where], scale: str, seeds: Sequence[int]) -> list[Any]:
    """The gradient-masking examination of networks, as a record's numbers; see `masking.examine`."""
    return _examined(networks, scale, seeds, evaluation.masking_of)


def spectra_numbers(
    networks: Mapping[str, Where], scale: str, seeds: Sequence[int], measures: Sequence[str]
) -> list[Any]:
    """Spectra of networks' layers, as a record's numbers.

    Args:
        measures: columns of `evaluation.spectra_of`: stable_rank, effective_rank, prunable_share, ...
    Returns: numbers at each layer and at layer "mean"; prunable_share at "mean" only.
    """
    rows = []
    for name, where in networks.items():
        for seed in seeds:
            for row in evaluation.spectra_of(name, scale, seed).to_dict("records"):
                for measure in measures:
                    value = row.get(measure)
                    if value is None or pd.isna(value):
                        continue
                    measured = measure == "prunable_share"
                    rows.append(
                        {
                            "name": measure,
                            "value": value,
                            "unit": "fraction of weights" if measured else "singular directions",
                            "n": int(row["prunable_n"]) if measured else 1,
                            "seed": seed,
                            **where,
                            "layer": row["layer"],
                        }
                    )
    return numbers(rows)


def _examined(
    networks: Mapping[str, Where], scale: str, seeds: Sequence[int], examine: Callable[..., pd.DataFrame]
) -> list[Any]:
    rows = []
    for name, where in networks.items():
        for seed in seeds:
            for row in examine(name, scale, seed).to_dict("records"):
                rows.append({**where, **{key: value for key, value in row.items() if not pd.isna(value)}, "seed": seed})
    return numbers(rows)


def reading(numbers: Sequence[Any], key: str, base: Any) -> str:
    """A table in Markdown: clean accuracy, and at three eps the accuracy and its difference to the base network.

    Args:
        numbers: of a sweep.
        key: what tells the networks apart, as "sparsity".
        base: the value of the network that the others are compared with.
    """
    rows = frame(numbers)
    grid = sorted(rows["epsilon"].unique())
    chosen = [grid[0], *(grid[round(share * (len(grid) - 1))] for share in (1 / 3, 2 / 3, 1))]
    lines = []
    for value, group in rows.groupby(key, sort=False):
        line: dict[str, Any] = {key: f"{value:g}" if isinstance(value, float) else str(value)}
        for epsilon in chosen:
            at, reference = (
                part[part["epsilon"] == epsilon]["value"].item() for part in (group, rows[rows[key] == base])
            )
            line[f"ε = {epsilon * 255:g}/255"] = f"{at:.3f}" + ("" if value == base else f" ({at - reference:+.3f})")
        lines.append(line)
    return f"Accuracy, and in brackets the difference to {key} {base}:\n\n" + tables.markdown(pd.DataFrame(lines))


def collapsed(numbers: Sequence[Any], variant: str = "adversarial", rise: float = 0.1) -> str:
    """Which robust twins are robust to the one step they were trained against only, as Markdown.

    A network that a stronger FGSM attack fools less often, by more than `rise`, masks its gradients: catastrophic
    overfitting. Source: Wong, Rice and Kolter 2020, section 5.

    Args:
        numbers: of `sweep_numbers`; only accuracies of `variant` are read.
    """
    lines = []
    curves: dict[tuple[str, int], dict[float, float]] = {}
    for number in numbers:
        where = number["where"]
        if number["name"] == "accuracy" and where.get("variant") == variant:
            for seed, value in zip(number["seeds"], number["per_seed"], strict=True):
                curves.setdefault((where["network"], seed), {})[255 * where["epsilon"]] = value
    for (network, seed), curve in sorted(curves.items()):
        low = min(curve, key=curve.__getitem__)
        high = max((step for step in curve if step >= low), key=curve.__getitem__)
        if curve[high] - curve[low] > rise:
            lines.append(
                f"- **Collapsed:** the robust twin of {network} at seed {seed} is right under FGSM at {high:.3g}/255 "
                f"on {100 * curve[high]:.0f} % of the images, at {low:.3g}/255 on {100 * curve[low]:.0f} %. It "
                "has learnt to fool the one step that it was trained against (catastrophic overfitting), and is not "
                "robust. It stays in the figures and in the verdicts."
            )
    return "\n".join(lines) or "No robust twin has collapsed: stronger attacks fool each of them more often."


def setting_text(scale: str, seeds: Sequence[int]) -> str:
    """What this run rests on, in one paragraph of Markdown: data, images, seeds, device."""
    chosen = evaluation.settings(scale)
    count = len(evaluation.test_images(chosen["data"], chosen["test_images"]))
    return evaluations.setting_text(scale, chosen["data"], seeds, f"{count} test images (the same for every network)")


def write(
    item: str, scale: str, seeds: Sequence[int], networks: Sequence[str], numbers: Sequence[Any], figure: Any
) -> None:
    """Write an item's record, with what was reduced and the fingerprints of the data; see `evaluations.write`.

    Args:
        item: a name in config/items.yaml.
        scale, seeds, networks: what the numbers rest on.
        numbers, figure: as `record.write` takes them.
    """
    own, paper = evaluation.settings(scale), evaluation.settings("paper")
    images = evaluation.test_images(own["data"], own["test_images"])
    used = {"test images": len(images)}
    if item == "robustness_masking":
        used |= {"images under PGD": own["pgd_images"], "images under CW": own["cw_images"]}
    full = {"seeds": paper["seeds"], "test images": paper["test_images"]}
    full |= {"images under PGD": paper["pgd_images"], "images under CW": paper["cw_images"]}
    data = {f"{own['data']}/test": images.fingerprint}
    evaluations.write(item, scale, seeds, networks, numbers, figure, used, full, data)

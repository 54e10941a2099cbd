"""From the adaptive attack's tables to the numbers, texts and record of its notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib import config, evaluations
from lib.evaluations import frame
from lib.lancet.study import adaptive
from lib.lancet.study import settings as shared
from lib.lancet.study.backdoor_records import LABELS, known_words, network_numbers
from lib.lancet.study.repairs import METHODS
from lib.lancet.study.settings import TARGET

ITEM = "lancet_adaptive"
ROLES = {"adaptive": "adaptive attack", "badnets": "BadNets, same mask", "clean": "clean network"}
STATED = {
    ("attack_success", "none"): 1.0,
    ("attack_success", "flip-stated"): 0.0,
    ("accuracy_change", "flip-stated"): -0.008,
}
"""The source's values for this attack on its GTSRB network, which it repairs with reversed triggers."""


def numbers(
    tables: Mapping[int, pd.DataFrame], neurons: Mapping[int, pd.DataFrame], classes: Mapping[int, pd.DataFrame]
) -> list[Any]:
    """Numbers of `lancet_adaptive`.

    Args:
        tables, neurons, classes: seed -> as `adaptive.table`, `adaptive.neurons` and `adaptive.every_class` return it.
    Returns: the measures, accuracy_change and changed at {network, role, method, reversed}; "touched", the share of
        flipped weights that belong to important neurons, there too (n: flipped weights); "lifted" at {role, layer,
        group} (n: neurons); "norm" and "anomaly_index" of the target class at {role}, and "classes_flagged", the share
        of the other classes that are flagged (n: images, and classes).
    """
    rows = network_numbers(tables, ["role"])
    for row in rows:
        if row["role"] == "adaptive" and row["reversed"]:
            row["paper_value"] = STATED.get((row["name"], row["method"]))
    for seed, table in tables.items():
        for row in table[table["touched"].notna()].to_dict("records"):
            where = {key: row[key] for key in ("network", "role", "method")} | {"reversed": bool(row["reversed"])}
            value = {"value": row["touched"], "unit": "fraction of flipped weights", "n": int(row["changed"])}
            rows.append({"name": "touched", **value, **where, "seed": seed})
    for seed, table in neurons.items():
        for row in table.to_dict("records"):
            where = {key: row[key] for key in ("role", "layer", "group")}
            value = {"value": row["lifted"], "unit": "standard deviations", "n": int(row["n"])}
            rows.append({"name": "lifted", **value, **where, "seed": seed})
    for seed, table in classes.items():
        for role, group in table.groupby("role", sort=False):
            mine = group["class"] == TARGET
            own = group[mine].iloc[0]
            about = {"role": role, "seed": seed}
            rows.append({"name": "norm", "value": own["norm"], "unit": "pixels", "n": int(own["n"]), **about})
            value = {"value": min(float(own["index"]), 1e6), "unit": "robust standard deviations", "n": len(group)}
            rows.append({"name": "anomaly_index", **value, **about})
            share = group[~mine]["flagged"].astype(bool).mean()
            rows.append(
                {"name": "classes_flagged", "value": share, "unit": "fraction of classes", "n": len(group) - 1, **about}
            )
    return evaluations.numbers(rows)


def layout(found: Sequence[Any]) -> pd.DataFrame:
    """The record's table: a row a network before repair, and one a method and trigger known."""
    wide = pd.concat(
        [frame(found, name).assign(measure=label) for name, label in LABELS.items()], ignore_index=True
    ).pivot(index=["role", "method", "reversed"], columns="measure", values="value")
    rows = []
    for role, words in ROLES.items():
        for method in adaptive.METHODS:
            for flag in (False, True) if method != "none" else (False,):
                if (role, method, flag) not in wide.index:
                    continue
                about = {"network": words, "method": METHODS[method]}
                about["trigger known"] = known_words(flag) if method != "none" else ""
                rows.append({**about, **wide.loc[(role, method, flag)][list(LABELS.values())].to_dict()})
    return pd.DataFrame(rows)


def repair_reading(found: Sequence[Any]) -> str:
    """What flipping does to the adaptive attack and to BadNets, in lines of Markdown."""
    lines = []
    for role in ("adaptive", "badnets"):
        success, change, recall = (
            frame(found, name, role=role).set_index(["method", "reversed"])["value"]
            for name in ("attack_success", "accuracy_change", "target_recall")
        )
        lines.append(f"**{ROLES[role]}** (success {success['none', False]:.3f} before repair):")
        for method in adaptive.METHODS[1:]:
            told = [
                f"with the {known_words(flag)} trigger success {success[method, flag]:.3f}, accuracy "
                f"{100 * change[method, flag]:+.1f} points, target recall {recall[method, flag]:.2f}"
                for flag in (False, True)
                if (method, flag) in success.index
            ]
            lines.append(f"- {METHODS[method]}: {'; '.join(told)}")
        lines.append("")
    return "\n".join(lines)


def neuron_reading(found: Sequence[Any], share: float) -> str:
    """Whether the triggers work through important neurons, and whether the flipped weights belong to them."""
    lifted = frame(found, "lifted").set_index(["role", "layer", "group"])["value"]
    lines = []
    for layer in dict.fromkeys(lifted.index.get_level_values("layer")):
        told = [
            f"{ROLES[role]} {lifted[role, layer, 'important']:+.1f} "
            f"(other neurons {lifted[role, layer, 'others']:+.1f})"
            for role in ("adaptive", "badnets")
            if (role, layer, "others") in lifted.index
        ]
        lines.append(f"- `{layer}`: the trigger moves the important neurons by {', '.join(told)} standard deviations")
    touched = frame(found, "touched") if any(n["name"] == "touched" for n in found) else None
    for role in ("adaptive", "badnets"):
        part = None if touched is None else touched[(touched["role"] == role) & (touched["method"] == "flip-tried")]
        if part is not None and len(part):
            lines.append(
                f"- {ROLES[role]}: of the flipped weights, {100 * part['value'].mean():.0f} % belong to the "
                f"{100 * share:.0f} % most important neurons of their layer"
            )
    return "\n".join(lines)


def cleanse_reading(found: Sequence[Any]) -> str:
    """Whether the smallest stamp of the target class stands out, network by network."""
    index, norm = (frame(found, name).set_index("role")["value"] for name in ("anomaly_index", "norm"))
    others = frame(found, "classes_flagged").set_index("role")["value"]
    return "\n".join(
        f"- **{ROLES[role]}**: the target's stamp has {norm[role]:.1f} pixels, anomaly index {index[role]:.1f} "
        f"({'above' if index[role] > 2 else 'not above'} 2); "
        f"{100 * others[role]:.0f} % of the other classes are flagged"
        for role in ROLES
        if role in index.index
    )


def setting_text(scale: str, seeds: Sequence[int], tables: Mapping[int, pd.DataFrame]) -> str:
    """What the notebook's run rests on, in one paragraph of Markdown."""
    first, chosen = next(iter(tables.values())), adaptive.settings(scale)
    own = first[(first["role"] == "adaptive") & (first["method"] == "none")].iloc[0]
    rest = (
        f"{int(own['n']):,} test images that no choice was made on ({int(own['n_target'])} of the target class), up to "
        f"{chosen['repair_pairs']} pairs that vote"
    )
    return evaluations.setting_text(scale, own["set"], seeds, rest)


def described(scale: str) -> dict[str, Any]:
    """Settings by the words that describe them."""
    chosen = adaptive.settings(scale)
    words = {"report images a network": chosen.get("report_images"), "pairs that vote": chosen["repair_pairs"]}
    words |= {"steps of a trigger's reversal": chosen["reverse_steps"]}
    words |= {"seeds of the search over classes": adaptive.cleanse_seeds(scale)}
    return words | {"steps of the search over classes": chosen["cleanse_steps"]}


def write(scale: str, seeds: Sequence[int], found: Sequence[Any], figure: Any) -> None:
    """Write the record of `lancet_adaptive`.

    Args:
        found: of `numbers`.
        figure: as `record.write` takes it.
    """
    names = list(adaptive.networks(scale).values())
    full = {"seeds": evaluations.seeds_of("paper", "lancet"), **described("paper")}
    name = config.load(scale).recipe(names[0]).data
    repair, report = shared.parts(scale, name)
    known = {f"{name}/repair": repair.fingerprint, f"{name}/report": report.fingerprint}
    evaluations.write(ITEM, scale, seeds, names, found, figure, described(scale), full, known, layout(found))

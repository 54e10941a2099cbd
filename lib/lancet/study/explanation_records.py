"""From blurred regions to the numbers, texts and record of the notebook on explaining errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lib import evaluations
from lib.evaluations import SHARE, frame
from lib.lancet.companions import IMAGE_BLUR
from lib.lancet.study import wrong
from lib.lancet.study.companions import first_half
from lib.lancet.study.explanation import REGIONS, Pictured

NAMES = {
    "blamed": "blamed region (the companion's mask)",
    "alternative": "alternative (hottest of Grad-CAM outside)",
    "random": "random region",
}
_CONFIDENCE = "mean softmax probability"


def numbers_of(frames: Mapping[int, pd.DataFrame]) -> list[Any]:
    """A record's numbers of blurred regions.

    Args:
        frames: seed -> as `explanation.measured` returns it.
    Returns: at {viewer, region, sigma}: "still_wrong", "corrected", "wrong_confidence", "true_confidence", and at
        sigma above 0 "change", of the confidence in the wrong class. viewer: "own", the network that erred and that
        the region was found with; "other", one of another seed, on the inputs that it takes for the same wrong class.
    """
    rows: list[dict[str, Any]] = []
    for seed, table in frames.items():
        start = table[table["sigma"] == 0].set_index(["network", "region"])["wrong_confidence"]
        for row in table.to_dict("records"):
            where = {"viewer": row["network"], "region": row["region"], "sigma": row["sigma"]}
            where |= {"n": int(row["n"]), "seed": seed}
            for name, unit in (
                *(("still_wrong", SHARE), ("corrected", SHARE)),
                *(("wrong_confidence", _CONFIDENCE), ("true_confidence", _CONFIDENCE)),
            ):
                rows.append({"name": name, "value": float(row[name]), "unit": unit, **where})
            if row["sigma"] > 0:
                change = float(row["wrong_confidence"]) - float(start[(row["network"], row["region"])])
                rows.append({"name": "change", "value": change, "unit": "difference of probabilities", **where})
    return evaluations.numbers(rows)


def table_of(numbers: Sequence[Any]) -> pd.DataFrame:
    """One row a viewer, region and blur."""
    keys = ["viewer", "region", "sigma"]
    names = ("still_wrong", "corrected", "wrong_confidence", "true_confidence")
    parts = [frame(numbers, name)[[*keys, "name", "value"]] for name in names]
    wide = pd.concat(parts).pivot(index=keys, columns="name", values="value").reset_index()
    wide["rank"] = wide["region"].map(REGIONS.index)
    wide["last"] = wide["viewer"] == "other"
    wide = wide.sort_values(["last", "rank", "sigma"], kind="stable").reset_index(drop=True)
    shown = wide[[*keys, *names]].rename(columns=lambda name: str(name).replace("_", " "))
    shown["region"] = shown["region"].map(NAMES)
    return shown.rename_axis(columns=None)


def reading(numbers: Sequence[Any]) -> str:
    """What blurring shows, computed, as Markdown."""
    lines = []
    for viewer, words in (
        ("own", f"The network itself, at blurs other than the one that the region was found with (σ {IMAGE_BLUR:g})"),
        ("other", "A network of another seed that makes the same errors, at every blur"),
    ):
        told = []
        for region in REGIONS:
            rows = {name: frame(numbers, name, viewer=viewer, region=region) for name in ("corrected", "change")}
            rows = {name: part[part["sigma"] > 0] for name, part in rows.items()}
            if viewer == "own":
                rows = {name: part[part["sigma"] != IMAGE_BLUR] for name, part in rows.items()}
            if len(rows["corrected"]):
                told.append(
                    f"{NAMES[region]} {100 * rows['corrected']['value'].mean():.0f} % corrected, confidence in the "
                    f"wrong class {rows['change']['value'].mean():+.2f}"
                )
        n = frame(numbers, "corrected", viewer=viewer)["n"]
        if told:
            lines.append(f"- **{words}** ({int(n.min())} inputs): {'; '.join(told)}.")
    return "\n".join(lines)


def pictures_reading(shown: Sequence[Pictured]) -> str:
    """What isolating and ablating do to the pictured classes, as Markdown."""
    lines = []
    for entry in shown:
        lines.append(
            f"- **{entry.name}** ({entry.pairs} inputs wrongly taken for it): {100 * entry.fraction:.2f} % of the "
            f"weights of `{entry.layer}` have a vote. With these alone in that layer {100 * entry.alone:.0f} % of the "
            f"inputs are still taken for it, without them {100 * entry.without:.0f} %."
        )
    return "\n".join(lines)


def setting(scale: str, seeds: Sequence[int], numbers: Sequence[Any]) -> str:
    """What the notebook's run rests on, in a paragraph of Markdown."""
    chosen = wrong.settings(scale)
    n = int(frame(numbers, "corrected", viewer="own")["n"].min())
    blurs = ", ".join(f"{sigma:g}" for sigma in chosen["explained_blurs"])
    rest = f"{n} wrong inputs of `{chosen['defect_network']}` with a companion, blurs of σ {blurs}"
    return evaluations.setting_text(scale, wrong.data_of(scale), seeds, rest)


def write(scale: str, seeds: Sequence[int], numbers: Sequence[Any], figure: Any) -> None:
    """Write the record `lancet_explanation`."""

    def described(scale: str) -> dict[str, Any]:
        chosen = wrong.settings(scale)
        return {"wrong inputs": chosen["explained_images"], "blurs": chosen["explained_blurs"]}

    known = {f"{wrong.data_of(scale)}/test1": first_half(scale).fingerprint}
    wrong.write("lancet_explanation", scale, seeds, numbers, figure, described, known, table_of(numbers))

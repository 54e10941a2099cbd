"""Other attacks that know the defence (notebook 38): through all neurons of a layer, and on the search for companions.

Beside the adaptive attack of notebook 37 and a BadNets network with the same mask they are repaired, with the trigger
at hand and without it: then a companion of each wrong input is searched, which one of them is trained to mislead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field

from lib import dotplots, plots
from lib.experiments import lancet_adaptive
from lib.experiments.item import Item, Results
from lib.experiments.lancet_adaptive import COLUMNS, PANELS, VERSION, AttackedRun
from lib.experiments.lancet_backdoors import CHANGED, UNITS, by_method, of_networks, wide, with_change
from lib.experiments.lancet_repairs import FLIPS, KNOWN, METHODS
from lib.experiments.run import measures
from lib.experiments.settings import Count
from lib.lancet.companions import companions
from lib.lancet.pairs import stamped_pairs

ROLES = {
    "adaptive": "important neurons",
    "many": "all neurons",
    "misleading": "companions misled",
    "badnets": "BadNets, same mask",
}
SEARCHED = ("misleading", "badnets")
"""What is repaired by companions that are searched, too."""
COMPANIONS = {"known": "trigger taken off", "searched": "searched (stamped inputs at hand)"}
REGIONS = {"found": "a companion is found", "inside": "of its mask in the trigger", "covered": "of the trigger masked"}


class Settings(lancet_adaptive.Attacked):
    """Settings of the experiment; see also `Attacked`.

    Attributes:
        many: network that the adaptive attack was trained into through all neurons of the layer.
        misleading: one that was trained to mislead the search for companions.
        companion_steps: of that search.
    """

    section: ClassVar[str] = "evasions"

    many: str = "lancet-adaptive-many"
    misleading: str = "lancet-misleading"
    companion_steps: Count = Field(150, title="steps of the search for companions")

    def networks(self) -> dict[str, str]:
        """What each network is to the experiment, of `ROLES` and clean -> its name."""
        return super().networks() | {"many": self.many, "misleading": self.misleading}


class EvasionRun(AttackedRun[Settings]):
    """A seed's networks of this experiment."""

    def by_companions(self, name: str) -> pd.DataFrame:
        """`repaired` with images that the true trigger stamps, their companions being searched.

        The repairer has stamped images and cannot take the trigger off: flipping stops, and layers are tried, by them.
        """
        steps = self.settings.companion_steps

        def rows() -> Iterator[list[Any]]:
            yield from self.flipped(name, self.attack(name).trigger, steps)

        return self.table(
            "lancet-adaptive", self.flipping(name) | {"companion_steps": steps}, rows, name, VERSION, COLUMNS
        )

    def regions(self, name: str) -> pd.DataFrame:
        """Where companions of stamped images are found.

        Returns: one row a pair: found; where it is, area (share of the image that is masked), inside (share of the mask
            that lies in the trigger), covered (share of the trigger that is masked).
        """
        chosen = self.settings

        def rows() -> Iterator[list[Any]]:
            attack, model = self.attack(name), self.network(name)
            images, labels = self.images_of(name)
            pairs = stamped_pairs(model, attack.trigger, images, labels, attack.target, chosen.repair_pairs)
            found = companions(model, pairs[0], pairs[2], steps=chosen.companion_steps)
            trigger = (attack.trigger.mask > 0).to(found.masks)
            for mask, right in zip(found.masks, found.found.tolist(), strict=True):
                inside, size = (mask * trigger).sum().item(), mask.sum().item()
                if right:
                    yield [True, size / mask.numel(), inside / size, inside / trigger.sum().item()]
                else:
                    yield [False, None, None, None]

        key = self.key(name, repair_pairs=chosen.repair_pairs, companion_steps=chosen.companion_steps)
        key |= {"attack": self.address(name)}
        return self.table("lancet-regions", key, rows, name, VERSION, ["found", "area", "inside", "covered"])


def evaded(settings: Settings, seed: int) -> pd.DataFrame:
    """Every network before and after each flip, and where companions are found.

    Returns: tidy: the measures of `lancet_backdoors.LABELS` and "changed" at {network, role, companions, method,
        reversed}, companions "known" (the trigger is taken off) or "searched"; at {role} "found", the share of pairs
        with a companion (n: pairs), and of those that have one, in the mean, "area", "inside" and "covered" as of
        `EvasionRun.regions`.
    """
    run, named = EvasionRun(settings, seed), settings.networks()
    tables = [(role, "known", known, run.repaired(named[role], known)) for role in ROLES for known in KNOWN]
    tables += [(role, "searched", False, run.by_companions(named[role])) for role in SEARCHED]
    parts = [
        with_change(table).assign(network=named[role], role=role, companions=how, reversed=known)
        for role, how, known, table in tables
    ]
    rows = of_networks(pd.concat(parts, ignore_index=True), ["role", "companions"])
    for role in SEARCHED:
        found = run.regions(named[role]).astype(float)
        mean = found.mean().to_frame().T.assign(pairs=len(found), n=int(found["found"].sum()))
        rows += measures(mean, ["found"], n="pairs", role=role)
        rows += measures(mean, ["area", "inside", "covered"], role=role)
    return run.tidy(rows)


def layout(results: Results) -> pd.DataFrame:
    """A row a network before repair, and one a method, trigger known and way to the companions."""
    found = wide(results, ["role", "companions", "method", "reversed"])
    table = by_method(found, FLIPS, [(role, how) for role in ROLES for how in COMPANIONS])
    table = table.assign(role=table["role"].map(ROLES), companions=table["companions"].map(COMPANIONS))
    return table.rename(columns={"role": "network"})


SHOWN = {name: METHODS[name] for name in ("none", "flip-stated", "flip-tried")}


def draw(results: Results) -> Figure:
    """Each measure before and after two flips: a row a network and what the repairer has."""
    kinds = [(role, "known", flag) for role in ROLES for flag in KNOWN]
    for role in SEARCHED:
        kinds.insert(kinds.index((role, "known", True)) + 1, (role, "searched", False))
    names = {
        (role, how, flag): f"{ROLES[role]}:\n{f'{KNOWN[flag]} trigger' if how == 'known' else 'stamped inputs only'}"
        for role, how, flag in kinds
    }
    figure, axes = plots.grid(3, 3, 5.2, plots.SINGLE, sharey=True)
    for ax, (measure, words) in zip(axes, PANELS.items(), strict=True):
        values = results.values(measure)
        kind = list(zip(values["role"], values["companions"], values["reversed"], strict=True))
        values = values.assign(row=[names[each] for each in kind], shown=values["method"].map(SHOWN))
        dotplots.dots(ax, values, "row", list(names.values()), "shown", list(SHOWN.values()))
        dotplots.striped(ax, len(kinds))
        ax.set_title(words, fontsize=plots.SMALLEST)
        ax.set(xlim=(-0.05, 1.05), xticks=(0, 0.5, 1), xticklabels=("0", ".5", "1"))
        ax.tick_params(labelleft=ax is axes[0])
        ax.grid(axis="y", visible=False)
    plots.named_rows(axes[0], list(names.values()))
    axes[1].set_xlabel("share of images")
    plots.legend_below(axes, 1)
    return figure


def draw_regions(results: Results) -> Figure:
    """Where companions are found: shares of pairs, of the mask and of the trigger."""
    figure, (ax,) = plots.panels(1, height=1.7)
    for index, role in enumerate(SEARCHED):
        for place, name in enumerate(REGIONS):
            values = results.values(name, role=role)  # none of the mask, where no companion is found
            words: Any = {"label": ROLES[role]} if place == 0 else {}
            dotplots.intervals(ax, values, [place + 0.3 * (index - 0.5)] * len(values), index, **words)
    plots.named_rows(ax, list(REGIONS.values()))
    ax.set(xlim=(-0.03, 1.03), xlabel="share")
    plots.legend_below([ax], 2)
    return figure


FOUND = {"found": "fraction of pairs", "area": "fraction of the image", "inside": "fraction of the mask"}
EVASIONS = Item(
    "lancet_evasions", evaded, UNITS | CHANGED | FOUND | {"covered": "fraction of the trigger"}, (), layout, draw,
    about=("report_images", "repair_pairs", "reverse_steps", "companion_steps"),
)  # fmt: skip
ITEMS = (EVASIONS,)

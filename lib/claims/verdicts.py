"""Every claim judged from the records of a scale, and written down."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pandas as pd

from lib import checksums, config, record, store, tables
from lib.claims import conditions
from lib.claims.decide import IN_PART
from lib.claims.judging import judged
from lib.claims.material import Material
from lib.claims.rules import Claim, ClaimError, load


@dataclass(frozen=True, eq=False)
class Verdict:
    """A claim judged.

    Attributes:
        scale: whose records it rests on.
        verdict: one of VERDICTS.
        part: what it holds for and what not, where it is reproduced in part.
        why: the reason in words, with the pooled effect and the counts.
        effects: one a part of the rule, pooled: {name, measure, unit, relative, value, low, high, repetitions, outcome,
            rival, text, verdict}; of a relative rule value, low and high are ratios.
        evidence: one row a comparison: item, comparison, setting, measure, left, right, difference, low, high, seeds
            (or what stands for them), n, outcome (or why it does not count).
        counts: outcome -> comparisons.
        stable: the verdict at other margins and confidences, {same, of, others}.
        networks: how accurate the networks are, beside what is usual.
        conditions: what of that belongs to the verdict's own words; empty where nothing does.
        controls: one row a control, as effects.
        fresh: {seeds: not seen when the rules were frozen, seen, effects: of the fresh alone, where there are two}.
        items, rule: what it rests on, and the rule in words.
    """

    id: str
    statement: str
    verdict: str
    why: str
    evidence: pd.DataFrame
    scale: str = ""
    paper: str = ""
    source: str = ""
    ours: bool = False
    part: str = ""
    items: tuple[str, ...] = ()
    rule: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    effects: Sequence[Mapping[str, Any]] = ()
    stable: Mapping[str, Any] = field(default_factory=dict)
    networks: Sequence[Mapping[str, Any]] = ()
    conditions: str = ""
    controls: Sequence[Mapping[str, Any]] = ()
    fresh: Mapping[str, Any] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """The verdict in its own words: the part it holds for, and on what networks."""
        part = f": {self.part}" if self.verdict == IN_PART and self.part else ""
        return f"{self.verdict}{part}" + (f"; {self.conditions}" if self.conditions else "")

    @property
    def stability(self) -> str:
        """How many of the margins and confidences give the same verdict, in words."""
        if not self.stable:
            return ""
        others = [f"{name} with {', '.join(where)}" for name, where in self.stable["others"].items()]
        told = f"The same in {self.stable['same']} of {self.stable['of']} combinations of margin and confidence"
        return told + (f" ({'; '.join(others)})." if others else ".")

    @property
    def accuracy(self) -> str:
        """How accurate the networks are beside what is usual, in words."""
        return conditions.in_words(self.networks)[1]

    @property
    def freshness(self) -> str:
        """Which seeds had been seen when the rules were frozen, and what the fresh ones say alone, in words."""
        return conditions.fresh_in_words(self.fresh)

    def text(self) -> str:
        """Statement, verdict, reason and rule as Markdown."""
        head = f"{self.headline[0].upper()}{self.headline[1:]}"
        owner = "Our own claim." if self.ours else ""
        said = " ".join(filter(None, [owner, self.why, self.stability, self.accuracy, self.freshness]))
        return f"### {self.statement}\n\n**{head}.** Scale {self.scale}. {said}\n\n*Rule.* {self.rule}"


def judge(claim_id: str, scale: str) -> Verdict:
    """The verdict on one claim from the records of a scale.

    Args:
        claim_id: a name in config/claims.yaml.
        scale: smoke, cpu, gpu or paper.
    Returns: the verdict; a missing or damaged record makes it "not testable at this scale". Where this process has
        run an item with other seeds or settings than the scale's, its reason says that it is not of that run.
    Raises: ClaimError for an unknown claim, or a rule that cannot be applied to the records.
    """
    found = load()
    if claim_id not in found:
        raise ClaimError(f"no claim {claim_id!r}: one of {', '.join(found)}")
    told = _verdict(found[claim_id], Material(scale))
    changed = record.beside(found[claim_id].items, scale)
    if changed:
        told = replace(told, why=f"Of the records of scale {scale}, not of this run ({changed}). {told.why}")
    return told


def judge_all(scale: str) -> list[Verdict]:
    """Judge every claim and write results/<scale>/claims.json and tables/claims.{csv,md,tex}, the JSON last.

    Args:
        scale: smoke, cpu, gpu or paper.
    Returns: the verdicts, in the order of config/claims.yaml.
    """
    found = verdicts(scale)
    folder = config.results_dir(scale)
    made = files(found, scale)
    for name, text in made.items():
        store.write_atomic(folder / name, text)
    checksums.note(folder, made)
    return found


def verdicts(scale: str) -> list[Verdict]:
    """Every claim judged from the records of a scale, in the order of config/claims.yaml; nothing is written."""
    material = Material(scale)
    return [_verdict(claim, material) for claim in load().values()]


def files(found: Sequence[Verdict], scale: str) -> dict[str, str]:
    """What `judge_all` writes of the verdicts: path in results/<scale> -> text, claims.json last."""
    folder = config.results_dir(scale)
    used = sorted({item for verdict in found for item in verdict.items if record.exists(item, scale)})
    commit, dirty = record.git_state()
    body = {
        "scale": scale,
        "claims": [_plain(verdict) for verdict in found],
        "provenance": {
            "git": commit,
            "dirty": dirty,
            **conditions.frozen(scale),
            "records": {item: store.file_sha256(folder / "numbers" / f"{item}.json") for item in used},
        },
    }
    shown = table(found)
    caption = f"The claims and their verdicts at scale {scale}"
    return {
        "tables/claims.csv": tables.csv(shown),
        "tables/claims.md": tables.markdown(shown),
        "tables/claims.tex": tables.latex(shown, caption, "tab:claims"),
        "claims.json": record.dumps(body),
    }


def table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Verdicts as a frame of text: claim, statement, whose, source, verdict, same (combinations), why."""
    rows = [
        [
            v.id,
            v.statement,
            "ours" if v.ours else "the source's",
            v.paper if v.ours else f"{v.paper}, {v.source}",
            v.headline,
            f"{v.stable['same']} of {v.stable['of']}" if v.stable else "",
            v.why,
        ]
        for v in verdicts
    ]
    return pd.DataFrame(rows, columns=["claim", "statement", "whose", "source", "verdict", "same", "why"])


def _verdict(claim: Claim, material: Material) -> Verdict:
    own = {name: getattr(claim, name) for name in ("id", "statement", "paper", "source", "ours", "items")}
    return Verdict(**own, scale=material.scale, **judged(claim, material))


def _plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON holds it: NaN is null."""
    told = {f.name: getattr(verdict, f.name) for f in fields(Verdict) if f.name != "evidence"}
    rows = verdict.evidence.to_dict("records")
    plain = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
    return {**told, "items": list(verdict.items), "headline": verdict.headline, "evidence": plain}

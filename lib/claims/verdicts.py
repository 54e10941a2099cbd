"""Every claim judged, in words, and written down."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import pandas as pd

from lib import checksums, config, record, store, tables
from lib.claims import conditions, words
from lib.claims.decide import (
    CONTRADICTED,
    IN_PART,
    NOT_TESTABLE,
    OPEN,
    REPRODUCED,
    Judgement,
    combine,
    fragility,
    judge as judge_rule,
)
from lib.claims.effects import AGAINST, SUPPORTS, UNRESOLVED, effect, needed, pooled
from lib.claims.numbers import Pair, cells, pairs, words as setting_words
from lib.claims.rules import Claim, ClaimError, Rule, load

_EVIDENCE = ("item", "comparison", "setting", "measure", "left", "right", "difference", "low", "high")
Parts = Sequence[tuple[Rule, Sequence[Pair], Judgement]]


@dataclass(frozen=True, eq=False)
class Verdict:
    """A claim judged.

    Attributes:
        verdict: one of VERDICTS.
        part: what it holds for and what not, where it is reproduced in part.
        why: the reason in words, with the pooled effect and the counts.
        effects: one a part of the rule, pooled: {name, measure, unit, relative, value, low, high, repetitions, outcome,
            rival, verdict, needed}; of a relative rule value, low and high are ratios.
        evidence: one row a comparison: item, comparison, setting, measure, left, right, difference, low, high, seeds
            (or what stands for them), n, outcome (or why it does not count).
        counts: outcome -> comparisons.
        stable: the verdict at other margins and confidences, {same, of, others}.
        networks: how accurate the networks are, beside what is usual.
        conditions: what of that belongs to the verdict's own words; empty where nothing does.
        controls: one row a control, as effects.
        fresh: {seeds: those not seen when the rules were frozen, effects: of them alone, where there are two}.
        items, rule: what it rests on, and the rule in words.
    """

    id: str
    statement: str
    verdict: str
    why: str
    evidence: pd.DataFrame
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
        said = f"{self.verdict}{part}" + (f"; {self.conditions}" if self.conditions else "")
        return said

    @property
    def stability(self) -> str:
        """How many of the margins and confidences give the same verdict, in words."""
        if not self.stable:
            return ""
        others = [f"{name} with {', '.join(where)}" for name, where in self.stable["others"].items()]
        told = f"The same in {self.stable['same']} of {self.stable['of']} combinations of margin and confidence"
        return told + (f" ({'; '.join(others)})." if others else ".")

    def text(self) -> str:
        """Statement, verdict, reason and rule as Markdown."""
        head = f"{self.headline[0].upper()}{self.headline[1:]}"
        said = " ".join(filter(None, [self.why, self.stability, conditions.in_words(self.networks)[1]]))
        owner = "Our own claim. " if self.ours else ""
        return f"### {self.statement}\n\n**{head}.** {owner}{said}\n\n*Rule.* {self.rule}"


def judge(claim_id: str, scale: str) -> Verdict:
    """The verdict on one claim from the records of a scale.

    Args:
        claim_id: a name in config/claims.yaml.
        scale: smoke, cpu, gpu or paper.
    Returns: the verdict; a missing or damaged record makes it "not testable at this scale".
    Raises: ClaimError for an unknown claim, or a rule that cannot be applied to the records.
    """
    found = load()
    if claim_id not in found:
        raise ClaimError(f"no claim {claim_id!r}: one of {', '.join(found)}")
    return _judge(found[claim_id], scale)


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
    return [_judge(claim, scale) for claim in load().values()]


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
            f"{v.paper}, {v.source}",
            v.headline,
            f"{v.stable['same']} of {v.stable['of']}" if v.stable else "",
            v.why,
        ]
        for v in verdicts
    ]
    return pd.DataFrame(rows, columns=["claim", "statement", "whose", "source", "verdict", "same", "why"])


def _judge(claim: Claim, scale: str) -> Verdict:
    records, problems = {}, []
    for item in claim.items:
        try:
            records[item] = record.read(item, scale)
        except record.RecordError as error:
            problems.append(f"{item} is damaged ({error})" if record.exists(item, scale) else f"{item} has no record")
    if problems:
        why = f"Needs records that are not there: {'; '.join(problems)}."
        return _verdict(claim, NOT_TESTABLE, why, [], [])
    numbers = {item: cells(known) for item, known in records.items()}
    every = [(rule, _compared(claim, rule, numbers)) for rule in claim.rules]
    counting = [(rule, [pair for pair in found if not pair.problem]) for rule, found in every]
    parts = [(rule, own, judge_rule(rule, own)) for rule, own in counting]
    silent = [item for item in claim.items if not any(pair.item == item for _, own in counting for pair in own)]

    def settle(judgements: Sequence[Judgement]) -> str:
        verdict = combine([judgement.verdict for judgement in judgements])
        return IN_PART if silent and verdict == REPRODUCED else verdict

    verdict = settle([judgement for _, _, judgement in parts])
    controls = [
        _told(rule, own, pooled(rule, own))
        for rule in claim.controls
        if (own := [pair for pair in _compared(claim, rule, numbers) if not pair.problem])
    ]
    seen = conditions.frozen(scale)["seen"]
    networks = conditions.networks(claim.items, records, scale) if verdict != NOT_TESTABLE else []
    return _verdict(
        claim,
        verdict,
        _why(claim, verdict, parts, [pair for _, found in every for pair in found], silent, controls),
        every,
        parts,
        part=_part(parts, silent) if verdict == IN_PART else "",
        effects=[_told(rule, own, one.pooled) | {"verdict": one.verdict} for rule, own, one in parts if one.pooled],
        stable=fragility(counting, settle) if verdict != NOT_TESTABLE else {},
        networks=networks,
        conditions=conditions.in_words(networks)[0],
        controls=controls,
        fresh=_fresh(counting, seen),
    )


def _compared(claim: Claim, rule: Rule, numbers: Mapping[str, Any]) -> list[Pair]:
    try:
        return [pair for item in rule.items for pair in pairs(rule, item, numbers[item])]
    except ClaimError as error:
        raise ClaimError(f"claim {claim.id!r}: {error}") from error


def _why(
    claim: Claim, verdict: str, parts: Parts, every: Sequence[Pair], silent: Sequence[str], controls: Sequence[Any]
) -> str:
    """The reason in words: effects, counts, what was left out, what a lead is owed to, and what would settle it."""
    said = []
    for rule, own, judgement in parts:
        name = f"{rule.name[0].upper()}{rule.name[1:]}" if len(parts) > 1 else "Effect"
        if judgement.pooled is None:
            said.append(f"{name}: nothing can be counted." if len(parts) > 1 else "Nothing can be counted.")
            continue
        found, unit = judgement.pooled, own[0].unit
        against = f" against {found.rival}, the strongest" if found.rival else ""
        over = f"{len(found.by)} {words.repetition(rule, len(found.by))}"
        own_verdict = f", {judgement.verdict}" if len(parts) > 1 else ""
        said.append(
            f"{name}{against}: {words.with_interval(rule, found.value, found.low, found.high, unit)} over {over}{own_verdict}; "
            f"{_counts(judgement)} (n = {words.span([pair.n for pair in own])})."
        )
    left_out = Counter(pair.problem for pair in every if pair.problem)
    if left_out:
        said.append(f"Left out: {', '.join(f'{count} {problem}' for problem, count in left_out.items())}.")
    said += [f"Nothing could be counted from {', '.join(silent)}."] if silent and verdict != NOT_TESTABLE else []
    said += _exceptions(parts) if verdict != IN_PART else []
    said += [_owed(control, parts) for control in controls]
    if verdict == OPEN:
        said += [_settled_by(rule, judgement) for rule, _, judgement in parts if judgement.verdict == OPEN]
    said += [f"{claim.settle}."] if claim.settle and verdict in (OPEN, NOT_TESTABLE) else []
    return " ".join(said)


def _counts(judgement: Judgement) -> str:
    tally = Counter(one for _, one in judgement.contexts)
    told = [f"{tally[SUPPORTS]} of {len(judgement.contexts)} support"]
    told += [f"{tally[outcome]} {'contradict' if outcome == 'contradicts' else outcome}" for outcome in (*AGAINST, UNRESOLVED) if tally[outcome]]
    return ", ".join(told)


def _exceptions(parts: Parts) -> list[str]:
    """Where something is both for and against a claim that is not reproduced in part, which is which."""
    mixed = [(rule, one) for rule, _, one in parts if {o for _, o in one.contexts} & {SUPPORTS} and {o for _, o in one.contexts} & set(AGAINST)]
    return [f"It holds {one.part}." for _, one in mixed if one.part]


def _owed(control: Mapping[str, Any], parts: Parts) -> str:
    """A control in words: as large an effect without what the claim is about means that the lead is not owed to it."""
    rule, _, judgement = parts[0]
    shown = f"Control, {control['name']}: {control['text']}"
    if judgement.pooled is None or control["value"] is None:
        return f"{shown}."
    own, other = rule.sign * judgement.pooled.value, rule.sign * control["raw"]
    if own <= 0 or other <= 0:
        return f"{shown}."
    share = min(1.0, other / own)
    owed = "the effect is not owed to what the claim names" if other >= own else f"{share:.0%} of the effect is there without what the claim names".replace("%", " %")
    return f"{shown}: {owed}."


def _settled_by(rule: Rule, judgement: Judgement) -> str:
    assert judgement.pooled is not None
    count = needed(rule, judgement.pooled)
    name = words.repetition(rule)
    if count is None:
        return f"At this mean and spread more than 1,000 {name} would be needed to settle it."
    more = max(0, count - len(judgement.pooled.by))
    if more == 0:
        return "Together it is settled, its comparisons differ: what would settle it is to say for which it is meant."
    return f"At this mean and spread {more} more {words.repetition(rule, more)} would settle it."


def _part(parts: Parts, silent: Sequence[str]) -> str:
    """What a claim holds for, in words: its parts by name where it has several."""
    if len(parts) == 1:
        told = [parts[0][2].part] if parts[0][2].verdict == IN_PART else []
    else:
        told = [
            f"{rule.name} {one.verdict}{f' ({one.part})' if one.verdict == IN_PART and one.part else ''}"
            for rule, _, one in parts
        ]
    return ", ".join([*told, *([f"nothing counted from {', '.join(silent)}"] if silent else [])])


def _told(rule: Rule, own: Sequence[Pair], found: Any) -> dict[str, Any]:
    """A pooled effect as plain values; of a relative rule as ratios."""
    unit = own[0].unit
    told: dict[str, Any] = {"name": rule.name, "measure": rule.measure, "unit": unit, "relative": rule.relative}
    if found is None:
        return told | {"value": None, "low": None, "high": None, "repetitions": 0, "outcome": "", "rival": "", "text": ""}
    value, low, high = (math.exp(x) if rule.relative else x for x in (found.value, found.low, found.high))
    told |= {"value": value, "low": low, "high": high, "raw": found.value, "repetitions": len(found.by)}
    told |= {"outcome": found.outcome, "rival": found.rival}
    return told | {"text": words.with_interval(rule, found.value, found.low, found.high, unit)}


def _fresh(counting: Sequence[tuple[Rule, Sequence[Pair]]], seen: Sequence[int]) -> dict[str, Any]:
    """The seeds that had not been seen when the rules were frozen, and the effects of them alone."""
    seeds = sorted({rep for rule, own in counting if rule.sample is None for pair in own for rep in pair.value})
    new = [seed for seed in seeds if seed not in seen]
    effects = []
    for rule, own in counting:
        alone = [_only(pair, new) for pair in own] if rule.sample is None else []
        found = pooled(rule, alone) if len(new) >= 2 and alone else None
        effects += [_told(rule, own, found)] if found is not None else []
    return {"seeds": new, "seen": [seed for seed in seeds if seed in seen], "effects": effects}


def _only(pair: Pair, seeds: Sequence[int]) -> Pair:
    kept = {rep: value for rep, value in pair.value.items() if rep in seeds}
    return Pair(pair.item, pair.setting, pair.rival, pair.left, pair.right, kept, pair.n, pair.unit)


def _verdict(
    claim: Claim, verdict: str, why: str, every: Sequence[tuple[Rule, Sequence[Pair]]], parts: Parts, **more: Any
) -> Verdict:
    rows = [_row(rule, pair) for rule, found in every for pair in found]
    evidence = pd.DataFrame(rows, columns=[*_EVIDENCE, "seeds", "n", "outcome"])
    counts = Counter(evidence["outcome"]) if rows else Counter()
    own = {name: getattr(claim, name) for name in ("id", "statement", "paper", "source", "ours", "items")}
    return Verdict(
        **own, verdict=verdict, why=why, evidence=evidence, rule=words.rule_words(claim), counts=dict(sorted(counts.items())), **more
    )


def _row(rule: Rule, pair: Pair) -> dict[str, Any]:
    against = {"against": pair.rival} if pair.rival else {}
    row: dict[str, Any] = {"item": pair.item, "comparison": rule.name, "setting": setting_words({**pair.setting, **against})}
    means = [sum(side.values()) / len(side) if side else math.nan for side in (pair.left, pair.right)]
    row |= {"measure": rule.measure, "left": means[0], "right": means[1], "difference": math.nan, "low": math.nan, "high": math.nan}
    found = effect(rule, pair.value, pair.unit) if len(pair.value) >= 2 else None
    if found is not None:
        sized = [math.exp(x) - 1 if rule.relative else x for x in (found.value, found.low, found.high)]
        row |= dict(zip(("difference", "low", "high"), sized, strict=True))
    outcome = pair.problem or (found.outcome if found else "")
    return row | {"seeds": len(pair.value), "n": pair.n, "outcome": outcome}


def _plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON holds it: NaN is null."""
    told = {f.name: getattr(verdict, f.name) for f in fields(Verdict) if f.name != "evidence"}
    rows = verdict.evidence.to_dict("records")
    plain = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
    return {**told, "items": list(verdict.items), "headline": verdict.headline, "evidence": plain}

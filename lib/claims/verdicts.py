"""Every claim judged from the records of a scale, and written down."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lib import checksums, config, record, store, tables
from lib.claims import words
from lib.claims.decide import (
    CONTRADICTED,
    IN_PART,
    NOT_REPRODUCED,
    NOT_TESTABLE,
    REPRODUCED,
    Judgement,
    combine,
    fragility,
)
from lib.claims.decide import judge as judge_rule
from lib.claims.effects import SUPPORTS, effect, pooled
from lib.claims.material import Material, frozen
from lib.claims.numbers import Cell, Pair, pairs, setting_words
from lib.claims.rules import Claim, ClaimError, Rule, load

EVIDENCE = ["item", "comparison", "setting", "measure", "left", "right", "difference", "low", "high", "seeds", "n"]
EVIDENCE += ["outcome"]


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
        causes: one row each, as effects, of what shows why the claim does not hold; none where it is not so.
        because: what these show, in words.
        fresh: {seeds: not seen when the rules were frozen or the claim's own was written, seen, effects: of the fresh
            alone, where there are two}.
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
    causes: Sequence[Mapping[str, Any]] = ()
    because: str = ""
    fresh: Mapping[str, Any] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """The verdict in its own words: the part it holds for, and on what networks."""
        part = f": {self.part}" if self.verdict == IN_PART and self.part else ""
        return f"{self.verdict}{part}" + (f"; {self.conditions}" if self.conditions else "")

    @property
    def cause(self) -> str:
        """Why the claim does not hold, with what shows it; empty where nothing does."""
        return words.cause_words(self.because, self.causes)

    @property
    def remarks(self) -> str:
        """How stable the verdict is, how accurate its networks are, and which seeds are fresh, in words."""
        remarks = (
            words.stability_words(self.stable),
            words.accuracy_words(self.networks),
            words.fresh_words(self.fresh),
        )
        return " ".join(filter(None, remarks))

    def text(self, changed: Mapping[str, Any] | None = None) -> str:
        """Statement, verdict, reason and rule as Markdown.

        Args:
            changed: settings of a run beside which it stands that are not the scale's, by name.
        """
        head = f"{self.headline[0].upper()}{self.headline[1:]}"
        if changed:
            head += f". Of the records of scale {self.scale}, not of this run ({record.in_words(changed)})"
        reasons = " ".join(filter(None, ["Our own claim." if self.ours else "", self.why, self.remarks]))
        cause = f"\n\n*Why not.* {self.cause}" if self.cause else ""
        return f"### {self.statement}\n\n**{head}.** Scale {self.scale}. {reasons}{cause}\n\n*Rule.* {self.rule}"


def judge(claim_id: str, scale: str) -> Verdict:
    """The verdict on one claim from the records of a scale.

    Args:
        claim_id: a name in config/claims.yaml.
        scale: smoke, cpu, gpu or paper.
    Returns: the verdict; a missing or damaged record makes it "not testable at this scale".
    Raises: ClaimError for an unknown claim, or a rule that cannot be applied to the records.
    """
    known = load()
    if claim_id not in known:
        raise ClaimError(f"no claim {claim_id!r}: {config.one_of(claim_id, known)}")
    return _judged(known[claim_id], Material(scale))


def judge_all(scale: str) -> list[Verdict]:
    """Judge every claim and write results/<scale>/claims.json and tables/claims.{csv,md,tex}, the JSON last.

    Args:
        scale: smoke, cpu, gpu or paper.
    Returns: the verdicts, in the order of config/claims.yaml.
    """
    found, folder = verdicts(scale), config.results_dir(scale)
    made = files(found, scale)
    for name, text in made.items():
        store.write_atomic(folder / name, text)
    checksums.note(folder, made)
    return found


def verdicts(scale: str) -> list[Verdict]:
    """Every claim judged from the records of a scale, in the order of config/claims.yaml; nothing is written."""
    material = Material(scale)
    return [_judged(claim, material) for claim in load().values()]


def alone(found: Mapping[str, Any]) -> list[Verdict]:
    """The claims that a record bears on, each judged by this record alone, by the rules that look at it.

    Args:
        found: a record, written or not.
    """
    item, judged = found["item"], []
    known, material = load() if found["claims"] else {}, Material.alone(found)
    for name in (name for name in found["claims"] if name in known):
        rules, controls = (
            tuple(rule.model_copy(update={"items": (item,)}) for rule in some if item in rule.items)
            for some in (known[name].rules, known[name].controls)
        )
        if rules:
            own = {"items": (item,), "rules": rules, "controls": controls, "causes": ()}
            judged.append(_judged(known[name].model_copy(update=own), material))
    return judged


def files(found: Sequence[Verdict], scale: str) -> dict[str, str]:
    """What `judge_all` writes of the verdicts: path in results/<scale> -> text, claims.json last."""
    numbers = config.results_dir(scale) / "numbers"
    used = sorted({item for verdict in found for item in verdict.items if record.exists(item, scale)})
    commit, dirty = record.git_state()
    records = {item: store.file_sha256(numbers / f"{item}.json") for item in used}
    body = {
        "scale": scale,
        "claims": [_plain(verdict) for verdict in found],
        "provenance": {"git": commit, "dirty": dirty, **frozen(scale), "records": records},
    }
    shown = table(found)
    return {
        "tables/claims.csv": tables.csv(shown),
        "tables/claims.md": tables.markdown(shown),
        "tables/claims.tex": tables.latex(shown, f"The claims and their verdicts at scale {scale}", "tab:claims"),
        "claims.json": _as_before(config.results_dir(scale) / "claims.json", body),
    }


def _as_before(path: Path, body: Mapping[str, Any]) -> str:
    """The text of claims.json: with the commit that it names already where nothing else of it has changed."""
    try:
        text = path.read_text(encoding="utf-8")
        commit = {key: json.loads(text)["provenance"][key] for key in ("git", "dirty")}
    except (OSError, ValueError, LookupError, TypeError):
        return record.dumps(body)  # there is none yet, or it is damaged
    same = record.dumps({**body, "provenance": {**body["provenance"], **commit}})
    return same if same == text else record.dumps(body)


def table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Verdicts as a frame of text: claim, statement, whose, source, verdict, same (combinations), why."""
    rows = [
        {
            "claim": v.id,
            "statement": v.statement,
            "whose": "ours" if v.ours else "the source's",
            "source": v.paper if v.ours else f"{v.paper}, {v.source}",
            "verdict": v.headline,
            "same": f"{v.stable['same']} of {v.stable['of']}" if v.stable else "",
            "why": v.why,
        }
        for v in verdicts
    ]
    return pd.DataFrame(rows, columns=["claim", "statement", "whose", "source", "verdict", "same", "why"])


def _plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON holds it: NaN is null."""
    facts = {f.name: getattr(verdict, f.name) for f in fields(Verdict) if f.name != "evidence"}
    rows = [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        for row in verdict.evidence.to_dict("records")
    ]
    return {**facts, "items": list(verdict.items), "headline": verdict.headline, "evidence": rows}


def _judged(claim: Claim, material: Material) -> Verdict:
    """One claim judged: its comparisons from the records, their effects, the verdict and its reason."""
    facts: dict[str, Any] = {
        name: getattr(claim, name) for name in ("id", "statement", "paper", "source", "ours", "items")
    }
    facts |= {"scale": material.scale, "rule": words.rule_words(claim)}
    numbers: dict[str, list[Cell]] = {}
    problems = []
    for item in claim.items:
        known = material.numbers(item)
        if isinstance(known, str):
            problems.append(known)
        else:
            numbers[item] = known
    if problems:
        why = f"Needs records that are not there: {'; '.join(problems)}."
        return Verdict(**facts, verdict=NOT_TESTABLE, why=why, evidence=pd.DataFrame(columns=EVIDENCE))
    every = [(rule, _compared(claim, rule, numbers)) for rule in claim.rules]
    counting = [(rule, [pair for pair in found if not pair.problem]) for rule, found in every]
    parts = [(rule, found, judge_rule(rule, found)) for rule, found in counting]
    counted = {pair.item for _, found in counting for pair in found}
    silent = [item for item in claim.items if item not in counted]

    def settle(judgements: Sequence[Judgement]) -> str:
        verdict = combine([judgement.verdict for judgement in judgements])
        return IN_PART if silent and verdict == REPRODUCED else verdict

    verdict = settle([judgement for _, _, judgement in parts])
    testable = verdict != NOT_TESTABLE
    controls = []
    for rule in claim.controls:
        found = [pair for pair in _compared(claim, rule, numbers) if not pair.problem]
        controls += [words.effect_row(rule, found, one)] if (one := pooled(rule, found)) else []
    causes = _causes(claim, material) if verdict in (NOT_REPRODUCED, CONTRADICTED) else []
    named = {pair.setting["network"] for _, found in counting for pair in found if "network" in pair.setting}
    networks = material.accuracies(claim.items, named) if testable else []
    below = any(row["below"] for row in networks)
    evidence = pd.DataFrame([_row(rule, pair) for rule, found in every for pair in found], columns=EVIDENCE)
    return Verdict(
        **facts,
        verdict=verdict,
        why=words.why(claim, verdict, parts, [p for _, found in every for p in found], silent, controls, below),
        evidence=evidence,
        part=words.part_words(parts, silent) if verdict == IN_PART else "",
        counts=dict(sorted(Counter(evidence["outcome"]).items())),
        effects=[
            words.effect_row(rule, found, one.pooled) | {"verdict": one.verdict}
            for rule, found, one in parts
            if one.pooled
        ],
        stable=fragility(counting, settle) if testable else {},
        networks=networks,
        conditions=words.below_words(networks),
        controls=controls,
        causes=causes,
        because=claim.because if causes else "",
        fresh=_fresh(counting, material.seen(claim.id)),
    )


def _causes(claim: Claim, material: Material) -> list[dict[str, Any]]:
    """What shows why a claim does not hold, pooled; nothing where a record is missing or one is not as expected."""
    rows = []
    for rule in claim.causes:
        numbers = {item: known for item in rule.items if not isinstance(known := material.numbers(item), str)}
        if len(numbers) < len(rule.items):
            return []
        found = [pair for pair in _compared(claim, rule, numbers) if not pair.problem]
        one = pooled(rule, found)
        if one is None or one.outcome != SUPPORTS:
            return []
        rows.append(words.effect_row(rule, found, one))
    return rows


def _compared(claim: Claim, rule: Rule, numbers: Mapping[str, Sequence[Cell]]) -> list[Pair]:
    try:
        return [pair for item in rule.items for pair in pairs(rule, item, numbers[item])]
    except ClaimError as error:
        raise ClaimError(f"claim {claim.id!r}: {error}") from error


def _fresh(counting: Sequence[tuple[Rule, Sequence[Pair]]], seen: Sequence[int]) -> dict[str, Any]:
    """The seeds that had not been seen when the rules were frozen or this one was written, and their effects alone."""
    by_seed = [(rule, found) for rule, found in counting if rule.sample is None]
    seeds = sorted({seed for _, found in by_seed for pair in found for seed in pair.value})
    new = [seed for seed in seeds if seed not in seen]
    effects = []
    for rule, found in by_seed if len(new) >= 2 else ():
        fresh = [replace(p, value={seed: value for seed, value in p.value.items() if seed in new}) for p in found]
        effects += [words.effect_row(rule, found, one)] if (one := pooled(rule, fresh)) else []
    return {"seeds": new, "seen": [seed for seed in seeds if seed in seen], "effects": effects}


def _row(rule: Rule, pair: Pair) -> dict[str, Any]:
    """A comparison as a row of evidence; of a relative rule the difference is that of the ratio to one."""
    setting = {**pair.setting, **({"against": pair.rival} if pair.rival else {})}
    found = effect(rule, pair.value, pair.unit) if len(pair.value) >= 2 else None
    sizes = (found.value, found.low, found.high) if found else [math.nan] * 3
    left, right = (sum(side.values()) / len(side) if side else math.nan for side in (pair.left, pair.right))
    return {
        "item": pair.item,
        "comparison": rule.name,
        "setting": setting_words(setting),
        "measure": rule.measure,
        "left": left,
        "right": right,
        **dict(
            zip(("difference", "low", "high"), (math.exp(x) - 1 if rule.relative else x for x in sizes), strict=True)
        ),
        "seeds": len(pair.value),
        "n": pair.n,
        "outcome": pair.problem or (found.outcome if found else ""),
    }

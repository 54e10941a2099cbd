"""The papers' claims and their verdicts, computed from the records by the rules of config/claims.yaml."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pandas as pd

from lib import checksums, config, record, store, tables
from lib.comparisons import (
    ALONE,
    CONTRADICTS,
    COUNTED,
    FEW_IMAGES,
    FEW_SEEDS,
    NEAR_CHANCE,
    SUPPORTS,
    UNEQUAL,
    UNRESOLVED,
    ClaimError,
    Comparison,
    Finding,
    cells,
    compare,
)

__all__ = [
    "COUNTED",
    "Claim",
    "ClaimError",
    "Rule",
    "Verdict",
    "files",
    "judge",
    "judge_all",
    "load",
    "table",
    "verdicts",
]

REPRODUCED, PARTLY, NOT_REPRODUCED = "reproduced", "partly", "not reproduced"
NOT_TESTABLE = "not testable at this scale"
VERDICTS = (REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_TESTABLE)
_LEFT_OUT = {
    FEW_SEEDS: "with too few repetitions",
    FEW_IMAGES: "with too few images",
    NEAR_CHANCE: "with both networks near chance",
    UNEQUAL: "at unequal clean accuracy",
    ALONE: "without a counterpart",
}
_EVIDENCE = ("item", "comparison", "setting", "measure", "left", "right", "difference", "low", "high")


@dataclass(frozen=True)
class Rule:
    """How a claim is judged; config/claims.yaml explains the keys.

    Attributes:
        text: the rule in words.
        reproduced: {supporting: share at least, contradicting: share at most}.
        partly: {supporting: share at least}; below it and as many contradicting: not reproduced.
        comparisons, premises: what is counted, and what must hold for the claim to be testable.
        min_seeds, min_n, min_comparisons: seeds (or what stands for them), images, comparisons that a verdict needs.
    """

    text: str
    reproduced: Mapping[str, float]
    partly: Mapping[str, float]
    comparisons: tuple[Comparison, ...]
    premises: tuple[Comparison, ...] = ()
    min_seeds: int = 3
    min_n: int = 2000
    min_comparisons: int = 1


@dataclass(frozen=True)
class Claim:
    """One claim: what the source says (or we, where `ours`), the items it rests on, and its rule."""

    id: str
    statement: str
    paper: str
    source: str
    items: tuple[str, ...]
    rule: Rule
    ours: bool = False


@dataclass(frozen=True, eq=False)
class Verdict:
    """A claim judged.

    Attributes:
        verdict: one of VERDICTS.
        why: the reason in words, with the counts.
        evidence: one row a comparison and measure: item, comparison, setting, measure, left, right, difference, low,
            high, seeds, n, points, dropped, outcome.
        counts: outcome -> comparisons.
        items: the items the claim rests on.
        rule: the rule in words.
    """

    id: str
    statement: str
    verdict: str
    why: str
    evidence: pd.DataFrame
    paper: str = ""
    source: str = ""
    ours: bool = False
    items: tuple[str, ...] = ()
    rule: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)

    def text(self) -> str:
        """Statement, verdict, reason and rule as Markdown."""
        return f"### {self.statement}\n\n**{self.verdict}.** {self.why}\n\n*Rule.* {self.rule}"


def load() -> dict[str, Claim]:
    """Every claim of config/claims.yaml, checked. Raises: ClaimError naming claim and key."""
    known = config.items()
    return {name: _parse(name, entry, known) for name, entry in config.claims().items()}


def judge(claim_id: str, scale: str) -> Verdict:
    """The verdict on one claim from the records of a scale.

    Args:
        claim_id: a name in config/claims.yaml.
        scale: smoke, cpu or paper.
    Returns: the verdict; a missing or damaged record makes it "not testable at this scale". Where this process has
        run an item with other seeds or settings than the scale's, its reason says that it is not of that run.
    Raises: ClaimError for an unknown claim, or a rule that cannot be applied to the records.
    """
    found = load()
    if claim_id not in found:
        raise ClaimError(f"no claim {claim_id!r}: one of {', '.join(found)}")
    told = _judge(found[claim_id], scale)
    changed = record.beside(found[claim_id].items, scale)
    if changed:
        told = replace(told, why=f"Of the records of scale {scale}, not of this run ({changed}). {told.why}")
    return told


def judge_all(scale: str) -> list[Verdict]:
    """Judge every claim and write results/<scale>/claims.json and tables/claims.{csv,md,tex}, the JSON last.

    Args:
        scale: smoke, cpu or paper.
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
            "rules": store.fingerprint(config.claims()),
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
    """Verdicts as a frame of text: claim, statement, source, verdict, why."""
    rows = [[v.id, v.statement, f"{v.paper}, {v.source}", v.verdict, v.why] for v in verdicts]
    return pd.DataFrame(rows, columns=["claim", "statement", "source", "verdict", "why"])


def _judge(claim: Claim, scale: str) -> Verdict:
    records, problems = {}, []
    for item in claim.items:
        try:
            records[item] = cells(record.read(item, scale))
        except record.RecordError as error:
            problems.append(f"{item} is damaged ({error})" if record.exists(item, scale) else f"{item} has no record")
    if problems:
        return _verdict(claim, NOT_TESTABLE, f"Needs records that are not there: {'; '.join(problems)}.", [])
    rule = claim.rule
    premises = _findings(claim, rule.premises, records)
    findings = _findings(claim, rule.comparisons, records)
    return _verdict(claim, *_decide(claim, premises, findings), [*premises, *findings])


def _findings(claim: Claim, rules: Sequence[Comparison], records: Mapping[str, Any]) -> list[Finding]:
    try:
        return [
            finding
            for rule in rules
            for item in rule.items or claim.items
            for finding in compare(item, records[item], rule, claim.rule.min_seeds, claim.rule.min_n)
        ]
    except ClaimError as error:
        raise ClaimError(f"claim {claim.id!r}: {error}") from error


def _decide(claim: Claim, premises: Sequence[Finding], findings: Sequence[Finding]) -> tuple[str, str]:
    rule = claim.rule
    if rule.premises:
        tested = [finding for finding in premises if finding.outcome in COUNTED]
        if not tested:
            return NOT_TESTABLE, f"The premise could not be tested: {_left_out(premises, rule) or 'no number fits it.'}"
        holds = sum(finding.outcome == SUPPORTS for finding in tested)
        if holds < len(tested) / 2:
            return NOT_TESTABLE, f"The premise held in {holds} of {len(tested)} comparisons: {rule.premises[0].name}."
    counted = [finding for finding in findings if finding.outcome in COUNTED]
    left_out = _left_out(findings, rule)
    if len(counted) < rule.min_comparisons:
        told = (
            f"{len(counted)} of {len(findings)} comparisons can be counted, the rule asks for {rule.min_comparisons}."
        )
        return NOT_TESTABLE, " ".join(filter(None, [told, left_out]))
    tally = Counter(finding.outcome for finding in counted)
    supporting, contradicting = tally[SUPPORTS] / len(counted), tally[CONTRADICTS] / len(counted)
    why = [
        f"{tally[SUPPORTS]} of {len(counted)} comparisons support the claim, {tally[CONTRADICTS]} contradict it, "
        f"{tally[UNRESOLVED]} unresolved ({_span(counted, 'seeds')} {_sample(rule)}, {_span(counted, 'n')} images).",
        left_out,
    ]
    silent = [item for item in claim.items if item not in {finding.item for finding in counted}]
    if supporting >= rule.reproduced["supporting"] and contradicting <= rule.reproduced["contradicting"]:
        verdict = PARTLY if silent else REPRODUCED
    elif supporting >= rule.partly["supporting"]:
        verdict = PARTLY
    elif contradicting >= rule.partly["supporting"]:
        verdict = NOT_REPRODUCED
    else:
        verdict = NOT_TESTABLE
        why.append(f"The spread over the {_sample(rule)} leaves it open.")
    if silent:
        why.append(f"Nothing could be counted from {', '.join(silent)}.")
    return verdict, " ".join(filter(None, why))


def _left_out(findings: Sequence[Finding], rule: Rule) -> str:
    """What did not count and why, in words."""
    tally = Counter(finding.outcome for finding in findings if finding.outcome not in COUNTED)
    told = [f"{count} {_LEFT_OUT[reason]}" for reason, count in tally.items()]
    points = sum(finding.dropped for finding in findings if finding.outcome in COUNTED)
    if points:
        told.append(f"{points} single points near chance")
    if not told:
        return ""
    short = [finding for finding in findings if finding.outcome == FEW_SEEDS]
    small = [finding for finding in findings if finding.outcome == FEW_IMAGES]
    notes = [f"{_sample(rule)}: {_span(short, 'seeds')}, the rule asks for {rule.min_seeds}"] if short else []
    notes += [f"images: {_span(small, 'n')}, the rule asks for {rule.min_n}"] if small else []
    return f"Left out: {', '.join(told)}" + (f" ({'; '.join(notes)})." if notes else ".")


def _sample(rule: Rule) -> str:
    """What intervals are over, in words: seeds, or what the comparisons name in their place."""
    return " or ".join(sorted({f"{comparison.replicates}s" for comparison in rule.comparisons}))


def _span(findings: Sequence[Finding], key: str) -> str:
    values = [getattr(finding, key) for finding in findings]
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"


def _verdict(claim: Claim, verdict: str, why: str, findings: Sequence[Finding]) -> Verdict:
    empty = {
        "measure": "",
        "left": math.nan,
        "right": math.nan,
        "difference": math.nan,
        "low": math.nan,
        "high": math.nan,
    }
    rows = []
    for found in findings:
        head = {"item": found.item, "comparison": found.comparison, "setting": found.setting}
        tail = {"seeds": found.seeds, "n": found.n, "points": found.points, "dropped": found.dropped}
        rows += [{**head, **part, **tail, "outcome": found.outcome} for part in found.parts or (empty,)]
    columns = [*_EVIDENCE, "seeds", "n", "points", "dropped", "outcome"]
    evidence = pd.DataFrame(rows, columns=columns)
    premises = {premise.name for premise in claim.rule.premises}
    counts = Counter(finding.outcome for finding in findings if finding.comparison not in premises)
    return Verdict(
        id=claim.id,
        statement=claim.statement,
        verdict=verdict,
        why=why,
        evidence=evidence,
        paper=claim.paper,
        source=claim.source,
        ours=claim.ours,
        items=claim.items,
        rule=claim.rule.text,
        counts=dict(sorted(counts.items())),
    )


def _plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON holds it: NaN is null."""
    told = {f.name: getattr(verdict, f.name) for f in fields(Verdict) if f.name != "evidence"}
    rows = verdict.evidence.to_dict("records")
    plain = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
    return {**told, "items": list(verdict.items), "evidence": plain}


def _parse(name: str, entry: Any, known: Mapping[str, config.Item]) -> Claim:
    label = f"config/claims.yaml: {name}"
    try:
        entry = dict(entry)
        rule = dict(entry.pop("rule"))
        for key in ("comparisons", "premises"):
            rule[key] = tuple(Comparison(**config.freeze(single)) for single in rule.get(key) or ())
        claim = Claim(id=name, rule=Rule(**rule), **config.freeze(entry))
    except KeyError as error:
        raise ClaimError(f"{label}: key {error} is missing") from None
    except (TypeError, ValueError) as error:
        raise ClaimError(f"{label}: {error}") from error
    rule_set, shares = claim.rule, [*claim.rule.reproduced.values(), *claim.rule.partly.values()]
    for fits, message in (
        (set(rule_set.reproduced) == {"supporting", "contradicting"}, "reproduced needs supporting and contradicting"),
        (set(rule_set.partly) == {"supporting"}, "partly needs supporting"),
        (all(0 <= share <= 1 for share in shares), "shares lie in [0, 1]"),
        (len(rule_set.comparisons) > 0, "comparisons: at least one"),
        (rule_set.min_seeds >= 2, "min_seeds: from 2, as an interval needs two"),
        (len(claim.items) > 0, "items: at least one"),
    ):
        if not fits:
            raise ClaimError(f"{label}: {message}")
    for item in {*claim.items, *(i for c in (*rule_set.comparisons, *rule_set.premises) for i in c.items)}:
        if item not in known or item not in claim.items:
            raise ClaimError(f"{label}: item {item!r} is not in config/items.yaml, or not among the claim's items")
    return claim

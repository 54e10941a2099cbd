"""The rules of verdicts themselves: tables of outcomes and verdicts, and their rates on numbers of a known effect."""

import json
from itertools import product
from typing import Any

import numpy as np
import pytest
from recompute_verdicts import differences
from samples import accuracies, falling, write

from lib import claims, config
from lib.claims import decide
from lib.claims.decide import CONTRADICTED, IN_PART, NOT_REPRODUCED, NOT_TESTABLE, OPEN, REPRODUCED
from lib.claims.effects import (
    CONTRADICTS,
    SHORT,
    SMALLER,
    SUPPORTS,
    UNRESOLVED,
    effect,
    half_width,
    outcome,
    repetitions,
)
from lib.claims.numbers import Pair
from lib.claims.rules import Rule

LEFT, RIGHT = {"method": "ours"}, {"method": "theirs"}


def rule(expect: Any, **more) -> Rule:
    return Rule(left=LEFT, right=RIGHT, expect=expect, **more)


@pytest.mark.parametrize(
    ("expect", "low", "high", "found"),
    [
        (rule("higher", amount=0.05), 0.06, 0.3, SUPPORTS),
        (rule("higher", amount=0.05), 0.01, 0.3, UNRESOLVED),
        (rule("higher", amount=0.05), -0.3, 0.3, UNRESOLVED),
        (rule("higher", amount=0.05), 0.01, 0.04, SMALLER),  # on the claimed side, and too small
        (rule("higher", amount=0.05), -0.01, 0.04, SMALLER),
        (rule("higher", amount=0.05), -0.3, -0.01, CONTRADICTS),
        (rule("lower", amount=0.05), -0.3, -0.06, SUPPORTS),
        (rule("lower", amount=0.05), -0.04, 0.01, SMALLER),
        (rule("lower", amount=0.05), 0.01, 0.3, CONTRADICTS),
        (rule("higher", amount=0.3, tolerance=0.05), 0.26, 0.4, SUPPORTS),
        (rule("higher", amount=0.3, tolerance=0.05), 0.1, 0.24, SHORT),
        (rule("higher", amount=0.3, tolerance=0.05), -0.1, -0.01, CONTRADICTS),
        (rule("no lower", amount=0.01), -0.008, 0.01, SUPPORTS),
        (rule("no lower", amount=0.01), -0.008, -0.006, CONTRADICTS),  # a loss, however small
        (rule("no lower", amount=0.01), -0.02, 0.01, UNRESOLVED),
        (rule("no lower", amount=0.01), 0.02, 0.03, SUPPORTS),
        (rule("no higher", amount=0.01), 0.001, 0.002, CONTRADICTS),
        (rule("no higher", amount=0.01), -0.001, 0.002, SUPPORTS),
        (rule("about", amount=0.05), -0.04, 0.04, SUPPORTS),
        (rule("about", amount=0.05), 0.01, 0.06, UNRESOLVED),
        (rule("about", amount=0.05), 0.06, 0.07, CONTRADICTS),
        (rule("about", amount=0.05), -0.2, -0.06, CONTRADICTS),
        (rule("at most", amount=0.011, tolerance=0.02), 0.0, 0.031, SUPPORTS),
        (rule("at most", amount=0.011, tolerance=0.02), 0.2, 0.3, SHORT),
        (rule("at most", amount=0.011, tolerance=0.02), 0.0, 0.3, UNRESOLVED),
        (rule("at least", amount=-0.01, tolerance=0.0), -0.009, 0.1, SUPPORTS),
        (rule("at least", amount=-0.01, tolerance=0.0), -0.3, -0.02, SHORT),
        (rule("lower", amount=0.5, relative=True), np.log(0.2), np.log(0.4), SUPPORTS),
        (rule("lower", amount=0.5, relative=True), np.log(0.2), np.log(0.6), UNRESOLVED),
        (rule("lower", amount=0.5, relative=True), np.log(0.6), np.log(0.9), SMALLER),
        (rule("no lower", amount=0.5, relative=True), np.log(0.6), np.log(1.9), SUPPORTS),
    ],
)
def test_outcome_of_an_interval(expect, low, high, found):
    assert outcome(expect, low, high) == found


def test_margins_scale_and_the_stated_number_does_not():
    assert outcome(rule("higher", amount=0.05), 0.06, 0.3, scale=2) == UNRESOLVED
    assert outcome(rule("higher", amount=0.05), 0.03, 0.3, scale=0.5) == SUPPORTS
    stated = rule("higher", amount=0.3, tolerance=0.05)
    assert [stated.bar(scale) for scale in (0.5, 1, 2)] == pytest.approx([0.275, 0.25, 0.2])


S, C, M, U = SUPPORTS, CONTRADICTS, SMALLER, UNRESOLVED


@pytest.mark.parametrize(
    ("outcomes", "together", "separable", "exceptions", "found"),
    [
        ([S, S], S, False, False, REPRODUCED),
        ([U, U, U], S, False, False, REPRODUCED),  # pooled, it is seen
        ([S, S, S, C], S, False, False, IN_PART),
        ([S, S, S, C], S, False, True, REPRODUCED),  # as a rule, with exceptions
        ([S, C, U, U], S, False, True, IN_PART),
        ([S, S, M, M], U, True, False, IN_PART),
        ([S, C, C, C], C, False, False, CONTRADICTED),
        ([S, C, C, C], U, False, False, CONTRADICTED),
        ([S, C, C, M], U, False, False, NOT_REPRODUCED),
        ([S, S, C, C, C, C], U, True, False, IN_PART),  # just those of one setting: named
        ([S, S, C, C, C, C], U, False, False, CONTRADICTED),
        ([M, M], M, False, False, NOT_REPRODUCED),
        ([M, U], U, False, False, OPEN),
        ([M, M, U], U, False, False, NOT_REPRODUCED),
        ([U, U], C, False, False, CONTRADICTED),
        ([U, U], U, False, False, OPEN),
        ([S, U], U, False, False, IN_PART),
        ([S, C], U, False, False, IN_PART),  # decided and opposed: not open
        ([S, C, U, U], U, False, False, OPEN),
        ([S, U, U], U, False, False, OPEN),
        ([S] + [U] * 15 + [M], U, False, False, OPEN),  # one of many is chance
    ],
)
def test_verdict_from_outcomes(outcomes, together, separable, exceptions, found):
    assert decide.decide(outcomes, together, separable, exceptions) == found


@pytest.mark.parametrize("outcomes", [list(found) for found in product((S, C, M, U), repeat=4)])
def test_a_part_never_hides_as_many_against_as_for(outcomes):
    for together in (S, C, M, U):
        fors, against = outcomes.count(S), outcomes.count(C) + outcomes.count(M)
        if decide.decide(outcomes, together) == IN_PART and together != S:
            assert fors > against or fors == against == 2  # half and half, and nothing open
        if decide.decide(outcomes, together) == REPRODUCED:
            assert together == S and against == 0


@pytest.mark.parametrize(
    ("verdicts", "found"),
    [
        ([REPRODUCED, REPRODUCED], REPRODUCED),
        ([REPRODUCED, CONTRADICTED], IN_PART),
        ([REPRODUCED, CONTRADICTED, NOT_REPRODUCED], NOT_REPRODUCED),
        ([CONTRADICTED, CONTRADICTED], CONTRADICTED),
        ([OPEN, NOT_REPRODUCED], NOT_REPRODUCED),
        ([REPRODUCED, OPEN], IN_PART),
        ([REPRODUCED, OPEN, OPEN], OPEN),
        ([OPEN, NOT_TESTABLE], OPEN),
        ([NOT_TESTABLE], NOT_TESTABLE),
    ],
)
def test_verdict_of_several_parts(verdicts, found):
    assert decide.combine(verdicts) == found


def test_the_part_is_named_by_the_setting_that_tells():
    contexts = [({"attack": a, "network": n}, S if a < "c" else M) for a in "abcd" for n in "xy"]
    assert decide.telling(contexts) == ("attack",) and decide.separable(contexts)
    assert decide.part(contexts, ("attack",)) == "for attack a and b, not for attack c and d"
    contexts[0] = ({"attack": "a", "network": "x"}, U)
    assert decide.part(contexts, decide.telling(contexts)) == "for attack a and b, not for attack c and d"
    alone = [({"attack": a}, S if a == "a" else C) for a in "ab"]
    assert not decide.separable(alone)  # of two comparisons anything tells


def test_intervals_and_numbers_of_repetitions():
    found = effect(rule("higher", amount=0.5), {0: 1.0, 1: 2.0, 2: 3.0}, "units")
    assert (found.low, found.high) == pytest.approx((2 - 2.4841377, 2 + 2.4841377))
    assert effect(rule("higher", amount=0.5), {0: 0.9, 1: 1.0, 2: 1.0}, "share").high == 1.0
    count = repetitions(1.0, 0.5)
    assert count is not None and half_width(1.0, count) < 0.5 <= half_width(1.0, count - 1)
    assert repetitions(1.0, 1e-6) is None


def simulated(wanted: Rule, effect: float, seeds: int, times: int = 400, comparisons: int = 4) -> dict[str, float]:
    """How often each verdict comes, on a true effect in margins, the same for all comparisons.

    Seeds shift all comparisons alike by half a margin, and each by itself by half a margin (standard deviations).
    """
    rng = np.random.default_rng([seeds, round(10 * effect) + 100])
    found = []
    for _ in range(times):
        shared, own = rng.normal(0, 0.5, seeds), rng.normal(0, 0.5, (comparisons, seeds))
        pairs = [
            Pair("item", {"place": k}, "", {}, {}, dict(enumerate(effect + shared + own[k])), 1000, "units")
            for k in range(comparisons)
        ]
        found.append(decide.judge(wanted, pairs).verdict)
    return {verdict: found.count(verdict) / times for verdict in decide.VERDICTS}


# What may be stated of the verdicts, by the true effect in margins: (verdicts, least rate, at 3, 5, 10 seeds).
RATES = [
    (0.0, (NOT_REPRODUCED, CONTRADICTED, OPEN), (0.99, 0.99, 0.99)),  # hardly ever for the claim
    (0.0, (NOT_REPRODUCED, CONTRADICTED), (0.3, 0.75, 0.97)),
    (0.5, (NOT_REPRODUCED, CONTRADICTED, OPEN), (0.99, 0.99, 0.99)),
    (0.5, (NOT_REPRODUCED, CONTRADICTED), (0.1, 0.25, 0.6)),
    (2.0, (REPRODUCED, IN_PART), (0.4, 0.8, 0.99)),
    (2.0, (REPRODUCED, IN_PART, OPEN), (0.99, 0.99, 0.99)),  # hardly ever against it
    (-2.0, (CONTRADICTED,), (0.75, 0.97, 0.99)),
]


NO_LOSS = [  # of a claim that there is no loss beyond a margin
    (0.0, (REPRODUCED, IN_PART, OPEN), (0.95, 0.95, 0.95)),  # contradicted at a rate of 2.5 %
    (0.0, (REPRODUCED, IN_PART), (0.3, 0.75, 0.95)),
    (-1.0, (CONTRADICTED, NOT_REPRODUCED, OPEN), (0.95, 0.95, 0.95)),
    (-2.0, (CONTRADICTED, NOT_REPRODUCED), (0.75, 0.97, 0.99)),
]


@pytest.mark.parametrize(
    ("wanted", "effect", "verdicts", "least"),
    [(rule("higher", amount=1.0), *row) for row in RATES] + [(rule("no lower", amount=1.0), *row) for row in NO_LOSS],
)
def test_verdicts_come_out_right_at_stated_rates(wanted, effect, verdicts, least):
    for seeds, rate in zip((3, 5, 10), least, strict=True):
        found = simulated(wanted, effect, seeds)
        assert sum(found[verdict] for verdict in verdicts) >= rate, (seeds, found)


def test_a_split_effect_is_found_in_part():
    """Twice the margin for half of the comparisons, the opposite for the others, told by a setting."""
    rng = np.random.default_rng(5)
    wanted, found = rule("higher", amount=1.0), []
    for _ in range(200):
        pairs = [
            Pair(
                "item",
                {"kind": kind, "place": k},
                "",
                {},
                {},
                dict(enumerate(sign + rng.normal(0, 0.3, 5))),
                1000,
                "units",
            )
            for kind, sign in (("a", 2.0), ("b", -2.0))
            for k in (1, 2)
        ]
        one = decide.judge(wanted, pairs)
        found.append(one.verdict == IN_PART and one.part == "for kind a, not for kind b")
    assert np.mean(found) > 0.9


def test_a_recomputation_agrees_and_finds_what_was_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path))
    settings = [{"temperature": t} for t in (1, 20, 50)]
    for item, floor in (("robustness_fig7", 0.4), ("robustness_fig8", 0.0)):
        numbers = accuracies(settings, lambda s, e, f=floor: falling(0.7, 0.5, e, f if s["temperature"] > 20 else 0.05))
        write(item, numbers)
    claims.judge_all("smoke")
    rules, path = config.ROOT / "config" / "claims.yaml", tmp_path / "smoke" / "claims.json"
    assert differences(path.parent, rules) == []
    whole = json.loads(path.read_text())
    for key, value in (("verdict", "open"), ("effects", []), ("evidence", [])):
        body = json.loads(json.dumps(whole))
        next(c for c in body["claims"] if c["id"] == "temperature-helps-unaware")[key] = value
        path.write_text(json.dumps(body))
        (said,) = differences(path.parent, rules)
        assert said.startswith("temperature-helps-unaware: ")


@pytest.mark.slow
@pytest.mark.parametrize("scale", [path.parent.name for path in sorted(config.ROOT.glob("results/*/claims.json"))])
def test_an_independent_recomputation_agrees(scale):
    assert differences(config.ROOT / "results" / scale, config.ROOT / "config" / "claims.yaml") == []

"""Claims: from invented records to verdicts, and every reason not to count."""

import json
import math

import numpy as np
import pytest
import yaml
from samples import accuracies, falling, write

from lib import claims, config, record, units
from lib.claims import effects, material
from lib.claims.rules import Rule

RULE = {
    "left": {"strength": {"gt": 0}},
    "right": {"strength": 0},
    "where": {"epsilon": {"gt": 0, "le": "4/255"}},
    "mean": ["epsilon"],
    "expect": {"lower": 0.01},
}
STRENGTHS = [{"strength": s} for s in (0, 1, 2, 3, 4)]
NOT_TESTABLE = "not testable at this scale"


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results" / "smoke"


@pytest.fixture
def rules(tmp_path, monkeypatch):
    """A configuration with one claim on one item (or `items`); call it with what the rule changes, None drops a key."""
    folder = tmp_path / "config"
    folder.mkdir()
    monkeypatch.setenv("NEURONS_CONFIG", str(folder))
    (folder / "smoke.yaml").write_text("{}")

    def make(rule=None, items=("one",), beside=(), **claim):
        body = rule if isinstance(rule, list) else {k: v for k, v in {**RULE, **(rule or {})}.items() if v is not None}
        entry = {"statement": "it is lower", "paper": "P", "source": "S", "items": list(items), "rule": body, **claim}
        about = {"paper": "P", "source": "S", "notebook": "n", "claims": ["c"]}
        listed = {item: {"title": item, **about} for item in (*items, *beside)}
        (folder / "items.yaml").write_text(yaml.safe_dump(listed))
        (folder / "claims.yaml").write_text(yaml.safe_dump({"c": entry}))
        return folder

    return make


def shifted(*shifts, clean=0.8):
    """Strength k is shifts[k - 1] above the untreated curve at every epsilon above 0."""

    def value(setting, step):
        shift = shifts[setting["strength"] - 1] if setting["strength"] and step else 0
        return falling(clean, 0.25, step, floor=0.2) + shift

    return value


def judged(numbers=None, item="one"):
    if numbers is not None:
        write(item, numbers)
    return claims.judge("c", "smoke")


@pytest.mark.parametrize(
    ("shifts", "verdict", "part"),
    [
        ((-0.1, -0.1, -0.1, -0.1), "reproduced", ""),
        ((-0.1, -0.1, -0.1, 0.1), "reproduced in part", "for strength 1, 2 and 3, not for strength 4"),
        ((-0.1, -0.1, 0.1, 0.1), "reproduced in part", "for strength 1 and 2, not for strength 3 and 4"),
        ((-0.1, 0.1, 0.1, 0.1), "contradicted", ""),  # one against three: never hidden behind a part
        ((0.1, 0.1, 0.1, 0.1), "contradicted", ""),
        ((0.0, 0.0, 0.0, 0.0), "not reproduced", ""),  # no difference of a point: that there is none can be found
        ((-0.005, -0.005, -0.005, -0.005), "not reproduced", ""),  # there, but half of what counts
    ],
)
def test_verdict_follows_the_effect_and_its_parts(rules, shifts, verdict, part):
    rules()
    found = judged(accuracies(STRENGTHS, shifted(*shifts)))
    assert (found.verdict, found.part, found.id, found.statement) == (verdict, part, "c", "it is lower")
    assert found.effects[0]["value"] == pytest.approx(np.mean(shifts), abs=1e-9)
    assert sum(found.counts.values()) == 4 and found.headline.startswith(verdict)
    assert 1 <= found.stable["same"] <= found.stable["of"] == 9


def test_effects_are_paired_by_seed_and_pooled_over_comparisons(rules):
    rules()
    rng = np.random.default_rng(0)
    base = {0: 0.5, 1: 0.6, 2: 0.4, 7: 0.9}
    gaps = {strength: {seed: rng.normal(0.06, 0.01) for seed in (0, 1, 2)} for strength in (1, 2)}
    numbers = []
    for step in (1, 2):
        numbers.append(record.number("accuracy", {"strength": 0, "epsilon": step / 255}, base, "fraction", 3000))
        for strength, own in gaps.items():
            left = {seed: base[seed] - gap * step for seed, gap in own.items()}
            numbers.append(
                record.number("accuracy", {"strength": strength, "epsilon": step / 255}, left, "fraction", 2500)
            )
    found = judged(numbers)
    expected = [-1.5 * np.mean([gaps[1][seed], gaps[2][seed]]) for seed in (0, 1, 2)]  # seed 7 has no partner
    half = 4.302652729911275 * np.std(expected, ddof=1) / math.sqrt(3)
    effect = found.effects[0]
    assert [effect[k] for k in ("value", "low", "high")] == pytest.approx(
        [np.mean(expected), np.mean(expected) - half, np.mean(expected) + half]
    )
    row = found.evidence.iloc[0]
    assert row["difference"] == pytest.approx(-1.5 * np.mean(list(gaps[1].values())))
    assert (row["seeds"], row["n"], row["outcome"]) == (3, 2500, "supports")


def test_comparisons_that_are_each_unresolved_are_settled_together(rules):
    """Two that err in opposite ways by seed: neither is resolved, their mean is the same in every seed."""
    rules({"where": None, "mean": None})
    numbers = [
        record.number("accuracy", {"strength": 0, "k": k}, dict.fromkeys(range(3), 0.5), "share", 900) for k in (1, 2)
    ]
    for k, sign in ((1, 1), (2, -1)):
        values = {seed: 0.46 + sign * 0.05 * (seed - 1) for seed in range(3)}
        numbers.append(record.number("accuracy", {"strength": 1, "k": k}, values, "share", 900))
    found = judged(numbers)
    assert found.counts == {"unresolved": 2} and found.verdict == "reproduced"


def test_groups_of_networks_are_the_repetitions(rules):
    """Forty networks of two sets that differ: the sets are two repetitions, not forty."""
    rng = np.random.default_rng(1)
    numbers = []
    for group, gain in (("a", -0.30), ("b", -0.10)):
        for k in range(20):
            for method, more in (("none", 0.0), ("ours", gain + rng.normal(0, 0.01))):
                where = {"network": f"{group}-{k}", "method": method}
                numbers.append(record.number("accuracy", where, {0: 0.9 + more}, "share", 500))
    body = {"left": {"method": "ours"}, "right": {"method": "none"}, "where": None, "mean": None}
    rules({**body, "sample": {"setting": "network", "groups": {"A": "a-", "B": "b-"}}, "repetitions": 2})
    found = judged(numbers)
    effect = found.effects[0]
    assert effect["repetitions"] == 2 and effect["low"] == -1.0 and effect["high"] > 0.5 and found.verdict == "open"
    rules({**body, "sample": "network"})
    alone = judged().effects[0]
    assert alone["repetitions"] == 40 and alone["value"] == pytest.approx(effect["value"])
    assert judged().verdict == "reproduced"


def test_open_says_how_many_more_repetitions_would_settle_it(rules):
    rules({"left": {"strength": 1}, "where": None, "mean": None})
    gaps = [-0.05, -0.09, -0.01]
    numbers = [record.number("accuracy", {"strength": 0}, dict.fromkeys(range(3), 0.5), "share", 900)]
    numbers.append(record.number("accuracy", {"strength": 1}, {s: 0.5 + g for s, g in enumerate(gaps)}, "share", 900))
    found = judged(numbers)
    from scipy import stats

    spread = np.std(gaps, ddof=1)
    needed = next(n for n in range(3, 99) if stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n) < 0.05 - 0.01)
    assert found.verdict == "open" and f"{needed - 3} more seeds would settle it" in found.why


def test_the_best_must_beat_every_rival(rules):
    rules({"left": {"method": "ours"}, "right": {"method": ["a", "b"]}, "where": None, "mean": None, "best": True,
           "expect": {"higher": 0.01}})  # fmt: skip

    def numbers(a, b):
        means = {"ours": 0.8, "a": a, "b": b}
        return [
            record.number("accuracy", {"method": m, "size": size}, {s: v + 0.001 * s for s in range(3)}, "share", 900)
            for m, v in means.items()
            for size in (1, 2)
        ]

    assert judged(numbers(0.7, 0.75)).verdict == "reproduced"
    beaten = judged(numbers(0.3, 0.9))  # far ahead of one, behind the other: not "in part"
    assert beaten.verdict == "contradicted" and beaten.effects[0]["rival"] == "b"
    assert judged(numbers(0.3, 0.795)).verdict == "not reproduced"


def test_a_stated_number_is_what_is_tested(rules):
    rules({"left": {"strength": 4}, "expect": {"lower": 0.3, "tolerance": 0.05}})
    assert judged(accuracies(STRENGTHS, lambda s, _: 0.8 - 0.27 * (s["strength"] == 4))).verdict == "reproduced"
    small = judged(accuracies(STRENGTHS, lambda s, _: 0.8 - 0.1 * (s["strength"] == 4)))
    assert small.verdict == "not reproduced" and set(small.counts) == {"short of the value asked for"}


def test_a_level_needs_no_other_side(rules):
    rules({"left": {"strength": 4}, "right": None, "where": {"epsilon": {"gt": 0}}, "mean": ["epsilon"],
           "expect": {"at most": 0.011, "tolerance": 0.02}})  # fmt: skip
    for level, verdict in ((0.02, "reproduced"), (0.3, "not reproduced")):
        found = judged(accuracies(STRENGTHS, lambda s, e, level=level: level if s["strength"] == 4 else 0.9))
        assert found.verdict == verdict and found.effects[0]["value"] == pytest.approx(level)


def test_a_side_may_be_every_number_of_its_measure(rules):
    values = {"same": (0.5, 0.6), "other": (0.4, 0.45)}
    numbers = [
        record.number(
            name, {"layer": str(layer)}, {seed: value + 0.001 * seed for seed in range(3)}, "Jaccard index", 200
        )
        for name, pair in values.items()
        for layer, value in enumerate(pair)
    ]
    both = {"left": {}, "right": {}, "measure": "same", "right_measure": "other", "where": None, "mean": None}
    rules({**both, "expect": {"higher": 0.01}})
    found = judged(numbers)
    assert found.verdict == "reproduced" and found.effects[0]["value"] == pytest.approx((0.1 + 0.15) / 2)
    assert found.rule.startswith("Same against other. ")
    rules({**both, "right": None, "right_measure": None, "expect": {"at least": 0.5, "tolerance": 0.02, "as": "half"}})
    found = judged(numbers)
    assert found.verdict == "reproduced" and found.effects[0]["value"] == pytest.approx(0.551)
    assert found.rule.startswith("Same. ")


def test_ratios_are_compared_by_their_logarithm(rules):
    rules({"measure": "changed", "left": {"method": "ours"}, "right": {"method": "theirs"}, "where": None, "mean": None,
           "relative": True, "expect": {"lower": 0.5, "tolerance": 0.1}})  # fmt: skip
    values = {"theirs": {0: 0.1, 1: 0.01, 2: 0.001}, "ours": {0: 0.041, 1: 0.0039, 2: 0.0004}}
    numbers = [record.number("changed", {"method": m}, v, "fraction of weights", 900) for m, v in values.items()]
    found = judged(numbers)
    logs = [math.log(values["ours"][s] / values["theirs"][s]) for s in range(3)]
    assert found.effects[0]["value"] == pytest.approx(math.exp(np.mean(logs))) and found.verdict == "reproduced"
    numbers[1] = record.number("changed", {"method": "ours"}, {0: 0.0, 1: 0.1, 2: 0.1}, "fraction of weights", 900)
    assert judged(numbers).verdict == NOT_TESTABLE and "with a value of zero" in judged().why


def test_means_over_pairs_have_intervals_twice_as_wide(rules):
    plain = {"left": {"start": "a"}, "right": {"start": "b"}, "where": None, "mean": None, "expect": {"higher": 0.01}}
    numbers = [
        record.number("accuracy", {"start": start, "go": k}, {0: v}, "share", 900)
        for start, values in (("a", (0.5, 0.55, 0.6, 0.52)), ("b", (0.4, 0.4, 0.4, 0.4)))
        for k, v in enumerate(values)
    ]
    rules({**plain, "sample": "go"})
    one = judged(numbers).effects[0]
    rules({**plain, "sample": {"setting": "go", "pairwise": True}})
    two = judged().effects[0]
    assert two["value"] == pytest.approx(one["value"])
    assert two["high"] - two["low"] == pytest.approx(2 * (one["high"] - one["low"]))


def test_controls_are_named_and_say_what_a_lead_is_owed_to(rules):
    control = [{"name": "without the method", "left": {"strength": 3}}]
    rules({"left": {"strength": 4}}, controls=control)
    as_large = judged(accuracies(STRENGTHS, shifted(0, 0, -0.2, -0.1)))
    assert as_large.verdict == "reproduced" and "Control, without the method: -20.0 points" in as_large.why
    assert "not owed to what the claim names" in as_large.why and len(as_large.controls) == 1
    smaller = judged(accuracies(STRENGTHS, shifted(0, 0, -0.025, -0.1)))
    assert "25 % of the effect is there without" in smaller.why


CAUSE = {"name": "other networks", "items": ["two"], "left": {"strength": {"gt": 0}}, "right": {"strength": 0}}
CAUSE |= {"where": {"epsilon": {"gt": 0}}, "mean": ["epsilon"], "expect": {"higher": 0.01}}


@pytest.mark.parametrize(
    ("own", "other", "shown"),
    [
        (0.1, 0.2, True),
        (0.1, 0.0, False),  # not as expected: nothing is explained
        (-0.1, 0.2, False),  # the claim holds
        (0.1, None, False),  # the record is missing
    ],
)
def test_a_cause_is_told_where_the_claim_does_not_hold_and_the_cause_does(rules, own, other, shown):
    rules(causes=[CAUSE], because="It is the other way round.", beside=["two"])
    if other is not None:
        write("two", accuracies(STRENGTHS, shifted(*[other] * 4)))
    found = judged(accuracies(STRENGTHS, shifted(*[own] * 4)))
    assert bool(found.causes) == bool(found.because) == bool(found.cause) == shown
    if shown:
        assert found.causes[0]["value"] == pytest.approx(other) and found.causes[0]["text"] in found.text()


@pytest.mark.parametrize(
    ("seeds", "n", "says"),
    [((0,), 2000, "4 with too few repetitions"), ((0, 1), 2000, "4 with too few repetitions"),
     ((0, 1, 2), 30, "4 with too few images")],
)  # fmt: skip
def test_too_little_is_not_testable(rules, seeds, n, says):
    rules()
    found = judged(accuracies(STRENGTHS, shifted(-0.1, -0.1, -0.1, -0.1), seeds, n))
    assert found.verdict == NOT_TESTABLE and says in found.why and not found.effects


def test_missing_and_damaged_records_are_not_testable(rules, results):
    rules(items=("one", "two"))
    found = judged(accuracies(STRENGTHS, shifted(-0.1, -0.1, -0.1, -0.1)))
    assert found.verdict == NOT_TESTABLE and "two has no record" in found.why and found.evidence.empty
    (results / "numbers" / "two.json").write_text("{")
    assert "two is damaged" in claims.judge("c", "smoke").why


def test_an_item_that_says_nothing_leaves_a_part(rules):
    rules(items=("one", "two"))
    write("two", accuracies(STRENGTHS, shifted(-0.1, -0.1, -0.1, -0.1), seeds=[0]))
    found = judged(accuracies(STRENGTHS, shifted(-0.1, -0.1, -0.1, -0.1)))
    assert found.verdict == "reproduced in part" and "nothing counted from two" in found.headline


def test_all_parts_of_a_rule_are_asked_for(rules):
    parts = [{**RULE, "name": "first", "left": {"strength": 1}}, {**RULE, "name": "second", "left": {"strength": 2}}]
    rules(parts)
    assert judged(accuracies(STRENGTHS, shifted(-0.1, -0.1, 0, 0))).verdict == "reproduced"
    mixed = judged(accuracies(STRENGTHS, shifted(-0.1, 0.1, 0, 0)))
    assert mixed.verdict == "reproduced in part" and mixed.part == "first: reproduced; second: contradicted"
    assert judged(accuracies(STRENGTHS, shifted(0, 0.1, 0, 0))).verdict == "not reproduced"


def test_unequal_clean_accuracy_does_not_count(rules):
    rules({"premise": "equally_accurate"})
    found = judged(accuracies(STRENGTHS, lambda s, step: 0.3 if s["strength"] else falling(0.8, 1, step)))
    assert found.verdict == NOT_TESTABLE and "4 at unequal clean accuracy" in found.why


def test_the_growth_of_a_gain(rules):
    rules({"values": "growth_with_epsilon", "where": {"epsilon": {"gt": 0}}, "expect": {"higher": 0.02}})
    grow = {0: 0.0, 0.5: 0.01, 1: 0.01, 2: 0.01, 4: 0.1, 8: 0.2, 16: 0.3}
    found = judged(accuracies(STRENGTHS, lambda s, step: 0.5 + grow[step] * (s["strength"] > 0)))
    assert found.verdict == "reproduced" and found.evidence["difference"].tolist() == pytest.approx([0.24] * 4)


def test_only_networks_whose_twin_is_more_robust_count(rules):
    rules({"measure": "share", "left": {"variant": "adversarial"}, "right": {"variant": "dense"}, "where": None,
           "mean": None, "premise": "twin_more_robust", "expect": {"higher": 0.02}})  # fmt: skip
    variants = [{"network": n, "variant": v} for n in "ab" for v in ("dense", "adversarial")]
    gain = {"a": 0.3, "b": 0.0}
    numbers = accuracies(variants, lambda s, e: 0.3 + gain[s["network"]] * (s["variant"] == "adversarial"))
    for setting in variants:
        values = {seed: 0.5 + 0.1 * (setting["variant"] == "adversarial") + 0.001 * seed for seed in range(3)}
        numbers.append(record.number("share", setting, values, "fraction", 900))
    found = judged(numbers)
    assert found.verdict == "reproduced" and "1 whose adversarially trained twin is not" in found.why
    assert found.effects[0]["value"] == pytest.approx(0.1)


def test_counterparts_are_found_or_named(rules):
    rules()
    found = judged(accuracies(STRENGTHS[1:], shifted(-0.1, -0.1, -0.1, -0.1)))
    assert found.verdict == NOT_TESTABLE and "4 without a counterpart" in found.why
    rules({"ignore": ["network"]})
    twice = [{"network": name, **setting} for name in "ab" for setting in STRENGTHS]
    with pytest.raises(claims.ClaimError, match="several counterparts"):  # its finding cannot be told
        write("one", accuracies(twice, shifted(-0.1, -0.1, -0.1, -0.1)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rule": {"expect": {"better": 1}}}, "expect is"),
        ({"rule": {"expect": "lower"}}, "expect is 'lower'"),
        ({"rule": {"expect": {"lower": -1}}}, "must be from 0"),
        ({"rule": {"expect": {"lower": "much"}}}, "amount: Input should be a valid number"),
        ({"rule": {"expect": {"at most": 0.1}}}, "at most needs its number and a tolerance"),
        ({"rule": {"expect": {"lower": 0.1, "margin": 0.1}}}, "expect is"),
        ({"rule": {"right": None}}, "lower needs a right side"),
        ({"rule": {"left": {}, "right": {}}}, "left and right are the same"),
        ({"rule": {"left": {}, "right": {}, "right_measure": "accuracy"}}, "left and right are the same"),
        ({"rule": {"where": {"epsilon": {"above": 0}}}}, "unknown key 'above'"),
        ({"rule": {"where": {"epsilon": {"gt": "a lot"}}}}, "neither a number nor a fraction"),
        ({"rule": {"both_above": 1}}, "both_above"),
        ({"rule": {"items": ["three"]}}, "item 'three'"),
        ({"rule": {"repetitions": 1}}, "repetitions"),
        ({"rule": {"premise": "a wish"}}, "no function"),
        ({"rule": [RULE, RULE]}, "needs a name"),
        ({"controls": [{"left": {"strength": 1}}]}, "each control and each cause needs a name"),
        ({"causes": [CAUSE]}, "causes and because"),
        ({"causes": [{**CAUSE, "items": ["three"]}], "because": "So."}, "item 'three' of a cause"),
        ({"source": ""}, "source"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_rules_that_cannot_be_used_are_named(rules, change, says):
    rules(**change)
    with pytest.raises(claims.ClaimError, match=says) as caught:
        claims.load()
    assert "claims.yaml: c" in str(caught.value)


def test_unknown_claim():
    with pytest.raises(claims.ClaimError, match="no claim 'x'"):
        claims.judge("x", "smoke")


def test_judge_all_writes_what_it_returns(rules, results):
    rules()
    write("one", accuracies(STRENGTHS, shifted(-0.1, -0.1, -0.1, -0.1), seeds=[0]))
    verdicts = claims.judge_all("smoke")
    first = (results / "claims.json").read_bytes()
    body = json.loads(first)
    assert [c["verdict"] for c in body["claims"]] == [v.verdict for v in verdicts] == [NOT_TESTABLE]
    assert body["claims"][0]["evidence"][0]["low"] is None and list(body["provenance"]["records"]) == ["one"]
    assert {p.name for p in (results / "tables").glob("claims.*")} == {"claims.csv", "claims.md", "claims.tex"}
    claims.judge_all("smoke")
    assert (results / "claims.json").read_bytes() == first


def test_networks_far_below_the_usual_accuracy_are_told_in_the_verdict(rules, results):
    folder = rules()
    listed = yaml.safe_load((folder / "items.yaml").read_text())
    listed["one"]["families"] = ["nets-*"]
    (folder / "items.yaml").write_text(yaml.safe_dump(listed))
    usual = {"usual": [{"arch": "digits-cnn", "data": "mnist5k", "accuracy": 0.9, "source": "someone"}]}
    (folder / "verdicts.yaml").write_text(yaml.safe_dump(usual))
    base = {"arch": "digits-cnn", "data": "mnist5k", "family": "nets-a"}
    made = yaml.safe_load((config.ROOT / "config/smoke.yaml").read_text())
    made["networks"] = {"plain": {**base, "epochs": 1, "batch": 64, "learning_rate": 0.1}}
    made["study"]["one"] = {"seeds": [0, 1]}
    (folder / "smoke.yaml").write_text(yaml.safe_dump(made))
    (results / "networks").mkdir(parents=True)

    def card(seed, accuracy):
        body = {
            "name": "plain",
            "seed": seed,
            "recipe": {"arch": "digits-cnn", "data": "mnist5k"},
            "test_accuracy": accuracy,
        }
        (results / "networks" / f"plain-seed{seed}.json").write_text(json.dumps(body))

    for accuracies_of, below in (((0.86, 0.84), True), ((0.88, 0.90), False)):
        for seed, accuracy in enumerate(accuracies_of):
            card(seed, accuracy)
        card(2, 0.1)  # of a seed that the item does not rest on
        found = judged(accuracies(STRENGTHS, shifted(-0.1, -0.1, -0.1, -0.1)))
        assert [row["below"] for row in found.networks] == [below]
        assert found.networks[0]["high"] == pytest.approx(np.mean(accuracies_of))
        assert ("85 %, usual 90 %" in found.headline) is below and found.verdict == "reproduced"


def test_fresh_seeds_are_told_apart(rules):
    folder = rules({"left": {"strength": 4}})
    frozen = {"rules": material.rules_hash(), "date": "2026-01-02", "seen": {"smoke": [0, 1, 2]}}
    (folder / "verdicts.yaml").write_text(yaml.safe_dump({"frozen": frozen}))
    found = judged(accuracies(STRENGTHS, shifted(0, 0, 0, -0.1), seeds=range(5)))
    assert found.fresh["seeds"] == [3, 4] and found.fresh["seen"] == [0, 1, 2]
    assert found.fresh["effects"][0]["repetitions"] == 2 and found.effects[0]["repetitions"] == 5
    assert found.fresh["effects"][0]["value"] == pytest.approx(-0.1)
    assert material.frozen("smoke")["date"] == "2026-01-02" and material.frozen("cpu")["seen"] == []
    for more, new in (([3], [4]), ([3, 4], [])):  # known when this claim's rule was written
        frozen["seen_too"] = {"smoke": {found.id: more, "another": [0, 1, 2, 3, 4]}}
        (folder / "verdicts.yaml").write_text(yaml.safe_dump({"frozen": frozen}))
        own = judged(accuracies(STRENGTHS, shifted(0, 0, 0, -0.1), seeds=range(5)))
        assert own.fresh["seeds"] == new and own.fresh["seen"] == [0, 1, 2, *more]
    rules({"left": {"strength": 3}})
    assert material.frozen("smoke")["date"] is None  # the rule is another one


def test_the_packages_rules_are_frozen():
    known = material.settings()["frozen"]
    assert known["rules"] == material.rules_hash(), (
        "a rule has changed: in config/verdicts.yaml renew rules (the second one here), date, and the seeds seen by now"
    )
    named = {claim for scale in known["seen_too"].values() for claim in scale}
    assert named <= set(config.claims())


def test_every_item_and_claim_of_the_package_know_each_other():
    listed, found = config.items(), claims.load()
    for name, claim in found.items():
        assert [i for i in listed if name in listed[i].claims] == list(claim.items)
    assert {c for item in listed.values() for c in item.claims} == set(found)


def test_every_claim_is_shown_in_a_notebook_of_its_items():
    items, shown = config.items(), set()
    for name in {item.notebook for item in items.values()}:
        text = (config.ROOT / "notebooks" / f"{name}.ipynb").read_text().replace("\\", "")
        own = {claim for item in items.values() if item.notebook == name for claim in item.claims}
        shown |= own if "].claims" in text else {claim for claim in claims.load() if f'"{claim}"' in text}
    assert shown == set(claims.load())


def test_a_claim_is_short():
    text = (config.ROOT / "config/claims.yaml").read_text()
    assert len(text.splitlines()) < 12 * len(claims.load())


@pytest.mark.parametrize("unit", sorted(units.UNITS))
def test_an_interval_is_cut_at_what_the_quantity_cannot_leave_and_nowhere_else(unit):
    low, high = units.UNITS[unit].support
    given = {"left": {"a": 1}, "expect": "at least", "amount": 0.1, "tolerance": 0.1}
    one, two = Rule(**given), Rule(**given, right={"a": 2})
    if math.isinf(high - low):
        assert effects.limits(one, unit) == effects.limits(two, unit) == (-math.inf, math.inf)
    else:
        assert effects.limits(one, unit) == (low, high) and effects.limits(two, unit) == (low - high, high - low)

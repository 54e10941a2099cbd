"""Every verdict and interval of a scale recomputed, from the JSON of the records and the YAML of the rules alone.

Written apart from lib/claims, of which it imports nothing: python tests/recompute_verdicts.py [results/cpu] prints what
differs, and ends with status 1 where something does.
"""

import itertools
import json
import math
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import yaml
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
AGAINST = ("contradicts", "smaller than the margin", "short of the value asked for")
KINDS = ("higher", "lower", "no higher", "no lower", "about", "at least", "at most")


def frac(x):
    return float(Fraction(x.replace(" ", ""))) if isinstance(x, str) else float(x)


def same(a, b):
    numbers = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in (a, b)]
    return abs(a - b) < 1e-9 * max(1, abs(a)) if all(numbers) else (type(a) is type(b) and a == b)


def meets(value, wanted):
    if isinstance(wanted, dict):
        if isinstance(value, (str, bool)):
            return False
        tests = {
            "gt": lambda b: value > b + 1e-9,
            "ge": lambda b: value >= b - 1e-9,
            "lt": lambda b: value < b - 1e-9,
            "le": lambda b: value <= b + 1e-9,
        }
        return all(tests[k](frac(b)) for k, b in wanted.items())
    return any(same(value, w) for w in (wanted if isinstance(wanted, list) else [wanted]))


def all_meet(where, wanted):
    return all(k in where and meets(where[k], w) for k, w in wanted.items())


def text(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def key(where):
    return tuple(
        sorted(
            (k, f"{v:.9g}" if isinstance(v, (int, float)) and not isinstance(v, bool) else repr(v))
            for k, v in where.items()
        )
    )


def student(values, level):
    mean, n = np.mean(values), len(values)
    half = stats.t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n)
    return float(mean), float(mean - half), float(mean + half)


class Numbers:
    """A record's numbers as rows [name, where, {repetition: value}, n, unit]."""

    def __init__(self, record, sample):
        self.plain = [
            [n["name"], n["where"], dict(zip(n["seeds"], n["per_seed"], strict=True)), n["n"], n["unit"]]
            for n in record["numbers"]
        ]
        self.rows = self.plain
        if sample:
            setting, groups = sample["setting"], sample.get("groups") or {}
            made = {}
            for name, where, values, n, unit in self.plain:
                if setting not in where:
                    continue
                rep = where[setting]
                if groups:
                    starts = {g: [s] if isinstance(s, str) else s for g, s in groups.items()}
                    rep = next((g for g, ss in starts.items() if any(str(rep).startswith(s) for s in ss)), None)
                    if rep is None:
                        continue
                rest = {k: v for k, v in where.items() if k != setting}
                row = made.setdefault((name, key(rest)), [name, rest, {}, [], unit])
                row[2].setdefault(rep, []).append(np.mean(list(values.values())))
                row[3].append(n)
            self.rows = [
                [name, where, {r: float(np.mean(v)) for r, v in reps.items()}, min(ns), unit]
                for name, where, reps, ns, unit in made.values()
            ]


def expectation(rule):
    given = rule["expect"]
    kind = next(k for k in KINDS if k in given)
    return kind, float(given[kind]), given.get("tolerance")


def outcome(rule, low, high, scale):
    kind, number, tolerance = expectation(rule)
    relative = rule.get("relative", False)

    def size(x, up):
        if not relative:
            return x
        return math.log(1 + x) if up else -math.log(1 - min(x, 0.999))

    if kind == "about":
        m = number * scale
        return "supports" if low > -m and high < m else "contradicts" if low > m or high < -m else "unresolved"
    up = kind in ("higher", "no lower", "at least")
    lo, hi = (low, high) if up else (-high, -low)
    if kind in ("at least", "at most"):
        bar = (number if up else -number) - tolerance * scale
        return "supports" if lo >= bar else "short of the value asked for" if hi < bar else "unresolved"
    if hi < 0:
        return "contradicts"
    if kind.startswith("no "):
        bar = -size(number * scale, not up)
        return "supports" if lo > bar else "unresolved"
    bar = size(number * scale if tolerance is None else max(0, number - tolerance * scale), up)
    if lo > bar:
        return "supports"
    if hi > bar:
        return "unresolved"
    return "smaller than the margin" if tolerance is None else "short of the value asked for"


def twin_more_robust(numbers, left, right):
    curves = []
    for side in (left, right):
        curves.append({
            round(row[1]["epsilon"] * 255, 6): row[2] for row in numbers.plain
            if row[0] == "accuracy" and "epsilon" in row[1] and 0 < row[1]["epsilon"] < 8.0001 / 255
            and row[1].get("network") == side[1]["network"] and row[1].get("variant") == side[1]["variant"]
        })  # fmt: skip
    steps = set(curves[0]) & set(curves[1])
    seeds = set.intersection(*(set(c[s]) for c in curves for s in steps))
    gains = [np.mean([curves[0][s][k] - curves[1][s][k] for s in steps]) for k in seeds]
    return student(gains, 0.95)[1] > 0.05


def equally_accurate(numbers, left, right):
    clean = []
    for side in (left, right):
        wanted = key({**side[1], "epsilon": 0.0})
        clean.append(
            np.mean(
                [v for row in numbers.plain if row[0] == "accuracy" and key(row[1]) == wanted for v in row[2].values()]
            )
        )
    return abs(clean[0] - clean[1]) <= 0.05


def comparisons(rule, item, record):
    """Those of a rule that count: (setting, rival, {repetition: value}, unit)."""
    numbers = Numbers(
        record, {"setting": rule["sample"]} if isinstance(rule.get("sample"), str) else rule.get("sample")
    )
    left_wanted, right_wanted = rule["left"], rule.get("right")
    measure = rule.get("measure", "accuracy")
    apart = {*left_wanted, *(right_wanted or {}), *rule.get("ignore", [])}
    inside = [row for row in numbers.rows if all_meet(row[1], rule.get("where", {}))]
    lefts = [row for row in inside if row[0] == measure and all_meet(row[1], left_wanted)]
    rights = {}
    if right_wanted is not None:
        for row in inside:
            if row[0] == (rule.get("right_measure") or measure) and all_meet(row[1], right_wanted):
                rights.setdefault(key({k: v for k, v in row[1].items() if k not in apart}), []).append(row)
    fixed = {k for w in (rule.get("where", {}), left_wanted) for k, v in w.items() if not isinstance(v, (dict, list))}
    groups = {}
    for left in lefts:
        own = (
            rights.get(key({k: v for k, v in left[1].items() if k not in apart}), [])
            if right_wanted is not None
            else [None]
        )
        for right in own:
            setting = {k: v for k, v in left[1].items() if k not in fixed and k not in rule.get("mean", [])}
            free = [k for k, v in (right_wanted or {}).items() if isinstance(v, (dict, list))]
            rival = ", ".join(text(right[1][k]) for k in free) if right else ""
            groups.setdefault((key(setting), rival), (setting, rival, []))[2].append((left, right))
    found = []
    for setting, rival, points in groups.values():
        sides = [side for point in points for side in point if side]
        reps = [r for r in points[0][0][2] if all(r in side[2] for side in sides)]
        premise = {"": lambda *_: True, "twin_more_robust": twin_more_robust, "equally_accurate": equally_accurate}
        if len(reps) < rule.get("repetitions", 3) or min(side[3] for side in sides) < rule.get("images", 100):
            continue
        if not premise[rule.get("premise", "")](numbers, *points[0]):
            continue
        value = {}
        for r in reps:
            a = np.mean([p[0][2][r] for p in points])
            b = np.mean([p[1][2][r] for p in points]) if right_wanted is not None else 0.0
            if rule.get("values") == "growth_with_epsilon":
                parts = [
                    np.mean([p[0][2][r] - p[1][2][r] for p in points if low <= p[0][1]["epsilon"] * 255 <= high])
                    for low, high in ((7.999, 255), (0, 2.001))
                ]
                value[r] = parts[0] - parts[1]
            elif rule.get("relative"):
                value[r] = math.log(a / b) if a > 0 and b > 0 else math.nan
            else:
                value[r] = a - b
        if not any(map(math.isnan, value.values())):
            found.append(({**setting, "item": item}, rival, value, points[0][0][4]))
    return found


def effect(rule, value, unit, level):
    values = np.array(list(value.values()), dtype=float)
    sample = rule.get("sample")
    if isinstance(sample, dict) and sample.get("pairwise"):
        values = values.mean() + 2 * (values - values.mean())
    mean, low, high = student(values, level)
    share = unit.startswith(("fraction", "share", "area under", "mean over", "harmonic mean", "mean softmax"))
    if unit.startswith(("fraction of the clean", "fraction of the whole network's")):
        share = False  # they can be above 1
    if share and not rule.get("relative") and not rule.get("values"):
        low, high = max(low, 0.0 if rule.get("right") is None else -1.0), min(high, 1.0)
    return mean, low, high


def worst(outcomes):
    order = ["contradicts", "short of the value asked for", "smaller than the margin", "unresolved", "supports"]
    return min(outcomes, key=order.index)


def pooled(rule, found, level, scale):
    best = rule.get("best", False)
    kind = expectation(rule)[0]
    up = kind in ("higher", "no lower", "at least", "about")
    effects = []
    for rival in dict.fromkeys(f[1] if best else "" for f in found):
        own = [f for f in found if not best or f[1] == rival]
        reps = set.intersection(*(set(f[2]) for f in own))
        if len(reps) < 2:
            return None
        means = {r: np.mean([f[2][r] for f in own]) for r in own[0][2] if r in reps}
        made = effect(rule, means, own[0][3], level)
        effects.append((made, outcome(rule, made[1], made[2], scale)))
    strongest = min(effects, key=lambda e: e[0][0] if up else -e[0][0])[0]
    return strongest, worst([e[1] for e in effects])


def separable(contexts):
    """Whether one setting's values, shared by comparisons, tell all that is for the claim from all against it."""
    fors = [s for s, o in contexts if o == "supports"]
    against = [s for s, o in contexts if o in AGAINST]
    if not fors or not against:
        return False
    decided = fors + against
    for name in {k for s, _ in contexts for k in s}:
        a, b = ({text(s.get(name)) for s in side} for side in (fors, against))
        if not a & b and len(a | b) < len(decided):
            return True
    return False


def verdict_of_rule(rule, found, level, scale):
    if not found:
        return "not testable at this scale", None
    together = pooled(rule, found, level, scale)
    if together is None:
        return "not testable at this scale", None
    several = len({f[0]["item"] for f in found}) > 1
    contexts = {}
    for setting, rival, value, unit in found:
        where = {k: v for k, v in setting.items() if k != "item" or several}
        if rival and not rule.get("best"):
            where["against"] = rival
        _, low, high = effect(rule, value, unit, level)
        contexts.setdefault(key(where), (where, []))[1].append(outcome(rule, low, high, scale))
    contexts = [(where, worst(outcomes)) for where, outcomes in contexts.values()]
    fors = sum(o == "supports" for _, o in contexts)
    against = sum(o in AGAINST for _, o in contexts)
    opposed = sum(o == "contradicts" for _, o in contexts)
    count, said = len(contexts), together[1]
    if said == "supports" and (against == 0 or (rule.get("exceptions") and fors > against)):
        verdict = "reproduced"
    elif (said == "supports" and 2 * against <= count) or (
        4 * fors >= count
        and (
            (fors > against if against else 2 * fors >= count)
            or separable(contexts)
            or (fors == against and fors + against == count)
        )
    ):
        verdict = "reproduced in part"
    elif said == "contradicts" or 2 * opposed > count:
        verdict = "contradicted"
    elif said in AGAINST or 2 * against > count:
        verdict = "not reproduced"
    else:
        verdict = "open"
    return verdict, together[0]


def judge(claim, records, level=0.95, scale=1.0):
    """(verdict, the pooled effect of each part that has one, every comparison's that counts)."""
    rules = claim["rule"] if isinstance(claim["rule"], list) else [claim["rule"]]
    counted, verdicts, effects, single = set(), [], [], []
    for rule in rules:
        found = [f for item in rule.get("items", claim["items"]) for f in comparisons(rule, item, records[item])]
        counted |= {f[0]["item"] for f in found}
        verdict, made = verdict_of_rule(rule, found, level, scale)
        verdicts.append(verdict)
        ratio = rule.get("relative")
        if made is not None:
            effects.append([math.exp(x) if ratio else x for x in made])
        each = [effect(rule, value, unit, level) for _, _, value, unit in found]
        single += [[math.exp(x) - 1 if ratio else x for x in one] for one in each]
    held = sum(v in ("reproduced", "reproduced in part") for v in verdicts)
    failed = sum(v in ("not reproduced", "contradicted") for v in verdicts)
    if len(set(verdicts)) == 1:
        verdict = verdicts[0]
    elif held >= failed and 2 * held >= len(verdicts):
        verdict = "reproduced in part"
    else:
        verdict = "not reproduced" if failed else "open"
    if verdict == "reproduced" and set(claim["items"]) - counted:
        verdict = "reproduced in part"
    return verdict, effects, sorted(single)


def differences(folder, rules):
    """What claims.json of a results folder says otherwise than the records and rules give, in words.

    Args:
        folder: results/<scale>.
        rules: path of claims.yaml.
    """
    claims = yaml.safe_load(Path(rules).read_text(encoding="utf-8"))
    said = {c["id"]: c for c in json.loads((Path(folder) / "claims.json").read_text(encoding="utf-8"))["claims"]}
    records = {
        p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted((Path(folder) / "numbers").glob("*.json"))
    }
    found = [f"{name} is in one of claims.json and claims.yaml only" for name in set(claims) ^ set(said)]
    for name, claim in claims.items():
        if name not in said:
            continue
        if not set(claim["items"]) <= set(records):
            if said[name]["verdict"] != "not testable at this scale":
                found.append(f"{name}: {said[name]['verdict']}, though a record is missing")
            continue
        verdict, effects, single = judge(claim, records)
        if verdict != said[name]["verdict"]:
            found.append(f"{name}: {said[name]['verdict']}, recomputed {verdict}")
            continue
        ours = [[e["value"], e["low"], e["high"]] for e in said[name]["effects"]]
        if len(ours) != len(effects) or not np.allclose(ours, effects, rtol=1e-7, atol=1e-9):
            found.append(f"{name}: effects {ours}, recomputed {effects}")
        rows = [row for row in said[name]["evidence"] if row["outcome"] in (*AGAINST, "supports", "unresolved")]
        shown = sorted([row[k] for k in ("difference", "low", "high")] for row in rows)
        if len(shown) != len(single) or not np.allclose(shown, single, rtol=1e-7, atol=1e-9):
            found.append(f"{name}: {len(shown)} comparisons are not the {len(single)} recomputed")
        if verdict != "not testable at this scale":
            grid = itertools.product((0.5, 1.0, 2.0), (0.9, 0.95, 0.99))
            stable = sum(judge(claim, records, level, scale)[0] == verdict for scale, level in grid)
            if stable != said[name]["stable"]["same"]:
                found.append(f"{name}: the same in {said[name]['stable']['same']}, recomputed {stable}")
    return found


if __name__ == "__main__":
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "results" / "cpu"
    wrong = differences(place, ROOT / "config" / "claims.yaml")
    print("\n".join(wrong) or f"{place}: every verdict, effect and interval as recomputed")
    raise SystemExit(bool(wrong))

"""What a check found, and how it is told: one line a thing, then what is wrong in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

OK, UNTRACED, DIFFERS = "ok", "not traced", "DIFFERS"
SHOWN = 6  # things that a sentence names


@dataclass(frozen=True)
class Finding:
    """One check of one thing.

    Attributes:
        thing: an item, or "claims", "kept tables", "networks", "notebooks".
        check: what was checked, as "tables".
        state: OK; UNTRACED, where nothing contradicts it and nothing proves it; or DIFFERS.
        why: the reason in words, without the thing's name; empty where it is OK.
    """

    thing: str
    check: str
    state: str = OK
    why: str = ""


def told(findings: Sequence[Finding], scale: str, missing: Sequence[str] = ()) -> str:
    """The findings as a table of one line a thing, the reasons below it, and what it comes to in the last line.

    Args:
        missing: items without a record at this scale, which is no fault.
    """
    if not findings:
        return f"verify: nothing to check: results/{scale} holds no records. Make them: ./run_all.sh {scale}"
    things = list(dict.fromkeys(found.thing for found in findings))
    checks = list(dict.fromkeys(found.check for found in findings))
    rows = [["", *checks]]
    for thing in things:
        states = {check: [f.state for f in findings if (f.thing, f.check) == (thing, check)] for check in checks}
        rows.append([thing, *(worst(states[check]) for check in checks)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for state in (UNTRACED, DIFFERS):
        reasons: dict[tuple[str, str], list[str]] = {}
        for found in findings:
            if found.state == state:
                reasons.setdefault((found.check, found.why), []).append(found.thing)
        lines += [""] if reasons else []
        lines += [f"{state}: {_named(things)}: {check}: {why}" for (check, why), things in reasons.items()]
    wrong, loose = (len({f.thing for f in findings if f.state == state}) for state in (DIFFERS, UNTRACED))
    lines.append("")
    lines += [f"not run at {scale}: {', '.join(missing)}", ""] if missing else []
    if wrong:
        ending = f"{wrong} of {len(things)} do not follow from their records: see DIFFERS above"
    else:
        ending = f"nothing contradicts the records of {len(things)} things"
    ending += f"; {loose} cannot be traced in full" if loose else ""
    return "\n".join([*lines, f"verify {scale}: {ending}."])


def worst(states: Sequence[str]) -> str:
    """The state that several come to; "-" for none."""
    return max(states, key=(OK, UNTRACED, DIFFERS).index, default="-")


def _named(things: Sequence[str]) -> str:
    names = list(dict.fromkeys(things))
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")

"""Kill a small scale with SIGKILL at random moments, start it again until it is done, compare with an undisturbed run.

    python -m tests.faults.kill --times 20 --seed 0

Every second kill or so takes the whole process group, as a closed terminal or a machine's scheduler does; the others
the run alone, so that its jobs must notice. Exit status: 0 where all holds, 1 with the first thing that does not.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE.parent.parent), str(HERE.parent)) if path not in sys.path]

from faults.small import Small  # noqa: E402  as pytest finds it


def undisturbed(small: Small, say: Callable[[str], None] = print) -> tuple[float, dict[str, str]]:
    """A run from nothing to its end. Returns: the seconds it took, and what it made, as `Small.content` says.

    Raises: AssertionError where it fails.
    """
    small.clear()
    began = time.monotonic()
    done = small.run()
    took = time.monotonic() - began
    assert done.returncode == 0, f"the undisturbed run failed:\n{done.stdout}{done.stderr}"
    wanted = small.content()
    say(f"undisturbed: {took:.0f} s, {len(wanted)} files")
    return took, wanted


def campaign(
    small: Small, took: float, wanted: dict[str, str], times: int, seed: int, say: Callable[[str], None] = print
) -> None:
    """Kill and restart.

    Args:
        small: the checkout; its runs so far are cleared away.
        took, wanted: of an undisturbed run.
        times: kills.
        seed: of the moments and of whom they hit.
        say: takes a line a kill.
    Raises: AssertionError naming what does not hold.
    """
    moments = random.Random(seed)
    small.clear()
    for kill in range(1, times + 1):
        while True:
            fresh, began = not small.results.exists(), time.monotonic()
            if _killed(small, moments.uniform(0.2, 0.9 * took), moments.random() < 0.5, f"{kill:3}", say):
                break
            if fresh:  # the machine was busier before
                took = min(took, time.monotonic() - began)
            _compare(small, wanted)  # it came to its end before the kill: once more from nothing
            small.clear()
    done = small.run()
    assert done.returncode == 0, f"the run after the last kill failed:\n{done.stdout}{done.stderr}"
    _compare(small, wanted)
    say(f"{times} kills: records, tables, figures, networks and kept tables as undisturbed")


def _killed(small: Small, wait: float, group: bool, name: str, say: Callable[[str], None]) -> bool:
    """Start the run and kill it after some seconds; False where it ended before, well."""
    run = small.start()
    try:
        status = run.wait(timeout=wait)
    except subprocess.TimeoutExpired:
        (os.killpg if group else os.kill)(run.pid, signal.SIGKILL)
        run.wait()
    else:
        assert status == 0, f"a restarted run failed with status {status}"
        return False
    say(
        f"{name}  {'whole group' if group else 'run alone  '}  after {wait:5.1f} s  {_at_work(small) or 'between jobs'}"
    )
    small.wait_until_all_ended()
    torn = small.torn(amid=True)
    assert not torn, f"half-written after the kill: {torn}"
    return True


def _at_work(small: Small) -> str:
    """Jobs that had begun and not ended, by the engine's list."""
    started: dict[str, None] = {}
    path = small.cache / "smoke/engine/run.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        entry = json.loads(line) if line.endswith("}") else {}
        if entry.get("event") == "start":
            started[entry["job"]] = None
        elif entry.get("event") in ("end", "stopped"):
            started.pop(entry["job"], None)
    return ", ".join(started)


def _compare(small: Small, wanted: dict[str, str]) -> None:
    found = small.content()
    differ = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    assert not differ, f"not as in the undisturbed run: {', '.join(differ)}"
    torn = small.torn()
    assert not torn, f"not whole, or left behind: {torn}"
    small.wait_until_all_ended()


def main() -> int:
    """The command line. Returns: its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kill", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--times", type=int, default=20, help="kills")
    parser.add_argument("--seed", type=int, default=0, help="of their moments")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="neurons-kill-", ignore_cleanup_errors=True) as folder:
        try:
            small, say = Small(Path(folder) / "checkout"), partial(print, flush=True)
            campaign(small, *undisturbed(small, say), chosen.times, chosen.seed, say)
        except AssertionError as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Whole runs of real work that are killed, or find the disk full: they go on to the records of an undisturbed run."""

import os
import subprocess

import pytest

from faults import kill
from faults.small import Small


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Small, float, dict[str, str]]:
    """A checkout whose smoke scale has run undisturbed, the seconds that took, and what it made."""
    small = Small(tmp_path_factory.mktemp("faults") / "a checkout")
    return small, *kill.undisturbed(small)


@pytest.mark.slow
def test_killed_at_random_and_started_again_it_ends_as_undisturbed(whole):
    """Two kills; python -m tests.faults.kill --times 20 is the whole of it."""
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    kill.campaign(*whole, times=2, seed=seed)


@pytest.fixture
def tight(whole):
    """No results yet, and room for little on a disk of their own; what was trained for them is kept on another.

    Gives the checkout, and what widens the disk.
    """
    small, *_ = whole
    mount = ["mount", "-t", "tmpfs", "-o", "size=80k", "tmpfs", str(small.results)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield small, lambda: subprocess.run(["mount", "-o", "remount,size=8m", str(small.results)], check=True)
    subprocess.run(["umount", "--lazy", str(small.results)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_next_run_goes_on(tight):
    small, widen = tight
    starved = small.run()
    assert starved.returncode == 1
    assert "FAILED  notebook 01_survival" in starved.stdout
    assert "No space left on device" in starved.stdout + starved.stderr
    assert "Traceback" not in starved.stdout + starved.stderr
    assert small.torn(amid=True) == []
    widen()
    done = small.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(name.endswith("numbers/survival_table.json") for name in small.content())
    assert small.torn() == []

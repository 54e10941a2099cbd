"""Whole runs of real work that are killed, or find the disk full: they go on to the records of an undisturbed run."""

import os
import subprocess

import pytest

from faults import kill
from faults.small import Small


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Small:
    return Small(tmp_path_factory.mktemp("faults") / "a checkout")


@pytest.mark.slow
def test_killed_at_random_and_started_again_it_ends_as_undisturbed(small):
    """Two kills; python -m tests.faults.kill --times 20 is the whole of it."""
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    kill.campaign(small, times=2, seed=seed)


@pytest.fixture
def tight(small):
    """The results on a disk of their own with room for little; `widen()` gives it more."""
    small.results.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=80k", "tmpfs", str(small.results)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield lambda: subprocess.run(["mount", "-o", "remount,size=8m", str(small.results)], check=True)
    subprocess.run(["umount", "--lazy", str(small.results)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_next_run_goes_on(small, tight):
    starved = small.run()
    assert starved.returncode == 1
    assert "FAILED  notebook 01_survival" in starved.stdout
    assert "No space left on device" in starved.stdout + starved.stderr
    assert "Traceback" not in starved.stdout + starved.stderr
    assert small.torn(amid=True) == []
    tight()
    done = small.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(name.endswith("numbers/survival_table.json") for name in small.content())
    assert small.torn() == []

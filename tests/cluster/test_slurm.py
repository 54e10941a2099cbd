"""The same command on a Slurm cluster: a small checkout's whole graph through profiles/slurm, jobs of a real Slurm.

On a machine without Slurm: tests/cluster/one_node_slurm.sh start, then ./run_all.sh test tests/cluster -m slow
"""

import os
import shutil
import subprocess

import pytest
import yaml
from workshop import Workshop

pytestmark = pytest.mark.slow


def why_not() -> str:
    """Why no job can be submitted here; empty where it can."""
    if shutil.which("sbatch") is None:
        return "no Slurm here (no sbatch): tests/cluster/one_node_slurm.sh says what it takes"
    asked = subprocess.run(["sinfo", "-h", "-t", "idle,mixed,allocated", "-o", "%P"], capture_output=True, text=True)
    if asked.returncode or not asked.stdout.strip():
        return f"Slurm has no node that answers: tests/cluster/one_node_slurm.sh start ({asked.stderr.strip()})"
    return ""


@pytest.fixture
def shop(tmp_path) -> Workshop:
    """A small checkout where every node sees it, its profile fitted to a Slurm without accounting."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    shop = Workshop(tmp_path / "shop")
    path = shop.root / "profiles/slurm/config.yaml"
    profile = yaml.safe_load(path.read_text())
    profile["default-resources"] = {"mem_mb": 500, "runtime": 5}
    profile |= {"slurm-no-account": True, "slurm-status-command": "squeue", "latency-wait": 10}
    profile |= {"slurm-init-seconds-before-status-checks": 3, "seconds-between-status-checks": 3}
    path.write_text(yaml.safe_dump(profile))
    return shop


def test_a_run_on_slurm_makes_the_records_of_a_local_one(shop, tmp_path):
    local = Workshop(tmp_path / "local")
    assert local.call("smoke", "--only", "02_two").returncode == 0
    done = shop.call("smoke", "--only", "02_two", "--profile", "slurm", "--cores", str(os.cpu_count()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert shop.record("robustness_three") == local.record("robustness_three") is not None
    assert sorted(shop.lines("trained")) == sorted(local.lines("trained"))
    again = shop.call("smoke", "--only", "02_two", "--profile", "slurm")
    assert again.returncode == 0 and sorted(shop.lines("trained")) == sorted(local.lines("trained")), again.stderr
    logs = list((shop.root / "cache/smoke/engine/logs").glob("train-*.log"))
    assert logs, "the jobs' logs lie where those of a local run lie"


def test_a_job_that_fails_on_slurm_is_named_and_the_others_are_kept(shop):
    shop.notebook("02_two", "raise ValueError('not on this cluster')")
    done = shop.call("smoke", "--only", "02_two", "--profile", "slurm")
    assert done.returncode == 1
    assert "02_two" in done.stdout + done.stderr and "not on this cluster" in done.stdout + done.stderr
    assert sorted(shop.lines("trained")) == ["other 0 False", "other 1 False"]

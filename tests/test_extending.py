"""docs/extending.md: its blocks, carried out as they stand, make a record, a figure and a verdict."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from workshop import Workshop

from lib import config

BLOCK = re.compile(r"^```(\w+)\n# (\S+?)(?:: (\w+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks() -> dict[str, str]:
    """File, and its section where one is named -> what the document puts there."""
    return {
        ": ".join(filter(None, match.group(2, 3))): match[4]
        for match in BLOCK.finditer((config.ROOT / "docs/extending.md").read_text())
    }


def test_every_block_names_the_file_it_belongs_to():
    text = (config.ROOT / "docs/extending.md").read_text()
    assert len(blocks()) == text.count("\n```python\n") + text.count("\n```yaml\n") == 7


@pytest.mark.slow
def test_the_example_runs_as_it_stands(tmp_path):
    shop = Workshop(tmp_path / "shop")
    for name in ("lib", "config", "notebooks"):
        shutil.rmtree(shop.root / name)
        shutil.copytree(config.ROOT / name, shop.root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(config.ROOT / "CITATION.cff", shop.root)
    given = blocks()
    smoke = (shop.root / "config/smoke.yaml").read_text()
    shop.write(
        "config/smoke.yaml", smoke.replace("\nnetworks:\n", f"\nnetworks:\n{given['config/smoke.yaml: networks']}")
    )
    smoke = (shop.root / "config/smoke.yaml").read_text()
    shop.write("config/smoke.yaml", smoke.replace("\nstudy:\n", f"\nstudy:\n{given['config/smoke.yaml: study']}"))
    for name in ("config/items.yaml", "config/claims.yaml"):
        shop.write(name, (shop.root / name).read_text() + "\n" + given[name])
    for name in ("lib/robustness/noise.py", "lib/experiments/robustness_noise.py"):
        shop.write(name, given[name])
    shutil.copy(config.ROOT / "docs/extending/06_robustness_noise.ipynb", shop.root / "notebooks")
    done = shop.call("smoke", "--only", "robustness_noise")
    assert done.returncode == 0, done.stdout + done.stderr
    found = shop.record("robustness_noise")
    assert found is not None and len(found["numbers"]) == 6 and found["numbers"][0]["seeds"] == [0, 1]
    assert (shop.root / "results/smoke/figures/robustness_noise.svg").is_file()
    claims = yaml.safe_load((shop.root / "results/smoke/claims.json").read_text())["claims"]
    verdicts = {claim["id"]: claim for claim in claims} if isinstance(claims, list) else claims
    assert verdicts["fgsm-is-not-noise"]["verdict"] == "reproduced"
    assert "robustness_noise" in (shop.root / "results/smoke/index.html").read_text()


def with_an_attack(root: Path) -> None:
    """A copy of package, settings and tests, with the attack that the document adds."""
    for name in ("lib", "config", "tests", "notebooks"):
        shutil.copytree(config.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(config.ROOT / "pyproject.toml", root)
    suite = root / "lib/attacks/suite.py"
    head, end, tail = suite.read_text().partition("\n)\nSUITE: ")
    suite.write_text(head + "\n" + blocks()["lib/attacks/suite.py: _ROWS"].rstrip() + end + tail)


@pytest.mark.slow
def test_an_attack_is_added_and_tested_as_it_stands(tmp_path):
    with_an_attack(tmp_path)
    tests = ["tests/attacks/test_suite.py", "tests/test_explore.py", "tests/experiments/test_nnslicer_detection.py"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            *tests,
            "-k",
            "bim_8 or seventeen or attack or suite",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "NEURONS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    tried = [sys.executable, "-c", "from lib import attacks; print(*attacks.SUITE, attacks.find('bim_8').norm)"]
    said = subprocess.run(tried, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True)
    assert said.stdout.split()[-2:] == [b"bim_8", b"linf"]

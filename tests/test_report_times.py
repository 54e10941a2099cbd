"""The graph that the run times are laid over is the one that Snakemake runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lib import config
from lib.report import times


@pytest.mark.slow
def test_what_waits_for_what_is_as_snakemake_has_it(tmp_path):
    places = {"NEURONS_RESULTS": str(tmp_path / "results"), "NEURONS_CACHE": str(tmp_path / "cache")}
    call = ["snakemake", "--snakefile", "Snakefile", "--config", "scale=smoke", "--nolock", "--dag", "dot"]
    drawn = subprocess.run(
        [sys.executable, "-m", *call],
        cwd=Path(config.ROOT),
        env={**os.environ, **places},
        capture_output=True,
        text=True,
    )
    assert drawn.returncode == 0, drawn.stderr
    names = dict(re.findall(r'^\s*(\d+)\[label = "([^"]+)"', drawn.stdout, flags=re.MULTILINE))
    edges = re.findall(r"^\s*(\d+) -> (\d+)", drawn.stdout, flags=re.MULTILINE)
    snakemakes = {(names[before], names[after]) for before, after in edges if names[after] not in ("all", "report")}
    ours = {(_rule(before), _rule(job)) for job, waits in times.waits("smoke").items() for before in waits}
    assert ours == snakemakes
    assert {_rule(job) for job in times.waits("smoke")} == set(names.values()) - {"all", "report"}


def _rule(job: str) -> str:
    """The name of a rule from that of its benchmark: the first and the last dash are underscores, as is a study's."""
    kind, _, rest = job.partition("-")
    if kind == "notebook":
        return f"{kind}_{rest}"
    if kind == "attack":
        return f"{kind}_" + re.sub(r"-(seed\d+)-", r"_\1_", rest)
    rest = re.sub(r"-(seed\d+)$", r"_\1", rest)
    return f"{kind}_" + (rest if kind == "train" else rest.replace("-", "_", 1))

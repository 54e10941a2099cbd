"""What the records of `cpu` rest on comes along with them: measuring an item again computes nothing."""

import pytest

from lib import cache, compute, config, data, evaluations

ELSEWHERE = {("nnslicer", "scores"), ("nnslicer", "overhead")}
"""Steps whose results lie in the cache alone, or hold for one machine."""
STEPS = [(study, name) for study, steps in config.steps().items() for name in steps if (study, name) not in ELSEWHERE]


@pytest.mark.parametrize(("study", "name"), STEPS, ids=[" ".join(step) for step in STEPS])
def test_nothing_is_left_to_compute(monkeypatch, tmp_path, study, name):
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path))
    preset, step = config.load("cpu"), config.steps()[study][name]
    sets = {preset.recipe(network).data for family in preset.families for network in preset.families[family]}
    for each in sorted(sets):
        try:
            data.load(each, "test")
        except data.DataError as error:
            pytest.skip(f"{each} is not here: {str(error).splitlines()[0]}")
    compute.set_threads(preset.compute.threads)
    for seed in list(preset.study[study]["seeds"])[: step.seeds]:
        with cache.only_kept():
            evaluations.carry_out(step.run, "cpu", seed)

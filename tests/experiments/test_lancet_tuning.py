"""Neuron-fine-tune without its parts: the whole is notebook 35's, each variant has as many steps and what it says."""

import pytest

from lib import config
from lib.experiments import lancet_defects as defects
from lib.experiments import lancet_fine_tuning
from lib.experiments import lancet_tuning as tuning

CONFIG = """
compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}
networks:
  tiny: {arch: digits-cnn, arch_args: {width: 3}, data: mnist5k, epochs: 2, batch: 50, train_limit: 600,
    learning_rate: 0.05, family: tiny}
study:
  lancet: {data: mnist5k, seeds: [0], companion_steps: 25, tuning: {network: tiny, test_images: 300, pairs: 8,
    copies: 2, old: 30, epochs: 4, rates: [0.001, 0.02]}}
"""


@pytest.fixture
def settings(shared_places):
    """Of an experiment on a tiny network."""
    return tuning.Settings.of("smoke")


def test_variants_leave_out_what_they_say(settings, monkeypatch):
    run = tuning.TuningRun(settings, 0)
    bench, seen = run.bench(), []
    fine_tune = lancet_fine_tuning.fine_tune

    def watched(model, votes, errors, old, **options):
        made = fine_tune(model, votes, errors, old, **options)
        seen.append((len(errors[0]), len(old[0]), options["distillation"], made[1].steps))
        return made

    monkeypatch.setattr(lancet_fine_tuning, "fine_tune", watched)
    table = tuning.variants(bench, settings).set_index("variant")
    assert list(table.index.unique()) == ["none", *tuning.VARIANTS] and len(table) == 1 + 2 * len(tuning.VARIANTS)
    assert table.loc["none", "errors_right"] == 0 and table.loc["none", "still_right"] == 1
    found = dict(zip(tuning.VARIANTS, seen[::2], strict=True))
    similar = int(table.loc["whole", "similar"].iloc[0])
    everything = 8 * (1 + 2) + similar
    assert {name: row[:3] for name, row in found.items()} == {
        "whole": (everything, 30, 1),
        "no-distillation": (everything, 30, 0),
        "no-old": (everything, 0, 0),
        "no-transforms": (8 + similar, 30, 1),
        "no-similar": (24, 30, 1),
        "pairs-only": (8, 30, 1),
    }
    steps = found["whole"][3]
    assert all(abs(row[3] - steps) <= row[3] / max(1, steps // 4) for row in found.values())
    assert table["chosen"].groupby(level=0).sum().eq(1).all()


def test_the_whole_is_the_repair_of_notebook_35(settings):
    run = tuning.TuningRun(settings, 0)
    whole = tuning.variants(run.bench(), settings).query("variant == 'whole'")
    repair = defects.repairs(run.bench()).query("rule == 'most-pairs' and method == 'error-inducing'")
    same = [
        "learning_rate",
        "layer",
        "weights",
        "accuracy",
        "errors_right",
        "still_right",
        "tuned_on",
        "similar",
        "chosen",
    ]
    assert whole[same].to_dict("list") == repair[same].to_dict("list")


def test_what_is_forgotten_is_what_is_no_longer_right(settings):
    table = tuning.TuningRun(settings, 0).tuned().query("variant != 'none'")
    rows = tuning.tuned(settings, 0).set_index(["measure", "variant", "learning_rate"])["value"]
    for row in table.to_dict("records"):
        at = (row["variant"], row["learning_rate"])
        assert rows[("forgotten", *at)] == pytest.approx(1 - row["still_right"])
        right, wrong = (row["n"] - row["n_errors"], row["n_errors"])
        gain = (wrong * rows[("corrected", *at)] - right * rows[("forgotten", *at)]) / row["n"]
        assert rows[("gain", *at)] == pytest.approx(gain, abs=1e-6)


def test_a_rule_that_is_not_one_is_refused(shared_places):
    with pytest.raises(config.ConfigError, match="rule"):
        tuning.Settings.of("smoke", rule="any")

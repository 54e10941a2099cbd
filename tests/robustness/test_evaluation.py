"""Named networks under attack: computed once, kept by what they depend on, the same again."""

import subprocess
import sys

import pytest
import torch

from lib import config, robustness, zoo
from lib.robustness import evaluation, fgsm_sweep


@pytest.fixture
def scale(tmp_path, monkeypatch):
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "smoke.yaml").write_text(
        "compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}\n"
        "networks:\n"
        "  digits-t{t}: {grid: {t: [1, 20]}, arch: digits-cnn, data: mnist5k, epochs: 1, batch: 50,\n"
        "    train_limit: 300, learning_rate: 0.003, optimizer: adamw, temperature: '{t}', family: digits,\n"
        "    transforms: [{use: lib.robustness.temperature.scale_last_layer, factor: '{t}'}]}\n"
        "  alone: {like: digits-t20, temperature: 20, family: alone}\n"
        "study:\n"
        "  robustness: {data: mnist5k, test_images: 40, epsilons: [4, 16], masking_images: 10,\n"
        "    masking_epsilons: [8], pgd_images: 4, cw_images: 2, prunable_images: 30}\n"
    )
    (folder / "items.yaml").write_text(
        "".join(
            f"{item}: {{title: t, paper: p, source: s, notebook: n, families: [digits]}}\n"
            for item in ("robustness_masking", "robustness_spectra")
        )
    )
    monkeypatch.setenv("NEURONS_CONFIG", str(folder))
    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path / "results"))
    return "smoke"


def test_a_family_is_evaluated_once(scale, monkeypatch):
    done = evaluation.evaluate_family(scale, "digits", 0)
    assert done == {
        "digits-t1": ["sweep", "masking", "spectra"],
        "digits-t20": ["sweep", "sweep-aware", "masking", "spectra"],
    }

    frame = evaluation.sweep("digits-t20", scale, 0, aware=True)
    images = evaluation.test_images("mnist5k", 40)
    model = zoo.get("digits-t20", scale, 0)
    direct = fgsm_sweep(model, images.images, images.labels, [0, 4 / 255, 16 / 255], 20.0)
    assert frame.columns.tolist() == ["epsilon", "accuracy", "relative_accuracy", "n"]
    assert frame.accuracy.tolist() == direct.accuracy.tolist()
    assert frame.epsilon.tolist() == direct.epsilon.tolist()
    assert frame.relative_accuracy.tolist() == (direct.accuracy / direct.accuracy[0]).tolist()

    spectrum = evaluation.spectra_of("digits-t1", scale, 0)
    assert spectrum.layer.tolist()[-1] == "mean"
    assert spectrum.prunable_share.notna().tolist() == [False] * (len(spectrum) - 1) + [True]
    assert spectrum.stable_rank.iloc[-1] == pytest.approx(spectrum.stable_rank[:-1].mean())

    masking = evaluation.masking_of("digits-t20", scale, 0)
    assert set(masking.network) == {"trained", "post-hoc"}
    assert set(evaluation.masking_of("digits-t1", scale, 0).network) == {"trained"}

    def never(*_, **__):
        raise AssertionError("computed twice")

    for module, name in [
        (evaluation.fgsm, "fgsm_sweep"),
        (robustness.masking, "examine"),
        (evaluation.spectra, "layer_spectra"),
    ]:
        monkeypatch.setattr(module, name, never)
    assert evaluation.evaluate_family(scale, "digits", 0) == done
    assert evaluation.sweep("digits-t20", scale, 0, aware=True).equals(frame)
    with pytest.raises(AssertionError, match="computed twice"):
        evaluation.sweep("digits-t20", scale, 1)
    monkeypatch.setattr(evaluation, "VERSION", evaluation.VERSION + 1)
    with pytest.raises(AssertionError, match="computed twice"):
        evaluation.sweep("digits-t20", scale, 0)


def test_refusals(scale, monkeypatch):
    with pytest.raises(config.ConfigError, match="one of digits, alone"):
        evaluation.evaluate_family(scale, "nowhere", 0)
    with pytest.raises(config.ConfigError, match="no network trained at temperature 1"):
        evaluation.masking_of("alone", scale, 0)
    source = config.config_dir() / "smoke.yaml"
    source.write_text(source.read_text().replace("data: mnist5k, test_images", "test_images"))
    with pytest.raises(config.ConfigError, match=r"study\.robustness\.data"):
        evaluation.settings(scale)


def test_a_plain_sweep_loads_no_foolbox():
    code = """
import sys, torch
from lib.robustness import evaluation
evaluation.fgsm.fgsm_sweep(torch.nn.Flatten(), torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), [0.0])
print("foolbox" in sys.modules)
from lib.robustness import masking
print("foolbox" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=config.ROOT, capture_output=True, text=True)
    assert told.stdout.split() == ["False", "True"], told.stderr


def test_images_are_balanced():
    counts = torch.bincount(evaluation.test_images("mnist5k", 50).labels)
    assert counts.tolist() == [5] * 10

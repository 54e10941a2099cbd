"""What the units choose: tables agree with each other and with the record; neighbours in a plane; settings."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.lcs_runs import NAME, use
from lib import plots
from lib.config import ConfigError
from lib.experiments import lcs_decisions, lcs_umap
from lib.experiments.dynamic import titled

SMALL = {"networks": [NAME], "umap_networks": [NAME], "images": 200, "permutations": 20, "rare_images": 3}
SMALL |= {"channel_networks": [NAME]}


@pytest.fixture(scope="module")
def results():
    with pytest.MonkeyPatch.context() as patch:
        use(patch)
        yield lcs_decisions.DECISIONS.of(lcs_decisions.Settings.of("smoke", **SMALL))


def test_usage_entropy_and_paths_agree(results):
    usage = results.rows("usage")
    assert usage.groupby(["layer", "label"])["value"].sum().to_numpy() == pytest.approx(1)
    counted = usage.assign(count=usage["value"] * usage["n"]).groupby(["layer", "row"])["count"].sum()
    assert counted.sum() == pytest.approx(200 * usage["layer"].nunique())
    own = results.values("entropy", units="trained", choices="measured").set_index("layer")["value"]
    top = results.values("top_share", units="trained").set_index("layer")["value"]
    layers = usage["layer"].unique()
    for layer in layers:
        p = counted[layer].to_numpy() / 200
        assert top[layer] == pytest.approx(p.max())
        assert own[layer] == pytest.approx(-(p[p > 0] * np.log2(p[p > 0])).sum())
    assert own[lcs_decisions.MEAN] == pytest.approx(own[layers].mean())
    below = (own[layers] < lcs_decisions.COLLAPSED).sum()
    assert results.value("collapsed_layers", units="trained") == below
    assert (results.values("entropy", choices="constant")["value"] == 0).all()
    assert results.value("accuracy", images="rarest tenth") == 1  # the labels are the network's own answers
    images = results.rows("image")
    rare, usual = (images[images["kind"] == kind]["bits"] for kind in ("rare", "usual"))
    assert len(rare) == 3 and rare.min() >= usual.max()


def test_channels_are_told_layer_by_layer_and_in_the_mean(results):
    for name in lcs_decisions.SWITCHED:
        rows = results.values(f"channel_{name}").set_index("layer")["value"]
        assert rows[lcs_decisions.MEAN] == pytest.approx(rows.drop(lcs_decisions.MEAN).mean())
    entropy, ceiling = (results.values(f"channel_{name}")["value"] for name in ("entropy", "ceiling"))
    assert (entropy <= ceiling + 1e-9).all() and set(results.values("channel_share")["form"]) == {"standardised"}


def test_every_cell_of_the_table_is_a_number_of_the_record(results):
    known = {round(number["value"], 9) for number in results.numbers}
    cells = [cell for cell in results.table.to_numpy().ravel() if isinstance(cell, float) and cell == cell]
    assert {round(cell, 9) for cell in cells} <= known
    assert list(results.table["units"]) == ["trained", "untrained"]
    assert plots.render(results.figure, "png")


def test_the_picture_has_each_layers_rows_by_use_and_a_gap_between_layers(results):
    usage = results.rows("usage")
    whole, middles, layers = lcs_decisions.side_by_side(usage)
    assert layers == list(usage["layer"].unique()) and whole.shape == (4, 4 * len(layers) - 1)
    assert np.isnan(whole[:, 3::4]).all()
    for place, (layer, middle) in enumerate(zip(layers, middles, strict=True)):
        shares = whole[:, 4 * place : 4 * place + 3]
        assert middle == 4 * place + 1 and shares.sum(1) == pytest.approx(1)
        assert (np.diff(shares.mean(0)) <= 1e-9).all()
        own = usage[usage["layer"] == layer]
        assert sorted(shares[1]) == pytest.approx(sorted(own[own["label"] == 1]["value"]))
    (picture,) = [image for ax in results.figure.axes for image in ax.images]
    assert picture.get_array().shape == whole.shape


def test_neighbours_and_distance_in_a_plane():
    random = np.random.default_rng(0)
    centres = np.array([[0.0, 0], [10, 0], [0, 10]])
    labels = np.repeat([0, 1, 2], 30)
    train = centres[labels] + random.normal(0, 0.5, (90, 2))
    values = {"train": train, "test": centres[labels] + random.normal(0, 0.5, (90, 2))}
    values |= {"fgsm_8": np.full((20, 2), 30.0), "rpgd_8": values["test"][:20]}
    found = {(name, kind): value for name, kind, value, _ in lcs_umap.measures(values, labels, 5)}
    assert found["neighbour accuracy", "train"] == 1 and found["apart", "fgsm_8"] == 1
    assert 0.35 < found["apart", "rpgd_8"] < 0.65
    mixed = {"train": random.normal(0, 1, (300, 2)), "test": random.normal(0, 1, (9, 2))}
    ((_, _, value, _),) = lcs_umap.measures(mixed, np.arange(300) % 3, 5)
    assert 0.2 < value < 0.5


@pytest.mark.slow
def test_the_plane_shows_every_point_once(monkeypatch):
    use(monkeypatch)
    chosen = {"umap_images": 60, "umap_adversarials": 8, "umap_attacks": ["fgsm_8", "rpgd_8"]}
    results = lcs_umap.UMAP.of(lcs_decisions.Settings.of("smoke", **SMALL, **chosen))
    counts = results.rows("point")["inputs"].value_counts()
    assert counts.to_dict() == {"train": 60, "test": 8, "fgsm_8": 8, "rpgd_8": 8}
    assert list(results.table["space"]) == list(lcs_umap.SPACES) and results.table.notna().all(axis=None)
    counts = [sum(len(points.get_offsets()) for points in ax.collections) for ax in results.figure.axes]
    assert counts == [60, 60 + 8 + 8, 60 + 8 + 8]  # a panel of classes, and one of each attack with clean images
    classes = results.rows("point")["class"].unique()
    assert {text.get_text() for text in results.figure.axes[0].texts} == set(classes)


@pytest.mark.slow
def test_umap_leaves_torch_its_threads():
    code = """
import numpy as np, torch
from lib.experiments.lcs_umap import plane
torch.set_num_threads(1)
torch.nn.functional.conv2d(torch.rand(8, 16, 32, 32, requires_grad=True), torch.rand(16, 16, 3, 3)).sum().backward()
assert plane(np.random.default_rng(0).random((600, 40)), 15, 0).shape == (600, 2)
assert torch.get_num_threads() == 1, torch.get_num_threads()
"""
    root = Path(__file__).parents[2]
    here = {**os.environ, "NUMBA_NUM_THREADS": "2", "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"networks": ["dynamic-resnet"]}, "dynamic-resnet has no decision units"),
        ({"networks": ["other"]}, "no network 'other'"),
        ({"umap_networks": [NAME, NAME]}, "each only once"),
        ({"networks": NAME}, "should be a valid array"),
        ({"data": "cifar10"}, "is a network for mnist5k, and data is cifar10"),
        ({"umap_attacks": ["other"]}, "no attack 'other'"),
        ({"permutations": 19}, "permutations is 19"),
        ({"attack_images": {"other": 3}}, "no attack 'other'"),
        ({"channel_networks": ["dynamic-resnet"]}, "dynamic-resnet chooses no channels"),
        ({"channel_networks": ["no-such"]}, "no network 'no-such'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        lcs_decisions.Settings.of("smoke", **changed)


def test_fewer_images_under_an_attack_are_in_the_key_and_in_the_record():
    usual, fewer = (lcs_decisions.Settings.of("smoke", attack_images=n) for n in (None, {"fgsm_8": 7}))
    assert fewer.attack_key(["fgsm_8"])["fgsm_8"]["images"] == 7
    assert fewer.attack_key(["rpgd_8"]) == usual.attack_key(["rpgd_8"])
    told = fewer.described(lcs_umap.UMAP.about)
    assert told["images under FGSM_8"] == 7 and "images under CWL2" in told
    assert "images under FGSM_8" not in fewer.described(lcs_decisions.DECISIONS.about)


def test_networks_are_named_in_words_on_short_lines():
    lines = titled("dynamic-resnet-standardised-b0.5", width=22).splitlines()
    assert " ".join(lines) == "ResNet, standardised, at 0.5 of the FLOPs"
    assert max(map(len, lines)) <= 22
    assert titled("dynamic-vgg16-stated") == "VGG16, stated"

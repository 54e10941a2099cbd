"""What the studies of decisions look at: a network of known size, its units' inputs, controls, and their tables."""

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from lib import evaluations, models
from lib.data import ImageSet
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs.network import LayerwiseChannelSelection
from lib.dynamic.study import decision_inputs, decisions, detection, detection_adaptive, detection_bench
from lib.dynamic.study.decision_inputs import Attacked, choices, noise_like, see, untrained_feature

CLASSES = 4


def random(shape, seed):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def network():
    """An untrained ResNet-20 with units, its masks drawn, that calls random images by all four names."""
    torch.manual_seed(0)
    made = LayerwiseChannelSelection(
        models.build("resnet20", (1, 16, 16), CLASSES, width=4), 3, "standardised", logit_scale=2.0
    ).eval()
    images = random((200, 1, 16, 16), 7)
    with torch.no_grad():
        for layer in made.layers:
            unit = made.unit(layer)
            unit.masks.uniform_(0.2, 1.5)
        made.recalibrate_bn(images)
        for layer, values in see(made, images).pooled.items():
            made.unit(layer).mean.copy_(values.mean(0))
            made.unit(layer).variance.copy_(values.var(0))
        made.network.linear.weight.mul_(30)
        made.network.linear.bias.copy_(-made(images).mean(0) + made.network.linear.bias)
    return made


@pytest.fixture(scope="module")
def image_set(network):
    images = random((240, 1, 16, 16), 1)
    with torch.no_grad():
        labels = network(images).argmax(1)
    return ImageSet(images, labels, tuple("abcd"), "random", "test")


def test_what_is_seen_is_what_the_network_does(network, image_set):
    seen = see(network, image_set, batch=100)
    with torch.no_grad():
        assert torch.allclose(seen.logits, network(image_set.images), atol=1e-5)
        assert torch.allclose(seen.feature, network.feature(image_set.images), atol=1e-6)
        chosen = network.chosen(image_set.images)
        head = network.network.linear(seen.penultimate)
    assert torch.allclose(head, seen.logits, atol=1e-4)
    assert torch.equal(choices(network, seen.feature), torch.stack([chosen[layer] for layer in network.layers], 1))
    # The decision follows from what the unit sees.
    first = network.unit(network.layers[0])
    wanted = (first.logit_scale * seen.pooled[network.layers[0]] @ first.weight.T).softmax(1)
    assert torch.allclose(seen.feature[:, :3], wanted, atol=1e-6)
    part = seen.take(np.array([3, 1]))
    assert torch.equal(part.logits, seen.logits[[3, 1]]) and len(part) == 2
    assert not any(module._forward_pre_hooks for module in network.modules())
    with pytest.raises(DynamicError, match="no images to look at"):
        see(network, image_set.images[:0])


def test_untrained_units_decide_from_the_same_inputs_by_other_rows(network, image_set):
    seen = see(network, image_set)
    found = untrained_feature(network, seen.pooled, seed=5)
    assert found.shape == seen.feature.shape
    assert torch.allclose(found.view(len(found), -1, 3).sum(2), torch.ones(1))
    assert torch.equal(found, untrained_feature(network, seen.pooled, seed=5))
    assert not torch.allclose(found, seen.feature, atol=0.05)
    # The very rows of the network, drawn as a new unit draws them, give its own decisions.
    fresh = LayerwiseChannelSelection(network.plain(), 3, "standardised", logit_scale=2.0, seed=5)
    first = network.layers[0]
    generator = torch.Generator().manual_seed(5)
    torch.randn(3, fresh.unit(first).weight.shape[1], generator=generator)
    logits = 2.0 * seen.pooled[first] @ fresh.unit(first).weight.detach().T
    assert torch.allclose(found[:, :3], logits.softmax(1), atol=1e-5)


def test_noise_is_as_large_as_the_perturbation_and_stays_an_image():
    clean = random((5, 3, 8, 8), 2) * (random((5, 3, 8, 8), 3) > 0.4)  # many black pixels
    sizes = torch.tensor([0.05, 0.1, 0.2, 0.01, 0.0])
    adversarial = (clean + sizes[:, None, None, None] * (2 * random(clean.shape, 4) - 1).sign()).clamp(0, 1)
    noisy = noise_like(clean, adversarial, seed=1)
    assert noisy.min() >= 0 and noisy.max() <= 1
    wanted, found = ((x - clean).flatten(1).norm(dim=1) for x in (adversarial, noisy))
    assert found.tolist() == pytest.approx(wanted.tolist(), rel=0.02, abs=1e-6)
    alike = ((noisy - clean).flatten() * (adversarial - clean).flatten()).sum() / (found.norm() * wanted.norm())
    assert abs(alike) < 0.4
    assert torch.equal(noisy, noise_like(clean, adversarial, seed=1))


def test_folding_fixed_masks_gives_an_ordinary_network_that_computes_the_same(network, image_set):
    masks = {layer: network.unit(layer).masks[1].detach() for layer in network.layers}
    plain = detection_bench.folded(network, masks)
    images = image_set.images[:20]
    with torch.no_grad(), network.choosing("static", masks=masks):
        assert torch.allclose(plain(images), network(images), atol=1e-3)
        assert not torch.allclose(plain(images), network.plain()(images), atol=1e-2)
    assert not any(type(module).__name__ == "PaddedShortcut" for module in plain.modules())


# --- tables, on the same network


SETTINGS = {
    **decision_inputs.DEFAULTS,
    "data": "random",
    "permutations": 20,
    "rare_images": 3,
    "detection_fit": 120,
    "detection_trees": 10,
    "adaptive_images": 28,
    "adaptive_epsilon": 60,
    "adaptive_steps": 3,
    "adaptive_weights": [0, 1],
    "adaptive_attack": "fgsm_8",
    "detection_attacks": ["fgsm_8", "rpgd_8"],
    "slices_images": 120,
}


@pytest.fixture
def study(network, image_set, monkeypatch):
    """The study on this network: adversarials are copies of images that are called by another name."""
    index = torch.arange(160)
    images = image_set.images[index]
    labels = image_set.labels[index]

    def stepped(size, seed):
        x = images.clone().requires_grad_(True)
        logits = network(x)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        return (images + size * torch.autograd.grad(loss, x)[0].sign()).clamp(0, 1)

    sets = {}
    for attack, size in (("fgsm_8", 0.3), ("rpgd_8", 0.15)):
        made = stepped(size, 0)
        with torch.no_grad():
            good = network(made).argmax(1) != labels
        sets[attack] = Attacked(made[good], index[good], labels[good], good.float().mean().item())
    for module in (decisions, detection_bench):
        monkeypatch.setattr(module, "network_of", lambda *_: network)
        monkeypatch.setattr(module, "attacked", lambda *_: (index, sets))
        monkeypatch.setattr(module, "images_of", lambda scale, name, split, count: image_set)
        monkeypatch.setattr(module, "attack_key", lambda *_: {})
        monkeypatch.setattr(module, "settings", lambda _: SETTINGS)
    for module in (detection, detection_adaptive):
        monkeypatch.setattr(module, "settings", lambda _: SETTINGS)
    monkeypatch.setattr(detection_bench, "data_of", lambda *_: "random")
    data = types.SimpleNamespace(load=lambda *_: image_set)
    monkeypatch.setattr(decisions, "data", data)
    monkeypatch.setattr(detection_bench, "data", data)
    monkeypatch.setattr(evaluations, "kept", lambda kind, name, scale, seed, key, make, version: make())
    decisions._test.cache_clear()
    detection_bench.bench_of.cache_clear()
    yield sets
    decisions._test.cache_clear()
    detection_bench.bench_of.cache_clear()


def test_the_tables_of_decisions_agree_with_each_other(study, network):
    layers, usage, paths = (make("smoke", 0, "net") for make in (decisions.layers, decisions.usage, decisions.paths))
    assert len(layers) == 2 * len(network.layers) and set(layers["units"]) == {"trained", "untrained"}
    shares = usage.groupby(["layer", "label"])["share"].sum()
    assert shares.to_numpy() == pytest.approx(1)
    own = layers[layers["units"] == "trained"].set_index("layer")
    counted = usage.assign(count=usage["share"] * usage["n"]).groupby(["layer", "row"])["count"].sum()
    for layer in network.layers:
        p = counted[layer].to_numpy() / 240
        assert own.loc[layer, "top_share"] == pytest.approx(p.max())
        assert own.loc[layer, "entropy"] == pytest.approx(-(p[p > 0] * np.log2(p[p > 0])).sum())
    measured = paths[paths["kind"] == "measure"].set_index("name")["value"]
    assert measured["accuracy, rarest tenth"] == 1  # the labels are the network's own answers
    rare, usual = (paths[paths["kind"] == kind]["bits"] for kind in ("rare", "usual"))
    assert len(rare) == 3 and rare.min() >= usual.max()


def test_the_measures_of_a_plane_know_neighbours_and_distance():
    random = np.random.default_rng(0)
    centres = np.array([[0.0, 0], [10, 0], [0, 10]])
    labels = np.repeat([0, 1, 2], 30)
    train = centres[labels] + random.normal(0, 0.5, (90, 2))
    values = {"train": train, "test": centres[labels] + random.normal(0, 0.5, (90, 2))}
    values |= {"fgsm_8": np.full((20, 2), 30.0), "rpgd_8": values["test"][:20]}
    found = {(name, kind): value for name, kind, value, _ in decisions._measures(values, labels, 5)}
    assert found["neighbour accuracy", "train"] == 1 and found["apart", "fgsm_8"] == 1
    assert 0.35 < found["apart", "rpgd_8"] < 0.65
    mixed = {"train": random.normal(0, 1, (300, 2)), "test": random.normal(0, 1, (9, 2))}
    (_, _, value, _), *_ = decisions._measures(mixed, np.arange(300) % 3, 5)
    assert 0.2 < value < 0.5


def test_detectors_are_fitted_on_one_half_and_reported_on_the_other(study):
    table = detection.table("smoke", 0, "net")
    bench = detection_bench.bench_of("smoke", 0, "net")
    assert not set(bench.halves["fit"]) & set(bench.halves["test"])
    assert set(bench.halves["fit"]) | set(bench.halves["test"]) == set(range(160))
    kinds = set(zip(table["detector"], table["trained_on"], strict=True))
    assert ("max-softmax", detection_bench.ON_CLEAN) in kinds and ("LID", "fgsm_8") in kinds
    assert set(table["pair"]) == set(detection_bench.PAIRS)
    assert table["auroc"].between(0, 1).all() and (table["low"] <= table["auroc"]).all()
    row = table[(table["attack"] == "fgsm_8") & (table["pair"] == detection_bench.PAIRS[0])].iloc[0]
    assert row["n"] == bench.part("fgsm_8", "test").sum() and row["n_other"] == len(bench.halves["test"])
    noise = bench.seen[detection_bench.NOISE + "fgsm_8"]
    labels = bench.seen[detection_bench.CLEAN].predicted[
        torch.from_numpy(bench.index[detection_bench.NOISE + "fgsm_8"])
    ]
    assert torch.equal(noise.predicted, labels)


def test_a_guest_that_sees_everything_detects_everything_and_one_that_sees_nothing_nothing(study):
    def telling(given):
        return {kind: np.full((len(images), 1), kind in study, float) for kind, images in given.images.items()}

    def blind(given):
        return {kind: np.zeros((len(images), 1)) for kind, images in given.images.items()}

    tables = [
        detection.guest("smoke", 0, "net", detection.Guest(word, describe, {}))
        for word, describe in (("telling", telling), ("blind", blind))
    ]
    for table, wanted in zip(tables, (1.0, 0.5), strict=True):
        of_adversarials = table[table["pair"] == detection_bench.PAIRS[0]]["auroc"]
        assert of_adversarials.tolist() == pytest.approx([wanted] * len(of_adversarials))
    assert tables[0][tables[0]["pair"] == detection_bench.PAIRS[1]]["auroc"].tolist() == [0.5] * 4
    assert tables[0]["n_other"].max() <= 120  # of the first images only
    short = detection.Guest("short", lambda given: {"clean": np.zeros((3, 1))}, {})
    with pytest.raises(DynamicError, match=r"short: features of 'clean' have 3 rows, 120 are wanted"):
        detection.guest("smoke", 0, "net", short)


def test_the_adaptive_table_has_every_aim_gradient_weight_and_detector(study):
    table = detection_adaptive.adaptive("smoke", 0, "net")
    assert set(table["aim"]) == set(detection_adaptive.AIMS) and set(table["weight"]) == {0.0, 1.0}
    assert {detection_bench.DECISIONS, detection_adaptive.ANEW, "max-softmax"} <= set(table["detector"])
    unaware = table[table["weight"] == 0].groupby(["gradient", "detector"])["auroc"].nunique()
    assert (unaware == 1).all()  # without a weight the aim plays no part
    means = table.drop_duplicates(["aim", "gradient", "weight"]).set_index(["aim", "gradient", "weight"])["distance"]
    assert means["own", "held", 1.0] < means["own", "held", 0.0]


# --- which networks


def test_networks_are_those_with_units_that_choose_and_that_no_other_starts_from(monkeypatch):
    insert = {"use": decision_inputs.INSERT}

    def recipe(start=None, transforms=(), hooks=()):
        parent = None if start is None else {"network": start}
        return types.SimpleNamespace(start=parent, transforms=transforms, hooks=hooks)

    recipes = {
        "plain": recipe(),
        "lcs": recipe("plain", (insert,)),
        "tuned": recipe("lcs"),
        "static": recipe("lcs", hooks=({"use": "lib.dynamic.lcs.optimise.Frozen", "choose": "static"},)),
    }
    preset = types.SimpleNamespace(networks=recipes, recipe=recipes.__getitem__)
    monkeypatch.setattr(decision_inputs.config, "load", lambda _: preset)
    chosen = dict(SETTINGS)
    monkeypatch.setattr(decision_inputs, "settings", lambda _: chosen)
    assert decision_inputs.networks("smoke") == ["tuned"]
    chosen["decision_networks"] = ["lcs"]
    assert decision_inputs.networks("smoke") == ["lcs"]
    for name in ("lcs", "tuned", "static"):
        del recipes[name]
    chosen["decision_networks"] = None
    with pytest.raises(DynamicError, match="no network has decision units"):
        decision_inputs.networks("smoke")


def test_an_area_counts_pairs():
    found = detection_bench.area(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
    assert found["auroc"] == pytest.approx((1 + 1 + 1 + 0.5) / 4) and (found["n"], found["n_other"]) == (2, 2)


@pytest.mark.slow
def test_umap_leaves_torch_its_threads():
    code = """
import numpy as np, torch
from lib.dynamic.study.decisions import _plane
torch.set_num_threads(1)
torch.nn.functional.conv2d(torch.rand(8, 16, 32, 32, requires_grad=True), torch.rand(16, 16, 3, 3)).sum().backward()
assert _plane(np.random.default_rng(0).random((600, 40)), 15, 0).shape == (600, 2)
assert torch.get_num_threads() == 1, torch.get_num_threads()
"""
    root = Path(__file__).parents[2]
    here = {**os.environ, "NUMBA_NUM_THREADS": "2", "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

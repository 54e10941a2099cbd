"""lib.zoo: trained once and then loaded, and addressed by what makes the network."""

import json
import shutil
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from training_tools import TINY, same, state
from zoo_tools import GRADUAL, SCALE, SMOKE, folder, reconfigure, unlike_any

from lib import cache, config, data, recipes, store, training, zoo
from lib.robustness.magnitude_pruning import GradualPruning

pytestmark = pytest.mark.usefixtures("house")


def test_trained_once_then_loaded(trainings):
    first = zoo.get("plain")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = zoo.get("plain")
        zoo.card("plain")
    assert trainings == [(3, 0)]
    assert same(state(first), state(again)) and first is not again
    assert not again.training and all(p.requires_grad for p in again.parameters())
    assert next(again.parameters()).device.type == "cpu"
    names = {path.name for path in folder("plain").iterdir()}
    assert names >= {"weights.safetensors", "card.json"} and "checkpoint.pt" not in names


def test_the_network_is_what_the_loop_gives_from_the_seed():
    recipe = config.load("smoke").networks["plain"]
    torch.manual_seed(2)
    model = recipes.fresh(recipe)
    training.fit(model, data.load("mnist5k", "train").stratified(60, seed=0), recipe, seed=2)
    assert same(state(model), state(zoo.get("plain", seed=2)))


def test_seeds_give_other_networks_each_reproducible(house):
    one, other = zoo.get("plain", seed=0), zoo.get("plain", seed=1)
    shutil.rmtree(house / "cache")
    assert same(state(zoo.get("plain", seed=1)), state(other))
    assert unlike_any(state(one), state(other))


def test_the_callers_random_state_is_left_alone():
    for _ in range(2):  # trained, then loaded
        torch.manual_seed(5)
        before = torch.get_rng_state()
        zoo.get("plain")
        assert torch.equal(before, torch.get_rng_state())


def test_the_card(trainings):
    card = zoo.card("plain", seed=3)
    model = zoo.get("plain", seed=3)
    test = data.load("mnist5k", "test")
    assert trainings == [(3, 0)]
    assert (card["name"], card["scale"], card["seed"]) == ("plain", "smoke", 3)
    assert card["key"] == zoo.key("plain", seed=3)
    assert card["recipe"] == config.load("smoke").networks["plain"].plain()
    assert set(card["data"]) == {"mnist5k/train", "mnist5k/test"}
    assert card["data"]["mnist5k/test"] == test.fingerprint
    assert card["test_accuracy"] == training.accuracy(model, test) and card["test_images"] == 1500
    assert [epoch["epoch"] for epoch in card["history"]] == [1, 2, 3]
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    assert 0 < card["seconds"] <= card["wall_seconds"]
    assert card["weights"] == store.file_sha256(folder("plain", 3) / "weights.safetensors")
    assert json.loads((folder("plain", 3) / "card.json").read_text()) == card


def test_a_name_that_does_not_exist():
    for call in (zoo.get, zoo.card, zoo.key):
        with pytest.raises(config.ConfigError, match="no network 'plane' at scale 'smoke': one of plain, half, dense,"):
            call("plane")


@pytest.mark.parametrize("use", ["lib.robustness.nothing.Hook", "lib.robustness.fgsm.Nothing", "lib.nowhere"])
def test_a_hook_that_cannot_be_imported(house, use):
    reconfigure(house, plain={**TINY, "hooks": [{"use": use}]})
    with pytest.raises(config.ConfigError, match=f"recipe names '{use}', which cannot be imported"):
        zoo.get("plain")


def test_the_address_changes_with_what_makes_the_network(house, monkeypatch):
    base = zoo.key("plain")
    keys = [base, zoo.key("plain", seed=1)]
    for change in (
        {"epochs": 4},
        {"learning_rate": 0.06},
        {"batch": 21},
        {"augment": ["crop"]},
        {"train_limit": 61},
        {"arch_args": {"width": 3}},
        {"storage": "float16"},
        {"precision": "bfloat16"},
        {"fit_split": "fit"},
        {"hooks": [{**GRADUAL, "final_sparsity": 0.5}]},
        {"hooks": [{**GRADUAL, "final_sparsity": 0.6}]},
        {"transforms": [{**SCALE, "factor": 2}]},
    ):
        reconfigure(house, plain={**TINY, **change})
        keys.append(zoo.key("plain"))
    assert len(set(keys)) == len(keys)
    reconfigure(house, plain={**TINY, "family": "another"})
    assert zoo.key("plain") == base


@pytest.mark.parametrize(
    ("name", "module", "attribute"),
    [
        ("plain", zoo, "VERSION"),
        ("plain", training, "VERSION"),
        ("dense-s0.5", GradualPruning, "version"),
    ],
)
def test_the_address_changes_with_the_version_of_the_code(monkeypatch, name, module, attribute):
    before, other = zoo.key(name), zoo.key("plain")
    monkeypatch.setattr(module, attribute, getattr(module, attribute) + 1)
    assert zoo.key(name) != before
    assert (zoo.key("plain") == other) == (module is GradualPruning)


def test_the_address_changes_with_the_data(monkeypatch):
    before = zoo.key("plain")
    load = data.load
    monkeypatch.setattr(data, "load", lambda *names: load(*names).subset(slice(0, 3000)))
    assert zoo.key("plain") != before


def test_the_address_changes_with_the_parents(house):
    before = {name: zoo.key(name) for name in ("tuned", "low", "dense-s0.5", "plain")}
    reconfigure(house, dense={**SMOKE["networks"]["dense"], "momentum": 0.8})
    changed = {name for name in before if zoo.key(name) != before[name]}
    assert changed == {"tuned", "low", "dense-s0.5"}


def test_a_recipe_that_changed_is_trained_anew(house, trainings):
    zoo.get("plain")
    reconfigure(house, plain={**TINY, "epochs": 2})
    zoo.get("plain")
    reconfigure(house)
    zoo.get("plain")
    assert trainings == [(3, 0), (2, 0)]


def test_float16_storage_rounds_the_parameters_when_training_ends(trainings):
    full, rounded = zoo.get("plain"), zoo.get("half")
    parameters = dict(full.named_parameters())
    for name, value in rounded.state_dict().items():
        wanted = full.state_dict()[name]
        assert value.dtype == wanted.dtype
        assert torch.equal(value, wanted.half().float() if name in parameters else wanted), name
    stored = load_file(folder("half") / "weights.safetensors")
    assert {stored[name].dtype for name in parameters} == {torch.float16}
    assert {value.dtype for name, value in stored.items() if name not in parameters} == {torch.float32}
    assert zoo.card("half")["test_accuracy"] == training.accuracy(rounded, data.load("mnist5k", "test"))
    assert unlike_any(state(full), state(rounded))


def test_a_network_starts_from_its_parents_weights(trainings, monkeypatch):
    zoo.get("tuned")
    assert trainings == [(1, 0), (3, 0), (1, 0)]  # the trunk that dense shares, dense, tuned
    trainings.clear()
    preset = config.load("smoke")
    start = zoo._beginning(preset, preset.networks["tuned"], 0)
    assert same(state(start), state(zoo.get("dense")))
    assert unlike_any(state(start), state(zoo.get("tuned")), state(zoo.get("tuned", seed=1)))


def test_a_network_starts_from_a_parent_that_was_itself_transformed(trainings):
    longer = zoo.get("low-longer")
    assert state(longer).keys() == state(zoo.get("low")).keys() != state(zoo.get("dense")).keys()
    preset = config.load("smoke")
    start = zoo._beginning(preset, preset.networks["low-longer"], 0)
    assert same(state(start), state(zoo.get("low"))) and unlike_any(state(start), state(longer))
    trainings.clear()
    assert same(state(longer), state(zoo.get("low-longer"))) and not trainings


def test_transforms_are_applied_to_the_parents_weights_and_again_on_loading(trainings):
    low = zoo.get("low")
    trainings.clear()
    again = zoo.get("low")
    assert not trainings and same(state(low), state(again))
    names = {name for name, _ in low.named_modules()}
    assert {"conv2.vertical", "conv2.horizontal", "fc1.inner", "fc1.outer"} <= names
    preset = config.load("smoke")
    start = zoo._beginning(preset, preset.networks["low"], 0)
    dense = zoo.get("dense")
    product = torch.einsum("oi,ij->oj", start.fc1.outer.weight, start.fc1.inner.weight)
    u, s, v = torch.linalg.svd(dense.fc1.weight.detach())
    rank = start.fc1.inner.out_features
    assert torch.allclose(product, (u[:, :rank] * s[:rank]) @ v[:rank], atol=1e-5)
    hot, cold = (zoo._beginning(preset, preset.networks[name], 0) for name in ("t20", "plain"))
    assert torch.equal(hot.fc2.weight, 20 * cold.fc2.weight) and torch.equal(hot.fc1.weight, cold.fc1.weight)


def test_loading_decomposes_nothing(monkeypatch):
    """What a transform would compute for weights is left out where they are loaded, also below a parent's."""
    from lib.robustness import low_rank

    trained = {name: state(zoo.get(name)) for name in ("low", "low-longer")}
    monkeypatch.setattr(low_rank, "_halves", lambda *_: pytest.fail("a decomposition at a load"))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for name, wanted in trained.items():
        assert same(state(zoo.get(name)), wanted)
    assert torch.equal(before, torch.get_rng_state())


def test_training_images_are_prepared_with_the_parents_network(house, trainings, monkeypatch):
    seen = {}

    def darken(images, *, start, seed, by):
        seen.update(start=start, seed=seed)
        return replace(images, images=images.images // by)

    monkeypatch.setattr("lib.training.darken", darken, raising=False)
    prepare = [{"use": "lib.training.darken", "by": 2}]
    reconfigure(house, dark={"like": "tuned", "prepare": prepare, "family": "tuned"})
    dark, tuned, dense = (zoo.get(name, seed=3) for name in ("dark", "tuned", "dense"))
    assert seen["seed"] == 3 and same(seen["start"].state_dict(), dense.state_dict())
    assert unlike_any(dark.state_dict(), tuned.state_dict())
    cards = [zoo.card(name, seed=3) for name in ("dark", "tuned")]
    assert cards[0]["key"] != cards[1]["key"] and "prepare" not in cards[1]["recipe"]
    assert [next(iter(card["data"])).endswith(", prepared") for card in cards] == [True, False]


def test_branches_share_a_trunk_and_equal_training_from_scratch(trainings):
    zoo.train_family("smoke", "pruned", 0)
    assert trainings == [(1, 0), (3, 0), (3, 1), (3, 1)]  # the trunk, then three that go on from it
    branch, scratch = zoo.get("dense-s0.5"), zoo.get("scratch")
    assert same(state(branch), state(scratch))
    assert (branch.fc1.weight == 0).float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert same(state(zoo.get("dense")), state(zoo.get("plain")))  # a trunk does not change the dense network
    assert len(zoo.card("dense-s0.5")["history"]) == 3
    assert len(list((config.cache_dir("smoke") / "networks").glob("*/epoch1.pt"))) == 1


def test_a_family_is_made_once_whole(trainings):
    made = zoo.train_family("smoke", "pruned", 1)
    count = len(trainings)
    assert made == {name: zoo.key(name, seed=1) for name in ("dense", "dense-s0.5", "dense-s0.9")}
    assert zoo.train_family("smoke", "pruned", 1) == made
    assert len(trainings) == count
    with pytest.raises(config.ConfigError, match="no family 'x' at scale 'smoke': one of plain, half, pruned, scratch"):
        zoo.train_family("smoke", "x", 0)


@pytest.mark.parametrize(("name", "value"), [("half", 1e30), ("plain", float("nan"))])
def test_weights_that_are_not_finite_are_never_kept(monkeypatch, name, value):
    """1e30 is a float32 that half precision does not have."""
    fit = training.fit

    def explode(model, *args, **more):
        history = fit(model, *args, **more)
        torch.nn.init.constant_(model.fc2.weight, value)
        return history

    monkeypatch.setattr(training, "fit", explode)
    with pytest.raises(training.TrainingError, match=f"network {name} .seed 0. ends with weights that are not finite"):
        zoo.get(name)
    assert not (folder(name) / "card.json").exists()


def test_the_command_refuses_what_does_not_exist(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["zoo", "train", "--family", "x"])
    with pytest.raises(config.ConfigError, match="no family 'x'"):
        zoo.main()


def test_the_command_retrains_when_asked(monkeypatch, trainings, capsys):
    for more in ([], [], ["--retrain"]):
        monkeypatch.setattr(sys, "argv", ["zoo", "train", "--family", "plain", "--seed", "4", *more])
        zoo.main()
    assert trainings == [(3, 0)] * 2
    assert capsys.readouterr().out.count(zoo.key("plain", seed=4)) == 3


def test_missing_data_is_the_error_of_the_data(house, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", str(house / "none"))
    reconfigure(house, plain={**TINY, "data": "cifar10"})
    with pytest.raises(data.DataError, match="cifar10"):
        zoo.get("plain")


def test_recipes_of_equal_settings_but_other_names_are_kept_apart():
    """They may share an address; each has its own folder, and its card its own name."""
    assert zoo.key("plain") == zoo.key("dense")
    zoo.get("plain")
    assert zoo.card("dense")["name"] == "dense"
    assert replace(config.load("smoke").networks["plain"], family="pruned") == config.load("smoke").networks["dense"]


def test_no_network_is_trained_where_only_what_is_kept_is_asked_for(trainings):
    with cache.only_kept(), pytest.raises(cache.NotKept, match=r"networks/dense-seed0-.* is not there"):
        zoo.card("dense")
    path = zoo._trunk(zoo._Network.of(config.load("smoke"), "dense", 0), 1)
    zoo.get("dense-s0.5")
    assert trainings == [(1, 0), (3, 1)] and path.name == "epoch1.pt"
    assert not (zoo.folder("dense") / "card.json").exists() and (zoo.folder("dense-s0.5") / "card.json").exists()
    with cache.only_kept():
        zoo.get("dense-s0.5")

"""lib.config: what a configuration may say, what it turns into, and what is said of one that cannot be used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from training_tools import TINY, places, write_config

from lib import attacks, config, data, models, record
from lib.config import ConfigError
from lib.engine import graph

GRADUAL = {"use": "lib.robustness.magnitude_pruning.GradualPruning", "final_sparsity": 0.5}


@pytest.fixture
def scale(monkeypatch, tmp_path):
    """Loads a smoke.yaml of these contents."""
    places(monkeypatch, tmp_path)

    def load(content):
        write_config(tmp_path / "config", smoke=content)
        config.scale._load.cache_clear()  # a file system may give two writes one time
        return config.load("smoke")

    return load


def networks(**entries) -> dict:
    return {"networks": entries}


def test_what_a_recipe_turns_into(scale):
    loaded = scale(
        {
            "compute": {"threads": 3, "training_precision": "float32", "channels_last": False},
            "recipes": {"base": {"data": "mnist", "epochs": 9}, "fc": {"like": "base", "arch": "fc5", "epochs": 2}},
            "networks": {"one": {"like": "fc", "batch": 5, "arch_args": {"hidden": [4, 3, 2, 1]}}},
            "study": {"robustness": {"seeds": [0, 1]}},
        }
    )
    made = loaded.networks["one"]
    assert (made.arch, made.data, made.epochs, made.batch) == ("fc5", "mnist", 2, 5)
    assert (made.precision, made.channels_last, made.family) == ("float32", False, "one")
    assert made.arch_args["hidden"] == (4, 3, 2, 1)
    assert loaded.study["robustness"]["seeds"] == (0, 1)
    assert loaded.compute.threads == 3
    assert "family" not in made.plain()
    json.dumps(made.plain())  # plain values, all of them


def test_like_merges_arch_args_and_later_keys_win(scale):
    first = {**TINY, "arch_args": {"width": 4, "hidden": 7}, "family": "f"}
    loaded = scale(networks(a=first, b={"like": "a", "arch_args": {"hidden": 9}, "batch": 3}))
    assert dict(loaded.networks["b"].arch_args) == {"width": 4, "hidden": 9}
    assert dict(loaded.networks["a"].arch_args) == {"width": 4, "hidden": 7}
    assert loaded.families == {"f": ["a", "b"]}
    assert loaded.networks["b"].batch == 3


def test_a_grid_is_written_out_with_values_of_their_own_type(scale):
    entry = {
        **TINY,
        "grid": {"s": [0.5, 0.95], "t": [1, 20]},
        "temperature": "{t}",
        "family": "f-{t}",
        "hooks": [{**GRADUAL, "final_sparsity": "{s}"}],
    }
    loaded = scale({"networks": {"n-s{s}-t{t}": entry}})
    assert list(loaded.networks) == ["n-s0.5-t1", "n-s0.5-t20", "n-s0.95-t1", "n-s0.95-t20"]
    last = loaded.networks["n-s0.95-t20"]
    assert last.hooks[0]["final_sparsity"] == 0.95
    assert last.temperature == 20
    assert loaded.families == {"f-1": ["n-s0.5-t1", "n-s0.95-t1"], "f-20": ["n-s0.5-t20", "n-s0.95-t20"]}
    assert config.load("smoke").networks.keys() == loaded.networks.keys()


def test_a_branch_keeps_all_but_the_hooks(scale):
    branch = {"like": "trunk", "start": {"network": "trunk", "epoch": 2}, "hooks": [GRADUAL]}
    loaded = scale(networks(trunk=TINY, branch=branch))
    assert dict(loaded.networks["branch"].start) == {"network": "trunk", "epoch": 2}
    assert loaded.networks["trunk"].start is None


def test_nothing_loaded_can_be_changed(scale):
    loaded = scale({**networks(one=TINY), "study": {"robustness": {"seeds": [0]}}})
    with pytest.raises(TypeError):
        loaded.networks["two"] = loaded.networks["one"]
    with pytest.raises(TypeError):
        loaded.study["robustness"]["seeds"] = (1,)
    with pytest.raises(TypeError):
        loaded.networks["one"].arch_args["width"] = 3
    with pytest.raises(AttributeError):
        loaded.networks["one"].epochs = 3


def test_a_changed_file_is_read_again_and_has_another_hash(scale):
    one = scale(networks(one=TINY))
    other = scale(networks(one={**TINY, "epochs": 4}))
    assert (one.networks["one"].epochs, other.networks["one"].epochs) == (3, 4)
    assert one.hash != other.hash
    assert scale(networks(one=TINY)).hash == one.hash


def trunk_and(**branch) -> dict:
    return networks(trunk=TINY, b={"like": "trunk", "start": {"network": "trunk", "epoch": 1}, **branch})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("networks: {a: [", "not valid YAML"),
        ("study:\n  a: {seeds: [0]}\n  b: {}\n  a: {seeds: [1]}\n", "line 4: key 'a' stands in line 2 already"),
        ("- a list", "expected a mapping at the top, found list"),
        ("", "expected a mapping at the top, found NoneType"),
        ({"nets": {}}, "unknown key 'nets'; one of attacks, compute, estimate, networks, recipes, ship, study"),
        ({"networks": ["a"]}, r"networks: expected a mapping, found \['a'\]"),
        ({"recipes": 3}, "recipes: expected a mapping, found 3"),
        ({**networks(a=TINY), "ship": ["a", "b*"]}, r"ship: \['b\*'\] are not networks of this scale"),
        ({"study": "all"}, "study: expected a mapping, found 'all'"),
        (
            {"compute": {"gpu": 1}},
            "compute: unknown key 'gpu'; one of channels_last, device, steps, threads, training_prec",
        ),
        ({"compute": {"threads": 0}}, "compute.threads is 0: a whole number from 1"),
        ({"compute": {"threads": "two"}}, "compute.threads is 'two'"),
        ({"compute": {"training_precision": "half"}}, "compute.training_precision is 'half': bfloat16 or float32"),
        (networks(a={**TINY, "epoch": 3}), r"networks\.a: unknown key 'epoch'; one of .*epochs"),
        (networks(a={"arch": "fc5"}), r"networks\.a: .*missing.*'data', 'epochs', and 'batch'"),
        (networks(a="fc5"), r"networks\.a: expected a mapping, found 'fc5'"),
        (networks(a={**TINY, "epochs": 0}), r"networks\.a: epochs is 0: a whole number from 1"),
        (networks(a={**TINY, "epochs": 2.5}), r"networks\.a: epochs is 2\.5: a whole number from 1"),
        (networks(a={**TINY, "epochs": "3"}), r"networks\.a: epochs is '3': a whole number from 1"),
        (networks(a={**TINY, "batch": True}), r"networks\.a: batch is True: a whole number from 1"),
        (networks(a={**TINY, "train_limit": 0}), r"networks\.a: train_limit is 0: a whole number from 1"),
        (networks(a={**TINY, "optimizer": "adam"}), r"networks\.a: optimizer is 'adam': sgd or adamw"),
        (networks(a={**TINY, "schedule": "cosine"}), "schedule is 'cosine': onecycle, step or constant"),
        (networks(a={**TINY, "temperature": 0}), "temperature is 0: a number above 0"),
        (networks(a={**TINY, "learning_rate": -1}), "learning_rate is -1: a number above 0"),
        (networks(a={**TINY, "warmup": 1}), "warmup is 1: a share of the steps"),
        (networks(a={**TINY, "augment": ["crop", "rotate"]}), "augment is .*rotate.*: any of crop, flip"),
        (networks(a={**TINY, "augment": "crop"}), "augment is 'crop': any of crop, flip"),
        (networks(a={**TINY, "fit_split": "test"}), "fit_split is 'test': train or fit"),
        (networks(a={**TINY, "storage": "int8"}), "storage is 'int8': float32 or float16"),
        (networks(a={**TINY, "precision": "half"}), "precision is 'half': bfloat16 or float32"),
        (networks(a={**TINY, "hooks": [{"use": "os.system"}]}), "os.system.*`use` names a function or hook"),
        (networks(a={**TINY, "hooks": ["lib.x"]}), "lib.x: `use` names a function or hook"),
        (networks(a={**TINY, "transforms": [{"rank_ratio": 1}]}), "rank_ratio.*`use` names a function or hook"),
        (networks(a={**TINY, "like": "b"}), r"networks\.a: like: 'b' is neither a recipe nor an earlier network"),
        (networks(a={"like": "b"}, b=TINY), r"networks\.a: like: 'b' is neither a recipe nor an earlier network"),
        (
            {"recipes": {"x": {"like": "y"}, "y": {"like": "x"}}, **networks(a={"like": "x"})},
            r"networks\.a: like: x -> y -> x goes round in a circle",
        ),
        ({"recipes": {"x": "y"}, **networks(a={"like": "x"})}, r"recipes\.x: expected a mapping, found 'y'"),
        (networks(**{"a{s}": {**TINY, "grid": [1]}}), r"networks\.a{s}\.grid: expected a mapping, found \[1\]"),
        (networks(**{"a{s}": {**TINY, "grid": {"s": 0.5}}}), r"networks\.a{s}: grid\.s is 0\.5: a list of values"),
        (networks(**{"a{s}": {**TINY, "grid": {"s": []}}}), r"networks\.a{s}: grid\.s is \[\]: a list of values"),
        (networks(**{"a{t}": {**TINY, "grid": {"s": [1]}}}), r"its name has \['t'\] in braces, its grid has \['s'\]"),
        (networks(**{"a{t}": TINY}), r"its name has \['t'\] in braces, its grid has \[\]"),
        (networks(**{"a{s}": {**TINY, "grid": {"s": [1, 1]}}}), "networks: 'a1' is named twice"),
        (networks(a={**TINY, "start": {"network": "a"}, "x": 1}), r"networks\.a: unknown key 'x'"),
        (networks(a={**TINY, "start": {"network": "b"}}), r"networks\.a: start: 'b' is not an earlier network"),
        (networks(a={**TINY, "start": {"epoch": 1}}), r"networks\.a: start: None is not an earlier network"),
        (networks(a={**TINY, "start": {"network": "b", "step": 1}}), "start: unknown key 'step'; one of epoch, net"),
        (trunk_and(learning_rate=0.2), r"networks\.b: a branch at epoch 1 of 'trunk' shares all of its recipe but"),
        (trunk_and(start={"network": "trunk", "epoch": 3}), "leaves it between epochs 1 and 2"),
        (trunk_and(start={"network": "trunk", "epoch": 0}), "leaves it between epochs 1 and 2"),
        (
            networks(t={**TINY, "hooks": [GRADUAL]}, b={"like": "t", "start": {"network": "t", "epoch": 1}}),
            r"networks\.b: a branch at epoch 1",
        ),
        ("study: {day: 2020-01-01}", "date cannot be fingerprinted"),
        ("study: {limit: .inf}", "[Oo]ut of range float"),
    ],
)
def test_what_is_said_of_a_configuration_that_cannot_be_used(scale, tmp_path, content, message):
    with pytest.raises(ConfigError, match=message) as raised:
        scale(content)
    assert str(tmp_path / "config" / "smoke.yaml") in str(raised.value)


def test_a_scale_or_file_that_is_not_there(monkeypatch, tmp_path):
    places(monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match="no scale 'large': one of smoke, cpu, gpu, paper"):
        config.load("large")
    with pytest.raises(ConfigError, match=r"config/cpu\.yaml: no such file"):
        config.load("cpu")
    with pytest.raises(ConfigError, match=r"config/items\.yaml: no such file"):
        config.items()
    with pytest.raises(ConfigError, match=r"config/claims\.yaml: no such file"):
        config.claims()


def test_a_scale_like_another(monkeypatch, tmp_path):
    places(monkeypatch, tmp_path)
    whole = {"study": {"robustness": {"seeds": [0, 1], "test_images": 9}}, "compute": {"threads": 2}}
    whole |= {
        "recipes": {"base": TINY},
        **networks(a={"like": "base", "epochs": 7}, **{"b-{k}": {"like": "a", "grid": {"k": [1, 2]}}}),
    }
    own = {"like": "paper", "without": ["b-*"], "recipes": {"base": {"epochs": 3, "batch": 5}}}
    own |= {"study": {"robustness": {"seeds": [4]}}, **networks(a={"learning_rate": 0.7}, c={"like": "a"})}
    write_config(tmp_path / "config", paper=whole, gpu=own)
    loaded = config.load("gpu")
    assert list(loaded.networks) == ["a", "c"]
    a = loaded.networks["a"]
    assert (a.epochs, a.batch, a.learning_rate) == (7, 5, 0.7)
    assert config.thaw(loaded.study) == {"robustness": {"seeds": [4], "test_images": 9}}
    assert loaded.compute.threads == 2 and list(config.load("paper").networks) == ["a", "b-1", "b-2"]
    before = loaded.hash
    write_config(tmp_path / "config", paper={**whole, "compute": {"threads": 3}}, gpu=own)
    config.scale._load.cache_clear()
    assert config.load("gpu").hash != before and config.load("gpu").compute.threads == 3


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"like": "cpu"}, "like: 'cpu' is no larger scale: one of paper"),
        ({"like": "paper", "without": ["x-*"]}, r"without: 'x-\*' is no network of scale 'paper'"),
        ({"without": ["a"]}, "name it with `like`"),
    ],
)
def test_a_scale_like_another_that_cannot_be(monkeypatch, tmp_path, own, message):
    places(monkeypatch, tmp_path)
    write_config(tmp_path / "config", paper=networks(a=TINY), cpu=networks(a=TINY), gpu=own)
    with pytest.raises(ConfigError, match=message) as raised:
        config.load("gpu")
    assert "gpu.yaml" in str(raised.value)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(networks(one=TINY)))
    assert list(config.load("smoke", path).networks) == ["one"]
    assert list(config.load("mine", path).networks) == ["one"]


def test_a_network_that_does_not_exist(scale):
    with pytest.raises(ConfigError, match="no network 'c' at scale 'smoke': one of a, b"):
        scale(networks(a=TINY, b=TINY)).recipe("c")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("fig", "x: expected a mapping, found 'fig'"),
        ({"titel": "T"}, "x: unknown key 'titel'"),
        ({"title": "T", "paper": "P", "source": "S"}, "x: .*missing.*'notebook'"),
    ],
)
def test_items_that_cannot_be_used(monkeypatch, tmp_path, entry, message):
    places(monkeypatch, tmp_path)
    write_config(tmp_path / "config", items={"x": entry})
    with pytest.raises(ConfigError, match=message) as raised:
        config.items()
    assert "items.yaml" in str(raised.value)


def test_places_come_from_the_environment(monkeypatch, tmp_path):
    for name in ("DATA_ROOT", "NEURONS_CONFIG", "NEURONS_CACHE", "NEURONS_RESULTS", "NEURONS_QUIET"):
        monkeypatch.delenv(name, raising=False)
    root = config.ROOT
    found = (config.data_root(), config.cache_dir("cpu"), config.results_dir("cpu"), config.config_dir())
    assert found == (root / "data", root / "cache" / "cpu", root / "results" / "cpu", root / "config")
    assert not config.quiet()
    places(monkeypatch, tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "sets"))
    monkeypatch.setenv("NEURONS_QUIET", "1")
    found = (config.data_root(), config.cache_dir("cpu"), config.results_dir("cpu"), config.config_dir())
    assert found == tuple(tmp_path / part for part in ("sets", "cache/cpu", "results/cpu", "config"))
    assert config.data_root("here") == Path("here")
    assert config.quiet()
    monkeypatch.setenv("NEURONS_QUIET", "0")
    assert not config.quiet()


def test_freeze_and_thaw_are_inverse():
    value = {"a": [1, {"b": [2, "x"]}], "c": None}
    frozen = config.freeze(value)
    assert frozen["a"][1]["b"] == (2, "x")
    assert config.thaw(frozen) == value


@pytest.mark.parametrize("name", config.SCALES)
def test_the_scales_of_this_package_load(name):
    loaded = config.load(name)
    assert loaded.networks
    assert loaded.hash.startswith("sha256:")
    for family, names in loaded.families.items():
        for member in names:
            assert loaded.networks[member].family == family


@pytest.mark.parametrize("item", config.items().values(), ids=lambda item: item.item)
def test_every_item_has_a_notebook_and_families_at_every_scale(item):
    assert (config.ROOT / "notebooks" / f"{item.notebook}.ipynb").exists()
    assert set(item.claims) <= set(config.claims())
    for name in config.SCALES:
        assert graph.matching(config.load(name), item.families, item.item) or not item.families


def test_every_network_of_a_scale_is_one_that_paper_has():
    """But for those trained longer than the scale's others to see what its short trainings do; paper's are long."""
    paper = config.load("paper").networks
    for name in ("smoke", "cpu", "gpu"):
        assert {network for network in config.load(name).networks if "-long" not in network} <= set(paper), name


def test_reading_the_configuration_is_quick():
    """No torch, no pandas: the engine's plan and --help need neither."""
    program = "import sys; from lib import config; config.load('paper'); print({'torch', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=config.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        (lambda: config.load("smok"), "smoke"),
        (lambda: config.load("smoke").recipe("nnslicer-resnet-10"), "nnslicer-resnet10"),
        (lambda: graph.select(["nnslicer_detecton"]), "nnslicer_detection"),
        (lambda: graph.select(["00_explorer"]), "00_explore"),
        (lambda: attacks.find("deepfool_12"), "deepfool_l2"),
        (lambda: models.build("resnet-18"), "resnet18"),
        (lambda: data.load("cifar-10", "test"), "cifar10"),
        (
            lambda: record.write("robustness_fig9", "smoke", [], reduced=[], figure=None, table=None, data={}),
            "robustness_fig",
        ),
    ],
)
def test_a_slip_of_the_pen_is_recognised(slip, meant):
    with pytest.raises((ValueError, RuntimeError, data.DataError), match=rf"did you mean '{meant}"):
        slip()


def test_nothing_is_suggested_for_what_is_like_nothing():
    assert config.one_of("zzz", ["resnet18", "alexnet"]) == "one of resnet18, alexnet"
    assert config.one_of("resnet", ("resnet18",)) == "one of resnet18; did you mean 'resnet18'?"

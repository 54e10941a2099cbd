"""Settings are read from the scale, changed by a notebook, and refused as a whole where they do not fit."""

import importlib
import pkgutil

import pytest

from lib import config, experiments
from lib.experiments import nnslicer_pruning
from lib.experiments.nnslicer import NNSlicer
from lib.experiments.settings import Settings

NAMES = [found.name for found in pkgutil.iter_modules(experiments.__path__)]
EXPERIMENTS = [
    module for name in NAMES if hasattr(module := importlib.import_module(f"lib.experiments.{name}"), "ITEMS")
]


@pytest.mark.parametrize("scale", config.SCALES)
@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_scale_has_valid_settings(experiment, scale):
    settings = experiment.Settings.of(scale)
    assert settings.scale == scale and settings.changed == {}
    own = set(experiment.Settings.model_fields) - set(experiment.Settings.__mro__[1].model_fields)
    assert settings.section in config.SECTIONS[settings.study] or not (settings.section or own)


@pytest.mark.parametrize("scale", config.SCALES)
def test_every_shared_setting_of_a_study_is_some_experiments(scale):
    for study, given in config.load(scale).study.items():
        mine = [experiment.Settings for experiment in EXPERIMENTS if experiment.Settings.study == study]
        known = {name for settings in mine for name in settings.model_fields}
        assert set(given) - known - set(config.SECTIONS[study]) <= {"family_seeds"}


def test_every_item_is_one_experiments():
    made = [item.name for experiment in EXPERIMENTS for item in experiment.ITEMS]
    assert sorted(made) == sorted(config.items())


@pytest.mark.parametrize("notebook", sorted({item.notebook for item in config.items().values()}))
def test_every_notebook_has_an_experiment_of_its_name(notebook):
    assert notebook[3:] in {experiment.__name__.rpartition(".")[2] for experiment in EXPERIMENTS}


def test_none_leaves_the_scales_value_and_a_change_is_noted():
    usual = nnslicer_pruning.Settings.of("smoke", theta=None, ratios=None)
    assert usual == nnslicer_pruning.Settings.of("smoke")
    own = nnslicer_pruning.Settings.of("smoke", theta=0.1, ratios=[0.3, 0.5])
    assert own.changed == {"theta": 0.1, "ratios": [0.3, 0.5]}
    assert nnslicer_pruning.Settings.of("smoke", theta=0.2).changed == {}


def test_one_seed_stands_for_a_list_of_one():
    assert nnslicer_pruning.Settings.of("smoke", seeds=3).changed == {"seeds": [3]}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"thetta": 0.1}, "no setting 'thetta'"),
        ({"theta": 1.5}, "theta is 1.5"),
        ({"theta": "much"}, "theta is 'much'"),
        ({"ratios": []}, "ratios is []"),
        ({"ratios": 0.5}, "ratios is 0.5"),
        ({"subsets": 0}, "subsets is 0"),
        ({"reference": "mean"}, "reference is 'mean'"),
        ({"seeds": [0, 0]}, "each only once"),
        ({"seeds": [True]}, "seeds is"),
        ({"seeds": [-1]}, "seeds is"),
    ],
)
def test_what_does_not_fit_is_named(changed, words):
    with pytest.raises(config.ConfigError) as error:
        nnslicer_pruning.Settings.of("smoke", **changed)
    assert words in str(error.value)


def test_all_that_does_not_fit_is_said_at_once():
    with pytest.raises(config.ConfigError) as error:
        nnslicer_pruning.Settings.of("smoke", thetta=0.1, subsets=0)
    assert "thetta" in str(error.value) and "subsets" in str(error.value)


def test_only_what_differs_from_the_default_enters_a_key():
    assert NNSlicer.of("smoke").unusual("theta", "reference") == {}
    assert NNSlicer.of("smoke", theta=0.1).unusual("theta", "reference") == {"theta": 0.1}


def test_an_unknown_key_of_a_section_is_refused(tmp_path, monkeypatch):
    for source in (config.ROOT / "config").glob("*.yaml"):
        text = source.read_text()
        (tmp_path / source.name).write_text(text.replace("finetune_batch: 32", "finetune_bach: 32"))
    monkeypatch.setenv("NEURONS_CONFIG", str(tmp_path))
    with pytest.raises(config.ConfigError, match=r"finetune_bach.*config/smoke.yaml"):
        nnslicer_pruning.Settings.of("smoke")


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        Settings.of("smoke", data="mnist5k").data = "cifar10"


def test_a_notebook_shows_what_was_changed_and_what_paper_has():
    usual, changed = (nnslicer_pruning.Settings.of("cpu", theta=theta)._repr_markdown_() for theta in (None, 0.1))
    row = next(line for line in changed.splitlines() if line.startswith("| theta |"))
    assert [cell.strip() for cell in row.split("|")[1:5]] == ["theta", "0.1", "0.2", "0.2"]
    assert "scale cpu" in changed and "scale cpu" not in usual
    images = next(line for line in usual.splitlines() if line.startswith(r"| test\_images |"))
    assert [cell.strip() for cell in images.split("|")[2:4]] == ["2000", "10000"]

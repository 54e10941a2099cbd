"""Every recipe of the scales at full size goes through an optimiser step on a few images."""

import inspect
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from lib import config, data, recipes, store, zoo
from lib.data import ImageSet
from lib.models.layers import weight_layers
from lib.robustness import low_rank
from lib.training import fit, set_learning_rate

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]
PRESETS = {scale: config.load(scale) for scale in ("paper", "gpu")}
LENGTHS = ("epochs", "schedule", "learning_rate", "weight_decay", "train_limit", "storage", "start", "batch")
LARGEST = 600  # rows of a matrix whose decomposition is worth waiting for here


@pytest.fixture(autouse=True)
def quick_decompositions(monkeypatch):
    """Matrices of 4096 x 4096 would take a minute each: the largest are cut instead. Others go the real way."""
    halves, nuclear_norm = low_rank._halves, low_rank.nuclear_norm

    def cut(matrix, rank):
        if min(matrix.shape) <= LARGEST:
            return halves(matrix, rank)
        return matrix[:, :rank].clone(), torch.eye(rank, matrix.shape[1], dtype=matrix.dtype)

    def norm(weight):
        return nuclear_norm(weight) if min(low_rank.matrix_of(weight).shape) <= LARGEST else weight.norm()

    monkeypatch.setattr(low_rank, "_halves", cut)
    monkeypatch.setattr(low_rank, "nuclear_norm", norm)


def few_images(name: str, count: int) -> ImageSet:
    spec = data.SETS[name]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *spec.shape), generator=generator, dtype=torch.uint8)
    names = spec.names or tuple(map(str, range(spec.classes)))
    return ImageSet(pixels, torch.arange(count) % spec.classes, names, name, "train")


def hooks_of(recipe: config.Recipe) -> list:
    """The recipe's hooks, those that begin and end at an epoch within this one."""
    made = []
    for plug in recipe.hooks:
        function, arguments = recipes.plug(plug)
        inspect.signature(function).bind(**arguments)
        made.append(function(**arguments | ({"begin": 0, "end": 1} if "begin" in arguments else {})))
    return made


def distinct() -> list[tuple[str, str]]:
    """Scale and network of recipes that differ in more than how long they train, a trigger, a budget or an amount."""
    found: dict[str, tuple[str, str]] = {}
    for scale, preset in PRESETS.items():
        for name, recipe in preset.networks.items():
            alike: dict[str, Any] = {key: value for key, value in recipe.plain().items() if key not in LENGTHS}
            alike |= {"started": recipe.start is not None, "temperature": recipe.temperature == 1}
            alike["prepare"] = [plug["use"] for plug in recipe.prepare]
            for plugs in ("hooks", "transforms"):
                drop = {"budget", "final_sparsity", "begin", "end", "every", "weight", "rank_ratio", "factor"}
                alike[plugs] = [{key: value for key, value in plug.items() if key not in drop} for plug in alike[plugs]]
            found.setdefault(store.fingerprint(alike), (scale, name))
    return list(found.values())


@pytest.mark.parametrize(("scale", "name"), distinct())
def test_a_recipe_takes_a_step(monkeypatch, scale, name):
    preset = PRESETS[scale]
    recipe = preset.networks[name]
    quick = [{**plug, **({"steps": 1} if recipe.start else {}), "share": 0.25} for plug in recipe.prepare]
    recipe = replace(recipe, prepare=tuple(quick), train_limit=None, storage="float32")  # rounding hides a small step
    count = 4 if recipe.prepare else 2  # a quarter of them is changed
    monkeypatch.setattr(data, "load", lambda name, *_: few_images(name, count))

    def parent(network, retrain=False):
        """A parent of the right structure, as it would be loaded."""
        return recipes.blank(network.preset, network.recipe), {}

    monkeypatch.setattr(zoo, "_obtain", parent)
    model = zoo._beginning(preset, recipe, 0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    total = recipe.epochs * data.SETS[recipe.data].counts.get("train", 100_000) // recipe.batch
    short = replace(recipe, batch=count, epochs=1, schedule="constant", learning_rate=first_rate(recipe, total))
    images = zoo._training_images(preset, recipe, 0)
    assert bool(recipe.prepare) == (not torch.equal(images.images, few_images(recipe.data, count).images))
    (epoch,) = fit(model, images, short, hooks=hooks_of(recipe), device="cpu")
    assert math.isfinite(epoch["loss"])
    after = recipes.stored(model, recipe)
    assert all(torch.isfinite(value).all() for value in after.values())
    last = [plug["layers"] for plug in recipe.hooks if plug["use"].endswith("RetrainLast")]
    trained = [f"{layer}.weight" for layer in list(weight_layers(model))[-last[0] :]] if last else before
    frozen = any(plug["use"].endswith("Frozen") for plug in recipe.hooks)
    for key, value in before.items():
        same = torch.equal(after[key], value)
        if key.startswith("units."):  # all masks are one at first, so that the choice among them has no gradient yet
            assert not (same and key.endswith("masks") and not frozen), f"{key} was not trained"
            continue
        assert same != (key in trained) or not key.endswith("weight"), f"{key} was {'not ' * same}trained"
    with torch.device("meta"):
        again = recipes.blank(preset, recipe).state_dict()  # what its weights will be loaded into
    assert {key: value.shape for key, value in again.items()} == {key: value.shape for key, value in after.items()}


def first_rate(recipe: config.Recipe, total: int) -> float:
    """The learning rate of the first of `total` steps, warm-up included."""
    steps = torch.optim.SGD([torch.zeros(1)])
    set_learning_rate(steps, recipe, 0, total)
    return steps.param_groups[0]["lr"]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_pruning_and_low_rank_act_on_the_layers_they_name(preset):
    pruned = preset.networks["resnet18-b128-s0.9"]
    assert pruned.hooks[0]["begin"] == pruned.start["epoch"] and pruned.hooks[0]["end"] <= pruned.epochs
    with torch.device("meta"):
        whole = recipes.fresh(preset.networks["alexnet-b512"])
    sizes = sorted(layer.out_features for layer in whole.modules() if isinstance(layer, nn.Linear))
    assert sizes == [10, 4096, 4096]

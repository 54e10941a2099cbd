"""lib.dynamic.lcs.optimise: units and backbone take turns; decisions frozen; resume; through a recipe of the zoo."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_tools import TINY, images, net, recipe, same, state, write_config

from lib import compute, training, zoo
from lib.dynamic.errors import DynamicError
from lib.dynamic.lcs import budget, optimise
from lib.dynamic.lcs.network import LayerwiseChannelSelection
from lib.dynamic.lcs.optimise import Alternate, Frozen, mean_selected
from lib.models import ResNet

SHAPE = (3, 8, 8)


def selection(form="standardised", seed=0):
    """A ResNet of two blocks with decision units, for images of `training_tools.images`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ResNet(SHAPE, 4, nn.Identity(), blocks=(1, 1), width=4)
    return LayerwiseChannelSelection(model, masks=3, form=form, logit_scale=2.0, seed=seed)


def parts(lcs):
    """Copies of what the two optimisers change: units and masks, backbone parameters."""
    return state(lcs.units), {name: value.detach().clone() for name, value in lcs.network.named_parameters()}


class Watch(training.Hook):
    """Behind `Alternate`: what it left, and what the loop's own step then changes."""

    def __init__(self):
        self.units, self.moved, self.temperatures = [], [], []

    def begin(self, run):
        self.run = run

    def images(self, run, images, labels):
        self.before = parts(run.model)
        self.temperatures.append(run.model.temperature)
        return images

    def step(self, run):
        units, backbone = parts(run.model)
        masks = {name for name in units if name.endswith(("weight", "masks"))}
        self.units.append(all(torch.equal(units[name], self.before[0][name]) for name in masks))
        self.moved.append(not same(backbone, self.before[1]))


def test_units_and_backbone_take_turns(one_thread):
    lcs, watch = selection(), Watch()
    before = parts(lcs)
    training.fit(lcs, images(), recipe(epochs=2, weight_decay=0.1), hooks=[Alternate(), watch], device="cpu")
    after = parts(lcs)
    assert all(watch.units) and all(watch.moved)  # the loop's step leaves the units alone, weight decay included
    assert not same(after[0], before[0])
    for layer in lcs.layers:
        unit = lcs.unit(layer)
        assert torch.allclose(unit.weight.norm(dim=1), torch.ones(3), atol=1e-5)
        assert unit.masks.min() >= 0 and unit.weight.requires_grad
    assert watch.temperatures[0] == 5.0 and watch.temperatures[-1] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(watch.temperatures))


def test_the_units_pass_leaves_the_backbone_alone(one_thread):
    class Stop(Exception):
        pass

    class End(training.Hook):
        def loss(self, run, loss, logits, labels):
            raise Stop

    lcs = selection()
    before = parts(lcs)
    with pytest.raises(Stop):
        training.fit(lcs, images(), recipe(), hooks=[Alternate(), End()], device="cpu")
    after = parts(lcs)
    assert same(after[1], before[1]) and not same(after[0], before[0])


def test_one_step_is_adams_on_the_stated_loss(one_thread, monkeypatch):
    """Against the definition, with all images' choices made by arg-max so that nothing is drawn."""
    monkeypatch.setattr(F, "gumbel_softmax", lambda logits, tau, hard: logits.softmax(1))
    lcs, twin = selection("stated"), selection("stated")
    batch = images(10)
    stop = training.Run(
        lcs, torch.optim.SGD(lcs.parameters(), 0.1), recipe(), torch.device("cpu"), torch.Generator(), 1, 1
    )
    hook = Alternate(weight=2.0, target=0.25, learning_rate=0.03)
    hook.begin(stop)
    hook.images(stop, batch.float(), batch.labels)

    free = list(twin.units.parameters())
    adam = torch.optim.Adam(free, lr=0.03)
    done = twin.run(batch.float())
    flat = torch.cat([mask.flatten() for mask in done.masks.values()])
    (F.cross_entropy(done.logits, batch.labels) + 2.0 * (flat.abs().mean() - 0.25) ** 2).backward()
    adam.step()
    for layer in twin.layers:
        rows = twin.unit(layer).weight.detach()
        assert torch.allclose(lcs.unit(layer).weight, rows / rows.norm(dim=1, keepdim=True), atol=1e-5)
        assert torch.allclose(lcs.unit(layer).masks, twin.unit(layer).masks.clamp(0, 5), atol=1e-5)


def test_mean_selected_counts_every_channel_once():
    masks = {"a": torch.tensor([[1.0, 0.0], [3.0, 0.0]]), "b": torch.tensor([[2.0, 2.0, 2.0, 2.0]] * 2)}
    assert mean_selected(masks) == pytest.approx((4 + 16) / 12)


def test_the_sparsity_term_brings_the_mean_to_its_target(one_thread):
    lcs = selection()
    hook = Alternate(weight=50.0, target=0.3, learning_rate=0.05)
    training.fit(lcs, images(), recipe(epochs=12), hooks=[hook], device="cpu")
    with compute.evaluation(lcs), torch.no_grad():
        assert mean_selected(lcs.run(images().float()).masks) == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize("norm", ["train", "eval"])
def test_the_mode_of_bn_in_the_units_pass(norm, one_thread):
    """In evaluation mode the running statistics move in the backbone's pass only."""
    lcs = selection()
    counts = []
    training.fit(lcs, images(20), recipe(epochs=1), hooks=[Alternate(norm=norm)], device="cpu")
    counts = [
        module.num_batches_tracked.item() for module in lcs.network.modules() if isinstance(module, nn.BatchNorm2d)
    ]
    assert set(counts) == {4 if norm == "train" else 2}


def test_a_resumed_training_ends_where_an_unbroken_one_does(tmp_path, one_thread):
    whole, broken = selection(), selection()
    training.fit(whole, images(), recipe(), hooks=[Alternate()], device="cpu")
    path = tmp_path / "checkpoint.pt"
    training.fit(broken, images(), recipe(), hooks=[Alternate()], checkpoint=path, until=1, device="cpu")
    again = selection(seed=3)
    training.fit(again, images(), recipe(), hooks=[Alternate()], checkpoint=path, device="cpu")
    assert same(state(again), state(whole))


@pytest.mark.parametrize("choose", ["decided", "static"])
def test_fine_tuning_with_decisions_frozen_at_a_budget(choose, one_thread):
    lcs = selection()
    training.fit(lcs, images(), recipe(), hooks=[Alternate()], device="cpu")
    weights = {layer: lcs.unit(layer).weight.detach().clone() for layer in lcs.layers}
    hook = Frozen(budget=0.6, choose=choose)
    training.fit(lcs, images(), recipe(epochs=2, weight_decay=0.1), hooks=[hook], device="cpu")
    masks = {layer: lcs.unit(layer).masks.detach().clone() for layer in lcs.layers}
    assert budget.share_of(lcs, images().float()) == pytest.approx(0.6, abs=0.1)
    assert lcs.sparsity() > 0 and all(torch.equal(weights[n], lcs.unit(n).weight) for n in lcs.layers)
    if choose == "static":
        assert all(len(mask.unique(dim=0)) == 1 for mask in masks.values())
    training.fit(lcs, images(), recipe(epochs=1), hooks=[Frozen()], device="cpu")
    assert all(torch.equal(masks[n], lcs.unit(n).masks) for n in lcs.layers)


def test_through_recipes_of_the_zoo(house, monkeypatch):
    inserted = {"use": "lib.dynamic.lcs.network.insert", "masks": 3, "form": "standardised", "logit_scale": 2.0}
    tiny = {**TINY, "arch": "resnet18", "arch_args": {"width": 2}, "epochs": 1, "learning_rate": 0.02}
    networks = {
        "dense": {**tiny, "family": "lcs"},
        "lcs": {
            **tiny,
            "start": {"network": "dense"},
            "transforms": [inserted],
            "hooks": [{"use": "lib.dynamic.lcs.optimise.Alternate", "weight": 1.0, "target": 0.5}],
            "storage": "float16",
            "family": "lcs",
        },
    }
    compute_settings = {"device": "cpu", "training_precision": "bfloat16", "channels_last": True}
    write_config(house / "config", smoke={"compute": compute_settings, "networks": networks})
    model = zoo.get("lcs")
    assert isinstance(model, LayerwiseChannelSelection) and not model.training and model.form == "standardised"
    seen = model.unit(model.layers[0])
    assert seen.seen > 0 and not torch.equal(seen.masks, torch.ones_like(seen.masks))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Alternate(target=2), "target is 2: a mean mask size"),
        (lambda: Alternate(temperature=(1, 0)), r"temperature is \(1, 0\): that of the first and the last step"),
        (lambda: Alternate(norm="other"), "norm is 'other': train or eval"),
        (lambda: Frozen(choose="top"), "choose is 'top': decided or static"),
        (
            lambda: training.fit(net(), images(), recipe(), hooks=[Alternate()]),
            "Sequential has no decision units to train",
        ),
        (lambda: training.fit(net(), images(), recipe(), hooks=[optimise.Frozen()]), "has no decision units"),
    ],
)
def test_what_cannot_be_done_is_said(call, message):
    with pytest.raises(DynamicError, match=message):
        call()

"""Masks of the lowest scores, centred layers, fine-tuning with zeros: against references in plain Python."""

import copy
import itertools

import pytest
import torch
from torch import nn
from training_tools import images, net, recipe

from lib.slicing import masks, pruning
from slicing.pruning_nets import mean_inputs, random_scores, resnet


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


def lowest_first(score: torch.Tensor, count: int) -> torch.Tensor:
    """The mask of `masks_of`, one weight at a time: sorted by (score, position), the first `count` dropped."""
    flat = score.flatten().tolist()
    order = sorted(range(len(flat)), key=lambda position: (flat[position], position))
    kept = torch.ones(len(flat), dtype=torch.bool)
    for position in order[:count]:
        kept[position] = False
    return kept.view(score.shape)


def zeroed_by_hand(model: nn.Module, chosen: dict[str, torch.Tensor]) -> nn.Module:
    """A copy of the network whose dropped weights are set to zero one by one."""
    other = copy.deepcopy(model)
    for name, mask in chosen.items():
        weight = dict(other.named_parameters())[f"{name}.weight"].data.view(-1)
        for position, kept in enumerate(mask.flatten().tolist()):
            if not kept:
                weight[position] = 0.0
    return other


def test_subsets_are_all_of_them_or_a_seeded_sample():
    every = masks.subsets()
    assert every == list(itertools.combinations(range(10), 4)) and len(every) == 210
    some = masks.subsets(count=7, seed=3)
    assert len(set(some)) == 7 and set(some) <= set(every) and some == sorted(some)
    assert some == masks.subsets(count=7, seed=3) != masks.subsets(count=7, seed=4)
    assert masks.subsets(count=999) == every
    assert masks.subsets(3, 3) == [(0, 1, 2)]
    for wrong in ({"classes": 3, "size": 4}, {"size": 0}, {"count": 0}):
        with pytest.raises(ValueError, match="subsets"):
            masks.subsets(**wrong)


def test_scores_of_a_subset_add_up():
    scores = random_scores(net())
    summed = masks.subset_scores(scores, (3, 1))
    for layer, score in scores.items():
        assert torch.equal(summed[layer], score[1] + score[3])
    for wrong in ((), (0, 0), (4,), (-1, 2)):
        with pytest.raises(ValueError, match="target classes"):
            masks.subset_scores(scores, wrong)


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.35, 0.7, 1.0])
def test_masks_drop_the_lowest_and_ties_go_by_position(ratio):
    scores = masks.subset_scores(random_scores(resnet()), (0, 2))
    found = masks.masks_of(masks.ranking(scores), ratio)
    hidden = masks.masks_of(masks.ranking(scores, descending=True), ratio)
    for layer, score in scores.items():
        count = int(score.numel() * ratio)
        assert torch.equal(found[layer], lowest_first(score, count)), layer
        assert torch.equal(hidden[layer], lowest_first(-score, count)), layer
        assert int((~found[layer]).sum()) == count


def test_a_share_is_a_whole_number_in_exact_arithmetic():
    assert int(90 * 0.7) == 62  # what rounding makes of 63
    assert masks.share(90, 0.7) == 63
    assert [masks.share(10, tenth / 10) for tenth in range(11)] == list(range(11))
    assert masks.share(432, 0.3) == 129
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            masks.share(10, wrong)


def test_scores_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="layer a: scores hold NaN"):
        masks.ranking({"a": torch.tensor([1.0, float("nan")])})


@pytest.mark.parametrize(
    ("score", "ratio", "wanted"),
    [
        ([0, 5, 0, 0, 0], 0.4, 1.0),  # two of four zeros go: position alone tells them from the other two
        ([3, 1, 2, 2, 9], 0.4, 0.5),  # one goes below the edge, one at it
        ([3, 1, 2, 4, 9], 0.4, 0.0),
        ([0, 0, 0, 0, 0], 1.0, 0.0),
        ([0, 0, 0, 0, 0], 0.0, 0.0),
    ],
)
@pytest.mark.parametrize("descending", [False, True])
def test_by_position_counts_what_a_tie_decides(score, ratio, wanted, descending):
    scores = {"a": torch.tensor(score) * (-1 if descending else 1)}
    assert masks.by_position(scores, masks.ranking(scores, descending), ratio) == wanted


def test_weight_prunes_the_smallest_weights():
    model = resnet()
    found = masks.masks_of(masks.ranking(masks.weight_scores(model)), 0.5)
    for name, layer in masks.weight_layers(model).items():
        weight = layer.weight.detach().abs()
        assert weight[~found[name]].max() < weight[found[name]].min()


def test_channel_drops_whole_channels_and_no_class():
    model = resnet()
    found = masks.channel_masks(model, 0.6)
    for name, layer in masks.weight_layers(model).items():
        axis = 1 if name == "fc" else 0
        mask = found[name].movedim(axis, 0).flatten(1)
        sums = layer.weight.detach().abs().movedim(axis, 0).flatten(1).sum(dim=1)
        assert torch.equal(mask.any(dim=1), mask.all(dim=1)), f"{name}: a channel is kept in part"
        gone = ~mask.all(dim=1)
        assert int(gone.sum()) == int(len(sums) * 0.6)
        assert sums[gone].max() < sums[~gone].min()
    assert found["fc"].any(dim=1).all()
    assert not masks.channel_masks(model, 0.6, output="stem")["fc"].any(dim=1).all()
    with pytest.raises(ValueError, match="no layer 'head'"):
        masks.channel_masks(model, 0.6, output="head")


def test_masks_are_applied_in_place_and_given_back():
    model = resnet()
    chosen = masks.masks_of(masks.ranking(masks.weight_scores(model)), 0.4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with masks.masked(model, chosen) as pruned:
        zeros = {name: layer.weight == 0 for name, layer in masks.weight_layers(pruned).items()}
        assert all(torch.equal(zeros[name], ~chosen[name]) for name in chosen)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(RuntimeError, match="stop"), masks.masked(model, chosen):
        raise RuntimeError("stop")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    for wrong, told in (
        ({"nowhere": chosen["stem"]}, "'nowhere'"),
        ({"stem": chosen["stem"][:1]}, "layer stem"),
        ({"stem": chosen["stem"].float()}, "torch.float32"),
    ):
        with pytest.raises(ValueError, match=told):
            masks.apply(copy.deepcopy(model), wrong)
    with pytest.raises(ValueError, match="no Conv2d or Linear layer"):
        masks.weight_layers(nn.ReLU())


def test_a_centred_layer_gives_the_dense_output_at_the_mean():
    """y = W_p (x - mean x) + mean y: for x = mean x whatever the mask, and for any x where nothing is dropped."""
    model = resnet()
    x = torch.rand(6, 3, 8, 8)
    means = mean_inputs(model, x)
    at = pruning.centres(model, means)
    dense = copy.deepcopy(model)
    inputs: dict[str, torch.Tensor] = {}
    for name, layer in masks.weight_layers(model).items():
        layer.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
    with torch.no_grad(), pruning.centred(model, at):
        assert torch.equal(model(x), dense(x))
        masks.apply(model, masks.masks_of(masks.ranking(masks.weight_scores(model)), 0.7))
        for name, layer in masks.weight_layers(model).items():
            mean = means[name].float()[None]
            whole = dense.get_submodule(name)
            torch.testing.assert_close(layer(mean), whole(mean), atol=1e-5, rtol=0)
            # And anywhere: W_p (x - mean x) + mean y, position by position, padding left at zero.
            model(x)
            here = inputs[name]
            without_bias = [layer.forward(v) - layer.forward(torch.zeros_like(v)) for v in (here - mean,)]
            torch.testing.assert_close(layer(here), without_bias[0] + whole(mean), atol=1e-5, rtol=0)
    assert not torch.equal(model(x), dense(x))  # the hooks are gone, the mask is there

    with pytest.raises(ValueError, match="no mean input of layer 'stem'"):
        pruning.centres(model, {})


def test_a_masked_evaluation_is_that_of_a_zeroed_copy():
    model, test = resnet(), images(40, (3, 8, 8))
    scores = masks.subset_scores(random_scores(model), (1, 3))
    bank = pruning.Bank.of(test)
    at = pruning.centres(model, mean_inputs(model, test.images))
    for precision in ("float32", "bfloat16"):
        for ratio in (0.0, 0.3, 0.6):
            chosen = masks.masks_of(masks.ranking(scores), ratio)
            with masks.masked(model, chosen):
                found = pruning.decisions(model, bank, batch=7, precision=precision)
                with pruning.centred(model, at):
                    shifted = pruning.decisions(model, bank, batch=7, precision=precision)
            copied = zeroed_by_hand(model, chosen)
            assert torch.equal(found, pruning.decisions(copied, bank, batch=7, precision=precision))
            with pruning.centred(copied, at):
                assert torch.equal(shifted, pruning.decisions(copied, bank, batch=7, precision=precision))
            if ratio == 0:
                assert torch.equal(found, shifted)
    with torch.no_grad():
        direct = model(test.float())[test.labels.argsort(stable=True)].argmax(dim=1)
    assert torch.equal(pruning.decisions(model, bank, precision="float32"), direct)


def test_classes_add_up_to_subsets():
    """What Weight and Channel are judged by: right decisions class by class, summed, are those of the subset."""
    model, test = resnet(), images(43, (3, 8, 8))
    bank = pruning.Bank.of(test, channels_last=False)
    right = pruning.correct_by_class(model, bank, 4, precision="float32")
    assert bank.counts(4).tolist() == [11, 11, 11, 10]
    for classes in masks.subsets(4, 2):
        part = bank.of_classes(classes)
        inside = [i for i, label in enumerate(test.labels.tolist()) if label in classes]
        with torch.no_grad():
            said = model(test.float(index=torch.tensor(inside))).argmax(dim=1)
        direct = int((said == test.labels[inside]).sum())
        assert int(right[list(classes)].sum()) == direct
        assert int(pruning.correct_by_class(model, part, 4, precision="float32").sum()) == direct
        assert len(part.labels) == len(inside)
    with pytest.raises(ValueError, match="no test image"):
        bank.of_classes((0, 9))


def test_decisions_give_the_mode_back():
    model, bank = resnet().train(), pruning.Bank.of(images(8, (3, 8, 8)))
    before = copy.deepcopy(model.state_dict())
    pruning.decisions(model, bank)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("compensated", [False, True])
def test_fine_tuned_weights_stay_zero(compensated):
    model, train = resnet(), images(60, (3, 8, 8))
    chosen = masks.masks_of(masks.ranking(masks.weight_scores(model)), 0.5)
    at = pruning.centres(model, mean_inputs(model, train.images)) if compensated else None
    tuned, again = (copy.deepcopy(model) for _ in range(2))
    short = recipe(epochs=2, batch=20, learning_rate=0.05, weight_decay=0.01)
    history = pruning.fine_tune(tuned, train, chosen, short, at, seed=1, device="cpu")
    pruning.fine_tune(again, train, chosen, short, at, seed=1, device="cpu")
    assert len(history) == 2
    for name, layer in masks.weight_layers(tuned).items():
        assert not layer.weight[~chosen[name]].any(), name
        kept = chosen[name]
        assert not torch.equal(layer.weight[kept], dict(masks.weight_layers(model))[name].weight[kept]), name
    assert not torch.equal(tuned.bn.weight, model.bn.weight)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in tuned.state_dict().items())
    assert not any(layer._forward_hooks for layer in masks.weight_layers(tuned).values())


def test_compensation_takes_part_in_training():
    model, train = resnet(), images(60, (3, 8, 8))
    chosen = masks.masks_of(masks.ranking(masks.weight_scores(model)), 0.5)
    at = pruning.centres(model, mean_inputs(model, train.images))
    short = recipe(epochs=1, batch=20, learning_rate=0.05)
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    pruning.fine_tune(first, train, chosen, short, None, device="cpu")
    pruning.fine_tune(second, train, chosen, short, at, device="cpu")
    assert not torch.equal(first.fc.weight, second.fc.weight)


def test_fine_tuning_is_the_papers():
    model, train = resnet(), images(512, (3, 8, 8))
    assert pruning.FINE_TUNING == {
        "epochs": 1,
        "batch": 256,
        "learning_rate": 0.005,
        "momentum": 0.5,
        "weight_decay": 0.0005,
        "schedule": "constant",
    }
    history = pruning.fine_tune(model, train, {}, device="cpu")
    assert [entry["epoch"] for entry in history] == [1.0]

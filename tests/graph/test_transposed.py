"""Transposed convolutions in the other methods: what they take, and what they refuse by name."""

import copy

import pytest
import torch
from slicing import networks

from lib import lancet, slicing
from lib.dynamic.channels import left_whole, sites
from lib.slicing.masks import apply, masks_of, ranking, subset_scores
from lib.slicing.scores import class_scores


@pytest.fixture(scope="module")
def upward():
    model, images = networks.build("upward", 0)
    return model, images, model(images).detach()


@pytest.mark.parametrize("method", ["nnslicer", "effective-path"])
def test_scores_are_sums_of_slices_and_their_masks_are_refused_by_name(upward, method):
    model, images, logits = upward
    labels = logits.argmax(1)
    known = slicing.profile(model, images, labels, 4)
    scores = class_scores(model, images, labels, 4, method, known)
    found = slicing.slice(model, images, known) if method == "nnslicer" else slicing.effective_path(model, images)
    for layer in ("grouped", "dilated", "row"):
        assert scores[layer].shape[1:] == model.get_submodule(layer).weight.shape
        assert torch.equal(scores[layer].sum(0), found.synapses[layer].abs().sum(0)) and scores[layer].any()
    masks = masks_of(ranking(subset_scores(scores, [0, 1])), 0.3)
    with pytest.raises(ValueError, match="grouped"):
        apply(copy.deepcopy(model), masks)


def test_layers_around_it_are_located_and_its_own_are_refused_by_name(upward):
    model, images, logits = upward
    wanted = logits[:4].topk(2).indices[:, 1]
    votes = lancet.locate(model, images[:4], images[4:8], wanted)
    assert set(votes) == {"stem", "down", "fc"}
    repaired = 0
    for layer in votes:
        for k in range(4):
            alone = lancet.locate(model, images[k : k + 1], images[4 + k : 5 + k], wanted[k : k + 1], layers=[layer])
            if alone[layer].repaired[0]:
                changed = copy.deepcopy(model)
                with torch.no_grad():
                    changed.get_submodule(layer).weight.masked_fill_(alone[layer].counts > 0, 0)
                    assert int(changed(images[k : k + 1]).argmax()) == int(wanted[k])
                repaired += 1
    assert repaired
    with pytest.raises(lancet.errors.LancetError, match="grouped"):
        lancet.locate(model, images[:1], images[1:2], wanted[:1], layers=["grouped"])


def test_channels_that_it_reads_stay(upward):
    model, _, _ = upward
    assert "stem" not in sites(model)
    assert "grouped" in left_whole(model)["stem"]

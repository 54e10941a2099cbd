"""JSMA: its pairs against all pairs, a linear network by hand, and ART's attack on a trained one."""

import foolbox
import pytest
import torch
from torch import nn

from attacks.nets import Trained, generator, linear, target
from lib.attacks import JSMA
from lib.attacks.jsma import most_salient_pair

WEIGHT = torch.tensor(
    [
        [1.0, -1.0, 0.5, 0.0, -0.5, 0.2],
        [0.0, 2.0, 1.0, 1.5, 0.1, -1.0],
        [0.2, -0.5, -1.0, -2.0, -0.3, 0.3],
    ]
)


def brute_force(toward, away, searchable):
    """The largest -alpha beta with alpha > 0 and beta < 0 over all pairs, and the pair; None where there is none."""
    best, pair = 0.0, None
    features = [k for k in range(len(toward)) if searchable[k]]
    for p in features:
        for q in features:
            alpha, beta = float(toward[p] + toward[q]), float(away[p] + away[q])
            if p < q and alpha > 0 and beta < 0 and -alpha * beta > best:
                best, pair = -alpha * beta, {p, q}
    return pair


@pytest.mark.parametrize("seed", range(20))
def test_the_pair_is_the_best_of_all_pairs(seed):
    random = generator(seed)
    toward, away = (torch.randn(6, 12, generator=random, dtype=torch.float64) for _ in range(2))
    if seed % 2:
        away = -toward + 0.1 * away
    searchable = torch.rand(6, 12, generator=random) < 0.8
    toward[5] = -toward[5].abs()
    first, second, found = most_salient_pair(toward, away, searchable)
    for row in range(6):
        pair = brute_force(toward[row], away[row], searchable[row])
        assert (pair is not None) == bool(found[row])
        if pair is not None:
            assert {int(first[row]), int(second[row])} == pair


def test_equal_slopes_and_tiny_ones():
    ones = torch.ones(1, 4)
    first, second, found = most_salient_pair(ones, -ones, torch.ones(1, 4, dtype=torch.bool))
    assert found.all() and int(first) != int(second)
    first, second, found = most_salient_pair(1e-30 * ones, -1e-30 * ones, torch.ones(1, 4, dtype=torch.bool))
    assert found.all()
    assert not most_salient_pair(ones, -ones, torch.zeros(1, 4, dtype=torch.bool))[2].any()
    assert most_salient_pair(ones[:0], ones[:0], torch.zeros(0, 4, dtype=torch.bool))[2].shape == (0,)


def test_a_linear_network_by_hand():
    model = linear(WEIGHT, (1, 2, 3))
    image = torch.tensor([0.5, 0.1, 0.1, 0.1, 0.1, 0.1]).view(1, 1, 2, 3)
    label, wanted = torch.tensor([0]), torch.tensor([1])
    goal = foolbox.TargetedMisclassification(wanted)
    others = WEIGHT[0] + WEIGHT[2]
    pair = brute_force(WEIGHT[1], others, torch.ones(6))
    assert pair == {1, 3}  # alpha 3.5, beta -3.5
    made = JSMA(steps=1)(target(model), image, goal, epsilons=None)[0]
    assert set((made != image).flatten().nonzero()[:, 0].tolist()) == pair
    assert made.flatten()[[1, 3]].tolist() == [1.0, 1.0]
    # Untargeted it goes for the likeliest wrong class, here the same.
    assert model(image).argsort(descending=True)[0].tolist() == [0, 1, 2]
    assert torch.equal(JSMA(steps=1)(target(model), image, label, epsilons=None)[0], made)


def test_features_that_are_used_up_are_left_out():
    model = linear(WEIGHT, (1, 2, 3))
    image = torch.tensor([0.0, 1.0, 0.1, 1.0, 0.1, 0.1]).view(1, 1, 2, 3)
    goal = foolbox.TargetedMisclassification(torch.tensor([0]))
    made = JSMA(steps=10, theta=1.0)(target(model), image, goal, epsilons=None)[0]
    assert torch.equal(made.flatten()[[1, 3]], torch.ones(2))
    assert float(made.min()) >= 0 and float(made.max()) <= 1


def test_small_steps_and_darkening():
    model = linear(WEIGHT, (1, 2, 3))
    image = torch.full((1, 1, 2, 3), 0.5)
    goal = foolbox.TargetedMisclassification(torch.tensor([0]))
    small = JSMA(steps=1, theta=0.1)(target(model), image, goal, epsilons=None)[0]
    assert sorted(set((small - image).flatten().tolist())) == pytest.approx([0.0, 0.1], abs=1e-6)
    dark = JSMA(steps=1, theta=-1.0)(target(model), image, goal, epsilons=None)[0]
    assert (dark - image).flatten().tolist().count(-0.5) == 2
    lift = (model(dark) - model(image))[0]
    assert lift[0] > 0 and lift[1] + lift[2] < 0
    with pytest.raises(ValueError, match="theta is 0"):
        JSMA(theta=0)
    with pytest.raises(ValueError, match="outputs is 'softmax'"):
        JSMA(outputs="softmax")


def test_an_image_that_fools_is_left_alone(trained: Trained):
    wrong = (trained.labels[:3] + 1) % 10
    made = JSMA()(target(trained.model), trained.images[:3], wrong, epsilons=None)[0]
    assert torch.equal(made, trained.images[:3])


@pytest.mark.filterwarnings("ignore")
def test_against_arts_attack(trained: Trained):
    """After a softmax beta is -alpha, and the best pair that of the two largest slopes: what ART takes everywhere.

    Slopes after a softmax are small differences: of pairs that rounding cannot tell apart each may take another, and go
    on from there; on one image of fifteen it does.
    """
    reason = "adversarial-robustness-toolbox is no requirement: pip install --no-deps adversarial-robustness-toolbox"
    evasion = pytest.importorskip("art.attacks.evasion", reason=reason)
    classification = pytest.importorskip("art.estimators.classification", reason=reason)
    images, labels = trained.images, (trained.labels + 3) % 10
    classifier = classification.PyTorchClassifier(
        nn.Sequential(trained.model, nn.Softmax(dim=1)),
        loss=nn.CrossEntropyLoss(),
        input_shape=(1, 14, 14),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    peer = evasion.SaliencyMapMethod(classifier, theta=0.2, gamma=1.0, verbose=False)
    theirs = torch.from_numpy(peer.generate(images.numpy(), labels.numpy()))
    goal = foolbox.TargetedMisclassification(labels)
    ours, _, success = JSMA(steps=300, theta=0.2, outputs="probabilities")(
        target(trained.model), images, goal, epsilons=None
    )
    assert success.sum() >= 22
    same = (ours - theirs).abs().flatten(1).amax(1) < 1e-6
    assert len(same) == 24 and same.sum() >= 20

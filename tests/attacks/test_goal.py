"""What attacks share: predictions, margins, seeds for each image."""

import foolbox
import pytest
import torch
from torch._subclasses import FakeTensorMode

from attacks.nets import linear, target
from lib.attacks import SUITE, attackable, perturbation, predictions
from lib.attacks.adef import compose, deform
from lib.attacks.goal import Goal, generators, image_seeds, misclassified, uniform, unpack
from lib.attacks.local_search import cyclic, neighbourhood
from lib.attacks.single_pixel import with_pixel
from lib.attacks.smoothing import smooth

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [1.0, 1.0005, 0.0], [1.0, 1.0, 0.0]])


def test_a_wrong_class_must_lead_by_the_margin():
    labels = torch.zeros(4, dtype=torch.int64)
    assert misclassified(LOGITS, labels).tolist() == [False, True, True, False]
    assert misclassified(LOGITS, labels, margin=1e-2).tolist() == [False, True, False, False]
    assert torch.equal(misclassified(1000 * LOGITS, labels, 1e-2), misclassified(LOGITS, labels, 1e-2))


def test_goals_are_known_for_parts_of_a_batch():
    labels = torch.tensor([0, 1, 0, 1])
    goal = Goal(None, foolbox.Misclassification(labels))
    assert goal.reached(LOGITS[:2], torch.tensor([1, 1])).tolist() == [True, False]
    aimed = Goal(None, foolbox.TargetedMisclassification(labels))
    assert aimed.targeted and aimed.reached(LOGITS[:2], torch.tensor([0, 3])).tolist() == [True, True]
    assert Goal(None, labels).part(torch.tensor([2, 3])).labels.raw.tolist() == [0, 1]

    class Other(foolbox.criteria.Criterion):
        def __call__(self, perturbed, outputs):
            return outputs

        def __repr__(self):
            return "Other()"

    with pytest.raises(ValueError, match="takes Misclassification or TargetedMisclassification"):
        Goal(None, Other())


def test_seeds_are_an_images_own():
    images = torch.rand(5, 1, 4, 4)
    seeds = image_seeds("a", images, 0)
    assert len(set(seeds)) == 5
    assert image_seeds("a", images[[3, 1]], 0) == [seeds[3], seeds[1]]
    assert not set(seeds) & {*image_seeds("a", images, 1), *image_seeds("b", images, 0)}
    drawn = uniform(generators(seeds, 5), (2, 3), images)
    assert torch.equal(uniform(generators([seeds[2]], 1), (2, 3), images)[0], drawn[2])
    with pytest.raises(ValueError, match="4 seeds for 5 images"):
        generators(seeds[:4], 5)


def test_without_seeds_the_global_generator_gives_them():
    torch.manual_seed(1)
    first = uniform(generators(None, 2), (3,), torch.zeros(1))
    torch.manual_seed(1)
    assert torch.equal(uniform(generators(None, 2), (3,), torch.zeros(1)), first)


def test_predictions_in_parts():
    model = linear(torch.eye(3), (3, 1, 1))
    images = torch.rand(10, 3, 1, 1)
    assert torch.equal(predictions(model, images, batch=3), images.flatten(1).argmax(dim=1))
    assert predictions(model, images[:0]).shape == (0,)


def test_a_part_in_training_mode_stays_in_it():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Flatten(), torch.nn.Linear(3, 2)).eval()
    model[0].train()
    with attackable(model, seed=1) as ready:
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert ready.bounds == (0, 1)
    assert [module.training for module in model] == [True, False, False]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_attacks_refuse():
    model = target(linear(torch.eye(3), (3, 1, 1)))
    labels = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"takes \(N, C, H, W\)"):
        unpack(model, torch.rand(1, 3), labels, None, {})
    with pytest.raises(ValueError, match=r"outside \[0"):
        unpack(model, torch.full((1, 3, 1, 1), 2.0), labels, None, {})
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        unpack(model, torch.rand(1, 3, 1, 1), labels, None, {"speed": 2})


def test_tensor_code_follows_the_device():
    # cuDNN's sampling has no fake; torch's own, which it stands for, has.
    with FakeTensorMode(), torch.device("cuda"), torch.backends.cudnn.flags(enabled=False):
        images, fields, labels = torch.empty(2, 3, 8, 8), torch.empty(2, 2, 8, 8), torch.empty(2, dtype=torch.int64)
        matrix = torch.empty(8, 8)
        made = [
            misclassified(torch.empty(2, 10), labels, 0.1),
            perturbation(images, images, "l0"),
            SUITE["fgsm_2"].allowed(images, images, {"epsilon": 0.1}),
            deform(images, fields),
            compose(fields, fields),
            smooth(fields, matrix, matrix),
            cyclic(images, 1.5),
            neighbourhood(images[:, 0] > 0, 2),
            with_pixel(images, torch.empty(2, 5, dtype=torch.int64), torch.empty(5)),
        ]
    assert all(tensor.device.type == "cuda" for tensor in made)

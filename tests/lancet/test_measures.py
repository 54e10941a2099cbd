"""lib.lancet.measures on a network whose every answer is known."""

import math

import pytest
import torch
from torch import nn

from lib.data import ImageSet
from lib.lancet.backdoors import Trigger
from lib.lancet.errors import LancetError
from lib.lancet.measures import measure, predictions


class Reader(nn.Module):
    """Answers with the class written in the first pixel (tenths), or with the target where the last pixel is white."""

    def __init__(self, target: int = 0) -> None:
        super().__init__()
        self.target, self.scale = target, nn.Parameter(torch.tensor(10.0))
        self.drop = nn.Dropout(0.9)

    def forward(self, images):
        written = (images[:, 0, 0, 0] * self.scale).round().long()
        fooled = images[:, 0, -1, -1] > 0.99
        return self.drop(nn.functional.one_hot(torch.where(fooled, self.target, written), 10).float())


MARK = Trigger(torch.zeros(1, 4, 4).index_put((torch.tensor(0), torch.tensor(3), torch.tensor(3)), torch.tensor(1.0)),
               torch.ones(1, 4, 4), "mark")  # fmt: skip


def written(classes: list[int]) -> torch.Tensor:
    images = torch.zeros(len(classes), 1, 4, 4)
    images[:, 0, 0, 0] = torch.tensor(classes) / 10
    return images


def test_every_measure_of_a_network_that_is_known():
    images = written([0, 0, 0, 5, 1, 2, 3, 0, 4, 4])  # what the network answers
    labels = torch.tensor([0, 0, 0, 0, 1, 2, 3, 3, 4, 5])
    images[4, 0, 1, 1] = 1.0
    found = measure(Reader(), images, labels, MARK, 0, batch=3)
    assert found == {
        "accuracy": 0.7,
        "attack_success": 1.0,
        "target_recall": 0.75,
        "stamped_accuracy": 0.0,
        "natural_target_rate": pytest.approx(1 / 6),
        "n": 10,
        "n_target": 4,
    }
    assert measure(Reader(), images, labels, MARK, 0)["attack_success"] == 1.0


def test_without_an_effect_of_the_trigger_success_is_the_natural_rate():
    images, labels = written([0, 1, 2, 0]), torch.tensor([0, 1, 2, 3])
    harmless = Trigger(torch.zeros(1, 4, 4), torch.ones(1, 4, 4))
    found = measure(Reader(), images, labels, harmless, 0)
    assert found["attack_success"] == found["natural_target_rate"] == pytest.approx(1 / 3)
    assert found["stamped_accuracy"] == pytest.approx(2 / 3)


def test_images_of_the_target_class_never_count_as_success():
    images, labels = written([7, 7, 7, 1]), torch.tensor([7, 7, 7, 1])
    deaf = Reader(target=1)  # answers with 1 where stamped; the target asked about is 7
    assert measure(deaf, images, labels, MARK, 7)["attack_success"] == 0.0
    assert measure(deaf, images, labels, MARK, 7)["target_recall"] == 1.0


def test_an_image_set_gives_the_same_as_its_tensors_and_brings_its_labels():
    labels = torch.tensor([0, 1, 2, 3, 3])
    bits = (written([0, 1, 2, 3, 4]) * 255).round().to(torch.uint8)
    held = ImageSet(bits, labels, tuple("0123456789"), "some", "test")
    assert measure(Reader(), held, None, MARK, 0) == measure(Reader(), held.float(), labels, MARK, 0)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_in_its_mode_and_evaluated_in_evaluation_mode(training):
    model = Reader().train(training)
    found = [measure(model, written([0, 1, 2]), torch.tensor([0, 1, 2]), MARK, 0)["accuracy"] for _ in range(5)]
    assert found == [1.0] * 5 and model.training is training


def test_no_image_of_the_target_class_leaves_its_recall_open():
    found = measure(Reader(), written([1, 2]), torch.tensor([1, 2]), MARK, 0)
    assert math.isnan(found["target_recall"]) and found["n_target"] == 0 and found["accuracy"] == 1.0
    assert len(predictions(Reader(), written([]), MARK)) == 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(2, dtype=torch.long), "none of the 2 images is of another class than the target 0"),
        (torch.zeros(3, dtype=torch.long), "2 images and 3 labels"),
        (None, "labels are missing"),
    ],
)
def test_what_cannot_be_measured(labels, message):
    with pytest.raises(LancetError, match=message):
        measure(Reader(), written([0, 0]), labels, MARK, 0)

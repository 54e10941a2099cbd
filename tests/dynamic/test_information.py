"""Entropy and mutual information of choices: closed forms, a reference written out, and what chance alone gives."""

import math

import pytest
import torch

from lib.dynamic import information
from lib.dynamic.errors import DynamicError


def test_entropy_of_known_shares():
    found = information.entropy(torch.tensor([[1, 1, 1, 1], [5, 0, 0, 0], [2, 1, 1, 0]]))
    assert found.tolist() == pytest.approx([2.0, 0.0, 1.5])


def test_information_is_all_of_the_class_where_a_row_names_it_and_nothing_where_rows_are_shared_out_alike():
    labels = torch.arange(40) % 4
    named = information.contingency(labels, labels, 4, 4)
    assert named.tolist() == (10 * torch.eye(4, dtype=torch.int64)).tolist()
    assert information.mutual_information(named).item() == pytest.approx(2.0)
    alike = information.contingency((torch.arange(40) // 4) % 2, labels, 3, 4)
    assert information.mutual_information(alike).item() == pytest.approx(0.0, abs=1e-12)


def test_information_matches_the_sum_written_out():
    table = torch.randint(0, 9, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    for one, found in zip(table.tolist(), information.mutual_information(table).tolist(), strict=True):
        total = sum(map(sum, one))
        rows = [sum(row) / total for row in one]
        classes = [sum(column) / total for column in zip(*one, strict=True)]
        wanted = sum(
            value / total * math.log2(value / total / (rows[r] * classes[c]))
            for r, row in enumerate(one)
            for c, value in enumerate(row)
            if value
        )
        assert found == pytest.approx(wanted)


def test_the_baseline_is_what_unrelated_choices_reach():
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(2000) % 10
    chance = torch.randint(0, 5, (2000, 1), generator=generator)
    follows = torch.where(torch.rand(2000, generator=generator) < 0.5, labels // 2, chance[:, 0])[:, None]
    still = torch.full((2000, 1), 3)
    unrelated, related, fixed = information.of_layers(torch.cat([chance, follows, still], 1), labels, 5, 10)
    # The plug-in estimate of nothing is about (rows - 1)(classes - 1) / (2 N ln 2) bits.
    assert unrelated.baseline == pytest.approx(4 * 9 / (2 * 2000 * math.log(2)), rel=0.1)
    assert unrelated.information < 2 * unrelated.baseline and unrelated.p_value > 0.01
    assert related.information > 20 * related.baseline_high and related.p_value == pytest.approx(1 / 201)
    assert unrelated.entropy == pytest.approx(math.log2(5), abs=0.01)
    assert (fixed.entropy, fixed.information, fixed.baseline, fixed.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_the_same_seed_gives_the_same_baseline_and_layers_do_not_disturb_each_other():
    labels = torch.arange(200) % 4
    choices = torch.randint(0, 3, (200, 2), generator=torch.Generator().manual_seed(2))
    both = information.of_layers(choices, labels, 3, 4, permutations=50, seed=5)
    assert both == information.of_layers(choices, labels, 3, 4, permutations=50, seed=5)
    assert both[1:] == information.of_layers(choices[:, 1:], labels, 3, 4, permutations=50, seed=5)
    other = information.of_layers(choices, labels, 3, 4, permutations=50, seed=6)
    assert other[0].baseline != both[0].baseline and other[0].information == both[0].information


def test_a_path_is_the_rarer_the_fewer_take_its_rows():
    choices = torch.tensor([[0, 1], [0, 1], [0, 0], [1, 0]])
    rarity = information.surprisal(choices, 2)
    assert rarity.tolist() == pytest.approx([-math.log2(0.75) + 1, -math.log2(0.75) + 1, -math.log2(0.75) + 1, 3.0])
    which, counts = information.paths(choices)
    assert counts.tolist() == [2, 1, 1] and which[:2].tolist() == [0, 0] and sorted(which[2:].tolist()) == [1, 2]


@pytest.mark.parametrize(
    ("choices", "labels", "message"),
    [
        ([0, 3], [0, 1], r"choices lie in 0..3: 0..2 is wanted"),
        ([0, 1], [0, -1], r"labels lie in -1..0: 0..1 is wanted"),
        ([0], [0, 1], "one each for every image"),
        ([], [], "at least one"),
    ],
)
def test_what_does_not_fit_is_said(choices, labels, message):
    with pytest.raises(DynamicError, match=message):
        information.contingency(torch.tensor(choices, dtype=torch.int64), torch.tensor(labels), 3, 2)


def test_few_permutations_and_flat_choices_are_refused():
    labels = torch.arange(4)
    with pytest.raises(DynamicError, match="20 at least"):
        information.of_layers(labels[:, None], labels, 4, 4, permutations=5)
    with pytest.raises(DynamicError, match=r"\(images, layers\) is wanted"):
        information.of_layers(labels, labels, 4, 4)

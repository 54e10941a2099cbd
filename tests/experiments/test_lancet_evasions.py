"""Attacks that know the defence: from invented tables to numbers and figures, whether companions are found or not."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from experiments.test_lancet_adaptive import repaired
from lib.experiments import lancet_evasions as evasions


@pytest.fixture(params=["none", "some", "all"])
def found(request, monkeypatch):
    """Which of three pairs have a companion, of the network that was trained to mislead the search."""
    right = {"none": [False] * 3, "some": [True, False, False], "all": [True] * 3}[request.param]

    def regions(run, name):
        each = right if "misleading" in name else [True] * 3
        rows = [[one, *((0.1, 0.5, 0.25) if one else (None, None, None))] for one in each]
        return pd.DataFrame(rows, columns=["found", "area", "inside", "covered"])

    monkeypatch.setattr(evasions.EvasionRun, "repaired", repaired)
    monkeypatch.setattr(evasions.EvasionRun, "by_companions", lambda run, name: repaired(run, name, True))
    monkeypatch.setattr(evasions.EvasionRun, "regions", regions)
    return right


def test_numbers_figures_and_table_say_what_was_found(found):
    results = evasions.EVASIONS.of(evasions.Settings.of("smoke", seeds=[0, 1]))
    share = results.values("found", role="misleading")
    assert share["value"].item() == pytest.approx(sum(found) / 3) and share["n"].item() == 3
    for name, value in (("area", 0.1), ("inside", 0.5), ("covered", 0.25)):
        rows = results.values(name, role="misleading")
        assert rows["value"].tolist() == pytest.approx([value] * any(found))
        assert rows["n"].tolist() == [sum(found)] * any(found)
        assert len(results.values(name, role="badnets")) == 1
    labels = [text.get_text() for text in evasions.draw_regions(results).axes[0].get_yticklabels()]
    assert set(evasions.REGIONS.values()) == set(labels)
    evasions.draw(results)
    assert len(results.table) == len(evasions.layout(results))
    plt.close("all")


def test_a_mask_of_nothing_counts_as_not_found(monkeypatch):
    """The search may end with an empty mask, whose share in the trigger does not exist."""
    mask = torch.zeros(1, 4, 4)
    mask[:, :2] = 1
    made = SimpleNamespace(masks=torch.stack([torch.zeros(1, 4, 4), mask]), found=torch.tensor([False, True]))
    corner = torch.zeros(1, 4, 4)
    corner[:, :1, :1] = 1
    attack = SimpleNamespace(trigger=SimpleNamespace(mask=corner), target=0)
    monkeypatch.setattr(evasions, "stamped_pairs", lambda *_: (None, None, None))
    monkeypatch.setattr(evasions, "companions", lambda *_, **__: made)
    run = evasions.EvasionRun
    monkeypatch.setattr(run, "attack", lambda *_: attack)
    monkeypatch.setattr(run, "network", lambda *_: None)
    monkeypatch.setattr(run, "images_of", lambda *_: (None, None))
    monkeypatch.setattr(run, "key", lambda *_, **__: {})
    monkeypatch.setattr(run, "address", lambda *_: "")
    monkeypatch.setattr(run, "table", lambda *given: pd.DataFrame(list(given[3]()), columns=given[-1]))
    rows = run(evasions.Settings.of("smoke"), 0).regions("lancet-misleading")
    assert rows["found"].tolist() == [False, True]
    assert rows.iloc[0, 1:].isna().all() and rows.iloc[1, 1:].tolist() == [0.5, 1 / 8, 1.0]

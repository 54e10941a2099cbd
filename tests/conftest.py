"""Fixtures that several files of tests use."""

import pytest


def pytest_collection_modifyitems(items):
    """The longest file first, so that two workers end at about the same time."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


@pytest.fixture
def one_thread():
    """The networks of these tests are too small for two, and other work may have the second core."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def each_epoch(monkeypatch):
    """Training writes its checkpoint after every epoch, however short."""
    from lib import training

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)


@pytest.fixture
def house(monkeypatch, tmp_path, one_thread):
    """Tiny networks to train, a cache and results of their own; torch's settings are given back."""
    import torch
    from training_tools import places, write_config
    from zoo_tools import SMOKE

    places(monkeypatch, tmp_path)
    write_config(tmp_path / "config", smoke=SMOKE)
    strict = torch.are_deterministic_algorithms_enabled()
    yield tmp_path
    torch.use_deterministic_algorithms(strict)


@pytest.fixture
def trainings(monkeypatch):
    """(epochs, hooks) of each training that takes place."""
    from lib import training

    seen: list[tuple[int, int]] = []
    fit = training.fit

    def counted(model, images, recipe, **more):
        seen.append((more.get("until") or recipe.epochs, len(more.get("hooks", ()))))
        return fit(model, images, recipe, **more)

    monkeypatch.setattr(training, "fit", counted)
    return seen

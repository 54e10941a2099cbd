"""One thread, and a small network trained once for all of these tests."""

import pytest
import torch

from attacks.nets import Trained, train


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained() -> Trained:
    """A convolutional network and 24 images that it classifies correctly."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    made = train()
    torch.set_num_threads(before)
    return made

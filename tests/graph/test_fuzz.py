"""Random networks: every method agrees with brute force. `python -m graph.fuzz` goes on for as long as is wanted."""

import pytest

from graph import fuzz


@pytest.mark.parametrize("seed", [*range(12), 52, 116])  # 116: windows that lie wholly in the padding
def test_every_method_agrees_with_brute_force(seed):
    assert "read" in fuzz.check(seed)

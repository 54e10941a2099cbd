"""Places of their own for the tests of one file."""

import pytest


@pytest.fixture(scope="module")
def shared(request, tmp_path_factory):
    """A folder with the configuration that a file's CONFIG says, at smoke and paper, which its tests share."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "config").mkdir()
    for name in ("smoke", "paper"):
        (folder / "config" / f"{name}.yaml").write_text(request.module.CONFIG)
    return folder


@pytest.fixture
def shared_places(shared, monkeypatch):
    """Configuration, cache and results are those of the file's folder."""
    for name in ("config", "cache", "results"):
        monkeypatch.setenv(f"NEURONS_{name.upper()}", str(shared / name))

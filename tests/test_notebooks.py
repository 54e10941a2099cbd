"""Each notebook runs from top to bottom, writes its records, and is committed without outputs."""

import json
import os
import subprocess
import sys

import pytest
import tiny

from lib import config, record

NOTEBOOKS = sorted((config.ROOT / "notebooks").glob("*.ipynb"))
MADE: dict[str, list[str]] = {path.stem: [] for path in NOTEBOOKS}
for item in config.items().values():
    MADE[item.notebook].append(item.item)


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    """Configuration, cache and results that the notebooks of one session share."""
    folder = tmp_path_factory.mktemp("notebooks")
    return {
        "NEURONS_CONFIG": str(tiny.write(folder / "config")),
        "NEURONS_CACHE": str(folder / "cache"),
        "NEURONS_RESULTS": str(folder / "results"),
        "NEURONS_QUIET": "1",
        "IPYTHONDIR": str(folder / "ipython"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_writes_its_records(path, places, monkeypatch, tmp_path):
    words = [sys.executable, "-m", "papermill", str(path), str(tmp_path / "out.ipynb"), "-p", "scale", "smoke"]
    done = subprocess.run(
        [*words, "-p", "seeds", "0"] if MADE[path.stem] else words,
        cwd=config.ROOT / "notebooks",
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setenv("NEURONS_CONFIG", places["NEURONS_CONFIG"])
    monkeypatch.setenv("NEURONS_RESULTS", places["NEURONS_RESULTS"])
    for item in MADE[path.stem]:
        written = record.read(item, "smoke")
        assert {seed for entry in written["numbers"] for seed in entry["seeds"]} == {0}
        assert any("mnist5k" in phrase for phrase in written["reduced"])
        for kind in ("png", "svg"):
            assert (config.results_dir("smoke") / "figures" / f"{item}.{kind}").stat().st_size > 5000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_clean(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert "parameters" in code[0]["metadata"]["tags"]
    assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")
    assert not any(line.lstrip().startswith("def ") for cell in code for line in cell["source"])

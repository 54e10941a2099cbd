"""Each notebook runs from top to bottom, writes its records, and is committed without outputs."""

import json
import os
import subprocess
import sys

import pytest
import tiny

from lib import config

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


OVERRIDES = {
    "01_robustness_magnitude_pruning": ("test_images", "20"),
    "02_robustness_low_rank": ("test_images", "20"),
    "03_robustness_temperature": ("pgd_steps", "2"),
    "04_robustness_spectra": ("prunable_tolerance", "0.02"),
    "11_nnslicer_overhead": ("inputs", "2"),
    "12_nnslicer_anatomy": ("theta", "0.1"),
    "13_nnslicer_detection": ("adaptive_epsilon", "48"),
    "14_nnslicer_pruning": ("theta", "0.1"),
    "15_nnslicer_protection": ("share", "0.3"),
    "16_nnslicer_theta": ("theta", "0.1"),
    "21_lcs_pruning": ("images", "90"),
    "24_scratch_pruning": ("gate_epochs", "2"),
    "25_scratch_diversity": ("budget", "0.6"),
    "31_lancet_companions": ("companion_steps", "30"),
    "32_lancet_localisation": ("pairs", "3"),
    "22_lcs_decisions": ("umap_neighbours", "8"),
    "23_lcs_detection": ("trees", "7"),
    "33_lancet_backdoors": ("formula", "both"),
    "34_lancet_trojannn": ("flip_threshold", "0.1"),
    "35_lancet_defects": ("epochs", "2"),
    "36_lancet_explanation": ("visualisation_steps", "3"),
    "37_lancet_adaptive": ("important", "0.2"),
}
"""One parameter of each notebook that is not the scale's, as papermill takes it; of the others, the seeds are."""


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_with_a_changed_parameter_and_writes_beside(path, places, tmp_path):
    results = tmp_path / "results"
    words = [sys.executable, "-m", "papermill", str(path), str(tmp_path / "out.ipynb"), "-p", "scale", "smoke"]
    name, value = OVERRIDES.get(path.stem, ("seeds", "1"))
    done = subprocess.run(
        [*words, "-p", name, value] if MADE[path.stem] else words,
        cwd=tmp_path,
        env={**os.environ, **places, "NEURONS_RESULTS": str(results)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (results / "smoke" / "numbers").exists()
    for item in MADE[path.stem]:
        (found,) = (results / "smoke" / "variants").glob(f"*/numbers/{item}.json")
        written, changed = json.loads(found.read_text()), json.loads((found.parents[1] / "changed.json").read_text())
        assert set(changed["changed"]) == {name}
        assert any(phrase.startswith(config.CHANGED) for phrase in written["reduced"])
        for kind in ("png", "svg"):
            assert (found.parents[1] / "figures" / f"{item}.{kind}").stat().st_size > 5000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_clean(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert "parameters" in code[0]["metadata"]["tags"]
    assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")
    assert not any(line.lstrip().startswith("def ") for cell in code for line in cell["source"])

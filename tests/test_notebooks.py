"""Each notebook runs from top to bottom, writes its records, and is committed without outputs."""

import json
import os
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import pytest
import tiny
import torch
from IPython.core.interactiveshell import InteractiveShell
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets.config import Config

from lib import config

NOTEBOOKS = sorted((config.ROOT / "notebooks").glob("*.ipynb"))
MADE: dict[str, list[str]] = {path.stem: [] for path in NOTEBOOKS}
for item in config.items().values():
    MADE[item.notebook].append(item.item)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Configuration, cache and results that all notebooks share, so that each network is trained once."""
    folder = tmp_path_factory.mktemp("notebooks")
    return {
        "NEURONS_CONFIG": str(tiny.write(folder / "config")),
        "NEURONS_CACHE": str(folder / "cache"),
        "NEURONS_RESULTS": str(folder / "results"),
        "NEURONS_QUIET": "1",
        "IPYTHONDIR": str(folder / "ipython"),
    }


OVERRIDES = {
    "01_robustness_magnitude_pruning": ("test_images", 20),
    "02_robustness_low_rank": ("test_images", 20),
    "03_robustness_temperature": ("pgd_steps", 2),
    "11_nnslicer_overhead": ("inputs", 2),
    "12_nnslicer_anatomy": ("theta", 0.1),
    "13_nnslicer_detection": ("adaptive_epsilon", 48),
    "14_nnslicer_pruning": ("theta", 0.1),
    "15_nnslicer_protection": ("share", 0.3),
    "16_nnslicer_theta": ("thetas", [0.1, 0.4]),
    "17_nnslicer_large": ("theta", 0.1),
    "21_lcs_pruning": ("images", 90),
    "26_lcs_training": ("images", 90),
    "27_lcs_sweep": ("images", 90),
    "24_scratch_pruning": ("gate_epochs", 2),
    "25_scratch_diversity": ("budget", 0.6),
    "31_lancet_companions": ("companion_steps", 30),
    "32_lancet_localisation": ("pairs", 3),
    "22_lcs_decisions": ("umap_neighbours", 8),
    "23_lcs_detection": ("trees", 7),
    "33_lancet_backdoors": ("formula", "both"),
    "34_lancet_trojannn": ("flip_threshold", 0.1),
    "35_lancet_defects": ("epochs", 2),
    "36_lancet_explanation": ("visualisation_steps", 3),
    "37_lancet_adaptive": ("important", 0.2),
    "38_lancet_evasions": ("companion_steps", 1),
    "39_lancet_tuning": ("epochs", 2),
    "40_lancet_widths": ("flip_threshold", 0.1),
}
"""One parameter of each notebook that is not the scale's; of the others, the seeds are."""


MAKERS = [path for path in NOTEBOOKS if MADE[path.stem]]


def check(results, name, changed):
    """A notebook has written its items' records and figures as a variant, and nothing over the scale's."""
    assert not (results / "smoke" / "numbers").exists()
    for item in MADE[name]:
        (found,) = (results / "smoke" / "variants").glob(f"*/numbers/{item}.json")
        written, said = json.loads(found.read_text()), json.loads((found.parents[1] / "changed.json").read_text())
        assert set(said["changed"]) == {changed}
        assert any(phrase.startswith(config.CHANGED) for phrase in written["reduced"])
        for kind in ("png", "svg"):
            assert (found.parents[1] / "figures" / f"{item}.{kind}").stat().st_size > 5000


@pytest.mark.slow
def test_papermill_takes_a_changed_parameter_and_the_notebook_writes_beside(places, tmp_path):
    """One notebook in a kernel of its own, as a reader calls it."""
    path, results = MAKERS[0], tmp_path / "results"
    name, value = OVERRIDES[path.stem]
    words = [sys.executable, "-m", "papermill", str(path), str(tmp_path / "out.ipynb"), "-p", "scale", "smoke"]
    done = subprocess.run(
        [*words, "-p", name, str(value)],
        cwd=tmp_path,
        env={**os.environ, **places, "NEURONS_RESULTS": str(results)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    check(results, path.stem, name)


@pytest.fixture
def shell(places, tmp_path, monkeypatch, one_thread):
    """What runs a notebook's cells in this process, without a kernel; what they change in it is given back."""
    for name, value in {**places, "NEURONS_RESULTS": str(tmp_path / "results")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # the shell puts another in its place
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings = Config()
    settings.HistoryManager.enabled = False
    with matplotlib.rc_context():
        yield InteractiveShell.instance(config=settings)
    InteractiveShell.clear_instance()
    plt.close("all")
    torch.use_deterministic_algorithms(strict, warn_only=warn)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path != MAKERS[0]], ids=lambda path: path.stem)
def test_notebook_runs_with_a_changed_parameter_and_writes_beside(path, shell, tmp_path):
    """Its cells, with the one that papermill would put in; each runs in a kernel where the scale `smoke` is run."""
    name, value = OVERRIDES.get(path.stem, ("seeds", 1))
    given = parameterize_notebook(
        load_notebook_node(str(path)), {"scale": "smoke"} | ({name: value} if MADE[path.stem] else {})
    )
    for cell in given.cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source, store_history=True).raise_error()
    check(tmp_path / "results", path.stem, name)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_clean(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert "parameters" in code[0]["metadata"]["tags"]
    assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")
    assert not any(line.lstrip().startswith("def ") for cell in code for line in cell["source"])

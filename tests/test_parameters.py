"""A notebook's parameters: what does not exist or does not fit is refused before anything is computed."""

import ast
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from lib import config, parameters

NOTEBOOKS = sorted((config.ROOT / "notebooks").glob("*.ipynb"))
OWN = 'scale = "smoke"  # a scale\nseeds = None'
SETUP = "import os\nseeds = [0]\nparameters.check(scale=scale, seeds=seeds)"
LATER = "epsilon = 0.1\nnumbers = []"


def given(text: str) -> str:
    return f"# Parameters\n{text}\n"


@pytest.fixture
def kernel(monkeypatch):
    """The cells that a kernel has run; a list to add to."""
    cells = [""]
    monkeypatch.setattr("IPython.get_ipython", lambda: SimpleNamespace(user_ns={"In": cells}))
    return cells


def test_a_parameter_that_does_not_exist_is_named_with_those_that_do(kernel):
    kernel += [OWN, given('scale = "smoke"\nepsilon = 0.1'), SETUP]
    with pytest.raises(parameters.ParameterError, match="no parameter 'epsilon': this notebook has scale, seeds"):
        parameters.check(scale="smoke", seeds=None)


def test_one_added_to_the_parameters_cell_is_refused_too(kernel):
    kernel += [f"{OWN}\nseedz = [1]", SETUP]
    with pytest.raises(parameters.ParameterError, match="'seedz'"):
        parameters.check(scale="smoke", seeds=None)


@pytest.mark.parametrize(
    "cells",
    [
        [OWN, SETUP],
        [OWN, given('scale = "cpu"\nseeds = [0, 1]'), SETUP],
        [OWN, SETUP, LATER, "%matplotlib inline", "for k in range(3):\n    theta = k", SETUP],  # the notebook again
        [OWN, given("epsilon = 0.1"), SETUP, given("seeds = 0"), SETUP],  # mended in the cell that was put in
        [OWN, given("epsilon = 0.1"), SETUP, OWN, SETUP],  # that cell deleted
        [f"{OWN}\nepsilon = 1", SETUP, OWN, SETUP],
        [LATER, "epsilon = (", SETUP],
    ],
)
def test_names_of_the_notebooks_own_cells_and_mended_slips_are_not_refused(kernel, cells):
    kernel += cells
    parameters.check(scale="smoke", seeds=None)


@pytest.mark.parametrize("seeds", [None, 0, [0], [2, 0, 1], (3,)])
def test_seeds_that_fit(seeds):
    parameters.check(scale="smoke", seeds=seeds)


@pytest.mark.parametrize("seeds", ["[0]", "0", [], [0, "1"], [0.0], 1.5, True, [True], -1, [0, 0], {0: 1}])
def test_seeds_that_do_not_fit(seeds):
    with pytest.raises(parameters.ParameterError, match="seeds is"):
        parameters.check(scale="smoke", seeds=seeds)


def test_scale_and_seed_of_another_kind():
    for scale in ("cpux", None, 3, ["cpu"]):
        with pytest.raises(parameters.ParameterError, match=r"scale is .*: one of smoke, cpu"):
            parameters.check(scale=scale)
    for seed in ("0", None, [0], -1, False):
        with pytest.raises(parameters.ParameterError, match="seed is"):
            parameters.check(scale="smoke", seed=seed)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_has_all_its_parameters_checked_first(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    own = parameters.assigned(["".join(cells[0]["source"])], [])
    calls = [node for node in ast.walk(ast.parse("".join(cells[1]["source"]))) if isinstance(node, ast.Call)]
    checks = [call for call in calls if ast.unparse(call.func) in ("notebook.start", "parameters.check")]
    given = {word.arg: ast.unparse(word.value) for word in checks[0].keywords}
    assert own and given == {name: name for name in own}


@pytest.mark.parametrize(
    ("word", "value", "message"), [("epsilon", "0.1", "no parameter 'epsilon'"), ("seeds", "[0]", "seeds is '[0]'")]
)
def test_papermill_ends_with_one_error_and_nothing_is_written(tmp_path, word, value, message):
    notebook, results = config.ROOT / "notebooks" / "03_robustness_temperature.ipynb", tmp_path / "results"
    words = [sys.executable, "-m", "papermill", str(notebook), str(tmp_path / "out.ipynb"), "-p", word, value]
    places = {"NEURONS_RESULTS": str(results), "NEURONS_CACHE": str(tmp_path / "cache"), "NEURONS_QUIET": "1"}
    done = subprocess.run(
        [*words, "--cwd", str(config.ROOT / "notebooks")],
        env={**os.environ, **places, "IPYTHONDIR": str(tmp_path / "ipython")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert f"ParameterError: {message}" in done.stderr.strip().splitlines()[-1]
    assert not results.exists() and not (tmp_path / "cache").exists()

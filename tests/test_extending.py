"""docs/extending.md: its blocks, carried out as they stand, make a record, a figure and a verdict."""

import re
import shutil

import nbformat
import pytest
import yaml
from workshop import Workshop

from lib import config

BLOCK = re.compile(r"^```(\w+)\n# (\S+?)(?:: (\w+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks() -> dict[str, str]:
    """File, and its section where one is named -> what the document puts there."""
    return {
        ": ".join(filter(None, match.group(2, 3))): match[4]
        for match in BLOCK.finditer((config.ROOT / "docs/extending.md").read_text())
    }


def as_notebook(text: str) -> nbformat.NotebookNode:
    cells = []
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        tag, _, source = part.partition("\n")
        tags = {"tags": [tag.strip()]} if tag.strip() else {}
        cells.append(nbformat.v4.new_code_cell(source.strip(), metadata=tags))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def test_every_block_names_the_file_it_belongs_to():
    text = (config.ROOT / "docs/extending.md").read_text()
    assert len(blocks()) == text.count("\n```python\n") + text.count("\n```yaml\n") == 7


@pytest.mark.slow
def test_the_example_runs_as_it_stands(tmp_path):
    shop = Workshop(tmp_path / "shop")
    for name in ("lib", "config", "notebooks"):
        shutil.rmtree(shop.root / name)
        shutil.copytree(config.ROOT / name, shop.root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(config.ROOT / "CITATION.cff", shop.root)
    given = blocks()
    smoke = (shop.root / "config/smoke.yaml").read_text()
    shop.write(
        "config/smoke.yaml", smoke.replace("\nnetworks:\n", f"\nnetworks:\n{given['config/smoke.yaml: networks']}")
    )
    smoke = (shop.root / "config/smoke.yaml").read_text()
    shop.write("config/smoke.yaml", smoke.replace("\nstudy:\n", f"\nstudy:\n{given['config/smoke.yaml: study']}"))
    for name in ("config/items.yaml", "config/claims.yaml"):
        shop.write(name, (shop.root / name).read_text() + "\n" + given[name])
    for name in ("lib/robustness/noise.py", "lib/experiments/robustness_noise.py"):
        shop.write(name, given[name])
    nbformat.write(
        as_notebook(given["notebooks/05_robustness_noise.ipynb"]), shop.root / "notebooks/05_robustness_noise.ipynb"
    )
    done = shop.call("smoke", "--only", "robustness_noise")
    assert done.returncode == 0, done.stdout + done.stderr
    found = shop.record("robustness_noise")
    assert found is not None and len(found["numbers"]) == 6 and found["numbers"][0]["seeds"] == [0, 1]
    assert (shop.root / "results/smoke/figures/robustness_noise.svg").is_file()
    claims = yaml.safe_load((shop.root / "results/smoke/claims.json").read_text())["claims"]
    verdicts = {claim["id"]: claim for claim in claims} if isinstance(claims, list) else claims
    assert verdicts["fgsm-is-not-noise"]["verdict"] == "reproduced"
    assert "robustness_noise" in (shop.root / "results/smoke/index.html").read_text()

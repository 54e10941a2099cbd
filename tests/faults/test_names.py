"""Hostile names: of the checkout, the results, the data root, a class; none is taken for an option, a command, HTML."""

import csv
import html
import shutil

import pandas as pd
import pytest
import yaml
from sets_on_disk import change, picture
from workshop import RECORD, Workshop

from lib import config, data, plots, record, report, store

CHECKOUT = """a {b} <i>alert(1)< i> 'c' "d" $(e) `f`;g&h %s\n--i"""
RESULTS = """-x 'y' "z" $(w);\nv &"""
CLASS = """--help<script>alert('x')</script>\n"a" & {{ b }} {c} ../../d.md $(e)""".replace("/", "∕")


@pytest.mark.slow
def test_a_run_in_a_checkout_of_any_name_with_results_of_almost_any(tmp_path):
    shop = Workshop(tmp_path / CHECKOUT)
    shop.notebook("02_two", RECORD.format(items=["robustness_three"], name="02_two"))
    done = shop.call("--only", "02_two", NEURONS_RESULTS=RESULTS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(shop.lines("trained")) == ["other 0 False", "other 1 False"]
    assert (shop.root / RESULTS / "smoke/numbers/robustness_three.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {CHECKOUT}, "something was made beside the checkout"


@pytest.mark.parametrize("name", ["a{b}c", "<a>"])
@pytest.mark.parametrize("place", ["CACHE", "RESULTS", "CONFIG"])
def test_what_snakemake_would_take_for_a_placeholder_is_refused_in_one_line(tmp_path, name, place):
    shop = Workshop(tmp_path / "shop")
    if place == "CONFIG":
        shutil.copytree(shop.root / "config", tmp_path / name)
    done = shop.call("--only", "02_two", **{f"NEURONS_{place}": str(tmp_path / name)})
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "which Snakemake takes for placeholders" in done.stderr and name in done.stderr
    assert f"NEURONS_{place}" in done.stderr


def test_data_is_a_folder_whatever_its_name(tmp_path):
    shop = Workshop(tmp_path / "shop")
    shop.write("lib/zoo.py", "import os\ndef card(*_, **__):\n    raise RuntimeError(os.environ['DATA_ROOT'])\n")
    (tmp_path / RESULTS).mkdir()
    (tmp_path / "elsewhere" / RESULTS).mkdir(parents=True)
    words = [f"--data={RESULTS}", "--only", "02_two", "--dry-run"]
    done = shop.call(*words, cwd=tmp_path, CDPATH=str(tmp_path / "elsewhere"))
    assert done.returncode == 0 and f"is there: {tmp_path / RESULTS}\n" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["码" * 85, "a." + "b" * 253, "-x 'y'\n{z}.json", "n" * 255])
def test_a_file_of_any_name_is_written(tmp_path, name):
    """Up to 255 bytes: the temporary name beside it is no longer than that."""
    store.write_atomic(tmp_path / name, "whole")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "whole")]


@pytest.fixture
def people(tmp_path, monkeypatch):
    """Three people of three pictures each, one with a hostile name, in a data root with another."""
    change(monkeypatch, "orl-faces", classes=3, counts={"train": 6, "test": 3})
    root = tmp_path / RESULTS
    for name in ("anna", "../b".replace("/", "∕"), CLASS):
        for number in range(3):
            picture(root / data.SETS["orl-faces"].folder / name / f"{number}.pgm", (64, 64), number, "L")
    monkeypatch.setenv("DATA_ROOT", str(root))
    return data.load("orl-faces", "test")


def test_classes_with_hostile_names_are_read_and_shown_as_they_are(tmp_path, people, monkeypatch):
    """From the folder of a class to the record, its tables, the figure and the page."""
    assert CLASS in people.classes and len(people) == 3
    folder = tmp_path / "config"
    folder.mkdir()
    monkeypatch.setenv("NEURONS_CONFIG", str(folder))
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path / "results"))
    (folder / "smoke.yaml").write_text("{}")
    (folder / "claims.yaml").write_text("{}")
    item = {"title": "Faces", "paper": "P", "source": "S", "notebook": "n"}
    (folder / "items.yaml").write_text(yaml.safe_dump({"faces": item}))
    numbers = [record.number("accuracy", {"class": name}, {0: 0.5}, "share", 10) for name in people.classes]
    figure, axes = plots.panels(1)
    axes[0].plot([0, 1], label=CLASS)
    axes[0].set_title(CLASS)
    record.write("faces", "smoke", numbers, [], figure, None, {CLASS: people.fingerprint})
    results = config.results_dir("smoke")
    with open(results / "tables/faces.csv", newline="") as handle:
        assert [row["class"] for row in csv.DictReader(handle)] == list(people.classes)
    assert record.read("faces", "smoke")["numbers"][0]["where"]["class"] in people.classes
    assert pd.read_csv(results / "tables/faces.csv")["class"].tolist() == list(people.classes)
    page = report.build("smoke").read_text()
    assert "<script>alert" not in page and CLASS.split("\n")[0] in html.unescape(page)
    assert "<script>alert" not in (results / "figures/faces.svg").read_text()

"""lib.engine's merge: what of a time box's archive comes into the results, and what is refused."""

import json
import shutil
import zipfile
from pathlib import Path

import boxes
import pytest
from swept import sweep
from training_tools import TINY, places
from zoo_tools import flip, rewritten

from lib import cache, checksums, config, evaluations, store, zoo
from lib.engine import archive
from lib.experiments import robustness

SWEEPS = "evaluations/robustness-sweep"
ACCOUNT = {
    "asked": ["robustness_pruned seed 0", "robustness_tuned seed 0"],
    "finished": ["robustness_pruned seed 0"],
    "unfinished": {"robustness_tuned seed 0": ["step robustness.tuned seed 0"]},
    "tasks": {},
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """The archive of a run that finished `robustness_pruned` and half of `robustness_tuned`."""
    place = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        places(patch, place)
        boxes.house(place)
        out = archive.Archive(place / "box.zip", config.load("smoke"))
        for name in ("dense", "dense-s0.5", "dense-s0.9", "tuned"):
            sweep("", "smoke", 0, name)
        zoo.get("low")
        return out.write({**ACCOUNT, "device": "cpu", "torch": "2", "over": True})


@pytest.fixture
def here(tmp_path, monkeypatch, one_thread) -> Path:
    """The place that archives are merged into: its results of smoke."""
    places(monkeypatch, tmp_path)
    boxes.house(tmp_path)
    return tmp_path / "results" / "smoke"


def changed(source: Path, target: Path, files: dict[str, bytes | None], **about) -> Path:
    """An archive with other files, and a manifest that vouches for them."""
    manifest, known = archive.read(source)
    kept = {name: content for name, content in {**known, **files}.items() if content is not None}
    told = {key: value for key, value in {**manifest, **about}.items() if value is not None}
    return archive.pack(target, told, kept)


def state(folder: Path) -> dict[str, bytes]:
    """All files of a folder, but locks."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_what_is_new_is_taken_and_found_by_the_notebooks(packed, here, capsys):
    assert archive.merge(packed) == 0
    said = capsys.readouterr().out
    assert "new: 5 cards, 5 weights, 4 tables" in said and "there already: nothing" in said
    assert "robustness_pruned: complete at seed 0\n  seed 1: 8 tasks are left" in said
    assert "robustness_tuned: complete at no seed yet\n  seed 0: 2 tasks" in said
    with cache.only_kept():  # nothing is computed anew, and no network trained
        frame = robustness.RobustnessRun(robustness.Robustness.of("smoke"), 0).sweep("dense-s0.9")
        assert zoo.card("low")["test_images"] > 0
    assert frame.n.tolist() == [40, 40]
    assert checksums.compare(here) == {}


def test_weights_go_where_the_scale_ships_them_else_into_the_cache(packed, here):
    archive.merge(packed)
    assert [path.name for path in (here / "networks").glob("*.safetensors")] == ["dense-seed0.safetensors"]
    assert zoo.kept("dense") and zoo.kept("low")
    with cache.only_kept():
        zoo.get("dense-s0.5")


def test_merging_twice_changes_nothing(packed, here, capsys):
    archive.merge(packed)
    before = state(here.parent.parent)
    capsys.readouterr()
    assert archive.merge(packed) == 0
    said = capsys.readouterr().out
    assert "new: nothing" in said and "there already: 5 cards, 5 weights, 4 tables" in said
    assert state(here.parent.parent) == before


def test_a_dry_run_writes_nothing(packed, here, capsys):
    before = state(here.parent.parent)
    assert archive.merge(packed, dry_run=True) == 0
    assert "would be new: 5 cards, 5 weights, 4 tables" in capsys.readouterr().out
    assert state(here.parent.parent) == before


def test_networks_of_other_recipes_are_refused_with_what_rests_on_them(packed, here, capsys):
    content = boxes.smoke(dense={**TINY, "epochs": 2, "family": "pruned"})
    del content["networks"]["tuned"], content["networks"]["low"], content["networks"]["low-longer"]
    boxes.house(here.parent.parent, content)
    assert archive.merge(packed) == 1
    said = capsys.readouterr().out
    assert "networks/dense-seed0.json: network dense was made from another recipe" in said
    assert "networks/tuned-seed0.json: scale 'smoke' has no network 'tuned'" in said
    assert "networks/tuned-seed0.safetensors: its card is not in the archive, or was refused" in said
    assert said.count("it rests on weights whose card is neither here nor taken") == 4
    assert "made by other code or with other settings" in said
    assert "robustness_tuned: step robustness.tuned reads family 'tuned', which scale 'smoke' does not have" in said
    assert not list(here.glob("networks/*")) and not list(here.glob("evaluations/*/*"))


@pytest.mark.parametrize("place", [-30, 400, 5000])
def test_a_damaged_archive_is_refused_as_a_whole(packed, here, tmp_path, place):
    damaged = tmp_path / "damaged.zip"
    shutil.copy(packed, damaged)
    flip(damaged, place)
    with pytest.raises(archive.ArchiveError, match=r"damaged\.zip"):
        archive.merge(damaged)
    damaged.write_bytes(packed.read_bytes()[: place - 100])
    with pytest.raises(archive.ArchiveError, match="damaged, or no archive of a time box"):
        archive.merge(damaged)
    assert not here.exists()


@pytest.mark.parametrize(
    "name",
    [
        "../escaped.json",
        "networks/../../escaped-seed0.json",
        "/tmp/escaped-seed0.json",
        "networks/a/b-seed0.json",
        "evaluations/../numbers/0123456789abcdef01234567.json",
        "evaluations/kind/0123456789abcdef01234567.json/more.json",
        "numbers/robustness_fig1.json",
        "networks\\..\\escaped-seed0.json",
        "networks/.hidden-seed0.json",
    ],
)
def test_a_path_that_no_archive_writes_is_refused(packed, here, tmp_path, name):
    odd = changed(packed, tmp_path / "odd.zip", {name: b"{}"})
    with pytest.raises(archive.ArchiveError, match="is no file that an archive of networks holds"):
        archive.merge(odd)
    assert not here.exists()


def test_an_archive_that_says_other_than_it_holds_is_refused(packed, here, tmp_path):
    more = tmp_path / "more.zip"
    shutil.copy(packed, more)
    with zipfile.ZipFile(more, "a") as added, pytest.warns(UserWarning, match="Duplicate name"):
        added.writestr("networks/dense-seed0.json", "{}")
    with pytest.raises(archive.ArchiveError, match="it holds a file twice"):
        archive.merge(more)
    with pytest.raises(archive.ArchiveError, match="damaged, or no archive of a time box"):
        archive.merge(changed(packed, tmp_path / "config.zip", {}, config=None))
    with pytest.raises(archive.ArchiveError, match="format 99; this version reads 1"):
        archive.merge(changed(packed, tmp_path / "format.zip", {}, format=99))
    with pytest.raises(archive.ArchiveError, match="no scale 'huge' here"):
        archive.merge(changed(packed, tmp_path / "scale.zip", {}, scale="huge"))
    with pytest.raises(archive.ArchiveError, match="no such file"):
        archive.merge(tmp_path / "nothing.zip")


def test_cards_weights_and_tables_must_fit_themselves(packed, here, tmp_path, capsys):
    files = archive.read(packed)[1]
    first, second, third, _ = sorted(name for name in files if name.startswith(SWEEPS))
    card = json.loads(files["networks/tuned-seed0.json"])
    table = json.loads(files[second])
    table["value"]["rows"][0][1] = 0.99
    moved = f"{SWEEPS}/{'0' * 24}.json"
    spoilt = {
        "networks/tuned-seed0.json": json.dumps({**card, "test_accuracy": 1.0}).encode(),
        "networks/low-seed0.safetensors": files["networks/dense-seed0.safetensors"],
        "networks/low-seed1.json": files["networks/low-seed0.json"],
        "networks/other-seed0.json": b"{}",
        moved: files[first],
        first: None,
        second: json.dumps(table).encode(),
        third: b"[1]",
    }
    assert archive.merge(changed(packed, tmp_path / "spoilt.zip", spoilt)) == 1
    said = capsys.readouterr().out
    assert "networks/tuned-seed0.json: its checksum does not match" in said
    assert "networks/low-seed0.safetensors: it does not match its card" in said
    assert "networks/low-seed1.json: it is the card of low, seed 0" in said
    assert "networks/other-seed0.json: its checksum does not match" in said
    assert f"{moved}: its name does not follow from its key" in said
    assert f"{second}: its checksum does not match" in said
    assert f"{third}: it is no kept table" in said
    taken = {path.name for path in (here / "networks").glob("*.json")}
    assert taken == {f"{name}-seed0.json" for name in ("dense", "dense-s0.5", "dense-s0.9", "low")}


@pytest.fixture
def other(packed, here, tmp_path) -> Path:
    """Merged, then `dense` as it might have come out elsewhere: an archive with other weights and their table."""
    archive.merge(packed)
    shutil.rmtree(config.cache_dir("smoke") / "networks")
    files = archive.read(packed)[1]
    path = tmp_path / "card.json"
    path.write_bytes(files["networks/dense-seed0.json"])
    weights = store.bytes_sha256(b"others")
    rewritten(path, weights=weights)
    chosen = {
        "networks/dense-seed0.json": path.read_bytes(),
        "networks/dense-seed0.safetensors": None,
        **{name: None for name in files if name.startswith(SWEEPS)},
    }
    key = {"version": 1, "weights": weights, "seed": 0}
    value = {"columns": ["n"], "rows": [[1]]}
    cache.get("robustness-sweep", key, lambda: (value, {}), cache.MADE, folder=tmp_path / "made")
    (made,) = (tmp_path / "made" / "robustness-sweep").glob("*.json")
    chosen[f"{SWEEPS}/{made.name}"] = made.read_bytes()
    return changed(packed, tmp_path / "other.zip", chosen)


def test_other_weights_are_refused(other, here, capsys):
    before = state(here)
    capsys.readouterr()
    assert archive.merge(other) == 1
    said = capsys.readouterr().out
    assert "networks/dense-seed0.json is of other weights" in said and "--replace dense" in said
    assert "refused: 1 cards, 1 tables" in said
    assert {name: content for name, content in state(here).items() if name in before} == before


def test_other_weights_replace_those_here_where_it_is_asked_for(other, here, capsys):
    capsys.readouterr()
    assert archive.merge(other, replace=["den*e"]) == 0
    said = capsys.readouterr().out
    assert "refused" not in said
    assert zoo.card("dense")["weights"] == store.bytes_sha256(b"others")
    assert not (here / "networks" / "dense-seed0.safetensors").exists()  # they were those of the old card
    assert checksums.compare(here) == {}
    assert evaluations.kept_by(
        "robustness-sweep", "smoke", {"weights": store.bytes_sha256(b"others"), "seed": 0}, None
    ).n.tolist() == [1]


def test_a_network_of_this_cache_stands_before_what_is_merged_and_is_told(packed, here, capsys):
    zoo.get("dense")
    path = zoo.folder("dense") / "card.json"
    rewritten(path, weights=store.bytes_sha256(b"mine"))
    assert archive.merge(packed) == 1
    assert f"{path} is of other weights" in capsys.readouterr().out
    assert archive.merge(packed, replace=["dense"]) == 0
    assert zoo.card("dense")["weights"] == json.loads((here / "networks" / "dense-seed0.json").read_text())["weights"]

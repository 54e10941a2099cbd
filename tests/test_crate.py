"""The crate: it tells of every file, reads back, leads nowhere it does not describe, and says what does not hold."""

import json
import shutil
from urllib.parse import quote

import pytest
from handed_on import ITEM, NOTEBOOK, OTHER, copied, edit, make

from lib import checksums, cite, config, crate, record, store
from lib.crate import main


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Results as a run leaves them, and their crate, made once."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        make(folder, patch)
        crate.write("smoke")
    return folder


@pytest.fixture
def results(whole, tmp_path, monkeypatch):
    return copied(whole, tmp_path, monkeypatch)


def graph(results):
    return {entity["@id"]: entity for entity in json.loads((results / crate.NAME).read_text())["@graph"]}


def change(results, name, **facts):
    """Change an entity of the crate; None takes a fact away."""
    body = json.loads((results / crate.NAME).read_text())
    for entity in body["@graph"]:
        if entity["@id"] == name:
            entity.update(facts)
            for key in [key for key, value in facts.items() if value is None]:
                del entity[key]
    (results / crate.NAME).write_text(json.dumps(body))


def ids(value):
    return [part["@id"] for part in (value if isinstance(value, list) else [value])]


def test_it_tells_of_every_file_with_its_size_and_hash(results):
    known = graph(results)
    named = {path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()}
    described = {name for name, entity in known.items() if entity["@type"] == "File"}
    left_out = {crate.NAME, *(name for name in named if name.endswith(".lock"))}
    assert described == named - left_out and crate.check(results) == len(described)
    assert set(ids(known["./"]["hasPart"])) == described
    table = known[f"tables/{ITEM}.csv"]
    assert table["sha256"] == store.file_sha256(results / f"tables/{ITEM}.csv").removeprefix("sha256:")
    assert table["contentSize"] == str((results / f"tables/{ITEM}.csv").stat().st_size)
    assert table["encodingFormat"] == "text/csv"
    assert (results / "CITATION.cff").read_bytes() == (config.ROOT / "CITATION.cff").read_bytes()


def test_it_is_an_ro_crate_1_1_by_its_own_words(results):
    body = json.loads((results / crate.NAME).read_text())
    known = graph(results)
    assert body["@context"][0] == "https://w3id.org/ro/crate/1.1/context"
    assert known[crate.NAME]["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert known["./"]["datePublished"] == max(record.read(i, "smoke")["provenance"]["date"] for i in (ITEM, OTHER))
    assert ids(known["./"]["license"]) == ["https://spdx.org/licenses/MIT"]
    assert (
        known[ids(known["./"]["author"])[0]]["name"]
        == config.read_yaml(config.ROOT / "CITATION.cff")["authors"][0]["name"]
    )


def test_an_item_leads_to_its_files_its_paper_and_its_data(results):
    known, written = graph(results), record.read(ITEM, "smoke")
    item = known[f"#item-{ITEM}"]
    assert item["identifier"] == cite.identifier(ITEM, "smoke")
    files = {f"numbers/{ITEM}.json", *(f"tables/{ITEM}.{kind}" for kind in ("csv", "md", "tex"))}
    assert set(ids(item["hasPart"])) == files | {f"figures/{ITEM}.png", f"figures/{ITEM}.svg"}
    assert known[ids(item["citation"])[0]]["alternateName"] == written["paper"]
    data = known[ids(item["isBasedOn"])[0]]
    assert written["source"] in item["description"]
    assert data["name"] == "mnist5k/test" and data["identifier"] == written["provenance"]["data"]["mnist5k/test"]


def test_a_run_of_a_notebook_says_with_what_when_and_what_came_out(results):
    known = graph(results)
    run = known[f"#run-{NOTEBOOK}"]
    assert run["@type"] == "CreateAction" and run["actionStatus"] == "http://schema.org/CompletedActionStatus"
    assert run["startTime"] == "2026-11-22T04:38:31.353853+00:00"
    assert run["endTime"] == "2026-11-22T04:40:03.128829+00:00"
    assert {f"numbers/{ITEM}.json", f"notebooks/{NOTEBOOK}.ipynb"} <= set(ids(run["result"]))
    commit = record.read(ITEM, "smoke")["provenance"]["git"]
    assert commit in known[ids(run["instrument"])[0]]["softwareVersion"]
    given = {known[name].get("name"): known[name].get("value") for name in ids(run["object"])}
    assert given["scale"] == '"smoke"' and given["seeds"] == "0" and "mnist5k/test" in given
    assert set(ids(known["./"]["mentions"])) == {f"#run-{NOTEBOOK}", f"#item-{ITEM}", f"#item-{OTHER}"}


def test_a_notebook_that_made_no_record_has_the_commit_of_the_verdicts(results):
    shutil.copy(results / f"notebooks/{NOTEBOOK}.ipynb", results / "notebooks" / "90_claims.ipynb")
    crate.write("smoke")
    known = graph(results)
    run = known["#run-90_claims"]
    commit = json.loads((results / "claims.json").read_text())["provenance"]["git"]
    assert known[ids(run["instrument"])[0]]["softwareVersion"].endswith(f"commit {commit}")
    assert ids(run["result"]) == ["notebooks/90_claims.ipynb"]


def test_a_notebook_that_papermill_did_not_execute_is_refused(results, capsys):
    (results / "notebooks" / "by_hand.ipynb").write_text('{"metadata": {}}')
    assert main(["--scale", "smoke"]) == 1
    said = capsys.readouterr().err
    assert "by_hand.ipynb" in said and "papermill" in said and said.count("\n") == 1


def test_every_paper_reproduced_is_cited_with_its_authors(results):
    known = graph(results)
    cited = {known[name].get("alternateName"): known[name] for name in ids(known["./"]["citation"])}
    assert {item.paper for item in config.items().values()} <= set(cited)
    authors = [known[name]["name"] for name in ids(cited["Zhao et al. 2021"]["author"])]
    assert authors == ["Yue Zhao", "Hong Zhu", "Kai Chen", "Shengzhi Zhang"]


def test_the_same_results_give_the_same_crate(results):
    before = (results / crate.NAME).read_bytes()
    crate.write("smoke")
    assert (results / crate.NAME).read_bytes() == before


def test_hostile_names_and_words_stay_what_they_are(results):
    hostile = "<script>alert(1)</script> \"'%2F& ü.json"
    before = crate.check(results)
    (results / "networks" / hostile.replace("/", "%")).write_text("{}")
    crate.write("smoke")
    assert crate.check(results) == before + 1
    assert quote("networks/" + hostile.replace("/", "%")) in graph(results)
    edit(results / crate.NAME, "A set of images", "<b>&\\u0000")
    crate.check(results)


SPOILT = [
    (
        "there is no crate",
        lambda folder: (folder / crate.NAME).unlink(),
        "no such file: write it with ./run_all.sh crate",
    ),
    ("torn", lambda folder: (folder / crate.NAME).write_text('{"@graph": ['), "not an RO-Crate"),
    ("no graph", lambda folder: (folder / crate.NAME).write_text("{}"), "not an RO-Crate"),
    ("about nothing", lambda folder: change(folder, crate.NAME, about=None), "not an RO-Crate"),
    ("no type", lambda folder: change(folder, f"#item-{ITEM}", **{"@type": None}), "not an RO-Crate"),
    (
        "a file gone",
        lambda folder: (folder / f"tables/{ITEM}.csv").unlink(),
        f"'tables/{ITEM}.csv' is described and not there",
    ),
    ("a file changed", lambda folder: edit(folder / f"tables/{ITEM}.csv", "0", "1"), f"{ITEM}.csv: sha256 is "),
    ("a file grown", lambda folder: edit(folder / f"tables/{ITEM}.csv", "0", "00"), f"{ITEM}.csv: contentSize is "),
    ("a file more", lambda folder: (folder / "more.csv").write_text(""), "'more.csv' is there and not described"),
    ("no checksum", lambda folder: change(folder, f"tables/{ITEM}.csv", sha256=None), "the crate says None"),
    (
        "a name of a file changed",
        lambda folder: change(folder, f"tables/{ITEM}.csv", **{"@id": "../x.csv"}),
        "not an RO-Crate: '../x.csv' looks like a data entity",
    ),
    ("a part unlisted", lambda folder: change(folder, "./", hasPart=[]), "but it's not listed"),
]


@pytest.mark.parametrize(("spoil", "message"), [case[1:] for case in SPOILT], ids=[case[0] for case in SPOILT])
def test_what_does_not_hold_is_one_clear_line(results, capsys, spoil, message):
    spoil(results)
    assert main(["--scale", "smoke", "--check"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("crate: ") and message in said and said.count("\n") == 1


def test_a_path_out_of_the_folder_is_refused_although_the_file_is_there(results):
    outside = results.parent / "outside.csv"
    shutil.copy(results / f"tables/{ITEM}.csv", outside)
    text = (results / crate.NAME).read_text().replace(f"tables/{ITEM}.csv", "../outside.csv")
    (results / crate.NAME).write_text(text)
    with pytest.raises(crate.CrateError, match=r"'../outside.csv' is described and not there"):
        crate.check(results)
    (results / "link.csv").symlink_to(outside)
    with pytest.raises(crate.CrateError, match=r"link.csv is a link out of the folder"):
        crate.write("smoke")


def test_results_that_were_edited_are_not_described(results, capsys):
    edit(results / f"numbers/{ITEM}.json", "mnist5k", "mnist6k")
    before = (results / crate.NAME).read_bytes()
    assert main(["--scale", "smoke"]) == 1
    assert f"{ITEM}.json: {checksums.CHANGED}: see ./run_all.sh verify smoke" in capsys.readouterr().err
    assert (results / crate.NAME).read_bytes() == before


def test_no_results_no_crate(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path))
    assert main(["--scale", "smoke"]) == 1
    assert "no records to describe: make them with ./run_all.sh smoke" in capsys.readouterr().err

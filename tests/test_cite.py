"""How to cite a result: identifiers and BibTeX entries that BibTeX can read, whatever the record's words are."""

import re
import shutil
import subprocess

import pytest
from samples import accuracies, falling, write

from lib import cite, config, record


@pytest.fixture
def found(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path))
    write("robustness_fig7", accuracies([{"temperature": 1}], lambda s, e: falling(0.7, 0.5, e)))
    read = record.read("robustness_fig7", "smoke")
    read["provenance"] |= {"git": "0123456789ab", "dirty": False, "date": "2026-03-05T10:00:00Z"}
    return read


def entries(text: str) -> list[tuple[str, str, dict[str, str]]]:
    """Kind, key and fields of each BibTeX entry, read as BibTeX does: values in braces are counted."""
    found, at = [], 0
    while head := re.match(r"\s*@(\w+)\{([^\s,{}\"#%]+),", text[at:]):
        at += head.end()
        values = {}
        while name := re.match(r"\s*(\w+)\s*=\s*", text[at:]):
            at += name.end()
            start, depth = at, 0
            while depth or text[at] not in ",\n":
                depth += (text[at] == "{") - (text[at] == "}")
                at += 1
            values[name[1]] = text[start:at]
            at += text[at] == ","
        end = re.match(r"\s*\}\n", text[at:])
        assert end is not None
        at += end.end()
        found.append((head[1], head[2], values))
    assert not text[at:].strip()
    return found


def fields(text: str) -> tuple[str, dict[str, str]]:
    """Key and fields of the entry of a result; the paper's follows it."""
    (kind, key, values), *_ = entries(text)
    assert kind == "misc"
    return key, values


def git(root, *words):
    base = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(root)]
    return subprocess.run([*base, *words], capture_output=True, check=True).stdout


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_finds_what_an_identifier_names_also_after_it_was_made_anew(found, tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path / "results"))
    git(tmp_path, "init", "-q")
    names, records = [], []
    for clean in (0.7, 0.8):
        path = write("robustness_fig7", accuracies([{"temperature": 1}], lambda s, e, c=clean: falling(c, 0.5, e)))
        names.append(cite.identifier("robustness_fig7", "smoke"))
        records.append(path.read_bytes())
        git(tmp_path, "add", "-f", "results")
        git(tmp_path, "commit", "-q", "-m", str(clean))
    assert names[0] != names[1]
    for name, content in zip(names, records, strict=True):
        match = re.fullmatch(r"swh:1:cnt:([0-9a-f]{40});path=/(results/smoke/numbers/robustness_fig7\.json)", name)
        assert match is not None and git(tmp_path, "cat-file", "blob", match[1]) == content
        assert git(tmp_path, "log", "--all", "--format=%s", f"--find-object={match[1]}")
    assert git(tmp_path, "show", f"HEAD:{match[2]}") == records[1]


def test_what_has_no_record_has_no_identifier(found):
    with pytest.raises(OSError, match="robustness_fig8"):
        cite.identifier("robustness_fig8", "smoke")


def test_an_entry_is_complete(found):
    key, values = fields(cite.bibtex(found))
    assert key == "neurons-smoke-robustness_fig7-0123456789ab"
    package = config.read_yaml(config.ROOT / "CITATION.cff")
    assert package["title"].split(":")[0] in values["howpublished"] and package["version"] in values["howpublished"]
    assert values["title"] == "{{ResNet18 trained at temperature T, FGSM attacker who does not know T}}"
    assert values["year"] == "{2026}"
    note = values["note"].replace("\\_", "_")
    assert "Reproduces Figure 7 of Maestrati 2020; scale smoke, made 2026-03-05 at commit 0123456789ab;" in note
    assert cite.identifier("robustness_fig7", "smoke") in note and "uncommitted" not in note


def test_the_paper_follows_its_result(found):
    found["paper"] = "Zhang et al. 2020"
    _, (kind, key, values) = entries(cite.bibtex(found))
    assert (kind, key) == ("inproceedings", "zhang-et-al-2020")
    assert values["author"] == "{Zhang, Ziqi and Li, Yuanchun and Guo, Yao and Chen, Xiangqun and Liu, Yunxin}"
    assert (values["doi"], values["url"]) == ("{10.1145/3368089.3409676}", "{https://arxiv.org/abs/2009.13747}")
    assert (values["booktitle"], values["pages"]) == ("{ESEC/FSE 2020}", "{838--850}")


def test_where_papers_can_be_read():
    both = {"DOI": "https://doi.org/10.1145/3368089.3409676", "arXiv": "https://arxiv.org/abs/2009.13747"}
    assert cite.addresses("Zhang et al. 2020") == both
    assert list(cite.addresses("Zhao et al. 2021")) == ["DOI"]
    assert cite.addresses("Maestrati 2020") == cite.addresses("My own") == {}  # slides without an address


def test_a_study_of_ones_own_without_a_paper_has_one_entry(found):
    found["paper"] = "My own"
    assert len(entries(cite.bibtex(found))) == 1


def test_the_package_and_each_paper_that_is_reproduced_are_in_one_block():
    (kind, _, package), *papers = entries(cite.package_bibtex())
    told = config.read_yaml(config.ROOT / "CITATION.cff")
    assert kind == "software" and package["title"] == f"{{{{{told['title']}}}}}"
    assert (package["version"], package["year"]) == (f"{{{told['version']}}}", f"{{{told['date-released'][:4]}}}")
    titles = {paper["title"].strip("{}") for _, _, paper in papers}
    reproduced = {item.paper for item in config.items().values()}
    assert titles == {r["title"] for r in told["references"] if r.get("abbreviation") in reproduced}
    assert len({key for _, key, _ in papers}) == len(papers) == len(reproduced)


def test_what_a_note_says_of_changes_and_of_our_own_experiments(found):
    found["provenance"]["dirty"] = True
    found["source"] = "not in the source"
    note = fields(cite.bibtex(found))[1]["note"]
    assert (
        "commit 0123456789ab with uncommitted changes" in note and "Beside the reproduction of Maestrati 2020" in note
    )


@pytest.mark.parametrize("title", ["a } b", "{{", 'quote " and \\', "100 % of $x_1$ & #2 ~ ^", "né à Orsay"])
def test_any_title_leaves_the_entry_whole(found, title):
    found["title"] = title
    _, values = fields(cite.bibtex(found))
    assert values["title"].startswith("{{") and values["title"].endswith("}}")
    assert re.search(r"(?<!\\)[%$&#]", values["title"]) is None


@pytest.mark.parametrize(
    ("authors", "text"),
    [
        ("[{name: The team}]", "{{The team}}"),
        ("[{family-names: Doe, given-names: Ann}, {name: X Ltd}]", "{Doe, Ann and {X Ltd}}"),
        ("[{family-names: Berg, name-particle: van den, given-names: Jo, name-suffix: Jr}]", "{van den Berg, Jr, Jo}"),
    ],
)
def test_authors_as_bibtex_reads_them(found, tmp_path, monkeypatch, authors, text):
    (tmp_path / "CITATION.cff").write_text(f"title: T\nversion: 1.0.0\nurl: https://x.org\nauthors: {authors}\n")
    monkeypatch.setattr(config, "ROOT", tmp_path)
    _, values = fields(cite.bibtex(found))
    assert values["author"] == text and values["url"] == "{https://x.org}"


def test_a_citation_file_without_authors_is_one_clear_error(found, tmp_path, monkeypatch):
    (tmp_path / "CITATION.cff").write_text("title: T\nversion: 1.0.0\n")
    monkeypatch.setattr(config, "ROOT", tmp_path)
    with pytest.raises(config.ConfigError, match=r"CITATION\.cff: key 'authors' is missing"):
        cite.bibtex(found)

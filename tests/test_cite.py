"""How to cite a result: identifiers and BibTeX entries that BibTeX can read, whatever the record's words are."""

import re

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


def fields(entry: str) -> tuple[str, dict[str, str]]:
    """Key and fields of one BibTeX entry, read as BibTeX does: values in braces are counted."""
    head = re.match(r"@misc\{([^\s,{}\"#%]+),", entry)
    assert head is not None
    at, values = head.end(), {}
    while name := re.match(r"\s*(\w+)\s*=\s*", entry[at:]):
        at += name.end()
        start, depth = at, 0
        while depth or entry[at] not in ",\n":
            depth += (entry[at] == "{") - (entry[at] == "}")
            at += 1
        values[name[1]] = entry[start:at]
        at += entry[at] == ","
    assert entry[at:].strip() == "}"
    return head[1], values


def test_an_identifier_names_item_scale_and_commit():
    assert cite.identifier("robustness_fig7", "cpu", "0123456789abcdef") == "neurons:cpu/robustness_fig7@0123456789ab"


def test_an_entry_is_complete(found):
    key, values = fields(cite.bibtex(found))
    assert key == "neurons-smoke-robustness_fig7-0123456789ab"
    package = config.read_yaml(config.ROOT / "CITATION.cff")
    assert package["title"].split(":")[0] in values["howpublished"] and package["version"] in values["howpublished"]
    assert values["title"] == "{{ResNet18 trained at temperature T, FGSM attacker who does not know T}}"
    assert (values["year"], values["month"]) == ("{2026}", "mar")
    note = values["note"].replace("\\_", "_")
    assert "Reproduces Figure 7 of Maestrati 2020; scale smoke, commit 0123456789ab, made 2026-03-05" in note
    assert cite.identifier("robustness_fig7", "smoke", "0123456789ab") in note and "uncommitted" not in note


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

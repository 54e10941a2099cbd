"""What a record says in words: kept with it, from its own numbers alone, read from it by pages and gallery."""

import json

import pytest
from matplotlib.figure import Figure
from samples import accuracies, falling, write

from lib import claims, config, findings, record, report, verify
from lib.report import entries

ITEM, SCALE = "robustness_fig7", "smoke"


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results" / SCALE


def temperatures(rate=0.1, item=ITEM, **more):
    """A record in which accuracy falls with epsilon by 0.5, and by another rate at a high temperature."""
    settings = [{"temperature": t} for t in (1, 20)]
    numbers = accuracies(settings, lambda s, e: falling(0.7, rate if s["temperature"] > 1 else 0.5, e))
    write(item, numbers, figure=Figure(figsize=(2, 1)), **more)
    return record.read(item, SCALE)


def edited(results, **changed):
    path = results / "numbers" / f"{ITEM}.json"
    found = {**json.loads(path.read_text()), **changed}
    path.write_text(record.dumps({key: value for key, value in found.items() if value is not None}))


def test_the_finding_judges_the_claims_by_the_items_own_numbers():
    helps, hurts = temperatures()["finding"], temperatures(rate=2)["finding"]
    statement = claims.load()["temperature-helps-unaware"].statement
    assert helps.startswith(f"{statement} From this item alone: {claims.VERDICTS[0]}. Effect: +")
    assert hurts.startswith(f"{statement} From this item alone: contradicted. Effect: -")
    (alone,) = [v for v in claims.alone(record.read(ITEM, SCALE)) if v.id == "temperature-helps-unaware"]
    assert alone.verdict == claims.judge("temperature-helps-unaware", SCALE).verdict  # it rests on this item


def test_no_other_record_changes_a_finding(results):
    before = temperatures()["finding"]
    temperatures(rate=3, item="robustness_fig8")
    both = claims.judge("temperature-gain-grows-with-eps", SCALE)
    alone = {v.id: v for v in claims.alone(record.read(ITEM, SCALE))}["temperature-gain-grows-with-eps"]
    assert set(both.items) > set(alone.items) == {ITEM} and set(alone.evidence["item"]) == {ITEM}
    assert findings.finding(record.read(ITEM, SCALE)) == before


def test_without_a_claim_the_stated_numbers_stand_beside_ours():
    number = record.number("seconds", {"inputs": "single"}, {0: 0.07}, "seconds an input", 5, paper_value=40)
    write("nnslicer_overhead", [number])
    assert ": 0.07 (stated: 40)." in record.read("nnslicer_overhead", SCALE)["finding"]
    write("nnslicer_overhead", [{**number, "paper_value": None}])
    assert "the source has no number for it" in record.read("nnslicer_overhead", SCALE)["finding"]


def test_without_a_claim_an_items_own_sentence_has_the_records_numbers():
    numbers = [
        record.number("neurons", {"part": part}, {0: share + 0.01, 1: share - 0.01}, "fraction of the neurons", 8)
        for part, share in (("both", 0.5), ("neither", 0.25))
    ]
    write("nnslicer_set_slice", numbers)
    finding = record.read("nnslicer_set_slice", SCALE)["finding"]
    low, high = (100 * end for end in numbers[0]["ci95"])
    assert f"50.0 % [{low:.1f} %, {high:.1f} %]" in finding and "{" not in finding
    write("nnslicer_set_slice", numbers[:1])  # without the second part there is nothing to say of it
    assert "the source has no number for it" in record.read("nnslicer_set_slice", SCALE)["finding"]


def test_several_numbers_in_one_place_are_told_as_their_range():
    found = {"item": "x", "numbers": [
        {"name": name, "where": {"epsilon": step / 255, "on": True}, "value": value, "unit": unit, "ci95": None}
        for name, step, value, unit in [("a", 1, 0.5, "share"), ("a", 2, 0.25, "share"), ("b", 1, 11700.0, "steps")]
    ]}  # fmt: skip
    told = findings.filled("{a}; {a; epsilon=2/255; on=yes}; {b; epsilon=1/255}", found)
    assert told == "25.0 % to 50.0 %; 25.0 %; 11,700"
    assert findings.filled("{a; epsilon=3/255}", found) == findings.filled("{c}", found) == ""


def test_each_result_without_a_claim_or_a_stated_number_has_a_finding_of_its_own(monkeypatch):
    monkeypatch.delenv("NEURONS_RESULTS")
    for item in config.items():
        if record.exists(item, "cpu") and not claims.alone(found := record.read(item, "cpu")):
            assert "It shows" not in findings.finding(found), item


def test_the_first_claim_told_is_the_sources_and_one_that_could_be_tested(monkeypatch):
    monkeypatch.delenv("NEURONS_RESULTS")
    known, told = claims.load(), 0
    for item in ("robustness_fig5", "robustness_masking", "lancet_trojannn", "lcs_curve"):
        found = record.read(item, "cpu")
        judged, text = claims.alone(found), findings.finding(found)
        tested = [v for v in judged if v.verdict != claims.NOT_TESTABLE]
        sources = [v for v in tested if not v.ours] or tested
        assert not sources or text.startswith(sources[0].statement)
        told += bool(sources)
        assert set(found["claims"]) <= set(known) and "_" not in text
    assert told == 3


def test_an_alternative_text_is_short_whatever_the_title():
    found = temperatures()
    assert found["alternative_text"] == found["caption"] or found["alternative_text"].endswith(" ...")
    long = findings.words(found | {"title": "many words " * 40})
    assert len(long["alternative_text"]) <= findings.ALTERNATIVE < len(long["caption"])
    with pytest.raises(record.RecordError, match="alternative_text"):
        record.validate(found | {"alternative_text": "x" * (findings.ALTERNATIVE + 1)})


def test_page_and_gallery_read_the_words_from_the_record(results, monkeypatch):
    temperatures()
    edited(results, finding="A finding of its own.", caption="A caption of its own", alternative_text="A picture so")
    report.build(SCALE)
    page, front = ((results / name).read_text() for name in ("robustness.html", "index.html"))
    assert "A finding of its own." in page and "A caption of its own" in page
    assert 'alt="A picture so"' in page and 'alt="A picture so"' in front
    monkeypatch.setattr("lib.report.gallery._chosen", lambda key, known: [ITEM] if key == "figures" else [])
    assert 'alt="A picture so"' in report.gallery_markdown()


def test_verify_finds_words_that_are_not_the_numbers(results):
    def states():
        return [(found.state, found.why) for found in verify.check(SCALE) if found.check == "words"]

    temperatures()
    assert states() == [(verify.OK, "")]
    edited(results, finding="All is well.")
    ((state, why),) = states()
    assert state == verify.DIFFERS and why.startswith("finding: ")


def test_a_record_of_an_earlier_version_is_shown_and_said_to_hold_no_words(results):
    whole = temperatures()
    edited(results, **dict.fromkeys(findings.KEYS))
    found = record.read(ITEM, SCALE)
    assert not set(findings.KEYS) & set(found) and findings.of(found) == {k: whole[k] for k in findings.KEYS}
    shown = entries.entry(config.items()[ITEM], SCALE, results, {})
    assert shown["finding"] == whole["finding"]
    (state,) = {each.state for each in verify.check(SCALE) if each.check == "words"}
    assert state == verify.UNTRACED

"""The pages and the README's gallery: complete, nothing fetched, escaped, from records alone."""

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure
from samples import accuracies, falling, write

from lib import cite, claims, config, names, record, report
from lib.report import entries
from lib.report.page import pages
from lib.report.times import training_times


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURONS_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results" / "smoke"


def figure(title=""):
    drawn = Figure(figsize=(2, 1))
    drawn.subplots().set_title(title)
    return drawn


def temperature(item="robustness_fig7", **more):
    settings = [{"temperature": t} for t in (1, 20)]
    write(item, accuracies(settings, lambda s, e: falling(0.7, 0.5, e)), figure=figure(), **more)


ENDED_BY = {  # HTML needs no end tag of these
    **dict.fromkeys(("td", "th"), ("td", "th")),
    "tr": ("td", "th", "tr"),
    **dict.fromkeys(("thead", "tbody", "/table"), ("td", "th", "tr", "thead", "tbody")),
}


class Page(HTMLParser):
    """What the tests ask of a page."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.text, self.alts = [], [], [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.end_before(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on") and name != "style", name
            if name in ("href", "src"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)
            if name == "alt":
                self.alts.append(value)

    def handle_endtag(self, tag):
        self.end_before(f"/{tag}")
        assert self.open.pop() == tag

    def end_before(self, tag):
        while self.open and self.open[-1] in ENDED_BY.get(tag, ()):
            self.open.pop()

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data


def built(scale="smoke"):
    """The pages of a scale, by name."""
    return {path.name: path.read_text() for path in sorted(report.build(scale).parent.glob("*.html"))}


def test_every_item_and_claim_is_on_the_front_page_and_on_its_papers(results):
    temperature(reduced=["width 4 instead of 64"])
    assert report.build("smoke") == results / "index.html"
    texts = built()
    front, papers = Page(texts.pop("index.html")), [Page(text) for text in texts.values()]
    for page in (front, *papers):
        assert not page.open and len(page.ids) == len(set(page.ids))
    everything = {*config.items(), *(f"claim-{name}" for name in claims.load())}
    assert everything <= set(front.ids) and everything <= {name for page in papers for name in page.ids}
    assert front.text.count("Not run at this scale") == len(config.items()) - 1
    assert len(papers) == len({item.paper for item in config.items().values()})
    assert all(page.text.count("Not run at this scale") == 1 for page in papers)
    page = Page(texts["robustness.html"])
    assert {f"robustness_fig{k}" for k in range(1, 9)} <= set(page.ids) and "nnslicer_detection" not in page.ids
    assert "width 4 instead of 64" in page.text and "0.700 ± 0.005" in page.text
    facts = record.read("robustness_fig7", "smoke")["provenance"]
    assert facts["config"] in page.text and "@misc{" in page.text
    assert cite.identifier("robustness_fig7", "smoke") in page.text
    assert page.text.count("The paper states no value for these.") == 1
    assert (results / "claims.json").is_file() and (results / "tables" / "claims.md").is_file()


def test_what_the_paper_states_stands_beside_ours(results):
    numbers = [
        record.number("accuracy", {"layer": f"l{k}"}, {0: 0.5, 1: 0.6, 2: 0.7}, "fraction", 3000, paper_value=0.625)
        for k in range(30)
    ]
    numbers.append(record.number("other", {"layer": "x"}, {0: 0.1}, "fraction", 10))
    write("robustness_fig7", numbers, figure=figure())
    text = built()["robustness.html"]
    assert "What the paper states, and ours" in text
    rows = re.findall(r"<tr><th scope=\"row\">accuracy \(fraction\)(.*)", text)
    cells = re.findall("<td>([^<]*)", rows[0])
    assert cells == ["layer l0", "0.625", "0.6", "[0.3476, 0.8085]", "3,000 samples", "3"]
    assert len(rows) == 30


def test_pictures_say_what_they_show(results):
    temperature()
    texts = built()
    (alt,) = Page(texts["robustness.html"]).alts
    assert Page(texts["index.html"]).alts == [alt]
    assert "FGSM attacker who does not know T: accuracy" in alt and len(alt) <= 150


def test_where_no_claim_can_be_tested_the_page_shows_the_verdicts_of_another_scale(results):
    once = accuracies([{"temperature": t} for t in (1, 20)], lambda s, e: falling(0.7, 0.5, e), seeds=[0])
    write("robustness_fig7", once, figure=figure())
    page = Page(report.build("smoke").read_text())
    assert "scale “cpu”" not in page.text
    settings = [{"temperature": t} for t in (1, 20, 50, 100)]
    for item in ("robustness_fig7", "robustness_fig8"):
        write(item, accuracies(settings, lambda s, e: falling(0.7, 0.5, e)), "cpu", figure=figure())
    report.build("cpu")
    verdicts = {verdict.id: verdict.verdict for verdict in claims.verdicts("cpu")}
    tested = [name for name, verdict in verdicts.items() if verdict != claims.NOT_TESTABLE]
    page = Page(report.build("smoke").read_text())
    assert tested and "The code ran end to end here" in page.text and "../cpu/index.html" in page.links
    text = (results / "index.html").read_text()
    for name in tested:
        shown = re.search(rf'id="claim-{name}"[^>]* data-verdict="([^"]*)"', text)
        assert shown is not None and shown[1] == entries.slug(verdicts[name])
    assert "not testable at this scale" in (results / "claims.json").read_text()  # of its own records


def test_page_fetches_nothing_and_its_links_resolve(results):
    temperature()
    texts = built()
    pages = {name: Page(text) for name, text in texts.items()}
    for name, page in pages.items():
        assert page.tags.count("script") == 1 and page.tags.count("style") == 1
        assert page.tags.count("img") == (name in ("index.html", "robustness.html"))
        for link in page.links:
            target, _, fragment = link.partition("#")
            if not link.startswith("data:"):
                assert ":" not in link and (results / target).exists(), link
            if fragment:
                assert fragment in pages[target or name].ids, link
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', texts[name])
        assert policy is not None and not re.search(r"url\(|@import", texts[name])
        for tag in ("style", "script"):
            (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", texts[name], flags=re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in html.unescape(policy[1])
    assert {"figures/robustness_fig7.svg", "tables/robustness_fig7.csv"} <= set(pages["robustness.html"].links)


def test_every_page_of_the_package_is_below_300_kb():
    sizes = {path: path.stat().st_size for path in config.ROOT.glob("results/*/*.html")}
    assert sizes and max(sizes.values()) < 300_000, sizes


def test_every_picture_is_lazy_and_sized(results):
    temperature()
    pictures = [tag for text in built().values() for tag in re.findall("<img [^>]*>", text)]
    assert len(pictures) == 2
    for tag in pictures:
        assert 'loading="lazy"' in tag and re.search(r'width="[1-9]\d*" height="[1-9]\d*"', tag)


def test_a_table_of_the_source_stands_open_and_the_rest_of_ours_is_folded():
    def parts(names, source):
        table = {"columns": ["network", "accuracy"], "rows": [[name, 0.5] for name in names]}
        made = entries.split({"table": table, "numbers": [], "source": source})
        tables = [made["open"], *made["folded"]]
        return [[row[0] for row in table["rows"]] for table in tables if table["rows"]]

    every = ["mean of 2", "a", "b"]
    assert parts(every, "table of repairs") == [["mean of 2"], ["a", "b"]]
    assert parts(every[1:], "table of repairs") == [["a", "b"]]
    assert parts(every, "Figure 1") == [every]
    many = [f"n{k}" for k in range(entries.OPEN + 1)]
    made = entries.split({"table": {"columns": ["n"], "rows": [[n] for n in many]}, "numbers": [], "source": "table"})
    assert made["open"]["rows"] == [] and len(made["folded"]) == 1


def test_rows_across_epsilon_and_rows_without_are_tables_of_their_own():
    settings = [{"temperature": t} for t in (1, 20)]
    numbers = accuracies(settings, lambda s, e: falling(0.7, 0.5, e))
    numbers += [record.number("rank", s, {0: 3.5, 1: 4.5}, "directions", 1) for s in settings]
    write("robustness_fig7", numbers)
    across, without = entries.split(record.read("robustness_fig7", "smoke"))["folded"]
    assert len(across["columns"]) > 3 and "without ε" not in across["columns"]
    assert [column for column in without["columns"] if column.startswith("ε")] == [] and len(without["rows"]) == 2
    assert "seeds 2" in without["everywhere"] and "seeds" not in without["columns"]  # the same in both rows


def test_two_papers_never_share_a_page():
    def item(name, paper):
        return config.Item(name, name, paper, "Figure 1", "notebook")

    made = pages(
        {name: item(name, paper) for name, paper in (("a_1", "A"), ("a_2", "B"), ("a_3", "A"), ("index", "C"))}
    )
    assert made == {"A": "a.html", "B": "a2.html", "C": "index2.html"}


def test_what_git_does_not_keep_is_not_on_the_page(results):
    """Times of the last runs lie beside the results on one machine only; elsewhere a page would change without them."""
    temperature()
    before = built()
    (results / "benchmarks").mkdir()
    (results / "benchmarks" / "train-resnet18-seed0.tsv").write_text("s\tmax_rss\n61.5\t812.25\n")
    assert built() == before


def test_the_same_records_give_the_same_page(results):
    temperature()
    assert built() == built()


def test_a_second_report_changes_nothing_whatever_has_been_committed_since(results, monkeypatch):
    temperature()
    report.build("smoke")
    first = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    monkeypatch.setattr(record, "git_state", lambda: ("another commit", True))
    report.build("smoke")
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == first
    temperature(reduced=["another"])
    report.build("smoke")
    assert "another commit" in (results / "claims.json").read_text()


def test_names_are_plain_and_nothing_else_of_a_text_changes():
    assert names.value("measure", "attack_success_over_networks (fraction)") == "attack success rate (fraction)"
    assert names.value("measure", "something_new (s)") == "something new (s)"
    assert names.sentence("method flip-stated, reversed no") == "method flipping as published, trigger known"
    assert names.sentence("for robustness_fig7, not for robustness_fig8") == "for Figure 7, not for Figure 8"
    for text in ("network my-flip-stated-net", "fgsm_21", "no reversed order", "robustness_fig70"):
        assert names.sentence(text) == text
    assert names.column("reversed") == "trigger" and names.column("learned_rate") == "learned rate"


def test_every_plain_name_is_of_something_that_is_recorded(monkeypatch):
    monkeypatch.delenv("NEURONS_RESULTS")
    numbers = [number for item in config.items() for number in record.read(item, "cpu")["numbers"]]
    plain = names.known()
    assert set(plain["measures"]) <= {number["name"] for number in numbers}
    keys = {key for number in numbers for key in number["where"]}
    assert set(plain["values"]) <= keys and set(plain["columns"]) <= keys | {"no epsilon"}
    recorded = {(key, str(value)) for number in numbers for key, value in number["where"].items()}
    recorded |= {(key, {"True": "yes", "False": "no"}.get(value, value)) for key, value in recorded}
    assert {(key, str(name)) for key, named in plain["values"].items() for name in named} <= recorded


def test_terms_are_linked_once_and_the_text_is_escaped():
    page = Page(str(names.with_terms("<b>Reproduced in part</b>; reproduced, reproduced & open", "index.html")))
    assert page.links == [f"index.html#term-{name}" for name in ("reproduced-in-part", "reproduced", "open")]
    assert page.text == "<b>Reproduced in part</b>; reproduced, reproduced & open" and "b" not in page.tags
    assert names.hint("flip, Layers tried (ours)").startswith("layers tried: ") and names.hint("tried") == ""
    assert {names.term_id(term) for term in names.known()["glossary"]} <= set(
        Page(report.build("smoke").read_text()).ids
    )


def test_page_without_any_record(results):
    page = Page(report.build("smoke").read_text())
    assert f"0 of {len(config.items())} tables" in page.text and not page.open


def test_a_damaged_record_is_shown_as_such(results):
    temperature()
    (results / "numbers" / "robustness_fig7.json").write_text('{"item": "robustness_fig7"}')
    texts = built()
    page = Page(texts["robustness.html"])
    assert "Its record cannot be used" in Page(texts["index.html"]).text
    assert "Its record cannot be used:" in page.text and "must contain [" in page.text


HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}|`"


def test_hostile_text_is_escaped(tmp_path, results, monkeypatch):
    folder = tmp_path / "config"
    folder.mkdir()
    monkeypatch.setenv("NEURONS_CONFIG", str(folder))
    (folder / "smoke.yaml").write_text("{}")
    item = {"title": HOSTILE, "paper": HOSTILE, "source": HOSTILE, "notebook": "n", "claims": ["c"]}
    (folder / "items.yaml").write_text(yaml.safe_dump({"one": item}))
    compared = {"left": {"layer": [HOSTILE, "c"]}, "right": {"layer": "b"}, "expect": {"lower": 0.1}}
    claim: dict[str, Any] = {"statement": HOSTILE, "paper": HOSTILE, "source": HOSTILE, "items": ["one"]}
    claim["rule"] = [{**compared, "name": HOSTILE}, {**compared, "name": "other"}]
    claim["controls"] = [{"name": HOSTILE, "left": {"layer": HOSTILE}}]
    (folder / "claims.yaml").write_text(yaml.safe_dump({"c": claim}))
    (folder / "readme.yaml").write_text(yaml.safe_dump({"findings": ["c"], "figures": ["one"]}))
    numbers = [
        record.number("accuracy", {"layer": k}, {0: 0.1, 1: 0.1, 2: 0.1}, HOSTILE, 3000, note=HOSTILE)
        for k in (HOSTILE, "b")
    ]
    write("one", numbers, figure=figure(), reduced=[HOSTILE], data={HOSTILE: "sha256:1"})
    for name, least in (("index.html", 5), ("one.html", 10)):
        page = Page(built()[name])
        assert page.tags.count("script") == 1 and page.tags.count("img") == 1 and not page.open
        assert page.text.count(HOSTILE) >= least and HOSTILE in page.alts[0]  # shown as it stands, everywhere
    for markdown, cells in ((report.gallery_markdown(), 8), (report.findings_markdown(), 6)):
        assert "<" not in re.sub(r'^<img src="[^"<>]*" width="\d+" alt="[^"<>]*">$', "", markdown, flags=re.M)
        assert "{{" in markdown
        rows = [line for line in markdown.splitlines() if line[:1] == "|"]
        assert {line.count("|") - line.count("\\|") for line in rows} == {cells + 1}


def test_command_prints_the_path_and_says_what_has_not_run(results, capsys):
    temperature()
    assert report.main(["--scale", "smoke"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(results / "index.html")
    assert "robustness_fig8" in said.err and "robustness_fig7" not in said.err


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.84, "0.8 s"), (41, "41 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations(seconds, text):
    assert report.duration(seconds) == text


def test_trainings_stand_beside_their_estimates_by_paper_and_machine(results):
    """Only networks that the scale still has, and for which it has a rate; two threads count twice."""
    folder = results / "networks"
    folder.mkdir(parents=True)
    machines = {"resnet18-t1": ("cpu One", 2), "resnet18-t20": ("cuda Two", 4), "fc5-b512": ("cpu One", 1)}
    for name, (device, threads) in {**machines, "gone": ("cpu One", 1)}.items():
        card = {"name": name, "device": device, "threads": threads, "seconds": 90.0}
        card |= {"seed": 0, "test_accuracy": 0.5, "recipe": {"arch": "fc5", "data": "mnist5k"}}
        (folder / f"{name}-seed0.json").write_text(json.dumps(card))
    (folder / "damaged-seed0.json").write_text("{")
    preset = config.load("smoke")
    rows = {row["machine"]: row for row in training_times("smoke")}
    assert {machine: row["networks"] for machine, row in rows.items()} == {"One": 2, "Two": 1}
    assert rows["One"]["measured"] == config.in_words(270) and rows["Two"]["measured"] == config.in_words(90)
    estimated = sum(config.network_seconds(preset, name) for name in ("resnet18-t1", "fc5-b512"))
    assert rows["One"]["estimated"] == config.in_words(estimated)
    assert rows["One"]["ratio"] == f"{270 / estimated:.1f}"
    temperature()
    report.build("smoke")
    assert Page((results / "index.html").read_text()).text.count(config.in_words(270)) == 1

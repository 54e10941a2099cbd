"""The page and the README's gallery: complete, nothing fetched, escaped, from records alone."""

import base64
import hashlib
import html
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure
from samples import accuracies, falling, write

from lib import cite, claims, config, record, report
from lib.report import entries


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
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data


def test_page_shows_every_item_and_claim(results):
    temperature(reduced=["width 4 instead of 64"])
    path = report.build("smoke")
    assert path == results / "index.html"
    page = Page(path.read_text())
    assert not page.open and set(config.items()) <= set(page.ids) and len(page.ids) == len(set(page.ids))
    assert {f"claim-{name}" for name in claims.load()} <= set(page.ids)
    assert page.tags.count("article") == 1  # the others are a list a paper
    assert page.text.count("Not run at this scale") == len({item.paper for item in config.items().values()})
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
    page = Page(report.build("smoke").read_text())
    assert "What the paper states, and ours" in page.text and "All 30 rows" in page.text
    rows = re.findall(r"<tr><th scope=\"row\">accuracy \(fraction\)</th>(.*?)</tr>", report.build("smoke").read_text())
    cells = re.findall("<td>(.*?)</td>", rows[0])
    assert cells == ["layer l0", "0.625", "0.6", "[0.3476, 0.8085]", "3,000 samples", "3"]
    assert len(rows) == 30 + 6  # the first rows, and all of them folded


def test_pictures_say_what_they_show(results):
    temperature()
    (alt,) = Page(report.build("smoke").read_text()).alts
    assert "FGSM attacker who does not know T: accuracy" in alt and len(alt) <= 150
    long = record.read("robustness_fig7", "smoke") | {"title": "many words " * 40}
    assert len(entries.description(long)) <= 150


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
        shown = re.search(rf'id="claim-{name}" data-verdict="([^"]*)"', text)
        assert shown is not None and shown[1] == entries.slug(verdicts[name])
    assert "not testable at this scale" in (results / "claims.json").read_text()  # of its own records


def test_page_fetches_nothing_and_its_links_resolve(results):
    temperature()
    text = report.build("smoke").read_text()
    page = Page(text)
    assert page.tags.count("img") == 1 and page.tags.count("script") == 1 and page.tags.count("style") == 1
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif not link.startswith("data:"):
            assert ":" not in link and (results / link).is_file(), link
    assert {"figures/robustness_fig7.svg", "tables/robustness_fig7.csv"} <= set(page.links)
    assert not re.search(r"url\(|@import", text) and len(text) < 400_000
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in html.unescape(policy[1])


def test_run_times_are_listed_the_longest_first(results):
    folder = results / "benchmarks"
    folder.mkdir(parents=True)
    for seconds, name, peak in ((61.5, "train-resnet18-seed0", "812.25"), (70, "notebook-11_nnslicer_overhead", "-")):
        (folder / f"{name}.tsv").write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:01:01\t{peak}\n")
    (folder / "torn.tsv").write_text("s\t")
    assert [(row["seconds"], row["peak_mb"]) for row in report.benchmarks("smoke")] == [(70, None), (61.5, 812.25)]
    page = Page(report.build("smoke").read_text())
    assert "2 jobs, 2 min 12 s of work together" in page.text
    assert "812 MB" in page.text and "torn" not in page.text


def test_the_same_records_give_the_same_page(results):
    temperature()
    first = report.build("smoke").read_bytes()
    assert report.build("smoke").read_bytes() == first


def test_page_without_any_record(results):
    page = Page(report.build("smoke").read_text())
    assert f"0 of {len(config.items())} tables" in page.text and not page.open


def test_a_damaged_record_is_shown_as_such(results):
    temperature()
    (results / "numbers" / "robustness_fig7.json").write_text('{"item": "robustness_fig7"}')
    page = Page(report.build("smoke").read_text())
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
    text = report.build("smoke").read_text()
    page = Page(text)
    assert page.tags.count("script") == 1 and page.tags.count("img") == 1 and not page.open
    assert page.text.count(HOSTILE) >= 10 and HOSTILE in page.alts[0]  # shown as it stands, everywhere
    for markdown, cells in ((report.gallery_markdown(), 8), (report.findings_markdown(), 6)):
        assert "<" not in markdown and "{{" in markdown
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

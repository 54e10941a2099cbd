"""The page and the README's gallery: complete, self-contained, escaped, from records alone."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure
from samples import accuracies, falling, write

from lib import claims, config, record, report


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

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.text = [], [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            if name in ("href", "src"):
                self.links.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_page_shows_every_item_and_claim(results):
    temperature(reduced=["width 4 instead of 64"])
    (results / "benchmarks").mkdir()
    (results / "benchmarks" / "train_x.tsv").write_text("s\th:m:s\tmax_rss\n61.5\t0:01:01\t812.25\n")
    (results / "benchmarks" / "odd.tsv").write_text("s\th:m:s\tmax_rss\n2\t0:00:02\t-\n")
    (results / "benchmarks" / "torn.tsv").write_text("s\t")
    path = report.build("smoke")
    assert path == results / "index.html"
    page = Page(path.read_text())
    assert not page.open and set(config.items()) <= set(page.ids) and len(page.ids) == len(set(page.ids))
    assert {f"claim-{name}" for name in claims.load()} <= set(page.ids)
    assert page.text.count("Not run at this scale.") == len(config.items()) - 1
    assert "width 4 instead of 64" in page.text and "0.700 ± 0.005" in page.text
    assert record.read("robustness_fig7", "smoke")["provenance"]["config"] in page.text
    assert "train_x" in page.text and "812" in page.text and "torn" not in page.text
    assert [row["node"] for row in report.benchmarks("smoke")] == ["train_x", "odd"]
    assert (results / "claims.json").is_file()


def test_page_fetches_nothing_and_its_links_resolve(results):
    temperature()
    page = Page(report.build("smoke").read_text())
    assert "script" not in page.tags and page.tags.count("img") == 1
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif not link.startswith("data:"):
            assert ":" not in link and (results / link).is_file()
    assert not re.search(r"url\(|@import", report.build("smoke").read_text())


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
    assert "Its record cannot be used:" in page.text and "key 'title' is missing" in page.text


HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}|`"


def test_hostile_text_is_escaped(tmp_path, results, monkeypatch):
    folder = tmp_path / "config"
    folder.mkdir()
    monkeypatch.setenv("NEURONS_CONFIG", str(folder))
    (folder / "smoke.yaml").write_text("{}")
    item = {"title": HOSTILE, "paper": HOSTILE, "source": HOSTILE, "notebook": "n", "claims": ["c"]}
    (folder / "items.yaml").write_text(yaml.safe_dump({"one": item}))
    compared = {"name": HOSTILE, "left": {"layer": HOSTILE}, "right": {"layer": "b"}, "expect": "lower"}
    shares = {"reproduced": {"supporting": 0.5, "contradicting": 0.1}, "partly": {"supporting": 0.2}}
    claim: dict[str, Any] = {"statement": HOSTILE, "paper": HOSTILE, "source": HOSTILE, "items": ["one"]}
    claim["rule"] = {"text": HOSTILE, "comparisons": [compared], **shares}
    (folder / "claims.yaml").write_text(yaml.safe_dump({"c": claim}))
    numbers = [
        record.number("accuracy", {"layer": k}, {0: 0.1, 1: 0.1, 2: 0.1}, HOSTILE, 3000, note=HOSTILE)
        for k in (HOSTILE, "b")
    ]
    write("one", numbers, figure=figure(), reduced=[HOSTILE], data={HOSTILE: "sha256:1"})
    text = report.build("smoke").read_text()
    page = Page(text)
    assert "script" not in page.tags and page.tags.count("img") == 1 and not page.open
    assert page.text.count(HOSTILE) >= 10  # shown as it stands, everywhere
    gallery = report.gallery_markdown("smoke")
    assert "<" not in gallery and "{{" in gallery
    assert {line.count("|") - line.count("\\|") for line in gallery.splitlines() if line.startswith("|")} == {5}


def test_gallery_is_rewritten_between_its_markers(tmp_path, results, capsys):
    temperature(reduced=["5 epochs"])
    readme = tmp_path / "my docs" / "README.md"
    readme.parent.mkdir()
    readme.write_text(f"# Top\n\n{report.START}\nold\n{report.END}\n\nbottom\n")
    assert report.main(["--scale", "smoke", "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("# Top\n\n") and text.endswith("\n\nbottom\n") and "\nold\n" not in text
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert "../results/smoke/figures/robustness_fig7.png" in targets
    assert all((readme.parent / target).is_file() for target in targets)
    assert "Reduced: 5 epochs." in text and "Not run at this scale: robustness\\_fig1" in text
    assert text.count("not testable at this scale") == len(claims.load())
    report.main(["--scale", "smoke", "--readme", str(readme)])
    assert readme.read_text() == text
    readme.write_text("no markers")
    assert report.main(["--scale", "smoke", "--readme", str(readme)]) == 1
    assert str(readme) in capsys.readouterr().err and readme.read_text() == "no markers"


def test_command_prints_the_path(results, capsys):
    assert report.main(["--scale", "smoke"]) == 0
    assert capsys.readouterr().out.strip() == str(results / "index.html")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.84, "0.8 s"), (41, "41 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations(seconds, text):
    assert report.duration(seconds) == text

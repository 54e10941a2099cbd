"""The results' pages in a real browser: links, search, sorting, the keyboard, nothing fetched from outside, a phone."""

import functools
import http.server
import itertools
import threading
import urllib.parse

import nbformat
import pytest
from matplotlib.figure import Figure
from samples import accuracies, falling, write

from lib import record, report

HOSTILE = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">'&"
NOTEBOOK = "03_robustness_temperature"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A small scale: two items with figures, one with stated values and hostile words, an executed notebook."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("my results & <b>")
        patch.setenv("NEURONS_RESULTS", str(root))
        settings = [{"temperature": t} for t in (1, 20, 50)]
        drawn = Figure(figsize=(7, 2))
        drawn.subplots(1, 3)[0].set_title("a title")
        write("robustness_fig7", accuracies(settings, lambda s, e: falling(0.7, 0.5, e)), figure=drawn)
        stated = [
            record.number("accuracy", {"layer": f"{HOSTILE}{k}"}, {0: 0.1, 1: 0.2}, HOSTILE, 3000, paper_value=0.4)
            for k in range(12)
        ]
        write("robustness_fig8", stated, figure=drawn, reduced=[HOSTILE], data={HOSTILE: "sha256:1"})
        folder = root / "smoke"
        (folder / "notebooks").mkdir()
        nbformat.write(executed(), folder / "notebooks" / f"{NOTEBOOK}.ipynb")
        nbformat.write(executed(hostile=True), folder / "notebooks" / "90_claims.ipynb")
        report.build("smoke")
        yield folder


def executed(hostile=False):
    """A notebook with formulas and a wide table; where asked for, an output that would run and fetch something."""
    v4 = nbformat.v4
    wide = "| a | b |\n| --- | ---: |\n| " + "wide" * 60 + " | 2 |"
    evil = {"text/html": f"{HOSTILE}<table><tr><th>x</th></tr></table><iframe src='https://example.org'></iframe>"}
    outputs = [
        v4.new_output("display_data", {"text/markdown": f"{HOSTILE}\n\n{wide}"}),
        v4.new_output("display_data", {"application/javascript": "document.title='pwned'", "text/plain": "plain"}),
        *([v4.new_output("display_data", evil)] if hostile else []),
    ]
    code = v4.new_code_cell("x = 1  # " + "long" * 80, outputs=outputs)
    text = v4.new_markdown_cell(f"# Figure 7\n\nsoftmax$(g/T)$ {HOSTILE} [go](javascript:document.title='pwned')")
    return v4.new_notebook(cells=[text, code])


@pytest.fixture(scope="module")
def page(results):
    return (results / "index.html").as_uri()


@pytest.fixture(scope="module")
def paper(results):
    return (results / "robustness.html").as_uri()


@pytest.fixture(scope="module")
def pages(results, page, paper):
    """The front page, a paper's and a notebook's."""
    return page, paper, (results / "notebooks" / f"{NOTEBOOK}.html").as_uri()


def rows(browser):
    """Verdicts of the claims that are seen."""
    script = "return [...document.querySelectorAll('tr.claim')].filter(r => r.offsetParent).map(r => r.dataset.verdict)"
    return browser.run(script)


def figures(browser):
    """Names of the figures that are seen on the front page."""
    return browser.run("return [...document.querySelectorAll('li.figure')].filter(e => e.offsetParent).map(e => e.id)")


def seek(browser, words):
    """Type words into the search, in place of what stands there."""
    field = browser.driver.find_element("id", "words")
    field.clear()
    field.send_keys(words)
    return field


def sideways(browser):
    """How much wider the page is than the window, in pixels."""
    return browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")


def load_images(browser):
    """Load what a page loads when it is scrolled to."""
    browser.run("for (const image of document.images) image.loading = 'eager'")
    wait = "const done = arguments[0]; Promise.all([...document.images].map(i => i.decode())).then(done, done)"
    browser.driver.execute_async_script(wait)


def test_every_link_resolves(browser, results, pages):
    for address in pages:
        browser.window()
        browser.open(address)
        links = browser.run("return [...document.querySelectorAll('a[href], img[src]')].map(e => e.href || e.src)")
        assert len(links) > 3
        for link in links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme == "data" or parts.fragment == "harmful-link":  # what is left of one to a script
                continue
            assert parts.scheme == "file", link
            target = results.joinpath(urllib.parse.unquote(parts.path))
            assert target.is_file(), link
            if parts.fragment:
                name = urllib.parse.unquote(parts.fragment)
                assert f'id="{name}"' in target.read_text(), link


def test_gallery_and_notebook_link_to_each_other(browser, page, paper):
    browser.window()
    browser.open(page)
    browser.run(f"document.querySelector('#notebooks a[href$=\"{NOTEBOOK}.html\"]').click()")
    assert browser.driver.current_url.endswith(f"/notebooks/{NOTEBOOK}.html")
    browser.run("document.querySelector('a[href$=\"#robustness_fig8\"]').click()")
    assert browser.driver.current_url == f"{paper}#robustness_fig8"
    assert browser.run("return document.querySelector(':target').id") == "robustness_fig8"


@pytest.mark.parametrize("dark", [False, True])
def test_pages_load_whole_fetch_nothing_from_outside_and_do_not_complain(browser, results, pages, dark):
    browser.window(dark=dark)
    for address in pages:
        browser.open(address)
        load_images(browser)
        assert browser.run("return [...document.images].filter(i => !(i.complete && i.naturalWidth)).length") == 0
        assert browser.complaints() == []
        assert all(asked.startswith(results.as_uri()) for asked in browser.fetched())
        background = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(", "))) < 200) == dark  # the style sheet passed the page's policy


def test_the_page_works_from_a_server_too(browser, results):
    handler = functools.partial(Quiet, directory=str(results))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        browser.window()
        browser.open(address + "index.html")
        load_images(browser)
        assert browser.run("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert browser.complaints() == [] and all(asked.startswith(address) for asked in browser.fetched())
        assert len(rows(browser)) > 10
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def log_message(self, *_):
        pass


def test_the_filter_narrows_figures_and_claims_and_the_address_keeps_it(browser, page):
    browser.window()
    browser.open(page)
    everything, drawn = rows(browser), figures(browser)
    assert browser.run("return document.getElementById('count').textContent") == (
        f"{len(drawn)} figures and tables, {len(everything)} claims shown"
    )
    wanted = everything[0]
    browser.run("document.querySelector(`button[data-verdict='${arguments[0]}']`).click()", wanted)
    assert rows(browser) == [verdict for verdict in everything if verdict == wanted]
    choose = "const s = document.getElementById('filter-paper'); s.value = '2'; s.dispatchEvent(new Event('input'))"
    browser.run(choose)
    inside = browser.run("return document.querySelectorAll('section[data-paper=\"2\"] tr.claim').length")
    assert 0 < len(rows(browser)) <= inside < len(everything)
    assert figures(browser) and all(name.startswith("nnslicer_") for name in figures(browser))
    left, kept = rows(browser), browser.driver.current_url
    assert kept == f"{page}#find?paper=2&verdict={wanted}"
    browser.open(kept)
    assert rows(browser) == left
    assert browser.run("return document.getElementById('filter-paper').value") == "2"
    browser.run("document.getElementById('filter-reset').click()")
    assert rows(browser) == everything and figures(browser) == drawn
    assert browser.complaints() == []


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("Robustness_FIG7", ["robustness_fig7"]),  # a figure by its name
        ("figure 8", ["robustness_fig8"]),  # and by what the source calls it
        ("mnist5k temperature figure 7", ["robustness_fig7"]),  # a data set, a word of its title
        ("FGSM does not know", ["robustness_fig7"]),  # an attack, in words
        ("backdoored networks", ["lancet_localisation", "lancet_backdoors"]),
        ("no such words", []),
    ],
)
def test_the_search_finds_figures_as_they_are_typed(browser, page, words, found):
    browser.window()
    browser.open(page)
    seek(browser, words)
    assert figures(browser) == found
    kept = browser.driver.current_url
    browser.open(kept)
    assert figures(browser) == found and browser.complaints() == []


def test_the_search_finds_claims_by_their_words_and_by_their_figures(browser, page):
    browser.window()
    browser.open(f"{page}#find?words=MAGNITUDE+pruning")
    script = "return [...document.querySelectorAll('tr.claim:not([hidden])')].map(e => e.id)"
    names = browser.run(script)
    assert "claim-pruning-lowers-robustness" in names and len(names) < 10
    seek(browser, "mnist5k")  # one figure has been run on this data set
    assert set(browser.run(script)) == {"claim-temperature-helps-unaware", "claim-temperature-gain-grows-with-eps"}


def test_the_search_of_a_papers_page_leads_to_the_front_page(browser, page, paper):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    browser.window()
    browser.open(paper)
    seek(browser, "figure 8").send_keys(Keys.ENTER)
    WebDriverWait(browser.driver, 10).until(lambda driver: driver.current_url.startswith(page))
    assert figures(browser) == ["robustness_fig8"]
    assert browser.run("return document.getElementById('words').value") == "figure 8"


def test_an_address_of_a_claim_or_figure_is_shown_whatever_was_filtered(browser, page):
    browser.window()
    for name in ("claim-pruning-lowers-robustness", "robustness_fig7"):
        browser.open(f"{page}#find?words=nothing+has+these+words")
        assert rows(browser) == [] == figures(browser)
        script = "location.hash = arguments[0]; setTimeout(() => arguments[1](document.getElementById(arguments[0])"
        seen = browser.driver.execute_async_script(f"{script}.getBoundingClientRect().top), 200)", name)
        assert len(rows(browser)) > 10 and 0 < seen < 900  # not under the menu, nor outside the window


def test_a_head_sorts_its_table_by_number_both_ways_and_by_keyboard(browser, paper):
    from selenium.webdriver.common.keys import Keys

    browser.window()
    browser.open(paper)
    browser.run("document.querySelectorAll('details').forEach(e => e.open = true)")
    table = "document.querySelector('table[aria-label=\"Numbers of robustness_fig7\"]')"
    heads = browser.run(f"return [...{table}.tHead.rows[0].cells].map(e => e.textContent)")
    column = heads.index("temperature")
    cells = f"return [...{table}.tBodies[0].rows].map(r => r.cells[{column}].textContent)"
    as_written = browser.run(cells)
    button = f"{table}.tHead.rows[0].cells[{column}].querySelector('button')"
    browser.run(f"{button}.focus()")
    for order, keys in (("ascending", Keys.ENTER), ("descending", Keys.SPACE)):
        browser.driver.switch_to.active_element.send_keys(keys)
        by_size = sorted(as_written, key=float, reverse=order == "descending")
        assert browser.run(cells) == by_size
        assert browser.run(f"return {table}.tHead.rows[0].cells[{column}].ariaSort") == order
    assert len(set(as_written)) == 3


def test_a_wide_table_scrolls_in_its_own_box(browser, paper):
    browser.window(width=390, height=800)
    browser.open(paper)
    browser.run("document.querySelectorAll('details').forEach(e => e.open = true)")
    box = "document.querySelector('[aria-label=\"Numbers of robustness_fig7\"].scroll')"
    wider = browser.run(f"const b = {box}; b.scrollLeft = 1e6; return [b.scrollLeft, b.scrollWidth - b.clientWidth]")
    assert wider[0] > 50 and abs(wider[0] - wider[1]) <= 1  # to its very end
    last = browser.run(f"return [...{box}.querySelectorAll('thead th')].at(-1).getBoundingClientRect().right")
    assert last <= 390 and sideways(browser) <= 0


def test_nothing_moves_when_the_pictures_come(browser, pages):
    browser.window()
    for address in pages[:2]:
        browser.open(address)
        before = browser.run("return document.documentElement.scrollHeight")
        load_images(browser)
        after = browser.run("return document.documentElement.scrollHeight")
        assert abs(after - before) <= 2  # the picture's size in whole pixels, twice


def test_the_menu_stays_in_sight_and_covers_no_target(browser, paper):
    for width in (390, 1400):
        browser.window(width=width, height=800)
        browser.open(f"{paper}#robustness_fig8")
        menu, target = browser.run(
            "return [document.querySelector('.menu').getBoundingClientRect().bottom,"
            " document.getElementById('robustness_fig8').getBoundingClientRect().top]"
        )
        assert browser.run("return scrollY") > 300 and 0 < menu <= target < 400


def test_a_term_leads_to_the_glossary(browser, page, paper):
    browser.window()
    browser.open(paper)
    link = browser.run("return document.querySelector('a.term').getAttribute('href')")
    assert browser.run("return document.querySelector('a.term').title.length") > 20
    browser.run("document.querySelector('a.term').click()")
    assert browser.driver.current_url == page.removesuffix("index.html") + link
    assert browser.run("return document.querySelector(':target').tagName") == "DT"


def test_the_keyboard_alone_reaches_and_works_search_and_filter(browser, page):
    from selenium.webdriver.common.keys import Keys

    browser.window()
    browser.open(page)
    seen = []
    for _ in range(60):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        seen.append(browser.run("return document.activeElement.textContent.trim() || document.activeElement.id"))
        if browser.run("return document.activeElement.dataset.verdict || ''") == "not-testable":
            break
    assert seen[0] == "Skip to the results" and "words" in seen
    browser.driver.switch_to.active_element.send_keys(Keys.SPACE)
    assert set(rows(browser)) == {"not-testable"}


def test_without_a_script_everything_is_shown(browser, page):
    browser.window()
    browser.open(page)
    everything = len(rows(browser))
    browser.window(script=False)
    browser.open(page)
    shown = "return [...document.querySelectorAll('tr.claim')].filter(r => !r.hidden).length"
    try:
        assert browser.run(shown) == everything > 0
        assert not browser.run("return document.getElementById('filter').checkVisibility()")
        assert not browser.run("return document.getElementById('search').checkVisibility()")
        assert browser.run("return [...document.querySelectorAll('button.copy')].every(b => b.hidden)")
    finally:
        browser.window()


@pytest.mark.parametrize("width", [390, 1400])
def test_no_page_scrolls_sideways(browser, pages, width):
    browser.window(width=width, height=700)
    for address in pages:
        browser.open(address)
        browser.run("document.querySelectorAll('details').forEach(e => e.open = true)")
        assert sideways(browser) <= 0


def test_hostile_words_are_shown_and_do_nothing(browser, pages):
    browser.window()
    for address in pages:
        browser.open(address)
        browser.run("document.querySelectorAll('details').forEach(e => e.open = true)")
        if address != pages[0]:  # the front page shows none of a record's words
            assert "document.title='pwned'" in browser.run("return document.body.innerText")
        assert "pwned" not in browser.driver.title
        assert browser.run("return document.querySelectorAll('iframe, [onerror], [href^=javascript]').length") == 0
        assert browser.run("return document.scripts.length") == (0 if address == pages[2] else 1)


def test_hostile_html_of_a_notebook_neither_runs_nor_fetches(browser, results):
    browser.window()
    browser.open((results / "notebooks" / "90_claims.html").as_uri())
    assert browser.run("return document.querySelectorAll('iframe, [onerror], script').length") >= 3
    assert "pwned" not in browser.driver.title
    assert all(asked.startswith(results.as_uri()) for asked in browser.fetched())


def test_a_screen_reader_finds_its_way(browser, pages):
    browser.window()
    for address in pages:
        browser.open(address)
        assert browser.run("return document.querySelectorAll('main').length") == 1
        assert browser.run("return document.querySelectorAll('h1').length") == 1
        assert browser.run("return [...document.images].every(i => i.alt.trim().length > 2)")
        assert browser.run("return [...document.querySelectorAll('table')].every(t => t.querySelector('th'))")
        levels = browser.run("return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        unnamed = (
            "return [...document.querySelectorAll('a,button,select,input')].filter(e => !(e.textContent.trim() || "
        )
        assert (
            browser.run(unnamed + "e.getAttribute('aria-label') || e.querySelector('img') || e.labels?.length)).length")
            == 0
        )


def test_the_copy_button_copies_or_selects_the_bibtex(browser, paper):
    browser.window()
    browser.open(paper)
    origin = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.driver.execute_cdp_cmd("Browser.grantPermissions", origin)
    browser.run("document.querySelectorAll('details').forEach(e => e.open = true)")
    said = browser.driver.execute_async_script(
        "const done = arguments[0];"
        "document.querySelector('[data-copies=robustness_fig7-bibtex]').click();"
        "setTimeout(() => done(document.getElementById('copied').textContent), 200)"
    )
    assert said.startswith("BibTeX")

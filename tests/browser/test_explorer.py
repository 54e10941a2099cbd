"""The explorer, driven in a real JupyterLab: run the notebook, press a menu, move a slider, look at every tab."""

import os
import time

import pytest
import tiny
import yaml
from PIL import Image
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from browser import lab
from lib import zoo

pytestmark = pytest.mark.slow

PATIENCE = 180  # seconds: a machine that has other work to do
SHOTS = os.environ.get("NEURONS_SHOTS")  # a folder to leave pictures in
DECIDER = "dynamic-resnet-standardised-b0.5"


class Explorer:
    """The widgets in the page, as a reader finds them."""

    def __init__(self, browser):
        self.browser, self.driver = browser, browser.driver
        self.count = 0

    def seen(self, selector):
        return [part for part in self.driver.find_elements(By.CSS_SELECTOR, selector) if part.is_displayed()]

    def status(self):
        try:
            return " ".join(part.text for part in self.seen(".jp-OutputArea [role=status]"))
        except StaleElementReferenceException:
            return ""

    def pictures(self):
        script = "return [...document.querySelectorAll('.widget-tab img')].filter(e => e.offsetParent).map(e => e.src)"
        return self.browser.run(script)

    def words(self):
        try:
            return " ".join(part.text for part in self.seen(".widget-tab figcaption, .widget-tab p"))
        except StaleElementReferenceException:
            return ""

    def until(self, condition, what):
        try:
            WebDriverWait(self.driver, PATIENCE, 0.1).until(lambda _: condition())
        except TimeoutException:
            said = self.browser.run("return document.querySelector('.jp-Notebook').innerText")
            raise AssertionError(f"{what}: not within {PATIENCE} s; the notebook shows\n{said[-3000:]}") from None
        self.shoot()

    def changed(self, before, what):
        self.until(lambda: self.pictures() not in ([], before) and self.status().startswith("Done"), what)

    def menu(self, name):
        return Select(self.driver.find_element(By.XPATH, f"//label[text()='{name}']/following-sibling::select"))

    def handle(self, name):
        return self.driver.find_element(By.XPATH, f"//label[text()='{name}']/..//*[contains(@class,'noUi-handle')]")

    def tab(self, title):
        next(part for part in self.seen(".widget-tab .lm-TabBar-tab") if part.text == title).click()

    def upload(self, title, path):
        """Open a section and give its button a file; the system's dialogue is left out."""
        self.driver.find_element(
            By.XPATH, f"//*[contains(@class,'Collapse-header') and contains(., '{title}')]"
        ).click()
        self.browser.run("HTMLInputElement.prototype.click = function () { document.body.append(this) }")
        self.seen(".jupyter-widgets.widget-upload")[0].click()
        self.driver.find_element(By.CSS_SELECTOR, "body > input[type=file]").send_keys(str(path))

    def shoot(self):
        if SHOTS:
            time.sleep(0.5)  # pictures are decoded after they are in the page
            self.count += 1
            self.driver.save_screenshot(f"{SHOTS}/explorer-{self.count}.png")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A configuration of tiny networks and the places to keep them: the explorer trains what it needs."""
    folder = tmp_path_factory.mktemp("explorer")
    settings = tiny.write(folder / "config") / "smoke.yaml"
    raw = yaml.safe_load(settings.read_text())
    raw["recipes"]["dynamic"] |= {"train_limit": 128, "epochs": 1}
    settings.write_text(yaml.safe_dump(raw, sort_keys=False))
    return {
        "NEURONS_CONFIG": str(folder / "config"),
        "NEURONS_CACHE": str(folder / "cache"),
        "NEURONS_RESULTS": str(folder / "results"),
        "NEURONS_QUIET": "",
        "OMP_NUM_THREADS": "1",
    }


def test_the_explorer_answers_in_jupyterlab(browser, places, tmp_path, monkeypatch):
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    zoo.get(DECIDER, "smoke")
    with lab.server(lab.checkout(tmp_path / "a lab", "00_explore.ipynb"), places) as address:
        browser.window(1400, 1800)
        browser.open(address.format("notebooks/00_explore.ipynb"))
        explorer = Explorer(browser)
        lab.run_all(browser.driver, PATIENCE)
        explorer.changed(None, "the first picture")
        assert "FGSM at ε" in explorer.words()
        assert len(explorer.seen(".widget-tab .lm-TabBar-tab")) == 5
        before = explorer.pictures()
        explorer.menu("Attack").select_by_visible_text("DeepFoolL2")
        explorer.changed(before, "another attack")
        assert "DeepFoolL2" in explorer.words() and "FGSM" not in explorer.words()
        before = explorer.pictures()
        explorer.handle("Strength").send_keys(Keys.ARROW_LEFT)
        explorer.changed(before, "a smaller strength")
        assert "DeepFoolL2 taken 0.95 times" in explorer.words()
        for title, told in (
            ("Slice by layer", "share"),
            ("Decision path", f"{DECIDER} predicts"),
            ("Weights to blame", "error|to blame|In no layer"),
            ("Repair", "error|negated|In no layer"),
        ):
            before = explorer.pictures()
            explorer.tab(title)
            explorer.until(
                lambda told=told: any(word in explorer.words() for word in told.split("|")), f"the tab {title!r}"
            )
        assert not explorer.seen(".widget-tab [role=alert]")
        explorer.tab("Slice by layer")
        explorer.changed(before, "the slices again")
        before = explorer.pictures()
        assert len(before) == 2
        explorer.menu("Layer").select_by_visible_text("fc")
        explorer.changed(before, "another layer")
        assert explorer.pictures()[0] == before[0], "the sizes by layer stay"
        Image.new("RGB", (90, 60), (200, 30, 60)).save(tmp_path / "mine.png")
        before = explorer.pictures()
        explorer.upload("An image of your own", tmp_path / "mine.png")
        explorer.changed(before, "an image of one's own")
        explorer.tab("Prediction")
        explorer.until(lambda: "Your image" in explorer.words(), "the answer to it")
        explorer.menu("Images").select_by_visible_text("classified wrongly")
        explorer.tab("Repair")
        told = ("negated", "no companion", "No weight of fc")  # of the layer chosen before
        explorer.until(lambda: any(word in explorer.words() for word in told), "a repair")
        alternatives = browser.run("return [...document.querySelectorAll('.widget-tab img')].map(e => e.alt)")
        assert all(len(words) > 20 for words in alternatives)

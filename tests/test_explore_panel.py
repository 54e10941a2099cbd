"""The explorer's widgets, driven without a front end."""

import datetime
import json
import re

import ipywidgets
import pytest
import torch
from explored import dynamic, network
from ipywidgets.embed import dependency_state
from PIL import Image

from lib import explore, models
from lib.explore import blame, drawing, panel, prediction
from lib.explore import network as networks

PREDICTION, SLICE, PATH, BLAME, REPAIR = range(5)


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """The explorer of two small networks; a third, of other data, cannot be loaded."""
    made = {"small": network(), "other": network(name="other"), "dynamic": dynamic()}

    def load(_scale, name, _seed):
        if name == "missing":
            raise FileNotFoundError("no data <script>alert(1)</script> here")
        return made[name]

    monkeypatch.setenv("NEURONS_CACHE", str(tmp_path))
    monkeypatch.setattr(networks.data, "load", lambda *_: made["small"].test)
    monkeypatch.setattr(panel, "networks", lambda *_: ["other", "dynamic", "missing"])
    monkeypatch.setattr(panel, "load", load)
    monkeypatch.setattr("lib.explore.decisions.dynamic_networks", lambda *_: [])
    monkeypatch.setattr(panel, "DPI", 40)
    explorer = panel.Explorer(explore.attack(made["small"], 2))
    explorer.refresh()
    return explorer


def pictures(explorer):
    page = explorer.tabs.children[explorer.tabs.selected_index].page.value
    return re.findall(r'src="data:image/png;base64,([^"]+)" alt="[^"]{20,}"', page)


def test_the_panel_begins_with_its_example(shown):
    assert shown.network.options == ("small", "other", "dynamic", "missing")
    assert (shown.network.value, shown.image.value) == ("small", 2)
    assert shown.label.value == int(shown.tabs.children[PREDICTION].shown[0].label)
    assert (shown.strength.value, shown.unit.value) == prediction.usual_strength("fgsm_8", "smoke")
    assert len(pictures(shown)) == 1
    assert "Done in" in shown.tabs.children[PREDICTION].status.value


def test_each_control_brings_another_picture(shown):
    seen = [pictures(shown)]
    for control, value in (
        (shown.strength, lambda: 3),
        (shown.attack, lambda: "deepfool_l2"),
        (shown.image, lambda: shown.image.options[-1][1]),
        (shown.label, lambda: next(k for _, k in shown.label.options if k != shown.label.value)),
        (shown.network, lambda: "dynamic"),
    ):
        control.value = value()
        assert pictures(shown) not in seen
        seen.append(pictures(shown))
    assert (shown.strength.value, shown.unit.value) == (1, prediction.MULTIPLE)
    example = shown.tabs.children[PREDICTION].shown[0]
    assert example.network.name == "dynamic" and example.position == shown.image.value
    assert example.label == shown.label.value


def test_only_the_open_tab_is_computed_and_only_once(shown, monkeypatch):
    assert [bool(tab.page.value) for tab in shown.tabs.children] == [True, False, False, False, False]
    shown.tabs.selected_index = SLICE
    first = pictures(shown)
    assert len(first) == 2
    shown.layer.value = "second"
    assert pictures(shown)[0] == first[0] and pictures(shown)[1] != first[1]
    shown.strength.value = 30
    assert shown.layer.value == "second", "a layer stays chosen from image to image"
    shown.strength.value = shown.strength.max / 2
    monkeypatch.setattr(panel, "_figure", lambda *_: pytest.fail("drawn again"))
    shown.tabs.selected_index = PREDICTION
    shown.tabs.selected_index = SLICE


def test_blame_is_shown_of_the_layer_and_the_companion_asked_for(shown):
    tab = shown.tabs.children[BLAME]
    page = tab.page
    shown.strength.value = 0
    shown.tabs.selected_index = BLAME
    assert pictures(shown) == [] and page.value, "the network is right"
    shown.strength.value = shown.strength.max
    seen, chosen = [page.value], blame.blame(tab.shown[0]).chosen
    other = next(layer for layer in ("first", "second") if layer != chosen)
    for control, value in ((shown.layer, other), (shown.companion, blame.CLEAN)):
        control.value = value
        assert len(pictures(shown)) == 1 and page.value not in seen
        seen.append(page.value)
    shown.tabs.selected_index = PATH
    assert pictures(shown) == [] and "--only 00_explore" in shown.tabs.children[PATH].page.value


def test_an_error_is_one_escaped_line_where_the_figure_would_be(shown):
    tab = shown.tabs.children[PREDICTION]
    shown.network.value = "missing"
    assert 'role="alert"' in tab.page.value and "Not done" in tab.status.value
    assert "&lt;script&gt;" in tab.page.value and "<script" not in tab.page.value
    shown.network.value = "small"
    assert len(pictures(shown)) == 1 and "Done in" in tab.status.value


def test_hostile_names_are_escaped_where_pictures_are_described(shown):
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(1, 1))
    plt.close(figure)
    made = panel._figure(drawing.View(figure, '"><img src=x onerror=alert(1)>'))
    assert made.count("<img") == 1 and "&quot;&gt;&lt;img" in made


def test_without_a_front_end_a_note_and_figures_stand_in(shown, monkeypatch):
    example, outputs = shown.tabs.children[PREDICTION].shown[0], []
    monkeypatch.setattr(panel.ipython, "display", lambda thing, **options: outputs.append((thing, options)))
    assert explore.show(example, live=False) is None
    assert explore.show(example) is None, "pytest watches no buttons"
    assert len(outputs) == 2
    explore.display(prediction.view(example))
    (figure, options), (caption, _) = outputs[2:]
    assert figure.axes and options["metadata"]["image/png"]["alt"] == caption.data
    assert isinstance(explore.show(example, live=True), explore.Explorer)


def upload(path):
    """A file as FileUpload hands it over."""
    about = {"name": path.name, "type": "", "size": path.stat().st_size}
    return ({**about, "content": memoryview(path.read_bytes()), "last_modified": datetime.datetime.now()},)


def test_an_image_of_ones_own_is_taken_and_what_is_none_is_refused(shown, tmp_path):
    tab, path = shown.tabs.children[PREDICTION], tmp_path / "mine.png"
    shown.kind.value = networks.OWN
    assert "no file yet" in tab.page.value
    path.write_bytes(b"no image")
    shown.picture.value = upload(path)
    assert "cannot be read as a PNG or JPEG image" in tab.page.value
    Image.new("L", (50, 30), 99).save(path)
    shown.picture.value = upload(path)
    assert len(pictures(shown)) == 1 and "Your image" in tab.page.value
    assert (shown.kind.value, shown.image.value) == (networks.OWN, networks.MINE)
    shown.network.value = "other"
    assert "Your image" in tab.page.value and tab.shown[0].network.name == "other"
    shown.kind.value = networks.RIGHT
    assert "Test image" in tab.page.value
    shown.picture_path.value = str(path)
    assert "Your image" in tab.page.value, "a path does what an upload does"


def test_a_network_of_ones_own_is_taken(shown, tmp_path):
    tab, path = shown.tabs.children[PREDICTION], tmp_path / "net.pt"
    shown.take.click()
    assert "no file yet" in tab.page.value
    torch.save(models.build("digits-cnn", shape=(1, 12, 12), classes=4, width=2).state_dict(), path)
    shown.weights.value = upload(path)
    shown.structure.value, shown.arguments.value, shown.images.value = "digits-cnn", '{"width": 3}', "mnist5k"
    shown.take.click()
    assert "net.pt does not fit digits-cnn" in tab.page.value and shown.network.value == "small"
    shown.arguments.value = '{"width": 2}'
    shown.take.click()
    assert shown.network.value == "net.pt" and "net.pt predicts" in tab.page.value
    shown.network.value = "small"
    shown.network.value = "net.pt"
    assert "net.pt predicts" in tab.page.value


def test_a_repair_follows_from_the_image_chosen(shown):
    shown.companion.value, shown.strength.value = blame.CLEAN, shown.strength.max
    shown.tabs.selected_index = REPAIR
    seen = set()
    for _, position in shown.image.options:
        shown.image.value = position
        seen.add(len(pictures(shown)))
        assert shown.tabs.children[REPAIR].page.value and "Done in" in shown.tabs.children[REPAIR].status.value
    assert 1 in seen
    shown.kind.value = networks.WRONG
    assert "there is no such image" in shown.tabs.children[REPAIR].page.value


def test_a_network_without_the_attack_chosen_before_takes_another(shown, monkeypatch):
    shown.attack.options = [*shown.attack.options, ("Trigger", prediction.TRIGGER)]
    shown.attack.value = prediction.TRIGGER
    tab = shown.tabs.children[PREDICTION]
    assert tab.shown[0].attack == "fgsm_8" == shown.attack.value
    assert (shown.strength.value, shown.unit.value) == prediction.usual_strength("fgsm_8", "smoke")


def test_only_standard_widgets_whose_state_any_front_end_can_read(shown):
    state = dependency_state(shown)
    assert json.loads(json.dumps(state)) and len(state) > 20
    assert {part["model_module"] for part in state.values()} <= {"@jupyter-widgets/base", "@jupyter-widgets/controls"}
    assert ipywidgets.Widget.get_manager_state()["version_major"] == 2

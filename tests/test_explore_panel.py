"""The explorer's session and its widgets, driven without a front end."""

import html
import re

import pytest
from explored import deciding, profile_of, subject

from lib import explore
from lib.explore import attacking, front, panel, slices
from lib.explore.panel import BLAME, LEAST, PATH, PREDICTION, SLICE, Panel

png = panel._png


@pytest.fixture
def session(monkeypatch):
    """A session of two small networks; nothing is trained or loaded."""
    made = {"small": subject(), "other": subject(name="other"), "dynamic": subject(deciding(), "dynamic", side=16)}
    monkeypatch.setattr("lib.explore.session.networks", lambda *_: ["small", "other"])
    monkeypatch.setattr("lib.explore.session.deciders", lambda *_: [])
    monkeypatch.setattr("lib.explore.session.subject_of", lambda scale, name, seed: made[name])
    monkeypatch.setattr(slices, "profile_of", profile_of)
    monkeypatch.setattr(panel, "_png", lambda figure: figure.set_layout_engine("none") or png(figure))
    monkeypatch.setattr(panel, "DPI", 40)
    return explore.Session("smoke")


@pytest.fixture
def shown(session):
    made = Panel(session, session.choice(image=2))
    made.refresh()
    return made


def pictures(page):
    return re.findall(r'src="data:image/png;base64,([^"]+)"', page.value)


def test_what_was_computed_is_remembered(session, monkeypatch):
    calls = []
    real = attacking._craft
    monkeypatch.setattr(attacking, "_craft", lambda *words: calls.append(words[3]) or real(*words))
    choice = session.choice(image=2, attack="deepfool_l2")
    first = session.attacked(choice)
    assert session.attacked(session.choice(image=2, attack="deepfool_l2", strength=1)) is first
    session.sweep(choice)
    session.attacked(session.choice(image=2, attack="deepfool_l2", strength=0.5))
    assert calls == ["deepfool_l2"], "what an attack finds serves every strength"


def test_memory_is_bounded(session, monkeypatch):
    monkeypatch.setattr("lib.explore.session.REMEMBERED", 3)
    for strength in range(1, 6):
        session.attacked(session.choice(image=2, strength=strength))
    assert len(session._kept) == 3


def test_a_choice_is_checked(session):
    with pytest.raises(explore.ExploreError, match="image 99"):
        session.choice(image=99)
    with pytest.raises(ValueError, match="no attack 'x'"):
        session.choice(attack="x")


def test_a_dynamic_network_of_other_data_is_refused(session):
    session.decider = "dynamic"
    session.subject("dynamic").test.__dict__["name"] = "colours"
    with pytest.raises(explore.ExploreError, match="networks dynamic and small are of two data sets"):
        session.path(session.choice())


def test_the_panel_begins_with_the_choice(shown, session):
    assert shown.choice.position == 2
    assert shown.label.value == int(session.subject("small").test.labels[2])
    assert shown.strength.value == attacking.strengths("fgsm_8", "smoke").usual
    assert shown.unit.value == attacking.EPSILON
    assert len(pictures(shown.pages[PREDICTION])) == 1
    assert "Test image 2" in shown.pages[PREDICTION].value
    assert "Done in" in shown.status.value


def test_each_control_brings_another_picture(shown):
    seen = [pictures(shown.pages[PREDICTION])]
    for change in (
        lambda: setattr(shown.strength, "value", 20),
        lambda: setattr(shown.attack, "value", "deepfool_l2"),
        lambda: setattr(shown.image, "value", shown.image.max),
        lambda: setattr(shown.label, "value", next(k for _, k in shown.label.options if k != shown.label.value)),
    ):
        change()
        assert pictures(shown.pages[PREDICTION]) not in seen
        seen.append(pictures(shown.pages[PREDICTION]))
    assert html.unescape(shown.unit.value) == attacking.SHARE and shown.strength.value == 1


def test_only_the_tab_that_is_looked_at_is_computed(shown):
    assert [bool(page.value) for page in shown.pages] == [True, False, False, False]
    shown.tabs.selected_index = SLICE
    assert len(pictures(shown.pages[SLICE])) == 2
    assert shown.layer.options == ("first", "second", "fc") and shown.layer.value == "fc"
    before = pictures(shown.pages[SLICE])
    shown.layer.value = "second"
    assert pictures(shown.pages[SLICE])[0] == before[0] and pictures(shown.pages[SLICE])[1] != before[1]
    shown.strength.value = 30
    assert shown.layer.value == "second", "a layer stays chosen from image to image"
    shown.tabs.selected_index = BLAME
    if pictures(shown.pages[BLAME]):
        assert shown.blamed.options[0] == LEAST
    shown.tabs.selected_index = PATH
    assert "No network with layerwise channel selection" in shown.pages[PATH].value


def test_blame_is_shown_of_the_layer_asked_for(shown):
    shown.strength.value = shown.strength.max
    shown.tabs.selected_index = BLAME
    before = pictures(shown.pages[BLAME])
    assert before, shown.pages[BLAME].value
    chosen = shown.session.blame(shown.choice).chosen
    shown.blamed.value = next(layer for layer in ("first", "second") if layer != chosen)
    assert pictures(shown.pages[BLAME]) not in ([], before)


def test_a_new_network_keeps_its_own_images(shown):
    shown.network.value = "other"
    assert shown.choice.network == "other"
    assert "other says" in shown.pages[PREDICTION].value


def test_an_error_stands_where_the_figure_would_and_is_escaped(shown, monkeypatch):
    def fails(*_):
        raise RuntimeError("no <script>alert(1)</script> here")

    monkeypatch.setattr(shown.session, "attacked", fails)
    shown.strength.value = 7
    assert 'role="alert"' in shown.pages[PREDICTION].value
    assert "&lt;script&gt;" in shown.pages[PREDICTION].value and "<script" not in shown.pages[PREDICTION].value
    assert "Not done" in shown.status.value
    monkeypatch.undo()


def test_pictures_say_what_they_show_and_hostile_names_are_escaped():
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(1, 1))
    plt.close(figure)
    made = panel.page((figure, '"><img src=x onerror=alert(1)>'))
    assert made.count("<img") == 1 and "&quot;&gt;&lt;img" in made
    assert 'alt="' in made


def test_without_a_front_end_a_note_stands_in(session, capsys):
    assert front.show(session, session.choice(image=2), live=False) is None
    assert front.show(session, session.choice(image=2)) is None, "pytest watches no buttons"
    assert isinstance(front.show(session, session.choice(image=2), live=True), Panel)

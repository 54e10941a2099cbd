"""Buttons and sliders before a session. What they show is computed and drawn elsewhere; here it is only wired."""

from __future__ import annotations

import base64
import html
import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from lib.explore import attacking, draw, draw_blame, words
from lib.explore.blame import WITH
from lib.explore.session import Choice, Session

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PREDICTION, SLICE, PATH, BLAME = range(4)
TITLES = ("Prediction", "Slice by layer", "Decision path", "Weights to blame")
LEAST = "(least to blame)"
DPI = 150
_WIDE = {"width": "24em"}


class Panel:
    """The explorer's widgets. Only the tab that is looked at is computed.

    Args:
        session: of a scale.
        choice: what is shown first.

    Attributes:
        widget: the whole, to be displayed.
        network, label, image, attack, strength, layer, blamed, other, tabs: the controls.
        status: a line that says what is being computed, or how long it took.
        pages: one a tab, its figures and words as HTML.
    """

    def __init__(self, session: Session, choice: Choice) -> None:
        self.session = session
        self._still = True  # while the panel itself sets its controls
        style = {"description_width": "7em"}

        def control(kind: type, description: str, **options: Any) -> Any:
            return kind(description=description, style=style, layout=_WIDE, **options)

        names = list(dict.fromkeys([choice.network, *session.networks]))
        self.network = control(widgets.Dropdown, "Network", options=names)
        self.label = control(widgets.Dropdown, "Class")
        self.image = control(widgets.IntSlider, "Image", min=1, max=1, continuous_update=False)
        listed = attacking.ATTACKS | {choice.attack: attacking.ATTACKS.get(choice.attack, choice.attack)}
        shown = [(text, name) for name, text in listed.items()]
        self.attack = control(widgets.Dropdown, "Attack", options=shown, value=choice.attack)
        self.strength = control(widgets.FloatSlider, "Strength", min=0, continuous_update=False, readout_format=".3g")
        self.unit = widgets.HTML()
        self.layer = control(widgets.Dropdown, "Layer")
        self.blamed = control(widgets.Dropdown, "Layer", options=[LEAST])
        self.other = control(widgets.Dropdown, "Compare with", options=list(WITH))
        self.status = widgets.HTML()
        self.pages = [widgets.HTML() for _ in TITLES]
        rows = [[], [self.layer], [], [self.blamed, self.other]]
        self.tabs = widgets.Tab(
            [widgets.VBox([_row(row), page]) for row, page in zip(rows, self.pages, strict=True)], titles=TITLES
        )
        self.widget = widgets.VBox(
            [
                _row([self.network, self.label, self.image]),
                _row([self.attack, self.strength, self.unit]),
                self.status,
                self.tabs,
            ]
        )
        self._set(choice)
        self._still = False
        self._listen()

    @property
    def choice(self) -> Choice:
        """What the controls say now."""
        return Choice(
            self.network.value, self._positions()[self.image.value - 1], self.attack.value, self.strength.value
        )

    def refresh(self) -> None:
        """Compute and draw the tab that is looked at; an error is shown in its place."""
        tab = self.tabs.selected_index or 0
        page = (self._prediction, self._slice, self._path, self._blame)[tab]
        began = time.perf_counter()
        self._say(f"Computing: {TITLES[tab].lower()} …", busy=True)
        try:
            self.pages[tab].value = page(self.choice)
        except Exception as error:  # a callback's error would be lost: the reader sees it where the figure would be
            self.pages[tab].value = f'<p role="alert"><strong>{html.escape(f"{error}")}</strong></p>'
            self._say("Not done: see below.")
            return
        self._say(f"Done in {time.perf_counter() - began:.1f} s.")

    # What the tabs hold

    def _prediction(self, choice: Choice) -> str:
        classes = self.session.subject(choice.network).classes
        attacked = self.session.attacked(choice)
        told = words.of_attack(attacked, classes)
        return page((draw.prediction(attacked, self.session.sweep(choice), classes), told))

    def _slice(self, choice: Choice) -> str:
        found = self.session.slices(choice)
        self._options(self.layer, found.layers, found.largest)
        layer = self.layer.value
        return page(
            (draw.slice_layers(found), words.of_slices(found)),
            (draw.slice_layer(found, layer), words.of_layer(found, layer)),
        )

    def _path(self, choice: Choice) -> str:
        found = self.session.path(choice)
        if found is None:
            return f"<p>{html.escape(words.no_path(self.session.scale))}</p>"
        return page((draw.path(found), words.of_path(found, self.session.subject(choice.network).classes)))

    def _blame(self, choice: Choice) -> str:
        found = self.session.blame(choice, self.other.value)
        told = words.of_blame(found, self.session.subject(choice.network).classes)
        if not found.wrong:
            return f"<p>{html.escape(told)}</p>"
        self._options(self.blamed, [LEAST, *found.votes], LEAST)
        layer = None if self.blamed.value == LEAST else self.blamed.value
        return page((draw_blame.blamed(found, layer), told))

    # The controls

    def _listen(self) -> None:
        def on(control: widgets.Widget, name: str, action: Callable[[], None]) -> None:
            control.observe(lambda _: None if self._still else action(), name)

        on(self.network, "value", self._another_network)
        on(self.label, "value", self._another_class)
        on(self.attack, "value", self._another_attack)
        for control in (self.image, self.strength, self.layer, self.blamed, self.other):
            on(control, "value", self.refresh)
        on(self.tabs, "selected_index", self.refresh)

    def _set(self, choice: Choice) -> None:
        self.network.value = choice.network
        chosen = self.session.subject(choice.network)
        self._classes()
        self.label.value = int(chosen.test.labels[choice.position])
        self._images(choice.position)
        self._strength(choice.strength)

    def _another_network(self) -> None:
        self._say(f"Loading {self.network.value} …", busy=True)
        self._quietly(self._classes)
        self._quietly(self._images)
        self.refresh()

    def _another_class(self) -> None:
        self._quietly(self._images)
        self.refresh()

    def _another_attack(self) -> None:
        self._quietly(self._strength)
        self.refresh()

    def _classes(self) -> None:
        chosen = self.session.subject(self.network.value)
        options = [(name, k) for k, name in enumerate(chosen.classes) if chosen.of_class(k)]
        self._options(self.label, options, options[0][1])

    def _images(self, position: int | None = None) -> None:
        positions = self._positions()
        self.image.max = len(positions)
        if position is not None:
            self.image.value = positions.index(position) + 1

    def _positions(self) -> list[int]:
        return self.session.subject(self.network.value).of_class(self.label.value)

    def _strength(self, value: float | None = None) -> None:
        scope = attacking.strengths(self.attack.value, self.session.scale)
        value = scope.usual if value is None else value
        self.strength.max = max(scope.most, value)
        self.strength.step = scope.step
        self.strength.value = value
        self.unit.value = html.escape(scope.unit)

    def _options(self, control: Any, options: list, usual: Any) -> None:
        """Give a control its options; what was chosen stays where it still can be."""
        known = [option[1] if isinstance(option, tuple) else option for option in options]

        def change() -> None:
            before = control.value
            if tuple(control.options) != tuple(options):
                control.options = options
                control.value = before if before in known else usual

        self._quietly(change)

    def _quietly(self, change: Callable[[], None]) -> None:
        before, self._still = self._still, True
        try:
            change()
        finally:
            self._still = before

    def _say(self, text: str, busy: bool = False) -> None:
        self.status.value = f'<span role="status" aria-busy="{str(busy).lower()}">{html.escape(text)}</span>'


def page(*parts: tuple[Figure, str]) -> str:
    """Figures with their words, as HTML that carries its pictures.

    Args:
        parts: each a figure and what it shows; the words are also the picture's alternative text.
    """
    return "".join(
        f'<figure style="margin:0.5em 0"><img style="width:100%;max-width:{round(7 * DPI)}px;background:white" '
        f'src="data:image/png;base64,{_png(figure)}" alt="{html.escape(told, quote=True)}">'
        f'<figcaption style="max-width:60em">{html.escape(told)}</figcaption></figure>'
        for figure, told in parts
    )


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    return base64.b64encode(buffer.getvalue()).decode()


def _row(controls: list) -> widgets.HBox:
    return widgets.HBox(controls, layout={"flex_flow": "row wrap"})

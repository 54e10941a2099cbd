"""Menus, sliders and tabs before the figures; and the figures one after another where nobody can press a button."""

import base64
import html
import io
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from IPython import display as ipython
from torch import nn
from traitlets import Bunch

from lib import data, models, progress
from lib.explore import blame, decisions, prediction, repair, slices, uploads
from lib.explore.drawing import View
from lib.explore.network import KINDS, MINE, OWN, ExploreError, Network, load, networks
from lib.explore.prediction import Example, attack, attacks_on, usual_strength

DPI = 150
STATIC = (
    "*Nobody can press a button in this copy: the figures below are those of the parameters above. Run the notebook in "
    "JupyterLab (`./run_all.sh lab`) or VS Code for menus and sliders.*"
)


class Explorer(widgets.VBox):
    """The explorer: what to look at is chosen above the tabs; only the open tab is computed.

    Args:
        example: what is shown first; its network is one of `networks`, or one made by hand.

    Attributes:
        network, kind, label, image, attack, strength, unit, layer, companion: the controls.
        picture, weights: files of the reader's own, uploaded, and picture_path, weights_path: their paths in place of
            that; structure, arguments, images: of the own network; take: the button that loads it.
        tabs: their children are of `Tab`.
    """

    def __init__(self, example: Example) -> None:
        first, position = example.network, example.position
        kinds = [kind for kind in KINDS if position in first.positions(example.label, kind)]
        if not kinds:
            raise ExploreError(f"test image {position} is none of those of {first.name} to choose from")
        self._first, self._also, self._made = first, example.attack, {first.name: first}
        self._following = False
        names = dict.fromkeys([first.name, *networks(first.scale, first.seed)])
        images = {"options": _images(first, example.label, kinds[0]), "continuous_update": False}
        self.network = _control(widgets.Dropdown, "Network", options=list(names))
        self.kind = _control(widgets.Dropdown, "Images", options=KINDS, value=kinds[0])
        self.label = _control(widgets.Dropdown, "Class", options=_classes(first, kinds[0]), value=example.label)
        self.image = _control(widgets.SelectionSlider, "Image", value=position, **images)
        self.attack = _control(
            widgets.Dropdown, "Attack", options=_pairs(attacks_on(first, self._also)), value=example.attack
        )
        self.strength = _control(widgets.FloatSlider, "Strength", min=0, continuous_update=False, readout_format=".3g")
        self.unit = widgets.HTML()
        self._follow_attack(example.strength)
        self.layer = _control(widgets.Dropdown, "Layer", options=_layers(first))
        self.companion = _control(widgets.Dropdown, "Compare with", options=blame.COMPANIONS)
        self.picture = widgets.FileUpload(accept=".png,.jpg,.jpeg", description="PNG or JPEG")
        self.weights = widgets.FileUpload(accept=",".join(uploads.ENDINGS), description="Weights")
        paths = {"placeholder": "in place of an upload", "continuous_update": False}
        self.picture_path, self.weights_path = (_control(widgets.Text, "or its path", **paths) for _ in range(2))
        self.structure = _control(widgets.Dropdown, "Structure", options=list(models.ARCHITECTURES))
        self.arguments = _control(widgets.Text, "Arguments", value="{}")
        self.images = _control(widgets.Dropdown, "Test images", options=list(data.SETS))
        self.take = widgets.Button(description="Load the network")
        blamed = {"layer": self.layer, "companion": self.companion}
        tabs = {
            "Prediction": Tab(prediction.view),
            "Slice by layer": Tab(slices.view, layer=self.layer),
            "Decision path": Tab(decisions.view),
            "Weights to blame": Tab(blame.view, **blamed),
            "Repair": Tab(repair.view, **blamed),
        }
        self.tabs = widgets.Tab(list(tabs.values()), titles=tuple(tabs))
        rows = [(self.network, self.kind, self.label, self.image), (self.attack, self.strength, self.unit)]
        mine = {
            "An image of your own": _row((self.picture, self.picture_path)),
            "A network of your own": _row(
                (self.weights, self.weights_path, self.structure, self.arguments, self.images, self.take)
            ),
        }
        accordion = widgets.Accordion(list(mine.values()), titles=tuple(mine))
        super().__init__([*map(_row, rows), accordion, self.tabs])
        for control in (*rows[0], *rows[1][:2], self.layer, self.companion, self.picture, self.picture_path):
            control.observe(self.refresh, "value")
        self.take.on_click(lambda button: self.refresh(Bunch(owner=button)))
        self.tabs.observe(self.refresh, "selected_index")

    def refresh(self, change: Any = None) -> None:
        """Bring the open tab up to date.

        Args:
            change: of a control, as ipywidgets tells it; None: of none.
        """
        if not self._following:  # a control that follows another is no new wish
            changed = None if change is None else change.owner
            self.tabs.children[self.tabs.selected_index].update(lambda: self._example(changed))

    def _example(self, changed: Any) -> Example:
        """What the controls ask for, once they fit together."""
        first, self._following = self._first, True
        try:
            if changed is self.take:
                self._take_network()
            if changed in (self.picture, self.picture_path):
                self.kind.value = OWN
            network = self._made.get(self.network.value) or load(first.scale, self.network.value, first.seed)
            _offer(self.attack, _pairs(attacks_on(network, self._also)))
            if self.attack is changed or self.attack.value != self._of:
                self._follow_attack()
            _offer(self.label, _classes(network, self.kind.value))
            if self.kind.value == OWN:
                network = uploads.own_image(network, _content(self.picture, self.picture_path)[1], self.label.value)
            _offer(self.image, _images(network, self.label.value, self.kind.value))
            _offer(self.layer, _layers(network))
        finally:
            self._following = False
        return attack(network, self.image.value, self.attack.value, self.strength.value)

    def _take_network(self) -> None:
        """Load the reader's own network and choose it."""
        name, content = _content(self.weights, self.weights_path)
        about = (self.structure.value, self.arguments.value, self.images.value, self._first.scale, self._first.seed)
        made = uploads.uploaded(content, name, *about)
        self._made[made.name] = made
        self.network.options = list(dict.fromkeys([*self.network.options, made.name]))
        self.network.value = made.name

    def _follow_attack(self, strength: float | None = None) -> None:
        self._of = self.attack.value
        usual, unit = usual_strength(self._of, self._first.scale)
        value = usual if strength is None else strength
        self.strength.max, self.strength.step = max(2 * usual, value), usual / 20
        self.strength.value, self.unit.value = value, html.escape(unit)


class Tab(widgets.VBox):
    """A tab: its own controls, a line that says how far it is, and figures with captions.

    Args:
        draw: an example and the values of the controls, by name -> what to show.
        controls: name -> widget with a value.

    Attributes:
        status, page: the line and the figures, HTML.
        shown: the example and the values of the controls that the page is of; None for neither.
    """

    def __init__(self, draw: Callable[..., list[View]], **controls: Any) -> None:
        self.draw, self.controls = draw, controls
        self.shown: tuple[Example, dict[str, Any]] | None = None
        self.status, self.page = widgets.HTML(), widgets.HTML()
        super().__init__([_row(controls.values()), self.status, self.page])

    def update(self, example: Callable[[], Example]) -> None:
        """Compute and draw what is not yet shown; an error stands in its place.

        Args:
            example: makes what the controls above the tabs ask for.
        """
        began = time.perf_counter()
        self._say("Computing …", busy=True)
        try:
            chosen = example()
            values = {name: control.value for name, control in self.controls.items()}
            if self.shown != (chosen, values):
                self.page.value = "".join(_figure(view) for view in self.draw(chosen, **values))
                self.shown = (chosen, values)
        except Exception as error:  # a callback's error would be lost: the reader sees it where the figure would be
            self.shown = None
            self.page.value = f'<p role="alert"><strong>{html.escape(str(error) or repr(error))}</strong></p>'
            self._say("Not done: see below.")
        else:
            self._say(f"Done in {time.perf_counter() - began:.1f} s.")

    def _say(self, text: str, busy: bool = False) -> None:
        self.status.value = f'<span role="status" aria-busy="{str(busy).lower()}">{html.escape(text)}</span>'


def show(example: Example, live: bool | None = None) -> Explorer | None:
    """Display the explorer.

    Args:
        example: what it shows first.
        live: whether somebody can press buttons; None: as the kernel finds out. Where nobody can, a note is displayed.
    Returns: the explorer; None where nobody can use it.
    """
    if not (progress.watched() if live is None else live):
        ipython.display(ipython.Markdown(STATIC))
        return None
    explorer = Explorer(example)
    ipython.display(explorer)
    explorer.refresh()
    return explorer


def display(views: Sequence[View]) -> None:
    """Display figures with their captions, as a notebook keeps them."""
    for view in views:
        if view.figure is not None:
            ipython.display(view.figure, metadata={"image/png": {"alt": view.caption}})
        ipython.display(ipython.Markdown(view.caption))


def _figure(view: View) -> str:
    """A figure with its caption as HTML that carries its picture."""
    text = html.escape(view.caption)
    if view.figure is None:
        return f"<p>{text}</p>"
    file = io.BytesIO()
    view.figure.savefig(file, format="png", dpi=DPI, facecolor="white")
    return (
        f'<figure style="margin:0.5em 0"><img style="width:100%;max-width:{7 * DPI}px;background:white" '
        f'src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}" alt="{text}">'
        f'<figcaption style="max-width:60em">{text}</figcaption></figure>'
    )


def _control(kind: type, description: str, **options: Any) -> Any:
    return kind(description=description, style={"description_width": "7em"}, layout={"width": "24em"}, **options)


def _row(controls: Iterable[Any]) -> widgets.HBox:
    return widgets.HBox(list(controls), layout={"flex_flow": "row wrap"})


def _content(upload: widgets.FileUpload, path: widgets.Text) -> tuple[str, bytes]:
    """Name and bytes of the file that was given, by its path or by an upload."""
    if path.value:
        return Path(path.value).name, Path(path.value).read_bytes()
    if not upload.value:
        raise ExploreError(f"no file yet: upload one ({upload.accept}), or give its path on the machine of the kernel")
    return upload.value[0]["name"], bytes(upload.value[0]["content"])


def _pairs(names: dict[str, str]) -> list[tuple[str, Any]]:
    return [(text, name) for name, text in names.items()]


def _classes(network: Network, kind: str) -> list[tuple[str, Any]]:
    return [(name, k) for k, name in enumerate(network.test.classes) if kind == OWN or network.positions(k, kind)]


def _images(network: Network, label: int, kind: str) -> list[tuple[str, Any]]:
    return [("yours" if k == MINE else str(k), k) for k in network.positions(label, kind)]


def _layers(network: Network) -> list[tuple[str, Any]]:
    named = network.model.named_modules()
    layers = [(name, name) for name, part in named if isinstance(part, (nn.Conv2d, nn.Linear))]
    return [("(the most telling)", None), *layers]


def _offer(menu: Any, options: list[tuple[str, Any]]) -> None:
    """Give a menu its options; what was chosen stays where it still can be."""
    chosen, values = menu.value, [value for _, value in options]
    if not values:
        raise ExploreError("there is no such image: the network is right about all, or wrong about all, of its images")
    menu.options = options
    menu.value = chosen if chosen in values else values[0]

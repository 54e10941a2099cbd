"""One image, one attack, looked at with every method: predictions, slices, decision paths, blamed weights.

What `notebooks/00_explore.ipynb` shows. `load` gives a network and its images, `attack` an image and its adversarial.
`prediction`, `slices`, `decisions` and `blame` compute what a method says of the two, remember it, and draw it with
`view`. `show` puts menus and sliders before them, `display` shows them where nobody can press a button.
"""

from lib.explore.network import ExploreError, Network, load
from lib.explore.panel import Explorer, display, show
from lib.explore.prediction import Example, attack

__all__ = ["Example", "ExploreError", "Explorer", "Network", "attack", "display", "load", "show"]

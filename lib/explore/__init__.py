"""One image, one attack, looked at with every method: predictions, slices, decision paths, blamed weights, a repair.

What `notebooks/00_explore.ipynb` shows. `load` gives a network and its images, `own_network` and `own_image` the
reader's own; `attack` an image and its adversarial. `prediction`, `slices`, `decisions`, `blame` and `repair` compute
what a method says of the two, remember it, and draw it with `view`. `show` puts menus and sliders before them,
`display` shows them where nobody can press a button.
"""

from lib.explore.network import ExploreError, Network, load
from lib.explore.panel import Explorer, display, show
from lib.explore.prediction import Example, attack
from lib.explore.uploads import own_image, own_network

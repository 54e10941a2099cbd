"""The seventeen attacks of NNSlicer's detection study, and sets of adversarial images that are made once and kept.

    python -m lib.attacks --scale smoke --network nnslicer-resnet10 --seed 0 --attack fgsm_8

Foolbox 3 has most of the attacks; the others are Foolbox attacks of our own, one file each.
"""

from lib.attacks.adef import ADef
from lib.attacks.boundary import Boundary
from lib.attacks.crafting import Adversarials, attack
from lib.attacks.descent import CarliniWagner, RandomPGD
from lib.attacks.gaussian_blur import GaussianBlur
from lib.attacks.goal import attackable, predictions
from lib.attacks.jsma import JSMA
from lib.attacks.local_search import LocalSearch
from lib.attacks.pointwise import Pointwise
from lib.attacks.sets import Plan, adversarials, candidates, plan
from lib.attacks.single_pixel import SinglePixel
from lib.attacks.suite import SUITE, Attack, AttackError, find, perturbation

"""A network that returns several tensors is refused by every method, with an error that says what is wanted."""

import pytest
import torch

from graph import styles
from lib import attacks, lancet, slicing
from lib.dynamic.errors import DynamicError
from lib.dynamic.scratch.gates import learn_gates
from lib.graph import GraphError
from lib.lancet.errors import LancetError
from lib.robustness.fgsm import fgsm_sweep


class Several(styles.Plain):
    """Logits beside another tensor."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        logits = super().forward(x)
        return (logits, x.mean((1, 2, 3))) if self.how == "tuple" else {"scores": logits, "features": x}


X = styles.images(8)
LABELS = torch.arange(8) % styles.CLASSES
METHODS = {
    "profile": (lambda model, plain: slicing.profile(model, X, LABELS, styles.CLASSES), slicing.SlicingError),
    "slice": (
        lambda model, plain: slicing.slice(
            model, X, slicing.profile(plain, X, plain(X).argmax(1), styles.CLASSES), reference="dataset"
        ),
        slicing.SlicingError,
    ),
    "effective_path": (lambda model, plain: slicing.effective_path(model, X), slicing.SlicingError),
    "locate": (lambda model, plain: lancet.locate(model, X, X.flip(0), LABELS), LancetError),
    "flip": (
        lambda model, plain: lancet.flip(
            model, lancet.locate(plain, X, X.flip(0), plain(X).topk(2).indices[:, 1], layers=["c1"]), X, LABELS
        ),
        LancetError,
    ),
    "learn_gates": (lambda model, plain: learn_gates(model, X, LABELS, epochs=1, batch=4), DynamicError),
    "fgsm_sweep": (lambda model, plain: fgsm_sweep(model, X, LABELS, [0.1]), GraphError),
    "attack by gradients": (lambda model, plain: attacks.attack("fgsm_8", model, X, LABELS), ValueError),
    "attack by decisions": (lambda model, plain: attacks.attack("boundary", model, X, LABELS), ValueError),
    "predictions": (lambda model, plain: attacks.predictions(model, X), GraphError),
}


@pytest.mark.parametrize("how", ["tuple", "dict"])
@pytest.mark.parametrize("method", METHODS)
def test_several_outputs_are_refused(method, how):
    plain = styles.settled(styles.Plain())
    model = Several(how).eval()
    model.load_state_dict(plain.state_dict())
    run, error = METHODS[method]
    with pytest.raises(error, match=rf"returns a {how}.*wrap"):
        run(model, plain)

"""Files that would execute code when they are read in good faith: refused, and made anew, wherever this package looks.

Checkpoints are in test_training_checkpoint.py, weights of a reader's own in lancet/test_own.py, CIFAR-10's batches in
test_data_files.py.
"""

import ast
import pickle
from pathlib import Path

import pytest
import torch
from training_tools import same, state
from zoo_tools import folder, rewritten

from lib import config, store, tensors, zoo
from lib.slicing import NeuronProfile, Slices, SlicingError


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.fixture
def owned(tmp_path):
    """The file that is made where a payload is executed; both forms of one are proved to do so."""
    target = tmp_path / "owned"
    torch.save(Payload(target), tmp_path / "payload")
    for read in (
        lambda: pickle.loads(pickle.dumps(Payload(target))),
        lambda: torch.load(tmp_path / "payload", weights_only=False),
    ):
        read()
        target.unlink()
    return target


@pytest.fixture(params=["raw pickle", "torch.save"])
def payload(request, owned, tmp_path) -> bytes:
    return pickle.dumps(Payload(owned)) if request.param == "raw pickle" else (tmp_path / "payload").read_bytes()


def test_as_a_networks_weights_with_a_card_that_vouches_for_them(house, owned, payload):
    wanted, place = state(zoo.get("plain")), folder("plain")
    (place / "weights.safetensors").write_bytes(payload)
    rewritten(place / "card.json", weights=store.bytes_sha256(payload))
    with pytest.warns(UserWarning, match=r"cannot be used .*made anew"):
        assert same(state(zoo.get("plain")), wanted)
    assert not owned.exists()


def test_as_the_checkpoint_that_a_training_would_go_on_from(house, owned, payload):
    wanted, place = state(zoo.get("plain")), folder("plain")
    (place / "card.json").unlink()
    (place / "checkpoint.pt").write_bytes(payload)
    with pytest.warns(UserWarning, match=r"checkpoint\.pt cannot be used .*done anew"):
        assert same(state(zoo.get("plain")), wanted)
    assert not owned.exists()


def test_as_kept_tensors(tmp_path, owned, payload):
    path = tmp_path / "it"
    path.write_bytes(payload)
    with pytest.raises(ValueError, match="no file of tensors"):
        tensors.read(path)
    for load in (NeuronProfile.load, Slices.load):
        with pytest.raises(SlicingError, match="damaged"):
            load(path)
    assert not owned.exists()


def test_nothing_here_unpickles_what_it_has_not_verified():
    """Every torch.load says weights_only=True; pickle.loads stands once, behind CIFAR-10's published checksums."""
    found = []
    for path in sorted((config.ROOT / "lib").rglob("*.py")):
        for part in ast.walk(ast.parse(path.read_text())):
            if not isinstance(part, ast.Call) or not isinstance(part.func, ast.Attribute):
                continue
            called = ast.unparse(part.func)
            safe = any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in part.keywords)
            if called in ("pickle.load", "pickle.loads", "joblib.load", "pd.read_pickle", "pandas.read_pickle") or (
                called in ("torch.load", "np.load", "numpy.load") and not safe
            ):
                found.append((path.relative_to(config.ROOT).as_posix(), called))
    assert found == [("lib/data/files.py", "pickle.loads")]

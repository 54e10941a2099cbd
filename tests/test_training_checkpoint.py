"""lib.training: a damaged checkpoint is named, and no code in it is run."""

import pickle
from contextlib import suppress

import pytest
import torch
from torch import nn
from training_tools import images, net, recipe

from lib import training
from lib.training import CheckpointError, TrainingError, fit

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def kept(tmp_path):
    """A checkpoint after one of three epochs."""
    path = tmp_path / "checkpoint.pt"
    fit(net(), images(), recipe(), checkpoint=path, until=1)
    return path


class Payload:
    """A pickle that runs code when it is read."""

    def __init__(self, target) -> None:
        self.target = target

    def __reduce__(self):
        return (open, (str(self.target), "w"))


def loaded(path):
    """What a checkpoint holds."""
    return torch.load(path, map_location="cpu", weights_only=True)


def flip_in(path, content: torch.Tensor):
    """Change one bit of a tensor inside the file."""
    whole = bytearray(path.read_bytes())
    place = whole.find(content.numpy().tobytes())
    assert place > 0
    whole[place + 3] ^= 0x40
    path.write_bytes(whole)


def rewrite(path, **changes):
    torch.save({**loaded(path), **changes}, path)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "short of a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("epoch 1"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a flipped bit in a weight": lambda path: flip_in(path, loaded(path)["model"]["0.weight"]),
    "a flipped bit in the momentum": lambda path: flip_in(
        path, loaded(path)["optimizer"]["state"][0]["momentum_buffer"]
    ),
    "a flipped bit in the order": lambda path: flip_in(path, loaded(path)["order"]),
    "another width": lambda path: rewrite(path, model=net(width=5).state_dict()),
    "another network": lambda path: rewrite(path, model=nn.Linear(2, 2).state_dict()),
    "another optimiser": lambda path: rewrite(path, optimizer=torch.optim.SGD([torch.zeros(1)]).state_dict()),
    "another length": lambda path: rewrite(path, total_steps=13),
    "another version": lambda path: rewrite(path, version=training.VERSION + 1),
    "a hook that is not there": lambda path: rewrite(path, hooks=[{}]),
    "nothing in it": lambda path: torch.save({}, path),
    "a list": lambda path: torch.save([1], path),
}


@pytest.mark.parametrize("as_trunk", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named(kept, damage, as_trunk):
    DAMAGES[damage](kept)
    where = {"trunk": kept} if as_trunk else {"checkpoint": kept}
    with pytest.raises(
        TrainingError, match=r"(?s)checkpoint .*checkpoint\.pt cannot be used .*: delete it to"
    ) as raised:
        fit(net(), images(), recipe(), **where)
    assert str(kept) in str(raised.value)
    assert isinstance(raised.value, CheckpointError) and raised.value.path == kept


def test_a_checkpoint_that_is_whole_is_used(kept):
    """The counterpart of the tests around it: what they damage does work."""
    fit(net(), images(), recipe(), checkpoint=kept, hooks=[])
    assert torch.load(kept, weights_only=True)["step"] == 12


@pytest.mark.parametrize("form", ["raw pickle", "zip", "hidden among the weights"])
def test_no_code_in_a_checkpoint_is_run(kept, tmp_path, form):
    target = tmp_path / "owned"
    if form == "raw pickle":
        kept.write_bytes(pickle.dumps(Payload(target)))
    elif form == "zip":
        torch.save(Payload(target), kept)
    else:
        rewrite(kept, history=[Payload(target)])
    with pytest.raises(CheckpointError):
        fit(net(), images(), recipe(), checkpoint=kept)
    assert not target.exists()
    with suppress(RuntimeError):  # the payload is real: a loader that trusts the file runs it
        torch.load(kept, weights_only=False)
    assert target.exists()


def test_a_checkpoint_is_written_whole_or_not_at_all(kept, monkeypatch):
    before = kept.read_bytes()

    def half(state, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match=r"could not write .*checkpoint\.pt: No space left"):
        fit(net(), images(), recipe(), checkpoint=kept)
    assert kept.read_bytes() == before
    assert [path.name for path in kept.parent.iterdir()] == ["checkpoint.pt"]

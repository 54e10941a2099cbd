"""lib.training: resumed and branched training equals the uninterrupted one, bit for bit."""

from types import SimpleNamespace

import pytest
import torch
from training_tools import Diary, Kill, Killed, generator, images, net, recipe, same, state, whole

from lib import training
from lib.robustness.adversarial_training import Pgd
from lib.robustness.low_rank import NuclearNorm
from lib.robustness.magnitude_pruning import GradualPruning
from lib.training import Hook, fit

pytestmark = pytest.mark.usefixtures("one_thread", "each_epoch")


def adversary() -> Hook:
    return Pgd(epsilon=0.05, steps=2)


class OnDevice(Pgd):
    """Random starts from a generator of its own, as on a GPU."""

    def begin(self, run) -> None:
        self.own = generator(7)


def pruning(begin: float = 1.0) -> Hook:
    return GradualPruning(final_sparsity=0.7, begin=begin, end=3.0, every=2)


CASES = {
    "plain": ({}, []),
    "augmented": ({"augment": ("crop", "flip")}, []),
    "bfloat16": ({"precision": "bfloat16", "channels_last": True}, []),
    "adamw": ({"optimizer": "adamw", "learning_rate": 0.01}, []),
    "step schedule": ({"schedule": "step"}, []),
    "pruning": ({"augment": ("crop",)}, [pruning]),
    "pruning from the start": ({}, [lambda: pruning(0.0)]),
    "pruning with adamw": ({"optimizer": "adamw", "learning_rate": 0.01}, [pruning]),
    "nuclear norm": ({}, [lambda: NuclearNorm(0.01, every=3)]),
    "adversarial": ({"precision": "bfloat16"}, [adversary]),
    "adversarial on a device": ({"augment": ("crop",)}, [lambda: OnDevice(epsilon=0.05)]),
    "several": ({"augment": ("flip",), "optimizer": "adamw", "temperature": 5.0}, [adversary, pruning]),
}
EPOCHS, PER_EPOCH = 4, 4


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("killed", [PER_EPOCH, PER_EPOCH + 2, 3 * PER_EPOCH + 1, EPOCHS * PER_EPOCH])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, case, killed):
    settings, made = CASES[case]
    asked, data, path = recipe(epochs=EPOCHS, **settings), images(), tmp_path / "checkpoint.pt"

    def run(model, kill=None, **more):
        hooks = [*(make() for make in made), Kill(kill)]
        return fit(model, data, asked, seed=1, hooks=hooks, **more), [hook.state() for hook in hooks]

    wanted, broken, resumed = net(dropout=0.3), net(dropout=0.3), net(dropout=0.3, seed=9)
    history, states = run(wanted)
    with pytest.raises(Killed):
        run(broken, kill=killed, checkpoint=path)
    assert path.exists() == (killed > PER_EPOCH)
    if not path.exists():
        resumed = net(dropout=0.3)  # killed in its first epoch: from the start
    again, states_again = run(resumed, checkpoint=path)
    assert same(state(resumed), state(wanted))
    assert whole(again) == whole(history) and len(again) == EPOCHS
    for one, other in zip(states, states_again, strict=True):
        assert same(one, other)


def test_a_training_that_was_killed_after_every_epoch(tmp_path):
    asked, data, path = recipe(epochs=4, augment=("crop", "flip")), images(), tmp_path / "checkpoint.pt"
    wanted, model = net(dropout=0.3), net(dropout=0.3)
    fit(wanted, data, asked, hooks=[Kill()])
    for step in (5, 9, 13):
        with pytest.raises(Killed):
            fit(net(dropout=0.3), data, asked, hooks=[Kill(step)], checkpoint=path)
    fit(model, data, asked, hooks=[Kill(12)], checkpoint=path)  # step 12 is done and not done again
    assert same(state(model), state(wanted))


@pytest.fixture
def clock(monkeypatch):
    """Training's clock, set by hand."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(training.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 60.0)
    return now


class Pass(Hook):
    """Each epoch takes that many seconds of the clock."""

    def __init__(self, clock, *seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def step(self, run) -> None:
        if run.step % PER_EPOCH == 0:
            self.clock.seconds += self.seconds[run.epoch - 1]


@pytest.mark.parametrize(
    ("seconds", "until", "wanted"),
    [
        ([1] * 8, None, [8]),
        ([1] * 8, 3, [3]),
        ([61] * 8, None, list(range(1, 9))),
        ([25] * 8, None, [3, 6, 8]),
        ([59, 1, 59, 59, 1, 1, 1, 1], None, [2, 4, 8]),
        ([10, 200, 10, 10, 10, 10, 10, 10], None, [2, 8]),
    ],
)
def test_a_checkpoint_a_minute_and_one_at_the_end(tmp_path, monkeypatch, clock, seconds, until, wanted):
    written, save = [], training.save_checkpoint

    def noted(run, *rest):
        written.append(run.epoch)
        save(run, *rest)

    monkeypatch.setattr(training, "save_checkpoint", noted)
    fit(net(), images(), recipe(epochs=8), hooks=[Pass(clock, *seconds)], checkpoint=tmp_path / "c.pt", until=until)
    assert written == wanted


def test_a_training_killed_between_two_checkpoints(tmp_path, clock):
    """Of eight epochs of 25 s the third and the sixth are kept: killed in the sixth, it goes on after the third."""
    asked, data, path = recipe(epochs=8, augment=("crop", "flip")), images(), tmp_path / "checkpoint.pt"
    wanted, model = net(dropout=0.3), net(dropout=0.3, seed=9)
    hooks = [Pass(clock, *[25.0] * 8)]
    history = fit(wanted, data, asked, hooks=[*hooks, Kill()])
    with pytest.raises(Killed):
        fit(net(dropout=0.3), data, asked, hooks=[*hooks, Kill(5 * PER_EPOCH + 2)], checkpoint=path)
    assert torch.load(path, weights_only=True)["step"] == 3 * PER_EPOCH
    again = fit(model, data, asked, hooks=[*hooks, Kill(3 * PER_EPOCH)], checkpoint=path)
    assert same(state(model), state(wanted)) and whole(again) == whole(history)


def test_a_finished_checkpoint_gives_the_network_without_a_step(tmp_path):
    path, data = tmp_path / "checkpoint.pt", images()
    first, again = net(), net(seed=1)
    fit(first, data, recipe(), checkpoint=path, hooks=[Kill()])
    history = fit(again, data, recipe(), checkpoint=path, hooks=[Kill(1)])
    assert same(state(first), state(again)) and len(history) == 3


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adamw", "learning_rate": 0.01}, {"precision": "bfloat16"}])
@pytest.mark.parametrize("killed", [None, 14])
def test_a_branch_equals_training_from_scratch_bit_for_bit(tmp_path, settings, killed):
    asked, data = recipe(epochs=EPOCHS, augment=("crop", "flip"), **settings), images()
    trunk, path = tmp_path / "trunk.pt", tmp_path / "branch.pt"

    def hooks(kill=None):
        return [GradualPruning(final_sparsity=0.8, begin=2, end=3.5, every=3), Kill(kill)]

    scratch, shared, branch = net(dropout=0.3), net(dropout=0.3), net(dropout=0.3, seed=5)
    history = fit(scratch, data, asked, seed=2, hooks=hooks())
    assert len(fit(shared, data, asked, seed=2, checkpoint=trunk, until=2)) == 2
    assert not same(state(shared), state(scratch))
    if killed:
        with pytest.raises(Killed):
            fit(branch, data, asked, seed=2, hooks=hooks(killed), checkpoint=path, trunk=trunk)
        branch = net(dropout=0.3, seed=6)
    before = trunk.read_bytes()
    again = fit(branch, data, asked, seed=2, hooks=hooks(), checkpoint=path, trunk=trunk)
    assert same(state(branch), state(scratch))
    assert whole(again) == whole(history)
    assert trunk.read_bytes() == before  # others branch off it too


def test_a_trunk_goes_on_to_the_network_that_an_unbroken_training_gives(tmp_path):
    asked, data, trunk = recipe(augment=("crop",)), images(), tmp_path / "trunk.pt"
    unbroken, start, rest = net(), net(), net(seed=1)
    fit(unbroken, data, asked)
    fit(start, data, asked, checkpoint=trunk, until=1)
    fit(rest, data, asked, trunk=trunk)
    assert same(state(rest), state(unbroken))


def test_hooks_end_only_when_training_does(tmp_path):
    notes: list[str] = []
    fit(net(), images(), recipe(), hooks=[Diary("a", notes)], until=2)
    assert not any("end" in note for note in notes)
    fit(net(), images(), recipe(), hooks=[Diary("a", notes)], until=7)
    assert notes[-1] == "a end 3"

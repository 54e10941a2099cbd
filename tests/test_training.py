"""lib.training: against a plain loop, and resumed, branched and seeded training bit for bit."""

import itertools
import pickle
from dataclasses import replace

import pytest
import torch
from tiny import images, net, recipe, same, state
from torch import nn
from torch.nn import functional as F

from lib import training
from lib.data import ImageSet
from lib.robustness.adversarial_training import FgsmRs
from lib.robustness.low_rank import NuclearNorm
from lib.robustness.magnitude_pruning import GradualPruning
from lib.training import Batches, CheckpointError, Hook, TrainingError, fit

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Killed(Exception):
    """Stands for the end of the process."""


class Kill(Hook):
    """Raises after that many steps."""

    def __init__(self, after: int | None = None) -> None:
        self.after = after

    def step(self, run) -> None:
        if run.step == self.after:
            raise Killed


def whole(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """A history without what two runs cannot share."""
    return [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in history]


# ------------------------------------------------------------------------------------------ the loop itself


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_equals_a_plain_loop_bit_for_bit(optimizer):
    """Cross-entropy of logits / T, the schedule, the optimiser, the order: written out here, and equal."""
    asked = recipe(optimizer=optimizer, learning_rate=0.05, temperature=2.0, label_smoothing=0.1, batch=12)
    data, trained, plain = images(), net(), net()
    history = fit(trained, data, asked, seed=5)
    if optimizer == "sgd":
        steps = torch.optim.SGD(plain.parameters(), lr=1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    else:
        steps = torch.optim.AdamW(plain.parameters(), lr=1, weight_decay=5e-4)
    order, step, losses = generator(5), 0, []
    for _ in range(3):
        shuffled = torch.randperm(40, generator=order)
        for batch in shuffled[:36].split(12):
            up = (step + 1) / 1.8
            steps.param_groups[0]["lr"] = 0.05 * (up if up <= 1 else (9 - step) / (9 - 1.8 + 1))
            logits = plain(data.images[batch].float() / 255)
            loss = F.cross_entropy(logits / 2.0, data.labels[batch], label_smoothing=0.1)
            steps.zero_grad()
            loss.backward()
            steps.step()
            step += 1
            losses.append(loss.item())
    assert same(state(trained), state(plain))
    assert [epoch["loss"] for epoch in history] == pytest.approx([sum(losses[k : k + 3]) / 3 for k in (0, 3, 6)])
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3]
    assert not trained.training


def test_it_learns():
    data, model = images(200), net()
    history = fit(model, data, recipe(epochs=6, learning_rate=0.2, precision="bfloat16", channels_last=True))
    assert history[0]["accuracy"] < history[-1]["accuracy"]
    assert training.accuracy(model, images(100, seed=1)) > 0.9


def test_one_seed_gives_the_same_bytes_and_another_others():
    data, asked = images(), recipe(augment=("crop", "flip"), precision="bfloat16")

    def trained(seed):
        model = net(dropout=0.5)
        return state(model), whole(fit(model, data, asked, seed=seed)), state(model)

    (before, history, first), (_, again, second), (_, elsewhere, other) = trained(3), trained(3), trained(4)
    assert same(first, second) and history == again
    assert not same(first, other) and history != elsewhere
    assert not same(before, first)


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    fit(net(dropout=0.5), images(), recipe(augment=("crop",)))
    assert torch.equal(before, torch.get_rng_state())


class Rates(Hook):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def step(self, run) -> None:
        self.seen.append(run.optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"schedule": "onecycle", "warmup": 0.25}, [1 / 2, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]),
        ({"schedule": "onecycle", "warmup": 0.0}, [8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9]),
        ({"schedule": "onecycle", "warmup": 0.3}, [1 / 2.4, 2 / 2.4, *(k / 6.6 for k in (6, 5, 4, 3, 2, 1))]),
        ({"schedule": "step"}, [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        ({"schedule": "constant"}, [1] * 8),
    ],
)
def test_schedules_by_hand(settings, wanted):
    rates = Rates()
    fit(net(), images(), recipe(epochs=2, learning_rate=0.3, **settings), hooks=[rates])
    assert rates.seen == pytest.approx([0.3 * share for share in wanted])


class Diary(Hook):
    """Notes every call."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def begin(self, run):
        self.notes.append(f"{self.name} begin {run.step}/{run.total_steps} of {run.steps_per_epoch}")

    def images(self, run, images, labels):
        self.notes.append(f"{self.name} images {len(images)}")
        return images + 1  # the next hook, and the network, see it

    def loss(self, run, loss, logits, labels):
        self.notes.append(f"{self.name} loss {run.step}")
        return 2 * loss

    def step(self, run):
        self.notes.append(f"{self.name} step {run.step}")

    def end(self, run):
        self.notes.append(f"{self.name} end {run.epoch}")


def test_hooks_are_called_in_order():
    notes: list[str] = []
    fit(net(), images(20), recipe(epochs=1), hooks=[Diary("a", notes), Diary("b", notes)])
    step = [["a images 10", "b images 10", f"a loss {k}", f"b loss {k}", f"a step {k + 1}", f"b step {k + 1}"] for k in (0, 1)]
    assert notes == ["a begin 0/2 of 2", "b begin 0/2 of 2", *step[0], *step[1], "a end 1", "b end 1"]


def test_what_hooks_return_is_what_trains():
    class Stranger(Hook):
        def images(self, run, images, labels):
            return 1 - images

        def loss(self, run, loss, logits, labels):
            return 3 * loss

    class Tripled(nn.CrossEntropyLoss):
        pass

    data, asked = images(), recipe(epochs=1, schedule="constant", learning_rate=0.01)
    hooked, plain, twin = net(), net(), net()
    fit(hooked, data, asked, hooks=[Stranger()])
    mirrored = replace(data, images=255 - data.images)
    fit(plain, mirrored, replace(asked, learning_rate=0.03, weight_decay=5e-4 / 3))  # the same steps, for SGD
    fit(twin, data, asked)
    for name, value in state(hooked).items():
        assert torch.allclose(value, state(plain)[name], atol=1e-5), name
    assert not torch.allclose(hooked[0].weight, twin[0].weight, atol=1e-5)


class Spoil(Hook):
    """A loss that is not a number, from one step on."""

    def __init__(self, step: int) -> None:
        self.at = step

    def images(self, run, images, labels):
        return images * float("nan") if run.step == self.at else images


@pytest.mark.parametrize(("at", "step", "epoch"), [(0, 4, 1), (3, 4, 1), (4, 8, 2), (11, 12, 3)])
def test_a_loss_that_is_not_a_number_stops_training(tmp_path, at, step, epoch):
    message = rf"the training loss is nan at step {step} of 12 \(epoch {epoch}\): lower learning_rate \(now 0\.25\)"
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(TrainingError, match=message):
        fit(net(), images(), recipe(learning_rate=0.25), hooks=[Spoil(at)], checkpoint=path)
    assert path.exists() == (epoch > 1)
    if path.exists():  # what was kept is the last good epoch
        kept = torch.load(path, weights_only=True)
        assert kept["step"] == 4 * (epoch - 1)
        assert all(torch.isfinite(value).all() for value in kept["model"].values())


def test_a_rate_that_is_far_too_high_is_noticed_within_fifty_steps():
    with pytest.raises(TrainingError, match=r"at step 50 of 100 \(epoch 1\): lower learning_rate \(now 1e\+25\)"):
        fit(net(), images(1000), recipe(epochs=1, learning_rate=1e25, schedule="constant"))


# --------------------------------------------------------------------------------------- resume and branch


def adversary() -> Hook:
    return FgsmRs(epsilon=0.05)


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
    for epoch in range(1, 5):
        with pytest.raises(Killed):
            fit(model, data, asked, hooks=[Kill(4 * epoch if epoch == 1 else 4 * epoch - 3)], checkpoint=path)
            raise AssertionError
        model = net(dropout=0.3, seed=0)
    fit(model, data, asked, hooks=[Kill()], checkpoint=path)
    assert same(state(model), state(wanted))


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


# ------------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_augmentation_yields_true_crops_and_flips(channels, flip, kind):
    """Every image that comes out is found among all crops and mirror images of its source, by brute force."""
    shape, pad = (channels, 8, 16), 2
    source = images(6, shape, classes=6)
    source = replace(source, labels=torch.arange(6))  # the label tells which image it was
    if kind == "float":
        source = replace(source, images=source.images.float() / 255)
    asked = recipe(batch=6, augment=("crop", "flip") if flip else ("crop",))
    batches = Batches(source, asked, CPU, generator())
    assert batches.packed == (channels in (3, 4) and kind == "uint8")
    padded = F.pad(source.float(), (pad,) * 4)
    seen = set()
    for _ in range(60):
        ((batch, labels),) = batches.epoch()
        assert batch.dtype == torch.float32 and batch.shape == (6, *shape) and batch.is_contiguous()
        for image, label in zip(batch, labels.tolist(), strict=True):
            fits = [
                (top, left, mirrored)
                for top, left, mirrored in itertools.product(range(2 * pad + 1), range(2 * pad + 1), (False, True))
                if torch.equal(_cut(padded[label], top, left, mirrored, (8, 16)), image)
            ]
            assert len(fits) == 1
            seen.add(fits[0])
    assert {fit[0] for fit in seen} == {fit[1] for fit in seen} == set(range(2 * pad + 1))
    assert {fit[2] for fit in seen} == ({False, True} if flip else {False})


def _cut(image, top, left, mirrored, size):
    cut = image[:, top : top + size[0], left : left + size[1]]
    return cut.flip(2) if mirrored else cut


def test_crops_and_flips_are_even():
    """2,000 draws: each of nine offsets a ninth of the time, mirrored half of the time, and independent."""
    source = ImageSet(torch.zeros(2000, 1, 8, 8, dtype=torch.uint8), torch.zeros(2000, dtype=torch.long), ("a",), "r", "t")
    source.images[:, 0, 3, 2] = 255  # one bright pixel tells all
    asked = recipe(batch=2000, augment=("crop", "flip"))
    ((batch, _),) = Batches(source, asked, CPU, generator()).epoch()
    rows, columns = torch.where(batch[:, 0] > 0)[1:]
    assert torch.bincount(rows)[[2, 3, 4]].tolist() == pytest.approx([667] * 3, abs=90)
    plain = torch.isin(columns, torch.tensor([1, 2, 3]))
    assert plain.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(plain, ~torch.isin(columns, torch.tensor([4, 5, 6])))
    assert (rows == 3)[plain].float().mean().item() == pytest.approx(1 / 3, abs=0.06)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("augment", [(), ("crop",), ("flip",), ("crop", "flip")])
def test_packed_pixels_equal_unpacked_ones(augment, channels_last):
    source = images(32, (3, 16, 16))
    asked = recipe(batch=8, augment=augment, channels_last=channels_last)
    packed = Batches(source, asked, CPU, generator(7))
    plain = Batches(replace(source, images=source.images.float() / 255), asked, CPU, generator(7))
    assert packed.packed and not plain.packed
    for (one, labels), (other, others) in zip(packed.epoch(), plain.epoch(), strict=True):
        assert torch.equal(one, other) and torch.equal(labels, others)
        last = torch.channels_last if channels_last else torch.contiguous_format
        assert one.is_contiguous(memory_format=last)


def test_without_augmentation_images_are_as_they_were():
    source = images(20)
    for batch, labels in Batches(source, recipe(), CPU, generator()).epoch():
        for image, label in zip(batch, labels, strict=True):
            matches = (source.float() == image).flatten(1).all(1)
            assert source.labels[matches].tolist() == [label]


@pytest.mark.parametrize(("count", "batch", "sizes"), [(40, 10, [10] * 4), (47, 10, [10] * 4), (7, 10, [7]), (10, 10, [10])])
def test_a_last_batch_that_is_not_full_is_left_out_unless_it_is_the_only_one(count, batch, sizes):
    source = replace(images(count), labels=torch.arange(count), classes=tuple(map(str, range(count))))
    batches = Batches(source, recipe(batch=batch), CPU, generator())
    epochs = [list(batches.epoch()) for _ in range(2)]
    orders = [[label for _, labels in epoch for label in labels.tolist()] for epoch in epochs]
    assert [[len(images) for images, _ in epoch] for epoch in epochs] == [sizes] * 2
    assert len(batches) == len(sizes)
    for order in orders:
        assert len(set(order)) == len(order) == sum(sizes)
    assert orders[0] != orders[1]


def test_floating_images_come_as_float32():
    source = replace(images(10), images=images(10).images.double() / 255)
    ((batch, _),) = Batches(source, recipe(), CPU, generator()).epoch()
    assert batch.dtype == torch.float32


def test_images_that_stay_on_disk_are_refused(monkeypatch):
    monkeypatch.setattr(ImageSet, "in_memory", property(lambda self: False))
    with pytest.raises(TrainingError, match=r"ImageSet\(random train: .*stays on disk.*train_limit"):
        fit(net(), images(), recipe())


# -------------------------------------------------------------------------------------- damaged checkpoints


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


def flip_in(path, content: torch.Tensor):
    """Change one bit of a tensor inside the file."""
    whole = bytearray(path.read_bytes())
    place = whole.find(content.numpy().tobytes())
    assert place > 0
    whole[place + 3] ^= 0x40
    path.write_bytes(whole)


def rewrite(path, **changes):
    torch.save({**torch.load(path, weights_only=True), **changes}, path)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "short of a byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("epoch 1"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a flipped bit in a weight": lambda path: flip_in(path, torch.load(path, weights_only=True)["model"]["0.weight"]),
    "a flipped bit in the momentum": lambda path: flip_in(
        path, torch.load(path, weights_only=True)["optimizer"]["state"][0]["momentum_buffer"]
    ),
    "a flipped bit in the order": lambda path: flip_in(path, torch.load(path, weights_only=True)["order"]),
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
    with pytest.raises(TrainingError, match=r"checkpoint .*checkpoint\.pt cannot be used .*: delete it to") as raised:
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
    with open(kept, "rb") as handle:  # the payload is real: the usual loader runs it
        torch.load(handle, weights_only=False)
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


# --------------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("training_mode", [False, True])
def test_predictions(training_mode):
    model, data = net(dropout=0.5), images(23)
    model.train(training_mode)
    logits = training.predict(model, data, batch=10)
    assert model.training == training_mode
    assert logits.shape == (23, 4) and logits.dtype == torch.float32 and not logits.requires_grad
    model.eval()
    assert torch.allclose(logits, model(data.float()), atol=1e-6)
    share = (logits.argmax(1) == data.labels).double().mean().item()
    assert training.accuracy(model, data, batch=7) == pytest.approx(share)
    assert 0 < share < 1

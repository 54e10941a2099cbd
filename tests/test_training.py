"""lib.training: the loop against a plain one, schedules by hand, seeds, hooks, losses that are not finite."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from training_tools import Diary, generator, images, net, recipe, same, state, whole

from lib import training
from lib.training import Hook, TrainingError, fit

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_equals_a_plain_loop_bit_for_bit(optimizer):
    """Cross-entropy of logits / T, the schedule, the optimiser, the order: written out here, and equal."""
    asked = recipe(optimizer=optimizer, learning_rate=0.05, temperature=2.0, label_smoothing=0.1, batch=12)
    data, trained, plain = images(), net(), net()
    history = fit(trained, data, asked, seed=5, device="cpu")
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
    history = fit(model, data, recipe(epochs=10, precision="bfloat16", channels_last=True))
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


def test_hooks_are_called_in_order():
    notes: list[str] = []
    fit(net(), images(20), recipe(epochs=1), hooks=[Diary("a", notes), Diary("b", notes)])
    step = [
        ["a images 10", "b images 10", f"a loss {k}", f"b loss {k}", f"a step {k + 1}", f"b step {k + 1}"]
        for k in (0, 1)
    ]
    assert notes == ["a begin 0/2 of 2", "b begin 0/2 of 2", *step[0], *step[1], "a end 1", "b end 1"]


def test_what_hooks_return_is_what_trains():
    class Stranger(Hook):
        def images(self, run, images, labels):
            return 1 - images

        def loss(self, run, loss, logits, labels):
            return 3 * loss

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
def test_a_loss_that_is_not_a_number_stops_training(tmp_path, each_epoch, at, step, epoch):
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


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_optimiser_is_fused_on_cuda_alone(monkeypatch, optimizer):
    """On a CPU the fused form works too, and rounds otherwise."""
    asked = recipe(optimizer=optimizer, learning_rate=0.02, weight_decay=0.01)
    forms = {name: training._optimizer(net(), asked, torch.device(name)) for name in ("cpu", "cuda")}
    assert [form.defaults["fused"] for form in forms.values()] == [None, True]
    given = [{k: v for k, v in form.defaults.items() if k != "fused"} for form in forms.values()]
    assert given[0] == given[1] and (given[0]["lr"], given[0]["weight_decay"]) == (0.02, 0.01)


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

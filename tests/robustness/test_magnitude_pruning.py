"""The schedule by hand, masks against sorting by hand, and the hook inside the training loop."""

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from lib import training
from lib.config import Recipe
from lib.models.layers import weight_layers
from lib.robustness import GradualPruning, schedule, sparsity
from lib.robustness.magnitude_pruning import grow_mask, zero_where_masked
from robustness.nets import image_set, small

RECIPE = Recipe(arch="digits-cnn", data="mnist5k", epochs=4, batch=16, learning_rate=0.02, precision="float32")
ADAMW = Recipe(
    arch="digits-cnn", data="mnist5k", epochs=4, batch=16, optimizer="adamw", learning_rate=0.01, precision="float32"
)


@pytest.mark.parametrize(
    ("t", "expected"),
    # s_t = 0.8 - 0.8 (1 - (t - 10) / 20)^3
    [(0, 0.0), (10, 0.0), (15, 0.4625), (20, 0.7), (25, 0.7875), (30, 0.8), (99, 0.8)],
)
def test_schedule_by_hand(t, expected):
    assert schedule(t, begin=10, every=5, updates=4, final=0.8) == pytest.approx(expected, abs=1e-12)


def test_schedule_from_an_initial_sparsity():
    assert schedule(0, 0, 1, 2, final=0.9, initial=0.5) == 0.5
    assert schedule(1, 0, 1, 2, final=0.9, initial=0.5) == pytest.approx(0.9 - 0.4 / 8)


def test_mask_takes_the_smallest_and_only_grows():
    weight = torch.tensor([[0.5, -0.1, 0.3], [-0.4, 0.2, 0.6]])
    first = grow_mask(weight, torch.ones_like(weight, dtype=torch.bool), 1 / 3)
    assert first.tolist() == [[True, False, True], [True, False, True]]
    weight[0, 1] = 9.0  # masked weights stay masked, whatever became of them
    second = grow_mask(weight, first, 0.5)
    assert second.tolist() == [[True, False, False], [True, False, True]]
    assert grow_mask(weight, second, 0.2) is second


def test_mask_counts_are_exact_among_equal_weights():
    weight = torch.zeros(10, 10)
    mask = torch.ones_like(weight, dtype=torch.bool)
    for share, zeros in [(0.33, 33), (0.5, 50), (0.95, 95)]:
        mask = grow_mask(weight, mask, share)
        assert int((~mask).sum()) == zeros


@pytest.mark.parametrize("recipe", [RECIPE, ADAMW])
def test_training_ends_at_the_exact_sparsity_with_masked_buffers(recipe):
    seen = []

    class Watch(training.Hook):
        def step(self, run):
            seen.append(sparsity(run.model)["3"])
            for name, mask in hook.masks.items():
                weight = run.model.get_submodule(name).weight
                buffers = [b for b in run.optimizer.state[weight].values() if b.shape == weight.shape]
                assert buffers
                assert not any(b[~mask].any() for b in (weight.detach(), *buffers))

    hook, model = GradualPruning(0.9, begin=1, end=3, every=2), small()
    training.fit(model, image_set(), recipe, hooks=[hook, Watch()], device="cpu")
    for name, share in sparsity(model).items():
        size = model.get_submodule(name).weight.numel()
        assert round(share * size) == round(0.9 * size)
    # 4 steps an epoch: masks at steps 4 (none yet), 6, 8, 10, 12
    size = 12 * 8 * 9
    expected = [round((0.9 - 0.9 * (1 - k / 4) ** 3) * size) / size for k in range(5)]
    assert seen == pytest.approx(
        [0] * 5 + [expected[1]] * 2 + [expected[2]] * 2 + [expected[3]] * 2 + [expected[4]] * 5
    )


def weights_after(epochs, hooks, tmp_path=None, until=None, trunk=None, name="c.pt"):
    model = small()
    checkpoint = tmp_path / name if tmp_path else None
    training.fit(model, image_set(), RECIPE, hooks=hooks, checkpoint=checkpoint, until=until, trunk=trunk, device="cpu")
    return model.state_dict()


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def test_inert_before_it_begins():
    plain = weights_after(4, [], until=2)
    assert same(plain, weights_after(4, [GradualPruning(0.9, begin=2, end=4)], until=2))
    assert not same(plain, weights_after(4, [GradualPruning(0.9, begin=1, end=4)], until=2))


def test_resume_and_branch_equal_an_uninterrupted_run(tmp_path):
    def hook():
        return [GradualPruning(0.8, initial_sparsity=0.1, begin=2, end=4, every=3)]

    whole = weights_after(4, hook())
    weights_after(4, hook(), tmp_path, until=3)
    assert same(whole, weights_after(4, hook(), tmp_path))
    weights_after(4, [], tmp_path, until=2, name="trunk.pt")
    assert same(whole, weights_after(4, hook(), tmp_path, trunk=tmp_path / "trunk.pt", name="branch.pt"))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_masked_entries_become_the_zero_that_filling_gives(kind):
    """Byte for byte, also of negative numbers, whose product with 0 is the other zero."""
    torch.manual_seed(0)
    shapes = [(7,), (3, 5), (4, 2, 3, 3)]
    tensors = [torch.randn(shape).to(kind) for shape in shapes]
    masks = [torch.rand(shape) < 0.5 for shape in shapes]
    filled = [tensor.masked_fill(~mask, 0.0) for tensor, mask in zip(tensors, masks, strict=True)]
    zero_where_masked(tensors, [mask.to(kind) for mask in masks])
    assert [t.view(torch.uint8).tolist() for t in tensors] == [t.view(torch.uint8).tolist() for t in filled]
    zero_where_masked([], [])


def test_masks_taken_back_from_a_checkpoint_are_applied_on_the_device(monkeypatch):
    """A device that is not there: weights, momentum and masks meet on it in one launch, none on the CPU."""
    met, multiply = [], torch._foreach_mul_

    def watched(tensors, factors):
        pairs = list(zip(tensors, factors, strict=True))
        assert all((a.dtype, a.shape) == (b.dtype, b.shape) for a, b in pairs)
        met.append([kind.device.type for pair in pairs for kind in pair])
        multiply(tensors, factors)

    monkeypatch.setattr(torch, "_foreach_mul_", watched)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        with torch.device("cuda"):
            model, hook = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5)), GradualPruning(0.5)
        optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        hook._layers = weight_layers(model)
        masks = {name: torch.ones(layer.weight.shape, dtype=torch.bool) for name, layer in hook._layers.items()}
        hook.load_state({name: mask.to("cpu") for name, mask in masks.items()})
        hook._apply(optimizer)
    assert met == [["cuda"] * 4 * len(masks)]


@pytest.mark.parametrize("recipe", [RECIPE, ADAMW])
def test_the_hook_masks_as_filling_after_every_step_does(recipe):
    """Against a hook that fills by the same masks, tensor by tensor: weights and buffers, byte for byte."""

    class Fill(GradualPruning):
        def _apply(self, optimizer):
            with torch.no_grad():
                for name, mask in self.masks.items():
                    weight = self._layers[name].weight
                    for held in (weight, *optimizer.state.get(weight, {}).values()):
                        if held.shape == weight.shape:
                            held.masked_fill_(~mask, 0.0)

    states = []
    for kind in (GradualPruning, Fill):
        model = small()
        training.fit(model, image_set(), recipe, hooks=[kind(0.9, begin=0, end=3, every=2)], device="cpu")
        states.append(b"".join(value.numpy().tobytes() for value in model.state_dict().values()))
    assert states[0] == states[1]


def test_pruning_from_the_first_step_on():
    seen = []

    class First(training.Hook):
        def images(self, run, images, labels):
            seen.append(sparsity(run.model)["3"])
            return images

    training.fit(small(), image_set(), RECIPE, hooks=[GradualPruning(0.5, 0.25, 0, 4), First()], device="cpu")
    assert seen[0] == 0.25


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"final_sparsity": 1.0}, "final_sparsity < 1"),
        ({"final_sparsity": 0.5, "initial_sparsity": 0.6}, "initial_sparsity"),
        ({"final_sparsity": 0.5, "begin": 2, "end": 2}, "begin < end"),
        ({"final_sparsity": 0.5, "every": 0}, "every"),
    ],
)
def test_refuses_settings(arguments, words):
    with pytest.raises(ValueError, match=words):
        GradualPruning(**arguments)


def test_refuses_what_the_run_does_not_allow(tmp_path):
    with pytest.raises(ValueError, match="after the run's last step 16"):
        weights_after(4, [GradualPruning(0.5, begin=2, end=9)])
    weights_after(4, [], tmp_path, until=3, name="trunk.pt")
    with pytest.raises(ValueError, match="before the step 12"):
        weights_after(4, [GradualPruning(0.5, begin=2, end=4)], tmp_path, trunk=tmp_path / "trunk.pt")


def test_saved_masks_of_another_network():
    hook = GradualPruning(0.5)
    with pytest.raises(ValueError, match="saved masks"):
        hook.load_state({"elsewhere": torch.ones(1, dtype=torch.bool)})


def test_no_layer_to_prune():
    with pytest.raises(ValueError, match="no Conv2d or Linear layer"):
        sparsity(nn.ReLU())

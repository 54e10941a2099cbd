"""lib.compute: device, precision, and what a record says of them."""

import copy
import subprocess
import sys

import numpy
import pytest
import torch

from lib import compute, config


@pytest.fixture
def tf32():
    """TF32 as torch has it at first, and on for products too; what it was is given back."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    yield lambda: (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_a_gpu_computes_in_true_float32(monkeypatch, tf32):
    compute.device("cpu")
    assert tf32() == (True, True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    compute.device()
    assert tf32() == (False, False)


SETTINGS = {
    "as torch has them": "pass",
    "products too": "torch.set_float32_matmul_precision('high')",
    "products in bfloat16": "torch.set_float32_matmul_precision('medium')",
    "by the older names": "torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True",
    "off by the older names": "torch.backends.cudnn.allow_tf32 = False",
    "convolutions, by the newer names": "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    "convolutions off, by the newer names": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "products, by the newer names": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "all, by the newer names": "torch.backends.fp32_precision = 'tf32'",
}


def test_true_float32_whatever_the_user_has_set_and_by_which_names():
    """Each in a process of its own, forked from one that has loaded torch: some of these cannot be taken back."""
    program = """
import os, sys, torch
from lib import compute
operations = compute._operations()
def asked():
    told = [operation.fp32_precision for operation in operations]
    for ask in (lambda: torch.backends.cudnn.allow_tf32, lambda: torch.backends.cuda.matmul.allow_tf32,
                torch.get_float32_matmul_precision):
        try:
            told.append(ask())
        except RuntimeError:
            told.append("mixed")
    return [0 if one == "none" else one for one in told]  # torch's word for the default: off
for setting in sys.argv[1:]:
    if os.fork() == 0:
        exec(setting)
        before = asked()
        with compute.evaluation(torch.nn.Linear(1, 1)):
            inside = [operation.fp32_precision for operation in operations]
        after = asked()
        off = {0: "ieee"}
        same = [off.get(one, one) for one in before] == [off.get(one, one) for one in after]
        print(setting, not {"tf32", "bf16"} & set(inside), same, before, after, sep="|", flush=True)
        os._exit(0)
    os.wait()
"""
    words = [sys.executable, "-W", "ignore", "-c", program, *SETTINGS.values()]
    done = subprocess.run(words, cwd=config.ROOT, capture_output=True, text=True, check=True)
    told = [line.split("|") for line in done.stdout.splitlines()]
    assert [row[0] for row in told] == list(SETTINGS.values()), done.stderr
    for name, (_, exact, same, before, after) in zip(SETTINGS, told, strict=True):
        assert exact == "True", (name, before, after)
        assert same == "True", (name, before, after)


@pytest.mark.parametrize("training", [False, True])
def test_evaluation_is_in_true_float32_and_gives_all_settings_back(tf32, training):
    model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(2, 2)).train(training)
    model[0].eval()
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(KeyError), compute.evaluation(model):
        assert tf32() == (False, False) and not any(module.training for module in model.modules())
        assert model(torch.eye(2)).dtype == torch.float32
        raise KeyError
    assert tf32() == (True, True)
    assert [module.training for module in model.modules()] == [training, False, training]


def test_what_reads_exact_values_is_in_true_float32(tf32):
    """Each of the package's own evaluations, on a network that notes the settings it is called with."""
    from lib import attacks, robustness, training
    from lib.data import ImageSet

    seen = []

    class Noting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 3)

        def forward(self, images):
            seen.append((*tf32(), self.training))
            return self.linear(images.flatten(1))

    model, images, labels = Noting().train(), torch.rand(6, 1, 2, 2), torch.arange(6) % 3
    calls = {
        "sweep": lambda: robustness.fgsm_sweep(model, images, labels, [0.0, 0.1]),
        "diagnosis": lambda: robustness.diagnose(model, images, labels),
        "PGD": lambda: robustness.pgd_correct(model, images, labels, [0.1], robustness.masking.exact_sign_loss, 2),
        "accuracy": lambda: training.accuracy(model, ImageSet((255 * images).byte(), labels, tuple("abc"), "r", "t")),
        "attacks": lambda: attacks.attack("fgsm_2", model, images, labels),
    }
    for name, call in calls.items():
        seen.clear()
        call()
        assert set(seen) == {(False, False, False)}, name
        assert model.training and tf32() == (True, True), name


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, tf32):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute.device() == torch.device("cuda")
    assert compute.device("cuda:1") == torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute.device("auto") == torch.device("cpu")
    assert compute.device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("wanted", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there(monkeypatch, wanted):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=f"device '{wanted}' was asked for.*set compute.device to auto"):
        compute.device(wanted)


@pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_autocast(precision, dtype):
    matrix = torch.eye(2)
    with compute.autocast(torch.device("cpu"), precision):
        assert (matrix @ matrix).dtype == dtype
    assert (matrix @ matrix).dtype == torch.float32


@pytest.mark.parametrize(
    "layer", [torch.nn.Conv2d(8, 16, 3, padding=1), torch.nn.Linear(24, 10)], ids=["conv", "linear"]
)
def test_bfloat16_is_the_same_on_a_processor_that_cannot_multiply_in_it(monkeypatch, layer):
    """Outputs and gradients: one rounding of float32 sums, whoever computes them."""
    inputs = torch.randn(4, 8, 24, 24, generator=torch.Generator().manual_seed(0))
    found = []
    for there in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda there=there: there)
        x = inputs.clone().requires_grad_()
        with compute.autocast(torch.device("cpu"), "bfloat16"):
            output = layer(x)
            with torch.autocast("cpu", enabled=False):
                assert layer(x).dtype == torch.float32
        assert output.dtype == torch.bfloat16
        found.append((output, *torch.autograd.grad(output.square().sum(), [x, layer.weight, layer.bias])))
    for native, own in zip(*found, strict=True):
        assert native.dtype == own.dtype
        error = (native.float() - own.float()).norm() / native.float().norm()
        assert error < 2**-7
    with compute.autocast(torch.device("cpu"), "bfloat16"):
        exact = torch.nn.functional.linear(inputs, torch.eye(24))
    assert torch.equal(exact, inputs.bfloat16())


@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize(
    ("channels", "groups", "kernel", "more"),
    [
        *((count, 1, 1, {"stride": 2}) for count in (1, 2, 3, 4, 5, 7, 8, 9)),
        (3, 1, 1, {"stride": (1, 2)}),
        (3, 1, 1, {"stride": 3, "padding": "valid"}),
        (3, 1, 1, {"stride": 2, "padding": 1}),
        (6, 2, 1, {"stride": 2}),
        (4, 1, 3, {"stride": 2, "padding": 1}),
        (4, 1, 1, {}),
    ],
)
def test_convolutions_have_the_gradient_of_float64_on_any_processor(
    monkeypatch, channels, groups, kernel, more, precision, error
):
    """Strided, of few channels, channels_last: where AVX2 is all there is, oneDNN's own are wrong, or end the process;
    elsewhere this tries the way around it."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: False)
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Conv2d(channels, 8, kernel, groups=groups, **more).to(memory_format=torch.channels_last)
    exact = copy.deepcopy(layer).double()
    for _ in range(5):
        x = torch.randn(8, channels, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        with compute.autocast(torch.device("cpu"), precision):
            output = layer(x)
        given = torch.randn(output.shape, generator=generator)
        found = torch.autograd.grad(output.float(), [x, layer.weight, layer.bias], given)
        y = x.detach().double().requires_grad_()
        wanted = torch.autograd.grad(exact(y), [y, exact.weight, exact.bias], given.double())
        assert output.shape == exact(y).shape
        for ours, theirs in zip(found, wanted, strict=True):
            assert (ours - theirs).norm() < error * theirs.norm()


def test_deterministic_and_threads():
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        compute.set_threads(1)
        compute.deterministic()
        assert not torch.utils.deterministic.fill_uninitialized_memory
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def test_deterministic_loads_no_compiler():
    program = "import sys; from lib import compute; compute.deterministic(); print('torch._inductor' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=config.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_device_in_words():
    compute.describe.cache_clear()
    words = compute.describe()
    assert words.startswith("cuda " if torch.cuda.is_available() else "cpu ")
    assert len(words) > 5


def test_peak_memory_grows_and_is_in_megabytes():
    program = """
import numpy
from lib import compute, config
before = compute.peak_memory_mb()
block = numpy.ones(2**27)
print(before, compute.peak_memory_mb())
"""
    held = numpy.ones(2**28)  # what this process holds is not the other's: 2 GB here must not show there
    done = subprocess.run([sys.executable, "-c", program], cwd=config.ROOT, capture_output=True, text=True, check=True)
    assert held.any()
    before, after = map(int, done.stdout.split())
    assert 50 < before < 2000
    assert 512 < after - before < 1100  # 1,024 MB, less what importing had taken and given back

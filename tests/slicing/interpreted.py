"""The fused kernel under Triton's interpreter, against the compiled engine; a program of its own, as the environment
decides before Triton is imported: TRITON_INTERPRET=1 python tests/slicing/interpreted.py."""

import numpy as np
import torch

from lib.slicing import compiled, fused, tensors
from lib.slicing.profiling import NeuronProfile
from lib.slicing.rules import NNSlicer
from lib.slicing.windows import POINTWISE, Convolution

CASES = {  # geometry, (N, C, H, W), outputs
    "padded": (Convolution((1, 1), (1, 1), (1, 1), 1, (3, 2)), (2, 2, 2, 3), 2),
    "strided, dilated, in groups": (Convolution((2, 1), (0, 2), (1, 2), 2, (2, 3)), (1, 4, 4, 2), 2),
    "linear": (POINTWISE, (2, 14, 1, 1), 3),
    "one term": (POINTWISE, (1, 1, 1, 2), 2),
}


def values(shape, whole, generator):
    """Numbers of a normal distribution, or small whole ones: sums meet thresholds exactly, and terms are as large."""
    if whole:
        return torch.randint(-2, 3, shape, generator=generator).double()
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def one(geometry, shape, outputs, whole, theta, bar, seed):
    """Both engines on one layer. Returns: outputs in the slice, and of them those that the kernel left."""
    generator = torch.Generator().manual_seed(seed)
    m = shape[1] // geometry.groups * geometry.kernel[0] * geometry.kernel[1]
    out = [
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, padding, dilation, kernel, stride in zip(
            shape[2:], geometry.padding, geometry.dilation, geometry.kernel, geometry.stride, strict=True
        )
    ]
    x, weight = values(shape, whole, generator), values((outputs, m), whole, generator)
    marks = torch.randint(-1, 2, (shape[0], outputs, *out), generator=generator).to(torch.int8)
    rule = NNSlicer(NeuronProfile({}, torch.ones(1), ()), theta, bar)
    left = []

    def counted(*arguments):
        left.append(fused.convolution(*arguments))
        return left[-1]

    engine = tensors.Engine(rule, torch.device("cpu"), counted)
    found = [torch.zeros(shape[0], outputs, m, dtype=torch.int32), torch.zeros(shape, dtype=torch.int32)]
    engine.weighted(x, weight, marks, *found, geometry)
    wanted = [np.zeros(tuple(part.shape), np.int32) for part in found]
    compiled.Engine(rule, 1).weighted(x.numpy(), weight.numpy(), marks.numpy(), *wanted, geometry)
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs)
    if geometry is POINTWISE:  # also where nobody asks for synapses
        neurons = torch.zeros(shape, dtype=torch.int32)
        engine.weighted(x, weight, marks, None, neurons, geometry)
        np.testing.assert_array_equal(neurons.numpy(), wanted[1])
    return int((marks != 0).sum()), int((left[0] != 0).sum())


def main():
    """All cases; prints for each kind of values how many neurons there were, and how many the kernel left."""
    for whole in (False, True):
        counts = [
            one(*case, whole, theta, bar, seed)
            for seed, (theta, bar) in enumerate([(0.2, 0.01), (0.6, 0.3)])
            for case in CASES.values()
        ]
        print(f"{'whole' if whole else 'real'} {sum(a for a, _ in counts)} {sum(b for _, b in counts)}")


if __name__ == "__main__":
    main()

"""What a network is given as: out of its wrappers, copied with plain weights, its output read as logits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


class GraphError(ValueError):
    """A network that cannot be read; the message names the step, what it does and what to do.

    A method that reads networks may have its own kind raised in place of this one.
    """


def unwrapped(model: nn.Module, error: type[ValueError] = GraphError) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel and torch.compile.

    Args:
        model: any network.
        error: what is raised.
    Raises: error for a TorchScript module, which cannot be read.
    """
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            break
        model = inner
    if isinstance(model, torch.jit.ScriptModule):
        raise error(f"{type(model).__name__} is a TorchScript module, which cannot be read: give the network itself")
    return model


def copied(model: nn.Module, error: type[ValueError] = GraphError, plain: bool = True) -> nn.Module:
    """A copy that shares nothing with the network.

    Args:
        model: left as it is.
        error: what is raised.
        plain: `fold` it: pruned, weight-normed, spectral-normed and otherwise parametrised weights become plain ones.
    Returns: the copy, in the mode of the network.
    Raises: error for a network that cannot be copied.
    """
    model = unwrapped(model, error)
    with torch.inference_mode(False), torch.no_grad():
        computed: dict[int, object] = {}  # tensors that hooks compute from parameters; deepcopy refuses them
        for module in model.modules():
            for value in vars(module).values():
                if isinstance(value, Tensor) and not value.is_leaf:
                    computed[id(value)] = value.detach().clone()
        try:
            made = copy.deepcopy(model, computed)
        except Exception as problem:  # a network may hold anything: locks, files, generators
            raise error(f"{type(model).__name__} cannot be copied: {problem}") from problem
    return fold(made) if plain else made


def structure(model: nn.Module, error: type[ValueError] = GraphError) -> nn.Module:
    """A copy of a network's modules, to read their order from: it holds the network's own tensors, parametrised or not.

    Args, Raises: as `copied`.
    """
    model = unwrapped(model, error)
    held: dict[int, object] = {id(value): value for value in (*model.parameters(), *model.buffers())}
    held |= {id(v): v for module in model.modules() for v in vars(module).values() if isinstance(v, Tensor)}
    try:
        return copy.deepcopy(model, held)
    except Exception as problem:
        raise error(f"{type(model).__name__} cannot be copied: {problem}") from problem


def parametrised(model: nn.Module) -> list[str]:
    """Dotted names of the modules whose weights are computed from other parameters at every call."""
    return [
        name
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module) or any(_is_weight_hook(h) for h in module._forward_pre_hooks.values())
    ]


def _is_weight_hook(hook: object) -> bool:
    return isinstance(hook, (prune.BasePruningMethod, WeightNorm, SpectralNorm))


@torch.no_grad()
def fold(model: nn.Module) -> nn.Module:
    """Make parametrised weights plain parameters with the values that they have in evaluation mode.

    Args:
        model: a copy, as `copied` makes it: it is changed.
    Returns: the model.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            _plain(module)
        training, module.training = module.training, False  # spectral norm moves its vectors while training
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
            elif isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
        module.training = training
    return model


def _plain(module: nn.Module) -> None:
    """Undo torch's parametrisation of a module.

    torch's own remove_parametrizations takes the weight off the module's class, which the copied network shares.
    """
    held = module.parametrizations
    assert isinstance(held, nn.ModuleDict)
    held.eval()
    values = {name: getattr(module, name).detach().clone() for name in held}
    parameters = {name: list(each.parameters(recurse=False)) for name, each in held.items()}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        if parameters[name]:
            trained = any(parameter.requires_grad for parameter in parameters[name])
            module.register_parameter(name, nn.Parameter(value, requires_grad=trained))
        else:
            module.register_buffer(name, value)


def logits_in(output: Any, error: type[ValueError] = GraphError) -> Tensor:
    """The logits of what a network returned: the tensor itself, or what it holds under the name `logits`.

    Args:
        output: a tensor, a named tuple as GoogLeNet and Inception return while training, or a mapping.
        error: what is raised.
    Raises: error for anything else.
    """
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    if isinstance(found, Tensor):
        return found
    raise error(
        f"the network returns a {type(output).__name__}: one tensor of logits is wanted, or a named tuple or mapping "
        "that holds it as `logits`; wrap the network in a module that returns the logits alone"
    )

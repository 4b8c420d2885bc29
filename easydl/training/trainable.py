"""``layer.trainable = False``, live: no recompiling, and frozen means frozen."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from easydl.layers.base import parts_of


def sync_trainable(model: nn.Module) -> None:
    """Carry every ``trainable`` flag that was set since the last call into ``requires_grad``.

    A flag set on a module holds for all in it, except for parts with a flag set since, too.
    Parameters that the user froze or freed with ``requires_grad_`` stay as they are.
    """
    # A flag that was carried is kept as 0.0 or 1.0: False or True is one that was set since.
    fresh = [
        (module, module.__dict__["trainable"])
        for module in model.modules()
        if not isinstance(module.__dict__.get("trainable", 1.0), float)
    ]
    for module, flag in fresh:
        set_trainable(module, flag)


def set_trainable(module: nn.Module, flag: bool) -> None:
    """Freeze or free a module and everything in it."""
    for part in module.modules():
        part.__dict__["trainable"] = float(bool(flag))
    for parameter in module.parameters():
        parameter.requires_grad_(bool(flag))


def hold_frozen_batchnorm(model: nn.Module) -> None:
    """Put every frozen BatchNorm in inference mode, so that its statistics stay too."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and is_frozen(module):
            module.training = False


def modes_of(model: nn.Module) -> list[tuple[nn.Module, bool]]:
    """Every module with its training mode, for ``restore_modes``."""
    return [(module, module.training) for module in parts_of(model)]


def evaluation_mode(model: nn.Module, modes: list[tuple[nn.Module, bool]]) -> None:
    """``model.eval()``, which costs a single row more than the network does, where it can differ.

    torch's own ``train`` only sets the attribute; a module with another one gets its call.
    """
    learning = [module for module, training in modes if training]
    plain = (nn.Module.train, type(model).train)
    if any(type(module).train not in plain for module in learning):
        model.eval()
        return
    for module in learning:
        vars(module)["training"] = False


def restore_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        vars(module)["training"] = training


def is_frozen(module: nn.Module) -> bool:
    """Whether a module was frozen by its flag, or has parameters none of which train."""
    parameters = list(module.parameters(recurse=False))
    if parameters:
        return not any(p.requires_grad for p in parameters)
    return not module.__dict__.get("trainable", True)

"""Keras's table of a model: layers, output shapes, parameters, multiply-adds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.flop_counter import FlopCounterMode

from easydl.data.convert import leaves
from easydl.layers.base import same_or_open
from easydl.saving import has_open_shapes

if TYPE_CHECKING:
    from easydl.model import Model


def summary_text(model: Model) -> str:
    """The table as text; output shapes are ``?`` before the model is built."""
    shapes, multiply_adds = _measure(model)
    rows = []
    for layer, name in zip(model.layers, model.layer_names()):
        count: Any = "?"
        if not has_open_shapes(layer):
            count = f"{count_weights(layer):,}"
        rows.append((f"{name} ({type(layer).__name__})", shapes.get(id(layer), "?"), count))
    header = ("Layer (type)", "Output Shape", "Param #")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(3)]
    line = "  ".join("─" * width for width in widths)
    table = [f"Model: {model.name!r} on {model.device}", line, _row(header, widths), line]
    table += [_row(row, widths) for row in rows] + [line]
    if has_open_shapes(model):
        return "\n".join([*table, "Parameters are counted once the input shape is known: build()."])
    total = count_weights(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    table += [
        f"Total params: {total:,}",
        f"Trainable params: {trained:,}",
        f"Non-trainable params: {total - trained:,}",
    ]
    if multiply_adds is not None:
        table.append(f"Multiply-adds per sample: {multiply_adds:,}")
    return "\n".join(table)


def count_weights(module: nn.Module) -> int:
    """Parameters and, as Keras counts them, the running statistics of normalisations."""
    tensors: list[Tensor] = list(module.parameters())
    for part in module.modules():
        if isinstance(part, _NormBase):
            tensors += [t for t in (part.running_mean, part.running_var) if t is not None]
    return sum(tensor.numel() for tensor in tensors)


def _row(cells: tuple[str, str, str], widths: list[int]) -> str:
    first, second, third = cells
    return f"{first:<{widths[0]}}  {second:<{widths[1]}}  {third:>{widths[2]}}"


def _measure(model: Model) -> tuple[dict[int, str], int | None]:
    """Output shapes by layer and the multiply-adds of one sample, from a pass over zeros."""
    shape = model.given_input_shape
    if shape is None or has_open_shapes(model):
        return {}, None
    lengths = (64, 96) if None in shape else (64,)  # an open size: what follows it is open, too
    passes = [_pass(model, [size or length for size in shape]) for length in lengths]
    found = {layer: zip(*(shapes[layer] for shapes, _ in passes)) for layer in passes[0][0]}
    shapes = {
        layer: ", ".join(str(same_or_open(*pair)) for pair in pairs)
        for layer, pairs in found.items()
    }
    return shapes, passes[0][1] if len(passes) == 1 else None


def _pass(model: Model, shape: list[int]) -> tuple[dict[int, list], int | None]:
    shapes: dict[int, list] = {}
    correction: list[int] = []  # of torch's count, for the recurrent layers

    def see(layer: nn.Module, inputs: Any, output: Any) -> None:
        shapes[id(layer)] = [tuple(t.shape) for t in leaves(output) if isinstance(t, Tensor)]

    def begin(layer: nn.Module, inputs: Any) -> None:
        correction.append(counter.get_total_flops() // 2)

    def end(layer: nn.Module, inputs: Any, output: Any) -> None:
        # torch's counter knows some fused recurrent kernels and not others: weights × time steps.
        weights = sum(p.numel() for p in layer.parameters() if p.dim() == 2)
        steps = inputs[0].shape[:-1].numel()
        correction.append(weights * steps - counter.get_total_flops() // 2)

    hooks = [layer.register_forward_hook(see) for layer in model.layers]
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        from easydl.training.network import first_leaf, input_dtype, keeps_integers

        dtype = torch.long if keeps_integers(model, first_leaf(model)) else input_dtype(model)
        zeros = torch.zeros(1, *shape, dtype=dtype, device=model.device)
        with FlopCounterMode(display=False) as counter:
            model.try_out(zeros)
    except (ValueError, TypeError):  # several inputs: their shapes are not known here
        return {}, None
    finally:
        for hook in hooks:
            hook.remove()
    return shapes, counter.get_total_flops() // 2 + sum(correction)

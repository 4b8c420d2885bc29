"""A network run, and what its layers gave kept: nothing of it shows on the network afterwards."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from easydl.callbacks.backup import random_state, set_random_state
from easydl.data.convert import check_finite, to_tensor
from easydl.data.picture_sets import PictureData
from easydl.data.pictures import (
    has_transforms,
    is_picture,
    raw_pictures,
    refuse_unready,
    transforms_of,
)
from easydl.errors import did_you_mean, listed
from easydl.plotting.shared import as_array
from easydl.saving.weights import has_open_shapes
from easydl.training.trainable import evaluation_mode, modes_of, restore_modes

#: where the layers are written whose outputs one wants to see
SEEN = (
    "torch.nn.modules.conv", "torch.nn.modules.pooling", "torch.nn.modules.activation",
    "easydl.layers.convolution", "easydl.layers.separable", "easydl.layers.local",
    "easydl.layers.pooling", "easydl.layers.pooling_global", "easydl.layers.activation",
)  # fmt: skip
ENDINGS = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid)


def unwrapped(model: Any) -> nn.Module:
    """The module that ``torch.compile`` made ``model`` of, else ``model`` itself."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model={model!r:.80} was given; expected an nn.Module, such as a Sequential or "
            "torchvision's networks."
        )
    model = getattr(model, "_orig_mod", model)
    if has_open_shapes(model):
        raise ValueError(
            "the network has no weights yet, as it has seen no data; expected one that knows its "
            "inputs: write model.build(shape), load weights, or fit it first."
        )
    return model


@contextlib.contextmanager
def untouched(model: nn.Module, gradients: bool = False) -> Iterator[None]:
    """Evaluation mode; modes and random numbers are as before afterwards, whatever happens.

    It works inside the caller's ``no_grad`` and ``inference_mode``.
    """
    modes, states = modes_of(model), random_state()
    try:
        evaluation_mode(model, modes)
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            yield
    finally:
        restore_modes(modes)
        set_random_state(states)


@contextlib.contextmanager
def hooked(modules: Iterable[nn.Module], hook: Callable[[nn.Module, Any, Any], Any]) -> Iterator:
    """``hook(module, args, output)`` after each of the modules; what it returns is the output."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def call(model: nn.Module, x: Tensor, **options: Any) -> Any:
    """``model(x)``; for weights that were made in inference mode, too, where gradients are asked.

    Raises:
        ValueError: what torch says of pictures that do not fit the network.
    """
    made_so = {
        name: tensor.clone()
        for tensors in (model.named_parameters(), model.named_buffers())
        for name, tensor in tensors
        if torch.is_grad_enabled() and tensor.is_inference()
    }
    try:
        if made_so:
            return torch.func.functional_call(model, made_so, (x,), options)
        return model(x, **options)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError) as error:  # vision transformers assert their size
        raise ValueError(
            f"the network was given pictures of shape {tuple(x.shape)}; expected what it is made "
            f"for. torch says: {(str(error) or repr(error)).splitlines()[0][:260]}"
        ) from error


# -- names --------------------------------------------------------------------------------------


def names_of(model: nn.Module) -> dict[str, nn.Module]:
    """Every layer by the name that users see: ``conv2d`` in a Sequential, else ``layer1.0.conv1``.

    A wrapper, ``Model(network)``, is passed over, as it is in the keys of ``state_dict``.
    """
    while isinstance(network := getattr(model, "network", None), nn.Module) and hasattr(
        model, "layer_names"
    ):
        model = network
    found: dict[str, nn.Module] = {}
    waiting = [("", model)]
    while waiting:
        prefix, module = waiting.pop()
        if prefix:
            found.setdefault(prefix, module)
        children = list(module.named_children())
        words = module.layer_names() if hasattr(module, "layer_names") else []  # type: ignore
        for place, (name, child) in reversed(list(enumerate(children))):
            if name.isdigit() and len(words) == len(children):
                name = words[place]
            waiting.append((f"{prefix}.{name}" if prefix else name, child))
    return found or {type(model).__name__.lower(): model}


def find(model: nn.Module, layer: Any) -> tuple[str, nn.Module]:
    """A layer's name and the layer, from a name of ``names_of``, ``named_modules``, ``get_layer``.

    Raises:
        ValueError: an unknown name, with the nearest; a module of another model.
    """
    names = names_of(model)
    if isinstance(layer, str):
        if layer in names:
            return layer, names[layer]
        given: dict[str, Any] = dict(model.named_modules(remove_duplicate=False))
        if layer not in given and hasattr(model, "layer_names"):
            given = dict(zip(model.layer_names(), model.layers))  # type: ignore[operator, arg-type]
        if not layer or layer not in given:
            raise ValueError(did_you_mean("layer", layer, names))
        layer = given[layer]
    for name, module in names.items():
        if module is layer:
            return name, module
    raise ValueError(
        f"layer={layer!r:.80} was given, which is no layer of this model; expected the name of one "
        f"or the module itself: {listed(names, 380)}."
    )


def shows_maps(module: nn.Module) -> bool:
    """Whether it is a convolution, a pooling or an activation, of torch or of easydl."""
    return any(kind.__module__ in SEEN for kind in type(module).__mro__)


# -- what is run, and what comes out -----------------------------------------------------------


def ready(model: nn.Module, x: Any, what: str = "x") -> Tensor:
    """Pictures as the network takes them, (N, C, H, W), on its device and of its dtype.

    Raises:
        ValueError: another shape, nan, no picture at all.
    """
    if isinstance(x, (Tensor, np.ndarray)) and x.ndim == 3:
        if not (str(x.dtype).endswith("uint8") and has_transforms(model)):
            x = x[None]
    rows = rows_of(model, x, what)
    pictures, _ = take(model, rows, range(len(rows)))
    if pictures.dim() != 4:
        hint = f" Write {what}[None] for one grey picture." if pictures.dim() == 2 else ""
        raise ValueError(
            f"{what} has shape {tuple(pictures.shape)}; expected pictures (N, C, H, W), or one "
            f"(C, H, W).{hint}"
        )
    return pictures


def rows_of(model: nn.Module, x: Any, what: str) -> Any:
    """Samples of any kind as a tensor, a list of pictures or a Dataset, which ``take`` reads.

    Raises:
        ValueError: nothing in it, nan, not normalised, or something that can be read only once.
    """
    if isinstance(x, PictureData):
        raise ValueError(f"{what} has several parts; expected one: write {what}.validation.")
    if isinstance(x, DataLoader):
        raise ValueError(f"{what} is a DataLoader; expected its Dataset: write {what}.dataset.")
    rows: Any = x.made_for(model) if hasattr(x, "made_for") else x  # image_folder's pictures
    if not isinstance(x, Dataset) or isinstance(x, IterableDataset):
        rows = raw_pictures(model, x)
    if rows is None:
        rows = to_tensor(x, what)
        check_finite(rows, what)
        if hasattr(model, "_compiled"):  # easydl's
            refuse_unready(model, rows)
    if not len(rows) or (isinstance(rows, Tensor) and not rows.numel()):
        raise ValueError(f"{what} is empty; expected at least one picture.")
    return rows


def take(model: nn.Module, rows: Any, which: Iterable[int]) -> tuple[Tensor, list[Any]]:
    """Some of ``rows_of``'s samples for the network, and their targets if a Dataset gave some."""
    targets: list[Any] = []
    if isinstance(rows, Tensor):
        tensor = rows[list(which)]
    else:
        parts = [rows[index] for index in which]
        if isinstance(rows, Dataset) and isinstance(parts[0], (tuple, list)):
            targets = [part[1] for part in parts if len(part) > 1]
            parts = [part[0] for part in parts]
        if not isinstance(rows, Dataset) or is_picture(parts[0]):
            parts = [transforms_of(model)(part) for part in parts]
        tensor = torch.stack([torch.as_tensor(part) for part in parts])
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    tensor = tensor.to(like.device, like.dtype)
    with torch.inference_mode(False):  # what was made in that mode cannot be differentiated
        return tensor.clone() if tensor.is_inference() else tensor, targets


def outputs_of(
    model: nn.Module, x: Tensor, layers: Mapping[str, nn.Module]
) -> dict[str, list[Tensor]]:
    """What each of the layers gave, once a call, in the order in which they first ran.

    Outputs are copies: a layer after them that works in place does not change them. What is no
    tensor is left out.
    """
    names = {module: name for name, module in reversed(list(layers.items()))}
    kept: dict[str, list[Tensor]] = {}

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            kept.setdefault(names[module], []).append(output.detach().clone())

    with hooked(names, keep):
        call(model, x)
    return kept


def why_no_maps(output: Any, x: Tensor) -> str:
    """Why a layer's output holds no maps (N, C, H, W), in words; nothing where it does.

    Where the picture's sides are to each other as axes 1 and 2 are, and not as axes 2 and 3, the
    channels are last, as inside Swin transformers.
    """
    if not isinstance(output, Tensor):
        return f"gives a {type(output).__name__}"
    shape = tuple(output.shape)
    if output.dim() == 3:
        return f"gives {shape}, tokens (N, T, C) and no picture,"
    if output.dim() != 4:
        return f"gives {shape}"
    rows, columns, last = (math.log(size) for size in shape[1:])
    sides = math.log(x.shape[2] / x.shape[3])
    if abs(rows - columns - sides) < 0.1 and abs(columns - last - sides) > 0.7 and shape[1] > 1:
        return f"gives {shape}, with the channels last,"
    return ""


def check_maps(name: str, output: Any, x: Tensor) -> None:
    if reason := why_no_maps(output, x):
        raise ValueError(
            f"the layer {name!r} {reason} for a picture of shape {tuple(x.shape[1:])}; expected "
            "one that gives maps (N, C, H, W): a convolution, a pooling, or what comes after one."
        )


def last_with_maps(model: nn.Module, x: Tensor) -> tuple[str, nn.Module]:
    """The layer that comes last of those whose maps are larger than 1 × 1."""
    names = {module: name for name, module in reversed(list(names_of(model).items()))}
    last: list[nn.Module] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if not why_no_maps(output, x) and output.shape[2] * output.shape[3] > 1:
            last[:] = [module]

    with torch.no_grad(), hooked(names, note):
        call(model, x)
    if not last:
        raise ValueError(
            f"no layer of this {type(model).__name__} gives maps (N, C, H, W) larger than 1 × 1 "
            f"for a picture of shape {tuple(x.shape[1:])}; expected a network with convolutions, "
            "or larger pictures."
        )
    return names[last[0]], last[0]


def never_ran(name: str) -> ValueError:
    return ValueError(
        f"the layer {name!r} gave nothing, as the network does not use it in evaluation mode; "
        "expected one that takes part."
    )


def before_ending(model: nn.Module, x: Tensor) -> tuple[Tensor, nn.Module | None]:
    """The outputs (N, K), before a softmax or sigmoid at the very end, and that module if any."""
    ending = model.final_activation() if hasattr(model, "final_activation") else None  # type: ignore
    if ending is not None:
        return _as_scores(call(model, x, logits=True)), ending
    last: list[Any] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        last[:] = [module, args, output]

    with hooked([m for m in model.modules() if isinstance(m, ENDINGS) and m is not model], note):
        output = call(model, x)
    if last and last[2] is output and last[1]:
        return _as_scores(last[1][0]), last[0]
    return _as_scores(output), None


def class_names_of(model: nn.Module, count: int) -> list[str] | None:
    """The names of the ``count`` classes, if the model has some."""
    names = getattr(model, "class_names", None)
    if names is not None and len(names) != count:
        raise ValueError(
            f"class_names lists {len(names)} names for {count} outputs; expected one each, or two "
            "for one unit before an nn.Sigmoid."
        )
    return None if names is None else [str(name) for name in names]


def as_double(values: Tensor) -> Tensor:
    """In float64; on the CPU where the device, Apple's MPS, has none."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def _as_scores(output: Any) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() != 2:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"the network gave {found}; expected one tensor (N, K), a number for each class."
        )
    return output


def shown_of(model: nn.Module, x: Tensor) -> np.ndarray:
    """Inputs as pictures ``(N, 1 or 3, H, W)``: normalisation undone; else as they are."""
    back = getattr(getattr(model, "transforms", None), "to_picture", None)
    if back is not None and x.dim() == 4 and x.shape[1] == model.transforms.channels:  # type: ignore
        return np.moveaxis(back(x), -1, 1)
    array = as_array(x)
    if array.ndim == 4 and array.shape[1] not in (1, 3):
        array = array.mean(1)
    return array

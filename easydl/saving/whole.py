"""``model.save`` and ``load_model``: architecture, weights, compile, optimizer, history."""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from easydl.data.pictures import keep_transforms
from easydl.errors import check_path, listed
from easydl.layers.base import foreign_hooks
from easydl.saving.container import MEMBERS, Reader, pack, write_atomically
from easydl.saving.objects import Decoder, Encoder
from easydl.saving.optimizer import (
    optimizer_from_json,
    optimizer_to_json,
    restore_training_state,
    training_state,
)
from easydl.saving.weights import (
    FOREIGN,
    check_finite,
    from_safetensors,
    mark_as_random,
    require_built,
    to_safetensors,
)

WEIGHTS, OPTIMIZER, TRAINER, STATES = MEMBERS
#: of the model
EXTRAS = ("class_names", "learning_rate_shares", "provenance", "transforms", "widest_row")


def save_model(
    model: Any, path: Any, include_optimizer: bool = True, custom_objects: Any = None
) -> None:
    """Write the whole model to ``path``; see ``Model.save``."""
    path = check_path("path", path, "m.easydl")
    if path.suffix.lower() in (*FOREIGN, ".safetensors"):
        raise ValueError(
            f"save({str(path)!r:.200}) was asked, which is another format's name; expected, for "
            f"example, {path.with_suffix('.easydl').name!r:.100}. Weights alone: save_weights."
        )
    write_atomically(path, pack(*contents(model, include_optimizer, custom_objects)))


def contents(
    model: Any, include_optimizer: bool = True, custom_objects: Any = None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the members of the model's file, tried out: what is in them can be loaded.

    Raises:
        ValueError: what cannot be written, or would come back otherwise.
    """
    from easydl import __version__
    from easydl.training.trainable import sync_trainable

    require_built(model, "save")
    sync_trainable(model)
    encoder = Encoder(custom_objects)
    state = model.state_dict(keep_vars=True)
    modules = dict(model.named_modules())
    manifest: dict[str, Any] = {
        "written_by": {
            "easydl": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "architecture": encoder.encode(model, ""),
        "built": {
            name: encoder.encode(shape, name)
            for name, module in modules.items()
            if (shape := _built_for(module)) is not None
        },
        "tied": _tied(state),
        "dtypes": {
            name: str(tensor.dtype).removeprefix("torch.")
            for name, tensor in state.items()
            if tensor.is_floating_point() and tensor.dtype != torch.float32
        },
        "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
        "trainable": {
            name: bool(module.__dict__["trainable"])
            for name, module in modules.items()
            if "trainable" in module.__dict__
        },
        "channels_last": [name for name, tensor in state.items() if _is_channels_last(tensor)],
        "input_shape": encoder.encode(model.given_input_shape, "input_shape"),
        "column_names": encoder.encode(model.column_names, "column_names"),
        "has_learned": model._has_learned,
        "history": _history_to_json(encoder, model.history),
        "compile": _compile_to_json(encoder, model),
        "training": None,
        "extras": {
            name: encoder.encode(getattr(model, name), name)
            for name in EXTRAS
            if getattr(model, name, None)
        },
    }
    members = {WEIGHTS: to_safetensors(state)}
    if include_optimizer and model.optimizer is not None:
        manifest["training"], tensors = training_state(encoder, model)
        members[OPTIMIZER] = to_safetensors(tensors)
    _try_out(model, manifest, state, encoder.used)
    return manifest, members


def load_model(path: Any, custom_objects: dict[str, Any] | None = None) -> Any:
    """The model that ``model.save`` wrote: architecture, weights, compile, optimizer, history.

    Nothing in the file is run. It can name easydl's layers, losses, metrics and optimizers and
    plain modules of ``torch.nn``; what is yours comes from ``custom_objects``. Sizes are compared
    before memory is taken, every byte with its SHA-256.

    Args:
        path: a file of ``model.save``; a ``.keras`` or ``.h5`` goes to ``load_keras``.
        custom_objects: your classes and functions by the names in the file (their own names).

    Returns:
        the model, on the device it was compiled for if that is there; ``fit`` goes on as if it
        had never been saved.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged or foreign file, a name that is not known, another version, or
            weights of nan or inf, unless the file says ``compile(strict=False)``.

    Example:
        >>> import easydl as dl, tempfile, os
        >>> model = dl.Sequential([dl.Dense(2, input_dim=3)])
        >>> path = os.path.join(tempfile.mkdtemp(), "m.easydl")
        >>> model.save(path)
        >>> dl.models.load_model(path).layers
        [Dense(in_features=3, out_features=2, bias=True)]
    """
    path = check_path("path", path, "m.easydl")
    if not isinstance(custom_objects, (dict, type(None))):
        raise TypeError(
            f"custom_objects={custom_objects!r:.60} was given; expected a dict of classes and "
            "functions by name: {'Mine': Mine}."
        )
    if path.suffix.lower() in (".keras", ".h5", ".hdf5"):
        from easydl.saving.keras import load_keras

        return load_keras(path)
    with Reader(path) as reader:
        what = repr(str(path)[-120:])
        manifest = reader.manifest
        try:
            model = restored(manifest, reader, custom_objects, what)
        except Exception as error:
            reason = str(error)
            if what not in reason:
                known = isinstance(error, (ValueError, TypeError)) and reason
                reason = reason.splitlines()[0][:300].rstrip(".") if reason else ""
                reason = reason if known else f"it fits no model ({type(error).__name__} {reason})"
                reason = f"{what} cannot be loaded: {reason}. Expected a whole file of model.save."
            raise ValueError(reason + _written_by(manifest)) from None
    return model


def restored(manifest: Any, reader: Reader, custom_objects: Any, what: str) -> Any:
    """The model in ``reader``: built without memory, compared, then given its numbers."""
    if not isinstance(manifest["extras"], dict) or set(manifest["extras"]) - set(EXTRAS):
        raise ValueError("it has extras that this easydl does not know: update easydl")
    model, decoder = _rebuilt(manifest, custom_objects)
    expected = model.state_dict()
    numbers = sum(tensor.nbytes for tensor in expected.values())
    if not 0 <= reader.length(WEIGHTS) - numbers <= 16 * 2**20:
        raise ValueError(
            f"its architecture has {numbers:,} bytes of weights, but the file holds "
            f"{reader.length(WEIGHTS):,}"
        )
    tensors = from_safetensors(reader.read(WEIGHTS), what, expected)
    if any(_has_loose_numbers(module) for module in model.modules()):
        # Buffers that no file holds: made by constructors, whose sizes are known by now to fit.
        model, decoder = _rebuilt(manifest, custom_objects, "cpu")
    if manifest["compile"] is None or manifest["compile"]["strict"] is not False:
        check_finite(model, tensors, what)
    model.load_state_dict(tensors, assign=True)
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:  # empty
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    state = model.state_dict(keep_vars=True)
    _lay_out(state, manifest["channels_last"])
    for name, first in manifest["tied"].items():
        if state[name].shape != state[first].shape:
            raise ValueError(f"it ties {name!r:.60} to a weight of another shape")
        _put(model, _key(model, name), state[first])
    flags = {name: flag for name, flag in manifest["trainable"].items() if type(flag) is bool}
    for name, flag in flags.items():
        model.get_submodule(name).__dict__["trainable"] = float(flag)
    frozen = set(manifest["frozen"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    model.given_input_shape = decoder.decode(manifest["input_shape"])
    model.column_names = decoder.decode(manifest["column_names"])
    model._has_learned = bool(manifest["has_learned"])
    if not model._has_learned:  # they came from a file, but are random
        mark_as_random(model)
    model.history = _history_from_json(decoder, manifest["history"])
    for name, value in manifest["extras"].items():
        found = _checked_extra(name, decoder.decode(value))
        keep_transforms(model, found) if name == "transforms" else setattr(model, name, found)
    if manifest["compile"] is not None:
        _compile_from_json(decoder, model, manifest["compile"])
        _lay_out(model.state_dict(keep_vars=True), manifest["channels_last"])
        if manifest["training"] is not None and OPTIMIZER in reader:
            if reader.length(OPTIMIZER) > 16 * numbers + 16 * 2**20:
                raise ValueError("its optimizer state is larger than its weights allow")
            content = reader.read(OPTIMIZER)
            restore_training_state(
                model, decoder.decode(manifest["training"]), from_safetensors(content, what)
            )
    return model


def _checked_extra(name: str, value: Any) -> Any:
    """A value of the kind that the model's code counts on."""
    fits = {
        "class_names": isinstance(value, list) and all(isinstance(v, str) for v in value),
        "learning_rate_shares": isinstance(value, dict)
        and all(isinstance(v, float) and 0 <= v <= 1 for v in value.values()),
        "provenance": isinstance(value, dict),
        "transforms": callable(value),
        "widest_row": type(value) is int and value > 0,
    }
    if not fits[name]:
        raise ValueError(f"its {name} are a {type(value).__name__}")
    return value


class _NoDraws(TorchFunctionMode):
    """Random numbers on the meta device would import torch's compiler, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def _rebuilt(manifest: Any, custom: Any, device: str = "meta") -> tuple[Any, Decoder]:
    """The architecture, built for its shapes; on ``meta`` it takes no memory and has no numbers."""
    from easydl.model import Model

    decoder = Decoder(custom)
    draws = _NoDraws() if device == "meta" else torch.random.fork_rng(devices=[])
    with torch.device(device), draws:
        try:
            model = decoder.decode(manifest["architecture"])
            if not isinstance(model, Model):
                raise ValueError(f"its architecture is a {type(model).__name__}, no model")
            for name, shape in manifest["built"].items():
                _build(model.get_submodule(name), decoder.decode(shape))
            state = model.state_dict(keep_vars=True)
            for name, dtype in manifest["dtypes"].items():
                state[name].data = state[name].data.to(decoder.decode({"dtype": dtype}))
        except (RuntimeError, NotImplementedError):
            if device != "meta" or not decoder.used:
                raise
            model = None  # a class of the user's that looks at numbers
    return _rebuilt(manifest, custom, "cpu") if model is None else (model, decoder)


def _built_for(module: nn.Module) -> Any:
    return getattr(module, "built_shape", getattr(module, "built_for", None))


def _build(module: Any, shape: Any) -> None:
    if hasattr(module, "built_shape"):  # a Sequential, whose layers build themselves
        module.built_shape = module.given_input_shape = shape
    else:
        module.build(shape)


def _tied(state: dict[str, Tensor]) -> dict[str, str]:
    """Weights that are the same object as one before, by their keys."""
    first: dict[int, str] = {}
    return {
        name: first[id(tensor)]
        for name, tensor in state.items()
        if first.setdefault(id(tensor), name) != name
    }


def _key(model: Any, name: str) -> str:
    """A key of ``state_dict`` as a path: a wrapper leaves its own name out of the keys."""
    if model.network is not None and "network" in model._modules:
        return f"network.{name}"
    return name


def _put(model: nn.Module, path: str, tensor: Tensor) -> None:
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, tensor)


def _like(tensor: Tensor, layout: torch.memory_format) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device, memory_format=layout)


def _is_channels_last(tensor: Tensor) -> bool:
    if tensor.dim() != 4:
        return False
    usual, other = (
        _like(tensor.detach().to("meta"), layout).stride()
        for layout in (torch.contiguous_format, torch.channels_last)
    )
    return tensor.stride() == other != usual


def _lay_out(state: dict[str, Tensor], channels_last: list[str]) -> None:
    """The memory layout that the weights had: kernels round otherwise in another."""
    for name, tensor in state.items():
        if tensor.dim() == 4 and (name in channels_last) != _is_channels_last(tensor):
            usual = name not in channels_last
            layout = torch.contiguous_format if usual else torch.channels_last
            tensor.data = _like(tensor, layout).copy_(tensor.data)


def _has_loose_numbers(module: nn.Module) -> bool:
    """Whether tensors that ``state_dict`` leaves out are part of the module."""
    loose = [module._buffers[name] for name in module._non_persistent_buffers_set]
    loose += [value for value in vars(module).values() if isinstance(value, Tensor)]
    return any(t is not None and t.is_meta and t.numel() for t in loose)


# -- history and compile ---------------------------------------------------------------------------


def _history_to_json(encoder: Encoder, history: Any) -> Any:
    from easydl.callbacks import History

    if not isinstance(history, History):
        return None
    return {
        "history": encoder.encode(history.history, "history"),
        "epoch": encoder.encode(history.epoch, "history.epoch"),
        "epochs": encoder.encode(history._epochs, "history"),
        "params": encoder.encode(getattr(history, "params", {}), "history.params"),
    }


def _history_from_json(decoder: Decoder, value: Any) -> Any:
    from easydl.callbacks import History

    if value is None:
        return None
    history = History()
    history.history = decoder.decode(value["history"])
    history.epoch, history._epochs = decoder.decode(value["epoch"]), decoder.decode(value["epochs"])
    history.params = decoder.decode(value["params"])
    return history


def _compile_to_json(encoder: Encoder, model: Any) -> Any:
    from easydl.training.compiled import SETTINGS, choose_device

    state = model._compiled
    if state is None:
        return None
    settings = {name: encoder.encode(getattr(state, name), f"compile({name})") for name in SETTINGS}
    own = str(state.device)
    settings["device"] = "auto" if own == str(choose_device("auto")) else own
    settings["optimizer"] = optimizer_to_json(encoder, model)
    return settings


def _compile_from_json(decoder: Decoder, model: Any, settings: dict[str, Any]) -> None:
    from easydl.training.compiled import SETTINGS, choose_device

    given = {name: decoder.decode(settings[name]) for name in SETTINGS}
    device = settings["device"]
    try:
        if choose_device(device).type not in ("cpu", "cuda", "mps"):
            device = "auto"
    except ValueError:
        device = "auto"
    given["optimizer"] = optimizer_from_json(decoder, model, settings["optimizer"])
    model.compile(device=device, **given)


# -- what the file says, against what the model is -------------------------------------------------


def _try_out(model: Any, manifest: Any, state: dict[str, Tensor], custom: dict[str, Any]) -> None:
    """Build the model that the file describes and compare it with the one that is saved."""
    try:
        other, _ = _rebuilt(manifest, custom)
    except Exception as error:
        raise ValueError(
            f"the model cannot be made again from its layers' arguments: {error!s:.250}. Expected "
            "arguments that its attributes or get_config tell; save_weights writes the weights "
            "alone."
        ) from error
    for (name, own), (_, twin) in zip(model.named_modules(), other.named_modules()):
        differing = [key for key in vars(own) if _differ(key, own, twin)]
        if type(own) is not type(twin) or differing:
            what = f"{name or 'the model'} ({type(own).__name__})"
            if differing:
                key = differing[0]
                change = f"{key}={getattr(own, key)!r:.60} instead of {vars(twin).get(key)!r:.60}"
                raise ValueError(
                    f"{what[:120]} was changed after it was made: {change}, which the file would "
                    "not show. Expected layers as their arguments made them: give the layer this "
                    "argument, or write save_weights."
                )
            raise ValueError(
                f"{what[:120]} would come back as a {type(twin).__name__}: it was put in after "
                "the layer around it was made. Expected layers given as arguments, or save_weights."
            )
    theirs = other.state_dict()
    same = list(theirs) == list(state) and all(
        (theirs[key].shape, theirs[key].dtype) == (tensor.shape, tensor.dtype)
        for key, tensor in state.items()
    )
    if not same:
        raise ValueError(
            "the model has other weights than its layers' arguments make: "
            f"{sorted(set(state) ^ set(theirs))!s:.200}. Expected layers given as arguments; "
            "save_weights writes the weights alone."
        )
    hooked = [
        f"{name or 'the model'} ({type(own).__name__})"
        for (name, own), (_, twin) in zip(model.named_modules(), other.named_modules())
        if len(foreign_hooks(own)) > len(foreign_hooks(twin))
    ]
    if hooked:
        raise ValueError(
            f"{listed(hooked)} has forward hooks, which the file would not hold. Expected none: "
            "remove those that only look, write the others as layers, or save_weights."
        )


_PASSING = {"training", "trainable", "activity_penalty", "stop_training", "seen_shape"}
_PASSING |= {"given_input_shape", "built", "built_shape", "seen_shapes", "name", "widest_row"}


def _differ(key: str, own: nn.Module, other: nn.Module) -> bool:
    """Whether a plain setting of a module is not what its arguments make it."""
    value, twin = vars(own)[key], vars(other).get(key)
    plain = (bool, int, float, str, tuple)
    if key.startswith("_") or key in _PASSING or not isinstance(value, plain):
        return False
    return isinstance(twin, plain) and type(value) is type(twin) and value != twin


def _written_by(manifest: Any) -> str:
    from easydl import __version__

    versions = manifest.get("written_by") if isinstance(manifest, dict) else None
    theirs = versions.get("easydl") if isinstance(versions, dict) else None
    if theirs == __version__:
        return ""
    return f" It was written by easydl {theirs!r:.20}, this is {__version__}."

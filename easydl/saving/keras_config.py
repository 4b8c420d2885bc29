"""The architecture in a file of Keras: which layers it may name, in which order they stand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from easydl.errors import did_you_mean

MOST_LAYERS = 500
CHAINS = ("Sequential", "Functional", "Model")
WINDOW = ("padding", "strides")
CONVOLUTION = ("kernel_size", *WINDOW, "dilation_rate", "activation", "use_bias")
RECURRENT = (
    "units", "activation", "use_bias", "dropout", "recurrent_dropout", "return_sequences",
    "go_backwards",
)  # fmt: skip
GATED = (*RECURRENT, "recurrent_activation")
POOLS = ("Max", "Average")
NORM = ("epsilon", "center", "scale", "axis")
#: class of Keras → the arguments that it shares with the class of the same name here
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "Dense": ("units", "activation", "use_bias"),
    "Conv1D": ("filters", *CONVOLUTION, "groups"),
    "Conv2D": ("filters", *CONVOLUTION, "groups"),
    "Conv3D": ("filters", *CONVOLUTION, "groups"),
    "Conv2DTranspose": ("filters", *CONVOLUTION),
    "DepthwiseConv2D": (*CONVOLUTION, "depth_multiplier"),
    "SeparableConv2D": ("filters", *CONVOLUTION, "depth_multiplier"),
    **{f"{pool}Pooling{n}D": ("pool_size", *WINDOW) for pool in POOLS for n in (1, 2, 3)},
    **{f"Global{pool}Pooling{n}D": ("keepdims",) for pool in POOLS for n in (1, 2, 3)},
    "UpSampling2D": ("size", "interpolation"),
    "ZeroPadding2D": ("padding",),
    "Cropping2D": ("cropping",),
    "BatchNormalization": (*NORM, "momentum"),
    "LayerNormalization": NORM,
    "GroupNormalization": (*NORM, "groups"),
    "Dropout": ("rate",),
    "SpatialDropout1D": ("rate",),
    "SpatialDropout2D": ("rate",),
    "SpatialDropout3D": ("rate",),
    "GaussianNoise": ("stddev",),
    "Activation": ("activation",),
    "ReLU": ("max_value",),
    "LeakyReLU": ("negative_slope",),
    "ELU": ("alpha",),
    "Softmax": ("axis",),
    "PReLU": ("shared_axes",),
    "Flatten": (),
    "Reshape": ("target_shape",),
    "Permute": ("dims",),
    "RepeatVector": ("n",),
    "Embedding": ("input_dim", "output_dim", "mask_zero"),
    "SimpleRNN": RECURRENT,
    "LSTM": (*GATED, "unit_forget_bias"),
    "GRU": (*GATED, "reset_after"),
    "Bidirectional": ("merge_mode",),
    "TimeDistributed": (),
}  # fmt: skip
#: what must be so, or absent, since nothing here does otherwise
MUST_BE: dict[str, tuple[Any, ...]] = {
    "return_state": (False,),
    "stateful": (False,),
    "noise_shape": (None,),
    "output_padding": (None,),
    "threshold": (0, None),
    "rms_scaling": (False,),
    "renorm": (False,),
    "lora_rank": (None,),
    "quantization_config": (None,),
}


def refuse(reason: str) -> NoReturn:
    raise ValueError(
        f"the model of Keras cannot be rebuilt: {reason:.300}. Expected a chain of layers that "
        "easydl has; write the model with easydl's layers, or a torch module of your own in the "
        "place, and read the weights by model.load_weights(path)."
    )


def entry_of(entry: Any) -> tuple[str, dict[str, Any]]:
    """Class and arguments of a layer, if it is one of Keras's own."""
    kind, config = entry["class_name"], entry["config"]
    if isinstance(config, list):  # Sequential before Keras 2.2.3
        config = {"layers": config, "name": None}
    module, registered = entry.get("module"), entry.get("registered_name")
    own = module is None or module == "keras" or str(module).startswith("keras.")
    who = f"layer {config.get('name') or entry.get('name')!r:.60} ({kind!s:.60})"
    if not own or registered not in (None, kind):
        refuse(f"{who} is of a module {module!s:.60}, not Keras's own; no code is read from files")
    if kind == "Lambda":
        refuse(f"{who} is code, which is never run from a file")
    if kind not in ARGUMENTS and kind not in CHAINS:
        known = did_you_mean("layer", str(kind)[:60], ARGUMENTS)
        refuse(f"{who}: {known:.160}")
    return kind, config


def in_line(config: Any) -> list[Any]:
    """The layers of a functional model in their order, if each has one input and one output."""
    by_name, sources = {}, {}
    for part in config["layers"]:
        name = part["config"].get("name") or part["name"]
        by_name[name] = part
        nodes = part["inbound_nodes"]
        if part["class_name"] == "InputLayer":
            continue
        found = _tensors_of(nodes)
        if len(nodes) != 1 or len(found) != 1:
            refuse(
                f"layer {name!r:.60} ({part['class_name']!s:.40}) joins or is used more than once; "
                "easydl has Branches, Residual, Add and Concatenate for that"
            )
        sources[name] = found[0]
    outputs = config["output_layers"]
    outputs = [outputs] if outputs and isinstance(outputs[0], str) else outputs
    if len(outputs) != 1 or len(by_name) != len(config["layers"]):
        refuse(f"it has {len(outputs)} outputs; easydl's chains have one")
    line: list[Any] = []
    name = outputs[0][0]
    while name in sources and len(line) < len(by_name):
        line.append(by_name[name])
        name = sources[name]
    if len(line) + 1 != len(by_name) or by_name[name]["class_name"] != "InputLayer":
        refuse(f"its layers are no chain: one branches off near {name!r:.60}")
    return [by_name[name], *reversed(line)]


def _tensors_of(nodes: Any) -> list[str]:
    """The layers whose tensors a layer reads, in Keras 3's form and in the older one."""
    found: list[str] = []
    waiting = [nodes]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if part.get("class_name") == "__keras_tensor__":
                found.append(part["config"]["keras_history"][0])
            else:
                waiting += part.values()
        elif isinstance(part, list):
            if part and isinstance(part[0], str):
                found.append(part[0])
            else:
                waiting += part
    return found


def parts_of(config: Any) -> Iterator[dict[str, Any]]:
    """Every layer named in an architecture, nested ones after the one they are in."""
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += reversed(part)
        elif isinstance(part, dict):
            if isinstance(part.get("class_name"), str) and isinstance(part.get("config"), dict):
                yield part
            inside = [value for word, value in part.items() if word != "backward_layer"]
            waiting += reversed(inside)


def data_formats(config: Any) -> dict[str, set[str]]:
    """Where the channels are: in the layers that read them, and for ``"Flatten"``."""
    found: dict[str, set[str]] = {"layers": set(), "Flatten": set()}
    for part in parts_of(config):
        word = part["config"].get("data_format")
        if isinstance(word, str):
            found["Flatten" if part["class_name"] == "Flatten" else "layers"].add(word)
    return found


def input_shape(config: Any, parts: list[Any]) -> tuple[int | None, ...] | None:
    """The shape of one sample, as Keras has it."""
    first = parts[0]["config"] if parts else {}
    for source in (first, config):
        for word in ("batch_shape", "batch_input_shape", "build_input_shape"):
            shape = source.get(word) if isinstance(source, dict) else None
            if isinstance(shape, list) and all(n is None or type(n) is int for n in shape):
                return tuple(shape[1:])
    return None

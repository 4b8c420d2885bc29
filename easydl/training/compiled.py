"""What ``compile`` was told, and what the first batch completed."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from easydl import losses, metrics, optimizers, schedules
from easydl.data.convert import Tree, leaves, map_tree, rows_of
from easydl.errors import (
    check_between,
    check_flag,
    check_positive_int,
    did_you_mean,
    listed,
)
from easydl.layers.base import keep_activities
from easydl.training.groups import regroup
from easydl.training.heads import Head, ending_of

if TYPE_CHECKING:
    from easydl.model import Model

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


SETTINGS = (  # of compile; optimizer and device are apart
    "loss", "metrics", "weighted_metrics", "loss_weights", "precision", "jit",
    "steps_per_execution", "clip_norm", "clip_value", "accumulate", "schedule", "strict",
)  # fmt: skip


class Compiled:
    """The settings of ``Model.compile``, checked, and the state that training needs from them.

    Attributes:
        optimizer: the ``torch.optim.Optimizer``, made once the parameters exist.
        heads: one ``Head`` an output, made from the first rows of data.
        parameters: every parameter of the model, frozen ones too, so that freezing stays live.
    """

    def __init__(
        self,
        optimizer: Any,
        loss: Any,
        metrics: Any,
        weighted_metrics: Any,
        loss_weights: Any,
        device: str | torch.device,
        precision: str,
        jit: bool,
        steps_per_execution: int | str,
        clip_norm: float | None,
        clip_value: float | None,
        accumulate: int,
        schedule: Any,
        strict: bool,
    ):
        self.optimizer_spec = optimizers.get(optimizer)
        self.loss = map_specs(losses.get, loss)
        self.metrics, self.weighted_metrics = metrics, weighted_metrics
        for spec in flat_specs(metrics) + flat_specs(weighted_metrics):
            make_metric(spec)  # a mistyped name is found here
        self.loss_weights = loss_weights
        for weight in flat_specs(loss_weights):
            check_between("loss_weights", weight, -math.inf, math.inf, ends="()")
        self.device = choose_device(device)
        if not isinstance(precision, str) or precision not in PRECISIONS:
            raise ValueError(did_you_mean("precision", precision, PRECISIONS))
        self.precision = precision
        self.jit, self.strict = check_flag("jit", jit), check_flag("strict", strict)
        if steps_per_execution != "auto":
            count = check_positive_int("steps_per_execution", steps_per_execution)
            if not jit and count > 1:
                raise ValueError(
                    f"steps_per_execution={steps_per_execution} was given without jit=True; "
                    "expected both: only compiled steps can run together."
                )
        self.steps_per_execution = steps_per_execution
        for name, value in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if value is not None:
                check_between(name, value, 0, math.inf, ends="()")
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self.accumulate = check_positive_int("accumulate", accumulate)
        self.schedule = None if schedule is None else schedules.get(schedule)

        half = PRECISIONS[precision]
        self.autocast: Any = contextlib.nullcontext()
        if half is not None:
            self.autocast = torch.autocast(self.device.type, dtype=half)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "float16")
        self.loss_is_free_to_read = self.device.type == "cpu"
        self.speaks = False  # whether fit prints
        self.has_trained = False  # whether a fit began with these settings
        self.forget_parameters()

    def forget_parameters(self) -> None:
        """Back to the state before any parameter was known; the optimizer starts anew."""
        self.optimizer: Any = None
        self.parameters: list[nn.Parameter] = []
        self.penalties: list[tuple[nn.Module, str, Any, list[nn.Parameter]]] = []
        self.constraints: list[tuple[nn.Parameter, Any]] = []
        self.active: list[nn.Module] = []
        self.step_scheduler: Any = None
        self.epoch_scheduler: Any = None
        self.is_spread = False  # whether layers learn at shares of the learning rate
        self.waiting_batches = self.waiting_rows = 0
        self.heads: list[Head] = []
        self.heads_key: Any = None
        self._ended = False  # whether the network ended in what the loss may do
        self.use_logits = False
        self.jitted: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy of the model would train the original through the original's compiled function.
        return self.__dict__ | {"jitted": None}

    # -- parameters --------------------------------------------------------------------------

    def notice_new_parameters(self, model: Model) -> None:
        """Begin anew where a layer or parameter was replaced: the optimizer has the old one."""
        if self.optimizer is not None:
            found = list(model.parameters())
            same = len(found) == len(self.parameters)
            if not same or any(a is not b for a, b in zip(found, self.parameters)):
                self.forget_parameters()

    def know_parameters(self, model: Model) -> None:
        """Make the optimizer and collect what each step needs, once every parameter exists."""
        self.parameters = list(model.parameters())
        modules = list(model.modules())
        self.penalties = [
            (module, name, regularizer, owners(module, name))
            for module in modules
            for name, regularizer in getattr(module, "penalties", ())
        ]
        self.constraints = [
            (getattr(module, name), constraint)
            for module in modules
            for name, constraint in getattr(module, "constraints", ())
        ]
        self.active = [m for m in modules if getattr(m, "activity_regularizer", None) is not None]
        if self.optimizer is not None or not self.parameters:
            return
        ready = getattr(self.optimizer_spec, "optimizer", None)
        if ready is None or not ready.state:  # whose tensors would keep the other layout
            for module in modules:
                if isinstance(module, nn.Conv2d):
                    module.to(memory_format=torch.channels_last)  # 8 % of a LeNet-5's step
        self.optimizer = self.optimizer_spec.make(self.parameters)
        start_fused_momentum(self.optimizer)
        if model.learning_rate_shares:
            regroup(model, self)
        if self.own_schedule is not None:
            scheduler = self.own_schedule.make(self.optimizer)
            if getattr(scheduler, "easydl_interval", "epoch") == "step":
                self.step_scheduler = scheduler
            else:
                self.epoch_scheduler = scheduler

    @property
    def own_schedule(self) -> Any:
        """The schedule that ``compile`` was given, alone or as the optimizer's learning rate."""
        own = getattr(self.optimizer_spec, "schedule", None)
        return own if self.schedule is None else self.schedule

    # -- outputs -----------------------------------------------------------------------------

    def know_outputs(self, model: Model, x: Tree, y: Tree) -> bool:
        """Run the first rows through the network and settle loss, metrics and target forms.

        Returns whether it was necessary: rows of another form, or a new last layer.
        """
        key = (describe(x), describe(y))
        activation = model.final_activation()
        ends_as_before = self.heads_belong_to(model) and self._ended == (activation is not None)
        if self.heads_key == key and ends_as_before:
            return False
        x, self._ended = map_tree(lambda t: t.to(self.device), x), activation is not None
        self.use_logits = False
        outputs = model.try_out(x)
        if isinstance(self.loss, (list, tuple, dict)) or not isinstance(outputs, Tensor):
            activation = None
        ending = None
        if activation is not None:
            ending = "softmax" if isinstance(activation, nn.Softmax) else "sigmoid"
            if not undone_by(self.loss, ending) or model.has_activity_on_output():
                activation = None
        names = output_names(outputs)
        check_rows(outputs, rows_of(x))
        specs = spread("loss", self.loss, names)
        if None in specs and self.loss is not None:
            missing = [name for name, spec in zip(names, specs) if spec is None]
            raise ValueError(
                f"loss has no entry for {listed(missing)}; expected one for each of "
                f"{listed(names)}."
            )
        weights = spread("loss_weights", self.loss_weights, names, default=1.0)
        metric_lists = spread_metrics("metrics", self.metrics, names)
        weighted_lists = spread_metrics("weighted_metrics", self.weighted_metrics, names)
        samples = order_targets(y, names)
        counting: list[Any] = []
        self.heads = [
            Head(
                name,
                spec,
                *unique_keys(
                    [make_metric(m, counting) for m in metrics_of_head],
                    [make_metric(m, counting) for m in weighted_of_head],
                ),
                float(weight),
                output.detach(),
                ending_of(output) if ending is None else ending,
                activation,
                sample,
                self.strict,
            )
            for name, spec, metrics_of_head, weighted_of_head, weight, output, sample in zip(
                names, specs, metric_lists, weighted_lists, weights, leaves(outputs), samples
            )
        ]
        self.use_logits = activation is not None
        self.heads_key, self._output_module = key, model.final_module()
        return True

    def heads_belong_to(self, model: Model) -> bool:
        """Whether the network still ends in the layer that the heads were made for."""
        return bool(self.heads) and self._output_module is model.final_module()

    # -- one batch ---------------------------------------------------------------------------

    def compute_loss(
        self, model: Model, x: Any, y: Any, w: Tensor | None
    ) -> tuple[Tensor, Any, dict[str, Tensor]]:
        """The model's ``compute_loss``, with its named parts in one dict that starts with loss."""
        if self.active:
            keep_activities(self.active, 0.0)
        result = model.compute_loss(x, y, w)
        if self.active:
            keep_activities(self.active, None)
        if type(result) is not tuple or not 2 <= len(result) <= 3 or not is_scalar(result[0]):
            raise TypeError(
                f"compute_loss of {type(model).__name__} returned {result!r:.120}; expected "
                "(loss, outputs) or (loss, outputs, parts), where the loss is a tensor of one "
                "number and parts a dict."
            )
        loss, outputs = result[:2]
        parts = {"loss": loss}
        if len(result) == 3:
            if "loss" in result[2]:
                raise ValueError(
                    f"compute_loss of {type(model).__name__} returned a part called 'loss', which "
                    "is the log of the whole; expected another name: {'first_loss': value}."
                )
            for name, value in result[2].items():
                if not isinstance(value, (Tensor, int, float)):
                    raise TypeError(
                        f"compute_loss of {type(model).__name__} returned {value!r:.60} as its "
                        f"part {name!r}; expected a number, or a tensor of one."
                    )
                # A copy: a view of a weight would be read after the weight has moved.
                parts[name] = torch.as_tensor(value).detach().clone()
        return loss, outputs, parts


def owners(module: nn.Module, name: str) -> list[nn.Parameter]:
    """The parameters that the weight ``name`` is, or is made of: parametrized, normed, pruned."""
    own, parts = module._parameters.get(name), (f"{name}_orig", f"{name}_g", f"{name}_v")
    if own is not None:
        return [own]
    made = f"parametrizations.{name}."
    return [p for key, p in module.named_parameters() if key in parts or key.startswith(made)]


def compile_like(layer: Model, state: Compiled) -> None:
    """Compile a part of a model as the whole was, with an optimizer of its own.

    Raises:
        ValueError: the optimizer was made already, for the parameters of the whole.
    """
    if isinstance(state.optimizer_spec, optimizers.Ready):
        raise ValueError(
            "pretrain was called with an optimizer that is made for the whole model; expected one "
            "that each layer can have anew: compile('adam', …), or optimizers.SGD(0.05)."
        )
    settings = {name: getattr(state, name) for name in SETTINGS}
    optimizer, settings["schedule"] = (  # as given, where that was a torch class or a function
        getattr(spec, "maker", spec) for spec in (state.optimizer_spec, state.schedule)
    )
    layer.compile(optimizer, device=state.device, **settings)


def start_fused_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give a fused SGD its momentum buffers, as zeros: the same first step, to the bit.

    torch's fused SGD makes them uninitialised in the first step, for all parameters or none. So a
    layer that is freed later stops it with a TypeError, and a first step that the GradScaler skips
    leaves garbage in them.
    """
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            if group["fused"] and group["momentum"] and not group["dampening"]:
                for parameter in group["params"]:
                    state = optimizer.state[parameter]
                    if state.get("momentum_buffer") is None:
                        state["momentum_buffer"] = torch.zeros_like(parameter)


def choose_device(device: str | torch.device) -> torch.device:
    """``"auto"``: CUDA, else Apple's MPS, else the CPU."""
    if str(device) == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if str(device).lower() in ("gpu", "gpu:0"):
        device = "cuda"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(
            did_you_mean("device", device, ["auto", "cpu", "cuda", "cuda:0", "mps"])
        ) from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={str(device)!r} was given, but torch sees no CUDA GPU here; "
            "expected device='auto' or 'cpu'."
        )
    return chosen


def is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0


def undone_by(loss: Any, ending: str) -> bool:
    """Whether the loss itself has the last softmax or sigmoid, and so can work on the logits.

    A subclass with a formula of its own is given probabilities, as in Keras.
    """
    formulas = {
        losses.CategoricalCrossentropy.__call__: "softmax",
        losses.BinaryCrossentropy.__call__: "sigmoid",
    }
    return formulas.get(type(loss).__call__) == ending and not loss.from_logits


def describe(tree: Tree) -> tuple:
    return tuple((tuple(t.shape[1:]), t.is_floating_point()) for t in leaves(tree))


def output_names(outputs: Any) -> list[str]:
    """``[""]`` for one output; a dict's keys; else ``output_1``, ``output_2`` …"""
    if isinstance(outputs, Tensor):
        return [""]
    parts = list(outputs.values()) if isinstance(outputs, dict) else outputs
    inside = ""
    if isinstance(parts, (tuple, list)):
        if parts and all(isinstance(part, Tensor) for part in parts):
            if isinstance(outputs, dict):
                return [str(key) for key in outputs]
            return [f"output_{number}" for number in range(1, len(parts) + 1)]
        inside = f" of {listed((type(part).__name__ for part in parts), 100) or 'nothing'}"
    raise TypeError(
        f"the network returned a {type(outputs).__name__}{inside}; expected a tensor, or a tuple, "
        "list or dict of tensors, none of them nested. A torch LSTM returns (output, state): use "
        "easydl.LSTM."
    )


def check_rows(outputs: Any, rows: int) -> None:
    """Outputs are tensors with one row for each sample."""
    output_names(outputs)
    for output in leaves(outputs):
        if output.dim() == 0 or len(output) != rows:
            raise ValueError(
                f"the network returned shape {tuple(output.shape)} for {rows} rows; expected "
                f"({rows}, …). If it squeezes, write squeeze(-1), which leaves the rows alone."
            )


def order_targets(y: Tree, names: list[str]) -> list[Tensor | None]:
    """Targets in the outputs' order; a dict by name."""
    if y is None:
        return [None] * len(names)
    if isinstance(y, dict):
        if set(y) != set(names):
            raise ValueError(
                f"y is a dict with {listed(sorted(y))}; expected one entry an output: "
                f"{listed(sorted(names))}."
            )
        return [y[name] for name in names]
    tensors = leaves(y)
    if len(tensors) != len(names):
        raise ValueError(
            f"y holds {len(tensors)} arrays, but the network has {len(names)} outputs; expected "
            "one array an output."
        )
    check_order("y", names)
    return list(tensors)


def check_order(what: str, names: list[str]) -> None:
    """A list for outputs by name is refused unless Keras's order, the alphabetical, is theirs."""
    if len(names) > 1 and names[0] != "output_1" and names != sorted(names):
        raise ValueError(
            f"{what} is a list, but the network names its outputs {listed(names)}, which Keras "
            "would take in alphabetical order; expected a dict: "
            f"{what}={{{names[0]!r}: …, {names[1]!r}: …}}."
        )


def spread(what: str, value: Any, names: list[str], default: Any = None) -> list[Any]:
    """One entry an output, from a list, a dict by name, or one value for all."""
    if value is None:
        return [default] * len(names)
    if isinstance(value, dict):
        for key in value:
            if key not in names and names == [""]:
                raise ValueError(
                    f"{what} is a dict that names an output {key!r}, but the network has one "
                    f"output, without a name; expected {what} without a dict."
                )
            if key not in names:
                raise ValueError(did_you_mean(f"output in {what}", key, names))
        return [value.get(name, default) for name in names]
    if isinstance(value, (list, tuple)):
        if len(value) != len(names):
            raise ValueError(
                f"{what} lists {len(value)} entries for {len(names)} outputs; expected one each, "
                f"or a dict by name: {listed(names)}. Several metrics of one stand in a list."
            )
        check_order(what, names)
        return list(value)
    return [value] * len(names)


def spread_metrics(what: str, value: Any, names: list[str]) -> list[list[Any]]:
    """A list of metrics an output, as Keras reads them; a single one serves every output."""
    flat = isinstance(value, (list, tuple)) and not any(isinstance(v, (list, tuple)) for v in value)
    if flat and (len(names) == 1 or len(value) < 2):
        return [list(value) for _ in names]
    lists = [[] if v is None else v for v in spread(what, value, names)]
    return [list(v) if isinstance(v, (list, tuple)) else [v] for v in lists]


def flat_specs(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, (list, tuple)):
        return [value]
    return [spec for item in value for spec in flat_specs(item)]


def map_specs(function: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, dict):
        return {key: function(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [function(item) for item in value]
    return function(value)


def make_metric(spec: Any, counting: list[Any] | None = None) -> tuple[str, metrics.Metric]:
    """``(history key, metric)``; the string given is the key. Losses serve as metrics too.

    An object counts in its first place itself, where its owner may read it, in further ones a
    copy: ``counting`` are the objects that have a place, and the new one.
    """
    if isinstance(spec, str) and spec.lower() not in metrics.NAMES and spec in losses.NAMES:
        function = losses.per_sample_form(losses.get(spec))
        return spec, metrics.get(function)
    metric = metrics.get(spec)
    if counting is not None:
        if any(counter_of(metric) is taken for taken in counting):
            metric = copy.deepcopy(metric)
        counting.append(counter_of(metric))
    return (spec if isinstance(spec, str) else metric.name), metric


def counter_of(metric: metrics.Metric) -> Any:
    """The object that has the sums: the metric, or the one of another library that it asks."""
    return metric.metric if isinstance(metric, metrics.ObjectMetric) else metric


Pairs = list[tuple[str, metrics.Metric]]


def unique_keys(plain: Pairs, weighted: Pairs) -> tuple[Pairs, Pairs]:
    """A key that comes twice gets ``_1``, ``_2`` …, or ``weighted_`` before it, as in Keras."""
    seen: set[str] = set()

    def unique(key: str, prefix: str) -> str:
        if prefix and key in seen:
            key = prefix + key
        numbered = (f"{key}_{count}" if count else key for count in itertools.count())
        found = next(name for name in numbered if name not in seen)
        seen.add(found)
        return found

    return (
        [(unique(key, ""), metric) for key, metric in plain],
        [(unique(key, "weighted_"), metric) for key, metric in weighted],
    )

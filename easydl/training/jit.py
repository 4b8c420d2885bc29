"""``compile(jit=True)``: several training steps in one call of code that ``torch.compile`` made.

The step of ``step.py`` is written here once more as a function of weights, buffers and optimizer
state, because only so can one graph hold the forward pass, the gradients and the updates of many
batches. The numbers are those of the eager step to float tolerance, random ones included. What
does not fit the graph (a ragged last batch, a first step that makes the optimizer's state) is done
by the eager step; a model that torch cannot compile is trained eagerly, aloud.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import math
import operator
import textwrap
import time
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn, optim
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from torch._inductor.config import cpp
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.func import functional_call, grad_and_value
from torch.optim import adadelta, adagrad, adam, adamax, nadam, radam, rmsprop, sgd
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from easydl.data.convert import leaves, map_tree, rows_of
from easydl.errors import warn_user
from easydl.training.fused import is_watched
from easydl.training.products import mkl_is_slow
from easydl.training.step import check_finite_loss, rows_counted, train_step

if TYPE_CHECKING:
    from easydl.model import Model

#: torch's own update of each optimizer, and the tensors that it keeps for a parameter, in order
UPDATES: dict[type, tuple[Callable, tuple[str, ...]]] = {
    optim.SGD: (sgd.sgd, ("momentum_buffer",)),
    optim.Adam: (adam.adam, ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step")),
    optim.AdamW: (adam.adam, ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step")),
    optim.RMSprop: (rmsprop.rmsprop, ("square_avg", "grad_avg", "momentum_buffer", "step")),
    optim.Adagrad: (adagrad.adagrad, ("sum", "step")),
    optim.Adadelta: (adadelta.adadelta, ("square_avg", "acc_delta", "step")),
    optim.Adamax: (adamax.adamax, ("exp_avg", "exp_inf", "step")),
    optim.NAdam: (nadam.nadam, ("exp_avg", "exp_avg_sq", "mu_product", "step")),
    optim.RAdam: (radam.radam, ("exp_avg", "exp_avg_sq", "step")),
}
COPY = torch.ops.aten.copy_.default
KEPT = ("flags", "trained", "size", "work", "together", "eager")  # in a checkpoint
SMALL = 1e7  # multiply-adds of a step: above, the cost of a call tells little, compiling as much


class PowersOnce(CustomGraphPass):
    """Writes ``beta ** step`` as ``exp(step * log(beta))``, which inductor computes once.

    A power it would compute again, in float64, for every 16 weights: 0.5 ms a step of Adam where
    the rest of the update takes 0.1 ms.
    """

    def __call__(self, graph: torch.fx.Graph) -> None:
        power, aten = torch.ops.aten.pow.Scalar, torch.ops.aten
        for node in graph.find_nodes(op="call_function", target=power):
            base, exponent = node.args
            if isinstance(base, float) and base > 0 and exponent.meta["val"].dim() == 0:
                with graph.inserting_before(node):
                    scaled = graph.call_function(aten.mul.Tensor, (exponent, math.log(base)))
                    result = graph.call_function(aten.exp.default, (scaled,))
                scaled.meta = result.meta = node.meta
                node.replace_all_uses_with(result)
                graph.erase_node(node)

    def uuid(self) -> str:
        return "easydl.training.jit.PowersOnce 1"  # torch's cache of compiled code asks for it


@torch.library.custom_op("easydl::product", mutates_args=())
def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` by oneDNN, for matrices of any strides."""
    if not (b.is_contiguous() or b.t().is_contiguous()):
        b = b.contiguous()  # part of a larger matrix, for which oneDNN has only a plain loop
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")


@product.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


class ByOneDNN(CustomGraphPass):
    """Has oneDNN compute the products of ``SMALL`` multiply-adds and more; see ``mkl_is_slow``."""

    def __call__(self, graph: torch.fx.Graph) -> None:
        aten, by_onednn = torch.ops.aten, torch.ops.easydl.product.default
        for target in (aten.mm.default, aten.addmm.default):
            for node in graph.find_nodes(op="call_function", target=target):
                *bias, a, b = node.args
                left, right = a.meta["val"], b.meta["val"]
                single = left.device.type == "cpu" and left.dtype == torch.float32
                if node.kwargs or not single or left.numel() * right.shape[1] < SMALL:
                    continue
                with graph.inserting_before(node):
                    result = graph.call_function(by_onednn, (a, b))
                    result.meta = dict(node.meta)
                    if bias:
                        result = graph.call_function(aten.add.Tensor, (result, *bias))
                        result.meta = dict(node.meta)
                node.replace_all_uses_with(result)
                graph.erase_node(node)

    def uuid(self) -> str:
        return "easydl.training.jit.ByOneDNN 1"


class InOrder(CustomGraphPass):
    """Several passes, one after the other."""

    def __init__(self, *passes: CustomGraphPass):
        self.passes = passes

    def __call__(self, graph: torch.fx.Graph) -> None:
        for change in self.passes:
            change(graph)

    def uuid(self) -> str:
        return ", ".join(str(change.uuid()) for change in self.passes)


@torch.library.custom_op("easydl::stays", mutates_args=())
def stays(value: Tensor, name: str) -> Tensor:
    """A mark in the graph: this is what ``name``, a weight or a moment, is after an update."""
    return value.clone()


@stays.register_fake
def _(value: Tensor, name: str) -> Tensor:
    return torch.empty_like(value)


class InPlace(CustomGraphPass):
    """Writes what ``stays`` marks over what was there, after every step instead of the last.

    Left alone, inductor keeps each step's weights and gradients in memory of their own and computes
    the moments of all earlier steps again. What is read once more after a step stays as it is.
    """

    def __call__(self, graph: torch.fx.Graph) -> None:
        order = {node: number for number, node in enumerate(graph.nodes)}
        after: dict[Any, list[Any]] = {}  # each update, by the name of what it changed
        for mark in graph.find_nodes(op="call_function", target=torch.ops.easydl.stays.default):
            after.setdefault(mark.args[1], []).append(mark)
        for marks in after.values():
            end = next((user for user in marks[-1].users if user.target is COPY), None)
            place: Any = None if end is None else end.args[0]
            writes = (
                place is not None
                and place.op == "placeholder"
                and all(
                    order[reader] < order[mark] or reader in (mark, end)
                    for known, mark in zip([place, *marks], marks)
                    for reader in readers(known)
                )
            )
            for mark in marks:
                value = mark.args[0]
                if writes and mark is not marks[-1]:
                    with graph.inserting_before(mark):
                        value = graph.call_function(COPY, (place, value))
                    value.meta = dict(mark.meta)
                mark.replace_all_uses_with(value)
                graph.erase_node(mark)

    def uuid(self) -> str:
        return "easydl.training.jit.InPlace 2"


def readers(node: Any) -> Iterator[Any]:
    """What reads a tensor's memory: its users, and those of its views."""
    for user in node.users:
        yield user
        if getattr(user.target, "is_view", user.target is operator.getitem):
            yield from readers(user)


class Objective(nn.Module):
    """``compute_loss`` as a forward pass, which ``functional_call`` can give other weights."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, x: Any, y: Any, w: Tensor | None) -> tuple[Tensor, Any, dict[str, Tensor]]:
        state = self.model._compiled
        with state.autocast:
            return state.compute_loss(self.model, x, y, w)


class Jit:
    """The compiled steps of one model.

    A call holds ``steps_per_execution`` of them; ``"auto"``: 16 small steps, or 4 large ones.
    """

    def __init__(self, model: Model):
        self.model = model
        self.objective = Objective(model)
        self.flags: list[bool] = []  # which parameters could learn when they were last looked at
        self.trained: list[str] = []
        self.size = 0  # rows of a batch that fits
        self.work = 0.0  # multiply-adds of one step
        self.names: dict[nn.Parameter, str] = {}
        self.together = 1
        self.eager = False
        self.replaced = ""  # a buffer that a step put another tensor in the place of
        self.counted = ""  # a Python number that a step changed
        self.looking = False  # amid the eager steps that tell what can be compiled
        self.ready: Any = None
        # A code object of its own, because torch counts recompilations by code object.
        run = types.FunctionType(type(self)._run.__code__.replace(), globals())
        products = [ByOneDNN()] if mkl_is_slow() else []
        options = {
            "fallback_random": True,
            "cpp_wrapper": model._compiled.device.type == "cpu",
            # Numbers a thread: below 8,192 in all the others are not worth their waking.
            "cpp.min_chunk_size": max(8192 // torch.get_num_threads(), cpp.min_chunk_size),
            "post_grad_custom_pre_pass": InOrder(PowersOnce(), *products),
            "post_grad_custom_post_pass": InPlace(),
            "reorder_for_locality": False,  # what is read late cannot be written in place
        }
        compiled: Any = torch.compile(run, fullgraph=True, dynamic=False, options=options)
        self.compiled = functools.partial(compiled, self)

    # -- which batches go where -----------------------------------------------------------------

    def epoch(
        self, batches: Iterable[Any], steps: int | None
    ) -> Iterator[tuple[Any, Any, Any, Callable, int]]:
        """``(x, y, w, step, count)``: ``count`` batches joined for the compiled step, or one."""
        state, batches = self.model._compiled, iter(batches)
        flags = [parameter.requires_grad for parameter in state.parameters]
        if flags != self.flags and not self.eager:
            self.looking, self.replaced = True, ""
            for _ in range(2):  # a number may be new in the first step, and stay
                self.counted = ""
                for x, y, w in itertools.islice(batches, state.accumulate):
                    yield x, y, w, self._first_step, 1
                if not self.counted:
                    break
            self.flags, self.looking = flags, False
            self._look(steps)
        while not self.eager:
            group = list(itertools.islice(batches, self.together))
            sizes = {rows_of(x) for x, _, _ in group}
            if len(group) == self.together and sizes == {self.size} and not state.waiting_batches:
                x, y, w = (joined(list(trees)) for trees in zip(*group))
                yield x, y, w, self.step, self.together
            elif group:
                for x, y, w in group:
                    yield x, y, w, train_step, 1
            else:
                return
        for x, y, w in batches:
            yield x, y, w, train_step, 1

    def state_dict(self) -> dict[str, Any]:
        """What was found out, so that a resumed training joins the same batches."""
        return {name: getattr(self, name) for name in KEPT}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in KEPT:
            setattr(self, name, state[name])
        self.names = {p: name for name, p in self.objective.named_parameters()}

    def _first_step(self, model: Model, x: Any, y: Any, w: Any) -> tuple[dict[str, Tensor], Any]:
        """An eager step that counts its multiply-adds."""
        self.size = rows_of(x)
        before, numbers = dict(self.objective.named_buffers()), self._numbers()
        with FlopCounterMode(display=False) as counter:
            result = train_step(model, x, y, w)
        self.work = counter.get_total_flops() / 2
        after = dict(self.objective.named_buffers())
        replaced = [name for name in before if after.get(name) is not before[name]]
        counted = [k for k, v in self._numbers().items() if k not in numbers or numbers[k] != v]
        self.replaced = next(iter(replaced), self.replaced)
        self.counted = next(iter(counted), self.counted)
        return result

    def _numbers(self) -> dict[str, Any]:
        """The Python numbers that the modules and losses keep as attributes, by their place."""
        owners = dict(self.model.named_modules())
        owners |= {f"loss {n}": head.loss for n, head in enumerate(self.model._compiled.heads)}
        return {
            f"{place}.{name}".lstrip("."): value
            for place, owner in owners.items()
            for name, value in getattr(owner, "__dict__", {}).items()
            if type(value) in (int, float) and value == value
        }

    def _look(self, steps: int | None) -> None:
        """After eager steps: which parameters learn, what the optimizer keeps of them."""
        reason = self._obstacle()
        if reason:
            self._give_up(reason)
            return
        self.ready = None
        named = dict(self.objective.named_parameters())
        self.trained = [n for n, p in named.items() if p.requires_grad and p.grad is not None]
        self.names = {p: n for n, p in named.items()}
        state = self.model._compiled
        together = state.steps_per_execution
        if together == "auto":
            together = 16 if self.work <= SMALL else 4
        together = min(together, max((steps or together) - state.accumulate, 1))
        self.together = -(-int(together) // state.accumulate) * state.accumulate

    def _obstacle(self) -> str | None:
        state = self.model._compiled
        if type(state.optimizer) not in UPDATES:
            return f"{type(state.optimizer).__name__} has no compiled form"
        if is_watched(state.optimizer):
            return "the optimizer has hooks"
        if self.replaced:
            name = self.replaced.removeprefix("model.")
            return f"the buffer {name} is assigned anew in a step, expected {name}.copy_(…)"
        if self.counted:
            return f"a step changes the Python number {self.counted}, expected a buffer"
        if state.scaler.is_enabled():
            return "precision='float16' may skip steps"
        if len(state.heads) > 1 and any(head.counts_by_target for head in state.heads):
            return "several outputs whose losses count their targets apart"
        if getattr(state.step_scheduler, "cycle_momentum", False):
            return "the schedule moves the momentum, too"
        return None

    def _give_up(self, reason: str) -> None:
        self.eager = True
        warn_user(f"jit=True: {reason:.200}; training goes on eagerly.")

    # -- the compiled step ----------------------------------------------------------------------

    def step(self, model: Model, x: Any, y: Any, w: Any) -> tuple[dict[str, Tensor], Any]:
        """Train on ``together`` batches of ``size`` rows in one call; losses are their means."""
        if self.ready != (self.together, self.size) and not self._compiles(x, y, w):
            return self._eagerly(x, y, w)
        scheduler = model._compiled.step_scheduler
        before = None if scheduler is None else scheduler.state_dict()
        rates = self._rates()
        try:
            with torch.no_grad():
                values, outputs = self.compiled(*self._arguments(), rates, x, y, w)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:  # it computed nothing yet
            self._give_up(why(error))
            if scheduler is not None:
                scheduler.load_state_dict(before)
                for group, rate in zip(model._compiled.optimizer.param_groups, rates[0].tolist()):
                    group["lr"] = rate
            return self._eagerly(x, y, w)
        parts = self._means(values, y)
        check_finite_loss(model._compiled, parts["loss"])
        return parts, outputs

    def say(self, text: str) -> None:
        if self.model._compiled.speaks:
            tqdm.write(text)

    def _compiles(self, x: Any, y: Any, w: Any) -> bool:
        """Compile by a first call on copies, so that a failure leaves no trace."""
        self.say(f"jit: compiling {self.together} training steps into one call, once …")
        start = time.perf_counter()
        state = self.model._compiled
        updates, groups = self.together // state.accumulate, len(state.optimizer.param_groups)
        rates = torch.zeros(updates, groups, dtype=torch.float64, device=state.device)
        copies = copy.deepcopy(self._arguments())
        try:
            with torch.random.fork_rng(), torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch's compiler, about itself
                self.compiled(*copies, rates, x, y, w)
        except Exception as error:
            self._give_up(why(error))
            return False
        self.ready = (self.together, self.size)
        self.say(f"jit: compiled in {time.perf_counter() - start:.1f} s")
        return True

    def _eagerly(self, x: Any, y: Any, w: Any) -> tuple[dict[str, Tensor], Any]:
        results = []
        for k in range(self.together):
            cut = slice(k * self.size, (k + 1) * self.size)
            results.append(train_step(self.model, *(part_of(tree, cut) for tree in (x, y, w))))
        values = {name: torch.stack([r[0][name] for r in results]) for name in results[0][0]}
        return self._means(values, y), joined([outputs for _, outputs in results])

    def _arguments(self) -> tuple[Any, ...]:
        """Everything that a step reads and changes, by the parameters' names."""
        optimizer = self.model._compiled.optimizer
        keys = UPDATES[type(optimizer)][1]
        fixed = {name: p.detach() for p, name in self.names.items()}
        trained = {name: fixed.pop(name) for name in self.trained}
        kept = {
            name: {k: v for k in keys if (v := optimizer.state[p].get(k)) is not None}
            for p, name in self.names.items()
            if name in trained
        }
        groups = [
            (
                [self.names[p] for p in group["params"] if self.names[p] in trained],
                {k: v for k, v in group.items() if k not in ("params", "lr")},
            )
            for group in optimizer.param_groups
        ]
        buffers = {name: buffer.detach() for name, buffer in self.objective.named_buffers()}
        return trained, fixed, buffers, kept, groups

    def _rates(self) -> Tensor:
        """The learning rates of the updates to come, (updates, groups); moves the schedule on."""
        state = self.model._compiled
        rates = []
        for _ in range(self.together // state.accumulate):
            rates.append([float(group["lr"]) for group in state.optimizer.param_groups])
            if state.step_scheduler is not None:
                state.step_scheduler.step()
        return torch.tensor(rates, dtype=torch.float64, device=state.device)

    def _means(self, values: dict[str, Tensor], y: Any) -> dict[str, Tensor]:
        """The mean of the batches' losses by name, each counting as the meter counts it."""
        heads = self.model._compiled.heads
        shares: Tensor | float = 1 / self.together
        if len(heads) == 1 and heads[0].counts_by_target:
            counts = [heads[0].rows_counted(part) for part in y.split(self.size)]
            if None not in counts:
                total = torch.stack(counts)  # type: ignore[arg-type]
                shares = total / total.sum()
        return {name: (value * shares).sum() for name, value in values.items()}

    def _run(
        self, trained: Any, fixed: Any, buffers: Any, kept: Any, groups: Any, rates: Tensor,
        x: Any, y: Any, w: Any,
    ) -> tuple[dict[str, Tensor], Any]:  # fmt: skip
        """What is compiled: every step from the forward pass to the changed weights."""
        state, objective, size = self.model._compiled, self.objective, self.size

        def loss_of(trained: Any, buffers: Any, x: Any, y: Any, w: Any) -> Any:
            loss, outputs, parts = functional_call(objective, (trained, fixed, buffers), (x, y, w))
            return loss, (outputs, parts)

        gradient = grad_and_value(loss_of, has_aux=True)
        # 1 - beta ** step loses five digits in float32; the eager step computes it in Python.
        steps = {name: values["step"] for name, values in kept.items() if "step" in values}
        kept = {
            name: values | {"step": steps[name].double()} if name in steps else values
            for name, values in kept.items()
        }
        measures = any(head.metrics or head.weighted_metrics for head in state.heads)
        losses_by_name: dict[str, list[Tensor]] = {}
        all_outputs = []
        sums: dict[str, Tensor] = {}
        total: Any = 0
        for k in range(self.together):
            cut = slice(k * size, (k + 1) * size)
            batch = [part_of(tree, cut) for tree in (x, y, w)]
            gradients, (_, (outputs, parts)) = gradient(trained, buffers, *batch)
            all_outputs.append(outputs if measures else None)
            for name, value in parts.items():
                losses_by_name.setdefault(name, []).append(value)
            if state.accumulate == 1:
                sums = gradients
            else:
                rows = rows_counted(state.heads, *batch[:2])
                factor = 1 if rows is None else rows
                first = k % state.accumulate == 0
                scaled = {n: g * factor for n, g in gradients.items()}
                sums = scaled if first else {n: sums[n] + g for n, g in scaled.items()}
                total = factor if first or rows is None else total + rows
            if (k + 1) % state.accumulate == 0:
                if state.accumulate > 1:
                    if isinstance(total, Tensor):
                        total = total.where(total > 0, 1)  # only ignored targets: gradient 0
                    sums = {name: g / total for name, g in sums.items()}
                update(state, trained, sums, kept, groups, rates[k // state.accumulate])
                for parameter, constraint in state.constraints:
                    if self.names[parameter] in trained:
                        weight = trained[self.names[parameter]]
                        weight.copy_(constraint(weight))
                for name, weight in trained.items():
                    weight.copy_(stays(weight, name))
                    for key, value in kept[name].items():
                        if key != "step":  # which is another tensor here
                            value.copy_(stays(value, f"{name}/{key}"))
        for name, step in steps.items():
            step.copy_(kept[name]["step"])
        return (
            {name: torch.stack(values) for name, values in losses_by_name.items()},
            joined(all_outputs),
        )


def why(error: Exception) -> str:
    """Why torch compiles no further, in a few words."""
    if isinstance(error, FailOnRecompileLimitHit):
        return (
            "the steps were compiled too often, since what is no tensor (an attribute, a setting "
            "of the optimizer) or what is frozen keeps changing"
        )
    said = textwrap.shorten(str(error), 150, placeholder=" …")
    return f"torch cannot compile this model ({said})"


def part_of(tree: Any, rows: slice) -> Any:
    return map_tree(lambda t: t[rows], tree)


def joined(trees: list) -> Any:
    """Trees of one form as one, rows after rows."""
    if len(trees) == 1 or trees[0] is None:
        return trees[0]
    columns = iter([joined_tensors(parts) for parts in zip(*map(leaves, trees))])
    return map_tree(lambda _: next(columns), trees[0])


def joined_tensors(parts: tuple[Tensor, ...]) -> Tensor:
    """``torch.cat``; without a copy where the parts were cut from one piece of memory."""
    first = parts[0]
    if first.is_contiguous() and not torch.compiler.is_compiling():
        size = first.numel() * first.element_size()
        starts = [first.data_ptr() + k * size for k in range(len(parts))]
        forms = {(part.untyped_storage().data_ptr(), part.shape) for part in parts}
        if [part.data_ptr() for part in parts] == starts and len(forms) == 1:
            return first.as_strided((len(parts) * len(first), *first.shape[1:]), first.stride())
    return torch.cat(parts)


def update(
    state: Any, weights: dict, gradients: dict, kept: dict, groups: list, rates: Tensor
) -> None:
    """Clip and step as ``step.update_weights`` does, by torch's own functions."""
    kernel, keys = UPDATES[type(state.optimizer)]
    allowed = inspect.signature(kernel).parameters
    if state.clip_norm is not None:
        norm = nn.utils.get_total_norm(list(gradients.values()))
        factor = (state.clip_norm / (norm + 1e-6)).clamp(max=1)
        gradients = {name: g * factor for name, g in gradients.items()}
    if state.clip_value is not None:
        limit = state.clip_value
        gradients = {name: g.clamp(-limit, limit) for name, g in gradients.items()}
    for (names, group), rate in zip(groups, rates):
        options = {k: v for k, v in group.items() if k in allowed}
        options |= {"foreach": False, "lr": rate}
        if "betas" in group:
            options["beta1"], options["beta2"] = group["betas"]
        if "capturable" in allowed:
            options["capturable"] = True
        if "fused" in allowed:
            options["fused"] = False
        columns = [[kept[n][k] for n in names if k in kept[n]] for k in keys]
        if type(state.optimizer) is optim.SGD:
            columns = [[kept[n].get("momentum_buffer") for n in names]]
        kernel([weights[n] for n in names], [gradients[n] for n in names], *columns, **options)

"""``Model``: compile, fit, evaluate, predict — each a few lines that call the rooms below."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from easydl import saving
from easydl.callbacks import BackupAndRestore, Callback, History, ProgressBar
from easydl.callbacks import get as get_callback
from easydl.callbacks.base import settings_of
from easydl.data import Arrays, Stream, as_source, picture_sets
from easydl.data.convert import Tree, all_rows, leaves, map_tree, rows_of, versions
from easydl.data.picture_sets import PictureData
from easydl.data.pictures import files_in, is_single
from easydl.data.read import is_array
from easydl.data.stream import check_all_in_order, reading
from easydl.errors import (
    check_between,
    check_flag,
    check_positive_int,
    check_takes_three,
    did_you_mean,
    short_traceback,
    warn_user,
)
from easydl.layers.base import (
    can_be_left_out,
    first_weight,
    foreign_hooks,
    keep_activities,
    takes_logits,
)
from easydl.training import groups, prepare
from easydl.training.batches import cut_for_a_pass, hold_out, needs_two_rows
from easydl.training.class_weight import apply_class_weight
from easydl.training.compiled import Compiled, check_rows
from easydl.training.loop import batch_hooks, not_finite_message, one_batch, run_epochs
from easydl.training.network import check_arguments, inputs_or_rows, takes_keywords, try_out
from easydl.training.products import fast_products
from easydl.training.step import NotFinite
from easydl.training.trainable import (
    evaluation_mode,
    hold_frozen_batchnorm,
    modes_of,
    restore_modes,
    set_trainable,
    sync_trainable,
)


class Model(nn.Module):
    """Any network with Keras's ``compile``, ``fit``, ``evaluate`` and ``predict``.

    Wrap what you have, ``Model(network)``, or subclass it and write ``forward``. It stays an
    ``nn.Module``: ``model(x)``, ``model.parameters()``, hooks and ``state_dict`` (whose keys are
    the wrapped network's own) work as ever. Only ``nn.Module.compile`` is replaced, by Keras's;
    torch's compiler is ``compile(..., jit=True)``.

    Override ``compute_loss`` where the loss is not a function of outputs and targets alone.

    Args:
        network: the module to train; ``None`` in a subclass with its own ``forward``.
        name: shown by ``summary``.

    Raises:
        TypeError: ``network`` is not an ``nn.Module``.

    Example:
        >>> import easydl as dl
        >>> dl.seed(0)
        >>> model = dl.Model(nn.Linear(3, 1))
        >>> model.compile("sgd", "mse")
        >>> history = model.fit(torch.ones(8, 3), torch.ones(8), epochs=20, verbose=0)
        >>> history.history["loss"][-1] < history.history["loss"][0]
        True
    """

    network: nn.Module | None
    own_loss = ""  #: what a family trains by, in words, where ``compile`` takes no loss
    reproduces_inputs = False  #: of a family whose targets are its inputs where none are given

    def __init__(self, network: nn.Module | None = None, *, name: str | None = None):
        super().__init__()
        self.name = name or type(self).__name__.lower()
        self.network = network
        self.history: History | None = None
        self.stop_training = False
        self.given_input_shape: tuple[int | None, ...] | None = None
        self.widest_row = 0  # the most numbers of a sample that a module was seen to work on
        self.inputs_known: tuple | None = None  # the kind of array that its last one was
        self.column_names: dict[str, list] = {}  # of the tables that it was fitted to
        self._class_names: list[str] | None = None
        self.transforms: Any = None  #: what makes a picture ready, ``dl.vision.Transforms``
        self.learning_rate_shares: dict[str, float] = {}  # by layer, see spread_learning_rate
        self._compiled: Any = None
        self._has_learned = network is not None
        self._has_warned = False  # that it has not
        self.register_load_state_dict_post_hook(_note_given_weights)
        if network is not None:
            if not isinstance(network, nn.Module):
                raise TypeError(
                    f"Model({type(network).__name__}) was given; expected an nn.Module. For a list "
                    "of layers write easydl.Sequential([...])."
                )
            # A wrapper must not show in the keys: checkpoints of the bare network fit.
            self.register_state_dict_post_hook(_drop_prefix)
            self.register_load_state_dict_pre_hook(_add_prefix)

    def forward(self, *inputs: Any, logits: bool = False, **named: Any) -> Any:
        """The network's outputs; ``logits`` leaves out the module of ``final_activation``."""
        if self.network is None:
            raise NotImplementedError(
                f"{type(self).__name__} has no forward; expected a method "
                "forward(self, x) in the subclass, or Model(network)."
            )
        if logits:
            (x,) = inputs
            for layer in list(self.network.children())[:-1]:
                x = layer(x)
            return x
        return self.network(*inputs, **named)

    def train(self, mode: bool = True) -> Model:
        """torch's switch, except that frozen BatchNorms stay in inference mode."""
        super().train(mode)
        if mode:
            hold_frozen_batchnorm(self)
        return self

    # -- compile -----------------------------------------------------------------------------

    @short_traceback
    def compile(  # type: ignore[override]
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        *,
        steps_per_execution: int | str = "auto",
        device: str | torch.device = "auto",
        precision: str = "float32",
        jit: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        accumulate: int = 1,
        schedule: Any = None,
        strict: bool = True,
    ) -> None:
        """Say how to train; resets the optimizer's state, not the weights.

        Args:
            optimizer: name, ``easydl.optimizers`` object, ``torch.optim`` class or instance.
            loss: name, torch loss, or callable ``(y_pred, y_true) -> tensor``; a list or dict for
                several outputs. Crossentropies by name train on the logits, whether a
                ``Sequential`` (easydl's or torch's) ends in softmax/sigmoid or in nothing; of the
                probabilities of another network they take the clipped logarithm, as Keras does.
                Metrics see probabilities in each case; ``predict`` gives what the network gives.
            loss_weights: each output's factor in the total, list or dict.
            metrics: names, ``easydl.metrics`` objects or callables; for several outputs one each,
                in a list or a dict, or a list of them each. A single one serves all outputs. An
                object given twice counts by itself in its first place, a copy of it in the other.
            weighted_metrics: the same, with sample and class weights applied.
            steps_per_execution: with ``jit``, how many steps one call runs; batch hooks run, and
                nan is found, once a call. ``"auto"``: 16 small steps, or 4 large.
            device: ``"auto"`` (CUDA, else MPS, else CPU) or a torch device.
            precision: ``"float32"``, or mixed ``"bfloat16"`` or ``"float16"`` by autocast.
            jit: compile whole training steps by ``torch.compile``, once, in some 10 s; falls back
                aloud.
            clip_norm: largest norm of all gradients together.
            clip_value: largest size of each gradient entry.
            accumulate: batches per weight update, as one batch of their joint size.
            schedule: learning-rate schedule of ``easydl.optimizers.schedules``, or a callable
                ``optimizer -> torch scheduler`` (stepped once an epoch).
            strict: ``False`` lets suspicious pairings and nan pass; the only way past a refusal.

        Raises:
            ValueError, TypeError: an unknown name, with the nearest one; a value out of range.
        """
        if loss is not None and self.own_loss:
            raise ValueError(
                f"compile was given loss={loss!r:.60}, but {type(self).__name__} trains by its "
                f"own, {self.own_loss}; expected none: compile('adam')."
            )
        if self.own_loss and (metrics or weighted_metrics):
            raise ValueError(
                f"compile was given metrics, but {type(self).__name__} has no outputs to compare "
                "with targets; expected none: the parts of its loss are in the history."
            )
        check_takes_three(f"{type(self).__name__}.compute_loss", self.compute_loss)
        compiled = Compiled(
            optimizer, loss, metrics, weighted_metrics, loss_weights, device, precision, jit,
            steps_per_execution,            clip_norm, clip_value, accumulate, schedule, strict,
        )  # fmt: skip
        if self.is_built:
            self.to(compiled.device)
            compiled.know_parameters(self)
        self._compiled = compiled

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The torch optimizer; ``None`` before ``compile`` or before the weights exist."""
        return self._compiled.optimizer if self._compiled is not None else None

    @property
    def metrics_names(self) -> list[str]:
        """The names of what ``evaluate`` returns, in order; known once data were seen."""
        heads = self._compiled.heads if self._compiled is not None else []
        losses = [f"{head.name}_loss" for head in heads if len(heads) > 1]
        metrics = [
            f"{head.name}_{key}" if head.name else key
            for head in heads
            for key, _ in head.metrics + head.weighted_metrics
        ]
        return ["loss", *losses, *metrics]

    @property
    def _is_strict(self) -> bool:
        """Whether bad input is refused: always, but after ``compile(strict=False)``."""
        return self._compiled is None or self._compiled.strict

    @property
    def learning_rate(self) -> float:
        """The optimizer's learning rate, the highest of its groups; assigning sets it for all.

        Layers that learn at a share of it (``spread_learning_rate``) keep their share.
        """
        return max(group["lr"] for group in self._require_optimizer().param_groups)

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        value = check_between("learning_rate", value, 0, math.inf, ends="[)")
        state = self._compiled
        if state.step_scheduler is not None or state.epoch_scheduler is not None:
            raise ValueError(
                f"model.learning_rate = {value:g} was set, but compile has a schedule, which sets "
                "it anew; expected one of them. Write compile(optimizer=…) with a number."
            )
        self._require_optimizer()
        groups.set_rate(self, state, value)

    @property
    def class_names(self) -> list[str] | None:
        """The classes' names in the order of the outputs, where pictures brought them, or set."""
        return self._class_names

    @class_names.setter
    def class_names(self, names: Sequence[Any] | None) -> None:
        if isinstance(names, str):
            raise TypeError(f"class_names={names!r:.60} was set; expected a list of names.")
        self._class_names = None if names is None else [str(name) for name in names]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        first = first_weight(self)
        return torch.device("cpu") if first is None else first.device

    def compute_loss(self, x: Any, y: Any, sample_weight: Tensor | None = None) -> tuple:
        """The loss of one batch and the outputs; override it for a loss of your own.

        A model family puts its whole objective here, and ``fit``, callbacks and history serve it.
        It may return a third value, a dict of named parts such as ``{"kl_loss": tensor}``, which
        are logged beside the loss. ``y`` is ``None`` where ``fit`` was given no targets.

        Returns:
            ``(loss, outputs)`` or ``(loss, outputs, parts)``; the loss is a scalar, a mean per
            sample.
        """
        state = self._compiled
        outputs = self._call(x)
        if len(state.heads) == 1 and isinstance(outputs, Tensor):
            head = state.heads[0]
            outputs = head.with_rows(outputs, y.shape[0])
            loss = head.compute(outputs, y, sample_weight)
            if head.weight != 1:
                loss = loss * head.weight
            if state.penalties or state.active:
                loss = loss + self.penalty()
            return loss, outputs
        if not state.heads:
            raise ValueError(
                "compile was called while fit runs; expected it before, or only what may change: "
                "model.learning_rate = 0.01, layer.trainable = False."
            )
        if len(leaves(outputs)) != len(state.heads):
            raise ValueError(
                f"the network returned {len(leaves(outputs))} outputs in training and "
                f"{len(state.heads)} in evaluation; expected the same: write aux_logits=False, or "
                "a compute_loss of your own."
            )
        parts = {
            f"{head.name}_loss": head.compute(output, target, sample_weight)
            for head, output, target in zip(state.heads, leaves(outputs), leaves(y))
        }
        loss = sum(head.weight * part for head, part in zip(state.heads, parts.values()))
        if state.penalties or state.active:
            loss = loss + self.penalty()
        return loss, outputs, parts

    def check_inputs(self, x: Tensor, what: str) -> None:
        """Refuse rows that the family's likelihood has no number for; called once for all data.

        Args:
            x: ``(n, …)``, some or all of the rows, cast.
            what: their name for the message.
        """

    def check_targets(self, y: Any, what: str) -> None:
        """Refuse targets that the family has no use for, where it is compiled without a loss.

        Args:
            y: all targets that are in memory, or a stream's batch of them; ``None`` for none.
            what: their name for the message.
        """

    def penalty(self) -> Tensor | float:
        """The regularisers' sum: of the weights that learn, and of this pass's activities."""
        state = self._compiled
        terms = [layer.activity_penalty for layer in state.active]
        for layer, name, regularizer, owners in state.penalties:
            weight = getattr(layer, name)
            # Asked of its parameters: compiled by torch 2.11, the weight says that it does not.
            if any(part.requires_grad for part in owners or [weight]):
                terms.append(regularizer(weight))
        return sum(terms, 0.0)

    def _call(self, x: Any) -> Any:
        if self._compiled.active:
            keep_activities(self._compiled.active, 0.0)
        if self._compiled.use_logits and isinstance(x, Tensor):
            return self(x, logits=True)
        return self._plain_call(x)

    # -- fit, evaluate, predict ---------------------------------------------------------------

    @short_traceback
    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
        *,
        split: str = "tail",
        checkpoint: Any = None,
    ) -> History:
        """Train; called again, it goes on from where it was.

        Args:
            x: arrays (NumPy, pandas, lists, tensors; a tuple or dict for several inputs), a torch
                Dataset or DataLoader, a generator, an iterable of ``(x, y[, weight])``, or a
                function that returns one.
            y: targets; ``None`` where ``x`` brings them.
            batch_size: rows a step, 32 by default; a DataLoader or generator has its own, and
                this number is passed over.
            epochs: the number of the last epoch.
            verbose: 0 silent, 1 a bar, 2 a line an epoch, ``"auto"`` 1 on a terminal, else 2.
            callbacks: ``easydl.callbacks`` objects or functions ``f(epoch, logs)``.
            validation_split: share of the rows held out, see ``split``.
            validation_data: ``(x, y)``, ``(x, y, weight)`` or anything that ``x`` may be.
            shuffle: a new order of the rows every epoch.
            class_weight: ``{class: factor}``, or ``"balanced"`` (N / (K · count)); the loss is
                ``mean(w·loss)``. Not applied to validation.
            sample_weight: ``(N,)``, each row's factor.
            initial_epoch: the number of the first epoch, from 0.
            steps_per_epoch: batches an epoch; the next epoch goes on where this one ended.
            validation_steps: batches of each validation.
            validation_batch_size: rows a step in validation; chosen by the library by default,
                ``batch_size`` with ``validation_steps``.
            validation_freq: validate every so many epochs, or after those listed, from 1.
            split: ``"tail"`` (Keras: the last rows), ``"random"`` or ``"stratified"``.
            checkpoint: a folder to go on from after a crash, by running the same script again; see
                ``easydl.callbacks.BackupAndRestore``, which can do it every so many batches.

        Returns:
            ``History``: ``.history`` (lists of floats by name), ``.epoch``, ``.params``.

        Raises:
            ValueError, TypeError: whatever would make the numbers wrong, before the first step.
            FloatingPointError: the loss became nan or inf; names the epoch and the batch.
        """
        state = self._require_compiled("fit")
        batch_size = check_positive_int("batch_size", 32 if batch_size is None else batch_size)
        check_positive_int("epochs", epochs)
        check_positive_int("initial_epoch", initial_epoch, minimum=0)
        if isinstance(validation_freq, (list, tuple, set)):
            validated = [check_positive_int("validation_freq", n) for n in validation_freq]
        else:
            every = check_positive_int("validation_freq", validation_freq)
            validated = list(range(every, epochs + 1, every))
        shuffle = check_flag("shuffle", shuffle)
        if initial_epoch > epochs:
            raise ValueError(
                f"initial_epoch={initial_epoch} was given with epochs={epochs}, the number of the "
                "last epoch; expected a larger one: epochs=initial_epoch + how many more."
            )
        if steps_per_epoch is not None:
            check_positive_int("steps_per_epoch", steps_per_epoch)
        if validation_steps is not None:
            check_positive_int("validation_steps", validation_steps)
        if validation_batch_size is not None:
            check_positive_int("validation_batch_size", validation_batch_size)
        callbacks = as_list(callbacks)
        if checkpoint is not None:
            callbacks.append(BackupAndRestore(checkpoint, delete_checkpoint=False))
        backup = next((c for c in callbacks if isinstance(c, BackupAndRestore)), None)
        if backup is not None:
            backup.look()
        self._use_device()
        if isinstance(x, PictureData):
            x, validation_data = (
                x.train,
                x.validation if validation_data is None else validation_data,
            )
        source = self._source(x, y, sample_weight, learning=True)
        prepare.get_ready(self, source)
        prepare.check_learns(self)
        picture_sets.remember(self, source)
        self.column_names = source.columns | self.column_names
        random_rows = split != "tail" and validation_split
        draws = isinstance(source, Arrays) or not source.brings_its_order
        seed = int(torch.randint(2**62, ())) if draws and (shuffle or random_rows) else 0
        if backup is not None and backup.seed is not None:
            seed = backup.seed
        source, validation = hold_out(self, source, validation_data, validation_split, split, seed)
        weighted = getattr(source, "weights", None) is not None
        apply_class_weight(self, source, class_weight)
        merge = needs_two_rows(self, batch_size, source)
        source.batching(
            batch_size, shuffle, seed, state.device, merge_single=merge, steps=steps_per_epoch
        )
        if validation is not None:
            cut_for_a_pass(
                self, validation, validation_batch_size, validation_steps, state.device,
                batch_size, state.heads,
            )  # fmt: skip
        fits = 1 if self.history is None else 1 + self.history.arguments.get("fits", 1)
        self.history = history = History()
        history.waiting = getattr(source, "waiting", [])
        history.arguments = {
            "fits": fits, "epochs": epochs, "batch_size": batch_size, "shuffle": shuffle,
            "split": split, "validation_split": validation_split,
            "validation_data": validation_data is not None, "initial_epoch": initial_epoch,
            "steps_per_epoch": steps_per_epoch, "class_weight": class_weight,
            "validation_weight": getattr(validation, "weights", None) is not None,
            "sample_weight": weighted,
            "arrays": isinstance(source, Arrays),
            "first_weights": saving.has_first_weights(self),
            "frozen": [name for name, p in self.named_parameters() if not p.requires_grad],
            "learning_rate": self.learning_rate,
            "callbacks": [settings_of(callback) for callback in callbacks],
        }  # fmt: skip
        hooks = self._connect([history, *callbacks], verbose, epochs, source.steps)
        ever = any(initial_epoch < number <= epochs for number in validated)
        prepare.check_monitors(hooks, state, ever and validation is not None)
        source.begun = initial_epoch
        if backup is not None:
            backup.prepare(source, validation, hooks, initial_epoch)
        if verbose != 0:
            begin = initial_epoch if backup is None else backup.epoch
            prepare.say_what_will_be_done(self, source, validation, epochs - begin)
        self.stop_training = False
        self._has_learned = True
        saving.mark_as_given(self)
        state.speaks, state.has_trained = verbose != 0, True
        with reading(source, validation, epochs=epochs, aloud=verbose != 0):
            run_epochs(
                self, source, validation, hooks, epochs, initial_epoch, set(validated), backup
            )
        return history

    @short_traceback
    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """Loss and metrics on data; the mean over all samples, whatever the batch size.

        Args:
            x, y, sample_weight: as in ``fit``.
            batch_size: rows at a time; chosen by the library by default, 32 with ``steps`` or a
                loss that is the sum over a batch.
            verbose, callbacks: as in ``fit``.
            steps: batches to take, where the source does not end.
            return_dict: names with the numbers.

        Returns:
            ``[loss, *metrics]`` in the order of ``compile``; a float without metrics; or a dict.
        """
        state = self._require_compiled("evaluate")
        self._use_device()
        source = self._source(x, y, sample_weight)
        prepare.get_ready(self, source)
        cut_for_a_pass(self, source, batch_size, steps, state.device, heads=state.heads)
        hooks = self._connect(as_list(callbacks), verbose, 1, source.steps)
        with reading(source):
            logs = run_epochs(self, None, source, hooks)
        if return_dict:
            return logs
        return list(logs.values()) if len(logs) > 1 else logs["loss"]

    @short_traceback
    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | str = 0,
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """The outputs for every row, in evaluation mode.

        Args:
            x: as in ``fit``; targets in a Dataset or loader are passed over. A loader that shuffles
                is refused: its rows could not be told.
            batch_size: rows at a time; chosen by the library by default, 32 with ``steps``.
            verbose, callbacks: as in ``fit``.
            steps: batches to take, where the source does not end.

        Returns:
            one NumPy float32 array ``(N, …)``; a list for several outputs, a dict for named ones.
        """
        source = self._source(x, labelled=False)
        prepare.get_inputs_ready(self, source)
        if not self._has_learned and not self._has_warned:
            self._has_warned = True
            if saving.has_random_weights(self):
                warn_user(
                    "predict was called before fit or load_weights: these are the outputs of "
                    "random weights."
                )
        cut_for_a_pass(self, source, batch_size, steps, self.device)
        hooks = self._connect(as_list(callbacks), verbose, 1, source.steps)
        with reading(source), contextlib.closing(self._outputs(source, hooks)) as outputs:
            return all_rows(outputs, source.samples if steps is None else None)

    def map_rows(self, function: Callable[[Tensor], Any], x: Any, batch_size: Any = None) -> Any:
        """What ``function`` gives for every row, batch by batch, as ``predict`` gives the outputs.

        A family's ``encode``, ``sample`` … run on it: data of every kind are read and checked, the
        network is in evaluation mode on its device, and nothing is tracked.

        Args:
            function: batch ``(n, …)`` -> tensor of n rows, or a tuple or dict of such.
            x, batch_size: as in ``predict``.

        Returns:
            one NumPy array ``(N, …)``; a list for a tuple, a dict for a dict.
        """
        source = self._source(x, labelled=False)
        prepare.get_inputs_ready(self, source)
        cut_for_a_pass(self, source, batch_size, None, self.device)
        with reading(source), contextlib.closing(self._outputs(source, (), function)) as outputs:
            return all_rows(outputs, source.samples)

    def _outputs(
        self, source: Arrays | Stream, hooks: Sequence[Callback], function: Any = None
    ) -> Generator[Any, None, None]:
        """The outputs batch by batch, with the modes restored whatever happens."""
        modes = modes_of(self)
        begin, end = batch_hooks(hooks, "predict")
        changes = False  # whether the network writes into its inputs, and so into the user's data
        products: Any = None
        try:
            evaluation_mode(self, modes)
            for hook in hooks:
                hook.on_predict_begin({})
            with torch.inference_mode():
                for batch, (x, _, _) in enumerate(source.epoch(0)):
                    if changes or batch == 0:
                        with torch.inference_mode(False):  # inside, versions are not counted
                            x = map_tree(torch.clone, x)
                    for begin_hook in begin:
                        begin_hook(batch, {})
                    products = products or fast_products(self, rows_of(x))
                    before = versions(x)
                    try:
                        with products:
                            outputs = self._plain_call(x) if function is None else function(x)
                    except (RuntimeError, IndexError):
                        if function is None and self._is_strict:
                            self.try_out(map_tree(lambda rows: rows[:2], x))  # tells where
                        raise
                    if not changes and versions(x) != before:
                        if batch > 0 and self._is_strict:  # not a copy
                            raise ValueError(
                                "the network changed its inputs in place, and so perhaps your "
                                f"data, in batch {batch + 1}; expected it to leave them alone: "
                                "begin its forward by x = x.clone()."
                            )
                        changes = True
                    check_rows(outputs, rows_of(x))
                    for end_hook in end:
                        end_hook(batch, {"outputs": outputs})
                    yield outputs
        finally:
            restore_modes(modes)
            for hook in hooks:
                hook.on_predict_end({})

    def _plain_call(self, x: Any) -> Any:
        try:
            if type(x) is tuple:
                return self(*x)
            if type(x) is dict and takes_keywords(self, x):
                return self(**x)
            return self(x)
        except (TypeError, KeyError) as error:
            check_arguments(self, x, error)
            raise

    @short_traceback
    def predict_classes(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """The class of each row: the largest output, or for one unit whether it is above ½.

        Returns:
            integers ``(N, …)``.
        """
        outputs = self.predict(x, batch_size)
        if not isinstance(outputs, np.ndarray):
            raise ValueError(
                f"the network has {len(outputs)} outputs; expected one: write predict(x)."
            )
        heads = self._compiled.heads if self._compiled is not None else []
        if heads and heads[0].activation is None:
            outputs = heads[0].predictions(torch.from_numpy(outputs)).numpy()
        elif heads and heads[0].class_axis == 1:
            outputs = np.moveaxis(outputs, 1, -1)
        if outputs.ndim < 2 or outputs.shape[-1] == 1:
            threshold = heads[0].threshold if heads else 0.5
            return (outputs.reshape(len(outputs), -1)[:, 0] > threshold).astype(np.int64)
        return outputs.argmax(-1)

    @short_traceback
    def predict_labels(self, x: Any, top: int = 1, batch_size: int | None = None) -> Any:
        """The most likely classes with their probabilities.

        Args:
            x: as in ``predict``: a picture's path, several, a folder, arrays …
            top: how many classes of each.
            batch_size: rows at a time.

        Returns:
            ``[(label, probability), …]`` for one path or picture, the likeliest first; for a
            folder a dict of such by file name, for everything else a list. A label is the class's
            name, or its number.

        Raises:
            ValueError: outputs that are no probabilities of classes.

        Example:
            >>> import easydl as dl
            >>> model = dl.Sequential([dl.Dense(2, activation="softmax", input_dim=3)])
            >>> model.set_weights([np.eye(2, 3) * 9, np.zeros(2)])
            >>> model.class_names = ["cat", "dog"]
            >>> model.predict_labels(np.array([[1.0, 0.0, 0.0]]))
            [[('cat', 0.9998766183853149)]]
        """
        return predict_labels(self, x, top, batch_size)

    @short_traceback
    def features(
        self,
        x: Any,
        layer: Any = None,
        batch_size: int | None = None,
        *,
        average: bool = True,
        cache: Any = None,
    ) -> np.ndarray:
        """What a layer says of every row: descriptors for k-NN, SVM or logistic regression.

        Args:
            x: as in ``predict``.
            layer: a layer's name (``"layer3"``, as in ``summary`` or ``named_modules``) or the
                module; ``None``: what the last layer with weights takes in.
            batch_size: rows at a time.
            average: whether maps ``(C, H, W)`` are averaged over their positions.
            cache: a folder where they are kept, and found again for the same weights and data.

        Returns:
            float32 ``(N, features)``: a map's average, or all numbers in a row.

        Raises:
            ValueError: no such layer, with the nearest name.
        """
        from easydl.vision.features import features

        return features(self, x, layer, batch_size, average, cache)

    @short_traceback
    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """One step on one batch; returns its loss and metrics as ``evaluate`` does."""
        self._require_compiled("train_on_batch")
        return self._on_batch(x, y, sample_weight, class_weight, return_dict, learn=True)

    @short_traceback
    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """Loss and metrics of one batch."""
        self._require_compiled("test_on_batch")
        return self._on_batch(x, y, sample_weight, None, return_dict, learn=False)

    def predict_on_batch(self, x: Any) -> Any:
        """The outputs of one batch as NumPy."""
        return self.predict(x, batch_size=2**31)

    def _on_batch(
        self, x: Any, y: Any, sample_weight: Any, class_weight: Any, return_dict: bool, learn: bool
    ) -> Any:
        state = self._compiled
        self._use_device()
        source = self._source(x, y, sample_weight)
        prepare.get_ready(self, source)
        apply_class_weight(self, source, class_weight)
        if learn:
            prepare.check_learns(self)
            needs_two_rows(self, 2, source)
            self._has_learned = True
            saving.mark_as_given(self)
        source.batching(2**31, device=state.device)
        try:
            logs = one_batch(self, source, learn)
        except NotFinite as error:
            raise FloatingPointError(not_finite_message(error.args[0], "this batch")) from None
        if return_dict:
            return logs
        return list(logs.values()) if len(logs) > 1 else logs["loss"]

    # -- looking at it and taking it out -------------------------------------------------------

    @property
    def layers(self) -> list[Any]:
        """The layers in order: the wrapped network's, or the subclass's own."""
        return list((self if self.network is None else self.network).children())

    def layer_names(self) -> list[str]:
        """Keras's automatic names: ``dense``, ``dense_1`` …, or the names given."""
        counts: dict[str, int] = {}
        names = []
        for layer in self.layers:
            own = getattr(layer, "name", None)
            if not isinstance(own, str) or isinstance(layer, Model):
                base = snake_case(type(layer).__name__)
                own = f"{base}_{counts[base]}" if counts.get(base) else base
                counts[base] = counts.get(base, 0) + 1
            names.append(own)
        return names

    def get_layer(self, name: str | None = None, index: int | None = None) -> nn.Module:
        """A layer by its name in ``summary`` or by its position.

        Raises:
            ValueError: no such layer, with the nearest name.
        """
        layers, names = self.layers, self.layer_names()
        if isinstance(name, int):
            name, index = None, name
        if index is not None:
            if not -len(layers) <= index < len(layers):
                raise ValueError(
                    f"get_layer(index={index}) was asked, but the model has {len(layers)} layers; "
                    f"expected 0 … {len(layers) - 1}."
                )
            return layers[index]
        if name not in names:
            raise ValueError(did_you_mean("layer", name, names))
        return layers[names.index(name)]

    @property
    def trainable(self) -> bool:
        """Whether anything learns; assigning freezes or frees every layer, live."""
        return any(p.requires_grad for p in self.parameters())

    @trainable.setter
    def trainable(self, value: bool) -> None:
        set_trainable(self, bool(value))

    def freeze(self, until: str | int | None = None) -> None:
        """Keep the first layers as they are, BatchNorm's statistics too; live, in every ``fit``.

        Frozen layers stay frozen in a saved model. What comes from ``until`` on is left as it was.

        Args:
            until: the first layer that goes on learning, by its name (``"layer4"``, ``"3"``, or as
                in ``summary``: ``"dense_1"``) or by how many groups of layers with weights come
                before it (``layer_groups()`` lists them); ``None``: all but the last, the head.

        Raises:
            ValueError: no such layer, with the nearest name.

        Example:
            >>> import easydl as dl
            >>> model = dl.Sequential([dl.Dense(4, input_dim=3), dl.Dense(2)])
            >>> model.freeze()
            >>> [layer.trainable for layer in model.layers]
            [False, True]
        """
        groups.freeze(self, until)

    def unfreeze(self, n: int | None = None) -> None:
        """Let the last ``n`` groups of layers with weights learn again, or all; live."""
        groups.unfreeze(self, n)

    def layer_groups(self) -> dict[str, int]:
        """The groups that ``freeze`` and ``unfreeze`` count, first to last, with their weights."""
        return {
            name: sum(p.numel() for p in groups.parameters_of(parts))
            for name, parts in groups.layer_groups(self).items()
        }

    def spread_learning_rate(self, ratio: float | dict[str, float] | None = 100.0) -> None:
        """Let the first layers learn more slowly than the head: for fine-tuning; live.

        The learning rate of ``compile`` or of its schedule is the head's. It holds until it is
        called again, whatever ``compile`` is told later; the optimizer keeps its state.

        Reference: Howard and Ruder, 2018, Universal Language Model Fine-tuning, section 3.2.

        Args:
            ratio: by what factor the first group of layers learns more slowly; those between are
                spread evenly by factors. Or shares from 0 to 1 by layer, ``{"layer4": 0.1}``, 1
                for the rest. ``None``: all alike again.

        Raises:
            ValueError: a ratio below 1, an unknown layer, an optimizer with groups of its own.
        """
        spread = 1.0 if ratio is None else ratio
        shares = groups.shares_for(self, spread)
        before, self.learning_rate_shares = self.learning_rate_shares, shares
        if min(shares.values()) == 1:
            self.learning_rate_shares = {}
        if self.optimizer is not None:
            try:
                groups.regroup(self, self._compiled)
            except ValueError:
                self.learning_rate_shares = before
                raise

    @property
    def is_built(self) -> bool:
        """Whether every weight has its shape."""
        return not saving.has_open_shapes(self)

    def build(self, input_shape: Any) -> None:
        """Fix the shapes: ``build((20,))``, or Keras's ``build((None, 20))``."""
        self.given_input_shape = sample_shape(input_shape)
        if self.network is None or hasattr(self.network, "build"):
            self.try_out(torch.zeros(2, *(size or 1 for size in self.given_input_shape)))

    def settle(self, shape: Any) -> None:
        """Keep the samples' shape, now that ``build_layers`` made the weights, and compile them."""
        self.given_input_shape = tuple(shape)
        if self._compiled is not None:
            self.to(self._compiled.device)
            self._compiled.know_parameters(self)

    def final_activation(self) -> nn.Module | None:
        """The last softmax or sigmoid that ``model(x, logits=True)`` leaves out, if it can."""
        network = self.network
        plain = type(network) is nn.Sequential and not foreign_hooks(network)
        inherited = type(self).forward is Model.forward and takes_logits(self)
        if plain and len(network) and inherited:  # type: ignore[arg-type]
            last = network[-1]  # type: ignore[index]
            return last if can_be_left_out(last) else None
        return None

    def final_module(self) -> nn.Module | None:
        """The module that the network ends in, as far as its structure tells."""
        return self.network

    def has_activity_on_output(self) -> bool:
        """Whether the last layer's activity is regularised, which needs its full output."""
        return False

    def try_out(self, x: Tree) -> Any:
        """Run a few rows without a trace: evaluation mode, no random number used.

        Gradients are tracked, so that the caller can see which operation ended the network.

        Raises:
            ValueError: the rows do not fit the network, naming the layer where it failed.
        """
        return try_out(self, x)

    def summary(self, input_shape: Any = None, print_fn: Any = print) -> str:
        """Print Keras's table: layers, output shapes, parameters, multiply-adds.

        Args:
            input_shape: of one sample, where the model has not seen data yet.
            print_fn: gets the text; ``None`` prints nothing.

        Returns:
            the text.
        """
        from easydl.summary import summary_text

        sync_trainable(self)
        if input_shape is not None:
            self.build(input_shape)
        text = summary_text(self)
        if print_fn is not None:
            print_fn(text)
        return text

    def count_params(self) -> int:
        """The number of weights, frozen ones and BatchNorm's statistics included, as in Keras."""
        from easydl.summary import count_weights

        return count_weights(self)

    def to_torch(self) -> nn.Module:
        """A plain torch module that needs no easydl and gives the same outputs to the bit."""
        from easydl.export import to_torch

        return to_torch(self)

    @short_traceback
    def export(self, path: Any, x: Any = None) -> None:
        """Write the network, in evaluation mode, for other programs: ``m.pt2`` or ``m.onnx``.

        ``.pt2`` is the file of ``torch.export``, ``.onnx`` that of ONNX (inputs ``x``, outputs
        ``y``; several are numbered, or called as in their dict). Both take batches of any size.
        What they compute is compared with the model on 1, 2 and 5 rows, to 1e-5, before the file is
        moved into its place; ``.onnx`` by onnxruntime, or a warning says that it is not installed.

        Args:
            path: the file; its suffix says the kind.
            x: a few rows as for ``predict``; needed for several inputs.

        Raises:
            ValueError: another suffix, unknown shapes, what torch cannot export.
            ImportError: ``.onnx`` without onnx and onnxscript: ``pip install 'easydl[onnx]'``.
        """
        from easydl.export import export

        export(self, path, x)

    @short_traceback
    def source(
        self,
        seed: int = 0,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        validation_split: float | None = None,
        split: str | None = None,
        shuffle: bool | None = None,
    ) -> str:
        """This model and its training as a script of plain PyTorch, without easydl.

        It builds, trains and evaluates. On the same machine it gives the weights, to the bit, that
        ``easydl.seed(seed)``, this model made anew (its layers in one list) and one ``fit`` give.
        Write it to a file, put your data into its ``load_data``, and go on from there. Callbacks
        that look on are left out, those that stop or change the rate are written out. Functions
        and other callbacks of yours must draw no random numbers of torch's: the script does not.

        It starts from random weights, so a ``fit`` from others (``load_weights``, ``set_weights``,
        ``train_on_batch``, layers of another model) is refused, and so is one after which
        ``trainable``, the learning rate or ``compile`` was changed; ``epochs`` given, the script is
        a training from random weights of the model as it is now. What a torch module was given
        before the model had it is not known here.

        Args:
            seed: what ``easydl.seed`` was given before the model was made.
            epochs, batch_size, validation_split, split, shuffle: as in ``fit``; those of the last
                ``fit`` by default.

        Returns:
            the script.

        Raises:
            ValueError: a part that plain PyTorch has not, by its name; no data seen yet.

        Example:
            >>> import easydl as dl
            >>> model = dl.Sequential([dl.Dense(1, input_dim=3)])
            >>> model.compile("sgd", "mse")
            >>> history = model.fit(torch.ones(8, 3), torch.ones(8), verbose=0)
            >>> print(model.source().splitlines()[0].strip('"'))
            A network and its training in plain PyTorch, written by easydl.
        """
        from easydl.export import source

        return source(self, seed, epochs, batch_size, validation_split, split, shuffle)

    # -- weights -----------------------------------------------------------------------------

    def get_weights(self) -> list[np.ndarray]:
        """Parameters and buffers as NumPy arrays, in ``state_dict`` order."""
        saving.require_built(self, "get_weights")
        return [t.detach().cpu().numpy().copy() for t in self.state_dict().values()]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Take what ``get_weights`` of a model of this architecture returned.

        Raises:
            ValueError: another number of arrays, or other shapes, naming the first.
        """
        saving.set_weights(self, weights)
        self._has_learned = True

    @short_traceback
    def save(
        self,
        path: Any,
        include_optimizer: bool = True,
        custom_objects: dict[str, Any] | None = None,
    ) -> None:
        """Write the whole model into one file, which ``dl.load_model`` reads: ``m.easydl``.

        Architecture, weights, what is frozen, compile settings, history, and the optimizer's
        state, so that ``fit`` goes on to the same bits. JSON and safetensors in a zip, no code.
        Written atomically: a crash leaves the old file whole.

        Your own layers, losses and metrics are written by name and arguments: those that
        ``get_config()`` returns, or that ``__init__`` keeps in attributes of the same names.
        ``load_model(path, custom_objects={name: class})`` gives them back.

        Args:
            path: the file; usually ``*.easydl``.
            include_optimizer: whether with the optimizer's state.
            custom_objects: names for functions that have none, such as a lambda.

        Raises:
            ValueError: a part that the file cannot tell how to make again, by its name.
            OSError: the folder cannot be written.
        """
        saving.save_model(self, path, include_optimizer, custom_objects)

    @short_traceback
    def save_weights(self, path: Any) -> None:
        """Write the weights as safetensors, atomically: a crash leaves the old file whole."""
        saving.save_weights(self, path)

    @short_traceback
    def load_weights(self, path: Any) -> None:
        """Read weights: a file of ``save_weights`` or ``save``, others' safetensors, or ``.pt``.

        Keras's ``.h5``, ``.weights.h5`` and ``.keras`` too, for a model of the same layers whose
        pictures are (N, C, H, W); ``easydl.load_keras`` rebuilds the model as well. ``.keras`` and
        whole-model ``.h5`` files hold the layers' settings, which are compared (epsilon,
        activations, windows, pooling); ``.weights.h5`` files hold none: the model must have them.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a damaged file, or weights of another architecture, listing the differences;
                other settings, nan or inf, unless ``compile(strict=False)`` was said.
        """
        saving.load_weights(self, path)
        self._has_learned = True

    def _source(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        labelled: bool = True,
        learning: bool = False,
        what: str = "x",
    ) -> Arrays | Stream:
        """What a verb was given, with pictures made ready as the model wants them.

        ``labelled`` is false where each row gets an answer of its own, whose order counts.
        """
        if not labelled and self._is_strict:
            check_all_in_order(x)
        x, y = picture_sets.readable(self, x, y, labelled, learning)
        if isinstance(x, (list, tuple)) and all(map(is_array, x)):
            x, y = inputs_or_rows(self, x, y)
        return as_source(x, y, sample_weight, what)

    # -- shared by the verbs ------------------------------------------------------------------

    def _require_compiled(self, verb: str) -> Compiled:
        if self._compiled is None:
            raise ValueError(
                f"{verb} was called before compile; expected, for example, "
                "model.compile('adam', 'mse') first."
            )
        return self._compiled

    def _require_optimizer(self) -> torch.optim.Optimizer:
        if self.optimizer is None:
            raise ValueError(
                "the model has no optimizer yet; expected compile, and input_shape= on the first "
                "layer (or a first fit) so that the weights exist."
            )
        return self.optimizer

    def _use_device(self) -> None:
        if self.is_built and self.device != self._compiled.device:
            self.to(self._compiled.device)

    def _connect(
        self, callbacks: Sequence[Any], verbose: int | str, epochs: int, steps: int | None
    ) -> list[Callback]:
        """The history first, so that nothing that fails later loses an epoch; the bar last."""
        hooks = [get_callback(spec) for spec in callbacks]
        bar = ProgressBar(verbose)
        if verbose != 0 and not any(isinstance(hook, ProgressBar) for hook in hooks):
            hooks.append(bar)
        hooks.sort(key=lambda hook: isinstance(hook, BackupAndRestore))  # it restores the others
        for hook in hooks:
            hook.set_model(self)
            hook.set_params({"verbose": verbose, "epochs": epochs, "steps": steps})
        return hooks


def predict_labels(model: Model, x: Any, top: int, batch_size: int | None) -> Any:
    """See ``Model.predict_labels``."""
    if isinstance(x, (str, os.PathLike)) and os.path.isdir(x):
        files = files_in(x)
        found = predict_labels(model, files, top, batch_size) if files else model.predict(x)
        return dict(zip((os.path.relpath(file, x) for file in files), found))
    single = is_single(model, x)
    probabilities = model.predict(x, batch_size)
    heads = model._compiled.heads if model._compiled is not None else []
    if len(heads) == 1 and heads[0].activation is None and isinstance(probabilities, np.ndarray):
        probabilities = heads[0].predictions(torch.from_numpy(probabilities)).numpy()
    if not isinstance(probabilities, np.ndarray) or probabilities.ndim != 2:
        raise ValueError(
            f"predict gives {getattr(probabilities, 'shape', type(probabilities).__name__)}; "
            "expected probabilities (N, classes)."
        )
    if probabilities.shape[1] == 1:
        probabilities = np.concatenate([1 - probabilities, probabilities], axis=1)
    sums = probabilities.sum(1)
    if not (probabilities.min() >= 0 and np.abs(sums - 1).max() <= 1e-3):  # true for nan, too
        raise ValueError(
            f"the outputs lie in {probabilities.min():.3g} … {probabilities.max():.3g} and sum to "
            f"{sums[0]:.3g}, so they are no probabilities; expected a last softmax or sigmoid."
        )
    count = probabilities.shape[1]
    names: Sequence[Any] = range(count) if model.class_names is None else model.class_names
    if len(names) != count:
        raise ValueError(f"class_names lists {len(names)} names for {count} outputs.")
    check_positive_int("top", top)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    labels = [[(names[i], float(row[i])) for i in order] for row, order in zip(probabilities, best)]
    return labels[0] if single else labels


def sample_shape(shape: Any) -> tuple[int | None, ...]:
    """``20``, ``(20,)`` or Keras's ``(None, 20)`` as ``(20,)``; a later None is an open size."""
    if isinstance(shape, int):
        shape = (shape,)
    sizes = tuple(shape)
    if sizes and sizes[0] is None:
        sizes = sizes[1:]
    for size in sizes:
        if size is not None:
            check_positive_int("input_shape", size)
    return tuple(None if size is None else int(size) for size in sizes)


def snake_case(name: str) -> str:
    """Keras's names: ``LSTM`` -> ``lstm``, ``Conv2D`` -> ``conv2d``, ``MaxPooling2D`` …"""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _note_given_weights(module: nn.Module, keys: Any) -> None:
    saving.mark_as_given(module)


def _drop_prefix(module: nn.Module, state: Any, prefix: str, metadata: Any) -> None:
    inner = prefix + "network."
    found = [(key, state.pop(key)) for key in list(state) if key.startswith(inner)]
    state.update((prefix + key[len(inner) :], value) for key, value in found)


def _add_prefix(module: Any, state: Any, prefix: str, *_: Any) -> None:
    bare = module.network.state_dict()  # the network may have a part called "network", too
    found = [
        (key, state.pop(key))
        for key in list(state)
        if key.startswith(prefix)
        and (key[len(prefix) :] in bare or not key.startswith(prefix + "network."))
    ]
    state.update((prefix + "network." + key[len(prefix) :], value) for key, value in found)

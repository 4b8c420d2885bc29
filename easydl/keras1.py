"""The spellings of 2016: Keras 1's words, names and modules, translated here and nowhere else.

Each old word gives one ``DeprecationWarning`` that names today's. The tables below say which old
words each public class and method had; ``install``, called once at the end of
``easydl/__init__.py``, puts a small wrapper around those ``__init__`` and methods. The modern
signatures stay as they are written (``inspect.signature`` shows them, a misspelt argument still
raises there) and a class stays the same object (subclasses, ``isinstance``, pickle and ``copy``
never meet the wrapper). Old names are functions that return what today's name returns; old modules
are entries in ``sys.modules``.

Example:
    >>> from easydl.layers import Dense
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     layer = Dense(output_dim=64)
    >>> print(caught[0].message)
    output_dim is Keras 1's word; write units.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from easydl import (
    callbacks,
    constraints,
    initializers,
    layers,
    losses,
    metrics,
    models,
    optimizers,
    regularizers,
    utils,
)
from easydl.callbacks import monitor
from easydl.errors import HERE, check_positive_int
from easydl.layers.base import LINES, STEPS, plain, traced
from easydl.model import Model
from easydl.schedules import InverseTimeDecay
from easydl.sequential import Sequential

# -- what a table can say about a word -----------------------------------------------------------

Given = dict[str, Any]
Convert = Callable[[str, Any, Given], Given]


class Word(NamedTuple):
    """What became of an old word."""

    advice: str | None  # the end of the warning; None for a word whose value needs a look
    convert: Convert  # (word, value, all arguments) -> arguments of today; may raise
    last: bool = False  # the result replaces what other words gave


Words = Mapping[str, Word]


class Name(NamedTuple):
    """An old name."""

    today: Callable[..., Any]  # what makes it
    order: str  # of its arguments in Keras 1
    words: Words
    advice: str


class Order(NamedTuple):
    """Keras 1's order of positional arguments, and how a call shows that it is meant."""

    names: str
    is_meant: Callable[[tuple[Any, ...]], bool]


def to(today: str, values: Mapping[str, Any] | None = None, closed: bool = False) -> Word:
    """The same under another name; some ``values``, or all (``closed``), have other names too."""

    def convert(word: str, value: Any, given: Given) -> Given:
        if closed and values and value not in values:
            expected = " or ".join(map(repr, values))
            raise ValueError(f"{word}={value!r:.60} was given; expected {expected}.")
        return {today: values.get(value, value) if values and isinstance(value, str) else value}

    return Word(f"write {today}", convert)


def gone(why: str, *harmless: Any) -> Word:
    """Left out today; an error for values other than the ``harmless`` ones, if any are named."""

    def convert(word: str, value: Any, given: Given) -> Given:
        plain_value = value is None or isinstance(value, (bool, int, float, str))
        if harmless and not (plain_value and value in harmless):
            raise ValueError(
                f"{word}={value!r:.60} was given, a word of Keras 1; leave it out: {why}."
            )
        return {}

    return Word(f"leave it out: {why}", convert)


def initializer(today: str) -> Word:
    """As ``to``; numbers are refused, since they come from an older order of arguments."""
    renamed = to(today, {"zero": "zeros", "one": "ones"})

    def convert(word: str, value: Any, given: Given) -> Given:
        if isinstance(value, (int, float)):
            raise ValueError(
                f"{word}={value!r} was given; expected a name such as 'glorot_uniform'. The number "
                "of inputs is read from the data: Convolution2D(nb_filter, nb_row, nb_col)."
            )
        return renamed.convert(word, value, given)

    return renamed._replace(convert=convert)


def constraint(today: str) -> Word:
    return to(today, {"maxnorm": "max_norm", "nonneg": "non_neg", "unitnorm": "unit_norm"})


def _kernel_size(word: str, value: Any, given: Given) -> Given:
    names = ("nb_row", "nb_col", "kernel_dim1", "kernel_dim2", "kernel_dim3")
    sizes = [given[name] for name in names if given.get(name) is not None]
    return {"kernel_size": tuple(sizes) if len(sizes) > 1 else sizes[0]}


def _picture_shape(word: str, value: Any, given: Given) -> Given:
    shape = tuple(value)[1:] if word == "batch_input_shape" else tuple(value)
    if len(shape) == 3 and shape[2] in (1, 3, 4) and (shape[0] or 0) > 4:
        raise ValueError(
            f"{word}={tuple(value)} was given, which looks like (rows, columns, channels); "
            f"expected channels first: write input_shape={(shape[2], *shape[:2])} and turn the "
            "data: x = x.transpose(0, 3, 1, 2). If it is channels first, write Conv2D."
        )
    return {"input_shape": shape}


def _channels_first(word: str, value: Any, given: Given) -> Given:
    if value not in ("th", "default", None):
        raise ValueError(
            f"dim_ordering={value!r:.60} was given; expected 'th', pictures as (N, C, H, W). For "
            "'tf', (N, H, W, C), leave it out: input_shape=(channels, rows, columns), and turn "
            "the data: x = x.transpose(0, 3, 1, 2)."
        )
    return {}


def _gate(word: str, value: Any, given: Given) -> Given:
    if value != "hard_sigmoid":
        _warn(f"{word} is Keras 1's word; write recurrent_activation.")
        return {"recurrent_activation": value}
    _warn(
        f"{word} is Keras 1's word; leave it out: torch's kernel computes 'sigmoid' where "
        "'hard_sigmoid' was asked, so the numbers differ a little from those of Keras 1."
    )
    return {}


def _sequence_shape(word: str, value: Any, given: Given) -> Given:
    return {"input_shape": (given.get("input_length"), given.get("input_dim"))}


def _steps(word: str, value: Any, given: Given) -> Given:
    return {"input_shape": (value,)}


def _pool_size(word: str, value: Any, given: Given) -> Given:
    given["self"].steps_first = True  # Sequential.add looks at it
    return {"pool_size" if word == "pool_length" else "strides": value}


def _norm_axis(word: str, value: Any, given: Given) -> Given:
    if value not in (0, (1, 2, 3), [1, 2, 3]):
        raise ValueError(
            f"axis={value!r} was given; expected Keras 1's own, 0. Axes are those of torch's "
            "layout (out, in, *kernel) today: write constraints.MaxNorm(…, axis=…)."
        )
    return {}


def _inverse_time(default: float) -> Convert:
    """``decay=d``: update t, counted from 0, has the learning rate lr / (1 + d·t)."""

    def convert(word: str, value: Any, given: Given) -> Given:
        rate: Any = given.get("lr", given.get("learning_rate", default))
        return {"learning_rate": InverseTimeDecay(rate, 1, value)} if value else {}

    return convert


def _clipping(word: str, value: Any, given: Given) -> Given:
    """Keras has these words to this day, in the optimizer; easydl clips in ``compile``."""
    if value not in (None, 0):
        raise ValueError(f"{word}={value!r:.60} was given to an optimizer; {CLIPPING[word]}.")
    return {}


def _balanced(word: str, value: Any, given: Given) -> Given:
    if isinstance(value, str) and value == "auto":
        _warn("class_weight='auto' is Keras 1's word; write class_weight='balanced'.")
        value = "balanced"
    return {word: value}


def _show_accuracy(word: str, value: Any, given: Given) -> Given:
    """Add the metric to what ``compile`` was told; the optimizer goes on as it is."""
    compiled = given["self"]._compiled
    if value and compiled is not None:
        metrics = compiled.metrics or []
        metrics = list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]
        if not any(metric in ("acc", "accuracy") for metric in metrics):
            compiled.metrics = [*metrics, "acc"]  # its name in the history of those days
            compiled.heads_key = None
    return {}


def _drawn(today: str, counted_by: str, steps: str) -> Convert:
    """A generator without end, cut into epochs of so many samples; or of batches, as in Keras 2."""

    def convert(word: str, value: Any, given: Given) -> Given:
        if steps in given or not hasattr(value, "__next__"):
            return {today: value}
        if given.get(counted_by) is None:
            raise TypeError(
                f"{counted_by} is missing; expected the number of samples to draw from {word}, "
                "since a generator of Keras 1 does not end."
            )
        return {today: epochs_of(value, check_positive_int(counted_by, given[counted_by]))}

    return convert


def epochs_of(generator: Iterator[Any], samples: int) -> Callable[[], Iterator[Any]]:
    """What ``fit`` calls for each epoch: batches until ``samples`` were drawn, as Keras 1 did."""

    def batches() -> Iterator[Any]:
        drawn = 0
        for batch in generator:
            x = batch[0] if isinstance(batch, (tuple, list)) else batch
            drawn += len(next(iter(x.values())) if isinstance(x, dict) else x)
            yield batch
            if drawn >= samples:
                return
        raise ValueError(
            f"the generator ended after {drawn} of {samples} samples of an epoch; expected one "
            "that goes round for ever, as Keras 1's do."
        )

    return batches


class StepsFirst(nn.Module):
    """A layer over (N, C, L) on Keras 1's (N, T, F): turned, computed, turned back."""

    takes, gives = STEPS, STEPS.layout

    def __init__(self, layer: Any, input_shape: Sequence[int | None] | None = None) -> None:
        super().__init__()
        self.layer, self.name, self.given_input_shape = layer, layer.name, input_shape

    @property
    def built(self) -> bool:
        return self.layer.built

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Build the layer for inputs of ``input_shape``."""
        turned = len(input_shape) == 3
        self.layer.build([input_shape[i] for i in (0, 2, 1)] if turned else input_shape)

    def forward(self, x: Tensor) -> Tensor:
        return _turned(self.layer.gives, x, self.layer)

    def to_torch(self) -> nn.Module:
        """A graph around the layer's torch module."""
        turned = functools.partial(_turned, self.layer.gives)
        return traced(turned, layer=plain(self.layer)).train(self.training)


def _turned(gives: str | None, x: Any, layer: Any) -> Any:
    y = layer(x.transpose(1, 2))
    return y if gives is None else y.transpose(1, 2)  # None: a global pooling's (N, F)


def _deconvolution_2d(output_shape: Any = None, **words: Any) -> layers.Conv2DTranspose:
    layer = layers.Conv2DTranspose(**words)
    if output_shape is not None:
        layer.register_forward_hook(functools.partial(_check_size, tuple(output_shape)[-2:]))
    return layer


def _check_size(size: tuple[int | None, ...], layer: nn.Module, inputs: Any, y: Tensor) -> None:
    """Strides leave the size open, which Keras 1 was told and easydl computes."""
    if any(asked not in (None, found) for asked, found in zip(size, y.shape[-2:])):
        raise ValueError(
            f"output_shape=(…, {size[0]}, {size[1]}) was given to Deconvolution2D, which makes "
            f"{tuple(y.shape[-2:])}; expected that, then ZeroPadding2D or Cropping2D."
        )


def _cosine_proximity(y_pred: Tensor, y_true: Tensor, reduction: str = "mean") -> Tensor:
    return losses.cosine_similarity(y_pred, y_true, reduction) / y_pred.shape[-1]


def _convolution_1d(input_shape: Any = None, **words: Any) -> StepsFirst:
    return StepsFirst(layers.Conv1D(**words), input_shape)


def _classes(p: Any) -> Any:
    return p.argmax(axis=1) if p.shape[1] > 1 else (p[:, 0] > 0.5).astype(int)


def _verb(name: str) -> Callable[..., Any]:
    return lambda self, **today: getattr(self, name)(**today)


def _second_is_an_initializer(args: tuple[Any, ...]) -> bool:
    old = len(args) > 2 and isinstance(args[2], str)
    return old and args[2] in {"zero", "one", *initializers.TABLE}


def _third_is_a_decay(args: tuple[Any, ...]) -> bool:
    return len(args) > 3 and not isinstance(args[3], bool)


# -- the tables ------------------------------------------------------------------------------------

# fmt: off
NO_BATCH_AXIS = "write input_shape, without the batch axis"
#: every layer that may come first
FIRST: Words = {
    "batch_input_shape": Word(
        NO_BATCH_AXIS, lambda word, value, given: {"input_shape": tuple(value)[1:]}
    ),
    "input_dtype": gone("it is read from the data"),
}
SET_LATER = gone("build the model, then write model.set_weights(…)", None)
WEIGHTS: Words = {
    "init": initializer("kernel_initializer"), "W_regularizer": to("kernel_regularizer"),
    "b_regularizer": to("bias_regularizer"), "W_constraint": constraint("kernel_constraint"),
    "b_constraint": constraint("bias_constraint"), "bias": to("use_bias"), "weights": SET_LATER,
}
SEQUENCE: Words = dict.fromkeys(
    ("input_dim", "input_length"), Word("write input_shape=(steps, features)", _sequence_shape)
)
ORDERING: Words = {"dim_ordering": Word("leave it out: pictures are (N, C, H, W)", _channels_first)}
DENSE: Words = {**WEIGHTS, "output_dim": to("units")}
SIMPLE_RNN: Words = {
    **DENSE, **SEQUENCE, "inner_init": initializer("recurrent_initializer"),
    "U_regularizer": to("recurrent_regularizer"), "dropout_W": to("dropout"),
    "dropout_U": to("recurrent_dropout"),
    "stateful": gone("every batch starts from a state of zeros", False),
    **dict.fromkeys(("unroll", "consume_less"), gone("torch's kernel runs the loop")),
}
GRU: Words = {**SIMPLE_RNN, "inner_activation": Word(None, _gate)}
CONVOLUTION: Words = {**WEIGHTS, "nb_filter": to("filters"), "border_mode": to("padding")}
CONVOLUTION_1D: Words = {
    **CONVOLUTION, **SEQUENCE, **FIRST, "filter_length": to("kernel_size"),
    "subsample_length": to("strides"),
}
KERNEL_SIZE = Word("write kernel_size=(rows, columns)", _kernel_size)
CONVOLUTION_3D: Words = {
    **CONVOLUTION, **ORDERING, **FIRST,
    **dict.fromkeys(("kernel_dim1", "kernel_dim2", "kernel_dim3"), KERNEL_SIZE),
    "subsample": to("strides"),
}
CONVOLUTION_2D: Words = {
    **CONVOLUTION_3D, **dict.fromkeys(("nb_row", "nb_col"), KERNEL_SIZE),
    "input_shape": Word(None, _picture_shape),
    "batch_input_shape": Word(NO_BATCH_AXIS, _picture_shape),
}
POOLING: Words = {**ORDERING, "border_mode": to("padding")}
POOLING_1D: Words = {
    "pool_length": Word("write pool_size", _pool_size), "stride": Word("write strides", _pool_size),
    "border_mode": to("padding"),
}

#: layer of both eras -> its old words
LAYERS: dict[str, Words] = {
    "Dense": DENSE, "Dropout": {"p": to("rate")},
    "SpatialDropout1D": {
        "p": Word("write rate and axis=-1", lambda word, value, given: {"rate": value, "axis": -1})
    },
    **{f"SpatialDropout{n}D": {"p": to("rate"), **ORDERING} for n in (2, 3)},
    "GaussianNoise": {"sigma": to("stddev")},
    "Lambda": {"output_shape": gone("it is found by running the function")},
    "LeakyReLU": {"alpha": to("negative_slope")},
    "PReLU": {"init": initializer("alpha_initializer"), "weights": SET_LATER},
    "SimpleRNN": SIMPLE_RNN, "GRU": GRU,
    "LSTM": {
        **GRU, "forget_bias_init": to("unit_forget_bias", {"one": True, "zero": False}, True)
    },
    "Embedding": {
        "init": initializer("embeddings_initializer"),
        "W_regularizer": to("embeddings_regularizer"),
        "W_constraint": constraint("embeddings_constraint"),
        "input_length": Word("write input_shape=(steps,)", _steps),
        "dropout": gone("put SpatialDropout1D(…, axis=-1) after the layer", 0),
        "weights": gone("write embeddings_initializer=lambda w: torch.as_tensor(matrix)", None),
    },
    "BatchNormalization": {
        "beta_init": initializer("beta_initializer"),
        "gamma_init": initializer("gamma_initializer"),
        "mode": gone("features are normalised over the batch", 0), "weights": SET_LATER,
    },
    **dict.fromkeys(("MaxPooling1D", "AveragePooling1D"), POOLING_1D),
    **{f"{kind}Pooling{n}D": POOLING for kind in ("Max", "Average") for n in (2, 3)},
    **{f"Global{kind}Pooling{n}D": ORDERING for kind in ("Max", "Average") for n in (2, 3)},
    **dict.fromkeys(("UpSampling2D", "ZeroPadding2D", "Cropping2D"), ORDERING),
}

RNN = "self output_dim init inner_init"
ORDERS: dict[str, Order] = {
    "Dense": Order("self output_dim init activation weights", _second_is_an_initializer),
    "SimpleRNN": Order(f"{RNN} activation", _second_is_an_initializer),
    "GRU": Order(f"{RNN} activation inner_activation", _second_is_an_initializer),
    "LSTM": Order(
        f"{RNN} forget_bias_init activation inner_activation", _second_is_an_initializer
    ),
    "SGD": Order("self lr momentum decay nesterov", _third_is_a_decay),
}
DATASETS = "mnist cifar10 cifar100 imdb reuters"
NO_DATA = (
    "sklearn.datasets.load_digits() or load_iris(), which come with scikit-learn, or "
    "torchvision.datasets.MNIST(…, download=True)"
)
LATER = "save_weights(path), and keep the program"

#: class, module, or name of a module -> names without a successor -> what to write
REFUSED: dict[Any, dict[str, str]] = {
    layers: {
        **dict.fromkeys(("Merge", "merge"), "Branches([…], merge='concat'), or a torch nn.Module"),
        "MaxoutDense": "Dense(k * units), Reshape((k, units)), Lambda(lambda x: x.amax(1))",
        "Highway": "a torch nn.Module; Residual has plain skip connections",
        "GaussianDropout": "Dropout(rate), or a torch nn.Module that multiplies by noise",
        "Masking": "sequences padded at the front, since torch's kernels have no masks",
        "AutoEncoder": "a Sequential of the encoder's and the decoder's layers, and fit(x, x)",
    },
    models: {
        "Graph": "Sequential with Branches, or Model(network) with a torch nn.Module",
        **dict.fromkeys(("model_from_json", "model_from_yaml"), LATER),
    },
    Model: {"to_json": LATER, "to_yaml": LATER},
    **{f"easydl.datasets.{name}": {"load_data": NO_DATA} for name in DATASETS.split()},
}

SHOW_ACCURACY = Word("write metrics=['accuracy'] in compile", _show_accuracy)

#: method of Model -> its old words
METHODS: dict[str, Words] = {
    "compile": {
        "class_mode": gone("outputs and loss say it"), "theano_mode": gone("torch computes"),
        "sample_weight_mode": gone("weights are one number a sample", None),
    },
    "fit": {
        "nb_epoch": to("epochs"), "show_accuracy": SHOW_ACCURACY,
        "class_weight": Word(None, _balanced),
    },
    "evaluate": {"show_accuracy": SHOW_ACCURACY},
    "predict_classes": {"verbose": gone("nothing is printed")},
    "save_weights": {
        "filepath": to("path"), "overwrite": gone("a file that is there is replaced", True),
    },
    "load_weights": {"filepath": to("path")},
}

QUEUE: Words = {
    "max_q_size": gone("a DataLoader has prefetch_factor=…"),
    **dict.fromkeys(("nb_worker", "pickle_safe"), gone("a DataLoader has num_workers=…")),
}
DRAW: Words = {
    **QUEUE, "generator": Word("write x", _drawn("x", "val_samples", "steps")),
    "val_samples": gone("write steps=…, a number of batches"),
}
DRAWING = "self generator val_samples"
CHANNELS_FIRST = "nothing: pictures are (N, C, H, W)"
NORM: Words = {"m": to("max_value"), "axis": Word(None, _norm_axis)}
OUTPUT_SHAPE = to("output_shape")._replace(advice="leave it out: strides and padding say it")
FILTERS = "init activation weights border_mode"
PENALTY = Name(
    lambda l1=0.0, l2=0.0: regularizers.L1L2(l1, l2), "l1 l2", {}, "L1L2(l1=…, l2=…)"
)
#: class, module, or name of a module -> its old names
NAMES: dict[Any, dict[str, Name]] = {
    layers: {
        "Convolution1D": Name(
            _convolution_1d, f"nb_filter filter_length {FILTERS} subsample_length", CONVOLUTION_1D,
            "Conv1D, which reads (N, C, L), between Permute((2, 1)) and Permute((2, 1))",
        ),
        "Convolution2D": Name(
            layers.Conv2D, f"nb_filter nb_row nb_col {FILTERS} subsample", CONVOLUTION_2D,
            "Conv2D(filters, (rows, columns))",
        ),
        "Convolution3D": Name(
            layers.Conv3D, f"nb_filter kernel_dim1 kernel_dim2 kernel_dim3 {FILTERS} subsample",
            CONVOLUTION_3D, "Conv3D(filters, (depth, rows, columns))",
        ),
        "Deconvolution2D": Name(
            _deconvolution_2d, f"nb_filter nb_row nb_col output_shape {FILTERS} subsample",
            {**CONVOLUTION_2D, "output_shape": OUTPUT_SHAPE},
            "Conv2DTranspose(filters, (rows, columns))",
        ),
        "TimeDistributedDense": Name(
            layers.Dense, "output_dim init activation weights", {**DENSE, **SEQUENCE, **FIRST},
            "Dense, which works on the last axis",
        ),
    },
    regularizers: {
        **dict.fromkeys(("WeightRegularizer", "ActivityRegularizer"), PENALTY),
        **dict.fromkeys(("l1l2", "activity_l1l2"), PENALTY._replace(today=regularizers.L1L2)),
        "activity_l1": Name(regularizers.L1, "l", {"l": to("l1")}, "L1(…)"),
        "activity_l2": Name(regularizers.L2, "l", {"l": to("l2")}, "L2(…)"),
    },
    constraints: {
        "maxnorm": Name(constraints.MaxNorm, "m axis", NORM, "MaxNorm(…)"),
        "unitnorm": Name(constraints.UnitNorm, "axis", NORM, "UnitNorm()"),
        "nonneg": Name(constraints.NonNeg, "", {}, "NonNeg()"),
    },
    "easydl.backend": {
        "set_image_dim_ordering": Name(lambda: None, "dim_ordering", ORDERING, CHANNELS_FIRST),
        "image_dim_ordering": Name(lambda: "th", "", {}, CHANNELS_FIRST),
    },
    "easydl.utils.np_utils": {
        "probas_to_classes": Name(_classes, "p", {"y_pred": to("p")}, "model.predict_classes(x)"),
        "categorical_probas_to_classes": Name(_classes, "p", {}, "p.argmax(axis=1)"),
    },
    Model: {
        "fit_generator": Name(
            _verb("fit"),
            "self generator samples_per_epoch nb_epoch verbose callbacks validation_data "
            "nb_val_samples class_weight",
            {
                **METHODS["fit"], **QUEUE,
                "generator": Word("write x", _drawn("x", "samples_per_epoch", "steps_per_epoch")),
                "samples_per_epoch": gone("write steps_per_epoch=…, a number of batches"),
                "validation_data": Word(
                    None, _drawn("validation_data", "nb_val_samples", "validation_steps")
                ),
                "nb_val_samples": gone("write validation_steps=…, a number of batches"),
            },
            "fit(x, steps_per_epoch=…)",
        ),
        "evaluate_generator": Name(
            _verb("evaluate"), DRAWING, {**METHODS["evaluate"], **DRAW}, "evaluate(x, steps=…)"
        ),
        "predict_generator": Name(_verb("predict"), DRAWING, DRAW, "predict(x, steps=…)"),
        "predict_proba": Name(_verb("predict"), "self x batch_size verbose", {}, "predict(x)"),
    },
}

#: module whose ``get`` takes names -> old names -> what makes today's object, the advice
STRINGS: dict[Any, dict[str, tuple[Callable[[], Any], str]]] = {
    losses: {
        "kullback_leibler_divergence": (losses.KLDivergence, "'kl_divergence'"),
        "cosine_proximity": (
            lambda: losses.Loss(_cosine_proximity, "cosine_proximity"),
            "'cosine_similarity', the sum over the last axis where Keras 1 took the mean",
        ),
    },
    metrics: {
        "fmeasure": (
            lambda: metrics.F1Score("micro", 0.5, "fmeasure"),
            "metrics.F1Score('micro', 0.5): of a whole epoch, where Keras 1 averaged over batches",
        )
    },
}

CLIPPING = {
    "clipnorm": "it clips each variable's gradient by itself, which easydl does not; expected "
    "compile(…, clip_norm=…), over all gradients together, or compile(…, clip_value=…)",
    "clipvalue": "expected compile(…, clip_value=…), which does the same",
    "global_clipnorm": "expected compile(…, clip_norm=…), which does the same",
}
#: every optimizer; ``decay`` joins them in ``install``, which knows each default rate
OPTIMIZER: Words = {
    "lr": to("learning_rate"), **dict.fromkeys(CLIPPING, Word(None, _clipping)),
    "schedule_decay": gone("it is 0.004", 0.004),
}
INVERSE_TIME = "write learning_rate=schedules.InverseTimeDecay(lr, 1, decay)"

#: callback -> its old words
CALLBACKS: dict[str, Words] = {
    "ModelCheckpoint": {"period": gone("every epoch is looked at", 1)},
    "ReduceLROnPlateau": {"epsilon": to("min_delta")},
    "TensorBoard": dict.fromkeys(("write_graph", "write_images"), gone("none is written")),
    "LambdaCallback": {
        "on_batch_begin": to("on_train_batch_begin"), "on_batch_end": to("on_train_batch_end"),
    },
}

#: modules of layers; each holds all of them, so that no one must know which stood where
LAYER_MODULES = """advanced_activations convolutional core embeddings local noise normalization
    pooling recurrent wrappers"""

#: functions (shape, scale) of the module initializations -> today's initialiser of that scale
INITIALIZATIONS: dict[str, Callable[[float], Any] | None] = {
    **dict.fromkeys(("zero", "one", "glorot_normal", "glorot_uniform"), None),
    **dict.fromkeys(("he_normal", "he_uniform", "lecun_uniform"), None),
    "normal": lambda scale: initializers.RandomNormal(0.0, scale),
    "uniform": lambda scale: initializers.RandomUniform(-scale, scale),
    "orthogonal": initializers.Orthogonal, "identity": initializers.Identity,
}
# fmt: on


# -- putting them in place -------------------------------------------------------------------------


def install() -> None:
    """Let easydl's classes, methods and modules take the old words; called once, by easydl."""
    wrapped: list[tuple[Any, str, Words]] = []
    for name in layers.__all__:
        layer = getattr(layers, name)
        if isinstance(layer, type) and "input_shape" in inspect.signature(layer).parameters:
            wrapped.append((layer, "__init__", {**FIRST, **LAYERS.get(name, {})}))
    for optimizer in optimizers.NAMES.values():
        rate = inspect.signature(optimizer).parameters["learning_rate"].default
        decay = Word(INVERSE_TIME, _inverse_time(rate), last=True)
        wrapped.append((optimizer, "__init__", {**OPTIMIZER, "decay": decay}))
    wrapped += [(getattr(callbacks, name), "__init__", words) for name, words in CALLBACKS.items()]
    wrapped += [(Model, name, words) for name, words in METHODS.items()]
    for owner, method, words in wrapped:
        order = ORDERS.get(owner.__name__ if method == "__init__" else method)
        setattr(owner, method, accepting(getattr(owner, method), words, order))
    for owner, names in NAMES.items():
        _fill(owner, {name: _old_name(name, old) for name, old in names.items()})
    for owner, refusals in REFUSED.items():
        _fill(owner, {name: _refusal(name, advice, owner) for name, advice in refusals.items()})
    for owner in STRINGS:
        owner.get = _knowing(owner.get, owner)
    Sequential.add = _turning_signals(Sequential.add)  # type: ignore
    monitor.BETTER_WHEN_HIGH.add("fmeasure")
    monitor.find_entry = _with_old_entries(monitor.find_entry)
    callbacks.History._reset = _with_old_keys(callbacks.History._reset)  # type: ignore

    named = [*layers.__all__, *NAMES[layers], *REFUSED[layers]]
    for name in LAYER_MODULES.split():
        _fill(f"easydl.layers.{name}", {name: getattr(layers, name) for name in named})
    one_hot = accepting(utils.to_categorical, {"nb_classes": to("num_classes")})
    _fill("easydl.utils.np_utils", {"to_categorical": one_hot})
    old_losses = {name: functools.partial(losses.get, name) for name in STRINGS[losses]}
    _fill("easydl.objectives", {"get": losses.get, **losses.NAMES, **old_losses})
    _fill("easydl.preprocessing.sequence", {"pad_sequences": utils.pad_sequences})
    functions = {name: _initialization(name) for name in INITIALIZATIONS}
    _fill("easydl.initializations", {"get": initializers.get, **functions})


def accepting(
    today: Callable[..., Any], words: Words, order: Order | None = None
) -> Callable[..., Any]:
    """``today``, which also takes old words, and positional arguments in the old order."""
    parameters = inspect.signature(today).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    title = today.__qualname__.removesuffix(".__init__")

    @functools.wraps(today)
    def call(*args: Any, **kwargs: Any) -> Any:
        in_old_order = order is not None and order.is_meant(args)
        if words.keys().isdisjoint(kwargs) and not in_old_order:
            return today(*args, **kwargs)
        used = order.names.split() if order is not None and in_old_order else names
        arguments = translate(words, _bound(title, used, args, kwargs))
        if in_old_order:
            _warn(f"{title}({args[1]!r}, {args[2]!r}, …) has Keras 1's order; name the arguments.")
        _warn_of(words, kwargs)
        return today(**arguments)

    return call


def translate(words: Words, given: Given) -> Given:
    """The arguments of today that ``given`` means; none may come by its old and new name at once.

    Example:
        >>> translate({"nb_epoch": to("epochs")}, {"x": 1, "nb_epoch": 3})
        {'x': 1, 'epochs': 3}
    """
    today = {name: value for name, value in given.items() if name not in words}
    for old in sorted((name for name in given if name in words), key=lambda name: words[name].last):
        for name, value in words[old].convert(old, given[old], given).items():
            if name in given and name not in words and not words[old].last:
                raise TypeError(f"{old} and {name} were both given; expected {name}, today's word.")
            today[name] = value
    return today


def _bound(title: str, names: Sequence[str], args: tuple[Any, ...], kwargs: Given) -> Given:
    """All arguments by name, with Python's own two complaints."""
    if len(args) > len(names):
        raise TypeError(
            f"{title}() takes {len(names)} positional arguments; {len(args)} were given"
        )
    given = dict(zip(names, args))
    for name in given:
        if name in kwargs:
            raise TypeError(f"{title}() got multiple values for argument {name!r}")
    return {**given, **kwargs}


def _warn_of(words: Words, kwargs: Given) -> None:
    for word in kwargs:
        advice = words[word].advice if word in words else None
        if advice is not None:
            _warn(f"{word} is Keras 1's word; {advice}.")


def _warn(text: str) -> None:
    """Points at the line outside easydl where the old word stands."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(HERE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, DeprecationWarning, stacklevel=level)


def _old_name(name: str, old: Name) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        arguments = translate(old.words, _bound(name, old.order.split(), args, kwargs))
        _warn(f"{name} is Keras 1's word; write {old.advice}.")
        _warn_of(old.words, kwargs)
        return old.today(**arguments)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"Keras 1's name: write {old.advice}."
    return call


def _refusal(name: str, advice: str, owner: Any) -> Callable[..., Any]:
    error = ImportError if str(owner).startswith("easydl.datasets") else ValueError

    def call(*args: Any, **kwargs: Any) -> Any:
        raise error(f"{name}(…) was asked, Keras 1's, which easydl has not; write {advice}.")

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"Keras 1's name, not offered: write {advice}."
    return call


def _knowing(get: Callable, owner: Any) -> Callable:
    """``get`` of losses or metrics, for old names, too; losses serve as metrics."""

    @functools.wraps(get)
    def call(spec: Any) -> Any:
        for module in (owner, losses):
            if isinstance(spec, str) and spec in STRINGS[module]:
                make, advice = STRINGS[module][spec]
                _warn(f"{spec!r} is Keras 1's word; write {advice}.")
                return make() if owner is module else get(losses.per_sample_form(make()))
        return get(spec)

    return call


def _todays_entry(name: str, names: Iterable[str]) -> str:
    """``val_acc``, which is ``val_accuracy`` where ``"accuracy"`` was given to ``compile``."""
    today = re.sub(r"(^|_)acc$", r"\1accuracy", name)
    if name in names or today not in names:
        return name
    _warn(f"{name!r} is Keras 1's word; write {today!r}.")
    return today


def _with_old_entries(find: Callable[..., str]) -> Callable[..., str]:
    """What finds the entry of the logs for a ``monitor`` and for a field of a checkpoint's path."""
    return lambda who, name, names: find(who, _todays_entry(name, names), names)


class OldKeys(dict):
    """The history's lists, also by the old keys; a plain dict once it is copied or pickled."""

    def __missing__(self, key: Any) -> Any:
        today = _todays_entry(str(key), self)
        if today == str(key):
            raise KeyError(key)
        return self[today]

    def __reduce__(self) -> tuple:
        return dict, (dict(self),)


def _with_old_keys(reset: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(reset)
    def call(self: Any) -> None:
        reset(self)
        self.history = OldKeys(self.history)

    return call


def _turning_signals(add: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """``Sequential.add``: a pooling in old words, or after a Convolution1D, is of (N, T, F)."""

    @functools.wraps(add)
    def call(self: Sequential, layer: Any) -> None:
        if getattr(layer, "takes", None) == LINES and not isinstance(layer, layers.Conv1D):
            if hasattr(layer, "steps_first") or any(isinstance(one, StepsFirst) for one in self):
                layer = StepsFirst(layer, layer.given_input_shape)
        add(self, layer)

    return call


def _initialization(name: str) -> Callable[..., Any]:
    today = {"zero": "zeros", "one": "ones"}.get(name, name)

    def call(shape: Any, scale: float | None = None, name: str | None = None) -> Tensor:
        _warn(f"{call.__name__} is Keras 1's word; write initializers.get({today!r}).")
        scaled = INITIALIZATIONS[call.__name__]
        draw = initializers.get(today) if scaled is None or scale is None else scaled(scale)
        # easydl calls initialisers with the tensor to fill, where Keras 1 gave its shape
        return draw(shape if isinstance(shape, Tensor) else torch.empty(tuple(shape)))

    call.__name__ = call.__qualname__ = name
    return call


def _fill(owner: Any, contents: Mapping[str, Any]) -> None:
    """Give the owner the ``contents`` that it lacks; a module that easydl lacks is made."""
    if isinstance(owner, str):
        name = owner
        owner = sys.modules.setdefault(name, types.ModuleType(name, "A module of Keras 1."))
        parent, _, last = name.rpartition(".")
        if parent:
            _fill(parent, {last: owner})
    for key, value in contents.items():
        if not hasattr(owner, key):
            setattr(owner, key, value)

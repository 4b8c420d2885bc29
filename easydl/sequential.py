"""``Sequential``: a list of layers that learns its shapes from the first batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from easydl.errors import short_traceback
from easydl.layers.base import (
    build,
    can_be_left_out,
    channels_last,
    check_chain,
    output_shape,
    takes_logits,
)
from easydl.layers.input import Input as Input
from easydl.model import Model, sample_shape


class Sequential(Model):
    """Layers one after the other; any ``nn.Module`` is a layer.

    The input shape comes from ``Input``, ``input_shape=`` on the first layer, ``build(shape)``, or
    the first batch. ``state_dict`` keys are those of ``nn.Sequential``: ``0.weight``, ``0.bias`` …

    Args:
        layers: modules; a first ``Input`` fixes the shape.
        more: nothing; it catches ``Sequential(Dense(8), Dense(3))``, which lacks the brackets.
        name: shown by ``summary``.

    Raises:
        TypeError: an entry that is no layer.

    Example:
        >>> import easydl as dl
        >>> model = dl.Sequential([dl.Dense(8, activation="relu", input_dim=4), dl.Dense(1)])
        >>> model(torch.zeros(5, 4)).shape
        torch.Size([5, 1])
    """

    @short_traceback
    def __init__(self, layers: Iterable[Any] = (), *more: Any, name: str | None = None):
        super().__init__(name=name)
        self.built_shape: tuple[int | None, ...] | None = None
        if more:
            raise TypeError(
                f"Sequential was given {1 + len(more)} arguments; expected one list of layers: "
                "Sequential([Dense(8), Dense(3)])."
            )
        if isinstance(layers, nn.Module) and not isinstance(layers, (nn.Sequential, nn.ModuleList)):
            layers = [layers]
        if not hasattr(layers, "__iter__"):
            raise TypeError(f"Sequential({layers!r:.80}) was given; expected a list of layers.")
        for layer in layers:
            self.add(layer)

    @short_traceback
    def add(self, layer: Any) -> None:
        """Append a layer (or an ``Input``, first)."""
        if isinstance(layer, Input):
            if len(self):
                raise ValueError("Input was added after other layers; expected it to be the first.")
            self.given_input_shape = layer.shape
            return
        if not isinstance(layer, nn.Module):
            hint = f": write {layer.__name__}(…)" if inspect.isclass(layer) else ""
            raise TypeError(
                f"Sequential was given {layer!r:.80} ({type(layer).__name__}); expected a layer, "
                f"an instance of nn.Module{hint}. For a function write Lambda(function)."
            )
        name = getattr(layer, "name", None)
        numbered = isinstance(layer, Model) and name == type(layer).__name__.lower()
        if (isinstance(name, str) and not numbered) and any(
            getattr(other, "name", None) == name and other is not layer for other in self.layers
        ):
            raise ValueError(
                f"two layers are called {name!r}; expected a name of its own for each: get_layer "
                "and the summary could not tell them apart."
            )
        if not len(self) and self.given_input_shape is None:
            self.given_input_shape = getattr(layer, "given_input_shape", None)
        self.add_module(str(len(self)), layer)
        self._changed()
        if self.given_input_shape is not None:
            self.build_layers(self.given_input_shape)

    def pop(self) -> nn.Module:
        """Remove the last layer and return it."""
        if not len(self):
            raise ValueError("pop() was called on a model without layers; expected at least one.")
        layer = self._modules.pop(str(len(self) - 1))
        self._changed()
        assert layer is not None
        return layer

    def _changed(self) -> None:
        self.built_shape = None
        if self._compiled is not None:
            self._compiled.forget_parameters()

    def forward(self, x: Tensor, logits: bool = False) -> Tensor:  # type: ignore[override]
        """The last layer's output.

        Args:
            logits: leave out the softmax or sigmoid at the very end.
        """
        layers = list(self._modules.values())
        last = layers.pop() if logits else None
        for layer in layers:
            x = layer(x)  # type: ignore[misc]
        if last is None or can_be_left_out(last):
            return x
        return last(x, logits=True)

    @short_traceback
    def build(self, input_shape: Any) -> None:
        """Fix the shapes: ``build((20,))``, or Keras's ``build((None, 20))``."""
        shape = sample_shape(input_shape)
        if self.built_shape is not None and not _fits(shape, self.built_shape):
            raise ValueError(
                f"build({input_shape!r:.80}) was called on a model that is built for samples of "
                f"shape {self.built_shape}; expected that shape, or a new model."
            )
        self.build_layers(shape)

    def build_layers(self, shape: tuple[int | None, ...], first: bool = True) -> None:
        """Build every layer in order, each from the output shape of the one before.

        Args:
            shape: of one sample; None for an open size.
            first: whether the data come in here, and not from layers before.

        Raises:
            ValueError: pictures with the channels last, or neighbours that do not fit.
        """
        if self.built_shape is not None:
            return
        strict = self._is_strict
        layout = channels_last(shape) if first and strict else None
        current: tuple[int | None, ...] = (None, *shape)
        for number, name in enumerate(self.layer_names()):
            check_chain(self.layers[: number + 1], layout, shape)
            layer = self.layers[number]
            if not isinstance(layer, nn.Sequential):  # that one below, where torch may object
                build(layer, current)
            try:
                current = output_shape(layer, current)
                if isinstance(current, list):
                    raise AttributeError("it returned several tensors")
            except AttributeError as error:
                raise TypeError(
                    f"layer {name!r} ({type(layer).__name__}) gave no single tensor ({error}); "
                    "Sequential expects one. torch's recurrent layers return (output, state): "
                    "write easydl.LSTM, GRU or SimpleRNN."
                ) from error
            except RuntimeError as error:
                raise ValueError(
                    f"layer {name!r} ({type(layer).__name__}) cannot take inputs of shape "
                    f"{('N', *current[1:])}. torch says: {str(error).splitlines()[0][:260]}"
                ) from error
        check_chain(self.layers, layout, shape)
        self.built_shape = tuple(shape)
        self.settle(shape)

    @property
    def output_shape(self) -> tuple[int | None, ...] | None:
        """The outputs' shape with ``None`` for the batch; ``None`` before the model is built."""
        return None if self.built_shape is None else output_shape(self, (None, *self.built_shape))

    def final_activation(self) -> nn.Module | None:
        if not takes_logits(self):
            return None
        last = self.final_module()
        if isinstance(last, Sequential):
            return last.final_activation()
        if can_be_left_out(last):
            return last
        activation = getattr(last, "activation", None)
        if can_be_left_out(activation) and last is not None and takes_logits(last):
            return activation
        return None

    def final_module(self) -> nn.Module | None:
        return self[-1] if len(self) else None

    def has_activity_on_output(self) -> bool:
        last = self.final_module()
        if isinstance(last, Sequential):
            return last.has_activity_on_output()
        return getattr(last, "activity_regularizer", None) is not None

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.layers)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Sequential(self.layers[index])
        return self.layers[index]


def _fits(shape: tuple[int | None, ...], built: tuple[int | None, ...]) -> bool:
    """Whether samples of ``shape`` are some that a model built for ``built`` takes."""
    return len(shape) == len(built) and all(b in (None, s) for s, b in zip(shape, built))

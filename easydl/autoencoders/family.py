"""Autoencoders: plain, denoising and stacked, trained by the ordinary ``fit``."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from easydl.autoencoders.mirrored import mirrored
from easydl.autoencoders.noise import as_noise
from easydl.callbacks import History
from easydl.data import as_source
from easydl.errors import check_between, check_flag, check_positive_int, short_traceback, warn_user
from easydl.layers import Dense, Flatten
from easydl.layers.base import label, output_shape, takes_logits
from easydl.model import Model, sample_shape
from easydl.sequential import Sequential
from easydl.training.compiled import compile_like
from easydl.training.prepare import get_inputs_ready


class Autoencoder(Model):
    """Learns codes from which the inputs can be told: ``decoder(encoder(x))`` shall be ``x``.

    ``fit(x)`` takes the inputs as targets; ``encode`` and ``decode`` are the two halves, and
    ``to_classifier`` puts a softmax on the codes. For sparse codes give the last layer of the
    encoder a penalty: ``activity_regularizer="l1"`` or ``regularizers.KLSparsity()``.

    Args:
        encoder: layers from the inputs to the codes, or a ``Sequential``.
        decoder: layers back to the inputs' shape. None mirrors an encoder of ``Dense`` layers:
            the same widths backwards, each layer with the activation of the one that made its
            target, the last with ``output_activation``.
        tied: the mirrored layers use the encoder's weights, transposed, with biases of their own:
            ``x' = σ(Wᵀ σ(Wx + b) + d)``. Gradients flow through both uses.
        output_activation: of the last mirrored layer; None is linear.
        noise: what corrupts the inputs in training alone, the targets staying clean: a share of
            numbers set to 0, a layer such as ``GaussianNoise(0.3)``, or a function of a batch.
        contractive: λ ≥ 0; adds ``λ · mean ‖∂code/∂x‖²`` over the batch, by the exact Jacobian of
            the clean inputs (S. Rifai et al. 2011, Contractive auto-encoders), one backward pass
            for each number of the code; Dropout in the encoder draws anew for it. Logged as
            ``contractive_loss``.
        name: shown by ``summary``.

    Raises:
        ValueError: a noise level or λ outside its range, layers that cannot be mirrored, a decoder
            whose output is not of the inputs' shape (once this is known).

    Example:
        >>> import easydl as dl
        >>> dl.seed(0)
        >>> model = dl.Autoencoder([dl.Dense(2)], [dl.Dense(5)])
        >>> model.compile("adam", "mse")
        >>> history = model.fit(torch.rand(8, 5), epochs=2, verbose=0)
        >>> model.encode(torch.rand(3, 5)).shape
        (3, 2)
    """

    reproduces_inputs = True

    @short_traceback
    def __init__(
        self,
        encoder: Any,
        decoder: Any = None,
        *,
        tied: bool = False,
        output_activation: Any = None,
        noise: Any = None,
        contractive: float = 0.0,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.built_shape: tuple[int | None, ...] | None = None
        self.encoder = _chain("encoder", encoder)
        self.tied, self.output_activation = check_flag("tied", tied), output_activation
        self.mirrors = decoder is None
        if self.mirrors:
            decoder = mirrored(self.encoder.layers, output_activation, self.tied)
        elif self.tied or output_activation is not None:
            raise ValueError(
                "decoder=… was given with tied=True or output_activation=…, which say how the "
                "encoder is mirrored; expected decoder=None with them, or a decoder that has its "
                "own weights and activations."
            )
        self.decoder = _chain("decoder", decoder)
        self.noise = as_noise(noise)
        self.contractive = check_between("contractive", contractive, 0, float("inf"), ends="[)")
        norms = [part for part in self.encoder.modules() if isinstance(part, _BatchNorm)]
        if self.contractive and norms:
            raise ValueError(
                f"contractive={self.contractive:g} was given with {label(norms[0])} in the "
                "encoder, by which a code depends on the whole batch and has no Jacobian of its "
                "own; expected LayerNormalization instead, or contractive=0."
            )
        if self.encoder.built_shape is not None:
            self.build_layers(self.encoder.built_shape)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for ``save``."""
        config = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        if self.mirrors and "decoder" in config:
            config["decoder"] = None
        return config

    @property
    def layers(self) -> list[Any]:
        """The encoder's layers, then the decoder's."""
        return [*self.encoder.layers, *self.decoder.layers]

    def forward(self, x: Tensor, logits: bool = False) -> Tensor:  # type: ignore[override]
        """``decoder(encoder(x))``; ``logits`` leaves out a softmax or sigmoid at the very end."""
        codes = self.encoder(x)
        return self.decoder(codes, logits=True) if logits else self.decoder(codes)

    def final_activation(self) -> nn.Module | None:
        return self.decoder.final_activation() if takes_logits(self) else None

    def final_module(self) -> nn.Module | None:
        return self.decoder.final_module()

    def has_activity_on_output(self) -> bool:
        return self.decoder.has_activity_on_output()

    @short_traceback
    def build(self, input_shape: Any) -> None:
        """Fix the shapes: ``build((20,))``, or Keras's ``build((None, 20))``."""
        shape = sample_shape(input_shape)
        if self.built_shape is not None and self.built_shape != shape:
            raise ValueError(
                f"build({input_shape!r:.80}) was called on a model that is built for samples of "
                f"shape {self.built_shape}; expected that shape, or a new model."
            )
        self.build_layers(shape)

    def build_layers(self, shape: tuple[int | None, ...], first: bool = True) -> None:
        """Build encoder and decoder for samples of ``shape``; see ``Sequential.build_layers``.

        Raises:
            ValueError: neighbours that do not fit, or a decoder that gives another shape.
        """
        if self.built_shape is not None:
            return
        strict = self._is_strict
        self.encoder.build_layers(shape, first=first and strict)
        codes = output_shape(self.encoder, (None, *shape))
        self.decoder.build_layers(codes[1:], first=False)
        given = output_shape(self.decoder, codes)
        if given != (None, *shape):
            self.given_input_shape = None
            advice = f"Reshape({tuple(shape)}) as its last layer, if the numbers agree"
            if len(given) == len(shape) + 1:
                advice = f"a last layer that gives it, such as Dense({shape[-1]})"
            if len(given) == len(shape) + 1 > 2:
                advice = "strides, paddings and channels that undo those of the encoder"
            raise ValueError(
                f"the decoder gives {('N', *given[1:])}, but the inputs are {('N', *shape)}, which "
                f"it should give back; expected their shape. Write {advice}."
            )
        self.built_shape = tuple(shape)
        self.settle(shape)

    def compute_loss(self, x: Any, y: Any, sample_weight: Tensor | None = None) -> tuple:
        """The loss of what is made of the corrupted inputs, and the contractive penalty."""
        seen = x
        if self.training and self.noise is not None:
            seen = self.noise(x.clone())  # x is the target, which a function may not change
            if not isinstance(seen, Tensor) or seen.shape != x.shape:
                got = getattr(seen, "shape", type(seen).__name__)
                raise ValueError(
                    f"noise made {got} of a batch of {tuple(x.shape)}; expected a tensor of the "
                    "same shape: a function such as lambda x: x + 0.1 * torch.randn_like(x)."
                )
        loss, outputs, *parts = super().compute_loss(seen, y, sample_weight)
        if not self.contractive:
            return loss, outputs, *parts
        rows = squared_jacobian(self.encoder, x)
        penalty = (
            self.contractive * (rows if sample_weight is None else rows * sample_weight).mean()
        )
        return loss + penalty, outputs, {"contractive_loss": penalty}

    # -- the two halves -----------------------------------------------------------------------

    @short_traceback
    def encode(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """The code of each row, in evaluation mode; no noise.

        Args:
            x, batch_size: as in ``predict``.

        Returns:
            NumPy float32 ``(N, …)``.
        """
        self._warn_before_fit("encode")
        return self.map_rows(self.encoder, x, batch_size)

    @short_traceback
    def decode(self, z: Any, batch_size: int | None = None) -> np.ndarray:
        """What the decoder makes of codes ``z``, which may be anybody's.

        Args:
            z: ``(N, …)``, as ``encode`` gives them.
            batch_size: as in ``predict``.

        Returns:
            NumPy float32 ``(N, …)`` in the shape of the inputs.
        """
        if self.built_shape is None:
            raise ValueError(
                "decode was called before the inputs' shape is known; expected fit, or "
                "model.build(input_shape), first."
            )
        self._warn_before_fit("decode")
        return self.decoder.map_rows(self.decoder, z, batch_size)

    def _warn_before_fit(self, verb: str) -> None:
        if not self._has_learned and not self._has_warned:
            self._has_warned = True
            warn_user(
                f"{verb} was called before fit or load_weights: these are the outputs of random "
                "weights."
            )

    @short_traceback
    def to_classifier(self, classes: int) -> Sequential:
        """The encoder with a new ``Dense(classes, "softmax")`` on its codes, to be compiled.

        Its layers are this model's own: what the classifier learns changes the encoder, too.
        To train the new layer alone, freeze them: ``model.encoder.trainable = False``.

        Args:
            classes: how many, at least 2.

        Raises:
            ValueError: before any fit: the layers would be random.
        """
        classes = check_positive_int("classes", classes, minimum=2)
        if not self._has_learned or self.built_shape is None:
            raise ValueError(
                f"to_classifier({classes}) was called before any fit, so that its layers would be "
                "random; expected model.fit(x), or load_weights, first. For a network without "
                f"pretraining write Sequential([…, Dense({classes}, 'softmax')])."
            )
        layers = self.encoder.layers
        if len(output_shape(self.encoder, (None, *self.built_shape))) > 2:
            layers = [*layers, Flatten()]
        classifier = Sequential([*layers, Dense(classes, "softmax")], name="classifier")
        classifier.build_layers(self.built_shape)
        return classifier

    def to_torch(self) -> nn.Module:
        """An ``nn.Sequential`` of ``encoder`` and ``decoder`` without easydl and without noise.

        Its outputs are the same to the bit. Tied weights are copied: they part in further training.
        """
        parts = OrderedDict(encoder=self.encoder.to_torch(), decoder=self.decoder.to_torch())
        plain = nn.Sequential(parts)
        plain.training = self.training
        return plain

    # -- layer by layer ---------------------------------------------------------------------

    @short_traceback
    def pretrain(
        self,
        x: Any,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        sample_weight: Any = None,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
        *,
        split: str = "tail",
        checkpoint: Any = None,
    ) -> list[History]:
        """Train one layer after the other, from the inputs on: greedy layer-wise pretraining.

        Layer k of the encoder and the decoder's layer that undoes it, the k-th from the end, are
        an autoencoder of their own. It is trained by ``fit`` on the codes of the layers below, with
        what ``compile`` was told and this model's noise and contractive penalty. Codes of all rows
        are kept in memory, one layer at a time. Afterwards ``fit`` trains the whole.

        Reference:
            Y. Bengio et al. (2006), Greedy layer-wise training of deep networks; with noise P.
            Vincent et al. (2010), Stacked denoising autoencoders.

        Args:
            x: as in ``fit``; it is read more than once, so no generator.
            epochs: of each layer.
            validation_data: rows; targets are the codes themselves.
            batch_size, verbose, callbacks, validation_split, shuffle, sample_weight: as in ``fit``.
            steps_per_epoch, validation_steps, validation_batch_size: as in ``fit``.
            validation_freq, split: as in ``fit``.
            checkpoint: a folder; each layer has one in it.

        Returns:
            the ``History`` of each layer that has weights, from the inputs on.

        Raises:
            ValueError: encoder and decoder of different lengths, or what ``fit`` refuses.
        """
        state = self._require_compiled("pretrain")
        encoders, decoders = self.encoder.layers, self.decoder.layers[::-1]
        if len(encoders) != len(decoders):
            raise ValueError(
                f"pretrain was called with {len(encoders)} layers in the encoder and "
                f"{len(decoders)} in the decoder; expected as many, each undone by its "
                "counterpart from the end. Write decoder=None to mirror Dense layers."
            )
        for what, rows in (("x", x), ("validation_data", validation_data)):
            if hasattr(rows, "__next__") or isinstance(rows, tuple):
                raise ValueError(
                    f"pretrain was given {what} as a {type(rows).__name__}; expected rows that can "
                    "be read once for each layer: an array, a Dataset, a DataLoader, or a function "
                    "that returns a generator."
                )
        get_inputs_ready(self, as_source(x))
        histories = []
        for number, (encoder, decoder) in enumerate(zip(encoders, decoders), start=1):
            level = Autoencoder(
                [encoder], [decoder], noise=self.noise, contractive=self.contractive,
                name=f"layer {number} of {len(encoders)}",
            )  # fmt: skip
            level._has_learned = True
            compile_like(level, state)
            if any(parameter.requires_grad for parameter in level.parameters()):
                folder = None if checkpoint is None else Path(checkpoint) / f"layer_{number}"
                if verbose != 0:
                    print(f"pretraining {level.name}")
                history = level.fit(
                    x, None, batch_size, epochs, verbose, callbacks, validation_split,
                    validation_data, shuffle, None, sample_weight, 0, steps_per_epoch,
                    validation_steps, validation_batch_size, validation_freq, split=split,
                    checkpoint=folder,
                )  # fmt: skip
                histories.append(history)
            self.column_names = level.column_names | self.column_names
            if number < len(encoders):
                x = level.encode(x)
                if validation_data is not None:
                    validation_data = level.encode(validation_data)
        self._has_learned = True
        return histories


class DenoisingAutoencoder(Autoencoder):
    """An autoencoder that sees corrupted inputs in training and shall give the clean ones back.

    Reference:
        P. Vincent et al. (2008), Extracting and composing robust features with denoising
        autoencoders.

    Args:
        encoder, decoder, tied, output_activation, contractive, name: as in ``Autoencoder``.
        noise: a share of numbers set to 0 (not rescaled), in [0, 1); a layer:
            ``GaussianNoise(0.3)``, ``SaltAndPepperNoise(0.2)``, ``Dropout`` …; or a function of a
            batch, such as ``lambda x: x + 0.1 * torch.randn_like(x)``.

    Example:
        >>> import easydl as dl
        >>> model = dl.DenoisingAutoencoder([dl.Dense(32, "relu")], [dl.Dense(64)], noise=0.3)
        >>> model.noise
        MaskingNoise(rate=0.3)
    """

    def __init__(
        self,
        encoder: Any,
        decoder: Any = None,
        noise: Any = 0.3,
        *,
        tied: bool = False,
        output_activation: Any = None,
        contractive: float = 0.0,
        name: str | None = None,
    ) -> None:
        super().__init__(
            encoder, decoder, tied=tied, output_activation=output_activation, noise=noise,
            contractive=contractive, name=name,
        )  # fmt: skip


class StackedAutoencoder(Autoencoder):
    """A deep autoencoder of ``Dense`` layers, to be pretrained layer by layer, then as a whole.

    ``pretrain(x)``, ``fit(x)``, and ``to_classifier(n)`` for a network that starts from what
    unlabelled rows have taught.

    Reference:
        P. Vincent et al. (2010), Stacked denoising autoencoders.

    Args:
        units: widths of the encoder's layers; the decoder mirrors them.
        activation: of the encoder's layers and of those that lead back to them.
        output_activation: of the last layer, which gives the inputs; None is linear.
        tied, noise, contractive, name: as in ``Autoencoder``; the noise also corrupts the codes
            that a layer is pretrained on.

    Example:
        >>> import easydl as dl
        >>> model = dl.StackedAutoencoder([16, 4])
        >>> model.compile("adam", "mse")
        >>> len(model.pretrain(torch.rand(40, 8), epochs=2, verbose=0))
        2
        >>> classifier = model.to_classifier(3)
    """

    def __init__(
        self,
        units: Iterable[int],
        activation: Any = "sigmoid",
        output_activation: Any = "sigmoid",
        *,
        tied: bool = False,
        noise: Any = None,
        contractive: float = 0.0,
        name: str | None = None,
    ) -> None:
        if isinstance(units, (str, bytes)) or not hasattr(units, "__iter__"):
            raise ValueError(
                f"units={units!r:.60} was given; expected the widths of the layers in a list, for "
                "example units=[256, 64]."
            )
        super().__init__(
            [Dense(width, activation) for width in units], tied=tied,
            output_activation=output_activation, noise=noise, contractive=contractive, name=name,
        )  # fmt: skip

    @property
    def units(self) -> list[int]:
        """The widths of the encoder's layers."""
        return [layer.out_features for layer in self.encoder.layers]

    @property
    def activation(self) -> Any:
        """What the encoder's layers end in, as given."""
        return self.encoder[0].config["activation"]


def squared_jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``‖∂function(x)/∂x‖²``, the sum over all pairs of output and input, of each row: ``(n,)``.

    The rows must not depend on each other.
    """
    # A view, because torch's counter of multiply-adds (jit=True) cannot watch a leaf here.
    codes, pull, *_ = torch.func.vjp(lambda x: function(x.view_as(x)), x)
    count = codes[0].numel()
    units = torch.eye(count, dtype=codes.dtype, device=codes.device)
    one_each = units.reshape(count, 1, *codes.shape[1:]).expand(count, *codes.shape)
    (rows,) = torch.func.vmap(pull)(one_each)  # of the Jacobian: (count, n, …)
    return rows.square().transpose(0, 1).flatten(1).sum(1)


def _chain(what: str, layers: Any) -> Sequential:
    chain = layers if isinstance(layers, Sequential) else Sequential(layers, name=what)
    if not len(chain):
        raise ValueError(
            f"{what}=[] was given; expected at least one layer, for example {what}=[Dense(32)]."
        )
    return chain

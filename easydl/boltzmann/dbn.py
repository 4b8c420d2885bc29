"""Deep belief nets: RBMs stacked, pretrained greedily, and unrolled into deep networks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from easydl.autoencoders import Autoencoder
from easydl.boltzmann.likelihood import draw
from easydl.boltzmann.rbm import RBM, dense
from easydl.callbacks import History
from easydl.errors import check_flag, check_path, check_positive_int, short_traceback
from easydl.layers import Dense
from easydl.model import Model, as_list
from easydl.saving import require_built
from easydl.sequential import Sequential
from easydl.training.compiled import compile_like


class DBN(Model):
    """Deep belief net: an RBM on top, directed layers below (Hinton, Osindero and Teh 2006).

    ``pretrain`` fits the RBMs one after the other, each on the hidden probabilities of the one
    below. ``predict`` and ``transform`` give the top one's; ``sample`` draws visible rows;
    ``to_classifier`` and ``to_autoencoder`` make networks of the weights, to be fine-tuned.

    Args:
        layers: from below; numbers of hidden units, or RBMs for other settings.
        kind: of the visible units, as in ``RBM``.
        k: Gibbs steps of each update, as in ``RBM``.
        mean_field: as in ``RBM``; the layers above the first see grey values, too.
        name: shown by ``summary``.

    Raises:
        ValueError: no layers, neighbours that do not fit, Gaussian units above the data.

    Example:
        >>> import easydl as dl
        >>> dl.seed(0)
        >>> dbn = dl.DBN([5, 3])
        >>> dbn.compile(dl.optimizers.SGD(0.1, momentum=0.5))
        >>> histories = dbn.pretrain(torch.eye(6), epochs=2, verbose=0)
        >>> classifier = dbn.to_classifier(2)
        >>> classifier(torch.eye(6)).shape
        torch.Size([6, 2])
    """

    own_loss = "that of its layers"

    def __init__(
        self,
        layers: Sequence[Any],
        kind: str = "bernoulli",
        k: int = 1,
        mean_field: bool = True,
        *,
        name: str | None = None,
    ):
        super().__init__(name=name)
        layers = as_list(layers)
        if not layers:
            raise ValueError(
                "DBN([]) was given; expected the layers' hidden units: DBN([256, 64])."
            )
        below: RBM | None = None
        for number, layer in enumerate(layers):
            if not isinstance(layer, RBM):
                units = check_positive_int(f"hidden units of layer {number + 1}", layer)
                visible = None if below is None else below.hidden
                layer = RBM(
                    units, visible, "bernoulli" if number else kind, k, mean_field=mean_field
                )
            if below is not None:
                if layer.kind != "bernoulli" or layer.visible not in (None, below.hidden):
                    raise ValueError(
                        f"layer {number + 1} is an RBM of {layer.visible} {layer.kind} visible "
                        f"units; expected {below.hidden} Bernoulli ones, the hidden units below: "
                        f"RBM({layer.hidden}, visible={below.hidden})."
                    )
                layer.build_layers((below.hidden,))
            self.add_module(str(number), layer)
            below = layer
        self._has_learned = all(layer._has_learned for layer in self.layers)
        self.built_shape: tuple[int | None, ...] | None = None
        if self.layers[0].built_shape is not None:
            self.build_layers(self.layers[0].built_shape)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for ``save``."""
        return {"layers": self.layers, "name": self.name}

    @short_traceback
    def build(self, input_shape: Any) -> None:
        """Make the first RBM's weights; see ``RBM.build``."""
        self.layers[0].build(input_shape)
        self.build_layers(self.layers[0].built_shape)

    def build_layers(self, shape: tuple[int | None, ...]) -> None:
        """Make the first RBM's weights for samples of ``shape``; the others have theirs."""
        self.layers[0].build_layers(shape)
        self.built_shape = self.given_input_shape = self.layers[0].built_shape

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """The top layer's hidden probabilities, each layer's going up."""
        for layer in self.layers:
            x = layer(x)
        return x

    def check_inputs(self, x: Tensor, what: str) -> None:
        """As of the first RBM."""
        self.layers[0].check_inputs(x, what)

    def compute_loss(self, x: Any, y: Any, sample_weight: Tensor | None = None) -> tuple:
        """None of its own: its layers are trained one by one."""
        raise ValueError(
            "fit or evaluate was called on a DBN, which has no loss of its own; expected "
            "dbn.pretrain(x), then dbn.to_classifier(10) or dbn.to_autoencoder() and "
            "their fit. One layer: dbn.layers[0].evaluate(x)."
        )

    @short_traceback
    def pretrain(
        self,
        x: Any,
        batch_size: int | None = None,
        epochs: int | Sequence[int] = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        validation_data: Any = None,
        *,
        checkpoint: Any = None,
    ) -> list[History]:
        """Train one RBM after the other by ``fit``, each on what the ones below give for ``x``.

        They are trained as ``compile`` was told; for settings of their own compile them,
        ``dbn.layers[0].compile(…)``, and not the DBN. The hidden probabilities of all rows are kept
        in memory, one layer at a time.

        Args:
            x: as in ``fit``; it is read once for each layer, so no generator.
            batch_size, verbose, callbacks: as in ``fit``.
            epochs: of every layer, or a list with each layer's.
            validation_data: rows, read like ``x``.
            checkpoint: a folder; each layer has one in it.

        Returns:
            each layer's ``History``, from the inputs on.

        Raises:
            ValueError: before ``compile``, and what ``fit`` refuses.
        """
        layers = self.layers
        if self._compiled is None and any(layer._compiled is None for layer in layers):
            raise ValueError(
                "pretrain was called before compile; expected how to train each layer, without a "
                "loss: dbn.compile(dl.optimizers.SGD(0.05, momentum=0.5))."
            )
        counts = list(epochs) if isinstance(epochs, (list, tuple)) else [epochs] * len(layers)
        for count in counts:
            check_positive_int("epochs", count)
        if len(counts) != len(layers):
            raise ValueError(
                f"epochs={counts!s:.80} was given for {len(layers)} layers; expected one number, "
                "or one for each layer."
            )
        if isinstance(x, Iterator) or isinstance(validation_data, Iterator):
            raise TypeError(
                "pretrain was given an iterator, which can be read once; expected what every layer "
                "can read: arrays, a Dataset, a DataLoader, or a function that returns an iterator."
            )
        folder = None if checkpoint is None else check_path("checkpoint", checkpoint, "runs/a")
        histories = []
        for number, (layer, count) in enumerate(zip(layers, counts), start=1):
            if self._compiled is not None:
                compile_like(layer, self._compiled)
            if verbose != 0:
                print(f"pretraining layer {number} of {len(layers)}")
            place = None if folder is None else folder / f"layer_{number}"
            with warnings.catch_warnings():
                if number < len(layers):  # such a layer is no news
                    warnings.filterwarnings("ignore", "nothing is left to train")
                history = layer.fit(
                    x, None, batch_size, count, verbose, callbacks,
                    validation_data=validation_data, checkpoint=place,
                )  # fmt: skip
            histories.append(history)
            if number < len(layers):
                x = layer.transform(x)
                if validation_data is not None:
                    validation_data = layer.transform(validation_data)
        self.build_layers(layers[0].built_shape)
        self.column_names = layers[0].column_names
        self._has_learned = True
        return histories

    def to_torch(self) -> nn.Module:
        """The way up as torch's ``Linear`` and ``Sigmoid`` layers, the same to the bit."""
        return Sequential(self._upward()).to_torch()

    @short_traceback
    def transform(self, x: Any, batch_size: int | None = None) -> np.ndarray:
        """The top layer's hidden probabilities, ``(N, units)``, as ``predict`` gives them.

        Args:
            x, batch_size: as in ``predict``.
        """
        return self.map_rows(self, x, batch_size)

    @short_traceback
    def sample(self, n: int, steps: int = 1000, mean: bool = False) -> np.ndarray:
        """``n`` rows drawn from the model: Gibbs steps in the top RBM, then down layer by layer.

        Args:
            n: number of rows.
            steps: Gibbs steps in the top RBM.
            mean: give the lowest layer's E[x | h] instead of a draw.

        Returns:
            ``(n, visible)``.
        """
        require_built(self, "sample")
        first, *above = self.layers
        if not above:
            return first.sample(n, steps, mean)
        check_flag("mean", mean)
        with torch.inference_mode():
            h = torch.from_numpy(above[-1].sample(n, steps)).to(first.weight)
            for layer in reversed(above[:-1]):
                h = draw(layer.visible_mean(h))
            x = first.visible_mean(h) if mean else first.visible_given(h)
            return x.float().cpu().numpy()

    def to_classifier(self, classes: int) -> Sequential:
        """A feed-forward net that starts from these weights, for ``compile`` and ``fit(x, y)``.

        Args:
            classes: how many, at least 2.

        Returns:
            ``Sequential`` of sigmoid ``Dense`` layers, copies of the weights, and a new last one.

        Raises:
            ValueError: before ``pretrain``.
        """
        check_positive_int("classes", classes, minimum=2)
        self._require_pretrained(f"to_classifier({classes})")
        return Sequential([*self._upward(), Dense(classes, "softmax")], name="classifier")

    def to_autoencoder(self) -> Autoencoder:
        """The deep autoencoder unrolled from the layers (Hinton and Salakhutdinov 2006).

        The encoder goes up by W, the decoder down by Wᵀ, sigmoid everywhere except a linear
        output for Gaussian visible units; both have copies of their own to be fine-tuned by
        ``compile`` and ``fit(x)``. The codes are the top layer's hidden probabilities.

        Raises:
            ValueError: before ``pretrain``.
        """
        self._require_pretrained("to_autoencoder")
        last = None if self.layers[0].kind == "gaussian" else "sigmoid"
        decoder = [
            dense(layer.weight.T, layer.visible_bias, "sigmoid" if number else last)
            for number, layer in enumerate(self.layers)
        ][::-1]
        model = Autoencoder(encoder=self._upward(), decoder=decoder)
        model._has_learned = True
        return model

    def _upward(self) -> list[Dense]:
        return [dense(layer.weight, layer.hidden_bias) for layer in self.layers]

    def _require_pretrained(self, verb: str) -> None:
        if not self._has_learned:
            raise ValueError(
                f"{verb} was called before pretrain, so that its weights would be random; expected "
                "dbn.pretrain(x, epochs=10), or load_weights, first."
            )

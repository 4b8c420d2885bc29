"""Losses: Keras's numbers in torch's order, one contract for all, and what ``compile`` accepts."""

from __future__ import annotations

import copy
import inspect
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import easydl as dl
from easydl import losses

torch.set_num_threads(1)

# Keras's variables on torch lack NumPy 2's ``copy`` argument.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

KERAS_NAME = {"logcosh": "log_cosh"}
FUNCTIONS = [
    name
    for name in losses.__all__
    if inspect.isfunction(getattr(losses, name))
    and "reduction" in inspect.signature(getattr(losses, name)).parameters
]
CLASSES = [name for name in losses.__all__ if name[0].isupper() and name not in ("NAMES", "Loss")]


def random_pair(name: str, *shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Outputs and targets that ``name`` is meant for; ``shape`` ends in the classes."""
    generator = np.random.default_rng(seed)
    y_pred, y_true = generator.normal(size=(2, *shape))
    classes = generator.integers(shape[-1], size=shape[:-1])
    if name in ("poisson", "mean_squared_logarithmic_error", "msle"):
        y_pred, y_true = np.abs(y_pred) + 0.1, np.abs(y_true)
    elif name in ("kl_divergence", "kld"):
        y_pred, y_true = (np.exp(a) / np.exp(a).sum(-1, keepdims=True) for a in (y_pred, y_true))
    elif name in ("hinge", "squared_hinge"):
        y_true = np.sign(y_true)
    elif name == "binary_crossentropy":
        y_pred, y_true = 1 / (1 + np.exp(-y_pred)), (y_true > 0).astype(float)
    elif name.startswith(("categorical", "sparse")):
        y_pred = np.exp(y_pred) / np.exp(y_pred).sum(-1, keepdims=True)
        y_true = classes if name.startswith("sparse") else np.eye(shape[-1])[classes]
    return torch.tensor(y_pred), torch.tensor(y_true)


def keras_values(name: str, y_pred: Tensor, y_true: Tensor, **options) -> np.ndarray:
    """Keras's loss of each row or position."""
    function = keras.losses.get(KERAS_NAME.get(name, name))
    return np.asarray(function(y_true, y_pred, **options))


# -- reference numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 4), (5, 3, 4)], ids=str)
@pytest.mark.parametrize("name", losses.NAMES)
def test_loss_equals_keras(name, shape):
    y_pred, y_true = random_pair(name, *shape)
    expected = keras_values(name, y_pred, y_true)
    loss = losses.get(name)
    assert float(loss(y_pred, y_true)) == pytest.approx(expected.mean(), rel=1e-6)
    per_sample = expected.reshape(len(expected), -1).mean(1)
    np.testing.assert_allclose(loss(y_pred, y_true, reduction="none"), per_sample, rtol=1e-6)


@pytest.mark.parametrize("name", ["categorical_crossentropy", "sparse_categorical_crossentropy"])
@pytest.mark.parametrize("shape", [(7, 4), (5, 3, 4)], ids=str)
def test_crossentropy_from_logits_equals_keras(name, shape):
    y_pred, y_true = random_pair(name, *shape)
    logits = 5 * (y_pred.log() + 1)
    expected = keras_values(name, logits, y_true, from_logits=True)
    loss = losses.NAMES[name](from_logits=True)
    assert float(loss(logits, y_true)) == pytest.approx(expected.mean(), rel=1e-6)
    per_sample = expected.reshape(len(expected), -1).mean(1)
    np.testing.assert_allclose(loss(logits, y_true, reduction="none"), per_sample, rtol=1e-6)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("name", ["categorical_crossentropy", "binary_crossentropy"])
def test_crossentropy_label_smoothing_equals_keras(name, from_logits):
    y_pred, y_true = random_pair(name, 7, 4)
    outputs = y_pred.logit() if from_logits else y_pred
    options = {"from_logits": from_logits, "label_smoothing": 0.2}
    expected = keras_values(name, outputs, y_true, **options)
    loss = losses.NAMES[name](**options)
    assert float(loss(outputs, y_true)) == pytest.approx(expected.mean(), rel=1e-6)
    np.testing.assert_allclose(loss(outputs, y_true, reduction="none"), expected, rtol=1e-6)


@pytest.mark.parametrize("from_logits", [False, True])
def test_crossentropy_label_smoothing_is_the_same_for_indices_and_one_hot(from_logits):
    y_pred, one_hot = random_pair("categorical_crossentropy", 7, 4)
    loss = losses.CategoricalCrossentropy(from_logits, label_smoothing=0.3)
    assert float(loss(y_pred, one_hot.argmax(-1))) == pytest.approx(float(loss(y_pred, one_hot)))


@pytest.mark.parametrize("delta", [0.3, 2.0])
def test_huber_equals_keras_with_delta(delta):
    y_pred, y_true = random_pair("huber", 7, 4)
    expected = keras_values("huber", y_pred, y_true, delta=delta).mean()
    assert float(losses.Huber(delta)(y_pred, y_true)) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="delta="):
        losses.Huber(-delta)


TORCH = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": F.huber_loss,
    "binary_crossentropy": F.binary_cross_entropy,
    "categorical_crossentropy": lambda p, y: F.nll_loss(p.log(), y.argmax(-1)),
    "sparse_categorical_crossentropy": lambda p, y: F.nll_loss(p.log(), y),
    "cosine_similarity": lambda p, y: F.cosine_embedding_loss(p, y, torch.ones(len(p))) - 1,
    "kl_divergence": lambda p, y: F.kl_div(p.log(), y, reduction="batchmean"),
    "poisson": lambda p, y: F.poisson_nll_loss(p, y, log_input=False),
}


@pytest.mark.parametrize("name", TORCH)
def test_loss_equals_torch(name):
    y_pred, y_true = random_pair(name, 7, 4)
    expected = float(TORCH[name](y_pred, y_true))
    assert float(losses.get(name)(y_pred, y_true)) == pytest.approx(expected, rel=1e-5)


def test_crossentropy_from_logits_is_torchs_to_the_bit():
    logits, target = torch.randn(7, 4), torch.randint(4, (7,))
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    assert torch.equal(loss(logits, target), F.cross_entropy(logits, target))
    loss = losses.BinaryCrossentropy(from_logits=True)
    targets = torch.rand(7, 4)
    assert torch.equal(loss(logits, targets), F.binary_cross_entropy_with_logits(logits, targets))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_crossentropy_of_many_short_rows_is_torchs(monkeypatch, soft, smoothing):
    """They are turned round, which torch does faster; not where a gradient is wanted."""
    monkeypatch.setattr(losses, "NUMBERS_AT_ONCE", 16)  # on every processor
    logits, target = torch.randn(1500, 10), torch.randint(10, (1500,))
    target[7] = -100 if not soft else 0
    target = F.one_hot(target, 10).float().lerp(torch.full((), 0.1), 0.2) if soft else target
    loss = losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    for reduction in ("mean", "none"):
        expected = F.cross_entropy(logits, target, reduction=reduction, label_smoothing=smoothing)
        torch.testing.assert_close(loss(logits, target, reduction), expected, rtol=1e-6, atol=1e-6)
    followed = logits.clone().requires_grad_()
    assert losses._short_rows(logits, target) and not losses._short_rows(followed, target)
    for other in (logits.double(), logits[:999], torch.randn(1500, 16), logits[0]):
        assert not losses._short_rows(other, target[: len(other)])
    assert not losses._short_rows(logits, target.to(torch.uint8))


class Doubled(losses.CategoricalCrossentropy):
    def __call__(self, y_pred, y_true, reduction="mean"):
        return 2 * super().__call__(y_pred, y_true, reduction)


class DoubledBinary(losses.BinaryCrossentropy):
    def __call__(self, y_pred, y_true, reduction="mean"):
        return 2 * super().__call__(y_pred, y_true, reduction)


@pytest.mark.parametrize(
    "loss, name, units, last",
    [
        (Doubled(), "sparse_categorical_crossentropy", 2, "softmax"),
        (Doubled(), "sparse_categorical_crossentropy", 2, None),
        (DoubledBinary(), "binary_crossentropy", 1, "sigmoid"),
        (DoubledBinary(), "binary_crossentropy", 1, None),
    ],
)
def test_a_crossentropy_with_a_formula_of_its_own_keeps_it(loss, name, units, last):
    x, y = torch.randn(8, 3), torch.arange(8) % 2
    model = dl.Sequential([dl.Dense(units, last, input_dim=3)])
    found = []
    for spec in (loss, name):
        model.compile("sgd", spec)
        found.append(model.evaluate(x, y, verbose=0))
    assert found[0] == pytest.approx(2 * found[1], rel=1e-5)


class Cooler(nn.Softmax):
    def forward(self, x):
        return super().forward(x / 5)


@pytest.mark.parametrize("network", ["layer", "activation", "torch"])
def test_a_last_softmax_with_a_formula_of_its_own_keeps_it(network):
    x, y = torch.randn(8, 3), torch.arange(8) % 2
    model = {
        "layer": lambda: dl.Sequential([dl.Dense(2, input_dim=3), Cooler(1)]),
        "activation": lambda: dl.Sequential([dl.Dense(2, Cooler(1), input_dim=3)]),
        "torch": lambda: dl.Model(nn.Sequential(nn.Linear(3, 2), Cooler(1))),
    }[network]()
    model.compile("sgd", "sparse_categorical_crossentropy")
    loss = model.evaluate(x, y, verbose=0)
    with torch.no_grad():
        assert loss == pytest.approx(float(F.nll_loss(model(x).log(), y)), rel=1e-5)


class Halved(dl.Sequential):
    def forward(self, x):
        return super().forward(x / 2)


def hooked(model, part):
    part.register_forward_hook(lambda module, x, y: (y * 3).softmax(1))
    return model


@pytest.mark.parametrize(
    "network", ["softmax", "dense", "whole", "nested", "subclass", "torch", "around", "before"]
)
def test_hooks_and_a_forward_of_one_s_own_see_what_the_last_softmax_gives(network):
    x, y = torch.randn(8, 3), torch.arange(8) % 2
    layers = dl.Sequential([dl.Dense(2, input_dim=3), dl.layers.Softmax()])
    dense = dl.Sequential([dl.Dense(2, "softmax", input_dim=3)])
    plain = nn.Sequential(nn.Linear(3, 2), nn.Softmax(1))
    wrapped = dl.Model(plain)
    model = {
        "softmax": lambda: hooked(layers, layers.layers[1]),
        "dense": lambda: hooked(dense, dense.layers[0]),
        "whole": lambda: hooked(dense, dense),
        "nested": lambda: dl.Sequential([hooked(dense, dense)]),
        "subclass": lambda: Halved([dl.Dense(2, "softmax", input_dim=3)]),
        "torch": lambda: dl.Model(hooked(plain, plain[1])),
        "around": lambda: hooked(wrapped, wrapped),
        "before": lambda: dl.Model(plain),
    }[network]()
    if network == "before":
        plain.register_forward_pre_hook(lambda module, inputs: (inputs[0] / 2,))
    model.compile("sgd", "sparse_categorical_crossentropy")
    with torch.no_grad():
        expected = F.nll_loss(model(x).log(), y)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(float(expected), rel=1e-5)


def test_a_hook_of_a_later_fit_sees_what_the_last_softmax_gives():
    x, y, seen = torch.randn(8, 3), torch.arange(8) % 2, []
    model = dl.Sequential([dl.Dense(2, "softmax", input_dim=3)])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(x, y, verbose=0)
    model.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs))
    model.fit(x, y, verbose=0)
    torch.testing.assert_close(seen[-1].sum(1), torch.ones(8))


def test_messages_name_the_crossentropy_that_was_given():
    model = dl.Sequential([dl.Dense(2, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="sparse_categorical_crossentropy expects whole class"):
        model.fit(torch.randn(4, 3), torch.tensor([0.5, 1, 0, 1]), verbose=0)


OF_ROWS = ("cosine_similarity", "categorical", "sparse")  # which need several numbers a row

# -- one contract for every loss -------------------------------------------------------------------


def every_form() -> list:
    """Each name, class and function, once, with the name that chooses its data."""
    forms = [pytest.param(losses.get(name), name, id=name) for name in losses.NAMES]
    snake = {factory: name for name, factory in reversed(losses.NAMES.items())}
    for name in CLASSES:
        factory = getattr(losses, name)
        forms.append(pytest.param(factory(), snake[factory], id=name))
    forms += [pytest.param(getattr(losses, name), name, id=f"{name}()") for name in FUNCTIONS]
    return forms


@pytest.mark.parametrize("shape", [(6, 4), (6, 3, 4), (6, 2, 3, 4)], ids=str)
@pytest.mark.parametrize(("loss", "name"), every_form())
def test_loss_mean_is_the_mean_of_the_samples(loss, name, shape):
    y_pred, y_true = random_pair(name, *shape)
    mean, values = loss(y_pred, y_true), loss(y_pred, y_true, reduction="none")
    assert mean.shape == () and values.shape == (6,)
    assert float(mean) == pytest.approx(float(values.mean()), rel=1e-9)
    one_by_one = [float(loss(p[None], y[None])) for p, y in zip(y_pred, y_true)]
    np.testing.assert_allclose(values, one_by_one, rtol=1e-9)


@pytest.mark.parametrize("name", [n for n in losses.NAMES if not n.startswith(OF_ROWS)])
def test_loss_of_a_vector_is_that_of_its_column(name):
    y_pred, y_true = random_pair(name, 6, 1)
    loss = losses.get(name)
    values = loss(y_pred[:, 0], y_true[:, 0], reduction="none")
    assert values.shape == (6,)
    assert torch.equal(values, loss(y_pred, y_true, reduction="none"))
    assert float(loss(y_pred[:, 0], y_true[:, 0])) == pytest.approx(float(values.mean()))


@pytest.mark.parametrize("reduction", ["sum", "Mean", None])
@pytest.mark.parametrize(("loss", "name"), every_form())
def test_loss_refuses_another_reduction(loss, name, reduction):
    with pytest.raises(ValueError, match=f"reduction={reduction!r} was given; expected 'mean'"):
        loss(*random_pair(name, 6, 4), reduction=reduction)


def test_loss_of_one_vector_has_no_number_a_sample():
    for loss in (losses.cosine_similarity, losses.categorical_hinge):
        with pytest.raises(ValueError, match=r"without a sample axis.*unsqueeze\(0\)"):
            loss(torch.rand(4), torch.rand(4), reduction="none")


def test_loss_without_arguments_says_so():
    with pytest.raises(
        TypeError, match=r"MeanSquaredError was given \['reduction'\]; .*write Mean"
    ):
        losses.MeanSquaredError(reduction="sum")
    with pytest.raises(TypeError, match=r"Hinge was given \[2\]; expected no arguments"):
        losses.Hinge(2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool, torch.uint8])
@pytest.mark.parametrize("name", ["hinge", "squared_hinge"])
def test_hinge_alone_takes_0_and_1_as_keras_does(name, dtype):
    y_pred, y_true = random_pair(name, 7, 4)
    zeros_and_ones = (y_true > 0).to(dtype)
    expected = keras_values(name, y_pred, zeros_and_ones.double())
    for loss in (losses.get(name), getattr(losses, name)):
        values = loss(y_pred, zeros_and_ones, reduction="none")
        np.testing.assert_allclose(values, expected, rtol=1e-6)
        assert torch.equal(values, loss(y_pred, y_true, reduction="none"))


def test_mape_of_tiny_targets_is_keras():
    y_true = torch.tensor([[0.0, 1e-9, -1e-9, 1e-6, -2.0]]).double()
    y_pred = torch.tensor([[1e-8, -1e-8, 2e-8, 2e-6, -1.0]]).double()
    expected = keras_values("mean_absolute_percentage_error", y_pred, y_true)
    value = losses.mean_absolute_percentage_error(y_pred, y_true, reduction="none")
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert value.item() == pytest.approx((10 + 11 + 21 + 100 + 50) / 5)


@pytest.mark.parametrize(("loss", "name"), every_form())
def test_loss_gradient_is_right(loss, name):
    y_pred, y_true = random_pair(name, 5, 3)
    assert torch.autograd.gradcheck(lambda p: loss(p, y_true), y_pred.requires_grad_())


def logit_losses() -> list:
    return [
        losses.CategoricalCrossentropy(from_logits=True),
        losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        losses.SparseCategoricalCrossentropy(from_logits=True),
        losses.BinaryCrossentropy(from_logits=True),
        losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1),
    ]


@pytest.mark.parametrize("loss", logit_losses(), ids=repr)
def test_crossentropy_is_finite_and_learns_at_extreme_logits(loss):
    # Right and wrong by 100: a clipped probability would have no gradient left.
    logits = torch.tensor([[100.0, -100.0], [-100.0, 100.0]], requires_grad=True)
    target = torch.tensor([0, 0]) if "Binary" not in type(loss).__name__ else (
        torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    )  # fmt: skip
    value = loss(logits, target)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(logits.grad).all()
    assert logits.grad[1].abs().min() > 0.2


@pytest.mark.parametrize("name", losses.NAMES)
def test_loss_is_finite_at_extreme_outputs(name):
    y_pred, y_true = random_pair(name, 6, 4)
    one = losses.get(name)
    extremes = (y_pred > y_pred.median()).double()  # probabilities of exactly 0 and 1
    if "entropy" not in name and name not in ("poisson", "kl_divergence", "kld"):
        extremes = 200 * extremes - 100
    extremes.requires_grad_()
    value = one(extremes, y_true)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(extremes.grad).all()


# -- what compile accepts --------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_get_makes_a_loss_of_its_class(name):
    factory = getattr(losses, name)
    assert isinstance(losses.get(factory), losses.Loss)
    assert isinstance(losses.get(factory()), losses.Loss)


def test_get_names_the_nearest_when_mistyped():
    with pytest.raises(ValueError, match=r"'categorical_crosentropy'.*'categorical_crossentropy'"):
        losses.get("categorical_crosentropy")


def test_get_refuses_what_cannot_be_called():
    with pytest.raises(TypeError, match="loss=3 was given"):
        losses.get(3)


class OwnLoss(losses.Loss):
    def __init__(self):
        self.scale = 2


class OwnModule(nn.Module):
    def __init__(self):
        self.scale = 2


@pytest.mark.parametrize("kind", [OwnLoss, OwnModule])
def test_get_refuses_what_its_base_has_not_set_up(kind):
    for spec in (kind, kind()):
        with pytest.raises(TypeError, match=rf"{kind.__name__}.__init__ to begin with super\(\)"):
            losses.get(spec)


class Counter(nn.Module):
    """Of torchmetrics' kind."""

    def update(self, y_pred, y_true):
        pass

    forward = compute = reset = update


@pytest.mark.parametrize(
    "kind", [Counter, dl.metrics.MeanSquaredError, keras.metrics.MeanSquaredError]
)
def test_get_refuses_a_metric(kind):
    for spec in (kind, kind()):
        with pytest.raises(TypeError, match=rf"counts over.*metrics=\[{kind.__name__}\(…"):
            losses.get(spec)


def test_get_makes_what_a_class_stands_for():
    y_pred, y_true = torch.tensor([[3.0]]), torch.tensor([[1.0]])

    class Difference(nn.Module):
        def forward(self, y_true, y_pred):
            return (y_pred - y_true).mean()

    assert float(losses.get(keras.losses.MeanSquaredError)(y_pred, y_true)) == 4
    assert float(losses.get(Difference)(y_pred, y_true)) == 2
    with pytest.raises(TypeError, match=r"the class Loss2 .* loss .* an object: Loss2\("):
        losses.get(type("Loss2", (), {"__init__": lambda self, scale: None}))


def test_get_calls_a_function_in_keras_order_when_its_names_say_so():
    def difference(y_true, y_pred):
        return (y_pred - 2 * y_true).mean()

    assert float(losses.get(difference)(torch.tensor([5.0]), torch.tensor([1.0]))) == 3


def test_get_makes_no_copy_of_a_torch_loss():
    given = nn.CrossEntropyLoss()
    assert losses.get(given) is given
    assert isinstance(losses.get(nn.MSELoss), nn.MSELoss)


@pytest.mark.parametrize("smoothing", [-0.1, 1, "much"])
def test_label_smoothing_must_be_a_share(smoothing):
    for loss in (losses.CategoricalCrossentropy, losses.BinaryCrossentropy):
        with pytest.raises(ValueError, match=f"label_smoothing={smoothing!r} was given"):
            loss(label_smoothing=smoothing)


# -- losses inside a model -------------------------------------------------------------------------


def test_loss_takes_the_classes_at_axis_1_for_pictures():
    dl.seed(0)
    x, y = torch.randn(6, 2, 5, 4), torch.randint(3, (6, 5, 4))
    model = dl.Sequential([dl.Conv2D(3, 1, activation="softmax", input_shape=(2, 5, 4))])
    expected = F.cross_entropy(model(x, logits=True), y).item()
    one_hot = F.one_hot(y, 3).movedim(-1, 1).float()
    for loss, target in (
        ("sparse_categorical_crossentropy", y),
        ("sparse_categorical_crossentropy", y[:, None]),
        ("categorical_crossentropy", one_hot),
    ):
        model.compile("sgd", loss, metrics=["accuracy"])
        result = model.evaluate(x, target, verbose=0)
        accuracy = float((model(x).argmax(1) == y).float().mean())
        assert result == [pytest.approx(expected, rel=1e-6), pytest.approx(accuracy)]
    plain = dl.Sequential([dl.Conv2D(3, 1, input_shape=(2, 5, 4))])
    plain.set_weights(model.get_weights())
    for loss in (nn.CrossEntropyLoss(), "sparse_categorical_crossentropy"):
        plain.compile("sgd", loss, metrics=["accuracy"])
        result = plain.evaluate(x, y, verbose=0)
        assert result == [pytest.approx(expected, rel=1e-6), pytest.approx(accuracy)]


def test_loss_takes_the_classes_last_for_sequences():
    dl.seed(0)
    x, y = torch.randn(6, 5, 2), torch.randint(3, (6, 5))
    model = dl.Sequential([dl.Dense(3, activation="softmax", input_shape=(5, 2))])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    expected = F.cross_entropy(model(x, logits=True).movedim(-1, 1), y).item()
    accuracy = float((model(x).argmax(-1) == y).float().mean())
    result = model.evaluate(x, y, verbose=0)
    assert result == [pytest.approx(expected, rel=1e-6), pytest.approx(accuracy)]


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_hinge_takes_labels_0_and_1_as_keras_does(loss):
    dl.seed(0)
    x, y = torch.randn(9, 3), torch.tensor([0, 1, 1, 0, 1, 0, 1, 1, 0])
    model = dl.Sequential([dl.Dense(1, activation="tanh", input_dim=3)])
    model.compile("sgd", loss)
    expected = np.asarray(keras.losses.get(loss)(y[:, None].float(), model(x).detach())).mean()
    assert model.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-6)
    assert model.evaluate(x, 2 * y - 1, verbose=0) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2])),
        nn.CrossEntropyLoss(ignore_index=1),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2]), ignore_index=2),
        nn.CrossEntropyLoss(label_smoothing=0.2),
    ],
    ids=["weight", "ignore_index", "both", "label_smoothing"],
)
def test_torch_loss_is_the_same_over_ragged_batches(loss):
    dl.seed(0)
    x, y = torch.randn(23, 4), torch.randint(3, (23,))
    model = dl.Model(nn.Linear(4, 3))
    model.compile("sgd", loss)
    whole = loss(model(x), y).item()
    assert model.evaluate(x, y, batch_size=5, verbose=0) == pytest.approx(whole, rel=1e-6)


def test_torch_loss_trains_on_when_a_batch_has_only_ignored_targets():
    # torch's mean over nothing is nan, its gradient 0: a hand-written loop trains on.
    dl.seed(0)
    x, y = torch.randn(8, 4), torch.tensor([0, 1, 2, 0, 1, 1, 1, 1])
    model = dl.Model(nn.Linear(4, 3))
    model.compile("sgd", nn.CrossEntropyLoss(ignore_index=1))
    expected = F.cross_entropy(model(x), y, ignore_index=1).item()
    history = model.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    assert history.history["loss"] == [pytest.approx(expected, rel=1e-6)]


def test_crossentropy_of_an_ignored_minus_100_is_torchs():
    dl.seed(0)
    x, y = torch.randn(8, 4), torch.tensor([0, 1, -100, 2, -100, 1, 0, -100])
    model = dl.Model(nn.Linear(4, 3))
    model.compile("sgd", nn.CrossEntropyLoss())
    whole = F.cross_entropy(model(x), y).item()
    assert model.evaluate(x, y, batch_size=3, verbose=0) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(
    "loss", ["mse", nn.MSELoss(), F.mse_loss, lambda p, y: ((p - y) ** 2).flatten(1).mean(1)]
)
def test_sample_weight_reaches_every_kind_of_loss(loss):
    dl.seed(0)
    x, y, w = torch.randn(7, 4), torch.randn(7, 2), torch.rand(7)
    model = dl.Model(nn.Linear(4, 2))
    model.compile("sgd", loss)
    expected = (((model(x) - y) ** 2).mean(1) * w).mean().item()
    result = model.evaluate(x, y, sample_weight=w, batch_size=3, verbose=0)
    assert result == pytest.approx(expected, rel=1e-6)


def test_sample_weight_is_refused_when_the_loss_gives_only_a_mean():
    model = dl.Model(nn.Linear(4, 2))
    mean = type("Mean", (losses.Loss,), {"__call__": lambda self, p, y: ((p - y) ** 2).mean()})
    for loss in (lambda p, y: ((p - y) ** 2).mean(), mean):
        model.compile("sgd", loss)
        with pytest.raises(ValueError, match=r"one number for a batch.*shape \(N,\)"):
            model.evaluate(
                torch.ones(7, 4), torch.ones(7, 2), sample_weight=torch.ones(7), verbose=0
            )


def test_crossentropy_is_torchs_when_the_first_ignored_target_comes_late_in_a_stream():
    dl.seed(0)
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    y[5:8] = -100
    model = dl.Model(nn.Linear(4, 3))
    model.compile("sgd", nn.CrossEntropyLoss())
    whole = F.cross_entropy(model(x), y).item()
    batches = [(x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)]
    assert model.evaluate(batches, verbose=0) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "log_cosh"])
def test_sample_weight_reaches_a_network_that_squeezes(loss):
    dl.seed(0)
    x, y, w = torch.randn(7, 4), torch.randn(7), torch.rand(7)
    model = dl.Model(nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)))
    model.compile("sgd", loss)
    expected = (losses.get(loss)(model(x), y, reduction="none") * w).mean().item()
    assert model.evaluate(x, y, sample_weight=w, batch_size=3, verbose=0) == pytest.approx(expected)
    model.fit(x, y, sample_weight=w, verbose=0)


CLASS_WEIGHTS = torch.tensor([1.0, 5.0, 0.2])
COUNTING = [
    nn.CrossEntropyLoss(weight=CLASS_WEIGHTS),
    nn.CrossEntropyLoss(ignore_index=1),
    nn.CrossEntropyLoss(weight=CLASS_WEIGHTS, ignore_index=2, label_smoothing=0.1),
    nn.CrossEntropyLoss(),  # whose ignored index is −100
    nn.NLLLoss(weight=CLASS_WEIGHTS, ignore_index=0),
]


def counting_task(loss, positions: bool) -> tuple:
    """A model of three classes, rows or sequences, and targets of which some are ignored."""
    dl.seed(0)
    ends = [nn.LogSoftmax(1)] if isinstance(loss, nn.NLLLoss) else []
    layer = nn.Conv1d(4, 3, 1) if positions else nn.Linear(4, 3)
    model = dl.Model(nn.Sequential(layer, *ends))
    model.compile(dl.optimizers.SGD(0.1), loss)
    x = torch.randn(23, 4, 5) if positions else torch.randn(23, 4)
    y = torch.randint(3, (23, 5) if positions else (23,))
    if loss.weight is None and loss.ignore_index == -100:
        y.flatten()[::4] = -100
    return model, x, y


@pytest.mark.parametrize("positions", [False, True], ids=["rows", "positions"])
@pytest.mark.parametrize("loss", COUNTING, ids=repr)
def test_sample_weight_of_ones_changes_nothing(loss, positions):
    model, x, y = counting_task(loss, positions)
    whole = loss(model(x), y).item()
    other, ones = counting_task(loss, positions)[0], torch.ones(23)
    for size in (4, 23):
        assert model.evaluate(x, y, size, 0) == pytest.approx(whole, rel=1e-5)
        assert model.evaluate(x, y, size, 0, sample_weight=ones) == pytest.approx(whole, rel=1e-5)
    model.fit(x, y, 4, 2, 0, shuffle=False)
    history = other.fit(x, y, 4, 2, 0, shuffle=False, sample_weight=ones)
    assert history.history["loss"] == pytest.approx(model.history.history["loss"], rel=1e-5)
    for one, two in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("positions", [False, True], ids=["rows", "positions"])
@pytest.mark.parametrize("loss", COUNTING, ids=repr)
def test_sample_weight_meets_class_weight_and_ignored_targets(loss, positions):
    model, x, y = counting_task(loss, positions)
    w = torch.linspace(0, 2, 23)
    alike = copy.copy(loss)
    alike.reduction = "none"
    each = alike(model(x), y).reshape(23, -1)
    counted = (y != loss.ignore_index).float()
    if loss.weight is not None:
        counted = counted * loss.weight[y]
    expected = ((each * w[:, None]).sum() / counted.sum()).item()
    for size in (1, 4, 23):
        result = model.evaluate(x, y, size, 0, sample_weight=w)
        assert result == pytest.approx(expected, rel=1e-5)


def test_weighted_loss_trains_on_when_a_batch_has_only_ignored_targets():
    x, y = torch.randn(8, 4), torch.tensor([0, 1, 2, 0, 1, 1, 1, 1])
    model = dl.Model(nn.Linear(4, 3))
    model.compile("sgd", nn.CrossEntropyLoss(ignore_index=1))
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0, sample_weight=torch.ones(8))
    assert all(p.isfinite().all() for p in model.parameters())


def test_sample_weight_of_ones_changes_nothing_for_a_sum_over_the_classes():
    model = dl.Model(nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(1)))
    model.compile("sgd", nn.KLDivLoss(reduction="batchmean"))
    x, y = torch.randn(6, 4), torch.rand(6, 3).softmax(1)
    plain = model.evaluate(x, y, verbose=0)
    ones = model.evaluate(x, y, verbose=0, sample_weight=torch.ones(6))
    assert ones == pytest.approx(plain, rel=1e-6)


def test_losses_say_what_kind_they_are():
    for loss in ("mse", "hinge", "binary_crossentropy", nn.L1Loss()):
        assert losses.is_elementwise(losses.get(loss)) is True
    for loss in ("categorical_crossentropy", nn.CrossEntropyLoss(), nn.NLLLoss()):
        assert losses.is_elementwise(losses.get(loss)) is False
        assert losses.is_index_loss(losses.get(loss)) is isinstance(loss, nn.Module)


def test_a_summed_loss_has_no_form_for_each_sample():
    with pytest.raises(ValueError, match=r"MSELoss\(reduction='sum'\).*expected"):
        losses.per_sample_form(nn.MSELoss(reduction="sum"))(torch.ones(2, 1), torch.ones(2, 1))


@pytest.mark.parametrize("name", ["call", "forward"])
def test_a_formula_under_another_library_s_name_is_refused(name):
    with pytest.raises(TypeError, match=rf"Mine.{name} was defined, .* expected __call__"):
        type("Mine", (losses.CategoricalCrossentropy,), {name: lambda self, *given: 0})
    with pytest.raises(TypeError, match="never calls"):
        type("Mine", (type("Mixin", (), {name: 0}), losses.CategoricalCrossentropy), {})
    both = {name: lambda self, *given: 1, "__call__": lambda self, *given, **options: 1}
    base = type("Base", (losses.CategoricalCrossentropy,), both)
    assert type("Mine", (base,), {name: lambda self, *given: 2})()(None, None) == 1


def test_a_loss_of_your_own_needs_no_function():
    class Squares(losses.Loss):
        def __call__(self, y_pred, y_true, reduction="mean"):
            return losses.mean_squared_error(y_pred, y_true, reduction)

    x, y = torch.randn(7, 3), torch.randn(7, 1)
    histories = []
    for loss in (Squares, Squares(), "mse"):
        dl.seed(0)
        model = dl.Sequential([dl.Dense(1)])
        model.compile("sgd", loss)
        weights = torch.arange(7.0)
        histories.append(model.fit(x, y, sample_weight=weights, verbose=0).history)
    assert histories[0] == histories[1] == histories[2]
    assert Squares().name == "Squares"
    with pytest.raises(NotImplementedError, match="Mine has neither a function nor a __call__"):
        type("Mine", (losses.Loss,), {})()(x, x)
    with pytest.raises(TypeError, match="Squares was given scale, but has no function"):
        Squares(scale=2.0)

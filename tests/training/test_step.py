"""One step: accumulation, clipping, constraints and schedules beside the loop by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import easydl as dl
from easydl.training import step

X = torch.linspace(-1, 1, 88).reshape(22, 4).sin()
Y = X.sum(1, keepdim=True) ** 2


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))


def trained(optimizer=None, loss="mse", batch_size=4, epochs=2, **options) -> dl.Model:
    model = dl.Model(network())
    model.compile(dl.optimizers.SGD(0.1) if optimizer is None else optimizer, loss, **options)
    model.fit(X, Y, batch_size, epochs, shuffle=False, verbose=0)
    return model


def by_hand(batch_size, epochs=2, change=lambda parameters: None, after=None) -> nn.Module:
    """The loop that a torch user writes, with ``change`` between backward and step."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for epoch in range(epochs):
        for rows in torch.arange(len(X)).split(batch_size):
            optimizer.zero_grad()
            F.mse_loss(net(X[rows]), Y[rows]).backward()
            change(list(net.parameters()))
            optimizer.step()
            if after is not None:
                after(optimizer, epoch)
    return net


def assert_same(model: dl.Model, net: nn.Module, tolerance: float = 1e-6) -> None:
    for ours, theirs in zip(model.parameters(), net.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("accumulate", [2, 3, 100])
def test_accumulate_is_one_batch_of_the_joint_size(accumulate):
    model = trained(accumulate=accumulate)
    assert_same(model, by_hand(4 * accumulate))
    assert model.history.params["steps"] == 6


CLASS_WEIGHTS = torch.tensor([1.0, 5.0, 0.2])


def sum_of_losses(y_pred, y_true):
    return F.cross_entropy(y_pred, y_true, reduction="none").sum()


@pytest.mark.parametrize("weighted", [False, True], ids=["", "sample_weight"])
@pytest.mark.parametrize("positions", [False, True], ids=["rows", "positions"])
@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),  # which ignores −100
        nn.CrossEntropyLoss(weight=CLASS_WEIGHTS),
        nn.CrossEntropyLoss(ignore_index=1),
        nn.CrossEntropyLoss(weight=CLASS_WEIGHTS, ignore_index=2),
        nn.CrossEntropyLoss(reduction="sum"),
        sum_of_losses,
        nn.CrossEntropyLoss(reduction="none"),
    ],
    ids=lambda loss: getattr(loss, "__name__", repr(loss)),
)
def test_accumulate_is_one_joint_batch_for_losses_that_count_targets(loss, positions, weighted):
    y = torch.arange(22 * 5 if positions else 22) * 5 % 3
    if getattr(loss, "weight", 0) is None and loss.ignore_index < 0:
        y[5:9] = y[0] = -100
    if getattr(loss, "ignore_index", 0) == 1:
        y[: len(y) // 5] = 1  # a whole batch
    y = y.reshape(22, 5) if positions else y
    x = X[:, :, None] + torch.linspace(0, 1, 5) if positions else X
    if getattr(loss, "reduction", "sum") == "sum" and weighted:
        pytest.skip("refused")
    models = []
    for size, accumulate in ((4, 3), (12, 1)):
        torch.manual_seed(0)
        model = dl.Model(nn.Conv1d(4, 3, 1) if positions else nn.Linear(4, 3))
        model.compile(dl.optimizers.SGD(0.1), loss, accumulate=accumulate)
        w = torch.linspace(0, 2, 22) if weighted else None
        model.fit(x, y, size, 2, 0, shuffle=False, sample_weight=w)
        models.append(model)
    assert_same(*models)


def test_accumulate_adds_up_sums_of_several_outputs():
    class Two(nn.Linear):
        def forward(self, x):
            return tuple(super().forward(x).split(1, 1))

    models = []
    for size, accumulate in ((4, 3), (12, 1)):
        torch.manual_seed(0)
        model = dl.Model(Two(4, 2))
        loss = [nn.MSELoss(reduction="sum"), nn.L1Loss(reduction="sum")]
        model.compile(dl.optimizers.SGD(0.01), loss, accumulate=accumulate)
        model.fit(X, (Y, -Y), size, 2, 0, shuffle=False)
        models.append(model)
    assert_same(*models)


class ByHand(nn.Module):
    """Keeps what its loss needs of each row, as a VAE written by hand does."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x):
        self.rows = x[:, :1].abs()
        return self.layer(x)


class Counting(nn.Module):
    """A loss with a state of its own, which nobody but training may move."""

    calls = 0

    def forward(self, y_pred, y_true):
        self.calls += 1
        return ((y_pred - y_true) ** 2).mean()


def test_a_loss_with_a_state_is_tried_once_before_training():
    model = dl.Model(network())
    loss = Counting()
    model.compile("sgd", loss)
    model.fit(X, Y, 4, verbose=0)
    assert model._compiled.heads[0].loss.calls == 1 + 6


def test_losses_that_only_fit_the_batch_are_means():
    net = ByHand()

    def weighted(y_pred, y_true):
        return (net.rows * (y_pred - y_true) ** 2).mean()

    def contrastive(y_pred, y_true):
        return F.cross_entropy(0 * y_pred @ y_true.T, torch.arange(len(y_pred)))

    for loss in (weighted, contrastive):
        model = dl.Model(net)
        model.compile("sgd", loss)
        model.fit(X, Y, 4, verbose=0)
        assert not model._compiled.heads[0].sums


class Annealed(dl.Model):
    def compute_loss(self, x, y, sample_weight=None):
        outputs = self(x)
        return ((outputs - y) ** 2).mean(), outputs, {"beta": 0.25, "rows": len(x)}


def test_a_part_of_ones_own_loss_may_be_a_plain_number():
    model = Annealed(network())
    model.compile("sgd")
    logs = model.fit(X, Y, 4, 2, verbose=0).history
    assert logs["beta"] == [0.25, 0.25]
    assert logs["rows"][0] == pytest.approx((5 * 4 * 4 + 2 * 2) / 22)


def test_train_on_batch_steps_at_once_whatever_is_accumulated():
    models = []
    for accumulate in (1, 3):
        model = dl.Model(network())
        model.compile("sgd", "mse", accumulate=accumulate)
        for _ in range(2):
            model.train_on_batch(X, Y)
        models.append(model)
    assert_same(*models)


def test_a_fit_that_was_interrupted_leaves_no_gradient_to_the_next():
    class Interrupts(dl.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model = dl.Model(network())
    model.compile(dl.optimizers.SGD(0.1), "mse", accumulate=3)
    with pytest.raises(KeyboardInterrupt):
        model.fit(-X, Y, 4, verbose=0, callbacks=[Interrupts()])
    model.fit(X, Y, 4, shuffle=False, verbose=0)
    assert_same(model, trained(epochs=1, accumulate=3))


def test_accumulate_clips_the_joint_gradient():
    def clip(parameters):
        torch.nn.utils.clip_grad_norm_(parameters, 0.1)

    assert_same(trained(accumulate=3, clip_norm=0.1), by_hand(12, change=clip))


def test_clip_norm_is_torchs():
    def clip(parameters):
        torch.nn.utils.clip_grad_norm_(parameters, 0.05)

    assert_same(trained(clip_norm=0.05), by_hand(4, change=clip))


def test_clip_value_is_torchs():
    def clip(parameters):
        torch.nn.utils.clip_grad_value_(parameters, 0.02)

    assert_same(trained(clip_value=0.02), by_hand(4, change=clip))


def test_clip_norm_and_clip_value_together_clip_the_norm_first():
    def clip(parameters):
        torch.nn.utils.clip_grad_norm_(parameters, 0.05)
        torch.nn.utils.clip_grad_value_(parameters, 0.02)

    assert_same(trained(clip_norm=0.05, clip_value=0.02), by_hand(4, change=clip))


def test_step_clears_gradients_left_by_the_user():
    model = dl.Model(network())
    model.compile(dl.optimizers.SGD(0.1), "mse")
    model(X).sum().backward()
    model.fit(X, Y, 4, 2, shuffle=False, verbose=0)
    assert_same(model, by_hand(4))


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"momentum": 0.9}])
def test_step_leaves_frozen_weights_alone_whatever_the_optimizer_remembers(options):
    model = dl.Model(network())
    model.compile(torch.optim.SGD(model.parameters(), 0.1, **options), "mse")
    model.fit(X, Y, verbose=0)
    before = model.network[0].weight.detach().clone()
    model.network[0].trainable = False
    model.fit(X, Y, epochs=3, verbose=0)
    assert torch.equal(model.network[0].weight, before)


def test_constraints_hold_after_every_step():
    seen = []

    class Watch(dl.Callback):
        def on_train_batch_end(self, batch, logs=None):
            weight = self.model.layers[0].weight
            seen.append(weight.norm(dim=1).max().item() <= 0.5 + 1e-6)

    dl.seed(0)
    constraint = dl.constraints.MaxNorm(0.5)
    model = dl.Sequential([dl.Dense(3, kernel_constraint=constraint, input_dim=4), dl.Dense(1)])
    model.compile(dl.optimizers.SGD(0.01), "mse")
    model.fit(X, Y, 4, 2, verbose=0, callbacks=[Watch()])
    assert len(seen) == 12 and all(seen)


# -- schedules -------------------------------------------------------------------------------------


def test_schedule_of_torch_steps_once_an_epoch():
    def halve(optimizer, epoch):
        optimizer.param_groups[0]["lr"] = 0.1 if not epoch else 0.05

    schedule = lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)  # noqa: E731
    model = trained(schedule=schedule)
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    scheduler = schedule(optimizer)
    for _ in range(2):
        for rows in torch.arange(22).split(4):
            optimizer.zero_grad()
            F.mse_loss(net(X[rows]), Y[rows]).backward()
            optimizer.step()
        scheduler.step()
    assert_same(model, net)
    assert model.learning_rate == 0.025


def test_schedule_of_easydl_steps_once_a_weight_update():
    schedule = dl.schedules.PolynomialDecay(0.1, decay_steps=8, end_learning_rate=0.0)
    model = trained(dl.optimizers.SGD(schedule), epochs=1)
    net = network()
    for number, rows in enumerate(torch.arange(22).split(4)):
        optimizer = torch.optim.SGD(net.parameters(), 0.1 * (1 - number / 8))
        optimizer.zero_grad()
        F.mse_loss(net(X[rows]), Y[rows]).backward()
        optimizer.step()
    assert_same(model, net)
    assert model.learning_rate == pytest.approx(0.1 * (1 - 6 / 8))
    joint = trained(dl.optimizers.SGD(schedule), epochs=1, accumulate=3)
    assert joint.learning_rate == pytest.approx(0.1 * (1 - 2 / 8))


def test_schedule_that_watches_a_loss_gets_the_validation_loss():
    watched = []

    class Plateau(torch.optim.lr_scheduler.ReduceLROnPlateau):
        def step(self, metrics, epoch=None):
            watched.append(metrics)
            super().step(metrics)

    model = dl.Model(network())
    model.compile("sgd", "mse", schedule=lambda optimizer: Plateau(optimizer, patience=0))
    first = model.fit(X, Y, epochs=2, validation_split=0.2, verbose=0).history
    second = model.fit(X, Y, epochs=2, verbose=0).history
    assert watched == first["val_loss"] + second["loss"]


# -- precision -------------------------------------------------------------------------------------


def test_precision_float16_trains_nearly_as_float32():
    def losses(precision):
        model = dl.Model(network())
        model.compile("sgd", "mse", precision=precision)
        # Small targets: else the first steps overflow and are skipped, as torch's scaler wants.
        return model.fit(X, Y / 50, 4, 4, shuffle=False, verbose=0).history["loss"]

    assert losses("float16") != losses("float32")
    assert losses("float16") == pytest.approx(losses("float32"), rel=0.02)


def test_a_pass_asks_once_who_multiplies(monkeypatch):
    asked, fast_products = [], step.fast_products
    monkeypatch.setattr(step, "fast_products", lambda *a: asked.append(a) or fast_products(*a))
    model = dl.Model(nn.Linear(4, 1))
    model.compile("sgd", "mse")
    model.evaluate(torch.ones(9, 4), torch.ones(9), batch_size=2, verbose=0)
    assert len(asked) == 1 and asked[0] == (model, 2)
    x = torch.ones(9, 4)
    model.fit(x, torch.ones(9), epochs=2, verbose=0, validation_data=(x, torch.ones(9)))
    assert len(asked) == 3

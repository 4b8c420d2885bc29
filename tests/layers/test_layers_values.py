"""Numbers worked out another way: by hand, by loops, by formulas of the slides and papers."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from easydl import layers as dl
from easydl.initializers import fans
from easydl.layers.base import build_chain, check_chain, keep_activities, output_shape, plain
from easydl.models import Input, Model, Sequential


def count(layer):
    return sum(weight.numel() for weight in layer.parameters())


# -- convolution and pooling ----------------------------------------------------------------------


def test_conv2d_gives_the_convolution_by_hand():
    picture = [[1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 0], [0, 1, 1, 0, 0]]
    layer = dl.Conv2D(1, 3, use_bias=False)
    layer.build((None, 1, 5, 5))
    layer.weight.data = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]]).view(1, 1, 3, 3)
    expected = [[4.0, 3, 4], [2, 4, 3], [2, 3, 4]]
    assert layer(torch.tensor(picture).float().view(1, 1, 5, 5)).squeeze().tolist() == expected


@pytest.mark.parametrize(("size", "step"), [(3, 2), (2, 2), (4, 3), (5, 1), (2, 3)])
@pytest.mark.parametrize("kind", ["Average", "Max"])
def test_same_pooling_sees_only_real_entries(kind, size, step):
    x = torch.randn(2, 3, 7, 8)
    layer = getattr(dl, f"{kind}Pooling2D")(size, step, "same")
    expected = torch.empty(2, 3, -(-7 // step), -(-8 // step))
    starts = []
    for n, outputs in zip((7, 8), expected.shape[2:]):
        before = max((outputs - 1) * step + size - n, 0) // 2
        starts.append([(i * step - before, i * step - before + size) for i in range(outputs)])
    for (i, (top, bottom)), (j, (left, right)) in itertools.product(*map(enumerate, starts)):
        window = x[:, :, max(top, 0) : bottom, max(left, 0) : right].flatten(2)
        expected[:, :, i, j] = window.mean(2) if kind == "Average" else window.amax(2)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("stride", [1, 2])
def test_locally_connected_with_one_kernel_everywhere_is_a_convolution(padding, stride):
    x = torch.randn(2, 3, 8, 7)
    local, conv = dl.LocallyConnected2D(4, 3, stride, padding), dl.Conv2D(4, 3, stride, padding)
    expected = conv(x)
    local(x)
    with torch.no_grad():
        local.weight.copy_(conv.weight.expand_as(local.weight))
    torch.testing.assert_close(local(x), expected)


def test_locally_connected_1d_gives_the_sum_over_each_window():
    layer, x = dl.LocallyConnected1D(2, 3, 2), torch.randn(4, 5, 9)
    y = layer(x)
    for position, f in itertools.product(range(4), range(2)):
        window = x[:, :, 2 * position : 2 * position + 3]
        expected = (window * layer.weight[position, f]).sum((1, 2)) + layer.bias[f, position]
        torch.testing.assert_close(y[:, f, position], expected)


def test_locally_connected_has_the_four_million_weights_of_the_slides():
    layer = dl.LocallyConnected2D(1, 10, padding="same", kernel_initializer=0.0, use_bias=False)
    layer.build((None, 1, 200, 200))
    assert count(layer) == 40_000 * 100


@pytest.mark.parametrize("make", [lambda: dl.LocallyConnected2D(8, 3), lambda: dl.Conv2D(8, 3)])
def test_every_position_starts_within_the_bounds_of_a_convolution(make):
    layer = make()
    layer.build((None, 4, 12, 12))
    limit = math.sqrt(6 / (4 * 9 + 8 * 9))
    assert limit * 0.97 < layer.weight.abs().max() <= limit
    assert layer.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.1)


def test_depthwise_kernel_starts_with_the_fans_of_keras():
    layer = dl.DepthwiseConv2D(5, depth_multiplier=8, depthwise_initializer="he_uniform")
    layer.build((None, 16, 9, 9))
    limit = math.sqrt(6 / (16 * 25))  # fan_in is all channels times the kernel
    assert limit * 0.97 < layer.weight.abs().max() <= limit


# -- recurrent ------------------------------------------------------------------------------------


def test_simple_rnn_computes_the_recurrence_step_by_step():
    layer, x = dl.SimpleRNN(4, return_sequences=True), torch.randn(2, 5, 3)
    steps = layer(x)
    h = torch.zeros(2, 4)
    for t in range(5):
        h = torch.tanh(x[:, t] @ layer.weight_ih_l0.T + layer.bias_ih_l0 + h @ layer.weight_hh_l0.T)
        torch.testing.assert_close(steps[:, t], h)


def test_lstm_starts_as_in_keras():
    layer = dl.LSTM(64)
    layer.build((None, None, 32))
    limit = math.sqrt(6 / (32 + 4 * 64))  # the whole kernel (32, 256), not one gate
    assert limit * 0.99 < layer.weight_ih_l0.abs().max() <= limit
    torch.testing.assert_close(layer.weight_hh_l0.T @ layer.weight_hh_l0, torch.eye(64))
    assert layer.bias_ih_l0.view(4, 64).mean(1).tolist() == [0, 1, 0, 0]  # i, f, c, o
    assert not layer.bias_hh_l0.requires_grad and layer.bias_hh_l0.abs().sum() == 0
    assert "bias_hh_l0" not in dict(layer.named_parameters())


def test_lstm_second_bias_stays_zero_while_training_and_in_torch():
    layer = dl.LSTM(3)
    layer.build((None, 5, 2))
    module = layer.to_torch()
    for net in (layer, module):
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        net(torch.ones(2, 5, 2)).sum().backward()
        optimizer.step()
    assert layer.bias_hh_l0.abs().sum() == 0
    torch.testing.assert_close(module.state_dict()["rnn.bias_hh_l0"], torch.zeros(12))
    torch.testing.assert_close(module.state_dict()["rnn.bias_ih_l0"], layer.bias_ih_l0.data)


def test_unit_forget_bias_can_be_left_out():
    layer = dl.LSTM(3, unit_forget_bias=False, bias_initializer=0.5)
    layer.build((None, 5, 2))
    assert (layer.bias_ih_l0 == 0.5).all()


def test_recurrent_dropout_on_inputs_drops_a_feature_at_every_step():
    seen = []
    layer = dl.GRU(2, dropout=0.5)
    layer.build((None, None, 50))
    layer.input_dropout.register_forward_hook(lambda module, inputs, y: seen.append(y))
    layer(torch.ones(4, 6, 50))
    features = seen[0]  # (N, F, T)
    assert features.shape == (4, 50, 6)
    assert (features == features[:, :, :1]).all()
    assert set(features.unique().tolist()) == {0.0, 2.0}


def test_load_state_dict_of_torch_keeps_both_biases():
    torch_lstm, layer = nn.LSTM(3, 4, batch_first=True), dl.LSTM(4, return_sequences=True)
    layer.build((None, None, 3))
    layer.load_state_dict(torch_lstm.state_dict())
    x = torch.randn(2, 5, 3)
    assert torch.equal(layer(x), torch_lstm(x)[0])


# -- noise ----------------------------------------------------------------------------------------


def test_dropout_drops_the_rate_and_keeps_the_mean():
    torch.manual_seed(0)
    y = dl.Dropout(0.3)(torch.ones(100_000))
    assert (y == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert y.mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("layer", "shape", "kept"),
    [
        (dl.SpatialDropout1D(0.5), (50, 20, 7), (2,)),
        (dl.SpatialDropout1D(0.5, axis=-1), (50, 7, 20), (1,)),
        (dl.SpatialDropout2D(0.5), (50, 20, 3, 4), (2, 3)),
        (dl.SpatialDropout3D(0.5), (50, 20, 3, 4, 2), (2, 3, 4)),
    ],
)
def test_spatial_dropout_drops_whole_channels(layer, shape, kept):
    torch.manual_seed(0)
    y = layer(torch.ones(shape))
    assert torch.equal(y.amin(kept), y.amax(kept))
    assert (y == 0).float().mean() == pytest.approx(0.5, abs=0.06)


def test_gaussian_noise_has_its_standard_deviation_only_while_training():
    torch.manual_seed(0)
    layer, x = dl.GaussianNoise(0.3), torch.zeros(100_000)
    assert layer(x).std() == pytest.approx(0.3, rel=0.02)
    assert torch.equal(layer.eval()(x), x)


# -- merging --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("merge", "expected"),
    [
        ("add", lambda a, b: a + b),
        ("multiply", lambda a, b: a * b),
        ("average", lambda a, b: (a + b) / 2),
        ("max", torch.maximum),
        ("concat", lambda a, b: torch.cat([a, b], -1)),
    ],
)
def test_branches_merge_what_their_layers_give(merge, expected):
    one, two, x = dl.Dense(3), nn.Linear(4, 3), torch.randn(5, 4)
    y = dl.Branches([one, [two]], merge)(x)
    torch.testing.assert_close(y, expected(one(x), two(x)))


def test_branches_join_pictures_along_the_channels():
    x = torch.randn(2, 3, 5, 5)
    y = dl.Branches([dl.Conv2D(2, 1), []])(x)
    assert y.shape == (2, 5, 5, 5) and torch.equal(y[:, 2:], x)


def test_residual_adds_the_shortcut():
    main, past, x = dl.Dense(3), dl.Dense(3), torch.randn(5, 4)
    torch.testing.assert_close(dl.Residual(main, past)(x), main(x) + past(x))
    inner = dl.Dense(4)
    torch.testing.assert_close(dl.Residual([inner, nn.ReLU()])(x), inner(x).relu() + x)


def test_multiply_repeats_a_size_of_one():
    gate, x = torch.rand(2, 3, 1, 1), torch.randn(2, 3, 4, 4)
    assert torch.equal(dl.Multiply()([gate, x]), gate * x)


def test_containers_build_their_layers_in_order():
    torch.manual_seed(0)
    branches = dl.Branches([dl.Dense(3), dl.Dense(2)])
    branches.build((None, 4))
    torch.manual_seed(0)
    for branch in branches.branches:
        again = dl.Dense(branch.out_features)
        again.build((None, 4))
        assert torch.equal(again.weight, branch.weight)


# -- what layers know of shapes -------------------------------------------------------------------


def test_output_shape_leaves_open_axes_open_only_where_they_matter():
    assert output_shape(dl.LSTM(4), (None, None, 3)) == (None, 4)
    assert output_shape(dl.LSTM(4, return_sequences=True), (None, None, 3)) == (None, None, 4)
    assert output_shape(dl.Conv2D(4, 3), (None, 3, None, 10)) == (None, 4, None, 8)


def test_output_shape_keeps_modes_and_running_averages():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout())
    net[1].eval()
    before = net[0].running_mean.clone()
    output_shape(net, (None, 3))
    assert [net.training, net[0].training, net[1].training] == [True, True, False]
    assert torch.equal(net[0].running_mean, before) and net[0].num_batches_tracked == 0


def test_output_shape_reads_words_for_an_embedding_and_lists_for_several_inputs():
    assert output_shape(nn.Sequential(dl.Embedding(9, 2)), (None, 5)) == (None, 5, 2)
    assert output_shape(dl.Concatenate(), [(None, 2), (None, 3)]) == (None, 5)


def test_output_shape_builds_nothing_on_guessed_sizes():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = dl.Dense(3)

        def forward(self, x):
            return self.dense(x.flatten(1))

    with pytest.raises(ValueError, match="open input shape"):
        output_shape(Net(), (None, 1, None, None))


def test_chain_of_layers_is_built_from_one_shape():
    chain = [dl.Conv2D(4, 3), dl.MaxPooling2D(), dl.Flatten(), dl.Dense(5)]
    assert build_chain(chain, (None, 1, 12, 12)) == (None, 5)
    assert chain[-1].in_features == 4 * 5 * 5


@pytest.mark.parametrize(
    "chain",
    [
        [dl.Embedding(9, 4), dl.Conv1D(3, 2)],
        [dl.LSTM(4, return_sequences=True), dl.Dropout(0.1), dl.MaxPooling1D()],
        [dl.LSTM(4, return_sequences=True), nn.ReLU(), dl.BatchNormalization()],
        [dl.Conv1D(4, 3), dl.BatchNormalization(), dl.LSTM(4)],
        [dl.TimeDistributed(dl.Dense(3)), dl.SpatialDropout1D(0.1)],
        [Sequential([dl.Embedding(9, 4), dl.Dropout(0.1)]), dl.Conv1D(3, 2)],
        [nn.Sequential(dl.LSTM(4, return_sequences=True)), nn.Dropout(), dl.BatchNormalization()],
        [dl.LSTM(4, return_sequences=True), Sequential([dl.Dropout(0.1), dl.Conv1D(3, 2)])],
        [dl.LSTM(4, return_sequences=True), dl.Residual([dl.Conv1D(4, 1)])],
        [dl.Branches([[dl.Conv1D(3, 1)], [dl.Conv1D(2, 1)]], axis=1), dl.GRU(3)],
        [dl.Conv1D(4, 3), dl.Dense(3)],
    ],
)
def test_chain_that_mixes_the_two_layouts_of_sequences_is_refused(chain):
    with pytest.raises(ValueError, match=r"reads \(N.*gives \(N.*Permute\(\(2, 1\)\)"):
        check_chain(chain)


@pytest.mark.parametrize(
    "chain",
    [
        [dl.Embedding(9, 4), dl.Permute((2, 1)), dl.Conv1D(3, 2)],
        [dl.LSTM(4, return_sequences=True), dl.BatchNormalization(axis=-1), dl.LSTM(4)],
        [dl.Embedding(9, 4), dl.Flatten(), dl.Dense(3), dl.BatchNormalization()],
        [dl.LSTM(4), dl.BatchNormalization()],
        [dl.Conv1D(4, 3), dl.BatchNormalization(), dl.MaxPooling1D(), dl.Flatten()],
        [dl.Embedding(9, 4), dl.Lambda(lambda x: x.transpose(1, 2)), dl.Conv1D(3, 2)],
        [Sequential([dl.Conv1D(4, 3)]), Sequential([]), dl.BatchNormalization()],
        [dl.Residual([dl.Dense(4), dl.ReLU()]), dl.BatchNormalization()],
    ],
)
def test_chain_of_one_layout_is_accepted(chain):
    check_chain(chain)


@pytest.mark.parametrize(
    ("chain", "shape", "way_out"),
    [
        ([dl.Dense(8), dl.BatchNormalization()], (10, 4), "axis=-1 in BatchNormalization"),
        ([dl.Dense(8), dl.Conv1D(3, 2)], (10, 4), "Permute"),
        ([dl.BatchNormalization(name="bn"), dl.LSTM(3)], (10, 4), r"axis=-1 in bn"),
        ([dl.Conv1D(3, 2), dl.LayerNormalization()], (4, 10), "axis=1 in LayerNormalization"),
        ([dl.Conv1D(3, 2), dl.Dense(3)], (4, 10), r"Flatten\(\)"),
        ([Sequential([dl.Dense(8)]), dl.GroupNormalization(2)], (10, 4), "axis=-1"),
        ([Sequential([dl.Dropout(0.1), dl.Dense(8)]), Sequential([dl.Conv1D(3, 2)])], (10, 4), "P"),
        ([dl.Reshape((10, 4)), dl.Dense(8), dl.BatchNormalization()], (40,), "axis=-1"),
    ],
)
def test_layout_that_shows_once_the_rank_is_known_is_checked_too(chain, shape, way_out):
    other = copy.deepcopy(chain)
    with pytest.raises(ValueError, match=f"reads .* gives .*{way_out}") as error:
        Sequential(chain).build(shape)
    assert len(str(error.value)) <= 600
    with pytest.raises(ValueError, match=f"reads .* gives .*{way_out}"):
        build_chain(nn.Sequential(*other), (None, *shape))


@pytest.mark.parametrize(
    ("chain", "shape"),
    [
        ([dl.Dense(8), dl.BatchNormalization()], (4,)),
        ([dl.Dense(8), dl.BatchNormalization(axis=-1), dl.LSTM(3)], (10, 4)),
        ([dl.Embedding(9, 4), dl.BatchNormalization()], ()),
        ([dl.Dense(8), dl.BatchNormalization()], (3, 9, 4)),
        ([dl.Conv1D(3, 2), dl.LayerNormalization(axis=1)], (4, 10)),
        ([dl.Conv2D(3, 2), dl.LayerNormalization(), dl.Dense(2)], (4, 10, 10)),
        ([dl.Conv1D(3, 2), dl.Permute((2, 1)), dl.Dense(3), dl.LSTM(2)], (4, 10)),
    ],
)
def test_layout_is_accepted_where_the_rank_leaves_no_doubt(chain, shape):
    Sequential(chain).build(shape)


# -- channels last ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [dl.Conv2D(8, 3)],
        lambda: [dl.DepthwiseConv2D(3)],
        lambda: [dl.SeparableConv2D(8, 3)],
        lambda: [dl.MaxPooling2D()],
        lambda: [dl.AveragePooling2D()],
        lambda: [dl.GlobalAveragePooling2D()],
        lambda: [dl.BatchNormalization()],
        lambda: [dl.ZeroPadding2D(1), dl.Conv2D(8, 3)],
        lambda: [dl.GaussianNoise(0.1), nn.ReLU(), dl.Conv2D(8, 3)],
        lambda: [Sequential([dl.Conv2D(8, 3)]), dl.Flatten()],
        lambda: [dl.Residual([dl.Conv2D(32, 3, padding="same")])],
        lambda: [dl.Dense(8), dl.Conv2D(8, 3)],
    ],
)
@pytest.mark.parametrize("last", [1, 3, 4])
def test_pictures_with_the_channels_last_are_refused_before_the_first_step(layers, last):
    model, x = Sequential([*layers(), dl.Flatten(), dl.Dense(3)]), torch.rand(20, 32, 24, last)
    model.compile("sgd", "sparse_categorical_crossentropy")
    expected = rf"reads \(N, C.*\(32, 24, {last}\).*np\.moveaxis\(x, -1, 1\).*\({last}, 32, 24\)"
    with pytest.raises(ValueError, match=expected) as error:
        model.fit(x, torch.arange(20) % 3, verbose=0)
    assert len(str(error.value)) <= 600
    with pytest.raises(ValueError, match=expected):
        Sequential([Input((32, 24, last)), *layers()])


def test_volumes_with_the_channels_last_are_refused():
    with pytest.raises(ValueError, match=r"np\.moveaxis.*\(1, 16, 16, 16\)"):
        Sequential([dl.Conv3D(2, 3, padding="same", input_shape=(16, 16, 16, 1))])


@pytest.mark.parametrize(
    "shape", [(3, 32, 32), (1, 28, 28), (3, 32, 3), (1, 28, 1), (2, 40, 3), (16, 4, 4), (9, 9, 5)]
)
def test_pictures_that_may_be_channels_first_are_taken(shape):
    Sequential([dl.Conv2D(4, 1, input_shape=shape)])


def test_feature_maps_may_have_any_shape_inside():
    block = Sequential([dl.Conv2D(8, 3, padding="same"), dl.BatchNormalization()])
    model = Sequential([dl.Conv2D(64, 1, input_shape=(1, 5, 3)), block, dl.MaxPooling2D()])
    assert model.output_shape == (None, 8, 2, 1)
    Sequential([dl.Reshape((64, 5, 3), input_shape=(960,)), dl.Conv2D(8, 3)])


def test_channels_last_have_two_ways_past():
    x, y = torch.rand(8, 16, 16, 3), torch.arange(8) % 3
    past = Sequential([nn.Identity(), dl.Conv2D(2, 3), dl.Flatten(), dl.Dense(3)])
    loose = Sequential([dl.Conv2D(2, 3), dl.Flatten(), dl.Dense(3)])
    for model, strict in [(past, True), (loose, False)]:
        model.compile("sgd", "sparse_categorical_crossentropy", strict=strict)
        model.fit(x, y, verbose=0)


def test_average_pooling_of_ones_own_class_pads_like_its_parent():
    class Mine(dl.AveragePooling2D):
        pass

    x = torch.rand(1, 1, 3, 3)
    assert torch.equal(Mine(2, padding="same")(x), dl.AveragePooling2D(2, padding="same")(x))


# -- activations, penalties, plain modules --------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        (dl.Dense(3, "softmax"), (2, 4), -1),
        (dl.Dense(3, "softmax"), (2, 5, 4), -1),
        (dl.Conv2D(3, 1, activation="softmax"), (2, 4, 5, 5), 1),
        (dl.Conv1D(3, 1, activation=nn.Softmax()), (2, 4, 5), 1),
        (dl.Activation("softmax"), (2, 4, 5, 5), 1),
        (dl.Activation(nn.Softmax(dim=2)), (2, 4, 5, 5), 2),
        (dl.Activation("log_softmax"), (2, 4), -1),
        (dl.Softmax(axis=3), (2, 4, 5, 5), 3),
    ],
)
def test_softmax_acts_over_the_classes(layer, shape, axis):
    y = layer(torch.randn(shape))
    y = y.exp() if isinstance(layer.activation, nn.LogSoftmax) else y
    torch.testing.assert_close(y.sum(axis), torch.ones_like(y.sum(axis)))


def test_logits_leave_the_activation_out():
    layer, x = dl.Dense(3, "sigmoid"), torch.randn(2, 4)
    torch.testing.assert_close(layer(x, logits=True).sigmoid(), layer(x))
    activation = dl.Activation("sigmoid")
    assert torch.equal(activation(x, logits=True), x)


@pytest.mark.parametrize("logits", [False, True])
def test_activity_penalty_is_that_of_the_activated_output_per_sample(logits):
    layer, x = dl.Dense(3, "relu", activity_regularizer="l2"), torch.randn(5, 4)
    keep_activities([layer], 0.0)
    layer(x, logits=logits)
    penalty = layer.activity_penalty
    torch.testing.assert_close(penalty, 0.01 * layer(x).square().sum() / 5)
    torch.testing.assert_close(layer.activity_penalty, 2 * penalty)  # it was used twice


def test_activity_is_kept_only_while_a_loss_is_computed():
    layer = dl.Dense(3, activity_regularizer="l2")
    layer(torch.randn(5, 4))
    assert layer.activity_penalty is None
    copy.deepcopy(layer)


def test_activity_penalty_of_a_layer_used_twice_is_the_sum_of_both():
    shared = dl.Dense(4, activity_regularizer="l1", input_shape=(4,))
    model = Sequential([shared, nn.Tanh(), shared])
    model.compile("sgd", "mse")
    x = torch.randn(6, 4)
    first = shared(x)
    loss = (shared(first.tanh()) ** 2).mean()
    both = first.abs().sum() + shared(first.tanh()).abs().sum()
    expected = (loss + 0.01 * both / 6).item()
    model(x)  # this pass is nobody's loss
    assert model.evaluate(x, torch.zeros(6, 4), verbose=0) == pytest.approx(expected, rel=1e-5)
    assert model.train_on_batch(x, torch.zeros(6, 4)) == pytest.approx(expected, rel=1e-5)
    model.fit(x, torch.zeros(6, 4), verbose=0)
    model(x)
    copy.deepcopy(model)


def test_activity_penalty_is_there_for_a_loss_of_ones_own():
    class Sparse(Model):
        def compute_loss(self, x, y, sample_weight=None):
            outputs = self(x)
            return (outputs - x).square().mean() + self.penalty(), outputs

    layer = dl.Dense(4, activity_regularizer="l1", input_shape=(4,))
    model, x = Sparse(Sequential([layer])), torch.randn(6, 4)
    model.compile("sgd")
    outputs = layer(x)
    expected = ((outputs - x).square().mean() + 0.01 * outputs.abs().sum() / 6).item()
    assert model.train_on_batch(x) == pytest.approx(expected, rel=1e-5)
    copy.deepcopy(model)


def test_penalties_and_constraints_name_the_parameters():
    layer = dl.LSTM(3, recurrent_regularizer="l2", bias_constraint="non_neg", bidirectional=True)
    assert [name for name, _ in layer.penalties] == ["weight_hh_l0", "weight_hh_l0_reverse"]
    assert [name for name, _ in layer.constraints] == ["bias_ih_l0", "bias_ih_l0_reverse"]
    dense = dl.Dense(3, use_bias=False, kernel_regularizer="l1", bias_regularizer="l1")
    assert [name for name, _ in dense.penalties] == ["weight"]


def test_arguments_stay_on_the_layer():
    layer = dl.Dense(3, "relu", name="head", input_dim=4, trainable=False)
    assert layer.config["units"] == 3 and layer.config["activation"] == "relu"
    assert (layer.name, layer.given_input_shape, layer.trainable) == ("head", (4,), False)
    assert dl.Dense(3).trainable is True
    assert set(dl.Cropping2D(1).config) == {"cropping", "data_format", "name", "input_shape"}


def test_plain_turns_easydl_inside_a_users_module_into_torch():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(dl.Dense(3, "relu"), nn.Linear(3, 2))

        def forward(self, x):
            return self.body(x)

    net, x = Net(), torch.randn(2, 4)
    expected = net(x)
    module = plain(net)
    assert torch.equal(module(x), expected)
    assert not any(type(p).__module__.startswith("easydl") for p in module.modules())


def test_plain_keeps_a_frozen_batch_norm_in_eval_mode():
    net = dl.Branches([[dl.BatchNormalization(), dl.Dropout(0.5)]])
    net(torch.randn(4, 3))
    net.branches[0][0].eval()
    module = plain(net)
    modes = {type(part).__name__: part.training for part in module.modules()}
    assert not modes["BatchNorm1d"] and modes["Dropout"]


def test_lambda_that_torch_cannot_read_is_refused_by_to_torch():
    for function in (lambda x: x if x.sum() > 0 else -x, lambda x: x + torch.rand(3)):
        layer = dl.Lambda(function)
        layer(torch.ones(2, 3))
        with pytest.raises(TypeError, match=r"torch\.fx cannot read"):
            layer.to_torch()


def test_lambda_with_random_numbers_per_entry_converts():
    layer = dl.Lambda(lambda x: x + torch.rand_like(x))
    layer(torch.ones(2, 3))
    assert layer.to_torch()(torch.ones(4, 3)).shape == (4, 3)


def test_to_torch_of_same_padding_works_on_other_sizes():
    conv = dl.Conv2D(2, 3, 2, "same")
    conv(torch.zeros(1, 1, 8, 8))
    module = conv.to_torch()
    for size in (5, 6, 11):
        x = torch.randn(1, 1, size, size + 1)
        assert torch.equal(module(x), conv(x))


# -- user-written layers --------------------------------------------------------------------------


def test_user_layer_builds_once_whoever_asks_and_follows_the_device_and_dtype():
    class Scale(dl.Layer):
        def build(self, input_shape):
            self.add_weight((input_shape[-1],), 2.0, name="scale", constraint="non_neg")
            self.add_weight((), "zeros", name="shift", trainable=False)

        def forward(self, x):
            return x * self.scale + self.shift

    layer = Scale(name="scale").double()
    for _ in range(2):
        assert build_chain([layer], (None, 3)) == (None, 3)
        layer.build((None, 3))
    x = torch.ones(2, 3, dtype=torch.float64)
    assert torch.equal(layer(x), 2 * x) and layer.scale.dtype == torch.float64
    assert [name for name, w in layer.named_parameters() if w.requires_grad] == ["scale"]
    assert torch.equal(layer.to_torch()(x), 2 * x)
    with pytest.raises(ValueError, match="already"):
        layer.add_weight((), name="scale")


def test_user_layer_of_several_inputs_sees_their_shapes_and_a_subclass_adds_its_own_weights():
    class Gate(dl.Layer):
        def build(self, input_shape):
            self.add_weight((input_shape[0][-1],), "ones", name="scale")

        def call(self, x):
            return x[0] * self.scale + x[1]

    class Shifted(Gate):
        def build(self, input_shape):
            super().build(input_shape)
            self.add_weight((input_shape[1][-1],), "zeros", name="shift")

    layer = Shifted()
    assert layer([torch.ones(2, 3), torch.ones(2, 3)]).shape == (2, 3)
    assert [name for name, _ in layer.named_parameters()] == ["scale", "shift"]


def test_user_layer_without_call_says_what_to_write():
    with pytest.raises(NotImplementedError, match="def call"):
        dl.Layer()(torch.zeros(2))


# -- the rest -------------------------------------------------------------------------------------


def test_fans_follow_keras():
    assert fans((30, 20)) == (20, 30)
    assert fans((8, 4, 3, 3)) == (36, 72)
    assert fans((7,)) == (7, 7)


def test_prelu_shares_along_axes():
    layer = dl.PReLU("ones", shared_axes=(2, 3))
    layer.build((None, 3, None, None))
    assert layer.weight.shape == (3,) and isinstance(layer.to_torch(), nn.PReLU)
    full = dl.PReLU(0.5)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(full(x), F.leaky_relu(x, 0.5)) and full.weight.shape == (3, 4, 4)


def test_time_distributed_is_the_layer_at_each_step():
    inner, x = dl.Conv2D(2, 3), torch.randn(2, 5, 1, 6, 6)
    y = dl.TimeDistributed(inner)(x)
    torch.testing.assert_close(y, torch.stack([inner(x[:, t]) for t in range(5)], 1))

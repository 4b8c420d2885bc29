"""The pictures: what they show, not how they look (which was looked at)."""

import builtins
import io
import sys

import numpy as np
import pytest
import torch

from easydl import plotting
from easydl.callbacks import History

pytest.importorskip("matplotlib")


def history_of(*epochs):
    history = History()
    for epoch, logs in enumerate(epochs):
        history.on_epoch_end(epoch, logs)
    return history


def texts(axes):
    return [text.get_text() for text in axes.texts]


def rendered(figure):
    """Draw it, so that what only fails in drawing fails here."""
    file = io.BytesIO()
    figure.savefig(file)
    return file.getvalue()


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    from matplotlib import pyplot

    assert pyplot.get_fignums() == []


def test_curves_has_a_panel_for_each_name_with_train_and_validation():
    history = history_of(
        {"loss": 0.9, "accuracy": 0.5},
        {"loss": 0.5, "accuracy": 0.7, "val_loss": 0.6, "val_accuracy": 0.6},
        {"loss": 0.4, "accuracy": 0.8},
    )
    figure = plotting.curves(history)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["epoch"] * 2
    train, validation = figure.axes[0].get_lines()
    assert (list(train.get_xdata()), list(train.get_ydata())) == ([1, 2, 3], [0.9, 0.5, 0.4])
    assert (list(validation.get_xdata()), list(validation.get_ydata())) == ([2], [0.6])
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["train", "validation"]
    rendered(figure)


def test_curves_leaves_out_matrices():
    figure = plotting.curves(history_of({"loss": 0.5, "confusion": np.eye(2)}))
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss"]


def test_curves_refuses_what_has_no_or_unclear_epochs():
    with pytest.raises(ValueError) as error:
        plotting.curves(History())
    assert str(error.value) == (
        "the history has no epoch; expected what fit returned after at least one epoch."
    )
    with pytest.raises(ValueError, match=r"\{'loss': 2, 'val_loss': 1\}; expected one length"):
        plotting.curves({"loss": [1, 2], "val_loss": [1]})


@pytest.mark.parametrize(
    "said",
    [
        [0, 0, 1, 2],
        torch.tensor([0, 0, 1, 2]),
        np.array([[0.0], [0.0], [1.0], [2.0]]),
        torch.eye(3, dtype=torch.bfloat16)[[0, 0, 1, 2]],
    ],
)
def test_confusion_matrix_counts_as_scikit_learn_does(said):
    metrics = pytest.importorskip("sklearn.metrics")
    true = [0, 1, 1, 2]
    figure = plotting.confusion_matrix(true, said, classes=["a", "b", "c"])
    (axes,) = figure.axes
    expected = metrics.confusion_matrix(true, [0, 0, 1, 2])
    assert texts(axes) == [str(count) for count in expected.ravel()]
    assert axes.get_title() == "accuracy 0.7500 of 4"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    rendered(figure)


def test_confusion_matrix_takes_one_column_of_probabilities():
    figure = plotting.confusion_matrix([0, 1, 1], [[0.2], [0.7], [0.4]])
    assert texts(figure.axes[0]) == ["1", "0", "1", "1"]


def test_confusion_matrix_of_many_classes_has_no_counts():
    figure = plotting.confusion_matrix(np.arange(80), np.arange(80))
    assert texts(figure.axes[0]) == []
    assert len(figure.axes[0].get_xticklabels()) == 40
    rendered(figure)


@pytest.mark.parametrize(
    "true, said, classes, message",
    [
        ([0, 1], [0], None, "y_true has 2 rows and y_pred has 1; expected as many, not 0."),
        ([], [], None, "y_true has 0 rows and y_pred has 0; expected as many, not 0."),
        (
            [0, 2],
            [0, 1],
            ["a", "b"],
            "the labels reach from 0 to 2; expected 0 to 1 for 2 classes.",
        ),
        ([0, -1], [0, 1], None, "the labels reach from -1 to 1; expected 0 to 1 for 2 classes."),
        ([0, 1.5], [0, 1], None, "y_true has the label 1.5; expected whole numbers."),
    ],
)
def test_confusion_matrix_refuses(true, said, classes, message):
    with pytest.raises(ValueError) as error:
        plotting.confusion_matrix(true, said, classes)
    assert str(error.value) == message
    with pytest.raises(ValueError, match=r"y_true has shape \(2,\) and type <U3; expected class"):
        plotting.confusion_matrix(["cat", "dog"], [0, 1])


def test_pictures_shows_grey_and_rgb_with_their_values():
    bytes_ = np.full((2, 3, 4, 5), 255, dtype=np.uint8)
    bytes_[:, 1] = 0
    figure = plotting.pictures(torch.tensor(bytes_), titles=["a", "b"])
    shown = figure.axes[0].get_images()[0].get_array()
    assert shown.shape == (4, 5, 3)
    assert shown[0, 0].tolist() == [1.0, 0.0, 1.0]
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    grey = plotting.pictures(np.full((3, 1, 4, 5), 0.25))
    image = grey.axes[0].get_images()[0]
    assert image.get_array()[0, 0] == 0.25
    assert (image.get_clim(), image.get_cmap().name) == ((0, 1), "gray")
    rendered(figure)
    rendered(grey)


def test_pictures_stretches_other_values_the_same_for_all():
    figure = plotting.pictures(np.array([[[-1.0, 0.0]], [[1.0, 3.0]]]))
    shown = [axes.get_images()[0].get_array().tolist() for axes in figure.axes]
    assert shown == [[[0.0, 0.25]], [[0.5, 1.0]]]
    constant = plotting.pictures(np.full((1, 2, 2), 7))  # whole numbers, all equal
    assert rendered(constant)


def test_pictures_takes_columns():
    figure = plotting.pictures(np.zeros((5, 4, 4)), columns=2)
    rows, columns = figure.axes[0].get_gridspec().get_geometry()
    assert (rows, columns) == (3, 2)


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((2, 8, 8, 3)), "Channels come first: images.transpose(0, 3, 1, 2)."),
        (np.zeros((8, 64)), "One picture is images[None]; flat rows are images.reshape(-1, H, W)."),
        (
            np.zeros((2, 5, 8, 8)),
            "shape (2, 5, 8, 8); expected (N, H, W), (N, 1, H, W) or (N, 3",
        ),
        (
            np.zeros((257, 2, 2)),
            "was given 257 images; expected 1 to 256, for example",
        ),
        (np.zeros((0, 2, 2)), "was given 0 images; expected 1 to 256"),
        (np.full((1, 2, 2), np.nan), "was given images with NaN or inf; expected finite numbers."),
    ],
)
def test_pictures_refuses(images, message):
    with pytest.raises(ValueError) as error:
        plotting.pictures(images)
    assert message in str(error.value)
    with pytest.raises(ValueError, match="was given 1 titles for 2 images; expected one each"):
        plotting.pictures(np.zeros((2, 2, 2)), titles=["a"])


def test_most_wrong_sorts_by_the_loss():
    p = np.array([[0.9, 0.1], [0.3, 0.7], [0.05, 0.95], [0.6, 0.4]])
    x = np.arange(4)[:, None, None] * np.ones((1, 2, 2)) / 4
    figure = plotting.most_wrong(x, [0, 0, 0, 1], p, count=3)
    assert [axes.get_title() for axes in figure.axes] == [
        "true 0 · said 1 (0.95)",
        "true 0 · said 1 (0.70)",
        "true 1 · said 0 (0.60)",
    ]
    first = figure.axes[0].get_images()[0].get_array()
    assert first[0, 0] == 0.5
    named = plotting.most_wrong(x, np.eye(2)[[0, 0, 0, 1]], p, ["poodle", "bagel"], count=1)
    assert named.axes[0].get_title() == "true poodle\nsaid bagel (0.95)"
    rendered(named)


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_most_wrong_takes_the_probability_of_class_1(shape):
    p = np.array([0.75, 0.25]).reshape(shape)
    figure = plotting.most_wrong(np.zeros((2, 2, 2)), [0, 0], p)
    assert figure.axes[0].get_title() == "true 0 · said 1 (0.75)"


@pytest.mark.parametrize(
    "y, p, message",
    [
        ([0], np.eye(2), "x has 2 rows, y_true 1 and probabilities 2; expected as many."),
        ([0, 2], np.eye(2), "y_true reaches from 0 to 2; expected 0 to 1, one column of prob"),
        ([0, 1], 2 * np.eye(2), "probabilities of shape (2, 2) from 0 to 2 were given; expected"),
    ],
)
def test_most_wrong_refuses(y, p, message):
    with pytest.raises(ValueError) as error:
        plotting.most_wrong(np.zeros((2, 2, 2)), y, p)
    assert message in str(error.value)


@pytest.mark.parametrize("x", [np.zeros((6, 1, 8, 8)), np.zeros((6, 4))])
@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_report_saves_one_readable_png(x, kind, tmp_path):
    from matplotlib.image import imread

    p = np.linspace(0, 1, 6)[:, None] if kind == "binary" else np.eye(3)[[0, 1, 2, 0, 1, 2]]
    path = tmp_path / "out" / "report.png"
    history = history_of({"loss": 0.9, "val_loss": 1.0}, {"loss": 0.5, "val_loss": 0.7})
    assert plotting.report(history, x, [0, 1, 0, 1, 0, 1], p, path) == str(path)
    height, width, _ = imread(path).shape
    assert 400 < width < 3000
    assert 400 < height < 3000
    names = ["first", "second", "third"][: 2 if kind == "binary" else 3]
    assert plotting.report(history, x, [0, 1, 0, 1, 0, 1], p, path, names) == str(path)


def test_decision_boundary_asks_the_model_and_shows_the_points():
    class Model:
        def predict(self, x):
            assert x.dtype == np.float32
            self.asked = x
            return 1 / (1 + np.exp(-9 * x[:, :1]))

    model, rng = Model(), np.random.default_rng(0)
    x = rng.normal(size=(40, 2))
    y = (x[:, 0] > 0).astype(int)
    figure = plotting.decision_boundary(model, x, y, classes=["left", "right"], resolution=50)
    axes = figure.axes[0]
    assert model.asked.shape == (2500, 2)
    assert (model.asked.min(0) < x.min(0)).all()
    assert (model.asked.max(0) > x.max(0)).all()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["left", "right"]
    line = axes.collections[0].get_paths()[0].vertices  # the contour at one half
    assert np.abs(line[:, 0]).max() < 0.05
    rendered(figure)


def test_decision_boundary_of_several_classes():
    pandas = pytest.importorskip("pandas")

    class Model:
        def predict(self, x):
            return np.eye(3)[(x[:, 0] > 0) * 1 + (x[:, 1] > 0) * 1]

    frame = pandas.DataFrame({"width": [-1.0, 1, 1], "height": [-1.0, -1, 1]})
    figure = plotting.decision_boundary(Model(), frame, [0, 1, 2], resolution=30)
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("width", "height")
    picture = figure.axes[0].get_images()[0].get_array()
    corners = [picture[0, 0], picture[0, -1], picture[-1, -1]]  # the lower row is the first
    for corner, point in zip(corners, figure.axes[0].collections):
        colour = point.get_facecolor()[0, :3]
        np.testing.assert_allclose(corner, 1 - 0.6 * (1 - colour))  # all sure: 0.6 of the colour
    rendered(figure)


def test_decision_boundary_has_colours_for_many_classes():
    class Model:
        def predict(self, x):
            return np.eye(12)[np.arange(len(x)) % 12]

    x = np.random.default_rng(0).normal(size=(12, 2))
    figure = plotting.decision_boundary(Model(), x, np.arange(12), resolution=10)
    points = figure.axes[0].collections
    assert len({tuple(point.get_facecolor()[0]) for point in points}) == 12


def test_decision_boundary_refuses_three_features():
    with pytest.raises(ValueError) as error:
        plotting.decision_boundary(None, np.zeros((4, 3)), np.zeros(4))
    assert str(error.value) == (
        "decision_boundary was given x of shape (4, 3); expected (N, 2): choose two features, for "
        "example x[:, :2], and train the model on them."
    )
    with pytest.raises(ValueError, match="x has 4 rows and y has 3; expected one y a row"):
        plotting.decision_boundary(None, np.zeros((4, 2)), np.zeros(3))


def test_series_puts_the_forecasts_where_they_belong():
    figure = plotting.series(np.arange(10.0), {"network": np.ones((3, 1)), "last": [5.0]})
    true, network, last, begin = figure.axes[0].get_lines()
    assert list(true.get_xdata()) == list(range(10))
    assert list(network.get_xdata()) == [7, 8, 9]
    assert list(last.get_xdata()) == [9]
    assert list(begin.get_xdata()) == [7, 7]
    future = plotting.series([1, 2, 3], [4, 5], start=3, time=[2000, 2001, 2002, 2003, 2004])
    assert list(future.axes[0].get_lines()[1].get_xdata()) == [2003, 2004]
    rendered(future)


def test_series_refuses():
    with pytest.raises(ValueError, match="has 3 values and true has 2; expected no more, or start"):
        plotting.series([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"true has shape \(2, 2\); expected one series"):
        plotting.series(np.zeros((2, 2)), [1])
    with pytest.raises(ValueError, match="time has 1 entries; expected 2, one for each index"):
        plotting.series([1, 2], [1], time=[0])


def test_matplotlib_missing_is_an_error_that_says_what_to_install(monkeypatch):
    load = builtins.__import__

    def without(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError) as error:
        plotting.curves({"loss": [1.0]})
    assert str(error.value) == (
        "a plot needs the package matplotlib, which is not installed: pip install matplotlib."
    )

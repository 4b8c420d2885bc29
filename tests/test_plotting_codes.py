"""The pictures of representations: reconstructions, codes, manifolds, filters."""

import io

import numpy as np
import pytest
import torch

from easydl import plotting

pytest.importorskip("matplotlib")


def image_of(axes):
    return np.asarray(axes.get_images()[0].get_array())


def rendered(figure):
    file = io.BytesIO()
    figure.savefig(file)
    return file.getvalue()


def test_reconstructions_puts_each_strip_below_the_inputs():
    x = np.arange(6).reshape(3, 1, 2) / 10
    figure = plotting.reconstructions(x, torch.tensor(x + 0.5), titles=["input", "model"])
    (axes,) = figure.axes
    white = [1.0]
    above = [0.0, 0.1, *white, 0.2, 0.3, *white, 0.4, 0.5]
    below = [0.5, 0.6, *white, 0.7, 0.8, *white, 0.9, 1.0]
    np.testing.assert_allclose(image_of(axes), [above, [1.0] * 8, below])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["input", "model"]
    np.testing.assert_allclose(axes.get_yticks(), [0, 2])
    rendered(figure)


def test_reconstructions_takes_flat_rows_colours_and_bytes():
    flat = plotting.reconstructions(np.eye(4), 1 - np.eye(4), shape=(2, 2))
    assert image_of(flat.axes[0]).shape == (5, 11)
    bytes_ = np.full((2, 3, 4, 5), 255, np.uint8)
    colour = image_of(plotting.reconstructions(bytes_, bytes_ / 510).axes[0])
    assert colour.shape == (9, 11, 3)
    assert (colour[0, 0, 0], colour[-1, 0, 0]) == (1.0, 0.5)
    one_scale = image_of(
        plotting.reconstructions(np.zeros((1, 1, 1)), np.full((1, 1, 1), 4)).axes[0]
    )
    assert one_scale[:, 0].tolist() == [0.0, 1.0, 1.0]


def test_reconstructions_refuses():
    x = np.zeros((2, 4, 4))
    with pytest.raises(ValueError, match=r"shapes \[\(2, 4, 4\), \(1, 4, 4\)\]; expected the same"):
        plotting.reconstructions(x, x[:1])
    with pytest.raises(ValueError, match="given 1 titles for 2 strips; expected one each"):
        plotting.reconstructions(x, x, titles=["input"])
    with pytest.raises(ValueError) as error:
        plotting.reconstructions(np.zeros((2, 64)))
    assert str(error.value) == (
        "reconstructions was given flat rows of 64 numbers and shape=None; expected the shape of "
        "one picture of as many, for example shape=(8, 8)."
    )
    with pytest.raises(ValueError, match=r"shape=\(3, 3\); expected .* shape=\(H, W\)"):
        plotting.filters(np.zeros((2, 8)), shape=(3, 3))


def test_codes_shows_two_numbers_as_they_are():
    z = np.random.default_rng(0).normal(size=(30, 2))
    figure = plotting.codes(z, np.arange(30) % 3, classes=["a", "b", "c"])
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z₁", "z₂")
    for label, points in enumerate(axes.collections):
        np.testing.assert_array_equal(points.get_offsets(), z[label::3])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "c"]
    assert plotting.codes(z).axes[0].get_legend() is None
    rendered(figure)


def test_codes_of_more_numbers_shows_the_axes_of_scikit_learns_pca():
    decomposition = pytest.importorskip("sklearn.decomposition")
    z = np.random.default_rng(0).normal(size=(50, 5)) * [1, 5, 1, 3, 1] + 7
    pca = decomposition.PCA(2).fit(z)
    (axes,) = plotting.codes(torch.tensor(z)).axes
    shown = axes.collections[0].get_offsets()
    np.testing.assert_allclose(abs(shown), abs(pca.transform(z)), atol=1e-5)
    assert axes.get_xlabel() == f"principal axis 1 ({100 * pca.explained_variance_ratio_[0]:.0f} %)"
    assert plotting.codes(np.zeros((3, 4))).axes[0].get_xlabel() == "principal axis 1 (0 %)"


@pytest.mark.parametrize(
    "z, labels, classes, message",
    [
        (np.zeros((4, 1)), None, None, "z of shape (4, 1); expected (N, D) with D of 2 or more"),
        (np.full((1, 2), np.nan), None, None, "z with NaN or inf; expected finite numbers"),
        (np.zeros((4, 2)), [0, 1], None, "z has 4 rows and labels has 2; expected one label a row"),
        (np.zeros((1, 2)), [2], ["a", "b"], "labels reach from 2 to 2; expected 0 to 1"),
    ],
)
def test_codes_refuses(z, labels, classes, message):
    with pytest.raises(ValueError) as error:
        plotting.codes(z, labels, classes)
    assert message in str(error.value)


def test_manifold_decodes_the_quantiles_with_z2_upwards():
    stats = pytest.importorskip("scipy.stats")
    asked = []

    def decode(z):
        asked.append(z)
        return np.stack([z[:, 0], z[:, 1]], axis=1)[:, None]  # pictures of 1 × 2

    (axes,) = plotting.manifold(decode, count=4).axes
    at = stats.norm.ppf([0.125, 0.375, 0.625, 0.875])
    (z,) = asked
    assert (z.shape, z.dtype) == ((16, 2), np.float32)
    np.testing.assert_allclose(z[:4, 0], at, rtol=1e-6)
    np.testing.assert_allclose(z[::4, 1], at[::-1], rtol=1e-6)
    shown = image_of(axes) * 2 * at[-1] + at[0]  # pictures stretch what is not within 0 … 1
    np.testing.assert_allclose(shown[0, ::2], at, atol=1e-6)
    np.testing.assert_allclose(shown[:, 1], at[::-1], atol=1e-6)
    assert axes.get_yticklabels()[0].get_text() == "1.2"
    rendered(plotting.manifold(lambda z: torch.zeros(len(z), 9), count=20, shape=(3, 3)))


def test_manifold_refuses():
    with pytest.raises(ValueError, match="decode gave 1 pictures for 225 codes; expected one each"):
        plotting.manifold(lambda z: np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match="count=0; expected a whole number"):
        plotting.manifold(lambda z: np.zeros((1, 2, 2)), count=0)


def test_filters_are_scaled_one_by_one_about_grey():
    weights = torch.nn.Parameter(torch.tensor([[-2.0, 0, 1, 0], [0, 0, 0.5, 0], [0, 0, 0, 0]]))
    figure = plotting.filters(weights, shape=(2, 2))
    shown = [image_of(axes).ravel().tolist() for axes in figure.axes]
    assert shown == [[0, 0.5, 0.75, 0.5], [0.5, 0.5, 1, 0.5], [0.5] * 4]
    assert len(plotting.filters(np.ones((6, 3, 5, 5)), columns=3).axes) == 6
    rendered(figure)

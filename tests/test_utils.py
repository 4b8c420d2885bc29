"""One-hot labels, padded sequences, one seed."""

import random

import numpy as np
import pytest
import torch

from easydl.utils import pad_sequences, seed, set_random_seed, to_categorical


def draw():
    numbers = [random.random(), np.random.rand(), torch.rand(()).item()]
    if torch.cuda.is_available():
        numbers.append(torch.rand((), device="cuda").item())
    return numbers


def test_seed_repeats_python_numpy_and_torch():
    seed(7)
    first = draw()
    set_random_seed(7)
    assert draw() == first
    seed(8)
    assert not set(draw()) & set(first)


@pytest.mark.parametrize("number", [-1, 2**32, 0.5, "7", True])
def test_seed_refuses_what_numpy_cannot_take(number):
    with pytest.raises(ValueError, match=f"seed={number!r} was given; expected"):
        seed(number)


@pytest.mark.parametrize(
    "y", [[0, 2, 1], [[0], [2], [1]], [[0, 1], [2, 2]], [0.0, 1.0], [False, True]]
)
@pytest.mark.parametrize("num_classes", [None, 4])
def test_to_categorical_is_that_of_keras(y, num_classes):
    keras = pytest.importorskip("keras")
    expected = keras.utils.to_categorical(y, num_classes)
    for given in (y, np.array(y), torch.tensor(y)):
        result = to_categorical(given, num_classes)
        np.testing.assert_array_equal(result, expected)
        assert result.dtype == np.float32


def test_to_categorical_takes_a_series_and_many_classes():
    pandas = pytest.importorskip("pandas")
    assert to_categorical(pandas.Series([1, 0], index=[5, 6])).tolist() == [[0, 1], [1, 0]]
    assert to_categorical([100_000]).shape == (1, 100_001)


@pytest.mark.parametrize(
    "y, num_classes, message",
    [
        ([0, -1], None, "the label -1 at 1; expected whole numbers from 0. For"),
        ([0, 1.5], None, "the label 1.5 at 1; expected whole numbers from 0. For"),
        ([0, float("nan")], None, "the label nan at 1; expected whole numbers from 0. For"),
        ([0, float("inf")], None, "the label inf at 1; expected whole numbers from 0. For"),
        ([1, 2, 3], 3, "the label 3 at 2; expected whole numbers from 0 to 2. For"),
        ([[0, 1], [1, -2]], None, "the label -2 at (1, 1); expected whole numbers from 0. For"),
    ],
)
def test_to_categorical_names_the_label_that_is_wrong(y, num_classes, message):
    with pytest.raises(ValueError) as error:
        to_categorical(y, num_classes)
    assert str(error.value) == (
        f"to_categorical was given {message} other labels write "
        "np.unique(y, return_inverse=True)[1]."
    )


def test_to_categorical_refuses_words_and_nothing():
    with pytest.raises(ValueError, match=r"the label .*'cat'.*Number the classes first"):
        to_categorical(["cat", "dog"])
    with pytest.raises(ValueError, match="was given no labels; expected at least one"):
        to_categorical([])
    with pytest.raises(ValueError, match="num_classes=0 was given"):
        to_categorical([0], 0)


@pytest.mark.parametrize(
    "sequences", [[[1], [2, 3], [4, 5, 6]], [[], [1, 2]], [[[1, 2]], [[3, 4]] * 2]]
)
@pytest.mark.parametrize("maxlen", [None, 2, 5])
@pytest.mark.parametrize("padding", ["pre", "post"])
@pytest.mark.parametrize("truncating", ["pre", "post"])
def test_pad_sequences_is_that_of_keras(sequences, maxlen, padding, truncating):
    keras = pytest.importorskip("keras")
    arguments = {"maxlen": maxlen, "padding": padding, "truncating": truncating}
    expected = keras.utils.pad_sequences(sequences, **arguments, value=-1)
    result = pad_sequences(sequences, **arguments, value=-1)
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == np.int32


def test_pad_sequences_of_floats():
    result = pad_sequences([[0.5], [1.5, 2.5]], dtype="float32", value=0.25)
    assert result.tolist() == [[0.25, 0.5], [1.5, 2.5]]
    with pytest.raises(ValueError) as error:
        pad_sequences([[1], [1.5, 2.5]])
    assert str(error.value) == (
        "pad_sequences: sequence 1 has numbers that int32 can't hold; write dtype='float32'."
    )


@pytest.mark.parametrize(
    "sequences, arguments, message",
    [
        ([[1]], {"padding": "left"}, "unknown padding 'left'. Choose from: post, pre."),
        ([[1]], {"truncating": "pos"}, "unknown truncating 'pos'. Did you mean 'post'? Choose"),
        ([1, 2], {}, "pad_sequences was given 1 at 0; expected a list of sequences"),
        (["ab"], {}, "pad_sequences was given 'ab' at 0; expected a list of sequences"),
        ([], {}, "pad_sequences was given no sequences; expected at least one."),
        ([[1]], {"maxlen": 0}, "maxlen=0 was given; expected a whole number of at least 1."),
        (
            [[[1, 2]], [[1, 2, 3]]],
            {},
            "the entries of sequence 1 have shape (3,), those before (2,); expected one shape",
        ),
    ],
)
def test_pad_sequences_refuses(sequences, arguments, message):
    with pytest.raises(ValueError) as error:
        pad_sequences(sequences, **arguments)
    assert message in str(error.value)

"""The held-out rows: Keras's cut, random rows, and every class with its share."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedShuffleSplit

from easydl.data.split import split_rows, warn_of_missing_classes


@pytest.mark.parametrize("samples", [2, 3, 7, 10, 101, 1000])
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.3, 0.5, 0.75, 0.9])
def test_split_tail_cuts_where_keras_does(samples, fraction):
    import keras

    expected = keras.src.trainers.data_adapters.array_slicing.train_validation_split
    try:
        (before,), (after,) = expected((np.arange(samples),), fraction)
    except ValueError:
        with pytest.raises(ValueError, match=f"of {samples} samples leaves"):
            split_rows(samples, fraction, "tail", None, 0)
        return
    train, held_out = split_rows(samples, fraction, "tail", None, 0)
    rows = np.arange(samples)
    np.testing.assert_array_equal(rows[train], before)
    np.testing.assert_array_equal(rows[held_out], after)


@pytest.mark.parametrize("how", ["random", "stratified"])
def test_split_takes_every_row_once_and_follows_the_seed(how):
    labels = torch.arange(50) % 3
    train, held_out = split_rows(50, 0.3, how, labels, seed=4)
    assert sorted(torch.cat([train, held_out]).tolist()) == list(range(50))
    again, _ = split_rows(50, 0.3, how, labels, seed=4)
    other, _ = split_rows(50, 0.3, how, labels, seed=5)
    assert torch.equal(train, again) and not torch.equal(train, other)


def test_split_random_has_keras_number_of_rows():
    train, held_out = split_rows(11, 0.25, "random", None, 0)
    assert (len(train), len(held_out)) == (8, 3)


def test_split_stratified_gives_every_class_its_share_as_sklearn_does():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    train, held_out = split_rows(100, 0.2, "stratified", labels, seed=0)
    splitter = StratifiedShuffleSplit(1, test_size=0.2, random_state=0)
    reference, reference_out = next(splitter.split(labels, labels))
    for ours, theirs in ((train, reference), (held_out, reference_out)):
        assert labels[ours].bincount().tolist() == np.bincount(labels[theirs]).tolist()


def test_split_stratified_mixes_the_classes():
    labels = torch.arange(60) // 20  # sorted: batches of one class would train badly unshuffled
    for rows in split_rows(60, 0.5, "stratified", labels, seed=0):
        assert 10 < (labels[rows].diff() != 0).sum() < 29


def test_split_stratified_keeps_a_rare_class_on_both_sides():
    labels = torch.tensor([0] * 98 + [1] * 2)
    train, held_out = split_rows(100, 0.1, "stratified", labels, seed=0)
    assert labels[train].bincount().tolist()[1] == labels[held_out].bincount().tolist()[1] == 1


def test_split_warns_of_classes_that_one_side_lacks():
    with pytest.warns(UserWarning, match=r"class 2 of the validation part .* training part"):
        warn_of_missing_classes(torch.tensor([0, 1]), torch.tensor([0, 1, 2]))
    with pytest.warns(UserWarning, match=r"class 0, 1 of the training part.*'stratified'"):
        warn_of_missing_classes(torch.tensor([0, 1, 2]), torch.tensor([2, 2]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_missing_classes(torch.tensor([0, 1]), torch.tensor([1, 0]))

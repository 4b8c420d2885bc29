"""Array-likes to tensors: every dtype and memory layout, the caller's data untouched."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from easydl.data.convert import all_rows, cast_inputs, check_finite, leaves, map_tree, to_tensor

NUMBERS = np.arange(12.0).reshape(4, 3)
KINDS = ["f2", "f4", "f8", "g", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


@pytest.mark.parametrize("order", ["=", ">", "<"])
@pytest.mark.parametrize("kind", KINDS)
def test_to_tensor_takes_every_number_type(kind, order):
    array = NUMBERS.astype(kind).astype(np.dtype(kind).newbyteorder(order))
    tensor = to_tensor(array, "x")
    np.testing.assert_array_equal(tensor.numpy(), array)
    assert cast_inputs(tensor, torch.float32, False).dtype == torch.float32


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


LAYOUTS = {
    "fortran": np.asfortranarray(NUMBERS),
    "negative strides": NUMBERS[::-1, ::-1],
    "every second": np.repeat(NUMBERS, 2, axis=0)[::2],
    "read-only": read_only(NUMBERS),
    "broadcast": np.broadcast_to(NUMBERS[:1], (4, 3)),
    "masked without a mask": np.ma.masked_array(NUMBERS),
    "matrix of lists": NUMBERS.tolist(),
    "tuples": tuple(map(tuple, NUMBERS)),
    "list of arrays": list(NUMBERS),
    "list of tensors": list(torch.tensor(NUMBERS)),
    "tensor": torch.tensor(NUMBERS),
    "tensor with gradient": torch.tensor(NUMBERS, requires_grad=True) * 1,
    "transposed tensor": torch.tensor(NUMBERS.T.copy()).T,
    "frame": pd.DataFrame(NUMBERS, columns=list("abc")),
    "frame of several types": pd.DataFrame({"a": [0, 3, 6, 9], "b": [1.0, 4, 7, 10], "c": 2}),
    "frame with its own index": pd.DataFrame(NUMBERS, index=[7, 5, 3, 1]),
    "frame of nullable numbers": pd.DataFrame(NUMBERS).astype("Float64"),
}


@pytest.mark.parametrize("value", LAYOUTS.values(), ids=LAYOUTS)
def test_to_tensor_takes_every_layout(value):
    tensor = to_tensor(value, "x")
    expected = np.asarray(value.detach() if isinstance(value, torch.Tensor) else value, dtype=float)
    np.testing.assert_array_equal(tensor.numpy(), expected)
    assert not tensor.requires_grad


@pytest.mark.parametrize("kind", ["int64", "float32", "Int64", "Float32", "boolean", "category"])
def test_to_tensor_takes_a_series(kind):
    series = pd.Series([1, 0, 1]).astype(kind)
    assert to_tensor(series, "y").tolist() == [1, 0, 1]


def test_to_tensor_shares_memory_where_it_can_and_never_writes():
    array = NUMBERS.astype("float32")
    assert to_tensor(array, "x").data_ptr() == array.ctypes.data
    frozen = read_only(array)
    to_tensor(frozen, "x")[0, 0] = 100
    assert frozen[0, 0] == 0


def test_check_finite_passes_large_numbers_whose_sum_overflows():
    check_finite(torch.full((4,), 3e38), "x")


def test_check_finite_names_the_first_place():
    x = torch.zeros(5, 4)
    x[3, 1] = float("inf")
    x[4, 0] = float("nan")
    with pytest.raises(ValueError, match=r"x holds inf at row 3, column 1 \(2 such entries"):
        check_finite(x, "x")


def test_cast_inputs_keeps_whole_numbers_for_an_embedding_only():
    whole = torch.tensor([[1, 2]], dtype=torch.int16)
    assert cast_inputs(whole, torch.float32, True).dtype == torch.int64
    assert cast_inputs(whole, torch.float32, False).dtype == torch.float32


def test_map_tree_keeps_the_form():
    tree = {"a": torch.ones(2), "b": (torch.zeros(1), [torch.ones(3)])}
    assert map_tree(len, tree) == {"a": 2, "b": (1, (3,))}
    assert [len(leaf) for leaf in leaves(tree)] == [2, 1, 3]
    assert map_tree(len, None) is None and leaves(None) == []


@pytest.mark.parametrize("samples", [None, 5])
def test_all_rows_are_written_in_the_batches_form(samples):
    rows = torch.arange(10.0).view(5, 2)
    parts = rows.split(2)
    assert (all_rows(iter(parts), samples) == rows.numpy()).all()
    named = all_rows(({"a": part, "b": part.long()} for part in parts), samples)
    assert (named["a"] == rows.numpy()).all() and named["b"].dtype == np.int64
    for form in (list, tuple):
        pair = all_rows((form([part, part.bfloat16()]) for part in parts), samples)
        assert isinstance(pair, list) and (pair[1] == rows.numpy()).all()
        assert pair[1].dtype == np.float32
    with pytest.raises((ValueError, RuntimeError), match=r"[Ss]ize|same in every batch"):
        all_rows(iter([torch.zeros(2, 3), torch.zeros(3, 1)]), samples)
    turned = [{"a": rows[:2], "b": rows[:2] + 1}, {"b": rows[2:] + 1, "a": rows[2:]}]
    assert (all_rows(iter(turned), samples)["a"] == rows.numpy()).all()
    with pytest.raises(KeyError, match="b"):
        all_rows(iter([*turned[:1], {"a": rows[2:]}]), samples)
    with pytest.raises(ValueError, match="argument"):
        all_rows(iter([(rows[:2],), (rows[2:], rows[2:])]), samples)


def test_all_rows_are_counted_and_of_one_dtype():
    for parts in ([3, 1], [3, 3]):
        message = f"{sum(parts)} rows came; expected 5|must match"
        with pytest.raises((ValueError, RuntimeError), match=message):
            all_rows((torch.zeros(count) for count in parts), 5)
    with pytest.raises(ValueError, match=r"torch.float32 after rows of \(\) torch.int64"):
        all_rows(iter([torch.zeros(2, dtype=torch.long), torch.ones(3)]), 5)


def test_tables_other_than_pandas_are_read_column_by_column():
    class Table(dict):
        columns = ("a", "b")

        def to_numpy(self):
            raise AssertionError("read in whole")

    tensor = to_tensor(Table(a=pd.Series([0.0, 1, 2]), b=pd.Series([0, 1, 2])), "x")
    assert tensor.tolist() == [[0, 0], [1, 1], [2, 2]]

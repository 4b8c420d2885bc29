"""The classes that pictures are of: their numbers, from names, and what Datasets say of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from easydl.data.pictures import read_picture
from easydl.errors import listed


def class_numbers(labels: Any, class_names: Sequence[Any]) -> np.ndarray:
    """The place of each label in ``class_names``.

    Raises:
        ValueError: labels that are missing, or in no class.
    """
    numbers = {str(name): number for number, name in enumerate(class_names)}
    lacking = next((i for i, v in enumerate(labels) if v is None or v != v), None)
    if lacking is not None:
        raise ValueError(f"the label of row {lacking} is missing; expected one a picture.")
    unknown = sorted({str(label) for label in labels} - set(numbers))
    if unknown:
        raise ValueError(f"labels {listed(unknown)} are not in class_names={class_names!s:.200}.")
    return np.array([numbers[str(label)] for label in labels])


def labels_of(x: Dataset) -> Any:
    """What a Dataset says of its classes without reading a picture; compared with three of them.

    Raises:
        ValueError: samples that are no ``(picture, class)``, or of other classes.
    """
    names = ("targets", "labels", "_labels")
    y = next((getattr(x, name) for name in names if getattr(x, name, None) is not None), None)
    if y is None:
        return None
    change = getattr(x, "target_transform", None)
    y = [change(label) for label in y] if callable(change) else y
    for row in sorted({0, len(y) // 2, len(y) - 1} & set(range(len(y)))):
        sample: Any = x[row]
        if not isinstance(sample, tuple) or len(sample) != 2 or sample[1] != y[row]:
            raise ValueError(
                f"the Dataset says that row {row} is of class {y[row]!s:.40} and gives "
                f"{sample!s:.80}; expected (picture, class) with this class. Write images(x, y) "
                "with the labels that hold."
            )
        read_picture(sample[0])
    return y

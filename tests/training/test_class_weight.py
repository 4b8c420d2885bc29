"""Class weights, where they mean something."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import easydl as dl

X, Y = torch.randn(9, 4), torch.arange(9) % 3


@pytest.mark.parametrize("stream", [False, True])
def test_class_weight_of_soft_binary_targets_is_refused(stream):
    model = dl.Model(nn.Linear(4, 1))
    model.compile("sgd", "binary_crossentropy")
    soft = torch.rand(9)
    data = ([(X, soft)],) if stream else (X, soft)
    with pytest.raises(ValueError, match="not one class a sample"):
        model.fit(*data, class_weight={0: 1.0, 1: 2.0}, verbose=0)


@pytest.mark.parametrize("class_weight", [{0: 1.0, 2: 3.0}, "balanced"])
def test_class_weights_leave_ignored_targets_alone(class_weight):
    losses = []
    for index in (-100, 1):  # what torch ignores by default, and a class by name
        torch.manual_seed(0)
        model = dl.Model(nn.Linear(4, 3))
        model.compile("sgd", nn.CrossEntropyLoss(ignore_index=index))
        y = torch.where(Y == 1, index, Y)
        losses.append(model.fit(X, y, class_weight=class_weight, verbose=0).history["loss"])
    assert losses[0] == losses[1]

"""Every example in a docstring runs and gives what it shows."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch
from torch import nn

import easydl

MODULES = ["easydl"] + [
    info.name for info in pkgutil.walk_packages(easydl.__path__, prefix="easydl.")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_module_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = importlib.import_module(name)
    names = {"torch": torch, "nn": nn, **vars(module)}
    failures, _ = doctest.testmod(module, extraglobs=names, report=True)
    assert failures == 0
    assert list(tmp_path.iterdir()) == []


def test_examples_are_many():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [
        t for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples
    ]
    assert len(found) > 100

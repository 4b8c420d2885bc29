"""One thread, Keras on torch, no windows: the same conditions for every test."""

import gc
import os

os.environ["KERAS_BACKEND"] = "torch"
os.environ["MPLBACKEND"] = "Agg"

import pytest
import torch


def pytest_collection_finish(session):
    """What is imported by now stays: the garbage collector looks only at what comes after."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session, exitstatus):
    gc.unfreeze()


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)

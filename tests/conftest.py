"""One thread, Keras on torch, no windows, Ctrl-C heard: the same conditions for every test."""

import gc
import os
import signal

os.environ["KERAS_BACKEND"] = "torch"
os.environ["MPLBACKEND"] = "Agg"

import pytest
import torch

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job behind & ignores


def pytest_collection_finish(session):
    """What is imported by now stays: the garbage collector looks only at what comes after."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session, exitstatus):
    gc.unfreeze()


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)

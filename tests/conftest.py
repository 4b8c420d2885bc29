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


@pytest.fixture
def compile_by(monkeypatch):
    """``torch.compile`` by a backend of one's own."""

    def use(backend):
        def compiler(function, options, **named):
            return torch._dynamo.optimize(backend, nopython=True, dynamic=False)(function)

        monkeypatch.setattr(torch, "compile", compiler)

    return use


@pytest.fixture
def traced(compile_by):
    """Steps made one graph by torch, which runs it as it is: inductor takes seconds for each.

    Most of a test's time is torch's reading of the steps: few of them, and of a small network.
    """
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compile_by(backend)
    return graphs

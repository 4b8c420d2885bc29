"""Nothing grows from fit to fit; ``make soak`` runs the proof whole."""

from __future__ import annotations

import gc
import sys

import pytest

from proofs import leaks

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.mark.parametrize("kind", [1, 5, 10, 15], ids=["arrays", "workers", "checkpoint", "save"])
def test_a_fit_leaves_nothing_open_without_the_garbage_collector(kind, tmp_path, capsys):
    leaks.fit_once(kind, tmp_path)
    gc.collect()
    before = leaks.held()
    gc.disable()
    try:
        for _ in range(2):
            leaks.fit_once(kind, tmp_path)
        assert leaks.held() == before
    finally:
        gc.enable()


@pytest.mark.slow
def test_a_thousand_fits_and_200_epochs_hold_no_more(tmp_path):
    a_fit, before, after, an_epoch, early, late = leaks.prove(1000, 200, tmp_path)
    assert before == after and early == late
    assert a_fit <= leaks.GOAL and an_epoch <= leaks.GOAL

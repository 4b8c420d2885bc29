"""A small share of every proof about files; ``make soak`` runs them whole."""

from __future__ import annotations

import pickle
import sys
import warnings

import pytest

import easydl as dl
from proofs import full_disk, hostile_files, kill_during_save, mutate_files
from tests.saving import hostile

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks and reads /proc")
amounts = pytest.mark.parametrize(
    "share", [pytest.param(20, id="a share"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)


@pytest.fixture(autouse=True)
def forks_are_meant():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@amounts
def test_a_damaged_file_is_an_error_or_the_same_model(share, tmp_path):
    outcomes = mutate_files.prove(tmp_path, 2000 // share, seed=share)
    assert outcomes["silently wrong"] == outcomes["crashes"] == 0
    assert outcomes["errors"] + outcomes["identical"] == 2 * (2000 // share)


def test_the_proof_of_damage_sees_what_a_reader_without_hashes_lets_in(tmp_path, monkeypatch):
    monkeypatch.setattr("easydl.saving.weights.MARK", "")
    monkeypatch.setattr("easydl.saving.weights._digest", lambda *_: "no hash")
    assert mutate_files.prove(tmp_path, 60)["silently wrong"] > 0


@linux
@pytest.mark.parametrize(
    "every", [pytest.param(3, id="a share"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)
def test_hostile_files_run_open_and_cost_nothing(every, tmp_path):
    count, wrong, line = hostile_files.prove(tmp_path, every)
    # Time is measured by the program in proofs/, on a quiet machine.
    wrong = {
        name: [why for why in found if not why.endswith(" s")] for name, found in wrong.items()
    }
    assert {name: found for name, found in wrong.items() if found} == {}, line
    assert count >= 27


@linux
@pytest.mark.parametrize(
    ("reader", "words"),
    [
        (lambda path: pickle.loads(path.read_bytes()), "pickle.find_class"),
        (lambda path: eval("1 + 1") or 1, "compile"),
        (lambda path: open("/etc/hostname", "rb").close(), "open"),
        (lambda path: bytearray(300 * 2**20), "MB"),
        (lambda path: None, "loaded"),
    ],
)
def test_the_proof_of_hostile_files_sees_what_others_do(reader, words, tmp_path, monkeypatch):
    path = tmp_path / "m.easydl"
    path.write_bytes(pickle.dumps(hostile.Evil()))
    monkeypatch.setattr(dl, "load_model", reader)
    problems = hostile_files.problems_of(hostile_files.in_a_process(path, dl.Sequential()))
    assert any(words in problem for problem in problems), problems


@linux
@amounts
def test_a_killed_save_leaves_a_whole_file(share, tmp_path):
    kills = 100 // share
    counts = kill_during_save.prove(tmp_path, kills, seed=share)
    assert counts["usable"] == counts["self-consistent"] == kills
    assert counts["generations"] > 0


@linux
@amounts
def test_a_full_disk_or_a_locked_folder_leaves_the_old_file(share, tmp_path):
    counts = full_disk.prove(tmp_path, 20 if share == 1 else 4, seed=share)
    assert len(set(counts.values())) == 1, counts
    assert full_disk.fails_at_once(tmp_path) == 4

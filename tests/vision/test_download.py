"""What comes is the file, whole and right, or an error says what to do; never anything else.

The sixteen ways to go wrong are those of ``python -m proofs.downloads``, which shows torch.hub
beside: 3 right and 2 unclear (no folder named) where easydl has 16. It leaves HTML pages and halves
under the final name, never looks at a cached file again, waits for ever, and downloads 8 times.
"""

from __future__ import annotations

import builtins
import errno
import hashlib
import io
import os
import pickle
import shutil
import ssl
import subprocess
import sys
import threading
import time
import warnings
from urllib.request import Request

import pytest
import torch
from safetensors.torch import save

from easydl.vision import download
from easydl.vision.download import fetch
from proofs import downloads
from proofs.downloads import CONTENT, NAMED, PLAIN
from tests.vision.server import Server

SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64


@pytest.fixture
def server(monkeypatch):
    for name in downloads.PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("EASYDL_OFFLINE", raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with Server({PLAIN: CONTENT, NAMED: CONTENT}) as server:
        yield server


@pytest.fixture
def pauses(monkeypatch):
    """The seconds that were to be slept."""
    found = []
    monkeypatch.setattr(download, "PAUSE", 0.5)
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def left(folder) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and sets limits")
@pytest.mark.parametrize("case", downloads.CASES, ids=lambda case: case.__name__)
def test_a_download_that_goes_wrong(case):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        assert downloads.wrong(case, fetch) is None


@pytest.mark.parametrize("name", [NAMED, PLAIN])
def test_the_file_is_shared_with_torch_hub(name, server, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = server.address + name + "?download=1"
    path = fetch(url)
    assert path == tmp_path / "hub" / "checkpoints" / name
    state = torch.hub.load_state_dict_from_url(url, progress=False, check_hash=True)
    assert torch.equal(state["weight"], torch.arange(100_000.0))
    assert fetch(url) == path and len(server.seen) == 1
    path.unlink()
    torch.hub.load_state_dict_from_url(url, progress=False, check_hash=True)
    assert fetch(url) == path and len(server.seen) == 2


def test_a_given_sha256_counts_and_not_the_name(server, tmp_path):
    server.files["net-00000000.pth"] = CONTENT
    url = server.address + "net-00000000.pth"
    with pytest.raises(ValueError, match=f"has the SHA-256 {SHA256} instead of 00000000; .*sha256"):
        fetch(url, folder=tmp_path)
    assert fetch(url, sha256=SHA256.upper(), folder=tmp_path).read_bytes() == CONTENT
    with pytest.warns(UserWarning, match="again") as said, pytest.raises(ValueError, match=OTHER):
        fetch(url, sha256=OTHER, folder=tmp_path)
    assert said[0].filename == __file__
    assert len(server.seen) == 3, "a file that came whole is not asked for again"
    assert left(tmp_path) == {"net-00000000.pth"}


def safetensors() -> bytes:
    return save({"weight": torch.arange(1000.0)})


def legacy() -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.arange(9.0)}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@pytest.mark.parametrize("content", [CONTENT, safetensors(), legacy(), pickle.dumps({})])
def test_files_of_weights_need_no_hash(content, server, tmp_path):
    server.files["a.pt"] = content
    assert fetch(server.address + "a.pt", folder=tmp_path).read_bytes() == content
    fetch(server.address + "a.pt", folder=tmp_path)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\n<?xml version='1.0'?><Error>AccessDenied</Error>", "is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1", "begins as no file of weights"),
        (b'{"error": "quota exceeded"}', "begins as no file of weights"),
        (safetensors()[:-1], "is cut or damaged"),
        (CONTENT[:-30], "is cut or damaged"),
        (CONTENT.replace(b"\x80?", b"\x80>", 1), "is damaged in 'archive/data"),
    ],
)
def test_other_files_are_refused_at_once(content, words, server, tmp_path):
    server.files["a.pt"] = content
    with pytest.raises(ValueError, match=words) as caught:
        fetch(server.address + "a.pt", folder=tmp_path)
    assert len(server.seen) == 1 and len(str(caught.value)) <= 600
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    ("script", "starts"),
    [
        (["cut", "whole"], [0, 1]),
        (["cut", "changed"], [0, 0]),  # another file by now: all of it
        (["cut", "no range"], [0, 0]),
        (["cut", "wrong range", "whole"], [0, 1, 0]),
        (["no tag cut", "no tag"], [0, 0]),  # nothing tells whether the halves fit
        (["no length cut", "whole"], [0, 0]),
    ],
)
def test_halves_are_joined_only_where_they_fit(script, starts, server, tmp_path):
    server.script = list(script)
    assert fetch(server.address + PLAIN, folder=tmp_path).read_bytes() == CONTENT
    assert [int(row["from"] > 0) for row in server.seen] == starts
    assert left(tmp_path) == {PLAIN}


@pytest.mark.parametrize(
    ("part", "starts"),
    [
        (CONTENT[:1000], [1000]),
        (b"x" * 1000, [1000, 0]),  # of another file
        (CONTENT, [len(CONTENT), 0]),  # killed before it was given its name
        (CONTENT + b"more", [len(CONTENT) + 4, 0]),
    ],
)
def test_a_part_of_an_earlier_call_is_finished_or_dropped(part, starts, server, tmp_path):
    (tmp_path / f"{NAMED}.part").write_bytes(part)
    assert fetch(server.address + NAMED, folder=tmp_path).read_bytes() == CONTENT
    assert [row["from"] for row in server.seen] == starts
    assert left(tmp_path) == {NAMED}
    (tmp_path / f"{PLAIN}.part").write_bytes(part)
    assert fetch(server.address + PLAIN, folder=tmp_path).read_bytes() == CONTENT
    assert server.seen[-1]["from"] == 0, "no hash tells whether the halves fit"


def test_attempts_end_and_only_a_part_that_can_be_checked_stays(server, tmp_path, pauses):
    server.script, server.then = ["cut"], "503"
    with pytest.raises(ConnectionError, match=r"answer 503: Service Unavailable.*that name"):
        fetch(server.address + NAMED, folder=tmp_path, retries=3)
    assert len(server.seen) == 4 and pauses == [0.5, 1, 2]
    assert left(tmp_path) == {f"{NAMED}.part"}
    server.script = ["cut"]
    with pytest.raises(ConnectionError):
        fetch(server.address + PLAIN, folder=tmp_path, retries=0)
    assert len(server.seen) == 5, "retries=0: one attempt"
    assert left(tmp_path) == {f"{NAMED}.part"}
    server.then = "whole"
    fetch(server.address + NAMED, folder=tmp_path, retries=0)
    assert server.seen[-1]["from"] == len(CONTENT) // 2


def test_an_attempt_that_brings_something_new_costs_no_retry(server, tmp_path):
    server.script = ["cut"] * 8
    fetch(server.address + NAMED, folder=tmp_path, retries=1)
    assert len(server.seen) == 9 and server.sent == len(CONTENT)


def test_a_server_may_ask_for_a_longer_pause(server, tmp_path, pauses, monkeypatch):
    monkeypatch.setattr(Server, "rest", "7", raising=False)
    server.script = ["503"]
    fetch(server.address + NAMED, folder=tmp_path)
    assert pauses == [7]
    server.rest, server.script = "²", ["503"]
    fetch(server.address + PLAIN, folder=tmp_path)
    assert pauses == [7, 0.5]


def test_what_takes_long_is_said_unless_quiet(server, tmp_path, capfd, monkeypatch):
    fetch(server.address + NAMED, folder=tmp_path / "quick")
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(download, "PATIENCE", 0.05)
    for quiet in (True, False):
        server.script, folder = ["cut", "slow"], tmp_path / str(quiet)
        given = {"folder": folder, "progress": not quiet}
        first = threading.Thread(target=fetch, args=[server.address + NAMED], kwargs=given)
        first.start()
        while not folder.exists() or not any(folder.iterdir()):
            time.sleep(0.001)
        fetch(server.address + NAMED, **given)
        first.join()
        said, shown = capfd.readouterr()
        assert said == "" and (not quiet or shown == "")
    assert f"{NAMED}: the connection ended after" in shown
    assert f"waiting for the process that downloads {NAMED}" in shown
    assert f"{NAMED}:  " in shown and "B/s]" in shown


def test_an_interrupted_download_is_resumed(server, tmp_path, monkeypatch):
    def interrupt(seconds):
        raise KeyboardInterrupt

    for name, stays in ((NAMED, {f"{NAMED}.part"}), (PLAIN, set())):
        server.script = ["cut"]
        with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
            context.setattr(time, "sleep", interrupt)
            fetch(server.address + name, folder=tmp_path)
        assert left(tmp_path) == stays
        fetch(server.address + name, folder=tmp_path)
        (tmp_path / name).unlink()
    assert [row["from"] > 0 for row in server.seen] == [False, True, False, False]


def test_threads_download_once(server, tmp_path):
    server.then = "slow"
    given = {"args": [server.address + NAMED], "kwargs": {"folder": tmp_path}}
    threads = [threading.Thread(target=fetch, **given) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.seen) == 1 and left(tmp_path) == {NAMED}


def test_a_disk_that_is_full_is_named(server, tmp_path, monkeypatch):
    def full(path, mode="r"):
        if "w" in mode:
            path.touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return builtins.open(path, mode)

    monkeypatch.setattr(download, "open", full, raising=False)
    with pytest.raises(OSError, match=r"No space left on device.*with room.*TORCH_HOME") as caught:
        fetch(server.address + NAMED, folder=tmp_path)
    assert caught.value.errno == errno.ENOSPC and str(tmp_path / NAMED) in str(caught.value)
    assert left(tmp_path) == set()


def test_a_folder_in_the_files_place_is_an_error(server, tmp_path):
    (tmp_path / NAMED).mkdir()
    with pytest.raises(IsADirectoryError, match="cannot be kept"):
        fetch(server.address + NAMED, folder=tmp_path)


@pytest.mark.parametrize(("word", "asked"), [("1", 0), ("yes", 0), ("0", 1), ("", 1), ("False", 1)])
def test_offline_by_the_environment(word, asked, server, tmp_path, monkeypatch):
    monkeypatch.setenv("EASYDL_OFFLINE", word)
    try:
        fetch(server.address + NAMED, folder=tmp_path)
    except FileNotFoundError as error:
        assert f"{server.address}{NAMED}" in str(error) and repr(str(tmp_path)) in str(error)
    assert len(server.seen) == asked
    fetch(server.address + PLAIN, folder=tmp_path, offline=False)
    with pytest.raises(FileNotFoundError):
        fetch(server.address + "other.pth", folder=tmp_path, offline=True)
    assert len(server.seen) == asked + 1


def test_https_is_never_left():
    handler = download._Redirects()
    for ours, theirs in (("https://a/x", "http://a/x"), ("http://a/x", "ftp://a/x")):
        with pytest.raises(OSError, match=f"leads from {ours[:5].rstrip(':')} to {theirs}"):
            handler.redirect_request(Request(ours), io.BytesIO(), 302, "Found", {}, theirs)
    for ours, theirs in (("https://a/x", "https://b/y"), ("http://a/x", "https://a/x")):
        found = handler.redirect_request(Request(ours), io.BytesIO(), 302, "Found", {}, theirs)
        assert found.full_url == theirs


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate with openssl")
def test_https_without_a_certificate_that_counts_is_refused_at_once(server, tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = server.address.replace("http:", "https:") + NAMED
    tries = []
    monkeypatch.setattr(time, "sleep", tries.append)
    with pytest.raises(ConnectionError, match="certificate"):
        fetch(url, folder=tmp_path / "cache")
    assert tries == []
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert fetch(url, folder=tmp_path / "cache").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"url": 3}, "url=3 was given"),
        ({"url": None}, "url=None"),
        ({"url": "net.pth"}, "give its path"),
        ({"url": "file:///tmp/net.pth"}, "give its path"),
        ({"url": "https://example.org"}, "ends in a file's name"),
        ({"url": "https://example.org/weights/"}, "ends in a file's name"),
        ({"url": "https://example.org/.."}, "ends in a file's name"),
        ({"url": "https://example.org/a\\..\\b.pth"}, "ends in a file's name"),
        ({"url": "https:///net.pth"}, "such as"),
        ({"url": "https://example.org:port/net.pth"}, "such as"),
        ({"url": "https://example..org/net.pth"}, "such as"),
        ({"url": f"https://{'a' * 64}.org/net.pth"}, "such as"),
        ({"url": "https://name:word@example.org/net.pth"}, "such as"),
        ({"url": "https://example.org/größe.pth"}, "%C3%BC"),
        ({"url": "https://example.org/a b.pth"}, "such as"),
        ({"url": "https://example.org/a\r\nb.pth"}, "such as"),
        ({"sha256": "0a1b2c3d"}, "64 hexadecimal digits"),
        ({"sha256": 7}, "64 hexadecimal digits"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": None}, "timeout=None"),
        ({"retries": -1}, "retries=-1"),
        ({"retries": 1.5}, "retries=1.5"),
        ({"progress": "no"}, "progress='no'"),
        ({"offline": "no"}, "offline='no'"),
        ({"folder": ""}, "folder=''"),
    ],
)
def test_arguments_that_make_no_sense(given, words, server, tmp_path):
    with pytest.raises(ValueError) as caught:
        fetch(**{"url": server.address + NAMED, "folder": tmp_path, **given})
    assert words in str(caught.value) and len(str(caught.value)) <= 600
    assert server.seen == [] and left(tmp_path) == set()


def test_messages_stay_short(tmp_path, server):
    long = f"{server.address}{'a' * 150}/{'n' * 120}.pth?token={'t' * 300}"
    server.then = "404"
    deep = tmp_path / ("f" * 30)
    for error, options in ((ConnectionError, {}), (FileNotFoundError, {"offline": True})):
        with pytest.raises(error) as caught:
            fetch(long, folder=deep, **options)
        assert len(str(caught.value)) <= 600 + len(str(deep)), "the folder is said in full"
        assert str(deep) in str(caught.value) and "n" * 120 + ".pth" in str(caught.value)

"""Sixteen ways in which a download goes wrong, by ``easydl.vision.download.fetch`` and torch.hub.

Right is: in the end the true file is there under its name, or there is an error and nothing under
that name that another program would take for it; nothing is downloaded twice. Unclear is an error
that does not say what to do. A server on this machine plays the network.

    python -m proofs.downloads
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch

from easydl.vision import download
from proofs.full_disk import full_after, locked
from tests.vision.server import Server

Get = Callable[..., object]
PROXIES = ["http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy"]
fork = multiprocessing.get_context("fork")


def weights() -> bytes:
    file = io.BytesIO()
    torch.save({"weight": torch.arange(100_000.0)}, file)
    return file.getvalue()


CONTENT = weights()
PLAIN, NAMED = "net.pth", f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


def hub(url: str, *, folder: Path, offline: bool = False, timeout: float = 0) -> None:
    """torch.hub with all that it offers; it knows neither time-outs nor an offline mode."""
    urllib.request.install_opener(None)  # which would remember an earlier proxy
    torch.hub.load_state_dict_from_url(
        url, str(folder), check_hash=True, progress=False, weights_only=True
    )


def is_right(path: Path) -> None:
    assert path.is_file(), "no file"
    assert path.read_bytes() == CONTENT, "another file"


def nothing_else(folder: Path, *names: str) -> None:
    found = {entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock")}
    assert found == set(names), f"files: {sorted(found)}"


@contextlib.contextmanager
def refused(server: Server, *words: str) -> Iterator[None]:
    """An error; a clear one has these words."""
    try:
        yield
    except Exception as error:
        if len(str(error)) > 600:
            server.unclear.append("an error of many words")
        for word in words:
            if word not in str(error):
                server.unclear.append(f"{type(error).__name__} without {word!r}")
    else:
        raise AssertionError("no error")


def process(get: Get, url: str, folder: Path):
    """``get`` in a process of its own, which exits with 0 where it went well."""
    child = fork.Process(target=get, args=(url,), kwargs={"folder": folder}, daemon=True)
    child.start()
    return child


def cut_with_hash(get: Get, server: Server, folder: Path) -> None:
    server.script = ["cut", "cut"]
    get(server.address + NAMED, folder=folder)
    is_right(folder / NAMED)
    assert server.sent == len(CONTENT), "downloaded twice"


def cut_without_hash(get: Get, server: Server, folder: Path) -> None:
    server.script = ["cut", "cut"]
    get(server.address + PLAIN, folder=folder)
    is_right(folder / PLAIN)
    assert server.sent == len(CONTENT), "downloaded twice"


def html_instead_of_weights(get: Get, server: Server, folder: Path) -> None:
    server.then = "html"
    for name in (NAMED, PLAIN):
        with refused(server, "HTML"):
            get(server.address + name, folder=folder)
        nothing_else(folder)
    assert len(server.seen) == 2, "asked again"


def not_found(get: Get, server: Server, folder: Path) -> None:
    server.then = "404"
    with refused(server, "404"):
        get(server.address + NAMED, folder=folder)
    nothing_else(folder)
    assert len(server.seen) == 1, "asked again"


def unavailable_then_good(get: Get, server: Server, folder: Path) -> None:
    server.script = ["503", "503"]
    get(server.address + NAMED, folder=folder)
    is_right(folder / NAMED)


def stalled(get: Get, server: Server, folder: Path) -> None:
    server.script = ["stall"]
    get(server.address + NAMED, folder=folder, timeout=0.3)
    is_right(folder / NAMED)


def redirected(get: Get, server: Server, folder: Path) -> None:
    server.script = ["elsewhere", "elsewhere"]
    get(server.address + NAMED, folder=folder)
    is_right(folder / NAMED)
    assert len(server.seen) == 3


def damaged(get: Get, server: Server, folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    path.write_bytes(content)
    with refused(server, name, str(folder)):
        get(server.address + name, folder=folder, offline=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        get(server.address + name, folder=folder)
    is_right(path)
    assert any(name in str(warning.message) for warning in said), "silent"


def bit_flip_in_the_cache(get: Get, server: Server, folder: Path) -> None:
    flipped = bytearray(CONTENT)
    flipped[len(CONTENT) // 2] ^= 1
    for name in (NAMED, PLAIN):
        damaged(get, server, folder, name, bytes(flipped))


def truncated_cache(get: Get, server: Server, folder: Path) -> None:
    for name in (NAMED, PLAIN):
        damaged(get, server, folder, name, CONTENT[: len(CONTENT) // 2])


def eight_processes(get: Get, server: Server, folder: Path) -> None:
    server.then = "slow"
    children = [process(get, server.address + NAMED, folder) for _ in range(8)]
    for child in children:
        child.join(20)
    assert [child.exitcode for child in children] == [0] * 8, "a process failed"
    is_right(folder / NAMED)
    assert len(server.seen) == 1, f"{len(server.seen)} downloads"


def kill_amid(child, server: Server, sent: int) -> None:
    for _ in range(1000):
        if server.sent > sent:
            break
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()


def lock_holder_killed(get: Get, server: Server, folder: Path) -> None:
    server.script = ["slow"]
    first = process(get, server.address + NAMED, folder)
    while not server.seen:
        time.sleep(0.01)
    second = process(get, server.address + NAMED, folder)
    kill_amid(first, server, len(CONTENT) // 3)
    assert not (folder / NAMED).exists() or (folder / NAMED).read_bytes() == CONTENT
    second.join(20)
    assert second.exitcode == 0, "the second failed"
    is_right(folder / NAMED)
    nothing_else(folder, NAMED)


def killed_amid_the_download(get: Get, server: Server, folder: Path) -> None:
    server.script = ["slow"]
    kill_amid(process(get, server.address + NAMED, folder), server, len(CONTENT) // 3)
    assert not (folder / NAMED).exists(), "half a file"
    get(server.address + NAMED, folder=folder)
    is_right(folder / NAMED)
    nothing_else(folder, NAMED)
    assert server.seen[-1]["from"] > 0, "not resumed"


def read_only_cache(get: Get, server: Server, folder: Path) -> None:
    (folder / NAMED).write_bytes(CONTENT)
    with locked(folder):
        get(server.address + NAMED, folder=folder)
        assert server.seen == []
        with refused(server, "TORCH_HOME", str(folder)):
            get(server.address + PLAIN, folder=folder)
    with refused(server, "TORCH_HOME"):
        get(server.address + NAMED, folder=folder / NAMED / "below a file")
    nothing_else(folder, NAMED)


def full_disk(get: Get, server: Server, folder: Path) -> None:
    with full_after(len(CONTENT) // 2), refused(server, str(folder), "room"):
        get(server.address + NAMED, folder=folder)
    nothing_else(folder)


def offline(get: Get, server: Server, folder: Path) -> None:
    with mock.patch.dict(os.environ, EASYDL_OFFLINE="1"):
        with refused(server, str(folder), NAMED, server.address + NAMED):
            get(server.address + NAMED, folder=folder)
        (folder / NAMED).write_bytes(CONTENT)
        get(server.address + NAMED, folder=folder)
    assert server.seen == [], "not offline"
    nothing_else(folder, NAMED)
    nowhere = "http://127.0.0.1:9/" + PLAIN  # where no server listens
    with refused(server, str(folder), nowhere):
        get(nowhere, folder=folder)
    nothing_else(folder, NAMED)


def proxy(get: Get, server: Server, folder: Path) -> None:
    url = "http://weights.invalid/" + NAMED
    with mock.patch.dict(os.environ, http_proxy=f"http://127.0.0.1:{server.server_port}"):
        os.environ.pop("no_proxy")
        get(url, folder=folder)
    is_right(folder / NAMED)
    assert server.seen[0]["path"] == url


CASES = [
    cut_with_hash, cut_without_hash, html_instead_of_weights, not_found, unavailable_then_good,
    stalled, redirected, bit_flip_in_the_cache, truncated_cache, eight_processes,
    lock_holder_killed, killed_amid_the_download, read_only_cache, full_disk, offline, proxy,
]  # fmt: skip


def wrong(case: Callable, get: Get, seconds: int = 30) -> str | None:
    """What goes wrong in a case, in words; ``None``: nothing."""

    def late(*_: object) -> None:
        raise RuntimeError(f"hangs for {seconds} s")  # a TimeoutError would be tried again

    environment = {k: v for k, v in os.environ.items() if k.lower() not in PROXIES}
    environment |= {"no_proxy": "127.0.0.1", "EASYDL_OFFLINE": ""}
    handler = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            Server({PLAIN: CONTENT, NAMED: CONTENT}) as server,
            mock.patch.dict(os.environ, environment, clear=True),
            mock.patch.object(download, "PAUSE", 0.01),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            Path(folder).chmod(0o755)  # so that another user sees into it
            case(get, server, Path(folder))
    except AssertionError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    return f"unclear: {server.unclear[0].replace(folder, '…')}" if server.unclear else None


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    right, unclear = [0, 0], [0, 0]
    print("| case | easydl | torch.hub |\n|---|---|---|")
    for case in CASES:
        found = [wrong(case, download.fetch), wrong(case, hub, 8)]
        for column, problem in enumerate(found):
            right[column] += problem is None
            unclear[column] += bool(problem and problem.startswith("unclear"))
        cells = [f"{problem:.90}" if problem else "right" for problem in found]
        print("|", " | ".join([case.__name__.replace("_", " "), *cells]), "|", flush=True)
    print(
        f"right: easydl {right[0]}, torch.hub {right[1]} (and {unclear[1]} unclear) | "
        f"goal: {len(CASES)}"
    )
    sys.exit(right[0] != len(CASES))

"""Weights that arrive: checked, resumed, and downloaded once for all processes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import ssl
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import torch
from safetensors import safe_open
from tqdm import tqdm

from easydl.errors import check_between, check_flag, check_path, check_positive_int, warn_user

__all__ = ["fetch"]

AGAIN = {408, 416, 425, 429, 500, 502, 503, 504}  # answers that another attempt may mend
BLOCK = 1 << 20
PATIENCE = 2.0  # seconds after which waiting is said, and a bar is drawn
PAUSE = 0.5  # seconds before the second attempt; doubled for each further one


def fetch(
    url: str,
    *,
    sha256: str | None = None,
    folder: str | os.PathLike | None = None,
    timeout: float = 30.0,
    retries: int = 4,
    progress: bool = True,
    offline: bool | None = None,
) -> Path:
    """The file of a URL, from the cache of ``torch.hub`` or downloaded into it, and checked.

    The file bears the name that ``torch.hub.load_state_dict_from_url`` gives it. Its SHA-256 is
    compared at every call: the one given, else the beginning of it in the name, as torchvision
    writes it (``resnet18-f37072fd.pth``). Where there is neither, the length must be the server's
    and the file a zip file with right checksums, a whole safetensors file, or begin as a pickle.
    A damaged file is downloaded again, with a warning. Until all of it is there and right, the
    file is called ``NAME.part``; a later call goes on from it where a SHA-256 can tell that the
    parts fit. Proxies are those of the environment (``https_proxy`` …).

    Args:
        url: Address, ``https://…`` or ``http://…``; its last part is the file's name.
        sha256: The publisher's SHA-256 of the file, 64 hexadecimal digits.
        folder: Folder for the file; ``None``: ``checkpoints`` in ``torch.hub.get_dir()``.
        timeout: Seconds without a connection or without a single byte that end an attempt.
        retries: Further attempts after one that brought nothing new, with growing pauses.
        progress: Whether a download of more than 2 s shows a bar, and further attempts are said.
        offline: Whether nothing is downloaded; ``None``: as ``EASYDL_OFFLINE`` says (``1``: yes).

    Raises:
        ConnectionError: The server cannot be reached, or answers with an error.
        FileNotFoundError: Offline, and the file is not there.
        ValueError: What came, or what is there offline, is not the file.
        OSError: The folder cannot be written to, or is full.

    Example:
        >>> fetch("https://example.org/tiny-0a1b2c3d.pth", folder="weights", offline=True)
        Traceback (most recent call last):
        FileNotFoundError: 'tiny-0a1b2c3d.pth' is not there, and nothing is downloaded offline; \
expected the file. Download https://example.org/tiny-0a1b2c3d.pth where there is a network and \
put it into the folder 'weights' under that name.
    """
    name = _name_of(url)
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", str(sha256)):
        raise ValueError(
            f"sha256={sha256!r:.80} was given; expected 64 hexadecimal digits, or None for those "
            "in the file's name."
        )
    in_name = re.search(r"-([0-9a-f]{8,64})\.", name)
    digest = sha256.lower() if sha256 else in_name[1] if in_name else None
    check_between("timeout", timeout, 0, 86400, ends="(]")
    check_positive_int("retries", retries, minimum=0)
    check_flag("progress", progress)
    if offline is None:
        offline = os.environ.get("EASYDL_OFFLINE", "").lower() not in ("", "0", "false", "no")
    check_flag("offline", offline)
    if folder is None:
        folder = Path(torch.hub.get_dir(), "checkpoints")
    path = check_path("folder", folder, "weights").expanduser() / name
    by_hand = (
        f"Download {url:.200} where there is a network and put it into the folder "
        f"{str(path.parent)!r} under that name."
    )
    with _disk_errors(path):
        wrong = _wrong(path, digest)
        if wrong is None:
            return path
        if offline and not path.exists():
            raise FileNotFoundError(
                f"{name!r} is not there, and nothing is downloaded offline; expected the "
                f"file. {by_hand}"
            )
        if offline:
            raise ValueError(f"{name!r} {wrong}; expected the file, whole. {by_hand}")
        if path.exists():
            warn_user(f"{str(path)!r:.300} {wrong}; it is downloaded again.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path, progress):
            if _wrong(path, digest) is not None:  # not while another process was waited for
                part = _Part(url, path.with_name(f"{name}.part"), digest, timeout)
                _download(part, retries, progress, by_hand)
                os.replace(part.path, path)
    return path


def _name_of(url: Any) -> str:
    """The file's name, as ``torch.hub`` takes it from a URL."""
    try:
        parts = urlsplit(url)
        name = os.path.basename(parts.path)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
        good = good and url.isascii() and url.isprintable() and " " not in url
        good = good and "@" not in parts.netloc and parts.hostname.encode("idna")
    except (ValueError, TypeError, AttributeError):
        good = False
    if not good or name in ("", ".", "..") or "\\" in name:
        raise ValueError(
            f"url={url!r:.200} was given; expected an address that ends in a file's name, such as "
            "'https://example.org/net-0a1b2c3d.pth' (other characters than ASCII as %C3%BC). "
            "A file that is here already needs no fetch: give its path."
        )
    return name


def _wrong(path: Path, digest: str | None) -> str | None:
    """What is wrong with a file, in words; ``None``: nothing, as far as can be seen."""
    if not path.exists():
        return "is not there"
    with open(path, "rb") as file:
        head = file.read(512)
        found = hashlib.sha256(head)
        while digest and (block := file.read(BLOCK)):
            found.update(block)
    if digest and found.hexdigest().startswith(digest):
        return None
    if not head:
        return "is empty"
    if head.lstrip(b"\xef\xbb\xbf\r\n\t ").startswith(b"<"):
        return "is an HTML page"
    if digest:
        return f"has the SHA-256 {found.hexdigest()} instead of {digest}"
    try:
        if head.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                member = archive.testzip()
            return f"is damaged in {member!r:.60}" if member else None
        if head[8:9] == b"{":
            with safe_open(path, "pt"):  # type: ignore[no-untyped-call]
                return None
    except OSError:
        raise
    except Exception as error:  # of many kinds: BadZipFile, zlib.error, SafetensorError …
        return f"is cut or damaged ({error!s:.80})"
    if head[0] == 0x80 and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return None
    return "begins as no file of weights (zip, pickle or safetensors)"


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Say where the file was to go, and what else may be done."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # of the network, and already in words
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise OSError(
            error.errno,
            f"{str(path)[-250:]!r} cannot be kept ({error.strerror}); expected a folder "
            f"{'with room for it' if full else 'where you may write'}. Set TORCH_HOME to another "
            "folder, or give folder=….",
        ) from error


@contextlib.contextmanager
def _alone(path: Path, progress: bool) -> Iterator[None]:
    """One process at a time; the lock is the system's and goes with its process."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        if progress:
            tqdm.write(f"waiting for the process that downloads {path.name}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Failed(Exception):
    """An attempt that failed; ``again``: another may not, after ``pause`` seconds."""

    def __init__(self, why: Any, again: bool = True, pause: str | None = None) -> None:
        super().__init__(why)
        self.again = again
        self.pause = min(int(pause), 60) if pause and pause.isdecimal() else 0


class _Redirects(HTTPRedirectHandler):
    """As urllib's, but never from https to anything else."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if not newurl.lower().startswith("https:" if req.type == "https" else "http"):
            raise HTTPError(newurl, code, f"leads from {req.type} to {newurl:.100}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass
class _Part:
    """The beginning of a file, under a name of its own."""

    url: str
    path: Path
    digest: str | None
    timeout: float
    version: str = ""  # the server's word for what this is the beginning of
    at_once: bool = False  # whether all of it came in one answer

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def ask(self, start: int) -> HTTPResponse:
        """The server's answer, from byte ``start`` on where it can."""
        request = Request(self.url, headers={"User-Agent": "easydl"})
        if start:
            request.add_header("Range", f"bytes={start}-")
        if start and self.version:
            request.add_header("If-Range", self.version)
        try:
            return build_opener(_Redirects).open(request, timeout=self.timeout)
        except HTTPError as error:
            error.close()
            if error.code == 416:  # the file ends before the part does
                self.path.unlink(missing_ok=True)
            said, pause = f"answer {error.code}: {error.reason}", error.headers.get("Retry-After")
            raise _Failed(said, error.code in AGAIN, pause) from None
        except (OSError, HTTPException) as error:
            why = getattr(error, "reason", error)
            raise _Failed(why, not isinstance(why, ssl.SSLCertVerificationError)) from None

    def grow(self, progress: bool) -> None:
        """One attempt at the rest of the file, or at all of it where the parts may not fit."""
        start = self.size() if self.digest or self.version else 0
        with self.ask(start) as answer:
            if answer.status != 206:
                start = 0
            elif not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                self.path.unlink(missing_ok=True)
                raise _Failed("another part came than was asked for")
            tag = answer.headers.get("ETag", "W/")  # W/: equal for files that are only similar
            self.version = answer.headers.get("Last-Modified", "") if tag[:2] == "W/" else tag
            total = None if answer.length is None else start + answer.length
            self.at_once = not start and (total is not None or answer.chunked)
            size = {"initial": start, "total": total, "unit": "B", "unit_scale": True}
            bar = tqdm(desc=self.path.stem, delay=PATIENCE, disable=not progress, **size)
            with open(self.path, "ab" if start else "wb") as file, bar:
                done = start
                while total is None or done < total:
                    try:
                        block = answer.read1(BLOCK if total is None else min(BLOCK, total - done))
                    except (OSError, HTTPException) as error:
                        raise _Failed(f"{error!s:.100} after {done:,} bytes") from None
                    if not block:
                        break
                    file.write(block)
                    done += len(block)
                    bar.update(len(block))
                file.flush()
                os.fsync(file.fileno())
        if total is not None and done < total:
            raise _Failed(f"the connection ended after {done:,} of {total:,} bytes")


def _download(part: _Part, retries: int, progress: bool, by_hand: str) -> None:
    """Make the part whole and right, or raise; it stays only where a later call can go on."""
    name, failures = part.path.stem, 0
    most = part.size() if part.digest else 0
    try:
        while True:
            try:
                part.grow(progress)
                wrong = _wrong(part.path, part.digest)
                if wrong is None:
                    return
                if part.at_once:
                    raise ValueError(
                        f"what {part.url:.160} gives {wrong}; expected the file of weights. Look "
                        "at the address; where the file is right, write its SHA-256: sha256='…'."
                    )
                part.path.unlink()
                raise _Failed(f"the file {wrong}")
            except _Failed as why:
                failures = 1 if part.size() > most else failures + 1
                most = max(most, part.size())
                if failures > retries or not why.again:
                    raise ConnectionError(
                        f"{name!r} could not be downloaded ({why!s:.160}); expected the "
                        f"server to send it. {by_hand}"
                    ) from None
                if progress:
                    tqdm.write(f"{name}: {why!s:.200}; trying again", file=sys.stderr)
                time.sleep(max(why.pause, min(PAUSE * 2 ** (failures - 1), 30)))
    except BaseException as error:
        if part.digest is None or not isinstance(error, (ConnectionError, KeyboardInterrupt)):
            part.path.unlink(missing_ok=True)
        raise

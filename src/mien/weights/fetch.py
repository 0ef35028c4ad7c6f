"""Downloads that end in the right file or in none: resumed, bounded, hashed while they come, put in place at once.

    target.part        what has come so far
    target.part.json   the address it came from and that server's strong ETag, for If-Range
    target             appears by one rename, after size and SHA-256 were right and the bytes were on the disk

A server is never believed. What it says about length may end an attempt early; what is kept is decided by the declared
size and hash alone.
"""

from __future__ import annotations

import email.utils
import errno
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from mien.errors import DownloadError, HashMismatch, MienError

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes of the whole file."""

CHUNK = 1 << 18
HEADWAY = 1 << 20  # an attempt that brought this much starts the count of failures anew, so that size sets no limit
LONGEST_PAUSE = 30.0
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}
_chance = random.SystemRandom()  # the caller may have seeded the shared one
_PASSING = {408, 425, 429, 500, 502, 503, 504}


class _Passing(Exception):
    """Worth another attempt at the same address."""

    def __init__(self, reason: str, *, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class _Useless(Exception):
    """This address will not give the file, however often it is asked."""


class _Wrong(_Useless):
    """It gave a whole file, and it is another one."""

    def __init__(self, reason: str, digest: str) -> None:
        super().__init__(reason)
        self.digest = digest


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after not in ("http", "https") or (before == "https" and after != "https"):
            raise _Useless(f"redirects from {before} to {after}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass
class _Part:
    """The unfinished file: its bytes, their running hash, and where they came from."""

    path: Path
    have: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    etag: dict[str, str] = field(default_factory=dict)

    def resume(self, limit: int) -> None:
        """Takes up what an earlier download left, unless it is more than `limit` bytes."""
        with suppress(FileNotFoundError, ValueError, TypeError):
            self.etag = dict(json.loads(self.note.read_text("utf-8")))
        with suppress(FileNotFoundError):
            if self.path.stat().st_size > limit:
                self.drop()
                return
            with self.path.open("rb") as file:
                while block := file.read(CHUNK):
                    self.digest.update(block)
                    self.have += len(block)

    @property
    def note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.have, self.digest, self.etag = 0, hashlib.sha256(), {}

    def remember(self, url: str, etag: str | None) -> None:
        # A weak validator promises equal meaning, not equal bytes, so it may not be used with If-Range.
        self.etag = {url: etag} if etag and not etag.startswith("W/") else {}
        self.note.write_text(json.dumps(self.etag), "utf-8")


def fetch(
    urls: Sequence[str],
    target: Path,
    *,
    sha256: str,
    size: int,
    timeout: float = 30.0,
    attempts: int = 4,
    pause: float = 1.0,
    progress: Progress | None = None,
) -> None:
    """Downloads one file to `target`. The caller sees to it that nobody else writes the same target.

    Parameters
    ----------
    urls
        Where the file lies; the next one is asked when one has failed for good.
    target
        Where it goes; its folder exists. ``target.part`` from an earlier, broken download is continued.
    sha256, size
        What the file must be; size in bytes.
    timeout
        Seconds without a single byte after which an attempt is given up.
    attempts
        Failures in a row, per address, that end the download; an attempt that brought at least 1 MiB counts as none.
    pause
        Seconds before the second attempt, doubled for each further one up to half a minute, with a little chance.
    progress
        Called after every block.

    Raises
    ------
    DownloadError
        No address gave the file; or the disk is full or may not be written.
    HashMismatch
        The file came whole from every address that gave one, and was another one.
    """
    part = _Part(target.with_name(target.name + ".part"))
    failures: list[tuple[str, Exception]] = []
    try:
        part.resume(size)
        _check_room(part, size)
        for url in urls:
            try:
                _from_one(url, part, sha256, size, timeout, attempts, pause, progress)
            except (_Passing, _Useless) as error:
                failures.append((url, error))
                continue
            _put_in_place(part, target)
            return
    except OSError as error:
        raise _disk_error(error, part, size) from error
    reasons = "; ".join(f"{url}: {error}" for url, error in failures)
    wrong = [error.digest for _, error in failures if isinstance(error, _Wrong)]
    if wrong:
        raise HashMismatch(
            f"{target.name} was downloaded and is not the file that was declared ({reasons})",
            got=wrong[0],
            expected=sha256,
            hint="the address serves another file: report it, and do not use what it serves",
        )
    raise DownloadError(
        f"{target.name} could not be downloaded ({reasons})",
        got=f"{part.have} of {size} bytes",
        hint="run the same command again: what has come is kept and continued" if part.have else "check the network",
    )


def _from_one(
    url: str,
    part: _Part,
    sha256: str,
    size: int,
    timeout: float,
    attempts: int,
    pause: float,
    progress: Progress | None,
) -> None:
    """Brings `part` to the declared size and hash from one address, or raises _Passing or _Useless."""
    failed, most, restarted = 0, part.have, False
    while True:
        inherited = part.have > 0
        try:
            if part.have < size:
                _attempt(url, part, size, timeout, progress)
            digest = part.digest.hexdigest()
            if digest == sha256:
                return
            part.drop()
            # Bytes of an earlier day, or of another mirror, may be what is wrong: this address gets one clean start.
            if not inherited or restarted:
                raise _Wrong(f"SHA-256 is {digest}, not the declared one", digest)
            restarted = True
        except _Passing as error:
            # Headway is measured from the furthest point ever reached, so that no server can keep us going for ever.
            failed = 1 if part.have - most >= HEADWAY else failed + 1
            most = max(most, part.have)
            if failed >= attempts:
                raise
            wait = min(LONGEST_PAUSE, pause * 2 ** (failed - 1)) * _chance.uniform(0.75, 1.25)
            time.sleep(wait if error.after is None else min(LONGEST_PAUSE, max(wait, error.after)))


def _attempt(url: str, part: _Part, size: int, timeout: float, progress: Progress | None) -> None:
    """One request, appended to `part`; ends when the declared size is there."""
    from mien._version import __version__

    headers = {"User-Agent": f"mien/{__version__}", "Accept-Encoding": "identity"}
    if part.have:
        headers["Range"] = f"bytes={part.have}-"
        if etag := part.etag.get(url):
            headers["If-Range"] = etag
    opener = urllib.request.build_opener(_Redirects)
    try:
        answer = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and part.have:
                part.drop()
                raise _Passing("has less than was kept of it; starting anew") from error
            reason = f"HTTP {error.code} {error.reason}"
            if error.code in _PASSING:
                raise _Passing(reason, after=_retry_after(error.headers.get("Retry-After"))) from error
            raise _Useless(reason) from error
    except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
        raise _Passing(_reason(error, timeout)) from error
    with answer:
        _begin(url, answer, part, size)
        with part.path.open("ab") as file:
            # The declared size ends the attempt, whatever else the server would send: the hash says whether it is all.
            while part.have < size:
                try:
                    block = answer.read1(min(CHUNK, size - part.have))
                except (OSError, http.client.HTTPException) as error:
                    raise _Passing(_reason(error, timeout)) from error
                if not block:
                    break
                file.write(block)
                part.digest.update(block)
                part.have += len(block)
                if progress is not None:
                    progress(part.have, size)
            file.flush()
            os.fsync(file.fileno())
    if part.have < size:
        raise _Passing(f"broke off after {part.have} of {size} bytes")


def _begin(url: str, answer: http.client.HTTPResponse, part: _Part, size: int) -> None:
    """Compares what the server announces with what was asked, and starts anew where it sends the whole file."""
    if answer.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", "").strip())
        if found is None or int(found[1]) != part.have:
            part.drop()
            raise _Passing("sent another part than was asked for; starting anew")
        whole = None if found[2] == "*" else int(found[2])
    elif answer.status == 200:
        if part.have:
            part.drop()
        length = answer.headers.get("Content-Length", "")
        whole = int(length) if length.isdecimal() else None
        part.remember(url, answer.headers.get("ETag"))
    else:
        raise _Useless(f"HTTP {answer.status} {answer.reason}")
    if whole is not None and whole != size:
        raise _Useless(f"says it has {whole} bytes, and {size} are declared")


def _put_in_place(part: _Part, target: Path) -> None:
    # The bytes were synced by the attempt that wrote them; a part found complete on the disk is synced here.
    with part.path.open("r+b") as file:
        os.fsync(file.fileno())
    os.replace(part.path, target)
    part.note.unlink(missing_ok=True)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_room(part: _Part, size: int) -> None:
    free = shutil.disk_usage(part.path.parent).free
    if free < size - part.have:
        raise _no_room(part, size, f"{free / 1e6:.1f} MB are free")


def _disk_error(error: OSError, part: _Part, size: int) -> MienError:
    if error.errno in _FULL:
        return _no_room(part, size, error.strerror)
    return DownloadError(
        f"The download could not be written: {error.strerror or error}",
        got=str(part.path),
        hint="give rights to the folder, or set MIEN_HOME to another one",
    )


def _no_room(part: _Part, size: int, got: str | None) -> DownloadError:
    return DownloadError(
        f"The disk of {part.path.parent} is full",
        got=got,
        expected=f"{(size - part.have) / 1e6:.1f} MB more",
        hint="make room, or set MIEN_HOME to a folder on another disk; then run the same command again",
    )


def _reason(error: Exception, timeout: float) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no byte for {timeout:g} s"
    return str(cause) or type(cause).__name__


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None

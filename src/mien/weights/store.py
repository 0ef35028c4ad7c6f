"""Where files of weights lie on this machine, and how they get there.

    MIEN_HOME/weights/NAME-HASH.safetensors   what was downloaded; HASH is the first twelve digits of its SHA-256
    MIEN_HOME/onnx/                           what the onnx backend exported from them
    MIEN_HOME/licences.json                   the licences that were accepted here

Without MIEN_HOME it is the user's data folder of the system. Bundled files lie in the package and are never copied.
Nothing but `get` uses the network.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from mien.errors import (
    HashMismatch,
    LicenceNotAccepted,
    OfflineError,
    OptionError,
    WeightsError,
    WeightsUnavailable,
)
from mien.weights.declare import BUNDLED, Weights, info
from mien.weights.fetch import Progress, fetch, sync_folder

HOME, OFFLINE = "MIEN_HOME", "MIEN_OFFLINE"
"""The two environment variables."""

State = Literal["bundled", "downloaded", "on this machine", "not downloaded", "missing"]

_seen: dict[Path, tuple[str, tuple[int, ...]]] = {}
"""Files whose hash was right: the hash, and the state the file was in."""


# ------------------------------------------------------------------------------------------- places


def home() -> Path:
    """The folder for everything mien keeps: MIEN_HOME, or the user's data folder of the system.

    Linux: ``$XDG_DATA_HOME/mien`` or ``~/.local/share/mien``; macOS: ``~/Library/Application Support/mien``;
    Windows: ``%LOCALAPPDATA%\\mien``. It need not exist.

    Raises
    ------
    OptionError
        The system knows no home of this user.
    """
    try:
        if chosen := os.environ.get(HOME, "").strip():
            return Path(chosen).expanduser().absolute()
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Application Support" / "mien"
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA", "")
            return (Path(local) if local else Path.home() / "AppData" / "Local") / "mien"
        shared = Path(os.environ.get("XDG_DATA_HOME", ""))
        # The XDG specification has relative paths ignored.
        return (shared if shared.is_absolute() else Path.home() / ".local" / "share") / "mien"
    except RuntimeError as error:
        raise OptionError(
            "this user has no home folder", got=error, hint=f"set {HOME} to the folder that mien may use"
        ) from error


def folder(name: str = "") -> Path:
    """The folder `name` in `home()`, made if need be; WeightsError if it cannot be."""
    path = home() / name
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the operating system says against writing `path` into a WeightsError."""
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"a file of mien cannot be written: {error.strerror or error}",
            got=error.filename or path,
            hint=f"give rights to the folder, or set {HOME} to another one",
        ) from error


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """The only right to write `target`, among all processes and threads of this machine; waits for it.

    The system takes the lock back when a process ends in any way. The empty ``.lock`` file beside `target` stays: to
    remove it would let two processes hold locks on two files of that name.
    """
    with target.with_name(f".{target.name}.lock").open("a+b") as file:
        _lock(file)
        yield  # closing the file gives the lock back


def _lock(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt

        while True:  # LK_LOCK gives up after ten seconds
            try:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            except PermissionError:
                time.sleep(0.1)
            else:
                return
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def write_whole(target: Path, data: bytes) -> None:
    """Writes `target` so that a reader, a second writer or a power cut never sees a part of it."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(target.parent)


# ------------------------------------------------------------------------------------------- what is here


def where(name: str | Weights) -> Path:
    """Where the file of those weights lies, or would lie."""
    weights = info(name)
    if weights.file is not None:
        return BUNDLED / weights.file if weights.bundled else Path(weights.file)
    return home() / "weights" / f"{weights.name}-{weights.sha256[:12]}{weights.suffix}"


def state(name: str | Weights) -> State:
    """In one word, whether the file is there; nothing is hashed."""
    weights = info(name)
    there = where(weights).is_file()
    if weights.file is None:
        return "downloaded" if there else "not downloaded"
    if not there:
        return "missing"
    return "bundled" if weights.bundled else "on this machine"


def path(name: str | Weights) -> Path:
    """The verified file of those weights.

    Its SHA-256 is computed once in a process, and again whenever the file's size or times have changed.

    Raises
    ------
    UnknownWeights
        Nothing of that name is declared.
    WeightsUnavailable
        The file is not on this disk, or cannot be read.
    HashMismatch
        The file is another one.
    """
    return _checked(info(name), again=False)


def verify(name: str | Weights) -> Path:
    """As `path`, but the bytes are read and hashed now, whatever this process knows already."""
    return _checked(info(name), again=True)


def _checked(weights: Weights, *, again: bool) -> Path:
    file = where(weights)
    try:
        with file.open("rb") as opened:
            before = _times(opened)
            if not again and _seen.get(file) == (weights.sha256, before):
                return file
            if before[0] != weights.size:
                raise _wrong(weights, file, f"{before[0]:,} bytes", f"{weights.size:,} bytes")
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            if digest != weights.sha256:
                raise _wrong(weights, file, digest, weights.sha256)
            if _times(opened) == before:  # else it was written to meanwhile
                _seen[file] = weights.sha256, before
    except OSError as error:
        raise _unavailable(weights, file, error) from error
    return file


def _times(file: IO[bytes]) -> tuple[int, ...]:
    found = os.fstat(file.fileno())
    # The change time betrays an edit after which the modification time was set back.
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


def _wrong(weights: Weights, file: Path, got: str, expected: str) -> HashMismatch:
    if weights.bundled:
        hint = "install mien again: the file was altered after it was installed"
    elif weights.urls:
        hint = f"replace it with: mien weights get {weights.name}"
    else:
        hint = "put the declared file there, or declare the hash and size of this one"
    return HashMismatch(f"{file} is not the file that was declared", got=got, expected=expected, hint=hint)


def _unavailable(weights: Weights, file: Path, error: OSError) -> WeightsUnavailable:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        what = f"the file of {weights.name} cannot be read: {error.strerror or error}"
        return WeightsUnavailable(what, got=file, hint="grant the right to read it, or remove what stands in its place")
    if weights.urls:
        what, hint = f"{weights.name} is not on this disk", f"fetch it with: mien weights get {weights.name}"
    elif weights.bundled:
        what, hint = f"{weights.name} comes with mien, and its file is missing", "install mien again"
    else:
        what, hint = f"the file of {weights.name} is missing", "put it there, or declare where it is"
    return WeightsUnavailable(what, expected=f"{file} ({weights.size / 1e6:.1f} MB)", hint=hint)


# ------------------------------------------------------------------------------------------- licences


def accepted(name: str | Weights) -> bool:
    """Whether the licence asks for no acceptance, or was accepted here; another text of it is another licence."""
    weights = info(name)
    return weights.permissive or _terms(weights) == {
        key: value for key, value in _licences().get(weights.name, {}).items() if key != "accepted"
    }


def accept(name: str | Weights) -> None:
    """Records in `home()` that the licence of those weights was accepted, with the time."""
    weights = info(name)
    if accepted(weights):
        return
    target = folder() / "licences.json"
    with writing(target), locked(target):
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        noted = {**_licences(), weights.name: {**_terms(weights), "accepted": now}}
        write_whole(target, (json.dumps(noted, indent=2, sort_keys=True) + "\n").encode())


def _terms(weights: Weights) -> dict[str, str]:
    return {"licence": weights.licence, "licence_url": weights.licence_url}


def _licences() -> dict[str, dict[str, str]]:
    file = home() / "licences.json"
    try:
        found = json.loads(file.read_bytes())
        return {str(name): dict(terms) for name, terms in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(
            "the list of accepted licences cannot be read",
            got=f"{file}: {error}",
            hint="delete it, and accept again",
        ) from error


# ------------------------------------------------------------------------------------------- downloads


def is_offline(asked: bool = False) -> bool:
    """Whether the network is switched off: by the caller, or by ``MIEN_OFFLINE=1``.

    Raises
    ------
    OptionError
        MIEN_OFFLINE is neither yes nor no.
    """
    value = os.environ.get(OFFLINE, "").strip().lower()
    if value not in ("", "0", "false", "no", "off", "1", "true", "yes", "on"):
        raise OptionError(f"{OFFLINE} is neither yes nor no", got=value, expected="1 or 0")
    return asked or value in ("1", "true", "yes", "on")


def get(
    name: str | Weights,
    *,
    accept_licence: bool = False,
    offline: bool = False,
    timeout: float = 30.0,
    attempts: int = 4,
    pause: float = 1.0,
    progress: Progress | None = None,
) -> Path:
    """Sees to it that the file of those weights is on this disk; the one function that downloads.

    A file that is there and right is not downloaded again; one that is there and wrong is replaced. A broken download
    goes on where it stopped. Of two processes that want the same file, one downloads and the other waits.

    Parameters
    ----------
    name
        Name or declaration of the weights.
    accept_licence
        Accept their licence, if it is not permissive; remembered for the next time.
    offline
        Download nothing; an environment variable ``MIEN_OFFLINE=1`` does the same.
    timeout
        Seconds without a single byte after which an attempt is given up.
    attempts
        Failures in a row, per address, that end the download.
    pause
        Seconds before the second attempt, doubled for each further one.
    progress
        Called as ``progress(bytes there, bytes of the file)`` after every block.

    Returns
    -------
    Path
        The verified file.

    Raises
    ------
    UnknownWeights
        Nothing of that name is declared.
    LicenceNotAccepted
        The licence is not permissive, and nobody has accepted it.
    OfflineError
        The file would have to be downloaded, and the network is switched off.
    DownloadError, HashMismatch
        The file could not be had, or another one came.
    WeightsUnavailable
        A file of the package or of this machine, which is never downloaded, is missing.
    """
    weights = info(name)
    if not weights.urls:
        return path(weights)
    if accept_licence:
        accept(weights)
    elif not accepted(weights):
        raise LicenceNotAccepted(
            f"the licence of {weights.name} is not permissive, and has not been accepted here",
            got=weights.licence,
            hint=f"read it ({weights.licence_url or weights.source}), then: "
            f"mien weights get {weights.name} --accept-licence (accept_licence=True)",
        )
    target = where(weights)
    if _is_right(weights):
        return target
    if is_offline(offline):
        raise OfflineError(
            f"{weights.name} would have to be downloaded, and the network is switched off",
            expected=f"{target} ({weights.size / 1e6:.1f} MB)",
            hint="go online, or copy the file there from a machine that has it",
        )
    folder("weights")
    with writing(target), locked(target):
        if not _is_right(weights):  # another process may have fetched it meanwhile
            fetch(
                weights.urls, target, sha256=weights.sha256, size=weights.size,
                timeout=timeout, attempts=attempts, pause=pause, progress=progress,
            )  # fmt: skip
    return path(weights)


def _is_right(weights: Weights) -> bool:
    try:
        path(weights)
    except (WeightsUnavailable, HashMismatch):
        return False
    return True

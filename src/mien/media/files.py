"""Files and file objects: reading all bytes with typed errors, writing so that nobody sees half a file."""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage

from mien.errors import (
    EmptyMedia,
    ImageTooLarge,
    MediaError,
    MediaForbidden,
    MediaNotFound,
    NotAFile,
    UnknownFormat,
)
from mien.media.formats import HEAD, PICTURES, sniff


def is_array(source: object) -> bool:
    """Whether `source` is an array or a tensor (torch is looked for, never imported)."""
    return hasattr(source, "__array__") or hasattr(source, "__array_interface__") or is_tensor(source)


def is_tensor(source: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def is_one(source: object) -> bool:
    """Whether `source` stands for itself, and is not a collection of sources."""
    single = isinstance(source, str | os.PathLike | bytes | bytearray | memoryview | PillowImage.Image)
    return single or hasattr(source, "read") or is_array(source) or not hasattr(source, "__iter__")


def source_name(source: object) -> str:
    """What to call `source` in a message or a result."""
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return "bytes"
    if isinstance(source, PillowImage.Image):
        filename = getattr(source, "filename", "")
        return filename if isinstance(filename, str) and filename else "picture"
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return name if isinstance(name, str) and name else "file object"
    if is_tensor(source):
        return "tensor"
    return "array" if is_array(source) else type(source).__name__


def read_bytes(source: object, *, max_pixels: int) -> tuple[bytes, str]:
    """All bytes of a path, a file object or bytes, and a name for messages.

    Raises
    ------
    MediaError
        MediaNotFound, MediaForbidden, NotAFile, EmptyMedia, or ImageTooLarge for a file that is larger than
        any picture of `max_pixels` could be.
    """
    # An uncompressed picture of 16 bit RGBA takes 8 bytes a pixel; twice that and something for metadata.
    limit = max_pixels * 16 + (64 << 20)
    name = source_name(source)
    if isinstance(source, str | os.PathLike):
        data = _read_path(os.fspath(source), name, limit)
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    elif hasattr(source, "read"):
        data = _read_file(source, name, limit)
    else:
        raise UnknownFormat(
            "this is no picture",
            got=f"a {type(source).__name__}",
            expected="a path, bytes, a file object, an array, a tensor or a PIL image",
            hint="give one picture" if not isinstance(source, list | tuple) else "for many use read_images(...)",
        )
    if not data:
        hint = "rewind it with seek(0)" if not isinstance(source, str | os.PathLike | bytes) else None
        raise EmptyMedia("there are no bytes", got=name, hint=hint)
    if len(data) > limit:
        raise ImageTooLarge(
            "more bytes than a picture of that many pixels can have",
            got=name,
            expected=f"at most {limit >> 20} MiB",
        )
    return data, name


def check_file(path: str | bytes) -> os.stat_result:
    """The file's `stat`; MediaNotFound, MediaForbidden or NotAFile unless a regular file is there."""
    name = os.fsdecode(path)
    if not name:
        raise MediaNotFound("the path is empty")
    try:
        found = os.stat(path)
    except OSError as error:
        hint = "mien downloads nothing: fetch the file first" if "://" in name else None
        raise of_os_error(error, name, hint=hint) from error
    except ValueError as error:  # a NUL in the name
        raise MediaNotFound("no file can have such a name", got=name) from error
    if stat.S_ISDIR(found.st_mode):
        raise NotAFile("this is a folder", got=name)
    if not stat.S_ISREG(found.st_mode):
        raise NotAFile("this is not a regular file", got=name, hint="read its bytes and pass them instead")
    return found


def of_os_error(error: OSError, path: object, *, hint: str | None = None) -> MediaError:
    """The MediaError that an error of the operating system means."""
    if isinstance(error, PermissionError):
        return MediaForbidden("no right to use this file", got=path)
    if isinstance(error, IsADirectoryError):
        return NotAFile("this is a folder", got=path)
    if isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno in (
        errno.ENAMETOOLONG,
        errno.ELOOP,
    ):
        return MediaNotFound("there is no such file", got=path, hint=hint)
    reason = os.strerror(error.errno) if error.errno else str(error)
    return MediaError(f"the operating system refuses: {reason}", got=path, hint=hint or "check the disk")


def _read_path(path: str | bytes, name: str, limit: int) -> bytes:
    size = check_file(path).st_size
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
            # A film or a log of many gigabytes is refused before it is read.
            if head and sniff(head) not in PICTURES:
                return head
            if size > limit:
                raise ImageTooLarge(
                    "more bytes than a picture of that many pixels can have",
                    got=f"{name}, {size >> 20} MiB",
                    expected=f"at most {limit >> 20} MiB",
                )
            return head + file.read(limit)
    except OSError as error:
        raise of_os_error(error, name) from error


def _read_file(file: Any, name: str, limit: int) -> bytes:
    parts: list[bytes] = []
    left = limit + 1
    while left > 0:  # a pipe or socket may give less than was asked for
        try:
            part = file.read(left)
        except (ValueError, TypeError, io.UnsupportedOperation) as error:  # closed, or not for reading
            hint = "open it with 'rb', and read before it is closed"
            raise MediaError("this file object cannot be read", got=f"{name}: {error}", hint=hint) from error
        except OSError as error:
            raise of_os_error(error, name) from error
        if not part:
            break
        if not isinstance(part, bytes | bytearray | memoryview):
            kind = "text" if isinstance(part, str) else type(part).__name__
            raise UnknownFormat(f"this file object reads {kind}", got=name, hint="open it in binary mode, 'rb'")
        parts.append(bytes(part))
        left -= len(part)
    return b"".join(parts)


def write_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a name beside `target`, then moves that file there: nobody ever sees a part of it.

    Errors of the operating system become MediaErrors; whatever fails, no part is left behind.
    """
    if target.is_dir():
        raise NotAFile(
            "a folder stands where the file should be written", got=target, hint="give the file another name"
        )
    partial = target.with_name(f".{target.stem[:32]}-{secrets.token_hex(4)}{target.suffix}")
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except OSError as error:
        hint = f"create the folder {target.parent} first" if not target.parent.is_dir() else None
        raise of_os_error(error, target, hint=hint) from error
    try:
        write(partial)
        os.replace(partial, target)
    except OSError as error:
        raise of_os_error(error, target) from error
    finally:
        with suppress(OSError):
            partial.unlink()

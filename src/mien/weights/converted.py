"""What papers' converters share: how a checkpoint is refused, and what a declaration says of a file they have written.

place, (arguments, source) = noted(file, lambda note: (json.loads(note["arguments"]), note["source"]))
return Weights(name=name, **place, arguments=arguments, …)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mien.errors import CheckpointError

__all__ = ["faults", "noted", "on_disk"]

T = TypeVar("T")
SHOWN = 4
"""Names of each kind that an error spells out."""


def faults(told: Mapping[str, Sequence[str]]) -> str:
    """Names of tensors by what is wrong with them, in words: ``2 missing (a, b); 1 unknown (c)``, or nothing."""
    return "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"
        for kind, names in told.items()
        if names
    )


def on_disk(file: str | Path) -> dict[str, Any]:
    """The fields `file`, `sha256` and `size` of a declaration, of a file that is there."""
    path = Path(file).absolute()
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return {"file": str(path), "sha256": digest, "size": path.stat().st_size}


def noted(file: str | Path, read: Callable[[Mapping[str, str]], T]) -> tuple[dict[str, Any], T]:
    """`on_disk` of a file, and what `read` makes of the notes that were written into it (texts by name).

    Parameters
    ----------
    file
        A safetensors file with notes.
    read
        Takes the notes. That something is missing, or not what it should be, it may tell by a KeyError, ValueError or
        TypeError.

    Raises
    ------
    CheckpointError
        The file cannot be read, or was not written by `import_official`.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(file).absolute()
    try:
        with safe_open(path, framework="pt") as tensors:
            notes = tensors.metadata() or {}
        told = read(notes)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read", got=error, expected="a file of import_official") from error
    return on_disk(path), told

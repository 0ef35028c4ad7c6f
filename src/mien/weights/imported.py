"""Weights that were imported on this machine: a converted file, and beside it its declaration.

    MIEN_HOME/imported/NAME.safetensors   the tensors
    MIEN_HOME/imported/NAME.json          their declaration, as `Weights.to_dict` has it

`keep` writes the two, `remove` deletes them; what lies there is known by its name in every later session, without being
registered. Names in `mien.weights.WEIGHTS` go first. The file is the one beside the declaration, so that the folder can
be moved, and its hash is checked on every load like that of all others. A damaged declaration is an error when it is
asked for by name, and never one of other weights.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mien.errors import MienError, OptionError, WeightsError
from mien.weights import declare, store
from mien.weights.declare import NAME, SAFE, Weights

FOLDER, NOTE = "imported", ".json"
CODE = ("mien.papers.", "mien.nn.")
"""Where the code lies that an imported declaration may name: a file that is copied here must not choose what runs."""

log = logging.getLogger(__name__)


# ------------------------------------------------------------------------------------------- what is here


def names() -> tuple[str, ...]:
    """Names of all imported weights, sorted; their declarations are not read."""
    try:
        found = os.listdir(_folder())
    except (FileNotFoundError, NotADirectoryError, OptionError):  # nothing was imported, or this user has no home
        return ()
    except OSError as error:
        log.warning("imported weights cannot be listed: %s", error)
        return ()
    stems = (file.removesuffix(NOTE) for file in found if file.endswith(NOTE))
    return tuple(sorted(stem for stem in stems if NAME.fullmatch(stem)))


def find(name: str) -> Weights | None:
    """The declaration of the imported weights of that name, or None.

    Raises
    ------
    WeightsError
        Its file is damaged; the message says which one to delete.
    """
    if not NAME.fullmatch(str(name)):
        return None
    try:
        file, note = _files(name)
        plain = json.loads(note.read_bytes())
    except (FileNotFoundError, NotADirectoryError, OptionError):
        return None
    except (OSError, ValueError) as error:
        raise _damaged(note, error) from error
    if not isinstance(plain, dict):
        raise _damaged(note, type(plain).__name__)
    try:
        weights = _checked(Weights.from_dict({**plain, "file": str(file)}), name)
    except MienError as error:
        raise _damaged(note, error) from error
    return weights


def declarations() -> tuple[Weights, ...]:
    """Every imported declaration, sorted by name; those that are damaged are left out, with a warning in the log."""
    found, broken = _read()
    for error in broken.values():
        log.warning("%s", error)
    return found


def damaged() -> dict[str, WeightsError]:
    """What is wrong with the imported declarations that cannot be read, by name."""
    return _read()[1]


def _read() -> tuple[tuple[Weights, ...], dict[str, WeightsError]]:
    found: list[Weights] = []
    broken: dict[str, WeightsError] = {}
    for name in names():
        try:
            weights = find(name)
        except WeightsError as error:
            broken[name] = error
        else:
            found += [weights] if weights is not None else []  # another process may have removed it meanwhile
    return tuple(found), broken


def _folder() -> Path:
    return store.home() / FOLDER


def _files(name: str) -> tuple[Path, Path]:
    """The file and the declaration of that name."""
    return _folder() / (name + SAFE), _folder() / (name + NOTE)


def _checked(weights: Weights, name: str) -> Weights:
    if weights.name != name:
        raise WeightsError("the declaration is of other weights", got=weights.name, expected=name)
    for code in filter(None, (weights.build, weights.convert, weights.decode)):
        if not code.startswith(CODE):
            raise WeightsError("the declaration names code that is not mien's own", got=code, expected=CODE)
    return weights


def _damaged(note: Path, got: object) -> WeightsError:
    return WeightsError(
        f"the declaration of the imported weights {note.name.removesuffix(NOTE)!r} is damaged",
        got=str(got),  # all that an error says, not its type
        hint=f"delete {note} and import the checkpoint again",
    )


# ------------------------------------------------------------------------------------------- in and out


def keep(name: str, convert: Callable[[Path], Weights]) -> Weights:
    """Imports weights under a name that is free, or that was imported before.

    Nothing changes unless `convert` has given what it declared, and neither file is ever there in part.

    Parameters
    ----------
    name
        What callers will write.
    convert
        Given a path that ends in ``.safetensors``, writes the tensors there and declares them, by that name.

    Returns
    -------
    Weights
        The declaration, with the place where the file lies now.

    Raises
    ------
    OptionError
        Weights cannot bear such a name.
    WeightsError
        The name belongs to weights that were not imported; or the folder cannot be written.
    HashMismatch, WeightsUnavailable
        `convert` wrote another file than it declared, or none.
    """
    _refuse(name)
    store.folder(FOLDER)
    file, note = _files(name)
    with store.writing(file), tempfile.TemporaryDirectory(prefix="mien-") as scratch:
        made = _checked(convert(Path(scratch) / file.name), name)
        data = store.verify(made).read_bytes()
        weights = replace(made, file=str(file))
        text = json.dumps(weights.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        with store.locked(file):
            _drop_exports(name)
            store.write_whole(file, data)
            store.write_whole(note, (text + "\n").encode())
    return weights


def _refuse(name: str) -> None:
    if not NAME.fullmatch(name):
        raise OptionError(
            "weights cannot bear that name",
            got=name,
            expected="lower-case letters and digits, joined by '-', '.' or '_'",
        )
    if name in declare.WEIGHTS:
        raise WeightsError(
            f"the name {name!r} belongs to other weights",
            got=declare.WEIGHTS[name].source,
            hint="choose another one: --name NAME (name=)",
        )


def remove(name: str) -> tuple[Path, ...]:
    """Deletes imported weights: declaration, file, and what the onnx backend has exported from it.

    Returns
    -------
    tuple of Path
        What was deleted.

    Raises
    ------
    UnknownWeights
        Nothing of that name is declared.
    WeightsError
        They are there and were not imported; or a file cannot be deleted.
    """
    file, note = _files(name)
    # The declaration goes first: nobody finds one whose file is gone.
    there = [path for path in (note, file) if path.exists()] if NAME.fullmatch(name) else []
    if not there:
        weights = declare.info(name)
        raise WeightsError(
            f"{name} was not imported, and is left alone",
            got=store.state(weights),
            expected=names() or "the name of imported weights; there are none",
        )
    with store.writing(file), store.locked(file):
        for path in there:
            path.unlink(missing_ok=True)
        return (*there, *_drop_exports(name))


def _drop_exports(name: str) -> tuple[Path, ...]:
    """Deletes what `mien.weights.onnx.load_onnx` has exported from weights of that name."""
    mine = re.compile(rf"{re.escape(name)}-[0-9a-f]{{12}}-[0-9a-f]{{8}}\.(onnx|sha256)")
    folder = store.home() / "onnx"
    there = sorted(path for path in folder.iterdir() if mine.fullmatch(path.name)) if folder.is_dir() else []
    for path in there:
        path.unlink(missing_ok=True)
    return tuple(there)

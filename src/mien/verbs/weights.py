"""``weights``: what is there, whose it is, how good it is, and how to get or import more."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.errors import CheckpointError, HashMismatch, MienError, OptionError, WeightsUnavailable
from mien.verbs._pipeline import Progress

if TYPE_CHECKING:
    from mien.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line about weights.

    Parameters
    ----------
    name, task, licence
        As declared.
    permissive
        Whether anybody may use, change and pass them on.
    size_mb
        Of the file, MB (10^6 bytes).
    gmac
        Multiply-accumulates of one pass, 10^9.
    state
        "bundled", "downloaded", "on this machine", "not downloaded" or "missing".
    """

    name: str
    task: str
    licence: str
    permissive: bool
    size_mb: float
    gmac: float | None
    state: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Described:
    """Everything about weights: the declaration, where the file is or would be, and whether it is there."""

    weights: Weights
    state: str
    path: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the declaration's fields, `state` and `path`."""
        declared = self.weights.to_dict()
        first = {key: declared.pop(key) for key in ("name", "task")}
        return {**first, "state": self.state, "path": str(self.path), **declared}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What came of one file: `error` is empty where `path` is there and right."""

    name: str
    state: str
    size_mb: float
    path: str
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """What came of several files; `ok` if nothing went wrong with any."""

    weights: tuple[Checked, ...]

    @property
    def ok(self) -> bool:
        return all(checked.ok for checked in self.weights)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: ok, weights."""
        return {"ok": self.ok, "weights": [checked.to_dict() for checked in self.weights]}


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Weights that were imported.

    Parameters
    ----------
    weights
        Their declaration.
    path
        The converted file.
    declared
        The file that declares it.
    replaced
        Whether weights of that name had been imported before.
    """

    weights: Weights
    path: Path
    declared: Path
    replaced: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: what one should know now; `weights_info` tells the rest."""
        return {
            "name": self.weights.name,
            "paper": self.weights.paper,
            "task": self.weights.task,
            "source": self.weights.source,
            "licence": self.weights.licence,
            "permissive": self.weights.permissive,
            "path": str(self.path),
            "declared": str(self.declared),
            "size_mb": _mb(self.weights),
            "sha256": self.weights.sha256,
            "replaced": self.replaced,
            "notes": self.weights.notes,
        }


@dataclass(frozen=True, kw_only=True)
class Removed:
    """Imported weights that were removed, and the files that were deleted."""

    name: str
    files: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"name": self.name, "files": [str(file) for file in self.files]}


def list_weights(*, task: str | None = None, permissive_only: bool = False, here_only: bool = False) -> list[Listed]:
    """Lists all weights that mien knows, the imported ones too, and which of them are on this disk.

    Parameters
    ----------
    task
        Only those for this task: "detection", "landmarks", "embedding" …
    permissive_only
        Only those that anybody may use, change and pass on.
    here_only
        Only those whose file is on this disk.

    Returns
    -------
    list of Listed
        Sorted by name.

    Raises
    ------
    OptionError
        There are no weights for that task.
    """
    from mien.weights import list_weights as declared
    from mien.weights import state

    rows = [
        Listed(
            name=weights.name,
            task=weights.task,
            licence=weights.licence,
            permissive=weights.permissive,
            size_mb=_mb(weights),
            gmac=None if weights.macs is None else round(weights.macs / 1e9, 3),
            state=state(weights),
        )
        for weights in declared(task=task)
        if weights.permissive or not permissive_only
    ]
    return [row for row in rows if row.state not in _ABSENT or not here_only]


def weights_info(name: str) -> Described:
    """Shows everything about weights: licence, data, training command, input, figures with protocol and date.

    Parameters
    ----------
    name
        Name of the weights.

    Returns
    -------
    Described
        The declaration, where its file is or would be, and whether it is there.

    Raises
    ------
    UnknownWeights
        Nothing of that name is declared.
    WeightsError
        Weights of that name were imported, and their declaration is damaged.
    """
    from mien.weights import info, state, where

    weights = info(name)
    return Described(weights=weights, state=state(weights), path=where(weights))


def get_weights(
    name: str, *, accept_licence: bool = False, offline: bool = False, progress: Progress | None = None
) -> Report:
    """Downloads weights: resumed where it broke off, verified, and put in place whole or not at all.

    What is there and right is not downloaded again. Files lie in MIEN_HOME, or in the user's data folder.

    Parameters
    ----------
    name
        Name of the weights, or "all" for all whose file is not in the package.
    accept_licence
        Accept a licence that is not permissive; remembered. Read it first: mien weights info NAME.
    offline
        Download nothing: an error if something is missing. MIEN_OFFLINE=1 does the same.
    progress
        Called as ``progress(done, total, what)`` in bytes, after every block.

    Returns
    -------
    Report
        With "all", weights that could not be had are in it with the reason, and the others are there.

    Raises
    ------
    UnknownWeights, LicenceNotAccepted, OfflineError, DownloadError, HashMismatch
        One name was given, and these weights cannot be had.
    """
    from mien.weights import WEIGHTS, get, info
    from mien.weights import list_weights as declared

    several = name == "all" and name not in WEIGHTS
    wanted = [weights for weights in declared() if weights.urls] if several else [info(name)]
    rows = []
    for weights in wanted:

        def told(done: int, total: int, weights: Weights = weights) -> None:
            if progress is not None:
                progress(done, total, f"{weights.name}, bytes")

        try:
            get(weights, accept_licence=accept_licence, offline=offline, progress=told)
        except MienError as error:
            if not several:
                raise
            rows.append(_row(weights, error))
        else:
            rows.append(_row(weights))
    return Report(tuple(rows))


def verify_weights(name: str | None = None) -> Report:
    """Reads files of weights again and compares their SHA-256 with the declared one.

    Parameters
    ----------
    name
        Name of the weights. Default: all; those that were not downloaded are no error then.

    Returns
    -------
    Report
        Whether each file is the declared one, and what is wrong where it is not; of all, imported weights whose
        declaration is damaged are in it too.

    Raises
    ------
    UnknownWeights
        Nothing of that name is declared.
    WeightsError
        Weights of that name were imported, and their declaration is damaged.
    """
    from mien.weights import imported, info, state, verify
    from mien.weights import list_weights as declared

    rows = []
    for weights in declared() if name is None else [info(name)]:
        try:
            verify(weights)
        except (WeightsUnavailable, HashMismatch) as error:
            absent = name is None and state(weights) == "not downloaded"
            rows.append(_row(weights, None if absent else error))
        else:
            rows.append(_row(weights))
    for broken, reason in imported.damaged().items() if name is None else ():
        rows.append(Checked(name=broken, state="damaged", size_mb=0.0, path="", error=str(reason)))
    return Report(tuple(rows))


def import_weights(slug: str, file: str | Path, *, name: str | None = None, task: str | None = None) -> Imported:
    """Imports a public checkpoint of a paper's network: converted, checked, and from then on known to every verb.

    Nothing is downloaded, and no code of the file is run. The converted file and its declaration are kept in
    MIEN_HOME/imported, or in the user's data folder. Nobody is asked to accept a licence, since the file is yours
    already; whether you may use it is yours to know.

    Parameters
    ----------
    slug
        The paper, as `mien papers` lists it.
    file
        The checkpoint, as its makers published it.
    name
        What the weights are to be called; those that were imported by that name before are replaced. Default: the slug.
    task
        Where one checkpoint serves several ("embedding", "reading", "parsing" …), for which of them. Default: the
        paper's own choice.

    Returns
    -------
    Imported
        The declaration, and where it and the converted file lie.

    Raises
    ------
    OptionError
        There is no such paper, none whose checkpoints can be imported, not for that task, or weights cannot bear that
        name.
    CheckpointError
        There is no such file, it cannot be read, or its tensors are not those of the paper's network.
    WeightsError
        The name belongs to weights that were not imported, or MIEN_HOME cannot be written.
    """
    from mien.papers import discover, get
    from mien.weights import imported

    paper, checkpoint = get(slug), Path(file).expanduser()
    if not hasattr(paper, "import_official"):
        able = [other for other, module in discover().items() if hasattr(module, "import_official")]
        raise OptionError(
            f"no public checkpoint of {paper.PAPER.title} can be imported",
            got=slug,
            expected=f"one of {', '.join(able)}" if able else "a paper with import_official; there is none yet",
        )
    if not checkpoint.is_file():
        what = (
            "a folder stands in the place of the checkpoint" if checkpoint.is_dir() else "there is no such checkpoint"
        )
        raise CheckpointError(what, got=checkpoint, hint="give the file, as its makers published it")
    name = slug if name is None else name
    options = {} if task is None else {"task": task}
    if options and "task" not in inspect.signature(paper.import_official).parameters:
        raise OptionError(
            f"a checkpoint of {paper.PAPER.title} serves one task only",
            got=f"task={task!r}",
            hint="leave the task out",
        )
    replaced = name in imported.names()
    weights = imported.keep(name, lambda out: paper.import_official(checkpoint, out, name=name, **options))
    path = Path(weights.file or "")
    return Imported(weights=weights, path=path, declared=path.with_suffix(imported.NOTE), replaced=replaced)


def remove_weights(name: str) -> Removed:
    """Removes imported weights from this machine, and what was exported from them; all others are left alone.

    Parameters
    ----------
    name
        The name they were imported by.

    Returns
    -------
    Removed
        The files that were deleted.

    Raises
    ------
    UnknownWeights
        Nothing of that name is declared.
    WeightsError
        They are there and were not imported, or cannot be deleted.
    """
    from mien.weights import imported

    return Removed(name=name, files=imported.remove(name))


_ABSENT = ("not downloaded", "missing")


def _mb(weights: Weights) -> float:
    return round(weights.size / 1e6, 2)


def _row(weights: Weights, error: MienError | None = None) -> Checked:
    from mien.weights import state, where

    return Checked(
        name=weights.name, state="wrong" if isinstance(error, HashMismatch) else state(weights),
        size_mb=_mb(weights), path=str(where(weights)), error="" if error is None else str(error),
    )  # fmt: skip


COMMANDS: dict[str, Callable[..., Any]] = {
    "list": list_weights,
    "info": weights_info,
    "get": get_weights,
    "verify": verify_weights,
    "import": import_weights,
    "remove": remove_weights,
}

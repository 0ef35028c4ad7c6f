"""The table of what came of the claims: ``results/claims.csv``, one row a run, only ever appended to.

It lies in the checkout that mien runs from, or, where mien is installed as a package, in the current folder. The index
of papers and ``mien papers`` read it; ``mien reproduce`` writes it.
"""

from __future__ import annotations

import csv
import errno
import io
import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from mien.errors import TableError
from mien.weights import store

Scale = Literal["small", "paper"]
Verdict = Literal["holds", "does not hold", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run of a claim.

    Parameters
    ----------
    slug, claim
        Of the paper, and of its claim.
    scale
        "small" or "paper".
    data, metric
        What it ran on, and what was measured.
    baseline, idea
        Means of the metric over the seeds, without and with the paper's idea.
    difference
        Mean over the seeds of idea minus baseline, counted in the metric's better direction: above zero, the idea is
        better.
    spread
        Standard deviation of that difference over the seeds.
    seeds
        Those it ran with.
    verdict
        See `mien.claims.harness.judge`.
    seconds
        Of computing, over all seeds.
    commit
        Of the code, with "-dirty" where the source differed from it; "unknown" outside of a git checkout.
    machine
        CPU, cores, device.
    date
        ISO date, UTC.
    """

    slug: str
    claim: str
    scale: Scale
    data: str
    metric: str
    baseline: float
    idea: float
    difference: float
    spread: float
    seeds: tuple[int, ...]
    verdict: Verdict
    seconds: float
    commit: str
    machine: str
    date: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "seeds": list(self.seeds)}

    def cells(self) -> list[str]:
        """The row as text; numbers with six significant digits."""
        told = {**asdict(self), "seeds": " ".join(map(str, self.seeds)), "seconds": f"{self.seconds:.0f}"}
        return [f"{value:.6g}" if isinstance(value, float) else str(value) for value in told.values()]

    @classmethod
    def of(cls, cells: dict[str, str]) -> Self:
        """The row of those cells; ValueError says which is wrong."""
        values: dict[str, Any] = dict(cells)
        for name in NUMBERS:
            values[name] = float(cells[name])
            if not math.isfinite(values[name]):
                raise ValueError(f"{name} is not finite")
        values["seeds"] = tuple(map(int, cells["seeds"].split()))
        for name, known in (("scale", get_args(Scale)), ("verdict", get_args(Verdict))):
            if cells[name] not in known:
                raise ValueError(f"{name} is {cells[name]!r}, not one of {known}")
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", cells["date"]):
            raise ValueError(f"date is {cells['date']!r}, not YYYY-MM-DD")
        return cls(**values)


COLUMNS = tuple(column.name for column in fields(Row))
NUMBERS = ("baseline", "idea", "difference", "spread", "seconds")


def checkout() -> Path | None:
    """The root of the checkout that mien runs from; None where it is installed as a package."""
    package = Path(__file__).resolve().parents[1]
    root = package.parents[1]
    return root if package.parent.name == "src" and (root / "pyproject.toml").is_file() else None


def default_path() -> Path:
    """``results/claims.csv`` of the checkout, or of the current folder."""
    return (checkout() or Path()) / "results" / "claims.csv"


def read(path: str | os.PathLike[str] | None = None) -> tuple[Row, ...]:
    """All rows, oldest first; none where there is no such file yet.

    Raises
    ------
    TableError
        The file has other columns, or a cell that cannot be understood.
    """
    file = default_path() if path is None else Path(path)
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            table = csv.DictReader(stream, strict=True)
            _check_header(file, table.fieldnames)
            rows = []
            for cells in table:
                if None in cells or None in cells.values():
                    raise ValueError(f"line {table.line_num} has not {len(COLUMNS)} cells")
                try:
                    rows.append(Row.of(cells))
                except ValueError as error:
                    raise ValueError(f"line {table.line_num}: {error}") from None
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, TableError):
            raise
        raise TableError(f"the table of claims cannot be read: {file}", got=error) from error
    return tuple(rows)


def append(rows: Iterable[Row], path: str | os.PathLike[str] | None = None) -> Path:
    """Adds rows at the end, all of them or none; the file and its folder are made if need be.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    TableError
        The file has other columns, or cannot be written.
    """
    file = default_path() if path is None else Path(path)
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(row.cells() for row in rows)
    # The lock lies in mien's own folder, so that no file appears beside the table.
    with store.locked(store.folder("claims") / "claims.csv"):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            old = file.read_bytes() if file.exists() else b""
            if old:
                _check_header(file, next(csv.reader([old.decode("utf-8").splitlines()[0]])))
            data = text.getvalue().encode()
            if not old:
                store.write_whole(file, (",".join(COLUMNS) + "\n").encode() + data)
            else:
                _append(file, data if old.endswith(b"\n") else b"\n" + data)  # an editor may have cut the last end
        except (OSError, UnicodeDecodeError) as error:
            raise TableError(
                f"the table of claims cannot be written: {file}", got=error, hint="give another one with results="
            ) from error
    return file


def latest(rows: Iterable[Row]) -> tuple[Row, ...]:
    """The last row of each claim, scale and data, in the order in which they first appeared."""
    found: dict[tuple[str, str, str, str], Row] = {}
    for row in rows:
        found[row.slug, row.claim, row.scale, row.data] = row
    return tuple(found.values())


def summary(rows: Iterable[Row]) -> str:
    """The verdicts in a few words: "holds", or "holds: 2, inconclusive: 1"; empty without rows."""
    count = Counter(row.verdict for row in rows)
    if len(count) == 1:
        return next(iter(count))
    return ", ".join(f"{verdict}: {count[verdict]}" for verdict in get_args(Verdict) if count[verdict])


def _append(file: Path, data: bytes) -> None:
    """Adds `data` in one write, which does not mingle with another's; what a full disk lets through is taken back."""
    with file.open("ab", buffering=0) as stream:
        before = os.fstat(stream.fileno()).st_size
        if stream.write(data) != len(data):
            stream.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        os.fsync(stream.fileno())


def _check_header(file: Path, header: Iterable[str] | None) -> None:
    if tuple(header or ()) != COLUMNS:
        raise TableError(
            f"the table of claims has other columns: {file}",
            got=", ".join(header or ()) or "nothing",
            expected=COLUMNS,
            hint="move it away, or name another one",
        )

"""``data``: what a face set is, how much is in it, what is broken, and from one format to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mien.errors import OptionError
from mien.verbs._pipeline import Progress

if TYPE_CHECKING:
    from mien.data.formats import Converted, Report


@dataclass(frozen=True, kw_only=True)
class Known:
    """A format: its name, whether `mien data convert` writes it, and what it is."""

    name: str
    written: bool
    what: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def list_formats(name: str | None = None) -> list[Known]:
    """Lists the formats that are read, and which of them are written too.

    Parameters
    ----------
    name
        Only this one.

    Returns
    -------
    list of Known
        The most particular first, which is the order in which a set is looked at.

    Raises
    ------
    OptionError
        There is no such format.
    """
    from mien.data.formats import FORMATS

    if name is not None and name not in FORMATS:
        raise OptionError.unknown("no such format", name, FORMATS)
    chosen = FORMATS if name is None else {name: FORMATS[name]}
    return [Known(name=key, written=known.writes, what=known.what) for key, known in chosen.items()]


def check_data(
    path: str, *, format: str | None = None, sample: int | None = None, most: int = 20, threads: int | None = None,
    progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Tells what a face set is and how much is in it, decodes its pictures, and lists what is broken.

    The exit code is 1 if anything is. Nothing is written.

    Parameters
    ----------
    path
        File or folder.
    format
        Name of the format, see "mien data formats". Default: told from the files.
    sample
        Decode only so many pictures, spread evenly; 0 decodes none. Default: all.
    most
        Problems of each kind that are listed; all are counted.
    threads
        That decode. Default: one a core.
    progress
        Called as ``progress(done, total, what)``.

    Returns
    -------
    Report
        One entry for each set at `path`: format, counts of pictures, people, pairs, points, boxes and sizes, and
        problems; `ok` if there are none.

    Raises
    ------
    MediaNotFound
        There is nothing at `path`.
    UnknownFormat
        What is there is of no known format.
    OptionError
        No such format, or a number out of range.
    """
    from mien.data.formats import check

    return check(path, format=format, sample=sample, most=most, threads=threads, progress=progress)


def convert_data(
    path: str, target: str, *, to: str, format: str | None = None, pairs: str | None = None, shard: int = 10_000,
    overwrite: bool = False, progress: Progress | None = None,
) -> Converted:  # fmt: skip
    """Writes a face set in another format; the pictures' bytes go over as they are.

    What cannot be read is left out and listed, and the exit code is 3 then. The new set appears whole or not at all.

    Parameters
    ----------
    path
        File or folder of one set.
    target
        Folder that is made; a file if it is to be "bin".
    to
        Format to write: "rec", "bin", "parquet", "webdataset" or "folder".
    format
        Format of the set, see "mien data formats". Default: told from the files.
    pairs
        For "bin": which pairs, where the set has several protocols, such as "FF" or "FP".
    shard
        For "parquet" and "webdataset": pictures in a file.
    overwrite
        Replace what is at the target.
    progress
        Called as ``progress(done, total, what)``.

    Returns
    -------
    Converted
        How many pictures, people and pairs were written, and what the new format has no place for.

    Raises
    ------
    OptionError
        No such format, it is not written, or something is at the target already.
    TableError
        The set lacks what the format needs: pairs for "bin", people for "folder".
    MediaError
        There is no set, or the target cannot be written.
    """
    from mien.data.formats import convert

    return convert(path, target, to=to, format=format, pairs=pairs, shard=shard, overwrite=overwrite, progress=progress)


COMMANDS: dict[str, Callable[..., Any]] = {
    "formats": list_formats,
    "check": check_data,
    "convert": convert_data,
}

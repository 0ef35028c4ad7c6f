"""The formats in which face sets are handed around: what is there, read and written, and one noun for all of it.

    find("faces_emore")                    [("rec", …/train.rec), ("bin", …/lfw.bin)]
    samples = read("faces_emore/train.rec")
    samples.labels, samples.fetch([0, 1])  people, and pictures as bytes
    check("faces_emore")                   how much there is, and what is broken
    convert("lfw", "lfw.bin", to="bin")    from one to another

`FORMATS` lists them. Every reader is a function of its own too (`read_records`, `read_lfw` …), with the options of
its format. Readers raise what is broken; with ``tell=`` they hand it over and read on. None needs MXNet or a package
of the sets' owners.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien.data.formats.celeba import find_celeba, read_celeba
from mien.data.formats.check import KINDS, Counts, Problem, Report, SetReport, check
from mien.data.formats.convert import Converted, convert
from mien.data.formats.folders import find_folders, find_lists, read_folder, read_list
from mien.data.formats.ijb import Enrolled, TemplatePairs, Templates, find_ijb, read_ijb
from mien.data.formats.landmarks import find_300w, find_wflw, read_300w, read_pts, read_wflw, write_pts
from mien.data.formats.parquet import find_parquet, read_parquet
from mien.data.formats.protocols import find_cfp, find_lfw, read_cfp, read_lfw
from mien.data.formats.record import RecordWriter, find_records, read_records
from mien.data.formats.samples import Coded, FlaggedBoxes, Samples, Tell
from mien.data.formats.verification_bin import find_bins, read_bin
from mien.data.formats.webdataset import find_webdataset, read_webdataset
from mien.data.formats.wider import find_wider, read_wider
from mien.errors import MediaNotFound, OptionError, UnknownFormat

__all__ = [
    "FORMATS",
    "KINDS",
    "Coded",
    "Converted",
    "Counts",
    "Enrolled",
    "FlaggedBoxes",
    "Format",
    "Problem",
    "RecordWriter",
    "Report",
    "Samples",
    "SetReport",
    "Tell",
    "TemplatePairs",
    "Templates",
    "check",
    "convert",
    "find",
    "read",
    "read_300w",
    "read_bin",
    "read_celeba",
    "read_cfp",
    "read_folder",
    "read_ijb",
    "read_lfw",
    "read_list",
    "read_parquet",
    "read_pts",
    "read_records",
    "read_webdataset",
    "read_wflw",
    "read_wider",
    "write_pts",
]


@dataclass(frozen=True)
class Format:
    """A format.

    Parameters
    ----------
    what
        What it is, in a line.
    find
        The places of this format at or in a path; empty if there are none.
    read
        Reader of one place; takes ``tell=``.
    writes
        Whether `convert` writes it.
    """

    what: str
    find: Callable[[Path], list[Path]]
    read: Callable[..., Samples]
    writes: bool = False


def _read_ijb(path: Path, **options: Any) -> Samples:
    return read_ijb(path, **options).samples


FORMATS: dict[str, Format] = {
    "rec": Format("InsightFace .rec with .idx (MXNet RecordIO)", find_records, read_records, writes=True),
    "bin": Format("InsightFace verification .bin", find_bins, read_bin, writes=True),
    "ijb": Format("IJB-B and IJB-C: templates and their lists", find_ijb, _read_ijb),
    "cfp": Format("CFP: frontal and profile, with its protocol", find_cfp, read_cfp),
    "lfw": Format("LFW: a folder a person, with pairs.txt", find_lfw, read_lfw),
    "celeba": Format("CelebA: pictures and the text lists", find_celeba, read_celeba),
    "wflw": Format("WFLW: lists of 98 points, box and six flags", find_wflw, read_wflw),
    "wider": Format("WIDER FACE: lists of boxes", find_wider, read_wider),
    "300w": Format("300W and kin: .pts beside the pictures", find_300w, read_300w),
    "parquet": Format("Parquet as Hugging Face writes it", find_parquet, read_parquet, writes=True),
    "webdataset": Format("WebDataset: tar shards", find_webdataset, read_webdataset, writes=True),
    "list": Format("CSV, TSV or .lst with a row a picture", find_lists, read_list),
    "folder": Format("pictures, a folder a person", find_folders, read_folder, writes=True),
}
"""The formats by name, the most particular first: a folder of pictures with pairs.txt is LFW before it is a folder."""

_BESIDE = {"rec": ("rec", "bin")}
"""Formats that are looked for together: InsightFace puts verification files beside the records."""


def find(path: str | os.PathLike[str], *, format: str | None = None) -> list[tuple[str, Path]]:
    """What is at `path`: (name of the format, place), told by the files and not by the folder's name.

    Parameters
    ----------
    path
        File or folder.
    format
        Look for this one only.

    Raises
    ------
    MediaNotFound
        There is nothing at `path`.
    UnknownFormat
        What is there is of no known format.
    OptionError
        No such format.
    """
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise OptionError.unknown("no such format", format, FORMATS)
    if not path.exists():
        raise MediaNotFound("there is no such file or folder", got=path)
    try:
        for name in [format] if format is not None else FORMATS:
            if places := FORMATS[name].find(path):
                beside = [other for other in _BESIDE.get(name, ()) if other != name and format is None]
                return [(name, place) for place in places] + [
                    (other, place) for other in beside for place in FORMATS[other].find(path)
                ]
    except PermissionError as error:
        from mien.media.files import of_os_error

        raise of_os_error(error, path) from error
    wanted = FORMATS[format].what if format is not None else [known.what for known in FORMATS.values()]
    raise UnknownFormat(
        "no set of a known format is there", got=path, expected=wanted,
        hint="name the folder that holds the set's own files, or see: mien data formats",
    )  # fmt: skip


def read(path: str | os.PathLike[str], *, format: str | None = None) -> Samples:
    """The one set at `path`. Where verification files lie beside records, the records are it.

    Raises
    ------
    OptionError
        There are several sets, or there is no such format.
    MediaError, TableError
        There is no set, or it is broken; `check` lists all that is.
    """
    found = find(path, format=format)
    found = [one for one in found if one[0] != "bin"] if len(found) > 1 and found[0][0] == "rec" else found
    if len(found) > 1:
        places = [str(place) for _, place in found]
        raise OptionError("several sets lie there", got=places, hint="name the file of one")
    kind, place = found[0]
    return FORMATS[kind].read(place)

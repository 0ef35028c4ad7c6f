"""Sets of rendered heads on disk: tar shards in WebDataset's layout, one group of members a picture.

=======================  ==========================================================================================
member                   holds
=======================  ==========================================================================================
``000000000.jpg``        the picture (``.png`` if asked), with a comment that says it was rendered
``000000000.json``       identity, 68 `points`, `points_3d`, `visible`, pose, expression, valence, arousal,
                         attributes, and every control under `parameters`
``000000000.parsing.png``  classes of `PARSING`, 8 bit
``000000000.parts.png``    meshes, numbers into `PARTS`, 255 the background
``000000000.thermal.png``  the infrared picture, 8 bit
``000000000.npz``        of depth (cm), normals (times 127), uv and celsius those asked for
=======================  ==========================================================================================

`mien.data.read` reads the pictures, people and points of such a folder.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien._version import __version__
from mien.data.heads.attributes import ATTRIBUTES
from mien.data.heads.fields import EXPRESSIONS
from mien.data.heads.params import sample
from mien.data.heads.render import EVERYTHING, Heads, render
from mien.errors import OptionError

__all__ = ["Plan", "missing", "shard_name", "write_shard"]

MARK = "Rendered by mien.data.heads: a picture of nobody"
"""Stands in every picture file and every JSON."""

ENCODINGS = ("jpg", "png")


@dataclass(frozen=True)
class Plan:
    """A set of heads: what decides its content. Two folders with one plan hold the same pictures.

    Parameters
    ----------
    count, seed
        Pictures, and the seed of their draw.
    size
        Side in pixels.
    per_identity, identities
        As in `sample`.
    truth
        Maps that are written, of `EVERYTHING`.
    encoding, quality
        "jpg" or "png", and JPEG's quality.
    shard
        Pictures in a tar.
    controls
        Controls that are set, see `sample`.
    """

    count: int
    seed: int = 0
    size: int = 112
    per_identity: int = 1
    identities: int | None = None
    truth: tuple[str, ...] = ("landmarks",)
    encoding: str = "jpg"
    quality: int = 92
    shard: int = 1000
    controls: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.truth:
            if name not in EVERYTHING:
                raise OptionError.unknown("unknown ground truth", name, EVERYTHING)
        if self.encoding not in ENCODINGS:
            raise OptionError.unknown("unknown encoding", self.encoding, ENCODINGS)
        if self.count < 1 or self.shard < 1 or not 1 <= self.quality <= 100 or not 8 <= self.size <= 4096:
            got = f"count {self.count}, shard {self.shard}, quality {self.quality}, size {self.size}"
            raise OptionError(
                "no such set can be made", got=got, expected="counts from 1, quality 1 to 100, size 8 to 4096"
            )
        # Wrong controls are told now and not by a worker.
        sample(1, seed=self.seed, per_identity=self.per_identity, identities=self.identities, **self.controls)

    @property
    def shards(self) -> int:
        """How many tars there are."""
        return -(-self.count // self.shard)

    def rows(self, shard: int) -> range:
        """Numbers of the pictures in a shard."""
        return range(shard * self.shard, min((shard + 1) * self.shard, self.count))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `heads.json` holds them."""
        return {
            "generator": "mien.data.heads",
            "version": __version__,
            "synthetic": True,
            **asdict(self),
            "truth": list(self.truth),
        }


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"heads-{number:06d}.tar"


def write_shard(plan: Plan, folder: Path, number: int, *, device: str = "cpu") -> int:
    """Draws one shard and writes it whole or not at all; the number of its pictures."""
    rows = plan.rows(number)
    partial = folder / (shard_name(number) + ".partial")
    with tarfile.TarFile(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
        for first in range(rows.start, rows.stop, 256):
            parameters = sample(
                min(256, rows.stop - first),
                seed=plan.seed,
                start=first,
                identities=plan.identities,
                per_identity=plan.per_identity,
                **plan.controls,
            )
            heads = render(parameters, size=plan.size, device=device, what={"image", "landmarks", *plan.truth})
            for name, data in _members(heads, plan, first):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    os.replace(partial, folder / shard_name(number))
    return len(rows)


def _members(heads: Heads, plan: Plan, first: int) -> Iterator[tuple[str, bytes]]:
    abouts = heads.parameters.to_dict()
    flags = heads.attributes
    for row, about in enumerate(abouts):
        key = f"{first + row:09d}"
        yield f"{key}.{plan.encoding}", _coded(heads.image[row], plan.encoding, plan.quality)
        told = {
            "identity": int(about["identity"]),
            "points": _rounded(heads.landmarks_2d[row], 3),
            "points_3d": _rounded(heads.landmarks_3d[row], 3),
            "visible": heads.visible[row].astype(int).tolist(),
            "pose": _rounded(heads.pose[row], 4),
            "expression": EXPRESSIONS[int(heads.expression[row])],
            "valence": round(float(heads.valence[row]), 5),
            "arousal": round(float(heads.arousal[row]), 5),
            "attributes": {name: bool(flag) for name, flag in zip(ATTRIBUTES, flags[row], strict=True)},
            "parameters": about,
            "seed": plan.seed,
            "mark": MARK,
        }
        yield f"{key}.json", json.dumps(told, separators=(",", ":")).encode()
        for name in ("parsing", "parts", "thermal"):
            if name in plan.truth:
                yield f"{key}.{name}.png", _coded(heads.maps[name][row], "png", 0)
        arrays: dict[str, NDArray[Any]] = {}
        if "depth" in plan.truth:
            arrays["depth"] = heads.depth[row].astype(np.float16)
        if "normals" in plan.truth:
            arrays["normals"] = np.rint(heads.normals[row] * 127).astype(np.int8)
        if "uv" in plan.truth:
            arrays["uv"] = heads.uv[row].astype(np.float16)
        if "thermal" in plan.truth:
            arrays["celsius"] = heads.celsius[row].astype(np.float16)
        if arrays:
            file = io.BytesIO()
            np.savez_compressed(file, allow_pickle=False, **arrays)
            yield f"{key}.npz", file.getvalue()


def _rounded(values: NDArray[Any], digits: int) -> list[Any]:
    made: list[Any] = np.round(values.astype(np.float64), digits).tolist()
    return made


def _coded(picture: NDArray[np.uint8], encoding: str, quality: int) -> bytes:
    """Bytes of a picture file that says where it is from."""
    from PIL import Image, PngImagePlugin

    file, image = io.BytesIO(), Image.fromarray(picture)
    if encoding == "jpg":
        image.save(file, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2, comment=MARK.encode())
    else:
        about = PngImagePlugin.PngInfo()
        about.add_text("Comment", MARK)
        image.save(file, "PNG", pnginfo=about, compress_level=4)
    return file.getvalue()


def missing(plan: Plan, folder: Path) -> Iterable[int]:
    """Numbers of the shards that are not there yet."""
    return [number for number in range(plan.shards) if not (folder / shard_name(number)).is_file()]

"""``generate``: pictures of nobody, with exact ground truth, as a set on disk."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.errors import MediaForbidden, OptionError
from mien.verbs._pipeline import Progress

if TYPE_CHECKING:
    from mien.data.heads.shards import Plan

KINDS = ("heads",)


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What `generate` wrote.

    Parameters
    ----------
    out
        The folder.
    count, shards
        Pictures and tars of the whole set.
    written
        Pictures that this call made; the rest were there.
    seconds, images_per_s
        How long that took.
    """

    out: str
    count: int
    shards: int
    written: int
    seconds: float
    images_per_s: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def generate(
    name: str,
    *,
    count: int,
    out: str | os.PathLike[str],
    side: int = 112,
    seed: int = 0,
    per_identity: int = 1,
    identities: int | None = None,
    truth: Sequence[str] = ("landmarks",),
    encoding: str = "jpg",
    quality: int = 92,
    shard: int = 1000,
    workers: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    **controls: object,
) -> Generated:
    """Renders heads of nobody with exact ground truth, as tar shards in WebDataset's layout.

    The set depends on the options only: the same ones give the same pictures, however many workers draw them. A folder
    that was left half-way is finished; shards that are there are not made again.

    Parameters
    ----------
    name
        What is made: "heads".
    count
        Number of pictures.
    out
        Folder that receives ``heads-000000.tar`` and so on, and ``heads.json`` with the options.
    side
        Side of the pictures in pixels.
    seed
        Another seed, other heads.
    per_identity
        Pictures in a row of each person.
    identities
        Number of people. Default: as many as `per_identity` asks for.
    truth
        Ground truth beside landmarks, pose, expression, attributes and controls: "parsing", "parts", "depth",
        "normals", "uv", "thermal", or "all".
    encoding
        "jpg" or "png".
    quality
        Of JPEG, 1 to 100.
    shard
        Pictures in a tar.
    workers
        Processes that draw. Default: one a core, but one where `device` is not the CPU.
    device
        "auto", "cpu", "cuda" or "cuda:1".
    progress
        Called as ``progress(done, total, what)`` after every shard.
    **controls
        Controls that are the same in all pictures, such as glasses=round pose=30,0,0 expression=happiness.

    Returns
    -------
    Generated
        With the folder, the counts and the speed.

    Raises
    ------
    OptionError
        Unknown kind, ground truth, control or value; or `out` holds a set with other options.
    MediaForbidden
        `out` cannot be written.
    DeviceUnavailable
        No such device.
    """
    from mien.data.heads.render import EVERYTHING
    from mien.data.heads.shards import Plan, missing

    if name not in KINDS:
        raise OptionError.unknown("nothing of that kind can be generated", name, KINDS)
    asked = tuple(truth) if not isinstance(truth, str) else (truth,)
    wanted = tuple(one for one in EVERYTHING if one != "image") if "all" in asked else asked
    plan = Plan(
        count=count, seed=seed, size=side, per_identity=per_identity, identities=identities,
        truth=tuple(sorted({"landmarks", *wanted})), encoding=encoding, quality=quality, shard=shard,
        controls={key: _value(given) for key, given in controls.items()},
    )  # fmt: skip
    folder = _folder_for(plan, Path(out))
    left = list(missing(plan, folder))
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    cores = workers if workers is not None else (os.cpu_count() or 1) if device == "cpu" else 1
    if cores < 1:
        raise OptionError("nobody works", got=f"workers={workers}", expected="1 or more")
    begin, done = time.perf_counter(), plan.count - sum(len(plan.rows(number)) for number in left)
    before = done
    for made in _drawn(plan, folder, left, min(cores, max(1, len(left))), device):
        done += made
        if progress is not None:
            progress(done, plan.count, "heads")
    seconds = time.perf_counter() - begin
    return Generated(
        out=str(folder), count=plan.count, shards=plan.shards, written=done - before, seconds=round(seconds, 3),
        images_per_s=round((done - before) / seconds, 1) if done > before else 0.0,
    )  # fmt: skip


def _value(given: object) -> Any:
    """What a terminal gives as text, as the number or numbers it means."""
    if not isinstance(given, str):
        return given
    parts = given.split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        return given
    return numbers if len(numbers) > 1 else numbers[0]


def _folder_for(plan: Plan, folder: Path) -> Path:
    """`folder` with the plan in it; an error if it holds another."""
    about = folder / "heads.json"
    wanted = json.loads(json.dumps(plan.to_dict()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if about.is_file():
            found = json.loads(about.read_text("utf-8"))
            other = sorted(name for name in {*wanted, *found} - {"version"} if found.get(name) != wanted.get(name))
            if other:
                raise OptionError(
                    "the folder holds a set with other options", got=f"{folder}, other {', '.join(other)}",
                    hint="choose another folder, or the options of its heads.json",
                )  # fmt: skip
        elif any(folder.glob("heads-*.tar")):
            raise OptionError("the folder holds shards but no heads.json", got=folder, hint="choose another folder")
        else:
            about.write_text(json.dumps(wanted, indent=2) + "\n", "utf-8")
    except json.JSONDecodeError as error:
        raise OptionError("the folder's heads.json is damaged", got=about, hint="choose another folder") from error
    except OSError as error:
        raise MediaForbidden("the folder cannot be written", got=f"{folder} ({error.strerror})") from error
    return folder


def _drawn(plan: Plan, folder: Path, left: Iterable[int], workers: int, device: str) -> Iterator[int]:
    """Pictures in each shard as it is done, in any order."""
    from mien.data.heads.shards import write_shard

    if workers == 1:
        for number in left:
            yield write_shard(plan, folder, number, device=device)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    # A fork would take over torch's threads in whatever state they are.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_alone) as pool:
        futures = [pool.submit(write_shard, plan, folder, number, device=device) for number in left]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _alone() -> None:
    """Each worker has one core."""
    import torch

    torch.set_num_threads(1)

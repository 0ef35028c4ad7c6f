"""How fast batches of aligned pictures come from a disk: ``python -m benchmarks.loading THREADS PICTURES REPEATS``.

The same pictures (crops of the portrait, 112 px, JPEG) lie in every format, and each system makes uint8 batches with
labels of them, in shuffled order, on as many cores. The limit beside it is OpenCV's plain decoder over bytes that are
in memory already, in as many threads, measured in the same rounds: on a machine that does other things meanwhile, the
ratio says more than the rate.

    mien folder | rec | parquet | webdataset     `mien.data.Batches`, threads
    torchvision    ImageFolder + DataLoader: Pillow, worker processes
    webdataset     the package of that name + DataLoader, worker processes
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.limits import times
from benchmarks.rows import Row, cores, package_version
from benchmarks.timing import interleave, summarise

BATCH = 128
SIDE = 112
FORMATS = ("folder", "rec", "parquet", "webdataset")
STAGE, METRIC, UNIT = "loading", "rate of loading", "pictures/s"

Say = Callable[[str], None]


def run(*, threads: int, pictures: int, repeats: int, say: Say) -> list[Row]:
    """Rows of one thread count, measured in a process of its own that is bound to as many cores."""
    from benchmarks.worker import last_words, settings

    say(f"loading, {threads} cores")
    command = [sys.executable, "-m", "benchmarks.loading", *map(str, (threads, pictures, repeats))]
    done = subprocess.run(command, env=settings(threads), capture_output=True, text=True, check=False)
    if done.returncode:
        note = last_words(done.stderr, done.returncode)
        return [Row(threads=threads, system="mien", stage=STAGE, metric=METRIC, value=None, unit=UNIT, note=note)]
    return [Row(**json.loads(line)) for line in done.stdout.splitlines()]


def write_set(root: Path, pictures: int) -> Path:
    """A folder a person, 100 pictures each: shifted, scaled and mirrored crops of the portrait around its face."""
    import cv2
    import numpy as np
    from skimage import data

    portrait = np.ascontiguousarray(data.astronaut()[..., ::-1])  # type: ignore[no-untyped-call]
    rng = np.random.default_rng(0)
    for number in range(pictures):
        side = int(rng.integers(110, 220))
        x, y = (int(middle + rng.integers(-20, 20) - side / 2) for middle in (224, 120))
        crop = portrait[max(0, y) : y + side, max(0, x) : x + side]
        crop = cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA)[:, :: 1 if number % 2 else -1]
        home = root / f"{number // 100:04d}"
        home.mkdir(parents=True, exist_ok=True)
        coded = cv2.imencode(".jpg", np.ascontiguousarray(crop), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        (home / f"{number % 100:02d}.jpg").write_bytes(coded.tobytes())
    return root


def decoder(coded: Sequence[bytes], threads: int) -> Callable[[], object]:
    """OpenCV over all bytes, every thread its share in one piece: nothing else is done, and the pixels are let go.

    `limits.decode_run` hands over picture by picture, which costs pictures as small as these a third of their time.
    """
    import cv2
    import numpy as np

    arrays = [np.frombuffer(data, np.uint8) for data in coded]
    shares = [arrays[first::threads] for first in range(threads)]
    flags = getattr(cv2, "IMREAD_COLOR_RGB", cv2.IMREAD_COLOR)
    pool = ThreadPoolExecutor(threads)

    def decoded(share: Sequence[np.ndarray]) -> int:
        for data in share:
            cv2.imdecode(data, flags)
        return len(share)

    return lambda: sum(pool.map(decoded, shares))


def ours(path: Path, threads: int) -> Callable[[], object]:
    """One epoch of `mien.data.Batches`; the next run is the next epoch."""
    from mien.data import Batches, read

    source = read(path)

    def epoch() -> int:
        made = Batches(source, BATCH, seed=0, threads=threads, epochs=1)
        return sum(len(batch["label"]) for batch in made)

    return epoch


def of_torchvision(path: Path, threads: int) -> Callable[[], object]:
    """One epoch of ImageFolder and DataLoader, whose workers go on living."""
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import PILToTensor

    folder = ImageFolder(str(path), PILToTensor())
    loader: Any = torch.utils.data.DataLoader(
        folder, BATCH, shuffle=True, num_workers=threads, drop_last=True, persistent_workers=True
    )
    return lambda: sum(len(labels) for _, labels in loader)


def of_webdataset(path: Path, threads: int) -> Callable[[], object]:
    """One epoch of the webdataset package, decoded to uint8, shuffled in a buffer of 1,000."""
    import torch
    import webdataset

    shards = sorted(map(str, path.glob("*.tar")))
    data: Any = (
        webdataset.WebDataset(shards, shardshuffle=len(shards), empty_check=False)
        .shuffle(1000)
        .decode("rgb8")
        .to_tuple("jpg", "cls")
        .batched(BATCH, partial=False)
    )
    loader: Any = torch.utils.data.DataLoader(data, batch_size=None, num_workers=threads, persistent_workers=True)
    return lambda: sum(len(labels) for _, labels in loader)


def measure(threads: int, pictures: int, repeats: int) -> list[Row]:
    """Rows of everything that can be loaded here."""
    import cv2

    from mien.data import convert, read

    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="mien-loading-") as name:
        home = Path(name)
        write_set(home / "folder", pictures)
        missing: dict[str, str] = {}
        runs: dict[str, Callable[[], object]] = {}

        def add(system: str, make: Callable[[], Callable[[], object]]) -> None:
            try:
                runs[system] = make()
            except Exception as error:
                missing[system] = f"{type(error).__name__}: {error}".splitlines()[0]

        source = read(home / "folder")
        coded = [part.tobytes() for part in source.fetch(range(len(source)))]
        runs["machine"] = decoder(coded, threads)
        for kind in FORMATS:
            if kind != "folder":
                # Four shards a worker: the webdataset package gives each worker shards of its own.
                convert(home / "folder", home / kind, to=kind, shard=max(BATCH, pictures // (4 * threads)))
            add(f"mien {kind}", lambda kind=kind: ours(home / kind, threads))  # type: ignore[misc]
        add("torchvision", lambda: of_torchvision(home / "folder", threads))
        add("webdataset", lambda: of_webdataset(home / "webdataset", threads))
        counts = {}
        for system in list(runs):
            done = runs[system]()
            counts[system] = done if isinstance(done, int) else len(coded)
        taken = interleave(runs, repeats=repeats, least=2, budget_s=30.0)
        runs.clear()  # and with it the workers
    mean = sum(map(len, coded)) / len(coded) / 1000
    rates = {system: summarise(seconds).rate(counts[system]) for system, seconds in taken.items()}
    limit = rates["machine"][0]
    versions = {name: package_version(name) for name in ("torchvision", "webdataset")}
    made = []
    for system, (rate, spread) in rates.items():
        bare = system == "machine"
        made.append(
            Row(
                threads=threads, system=system, version=versions.get(system) or package_version("mien"), stage=STAGE,
                batch=0 if bare else BATCH, metric=METRIC, value=rate, unit=UNIT, spread=spread,
                repeats=len(taken[system]), limit=limit, limited_by="decoding",
                times_from_limit=None if bare else times(limit, rate),
                note=f"OpenCV's decoder over bytes in memory; {SIDE} px, {mean:.1f} kB each" if bare else "",
            )
        )  # fmt: skip
    made += [
        Row(threads=threads, system=system, stage=STAGE, metric=METRIC, value=None, unit=UNIT, note=note)
        for system, note in missing.items()
    ]
    return made


def main() -> None:
    """The process that `run` starts: rows as JSON, a line each."""
    threads, pictures, repeats = map(int, sys.argv[1:])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores()[:threads])
    warnings.simplefilter("ignore")
    for row in measure(threads, pictures, repeats):
        print(json.dumps(asdict(row)))


if __name__ == "__main__":
    main()

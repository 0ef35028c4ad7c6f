"""Memory stays flat however often a verb is called: nothing is kept of a picture that is done with."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mien.verbs.analyze import analyze

MIB = 1 << 20


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        pytest.skip("this system does not tell the memory of a process as Linux does")
    return pages * os.sysconf("SC_PAGE_SIZE")


def growth(call: Callable[[], Any], calls: int, *, warm: int) -> tuple[int, int]:
    """Bytes and Python objects that `calls` leave behind, after `warm` have filled all caches."""
    for _ in range(warm):
        call()
    gc.collect()
    objects, before = len(gc.get_objects()), resident()
    for _ in range(calls):
        call()
    gc.collect()
    return resident() - before, len(gc.get_objects()) - objects


def used(fakes: Any) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """Options and a small picture with a face: the bundled networks where they are there, else the fakes."""
    from mien.weights import WEIGHTS

    if {"mien-detector", "mien-landmarks", "mien-embedder"} <= set(WEIGHTS):
        data = pytest.importorskip("skimage.data")
        face = np.ascontiguousarray(data.astronaut()[:256:2, 128:384:2])
        return {"size": 256}, face
    return {"size": 96, **fakes.analyze}, fakes.picture((16, 12, 64, 1), height=96, width=96)


def test_300_calls_leave_nothing_behind(fakes: Any) -> None:
    image = fakes.picture((16, 12, 64, 1), height=96, width=96)

    def call() -> None:
        assert len(analyze(image, size=96, **fakes.analyze)) == 1
        for fake in (fakes.detector, fakes.landmarks, fakes.embedder):
            fake.calls.clear()  # the fakes do remember

    octets, objects = growth(call, 300, warm=30)
    assert objects < 300, f"{objects} objects: one or more a call are kept"
    assert octets < 16 * MIB, f"{octets / MIB:.1f} MiB"


def test_a_picture_is_let_go_when_its_faces_are_kept(fakes: Any) -> None:
    """`Faces` holds numbers, not the photo: a hundred results of a megapixel each are no hundred megapixels."""
    image = fakes.picture((160, 120, 640, 1), height=1024, width=1024)
    kept: list[Any] = []
    octets, _ = growth(lambda: kept.append(analyze(image.copy(), size=96, **fakes.analyze)), 30, warm=5)
    assert len(kept) == 35
    assert octets < 30 * image.nbytes / 2, f"{octets / MIB:.1f} MiB"


@pytest.mark.slow
def test_10_000_calls_leave_nothing_behind(fakes: Any, record_property: Callable[[str, object], None]) -> None:
    options, image = used(fakes)

    def call() -> None:
        assert len(analyze(image, **options)) == 1
        for fake in (fakes.detector, fakes.landmarks, fakes.embedder):
            fake.calls.clear()

    octets, objects = growth(call, 10_000, warm=200)
    record_property("growth_mib", round(octets / MIB, 2))
    assert objects < 1000, f"{objects} objects are kept"
    assert octets < 32 * MIB, f"{octets / MIB:.1f} MiB: {octets / 10_000:.0f} bytes a call"

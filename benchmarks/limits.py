"""What the machine allows at most, measured on the machine itself: specifications say little about a virtual one.

    network     seconds >= max(2 MACs / GEMM rate, bytes of the parameters / memory bandwidth)      each call
    decoding    seconds >= those of OpenCV's plain decoder on the same bytes
    crops       seconds >= bytes read and written / memory bandwidth

The GEMM rate is that of the best of several sizes, the bandwidth that of a triad a = b + s c over arrays larger than
any cache. A batch of one cannot use more than the bandwidth that brings the parameters in, a large batch no more than
the arithmetic; a stage of several calls is bounded by their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

GEMM_SIZES = (512, 1024, 2048)
TRIAD_BYTES = 128 << 20
"""Bytes of each of the triad's three arrays. Together they are larger than the caches a core can fill."""

FLOAT = 4


@dataclass(frozen=True)
class Limits:
    """Measured rates of one thread count: FLOP/s of an fp32 GEMM, bytes/s of a triad."""

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Call:
    """One call of a network: multiply-accumulates of the whole batch, and parameters that must be read."""

    macs: int
    parameters: int

    def sides(self, limits: Limits) -> tuple[float, float]:
        """Seconds that its arithmetic takes at least, and that reading its parameters takes at least."""
        return 2 * self.macs / limits.flops, FLOAT * self.parameters / limits.bandwidth


@dataclass(frozen=True)
class Work:
    """All that one run must do at least: calls of networks, bytes moved, seconds of decoding."""

    calls: tuple[Call, ...] = ()
    bytes: int = 0
    decode_s: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.calls + other.calls, self.bytes + other.bytes, self.decode_s + other.decode_s)

    def parts(self, limits: Limits) -> dict[str, float]:
        """The least seconds, by what sets them; nothing that takes none."""
        named = {"FLOPs": 0.0, "memory": self.bytes / limits.bandwidth, "decoding": self.decode_s}
        for call in self.calls:
            arithmetic, reading = call.sides(limits)
            named["FLOPs" if arithmetic >= reading else "memory"] += max(arithmetic, reading)
        return {name: seconds for name, seconds in named.items() if seconds > 0}

    def seconds(self, limits: Limits) -> float:
        """The least seconds all of it can take, one after the other."""
        return sum(self.parts(limits).values())

    def limited_by(self, limits: Limits) -> str:
        """What sets most of the limit; several where none sets four fifths of it."""
        parts = self.parts(limits)
        ranked = sorted(parts, key=lambda name: -parts[name])
        total, named, covered = sum(parts.values()), [], 0.0
        for name in ranked:
            named.append(name)
            covered += parts[name]
            if covered >= 0.8 * total:
                break
        return " + ".join(named)


def crop_work(crops: int, side: int) -> Work:
    """Each pixel of the crops read once from the photo and written once, three bytes a pixel."""
    return Work(bytes=2 * 3 * crops * side * side)


def times(limit: float | None, value: float) -> float | None:
    """How many times a rate lies below its limit."""
    return None if limit is None or value <= 0 else limit / value


def dlib_resnet() -> Call:
    """Work of dlib's face embedder on one chip of 150 px, added up layer by layer.

    The network of ``dlib_face_recognition_resnet_model_v1``, 29 convolutions: 7 x 7 / 2 to 32 channels, 3 x 3 / 2
    pooling, residual blocks of two 3 x 3 convolutions (3 of 32 channels, 4 of 64, 3 of 128, 4 of 256), and a linear map
    to 128. The first blocks of 64, 128 and 256 and the very last one halve the picture, unpadded, in their first
    convolution. (D. E. King, dlib's example ``dnn_face_recognition_ex.cpp``, whose types spell it from the output
    backwards; without normalisation the parameters make 22.4 of the file's 22.5 MB.)
    """
    side, channels = (150 - 7) // 2 + 1, 32
    parameters = 7 * 7 * 3 * channels
    macs = side * side * parameters
    side = (side - 3) // 2 + 1
    for width, blocks, halve in ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True)):
        for block in range(blocks):
            if halve and block == 0:
                side = (side - 3) // 2 + 1
            weights = 9 * (channels + width) * width
            parameters += weights
            macs += side * side * weights
            channels = width
    return Call(macs + channels * 128, parameters + channels * 128)


# ---------------------------------------------------------------------------------------------- measuring


def gemm_runs(sizes: Iterable[int] = GEMM_SIZES) -> dict[int, tuple[Callable[[], object], float]]:
    """For each size n a run of C = A B of n x n fp32 matrices, and the FLOPs (2 n^3) of it."""
    import torch

    def run_of(n: int) -> Callable[[], object]:
        a, b, c = (torch.rand(n, n) for _ in range(3))
        return lambda: torch.mm(a, b, out=c)

    return {n: (run_of(n), 2.0 * n**3) for n in sizes}


def triad_run(array_bytes: int = TRIAD_BYTES) -> tuple[Callable[[], object], float]:
    """A run of a = b + s c, and the bytes it moves (two arrays read, one written)."""
    import torch

    a, b, c = (torch.zeros(array_bytes // FLOAT) for _ in range(3))
    return lambda: torch.add(b, c, alpha=0.5, out=a), 3.0 * array_bytes


def decode_run(files: Sequence[bytes], *, threads: int) -> Callable[[], object]:
    """A run of OpenCV's decoder over the bytes of JPEG files, nothing checked and nothing turned; in `threads` threads,
    as several pictures can be decoded side by side."""
    import cv2
    import numpy as np

    arrays = [np.frombuffer(data, np.uint8) for data in files]
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

    def one(data: np.ndarray) -> object:
        return cv2.imdecode(data, flags)

    if threads == 1 or len(arrays) == 1:
        return lambda: [one(data) for data in arrays]
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(one, arrays))

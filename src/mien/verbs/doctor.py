"""``doctor``: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.errors import MienError, MissingCodec

if TYPE_CHECKING:
    import torch

    from mien.weights import Weights

NETWORKS = ("mien-detector", "mien-landmarks", "mien-embedder")
"""What the main job needs."""

PACKAGES = (
    "torch", "torchvision", "numpy", "scipy", "opencv-python-headless", "pillow", "av", "safetensors", "lightning",
    "typer", "rich",
)  # fmt: skip

HEADS = {
    "JPEG": b"\xff\xd8\xff\xe0",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "WebP": b"RIFF\x1a\x00\x00\x00WEBPVP8 ",
    "GIF": b"GIF89a",
    "BMP": b"BM" + bytes(12) + b"\x28\x00\x00\x00",
    "TIFF": b"II*\x00",
    "AVIF": b"\x00\x00\x00\x18ftypavif\x00\x00\x00\x00avifmif1",
    "HEIC": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00heicmif1",
}
"""The first bytes of a picture of each format. Where there is a decoder it says that the rest is missing."""

NEEDED_FORMATS = ("JPEG", "PNG")
OPTIONAL_EXTRAS = ("onnx", "tables", "train", "evaluate", "server", "demo")

SECONDS = 0.3
"""Of each measurement."""


@dataclass(frozen=True)
class Problem:
    """Something that is missing or broken.

    Parameters
    ----------
    what
        The trouble.
    needed
        Whether the main job fails because of it.
    hint
        What to do.
    """

    what: str
    needed: bool
    hint: str


@dataclass(frozen=True)
class ExtraState:
    """An extra of mien, and the packages of it that are not installed."""

    extra: str
    installed: bool
    missing: str = ""


@dataclass(frozen=True)
class WeightsState:
    """Weights, where their file is, and whether its hash is right (None: it is not here)."""

    name: str
    task: str
    state: str
    verified: bool | None
    size_mb: float


@dataclass(frozen=True)
class SelfTest:
    """What a network answers to zeros.

    Parameters
    ----------
    name
        The weights.
    ok
        Whether the answer is finite, and the same twice.
    output
        Its shape.
    milliseconds
        Of the second pass, one picture.
    """

    name: str
    ok: bool
    output: str
    milliseconds: float


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What `doctor` found.

    Parameters
    ----------
    ok
        Whether the main job works: nothing that it needs is among `problems`.
    problems
        What is missing or broken, what the main job needs first.
    mien, python, system, machine
        Versions and kind of machine.
    cores, threads, opencv_threads
        Cores that this process may use, and the threads that torch and OpenCV use.
    memory_gb
        Of the machine, 10^9 bytes; None where the system does not tell.
    devices, device
        Where networks can run, and what "auto" means.
    gemm_gflops
        Measured rate of a float32 matrix product on `device`, 10^9 FLOP/s: what the speed of networks is compared with.
    decode_mpx_s
        Measured rate of decoding a JPEG, 10^6 pixels a second on one core.
    home, home_writable, offline
        Folder for what is downloaded, whether it can be written, and whether downloads are switched off.
    packages
        Versions of what mien stands on.
    formats
        Pictures that can be decoded.
    extras, weights, networks
        Optional parts, files of weights, and what the networks answer to zeros.
    """

    ok: bool
    problems: tuple[Problem, ...]
    mien: str
    python: str
    system: str
    machine: str
    cores: int
    threads: int
    opencv_threads: int
    memory_gb: float | None
    devices: tuple[str, ...]
    device: str
    gemm_gflops: float | None
    decode_mpx_s: float | None
    home: str
    home_writable: bool
    offline: bool
    packages: dict[str, str]
    formats: dict[str, bool]
    extras: tuple[ExtraState, ...]
    weights: tuple[WeightsState, ...]
    networks: tuple[SelfTest, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)


def doctor(*, device: str = "auto", measure: bool = True) -> Diagnosis:
    """Looks at this machine: versions, devices, decoders, weights, speed, and a first answer of every network.

    Nothing is changed and nothing is downloaded. It never stops at a problem; it tells all of them.

    Parameters
    ----------
    device
        Where the networks are tried: "auto", "cpu", "cuda", "cuda:1" or "mps".
    measure
        Also measure the rates of matrix products and of decoding, which takes a second.

    Returns
    -------
    Diagnosis
        `ok` is False when the main job cannot be done; `problems` say what to do.

    Raises
    ------
    OptionError, DeviceUnavailable
        `device` is unknown, or not there.
    """
    import cv2
    import torch

    from mien import __version__
    from mien.weights import device as device_of
    from mien.weights import home

    problems: list[Problem] = []
    place = device_of(device)
    formats = {name: _decodes(head) for name, head in HEADS.items()}
    for name, there in formats.items():
        if not there:
            hint = "pip install pillow-heif" if name == "HEIC" else "pip install --upgrade pillow"
            problems.append(Problem(f"{name} pictures cannot be decoded", name in NEEDED_FORMATS, hint))
    extras = tuple(_extras(importlib.metadata.requires("mien") or () if _installed("mien") else ()))
    for extra in extras:
        if not extra.installed:
            what = f"the extra {extra.extra} is not installed (missing: {extra.missing})"
            problems.append(Problem(what, False, f"pip install 'mien[{extra.extra}]', if you want it"))
    folder = home()
    writable = _writable(folder)
    if not writable:
        what = f"{folder} cannot be written: nothing can be downloaded or exported to it"
        problems.append(Problem(what, False, "set MIEN_HOME to a folder of your own"))
    offline = _offline(problems)
    weights = _weights(problems)
    networks = _tried(place, {row.name for row in weights if row.verified}, problems)
    problems.sort(key=lambda problem: not problem.needed)
    return Diagnosis(
        ok=not any(problem.needed for problem in problems),
        problems=tuple(problems),
        mien=__version__,
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cores=_cores(),
        threads=torch.get_num_threads(),
        opencv_threads=cv2.getNumThreads(),
        memory_gb=_memory(),
        devices=tuple(_devices()),
        device=str(place),
        gemm_gflops=_gemm(place) if measure else None,
        decode_mpx_s=_decode_rate() if measure else None,
        home=str(folder),
        home_writable=writable,
        offline=offline,
        packages={name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)},
        formats=formats,
        extras=extras,
        weights=weights,
        networks=networks,
    )


# ------------------------------------------------------------------------------------------- the machine


def _cores() -> int:
    """Cores that this process may use, which in a container are fewer than there are."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _devices() -> Iterable[str]:
    import torch

    yield f"cpu: {_processor()}"
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}: {properties.name}, {properties.total_memory / 1e9:.0f} GB"
    if torch.backends.mps.is_available():
        yield "mps"


def _processor() -> str:
    try:
        named = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        named = None
    return named[1].strip() if named else platform.processor() or platform.machine()


def _gemm(place: torch.device) -> float:
    from mien.train.loop import gemm_rate

    return round(gemm_rate(place, seconds=SECONDS) / 1e9, 1)


def _decode_rate() -> float:
    """10^6 pixels a second, of a photo-like JPEG of one megapixel in memory."""
    import cv2

    from mien.media import load_image

    # Smooth structure with some noise compresses like a photograph; noise alone would be mostly Huffman codes.
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (32, 32, 3), np.uint8)
    smooth = np.asarray(cv2.resize(coarse, (1024, 1024), interpolation=cv2.INTER_CUBIC), np.float64)
    image = (smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    load_image(data)
    times: list[float] = []
    while sum(times) < SECONDS:
        began = time.perf_counter()
        load_image(data)
        times.append(time.perf_counter() - began)
    return round(1024 * 1024 / min(times) / 1e6, 1)


# ------------------------------------------------------------------------------------------- what is installed


def _decodes(head: bytes) -> bool:
    """Whether this machine decodes the format that begins like this."""
    from mien.media import load_image

    try:
        load_image(head)
    except MissingCodec:
        return False
    except MienError:  # a decoder looked at it, and missed the rest
        return True
    return True


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _extras(requirements: Iterable[str]) -> Iterable[ExtraState]:
    """The state of each optional extra, by what the package says it requires."""
    wanted: dict[str, list[str]] = {extra: [] for extra in OPTIONAL_EXTRAS}
    for requirement in requirements:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if extra and extra[1] in wanted:
            wanted[extra[1]].append(re.split(r"[\s\[<>=!~;(]", requirement, maxsplit=1)[0])
    for name, packages in wanted.items():
        missing = [package for package in packages if not _installed(package)]
        if packages:
            yield ExtraState(name, not missing, ", ".join(missing))


def _writable(folder: Path) -> bool:
    """Whether `folder` can be written, or made; nothing is made."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _offline(problems: list[Problem]) -> bool:
    from mien.weights.store import is_offline

    try:
        return is_offline()
    except MienError as error:
        problems.append(Problem(str(error), False, "set MIEN_OFFLINE to 1 or 0"))
        return False


# ------------------------------------------------------------------------------------------- weights


def _weights(problems: list[Problem]) -> tuple[WeightsState, ...]:
    """All declared weights; those whose file is here are hashed."""
    from mien.errors import HashMismatch, WeightsUnavailable
    from mien.weights import list_weights, state, verify

    rows = []
    declared = list_weights()
    for weights in declared:
        verified: bool | None = None
        try:
            verify(weights)
            verified = True
        except HashMismatch as error:
            verified = False
            problems.append(_problem(weights, error))
        except WeightsUnavailable as error:
            if weights.file is not None:  # what can be downloaded may well not be here
                problems.append(_problem(weights, error))
        rows.append(WeightsState(weights.name, weights.task, state(weights), verified, round(weights.size / 1e6, 2)))
    for name in NETWORKS:
        if name not in {weights.name for weights in declared}:
            hint = "install mien again; in a checkout, train the network and bundle it"
            problems.append(Problem(f"{name} is missing from this installation", True, hint))
    return tuple(rows)


def _problem(weights: Weights, error: MienError) -> Problem:
    return Problem(error.what, weights.name in NETWORKS, error.hint or "")


def _tried(place: torch.device, usable: set[str], problems: list[Problem]) -> tuple[SelfTest, ...]:
    """Every network of the main job on one picture of zeros, twice."""
    import torch

    from mien.weights import info, load

    tests = []
    for name in NETWORKS:
        if name not in usable:
            continue
        contract = info(name).input
        side = contract.size or 8 * max(contract.multiple_of, 8)
        try:
            network = load(name, device=place)
            with torch.inference_mode():
                zeros = torch.zeros(1, 3, side, side, device=place)
                first = network(zeros).float().cpu()
                began = time.perf_counter()
                second = network(zeros).float().cpu()  # the copy waits for the device
                took = time.perf_counter() - began
        except (MienError, RuntimeError) as error:
            problems.append(Problem(f"{name} does not run on {place}: {error}", True, "try device='cpu'"))
            tests.append(SelfTest(name, False, "", 0.0))
            continue
        ok = bool(first.isfinite().all()) and torch.allclose(first, second, rtol=1e-3, atol=1e-3)
        if not ok:
            what = f"{name} gives NaN, or not the same twice, on {place}"
            problems.append(Problem(what, True, "try device='cpu'; update torch and the driver"))
        tests.append(SelfTest(name, ok, str(tuple(second.shape)), round(1000 * took, 2)))
    return tuple(tests)

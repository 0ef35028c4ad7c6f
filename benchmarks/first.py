"""What a newcomer waits for and pays: import, first result, memory. Each system runs the few lines that its user would
write, in a process of its own that has imported nothing else."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from benchmarks.rows import Row
from benchmarks.timing import summarise
from benchmarks.worker import Say, last_words, settings

MANY = 32

_HEAD = """
import os, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[2])])
path = sys.argv[1]

def tell(*words):
    print("@", *words, flush=True)

def peak():
    # ru_maxrss would count the parent that this process was forked from; Linux keeps the right figure elsewhere.
    try:
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except OSError:
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

start = time.perf_counter()
"""

_TAIL = f"""
tell("import", time.perf_counter() - start)
ready()
found = look([path])
tell("first", found)
tell("peak", peak())
look([path] * {MANY})
tell("peak many", peak())
"""

_DLIB = """
import dlib, importlib.util, numpy as np
from PIL import Image

def ready():
    global detector, predictor, resnet
    models = importlib.util.find_spec("face_recognition_models").submodule_search_locations[0] + "/models/"
    detector = dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(models + "shape_predictor_5_face_landmarks.dat")
    resnet = dlib.face_recognition_model_v1(models + "dlib_face_recognition_resnet_model_v1.dat")

def look(paths):
    chips = []
    for path in paths:
        picture = np.array(Image.open(path).convert("RGB"))
        chips += [dlib.get_face_chip(picture, predictor(picture, box), 150) for box in detector(picture, UPSAMPLE)]
    return len(resnet.compute_face_descriptor(chips))
"""

SNIPPETS = {
    "mien": """
import mien

def ready():
    pass

def look(paths):
    return len(mien.embed(paths[0] if len(paths) == 1 else paths, device="cpu", batch_size=len(paths)))
""",
    "dlib": _DLIB.replace("UPSAMPLE", "0"),
    "mtcnn": """
import numpy as np
from facenet_pytorch import MTCNN
from PIL import Image

def ready():
    global model
    model = MTCNN(keep_all=True, device="cpu")

def look(paths):
    boxes, _ = model.detect(np.stack([np.array(Image.open(path).convert("RGB")) for path in paths]))
    return sum(0 if b is None else len(b) for b in boxes)
""",
}
"""User's code of each system: its imports, ``ready()`` and ``look(paths)`` -> number of faces."""


@dataclass(frozen=True)
class First:
    """What one process told: seconds from the start of the process unless said otherwise; bytes."""

    import_s: float
    first_s: float
    faces: int
    peak: int
    peak_many: int


def rows(systems: dict[str, str], portrait: str, *, threads: int, repeats: int, say: Say) -> list[Row]:
    """Import, first result and peak memory of systems (name to version), and the start of a bare Python beside them."""
    told: dict[str, list[First]] = {name: [] for name in systems if name in SNIPPETS}
    failed: dict[str, str] = {}
    bare = []
    for repeat in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True, env=settings(threads))
        bare.append(time.perf_counter() - start)
        for name in told:
            if name not in failed:
                say(f"{name}: first result in a fresh process, {repeat + 1} of {repeats}")
                answer = run_once(SNIPPETS[name], portrait, threads=threads)
                if isinstance(answer, First):
                    told[name].append(answer)
                else:
                    failed[name] = answer
    python = sys.version.split()[0]
    made = [_seconds_row("python", python, "first result", bare, threads, "a bare interpreter, start to end")]
    for name, answers in told.items():
        if name in failed:
            made.append(
                Row(
                    threads=threads, system=name, version=systems[name], stage="start", metric="first result",
                    value=None, unit="s", note=failed[name],
                )
            )  # fmt: skip
            continue
        note = f"{answers[0].faces} faces in the portrait of 512 px"
        imports, firsts = [a.import_s for a in answers], [a.first_s for a in answers]
        made.append(
            _seconds_row(name, systems[name], "import", imports, threads, "without the interpreter's own start")
        )
        made.append(_seconds_row(name, systems[name], "first result", firsts, threads, f"from nothing to {note}"))
        for batch, peaks in ((1, [a.peak for a in answers]), (MANY, [a.peak_many for a in answers])):
            middle = summarise([p / 2**20 for p in peaks])
            made.append(
                Row(
                    threads=threads, system=name, version=systems[name], stage="start", batch=batch,
                    metric="peak memory", value=middle.median, unit="MiB",
                    spread=(middle.high - middle.low) / 2 if len(peaks) > 1 else None, repeats=len(peaks), note=note,
                )
            )  # fmt: skip
    return made


def run_once(snippet: str, portrait: str, *, threads: int) -> First | str:
    """One fresh process; the reason where it fails."""
    start = time.perf_counter()
    heard: dict[str, float] = {}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        with subprocess.Popen(
            [sys.executable, "-c", _HEAD + snippet + _TAIL, portrait, str(threads)], env=settings(threads),
            stdout=subprocess.PIPE, stderr=errors, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("@ "):
                    name, value = line[2:].rsplit(" ", 1)
                    heard[name] = float(value)
                    if name == "first":
                        heard["at"] = time.perf_counter() - start
        if process.returncode or "peak many" not in heard:
            errors.seek(0)
            return last_words(errors.read(), process.returncode)
    return First(heard["import"], heard["at"], int(heard["first"]), int(heard["peak"]), int(heard["peak many"]))


def _seconds_row(system: str, version: str, metric: str, seconds: list[float], threads: int, note: str) -> Row:
    timing = summarise(seconds)
    return Row(
        threads=threads, system=system, version=version, stage="start", metric=metric, value=timing.median, unit="s",
        spread=(timing.high - timing.low) / 2 if len(seconds) > 1 else None, repeats=len(seconds), note=note,
    )  # fmt: skip

"""``detect``: where faces are."""

from __future__ import annotations

from mien.faces import Faces
from mien.verbs import _output, _pipeline
from mien.verbs._pipeline import Plan, Progress, Source


def detect(
    source: Source,
    *,
    recursive: bool = False,
    threshold: float | None = None,
    size: int = 640,
    min_face: float = 10.0,
    every_s: float | None = None,
    weights: str = "mien-detector",
    device: str = "auto",
    backend: str = "torch",
    batch_size: int = 8,
    csv: str | None = None,
    out: str | None = None,
    progress: Progress | None = None,
) -> Faces:
    """Finds the faces in pictures and videos, with five points each.

    Parameters
    ----------
    source
        Pictures, videos, folders or globs; in Python also arrays, tensors, PIL images, bytes, file objects,
        and lists of all these.
    recursive
        Go into the folders of folders.
    threshold
        Least score of a face, 0 to 1. Default: the one declared with the weights.
    size
        Long side in pixels at which pictures are looked at. More finds smaller faces and takes longer.
    min_face
        Least side of a face in pixels of the picture.
    every_s
        For videos: seconds between the frames that are looked at. Default: every frame.
    weights
        Name of the detector.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    backend
        "torch" or "onnx" (extra ``onnx``).
    batch_size
        Pictures that are looked at together.
    csv
        File that receives one row a face: file, corners, score, points.
    out
        Picture (or folder, for several pictures) that receives the pictures with the faces drawn in.
    progress
        Called as ``progress(done, total, what)`` after every batch.

    Returns
    -------
    Faces
        With boxes, scores and landmarks5; unreadable pictures among several in `failures`.

    Raises
    ------
    MediaError, ArrayError
        `source` is one picture, and it cannot be read.
    WeightsError, DeviceUnavailable, OptionError
        What was asked for is not there.
    """
    plan = Plan(
        detector=weights, threshold=threshold, size=size, min_face=min_face,
        device=device, backend=backend, batch_size=batch_size,
    )  # fmt: skip
    sink = _output.annotated_to(out, many=_pipeline.several(source))
    faces = _pipeline.run(source, plan, recursive=recursive, every_s=every_s, progress=progress, sink=sink)
    if csv is not None:
        _output.write_csv(faces, csv)
    return faces

"""``analyze``: all that mien can tell about the faces in pictures."""

from __future__ import annotations

from mien.faces import Faces
from mien.verbs import _output, _pipeline
from mien.verbs._pipeline import Plan, Progress, Source


def analyze(
    source: Source,
    *,
    recursive: bool = False,
    threshold: float | None = None,
    size: int = 640,
    min_face: float = 10.0,
    every_s: float | None = None,
    quality: str = "stability",
    detector: str = "mien-detector",
    landmarks: str = "mien-landmarks",
    embedder: str = "mien-embedder",
    reader: str = "mien-reader",
    parser: str = "mien-parser",
    read: bool = True,
    parse: bool = False,
    device: str = "auto",
    backend: str = "torch",
    batch_size: int = 8,
    out: str | None = None,
    progress: Progress | None = None,
) -> Faces:
    """Finds faces and tells their points, pose, quality, age, expression and embeddings; if wanted, their parts.

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
        Long side in pixels at which pictures are looked at.
    min_face
        Least side of a face in pixels of the picture.
    every_s
        For videos: seconds between the frames that are looked at. Default: every frame.
    quality
        How recognisability is told: "stability" (how little the embedding moves when the picture is
        worsened), "norm" (how long the embedder's feature is), "recognizability" (what an embedder of ``mien train
        recognizability`` predicts) or "components" (without the embedder's opinion).
    detector
        Name of the detector's weights.
    landmarks
        Name of the landmark network's weights.
    embedder
        Name of the embedder's weights.
    reader
        Name of the weights that tell age, expression, appearance and covers.
    parser
        Name of the parser's weights.
    read
        Tell age, expression, appearance and covers.
    parse
        Tell the part of the face that each pixel shows, too; with `out`, in colours.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    backend
        "torch" or "onnx" (extra ``onnx``).
    batch_size
        Pictures that are looked at together.
    out
        Picture (or folder, for several pictures) that receives the pictures with all that was found drawn in.
    progress
        Called as ``progress(done, total, what)`` after every batch.

    Returns
    -------
    Faces
        With boxes, scores, landmarks5, landmarks, landmarks3d, pose, quality, quality_components and embeddings; with
        `read`, what the reader tells: of the bundled one age, age_groups, expressions, affect, appearance and covers,
        which say what annotators would, not what a person is or feels (a reader that tells pose replaces that of the
        landmarks); with `parse`, parsing and parsing_matrix.

    Raises
    ------
    MediaError, ArrayError
        `source` is one picture, and it cannot be read.
    WeightsError, DeviceUnavailable, OptionError
        What was asked for is not there.
    """
    plan = Plan(
        detector=detector, landmarks=landmarks, embedder=embedder, reader=reader if read else None,
        parser=parser if parse else None, threshold=threshold, size=size, min_face=min_face, quality=quality,
        device=device, backend=backend, batch_size=batch_size,
    )  # fmt: skip
    sink = _output.annotated_to(out, many=_pipeline.several(source))
    return _pipeline.run(source, plan, recursive=recursive, every_s=every_s, progress=progress, sink=sink)

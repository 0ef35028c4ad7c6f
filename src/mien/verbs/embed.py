"""``embed``: a face as a direction in space, near that of other pictures of the same person."""

from __future__ import annotations

from mien.faces import Faces
from mien.verbs import _output, _pipeline
from mien.verbs._pipeline import Plan, Progress, Source


def embed(
    source: Source,
    *,
    recursive: bool = False,
    threshold: float | None = None,
    size: int = 640,
    min_face: float = 10.0,
    every_s: float | None = None,
    weights: str = "mien-embedder",
    detector: str = "mien-detector",
    landmarks: str = "mien-landmarks",
    device: str = "auto",
    backend: str = "torch",
    batch_size: int = 8,
    out: str | None = None,
    progress: Progress | None = None,
) -> Faces:
    """Turns every face into an embedding; the dot product of two is their similarity, -1 to 1.

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
    weights
        Name of the embedder's weights.
    detector
        Name of the detector's weights.
    landmarks
        Name of the landmark network's weights.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    backend
        "torch" or "onnx" (extra ``onnx``).
    batch_size
        Pictures that are looked at together.
    out
        File that receives the embeddings: `.parquet` (extra ``tables``) or `.npz`.
    progress
        Called as ``progress(done, total, what)`` after every batch.

    Returns
    -------
    Faces
        With embeddings (n, d) of length one, boxes, scores, landmarks and pose. `contract` says which weights
        they are of; only embeddings of one contract can be compared.

    Raises
    ------
    MediaError, ArrayError
        `source` is one picture, and it cannot be read.
    WeightsError, DeviceUnavailable, OptionError
        What was asked for is not there.
    """
    _output.check_embeddings_path(out)
    plan = Plan(
        detector=detector, landmarks=landmarks, embedder=weights, threshold=threshold, size=size,
        min_face=min_face, device=device, backend=backend, batch_size=batch_size,
    )  # fmt: skip
    faces = _pipeline.run(source, plan, recursive=recursive, every_s=every_s, progress=progress)
    if out is not None:
        _output.write_embeddings(faces, out)
    return faces

"""``align``: faces cut out upright, eyes and mouth in their places."""

from __future__ import annotations

from mien.faces import Faces
from mien.verbs import _output, _pipeline
from mien.verbs._pipeline import Plan, Progress, Source


def align(
    source: Source,
    *,
    template: str = "arcface112",
    crop_size: int = 112,
    recursive: bool = False,
    threshold: float | None = None,
    size: int = 640,
    min_face: float = 10.0,
    every_s: float | None = None,
    detector: str = "mien-detector",
    landmarks: str = "mien-landmarks",
    device: str = "auto",
    backend: str = "torch",
    batch_size: int = 8,
    out: str | None = None,
    progress: Progress | None = None,
) -> Faces:
    """Cuts faces out of pictures, turned and scaled so that eyes, nose and mouth lie where a template has
    them.

    Parameters
    ----------
    source
        Pictures, videos, folders or globs; in Python also arrays, tensors, PIL images, bytes, file objects,
        and lists of all these.
    template
        "arcface112" (what most published recognisers want), "chip112" (tighter) or "ffhq512" (wider).
    crop_size
        Side of the crops in pixels.
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
        Folder that receives the crops as PNG files.
    progress
        Called as ``progress(done, total, what)`` after every batch.

    Returns
    -------
    Faces
        With crops (n, crop_size, crop_size, 3), boxes, scores, landmarks and pose.

    Raises
    ------
    MediaError, ArrayError
        `source` is one picture, and it cannot be read.
    WeightsError, DeviceUnavailable, OptionError
        What was asked for is not there.
    """
    plan = Plan(
        detector=detector, landmarks=landmarks, threshold=threshold, size=size, min_face=min_face,
        template=template, crop_size=crop_size, device=device, backend=backend, batch_size=batch_size,
    )  # fmt: skip
    faces = _pipeline.run(source, plan, recursive=recursive, every_s=every_s, progress=progress)
    if out is not None:
        _output.write_crops(faces, out)
    return faces

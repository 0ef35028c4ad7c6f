"""mien: find, align, read, recognise and verify faces, offline, with weights you may use.

    import mien

    faces = mien.analyze("photo.jpg")         all there is to tell; detect, align and embed tell less, faster
    verdict = mien.verify("a.jpg", "b.jpg")   the same person? and how sure one may be
    mien.weights.info("mien-embedder")        where a network's numbers come from, and what they are worth

Every verb is a function here and a command of the same name with the same options (``mien analyze --help``).
Nothing heavy is loaded before it is needed: a name's module is imported when the name is first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mien._version import __version__

if TYPE_CHECKING:
    from inspect import Signature

    import mien.verbs.audit as audit
    import mien.verbs.curate as curate
    import mien.verbs.evaluate as evaluate
    import mien.verbs.people as people
    import mien.verbs.probe as probe
    from mien import data, errors, gallery, papers, weights
    from mien.errors import (
        DeviceUnavailable,
        GalleryError,
        InputError,
        JudgementError,
        MediaError,
        MienError,
        MissingColumn,
        MissingExtra,
        TrainingError,
        WeightsError,
    )
    from mien.faces import Faces, Failure, ImageInfo
    from mien.gallery import Gallery
    from mien.media import annotate, load_image, save_image
    from mien.verbs._score import similarity
    from mien.verbs.align import align
    from mien.verbs.analyze import analyze
    from mien.verbs.calibrate import Calibration, OperatingPoint, calibrate
    from mien.verbs.cluster import Album, cluster
    from mien.verbs.demo import demo
    from mien.verbs.detect import detect
    from mien.verbs.doctor import doctor
    from mien.verbs.embed import embed
    from mien.verbs.enroll import Enrolment, enroll
    from mien.verbs.export import export
    from mien.verbs.generate import Generated, generate
    from mien.verbs.reproduce import reproduce
    from mien.verbs.search import Found, search
    from mien.verbs.train import train
    from mien.verbs.verify import Reason, Remark, Verdict, verify
    from mien.weights import Weights


__all__ = [
    "Album",
    "Calibration",
    "DeviceUnavailable",
    "Enrolment",
    "Faces",
    "Failure",
    "Found",
    "Gallery",
    "GalleryError",
    "Generated",
    "ImageInfo",
    "InputError",
    "JudgementError",
    "MediaError",
    "MienError",
    "MissingColumn",
    "MissingExtra",
    "OperatingPoint",
    "Reason",
    "Remark",
    "TrainingError",
    "Verdict",
    "Weights",
    "WeightsError",
    "__version__",
    "align",
    "analyze",
    "annotate",
    "audit",
    "calibrate",
    "cluster",
    "curate",
    "data",
    "demo",
    "detect",
    "doctor",
    "embed",
    "enroll",
    "errors",
    "evaluate",
    "export",
    "gallery",
    "generate",
    "load_image",
    "papers",
    "people",
    "probe",
    "reproduce",
    "save_image",
    "search",
    "similarity",
    "train",
    "verify",
    "weights",
]

# Where each name lives; a module stands for itself. A test holds this, the imports above and `__all__` together.
_HOME = {
    "Album": "mien.verbs.cluster",
    "Calibration": "mien.verbs.calibrate",
    "DeviceUnavailable": "mien.errors",
    "Enrolment": "mien.verbs.enroll",
    "Faces": "mien.faces",
    "Failure": "mien.faces",
    "Found": "mien.verbs.search",
    "Gallery": "mien.gallery",
    "GalleryError": "mien.errors",
    "Generated": "mien.verbs.generate",
    "ImageInfo": "mien.faces",
    "InputError": "mien.errors",
    "JudgementError": "mien.errors",
    "MediaError": "mien.errors",
    "MienError": "mien.errors",
    "MissingColumn": "mien.errors",
    "MissingExtra": "mien.errors",
    "OperatingPoint": "mien.verbs.calibrate",
    "Reason": "mien.verbs.verify",
    "Remark": "mien.verbs.verify",
    "TrainingError": "mien.errors",
    "Verdict": "mien.verbs.verify",
    "Weights": "mien.weights",
    "WeightsError": "mien.errors",
    "align": "mien.verbs.align",
    "analyze": "mien.verbs.analyze",
    "annotate": "mien.media",
    "calibrate": "mien.verbs.calibrate",
    "cluster": "mien.verbs.cluster",
    "demo": "mien.verbs.demo",
    "detect": "mien.verbs.detect",
    "doctor": "mien.verbs.doctor",
    "embed": "mien.verbs.embed",
    "enroll": "mien.verbs.enroll",
    "export": "mien.verbs.export",
    "generate": "mien.verbs.generate",
    "load_image": "mien.media",
    "reproduce": "mien.verbs.reproduce",
    "save_image": "mien.media",
    "search": "mien.verbs.search",
    "similarity": "mien.verbs._score",
    "verify": "mien.verbs.verify",
}
_MODULES = {
    "audit": "mien.verbs.audit",
    "curate": "mien.verbs.curate",
    "data": "mien.data",
    "errors": "mien.errors",
    "evaluate": "mien.verbs.evaluate",
    "gallery": "mien.gallery",
    "papers": "mien.papers",
    "people": "mien.verbs.people",
    "probe": "mien.verbs.probe",
    "train": "mien.train",
    "weights": "mien.weights",
}


if not TYPE_CHECKING:  # or a checker would believe that every name is there

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            value: Any = importlib.import_module(_MODULES[name])
        elif name in _HOME:
            value = getattr(importlib.import_module(_HOME[name]), name)
        else:
            raise AttributeError(f"module 'mien' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
        globals()[name] = value  # asked for once
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


class _Callable(ModuleType):
    """A package that can be called like the verb of its name: `mien.train`, `mien.papers`."""

    def __call__(self, *given: Any, **options: Any) -> Any:
        return self._verb(*given, **options)

    @property
    def _verb(self) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(f"mien.verbs.{name}"), name)

    @property
    def __signature__(self) -> Signature:
        from inspect import signature

        return signature(self._verb)


class _Mien(ModuleType):
    """`mien` itself.

    Python binds a package to its parent's attribute when it is first imported, so `mien.train` would be the
    function before and the package after the first training run. It is the package always, and can be called;
    so is `mien.papers`.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("papers", "train") and type(value) is ModuleType:
            value.__class__ = _Callable
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Mien

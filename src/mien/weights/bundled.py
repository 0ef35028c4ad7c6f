"""The networks that come with mien: prose and contracts here, measured facts in two files beside the weights.

``files/manifest.json`` is written by ``python scripts/bundle.py RUN_DIR NAME``, which copies the weights of a finished
training run into ``files/``. By name:

    {"mien-detector": {
        "sha256": "…", "size": 1234567,                     of files/mien-detector.safetensors, bytes
        "parameters": 582301,
        "macs": 467000000, "macs_input": [1, 3, 480, 640],  multiply-accumulates of one pass over that input
        "command": "mien train detector preset=full …",     that trained them: every number that is not a default
        "steps": 9000, "bundled": "2026-01-31"}}

``files/figures.json`` is written by ``python scripts/measure.py``. By name:

    {"mien-detector": {
        "sha256": "…",         of the file that was measured: figures of a former file are not shown with a new one
        "figures": [{"metric": "average precision at IoU 0.5", "value": 0.81, "data": "…", "protocol": "…",
                     "date": "2026-01-31", "unit": "", "low": 0.79, "high": 0.83, "group": "", "n": 1234}, …],
        "calibration": [{"fmr": 0.001, "threshold": 0.31, "data": "…", "low": 0.29, "high": 0.33, "fnmr": 0.02}, …],
        "threshold": 0.5, "temperatures": {"age": 1.1}}}

`figures` holds the fields of `Figure`, `calibration` those of `Operating` (embedders), `threshold` the score at or
above which a detector reports a face, `temperatures` what a reader's logits are divided by. A network that is not in
the manifest is not declared.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mien.errors import UnknownWeights, WeightsError
from mien.weights.declare import (
    BUNDLED,
    SAFE,
    EmbeddingContract,
    Figure,
    InputContract,
    Operating,
    TrainingSet,
    Weights,
)

MANIFEST, FIGURES = "manifest.json", "figures.json"
LARGEST = 40_000_000
"""Bytes that all bundled files together may have."""

_FAIRFACE = TrainingSet(
    name="FairFace: 29,978 adult faces of its training part",
    licence="CC-BY-4.0",
    source="K. Kärkkäinen and J. Joo, WACV 2021",
)

PROSE: dict[str, dict[str, Any]] = {
    "mien-detector": {
        "task": "detection",
        "build": "mien.nn.detector:detector_base",
        "input": InputContract(size=None, template="photo", multiple_of=32),
        "trained_on": (
            _FAIRFACE,
            TrainingSet(
                name="Face Mask Detection: scenes, but for a held-out quarter",
                licence="CC0-1.0",
                source="A. Maranhão, 2020",
            ),
            TrainingSet(
                name="CIFAR-10: pictures, as backgrounds without faces",
                licence="none stated",
                source="A. Krizhevsky, 2009",
            ),
        ),
        "notes": "Finds faces from about 10 px. Faces turned to full profile or upside down are found less often; "
        "five points of a covered face are guesses.",
    },
    "mien-landmarks": {
        "task": "landmarks",
        "build": "mien.nn.landmarks:landmarks_base",
        "input": InputContract(size=112, template="box", margin=1.2),
        "trained_on": (
            _FAIRFACE,
            TrainingSet(
                name="478 points of those faces by MediaPipe FaceMesh, of which 70 are the targets",
                licence="Apache-2.0",
                source="C. Lugaresi et al., MediaPipe, 2019",
            ),
        ),
        "notes": "68 points of the iBUG scheme and two iris centres, in pixels of the crop; depth has the unit of x "
        "and y. The teacher fits a mesh, so the points of a turned jaw follow the bone and not the visible edge.",
    },
    "mien-embedder": {
        "task": "embedding",
        "build": "mien.nn.embedder:embedder_base",
        "input": InputContract(size=112, template="chip112"),
        "embedding": EmbeddingContract(dim=128, flip=True),
        "trained_on": (
            _FAIRFACE,
            TrainingSet(
                name="embeddings of those faces by dlib's recognition network, the targets",
                licence="CC0-1.0",
                source="D. E. King, dlib_face_recognition_resnet_model_v1, 2017",
            ),
        ),
        "notes": "Distilled: no identity label was seen. Its teacher's errors are its own, and it is weaker than "
        "networks trained on millions of labelled identities. Not for decisions about people without a human.",
    },
    "mien-reader": {
        "task": "reading",
        "build": "mien.nn.reader:reader_base",
        "input": InputContract(size=112, template="chip112"),
        "mirror": True,
        "trained_on": (
            _FAIRFACE,
            TrainingSet(
                name="FER+: the training part of FER2013 with the votes of ten people (5,234 pictures of it)",
                licence="none stated for the pictures; votes MIT",
                source="I. Goodfellow et al., 2013; E. Barsoum et al., ICMI 2016",
            ),
            TrainingSet(
                name="rendered heads of mien, with exact labels", licence="Apache-2.0", source="the mien project"
            ),
        ),
        "notes": "Starts from the trunk of mien-embedder. Tells what a face looks like to annotators: the age of "
        "adults by groups of ten years, expressions (not feelings), appearance, covers. Appearance, covers, valence "
        "and arousal were learnt from rendered heads. Numbers for gender and race group are there for audits only; "
        "`mien analyze` does not show them.",
    },
    "mien-parser": {
        "task": "parsing",
        "build": "mien.nn.parser:parser_base",
        "input": InputContract(size=128, template="head128"),
        "mirror": True,
        "trained_on": (
            TrainingSet(
                name="rendered heads of mien, with exact masks", licence="Apache-2.0", source="the mien project"
            ),
            _FAIRFACE,
        ),
        "notes": "19 classes of CelebAMask-HQ. Nobody drew masks on photographs for it: those of FairFace were "
        "labelled by earlier networks, the first of which was trained on rendered heads alone, and by their points. "
        "Full profiles are poor.",
    },
}
"""What cannot be measured about each network: its task, the code that builds it, what it wants to see, what it learnt
from, what its users should know."""

COMMON: dict[str, Any] = {
    "licence": "Apache-2.0",
    "licence_url": "https://www.apache.org/licenses/LICENSE-2.0",
    "source": "trained by the mien project",
}


def declarations(folder: Path = BUNDLED) -> tuple[Weights, ...]:
    """Declarations of the networks whose files lie in `folder`, by its manifest; none where there is no manifest.

    Raises
    ------
    WeightsError
        One of the two files in it is damaged.
    """
    manifest, figures = _read(folder / MANIFEST), _read(folder / FIGURES)
    declared = []
    for name, facts in manifest.items():
        if name not in PROSE:
            raise UnknownWeights("the manifest has weights of an unknown name", got=name, expected=sorted(PROSE))
        measured = figures.get(name, {})
        if measured.get("sha256") != facts["sha256"]:
            measured = {}
        declared.append(declaration(name, facts, measured))
    return tuple(declared)


def declaration(name: str, facts: dict[str, Any], measured: dict[str, Any]) -> Weights:
    """The declaration of one network, from its entries in the two files; WeightsError if they are damaged."""
    try:
        return Weights(
            name=name,
            file=name + SAFE,
            sha256=facts["sha256"],
            size=facts["size"],
            parameters=facts["parameters"],
            macs=facts["macs"],
            macs_input=tuple(facts["macs_input"]),
            command=facts["command"],
            figures=tuple(Figure(**figure) for figure in measured.get("figures", ())),
            calibration=tuple(Operating(**point) for point in measured.get("calibration", ())),
            threshold=measured.get("threshold"),
            temperatures=measured.get("temperatures", {}),
            **COMMON,
            **PROSE[name],
        )
    except (KeyError, TypeError) as error:
        raise WeightsError(
            f"what is written about {name} is damaged",
            got=error,
            expected=f"the fields that {__name__} describes",
            hint="install mien again; in a checkout, run scripts/bundle.py and scripts/measure.py",
        ) from error


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise WeightsError(f"{file.name} of the package is damaged", got=error, hint="install mien again") from error
    if not isinstance(found, dict):
        raise WeightsError(
            f"{file.name} of the package is damaged", got=type(found).__name__, expected="weights by name"
        )
    return found


def write_facts(file: Path, facts: dict[str, dict[str, Any]]) -> Path:
    """Writes one of the two files, sorted by name, so that a difference shows what has changed."""
    from mien.weights.store import write_whole

    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({name: facts[name] for name in sorted(facts)}, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(file, (text + "\n").encode())
    return file

"""Measure the reader and the parser, on pictures that neither was trained on.

    MIEN_DATA=FOLDER python scripts/measure_reading.py --points runs/ferplus_points.npz
    python scripts/measure_reading.py --data FOLDER --only parser

As `scripts/measure.py`, whose file it writes to; a part that is not asked for keeps its figures.

==============  ====================================================  ==============================================
part            measured on                                           figures
==============  ====================================================  ==============================================
``reader``      `fairface_val`, `ferplus` validation, `celeba10k`,     age, expression, appearance; calibration
                rendered heads
``groups``      `fairface_val`, `celeba10k`                           the same by group; what audits are told
``parser``      `fasseg`                                              F1 of each part of the face
==============  ====================================================  ==============================================

Temperatures are fitted where settings were chosen too: the held-out tenth of FairFace, a tenth of FER+'s training part,
and heads of another seed.
"""

from __future__ import annotations

import argparse
import os
import time
import zlib
from pathlib import Path
from typing import Any

import measure
import numpy as np
from measure import Options, Part, say
from numpy.typing import NDArray

from mien.data import sets
from mien.faces import AFFECT, AGES, APPEARANCE, COVERS, EXPRESSIONS, PARSING, Faces
from mien.media import Photo, parsing_mask
from mien.metrics import Interval, bootstrap, mean_interval
from mien.metrics.classification import (
    attribute_precision,
    ccc,
    class_recalls,
    expected_calibration_error,
    f1_of_masks,
    fit_temperature,
    mask_counts,
)
from mien.nn.reader import GENDERS, OUTPUTS, RACES
from mien.train.recipes import reader as recipe
from mien.verbs import _choose
from mien.verbs._pipeline import answers
from mien.weights import info, load

PARTS = ("reader", "groups", "parser")
NAMES = {"reader": "mien-reader", "groups": "mien-reader", "parser": "mien-parser"}
HEADS = 2000

Floats = NDArray[np.float32]


# --- The reader --------------------------------------------------------------------------------------------------


def raw(network: Any, source: recipe.Labelled) -> dict[str, Floats]:
    """Logits by group, as the verbs have them: the mean of the crop's and of its mirror image's."""
    return {name: value.numpy() for name, value in recipe.answers_of(network, source).items()}


def columns(found: dict[str, Floats], temperatures: dict[str, float]) -> dict[str, Floats]:
    """What the verbs make of the logits."""
    from dataclasses import replace

    weights = replace(info(NAMES["reader"]), temperatures=temperatures)
    return answers(weights, np.concatenate([found[name] for name in OUTPUTS], 1))


def temperatures_of(network: Any, points: Path) -> dict[str, float]:
    """Fitted on what was kept out of training for choices."""
    faces = recipe.ages(sets.find_set("fairface_faces"), "validation", strength=0.0)
    votes, _ = recipe.expressions(sets.find_set("ferplus"), points, "choose", strength=0.0)
    heads = recipe.rendered(HEADS, seed=zlib.crc32(b"reader, temperatures"), strength=0.0)
    age, expression, drawn = raw(network, faces)["age"], raw(network, votes)["expression"], raw(network, heads)
    true_age = np.eye(len(AGES))[faces.labels["age"].argmax(1)]
    some = votes.labels["expression"].sum(1) > 0.99
    found = {
        "age": fit_temperature(age, true_age).temperature,
        "expression": fit_temperature(expression[some], votes.labels["expression"][some]).temperature,
    }
    for name in ("appearance", "covers"):
        truth = heads.labels[name]
        known = np.isfinite(truth)
        fitted = fit_temperature(drawn[name][known][:, None], truth[known][:, None], kind="sigmoid")
        found[name] = fitted.temperature
    return {name: round(value, 4) for name, value in found.items()}


def reader(options: Options, points: Path) -> Part:
    """Age, expression, appearance, covers; how true the probabilities are; age and expression by group."""
    part, name = Part(), NAMES["reader"]
    network = load(name, device="cpu")
    temperatures = temperatures_of(network, points)
    say(f"  temperatures {temperatures}")
    part.temperatures[name] = temperatures

    held, chips = _validation_ages()
    logits = raw(network, held)
    said = columns(logits, temperatures)
    true = np.array([AGES.index("70+" if str(a) in ("more than 70", "70+") else str(a)) for a in chips.age])
    guess = said["age_groups"].argmax(1)
    data = f"FairFace, validation part: {len(chips)} adults"
    base = "never trained on; aligned by the bundled networks' points, six groups of ten years"
    for metric, right in (("age group right", guess == true), ("age group within one", abs(guess - true) <= 1)):
        part.add(name, metric, mean_interval(right.astype(float)), data, base, n=len(true))
    confidence = said["age_groups"].max(1)
    part.add(
        name, "expected calibration error, age", expected_calibration_error(confidence, guess == true), data,
        f"{base}; 15 bins; temperature fitted on the held-out tenth of the training chips", n=len(true), unit="",
    )  # fmt: skip

    for metric, right, how in _for_audits(logits, chips):
        part.add(name, metric, mean_interval(right.astype(float)), data, how, n=len(right))

    votes, most = recipe.expressions(sets.find_set("ferplus"), points, "valid", strength=0.0)
    some = most >= 0
    found = columns(raw(network, votes), temperatures)["expressions"]
    guess = found.argmax(1)
    right = (guess == most)[some]
    data = f"FER+, validation part: {int(some.sum()):,} faces of which one of eight expressions has most votes"
    base = (
        "never trained on; class of most votes against the most probable one; aligned by the bundled networks' points"
    )
    part.add(name, "expression accuracy", mean_interval(right.astype(float)), data, base, n=int(some.sum()))
    recalls = class_recalls(guess[some], most[some], classes=len(EXPRESSIONS))
    part.add(name, "expression balanced accuracy", float(np.nanmean(recalls)), data, base, n=int(some.sum()))
    for index, expression in enumerate(EXPRESSIONS):
        count = int((most[some] == index).sum())
        if count:
            part.add(name, f"recall of {expression}", float(recalls[index]), data, base, n=count)
    part.add(
        name, "expected calibration error, expression", expected_calibration_error(found.max(1)[some], right), data,
        f"{base}; 15 bins; temperature fitted on a tenth of the training part", n=int(some.sum()), unit="",
    )  # fmt: skip
    agreed = np.take_along_axis(votes.labels["expression"][some], guess[some, None], 1)[:, 0]
    part.add(
        name, "expected calibration error, expression, against votes",
        expected_calibration_error(found.max(1)[some], agreed / votes.labels["expression"][some].sum(1)), data,
        f"{base}; the share of annotators who chose the most probable class; 15 bins", n=int(some.sum()), unit="",
    )  # fmt: skip

    _appearance(part, name, network, temperatures)
    _heads(part, name, network, temperatures)
    return part


def _for_audits(logits: dict[str, Floats], chips: sets.FairFaceVal) -> list[tuple[str, NDArray[np.bool_], str]]:
    """What the network tells audits only: metric, which faces are right, protocol."""
    how = "never trained on; aligned by the bundled networks' points; annotators guessed; for audits, never shown"
    told = []
    for head, names, labels in (("gender", GENDERS, chips.gender), ("race", RACES, chips.race)):
        true = np.array([names.index(str(label)) for label in labels])
        told.append((f"{head} as the annotators said", logits[head].argmax(1) == true, how))
    return told


def _validation_ages() -> tuple[recipe.Labelled, sets.FairFaceVal]:
    """FairFace's validation chips, cut by the points that the verbs find."""
    from mien.geometry import similarity_from_points

    chips = sets.fairface_val()
    plan = measure.Options("cpu", 32, None, info("mien-detector").threshold or 0.5).plan(
        landmarks="mien-landmarks", pad=measure.PAD
    )
    faces = measure.faces_in(chips, plan, "chips")
    rows = _choose.one_of_each(faces, "central")
    usual = np.median(faces.landmarks5[rows[rows >= 0]], 0)
    five = np.stack([faces.landmarks5[row] if row >= 0 else usual for row in rows])
    say(f"  faces found in {(rows >= 0).mean():.1%} of the chips; the usual place of a face stands for the others")
    matrices = np.asarray(similarity_from_points(five, recipe.TEMPLATE), np.float32)
    files = [np.fromfile(file, np.uint8) for file in chips.files]
    return recipe.Labelled(files, matrices, {}, strength=0.0), chips


def _appearance(part: Part, name: str, network: Any, temperatures: dict[str, float]) -> None:
    """On photographs of CelebA, of which none was trained on."""
    people, columns_found, truth = _celeba(network, temperatures)
    found = columns_found["appearance"]
    precision = attribute_precision(found, truth)
    data = f"CelebA, first {len(people):,} pictures"
    base = "no photograph with such labels was trained on: these were learnt from rendered heads"
    part.add(name, "mean average precision, appearance", float(np.nanmean(precision)), data, base, n=len(people))
    part.add(
        name,
        "mean share of yes, appearance",
        float(truth.mean()),
        data,
        f"{base}; what chance would give",
        n=len(people),
    )
    for index, attribute in enumerate(APPEARANCE):
        share = f"{100 * truth[:, index].mean():.1f} % of the pictures have it"
        part.add(
            name, f"average precision of {attribute}", float(precision[index]), data, f"{base}; {share}",
            n=int(truth[:, index].sum()),
        )  # fmt: skip
    part.add(
        name, "expected calibration error, appearance",
        expected_calibration_error(np.maximum(found, 1 - found).ravel(), ((found > 0.5) == truth).ravel()),
        data, f"{base}; 15 bins over all pictures and attributes", n=truth.size, unit="",
    )  # fmt: skip


def _celeba(network: Any, temperatures: dict[str, float]) -> tuple[sets.CelebA, dict[str, Floats], NDArray[np.bool_]]:
    """The pictures, what the network tells of them, and which of `APPEARANCE` they have."""
    from mien.geometry import similarity_from_points

    people = sets.celeba10k()
    matrix = similarity_from_points(CELEBA_POINTS[None], recipe.TEMPLATE)
    files = [np.fromfile(file, np.uint8) for file in people.files]
    source = recipe.Labelled(files, np.repeat(np.asarray(matrix, np.float32), len(files), 0), {}, strength=0.0)
    truth = recipe.appearance_label(people.attributes, people.attribute_names) > 0.5
    return people, columns(raw(network, source), temperatures), truth


CELEBA_POINTS = np.array([[34.5, 56.0], [54.0, 56.0], [44.25, 66.5], [36.0, 76.5], [52.5, 76.5]], np.float32)
"""Five points of CelebA's alignment, pixels of 89 x 109."""


def _heads(part: Part, name: str, network: Any, temperatures: dict[str, float]) -> None:
    """On rendered heads of another seed: what no photograph here has labels of."""
    heads = recipe.rendered(HEADS, seed=zlib.crc32(b"reader, test"), strength=0.0)
    found = columns(raw(network, heads), temperatures)
    data = f"{HEADS:,} rendered heads of another seed"
    base = "heads of the same kind were trained on, so photographs will do worse"
    truth = heads.labels["covers"] > 0.5
    for index, cover in enumerate(COVERS):
        precision = attribute_precision(found["covers"][:, index : index + 1], truth[:, index : index + 1])
        part.add(name, f"average precision of {cover}", float(precision[0]), data, base, n=int(truth[:, index].sum()))
    known = np.isfinite(heads.labels["affect"]).all(1)
    for index, axis in enumerate(AFFECT):
        value = ccc(found["affect"][known, index], heads.labels["affect"][known, index])
        part.add(name, f"concordance of {axis}", value, data, base, n=int(known.sum()), unit="")


def groups(options: Options) -> Part:
    """Age on FairFace's validation part and what shows on CelebA's pictures, by group; gender and race for audits."""
    part, name = Part(grouped=True), NAMES["reader"]
    network = load(name, device="cpu")
    temperatures = dict(measure.NOTED[name].temperatures)
    held, chips = _validation_ages()
    logits = raw(network, held)
    said = columns(logits, temperatures)
    true = np.array([AGES.index("70+" if str(a) in ("more than 70", "70+") else str(a)) for a in chips.age])
    guess = said["age_groups"].argmax(1)
    data = f"FairFace, validation part: {len(chips)} adults"
    base = "never trained on; aligned by the bundled networks' points"
    years = f"{base}, six groups of ten years"
    rights = (
        ("age group right", guess == true, years),
        ("age group within one", abs(guess - true) <= 1, years),
        *_for_audits(logits, chips),
    )
    for axis, values in measure.groupings(chips).items():
        for group in sorted(set(values.tolist())):
            mine = values == group
            for metric, right, how in rights:
                part.add(
                    name, metric, mean_interval(right[mine].astype(float)), data, how, n=int(mine.sum()),
                    group=f"{axis}: {group}",
                )  # fmt: skip

    for metric, right, how in rights:
        part.add(name, metric, mean_interval(right.astype(float)), data, how, n=len(right), group="all")

    people, found, truth = _celeba(network, temperatures)
    smiling = truth[:, APPEARANCE.index("smiling")]
    happy = found["expressions"][:, EXPRESSIONS.index("happiness")]
    known = {str(label): people.attributes[:, at] > 0 for at, label in enumerate(people.attribute_names)}
    data = f"CelebA, first {len(people):,} pictures"
    for group, mine in (
        ("gender: male", known["Male"]), ("gender: female", ~known["Male"]),
        ("age: young", known["Young"]), ("age: not young", ~known["Young"]),
    ):  # fmt: skip
        precision = attribute_precision(found["appearance"][mine], truth[mine])
        enough = truth[mine].sum(0) >= 20
        part.add(
            name, "mean average precision, appearance", float(np.nanmean(precision[enough])), data,
            f"none of these labels was trained on; the {int(enough.sum())} that 20 pictures of the group or more have",
            n=int(mine.sum()), group=group,
        )  # fmt: skip
        part.add(
            name, "accuracy of smiling, told by happiness above one half",
            mean_interval(((happy > 0.5) == smiling)[mine].astype(float)), data,
            "no picture of the set was trained on", n=int(mine.sum()), group=group,
        )  # fmt: skip
    return part


# --- The parser --------------------------------------------------------------------------------------------------


FASSEG = {
    "background": ("background", "hat", "cloth"),
    "skin": ("skin", "eye_g", "l_ear", "r_ear", "ear_r", "neck_l", "neck"),
    "hair": ("hair", "l_brow", "r_brow"),
    "nose": ("nose",),
    "eyes": ("l_eye", "r_eye"),
    "mouth": ("mouth", "u_lip", "l_lip"),
}
"""Classes of FASSEG, and those of the network that are meant."""


def parser(options: Options) -> Part:
    """F1 on FASSEG, in pixels of the pictures, the detector in the loop."""
    part, name = Part(), NAMES["parser"]
    faces_set = options.some(sets.fasseg())
    table = np.zeros(len(PARSING), np.uint8)
    for index, their in enumerate(faces_set.class_names):
        for mine in FASSEG[their]:
            table[PARSING.index(mine)] = index
    counts: list[NDArray[np.int64]] = []
    there: list[bool] = []

    def counted(batch: list[Photo], faces: Faces) -> None:
        rows = _choose.one_of_each(faces, "central")
        for photo, row in zip(batch, rows, strict=True):
            height, width = photo.image.shape[:2]
            found = np.zeros((height, width), np.uint8)
            if row >= 0:
                found = table[parsing_mask(faces, int(row), height=height, width=width)]
            truth = faces_set.mask(len(counts))
            counts.append(mask_counts(found, truth, classes=len(FASSEG)))
            there.append(row >= 0)

    measure.faces_in(
        faces_set, options.plan(landmarks="mien-landmarks", parser=name, pad=measure.PAD), "pictures", each=counted
    )
    every = np.stack(counts)
    pan = np.abs(faces_set.pan)
    base = (
        "never trained on; its 19 classes joined to the 6 of the set; own detector in the loop, a face that it misses "
        "is all background; F1 of the pixels of all pictures; pictures redrawn"
    )
    frontal = np.asarray(faces_set.part) == "frontal"
    for label, mine in (
        ("", np.ones(len(every), bool)), ("frontal part", frontal),
        ("turned by up to 45 degrees", ~frontal & (pan <= 45)),
        ("turned by 60 to 90 degrees", ~frontal & (pan > 45)),
    ):  # fmt: skip
        if not mine.any():
            continue
        data = f"FASSEG{f', {label}' if label else ''}: {int(mine.sum())} pictures"
        own = every[mine]

        def mean_f1(weights: NDArray[Any], own: NDArray[np.int64] = own) -> NDArray[Any]:
            return np.stack([np.nanmean(f1_of_masks(np.tensordot(w, own, 1))) for w in weights])

        interval: Interval = bootstrap(mean_f1, int(mine.sum()), repeats=400)
        metric = "mean F1 of six classes" + (f", {label}" if label else "")
        part.add(name, metric, interval, data, base, n=int(mine.sum()), unit="")
        if not label:
            part.add(name, "faces found", float(np.mean(there)), data, base, n=len(there))
            for their, value in zip(FASSEG, f1_of_masks(own.sum(0)), strict=True):
                part.add(name, f"F1 of {their}", float(value), data, base, n=int(mine.sum()), unit="")
    return part


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    arguments.add_argument("--data", help="folder of the sets; otherwise $MIEN_DATA")
    arguments.add_argument("--points", type=Path, help="what scripts/ferplus_points.py wrote; the reader needs it")
    arguments.add_argument("--batch", type=int, default=32, help="pictures looked at together")
    arguments.add_argument("--out", type=Path, default=None, help="where to write")
    given = arguments.parse_args()
    if "reader" in given.only and given.points is None:
        arguments.error("the reader is measured on faces of FER+ at known points: give --points FILE")
    if given.data:
        os.environ["MIEN_DATA"] = str(Path(given.data).expanduser().resolve())
    measure.noted(NAMES[part] for part in given.only)
    options = Options("cpu", given.batch, None, info("mien-detector").threshold or 0.5)
    for part in given.only:
        start = time.monotonic()
        say(part)
        if part == "reader":
            measure.note(reader(options, given.points), given.out)
        elif part == "groups":
            measure.note(groups(options), given.out)
        else:
            measure.note(parser(options), given.out)
        say(f"{part} done in {(time.monotonic() - start) / 60:.1f} min; now run scripts/pages.py")


if __name__ == "__main__":
    main()

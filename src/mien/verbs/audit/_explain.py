"""``audit explain``: where models of facial expressions look, and whether people look there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.errors import OptionError
from mien.geometry.checks import choice
from mien.verbs import _output
from mien.verbs._pipeline import Plan, Progress
from mien.verbs.audit import _draw
from mien.verbs.audit._faces import by_expression, contract_of, look, model_of, truth_of
from mien.verbs.evaluate import _report
from mien.verbs.evaluate._common import Evaluation, today
from mien.verbs.evaluate._report import Plot, Report, Table, check_drawable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mien.papers.fer_xai import ExpressionModel, GlobalMap, Lime


@dataclass(frozen=True)
class ExplainedModel:
    """A model, over its expressions.

    Parameters
    ----------
    name
        Its name; of several folds what their names have in common.
    folds
        How many models it stands for.
    accuracy, labelled
        Share of the pictures with a known expression that it gets right, and how many there are; None without any.
    iou, wrong_iou, face_iou, chance_iou, auc
        Means over the expressions; see `ExplainRow`.
    """

    name: str
    folds: int
    accuracy: float | None
    labelled: int
    iou: float
    wrong_iou: float
    face_iou: float
    chance_iou: float
    auc: float


@dataclass(frozen=True)
class ExplainRow:
    """A model's global map for one expression against the mask of where people look for it.

    Parameters
    ----------
    model, expression
        Which map.
    pictures
        How many were predicted so, and explained.
    coverage, iou, f1, precision, recall, auc
        Share of the canvas that is hot by Otsu's threshold; of the hot pixels and the mask; of the map itself.
    wrong_iou, wrong_auc, rank
        With the masks of the other expressions, on average; the place of the right one among all by IoU.
    chance_iou, face_iou
        Expected of an independent mask of the same size, anywhere and within the face.
    shift_iou, shift_p
        With the mask at random places, and the share of places that are as good as the right one.
    """

    model: str
    expression: str
    pictures: int
    coverage: float
    iou: float
    f1: float
    precision: float
    recall: float
    auc: float
    wrong_iou: float
    wrong_auc: float
    rank: int
    chance_iou: float
    face_iou: float
    shift_iou: float
    shift_p: float


@dataclass(frozen=True)
class Agreement:
    """Pearson correlation of two models' global maps for an expression."""

    expression: str
    first: str
    second: str
    correlation: float


@dataclass(frozen=True, kw_only=True)
class ExplainAudit(Evaluation):
    """What `explain` found.

    Parameters
    ----------
    pictures, faceless
        Pictures with a face, and without.
    lime
        The numbers of the local maps; how segments are hidden is one of them.
    models, maps, agreement
        A row a model, a row a model and expression, and a row a pair of models and expression.
    trees
        Average linkage on 1 - correlation of each expression: rows of (one, other, distance, models), as scipy has it.
    out
        Folder of the pictures.
    """

    pictures: int
    faceless: int
    lime: dict[str, Any]
    models: tuple[ExplainedModel, ...]
    maps: tuple[ExplainRow, ...]
    agreement: tuple[Agreement, ...]
    trees: dict[str, Any]
    out: str = ""


def explain(
    path: str,
    *,
    models: Sequence[Any],
    labels: str | None = None,
    join: str = "",
    most: int = 100,
    segments: int = 30,
    compactness: float = 20.0,
    samples: int = 1000,
    hide: str = "black",
    equal: bool = False,
    masks: str | None = None,
    crop: str = "face",
    choose: str = "largest",
    pad: float = 0.0,
    recursive: bool = False,
    seed: int = 0,
    detector: str = "mien-detector",
    landmarks: str = "mien-landmarks",
    device: str = "auto",
    batch_size: int = 8,
    out: str | None = None,
    report: str | None = None,
    progress: Progress | None = None,
) -> ExplainAudit:
    """Shows where models of facial expressions look, how much of it lies where people look, and which models agree.

    Parameters
    ----------
    path
        Folder of faces that the models were not trained on, or a photograph. Sub-folders named after expressions are
        taken for what the faces show.
    models
        Names of weights that read expressions, as ``mien weights list`` has them; in Python also an
        `mien.papers.fer_xai.ExpressionModel`, or any function from crops (B, 112, 112, 3) to probabilities (B, 6).
    labels
        CSV file with the columns file,expression, for the models' accuracy. Default: the names of the sub-folders.
    join
        Models whose names agree before this text are folds of one, and share a map: with -cv, net-cv1 and net-cv2.
    most
        Pictures that are explained for each expression: those that the model predicts to be of it, errors included.
    segments
        Superpixels of a picture.
    compactness
        Of the superpixels; higher is squarer.
    samples
        Forward passes a picture.
    hide
        What stands for a hidden segment: "black", as in the paper, or "mean", the picture's mean colour.
    equal
        Let every picture count the same, whatever the strength of its effects.
    masks
        Folder of masks as anger.png … surprise.png, 275 x 224 px, white on black. Default: drawn from Ekman and
        Friesen's descriptions.
    crop
        "face", cut as each model wants it, or "photo", all of the picture.
    choose
        Which face counts where a picture shows several: "largest", "central" or "surest".
    pad
        Grey border that the detector sees around every picture, as a share of its long side: for faces that are cut
        tightly.
    recursive
        Go into the folders of folders. Where these are named after expressions, that is done unasked.
    seed
        Of the pictures that are chosen, and of the samples.
    detector
        Name of the detector's weights.
    landmarks
        Name of the landmark network's weights.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    batch_size
        Pictures that are looked at together.
    out
        Folder that receives, for each model and expression, the map on the mean face and the map itself, and maps.npz.
    report
        HTML file, or .json, that receives the result with its pictures (HTML needs the extra ``evaluate``).
    progress
        Called as ``progress(done, total, what)`` after every picture.

    Returns
    -------
    ExplainAudit
        Figures, each with its controls.

    Raises
    ------
    OptionError, UnknownWeights
        There is no such choice, or no such weights, or they read no expressions.
    MissingExtra
        scikit-image, or for a report matplotlib, is not installed.
    MediaNotFound, TableError
        There is no such folder, table or mask; or no picture shows a face.
    """
    from mien.papers import fer_xai as paper

    choice("crop", crop, ("face", "photo"))
    choice("hide", hide, ("black", "mean"))
    page = None if report is None or Path(report).suffix.lower() == ".json" else report
    if report is not None and Path(report).suffix.lower() not in (".json", ".html", ".htm"):
        raise OptionError("reports are written as .html or .json", got=report, expected=".html, .json")
    check_drawable(page, None)
    if most < 1:
        raise OptionError("at least one picture is explained", got=most)
    lime = paper.Lime(segments=segments, compactness=compactness, samples=samples, hide=hide, equal=equal)  # type: ignore[arg-type]
    paper.superpixels(np.zeros((1, 16, 16, 3), np.uint8), segments=2)  # told now if scikit-image is not there
    people = paper.ekman_masks() if masks is None else read_masks(masks)
    listed = [models] if isinstance(models, str) or callable(models) or not isinstance(models, Sequence) else models
    resolved = [model_of(one, device) for one in listed]
    if not resolved or len({model.name for model in resolved}) != len(resolved):
        raise OptionError("each model has a name of its own", got=[model.name for model in resolved])

    contracts = {model.name: contract_of(model, crop) for model in resolved}
    plan = Plan(detector=detector, landmarks=landmarks, pad=pad, device=device, batch_size=batch_size)
    seen = look(
        path,
        list(dict.fromkeys(contracts.values())),
        plan=plan,
        choose=choose,
        recursive=recursive or by_expression(path),
        progress=progress,
    )
    if not seen.names:
        raise OptionError("no picture shows a face", got=path, hint="a tight crop needs --pad 0.5")
    truth = np.array(truth_of(seen.names, Path(path), labels))

    found: dict[str, dict[str, GlobalMap]] = {}
    counted: dict[str, list[tuple[int, int]]] = {}
    for model in resolved:
        crops, points = seen.cuts[contracts[model.name]].stacked()

        def told(done: int, total: int, what: str = model.name) -> None:
            if progress is not None:
                progress(done, total, f"maps of {what}")

        predicted = paper.probabilities(model, crops).argmax(1)
        maps = paper.global_maps(
            model, crops, points, expressions=tuple(people), most=most, lime=lime, seed=seed, predicted=predicted,
            told=told,
        )  # fmt: skip
        name = model.name.partition(join)[0] if join else model.name
        known = np.isin(truth, model.classes)
        right = np.array(model.classes)[predicted] == truth
        counted.setdefault(name, []).append((int(right[known].sum()), int(known.sum())))
        own = found.setdefault(name, {})
        for expression, one in maps.items():
            own[expression] = own[expression] + one if expression in own else one

    result = _result(path, seen, found, counted, people, lime, seed, out)
    if out is not None:
        _write(Path(out), found, people)
    if report is not None:
        if page is None:
            with _output.whole_file(report) as file:
                file.write(result.to_json())
        else:
            _report.write(_page(result, found, people, resolved, lime), result, page=page, plots=None)
    return result


def read_masks(folder: str) -> dict[str, NDArray[np.bool_]]:
    """Masks of the six expressions from files ``anger.png`` …; what is brighter than the middle belongs to them.

    Raises
    ------
    OptionError
        One is missing, or is not 275 x 224 px.
    """
    from mien.media import load_image
    from mien.papers.fer_xai import EKMAN, HEIGHT, WIDTH, expression

    files = {expression(file.stem): file for file in sorted(Path(folder).glob("*.png"))}
    missing = [name for name in EKMAN if name not in files]
    if missing:
        raise OptionError("masks are missing", got=missing, expected="anger.png … surprise.png in " + folder)
    masks = {}
    for name in EKMAN:
        image = load_image(files[name])
        if image.shape[:2] != (HEIGHT, WIDTH):
            raise OptionError("a mask has another size", got=image.shape[:2], expected=(HEIGHT, WIDTH))
        masks[name] = image.mean(2) > 127
    return masks


def _mean(values: Sequence[float]) -> float:
    usable = [value for value in values if np.isfinite(value)]
    return float(np.mean(usable)) if usable else float("nan")


def _result(
    path: str,
    seen: Any,
    found: Mapping[str, Mapping[str, GlobalMap]],
    counted: Mapping[str, Sequence[tuple[int, int]]],
    people: Mapping[str, NDArray[np.bool_]],
    lime: Lime,
    seed: int,
    out: str | None,
) -> ExplainAudit:
    from dataclasses import asdict

    from mien.papers import fer_xai as paper

    rows = [
        ExplainRow(name, expression, one.count, **paper.against(one.heat, people, expression, seed=seed).to_dict())  # type: ignore[arg-type]
        for name, maps in found.items()
        for expression, one in maps.items()
        if one.count
    ]
    models = []
    for name in found:
        own = [row for row in rows if row.model == name]
        right, known = (sum(part) for part in zip(*counted[name], strict=True))
        models.append(
            ExplainedModel(
                name, len(counted[name]), right / known if known else None, known,
                *(_mean([getattr(row, key) for row in own])
                  for key in ("iou", "wrong_iou", "face_iou", "chance_iou", "auc")),
            )
        )  # fmt: skip
    agreement: list[Agreement] = []
    trees: dict[str, Any] = {}
    for expression in people:
        mine = [name for name in found if expression in found[name] and found[name][expression].count]
        if len(mine) < 2:
            continue
        r = paper.correlations([found[name][expression].heat for name in mine])
        agreement += [
            Agreement(expression, mine[i], mine[j], float(r[i, j])) for j in range(len(mine)) for i in range(j)
        ]
        trees[expression] = {"models": mine, "linkage": paper.tree(r).tolist()}
    return ExplainAudit(
        measured_on=Path(path).name or str(path), date=today(), failures=seen.failures, pictures=len(seen.names),
        faceless=seen.faceless, lime={**asdict(lime), "seed": seed}, models=tuple(models), maps=tuple(rows),
        agreement=tuple(agreement), trees=trees, out=out or "",
    )  # fmt: skip


def _write(
    folder: Path, found: Mapping[str, Mapping[str, GlobalMap]], people: Mapping[str, NDArray[np.bool_]]
) -> None:  # fmt: skip
    from mien.media import save_image

    arrays: dict[str, Any] = {}
    for name, maps in found.items():
        own = _output.folder(folder / "".join(c if c.isalnum() or c in "-_." else "_" for c in name))
        for expression, one in maps.items():
            if not one.count:
                continue
            save_image(own / f"{expression}.png", _draw.overlay(one.mean_face, one.heat, people[expression]))
            grey = np.rint(255 * one.heat).astype(np.uint8)
            save_image(own / f"{expression}-map.png", np.repeat(grey[..., None], 3, axis=2))
            arrays[f"{name}/{expression}"] = one.heat
    with _output.whole_file(folder / "maps.npz", "wb") as file:
        np.savez_compressed(file, **arrays)


def _page(
    result: ExplainAudit,
    found: Mapping[str, Mapping[str, GlobalMap]],
    people: Mapping[str, NDArray[np.bool_]],
    resolved: Sequence[ExpressionModel],
    lime: Lime,
) -> Report:
    names = list(found)
    pictures = {
        (name, expression): _draw.overlay(one.mean_face, one.heat, people[expression])
        for name, maps in found.items()
        for expression, one in maps.items()
        if one.count
    }
    plots = [
        Plot(
            "maps", "Where each model looks",
            "Bright is what speaks for the expression, on the mean of the faces that were predicted to show it. White "
            "is the outline of where people look.",
            _draw.grid(pictures, names, list(people)),
        )
    ]  # fmt: skip
    means = {model.name: model for model in result.models}
    kinds = {"right mask": "iou", "wrong masks": "wrong_iou", "random in the face": "face_iou", "chance": "chance_iou"}
    plots.append(
        Plot(
            "overlap", "Overlap with where people look",
            "Means over the expressions. What looks as people do is above the wrong masks, not above chance alone.",
            _draw.bars(
                {kind: [getattr(means[name], key) for name in names] for kind, key in kinds.items()}, names, label="IoU"
            ),
        )
    )  # fmt: skip
    whole = {
        expression: np.array(tree["linkage"]) for expression, tree in result.trees.items() if tree["models"] == names
    }
    if whole:
        plots.append(
            Plot(
                "trees", "Which models look alike", "Two models meet at 1 less the correlation of their maps.",
                _draw.trees(whole, names),
            )
        )  # fmt: skip
    table = Table(
        "Every map",
        ("model", "expression", "pictures", "IoU", "wrong masks", "in the face", "chance", "rank", "precision",
         "recall", "F1", "AUC", "p"),
        [
            (row.model, row.expression, row.pictures, *(f"{value:.3f}" for value in (
                row.iou, row.wrong_iou, row.face_iou, row.chance_iou)), row.rank, *(f"{value:.3f}" for value in (
                    row.precision, row.recall, row.f1, row.auc, row.shift_p)))
            for row in result.maps
        ],
        "Rank: of the right mask among all masks, by IoU. p: share of places of the mask that are as good as its own.",
    )  # fmt: skip
    best = max((row for row in result.models), key=lambda row: row.iou - row.wrong_iou)
    tiles = [
        (f"{len(names):,}", "models"), (f"{result.pictures:,}", "faces"),
        (f"{_mean([row.iou for row in result.models]):.3f}", "IoU with the right mask"),
        (f"{_mean([row.wrong_iou for row in result.models]):.3f}", "IoU with the wrong masks"),
    ]  # fmt: skip
    return Report(
        title="Where the models look",
        lead=f"Global explanations of {len(names)} models of facial expressions on {result.measured_on}. Most above "
        f"its control: {best.name}, {best.iou:.3f} against {best.wrong_iou:.3f} with the wrong masks.",
        tiles=tiles,
        protocol={
            "Pictures": _report.acquired(result.pictures + result.faceless, result.faceless, len(result.failures)),
            "Local maps": f"LIME, {lime.segments} superpixels, {lime.samples} samples a picture, hidden in {lime.hide}",
            "Global maps": "each warped by its landmarks to one mean face, then the mean"
            + ("; every picture counts the same" if lime.equal else ""),
            "Masks": "from Ekman and Friesen's descriptions; thresholds by Otsu",
            "Accuracy": "; ".join(
                f"{row.name} {100 * row.accuracy:.1f} % of {row.labelled:,}"
                for row in result.models if row.accuracy is not None
            ),
        },
        plots=plots,
        tables=[table] if result.maps else [],
        command="mien audit explain --models " + ",".join(model.name for model in resolved),
        notes=(
            "A map says what a model's probability depends on when parts of the picture are hidden, not what it ought "
            "to depend on; and an expression is not a feeling.",
        ),
        heading="Pictures",
    )  # fmt: skip

"""Training of a detector that tells box, five landmarks and head pose of every face (MOS: Liu et al., 2021).

    mien train pose_detector preset=wider_s data=WIDER_train/images labels=label.txt out=runs/mos
    mien train pose_detector preset=small out=runs/small          rendered heads on clutter, on a processor

The labels are those of `mien.data.posed_faces.read_posed_faces`. The weights of the four losses are learned
(`mien.nn.multibox.Uncertainty`), and the losses of a step decide what the next one looks at (`mien.train.feedback`): a
stitched batch takes the place of the one that the loader has made, and is loaded when it is needed, so that a run which
is resumed decides and draws alike.
"""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.data.pixels import Picture, as_picture, read
from mien.data.posed_faces import HeadScenes, PosedFaces, PosedList, PosedPictures, read_posed_faces
from mien.errors import OptionError
from mien.nn.multibox import TASKS, Raw, Targets, Uncertainty, as_input, faces_of, fixed, losses, match, weighted
from mien.train import checkpoint
from mien.train.draws import Source
from mien.train.feedback import Feedback
from mien.train.loop import Recipe

DROP = 0.1
"""Factor on the learning rate at each share of `drops`."""


def built(network: str, arguments: tuple[str, ...]) -> nn.Module:
    """The network of ``module:function`` with arguments as text ("channels=32", "widths=(16,32,64,96,64)").

    Raises
    ------
    OptionError
        There is no such function, or an argument is no ``name=value``.
    """
    import ast

    module, _, name = network.partition(":")
    try:
        build = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError("there is no such network", got=network, expected="module:function") from error
    given: dict[str, Any] = {}
    for text in arguments:
        key, equals, value = text.partition("=")
        try:
            if not equals:
                raise ValueError
            given[key.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError) as error:
            raise OptionError(f"an argument of {name}", got=text, expected="name=value, as channels=32") from error
    try:
        made: nn.Module = build(**given)
    except TypeError as error:
        raise OptionError(f"{name} takes no such arguments", got=arguments, expected=str(error)) from error
    return made


class Trainee(nn.Module):
    """The network, the learned weights of its losses, and what the last steps said."""

    def __init__(self, network: nn.Module, weights: Uncertainty | None, feedback: Feedback) -> None:
        super().__init__()
        self.network, self.weights, self.feedback = network, weights, feedback

    def forward(self, images: Tensor) -> tuple[Raw, Tensor | None]:
        """Raw numbers of images, and the logarithms of variances, which so are part of the graph."""
        return Raw(*self.network(images)), None if self.weights is None else self.weights.log_variances * 1.0


@dataclass(kw_only=True)
class PoseDetectorRecipe(Recipe):
    """Trains a detector with landmarks and pose.

    Parameters
    ----------
    data, labels
        Folder of the pictures and the file of their faces. Without them scenes of rendered heads are drawn.
    scenes, heads, checked
        Of the rendered scenes: how many, of how many heads, and how many more for `evaluate`, of other heads.
    smallest, largest
        Sides of the rendered faces, px.
    held
        Share of the pictures of `data` that is kept out for `evaluate`.
    size
        Side of the samples, px.
    network, arguments
        ``module:function`` that builds the network, and its arguments ("channels=32").
    body
        torchvision's file of the backbone's weights. None: random ones.
    sampling
        "feedback" (the paper's), "single" (never stitched) or "stitched" (always).
    tau, small
        Share of the box loss on faces of less than `small` x `small` px below which the next batch is stitched.
    share
        Of the other batches, how much is drawn by false detections.
    weighting, weights
        "uncertainty", or "fixed" with these factors of class, box, landmarks and pose.
    pose
        Whether there is a pose loss.
    alpha
        Factor of the squared error of an angle, in degrees.
    negatives, overlap, least
        Hard negatives for a positive; the overlap from which an anchor is positive; and from which a face's best anchor
        is.
    drops
        With ``schedule=drops``: shares of the steps after which the learning rate falls to a tenth.
    """

    data: str = ""
    labels: str = ""
    scenes: int = 2000
    heads: int = 500
    checked: int = 200
    smallest: float = 8.0
    largest: float = 64.0
    held: float = 0.02
    size: int = 640
    network: str = "mien.papers.mos:mos_s"
    arguments: tuple[str, ...] = ()
    body: str | None = None
    sampling: Literal["feedback", "single", "stitched"] = "feedback"
    tau: float = 0.1
    small: float = 32.0
    share: float = 0.25
    weighting: Literal["uncertainty", "fixed"] = "uncertainty"
    weights: tuple[float, ...] = (1.0, 2.0, 1.0, 1.0)
    pose: bool = True
    alpha: float = 1.0
    negatives: float = 7.0
    overlap: float = 0.35
    least: float = 0.2
    drops: tuple[float, ...] = (0.76, 0.88)

    PLACES: ClassVar[frozenset[str]] = frozenset({"data", "labels", "body", "init"})
    SCHEDULES: ClassVar[tuple[str, ...]] = (*Recipe.SCHEDULES, "drops")
    NESTEROV: ClassVar[bool] = False
    WIDER: ClassVar[dict[str, Any]] = {
        # 260 epochs of 12,880 pictures.
        "steps": 104650, "batch_size": 32, "size": 640, "optimizer": "sgd", "lr": 1e-3, "momentum": 0.9,
        "weight_decay": 5e-4, "schedule": "drops", "warmup": 0, "ema": 0.0, "clip": 10.0, "workers": 12,
        "save_every": 2000,
    }  # fmt: skip
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "wider_s": {**WIDER, "network": "mien.papers.mos:mos_s"},
        "wider_m": {**WIDER, "network": "mien.papers.mos:mos_m"},
        # Minutes on a processor, from rendered heads.
        "small": {
            "size": 128, "steps": 1500, "batch_size": 16, "lr": 2e-3, "warmup": 50, "ema": 0.99, "alpha": 0.01,
            "small": 12.0, "workers": 1, "half": False,
            "arguments": (
                "repeats=(2,2,2)", "widths=(24,48,96,128,64)", "channels=32", "pose=32", "strides=(4,8,16)",
                "sizes=((6,12),(20,32),(48,72))",
            ),
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.data) != bool(self.labels):
            raise OptionError(
                "pictures and labels belong together", got=(self.data, self.labels),
                expected="data=FOLDER labels=FILE, or neither for rendered heads",
            )  # fmt: skip
        if len(self.weights) != len(TASKS) or min(self.weights) < 0:
            raise OptionError("weights of the losses", got=self.weights, expected="class, box, landmarks, pose")
        if not 0 <= self.held < 1 or self.size % 2 or self.size < 32:
            raise OptionError(
                "held or size is out of range", got=(self.held, self.size), expected="0 to 1; even, 32 up"
            )

    # --------------------------------------------------------------------------------------- networks

    def build(self) -> nn.Module:
        network = built(self.network, self.arguments)
        if self.body is not None:
            cast(Any, network).fill_body(_plain(Path(self.body)))
        tasks = len(TASKS) if self.pose else len(TASKS) - 1
        # How many pictures there are is known when the run begins.
        feedback = Feedback(1, tau=self.tau, area=(self.small / self.size) ** 2, share=self.share)
        return Trainee(network, Uncertainty(tasks) if self.weighting == "uncertainty" else None, feedback)

    def begin(self, module: nn.Module) -> None:
        cast(Trainee, module).feedback.sized(len(self._pictures))

    def deploy(self, module: nn.Module) -> nn.Module:
        return cast(Trainee, module).network

    def input_shape(self) -> tuple[int, ...]:
        return (1, 3, self.size, self.size)

    def trained(self, weights: str | Path, device: str = "cpu") -> Any:
        """The network that a run of this recipe has written, in eval mode."""
        network = built(self.network, self.arguments)
        checkpoint.fill(network, Path(weights))
        return network.eval().to(device)

    def pace(self, step: int) -> float:
        if self.schedule != "drops":
            return super().pace(step)
        if step < self.warmup:
            return (step + 1) / self.warmup
        return float(DROP ** sum(step >= share * self.steps for share in self.drops))

    # --------------------------------------------------------------------------------------- data

    @cached_property
    def _listed(self) -> tuple[PosedList, PosedList]:
        """Pictures to learn from, and those kept out; faces are needed to learn from."""
        from mien.data.sets import held_out

        listed = read_posed_faces(self.labels, self.data)
        kept = held_out((Path(file).name for file in listed.files), self.held)
        some = np.array([len(faces) > 0 for faces in listed.faces])
        if not (~kept & some).any():
            raise OptionError("no picture with a face is left to learn from", got=f"held {self.held}", expected="less")
        return listed.take(~kept & some), listed.take(kept)

    @cached_property
    def _pictures(self) -> PosedPictures:
        stitch = self.sampling == "stitched"
        if self.data:
            return PosedPictures(self._listed[0], size=self.size, stitch=stitch)
        return self._rendered(self.scenes, self.heads, 2 * self.seed, stitch=stitch)

    def _rendered(self, scenes: int, heads: int, seed: int, *, stitch: bool = False) -> HeadScenes:
        return HeadScenes(
            scenes, heads=heads, size=self.size, seed=seed, smallest=self.smallest, largest=self.largest, stitch=stitch
        )

    def source(self) -> Source:
        return self._pictures

    def _drawn(self, rows: NDArray[np.int64], step: int, device: torch.device, *, stitch: bool) -> dict[str, Tensor]:
        """A batch of those pictures, loaded now; what it is follows from seed, step and place."""
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0

        def one(place: int) -> dict[str, Any]:
            rng = np.random.default_rng((self.seed, 5, step, rank, place))
            return self._pictures.drawn(int(rows[place]), rng, stitch=stitch)

        with ThreadPoolExecutor(max_workers=max(1, self.workers)) as pool:
            samples = list(pool.map(one, range(len(rows))))
        return {k: torch.as_tensor(np.stack([sample[k] for sample in samples])).to(device) for k in samples[0]}

    # --------------------------------------------------------------------------------------- loss

    def loss(self, module: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        feedback = cast(Feedback, cast(Any, module).feedback)
        stitched = self.sampling == "stitched"
        device = batch["image"].device
        if self.sampling == "feedback":
            rows = batch["index"].cpu().numpy()
            if feedback.stitch():
                batch, stitched = self._drawn(rows, step, device, stitch=True), True
            else:
                hard = feedback.hard(len(rows), np.random.default_rng((self.seed, 6, step)))
                if len(hard):
                    fresh = self._drawn(hard, step, device, stitch=False)
                    batch = {k: torch.cat([fresh[k].to(v.dtype), v[len(hard) :]]) for k, v in batch.items()}
        most = max(1, int(batch["present"].sum(1).max()))
        boxes, present = batch["boxes"][:, :most] / self.size, batch["present"][:, :most]
        raw, log_variances = module(as_input(batch["image"]))
        anchor = cast(Any, module).network.anchors(self.size, self.size, device)
        targets = Targets(
            match(boxes, present, anchor, threshold=self.overlap, least=self.least), boxes,
            batch["points"][:, :most] / self.size, batch["pose"][:, :most],
        )  # fmt: skip
        told = losses(raw, targets, anchor, negatives=self.negatives, alpha=self.alpha)
        values = told.values if self.pose else told.values[: len(TASKS) - 1]
        total = fixed(values, self.weights[: len(values)]) if log_variances is None else weighted(values, log_variances)
        if not self.pose:
            total = total + sum(x.sum() for x in (raw.yaw, raw.pitch, raw.roll)) * 0  # DDP wants every branch used
        feedback.told(told, None if stitched else batch["index"])
        parts = dict(zip(TASKS, told.values, strict=True))
        parts |= {"stitched": torch.tensor(float(stitched)), "small_share": feedback.ratio}
        if log_variances is not None:
            parts |= {f"weight_{task}": value for task, value in zip(TASKS, torch.exp(-log_variances), strict=False)}
        return total, parts

    # --------------------------------------------------------------------------------------- figures

    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Average precision at IoU 0.5 on what was kept out, and the mean error of the found faces' yaw, pitch, roll.

        Pictures are looked at once, with their long side at `size`.
        """
        if self.data:
            held = self._listed[1]
            if not any(len(faces) for faces in held.faces):
                return {}
            cases = [(read(file), faces) for file, faces in zip(held.files, held.faces, strict=True)]
        else:
            if not self.checked:
                return {}
            scenes = self._rendered(self.checked, max(1, self.heads * self.checked // self.scenes), 2 * self.seed + 1)
            cases = list(zip(scenes.images, scenes.faces, strict=True))
        return detection_figures(network, cases, size=self.size)


@torch.no_grad()
def detection_figures(
    network: nn.Module, cases: list[tuple[Picture, PosedFaces]], *, size: int, threshold: float = 0.02
) -> dict[str, float]:
    """Average precision on pictures, each looked at once with its long side at `size`, and errors of found faces' pose.

    Parameters
    ----------
    network
        Of this recipe, in eval mode.
    cases
        Pictures (H, W, 3) and their faces; at least one has some.
    size
        Side, px.
    threshold
        Score down to which the curve reaches.
    """
    from mien.metrics import judge_detections

    device = next(network.parameters()).device
    boxes, scores, image, pose = [], [], [], []
    for row, (picture, _) in enumerate(cases):
        scale = size / max(picture.shape[:2])
        shape = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        scaled = as_picture(cv2.resize(picture, shape, interpolation=kind)) if scale != 1 else picture
        raw = Raw(*network(as_input(torch.from_numpy(np.ascontiguousarray(scaled))[None].to(device))))
        anchor = cast(Any, network).anchors(shape[1], shape[0], device)
        (found,) = faces_of(raw, anchor, shape[1], shape[0], threshold=threshold)
        assert found.pose is not None
        boxes.append(found.boxes.cpu().numpy() / np.float32(scale))
        scores.append(found.scores.cpu().numpy())
        image.append(np.full(len(found), row))
        pose.append(found.pose.cpu().numpy())
    truth = PosedFaces.joined([faces for _, faces in cases])
    truth_image = np.repeat(np.arange(len(cases)), [len(faces) for _, faces in cases])
    judged = judge_detections(
        np.concatenate(boxes), np.concatenate(scores), np.concatenate(image), truth.boxes, truth_image,
        images=len(cases),
    )  # fmt: skip
    figures = {"average_precision": judged.average_precision()}
    right = judged.match >= 0
    error = np.abs(np.concatenate(pose)[right] - truth.pose[judged.match[right]])
    known = np.isfinite(error).all(1)
    if known.any():
        figures |= dict(zip(("yaw_error", "pitch_error", "roll_error"), error[known].mean(0).tolist(), strict=True))
    return figures


def _plain(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of torchvision, read without running code."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        loaded: dict[str, Tensor] = load_file(path)
        return loaded
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise OptionError(
            "the backbone's weights cannot be read", got=f"{path}: {error}", expected="a state dict"
        ) from None
    return {str(k): v for k, v in found.items()}

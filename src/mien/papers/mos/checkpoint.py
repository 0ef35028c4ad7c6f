"""The authors' checkpoints into ours, those of our own training, and a file for the verbs.

``MOS-S.pth`` and ``MOS-M.pth`` are state dicts. Which of them a file is, and its widths, are read from the tensors.
Two names of the released code say something else than they mean: the branch that ``stitch_BboxHead`` computes goes into
the cross-stitch unit as ``classhead``, the one of ``stitch_classhead`` as ``bboxhead``, and out of the unit each head
takes what bears its own name. Ours are named by the head that they lead to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mien.errors import CheckpointError, OptionError
from mien.papers.mos.network import BODIES, BRANCHES, MOS, mos_m, mos_s
from mien.weights import InputContract, Weights
from mien.weights.converted import faults, noted
from mien.weights.load import fill, read_state

DEAD = ("Conv_pose.",)
"""Made by the released constructor and never called."""
_BODY = {"feature_2": 0, "feature_4": 1, "feature_6": 2}
_CONTEXT = {"near": "conv3X3", "shared": "conv5X5_1", "middle": "conv5X5_2", "between": "conv7X7_2", "far": "conv7x7_3"}
_UNIT = {
    "box": "bboxhead", "class": "classhead", "landmarks": "landmarkhead", "yaw": "pose_y", "pitch": "pose_p",
    "roll": "pose_r",
}  # fmt: skip
"""Names inside of the cross-stitch unit, by the head that is fed."""
_FED = {
    "box": "stitch_classhead", "class": "stitch_BboxHead", "landmarks": "stitch_LandmarkHead",
    "yaw": "stitch_PoseHead_y", "pitch": "stitch_PoseHead_p", "roll": "stitch_PoseHead_r",
}  # fmt: skip
"""The branch that bears each of those names; box and class are exchanged, see above."""
_HEADS = {"box": "BboxHead", "class": "ClassHead", "landmarks": "LandmarkHead"}
_POSE = ("PoseHead_y", "PoseHead_p", "PoseHead_r")
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def opened(state: Any) -> Any:
    """The tensors of a checkpoint: ``state_dict`` is opened, ``module.`` of data-parallel training taken off."""
    if isinstance(state, Mapping) and isinstance(inner := state.get("state_dict"), Mapping):
        state = inner
    return {str(k).removeprefix("module."): v for k, v in state.items()} if isinstance(state, Mapping) else state


def shape_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments with which `MOS` builds the network of a released state dict.

    Raises
    ------
    CheckpointError
        The tensors that tell them are missing.
    """
    try:
        channels = len(state["fpn.output1.0.weight"])
        shape: dict[str, Any] = {"channels": channels, "pose": len(state["PoseHead_y.0.Conv_pose.0.weight"])}
        if "body.conv1.0.weight" in state:
            stages = ("stage2", "stage3", "stage4")
            shape |= {
                "body": "shufflenet",
                "repeats": tuple(
                    1 + max(int(k.split(".")[2]) for k in state if k.startswith(f"body.{stage}.")) for stage in stages
                ),
                "widths": (
                    len(state["body.conv1.0.weight"]),
                    *(2 * len(state[f"body.{stage}.0.branch2.5.weight"]) for stage in stages),
                    BODIES["shufflenet"]["channels"][-1],
                ),
            }
        elif any(k.startswith("body.feature_2.") for k in state):
            # The last block's channels are 320 times the width.
            shape |= {"body": "mobilenet", "width": state["fpn.output3.0.weight"].shape[1] / 320}
        else:
            raise KeyError("body.conv1.0.weight or body.feature_2.…")
    except (KeyError, ValueError, IndexError) as error:
        raise _refused({"missing": [str(error.args[0]) if error.args else "a tensor"]}, len(state)) from error
    return shape


def _refused(told: Mapping[str, Sequence[str]], count: int) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint is not one of MOS: {faults(told)}",
        got=f"{count} tensors",
        expected="MOS-S.pth or MOS-M.pth of lyp-deeplearning/MOS-Multi-Task-Face-Detect",
    )


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]


class _Reader:
    """Takes tensors out of a state dict by name, and remembers which were missing or of another shape."""

    def __init__(self, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
        self.state, self.expected = state, expected
        self.used: set[str] = set()
        self.missing: list[str] = []
        self.made: dict[str, Tensor] = {}

    def take(self, name: str) -> Tensor | None:
        self.used.add(name)
        if name not in self.state:
            if not name.endswith("num_batches_tracked"):  # not written by old versions of torch
                self.missing.append(name)
                return None
            return torch.zeros((), dtype=torch.int64)
        return self.state[name]

    def put(self, ours: str, *theirs: str, stacked: bool = False) -> None:
        """Our tensor is theirs, or several of theirs one after the other (`stacked`: along a new dimension)."""
        parts = [part for name in theirs if (part := self.take(name)) is not None]
        if len(parts) < len(theirs):
            return
        same = len({part.shape for part in parts}) == 1
        if len(parts) == 1 and not stacked:
            self.made[ours] = parts[0]
        elif same:
            self.made[ours] = parts[0] if parts[0].ndim == 0 else (torch.stack if stacked else torch.cat)(parts)
        else:
            self.made[ours] = torch.empty(0)  # told as of another shape

    def norm(self, ours: str, *theirs: str) -> None:
        for part in NORM:
            self.put(f"{ours}.{part}", *(f"{name}.{part}" for name in theirs))


def convert_official(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of `MOS` from a released one; what is unknown or missing is an error.

    Parameters
    ----------
    state
        A released state dict of tensors, maybe under ``state_dict``, maybe with ``module.`` before all names.
        ``Conv_pose.*``, which the released network makes and never calls, must be there or not, and is left aside.

    Returns
    -------
    dict
        Float32 tensors; fits ``MOS(**shape_of(state))`` strictly.

    Raises
    ------
    CheckpointError
        Names what is missing, unknown or of another shape.
    """
    tensors = {name: torch.as_tensor(value) for name, value in opened(state).items()}
    shape = shape_of(tensors)
    try:
        with torch.device("meta"):
            expected = MOS(**shape).state_dict()
    except (OptionError, ValueError, RuntimeError) as error:
        raise CheckpointError("the checkpoint has an impossible shape", got=str(error)) from error
    read = _Reader(tensors, expected)
    odd = _body(read, shape["body"])
    for level in range(3):
        read.put(f"lateral.{level}.0.weight", f"fpn.output{level + 1}.0.weight")
        read.norm(f"lateral.{level}.1", f"fpn.output{level + 1}.1")
        if level < 2:
            _deformable(read, f"merge.{level}", f"fpn.merge{level + 1}")
        for ours, theirs in _CONTEXT.items():
            _deformable(read, f"context.{level}.{ours}", f"ssh{level + 1}.{theirs}")
        for part in ("weight", "bias"):
            read.put(f"stitch.{level}.{part}", *(f"{_FED[b]}.{level}.conv1x1.{part}" for b in BRANCHES), stacked=True)
        unit = f"cross_stitch.fpn{level + 1}.cross_stitch_unit"
        read.put(
            f"stitch.{level}.mix", *(f"{unit}.{_UNIT[i]}.{_UNIT[j]}.param" for i in BRANCHES for j in BRANCHES),
            stacked=True,
        )  # fmt: skip
        for ours, theirs in _HEADS.items():
            for part in ("weight", "bias"):
                read.put(f"heads.{level}.out.{ours}.{part}", f"{theirs}.{level}.conv1x1.{part}")
        read.put(f"heads.{level}.pose.0.weight", *(f"{head}.{level}.Conv_pose.0.weight" for head in _POSE))
        read.norm(f"heads.{level}.pose.1", *(f"{head}.{level}.Conv_pose.1" for head in _POSE))
        for part in ("weight", "bias"):
            read.put(f"heads.{level}.pose.3.{part}", *(f"{head}.{level}.conv1x1.{part}" for head in _POSE))
    made: dict[str, Tensor] = {}
    wrong = list(odd)
    for name, want in expected.items():
        value = read.made.get(name)
        if value is None:
            continue
        if value.numel() != want.numel() or (value.shape != want.shape and not name.endswith((".weight", ".mix"))):
            wrong.append(f"{name} {tuple(value.shape)} for {tuple(want.shape)}")
            continue
        if value.shape != want.shape and not name.startswith("stitch."):
            wrong.append(f"{name} {tuple(value.shape)} for {tuple(want.shape)}")
            continue
        made[name] = value.reshape(want.shape) if value.dtype == torch.int64 else value.float().reshape(want.shape)
    unknown = sorted(k for k in tensors.keys() - read.used if not k.startswith(DEAD))
    told = {"missing": sorted(read.missing), "unknown": unknown, "of another shape": sorted(wrong)}
    if any(told.values()):
        raise _refused(told, len(tensors))
    return made


def _deformable(read: _Reader, ours: str, theirs: str) -> None:
    for part in ("weight", "bias"):
        read.put(f"{ours}.0.{part}", f"{theirs}.conv.{part}")
        read.put(f"{ours}.0.offset.{part}", f"{theirs}.conv.conv_offset_mask.{part}")
    read.norm(f"{ours}.1", f"{theirs}.actf.0")


def _body(read: _Reader, body: str) -> list[str]:
    """The backbone; what does not correspond is returned."""
    own = [name for name in read.expected if name.startswith("body.")]
    if body == "shufflenet":
        for name in own:
            read.put(name, name)
        return []
    # MobileNetV2 was cut into three blocks; how deep their layers are nested is not known, but their order is.
    odd = []
    for theirs, block in _BODY.items():
        mine = _layers([name for name in own if name.startswith(f"body.blocks.{block}.")])
        given = _layers([name for name in read.state if name.startswith(f"body.{theirs}.")])
        if [parts for _, parts in mine] != [parts for _, parts in given]:
            odd.append(f"body.{theirs}: {len(given)} layers for {len(mine)}")
        for (ours, parts), (name, _) in zip(mine, given, strict=False):
            for part in parts:
                read.put(f"{ours}.{part}", f"{name}.{part}")
    return odd


def _layers(names: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Layers in their order, with the names of their tensors; counters, which may be absent, are always among them."""
    found: dict[str, set[str]] = {}
    for name in names:
        layer, _, part = name.rpartition(".")
        found.setdefault(layer, set()).add(part)
    for parts in found.values():
        if "running_mean" in parts:
            parts.add("num_batches_tracked")
    return [(layer, tuple(sorted(found[layer]))) for layer in sorted(found, key=_natural)]


# ------------------------------------------------------------------------------------------- for the verbs

RUN = ("network", "arguments")
OWN = re.compile(r"mien\.papers\.mos:(mos_s|mos_m)")


def trained_network(*, network: str, arguments: Sequence[str] = ()) -> MOS:
    """The network that a run of ``mien train pose_detector`` writes, from the numbers of its ``config.json``.

    Raises
    ------
    OptionError
        The network is not one of this paper: a file must not choose what code runs.
    """
    from mien.train.recipes.pose_detector import built

    if not OWN.fullmatch(network):
        raise OptionError("the network of the run is not of this paper", got=network, expected=OWN.pattern)
    made = built(network, tuple(arguments))
    assert isinstance(made, MOS)
    return made


def import_official(file: str | Path, out: str | Path, *, name: str = "mos", task: str | None = None) -> Weights:
    """Converts a released checkpoint into a safetensors file, and declares it: a detector that tells pose.

    Parameters
    ----------
    file
        ``MOS-S.pth`` or ``MOS-M.pth``, read without running code from it. Or ``weights.safetensors`` of a run of
        ``mien train pose_detector``, with its ``config.json`` beside it.
    out
        Where the converted weights are written, ending in ``.safetensors``.
    name
        What callers write.
    task
        "detection", the only one.

    Raises
    ------
    CheckpointError
        The file cannot be read, or its tensors are not those of the network.
    OptionError
        Another task, or a name of the file that is not ``.safetensors``.
    """
    from mien.train.checkpoint import save_weights

    file, out = Path(file), Path(out)
    if task not in (None, "detection"):
        raise OptionError.unknown("MOS has no such task", task, ("detection",))
    if out.suffix != ".safetensors":
        raise OptionError("converted weights are written as safetensors", got=out, expected="a name ending in it")
    about: dict[str, Any]
    if file.suffix == ".safetensors" and (config := file.with_name("config.json")).is_file():
        try:
            plain = json.loads(config.read_text("utf-8"))
            about = {key: plain[key] for key in RUN}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{config} is not of a run of mien train pose_detector", got=error, expected="its config.json"
            ) from error
        network = trained_network(**about)
        fill(network, read_state(file), source=str(file))
        about = {"run": True, **about}
    else:
        state = read_state(file, convert="mien.papers.mos.checkpoint:opened")
        about = shape_of(state)
        network = MOS(**about)
        fill(network, convert_official(state), source=str(file))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(out, network, metadata={"paper": "mos", "source": file.name, "arguments": json.dumps(about)})
    return declaration(out, name=name)


def released(**arguments: Any) -> MOS:
    """The network of a file that `import_official` wrote; lists of JSON are taken for tuples."""
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    return MOS(**given)


def declaration(file: str | Path, *, name: str = "mos") -> Weights:
    """What mien has to know of a file that `import_official` wrote: its hash, the network, what it wants to see.

    Raises
    ------
    CheckpointError
        The file cannot be read, or was not written by `import_official`.
    """
    place, (arguments, source) = noted(file, lambda note: (json.loads(note["arguments"]), note["source"]))
    own = arguments.pop("run", False)
    return Weights(
        name=name,
        task="detection",
        **place,
        licence="that of your training data" if own else "none stated for the weights (code: MIT)",
        source=f"{source} of a run of mien train pose_detector" if own else f"{source} of the authors, converted",
        build="mien.papers.mos.checkpoint:" + ("trained_network" if own else "released"),
        arguments=arguments,
        # The order is that of the colours: blue, green, red.
        input=InputContract(size=None, mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0), colour="BGR"),
        decode="mien.papers.mos.detect:decode",
        threshold=0.55,
        paper="mos",
        notes="Tells head pose with every face, in bins of 3 degrees from -99 to 96. "
        + ("" if own else "The authors' labels of pose were made by a machine."),
    )


__all__ = ["convert_official", "declaration", "import_official", "mos_m", "mos_s", "shape_of", "trained_network"]

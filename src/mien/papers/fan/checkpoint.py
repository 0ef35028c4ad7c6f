"""The released files into ours, networks of one's own training, and a file for the verbs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError
from mien.nn.count import count_macs, count_parameters
from mien.nn.fan import FAN, DepthNet
from mien.papers.fan.network import landmarker
from mien.weights import InputContract, Weights
from mien.weights.converted import faults, noted
from mien.weights.load import fill, read_state

__all__ = ["RELEASED", "convert_official", "declaration", "import_official", "own_names", "shape_of"]

RELEASED: Mapping[str, str] = {
    "2DFAN4-11f355bf06.pth.tar": "2D-FAN, 4 stacks",
    "3DFAN4-7835d9f11d.pth.tar": "3D-FAN, 4 stacks",
    "depth-2a464da4ea.pth.tar": "3D-FAN-depth",
}
"""File names of the three released files of PyTorch, and what they are."""

BESIDE = ("depth*.pth.tar", "depth*.pth", "depth*.pt", "depth*.safetensors")
"""What a file of the depth network beside that of 3D-FAN is called."""

CONFIG = "config.json"
"""What a training run has written beside its weights."""

ASPECT = 0.94
"""Mean side of a detected box in units of the longer one (WIDER FACE's boxes 0.93, those of our detector 0.95): from
the paper's side, which is that of width plus height, to the contract's, which is that of the longer one."""

NESTED = "state_dict"


def own_names(state: Mapping[str, Any]) -> dict[str, str]:
    """Our name of each tensor of a released state dict, by its name there; names that nobody knows are left out."""
    names: dict[str, str] = {}
    for name in state:
        ours = _depth_name(name) if "fc.weight" in state or "layer1.0.conv1.weight" in state else _fan_name(name)
        if ours is not None:
            names[name] = ours
    return names


_STEM = {"conv1": "stem.conv", "bn1": "stem.bn", "conv2": "stem.block1", "conv3": "stem.block2", "conv4": "stem.block3"}
_STACK = {
    "top_m_": "top", "conv_last": "conv", "bn_end": "bn", "l": "heatmaps", "bl": "features_on", "al": "heatmaps_on",
}  # fmt: skip
_LEVEL = {"b1": "up", "b2": "down", "b3": "back"}


def _fan_name(name: str) -> str | None:
    head, _, rest = name.partition(".")
    rest = rest.replace("downsample.", "skip.")
    if head in _STEM:
        return f"{_STEM[head]}.{rest}"
    if (hourglass := re.fullmatch(r"m(\d+)", head)) is not None:
        block, _, rest = rest.partition(".")
        stack = f"stacks.{hourglass[1]}.hourglass"
        if block == "b2_plus_1":
            return f"{stack}.inside.{rest}"
        if (level := re.fullmatch(r"(b[123])_([1-9]\d*)", block)) is not None:
            return f"{stack}.{_LEVEL[level[1]]}.{int(level[2]) - 1}.{rest}"
        return None
    if (part := re.fullmatch(r"(top_m_|conv_last|bn_end|bl|al|l)(\d+)", head)) is not None:
        return f"stacks.{part[2]}.{_STACK[part[1]]}.{rest}"
    return None


def _depth_name(name: str) -> str | None:
    if (layer := re.fullmatch(r"layer([1-4])\.(\d+)\.(.+)", name)) is not None:
        return f"layers.{int(layer[1]) - 1}.{layer[2]}.{layer[3].replace('downsample.', 'skip.')}"
    return name if name.partition(".")[0] in ("conv1", "bn1", "fc") else None


def shape_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What builds the network of a state dict in our names: arguments of `FAN`, or of `DepthNet` (it has ``depths``).

    Raises
    ------
    CheckpointError
        Tensors that tell the shape are missing.
    """
    try:
        if "fc.weight" in state:
            points, _ = state["fc.weight"].shape
            places = [re.fullmatch(r"layers\.(\d+)\.(\d+)\.conv1\.weight", name) for name in state]
            found = [(int(place[1]), int(place[2])) for place in places if place]
            depths = tuple(1 + max(b for s, b in found if s == stage) for stage in range(1 + max(s for s, _ in found)))
            return {"points": points, "depths": depths, "width": state["conv1.weight"].shape[0]}
        stacks = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("stacks."))
        levels = 1 + max(int(name.split(".")[4]) for name in state if name.startswith("stacks.0.hourglass.up."))
        points, width = state["stacks.0.heatmaps.weight"].shape[:2]
        channels = state["stem.conv.weight"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        _refuse({"missing": ["the tensors that tell its shape"]}, len(state))
        raise AssertionError from error  # _refuse has raised
    return {"stacks": stacks, "channels": channels, "points": points, "width": width, "levels": levels}


def _refuse(told: Mapping[str, Sequence[str]], count: int) -> None:
    if wrong := faults(told):
        raise CheckpointError(
            f"the checkpoint is not one of FAN's: {wrong}", got=f"{count} tensors",
            expected=f"one of {', '.join(RELEASED)}",
        )  # fmt: skip


def convert_official(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of `FAN` or of `DepthNet` from a released one; what is unknown or missing is an error.

    No tensor of the released files is dead: each has a place. Only the counters of batch normalisation may be absent.

    Parameters
    ----------
    state
        Content of a released PyTorch file: the state dict of 2D-FAN or 3D-FAN of 1 to 4 stacks as it is, or that of the
        depth network under ``state_dict`` with ``module.`` before its names.

    Returns
    -------
    dict
        Float32 tensors; fits ``FAN(**shape_of(…))`` or ``DepthNet(**shape_of(…))`` strictly.

    Raises
    ------
    CheckpointError
        Names what is missing, unknown or of another shape.
    """
    if isinstance(inner := state.get(NESTED), Mapping):
        state = inner
    tensors = {
        name.removeprefix("module."): torch.as_tensor(value)
        for name, value in state.items()
        if isinstance(value, Tensor) or hasattr(value, "__array__")
    }
    odd = sorted(name for name in state if name.removeprefix("module.") not in tensors)
    names = own_names(tensors)
    ours = {names[name]: value for name, value in tensors.items() if name in names}
    unknown = sorted(tensors.keys() - names.keys()) + odd
    if unknown and not ours:
        _refuse({"unknown": unknown}, len(tensors))
    shape = shape_of(ours)
    try:
        with torch.device("meta"):
            network: nn.Module = DepthNet(**shape) if "depths" in shape else FAN(**shape)
    except OptionError as error:
        raise CheckpointError("the checkpoint has an impossible shape", got=str(error)) from error
    expected = network.state_dict()
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    _refuse(
        {
            "missing": sorted(expected.keys() - ours.keys() - counters),
            "unknown": sorted([*unknown, *(ours.keys() - expected.keys())]),
            "of another shape": sorted(
                f"{name} {tuple(ours[name].shape)} for {tuple(expected[name].shape)}"
                for name in ours.keys() & expected.keys()
                if ours[name].shape != expected[name].shape
            ),
        },
        len(tensors),
    )
    zero = torch.zeros((), dtype=torch.int64)
    return {name: ours.get(name, zero) if name in counters else ours[name].float() for name in expected}


# ------------------------------------------------------------------------------------------- for the verbs


def import_official(
    file: str | Path, out: str | Path, *, name: str = "fan", task: str | None = None,
    depth: str | Path | None = "beside", mirror: bool = True,
) -> Weights:  # fmt: skip
    """Converts a released file, or one of ``mien train heatmaps``, and declares it for the verbs.

        mien weights import fan 3DFAN4-7835d9f11d.pth.tar --name 3dfan
        mien analyze photo.jpg --landmarks 3dfan

    Parameters
    ----------
    file
        The file of 2D-FAN or of 3D-FAN; or ``weights.safetensors`` of a run, its ``config.json`` beside it.
    out
        Where the converted weights are written, ending in ``.safetensors``.
    name
        What callers write.
    task
        "landmarks", the one that there is.
    depth
        File of the depth network, whose numbers become the points' third; None for none. "beside" takes the one file
        ``depth….pth.tar`` in the same folder, unless `file` is of 2D-FAN (by its name), whose points have no depth.
    mirror
        Whether every crop is looked at in the mirror too, at twice the cost, as the released code does.

    Raises
    ------
    CheckpointError
        A file cannot be read, or is not of these networks.
    OptionError
        Another task, or `out` does not end in ``.safetensors``.
    """
    from mien.train.checkpoint import save_weights

    file, out = Path(file), Path(out)
    if out.suffix != ".safetensors":
        raise OptionError("converted weights are written as safetensors", got=out, expected="a name ending in it")
    if task not in (None, "landmarks"):
        raise OptionError("FAN finds landmarks", got=task, expected="landmarks")
    trained, run = _opened(file)
    if "depths" in trained[1]:
        raise CheckpointError(
            "the depth network alone finds no points", got=file, expected="2D-FAN or 3D-FAN",
            hint="import the file of 3D-FAN, with this one beside it",
        )  # fmt: skip
    if trained[1]["channels"] != 3:
        raise CheckpointError("2D-to-3D-FAN needs points to find points", got=f"{trained[1]['channels']} channels",
                              hint="in Python: mien.papers.fan.guided")  # fmt: skip
    known = ("stacks", "width", "levels")
    arguments: dict[str, Any] = {key: trained[1][key] for key in known}
    if run is not None:
        arguments |= {key: run[key] for key in ("stride", "pool", "affine")}
    state = {f"network.{key}": value for key, value in trained[0].items()}
    below = _beside(file, depth, flat="2dfan" in file.name.lower() or (run is not None and run.get("kind") == "2d"))
    if below is not None:
        (tensors, shape), other = _opened(below)
        if "depths" not in shape:
            raise CheckpointError("this is no depth network", got=below, expected="depth-2a464da4ea.pth.tar")
        state |= {f"depth.{key}": value for key, value in tensors.items()}
        arguments |= {"deep": True, "depths": tuple(shape["depths"]), "depth_width": shape["width"]}
        if other is not None:
            arguments |= {"official": False, "towards": 1.0, "depth_pool": other["depth_pool"]}
    arguments["mirror"] = mirror
    network = landmarker(**arguments)
    fill(network, state, source=str(file))
    out.parent.mkdir(parents=True, exist_ok=True)
    size = 256 if run is None else int(run["size"])
    described = {"source": file.name, "depth": "" if below is None else below.name, "size": str(size),
                 "own": str(run is not None), "arguments": json.dumps(arguments)}  # fmt: skip
    save_weights(out, network, metadata={"paper": "fan", **described})
    return declaration(out, name=name)


def _opened(file: Path) -> tuple[tuple[dict[str, Tensor], dict[str, Any]], dict[str, Any] | None]:
    """Tensors in our names and their shape; and the numbers of the run that wrote them, if it was one of ours."""
    if file.suffix == ".safetensors" and (config := file.parent / CONFIG).is_file():
        try:
            run = json.loads(config.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError("the run's config cannot be read", got=f"{config}: {error}") from error
        if not isinstance(run, dict) or run.get("recipe") != "HeatmapsRecipe":
            raise CheckpointError(
                "the run was not one of `mien train heatmaps`", got=config, expected="a config of HeatmapsRecipe"
            )
        state = dict(read_state(file))
        return (state, shape_of(state)), run
    state = convert_official(read_state(file, convert="mien.papers.fan.checkpoint:tensors_of"))
    return (state, shape_of(state)), None


def tensors_of(content: Any) -> Any:
    """The state dict inside of a released file's content."""
    inner = content.get(NESTED) if isinstance(content, Mapping) else None
    return inner if isinstance(inner, Mapping) else content


def _beside(file: Path, depth: str | Path | None, *, flat: bool) -> Path | None:
    if depth is None or (depth == "beside" and flat):
        return None
    if depth != "beside":
        return Path(depth)
    there = sorted({path for pattern in BESIDE for path in file.parent.glob(pattern)} - {file})
    if len(there) > 1:
        raise OptionError("several files of depth networks lie beside it", got=[path.name for path in there],
                          hint="in Python, say which: depth=…")  # fmt: skip
    return there[0] if there else None


def declaration(file: str | Path, *, name: str = "fan") -> Weights:
    """What mien has to know of a file that `import_official` wrote.

    The crop is an upright square around the detected box, 0.12 of its height up. The paper's side is that of the box's
    width plus height; a contract knows the longer side, so the mean ratio of the two is taken (`ASPECT`).
    """
    place, (arguments, source, below, size, own) = noted(
        file,
        lambda note: (
            json.loads(note["arguments"]),
            note["source"],
            note["depth"],
            int(note["size"]),
            note["own"] == "True",
        ),
    )
    if "depths" in arguments:
        arguments["depths"] = tuple(arguments["depths"])
    with torch.device("meta"):
        network = landmarker(**arguments)
    known = RELEASED.get(source)
    return Weights(
        name=name,
        task="landmarks",
        **place,
        licence="none stated: trained by the user" if own else "none stated for the weights (code: BSD-3-Clause)",
        source=f"{source}{f' and {below}' if below else ''}, converted" + (f" ({known})" if known else ""),
        build="mien.papers.fan:landmarker",
        arguments=arguments,
        input=InputContract(
            size=size, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0), template="box", margin=MARGIN, up=0.12
        ),
        paper="fan",
        macs=count_macs(network, (1, 3, size, size)),
        macs_input=(1, 3, size, size),
        parameters=count_parameters(network),
        notes="Made for tight boxes; its crop here is that of the detected box. Closed eyes, hats and heavy covers are "
        "its known failures." + ("" if own else " 300W-LP, which it was trained on, is for research only."),
    )


MARGIN = round(2 * ASPECT * 200 / 195, 3)
"""Sides of the detected box's longer one that the crop is wide."""

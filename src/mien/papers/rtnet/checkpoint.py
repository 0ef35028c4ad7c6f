"""The authors' checkpoints into ours, those of our own training, and a file for ``mien analyze --parse``.

A released ``.torch`` is the state dict of an encoder (RTNet-50, RTNet-101, ResNet-50) and a decoder (FCN, DeepLabV3+).
Which of them, and the number of classes, are read from the tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError
from mien.papers.rtnet import network as networks
from mien.papers.rtnet.parsing import CLASSES, CROP, MARGIN, CropParser, Sides
from mien.weights import InputContract, Weights
from mien.weights.converted import noted
from mien.weights.load import fill, read_state

EXPECTED = "a released .torch file of hhj1897/face_parsing (rtnet50, rtnet101 or resnet50; fcn or deeplabv3plus)"

_BLOCK = r"encoder\.layer([1-4])\.(\d+)\."
_TAIL = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_NAMES: tuple[tuple[str, str], ...] = (
    (r"encoder\.conv1\.weight", "encoder.stem.0.weight"),
    (rf"encoder\.bn1\.{_TAIL}", r"encoder.stem.1.\1"),
    (rf"{_BLOCK}conv1_([ab])\.weight", r"encoder.stages.<\1>.\2.enter.{\3}.0.weight"),
    (rf"{_BLOCK}bn1_([ab])\.{_TAIL}", r"encoder.stages.<\1>.\2.enter.{\3}.1.\4"),
    (rf"{_BLOCK}conv_polar\.0\.1\.weight", r"encoder.stages.<\1>.\2.middle.0.1.weight"),
    (rf"{_BLOCK}conv_polar\.1\.{_TAIL}", r"encoder.stages.<\1>.\2.middle.0.2.\3"),
    (rf"{_BLOCK}conv_cart\.0\.weight", r"encoder.stages.<\1>.\2.middle.1.1.weight"),
    (rf"{_BLOCK}conv_cart\.1\.{_TAIL}", r"encoder.stages.<\1>.\2.middle.1.2.\3"),
    (rf"{_BLOCK}conv1\.weight", r"encoder.stages.<\1>.\2.enter.0.weight"),
    (rf"{_BLOCK}bn1\.{_TAIL}", r"encoder.stages.<\1>.\2.enter.1.\3"),
    (rf"{_BLOCK}conv2\.weight", r"encoder.stages.<\1>.\2.middle.1.weight"),
    (rf"{_BLOCK}bn2\.{_TAIL}", r"encoder.stages.<\1>.\2.middle.2.\3"),
    (rf"{_BLOCK}conv3\.weight", r"encoder.stages.<\1>.\2.leave.0.weight"),
    (rf"{_BLOCK}bn3\.{_TAIL}", r"encoder.stages.<\1>.\2.leave.1.\3"),
    (rf"{_BLOCK}downsample\.([01])\.{_TAIL}", r"encoder.stages.<\1>.\2.shortcut.\3.\4"),
    (rf"decoder\.([014])\.{_TAIL}", r"head.\1.\2"),
    (rf"decoder\.aspp\.conv([1-4])\.(conv|bn)\.{_TAIL}", r"head.aspp.<\1>.(\2).\3"),
    (rf"decoder\.aspp\.conv_out\.(conv|bn)\.{_TAIL}", r"head.gather.(\1).\2"),
    (rf"decoder\.decoder\.conv_low\.(conv|bn)\.{_TAIL}", r"head.low.(\1).\2"),
    (rf"decoder\.decoder\.conv_cat\.([01])\.(conv|bn)\.{_TAIL}", r"head.refine.\1.(\2).\3"),
    (r"decoder\.decoder\.conv_out\.weight", "head.classes.weight"),
)  # fmt: skip


def own_name(name: str) -> str | None:
    """Our name for a tensor of the released layout; None for what is none of it."""
    for pattern, replacement in _NAMES:
        if found := re.fullmatch(pattern, name):
            plain = found.expand(replacement)
            plain = re.sub(r"<(\d)>", lambda digit: str(int(digit[1]) - 1), plain)  # theirs count from 1
            return plain.replace("{a}", "0").replace("{b}", "1").replace("(conv)", "0").replace("(bn)", "1")
    return None


def opened(state: Any) -> dict[str, Tensor]:
    """The tensors of a released file: ``state_dict`` is opened, ``module.`` of data-parallel training taken off.

    Raises
    ------
    CheckpointError
        It is no mapping of tensors.
    """
    if isinstance(state, Mapping) and isinstance(inner := state.get("state_dict"), Mapping):
        state = inner
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError("the checkpoint is not a state dict", got=type(state).__name__, expected=EXPECTED)
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def shape_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """Encoder, decoder, layers, width and classes of a released state dict, as `build` takes them.

    Raises
    ------
    CheckpointError
        The tensors that tell them are missing.
    """
    tensors = opened(state)
    try:
        layers = tuple(
            1 + max(int(found[1]) for name in tensors if (found := re.match(rf"encoder\.layer{stage}\.(\d+)\.", name)))
            for stage in (1, 2, 3, 4)
        )
        deep = "decoder.decoder.conv_out.weight" in tensors
        last = tensors["decoder.decoder.conv_out.weight" if deep else "decoder.4.weight"]
        hybrid = "encoder.layer2.0.conv1_a.weight" in tensors
        width = len(tensors["encoder.conv1.weight"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint is not one of RTNet: it lacks the tensors that tell its shape ({error})",
            got=f"{len(tensors)} tensors", expected=EXPECTED,
        ) from error  # fmt: skip
    encoder = ("rtnet101" if layers[2] > 6 else "rtnet50") if hybrid else "resnet50"
    return {
        "encoder": encoder, "decoder": "deeplabv3plus" if deep else "fcn", "classes": len(last),
        "layers": layers, "width": width,
    }  # fmt: skip


def build(*, encoder: str, **arguments: Any) -> networks.FaceSegmenter:
    """The network that `shape_of` describes."""
    makers: dict[str, Callable[..., networks.FaceSegmenter]] = {
        "rtnet50": networks.rtnet50,
        "rtnet101": networks.rtnet101,
        "resnet50": networks.resnet50,
    }
    if encoder not in makers:
        raise OptionError.unknown("unknown encoder", encoder, makers)
    if "layers" in arguments:
        arguments["layers"] = tuple(arguments["layers"])
    return makers[encoder](**arguments)


def convert_official(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of `build` from a released one; what is unknown or missing is an error. No key of it is dead.

    Parameters
    ----------
    state
        A released state dict of tensors, or a mapping with one as its ``state_dict``.

    Returns
    -------
    dict
        Fits ``build(**shape_of(state))`` strictly; floats are float32.

    Raises
    ------
    CheckpointError
        Names what is missing, unknown or of another shape.
    """
    tensors = opened(state)
    shape = shape_of(tensors)
    with torch.device("meta"):
        expected = {name: value.shape for name, value in build(**shape).state_dict().items()}
    named = {name: own_name(name) for name in tensors}
    ours = {own: tensors[name] for name, own in named.items() if own is not None}
    theirs = {own: name for name, own in named.items() if own is not None}
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    troubles: dict[str, Sequence[str]] = {
        "missing": sorted(expected.keys() - ours.keys() - counters),
        "unknown": sorted([name for name, own in named.items() if own is None or own not in expected]),
        "of another shape": [
            f"{theirs[name]} {tuple(ours[name].shape)} for {tuple(expected[name])}"
            for name in sorted(ours.keys() & expected.keys())
            if ours[name].shape != expected[name]
        ],
    }
    told = [
        f"{len(names)} {kind} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
        for kind, names in troubles.items()
        if names
    ]
    if told:
        raise CheckpointError(
            f"the checkpoint is not one of RTNet: {'; '.join(told)}", got=f"{len(tensors)} tensors", expected=EXPECTED
        )
    zero = torch.zeros((), dtype=torch.int64)
    return {name: ours.get(name, zero) if name in counters else ours[name].float() for name in expected}


def from_imagenet(network: networks.FaceSegmenter, state: Mapping[str, Any] | Path) -> tuple[str, ...]:
    """Copies what fits of a ResNet of torchvision's layout (``conv1.weight``, ``layer1.0.conv1.weight`` …) into ours.

    `state` is its state dict, or the file.

    As far as shapes match: the stem, ordinary blocks, the last convolution and the shortcut of the others. Both 3 x 3
    branches and what leads to them are new. The classes of ImageNet are left out.

    Returns
    -------
    Names, in our layout, of what was copied.

    Raises
    ------
    CheckpointError
        Not even the stem is there: the file is something else.
    """
    if isinstance(state, Path):
        state = read_state(state)
    own = network.state_dict()
    copied: dict[str, Tensor] = {}
    for name, value in opened(state).items():
        ours = own_name(f"encoder.{name}")
        if ours in own and own[ours].shape == value.shape:
            copied[ours] = value.to(own[ours])
    if "encoder.stem.0.weight" not in copied:
        raise CheckpointError(
            "the file is not a ResNet of ImageNet", got=f"{len(state)} tensors",
            expected="torchvision's resnet50 or resnet101, as a state dict",
        )  # fmt: skip
    network.load_state_dict({**own, **copied})
    return tuple(copied)


# ------------------------------------------------------------------------------------------- for the verbs


def crop_parser(
    *, names: Sequence[str], warp: int, size: int = CROP, margin: float = MARGIN, aspect: float,
    sides: Sides = "picture", frame: str = "polar", crop_margin: float = 1.0, **shape: Any,
) -> CropParser:  # fmt: skip
    """The network of imported weights: square crops in, 19 classes out. `shape` goes to `build`."""
    return CropParser(
        build(**shape), names=tuple(names), warp=warp, size=size, margin=margin, aspect=aspect, sides=sides,
        frame=frame, crop_margin=crop_margin,
    )  # fmt: skip


def import_official(
    file: str | Path,
    out: str | Path,
    *,
    name: str = "rtnet",
    size: int = CROP,
    margin: float = MARGIN,
    aspect: float | None = None,
    sides: Sides = "picture",
) -> Weights:
    """Converts a released checkpoint into a safetensors file, and declares it as a parser.

    ``mien weights import rtnet rtnet50-fcn-14.torch --name X`` keeps both for all later sessions; then
    ``mien analyze photo.jpg --parse --parser X``.

    Parameters
    ----------
    file
        A released ``.torch``, read without running code from it. Or ``weights.safetensors`` of a run of
        ``mien train polar_parser``, with its ``config.json`` beside it.
    out
        Where the converted weights are written, ending in ``.safetensors``.
    name
        What callers write.
    size, margin
        Side of the square crop in pixels, and how many times the longer side of the detected box it is wide. What lies
        outside of it is not seen. At 3 the crop reaches 2.7 radii of the box's ellipse up and down, where 99 of 100
        columns of the polar map lie inside.
    aspect
        Width of the box by its height, which the crop does not tell. None: `mien.papers.rtnet.parsing.ASPECT`.
    sides
        Whether "left" in the names of the released classes is the picture's or the person's. Not known of the released
        files; "picture", as in mien.

    Raises
    ------
    CheckpointError
        The file cannot be read, or its tensors are not those of the network.
    """
    from mien.papers.rtnet.parsing import ASPECT
    from mien.train.checkpoint import save_weights

    file, out = Path(file), Path(out)
    if out.suffix != ".safetensors":
        raise OptionError("converted weights are written as safetensors", got=out, expected="a name ending in it")
    about: dict[str, Any] = {"size": size, "margin": margin, "aspect": ASPECT if aspect is None else aspect}
    if file.suffix == ".safetensors" and (config := file.with_name("config.json")).is_file():
        told, tensors = _of_run(file, config)
        about |= told
    else:
        state = read_state(file, convert="mien.papers.rtnet.checkpoint:opened")
        shape = shape_of(state)
        if shape["classes"] not in CLASSES:
            raise CheckpointError(
                "the checkpoint has classes that nobody has named", got=shape["classes"], expected=sorted(CLASSES)
            )
        about |= {**shape, "names": CLASSES[shape["classes"]], "warp": 513, "sides": sides, "colour": "BGR"}
        tensors = convert_official(state)
    made = crop_parser(**{key: value for key, value in about.items() if key not in ("colour", "run")})
    fill(made.segmenter, tensors, source=str(file))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(out, made, metadata={"paper": "rtnet", "source": file.name, "arguments": json.dumps(about)})
    return declaration(out, name=name)


RUN = ("network", "arguments", "frame", "size", "crop_margin", "names")
"""Numbers of a run of `mien train polar_parser` that say what its network looks like."""


def _of_run(file: Path, config: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a run has written, by the numbers beside it."""
    from mien.train.recipes.polar_parser import spelled

    try:
        plain = json.loads(config.read_text("utf-8"))
        told = {key: plain[key] for key in RUN}
        module, _, encoder = told["network"].partition(":")
        options = spelled(told["arguments"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{config} is not of a run of mien train polar_parser", got=error,
            expected="its config.json, as it was written",
        ) from error  # fmt: skip
    if module != "mien.papers.rtnet":
        # A file must not choose what code runs.
        raise CheckpointError("the run's network is not RTNet's", got=told["network"], expected="mien.papers.rtnet:…")
    about = {
        **options, "encoder": encoder, "classes": len(told["names"]), "names": told["names"], "warp": told["size"],
        "frame": told["frame"], "crop_margin": told["crop_margin"], "sides": "picture", "colour": "RGB", "run": True,
    }  # fmt: skip
    return about, read_state(file)


def declaration(file: str | Path, *, name: str = "rtnet") -> Weights:
    """What mien has to know of a file that `import_official` wrote: its hash, the network, what it wants to see.

    Raises
    ------
    CheckpointError
        The file cannot be read, or was not written by `import_official`.
    """

    def read(note: Mapping[str, str]) -> tuple[dict[str, Any], str, str, bool]:
        arguments = json.loads(note["arguments"])
        return arguments, note["source"], arguments.pop("colour"), arguments.pop("run", False)

    place, (arguments, source, colour, own) = noted(file, read)
    notes = (
        f"Sees {arguments['margin']:g} box sides about the face, and parses the face in the middle, its hair included."
    )
    if not own:
        lacks = "hats, jewellery, neck and clothes" + ("" if arguments["classes"] == 14 else ", ears, glasses")
        notes += f" Lacks {lacks}. Left and right are taken for the {arguments['sides']}'s."
    return Weights(
        name=name,
        task="parsing",
        **place,
        licence="that of your training data" if own else "none stated for the weights (code: MIT)",
        source=f"{source} of a run of mien train polar_parser" if own else f"{source} of the authors, converted",
        build="mien.papers.rtnet.checkpoint:crop_parser",
        arguments=arguments,
        input=InputContract(
            size=arguments["size"], mean=(127.5,) * 3, std=(127.5,) * 3, colour=colour, template="box",
            margin=arguments["margin"],
        ),
        paper="rtnet",
        parameters=sum(value.numel() for value in _meta(arguments).parameters()),
        notes=notes,
    )  # fmt: skip


def _meta(arguments: Mapping[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return crop_parser(**arguments)

"""The authors' checkpoints into ours, those of our own training, and a file for the verbs.

A released ``model.pt`` is the state dict of a backbone: without adapters (pre-trained), with twin ones (PETALface) or
with single ones (the baseline). Which of them, and the widths, depths, heads and rank, are read from the tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError
from mien.nn.iqa import QUALITIES, Quality, build_quality, quality_from_files
from mien.nn.lora import Blended
from mien.papers.petalface.network import FaceSwin, quality_aware, swin_256new
from mien.weights import EmbeddingContract, InputContract, Weights
from mien.weights.converted import faults, noted
from mien.weights.load import fill, read_state

BRANCH = "trainable_lora_"
BUFFERS = ("attn.relative_position_index", "attn_mask")
"""Constants that the released code keeps in its state; ours makes them anew, and they must agree."""

SCORES = ("cnniqa*.pth", "cnniqa*.safetensors", "CNNIQA*.pth", "CNNIQA*.safetensors")
"""What a file of CNN-IQA's weights beside a checkpoint is called."""


def _refuse(told: Mapping[str, Sequence[str]], count: int) -> None:
    if wrong := faults(told):
        raise CheckpointError(
            f"the checkpoint is not one of PETALface's Swin transformers: {wrong}",
            got=f"{count} tensors",
            expected="a model.pt of kartiknarayan/PETALface, or the state dict of swin_256new or swin_256new_iqa",
            hint="of a training checkpoint, give its state_dict_backbone",
        )


def shape_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments with which `swin_256new` builds the network of a released state dict.

    Raises
    ------
    CheckpointError
        The tensors that tell them are missing.
    """
    try:
        embed_dim, _, patch, _ = state["patch_embed.proj.weight"].shape
        places, window = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.norm1\.weight"), 0
        blocks = [tuple(map(int, found.groups())) for name in state if (found := places.fullmatch(name))]
        depths = tuple(1 + max(b for s, b in blocks if s == stage) for stage in range(1 + max(s for s, _ in blocks)))
        tables = [state[f"layers.{stage}.blocks.0.attn.relative_position_bias_table"] for stage in range(len(depths))]
        window = (round(len(tables[0]) ** 0.5) + 1) // 2
        down = state.get(f"layers.0.blocks.0.attn.qkv.{BRANCH}down.weight")
        twin = f"layers.0.blocks.0.attn.qkv.{BRANCH}down2.weight" in state
        shape = {
            "dim": len(state["feature_layer.2.bias"]),
            "size": patch * round(state["absolute_pos_embed"].shape[1] ** 0.5),
            "patch": patch, "embed_dim": embed_dim, "depths": depths,
            "heads": tuple(table.shape[1] for table in tables), "window": window,
        }  # fmt: skip
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        missing = [str(error.args[0])] if isinstance(error, KeyError) else []
        _refuse({"missing": missing or ["the tensors that tell its shape"]}, len(state))
        raise AssertionError from error  # _refuse has raised
    if down is not None:
        shape |= {"adapters": "twin" if twin else "single", "rank": len(down)}
    return shape


def convert_official(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of `swin_256new` from a released one; what is unknown or missing is an error.

    Parameters
    ----------
    state
        A released state dict of tensors, with twin adapters, single ones or none. ``module.`` before all names, which
        data-parallel training leaves, is taken off, and ``state_dict_backbone`` of a training checkpoint is opened.

    Returns
    -------
    dict
        Float32 tensors; fits ``swin_256new(**shape_of(state))`` strictly. With twin adapters its names begin with
        ``network.``.

    Raises
    ------
    CheckpointError
        Names what is missing, unknown, of another shape, or a constant of another value.
    """
    if isinstance(inner := state.get("state_dict_backbone"), Mapping):
        state = inner
    tensors = {name.removeprefix("module."): torch.as_tensor(value) for name, value in state.items()}
    shape = shape_of(tensors)
    try:
        with torch.device("meta"):
            network = swin_256new(**shape)
    except OptionError as error:
        raise CheckpointError("the checkpoint has an impossible shape", got=str(error)) from error
    twin = isinstance(network, Blended)
    inner_net: nn.Module = network.network if isinstance(network, Blended) else network
    expected = {name: value.shape for name, value in inner_net.state_dict().items()}
    constants = {name for name in tensors if name.endswith(BUFFERS)}
    ours = {name.replace(f".{BRANCH}", ".lora_"): value for name, value in tensors.items() if name not in constants}
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    _refuse(
        {
            "missing": sorted(expected.keys() - ours.keys() - counters),
            "unknown": sorted(ours.keys() - expected.keys()) + _strange(shape, tensors, constants),
            "of another shape": sorted(
                f"{name} {tuple(ours[name].shape)} for {tuple(expected[name])}"
                for name in ours.keys() & expected.keys()
                if ours[name].shape != expected[name]
            ),
        },
        len(tensors),
    )
    prefix = "network." if twin else ""
    zero = torch.zeros((), dtype=torch.int64)
    return {prefix + name: ours.get(name, zero) if name in counters else ours[name].float() for name in expected}


def _strange(shape: Mapping[str, Any], tensors: Mapping[str, Tensor], constants: set[str]) -> list[str]:
    """Constants that our network does not make, or makes otherwise."""
    plain = {key: value for key, value in shape.items() if key not in ("adapters", "rank")}
    # Widths do not matter to them, so the network that makes them is a narrow one.
    narrow = FaceSwin(**{**plain, "embed_dim": 2, "heads": (1,) * len(plain["depths"]), "dim": 1})
    made = dict(narrow.named_buffers())
    return sorted(
        f"{name} of other values" if name in made else name
        for name in constants
        if name not in made or not torch.equal(made[name].to(tensors[name].dtype), tensors[name])
    )


# ------------------------------------------------------------------------------------------- of our own training

RUN = (
    "network", "arguments", "dim", "size", "adapters", "projections", "final", "rank", "lora_scale", "quality",
    "weighting", "official_alpha", "official_iqa_input",
)  # fmt: skip
"""Numbers of a run of `mien train adapters` that say what its network looks like."""
OWN = ("mien.papers.", "mien.nn.")


def trained_network(*, vectors: int = 774, channels: int = 3, **run: Any) -> nn.Module:
    """The network that a run of ``mien train adapters`` writes: (B, 3, size, size) -> (B, dim), alpha from within.

    Parameters
    ----------
    vectors, channels
        Support vectors of BRISQUE, channels of CNN-IQA.
    **run
        Numbers of the run's ``config.json``, those of `RUN`.

    Raises
    ------
    OptionError
        The network is not one of mien's own: a file must not choose what code runs.
    """
    from mien.train.recipes.adapters import AdaptersRecipe

    if not str(run.get("network", "")).startswith(OWN):
        raise OptionError("the network of the run is not mien's own", got=run.get("network"), expected=OWN)
    recipe = AdaptersRecipe.make(data="", out="", **run)
    network = recipe.deploy(recipe.build())
    if isinstance(network, Blended) and network.weight is not None:
        score = build_quality(recipe.quality, vectors=vectors, channels=channels)
        network.weight.score = score.requires_grad_(False)
    return network


def _of_run(file: Path, config: Path, out: Path) -> None:
    """Converts what a run has written, by the numbers beside it."""
    from mien.train.checkpoint import save_weights

    try:
        plain = json.loads(config.read_text("utf-8"))
        about = {name: plain[name] for name in RUN}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{config} is not of a run of mien train adapters", got=error, expected="its config.json, as it was written"
        ) from error
    state = read_state(file)
    if (kernel := state.get("weight.score.conv1.weight")) is not None:
        about["channels"] = kernel.shape[1]
    if (support := state.get("weight.score.support")) is not None:
        about["vectors"] = len(support)
    network = trained_network(**about)
    fill(network, state, source=str(file))
    arguments = json.dumps({**about, "run": True})
    save_weights(out, network, metadata={"paper": "petalface", "source": file.name, "arguments": arguments})


# ------------------------------------------------------------------------------------------- for the verbs


def import_official(
    file: str | Path,
    out: str | Path,
    *,
    name: str = "petalface",
    quality: Quality | None = None,
    quality_files: Sequence[str | Path] = (),
    threshold: float | None = None,
    gain: float | None = None,
    official_iqa_input: bool = True,
    official_alpha: bool = False,
    clamp: bool = False,
) -> Weights:
    """Converts a released checkpoint into a safetensors file, and declares it.

    ``mien weights import petalface model.pt --name X`` keeps both for all later sessions. A network with twin adapters
    needs a score of quality, which no released file contains: a file of CNN-IQA's weights that lies beside the
    checkpoint (``cnniqa*.pth``) is taken, as in the paper; without one, alpha comes from `mien.nn.iqa.Sharpness`, which
    needs no weights, and the declaration says so. The threshold of the released weights was not published.

    Parameters
    ----------
    file
        ``model.pt``, read without running code from it. Or ``weights.safetensors`` of a run of ``mien train adapters``,
        with its ``config.json`` beside it, which holds its own score and threshold: the options below do not apply.
    out
        Where the converted weights are written, ending in ``.safetensors``.
    name
        What callers write.
    quality, quality_files
        Score of quality, and its files where it needs some (`mien.nn.iqa.quality_from_files`); see above for the
        default.
    threshold
        Quality at which both branches count the same. None: 0.5, the default of the authors' command; of sharpness
        0.25, halfway between sharp faces and ones enlarged from 7 px.
    gain
        Factor of the quality. None: 1, and a hundredth for BRISQUE.
    official_iqa_input, official_alpha, clamp
        See `quality_aware`. Released weights were trained with a score that saw pixels of -1 … 1; so does that of
        CNN-IQA and BRISQUE here, unless told otherwise.

    Raises
    ------
    CheckpointError
        The file cannot be read, or its tensors are not those of the network.
    WeightsUnavailable
        The score needs files that were not given.
    """
    from mien.train.checkpoint import save_weights

    file, out = Path(file), Path(out)
    if out.suffix != ".safetensors":
        raise OptionError("converted weights are written as safetensors", got=out, expected="a name ending in it")
    if quality is not None and quality not in QUALITIES:
        raise OptionError.unknown("unknown quality score", quality, QUALITIES)
    if file.suffix == ".safetensors" and (config := file.with_name("config.json")).is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        _of_run(file, config, out)
        return declaration(out, name=name)
    state = _read(file)
    shape = shape_of(state)
    tensors = convert_official(state)
    network: nn.Module
    about: dict[str, Any] = {key: value for key, value in shape.items() if key != "adapters"}
    if shape.get("adapters") == "twin":
        beside = sorted({path for pattern in SCORES for path in file.parent.glob(pattern)})
        kind: Quality = quality or ("cnniqa" if beside else "sharpness")
        score = quality_from_files(kind, *(beside[:1] if quality is None else quality_files))
        if threshold is None:
            threshold = 0.25 if kind == "sharpness" else 0.5
        about |= {
            "quality": kind, "threshold": threshold, "gain": gain, "clamp": clamp, "official_alpha": official_alpha,
            "official_iqa_input": official_iqa_input and kind in ("cnniqa", "brisque"),
        }  # fmt: skip
        if kind == "cnniqa":
            about["channels"] = int(score.get_parameter("conv1.weight").shape[1])
        if kind == "brisque":
            about["vectors"] = len(score.get_buffer("support"))
        network = quality_aware(**about)
        inside = network.weight
        assert inside is not None
        scored = {f"weight.{key}": value for key, value in inside.state_dict().items() if not key.startswith("score.")}
        scored |= {f"weight.score.{key}": value for key, value in score.state_dict().items()}
        fill(network, {**tensors, **scored}, source=str(file))
    else:
        about |= {key: shape[key] for key in ("adapters",) if key in shape}
        network = swin_256new(**about)
        fill(network, tensors, source=str(file))
    out.parent.mkdir(parents=True, exist_ok=True)
    arguments = json.dumps(about)
    save_weights(out, network, metadata={"paper": "petalface", "source": file.name, "arguments": arguments})
    return declaration(out, name=name)


def _read(file: Path) -> dict[str, Tensor]:
    convert: Literal["mien.papers.petalface.checkpoint:_opened"] = "mien.papers.petalface.checkpoint:_opened"
    return read_state(file, convert=convert)


def _opened(state: Any) -> Any:
    """The backbone's tensors of a released file or of a training checkpoint."""
    if isinstance(state, Mapping) and isinstance(inner := state.get("state_dict_backbone"), Mapping):
        state = inner
    return {str(k).removeprefix("module."): v for k, v in state.items()} if isinstance(state, Mapping) else state


def declaration(file: str | Path, *, name: str = "petalface") -> Weights:
    """What mien has to know of a file that `import_official` wrote: its hash, the network, what it wants to see.

    Raises
    ------
    CheckpointError
        The file cannot be read, or was not written by `import_official`.
    """
    place, (arguments, source) = noted(file, lambda note: (json.loads(note["arguments"]), note["source"]))
    own = arguments.pop("run", False)
    twin = arguments.get("adapters") == "twin" if own else "quality" in arguments
    notes = "Compares by the cosine; calibrate before you judge people by it."
    if twin and own:
        notes = f"Twin adapters mixed by {arguments['quality']}, as in training. {notes}"
    elif twin:
        branch = (
            "mixed by "
            + {
                "cnniqa": "CNN-IQA, as in the paper",
                "brisque": "BRISQUE, as in the paper",
                "sharpness": "a sharpness score without weights, NOT the paper's CNN-IQA: import again with a file "
                "cnniqa*.pth beside the checkpoint, or quality= in Python, for the paper's",
                "gradient": "a gradient score without weights, NOT the paper's CNN-IQA",
            }[arguments["quality"]]
        )
        notes = f"Twin adapters {branch}; threshold {arguments['threshold']:g}, the released one is unknown. {notes}"
    builder = "trained_network" if own else "quality_aware" if twin else "swin_256new"
    return Weights(
        name=name,
        task="embedding",
        **place,
        licence="that of your training data" if own else "none stated for the weights (code: MIT)",
        source=f"{source} of a run of mien train adapters" if own else f"{source} of the authors, converted",
        build=f"mien.papers.petalface:{builder}",
        arguments=arguments,
        input=InputContract(size=arguments["size"], mean=(127.5,) * 3, std=(127.5,) * 3, template="arcface112"),
        paper="petalface",
        embedding=EmbeddingContract(dim=arguments["dim"], flip=True),
        notes=notes,
    )

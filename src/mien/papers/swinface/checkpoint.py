"""The authors' checkpoint into ours, Swin transformers of timm, runs of our own, and a file for the verbs.

The released file is the whole state of a training: the four parts of the network as state dicts of their own, beside
class vectors, optimiser and schedule, which are left in it. The branches' weights lie there apart and here together
(`mien.papers.swinface.network`), in the same order. Two traps of order are none here: the answers are put in the order
of `ATTRIBUTES` by name, and the merging of patches takes the four in Swin's order.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError
from mien.faces import APPEARANCE, EXPRESSIONS
from mien.nn import streams
from mien.nn.streams import ATTRIBUTES, BRANCHES
from mien.papers.swinface.network import Feature, SwinT, swin_t, swinface, swinface_reading
from mien.weights import EmbeddingContract, InputContract, Weights
from mien.weights.converted import faults, noted
from mien.weights.load import fill, read_state

Task = Literal["reading", "embedding"]

PARTS = {"state_dict_backbone": "backbone", "state_dict_fam": "fam", "state_dict_tss": "tss", "state_dict_om": "om"}
"""Parts of a released checkpoint, and the prefix of their tensors when they are put together."""
LEFT = frozenset(
    {"epoch", "global_step", "local_step", "state_dict_softmax_fc", "state_optimizer", "state_lr_scheduler"}
)
"""What else is in it: how far the training was, class vectors of the training people, optimiser and schedule."""
DEAD = ("backbone.head.weight", "backbone.head.bias")
"""Swin's classifier, which is built and never used."""
BUFFERS = ("attn.relative_position_index", "attn_mask")
"""Constants that the released code keeps in its state; ours makes them anew, and they must agree."""


def _refuse(told: Mapping[str, Sequence[str]], count: int) -> None:
    if wrong := faults(told):
        raise CheckpointError(
            f"the checkpoint is not one of SwinFace: {wrong}",
            got=f"{count} tensors",
            expected="a checkpoint_step_…_gpu_0.pt of lxq1000/SwinFace, or the state dict of its backbone",
        )


def opened(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's tensors of a released checkpoint, with the prefixes ``backbone.``, ``fam.``, ``tss.`` and ``om.``.

    A state dict of the backbone alone gets its prefix, one that has all of them stays as it is; ``module.``, which
    data-parallel training leaves before all names, is taken off.

    Raises
    ------
    CheckpointError
        There is something else in the checkpoint than is known.
    """
    if any(part in state for part in PARTS):
        _refuse({"unknown": sorted(set(state) - set(PARTS) - LEFT)}, len(state))
        whole = {part: state[part] for part in PARTS if part in state}
    elif "patch_embed.proj.weight" in state or "module.patch_embed.proj.weight" in state:
        whole = {"state_dict_backbone": state}
    else:
        return {name: torch.as_tensor(value) for name, value in state.items() if _tensor(name, value)}
    return {
        f"{PARTS[part]}.{name.removeprefix('module.')}": torch.as_tensor(value)
        for part, tensors in whole.items()
        for name, value in tensors.items()
        if _tensor(name, value)
    }


def _tensor(name: object, value: object) -> bool:
    if not isinstance(value, Tensor | np.ndarray):
        raise CheckpointError("the checkpoint is not one of SwinFace", got=f"{name!r}: {type(value).__name__}",
                              expected="tensors by name")  # fmt: skip
    return True


def shape_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with which `swinface` (without its branches: `swin_t`) builds the network of a released state.

    Size is told by the masks of shifted windows; without them it is the released 112 px.

    Raises
    ------
    CheckpointError
        The tensors that tell them are missing.
    """
    tensors = opened(state)
    at = "backbone.layers."
    try:
        embed_dim, _, patch, _ = tensors["backbone.patch_embed.proj.weight"].shape
        places = re.compile(r"backbone\.layers\.(\d+)\.blocks\.(\d+)\.norm1\.weight")
        blocks = [tuple(map(int, found.groups())) for name in tensors if (found := places.fullmatch(name))]
        depths = tuple(1 + max(b for s, b in blocks if s == stage) for stage in range(1 + max(s for s, _ in blocks)))
        bias = [tensors[f"{at}{stage}.blocks.0.attn.relative_position_bias_table"] for stage in range(len(depths))]
        window = (round(len(bias[0]) ** 0.5) + 1) // 2
        mask = tensors.get(f"{at}0.blocks.1.attn_mask")
        side = 112 // patch if mask is None else window * round(len(mask) ** 0.5)
        shape = {
            "size": patch * side, "patch": patch, "embed_dim": embed_dim, "depths": depths,
            "heads": tuple(table.shape[1] for table in bias), "window": window,
            "dim": len(tensors["backbone.feature.3.bias"]),
        }  # fmt: skip
        if any(name.startswith("fam.") for name in tensors):
            convs = sum(1 for name in tensors if name.startswith("fam.nets.0.conv.convs."))
            shape["hidden"] = len(tensors["fam.nets.0.channel_attention.mlp.1.bias"])
            feature: dict[int, Feature] = {len(depths): "all", len(depths) - 1: "local", 1: "global"}
            shape["feature"] = feature[convs]
    except (KeyError, ValueError, IndexError) as error:
        missing = str(error.args[0]) if isinstance(error, KeyError) else "the tensors that tell its shape"
        _refuse({"missing": [missing]}, len(tensors))
        raise AssertionError from error  # _refuse has raised
    return shape


def convert_official(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of `swinface` from a released checkpoint; what is unknown or missing is an error.

    Parameters
    ----------
    state
        The released checkpoint, its four parts put together with their prefixes, or the backbone alone.

    Returns
    -------
    dict
        Float32 tensors; fits ``swinface(**shape_of(state))`` strictly. Of a backbone alone the tensors of `swin_t`,
        with ``backbone.`` before their names. `DEAD` and the buffers of the released code are left out.

    Raises
    ------
    CheckpointError
        Names what is missing, unknown, of another shape, or a constant of another value.
    """
    given = opened(state)
    shape = shape_of(given)
    whole = "feature" in shape
    try:
        with torch.device("meta"):
            network: nn.Module = swinface(**shape) if whole else nn.ModuleDict({"backbone": swin_t(**shape)})
    except OptionError as error:
        raise CheckpointError("the checkpoint has an impossible shape", got=str(error)) from error
    expected = {name: value.shape for name, value in network.state_dict().items()}
    constants = {name for name in given if name.startswith("backbone.layers.") and name.endswith(BUFFERS)}
    left = given.keys() - constants - set(DEAD)
    ours, missing, ragged = dict[str, Tensor](), list[str](), list[str]()
    for name in expected:
        sources = _sources(name)
        absent = [source for source in sources if source not in given]
        if absent and not name.endswith("num_batches_tracked"):
            missing += absent
            continue
        left -= set(sources)
        if name.endswith("num_batches_tracked"):
            ours[name] = given.get(sources[0], torch.zeros((), dtype=torch.int64))
            continue
        try:
            ours[name] = _together(name, [given[source].float() for source in sources])
        except RuntimeError:
            ragged.append(f"{name}: branches of several shapes")
    wrong = [f"{n} {tuple(t.shape)} for {tuple(expected[n])}" for n, t in ours.items() if t.shape != expected[n]]
    unknown = sorted(left) + _strange(shape, given, constants)
    _refuse({"missing": sorted(missing), "unknown": unknown, "of another shape": sorted(wrong + ragged)}, len(given))
    return ours


def _sources(name: str) -> list[str]:
    """Released names of the tensors that one of ours is made of, in the order in which they are joined."""
    count = len(BRANCHES)
    if name.startswith("backbone."):
        return [name]
    if found := re.fullmatch(r"analysis\.mlca\.convs\.(\d+)\.weight", name):
        return [f"fam.nets.{b}.conv.convs.{found[1]}.weight" for b in range(count)]
    if found := re.fullmatch(r"analysis\.mlca\.gate\.(\d)\.(\w+)", name):
        return [f"fam.nets.{b}.channel_attention.mlp.{int(found[1]) + 1}.{found[2]}" for b in range(count)]
    if found := re.fullmatch(r"analysis\.mlca\.norm\.(\w+)", name):
        return [f"fam.nets.{b}.norm.{found[1]}" for b in range(count)]
    if found := re.fullmatch(r"analysis\.subnets\.(\d)\.(\w+)", name):
        return [f"tss.nets.{b}.feature.{found[1]}.{found[2]}" for b in range(count)]
    found = re.fullmatch(r"analysis\.answers\.(\d+)\.(\w+)", name)
    assert found is not None, name
    first = sum(map(len, BRANCHES[: int(found[1])]))
    return [f"om.output_fcs.{first + k}.{found[2]}" for k in range(len(BRANCHES[int(found[1])]))]


def _together(name: str, tensors: list[Tensor]) -> Tensor:
    stacked = name.startswith(("analysis.mlca.gate.", "analysis.subnets.")) and name.endswith("weight")
    return torch.stack(tensors) if stacked else torch.cat(tensors) if len(tensors) > 1 else tensors[0]


def _strange(shape: Mapping[str, Any], given: Mapping[str, Tensor], constants: set[str]) -> list[str]:
    """Constants that our network does not make, or makes otherwise."""
    plain = {key: shape[key] for key in ("size", "patch", "depths", "window")}
    # Widths do not matter to them, so the network that makes them is a narrow one.
    narrow = SwinT(**plain, embed_dim=2, heads=(1,) * len(plain["depths"]), dim=1)
    made = {f"backbone.{name}": value for name, value in narrow.named_buffers()}
    return sorted(
        f"{name} of other values" if name in made else name
        for name in constants
        if name not in made or not torch.equal(made[name].to(given[name].dtype), given[name])
    )


def convert_timm(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The trunk of `swin_t` from a Swin transformer of timm 0.9 or later, of the same patches and sizes.

    There the merging of patches stands at the start of a stage, here, as in Swin's own code, at the end of the one
    before. Of timm's network the classifier (``head.fc``) is left out; the two layers of the embedding are in none of
    its files: they start anew.

    Parameters
    ----------
    state
        State dict of ``timm.create_model("swin_tiny_patch4_window7_224", img_size=112, patch_size=2)``, say.

    Raises
    ------
    CheckpointError
        Names what is missing or unknown; patches of 4 px, as ImageNet's weights have, are of another shape.
    """
    given = {name: torch.as_tensor(value) for name, value in state.items()}
    constants = {name for name in given if name.endswith(BUFFERS)}
    ours: dict[str, Tensor] = {}
    for name, value in given.items():
        if name in constants or name.startswith("head."):
            continue
        found = re.fullmatch(r"layers\.(\d+)\.downsample\.(.+)", name)
        ours[f"layers.{int(found[1]) - 1}.downsample.{found[2]}" if found else name] = value.float()
    stages = 1 + max((int(found[1]) for name in ours if (found := re.match(r"layers\.(\d+)\.", name))), default=-1)
    try:
        embed_dim, _, patch, _ = ours["patch_embed.proj.weight"].shape
        depths = tuple(
            sum(1 for name in ours if re.fullmatch(rf"layers\.{s}\.blocks\.\d+\.norm1\.weight", name))
            for s in range(stages)
        )
        table = [ours[f"layers.{s}.blocks.0.attn.relative_position_bias_table"] for s in range(stages)]
    except (KeyError, ValueError) as error:
        _refuse({"missing": [str(error)]}, len(given))
        raise AssertionError from error
    if patch != 2:
        raise CheckpointError("the patches are of another size", got=f"{patch} px", expected="2 px, as in swin_t",
                              hint="build timm's network with img_size=112, patch_size=2")  # fmt: skip
    heads, windows = tuple(t.shape[1] for t in table), [(round(len(t) ** 0.5) + 1) // 2 for t in table]
    size = patch * windows[-1] << (stages - 1)  # the last map is one window
    try:
        with torch.device("meta"):
            network = swin_t(size=size, embed_dim=embed_dim, depths=depths, heads=heads, window=windows[0])
    except OptionError as error:
        raise CheckpointError("the checkpoint has an impossible shape", got=str(error)) from error
    expected = {name: value.shape for name, value in network.state_dict().items() if not name.startswith("feature.")}
    wrong = [n for n in expected.keys() & ours.keys() if ours[n].shape != expected[n]]
    _refuse(
        {"missing": sorted(expected.keys() - ours.keys()), "unknown": sorted(ours.keys() - expected.keys()),
         "of another shape": sorted(wrong)}, len(given),
    )  # fmt: skip
    return ours


# ------------------------------------------------------------------------------------------- for the verbs


CELEBA = {
    "beard": "No_Beard", "mouth_open": "Mouth_Slightly_Open", **{
        name.lower(): name for name in ATTRIBUTES if name.lower() in APPEARANCE
    },
}  # fmt: skip
"""CelebA's names of `mien.faces.APPEARANCE`; "beard" is the opposite of No_Beard."""


def decode(raw: NDArray[np.float32], temperatures: Mapping[str, float]) -> dict[str, NDArray[np.float32]]:
    """Columns of `mien.faces.Faces` from the answers (n, 88) of `swinface_reading`.

    Age is years, held in 0 to 120. Of the eight expressions "contempt" is not among the paper's seven and has the
    probability 0. Of the forty attributes those of `APPEARANCE` are told; what judges a face (Attractive), and Male,
    are not.

    Parameters
    ----------
    raw
        (n, 88) float32.
    temperatures
        "expression", "appearance": what logits are divided by; 1 where not named.
    """
    count = len(streams.EXPRESSIONS)
    seven = _softmax(raw[:, 1 : 1 + count] / np.float32(temperatures.get("expression", 1.0)))
    expressions = np.zeros((len(raw), len(EXPRESSIONS)), np.float32)
    expressions[:, [EXPRESSIONS.index(name) for name in streams.EXPRESSIONS]] = seven
    forty = raw[:, 1 + count :].reshape(len(raw), len(ATTRIBUTES), 2)
    yes = _softmax(forty / np.float32(temperatures.get("appearance", 1.0)))[..., 1]
    appearance = yes[:, [ATTRIBUTES.index(CELEBA[name]) for name in APPEARANCE]]
    beard = APPEARANCE.index("beard")
    appearance[:, beard] = 1 - appearance[:, beard]
    return {"age": np.clip(raw[:, 0], 0, 120), "expressions": expressions, "appearance": appearance}


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    power = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
    return cast(NDArray[np.float32], power / power.sum(-1, keepdims=True))


def import_official(file: str | Path, out: str | Path, *, name: str = "swinface", task: Task | None = None) -> Weights:
    """Converts a checkpoint into a safetensors file for one task, and declares it.

    ``mien weights import swinface checkpoint_step_79999_gpu_0.pt --name X --task reading`` keeps both for all later
    sessions; one checkpoint serves both tasks, by two names.

    Parameters
    ----------
    file
        The released checkpoint, read without running code from it. Or ``weights.safetensors`` of a run of ``mien train
        streams``, with its ``config.json`` beside it.
    out
        Where the converted weights are written, ending in ``.safetensors``.
    name
        What callers write.
    task
        "reading" for ``mien analyze --reader X``, "embedding" for ``mien embed --weights X``. None: "reading", and
        "embedding" for a backbone alone.

    Raises
    ------
    CheckpointError
        The file cannot be read, its tensors are not those of the network, or it cannot serve that task.
    """
    from mien.train.checkpoint import save_weights

    file, out = Path(file), Path(out)
    if out.suffix != ".safetensors":
        raise OptionError("converted weights are written as safetensors", got=out, expected="a name ending in it")
    if task is not None and task not in ("reading", "embedding"):
        raise OptionError.unknown("unknown task", task, ("reading", "embedding"))
    config = file.with_name("config.json")
    own = file.suffix == ".safetensors" and config.is_file()
    if own:
        shape, tensors = _of_run(config), read_state(file)
        if "feature" not in shape:
            tensors = {f"backbone.{key}": value for key, value in tensors.items()}
    else:
        state = read_state(file, convert="mien.papers.swinface.checkpoint:opened")
        shape, tensors = shape_of(state), convert_official(state)
    chosen: Task = task or ("reading" if "feature" in shape else "embedding")
    if chosen == "reading" and "feature" not in shape:
        raise CheckpointError("the checkpoint is a backbone without analysis", got=file.name,
                              expected="one with all parts", hint="import it with task embedding")  # fmt: skip
    network: nn.Module
    if chosen == "reading":
        network = swinface_reading(**shape)
        unused = ("backbone.norm.", "backbone.feature.")
        fill(network, {k: v for k, v in tensors.items() if not k.startswith(unused)}, source=str(file))
    else:
        plain = ("size", "patch", "embed_dim", "depths", "heads", "window", "drop_path", "dim")
        shape = {key: value for key, value in shape.items() if key in plain}
        network = swin_t(**shape)
        trunk = {k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone.")}
        fill(network, trunk, source=str(file))
    out.parent.mkdir(parents=True, exist_ok=True)
    about = json.dumps({"arguments": shape, "task": chosen, "run": own})
    save_weights(out, network, metadata={"paper": "swinface", "source": file.name, "about": about})
    return declaration(out, name=name)


def _of_run(config: Path) -> dict[str, Any]:
    """Arguments of `swinface` or `swin_t` in the numbers of a run of ``mien train streams``."""
    try:
        plain = json.loads(config.read_text("utf-8"))
        builder, options = plain["network"], {"dim": plain["dim"]}
        for argument in plain["arguments"]:
            key, _, value = argument.partition("=")
            options[key] = ast.literal_eval(value)
    except (OSError, ValueError, KeyError, TypeError, SyntaxError) as error:
        raise CheckpointError(
            f"{config} is not of a run of mien train streams", got=error, expected="its config.json, as it was written"
        ) from error
    if builder not in ("mien.papers.swinface:swinface", "mien.papers.swinface:swin_t"):
        raise CheckpointError("the run has trained another network", got=builder, expected="mien.papers.swinface's")
    return {"feature": "all", **options} if builder.endswith(":swinface") else options


def declaration(file: str | Path, *, name: str = "swinface") -> Weights:
    """What mien has to know of a file that `import_official` wrote: its hash, the network, what it wants to see.

    Raises
    ------
    CheckpointError
        The file cannot be read, or was not written by `import_official`.
    """
    place, (about, source) = noted(file, lambda note: (json.loads(note["about"]), note["source"]))
    arguments, own, reading = about["arguments"], about["run"], about["task"] == "reading"
    return Weights(
        name=name,
        task=about["task"],
        **place,
        licence="that of your training data" if own else "none stated for the weights (code: MIT)",
        source=f"{source} of a run of mien train streams" if own else f"{source} of the authors, converted",
        build=f"mien.papers.swinface:{'swinface_reading' if reading else 'swin_t'}",
        arguments=arguments,
        input=InputContract(
            size=arguments.get("size", 112), mean=(127.5,) * 3, std=(127.5,) * 3, template="arcface112"
        ),
        paper="swinface",
        embedding=None if reading else EmbeddingContract(dim=arguments["dim"], flip=True),
        decode="mien.papers.swinface:decode" if reading else None,
        notes="Age in years, seven expressions, appearance; uncalibrated."
        if reading
        else "Compares by the cosine; calibrate before you judge people by it.",
    )

"""The authors' checkpoint into ours, weights of our own training, and files for the verbs.

The released ``model.pt`` holds the state dict of a network of eight tasks under ``state_dict_backbone``. Its widths,
depths and numbers of classes are read from the tensors; the decoder's eight heads cannot be told from them.
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
from mien.nn.facex import FaceXFormer
from mien.papers.facexformer.answers import READ, Parts, Points, Reading
from mien.train.tasks import CLASSES
from mien.weights import InputContract, Weights
from mien.weights.converted import faults, noted
from mien.weights.load import fill, read_state

DEAD = ("backbone.1.weight", "backbone.1.bias")
"""The encoder's last normalisation: the released code computes it, and nothing reads what it gives."""
INDEX = "attn.relative_position_index"
"""Constants that are kept in both states; they must agree."""
WRAPPED = "state_dict_backbone"
HEADS = 8
"""Attention heads of the released decoder."""

TOKENS = {
    "landmarks": "landmarks", "pose": "pose", "attributes": "attribute", "visibility": "visibility", "age": "age",
    "gender": "gender", "race": "race",
}  # fmt: skip
"""Our names of the tasks and those of the released tokens and heads, in the order of the tokens."""
MASK_TOKENS = "face_decoder.mask_tokens.weight"

_TRANSFORMER = "face_decoder.transformer."
_LAYER = _TRANSFORMER + r"layers\.(\d+)\."
_RULES: tuple[tuple[str, str], ...] = (
    (r"backbone\.0\.(.+)", r"encoder.features.\1"),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "position.matrix"),
    (r"linear_c\.(\d+)\.proj\.(\w+)", r"fusion.scales.\1.\2"),
    (r"linear_fuse\.weight", "fusion.join.weight"),
    (_LAYER + r"self_attn\.(\w+)_proj\.(\w+)", r"decoder.blocks.\1.itself.\2.\3"),
    (_LAYER + r"cross_attn_token_to_image\.(\w+)_proj\.(\w+)", r"decoder.blocks.\1.from_face.\2.\3"),
    (_LAYER + r"cross_attn_image_to_token\.(\w+)_proj\.(\w+)",
     r"decoder.blocks.\1.from_tokens.\2.\3"),
    (_LAYER + r"mlp\.lin1\.(\w+)", r"decoder.blocks.\1.mlp.0.\2"),
    (_LAYER + r"mlp\.lin2\.(\w+)", r"decoder.blocks.\1.mlp.2.\2"),
    (_LAYER + r"(norm[1-4])\.(\w+)", r"decoder.blocks.\1.\2.\3"),
    (_TRANSFORMER + r"final_attn_token_to_image\.(\w+)_proj\.(\w+)", r"decoder.last.\1.\2"),
    (_TRANSFORMER + r"norm_final_attn\.(\w+)", r"decoder.norm.\1"),
    (r"face_decoder\.output_upscaling\.([013])\.(\w+)", r"masks.up.\1.\2"),
)  # fmt: skip


def _renamed(name: str) -> str | None:
    """Our name of a released tensor; None where there is none. Tokens are not among them: ours are one tensor."""
    for pattern, ours in _RULES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, ours, name)
    if found := re.fullmatch(r"face_decoder\.output_hypernetwork_mlps\.layers\.([012])\.(\w+)", name):
        return f"masks.filters.{2 * int(found[1])}.{found[2]}"
    if found := re.fullmatch(r"face_decoder\.(\w+)_prediction_head\.layers\.([012])\.(\w+)", name):
        task = {theirs: mine for mine, theirs in TOKENS.items()}.get(found[1])
        return None if task is None else f"heads.{task}.{2 * int(found[2])}.{found[3]}"
    return None


def _opened(state: Any) -> Any:
    """The network's tensors of a released file or of one that data-parallel training left, still by their names."""
    if isinstance(state, Mapping) and isinstance(inner := state.get(WRAPPED), Mapping):
        state = inner
    return {str(k).removeprefix("module."): v for k, v in state.items()} if isinstance(state, Mapping) else state


def _refuse(told: Mapping[str, Sequence[str]], count: int) -> None:
    if wrong := faults(told):
        raise CheckpointError(
            f"the checkpoint is not FaceXFormer's: {wrong}", got=f"{count} tensors",
            expected="model.pt of kartiknarayan/facexformer: the network of eight tasks, without expression",
        )  # fmt: skip


def shape_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments with which `FaceXFormer` builds the network of a released state dict, but for the size of its input.

    Raises
    ------
    CheckpointError
        The tensors that tell them are missing.
    """
    names = [re.fullmatch(r"backbone\.0\.(\d+)\.(\d+)\.norm1\.weight", name) for name in state]
    blocks = [(int(one[1]) // 2, int(one[2])) for one in names if one]
    layers = [re.fullmatch(re.escape(_TRANSFORMER) + r"layers\.(\d+)\.norm1\.weight", name) for name in state]
    try:
        depths = tuple(1 + max(b for s, b in blocks if s == stage) for stage in range(1 + max(s for s, _ in blocks)))
        tables = [
            state[f"backbone.0.{2 * stage + 1}.0.attn.relative_position_bias_table"] for stage in range(len(depths))
        ]
        dim = len(state["linear_fuse.weight"])
        return {
            "backbone": "swin",
            "options": {
                "embed_dim": len(state["backbone.0.0.0.weight"]), "depths": depths,
                "heads": tuple(int(table.shape[1]) for table in tables),
                "window": (round(len(tables[0]) ** 0.5) + 1) // 2,
            },
            "dim": dim, "heads": HEADS, "depth": 1 + max(int(one[1]) for one in layers if one),
            "hidden": len(state[_TRANSFORMER + "layers.0.mlp.lin1.weight"]),
            "reduce": dim // len(state[_TRANSFORMER + "layers.0.cross_attn_token_to_image.q_proj.weight"]),
            "outputs": {
                ours: len(state[f"face_decoder.{theirs}_prediction_head.layers.2.bias"])
                for ours, theirs in TOKENS.items()
            },
            "masks": len(state[MASK_TOKENS]),
            "scales": sum(bool(re.fullmatch(r"linear_c\.\d+\.proj\.weight", name)) for name in state),
        }  # fmt: skip
    except (KeyError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
        missing = [str(error.args[0])] if isinstance(error, KeyError) else ["the tensors that tell its shape"]
        _refuse({"missing": missing}, len(state))
        raise AssertionError from error  # _refuse has raised


def convert_official(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of `FaceXFormer` from a released one; what is unknown or missing is an error.

    Parameters
    ----------
    state
        A released state dict of tensors. ``module.`` before all names is taken off, and ``state_dict_backbone`` is
        opened. The two tensors of `DEAD` must be there and are dropped.

    Returns
    -------
    dict
        Fits ``FaceXFormer(**shape_of(state))`` strictly.

    Raises
    ------
    CheckpointError
        Names what is missing, unknown, of another shape, or a constant of another value.
    """
    tensors = {name: torch.as_tensor(value) for name, value in _opened(state).items()}
    shape = shape_of(tensors)
    try:
        with torch.device("meta"):
            expected = FaceXFormer(**shape).state_dict()
    except OptionError as error:
        raise CheckpointError("the checkpoint has an impossible shape", got=str(error)) from error
    tokens = [*(f"face_decoder.{theirs}_token.weight" for theirs in TOKENS.values()), MASK_TOKENS]
    ours: dict[str, Tensor] = {}
    strange = []
    for name, value in tensors.items():
        if name in DEAD or name in tokens:
            continue
        renamed = _renamed(name)
        if renamed is None or renamed not in expected:
            strange.append(name)
        else:
            ours[renamed] = value
    gone = [name for name in (*DEAD, *tokens) if name not in tensors]
    wrong = [
        f"{name} of {tuple(tensors[name].shape)}"
        for name in tokens
        if name in tensors and tensors[name].shape[1:] != (shape["dim"],)
    ]
    if not gone and not wrong:
        ours["decoder.tokens"] = torch.cat([tensors[name] for name in tokens])
    constants = _constants(shape)
    _refuse(
        {
            "missing": sorted(gone + [k for k in expected if k not in ours and k != "decoder.tokens"]),
            "unknown": sorted(strange),
            "of another shape": sorted(
                wrong
                + [
                    f"{k} {tuple(ours[k].shape)} for {tuple(v.shape)}"
                    for k, v in expected.items()
                    if k in ours and ours[k].shape != v.shape
                ]
            ),
        },
        len(tensors),
    )
    _refuse(
        {"of other values": [k for k, v in constants.items() if not torch.equal(v, ours[k].to(v.dtype))]}, len(tensors)
    )
    return {k: ours[k].to(v.dtype) for k, v in expected.items()}


def _constants(shape: Mapping[str, Any]) -> dict[str, Tensor]:
    """What the encoder of that shape computes when it is built. Widths do not matter, so a narrow one is built."""
    options = shape["options"]
    heads = (1,) * len(options["depths"])
    narrow = FaceXFormer(
        backbone="swin", options={**options, "embed_dim": 2, "heads": heads}, dim=8, heads=1, hidden=1, depth=1,
        outputs={"pose": 3}, masks=0, scales=1,
    )  # fmt: skip
    return {name: value for name, value in narrow.state_dict().items() if name.endswith(INDEX)}


# ------------------------------------------------------------------------------------------- for the verbs

TASKS: Mapping[str, type[Reading | Points | Parts]] = {"reading": Reading, "parsing": Parts, "landmarks": Points}
"""What one checkpoint can be imported for."""
RUN = (
    "backbone", "widths", "depths", "size", "dim", "attention", "hidden", "depth", "scales", "two_way", "tasks",
    "heads", "parsing", "points", "poses", "attributes", "ages", "visibility", "expressions",
)  # fmt: skip
"""Numbers of a run of ``mien train face_tasks`` that say what its network looks like."""


def import_official(
    file: str | Path,
    out: str | Path,
    *,
    name: str = "facexformer",
    task: str | None = None,
    classes: Sequence[str] = CLASSES,
) -> Weights:
    """Converts a released checkpoint into a safetensors file for one task of the verbs, and declares it.

    Parameters
    ----------
    file
        ``model.pt``, read without running code from it. Or ``weights.safetensors`` of a run of
        ``mien train face_tasks``, with its ``config.json`` beside it.
    out
        Where the converted weights are written, ending in ``.safetensors``.
    name
        What callers write.
    task
        "reading" (default: age, appearance and expression, of which the released network lacks the last), "parsing" or
        "landmarks".
    classes
        For parsing, the classes of the network in their order, by the names of `CLASSES`; how the released ones are
        ordered is not documented.

    Raises
    ------
    OptionError
        There is no such task or class, or `out` has another ending.
    CheckpointError
        The file cannot be read, or its tensors are not those of the network.
    """
    from mien.train.checkpoint import save_weights

    file, out = Path(file), Path(out)
    if out.suffix != ".safetensors":
        raise OptionError("converted weights are written as safetensors", got=out, expected="a name ending in it")
    task = task or "reading"
    if task not in TASKS:
        raise OptionError.unknown("the network cannot be imported for that task", task, TASKS)
    if file.suffix == ".safetensors" and (config := file.with_name("config.json")).is_file():
        arguments, tensors = _of_run(config), read_state(file)
    else:
        state = read_state(file, convert="mien.papers.facexformer.checkpoint:_opened")
        arguments, tensors = shape_of(state), convert_official(state)
    if task == "parsing":
        arguments["classes"] = tuple(classes)
    network = TASKS[task](**arguments)
    fill(network.network, tensors, source=str(file))
    out.parent.mkdir(parents=True, exist_ok=True)
    about = json.dumps({"task": task, "arguments": arguments})
    save_weights(out, network, metadata={"paper": "facexformer", "source": file.name, "about": about})
    return declaration(out, name=name)


def _of_run(config: Path) -> dict[str, Any]:
    """Arguments of the network that a run has written, by the numbers beside it."""
    from mien.train.recipes.face_tasks import FaceTasksRecipe

    try:
        plain = json.loads(config.read_text("utf-8"))
        if plain["recipe"] != FaceTasksRecipe.__name__:
            raise ValueError(plain["recipe"])
        numbers = {name: plain[name] for name in RUN}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{config} is not of a run of mien train face_tasks",
            got=error,
            expected="its config.json, as it was written",
        ) from error
    return FaceTasksRecipe.make(out="", **numbers).arguments()


def declaration(file: str | Path, *, name: str = "facexformer") -> Weights:
    """What mien has to know of a file that `import_official` wrote: its hash, the network, what it wants to see.

    Raises
    ------
    CheckpointError
        The file cannot be read, or was not written by `import_official`.
    """

    def read(note: Mapping[str, str]) -> tuple[str, Any, dict[str, Any], str]:
        about = json.loads(note["about"])
        return about["task"], TASKS[about["task"]], about["arguments"], note["source"]

    place, (task, kind, arguments, source) = noted(file, read)
    with torch.device("meta"):
        parameters = sum(one.numel() for one in kind(**arguments).parameters())
    size = int(arguments.get("size", 224))
    told = [name for name in READ if name in arguments["outputs"]]
    return Weights(
        name=name, task=task, **place, paper="facexformer", parameters=parameters,
        licence="not stated for the weights; the repository is MIT", source=f"{source}, imported by mien",
        build=f"mien.papers.facexformer:{kind.__name__}", arguments=arguments,
        decode="mien.papers.facexformer:decode" if task == "reading" else None,
        input=InputContract(
            size=size, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), template="box", margin=1.5
        ),
        notes={
            "reading": f"Tells of {', '.join(told)}; gender and race are not among its answers. ",
            "parsing": "Tells 10 parts: ears, glasses, hats, necks and clothes are background to it. ",
            "landmarks": "Tells 68 points in the picture, without depth. ",
        }[task] + "The square crop keeps the picture's proportions, which the authors' own does not.",
    )  # fmt: skip

"""A network that one has trained oneself, for the verbs: the authors released none."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mien.errors import CheckpointError, OptionError
from mien.nn.count import count_macs
from mien.nn.recognizability import recognizer
from mien.nn.standardise import IMAGENET_MEAN, IMAGENET_STD
from mien.weights import EmbeddingContract, InputContract, Weights
from mien.weights.converted import on_disk
from mien.weights.load import fill, read_state

BUILD = "mien.nn.recognizability:recognizer"
CONFIG = "config.json"
"""What a training run has written beside its weights."""

Three = tuple[float, float, float]


def _levels(share: Three) -> Three:
    return 255 * share[0], 255 * share[1], 255 * share[2]


PIXELS: Mapping[str, tuple[Three, Three]] = {
    "fixed": ((127.5, 127.5, 127.5), (128.0, 128.0, 128.0)),
    "tenfold": ((127.5, 127.5, 127.5), (12.8, 12.8, 12.8)),
    "imagenet": (_levels(IMAGENET_MEAN), _levels(IMAGENET_STD)),
}
"""Mean and deviation of the recipe's ways from pixels to numbers; that by each picture's own statistics has none."""


def arguments_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `mien.nn.recognizability.recognizer` must be given to build the network of a run.

    Raises
    ------
    CheckpointError
        The file is not of this recipe.
    OptionError
        The backbone is not one of mien: declarations of weights name no other code.
    """
    names = ("network", "dim", "size", "dropout", "reduction", "reads", "attend")
    missing = sorted({*names, "arguments", "standardise", "template"} - config.keys())
    if config.get("recipe") != "RecognizabilityRecipe" or missing:
        raise CheckpointError(
            "the run was not one of `mien train recognizability`",
            got=config.get("recipe"), expected="RecognizabilityRecipe with all its numbers",
        )  # fmt: skip
    if not str(config["network"]).startswith(("mien.nn.", "mien.papers.")):
        raise OptionError(
            "weights are declared for backbones of mien only", got=config["network"],
            hint="in Python, mien.nn.recognizability.Recognizer takes any backbone",
        )  # fmt: skip
    pairs = (argument.partition("=") for argument in config["arguments"])
    inner = {name: ast.literal_eval(value) for name, _, value in pairs}
    return {**{name: config[name] for name in names}, "arguments": inner}


def import_official(file: str | Path, out: str | Path, *, name: str = "recognizability") -> Weights:
    """Takes the weights of a run of ``mien train recognizability`` over, and declares them for the verbs.

        mien weights import recognizability runs/vlr/weights.safetensors --name my-vlr
        mien analyze photo.jpg --embedder my-vlr --quality recognizability

    Parameters
    ----------
    file
        ``weights.safetensors`` of the run; its ``config.json``, which says what the network is, lies beside it.
    out
        Where they are written, ending in ``.safetensors``.
    name
        What callers write.

    Returns
    -------
    Weights
        Nobody else knows under which licence the pictures were that you trained on: it is yours to know.

    Raises
    ------
    CheckpointError
        The run's config is not beside the file, or is of another recipe; or tensors are unknown, missing, or of
        another shape.
    OptionError
        A backbone that is not mien's, or pixels that no contract can describe.
    """
    from mien.train.checkpoint import save_weights

    file, out = Path(file), Path(out)
    if out.suffix != ".safetensors":
        raise OptionError("weights are written as safetensors", got=out, expected="a name ending in it")
    config = _config(file.parent / CONFIG)
    arguments = arguments_of(config)
    if config["standardise"] not in PIXELS:
        raise OptionError(
            "no input contract can describe these pixels", got=f"standardise {config['standardise']}",
            expected=tuple(PIXELS),
        )  # fmt: skip
    network = recognizer(**arguments, returns="embedding")
    fill(network, read_state(file), source=str(file))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(out, network, metadata={"paper": "recognizability", "source": file.name})
    place = on_disk(out)
    size = int(config["size"])
    mean, std = PIXELS[config["standardise"]]
    return Weights(
        name=name,
        task="embedding",
        **place,
        licence="none stated: trained by the user",
        source=f"mien train recognizability, {file.parent.name}",
        build=BUILD,
        arguments={**arguments, "returns": "embedding"},
        input=InputContract(size=size, mean=mean, std=std, template=str(config["template"])),
        paper="recognizability",
        embedding=EmbeddingContract(dim=int(config["dim"])),
        macs=count_macs(network, (1, 3, size, size)),
        macs_input=(1, 3, size, size),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        notes=f"Its index (form {config.get('ri_form')}) is a quality: quality='recognizability', backend torch.",
    )


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "what the network is stands in the run's config, which cannot be read", got=f"{path}: {error}",
            expected=f"{CONFIG} beside the weights, as the training wrote it",
        ) from error  # fmt: skip
    if not isinstance(config, dict):
        raise CheckpointError("the run's config is damaged", got=str(path), expected="values by name")
    return config

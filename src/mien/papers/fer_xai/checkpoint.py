"""The authors' files into ours: which of the twelve networks, its weights by Keras's names, and a declaration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.errors import CheckpointError, OptionError
from mien.faces import EXPRESSIONS
from mien.nn.expression import (
    CLASSIFIERS,
    EKMAN,
    PREPARED,
    PREPARED_AS_PUBLISHED,
    PRETRAINED,
    Classifier,
    Prepared,
)
from mien.nn.keras import converted, flat, keras_names, misshapen, read_keras, told
from mien.weights import InputContract, Weights
from mien.weights.converted import noted
from mien.weights.load import fill, read_state

TEMPLATE = "arcface112"
"""How faces are cut for the networks: upright, both eyes on a line, as the authors' crops (of another cut) are."""


# ------------------------------------------------------------------------------------------- conversion


def _expected(network: str) -> Classifier:
    with torch.device("meta"):
        return CLASSIFIERS[network]()


def network_of(state: Mapping[str, Any]) -> str:
    """Which of the twelve networks a flat dict of Keras's weights is of, by names and shapes.

    Raises
    ------
    CheckpointError
        Of none; the message names what the nearest one lacks, or has more.
    """
    names = flat(state)
    near: list[tuple[float, str, list[str], list[str]]] = []
    for network in CLASSIFIERS:
        wanted = keras_names(_expected(network))
        both = names.keys() & wanted.keys()
        if len(both) == len(names) == len(wanted) and not misshapen(names, wanted):
            return network
        share = len(both) / max(1, len(names.keys() | wanted.keys()))
        near.append((share, network, sorted(wanted.keys() - names.keys()), sorted(names.keys() - wanted.keys())))
    share, network, missing, unknown = max(near, key=lambda one: one[0])
    wrong = misshapen(names, keras_names(_expected(network)))
    raise CheckpointError(
        "the weights are of none of the twelve networks",
        got=f"{len(names)} weights; beside {network}: " + told(missing=missing, unknown=unknown, shape=wrong),
        expected=", ".join(CLASSIFIERS),
        hint="a file of Keras's save_weights; six classes",
    )  # fmt: skip


def convert_official(state: Mapping[str, Any], *, network: str | None = None) -> dict[str, Tensor]:
    """Our state dict of a network from Keras's weights; what is unknown, missing or of another shape is an error.

    Parameters
    ----------
    state
        Arrays by Keras's names ("block1_conv1/kernel:0"), as `read_keras` gives them.
    network
        One of `CLASSIFIERS`. None: told from names and shapes.

    Raises
    ------
    CheckpointError
        Names what is wrong.
    OptionError
        No such network.
    """
    if network is None:
        network = network_of(state)
    elif network not in CLASSIFIERS:
        raise OptionError.unknown("unknown network", network, CLASSIFIERS)
    return converted(state, _expected(network), network)


def convert_trunk(state: Mapping[str, Any], network: str) -> dict[str, Tensor]:
    """The state dict of a network's `trunk` from Keras's file of ImageNet weights without a top, strictly.

    Raises
    ------
    CheckpointError, OptionError
        As of `convert_official`.
    """
    if network not in CLASSIFIERS:
        raise OptionError.unknown("unknown network", network, CLASSIFIERS)
    return converted(state, _expected(network).trunk, network)


# ------------------------------------------------------------------------------------------- for the verbs


def decode(raw: NDArray[np.float32], temperatures: Mapping[str, float]) -> dict[str, NDArray[np.float32]]:
    """The column `expressions` of `Faces` from logits (n, 6): what the paper has no class for gets 0."""
    scaled = np.asarray(raw, np.float64) / temperatures.get("expression", 1.0)
    power = np.exp(scaled - scaled.max(1, keepdims=True, initial=-np.inf))
    chance = power / power.sum(1, keepdims=True)
    out = np.zeros((len(raw), len(EXPRESSIONS)), np.float32)
    out[:, [EXPRESSIONS.index(name) for name in EKMAN]] = chance
    return {"expressions": out}


def classifier(*, network: str, size: int | None = None, **numbers: Any) -> nn.Module:
    """One of the twelve networks by its name, for declarations; `size` is the input's side, px.

    Raises
    ------
    OptionError
        No such network.
    """
    if network not in CLASSIFIERS:
        raise OptionError.unknown("unknown network", network, CLASSIFIERS)
    if size is not None and network not in PRETRAINED:
        numbers["size"] = size
    return CLASSIFIERS[network](**numbers)


def import_official(file: str | Path, out: str | Path, *, name: str = "fer_xai", task: str | None = None) -> Weights:
    """Converts a published file, or one of an own training, into a safetensors file, and declares it.

    ``mien weights import fer_xai ResNet50_CV1_weights.h5 --name X`` keeps both for all later sessions; X is then a
    reader of expressions for ``mien analyze --reader X`` and ``mien audit explain --models X``.

    Parameters
    ----------
    file
        Keras HDF5 weights; or ``weights.safetensors`` of a run of ``mien train expression``, with its ``config.json``
        beside it.
    out
        Where the converted weights are written, ending in ``.safetensors``.
    name
        What callers write.
    task
        "reading", the only one.

    Raises
    ------
    CheckpointError
        The file cannot be read, or its weights are of none of the twelve networks.
    MissingExtra
        h5py is not installed, and the file is HDF5.
    """
    from mien.train.checkpoint import save_weights

    file, out = Path(file), Path(out)
    if out.suffix != ".safetensors":
        raise OptionError("converted weights are written as safetensors", got=out, expected="a name ending in it")
    if task not in (None, "reading"):
        raise OptionError("the networks read expressions", got=task, expected="reading")
    if file.suffix == ".safetensors":
        about, state, own = *_of_run(file), True
    else:
        published = read_keras(file)
        kind = network_of(published)
        about, state, own = {"network": kind}, convert_official(published, network=kind), False
    network = classifier(**about)
    fill(network, state, source=str(file))
    out.parent.mkdir(parents=True, exist_ok=True)
    told = json.dumps({"arguments": about, "own": own, "source": file.name})
    save_weights(out, network, metadata={"paper": "fer_xai", "about": told})
    return declaration(out, name=name)


def _of_run(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments of the network, and tensors, of what a run has written."""
    config = file.with_name("config.json")
    try:
        plain = json.loads(config.read_text("utf-8"))
        if plain["recipe"] != "ExpressionRecipe":
            raise KeyError(plain["recipe"])
        about = {"network": plain["network"], "width": plain["width"]}
        about["size"] = plain["side"] or PREPARED[about["network"]].size
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{config} is not of a run of mien train expression", got=error, expected="its config.json, as written"
        ) from error
    return about, dict(read_state(file))


def declaration(file: str | Path, *, name: str = "fer_xai") -> Weights:
    """What mien has to know of a file that `import_official` wrote: its hash, the network, what it wants to see.

    Raises
    ------
    CheckpointError
        The file cannot be read, or was not written by `import_official`.
    """

    def read(note: Mapping[str, str]) -> tuple[dict[str, Any], str, bool, Prepared]:
        about = json.loads(note["about"])
        arguments, own = dict(about["arguments"]), bool(about["own"])
        return arguments, about["source"], own, (PREPARED if own else PREPARED_AS_PUBLISHED)[arguments["network"]]

    place, (arguments, source, own, prepared) = noted(file, read)
    kind = arguments["network"]
    size = arguments.get("size", prepared.size)
    return Weights(
        name=name, task="reading", **place,
        licence="that of your training data" if own else "none stated for the weights (code: MIT)",
        source=f"{source} of a run of mien train expression" if own else f"{source} of the authors",
        build="mien.papers.fer_xai:classifier", arguments=arguments, decode="mien.papers.fer_xai:decode",
        input=InputContract(
            size=size, mean=prepared.mean, std=prepared.std, colour=prepared.colour, template=TEMPLATE
        ),
        paper="fer_xai",
        notes=f"{kind}: six expressions of posed frontal faces; no neutral face, no contempt, and no statement about "
        "what somebody feels.",
    )  # fmt: skip

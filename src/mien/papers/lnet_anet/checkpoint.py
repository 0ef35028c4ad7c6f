"""What a run of ``mien train attributes stage=svm`` wrote: as a network, and as weights that the verbs know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.errors import CheckpointError, OptionError
from mien.faces import APPEARANCE
from mien.nn.anet import CELEBA, Cascade, HeadReader, cascade, head_reader
from mien.train.recipes.reader import CELEBA as NAMES
from mien.weights import InputContract, Weights
from mien.weights.converted import on_disk
from mien.weights.load import fill, read_state

CONFIG = "config.json"
BUILD, DECODE = "mien.papers.lnet_anet:head_reader", "mien.papers.lnet_anet:decode"
SHAPE = ("variant", "width", "pool", "size", "anet_size", "channels", "fc", "grid", "spread", "flip", "join")
"""Numbers of a run that say what its networks look like."""
MARGIN = 2.0
"""How many sides of a detected box LNet_s sees: the face is as large in it as in the crops it learnt from."""
SHARPNESS = 0.5
"""What decisions are divided by before the sigmoid: a margin of 1 is a probability of 88 %. Not calibrated."""

Floats = NDArray[np.float32]


def _numbers(file: Path) -> dict[str, Any]:
    path = file.parent / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        numbers = {name: config[name] for name in SHAPE}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "what the networks are stands in the run's config, which cannot be read", got=f"{path}: {error}",
            expected=f"{CONFIG} beside the weights, as mien train attributes wrote it",
        ) from error  # fmt: skip
    if config.get("recipe") != "AttributesRecipe" or config.get("stage") != "svm":
        raise CheckpointError(
            "the run does not hold the whole cascade", got=f"{config.get('recipe')}, stage {config.get('stage')}",
            expected="AttributesRecipe, stage svm", hint="mien train attributes stage=svm puts the others together",
        )  # fmt: skip
    return {"tags": len(CELEBA), **numbers, "channels": tuple(numbers["channels"])}


def load_cascade(file: str | Path) -> Cascade:
    """The cascade of a run of ``stage=svm``, in eval mode.

    Parameters
    ----------
    file
        Its ``weights.safetensors``, with ``config.json`` beside it.

    Raises
    ------
    CheckpointError
        The run is of another kind, or its file does not fit.
    """
    file = Path(file)
    network = cascade(**_numbers(file))
    fill(network, read_state(file), source=str(file))
    return network.eval()


def import_official(
    checkpoint: str | Path, out: str | Path, *, name: str = "lnet-anet", task: str | None = None
) -> Weights:
    """Takes a run of one's own over, and declares it for the verbs; the authors released nothing.

        mien weights import lnet_anet runs/svm/weights.safetensors --name my-attributes
        mien analyze photo.jpg --reader my-attributes

    The reader is LNet_s, ANet and the linear machines. LNet_o is left out: the verbs' detector finds the heads.

    Parameters
    ----------
    checkpoint
        ``weights.safetensors`` of the stage "svm"; its ``config.json`` lies beside it.
    out
        Where they are written, ending in ``.safetensors``.
    name
        What callers write.
    task
        "reading", which is all there is.

    Returns
    -------
    Weights
        Nobody else knows under which licence the pictures were that you trained on: it is yours to know.

    Raises
    ------
    CheckpointError
        See `load_cascade`.
    OptionError
        Another task, or a name that does not end in ``.safetensors``.
    """
    from mien.train.checkpoint import save_weights

    file, out = Path(checkpoint), Path(out)
    if task not in (None, "reading"):
        raise OptionError("LNets and ANet read attributes", got=task, expected="reading")
    if out.suffix != ".safetensors":
        raise OptionError("weights are written as safetensors", got=out, expected="a name ending in it")
    numbers = _numbers(file)
    whole = load_cascade(file)
    network: HeadReader = head_reader(**numbers)
    state = {key: value for key, value in whole.state_dict().items() if not key.startswith("lnet_o.")}
    fill(network, state, source=str(file))
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(out, network, metadata={"paper": "lnet_anet", "source": file.name})
    place = on_disk(out)
    return Weights(
        name=name,
        task="reading",
        **place,
        licence="none stated: trained by the user",
        source=f"mien train attributes, {file.parent.name}",
        build=BUILD,
        decode=DECODE,
        arguments=numbers,
        input=InputContract(size=int(numbers["size"]), template="box", margin=MARGIN),
        paper="lnet_anet",
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        temperatures={"appearance": SHARPNESS},
        notes="Probabilities are decisions of linear machines through a sigmoid, not calibrated.",
    )


def decode(raw: Floats, temperatures: Mapping[str, float]) -> dict[str, Floats]:
    """The column `appearance` of `mien.faces.Faces` from decisions (n, 40) in the order of `CELEBA`.

    The twenty attributes of `mien.faces.APPEARANCE` are taken by name; "beard" is the opposite of No_Beard. The other
    twenty, Male, Young and Attractive among them, are for measurements and not for results.
    """
    scaled = np.clip(raw / np.float32(temperatures.get("appearance", 1.0)), -60, 60)
    signed = np.stack(
        [(-1 if wanted == "beard" else 1) * scaled[:, CELEBA.index(NAMES[wanted])] for wanted in APPEARANCE], 1
    )
    return {"appearance": np.asarray(1 / (1 + np.exp(-signed)), np.float32)}

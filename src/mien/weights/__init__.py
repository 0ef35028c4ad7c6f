"""Weights: how they are declared, where they lie, how they are fetched, verified and turned into networks.

    from mien.weights import get, info, load

    network = load("mien-embedder", device="cpu")      # a verified file, filled strictly, in eval mode
    contract = info("mien-embedder").input             # what it wants to see
    embeddings = network(contract.tensor(crops))

`declare` holds the typed declarations, `bundled` those of the networks that come with mien, `imported` those that were
imported on this machine (``mien weights import``), `store` the places and the licences, `fetch` the downloads, `load`
the networks, `onnx` their export and onnxruntime. Only `get` uses the network.
"""

from __future__ import annotations

from mien.weights.bundled import declarations
from mien.weights.declare import (
    PERMISSIVE,
    WEIGHTS,
    EmbeddingContract,
    Figure,
    InputContract,
    Operating,
    TrainingSet,
    Weights,
    info,
    list_weights,
    register,
    registered,
)
from mien.weights.load import build, decoder, device, load
from mien.weights.onnx import Exported, OnnxNetwork, export_onnx
from mien.weights.store import accepted, get, home, path, state, verify, where

__all__ = [
    "PERMISSIVE",
    "WEIGHTS",
    "EmbeddingContract",
    "Exported",
    "Figure",
    "InputContract",
    "OnnxNetwork",
    "Operating",
    "TrainingSet",
    "Weights",
    "accepted",
    "build",
    "decoder",
    "device",
    "export_onnx",
    "get",
    "home",
    "info",
    "list_weights",
    "load",
    "path",
    "register",
    "registered",
    "state",
    "verify",
    "where",
]

register(*declarations())

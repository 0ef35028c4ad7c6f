"""The bundled face reader: age, expression, appearance and what covers the face, from one crop in one pass.

    (B, 3, 112, 112) RGB, (x - 127.5) / 128, the crop of the embedder ("chip112")
      -> trunk of the embedder (7 x 7 map) -> 1x1 to `head` channels -> mean and largest value -> one linear layer
      -> (B, n) numbers, which `OUTPUTS` and `split` tell apart

All answers come of one linear layer, so that a caller that wants some of them pays nothing for the others. They are raw
(logits, but valence and arousal as they are); `mien.verbs` turns them into calibrated probabilities.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from mien.faces import AFFECT, AGES, APPEARANCE, COVERS, EXPRESSIONS
from mien.nn.blocks import ResidualTrunk, conv_bn_act

GENDERS = ("Male", "Female")
RACES = ("White", "Black", "East Asian", "Southeast Asian", "Indian", "Middle Eastern", "Latino_Hispanic")
"""FairFace's labels, for audits only: annotators guessed them from the pictures."""

OUTPUTS: dict[str, tuple[str, ...]] = {
    "age": AGES, "expression": EXPRESSIONS, "affect": AFFECT, "appearance": APPEARANCE, "covers": COVERS,
    "gender": GENDERS, "race": RACES,
}  # fmt: skip
"""Names of the numbers that the network gives, in their order."""


class Reader(nn.Module):
    """Answers about faces: (B, 3, 112, 112) -> (B, n), n the number of names in `OUTPUTS`.

    Parameters
    ----------
    widths, depths
        Channels and residual blocks of the stages at 28, 14 and 7 px; by default those of the bundled embedder, whose
        trunk a training starts from.
    head
        Channels of the 7 x 7 map that the answers are read from.
    dropout
        Share of the pooled features that are left out in training.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (64, 96, 160),
        depths: tuple[int, ...] = (1, 3, 3),
        head: int = 256,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.trunk = ResidualTrunk(tuple(widths), tuple(depths))
        self.expand = conv_bn_act(widths[-1], head, 1)
        self.drop = nn.Dropout(dropout)
        self.answer = nn.Linear(2 * head, sum(map(len, OUTPUTS.values())))
        nn.init.normal_(self.answer.weight, std=0.01)
        nn.init.zeros_(self.answer.bias)

    def forward(self, x: Tensor) -> Tensor:
        features = self.expand(self.trunk(x)).flatten(2)
        pooled = torch.cat([features.mean(2), features.amax(2)], 1)
        return cast(Tensor, self.answer(self.drop(pooled)))


def split(answers: Tensor) -> dict[str, Tensor]:
    """The columns (B, n) of the network by the names of `OUTPUTS`; views, not copies."""
    parts = torch.split(answers, [len(names) for names in OUTPUTS.values()], dim=1)
    return dict(zip(OUTPUTS, parts, strict=True))


def reader_base() -> Reader:
    """The bundled network: 0.25 GMAC, 2.3 M parameters at 112 px."""
    return Reader()

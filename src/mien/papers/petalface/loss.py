"""The released training loss to the letter, and how many numbers an adapted network trains.

Training itself uses `mien.train.classes.PartialFC`, which gives the same loss with the margins of `in_place`, shared
among processes; what stands here is the whole of it in a few lines, for parity.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.nn.lora import MARK, LoRALinear, adapters
from mien.train.recipes.adapters import in_place

LEAST = 1e-30
"""The released loss takes no logarithm of a smaller probability."""


def margin_loss(
    embeddings: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    scale: float = 64.0,
    margins: tuple[float, float, float] = (1.0, 0.5, 0.0),
) -> Tensor:
    """Mean cross-entropy of margin logits, as InsightFace's class layer gives it.

    The margin changes the own class's cosine outside of the graph: d loss / d cos is s (p - onehot) / B, with
    the margin in p only. The value is cut off at ``-log 1e-30``, the gradient is not.

    Parameters
    ----------
    embeddings, weight, labels
        (B, d), (C, d), neither normalised, and (B,) int64.
    scale
        s.
    margins
        (m1, m2, m3) of ``cos(m1 t + m2) - m3``: (1, 0.5, 0) is ArcFace, (1, 0, 0.4) CosFace.
    """
    cosines = F.linear(F.normalize(embeddings), F.normalize(weight)).clamp(-1, 1)
    own = cosines.gather(1, labels[:, None])
    logits = scale * cosines.scatter(1, labels[:, None], in_place(*margins)(own))
    loss = F.cross_entropy(logits, labels, reduction="none")
    floor = -torch.log(torch.tensor(LEAST, dtype=loss.dtype, device=loss.device))
    return (loss + (loss.clamp(max=floor) - loss).detach()).mean()


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many of a network's numbers its adapters are.

    Parameters
    ----------
    backbone
        Parameters without adapters.
    twins
        Of the twin branches beside the projections (or single ones, if there are no twins).
    final
        Of the single branches beside the final layers.
    """

    backbone: int
    twins: int
    final: int

    @property
    def trainable(self) -> int:
        """All that adapters hold."""
        return self.twins + self.final

    @property
    def by_rule(self) -> dict[str, float]:
        """Shares in per cent: all adapters of the backbone, all of backbone and adapters, twins alone of the backbone.

        The paper states 0.48 % and not how it counted.
        """
        return {
            "all adapters / backbone": 100 * self.trainable / self.backbone,
            "all adapters / backbone with adapters": 100 * self.trainable / (self.backbone + self.trainable),
            "branches of the projections / backbone": 100 * self.twins / self.backbone,
        }

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {**asdict(self), "trainable": self.trainable, "by_rule": self.by_rule}


def trainable_share(network: nn.Module) -> Share:
    """Counts the parameters of a network with adapters; nothing need be allocated (``torch.device("meta")``).

    A score of quality beside the network is not counted.
    """
    layers = adapters(network)
    branches = {
        name: sum(p.numel() for part, p in layer.named_parameters() if part.startswith(MARK))
        for name, layer in layers.items()
    }
    first = {name for name, layer in layers.items() if layer.twin}
    first = first or {name for name, layer in layers.items() if isinstance(layer, LoRALinear) and ".attn." in name}
    whole = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("weight.score."))
    twins = sum(branches[name] for name in first)
    total = sum(branches.values())
    return Share(backbone=whole - total, twins=twins, final=total - twins)

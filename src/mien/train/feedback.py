"""Online feedback sampling: the losses of one step say what the next one looks at.

Where small faces had too little a share of the box loss, the next batch is stitched of pictures at half their size, so
that it is full of small faces (Stitcher: Chen et al., 2020). Otherwise it is drawn as ever, and a part of it from
pictures in which something was taken for a face.

All that it remembers are buffers of a module, so that a checkpoint has them and a run that is resumed decides alike.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mien.errors import OptionError
from mien.nn.multibox import Losses


class Feedback(nn.Module):
    """What the last steps said.

    Parameters
    ----------
    pictures
        Number of training pictures.
    tau
        Share of the box loss on small faces below which the next batch is stitched. 0: never.
    area
        Area of a small face, relative to the picture.
    share
        Of a batch that is not stitched, how much is drawn by false detections.
    sure
        Probability from which a false detection counts.
    """

    ratio: Tensor
    false: Tensor

    def __init__(
        self, pictures: int, *, tau: float = 0.1, area: float = (32 / 640) ** 2, share: float = 0.25, sure: float = 0.5
    ) -> None:
        super().__init__()
        if not (0 <= tau <= 1 and 0 <= share <= 1 and 0 < sure < 1 and area > 0 and pictures >= 1):
            raise OptionError(
                "numbers of the feedback", got=(pictures, tau, area, share, sure),
                expected="pictures, tau and share 0 to 1, an area above 0, a probability",
            )  # fmt: skip
        self.tau, self.area, self.share, self.sure = tau, area, share, sure
        self.register_buffer("ratio", torch.ones(()))
        self.register_buffer("false", torch.zeros(pictures))

    def sized(self, pictures: int) -> None:
        """Forgets everything, for so many pictures."""
        self.ratio.fill_(1.0)
        self.false = torch.zeros(pictures, device=self.false.device)

    def stitch(self) -> bool:
        """Whether the next batch is stitched."""
        return bool(self.ratio < self.tau)

    @torch.no_grad()
    def told(self, losses: Losses, index: Tensor | None) -> None:
        """Takes note of a batch; `index` (B,) are its pictures, None where they were stitched.

        With several processes all come to the same: the mean share, the highest false detection.
        """
        ratio = losses.small_share(self.area)
        shared = torch.distributed.is_available() and torch.distributed.is_initialized()
        if shared:
            torch.distributed.all_reduce(ratio)
            ratio = ratio / torch.distributed.get_world_size()
        self.ratio.copy_(ratio)
        news = torch.full_like(self.false, -1.0)
        if index is not None:
            news.scatter_reduce_(0, index.to(news.device), losses.false.to(news), reduce="amax")
        if shared:
            torch.distributed.all_reduce(news, op=torch.distributed.ReduceOp.MAX)
        self.false.copy_(torch.where(news >= 0, news, self.false))

    def hard(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Pictures (k,) for a batch of `count` that are drawn by their false detections, k <= share * count.

        The surer a picture's highest false detection was, the likelier it comes; without any there are none.
        """
        score = self.false.double().cpu().numpy()
        score = np.where(score >= self.sure, score, 0.0)
        k = min(round(self.share * count), int((score > 0).sum()))
        if k == 0:
            return np.zeros(0, np.int64)
        return np.asarray(rng.choice(len(score), size=k, replace=False, p=score / score.sum()), np.int64)

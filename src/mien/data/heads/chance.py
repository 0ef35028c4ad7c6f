"""Chance without state: numbers that are a function of (seed, salt, place), the same on any device, in any batch."""

from __future__ import annotations

from functools import lru_cache

import torch

__all__ = ["grain_noise", "normal", "uniform"]


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """Bits of int64 mixed thoroughly (the finaliser of G. Steele et al., SplitMix, 2014, with signed shifts masked)."""
    x = x + -7046029254386353131
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _bits(seed: torch.Tensor, salt: int, count: int) -> torch.Tensor:
    place = torch.arange(count, device=seed.device, dtype=torch.int64)
    start = _mixed(seed.long() * 1000003 + salt)
    return _mixed(start[:, None] + place[None] * 6364136223846793005)


def uniform(seed: torch.Tensor, salt: int, count: int) -> torch.Tensor:
    """(n, count) float32, uniform in [0, 1), for seeds (n,) int64."""
    return ((_bits(seed, salt, count) >> 16) & 0xFFFFFF).float() * (1.0 / (1 << 24))


def normal(seed: torch.Tensor, salt: int, count: int) -> torch.Tensor:
    """(n, count) float32, nearly standard normal: the sum of four uniform numbers of 16 bit each."""
    bits = _bits(seed, salt, count)
    total = (bits & 0xFFFF) + ((bits >> 16) & 0xFFFF) + ((bits >> 32) & 0xFFFF) + ((bits >> 48) & 0xFFFF)
    return (total.float() * (1.0 / 65536) - 2.0) * 1.7320508


_TABLE = 1 << 20


@lru_cache(2)
def _table(device: torch.device) -> torch.Tensor:
    return normal(torch.tensor([5]), 9, 2 * _TABLE)[0].to(device)


def grain_noise(seed: torch.Tensor, count: int) -> torch.Tensor:
    """(n, count) standard normal numbers, cut from one long table at places given by the seeds (n,): good enough
    for a camera's noise, and ten times faster."""
    table = _table(seed.device)
    start = (_bits(seed, 42, 1) >> 16) & (_TABLE - 1)
    if count > _TABLE:
        return table[start + torch.arange(count, device=seed.device) % _TABLE]
    return torch.stack([table[first : first + count] for first in start[:, 0].tolist()])

"""Convolutional sparse coding of images: low part by Tikhonov filter, high part as few filters at few places (ADMM)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.fft import irfft2, rfft2

PADDING = 16
"""Pixels by which images are mirrored before the low-pass filter, so opposite edges do not mix (npd of SPORCO)."""


def low_part(x: Tensor, weight: float) -> Tensor:
    """argmin over s of || s - x ||^2 + weight || grad s ||^2, each channel by itself, the edge mirrored; shape of ``x``."""
    height, width = x.shape[-2:]
    down, across = (_mirror(side, x.device) for side in (height, width))
    spectrum = rfft2(x.index_select(2, down).index_select(3, across))
    rows = torch.fft.fftfreq(len(down), dtype=x.dtype, device=x.device)
    columns = torch.fft.rfftfreq(len(across), dtype=x.dtype, device=x.device)
    # |FFT of (-1, 1)|^2 = 4 sin^2(pi f)
    slope = 4 * (torch.pi * rows).sin().square()[:, None] + 4 * (torch.pi * columns).sin().square()
    smooth = irfft2(spectrum / (1 + weight * slope), s=(len(down), len(across)))
    return smooth[:, :, PADDING : PADDING + height, PADDING : PADDING + width]


def _mirror(side: int, device: torch.device) -> Tensor:
    index = torch.arange(-PADDING, side + PADDING, device=device) % (2 * side)
    return torch.minimum(index, 2 * side - 1 - index)


class Filters(NamedTuple):
    """Filters at the size of the images, by frequency: ``spectrum``, complex (K, C, H, W // 2 + 1); ``size``: (H, W)."""

    spectrum: Tensor
    size: tuple[int, int]

    @classmethod
    def of(cls, filters: Tensor, size: tuple[int, int]) -> Filters:
        """``filters``: (K, C, h, w)."""
        return cls(rfft2(filters, s=size), size)

    def synthesis(self, maps: Tensor) -> Tensor:
        """Sum over k of d_k * x_k (circular), (B, C, H, W), from coefficient maps (B, K, H, W)."""
        return irfft2(torch.einsum("kchw,bkhw->bchw", self.spectrum, rfft2(maps)), s=self.size)


def sparse_code(high: Tensor, filters: Filters, weight: float, steps: int, tolerance: float) -> Tensor:
    """argmin over x of 1/2 || sum_k d_k * x_k - high ||^2 + weight sum_k || x_k ||_1, maps (B, K, H, W), by ADMM.

    Convolutional basis pursuit denoising (Wohlberg 2016, 10.1109/TIP.2015.2495260): per frequency a linear system of rank C,
    solved by Woodbury's identity. A row stops when its relative primal and dual residuals are below ``tolerance``, whatever
    the others of its batch do.
    """
    rho = 50 * weight + 1
    spectrum = filters.spectrum
    gram = torch.einsum("kchw,kdhw->hwcd", spectrum, spectrum.conj())
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    inverse = torch.linalg.inv(gram + rho * eye)
    target = torch.einsum("kchw,bchw->bkhw", spectrum.conj(), rfft2(high))
    sparse = high.new_zeros(len(high), spectrum.shape[0], *filters.size)
    dual = torch.zeros_like(sparse)
    active = torch.arange(len(high), device=high.device)
    for _ in range(steps):
        before, scaled = sparse[active], dual[active]
        right = target[active] + rho * rfft2(before - scaled)
        reduced = torch.einsum("hwcd,bdhw->bchw", inverse, torch.einsum("kchw,bkhw->bchw", spectrum, right))
        exact = irfft2((right - torch.einsum("kchw,bchw->bkhw", spectrum.conj(), reduced)) / rho, s=filters.size)
        moved = exact + scaled
        after = moved.sign() * (moved.abs() - weight / rho).clamp_min(0)
        scaled = moved - after
        sparse[active], dual[active] = after, scaled
        primal = _length(exact - after) / torch.maximum(_length(exact), _length(after)).clamp_min(1e-12)
        change = _length(after - before) / _length(scaled).clamp_min(1e-12)
        active = active[(primal > tolerance) | (change > tolerance)]
        if not len(active):
            break
    return sparse


def better_filters(filters: Tensor, maps: Tensor, high: Tensor, steps: int) -> Tensor:
    """The filters (K, C, h, w) after some projected gradient steps on 1/2 || sum_k d_k * x_k - high ||^2, of length at most 1.

    The step is the inverse of the gradient's Lipschitz constant, the largest eigenvalue of the maps' Gram matrices over the
    frequencies.
    """
    size = (high.shape[2], high.shape[3])
    codes, wanted = rfft2(maps), rfft2(high)
    gram = torch.einsum("bkhw,dkhw->hwbd", codes, codes.conj())
    largest = float(torch.linalg.eigvalsh(gram).amax().clamp_min(1e-12))
    for _ in range(steps):
        miss = torch.einsum("kchw,bkhw->bchw", rfft2(filters, s=size), codes) - wanted
        gradient = irfft2(torch.einsum("bkhw,bchw->kchw", codes.conj(), miss), s=size)
        filters = filters - gradient[:, :, : filters.shape[2], : filters.shape[3]] / largest
        filters = filters / _length(filters).clamp_min(1.0).view(-1, 1, 1, 1)
    return filters


def _length(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)

"""The released network in plain PyTorch, as a measure of how fast it can be trained.

The same layers, losses and optimizer, written as one writes them there, channels last. It is never
released and nothing depends on it; PyTorch is no requirement of ours.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from brainlib import CLASS_NAMES
from brainlib.models.brain_tumor import AROUND, TISSUES
from brainlib.training import Schedule

_WIDTHS, _DEPTHS, _DECODER, _MAP_FEATURES = (64, 128, 256), (2, 3, 3), 64, 48
_LABELS = len(CLASS_NAMES)


def _convolution(
    before: int, after: int, size: int, stride: int = 1, bias: bool = False
) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride, size // 2, bias=bias)


def _normalised(width: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(width, eps=1e-4), nn.ReLU(inplace=True))


def _contrasts(grey: torch.Tensor) -> torch.Tensor:
    """Return each picture normalised, and each place normalised by what lies near and far."""
    variance, mean = torch.var_mean(grey, dim=(1, 2, 3), keepdim=True, correction=0)
    x = (grey - mean) * torch.rsqrt(variance + 1.0)
    places = torch.arange(1, x.shape[2] + 1, device=x.device) / x.shape[2]
    channels = [x]
    for width in AROUND:
        distance = ((places - places[:, None]) / width) ** 2 / 2
        weights = torch.exp(-distance.clamp(max=40.0))  # denormal numbers are slow here too
        weights = weights / weights.sum(dim=1, keepdim=True)
        mean, power = (weights @ part @ weights.T for part in (x, x**2))
        channels.append((x - mean) / torch.sqrt((power - mean**2).relu() + 0.04))
    return torch.cat(channels, dim=1)


class Bottleneck(nn.Module):
    """Half the width inside, normalised once."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.inside = nn.Sequential(
            _convolution(width, half, 1), _normalised(half),
            _convolution(half, half, 3, bias=True), nn.ReLU(inplace=True),
            _convolution(half, width, 1, bias=True),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the same shape."""
        return x + self.inside(x)


class Network(nn.Module):
    """`models.network_of` of the released network.

    PyTorch pads both sides alike, Keras the far side more, so strided convolutions differ; with
    kernels turned by half a turn, a picture turned likewise gives the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _convolution(1 + len(AROUND), 24, 5, 2, bias=True), nn.ReLU(inplace=True)
        )
        self.levels = nn.ModuleList()
        before = 24
        for width, depth in zip(_WIDTHS, _DEPTHS, strict=True):
            start = [_normalised(before)] if self.levels else []
            body = [Bottleneck(width) for _ in range(depth)]
            self.levels.append(nn.Sequential(*start, _convolution(before, width, 3, 2), *body))
            before = width
        self.features = nn.ModuleList(_normalised(width) for width in _WIDTHS)
        self.top = _convolution(_WIDTHS[2], _DECODER, 1)
        self.skips, self.steps = nn.ModuleList(), nn.ModuleList()
        for skip, width in ((_WIDTHS[1], _DECODER), (_WIDTHS[0], _MAP_FEATURES)):
            self.skips.append(_convolution(skip, _DECODER, 1))
            self.steps.append(
                nn.Sequential(_normalised(_DECODER), _convolution(_DECODER, width, 3))
            )
        self.drawn = _normalised(_MAP_FEATURES)
        self.tissue = nn.ConvTranspose2d(_MAP_FEATURES, len(TISSUES), 2, 2)
        pooled = _MAP_FEATURES + _WIDTHS[1] + 2 * _WIDTHS[2]
        self.logits = nn.Sequential(nn.Dropout(0.2), nn.Linear(pooled, _LABELS))

    def forward(self, grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (n, 4) and tissue logits (n, 4, size / 2, size / 2)."""
        with torch.autocast(grey.device.type, enabled=False):
            x = _contrasts(grey)
        x, levels = self.stem(x), []
        for level in self.levels:
            x = level(x)
            levels.append(x)
        fine, middle, coarse = (
            feature(level) for feature, level in zip(self.features, levels, strict=True)
        )
        x = self.top(coarse)
        for skip, step, finer in zip(self.skips, self.steps, (middle, fine), strict=True):
            x = step(functional.interpolate(x, scale_factor=2.0) + skip(finer))
        drawn = self.drawn(x)
        tissue = self.tissue(drawn)
        return self.logits(self._pool(tissue, drawn, middle, coarse)), tissue

    def _pool(self, tissue: torch.Tensor, *features: torch.Tensor) -> torch.Tensor:
        lesion = functional.avg_pool2d(1 - tissue.softmax(dim=1)[:, :1], 2)
        total = lesion.sum(dim=(2, 3), keepdim=True) + 0.5
        shares = [lesion / total]
        for step in (2, 4):
            shares.append(functional.avg_pool2d(lesion, step) * step**2 / total)
        pooled = [
            (feature * share).sum(dim=(2, 3))
            for feature, share in zip(features, shares, strict=True)
        ]
        return torch.cat([*pooled, features[-1].mean(dim=(2, 3))], dim=1)


def loss_of(
    answer: tuple[torch.Tensor, torch.Tensor],
    classes: torch.Tensor,
    shares: torch.Tensor,
    outlined: torch.Tensor,
) -> torch.Tensor:
    """Return the loss of a cycle whose outlines count once, as `training.Cycle` has it."""
    logits, tissue = answer
    logarithms = tissue.log_softmax(dim=1)
    entropy = -(shares * logarithms).sum(dim=1).mean(dim=(1, 2))
    drawn, outline = 1 - logarithms[:, 0].exp(), 1 - shares[:, 0]
    common, drawn, outline = (part.sum(dim=(1, 2)) for part in (drawn * outline, drawn, outline))
    drawing = 4 * entropy + 0.5 * (1 - (2 * common + 1) / (drawn + outline + 1))
    return functional.cross_entropy(logits, classes) + (outlined * drawing).mean()


def step_rate(
    batch: tuple, schedule: Schedule, steps: int, precision: str = "float32"
) -> Callable[[], float]:
    """Return what measures bare steps on a batch of `AugmentedBatches`, pictures a second.

    In bfloat16 PyTorch itself chooses which layers compute in it (`torch.autocast`).
    """
    pixels, targets, weights = batch
    grey = _channels_first(np.asarray(pixels, np.float32))
    classes = torch.from_numpy(targets["logits"])
    shares = _channels_first(targets["tissue"])
    outlined = torch.from_numpy(weights["tissue"])
    network = Network().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), schedule.learning_rate, (0.9, 0.99),
        weight_decay=schedule.weight_decay, fused=True,
    )  # fmt: skip

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits, tissue = network(grey)
        loss_of((logits.float(), tissue.float()), classes, shares, outlined).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    def rate() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            step()
        return steps * len(pixels) / (time.perf_counter() - began)

    step()  # first allocations are not what is measured
    return rate


def _channels_first(array: np.ndarray) -> torch.Tensor:
    """Turn (n, size, size, channels) into a view (n, channels, size, size), channels last."""
    return torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)

"""A network of one's own.  Used by own_model.yaml."""

from torch import nn


def separable(shape: tuple[int, int, int], outputs: int, *, width: int = 16) -> nn.Module:
    """Depthwise-separable convolutions for images of `shape` [C,H,W]; GroupNorm, so that it is safe under DP-SGD too."""
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 3, padding=1),
        *block(width, 2 * width),
        *block(2 * width, 2 * width),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, outputs),
    )


def block(inputs: int, outputs: int) -> list[nn.Module]:
    """Each channel by itself, then all channels at each place; half the size."""
    depthwise = nn.Conv2d(inputs, inputs, 3, stride=2, padding=1, groups=inputs)
    return [depthwise, nn.Conv2d(inputs, outputs, 1), nn.GroupNorm(4, outputs), nn.ReLU()]

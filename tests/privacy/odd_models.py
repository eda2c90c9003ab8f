"""Small networks, each with one thing in it that per-unit gradients may get wrong, and the slow truth to compare with."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedvision.protections import DpSgd

SHAPE = (3, 8, 8)


def per_image(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, one number an image."""
    return functional.cross_entropy(outputs, targets, reduction="none")


def spec(**changes: object) -> DpSgd:
    """A dp_sgd block with small numbers."""
    values = {"epsilon": None, "noise_multiplier": 1.0, "delta": 1e-4, "sampling_rate": 0.5, "divisor": 4.0} | changes
    return DpSgd.model_validate(values)


def conv(*args: object, **options: object) -> nn.Module:
    """One convolution and a linear head."""
    return nn.Sequential(nn.Conv2d(*args, **options), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LazyLinear(4))  # type: ignore[arg-type]


class Residual(nn.Module):
    """A residual that is added in place, and an activation in place, as torchvision writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.body, self.head = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.GroupNorm(2, 4),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Linear(4, 4),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        out = self.body(x)
        out += x
        return self.head(self.relu(out).mean((2, 3)))


class Attention(nn.Module):
    """Tokens with a position embedding, torch's own attention, and layer norms."""

    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.patch, self.batch_first = nn.Conv2d(3, 8, 4, 4), batch_first
        self.position, self.token = nn.Parameter(torch.randn(1, 5, 8)), nn.Parameter(torch.randn(1, 1, 8))
        self.norm, self.mix, self.head = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=batch_first), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        q = self.norm(x) if self.batch_first else self.norm(x).transpose(0, 1)
        y = self.mix(q, q, q, need_weights=False)[0]
        return self.head((x + (y if self.batch_first else y.transpose(0, 1)))[:, 0])


class Tied(nn.Module):
    """One layer used twice, and one parameter in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.head(self.b(torch.tanh(self.a(torch.tanh(self.a(x))))))


class Scaled(nn.Module):
    """A block with a parameter of its own beside its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Block(), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x.mean((2, 3))))


class Block(nn.Module):
    """x + γ · tanh(Wx)."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.inside = nn.Parameter(torch.randn(3)), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * torch.tanh(self.inside(x))


class Words(nn.Module):
    """An embedding of the brightest pixels' places."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(64, 6, padding_idx=0), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x.mean(1).flatten(1).topk(5).indices).mean(1))


class Permuted(nn.Module):
    """A convolution whose input lies in memory with its channels last, without anyone's asking for it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second, self.head = nn.Conv2d(3, 6, 3), nn.LayerNorm(6), nn.Conv2d(6, 4, 3), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(torch.tanh(self.second(x)).mean((2, 3)))


def frozen() -> nn.Module:
    """A BatchNorm whose statistics are constants."""
    from fedvision.models import freeze_statistics

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(4))
    model(torch.randn(2, *SHAPE))
    freeze_statistics(model)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4)),
    "conv": lambda: conv(3, 6, 3),
    "conv strided": lambda: conv(3, 6, 3, stride=2, padding=1),
    "conv dilated": lambda: conv(3, 6, 3, dilation=2, padding=(2, 1)),
    "conv grouped": lambda: nn.Sequential(nn.Conv2d(3, 6, 1), conv(6, 6, 3, groups=3, padding=1)),
    "conv depthwise": lambda: nn.Sequential(nn.Conv2d(3, 6, 1), conv(6, 6, 3, groups=6, bias=False)),
    "conv same": lambda: conv(3, 6, 4, padding="same"),
    "conv reflect": lambda: conv(3, 6, 3, padding=1, padding_mode="reflect"),
    "conv replicate": lambda: conv(3, 6, 3, padding=(2, 1), padding_mode="replicate"),
    "conv circular": lambda: conv(3, 6, 3, padding=1, padding_mode="circular"),
    "conv wide on small images": lambda: nn.Sequential(nn.Conv2d(3, 32, 3, stride=3), nn.Tanh(), conv(32, 32, 2)),
    "transposed conv": lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 2, stride=2), nn.Flatten(), nn.LazyLinear(4)),
    "instance norm and prelu": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.PReLU(), nn.Flatten(), nn.LazyLinear(4)
    ),
    "frozen batch norm": frozen,
    "residual in place": Residual,
    "attention": Attention,
    "attention, tokens first": lambda: Attention(batch_first=False),
    "tied": Tied,
    "block with a bare parameter": Scaled,
    "embedding": Words,
    "channels last inside": Permuted,
}


def made(name: str) -> nn.Module:
    """A model by name, its weights drawn alike each time."""
    torch.manual_seed(0)
    model = MODELS[name]()
    model(torch.randn(2, *SHAPE))
    return model


def examples(n: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Images and labels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *SHAPE, generator=generator), torch.randint(0, 4, (n,), generator=generator)

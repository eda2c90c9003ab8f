"""Classical filters in the style of torchvision's v2 transforms: each takes uint8 [...,C,H,W] and gives the same."""

import torch
from torch import Tensor
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import is_pure_tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Filter(v2.Transform):
    """A transform that draws nothing: `apply` [N,C,H,W] uint8 -> the same.  A mask beside the image stays as it is."""

    _transformed_types = (is_pure_tensor, tv_tensors.Image)

    def transform(self, inpt: Tensor, params: dict[str, object]) -> Tensor:
        """Any number of leading dimensions as one; what is no image [...,C,H,W] of 1 or 3 channels is refused."""
        if inpt.dtype != torch.uint8:
            raise TypeError(f"{type(self).__name__} takes uint8 images, and this is {inpt.dtype}: put it before what makes floats")
        return self.apply(inpt.reshape(-1, *inpt.shape[-3:])).reshape(inpt.shape)

    def apply(self, images: Tensor) -> Tensor:
        """[N,C,H,W] uint8 -> [N,C,H,W] uint8."""
        raise NotImplementedError


class CLAHE(Filter):
    """Contrast limited adaptive histogram equalisation.  Zuiderveld: Contrast limited adaptive histogram equalization,
    Graphics Gems IV, 1994.  Of a colour image the luma is equalised, and its change added to each channel.

    clip_limit: largest bin of a tile's histogram, over the mean bin.  tiles: in each direction, at most one a pixel.
    """

    def __init__(self, clip_limit: float = 2.0, tiles: int = 8):
        super().__init__()
        if clip_limit <= 0 or tiles < 1:
            raise ValueError(f"clip_limit = {clip_limit:g} must be above 0, and tiles = {tiles} at least 1")
        self.clip_limit, self.tiles = clip_limit, tiles

    def apply(self, images: Tensor) -> Tensor:
        """[N,C,H,W] uint8 -> [N,C,H,W] uint8."""
        if images.shape[1] == 1:
            return self._equalised(images[:, 0])[:, None]
        luma = _luma(images).round().to(torch.uint8)
        change = self._equalised(luma).short() - luma.short()
        return (images.short() + change[:, None]).clamp(0, 255).to(torch.uint8)

    def _equalised(self, grey: Tensor) -> Tensor:
        """[N,H,W] uint8: each pixel through the tables of the four nearest tiles, interpolated."""
        n, height, width = grey.shape
        rows, columns = min(self.tiles, height), min(self.tiles, width)
        padded = _padded(grey, -height % rows, -width % columns)
        tall, wide = padded.shape[1] // rows, padded.shape[2] // columns
        tables = self._tables(padded, rows, columns)
        top, below, down = _between(height, tall, rows, grey.device)
        left, right, across = _between(width, wide, columns, grey.device)
        image, value = torch.arange(n, device=grey.device)[:, None, None], grey.long()

        def through(row: Tensor, column: Tensor) -> Tensor:
            return tables[image, row[None, :, None], column[None, None, :], value]

        upper = through(top, left) * (1 - across) + through(top, right) * across
        lower = through(below, left) * (1 - across) + through(below, right) * across
        return (upper * (1 - down[:, None]) + lower * down[:, None]).round().clamp(0, 255).to(torch.uint8)

    def _tables(self, padded: Tensor, rows: int, columns: int) -> Tensor:
        """The cumulative, clipped histogram of each tile, float32 [N,rows,columns,256], on the scale 0..255."""
        n, height, width = padded.shape
        area = (height // rows) * (width // columns)
        tiles = padded.reshape(n, rows, height // rows, columns, width // columns).transpose(2, 3).reshape(-1, area).long()
        counts = torch.zeros(len(tiles), 256, dtype=torch.long, device=padded.device).scatter_add_(1, tiles, torch.ones_like(tiles))
        limit = max(1, int(self.clip_limit * area / 256))
        excess = (counts - limit).clamp(min=0).sum(1)
        counts = counts.clamp(max=limit) + (excess // 256)[:, None]
        rest = excess % 256  # one more to each of so many bins, evenly spaced
        step = (256 // rest.clamp(min=1)).clamp(min=1)[:, None]
        places = torch.arange(256, device=padded.device)
        counts += (places % step == 0) & (places // step < rest[:, None])
        return (counts.cumsum(1) * (255 / area)).round().clamp(0, 255).reshape(n, rows, columns, 256)


class GreyWorld(Filter):
    """Each colour channel scaled so that all have the image's mean.  Buchsbaum: A spatial processor model for object colour
    perception, J. Franklin Institute 1980.  A grey image is left as it is."""

    def apply(self, images: Tensor) -> Tensor:
        """[N,C,H,W] uint8 -> [N,C,H,W] uint8."""
        x = images.float()
        means = x.mean((2, 3), keepdim=True)
        return _bytes(x * (means.mean(1, keepdim=True) / means.clamp(min=1e-6)))


class Gaussian(Filter):
    """Gaussian blur.  sigma: standard deviation, pixels; the kernel ends at 3σ."""

    def __init__(self, sigma: float = 1.0):
        super().__init__()
        if sigma <= 0:
            raise ValueError(f"sigma = {sigma:g} must be above 0")
        self.sigma = sigma

    def apply(self, images: Tensor) -> Tensor:
        """[N,C,H,W] uint8 -> [N,C,H,W] uint8."""
        return _bytes(_blurred(images.float(), self.sigma))


class UnsharpMask(Filter):
    """x + amount (x − blurred x).  sigma: of the blur, pixels."""

    def __init__(self, sigma: float = 1.0, amount: float = 1.0):
        super().__init__()
        if sigma <= 0:
            raise ValueError(f"sigma = {sigma:g} must be above 0")
        self.sigma, self.amount = sigma, amount

    def apply(self, images: Tensor) -> Tensor:
        """[N,C,H,W] uint8 -> [N,C,H,W] uint8."""
        x = images.float()
        return _bytes(x + self.amount * (x - _blurred(x, self.sigma)))


class Median(Filter):
    """The median of the square around each pixel.  size: its side, pixels, odd."""

    def __init__(self, size: int = 3):
        super().__init__()
        self.size = _odd(size)

    def apply(self, images: Tensor) -> Tensor:
        """[N,C,H,W] uint8 -> [N,C,H,W] uint8."""
        half = self.size // 2
        around = functional.pad(images.float(), (half,) * 4, mode="replicate").unfold(2, self.size, 1).unfold(3, self.size, 1)
        return around.flatten(4).median(4).values.to(torch.uint8)


class Sobel(Filter):
    """The magnitude of the gradient by Sobel's operator, grey values a pixel."""

    def apply(self, images: Tensor) -> Tensor:
        """[N,C,H,W] uint8 -> [N,C,H,W] uint8."""
        x = functional.pad(images.float(), (1,) * 4, mode="replicate")
        across = (x[..., 2:] - x[..., :-2]) / 2
        down = (x[..., 2:, :] - x[..., :-2, :]) / 2
        gx = (across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]) / 4
        gy = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 4
        return _bytes(torch.hypot(gx, gy))


class TopHat(Filter):
    """What is narrower than a square: x − opening (bright), or closing − x (dark).  size: of the square, pixels, odd."""

    def __init__(self, size: int = 9, bright: bool = True):
        super().__init__()
        self.size, self.bright = _odd(size), bright

    def apply(self, images: Tensor) -> Tensor:
        """[N,C,H,W] uint8 -> [N,C,H,W] uint8."""
        x = images.float() if self.bright else 255 - images.float()
        eroded = -functional.max_pool2d(-x, self.size, 1, self.size // 2)
        return _bytes(x - functional.max_pool2d(eroded, self.size, 1, self.size // 2))


class Gamma(Filter):
    """x ** gamma on the scale 0..1: below 1 brightens, above 1 darkens."""

    def __init__(self, gamma: float = 1.0):
        super().__init__()
        if gamma <= 0:
            raise ValueError(f"gamma = {gamma:g} must be above 0")
        self.gamma = gamma

    def apply(self, images: Tensor) -> Tensor:
        """[N,C,H,W] uint8 -> [N,C,H,W] uint8."""
        return _bytes(255 * (images.float() / 255) ** self.gamma)


def _bytes(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255).to(torch.uint8)


def _odd(size: int) -> int:
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size = {size} must be odd, so that a square has a middle")
    return size


def _luma(images: Tensor) -> Tensor:
    """[N,3,H,W] -> float32 [N,H,W]; of any other number of channels the mean."""
    x = images.float()
    if x.shape[1] != 3:
        return x.mean(1)
    return LUMA[0] * x[:, 0] + LUMA[1] * x[:, 1] + LUMA[2] * x[:, 2]


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """[N,C,H,W] float, by rows and then by columns; what is outside is the nearest pixel."""
    reach = max(1, int(3 * sigma + 0.5))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    padded = functional.pad(x, (reach,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(padded, kernel[..., None], groups=x.shape[1]), kernel[:, :, None], groups=x.shape[1])


def _padded(grey: Tensor, more_rows: int, more_columns: int) -> Tensor:
    """[N,H,W] with rows and columns added at the end, mirrored."""
    if not (more_rows or more_columns):
        return grey
    height, width = grey.shape[1:]
    rows, columns = torch.arange(height + more_rows), torch.arange(width + more_columns)
    return grey[:, torch.where(rows < height, rows, 2 * height - 2 - rows).clamp(0)][
        :, :, torch.where(columns < width, columns, 2 * width - 2 - columns).clamp(0)
    ]


def _between(size: int, tile: int, tiles: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `size` pixels: the tile before, the tile after, and how far it is from the first, 0..1."""
    place = torch.arange(size, device=device) / tile - 0.5
    first = place.floor()
    return first.long().clamp(min=0), (first.long() + 1).clamp(max=tiles - 1), place - first

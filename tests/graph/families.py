"""The torchvision families, with random weights and small images, and what each method is to make of them."""

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
    "maxvit_t": (224, {}, False, True),
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


def build(name):
    """The network in evaluation mode, its normalisation having seen images, and three images."""
    side, arguments, *_ = FAMILIES[name]
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, num_classes=5, **arguments)
    images = torch.rand(3, 3, side, side)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.05)
                module.running_var.uniform_(0.5, 1.5)
        model.eval()
    return model, images

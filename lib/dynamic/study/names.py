"""What plots call the networks of the study."""

from __future__ import annotations

import re
import textwrap

_FAMILIES = {"resnet": "ResNet", "vgg": "VGG", "mobilenet": "MobileNet"}


def titled(name: str, width: int = 22) -> str:
    """A recipe's name in words, on lines short enough for a narrow panel.

    dynamic-resnet-stated-b0.5 -> ResNet, stated, at 0.5 of the FLOPs; scratch-vgg16 -> VGG16.

    Args:
        width: of a line, in characters.
    """
    words = []
    for word in re.sub(r"^(dynamic|scratch)-", "", name).split("-"):
        family = next((family for family in _FAMILIES if word.startswith(family)), None)
        budget = re.fullmatch(r"b(\d.*)", word)
        if family:
            words.append(_FAMILIES[family] + word.removeprefix(family))
        elif budget:
            words.append(f"at {budget[1]} of the FLOPs")
        elif re.fullmatch(r"v\d", word) and words:
            words[-1] += f" {word}"
        else:
            words.append(word)
    return textwrap.fill(", ".join(words), width)

"""The reader's own image and own network, read without executing anything that is in the files."""

import io
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from lib import compute, config, data, models, store
from lib.explore.network import ExploreError, Network, of_model
from lib.lancet.errors import LancetError
from lib.lancet.files import decoded, load_classifier

FORMATS = ("PNG", "JPEG")
ENDINGS = (".safetensors", ".pt", ".pth")


@lru_cache(maxsize=16)
def own_image(network: Network, file: str | os.PathLike | bytes, label: int | str) -> Network:
    """The network with an image of the reader's, at position `network.MINE`.

    Its middle is cut out in the proportions of the network's input and resized to it. The network normalises it itself.

    Args:
        network: what it is shown to.
        file: a PNG or JPEG file, its path or its bytes.
        label: its true class, the name or the number.
    Raises: ExploreError for a file that cannot be read, or a class that the network does not have.
    """
    classes, (channels, height, width) = network.test.classes, network.test.images.shape[1:]
    truth = classes.index(label) if label in classes else label
    if not isinstance(truth, int) or not 0 <= truth < len(classes):
        raise ExploreError(f"class {label!r}: a name or number of the classes of {network.name}: {', '.join(classes)}")
    name = "the image" if isinstance(file, bytes) else str(file)
    try:
        content = file if isinstance(file, bytes) else Path(file).read_bytes()
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            upright = ImageOps.exif_transpose(opened)
            image = decoded(ImageOps.fit(upright, (width, height)), (channels, height, width))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ExploreError(f"{name} cannot be read as a {' or '.join(FORMATS)} image: {error}") from error
    return replace(network, own=(image, truth))


def own_network(
    weights: str | os.PathLike,
    structure: str,
    arguments: Mapping[str, Any] | str = "{}",
    images: str = "cifar10",
    scale: str = "smoke",
    seed: int = 0,
) -> Network:
    """A network of the reader's: weights from a file, in a structure of this package.

    Args:
        weights: a .safetensors file, or a state dict saved by `torch.save` in .pt or .pth.
        structure: a name in `lib.models.ARCHITECTURES`.
        arguments: of the structure, a mapping or JSON: {"width": 16}; with mean and std, a number a channel, where the
            network was trained on normalised images and its file does not say so.
        images: the data set whose test images it classifies; its shape and classes are the network's.
        scale: whose settings attacks and slices take.
        seed: of attacks that draw.
    Raises: ExploreError for an unknown structure or data set, for arguments that are none, and for a file that cannot
        be read, is no state dict, or does not fit; DataError where the data are missing.
    """
    path = Path(weights)
    for kind, value, known in (("structure", structure, models.ARCHITECTURES), ("data set", images, data.SETS)):
        if value not in known:
            raise ExploreError(f"no {kind} {value!r}: {config.one_of(value, known)}")
    if path.suffix not in ENDINGS:
        raise ExploreError(f"{path.name}: a file of weights ends in {', '.join(ENDINGS)}")
    try:
        given = json.loads(arguments or "{}") if isinstance(arguments, str) else dict(arguments)
        allowed = {*models.defaults(structure), "mean", "std"}
        if not isinstance(given, dict) or not given.keys() <= allowed:
            raise ValueError(f"a mapping of {', '.join(sorted(allowed))} is wanted")
    except ValueError as error:
        raise ExploreError(f'arguments {arguments!r}: {error}, as {{"width": 16}}') from error
    test, about = data.load(images, "test"), store.bytes_sha256
    try:
        shape, classes = test.images.shape[1:], len(test.classes)
        model = load_classifier(path, structure, shape=shape, classes=classes, **given)
        fingerprint = about(path.read_bytes() + json.dumps([structure, given], sort_keys=True).encode())
    except LancetError as error:
        raise ExploreError(str(error).replace(f"{path.parent}{os.sep}", "")) from error
    model = model.to(compute.device(config.load(scale).compute.device))
    return of_model(model, fingerprint, images, scale, path.name, seed)


def uploaded(content: bytes, name: str, structure: str, arguments: str, images: str, scale: str, seed: int) -> Network:
    """As `own_network`, of the bytes of a file with that name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(content)
        return own_network(path, structure, arguments, images, scale, seed)

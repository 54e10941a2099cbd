"""lib.zoo when files are damaged, a training is killed, or two ask at once: the same network in the end."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings

import pytest
import torch
from safetensors.torch import save_file
from training_tools import same, state
from zoo_tools import flip, folder, reconfigure, rewritten

from lib import config, data, store, training, zoo

pytestmark = pytest.mark.usefixtures("house", "each_epoch")


def other_shape(place):
    """Weights of another structure, and a card that vouches for them."""
    save_file({"fc2.weight": torch.zeros(2, 2)}, place / "weights.safetensors")
    rewritten(place / "card.json", weights=store.file_sha256(place / "weights.safetensors"))


def not_tensors(place):
    (place / "weights.safetensors").write_bytes(b"junk")
    rewritten(place / "card.json", weights=store.bytes_sha256(b"junk"))


def other_digit(card):
    """A card that is whole JSON, one digit changed."""
    text = card.read_text()
    assert '"test_accuracy": 0.' in text
    card.write_text(text.replace('"test_accuracy": 0.', '"test_accuracy": 1.'))


DAMAGES = {
    "a flipped bit in the weights": lambda place: flip(place / "weights.safetensors"),
    "weights cut short": lambda place: os.truncate(place / "weights.safetensors", 100),
    "empty weights": lambda place: os.truncate(place / "weights.safetensors", 0),
    "weights of another structure": other_shape,
    "weights that are no tensors": not_tensors,
    "a card cut short": lambda place: os.truncate(place / "card.json", 100),
    "an empty card": lambda place: os.truncate(place / "card.json", 0),
    "a card of bytes": lambda place: (place / "card.json").write_bytes(b"\xff\xfe\x01"),
    "a card that is a list": lambda place: (place / "card.json").write_text("[1]"),
    "a flipped bit in a card": lambda place: other_digit(place / "card.json"),
    "a card for other weights": lambda place: rewritten(place / "card.json", weights="sha256:0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_warned_of_and_mended(trainings, damage):
    wanted, place = state(zoo.get("plain")), folder("plain")
    trainings.clear()
    DAMAGES[damage](place)
    with pytest.warns(UserWarning, match=f"(?s){place}/.* is made anew"):
        again = zoo.get("plain")
    assert trainings == [(3, 0)]
    assert same(state(again), wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zoo.get("plain")
    assert len(trainings) == 1


@pytest.mark.parametrize("missing", ["card.json", "weights.safetensors"])
def test_a_half_of_a_network_is_none(trainings, missing):
    wanted = state(zoo.get("plain"))
    (folder("plain") / missing).unlink()
    assert same(state(zoo.get("plain")), wanted)
    assert len(trainings) == 2


class Killed(Exception):
    pass


@pytest.fixture
def kill(monkeypatch):
    """`kill(n)` ends training once, when the nth checkpoint from then on is written."""
    save, left = training.save_checkpoint, [0]

    def saved(*args):
        save(*args)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    monkeypatch.setattr(training, "save_checkpoint", saved)
    return lambda count: left.__setitem__(0, count)


@pytest.mark.parametrize("name", ["plain", "dense", "dense-s0.5", "low", "t20"])
@pytest.mark.parametrize("after", [1, 2])
def test_a_training_that_was_killed_goes_on_to_the_same_network(house, kill, name, after):
    wanted = state(zoo.get(name))
    shutil.rmtree(house / "cache")
    kill(after)
    with pytest.raises(Killed):
        zoo.get(name)
    assert same(state(zoo.get(name)), wanted)


@pytest.mark.parametrize(
    "damage", [lambda path: flip(path, 3000), lambda path: os.truncate(path, 50), lambda path: path.write_bytes(b"")]
)
def test_a_damaged_checkpoint_is_warned_of_and_training_starts_anew(house, kill, damage):
    wanted = state(zoo.get("plain"))
    shutil.rmtree(house / "cache")
    kill(2)
    with pytest.raises(Killed):
        zoo.get("plain")
    path = folder("plain") / "checkpoint.pt"
    damage(path)
    with pytest.warns(UserWarning, match=f"(?s)checkpoint {path} cannot be used .*done anew"):
        assert same(state(zoo.get("plain")), wanted)


def test_a_damaged_trunk_is_warned_of_and_made_anew(trainings):
    zoo.get("dense")
    (trunk,) = (config.cache_dir("smoke") / "networks").glob("*/epoch1.pt")
    before = torch.load(trunk, weights_only=True)
    os.truncate(trunk, 1000)
    trainings.clear()
    with pytest.warns(UserWarning, match=f"(?s)checkpoint {trunk} cannot be used .*done anew"):
        branch = zoo.get("dense-s0.5")
    assert trainings == [(3, 1), (1, 0), (3, 1)]
    assert same(state(branch), state(zoo.get("scratch")))
    assert same(torch.load(trunk, weights_only=True)["model"], before["model"])


def test_a_checkpoint_that_can_never_be_used_is_an_error_in_the_end(monkeypatch, kill):
    kill(1)
    with pytest.raises(Killed):
        zoo.get("plain")
    path = folder("plain") / "checkpoint.pt"

    def never(run, hooks, where):
        raise training.CheckpointError(f"checkpoint {where} cannot be used (no)", where)

    monkeypatch.setattr(training, "load_checkpoint", never)
    monkeypatch.setattr(training.Path, "unlink", lambda self, missing_ok=False: None)
    with pytest.raises(training.CheckpointError), pytest.warns(UserWarning, match="done anew"):
        zoo.get("plain")
    assert path.exists()


def test_of_two_at_once_one_trains(monkeypatch, trainings):
    counted = training.fit

    def slow(*args, **more):
        time.sleep(0.3)
        return counted(*args, **more)

    monkeypatch.setattr(training, "fit", slow)
    data.load("mnist5k", "train")
    barrier, found = threading.Barrier(2), []

    def ask():
        barrier.wait()
        found.append(state(zoo.get("plain")))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trainings == [(3, 0)]
    assert len(found) == 2 and same(*found)


def command(house, family: str, *more: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(config.ROOT)}
    each_epoch = "from lib import training, zoo; training.CHECKPOINT_SECONDS = 0; zoo.main()"
    words = [sys.executable, "-c", each_epoch, "train", "--family", family, *more]
    return subprocess.Popen(
        words, env=environment, cwd=house, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_of_which_one_is_killed(house):
    """SIGKILL in the middle of training, while another process waits: it goes on, to the undisturbed result."""
    long = {"like": "plain", "epochs": 60, "batch": 5, "family": "long"}
    reconfigure(house, long=long)
    place = folder("long")
    first = command(house, "long")
    deadline = time.monotonic() + 120
    while not (place / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    first.kill()
    first.wait()
    assert not (place / "card.json").exists()
    second, third = command(house, "long"), command(house, "long")
    said = [process.communicate(timeout=240) for process in (second, third)]
    assert second.returncode == third.returncode == 0, said
    assert [json.loads(out) for out, _ in said] == [{"long": zoo.key("long")}] * 2
    resumed = state(zoo.get("long"))
    shutil.rmtree(house / "cache")
    assert same(resumed, state(zoo.get("long")))

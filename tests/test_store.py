"""lib.store: a file is the old one or the new one; equal values have one fingerprint."""

import os
import subprocess
import sys
import threading
from types import MappingProxyType

import pytest

from lib import config, store


def contents(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", ["text é", "text é".encode(), lambda path: path.write_text("text é")])
def test_write_makes_folders_and_replaces(tmp_path, content):
    path = tmp_path / "a" / "b" / "file.txt"
    for _ in range(2):
        assert store.write_atomic(path, content) == path
        assert path.read_text() == "text é"
    assert contents(path.parent) == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [RuntimeError, OSError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def writer(temporary):
        temporary.write_bytes(b"half")
        raise error("no")

    with pytest.raises(error):
        store.write_atomic(path, writer)
    assert path.read_bytes() == b"old"
    assert contents(tmp_path) == ["file.bin"]


def test_a_disk_error_names_the_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"could not write .*file\.bin: No space left on device") as raised:
        store.write_atomic(tmp_path / "file.bin", b"new")
    assert raised.value.errno == 28
    assert contents(tmp_path) == []


def test_the_file_is_whole_on_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(os, "fsync", lambda _: steps.append("fsync"))
    replace = os.replace
    monkeypatch.setattr(
        os, "replace", lambda old, new: (steps.append(f"{old.parent == new.parent}"), replace(old, new))
    )
    store.write_atomic(tmp_path / "file", b"x")
    assert steps == ["fsync", "True"]


def test_a_reader_beside_a_writer_never_sees_a_part(tmp_path):
    path = tmp_path / "file"
    whole = [letter * 200_000 for letter in (b"a", b"b")]
    store.write_atomic(path, whole[0])
    stop = threading.Event()

    def write():
        turn = 0
        while not stop.is_set():
            turn += 1
            store.write_atomic(path, whole[turn % 2])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            assert path.read_bytes() in whole
    finally:
        stop.set()
        writer.join()


def test_a_long_name_fits(tmp_path):
    path = tmp_path / ("n" * 240 + ".json")
    store.write_atomic(path, b"x")
    assert contents(tmp_path) == [path.name]


def test_fingerprints_are_stable():
    known = "sha256:d838c025f1de6cc4010859fcd5665480d9529a8603a493dea009731e6fd11acd"
    value = {"b": [1, 2.5, None, True], "a": {"x": "é"}}
    same = MappingProxyType({"a": MappingProxyType({"x": "é"}), "b": (1, 2.5, None, True)})
    assert store.canonical_json(value) == '{"a":{"x":"\\u00e9"},"b":[1,2.5,null,true]}'
    assert store.fingerprint(value) == store.fingerprint(same) == known
    assert store.fingerprint({"s": {3, 1, 2}}) == store.fingerprint({"s": [1, 2, 3]})
    assert store.fingerprint([1]) != store.fingerprint([1.0]) != store.fingerprint(["1"])
    program = f"from lib import store; print(store.fingerprint({value!r}))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", program], cwd=config.ROOT, env=environment, capture_output=True)
    assert done.stdout.decode().strip() == known


def test_what_has_no_fingerprint():
    for value, error in (
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (object(), TypeError),
        (b"x", TypeError),
    ):
        with pytest.raises(error):
            store.fingerprint({"a": [value]})


def test_hashes_of_files_and_bytes(tmp_path):
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "f").write_bytes(b"")
    assert store.file_sha256(tmp_path / "f") == store.bytes_sha256(b"") == empty
    (tmp_path / "f").write_bytes(b"x" * 10**6)
    assert store.file_sha256(tmp_path / "f") == store.bytes_sha256(b"x" * 10**6)

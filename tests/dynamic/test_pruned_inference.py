"""benchmarks.pruned_inference: the two sides agree, and the last line says what was measured."""

import json
import sys

import pytest
import torch

from benchmarks import pruned_inference


def test_the_last_line(monkeypatch, capsys, one_thread):
    words = ["--arch", "resnet20", "--widths", "4", "8", "--batch", "2", "--repeats", "1", "--side", "16"]
    monkeypatch.setattr(sys, "argv", ["pruned_inference", *words])
    pruned_inference.main()
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["benchmark"] == "pruned_inference" and report["equal"]
    assert report["ratio"] == pytest.approx(report["peer_seconds"] / report["seconds"])
    assert [row["width"] for row in report["rows"]] == [4, 8]
    for row in report["rows"]:
        assert row["macs_saved"] == pytest.approx(0.5, abs=0.05)
        assert row["share"] == pytest.approx(row["gain"] / row["macs_saved"])


def test_sides_that_differ_are_found(one_thread):
    dense, narrow, structure = pruned_inference.twins("resnet20", 4, 0.5, (3, 16, 16))
    images = torch.rand(2, 3, 16, 16)
    assert pruned_inference.agree(dense, narrow, structure.keep, images)
    narrow.get_parameter("linear.bias").data[0] += 0.5
    assert not pruned_inference.agree(dense, narrow, structure.keep, images)

"""What a slice is and what it costs: against slices taken one by one, kept, refused where settings do not fit."""

import numpy as np
import pytest
import torch
from training_tools import places

from lib import config, data, permission, slicing
from lib.experiments import nnslicer_anatomy, nnslicer_overhead
from lib.slicing.kinds import SlicingError

CONFIG = """
compute: {device: cpu, threads: 1, training_precision: float32, channels_last: false}
networks:
  tiny: {arch: resnet10-preact, arch_args: {width: 2, normalise: false}, data: mnist5k, epochs: 3, batch: 50,
    train_limit: 1000, learning_rate: 0.05, family: tiny}
  deep: {like: tiny, epochs: 4}
study:
  nnslicer:
    data: mnist5k
    network: tiny
    seeds: [0]
    profile_per_class: 5
    overhead: {deep: deep, inputs: 2, batches: [1, 2], widths: [2], blocks: [1], profiled: 300}
    anatomy: {images_per_class: 2}
"""


@pytest.fixture(autouse=True, scope="module")
def home(tmp_path_factory):
    """Configuration, cache and results that the tests of this file share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("slices")
    with pytest.MonkeyPatch.context() as patch, permission.asked():
        places(patch, folder)
        (folder / "config").mkdir(exist_ok=True)
        for name in ("smoke", "paper"):
            (folder / "config" / f"{name}.yaml").write_text(CONFIG)
        yield folder
    torch.set_num_threads(threads)


def never(*_, **__):
    raise AssertionError("computed twice")


def by_hand(run):
    """Slices of the anatomy's images, each alone, of the NNSlicer that looks at the predicted class."""
    images, labels = run.chosen()
    own, theta = run.profile(), run.settings.theta
    return [slicing.slice(run.model, image[None], own, theta) for image in images], labels


def test_sizes_and_overlaps_are_those_of_slices_taken_one_by_one(monkeypatch):
    settings = nnslicer_anatomy.Settings.of("smoke")
    run = nnslicer_anatomy.AnatomyRun(settings, 0)
    anatomy = nnslicer_anatomy.ANATOMY.of(settings)
    each, labels = by_hand(run)
    assert 4 <= len(each) <= 20 and anatomy.values("synapses")["n"].unique().tolist() == [len(each)]
    layers = list(each[0].synapses)
    for chosen, name in [*(([layer], layer) for layer in layers), (layers, "all")]:
        on = [np.concatenate([one.synapses[layer].numpy().ravel() != 0 for layer in chosen]) for one in each]
        assert anatomy.value("synapses", method="nnslicer", layer=name) == pytest.approx(np.mean(on))
        pairs = {True: [], False: []}
        for a in range(len(on)):
            for b in range(len(on)):
                if a != b:
                    either = (on[a] | on[b]).sum()
                    pairs[bool(labels[a] == labels[b])] += [(on[a] & on[b]).sum() / either] if either else []
        for measure, alike in (("same_class", True), ("other_class", False)):
            assert anatomy.value(measure, method="nnslicer", layer=name) == pytest.approx(np.mean(pairs[alike]))
    overlaps = anatomy.values("class_overlap", method="nnslicer")
    wide = overlaps.pivot(index="first", columns="second", values="value")
    assert np.allclose(wide, wide.T, equal_nan=True)
    of_two = overlaps[overlaps["first"] != overlaps["second"]]
    whole = anatomy.value("other_class", method="nnslicer", layer="all")
    assert np.average(of_two["value"], weights=of_two["n"]) == pytest.approx(whole)

    rows = anatomy.rows("picture")
    for layer, wanted in nnslicer_anatomy.maps(run.chosen()[0][:1], each[0]).items():
        drawn = rows[rows["layer"] == layer].pivot(index="row", columns="column", values="value").to_numpy(float)
        assert np.allclose(drawn, wanted.double().numpy())

    monkeypatch.setattr(nnslicer_anatomy, "slice", never)
    monkeypatch.setattr(nnslicer_anatomy, "effective_path", never)
    again = nnslicer_anatomy.ANATOMY.of(settings)
    assert again.numbers == anatomy.numbers
    other = nnslicer_anatomy.AnatomyRun(nnslicer_anatomy.Settings.of("smoke", theta=0.1), 0)
    assert other.layers("effective-path").equals(run.layers("effective-path"))
    for changed in ({"theta": 0.1}, {"images_per_class": 1}, {"profile_per_class": 4}):
        with pytest.raises(AssertionError, match="computed twice"):
            nnslicer_anatomy.AnatomyRun(nnslicer_anatomy.Settings.of("smoke", **changed), 0).layers("nnslicer")


def test_a_picture_beyond_the_images_is_refused():
    settings = nnslicer_anatomy.Settings.of("smoke", picture=500)
    with pytest.raises(ValueError, match="picture is 500"):
        nnslicer_anatomy.AnatomyRun(settings, 0).picture()


def test_costs_are_measured_of_slices_that_equal_the_plain_rules(monkeypatch):
    settings = nnslicer_overhead.Settings.of("smoke")
    overhead = nnslicer_overhead.OVERHEAD.of(settings)
    seconds = overhead.values("seconds")
    assert (seconds["value"] >= 0).all()
    for network in ("tiny", "deep"):
        rows = seconds[(seconds["network"] == network) & (seconds["inputs"] == "batched")].set_index("phase")["value"]
        assert rows["backward"] == pytest.approx(max(rows["slice"] - rows["forward"], 0))
    assert seconds[seconds["phase"] == "plain-rule"]["network"].tolist() == ["tiny"]
    sizes = seconds[seconds["axis"].notna()]
    assert list(zip(sizes["axis"], sizes["size"], strict=True)) == [
        ("batch", 1.0), ("batch", 2.0), ("threads", 1.0), ("threads", 2.0), ("width", 2.0), ("blocks", 1.0)
    ]  # fmt: skip
    assert set(overhead.values("peak_memory")["network"]) == {"tiny", "deep"}
    assert len(nnslicer_overhead.draw(overhead).axes) == 2
    assert nnslicer_overhead.beside_stated(overhead)["network"].tolist() == ["tiny", "deep"] * 2

    monkeypatch.setattr(nnslicer_overhead, "best", never)
    assert nnslicer_overhead.OVERHEAD.of(settings).numbers == overhead.numbers
    other = nnslicer_overhead.Settings.of("smoke", inputs=1)
    with pytest.raises(AssertionError, match="computed twice"):
        nnslicer_overhead.OVERHEAD.of(other)
    monkeypatch.setattr(nnslicer_overhead, "best", lambda *_, **__: 1.0)
    growth = nnslicer_overhead.OverheadRun(other, 0).growth()
    assert growth[growth["axis"] == "batch"]["size"].tolist() == [1]  # no more inputs than there are


def test_a_fast_slice_that_differs_from_the_plain_rules_is_not_timed(monkeypatch):
    run = nnslicer_overhead.OverheadRun(nnslicer_overhead.Settings.of("smoke"), 0)
    model, image = run.model, data.load("mnist5k", "test").images[:1]
    known = run._profiled(model)

    def wrong(*arguments, **options):
        found = slicing.slice(*arguments, **options)
        next(iter(found.synapses.values())).view(-1)[0] += 1
        return found

    monkeypatch.setattr(nnslicer_overhead, "slice", wrong)
    with pytest.raises(SlicingError, match="differs from the plain rule's"):
        run._plain("tiny", model, image, known)


def test_the_second_network_is_another():
    with pytest.raises(config.ConfigError, match=r"deep is 'tiny'.*another network"):
        nnslicer_overhead.Settings.of("smoke", deep="tiny")

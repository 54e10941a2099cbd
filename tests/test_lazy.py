"""Names that load on first use."""

import subprocess
import sys

import pytest

from lib import config, detectors, dynamic, lancet, robustness, slicing

PACKAGES = (detectors, dynamic, lancet, robustness, slicing)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_name_is_found_and_listed(package):
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_a_name_that_is_not_there_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        _ = package.nothing


def test_submodules_are_names_too():
    code = "from lib import robustness; print(robustness.fgsm.__name__, 'fgsm' in dir(robustness))"
    told = subprocess.run([sys.executable, "-c", code], cwd=config.ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["lib.robustness.fgsm", "True"]

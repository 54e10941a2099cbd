"""Hostile names: of the checkout, the results, the data root, a class; none is taken for an option, a command, HTML."""

import pytest
from workshop import RECORD, Workshop

HOSTILE = """a {b} <script>alert(1)</script> 'c' "d" $(e) `f`;g&h %s\n--i"""


@pytest.mark.slow
def test_a_run_in_a_checkout_of_any_name_with_results_of_almost_any(tmp_path):
    shop = Workshop(tmp_path / HOSTILE.replace("/", ""))
    shop.notebook("02_two", RECORD.format(items=["robustness_three"], name="02_two"))
    done = shop.call("--only", "02_two", NEURONS_RESULTS="""-x 'y' "z" $(w);\nv &""")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(shop.lines("trained")) == ["other 0 False", "other 1 False"]
    assert (shop.root / """-x 'y' "z" $(w);\nv &/smoke/numbers/robustness_three.json""").is_file()
    again = shop.call("--only", "02_two", NEURONS_RESULTS="""-x 'y' "z" $(w);\nv &""")
    assert "nothing was out of date" in again.stdout

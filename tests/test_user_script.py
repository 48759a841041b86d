"""The script that pyright checks as a user's code runs, too."""

import numpy as np
import pytest

import user_script


def test_a_script_over_all_rooms_runs():
    numbers = user_script.main()
    assert np.isfinite(list(numbers.values())).all()
    assert numbers["product"] == 12
    assert numbers["log_det"] == 0
    assert numbers["log_prob"] == pytest.approx(-np.log(2 * np.pi))

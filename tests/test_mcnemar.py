from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_r1.stats import mcnemar_exact, mcnemar_midp


@pytest.mark.parametrize(("b", "c", "p"), [(1, 5, 0.21875), (2, 4, 0.6875), (2, 10, 0.03857421875)])
def test_the_figures_of_the_paper(b, c, p):
    """Xiao et al. 2025: Qwen2-VL-7B, Qwen2.5-VL-7B and Perception-R1 on 50 problems."""
    assert mcnemar_exact(b, c) == p
    assert mcnemar_exact(c, b) == p


def test_by_hand():
    assert mcnemar_exact(0, 0) == mcnemar_midp(0, 0) == 1.0
    assert mcnemar_exact(0, 3) == 2 / 8
    assert mcnemar_midp(0, 3) == 1 / 8
    assert mcnemar_exact(4, 4) == mcnemar_midp(4, 4) == 1.0
    assert mcnemar_exact(0, 2000) == pytest.approx(0.0, abs=1e-300)


@given(st.integers(0, 300), st.integers(0, 300))
def test_equal_to_the_binomial_test(b, c):
    from scipy.stats import binom

    exact = mcnemar_exact(b, c)
    assert 0 < exact <= 1 or b + c > 900
    if b + c:
        assert exact == pytest.approx(min(1.0, 2 * binom.cdf(min(b, c), b + c, 0.5)), rel=1e-9)
        assert mcnemar_midp(b, c) == pytest.approx(
            min(1.0, 2 * binom.cdf(min(b, c), b + c, 0.5) - binom.pmf(min(b, c), b + c, 0.5)), rel=1e-9
        )
    assert mcnemar_midp(b, c) <= exact


def test_negative_counts():
    with pytest.raises(ValueError, match="must not be negative"):
        mcnemar_exact(-1, 2)

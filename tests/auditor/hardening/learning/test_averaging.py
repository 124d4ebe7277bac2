"""Averages of weights beside plain sums."""

from __future__ import annotations

import pytest
import torch

from auditor.hardening.learning.averaging import AveragedState, ema_share
from tests.narrow import known
from tests.nets import small_cnn


def test_equal_shares_are_the_mean_and_decaying_ones_the_exponential_mean() -> None:
    for share_of in (lambda count: 1 / (count + 1), lambda count: 0.1):
        average, network, expected = AveragedState(), small_cnn().double(), None
        seen = []
        for count in range(5):
            with torch.no_grad():
                for value in network.state_dict().values():
                    value.add_(torch.randn(value.shape).to(value.dtype) if value.is_floating_point() else 1)
            state = {name: value.clone() for name, value in network.state_dict().items()}
            seen.append(state)
            share = share_of(count)
            expected = (
                state
                if expected is None
                else {name: (1 - share) * expected[name] + share * state[name] for name in state}
            )
            average.update(network, share)
        for name, value in average.state.items():
            if not value.is_floating_point():
                assert value == seen[-1][name]
                continue
            assert torch.allclose(value, known(expected)[name], rtol=1e-10)
            if share_of(1) == 0.5:
                assert torch.allclose(value, sum(state[name] for state in seen) / 5, rtol=1e-10)


def test_the_exponential_mean_forgets_the_start_at_first() -> None:
    assert [1 - ema_share(0.999, count) for count in (0, 8, 90, 10**6)] == pytest.approx([0.1, 0.5, 0.91, 0.999])

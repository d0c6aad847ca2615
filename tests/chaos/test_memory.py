"""The slope: a leak in a series of samples is seen, noise alone is not."""
import os

import numpy as np
import pytest

from . import memory

SECONDS = np.arange(1800.0)


def noise(seed, likeness):
    """Samples around 100 MB that resemble their predecessors, and steps that come and go."""
    rng = np.random.default_rng(seed)
    series = np.zeros(len(SECONDS))
    for place, kick in enumerate(rng.normal(0, 200_000, len(SECONDS))):
        series[place] = likeness * series[place - 1] + kick
    return 100e6 + series + 500_000 * (rng.random(len(SECONDS)) < 0.1)


def growth(likeness, bytes_per_second):
    return [memory.slope(SECONDS, noise(seed, likeness) + bytes_per_second * SECONDS).is_growth for seed in range(40)]


@pytest.mark.parametrize("likeness", [0.0, 0.5, 0.95])
def test_noise_is_no_leak(likeness):
    assert sum(growth(likeness, 0)) <= 4  # one in forty is what 95 % mean


@pytest.mark.parametrize("likeness, bytes_per_second", [(0.0, 200), (0.5, 300), (0.95, 3000)])
def test_a_leak_in_noise_is_found(likeness, bytes_per_second):
    assert all(growth(likeness, bytes_per_second))


def test_what_is_needed_at_first_is_no_leak():
    series = noise(1, 0.5) + 50e6 * np.minimum(SECONDS / 500, 1)
    assert not memory.slope(SECONDS, series).is_growth


def test_the_slope_is_that_of_the_line():
    found = memory.slope(SECONDS, 5e6 + 123.0 * SECONDS)
    assert found.value == pytest.approx(123) and found.low == pytest.approx(123) and found.is_growth


def test_too_few_samples():
    with pytest.raises(ValueError, match="63 samples"):
        memory.slope(range(63), range(63))


def test_a_process_can_be_looked_at():
    before = memory.descriptors(os.getpid())
    with open(os.devnull):
        assert memory.descriptors(os.getpid()) == before + 1
    with memory.Sampler(os.getpid, 0.001) as sampler:  # It opens files itself, in a thread.
        while len(sampler.times) < 3:
            pass
    assert min(sampler.memory) > 1e6 and len(sampler.files) == len(sampler.times)

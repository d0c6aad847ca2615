"""The table of precisions: rows that make sense, and that everybody who needs one gets."""
import numpy as np
import pytest

from bert_serving.server.config import ServerConfig
from bert_serving.server.precision import PRECISIONS


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_precision_is_an_option_with_sensible_numbers(name):
    precision = PRECISIONS[name]
    assert precision.name == name and precision.about
    assert ServerConfig(precision=name).precision == name
    assert 0.9 < precision.least_cosine < 1 and 0 < precision.tolerance < 1
    assert np.dtype(precision.answer_dtype) in (np.float32, np.float16)
    assert bool(precision.cpu_features) == bool(precision.without_features)


def test_the_default_comes_first():
    assert next(iter(PRECISIONS)) == ServerConfig().precision == "fp32"

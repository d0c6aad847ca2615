"""Where tokens are: rows of a table, rotary angles, buckets of distances; against the definitions, number by number."""
import math

import numpy as np
import pytest

from bert_serving.server.engine import positions
from bert_serving.server.engine.spec import (DisentangledPositions, EncoderSpec, RelativePositions, RotaryPositions,
                                             TablePositions)


def spec(found):
    return EncoderSpec(vocab_size=99, num_layers=4, positions=found)


@pytest.mark.parametrize("table, ids, rows", [
    (TablePositions(rows=64), [7, 1, 7, 7, 1], [0, 1, 2, 0, 1]),
    (TablePositions(rows=64, first=2), [7, 1, 7, 7, 1], [2, 3, 4, 2, 3]),
    (TablePositions(rows=64, first=2, pad_id=1), [7, 8, 7, 7, 9], [2, 3, 4, 2, 3]),
    # A padding token that somebody wrote has the row before the first, and is not counted.
    (TablePositions(rows=64, first=2, pad_id=1), [7, 1, 7, 1, 9], [2, 1, 3, 1, 2])])
def test_rows_of_a_table(table, ids, rows):
    found = positions.table_rows(spec(table), np.array(ids, np.int32), np.array([0, 1, 2, 0, 1], np.int32),
                                 np.array([0, 3, 5]))
    assert found.tolist() == rows and found.dtype == np.int32


def test_rotary_angles():
    cosine, sine = positions.rotary_table(10_000.0, 8, 5)
    for position in range(5):
        for pair in range(4):
            angle = position / 10_000 ** (2 * pair / 8)
            assert abs(cosine[position, pair] - math.cos(angle)) < 1e-6
            assert abs(sine[position, pair] - math.sin(angle)) < 1e-6


def test_thetas_are_each_there_once():
    assert positions.thetas(spec(RotaryPositions(thetas=(1e6, 1e4, 1e4, 1e6), max_length=9))) == [1e6, 1e4]
    assert positions.thetas(spec(TablePositions())) == []


def test_distances():
    assert positions.distances(3).tolist() == [[0, -1, -2], [1, 0, -1], [2, 1, 0]]


def bucket(distance):
    """MPNet's, as its description says."""
    absolute, offset = abs(distance), 16 if distance < 0 else 0
    if absolute < 8:
        return offset + absolute
    return offset + min(15, 8 + int(math.log(absolute / 8) / math.log(16) * 8))


def test_buckets():
    distances = [distance for distance in range(-300, 301) if abs(distance) not in (16, 32, 64, 128)]
    assert positions.buckets(RelativePositions(), np.array(distances)).tolist() == list(map(bucket, distances))


def test_a_distance_on_the_border_of_two_buckets_falls_where_float32_puts_it():
    """torch's: log(16 / 8) / log(16) * 8 is 2 in real numbers."""
    assert positions.buckets(RelativePositions(), np.array([16, 32, 64, 128])).tolist() == [10, 12, 14, 15]


def disentangled(distance, buckets=16, most=128):
    middle = buckets // 2
    if abs(distance) <= middle:
        row = distance
    else:
        grown = middle + math.ceil(math.log(abs(distance) / middle) / math.log((most - 1) / middle) * (middle - 1))
        row = int(math.copysign(grown, distance))
    return min(max(row + buckets, 0), 2 * buckets - 1)


def test_disentangled_rows():
    found = positions.disentangled_rows(DisentangledPositions(buckets=16, max_distance=128, max_length=512),
                                        np.arange(-400, 401))
    assert found.tolist() == [disentangled(distance) for distance in range(-400, 401)]
    assert found.min() == 0 and found.max() == 31


@pytest.mark.parametrize("length", [5, 9])
def test_disentangled_rows_of_a_model_with_few_positions(length):
    """Whose distances are all in buckets of their own."""
    found = positions.disentangled_rows(DisentangledPositions(buckets=16, max_distance=length, max_length=length),
                                        np.arange(1 - length, length))
    assert found.tolist() == list(range(17 - length, 16 + length))

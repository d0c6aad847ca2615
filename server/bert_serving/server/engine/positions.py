"""Where a token is in its sequence, as each kind of position wants it: rows of a table, angles, distances."""
from __future__ import annotations

import math

import numpy as np

from .spec import DisentangledPositions, EncoderSpec, RelativePositions, RotaryPositions, TablePositions


def table_rows(spec: EncoderSpec, input_ids: np.ndarray, position_ids: np.ndarray,
               cu_seqlens: np.ndarray) -> np.ndarray:
    """The rows of the position table that tokens read.

    Args:
        input_ids, position_ids: int32 [T], sequences end to end, positions counted from 0 in each.
        cu_seqlens: int [B + 1], where each sequence starts.
    Returns:
        int32 [T]
    """
    positions = spec.positions
    assert isinstance(positions, TablePositions)
    rows: np.ndarray = position_ids + np.int32(positions.first)
    if positions.pad_id is not None and (is_pad := input_ids == positions.pad_id).any():
        before = np.concatenate([[0], np.cumsum(is_pad)])
        starts = np.repeat(cu_seqlens[:-1], np.diff(cu_seqlens))
        rows -= (before[1:] - before[starts]).astype(np.int32)
        rows[is_pad] = positions.first - 1
    return rows


def inverse_frequencies(theta: float, head_size: int) -> np.ndarray:
    """float32 [D / 2], what a position is multiplied with to give the angles of :class:`RotaryPositions`."""
    exponents = (np.arange(0, head_size, 2) / np.float32(head_size)).astype(np.float32)
    # Rounded where the reference rounds: a power of float32, then one divided by that.
    powers = (float(theta) ** exponents.astype(np.float64)).astype(np.float32)
    result: np.ndarray = np.float32(1) / powers
    return result


def thetas(spec: EncoderSpec) -> list[float]:
    """The distinct bases of the angles, in the order of the layers that use them first; none without rotary ones."""
    return list(dict.fromkeys(spec.positions.thetas)) if isinstance(spec.positions, RotaryPositions) else []


def rotary_table(theta: float, head_size: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of each position's angles, float32 [length, D / 2] each."""
    angles = np.arange(length, dtype=np.float32)[:, None] * inverse_frequencies(theta, head_size)
    return np.cos(angles), np.sin(angles)


def distances(width: int) -> np.ndarray:
    """int32 [C, C], position of the query (row) less position of the key (column)."""
    token = np.arange(width, dtype=np.int32)
    return token[:, None] - token


def buckets(positions: RelativePositions, distance: np.ndarray) -> np.ndarray:
    """int32, of distance's shape: the row of the table of biases for query - key.

    Half of the buckets are for keys on the right; of each half, one half is exact, the others grow with the logarithm.
    """
    half = positions.buckets // 2
    exact = half // 2
    absolute = np.abs(distance)
    # In float32, as the reference: a distance on the border of two buckets falls where it falls there.
    large = np.log(np.maximum(absolute, 1).astype(np.float32) / np.float32(exact)) \
        / np.float32(math.log(positions.max_distance / exact)) * np.float32(half - exact)
    grown = np.minimum(exact + large.astype(np.int64), half - 1)
    result: np.ndarray = np.where(absolute < exact, absolute, grown) + np.where(distance < 0, half, 0)
    return result.astype(np.int32)


def disentangled_rows(positions: DisentangledPositions, distance: np.ndarray) -> np.ndarray:
    """int32, of distance's shape: the row of the table of relative positions for query - key."""
    middle = positions.buckets // 2
    absolute = np.maximum(np.abs(distance), middle).astype(np.float32)
    # Where max_distance is no larger, all distances are exact.
    farthest = max(positions.max_distance - 1, middle + 1)
    grown = np.ceil(np.log(absolute / np.float32(middle))
                    / np.log(np.float32(farthest / middle)) * np.float32(middle - 1)) + middle
    bucket = np.where(np.abs(distance) <= middle, distance, grown * np.sign(distance))
    return np.clip(bucket + positions.buckets, 0, 2 * positions.buckets - 1).astype(np.int32)

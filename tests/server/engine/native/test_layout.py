"""How weights are laid out: against loops that do it number by number, and what rounding costs."""
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.engine.native import layout
from bert_serving.server.engine.native.layout import (KINDS, bfloat16, byte_scale, heads_filled, lay_out, matrix,
                                                      padded, panels, sizes, tables, filled, word_scale)
from bert_serving.server.engine.spec import ACTIVATIONS, Attention, EncoderSpec, Mlp, Placement

from .reference import random_arrays, random_spec

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def as_floats(halves):
    return (np.asarray(halves).astype(np.uint32) << 16).view(np.float32)


# ---- numbers ---------------------------------------------------------------------------------------------------------

@given(floats | st.builds(lambda upper, lower: float(np.array([upper << 16 | lower], np.uint32).view(np.float32)[0]),
                          st.integers(0, 0x7f7f) | st.integers(0x8000, 0xff7f), st.sampled_from([0x8000, 0x7fff, 1])))
def test_bfloat16_is_the_nearest_with_ties_to_even(value):
    value = np.float32(value)
    found = int(bfloat16(np.array([value]))[0])
    # Both neighbours, by cutting bits off and by one more of them; in float64, where the second may be beyond float32.
    below = int(np.array([value]).view(np.uint32)[0]) >> 16
    sign = -1 if below & 0x8000 else 1

    def number(half):
        if half & 0x7fff == 0x7f80:
            return sign * 2.0 ** 128
        return float(as_floats([half])[0])

    distances = [abs(number(half) - float(value)) for half in (below, below + 1)]
    expected = below if distances[0] < distances[1] or distances[0] == distances[1] and below % 2 == 0 else below + 1
    assert found == expected


@pytest.mark.parametrize("rows", [1, 64, 384, 385, 512, 768, 769, 3072, 65536])
def test_sums_of_words_fit_32_bits(rows):
    most = layout.largest_word(rows)
    assert rows * most ** 2 < 2 ** 31 and most <= 2 ** 15 - 1
    assert most >= 0.7 * min(2047, (2 ** 31 / rows) ** 0.5), "bits are left unused"


@pytest.mark.parametrize("rows", [64, 500, 1024])
def test_a_column_of_words_is_exact_to_half_a_step(rows):
    kernel = np.random.default_rng(0).normal(0, 1, (rows, 7)).astype(np.float32) * np.float32([1e-30, 1, 9, 0, 1, 1, 1])
    scale = word_scale(kernel)
    whole = np.rint(kernel / scale)
    assert np.abs(whole).max() == layout.largest_word(rows)
    assert (np.abs(whole * scale - kernel) <= 0.5001 * scale).all() and scale.dtype == np.float32


def test_a_column_of_bytes_has_the_range_of_least_error():
    random = np.random.default_rng(0)
    kernel = random.normal(0, 1, (1 << 15, 8)).astype(np.float32)
    kernel[3, 0] = 5.5                                 # Which a smaller range than its own cuts off at a profit.
    kernel[:, 1] = np.tile([127, -127, 64, 1], 1 << 13)  # And this column is exact at its own.
    kernel[:, 2] = 0
    scale = byte_scale(kernel)

    def error(scale):
        return (((np.clip(np.rint(kernel / scale), -127, 127) * scale - kernel) ** 2).sum(0))

    whole = np.maximum(np.abs(kernel).max(0), np.float32(1e-20)) / np.float32(127)
    assert (error(scale) <= error(whole) * 1.0001).all() and scale[1] == pytest.approx(1)
    assert error(scale)[0] < 0.95 * error(whole)[0]
    assert (0.749 * whole <= scale).all() and (scale <= 1.001 * whole).all()
    signal = (kernel ** 2).sum(0)[3:]
    assert (error(scale)[3:] < 3e-4 * signal).all(), "8 bits of a normal distribution"


# ---- panels ----------------------------------------------------------------------------------------------------------

def slow_panels(kernel, per_line):
    """In the words of server/native/layout.h: panel by panel; in it step by step, four bytes of each of 32 columns."""
    step, flat = per_line // 16, []
    for panel in range(kernel.shape[1] // 32):
        for start in range(0, kernel.shape[0], step):
            for column in range(32):
                flat += [kernel[start + i, 32 * panel + column] for i in range(step)]
    return np.array(flat, kernel.dtype)


@pytest.mark.parametrize("kind, dtype", [("fp32", np.float32), ("bf16", np.uint16), ("int16", np.int16),
                                         ("int8", np.int8)])
@pytest.mark.parametrize("rows, columns", [(64, 32), (128, 96), (192, 64)])
def test_panels(kind, dtype, rows, columns):
    kernel = np.random.default_rng(0).integers(-127, 127, (rows, columns)).astype(dtype)
    found = panels(kernel, KINDS[kind])
    assert found.dtype == dtype and found.flags.c_contiguous
    assert np.array_equal(found.ravel(), slow_panels(kernel, KINDS[kind].per_line))


@pytest.mark.parametrize("kind, bits", [("split", 16), ("strict", 24)])
def test_parts_add_up(kind, bits):
    """Each 16 steps of a panel are followed by those of the remainders."""
    random = np.random.default_rng(0)
    kernel = (random.normal(0, 1, (128, 64)) * 10.0 ** random.integers(-6, 6, (128, 64))).astype(np.float32)
    parts = KINDS[kind].parts
    found = panels(kernel, KINDS[kind]).reshape(2, 4, parts, 16 * 32 * 2)       # panels, lines, parts, numbers
    together = as_floats(found).astype(np.float64).sum(axis=2).ravel()
    expected = slow_panels(kernel, 32).astype(np.float64)
    assert (np.abs(together - expected) <= 2.0 ** -bits * np.abs(expected)).all()
    assert np.array_equal(as_floats(found[:, :, 0]).ravel(), as_floats(bfloat16(slow_panels(kernel, 32))))


# ---- products --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [None, 128])
def test_a_product_has_what_its_kind_needs(kind, block):
    random = np.random.default_rng(0)
    kernel, bias = random.normal(0, 1, (192, 64)).astype(np.float32), np.arange(64, dtype=np.float32)
    found = dict(matrix(kernel, bias, KINDS[kind], block))
    blocks = 2 if block else 1
    expected = {"panels", "bias"} | ({"scale"} if kind in ("int16", "int8") else set())
    assert set(found) == expected | ({"sums"} if kind == "int8" else set())
    assert found["panels"].nbytes == 192 * 64 * {"fp32": 4, "bf16": 2, "int16": 2, "int8": 1, "split": 4,
                                                 "strict": 6}[kind]
    if "scale" in found:
        assert found["scale"].shape == (blocks, 64) and found["scale"].dtype == np.float32
        whole = found["panels"].reshape(2, -1, 32, KINDS[kind].per_line // 16).transpose(1, 3, 0, 2).reshape(192, 64)
        per_row = np.repeat(found["scale"], [128, 64] if block else [192], axis=0)
        assert np.abs(whole * per_row - kernel).max() < (1 if kind == "int8" else 2e-3)
        if kind == "int8":
            cuts = [0, 128, 192] if block else [0, 192]
            sums = [(whole[a:b].astype(float) * per_row[a:b]).sum(0) for a, b in zip(cuts, cuts[1:])]
            assert np.allclose(found["sums"], sums, rtol=1e-5, atol=1e-5)


def test_what_inputs_are_multiplied_with_weights_are_divided_by():
    kernel = np.random.default_rng(0).normal(0, 1, (64, 32)).astype(np.float32)
    shares = np.linspace(0.5, 2, 64).astype(np.float32)
    found = dict(matrix(kernel, None, KINDS["fp32"], None, shares))
    assert np.array_equal(found["shares"], shares) and "bias" not in found
    assert np.array_equal(found["panels"].ravel(), slow_panels(kernel / shares[:, None], 16))


# ---- padding ---------------------------------------------------------------------------------------------------------

@given(st.integers(0, 10 ** 6), st.integers(1, 4096))
def test_padded(size, to):
    assert padded(size, to) % to == 0 and 0 <= padded(size, to) - size < to


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 4), st.sampled_from([0, -1]))
def test_heads_are_filled_each_by_itself(heads, head, extra, axis):
    array = np.random.default_rng(0).normal(size=(heads * head, 3) if axis == 0 else (3, heads * head))
    found = heads_filled(array, heads, head + extra, axis)
    for number in range(heads):
        theirs = np.take(found, range(number * (head + extra), (number + 1) * (head + extra)), axis)
        ours = np.take(array, range(number * head, (number + 1) * head), axis)
        assert np.array_equal(np.take(theirs, range(head), axis), ours)
        assert not np.take(theirs, range(head, head + extra), axis).any()


def test_filled_adds_zeros_at_the_end():
    array = np.ones((2, 3), np.float32)
    assert filled(array, 3) is array
    assert filled(array, 5).tolist() == [[1, 1, 1, 0, 0]] * 2
    assert filled(array, 3, 0).tolist() == [[1, 1, 1]] * 2 + [[0, 0, 0]]


@given(st.integers(1, 3000), st.integers(1, 300), st.integers(1, 12), st.integers(1, 100))
def test_sizes_are_padded(inner, hidden, heads, head_size):
    spec = EncoderSpec(vocab_size=9, hidden_size=hidden, attention=Attention(heads=heads, head_size=head_size),
                       mlp=Mlp(size=inner))
    size = sizes(spec)
    assert (size.width % 64, size.head % 32, size.queries % 64, size.inner % 64, size.inner_block % 64) == (0,) * 5
    assert 0 <= size.width - hidden < 64 and 0 <= size.head - head_size < 32 and 0 <= size.inner - inner < 64
    assert size.queries >= heads * size.head and 64 <= size.inner_block <= max(layout.INNER, 64)
    blocks = -(-size.inner // size.inner_block)
    assert blocks == -(-size.inner // layout.INNER) or size.inner_block < layout.INNER


# ---- an encoder ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_all_that_is_laid_out_is_padded(kind, seed):
    random = np.random.default_rng(seed)
    spec = random_spec(random)
    size, arrays = sizes(spec), random_arrays(random, spec)
    found = dict(lay_out(spec, arrays.__getitem__, KINDS[kind], spec.num_layers - 1))
    bytes_of = {"fp32": 4, "bf16": 2, "int16": 2, "int8": 1, "split": 4, "strict": 6}[kind]
    columns = (spec.attention.heads + 2 * spec.key_value_heads) * size.head
    shapes = {"qkv": (size.width, columns), "output": (size.queries, size.width), "up": (size.width, size.inner),
              "gate": (size.width, size.inner), "down": (size.inner, size.width)}
    layers = {f"layers/{spec.weights_of(number)}" for number in range(spec.num_layers)}
    for layer in layers:
        for product, (rows, width) in shapes.items():
            if product == "gate" and not spec.mlp.gated:
                assert f"{layer}/gate/panels" not in found
                continue
            assert found[f"{layer}/{product}/panels"].nbytes == rows * width * bytes_of
            if f"{layer}/{product}/bias" in found:
                assert found[f"{layer}/{product}/bias"].shape == (width,)
        assert found[f"{layer}/mlp_norm/gamma"].shape == (size.width,)
        assert not found[f"{layer}/mlp_norm/gamma"][spec.hidden_size:].any()
        assert (f"{layer}/mlp_output_norm/gamma" in found) == (spec.norm.placement is Placement.AROUND)
        assert (f"{layer}/query_norm/gamma" in found) == spec.attention.qk_norm
        assert (f"{layer}/qkv/bias" in found) == spec.attention.bias
    assert ("projection/panels" in found) == spec.projects
    assert not set(tables(spec)) & set(found) and set(tables(spec)) <= set(arrays)


def test_only_layers_that_are_computed_are_laid_out():
    random = np.random.default_rng(0)
    spec = EncoderSpec(vocab_size=9, hidden_size=24, num_layers=3, attention=Attention(heads=2), mlp=Mlp(size=30))
    arrays = random_arrays(random, spec)
    assert {name.split("/")[1] for name in dict(lay_out(spec, arrays.__getitem__, KINDS["fp32"], 1))
            if name.startswith("layers")} == {"0", "1"}
    shared = replace(spec, layer_weights=("0", "0", "0"))
    names = [name for name, _ in lay_out(shared, arrays.__getitem__, KINDS["fp32"], 2)]
    assert len(names) == len(set(names)) and not any(name.startswith("layers/1") for name in names)


def test_every_activation_and_placement_has_a_number():
    assert set(layout.ACTIVATIONS) == set(ACTIVATIONS) and set(layout.PLACEMENTS) == set(Placement)
    for table in (layout.ACTIVATIONS, layout.PLACEMENTS):
        assert sorted(table.values()) == list(range(len(table)))

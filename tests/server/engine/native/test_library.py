"""Every build that can run here: against NumPy in float64, in any company to the same bits, and wrongly called."""
import ctypes
import os
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

from bert_serving.server.engine import positions
from bert_serving.server.engine.native import library
from bert_serving.server.engine.native.layout import KINDS
from bert_serving.server.engine.native.library import BUILDS, FIRST, MEAN, TOKENS, Library
from bert_serving.server.engine.spec import (ACTIVATIONS, POSITIONS, TOKEN_TYPES, WORDS, Attention, Departure,
                                             DisentangledPositions, Embeddings, EncoderSpec, Mlp, Placement,
                                             RelativePositions, RotaryPositions, TablePositions)
from bert_serving.server.errors import EngineError

from .conftest import COMPUTING, encoder, laid_out, load, starts_of, why_not
from .reference import VOCAB, layers, random_arrays, random_sequences, random_spec

ALL = bool(os.environ.get("BERT_SERVING_TEST_ALL"))
SLOW = ("plain", "tiles")
"""Builds without the processor's instructions: a tenth of the speed and less."""

LENGTHS = [1, 2, 40, 13, 21, 33]
SPECS = range(150 if ALL else 20)
SPECS_OF_TILES = range(150 if ALL else 4)


# ---- which builds there are ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("build", BUILDS)
def test_a_build_runs_here(build):
    """What is skipped here was not tested on this machine."""
    loaded = load(build)
    assert loaded.instructions and {kind for kind in KINDS if loaded.computes(KINDS[kind])} == {
        kind for name, kind in COMPUTING if name == build}
    assert set(BUILDS[build].precisions.values()) <= {kind for name, kind in COMPUTING if name == build}


def test_the_builds_for_every_processor_are_tested_on_every_processor():
    for build in SLOW:
        assert why_not(build) in (None, f"libnative_{build}.so was not compiled")


# ---- against NumPy ---------------------------------------------------------------------------------------------------

@cache
def case(seed):
    """A spec, its variables, sequences with all that goes with them, and what each layer is of them."""
    random = np.random.default_rng(seed)
    spec = random_spec(random)
    arrays, sequences = random_arrays(random, spec), random_sequences(random, LENGTHS)
    ids, starts = np.concatenate(sequences), starts_of(sequences)
    rows = spec.embeddings.token_types
    types = random.integers(0, rows, len(ids), np.int32) if rows and seed % 4 else None
    seen = (random.random(len(ids)) < 0.7).astype(np.uint8) if seed % 3 == 0 else None
    if seen is not None:
        seen[starts[2]:starts[3]] = 0                  # A sequence of which nothing is seen.
    has_positions = seed % 5 != 1
    expected = [np.concatenate(layers(spec, arrays, *(None if array is None else array[start:end]
                                                      for array in (ids, types, seen)), has_positions), axis=1)
                for start, end in zip(starts, starts[1:])]
    return spec, arrays, (ids, types, starts, seen), has_positions, expected


def test_the_cases_have_all_that_there_is():
    specs = [case(seed)[0] for seed in SPECS]
    computed = set().union(*(spec.departures for spec in specs))
    assert computed == set(Departure)
    assert {spec.mlp.activation for spec in specs} == set(ACTIVATIONS)
    assert {type(spec.positions) for spec in specs} == {TablePositions, RelativePositions, RotaryPositions,
                                                        DisentangledPositions}
    assert any(getattr(spec.positions, "pad_id", None) is not None for spec in specs)
    assert {spec.norm.placement for spec in specs} == set(Placement)


def difference(found, expected):
    """The largest, as a share of a value that is above 1."""
    return float((np.abs(found - expected) / np.maximum(1, np.abs(expected))).max())


def least_cosine(found, expected, size):
    found, expected = found.reshape(-1, size).astype(float), expected.reshape(-1, size)
    return float(((found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)).min())


LARGEST = {"fp32": 2e-5, "strict": 2e-5, "split": 5e-4}
LEAST_COSINE = {"bf16": 0.999, "int16": 0.9999, "int8": 0.99}


def test_every_layer_of_random_encoders(computing):
    build, kind = computing
    failures = {}
    for seed in SPECS_OF_TILES if build == "tiles" else SPECS:
        spec, arrays, given, has_positions, expected = case(seed)
        running = encoder(build, kind, spec, laid_out(spec, arrays, kind), position_embeddings=has_positions)
        found, together = running.encode(*given[:3], TOKENS, given[3]), np.concatenate(expected)
        if kind in LARGEST and not difference(found, together) < LARGEST[kind]:
            failures[seed] = difference(found, together)
        elif kind in LEAST_COSINE and not least_cosine(found, together, spec.hidden_size) > LEAST_COSINE[kind]:
            failures[seed] = least_cosine(found, together, spec.hidden_size)
    assert not failures


def test_pooling(computing):
    """Of what it gives for tokens: the first, or the mean of all, or of those that are pooled."""
    spec, mapped = form("plain", computing[1])
    sequences = random_sequences(np.random.default_rng(0), [5, 1, 2, 20, 3])
    ids, starts = np.concatenate(sequences), starts_of(sequences)
    encode = partial(encoder(*computing, spec, mapped).encode, ids, None, starts, seen=(ids % 3 > 0).astype(np.uint8))
    tokens, every = encode(TOKENS), np.ones(len(ids), np.uint8)
    assert np.array_equal(encode(FIRST), tokens[starts[:-1]])
    pooled = (ids % 2).astype(np.uint8)
    pooled[starts[1]:starts[2]] = 0                    # A mean of nothing is 0.
    for weights in (every, pooled):
        expected = [(tokens[start:end].astype(float) * weights[start:end, None]).sum(0)
                    / (weights[start:end].sum() + 1e-10) for start, end in zip(starts, starts[1:])]
        assert difference(encode(MEAN, pooled=weights), np.array(expected)) < 2e-6
    assert np.array_equal(encode(MEAN), encode(MEAN, pooled=every))


@pytest.mark.parametrize("outputs", [[0], [2, 0], [1, 1], [2, 1, 0]])
def test_layers_come_in_the_order_wanted(build, outputs):
    kind = next(kind for name, kind in COMPUTING if name == build)
    spec = EncoderSpec(vocab_size=VOCAB, hidden_size=30, num_layers=3, attention=Attention(heads=3), mlp=Mlp(size=44))
    random = np.random.default_rng(0)
    mapped, (ids, *_) = laid_out(spec, random_arrays(random, spec), kind), random_sequences(random, [9])
    given = (ids, None, np.array([0, 9], np.int32), TOKENS)
    every = encoder(build, kind, spec, mapped).encode(*given).reshape(9, 3, 30)
    found = encoder(build, kind, spec, mapped, outputs).encode(*given).reshape(9, len(outputs), 30)
    assert np.array_equal(found, every[:, outputs])


def test_one_layer_twice(build):
    kind = next(kind for name, kind in COMPUTING if name == build)
    spec = EncoderSpec(vocab_size=VOCAB, hidden_size=30, num_layers=1, attention=Attention(heads=3), mlp=Mlp(size=44))
    encoder(build, kind, spec, laid_out(spec, random_arrays(np.random.default_rng(0), spec), kind), [0, 0])


def test_inputs_that_are_shared_out_give_the_same(computing):
    spec, arrays, given, has_positions, expected = case(0)
    random = np.random.default_rng(0)
    width = -(-spec.hidden_size // 64) * 64
    shares = {f"layers/{spec.weights_of(number)}/{product}": np.exp(random.normal(0, 0.3, width)).astype(np.float32)
              for number in range(spec.num_layers) for product in ("qkv", "up")}
    shares |= {name.replace("/up", "/gate"): array for name, array in shares.items() if name.endswith("/up")}
    build, kind = computing
    running = encoder(build, kind, spec, laid_out(spec, arrays, kind, shares), position_embeddings=has_positions)
    found, together = running.encode(*given[:3], TOKENS, given[3]), np.concatenate(expected)
    if kind in LARGEST:
        assert difference(found, together) < LARGEST[kind]
    else:
        assert least_cosine(found, together, spec.hidden_size) > LEAST_COSINE[kind]


def test_the_largest_inputs_are_found():
    """Of the products that read what a norm before them gives: here of the first layer, as NumPy has it."""
    spec = EncoderSpec(vocab_size=VOCAB, hidden_size=30, num_layers=2, attention=Attention(heads=3), mlp=Mlp(size=44))
    random = np.random.default_rng(0)
    arrays, sequences = random_arrays(random, spec), random_sequences(random, [9, 30])
    largest = np.zeros((2, 2, 64), np.float32)
    encoder("plain", "fp32", spec, laid_out(spec, arrays, "fp32")).encode(
        np.concatenate(sequences), None, starts_of(sequences), MEAN, largest=largest)
    embedded = [layers(replace(spec, norm=replace(spec.norm)), arrays, ids)[0] for ids in sequences]
    assert np.abs(largest[1, 0, :30] - np.abs(np.concatenate(embedded)).max(0)).max() < 1e-5
    assert not largest[:, :, 30:].any() and largest[:, :, :30].all()
    before = largest.copy()
    encoder("plain", "fp32", spec, laid_out(spec, arrays, "fp32")).encode(
        sequences[0], None, starts_of(sequences[:1]), MEAN, largest=largest)
    assert np.array_equal(largest, before), "they only grow"


# ---- in any company --------------------------------------------------------------------------------------------------

ROUNDS = 4 if ALL else 2
BATCHES = 300 if ALL else 17
BATCHES_OF_SLOW = 30 if ALL else 4
"""Of a round, and so for a build and a kind; on a processor with AVX-512 some 300 together, or 10,000."""


def test_a_vector_depends_on_its_sequence_alone(computing):
    """Not a bit on others in the batch, their order, or the number of threads; all lengths occur."""
    build, kind = computing
    is_slow, batches = build in SLOW, BATCHES_OF_SLOW if build in SLOW else BATCHES
    random = np.random.default_rng(len(build) + len(kind))
    for round in range(ROUNDS):
        spec = random_spec(random, largest=0.15 if is_slow else 1.0)
        mapped = laid_out(spec, random_arrays(random, spec), kind)
        running = [encoder(build, kind, spec, mapped, threads=threads) for threads in (1, 2, 3)]
        sequences = random_sequences(random, range(1, 41))
        types = [random.integers(0, spec.embeddings.token_types, len(ids), np.int32) if spec.embeddings.token_types
                 else None for ids in sequences]
        seen = [(random.random(len(ids)) < 0.8).astype(np.uint8) for ids in sequences]

        def encode(which, numbers, pooling):
            ids, kinds, sees = ([part[n] for n in numbers] for part in (sequences, types, seen))
            return running[which].encode(np.concatenate(ids), np.concatenate(kinds) if kinds[0] is not None else None,
                                         starts_of(ids), pooling, np.concatenate(sees))

        alone = cache(lambda n, pooling: encode(0, [n], pooling))
        for number in range(batches):
            numbers = random.integers(0, 40, random.integers(1, 7 if is_slow else 30))
            if not number:
                numbers = random.permutation(40)
            pooling, which = (TOKENS, MEAN, FIRST)[number % 3], int(random.integers(0, 3))
            expected = np.concatenate([alone(n, pooling) for n in numbers])
            assert np.isfinite(expected).all()
            assert np.array_equal(encode(which, numbers, pooling), expected), (round, spec, numbers, pooling, which)


def test_threads_share_long_sequences(computing):
    """One that is alone, and one that is larger than a chunk, are computed by all threads together."""
    build, kind = computing
    spec = EncoderSpec(vocab_size=VOCAB, hidden_size=60, num_layers=1, positions=TablePositions(rows=170),
                       attention=Attention(heads=3, key_value_heads=1, head_size=20), mlp=Mlp(size=60))
    random = np.random.default_rng(0)
    mapped, sequences = laid_out(spec, random_arrays(random, spec), kind), random_sequences(random, [170, 1, 110, 7])
    running = [encoder(build, kind, spec, mapped, threads=threads, max_length=170) for threads in (1, 2, 3, 7)]
    given = np.concatenate(sequences), None, starts_of(sequences), TOKENS
    expected = running[0].encode(*given)
    for other in running[1:]:
        assert np.array_equal(other.encode(*given), expected)
        assert np.array_equal(other.encode(sequences[0], None, np.array([0, 170], np.int32), TOKENS), expected[:170])


# ---- what is not finite ----------------------------------------------------------------------------------------------

PLAIN = EncoderSpec(vocab_size=VOCAB, hidden_size=60, num_layers=2, positions=TablePositions(rows=40),
                    attention=Attention(heads=3), mlp=Mlp(size=90))
MIXED = [3, 16, 2, 12, 9]
QUIET = 0x7fc00000
"""The bits of the usual NaN."""


@pytest.fixture
def five(computing):
    """``encode(**changes)`` of five sequences, of which only the second has the word 7, with arrays as changed."""
    random = np.random.default_rng(0)
    arrays, sequences = random_arrays(random, PLAIN), random_sequences(random, MIXED)
    for ids in sequences:
        ids[ids == 7] = 8
    sequences[1][5] = 7
    ids, starts = np.concatenate(sequences), starts_of(sequences)
    types = np.zeros(len(ids), np.int32)
    types[starts[2]:starts[3]] = 1
    mapped = laid_out(PLAIN, arrays, computing[1])

    def encode(name=None, place=0, bits=QUIET, threads=1, count=5):
        changed = dict(mapped)
        if name:
            array = mapped[name].copy()
            if array.dtype == np.uint16:
                array.ravel()[place] = bits >> 16
            else:
                array.view(np.uint32)[place] = bits
            changed[name] = array
        tokens = starts[count]
        return encoder(*computing, PLAIN, changed, threads=threads).encode(ids[:tokens], types[:tokens],
                                                                           starts[:count + 1], MEAN)

    encode.mapped = mapped
    return encode


@pytest.mark.parametrize("name, place, affected", [(WORDS, (7, 3), [1]), (TOKEN_TYPES, (1, 59), [2]),
                                                   (POSITIONS, (10, 0), [1, 3])])
def test_what_is_not_finite_stays_in_its_sequence(five, name, place, affected):
    """NaN in all its forms, and infinity."""
    clean, others = five(), [n for n in range(len(MIXED)) if n not in affected]
    for bits in (QUIET, 0xffc00000, 0x7f800001, 0x7fffffff, 0x7f800000, 0xff800000):
        found = five(name, place, bits, threads=1 + bits % 2)
        assert np.array_equal(found[others], clean[others]), hex(bits)
        assert np.isnan(found[affected]).all(), hex(bits)


def test_a_weight_that_is_not_a_number_shows_in_every_vector(five):
    for name, array in five.mapped.items():
        if array.dtype in (np.float32, np.uint16) and name not in (WORDS, TOKEN_TYPES, POSITIONS):
            flat = 0 if array.dtype == np.uint16 else (0,) * array.ndim
            assert np.isnan(five(name, flat, count=1)).any(axis=1).all(), name


def test_a_score_that_is_not_a_number_shows_whatever_its_bits_are(five):
    for bits in (0x7fc00001, 0x7fc00080):
        assert np.isnan(five("layers/0/qkv/bias", (0,), bits, count=1)).all(), hex(bits)


def test_numbers_too_small_for_their_usual_form(computing):
    """They count as such, or as 0, and a caller's own computation goes on having them."""
    (build, kind), value = computing, 1e-40
    arrays = random_arrays(np.random.default_rng(0), PLAIN)
    arrays = {name: array.copy() for name, array in arrays.items()}
    arrays[WORDS][7], arrays[TOKEN_TYPES][0], arrays[POSITIONS][:] = value, value, 0
    arrays["layers/0/attention/query/kernel"][:] = value
    arrays["layers/1/mlp/up/bias"][:] = value
    ids, starts = np.array([7, 7, 3, 7], np.int32), np.array([0, 2, 4], np.int32)
    for threads in (1, 2):
        running = encoder(build, kind, PLAIN, laid_out(PLAIN, arrays, kind), threads=threads)
        found = running.encode(ids, None, starts, TOKENS)
        together = np.concatenate([np.concatenate(layers(PLAIN, arrays, part), axis=1) for part in (ids[:2], ids[2:])])
        if kind in LARGEST:
            assert difference(found, together) < LARGEST[kind]
        else:
            assert least_cosine(found, together, PLAIN.hidden_size) > LEAST_COSINE[kind]
        half = np.float32(1e-38) * np.array([0.5], np.float32)
        assert half[0] != 0, "the library leaves the processor as it found it"


# ---- wrong arguments -------------------------------------------------------------------------------------------------

FORMS = {
    "plain": PLAIN,
    "rotary": replace(PLAIN, positions=RotaryPositions(thetas=(1e4, 1e3), max_length=40), embeddings=Embeddings(
        token_types=0, size=20), attention=Attention(heads=4, head_size=10, key_value_heads=2, qk_norm=True),
        norm=replace(PLAIN.norm, placement=Placement.AROUND, final=True), mlp=Mlp(size=90, gated=True)),
    "relative": replace(PLAIN, positions=RelativePositions(rows=42, first=2, pad_id=1)),
    "disentangled": replace(PLAIN, positions=DisentangledPositions(buckets=8, max_distance=16, max_length=40)),
}


@cache
def form(name, kind):
    spec = FORMS[name]
    return spec, laid_out(spec, random_arrays(np.random.default_rng(0), spec), kind)


def refused(computing, alter, message, which="plain", threads=1):
    spec, mapped = form(which, computing[1])
    with pytest.raises(EngineError, match=message) as error:
        encoder(*computing, spec, mapped, alter=alter, threads=threads)
    assert str(error.value).startswith("native: ") and "\n" not in str(error.value)


INT_MAX = 2 ** 31 - 1
NUMBERS = {
    "size": ([0, -1, 8, INT_MAX], "the spec has .* bytes"), "kind": ([-1, 6, 99], "kind .* is not computed by"),
    "vocab": ([0, -1, 49, 51, INT_MAX], "vocab|words has"),
    "embedding": ([0, -1, 59, 61, 1 << 17], "embedding|has .* bytes"),
    "token_types": ([-1, 0, 1, 3, INT_MAX], "types"), "position_rows": ([-1, 0, 39, 41, INT_MAX], "position"),
    "first_position": ([-1, 1, INT_MAX], "first_position|positions has 40 rows"),
    "pad_id": ([0, 3], "pad_id is given"), "hidden": ([0, -1, 61, INT_MAX], "hidden|embeddings of|bytes"),
    "layers": ([0, -1, 1, INT_MAX], "layers|outputs|num_outputs"),
    "heads": ([0, -1, 2, 4, INT_MAX], "heads|has .* bytes"), "key_value_heads": ([0, -1, 2, 4], "heads|bytes"),
    "head_size": ([0, -1, 33, INT_MAX], "head_size|has .* bytes"),
    "inner": ([0, -1, 64, 65, 192, INT_MAX], "inner|has .* bytes"),
    "inner_block": ([0, -1, 32, 65, 192], "inner_block|inner"), "placement": ([-1, 3], "placement is"),
    "activation": ([-1, 6, INT_MAX], "activation is"), "max_length": ([0, -1, 41, INT_MAX], "max_length|positions has"),
    "num_outputs": ([0, -1, 1, 3], "num_outputs|outputs has"), "num_angles": ([-1, 1, 65], "num_angles|cosines"),
    "table_rows": ([-1, 8, INT_MAX], "table_rows|places is missing"),
    "eps": ([-1.0, 1.0, float("nan"), float("inf")], "eps is"),
    "embedding_scale": ([float("nan"), float("inf")], "embedding_scale is not finite"),
}


def test_a_wrong_number_is_refused(computing):
    for field, (values, message) in NUMBERS.items():
        for value in values:
            refused(computing, lambda spec: setattr(spec, field, value), message)


def test_every_number_is_tried():
    numbers = {name for name, kind in library.Spec._fields_ if kind in (ctypes.c_int32, ctypes.c_float)}
    assert numbers == set(NUMBERS) | {"rms", "causal"}, "all values of the two that are not tried are allowed"


def test_kinds_of_other_builds_are_refused(computing):
    build, kind = computing
    for other in {*KINDS} - {kind for name, kind in COMPUTING if name == build}:
        refused(computing, lambda spec: setattr(spec, "kind", KINDS[other].number), "is not computed by")
    # One that the build has, but the arrays do not.
    other = next(name for at, name in COMPUTING if at == build and name != kind)
    if {kind, other} != {"bf16", "int16"}:
        refused(computing, lambda spec: setattr(spec, "kind", KINDS[other].number), "panels|scale|sums|bytes|missing")


def test_numbers_of_threads_that_make_no_sense(computing):
    for threads in (0, -1, 1025, INT_MAX):
        refused(computing, lambda spec: None, f"{threads} threads", threads=threads)


def arrays_in(structure, path=()):
    """Paths to all arrays of a structure that are there."""
    for name, kind in structure._fields_:
        if kind is library.Array and getattr(structure, name).data:
            yield (*path, name)
        elif kind in (library.Matrix, library.Norm):
            yield from arrays_in(getattr(structure, name), (*path, name))


def reached(spec, path):
    for name in path:
        spec = spec[name] if isinstance(name, int) else getattr(spec, name)
    return spec


@pytest.mark.parametrize("which", FORMS)
def test_arrays_of_another_size_are_refused(computing, which):
    spec, mapped = form(which, computing[1])
    paths = []
    encoder(*computing, spec, mapped, alter=lambda given: paths.extend(
        [*arrays_in(given), *(("layer", number, *path) for number in range(spec.num_layers)
                              for path in arrays_in(given.layer[number]))]))
    assert len(paths) >= 30

    def change(path, bytes, offset=0):
        def alter(given):
            array = reached(given, path)
            array.bytes = array.bytes + bytes
            array.data = array.data + offset
        return alter

    for path in paths:
        for bytes in (-4, 4, 1, -10 ** 6):
            refused(computing, change(path, bytes), "has -?[0-9]+ bytes, expected [0-9]+", which)
        refused(computing, change(path, 0, 2), "does not begin at a multiple of 4 bytes", which)


MISSING = [("words",), ("types",), ("positions",), ("outputs",), ("layer", 1, "qkv", "panels"),
           ("layer", 0, "output", "panels"), ("layer", 1, "up", "panels"), ("layer", 0, "down", "panels"),
           ("layer", 1, "mlp_norm", "gamma"), ("layer", 0, "attention_norm", "gamma")]
BY_KIND = {"int8": [("layer", 0, "qkv", "scale"), ("layer", 1, "down", "sums")], "int16": [("layer", 0, "up", "scale")]}


def test_arrays_that_are_missing_are_named(computing):
    def drop(path):
        def alter(spec):
            reached(spec, path).data = None
        return alter

    for path in MISSING + BY_KIND.get(computing[1], []):
        refused(computing, drop(path), "is missing")
    refused(computing, drop(("cosines",)), "cosines is missing", "rotary")
    refused(computing, drop(("sines",)), "sines is missing", "rotary")
    refused(computing, drop(("projection", "panels")), "want a projection to 60", "rotary")
    refused(computing, drop(("layer", 0, "query_norm", "gamma")), "only one of query_norm and key_norm", "rotary")
    refused(computing, drop(("layer", 0, "mlp_output_norm", "gamma")), "mlp_output_norm is missing", "rotary")
    for path in (("places",), ("layer", 0, "table_keys"), ("layer", 1, "table_queries")):
        refused(computing, drop(path), f"{path[-1]} is missing", "disentangled")
    refused(computing, lambda spec: setattr(spec, "layer", ctypes.POINTER(library.Layer)()), "layer is missing")


def test_layers_and_angles_that_do_not_exist_are_refused(computing):
    for layer in (-1, 2, INT_MAX, -INT_MAX):
        wanted = np.array([0, layer], np.int32)
        refused(computing, lambda spec: setattr(spec.outputs, "data", wanted.ctypes.data),
                f"outputs names layer {layer} of 2")
    for angles in (2, INT_MAX):
        refused(computing, lambda spec: setattr(spec.layer[0], "angles", angles), f"angles {angles} of 2", "rotary")


@pytest.mark.parametrize("change", [{0: -1}, {78: 16}, {40: 3}, {0: INT_MAX}, {5: 9}], ids=str)
def test_places_that_are_not_in_the_table_or_not_ascending_are_refused(computing, change):
    places = positions.disentangled_rows(FORMS["disentangled"].positions, np.arange(-39, 40))
    places[list(change)] = list(change.values())
    refused(computing, lambda spec: setattr(spec.places, "data", places.ctypes.data), "places are not ascending",
            "disentangled")


@pytest.mark.parametrize("buckets, farthest", [(32, 9), (32, 17), (4, 3), (64, 4000), (64, 34)])
def test_places_that_leap(computing, buckets, farthest):
    """Of a table of which a short sequence reads a few rows that are far from each other."""
    build, kind = computing
    spec = replace(PLAIN, num_layers=1, positions=DisentangledPositions(buckets=buckets, max_distance=farthest,
                                                                        max_length=40))
    random = np.random.default_rng(0)
    arrays, sequences = random_arrays(random, spec), random_sequences(random, [1, 2, 12, 35])
    running = encoder(build, kind, spec, laid_out(spec, arrays, kind))
    for ids in sequences:
        found = running.encode(ids, None, np.array([0, len(ids)], np.int32), TOKENS)
        expected = layers(spec, arrays, ids)[0]
        if kind in LARGEST:
            assert difference(found, expected) < LARGEST[kind]
        else:
            assert least_cosine(found, expected, spec.hidden_size) > LEAST_COSINE[kind]


def test_an_odd_head_cannot_turn(computing):
    refused(computing, lambda spec: setattr(spec, "head_size", 9), "head_size is 9, and angles want an even one",
            "rotary")


@pytest.mark.parametrize("window", [40, 2 ** 30, INT_MAX])
def test_a_window_wider_than_all_is_none(build, window):
    kind = next(kind for name, kind in COMPUTING if name == build)
    spec, mapped = form("plain", kind)
    ids = np.arange(40, dtype=np.int32)
    given = ids, None, np.array([0, 30, 40], np.int32), TOKENS
    expected = encoder(build, kind, spec, mapped).encode(*given)
    wide = replace(spec, attention=replace(spec.attention, windows=(window, None)))
    assert difference(encoder(build, kind, wide, mapped).encode(*given), expected) < 1e-5


WRONG_BATCHES = [
    ({"size": 0}, "the batch has"), ({"size": -1}, "the batch has"), ({"sequences": 0}, "a batch of 0 sequences"),
    ({"sequences": -1}, "a batch of"), ({"sequences": INT_MAX}, "a batch of"), ({"tokens": 0}, "a batch of"),
    ({"tokens": 9}, "starts go from 0 to 10"), ({"tokens": -1}, "a batch of"), ({"tokens": INT_MAX}, "a batch of"),
    ({"sequences": 1}, "starts go from 0 to 4, expected 0 to 10"), ({"pooling": -1}, "pooling is -1"),
    ({"pooling": 3}, "pooling is 3"), ({"ids": None}, "is missing"), ({"starts": None}, "is missing"),
    ({"out": None}, "is missing"), ({"starts": [1, 4, 7, 10]}, "starts go from 1"),
    ({"starts": [0, 4, 3, 10]}, "a sequence has -1 tokens"), ({"starts": [0, 4, 4, 10]}, "a sequence has 0 tokens"),
    ({"starts": [0, -5, 7, 10]}, "a sequence has -5 tokens"), ({"starts": [0, INT_MAX, 7, 10]}, "has 2147483647 tok"),
    ({"starts": [0, 11, 7, 10]}, "a sequence has -4 tokens"), ({"starts": [0, 4, 7, 11]}, "expected 0 to 10"),
    ({"ids": [0] * 9 + [-1]}, "token -1 is beyond 50"), ({"ids": [50] + [0] * 9}, "token 50 is beyond 50"),
    ({"ids": [INT_MAX] * 10}, "token 2147483647 is beyond"), ({"types": [0] * 9 + [2]}, "token type 2 is beyond 2"),
    ({"types": [-1] + [0] * 9}, "token type -1 is beyond 2"),
]


def batch_of(changes, kept):
    """A batch of three sequences, with some of its fields changed."""
    fields = {"ids": np.arange(10), "types": np.zeros(10), "starts": np.array([0, 4, 7, 10])}
    fields = {name: np.array(changes.get(name, array), np.int32) if changes.get(name, True) is not None else None
              for name, array in fields.items()}
    out = np.full((10, 120), -1, np.float32)
    kept.extend([*fields.values(), out])
    numbers = {"size": ctypes.sizeof(library.Batch), "sequences": 3, "tokens": 10, "pooling": TOKENS}
    numbers |= {name: value for name, value in changes.items() if name in numbers}
    arrays = {name: None if array is None else array.ctypes.data for name, array in fields.items()}
    return library.Batch(**numbers, **arrays, out=None if "out" in changes else out.ctypes.data), out


def test_a_wrong_batch_is_refused_and_changes_nothing(computing):
    """And the encoder goes on as if it had not been asked."""
    spec, mapped = form("plain", computing[1])
    running = encoder(*computing, spec, mapped)
    given = np.arange(10, dtype=np.int32), None, np.array([0, 4, 7, 10], np.int32), TOKENS
    before, kept = running.encode(*given), []
    for changes, message in WRONG_BATCHES:
        batch, out = batch_of(changes, kept)
        with pytest.raises(EngineError, match=message):
            running._library.call("encode", running._encoder, ctypes.byref(batch), None)
        assert (out == -1).all()
        assert np.array_equal(running.encode(*given), before)


def test_a_sequence_that_is_too_long_is_refused(build):
    kind = next(kind for name, kind in COMPUTING if name == build)
    spec, mapped = form("plain", kind)
    running = encoder(build, kind, spec, mapped, max_length=9)
    ids = np.zeros(10, np.int32)
    with pytest.raises(EngineError, match="a sequence has 10 tokens, expected 1 to 9"):
        running.encode(ids, None, np.array([0, 10], np.int32), MEAN)
    assert np.isfinite(running.encode(ids, None, np.array([0, 9, 10], np.int32), MEAN)).all()


def test_pointers_that_are_missing(build):
    loaded = load(build)
    with pytest.raises(EngineError, match="encoder or batch is missing"):
        loaded.call("encode", None, None, None)
    with pytest.raises(EngineError, match="spec or encoder is missing"):
        loaded.call("open", None, 1, None)
    loaded.close(ctypes.c_void_p())
    for size in (0, 1, 5):                             # A sentence is cut to what there is room for.
        error = ctypes.create_string_buffer(b"." * 8, 8)
        assert loaded._calls.native_encode(None, None, None, error, size) == 1
        assert error.raw == (b"encoder or"[:max(0, size - 1)] + b"\0" * (size > 0)).ljust(8, b".")
    assert loaded._calls.native_encode(None, None, None, None, 0) == 1


# ---- the file --------------------------------------------------------------------------------------------------------

def test_a_library_that_cannot_be_loaded(tmp_path):
    path = tmp_path / "libnative_plain.so"
    with pytest.raises(EngineError, match=r"libnative_plain\.so cannot be loaded: "):
        Library(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(EngineError, match=r"libnative_plain\.so cannot be loaded: "):
        Library(path)


def test_a_library_of_another_kind():
    import _ctypes
    with pytest.raises(EngineError, match="cannot be loaded: .*native_version"):
        Library(Path(_ctypes.__file__))


def test_a_library_of_another_version(build, monkeypatch):
    monkeypatch.setattr(library, "VERSION", 99)
    with pytest.raises(EngineError, match="is of version .*, expected 99; install the server again"):
        Library(library.path_of(build))


def test_a_library_is_loaded_once(build):
    assert library.load(build) is library.load(build)


def test_encoders_give_back_what_they_took(build):
    """Some hundred of them: a library that kept their threads would have a thousand by then."""
    kind = next(kind for name, kind in COMPUTING if name == build)
    spec, mapped = form("plain", kind)

    def threads():
        return len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").exists() else 0

    before = threads()
    for _ in range(100):
        encoder(build, kind, spec, mapped, threads=10)
    assert threads() <= before

"""torch's files: what torch wrote comes out bit by bit; what a stranger wrote executes nothing and ends in one line."""
import io
import pickle
import pickletools
import struct
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bert_serving.server.engine import pickle_weights
from bert_serving.server.engine.pickle_weights import PickledTensors
from bert_serving.server.errors import ModelError

DATA = Path(__file__).parents[2] / "data" / "torch"
BOTH = pytest.mark.parametrize("name", ["zip.bin", "legacy.bin"])


def numbers(*shape):
    return (np.arange(np.prod(shape, dtype=int), dtype=np.float32) / 8 - 1).reshape(shape)


# What torch 2.14 saved of this: a module's state_dict with a Linear and a buffer; a tied table, a Parameter, views, and
# other types. bfloat16 and float16 hold these numbers exactly.
SAVED = {
    "position_ids": np.arange(6)[None], "dense.weight": numbers(3, 4), "dense.bias": numbers(3), "words": numbers(6, 4),
    "decoder": numbers(6, 4), "parameter": numbers(2, 2), "transposed": numbers(2, 5).T,
    "part": numbers(6, 4)[2:5, 1::2], "half": numbers(2, 3).astype(np.float16), "bfloat16": numbers(2, 3),
    "double": numbers(2, 3).astype(np.float64), "scalar": np.float32(2.5), "empty": np.zeros((0, 4), np.float32),
    "flags": np.array([True, False])}


def fault(path):
    """The one line that a file ends in."""
    with pytest.raises(ModelError) as refused:
        file = PickledTensors(path)
        for name in file.shapes:
            file.array(name)
    message = refused.value.message
    assert message.isprintable() and len(message) < 1000 and str(path) in message
    return message


@pytest.fixture
def write(tmp_path, torch_file):
    """Writes a file of torch's with another pickle than it has, or other parts."""
    def do(pickled=None, arrays=None, **how):
        parts = {} if pickled is None else {"data.pkl": pickled}
        return torch_file(tmp_path / "pytorch_model.bin", arrays or {"a": numbers(2, 3)},
                          parts=parts | how.pop("parts", {}), **how)
    return do


# ---- what torch writes -----------------------------------------------------------------------------------------------

@BOTH
def test_what_torch_saved(name):
    file = PickledTensors(DATA / name)
    assert list(file.shapes) == list(SAVED)
    for name, expected in SAVED.items():
        array = file.array(name)
        assert file.shapes[name] == array.shape == expected.shape
        assert array.dtype == expected.dtype and np.array_equal(array, expected), name


@BOTH
def test_arrays_are_views_of_the_file(name):
    """Of a gigabyte nothing is copied; bfloat16 has to be."""
    file = PickledTensors(DATA / name)
    words, part = file.array("words"), file.array("part")
    assert np.shares_memory(words, file.array("decoder")) and np.shares_memory(words, part)
    with pytest.raises(ValueError, match="read-only"):
        words[0, 0] = 1


class Named:
    """Pickled as a class or function of torch's, which Python's pickler wants to find."""

    def __init__(self, module, name):
        self.__module__, self.__qualname__ = module, name


class Call:
    """Pickled as a call of that, or as a reference to something outside."""

    def __init__(self, function, *args):
        self.function, self.args = function, args


class Pickler(pickle._Pickler):
    """Python's own, in Python: the one in C does not let go of what it has to find."""

    def persistent_id(self, value):
        return value.args if isinstance(value, Call) and value.function is None else None

    def save(self, value, *how, **named):
        if isinstance(value, Named):
            if self.proto < 4:
                self.write(f"c{value.__module__}\n{value.__qualname__}\n".encode())
            else:
                self.save(value.__module__)
                self.save(value.__qualname__)
                self.write(pickle.STACK_GLOBAL)
            self.memoize(value)
        elif isinstance(value, Call) and value.function is not None:
            self.save(value.function)
            self.save(value.args)
            self.write(pickle.REDUCE)
        else:
            super().save(value, *how, **named)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_what_torch_saves_in_other_protocols(write, protocol):
    """torch.save takes a pickle_protocol; FRAME, MEMOIZE and STACK_GLOBAL come with 4."""
    stream = io.BytesIO()
    storage = Call(None, "storage", Named("torch", "FloatStorage"), "0", "cpu", 6)
    Pickler(stream, protocol).dump({"a": Call(Named("torch._utils", "_rebuild_tensor_v2"), storage, 0, (2, 3), (3, 1),
                                              False, {})})
    assert np.array_equal(PickledTensors(write(stream.getvalue())).array("a"), numbers(2, 3))


def test_python_2_has_dictionaries_of_pairs(write):
    pairs = (b"ccollections\nOrderedDict\n(](](U\x01actorch._utils\n_rebuild_tensor\n((U\x07storage"
             b"ctorch\nFloatStorage\nU\x010U\x03cpuK\x06tQK\x00K\x02K\x03\x86K\x03K\x01\x86tReetR.")
    assert np.array_equal(PickledTensors(write(b"\x80\x02" + pairs)).array("a"), numbers(2, 3))


def test_an_expanded_tensor(write):
    assert np.array_equal(PickledTensors(write(tensor(shape=(3, 6), strides=(0, 1)))).array("a"),
                          np.broadcast_to(numbers(6), (3, 6)))


def test_zip64(write, tmp_path):
    """As archives of more than 4 GB have it, and torch's of any size."""
    path = write()
    members = zipfile.ZipFile(path).infolist()
    data = path.read_bytes()
    body, directory = data[:data.index(b"PK\1\2")], b""
    for member in members:
        extra = struct.pack("<HHQQQ", 1, 24, member.file_size, member.compress_size, member.header_offset)
        directory += struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 45, 3, 45, 0, 0, 0, 0, 0, member.CRC, 2 ** 32 - 1,
                                 2 ** 32 - 1, len(member.filename), len(extra), 0, 0, 0, 0, 2 ** 32 - 1) \
            + member.filename.encode() + extra
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, len(members), len(members), len(directory), len(body))
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(body) + len(directory), 1)
    path.write_bytes(body + directory + end + locator
                     + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 2 ** 32 - 1, 2 ** 32 - 1, 0))
    assert zipfile.ZipFile(path).testzip() is None
    assert np.array_equal(PickledTensors(path).array("a"), numbers(2, 3))


# ---- what is refused -------------------------------------------------------------------------------------------------

def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def values(numbers):
    return b"(" + b"".join(map(number, numbers)) + b"t"


def tensor(storage=None, offset=0, shape=(2, 3), strides=(3, 1), size=6, key="0", kind="ctorch\nFloatStorage\n"):
    """The pickle of {"a": a tensor}."""
    storage = storage or b"(" + text("storage") + kind.encode() + text(key) + text("cpu") + number(size) + b"tQ"
    return b"\x80\x02}" + text("a") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) \
        + values(shape) + values(strides) + b"\x89}tRs."


def test_the_tests_tensor(write):
    assert np.array_equal(PickledTensors(write(tensor())).array("a"), numbers(2, 3))


@pytest.mark.parametrize("how", [
    dict(shape=(2, 4)), dict(strides=(4, 1)), dict(offset=1), dict(offset=7, shape=(0, 3)), dict(offset=-1),
    dict(strides=(-3, 1)), dict(shape=(-2, -3)), dict(shape=(2 ** 62, 2), strides=(0, 0)), dict(shape=(3,)),
    dict(shape=(2 ** 39,), strides=(0,)), dict(shape=(2 ** 25,), strides=(0,)),
    dict(shape=(1,) * 17, strides=(1,) * 17),
    dict(shape=(0, 2 ** 39, 2 ** 39), strides=(0, 0, 0)), dict(shape=(2 ** 12, 2 ** 13), strides=(0, 0)),
    dict(offset=2 ** 70), dict(size=2 ** 45), dict(size=-1), dict(size=7), dict(size=2 ** 30), dict(key="1"),
    dict(key="../version"), dict(kind="ctorch\nDoubleStorage\n")], ids=str)
def test_tensors_that_cannot_be(write, how):
    began = time.monotonic()
    assert "cannot read the weights" in fault(write(tensor(**how)))
    assert time.monotonic() - began < 1


PAYLOADS = {
    "a call": b"\x80\x02cposix\nsystem\n" + text("touch {}") + b"\x85R.",
    "a call in a state dict": tensor()[:-2] + text("b") + b"cposix\nsystem\n" + text("touch {}") + b"\x85Rss.",
    "protocol 4": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + text("touch {}") + b"\x85R.",
    "protocol 0": b"cos\nsystem\n(S'touch {}'\ntR.",
    "INST": b"(S'touch {}'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch {}'\no.",
    "NEWOBJ": b"\x80\x02csubprocess\nPopen\n" + text("touch {}") + b"\x85\x81.",
    "builtins": b"cbuiltins\nexec\n" + text("open('{}', 'w')") + b"\x85R.",
    "getattr": b"cbuiltins\ngetattr\n" + text("x") + text("y") + b"\x86R.",
    "an attribute of a module that is allowed": b"\x80\x04\x8c\x0ctorch._utils\x8c\x0bsys.modules\x93.",
    "torch.load": b"ctorch.serialization\nload\n" + text("{}") + b"\x85R.",
    "a storage's class, called": b"ctorch\nFloatStorage\n" + text("{}") + b"\x85R.",
    "a persistent id of text": b"P0\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "BUILD of a function": b"ccollections\nOrderedDict\n}b.",
    "a function instead of a storage": tensor(storage=b"ctorch._utils\n_rebuild_tensor_v2\n"),
    "another function for a parameter": b"ctorch._utils\n_rebuild_parameter\n)\x85R.",
    "a reference to something else": b"\x80\x02(" + text("module") + b"NNNK\1tQ.",
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_nothing_is_executed(write, tmp_path, payload, form):
    proof = tmp_path / "proof"
    payload = payload.replace(b"{}", str(proof).encode()[-50:])  # lengths of texts may not fit: damage is no excuse
    path = write(payload)
    if form == "legacy":
        path.write_bytes(pickle.dumps(pickle_weights.MAGIC, 2) + pickle.dumps(1001, 2)
                         + pickle.dumps({"little_endian": True}, 2) + payload)
    before = set(sys.modules)
    assert "cannot read the weights" in fault(path)
    assert set(sys.modules) == before and not proof.exists()


@pytest.mark.parametrize("payload", [PAYLOADS["a call"], PAYLOADS["protocol 4"]])
def test_the_payloads_are_real(tmp_path, payload):
    """Python's own unpickler runs them: the command that is not there ends with 127."""
    assert pickle.loads(payload.replace(b"touch {}", b"exit 42 ")) == 42 << 8


@pytest.mark.parametrize("payload, message", [
    (b"cbuiltins\nexec\n" + text("1") + b"\x85R.", "it holds a builtins.exec, which no tensor needs; save the model"),
    (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "it holds a posix.system, which no tensor needs"),
    (b"ctorch._utils\n_rebuild_sparse_tensor\n.", "holds a torch._utils._rebuild_sparse_tensor, which no tensor needs"),
    (b"(ios\nsystem\n.", "its pickle has the instruction INST, which no tensor needs"),
    (b"c" + b"x" * 5000 + b"\ny\n.", "x', which no tensor needs"),
    (b"ca\x1b[2J\nb\n.", r"it holds a 'a\x1b[2J.b', which no tensor needs"),
    (b"c\xc3\xa9\nb\n.", "it holds a \xe9.b, which no tensor needs"),
    (b"c\xff\nb\n.", "its pickle is damaged"), (b"ca\\o\nb\n.", "holds a a\\o.b, which"),
    (b"ca\nb.", "its pickle is damaged"),
    (b"]" + text("a") + b"a.", "it holds a list, expected a dictionary of tensors"),
    (b"}.", "it holds no tensors; save the model"),
    (b"}" + text("state_dict") + tensor()[2:-1] + b"s.", "inside of state_dict, as a training's checkpoint"),
    (tensor()[len(b"\x80\x02}" + text("a")):-2] + b".", "it holds one tensor, expected a dictionary of tensors"),
    (b"}K\1K\1s.", "a dictionary's key that is no text"), (b"}](K\1e0.", "the instruction POP"),
    (b"}" + text("a") + b")RK\1s.", "a call of something else than a function"),
    (b"", "its pickle is damaged or cut off"),
    (b"}", "its pickle is"), (b"(.", "its pickle is damaged"), (b"h\5.", "its pickle is damaged"),
    (b"X\xff\xff\xff\xff.", "its pickle is damaged"), (b"R.", "its pickle is damaged"), (b"}Ns.", "damaged"),
    (b"](K\1q\1K\2u.", "its pickle is damaged"), (b"}a.", "damaged"), (b"}(K\1u.", "damaged"), (b"((tu.", "damaged"),
    (b"(" * 10 + b".", "damaged"), (b"\xff", "damaged")])
def test_what_no_tensor_needs_is_named(write, payload, message):
    assert message in fault(write(payload))


@pytest.mark.parametrize("content, message", [
    (b"(" * 600_000, "more than 500000 instructions"),
    (b"]" * 9_000_000, "its data.pkl has 9000000 bytes, expected 8000000 at most"),
    (b"(" + b"N" * 100_000 + b"tq\0ccollections\nOrderedDict\nq\1" + b"h\1h\0R" * 100, "pickle is damaged"),
    (b"](" + (b"(" + text("a") + b"Nt") * 30_000 + b"e\x85q\2ccollections\nOrderedDict\nq\1" + b"h\1h\2R" * 10_000,
     "more than 500000 instructions"),
    (b")" + b"\x85" * 400_000 + b".", "it holds a tuple, expected"),
    (b"}" + text("a") + b"\x8b" + struct.pack("<i", 7_000_000) + b"\x7f" * 7_000_000 + b"s.", "it holds no tensors"),
    (tensor()[:-3] + b"0" + b".", "the instruction POP"),
], ids=["marks", "size", "a long argument", "a list used again", "depth", "a number of 17 million digits", "POP"])
def test_a_short_pickle_takes_no_long_time(write, content, message):
    path = write(content)
    began = time.monotonic()
    assert message in fault(path)
    assert time.monotonic() - began < 5


def test_big_endian_machines(write, tmp_path):
    assert "saved by a big-endian machine" in fault(write(parts={"byteorder": b"big"}))
    data = (DATA / "legacy.bin").read_bytes().replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89")
    (tmp_path / "pytorch_model.bin").write_bytes(data)
    assert "saved by a big-endian machine" in fault(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("parts, message", [
    ({"data/0": None}, "it lacks storage 0; the file is damaged"),
    ({"data/0": b"x" * 23}, "storage 0 has 23 bytes, expected 24; the file is damaged"),
    ({"data.pkl": None}, "a zip archive without torch's data.pkl"),
    ({"data.pkl": None, "more/data.pkl": b"}."}, "without torch's data.pkl"),
    ({"code/__torch__.py": b"1"}, "it is a TorchScript program, expected tensors alone")], ids=str)
def test_what_an_archive_lacks(write, parts, message):
    assert message in fault(write(parts=parts))


def test_compressed_members_are_refused(write):
    """A zip bomb is one; torch compresses nothing."""
    path = write(arrays={"a": np.zeros(50_000_000, np.uint8).view(np.float32)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    assert "is compressed or encrypted, and torch does neither" in fault(path)


def archive(entries, place=None, count=None, size=None):
    """A zip archive's directory and end alone."""
    size, place = len(entries) if size is None else size, 4 if place is None else place
    return b"PK\3\4" + entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count or 1, count or 1, size, place, 0)


@pytest.mark.parametrize("content", [
    b"PK\3\4", b"PK\3\4" * 50_000, archive(b""), archive(b"", size=2 ** 32 - 1), archive(b"", place=2 ** 32 - 1),
    archive(b"PK\1\2"), archive(b"PK\1\2" + b"\xff" * 42), archive(b"PK\1\2" + b"\xff" * 200_000, count=65535),
    archive(b"PK\6\7" + b"\xff" * 16), archive(b"PK\6\6" + b"\xff" * 52 + b"PK\6\7" + struct.pack("<LQL", 0, 4, 1)),
    archive((b"PK\1\2" + b"\0" * 42) * 60_000, count=60_000), b"\x80\x02", b"\x80", b"\x80\x02.", b"noise" * 100,
    b"\0" * 9,
    pickle.dumps(pickle_weights.MAGIC, 2), pickle.dumps(pickle_weights.MAGIC, 2) + pickle.dumps(1000, 2),
    pickle.dumps(pickle_weights.MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps([], 2),
    b"ustar" + b"\0" * 600], ids=lambda content: f"{content[:20]!r} {len(content)}")
def test_what_torch_never_saved(tmp_path, content):
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    began = time.monotonic()
    assert "cannot read the weights" in fault(tmp_path / "pytorch_model.bin")
    assert time.monotonic() - began < 5


def test_a_directory_of_millions_of_files(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(archive((b"PK\1\2" + b"\0" * 42) * 180_000, count=65535))
    assert "a directory of a size that torch's have not" in fault(tmp_path / "pytorch_model.bin")


def test_no_file(tmp_path):
    assert "no regular file" in fault(tmp_path)
    assert "pytorch_model.bin" in fault(tmp_path / "pytorch_model.bin")


@BOTH
def test_half_a_file(name, tmp_path):
    data = (DATA / name).read_bytes()
    for length in range(1, len(data), 7):
        (tmp_path / "pytorch_model.bin").write_bytes(data[:length])
        message = fault(tmp_path / "pytorch_model.bin")
    assert "it is cut off: " in message and "download it again" in message


# ---- fuzzing ---------------------------------------------------------------------------------------------------------

OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
FUZZ = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


def survives(path):
    """It is read, or refused in a line; no module is imported, no file is made."""
    modules, files = set(sys.modules), set(path.parent.iterdir())
    try:
        file = PickledTensors(path)
        for name, shape in file.shapes.items():
            array = file.array(name)
            assert array.shape == shape
            array.sum()  # touches every number
    except ModelError as error:
        assert error.message.isprintable() and len(error.message) < 1000
    assert set(sys.modules) == modules and set(path.parent.iterdir()) == files


@BOTH
@FUZZ
@given(edits=st.lists(st.tuples(st.integers(0, 2 ** 16), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes(name, tmp_path, edits):
    data = bytearray((DATA / name).read_bytes())
    for place, byte in edits:
        data[place % len(data)] = byte
    (tmp_path / "pytorch_model.bin").write_bytes(data)
    survives(tmp_path / "pytorch_model.bin")


PIECES = st.one_of(st.sampled_from(OPCODES), st.binary(max_size=6), st.sampled_from([
    b"cos\nsystem\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nHalfStorage\n",
    b"ccollections\nOrderedDict\n", b"\x8c\x02os\x8c\x06system\x93", text("storage"), text("0"), text("a"),
    number(-1), number(2 ** 40), b"q\0", b"h\0"]))


@FUZZ
@given(edits=st.lists(st.tuples(st.integers(0, 2 ** 16), st.integers(0, 4), PIECES), min_size=1, max_size=5))
@example(edits=[(0, 0, b"0")])
def test_changed_instructions(torch_file, tmp_path, edits):
    """Inserted, removed and replaced between the instructions of a good file."""
    data = zipfile.ZipFile(DATA / "zip.bin").read("zip/data.pkl")
    places = [place for _, _, place in pickletools.genops(data)]
    pieces = [data[start:end] for start, end in zip(places, [*places[1:], len(data)], strict=True)]
    for place, removed, piece in edits:
        place %= len(pieces)
        pieces[place:place + removed] = [piece]
    arrays = {str(key): numbers(24) for key in range(14)}
    path = torch_file(tmp_path / "pytorch_model.bin", arrays, parts={"data.pkl": b"".join(pieces)})
    survives(path)


@FUZZ
@given(pieces=st.lists(PIECES, max_size=40))
def test_any_instructions(torch_file, tmp_path, pieces):
    parts = {"data.pkl": b"".join(pieces) + b"."}
    survives(torch_file(tmp_path / "pytorch_model.bin", {"0": numbers(24)}, parts=parts))

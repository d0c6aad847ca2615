"""Weights that torch saved, ``pytorch_model.bin``: a pickle of names, and the numbers beside it. Nothing is executed.

A pickle is a program for a small stack machine, and Python's own runs whatever function the file names. The one here
knows the instructions that dictionaries of tensors are made with, and five functions, which it does not call: it notes
what storage, shape and strides a tensor has. Everything else is refused by name.

torch writes a zip archive since 1.6::

    NAME/data.pkl       the pickle; a storage in it is ("storage", its type, its key, device, numbers)
    NAME/data/KEY       numbers of a storage, not compressed
    NAME/byteorder      "little"

and before that a sequence of pickles (a magic number, the format, the machine, the dictionary, the keys), then for each
key the count of numbers as int64, and the numbers. Both are read from a memory map.
"""
from __future__ import annotations

import io
import math
import mmap
import pickletools
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bert_serving.client.words import counted

from ..errors import ModelError
from .tensor_file import TensorFile, widened
from .weight_files import SAVE, listing, printable, unreadable, wrong_content

MAX_PICKLE = 8_000_000
"""Bytes of a pickle; that of a BERT has 30,000."""
MAX_INSTRUCTIONS = 500_000
"""Of a pickle; that of a BERT has 5,000."""
MAX_DIRECTORY = 8_000_000
"""Bytes of a zip archive's directory."""
MAX_DIMENSIONS = 16
MAX_EXPANDED = 1 << 24
"""Numbers of a tensor that repeats those of a smaller storage (torch.Tensor.expand)."""

BIG_ENDIAN = "it was saved by a big-endian machine, which is not read; save it again on a little-endian one"

STORAGES = {"Float": "<f4", "Half": "<f2", "BFloat16": "bf16", "Double": "<f8", "Long": "<i8", "Int": "<i4",
            "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?"}
"""torch's types of storages -> NumPy's."""


class Refused(Exception):
    """What is wrong with the file, to follow its name and a colon."""


@dataclass(frozen=True)
class Named:
    """A function or class that the pickle names; it is never looked up."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A block of numbers.

    Attributes:
        dtype: of STORAGES' values.
        size: numbers in it.
    """

    key: str
    dtype: str
    size: int

    @property
    def item_size(self) -> int:
        return 2 if self.dtype == "bf16" else np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Tensor:
    """A view of a storage. Offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# ---- the file --------------------------------------------------------------------------------------------------------

class PickledTensors(TensorFile):
    """A file of torch's."""

    def __init__(self, path: str | Path) -> None:
        """
        Raises:
            ModelError: it cannot be read, or holds something else than a dictionary of tensors.
        """
        self.path = str(path)
        if wrong := wrong_content(path):
            raise ModelError(f"{path} {wrong}")
        try:
            if not Path(path).is_file():
                raise Refused("it is no regular file")
            with open(path, "rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            read = read_archive if self._data[:4] == b"PK\3\4" else read_legacy
            self._tensors, self._places = read(self._data)
        except (OSError, ValueError) as error:
            raise unreadable(path, error) from error
        except Refused as refused:
            raise ModelError(f"cannot read the weights {path}: {refused}") from None
        self.shapes = {name: tensor.shape for name, tensor in self._tensors.items()}

    def array(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        storage = tensor.storage
        numbers = np.frombuffer(self._data, "<u2" if storage.dtype == "bf16" else storage.dtype, storage.size,
                                self._places[storage.key])
        # check_tensor has seen that the view stays within its storage.
        strides = [stride * numbers.itemsize for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(numbers[tensor.offset:], tensor.shape, strides, writeable=False)
        return np.asarray(widened(view)) if storage.dtype == "bf16" else view


def check_tensor(tensor: Tensor) -> None:
    """
    Raises:
        Refused: it reaches beyond its storage, or has far more numbers than that.
    """
    if len(tensor.shape) != len(tensor.strides) or len(tensor.shape) > MAX_DIMENSIONS \
            or not all(0 <= number < 1 << 40 for number in (tensor.offset, *tensor.shape, *tensor.strides)):
        raise Refused(f"a tensor has shape {_shown(tensor.shape)} and strides {_shown(tensor.strides)}, which cannot "
                      "be")
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    count = math.prod(tensor.shape)
    if tensor.offset > tensor.storage.size or count and last >= tensor.storage.size:
        raise Refused(f"a tensor of shape {_shown(tensor.shape)} reaches beyond its storage, which has "
                      f"{counted(tensor.storage.size, 'number')}; the file is damaged")
    if count > max(tensor.storage.size, MAX_EXPANDED) or math.prod(size or 1 for size in tensor.shape) > 1 << 40:
        raise Refused(f"a tensor has shape {_shown(tensor.shape)}, and its storage only "
                      f"{counted(tensor.storage.size, 'number')}")


def _shown(numbers: Sequence[int]) -> str:
    return printable(str(list(numbers[:MAX_DIMENSIONS])))


def tensors_of(value: Any) -> dict[str, Tensor]:
    """The variables of what was pickled.

    Raises:
        Refused: it is no dictionary of tensors.
    """
    if not isinstance(value, dict):
        raise Refused(f"it holds {_kind(value)}, expected a dictionary of tensors; {SAVE}")
    tensors = {name: tensor for name, tensor in value.items() if isinstance(name, str) and isinstance(tensor, Tensor)}
    if not tensors:
        inner = [str(name) for name, part in value.items()
                 if isinstance(part, dict) and any(isinstance(tensor, Tensor) for tensor in part.values())]
        raise Refused(f"it has its tensors inside of {listing(inner)}, as a training's checkpoint; {SAVE}" if inner else
                      f"it holds no tensors; {SAVE}")
    return tensors


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {Tensor: "one tensor", Storage: "a storage", str: "a text", list: "a list",
                              tuple: "a tuple", Named: "a function"}
    return kinds.get(type(value), "no tensors")


# ---- zip archives ----------------------------------------------------------------------------------------------------

def read_archive(data: mmap.mmap | bytes) -> tuple[dict[str, Tensor], dict[str, int]]:
    """
    Returns:
        The variables, and storage key -> where its numbers begin.
    Raises:
        Refused: it is no archive of torch's, or a damaged one.
    """
    members = {member.name: member for member in _members(data)}
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Refused(f"it is a zip archive without torch's data.pkl; {SAVE}" if not pickles else
                      "it has several data.pkl; it is damaged")
    root = pickles[0].removesuffix("data.pkl")
    if any(name.startswith(f"{root}code/") for name in members):
        raise Refused(f"it is a TorchScript program, expected tensors alone; {SAVE}")
    if order := members.get(f"{root}byteorder"):
        start = order.start(data)
        if bytes(data[start:start + min(order.size, 100)]) != b"little":
            raise Refused(BIG_ENDIAN)
    pickle = members[pickles[0]]
    if pickle.size > MAX_PICKLE:
        raise Refused(f"its data.pkl has {counted(pickle.size, 'byte')}, expected {MAX_PICKLE} at most")
    start = pickle.start(data)
    machine = Machine(io.BytesIO(data[start:start + pickle.size]))
    tensors = tensors_of(machine.load())
    places = {}
    for storage in {tensor.storage.key: tensor.storage for tensor in tensors.values()}.values():
        member = members.get(f"{root}data/{storage.key}")
        if member is None:
            raise Refused(f"it lacks storage {printable(storage.key)}; the file is damaged")
        if member.size < storage.size * storage.item_size:
            raise Refused(f"storage {printable(storage.key)} has {counted(member.size, 'byte')}, expected "
                          f"{storage.size * storage.item_size}; the file is damaged")
        places[storage.key] = member.start(data)
    return tensors, places


@dataclass(frozen=True)
class Member:
    """A file of a zip archive.

    Attributes:
        size: bytes, not compressed.
        header: where its header begins.
        is_plain: neither compressed nor encrypted.
    """

    name: str
    size: int
    header: int
    is_plain: bool

    def start(self, data: mmap.mmap | bytes) -> int:
        """Where its content begins; all of it is there, and it is plain."""
        if not self.is_plain:
            raise Refused(f"its {printable(self.name)} is compressed or encrypted, and torch does neither; {SAVE}")
        if self.header + 30 > len(data) or data[self.header:self.header + 4] != b"PK\3\4":
            raise Refused("its zip archive is damaged")
        name, extra = struct.unpack("<HH", data[self.header + 26:self.header + 30])
        start = self.header + 30 + name + extra
        if start + self.size > len(data):
            raise Refused("its zip archive is damaged: a file in it reaches beyond its end")
        return int(start)


def _members(data: mmap.mmap | bytes) -> Iterator[Member]:
    """The directory of a zip archive, with 64-bit sizes where it has them, as APPNOTE.TXT describes."""
    tail = max(0, len(data) - 22 - 65535)
    end = data.rfind(b"PK\5\6", tail)
    if end < 0 or end + 22 > len(data):
        raise Refused("it is cut off: a zip archive without its end; download it again")
    count, size, place = struct.unpack("<HII", data[end + 10:end + 20])
    if end >= 20 and data[end - 20:end - 16] == b"PK\6\7":
        wide, = struct.unpack("<Q", data[end - 12:end - 4])
        if wide + 56 > len(data) or data[wide:wide + 4] != b"PK\6\6":
            raise Refused("its zip archive is damaged")
        count, size, place = struct.unpack("<QQQ", data[wide + 32:wide + 56])
    if size > MAX_DIRECTORY or place + size > len(data):
        raise Refused("its zip archive is damaged, or has a directory of a size that torch's have not")
    directory = bytes(data[place:place + size])
    at = 0
    for _ in range(count):
        if directory[at:at + 4] != b"PK\1\2" or at + 46 > size:
            raise Refused("its zip archive is damaged")
        flags, method = struct.unpack_from("<HH", directory, at + 8)
        packed, plain, name, extra, comment = struct.unpack_from("<IIHHH", directory, at + 20)
        header, = struct.unpack_from("<I", directory, at + 42)
        text = directory[at + 46:at + 46 + name].decode("utf-8", "replace")
        more = directory[at + 46 + name:at + 46 + name + extra]
        plain, packed, header = _wide(more, plain, packed, header)
        yield Member(text, plain, header, not method and not flags & 1 and packed == plain)
        at += 46 + name + extra + comment


def _wide(extra: bytes, *values: int) -> Iterator[int]:
    """Sizes and place of a file, of which those that do not fit into 32 bits are in a field of their own."""
    wide = b""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = extra[at + 4:at + 4 + size]
        at += 4 + size
    for value in values:
        if value == 0xFFFFFFFF:
            if len(wide) < 8:
                raise Refused("its zip archive is damaged")
            value, wide = struct.unpack("<Q", wide[:8])[0], wide[8:]
        yield value


# ---- before torch 1.6 ------------------------------------------------------------------------------------------------

MAGIC = 0x1950A86A20F9469CFC6C


def read_legacy(data: mmap.mmap | bytes) -> tuple[dict[str, Tensor], dict[str, int]]:
    """As :func:`read_archive`, for the format before 1.6.

    Raises:
        Refused: it is no file of torch's, or a damaged one.
    """
    stream = io.BytesIO(data[:MAX_PICKLE])
    machine = Machine(stream)
    if data[:1] != b"\x80":
        raise Refused(f"it is no file that torch saved; {SAVE}")
    if machine.load() != MAGIC or machine.load() != 1001:
        raise Refused(f"it is no file that torch saved, or one of a version before 0.4; {SAVE}")
    system = machine.load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused(BIG_ENDIAN)
    tensors = tensors_of(machine.load())
    keys = machine.load()
    places: dict[str, int] = {}
    at = stream.tell()
    if not isinstance(keys, list):
        raise Refused("it has no list of its storages; it is damaged")
    for key in keys:
        storage = machine.storages.get(key) if isinstance(key, str) else None
        if storage is None or key in places:
            raise Refused("it lists storages that no tensor has; it is damaged")
        count = struct.unpack("<q", data[at:at + 8])[0] if at + 8 <= len(data) else None
        if count is None or at + 8 + storage.size * storage.item_size > len(data):
            raise Refused("it is cut off: its tensors are not all there; download it again")
        if count != storage.size:
            raise Refused(f"storage {printable(key)} has {counted(count, 'number')}, expected {storage.size}; it is "
                          "damaged")
        places[key] = at + 8
        at += 8 + count * storage.item_size
    lacking = [name for name, tensor in tensors.items() if tensor.storage.key not in places]
    if lacking:
        raise Refused(f"it lacks the numbers of {listing(lacking)}; it is damaged")
    return tensors, places


# ---- pickles ---------------------------------------------------------------------------------------------------------

MARK = object()
OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}


class Machine:
    """The stack machine, for one pickle after the other.

    Attributes:
        storages: key -> storage, of all that were met.
    """

    def __init__(self, stream: io.BytesIO) -> None:
        self._stream = stream
        self._left = MAX_INSTRUCTIONS
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def load(self) -> Any:
        """
        Returns:
            What the next pickle makes: numbers, texts, tuples, lists, dictionaries, and Tensors.
        Raises:
            Refused: it is damaged, or holds something that no tensor needs.
        """
        self._stack, self._memo = [], {}
        try:
            while True:
                self._charge(1)
                if not (code := self._stream.read(1)):
                    raise ValueError("it has no end")
                opcode = OPCODES[code.decode("latin-1")]
                is_constant, step = opcode.name in CONSTANTS, STEPS.get(opcode.name)
                if not is_constant and step is None and opcode.name != "STOP":
                    # Not even what follows it is read, which may be text with escape sequences and the like.
                    raise Refused(f"its pickle has the instruction {opcode.name}, which no tensor needs")
                # pickletools would look for escape sequences in GLOBAL's lines, where pickle has none.
                argument = opcode.arg.reader(self._stream) if opcode.arg and opcode.name != "GLOBAL" else None
                if is_constant:
                    self._stack.append(argument)
                elif step is not None:
                    step(self, argument)
                else:
                    return self._pop()
        except (ValueError, KeyError, IndexError, TypeError, OverflowError, struct.error) as error:
            reason = "an unknown instruction" if isinstance(error, KeyError) else str(error)
            raise Refused(f"its pickle is damaged or cut off ({printable(reason)})") from error

    def _charge(self, work: int) -> None:
        self._left -= work
        if self._left < 0:
            raise Refused(f"its pickle has more than {MAX_INSTRUCTIONS} instructions")

    # ---- instructions ------------------------------------------------------------------------------------------------

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is MARK:
            raise ValueError("a mark where a value is expected")
        return value

    def _top(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise ValueError(f"no {kind.__name__} where one is expected")
        return self._stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self._stack.pop()) is not MARK:
            values.append(value)
        return values[::-1]

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._stack.append(tuple(values[::-1]))

    def _append(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def _set(self, values: list[Any]) -> None:
        target = self._top(dict)
        for key, value in _pairs(values):
            target[key] = value

    def _make_dict(self, values: list[Any]) -> None:
        self._stack.append(dict(_pairs(values)))

    def _memoize(self, place: int | None) -> None:
        if self._stack[-1] is MARK:
            raise ValueError("a mark where a value is expected")
        self._memo[len(self._memo) if place is None else place] = self._stack[-1]

    def _recall(self, place: int) -> None:
        if place not in self._memo:
            raise ValueError("it takes what it never kept")
        self._stack.append(self._memo[place])

    def _global(self, _: Any) -> None:
        module, name = self._stream.readline(), self._stream.readline()
        if not name.endswith(b"\n"):
            raise ValueError("a name without its end")
        self._name(f"{module[:-1].decode()}.{name[:-1].decode()}")

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._name(f"{module}.{name}" if isinstance(name, str) and isinstance(module, str) else "a thing without name")

    def _name(self, name: str) -> None:
        if name not in CALLS and _storage_type(name) is None:
            raise Refused(f"it holds a {printable(name)}, which no tensor needs; {SAVE}")
        self._stack.append(Named(name))

    def _persistent_id(self, _: Any) -> None:
        """("storage", type, key, device, numbers), and before 1.6 a sixth for views, which no torch since 0.4 made."""
        value = self._pop()
        if not isinstance(value, tuple) or len(value) not in (5, 6) or value[0] != "storage" or value[5:] not in (
                (), (None,)):
            raise ValueError("a reference to something else than a storage")
        kind, key, size = value[1], value[2], value[4]
        dtype = _storage_type(kind.name) if isinstance(kind, Named) else None
        if dtype is None or not isinstance(key, str) or type(size) is not int or not 0 <= size < 1 << 40:
            raise ValueError("a storage of a kind that cannot be")
        storage = Storage(key, dtype, size)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("two storages of one key")
        self._stack.append(storage)

    def _reduce(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Named) or not isinstance(arguments, tuple):
            raise ValueError("a call of something else than a function")
        if function.name not in CALLS:
            raise Refused(f"it calls {function.name}, which no tensor needs; {SAVE}")
        # The same arguments can be used again, and a short pickle could take long.
        self._charge(len(arguments))
        self._charge(sum(len(argument) for argument in arguments if isinstance(argument, (list, tuple))))
        self._stack.append(CALLS[function.name](*arguments))

    def _build(self, _: Any) -> None:
        """The attributes of an OrderedDict: torch notes versions of modules there."""
        self._pop()
        self._top(dict)


def _pairs(values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    if len(values) % 2:
        raise ValueError("a key without a value")
    for key, value in zip(values[::2], values[1::2], strict=True):
        # Of others somebody could choose the hashes, and with them the time that a dictionary takes.
        if not isinstance(key, str):
            raise ValueError("a dictionary's key that is no text")
        yield key, value


def _storage_type(name: str) -> str | None:
    for module in ("torch.", "torch.cuda."):
        if name.startswith(module) and name.endswith("Storage"):
            if dtype := STORAGES.get(name[len(module):-len("Storage")]):
                return dtype
    return None


def _ordered_dict(*arguments: Any) -> dict[str, Any]:
    """Empty, or of a list of pairs, as Python 2 has it."""
    if not arguments:
        return {}
    pairs, = arguments
    if not isinstance(pairs, list) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise ValueError("no pairs where they are expected")
    return dict(_pairs([value for pair in pairs for value in pair]))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage) or type(offset) is not int or not all(
            isinstance(numbers, tuple) and all(type(number) is int for number in numbers)
            for numbers in (shape, strides)):
        raise ValueError("a tensor of something else than a storage and numbers")
    tensor = Tensor(storage, offset, shape, strides)
    check_tensor(tensor)
    return tensor


def _parameter(tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ValueError("a parameter that is no tensor")
    return tensor


CALLS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
"""What stands for the functions of the same names."""

CONSTANTS = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
             "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING"}
"""Instructions that push what follows them in the file."""

STEPS: Mapping[str, Callable[[Machine, Any], None]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "NONE": lambda machine, _: machine._push(None),
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "EMPTY_DICT": lambda machine, _: machine._push({}),
    "MARK": lambda machine, _: machine._push(MARK),
    "TUPLE": lambda machine, _: machine._push(tuple(machine._pop_to_mark())),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "APPEND": lambda machine, _: machine._append([machine._pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._pop_to_mark()),
    "DICT": lambda machine, _: machine._make_dict(machine._pop_to_mark()),
    "SETITEM": lambda machine, _: machine._set([machine._pop(), machine._pop()][::-1]),
    "SETITEMS": lambda machine, _: machine._set(machine._pop_to_mark()),
    "BINPUT": Machine._memoize,
    "LONG_BINPUT": Machine._memoize,
    "MEMOIZE": Machine._memoize,
    "BINGET": Machine._recall,
    "LONG_BINGET": Machine._recall,
    "GLOBAL": Machine._global,
    "STACK_GLOBAL": Machine._stack_global,
    "BINPERSID": Machine._persistent_id,
    "REDUCE": Machine._reduce,
    "BUILD": Machine._build,
}
"""The other instructions."""

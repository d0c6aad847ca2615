"""Orders to other processes: frozen dataclasses that become JSON values and are read back from them.

The class of a process's orders stands in the module that reads them. Whoever gives orders makes such a value, and
changes one with ``dataclasses.replace`` alone.
"""
from __future__ import annotations

import types
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from bert_serving.client.words import JSON_NAMES, json_kind

from .errors import ConfigError

OrdersT = TypeVar("OrdersT", bound="Orders")
T = TypeVar("T")


class Orders:
    """Base of a frozen dataclass that crosses a process border.

    A field is a ``str``, ``int``, ``float``, ``bool``, other Orders, a class with ``to_json`` and ``from_json`` of its
    own, a ``tuple[..., ...]`` or ``dict[str, ...]`` of those, ``Any`` for what is JSON already, or one of them or None.
    """

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, every field by its name."""
        return {f.name: _encode(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_json(cls: type[OrdersT], values: Any) -> OrdersT:
        """What :meth:`to_json` was made of. A field may be missing where it has a default.

        Raises:
            ConfigError: a field is unknown, missing or of another type; the message names it, and shows no value.
        """
        return _decode_orders(cls, values, cls.__name__)


@dataclass(frozen=True)
class NoOrders(Orders):
    """For a process whose name says it all."""


def pick(kind: type[T], source: Any) -> T:
    """A dataclass whose fields are attributes of ``source`` with the same names."""
    return kind(**{f.name: getattr(source, f.name) for f in fields(kind)})  # type: ignore[arg-type]


def _encode(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, (list, tuple)):
        return [_encode(one) for one in value]
    if isinstance(value, dict):
        return {name: _encode(one) for name, one in value.items()}
    return value


def _decode_orders(kind: type[OrdersT], values: Any, where: str) -> OrdersT:
    _expect(dict, values, where)
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(map(str, values.keys() - known.keys()))
    missing = [name for name, f in known.items()
               if name not in values and f.default is MISSING and f.default_factory is MISSING]
    if unknown or missing:
        problem = f"{unknown[0]} is unknown" if unknown else f"{missing[0]} is missing"
        raise ConfigError(f"{where}.{problem}; expected {', '.join(known) or 'no field'}")
    hints = get_type_hints(kind)
    return kind(**{name: _decode(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        kind, = (one for one in arguments if one is not type(None))
        return None if value is None else _decode(kind, value, where)
    if origin is tuple:
        _expect(list, value, where)
        return tuple(_decode(arguments[0], one, f"{where}[{index}]") for index, one in enumerate(value))
    if origin is dict:
        _expect(dict, value, where)
        return {name: _decode(arguments[1], one, f"{where}.{name}") for name, one in value.items()}
    if issubclass(kind, Orders):
        return _decode_orders(kind, value, where)
    if hasattr(kind, "from_json"):
        try:
            return kind.from_json(value)
        except (TypeError, ValueError, LookupError, AttributeError):
            raise ConfigError(f"{where} is {json_kind(value)} that is no {kind.__name__}") from None
    if kind is float and type(value) is int:
        return float(value)
    _expect(kind, value, where)
    return value


def _expect(kind: type, value: Any, where: str) -> None:
    if type(value) is not kind:
        raise ConfigError(f"{where} is {json_kind(value)}; expected {JSON_NAMES[kind]}")

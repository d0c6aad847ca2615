"""Orders to other processes: there and back, and refused with the field's name where they are not what was declared."""
import importlib
import json
from dataclasses import FrozenInstanceError, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from bert_serving.client.curve import Keys
from bert_serving.server.errors import ConfigError
from bert_serving.server.engine.pipeline import Dense, LayerNorm, Normalize, Stage, Truncate
from bert_serving.server.orders import NoOrders, Orders, pick
from hypothesis import given
from hypothesis import strategies as st

for room in ("benchmark.load", "benchmark.served", "core.membership", "engine.artefact", "engine.gpu",
             "launchers.ray_actors", "proxy.orders", "stages.worker"):
    importlib.import_module(f"bert_serving.server.{room}")


@dataclass(frozen=True)
class Part(Orders):
    number: int
    name: str = "part"


@dataclass(frozen=True)
class Whole(Orders):
    part: Part
    share: float
    flag: bool
    words: tuple[str, ...] = ()
    by_name: dict[str, tuple[int, ...]] | None = None
    keys: Keys | None = None


def every_kind(of=Orders):
    for kind in of.__subclasses__():
        yield kind
        yield from every_kind(kind)


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
SIMPLE = {str: st.text(), int: st.integers(), float: st.floats(allow_nan=False), bool: st.booleans(), Any: JSON,
          Keys: st.builds(Keys, *[st.from_regex(rb"\A[!-~]{40}\Z")] * 3)}


@cache
def values(kind):
    """Anything that a field of this type can hold."""
    if kind in SIMPLE:
        return SIMPLE[kind]
    if kind is Stage:
        return st.one_of([values(one) for one in (Dense, LayerNorm, Normalize, Truncate)])
    arguments = get_args(kind)
    if type(None) in arguments:
        return st.none() | values(arguments[0])
    if get_origin(kind) is tuple:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if get_origin(kind) is dict:
        return st.dictionaries(st.text(), values(arguments[1]), max_size=4)
    hints = get_type_hints(kind)
    return st.builds(kind, **{f.name: values(hints[f.name]) for f in fields(kind)})


KINDS = sorted(every_kind(), key=lambda kind: (kind.__module__, kind.__name__))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_there_and_back(kind, data):
    orders = data.draw(values(kind))
    assert kind.from_json(json.loads(json.dumps(orders.to_json()))) == orders


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_nobody_changes_orders_on_the_way(kind):
    assert is_dataclass(kind) and kind.__dataclass_params__.frozen


def test_a_value_stays_as_it_is():
    with pytest.raises(FrozenInstanceError):
        Part(1).number = 2


WHOLE = Whole(Part(1), 0.5, True).to_json()


@pytest.mark.parametrize("given, said", [
    ({**WHOLE, "colour": 1}, "Whole.colour is unknown; expected part, share, flag, words, by_name, keys"),
    ({"part": {"number": 1}, "share": 0.5}, "Whole.flag is missing; expected part, share, flag"),
    ({**WHOLE, "part": {}}, "Whole.part.number is missing; expected number, name"),
    ({**WHOLE, "part": {"number": 1, "nmae": "a"}}, "Whole.part.nmae is unknown; expected number, name"),
    ({**WHOLE, "part": None}, "Whole.part is null; expected an object"),
    ({**WHOLE, "part": {"number": True}}, "Whole.part.number is a boolean; expected an integer"),
    ({**WHOLE, "part": {"number": 1.0}}, "Whole.part.number is a number; expected an integer"),
    ({**WHOLE, "share": "1"}, "Whole.share is a string; expected a number"),
    ({**WHOLE, "flag": 1}, "Whole.flag is an integer; expected a boolean"),
    ({**WHOLE, "words": "abc"}, "Whole.words is a string; expected an array"),
    ({**WHOLE, "words": ["a", None]}, r"Whole.words\[1\] is null; expected a string"),
    ({**WHOLE, "by_name": {"a": [1, "secret"]}}, r"Whole.by_name.a\[1\] is a string; expected an integer$"),
    ({**WHOLE, "keys": {"secret": "x"}}, "Whole.keys is an object that is no Keys$"),
    ([], "Whole is an array; expected an object")], ids=str)
def test_what_was_not_declared_is_refused_by_name(given, said):
    with pytest.raises(ConfigError, match=f"^{said}"):
        Whole.from_json(given)


def test_what_has_a_default_may_be_left_out():
    assert Whole.from_json({"part": {"number": 1}, "share": 1, "flag": False}) == Whole(Part(1), 1.0, False)
    assert NoOrders.from_json({}) == NoOrders()


def test_values_of_the_same_names_are_picked():
    class Options:
        number, name, colour = 3, "three", "red"
    assert pick(Part, Options()) == Part(3, "three")

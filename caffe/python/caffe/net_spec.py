"""Writing nets in Python: `n = NetSpec(); n.y = layers.TanH(n.x); n.to_proto()`; no PyTorch.

`layers.Type(*bottoms, **settings)` makes a layer and returns its tops.  A setting is a field of
the type's own message or of LayerParameter; `ntop` and `in_place` are about the tops.  Names come
from the NetSpec's attributes; a top without one is called after its type, and counted.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any

from caffe.errors import CaffeError
from caffe.proto import caffe_pb2

if TYPE_CHECKING:
    from collections.abc import Callable


def _message_names() -> dict[str, str]:
    """Return which field of LayerParameter holds a type's message: {Pooling: pooling_param}."""
    return {
        field.message_type.name.removesuffix("Parameter"): field.name
        for field in caffe_pb2.LayerParameter.DESCRIPTOR.fields
        if field.message_type is not None and field.name.endswith("_param")
    }


_MESSAGE_NAMES = _message_names()


def _assign(message: Any, name: str, value: Any) -> None:
    """Set a field from a plain value, a dict for a message, or a list of either.

    Raises:
        CaffeError: If there is no such field, or it does not take the value.
    """
    if name not in message.DESCRIPTOR.fields_by_name:
        raise CaffeError(f"{message.DESCRIPTOR.name} has no field '{name}'")
    field = getattr(message, name)
    descriptor = message.DESCRIPTOR.fields_by_name[name]
    repeated = descriptor.is_repeated
    for item in value if repeated and isinstance(value, (list, tuple)) else [value]:
        if isinstance(item, dict) and descriptor.message_type is not None:
            entry = field.add() if repeated else field
            for key, inner in item.items():
                _assign(entry, key, inner)
            continue
        try:
            if repeated:
                field.append(item)
            else:
                setattr(message, name, item)
        except (TypeError, ValueError, AttributeError):
            raise CaffeError(
                f"field '{name}' of {message.DESCRIPTOR.name} cannot be set to {item!r}"
            ) from None


class Top:
    """A blob that a layer makes."""

    def __init__(self, layer: Function, index: int) -> None:
        self.fn = layer
        self.n = index

    def to_proto(self) -> caffe_pb2.NetParameter:
        """Return the net that makes this blob."""
        return to_proto(self)


class Function:
    """A layer: its type, bottoms (`inputs`), settings (`params`) and tops."""

    def __init__(self, type_name: str, inputs: tuple[Top, ...], settings: dict[str, Any]) -> None:
        for place, top in enumerate(inputs):
            if not isinstance(top, Top):
                raise TypeError(f"{type_name} input {place} is not a Top (type is {type(top)})")
        self.type_name = type_name
        self.inputs = inputs
        self.params = dict(settings)
        self.ntop: int = self.params.pop("ntop", 1)
        self.in_place: bool = self.params.pop("in_place", False)
        self.tops = tuple(Top(self, index) for index in range(self.ntop))


class _Writer:
    """Turns layers into messages, bottoms before what reads them."""

    def __init__(self, names: dict[Any, str]) -> None:
        self.names = names
        self.counts: Counter[str] = Counter()
        self.layers: OrderedDict[Function, caffe_pb2.LayerParameter] = OrderedDict()

    def name(self, thing: Top | Function, type_name: str) -> str:
        """Return the thing's name, making one up if it has none."""
        if thing not in self.names:
            self.counts[type_name] += 1
            self.names[thing] = f"{type_name}{self.counts[type_name]}"
        return self.names[thing]

    def write(self, function: Function) -> caffe_pb2.LayerParameter:
        """Return the layer's message."""
        if function in self.layers:
            return self.layers[function]
        bottoms = [self.write(top.fn).top[top.n] for top in function.inputs]
        layer = caffe_pb2.LayerParameter(type=function.type_name, bottom=bottoms)
        if function.in_place:
            layer.top.extend(bottoms)
        else:
            layer.top.extend(self.name(top, function.type_name) for top in function.tops)
        named = function.tops[0] if function.tops else function
        layer.name = self.name(named, function.type_name)
        own = _MESSAGE_NAMES.get(function.type_name)
        for key, value in function.params.items():
            message: Any = layer
            if own and not key.endswith("param"):
                candidate = getattr(layer, own)
                if key in candidate.DESCRIPTOR.fields_by_name:
                    message = candidate
            _assign(message, key, value)
        self.layers[function] = layer
        return layer


class NetSpec:
    """A net in the making; its attributes, and items, are its named tops."""

    tops: OrderedDict[str, Any]

    def __init__(self) -> None:
        super().__setattr__("tops", OrderedDict())

    def __setattr__(self, name: str, value: Any) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        # Not through the attribute: a copy in the making has none yet.
        tops: OrderedDict[str, Any] = self.__dict__.get("tops", OrderedDict())
        if name not in tops:
            raise AttributeError(f"the net has no top '{name}'")
        return tops[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.tops[name] = value

    def __getitem__(self, name: str) -> Any:
        return self.tops[name]

    def __delitem__(self, name: str) -> None:
        del self.tops[name]

    def __delattr__(self, name: str) -> None:
        del self.tops[name]

    def to_proto(self) -> caffe_pb2.NetParameter:
        """Return the net as a message."""
        return _net(_Writer({top: name for name, top in self.tops.items()}), self.tops.values())


def _net(writer: _Writer, tops: Any) -> caffe_pb2.NetParameter:
    for top in tops:
        writer.write(top.fn if isinstance(top, Top) else top)
    return caffe_pb2.NetParameter(layer=writer.layers.values())


def to_proto(*tops: Top) -> caffe_pb2.NetParameter:
    """Return the net that makes these tops, with made-up names."""
    return _net(_Writer({}), tops)


class Layers:
    """`Layers().Type(...)` makes a layer of any type."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def make(*inputs: Top, **settings: Any) -> Any:
            function = Function(name, inputs, settings)
            if function.ntop == 0:
                return function
            return function.tops[0] if function.ntop == 1 else function.tops

        return make


class _Enums:
    def __init__(self, name: str) -> None:
        self._message = getattr(caffe_pb2, f"{name}Parameter")

    def __getattr__(self, name: str) -> int:
        value: int = getattr(self._message, name)
        return value


class Parameters:
    """`Parameters().Pooling.MAX` is an enum's value."""

    def __getattr__(self, name: str) -> _Enums:
        return _Enums(name)


layers = Layers()
params = Parameters()

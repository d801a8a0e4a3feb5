"""Reading pickles of weights from strangers: Paddle's arrays, PyTorch's tensors and whole modules.

Nothing that the file names is imported or called. A module class, known or not, becomes a `Module` that
keeps the attributes it is given; a tensor becomes a `Tensor` that knows where its bytes will be. What
the table doesn't hold is refused by name.
"""
from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Mapping
from typing import IO, Any, ClassVar

from core.common.text import shown
from core.convert.standins import STORAGES, ClassName, Module, Storage, StorageClass, StorageView, Tensor
from core.data.unpickle import ALLOWED, MAX_AXES, MAX_NAME, Refused, Unpickler, name_of

FRAMEWORK_CLASSES = ("torch.nn.modules.", "torch.nn.parallel.data_parallel.",
                     "torch.backends.cudnn.rnn.Unserializable")  # the last: dropout of an LSTM up to 0.4
PADDLE_NAMES = "StructuredToParameterName@@"  # a table beside the tensors
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")  # of dicts that hold a state dict
MAX_TENSORS = 500  # a network of this project has 28


def _natural(*values: Any) -> None:
    for value in values:
        if type(value) is not int or not 0 <= value < 2**62:
            raise Refused(f"a tensor with sizes such as {shown(value) if type(value) is int else type(value).__name__}")


def _tensor(view: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if type(view) is not StorageView or not isinstance(shape, (tuple, list)) or not isinstance(strides, (tuple, list)):
        raise Refused("a tensor without a storage")
    if len(shape) > MAX_AXES:
        raise Refused(f"a tensor of {len(shape)} axes")
    _natural(offset, *shape, *strides)
    return Tensor(view, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *_: Any) -> Tensor:
    if type(data) is not Tensor:
        raise Refused(f"a parameter made of a {type(data).__name__}")
    return data


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    found = {}
    for key, value in pairs:
        name_of(key)  # refuses what can't be one
        found[key] = value
    return found


def _tuple(items: Any = ()) -> tuple[Any, ...]:
    return tuple(items) if isinstance(items, (tuple, list)) else ()


def _nothing(*_: Any) -> None:
    """For things that a module carries and weights don't need."""


TABLE: dict[tuple[str, str], Callable[..., Any]] = {
    **ALLOWED,
    ("collections", "OrderedDict"): _ordered,
    ("builtins", "tuple"): _tuple,  # Paddle: (name, array)
    ("__builtin__", "tuple"): _tuple,
    ("builtins", "set"): _nothing,
    ("__builtin__", "set"): _nothing,
    ("torch", "Size"): _nothing,
    ("torch", "device"): _nothing,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.nn.parameter", "Parameter"): _parameter,  # PyTorch up to 0.3
    ("torch.autograd.variable", "Variable"): _parameter,
    ("torch.nn.backends.thnn", "_get_thnn_function_backend"): _nothing,
}


class WeightsUnpickler(Unpickler):
    """The stripped machine of core.data.unpickle, with empty instances and PyTorch's references to storages.

    classes: names of module classes that may be instantiated, in whatever module they stood; empty: any, of which
    nothing is looked up: a name is a name here, and a call of it is refused.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(Unpickler.dispatch)

    def __init__(self, file: IO[bytes], size: int, storages: dict[str, Storage],
                 classes: Collection[str]) -> None:
        super().__init__(file, size)
        self.storages, self.classes = storages, classes

    def find_class(self, module_name: str, global_name: str) -> Any:
        full = f"{module_name}.{global_name}"
        if (module_name, global_name) in TABLE:
            return TABLE[module_name, global_name]
        if module_name in ("torch", "torch.cuda") and global_name in STORAGES:
            return StorageClass(global_name)
        if full.startswith(FRAMEWORK_CLASSES) or global_name in self.classes or not self.classes:
            return ClassName(full[:200])
        raise Refused(full[:200])

    def load_newobj(self) -> None:
        arguments, named = self.stack.pop(), self.stack.pop()
        if type(named) is not ClassName or arguments != ():
            raise Refused(f"a new {getattr(named, 'name', type(named).__name__)} with arguments")
        self.append(Module(named.name))

    def load_build(self) -> None:
        target = self.stack[-2]
        if type(target) is Module:
            state = self.stack.pop()
            if isinstance(state, dict):
                self.steps.spend(len(state))
                target.attributes.update({name_of(key): value for key, value in state.items()})
            elif not isinstance(state, (str, bytes)):
                raise Refused(f"a {target.name} whose state is a {type(state).__name__}")
        elif type(target) in (Tensor, dict):  # hooks of a parameter, version numbers of a state dict
            self.stack.pop()
        else:
            super().load_build()

    def persistent_load(self, pid: Any) -> Any:
        kind = name_of(pid[0]) if isinstance(pid, tuple) and pid else ""
        if kind == "module" and len(pid) == 4:  # a class with its source, which stays text
            return pid[1]
        if kind != "storage" or len(pid) not in (5, 6) or type(pid[1]) is not StorageClass:
            raise Refused(f"a reference of kind {kind[:80]!r}")
        _, storage_class, key, _, count = pid[:5]
        _natural(count)
        if len(self.storages) > MAX_TENSORS:
            raise Refused(f"more than {MAX_TENSORS} storages")
        storage = self.storages.setdefault(name_of(key), Storage(storage_class, count))
        if (storage.kind, storage.count) != (storage_class, count):
            raise Refused(f"storage {name_of(key)[:80]!r} twice, with different sizes")
        if len(pid) == 6 and pid[5] is not None:
            _, start, length = pid[5]
            _natural(start, length)
            return StorageView(storage, start, length)
        return StorageView(storage, 0, count)

    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BINPERSID[0]] = pickle._Unpickler.dispatch[pickle.BINPERSID[0]]


def unwrapped(value: Any) -> Module | dict[str, Any]:
    """The state dict or whole module in `value`, which may be a checkpoint that holds one of them.

    Raises Refused for anything else.
    """
    for _ in range(3):
        if isinstance(value, Module):
            return value
        if not isinstance(value, dict):
            raise Refused(f"a {type(value).__name__} where a state dict or a module should be")
        value = {name_of(key): item for key, item in value.items()}
        inner = next((value[key] for key in WRAPPERS if isinstance(value.get(key), (dict, Module))), None)
        if inner is None:
            return dict(value)
        value = inner
    raise Refused("a state dict within too many dicts")


def named_tensors(value: Any) -> Mapping[str, Any]:
    """Name -> tensor stand-in, in a state dict or a whole module. Raises Refused for anything else."""
    inner = unwrapped(value)
    if isinstance(inner, dict):
        return {key: _array_of(item) for key, item in inner.items() if key != PADDLE_NAMES}
    found: dict[str, Any] = {}
    _walk(inner, "", found, set())
    return found


def _array_of(item: Any) -> Any:
    """Paddle writes (name, array) where a state dict lies in another dict."""
    return item[1] if isinstance(item, tuple) and len(item) == 2 else item


def _walk(module: Module, prefix: str, found: dict[str, Any], seen: set[int]) -> None:
    """Collect parameters and buffers under their dotted names. A module that holds itself would never end."""
    if id(module) in seen:
        raise Refused(f"module {prefix[:80]!r} twice")
    if len(prefix) > MAX_NAME or len(found) > MAX_TENSORS:
        raise Refused(f"a module of more than {MAX_TENSORS} tensors, or with names of more than {MAX_NAME} characters")
    seen.add(id(module))
    for kind in ("_parameters", "_buffers"):
        found.update({prefix + name: item for name, item in part_of(module, kind).items() if item is not None})
    for name, item in part_of(module, "_modules").items():
        if isinstance(item, Module):
            _walk(item, f"{prefix}{name}.", found, seen)
        elif item is not None:
            raise Refused(f"module {(prefix + name)[:80]!r}, a {type(item).__name__}")


def part_of(module: Module, kind: str) -> dict[str, Any]:
    """Parameters, buffers or modules of a module, by name."""
    part = module.attributes.get(kind, {})
    if not isinstance(part, dict):
        raise Refused(f"{kind} of a {module.name}, a {type(part).__name__}")
    return {name_of(key): item for key, item in part.items()}

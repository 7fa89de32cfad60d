"""Types and shapes of signatures are checked while tests run: jaxtyping's import hook, at a fraction of its cost.

The hook of `--jaxtyping-packages` puts `jaxtyping.jaxtyped` on every function. That binds the arguments of each call to
the signature and checks them twice, which takes a third of the time of tests of tiny models. Here beartype checks each
call once, and a function opens a scope for the letters of shapes only where its signature has shapes.
"""

import dataclasses
import functools
import inspect
import types
import typing

import jaxtyping
from beartype import BeartypeConf, beartype

_jaxtyped = jaxtyping.jaxtyped
# An int is a float, as type checkers have it: JSON writes 2.0 and 2.
_typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def install():
    """Let the import hook decorate by `checked`; to be called before the package is imported."""
    jaxtyping.jaxtyped = lambda *, typechecker: functools.partial(checked, typechecker=typechecker)


def checked(function, typechecker):
    """A function, or a dataclass by its `__init__`, whose calls are checked; `typechecker` is what the hook passes."""
    if inspect.isclass(function):
        if dataclasses.is_dataclass(function) and "__init__" in vars(function):
            setattr(function, "__init__", checked(vars(function)["__init__"], typechecker))  # noqa: B010  (pyright refuses an assignment)
        return function
    hints = {name: _resolved(hint, function.__globals__) for name, hint in function.__annotations__.items()}
    # beartype would check the arguments of a generator when it is first asked, among the letters of another call.
    if inspect.isgeneratorfunction(function) or any("{" in str(hint) for hint in hints.values()):
        return _jaxtyped(function, typechecker=typechecker)
    return _checked(function, hints, in_scope=any(map(has_shapes, hints.values())))


def _resolved(hint, names):
    """A type hint without names in quotation marks; one with a name that only type checkers import may be anything."""
    try:
        place = types.SimpleNamespace(__annotations__={"value": hint})
        return typing.get_type_hints(place, names, include_extras=True)["value"]
    except Exception:
        return typing.Any


def has_shapes(hint):
    """Whether a shape stands anywhere in a type hint."""
    if isinstance(hint, list):
        return any(map(has_shapes, hint))
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(has_shapes, typing.get_args(hint)))


def _checked(function, hints, in_scope):
    written, function.__annotations__ = function.__annotations__, hints
    check = _typechecked(function)
    function.__annotations__ = written
    if check is function:
        return function

    @functools.wraps(function)
    def call(*args, **kwargs):
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if not in_scope:
            return check(*args, **kwargs)
        with _jaxtyped("context"):
            return check(*args, **kwargs)

    return call

"""The user's own reward function, by its dotted path."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

from perception_r1.errors import RecipeError

UserFunction: TypeAlias = Callable[..., Any]
_ARGUMENTS = "(sample, completion, parsed, match)"


@lru_cache(maxsize=64)
def load_function(path: str) -> UserFunction:
    """The user's reward function at ``package.module:name``; the current folder may hold the module.

    Raises:
        RecipeError: no such module or name, a module that fails, or a function that is called with other arguments.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise RecipeError(f"reward function {path!r} must be written 'package.module:name'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise RecipeError(f"reward function {path!r}: its module needs {error.name!r}, which is missing") from error
        sys.path.insert(0, os.getcwd())  # console scripts do not have the current folder on their path  # noqa: PTH109
        try:
            importlib.invalidate_caches()
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as again:
            raise RecipeError(f"reward function {path!r}: there is no module {again.name!r}") from again
        except Exception as again:
            raise _import_error(path, again) from again
        finally:
            sys.path.pop(0)
    except Exception as error:
        raise _import_error(path, error) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise RecipeError(f"reward function {path!r}: module {module_name!r} has no function {name!r}")
    _check_signature(path, found)
    return found  # type: ignore[no-any-return]


def _import_error(path: str, error: Exception) -> RecipeError:
    ours = (__file__, importlib.__file__)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in ours]
    frames = [frame for frame in frames if not frame.filename.startswith("<frozen")]
    where = f"{frames[0].filename}:{frames[0].lineno}: " if frames else ""  # in the module itself, not what it calls
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}: "
    message = getattr(error, "msg", None) or error
    return RecipeError(f"reward function {path!r}: its module fails: {where}{type(error).__name__}: {message}")


def _check_signature(path: str, function: Callable[..., Any]) -> None:
    """Refuse a function that cannot be called as ``fn(sample, completion, parsed, match)``, or that must be awaited."""
    called = f"it is called as fn{_ARGUMENTS} and gives a number or None"
    if inspect.iscoroutinefunction(function):
        raise RecipeError(f"reward function {path!r}: is async; {called}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in functions do not tell
        return
    try:
        signature.bind(*_ARGUMENTS.strip("()").split(", "))
    except TypeError:
        raise RecipeError(f"reward function {path!r}: takes {signature}, but {called}") from None


_ARGUMENTS = "(sample, completion, parsed, match)"

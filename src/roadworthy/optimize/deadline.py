"""A time limit for converters: some never come to an end on some models, and packing must.

Called by `compile.py`. The call runs in a thread of its own; when its time is up, an exception is raised inside it, which ends
any loop that is written in Python, as converters are.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class TimeIsUp(BaseException):
    """Raised inside a call that took too long. Not an Exception, so that the call cannot swallow it by accident."""


class _Call(threading.Thread, Generic[Result]):
    def __init__(self, function: Callable[[], Result]) -> None:
        super().__init__(name="conversion", daemon=True)
        self._function = function
        self.result: list[Result] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result.append(self._function())
        except BaseException as error:  # noqa: BLE001  handed on to the caller's thread, whatever it is
            self.error = error


def within(limit_s: float, function: Callable[[], Result]) -> Result:
    """What `function` returns.

    Raises:
        TimeoutError: it took longer than `limit_s` seconds.
        BaseException: what `function` raises.
    """
    call: _Call[Result] = _Call(function)
    call.start()
    call.join(limit_s)
    if call.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(call.ident or 0), ctypes.py_object(TimeIsUp))
        call.join(limit_s)
        raise TimeoutError(f"it took longer than {limit_s:g} s")
    if call.error is not None:
        raise call.error
    return call.result[0]

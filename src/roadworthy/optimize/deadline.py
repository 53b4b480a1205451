"""A time limit for converters, some of which never end for some models.

Called by `compile.py`. The call runs in its own thread. At the time limit, an exception is raised inside that thread, which ends
any loop written in Python, as converters are.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class TimeIsUp(BaseException):
    """Raised inside a call that takes too long. Not an Exception, so that the call does not catch it by accident."""


class _Call(threading.Thread, Generic[Result]):
    def __init__(self, function: Callable[[], Result]) -> None:
        super().__init__(name="conversion", daemon=True)
        self._function = function
        self.result: list[Result] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result.append(self._function())
        except BaseException as error:  # noqa: BLE001  any exception is raised again in the caller's thread
            self.error = error


def within(limit_s: float, function: Callable[[], Result]) -> Result:
    """Call `function` with a time limit in seconds, and return its result.

    Raises:
        TimeoutError: it took longer than `limit_s` seconds.
        BaseException: any exception of `function`.
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

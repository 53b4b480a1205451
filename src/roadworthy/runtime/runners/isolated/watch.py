"""The runner's watch: a thread that notices when a load or a run takes too long, even while the model's thread is stuck.

A model that also holds the GIL stops this thread too. Then the agent's keeper kills the runner: it reads the same clock in the
state file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from roadworthy.runtime.runners.isolated.state import LOADING, StateWriter

_LOOK_S = 0.5


class Watch:
    """Looks several times within each limit.

    Args:
        state: shows when the current load or run began.
        limits_s: how long a load and how long a run may take.
        on_load_timeout, on_hang: called in the watch's thread, once.
    """

    def __init__(
        self,
        state: StateWriter,
        limits_s: tuple[float, float],
        on_load_timeout: Callable[[], None],
        on_hang: Callable[[], None],
    ) -> None:
        self._state = state
        self._load_s, self._hang_s = limits_s
        self._on_load_timeout = on_load_timeout
        self._on_hang = on_hang
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._over.set()

    def _look(self) -> None:
        pause = max(0.01, min(_LOOK_S, self._load_s / 4, self._hang_s / 4))
        while not self._over.wait(pause):
            loading = self._state.state == LOADING
            if self._state.busy_s > (self._load_s if loading else self._hang_s):
                (self._on_load_timeout if loading else self._on_hang)()
                return

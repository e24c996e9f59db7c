"""Install a process-wide patch while any block of any thread needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager


class SharedPatch:
    """Count the blocks that need a patch: the first installs it, the last removes it, in whatever order they end.

    Args:
        patch: makes the context manager that installs the patch.
    """

    def __init__(self, patch: Callable[[], AbstractContextManager[None]]) -> None:
        self._patch = patch
        self._lock = threading.Lock()
        self._undo = ExitStack()
        self._users = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Keep the patch installed inside the block."""
        with self._lock:
            if self._users == 0:
                self._undo.enter_context(self._patch())
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._undo.close()

"""An event loop for one thread without sockets: `asyncio.run` works with timers, tasks and queues.
Python's own loops wake themselves through a pair of sockets, which no sandbox has."""

import asyncio
import selectors
import time


class _Sleeper(selectors.BaseSelector):
    """Waits for time alone."""

    def select(self, timeout=None):
        if timeout is None:
            raise RuntimeError("nothing is left that could wake the program up")
        if timeout > 0:
            time.sleep(timeout)
        return []

    def get_map(self):
        return {}

    def register(self, fileobj, events, data=None):
        raise OSError("a sandbox has no sockets: use tally.fetch")

    def unregister(self, fileobj):
        raise KeyError(fileobj)


class Loop(asyncio.SelectorEventLoop):
    def __init__(self):
        super().__init__(_Sleeper())

    def _make_self_pipe(self):
        pass

    def _close_self_pipe(self):
        pass

    def _write_to_self(self):
        pass


asyncio.EventLoop = Loop
asyncio.events.new_event_loop = asyncio.new_event_loop = Loop

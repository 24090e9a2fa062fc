"""One child process that calls the methods of one object for its parent.

`python -m meowtea.envs.worker FD` is the child's side. A fresh interpreter rather than a fork, so that the
parent's threads and open devices do no harm, and rather than multiprocessing's spawn, so that the parent's
main program is not imported a second time. The child dies with its parent, whatever the parent dies of.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from typing import Any

from meowtea.errors import MeowteaError

START_SECONDS = 120.0  # an interpreter with its imports on a loaded machine; usually about one second
LENGTH = struct.Struct("!Q")


class WorkerDied(Exception):
    """The process is gone: killed, crashed or unable to start."""


class WorkerTimeout(Exception):
    """No answer within the deadline: the process hangs and must be killed."""


class CallFailed(Exception):
    """The method raised in the child. `lasting`: trying again cannot help (a damaged file, say)."""

    def __init__(self, message: str, lasting: bool):
        super().__init__(message)
        self.lasting = lasting


class Worker:
    """The parent's side. Blocking and for one thread at a time; start-up overlaps with whatever comes next."""

    def __init__(self, target: object):
        """`target`: any picklable object whose class can be imported; its methods are what can be called."""
        start = pickle.dumps((sys.path, pickle.dumps(target)))
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        # A session of its own: Ctrl-C in the terminal reaches the parent only, which then ends its workers.
        # A fixed hash seed: what the child makes must not depend on the order of Python's sets.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "meowtea.envs.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            start_new_session=True,
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        theirs.close()
        self._ready = False
        self._start = start

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, method: str, *arguments: Any, timeout: float | None = None) -> Any:
        """Call a method of the target; `timeout` in seconds counts from when the child can begin.

        Raises WorkerDied, WorkerTimeout (both leave the worker unusable) or CallFailed (it goes on).
        """
        if not self._ready:
            self._exchange(self._start, START_SECONDS)
            self._ready = True
        return self._exchange(pickle.dumps((method, arguments)), timeout)

    def _exchange(self, message: bytes, timeout: float | None) -> Any:
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(LENGTH.pack(len(message)) + message)
            answer = receive(self._socket, deadline)
        except TimeoutError:
            raise WorkerTimeout(f"no answer within {timeout:g} seconds") from None
        except OSError:
            raise WorkerDied(f"the worker process died{self._last_words()}") from None
        if answer is None:
            raise WorkerDied(f"the worker process died{self._last_words()}")
        kind, *content = pickle.loads(answer)
        if kind == "failed":
            raise CallFailed(*content)
        return content[0]

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def kill(self) -> None:
        """End the process at once; it holds nothing that must be saved. From any thread: a call under way fails."""
        self._process.kill()

    def close(self) -> None:
        """kill, and give everything back. Only from the thread that calls, or when that has ended; twice is fine."""
        self.kill()
        self._process.wait()
        self._socket.close()
        self._stderr.close()


def receive(connection: socket.socket, deadline: float | None) -> bytes | None:
    """One length-prefixed message, None at the end of the stream; TimeoutError past the (monotonic) deadline."""
    buffer = bytearray()
    wanted = LENGTH.size
    header = True
    while len(buffer) < wanted:
        if deadline is not None:
            connection.settimeout(max(1e-3, deadline - time.monotonic()))
        piece = connection.recv(min(1 << 20, wanted - len(buffer)))
        if not piece:
            return None
        buffer += piece
        if header and len(buffer) == wanted:
            wanted, header = LENGTH.unpack(buffer)[0], False
            buffer.clear()
    return bytes(buffer)


def die_with_parent(parent: int) -> None:
    """A closed connection ends an idle child; this ends one that is in the middle of a call."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    threading.Thread(target=die_with_parent, args=(parent,), daemon=True).start()
    connection = socket.socket(fileno=int(sys.argv[1]))
    target = None
    while (message := receive(connection, None)) is not None:
        try:
            if target is None:
                sys.path[:], pickled = pickle.loads(message)
                target = pickle.loads(pickled)
                answer = pickle.dumps(("returned", None))
            else:
                method, arguments = pickle.loads(message)
                answer = pickle.dumps(("returned", getattr(target, method)(*arguments)))
        except Exception as error:  # whatever it is belongs to the caller, on the other side
            if not isinstance(error, MeowteaError):
                traceback.print_exc()
            text = str(error) if isinstance(error, MeowteaError) else f"{type(error).__name__}: {error}"
            answer = pickle.dumps(("failed", text, isinstance(error, MeowteaError)))
        connection.sendall(LENGTH.pack(len(answer)) + answer)


if __name__ == "__main__":
    main()

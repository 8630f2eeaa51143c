"""A group of processes on one machine, with nothing but the standard library.

Rank 0 is the process that makes a `Workers`. It starts the others as new processes of Python: a
fork would copy the memory of threads without the threads, and the kernels have threads.

Large arrays are in memory that all processes map. This memory has no name in the file system (on
Linux, it is an anonymous file of the kernel, elsewhere a temporary file without a name). So the
memory is freed when the last process ends, in whatever way, and the size of ``/dev/shm`` does not
limit it. Small values are sent over sockets, one between rank 0 and each worker. If a process ends,
its socket closes: rank 0 then raises an error that names the rank, and a worker ends at once.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from signal import Signals
from typing import Any

import numpy as np
from numpy import ndarray

from npgpt.errors import UserError
from npgpt.parallel.group import (
    Group,
    RankError,
    add_in_order,
    describe,
    ignore_signals,
    part_of,
    signals_wait,
)

PATIENCE = 0.002  # seconds that a process looks for a message before it sleeps; waking takes longer
GRACE = 5.0  # seconds that a process has to end by itself
WHERE = "NPGPT_WORKER"  # the variable that tells a worker its place


class Workers(Group):
    """The group as rank 0 sees it: it starts the workers, and ends them.

    Parameters
    ----------
    size : int
        The number of processes, including this one.
    work : str
        The function that a worker calls, as ``module:function``; its argument is the group.
    variables : dict of str to str
        Variables that are added to the environment of each worker.

    Raises
    ------
    UserError
        If the system cannot send file descriptors over sockets, as on Windows.
    """

    rank = 0
    is_first_here = True

    def __init__(self, size: int, work: str, variables: dict[str, str]) -> None:
        if not hasattr(socket, "send_fds"):
            raise UserError("--workers needs Linux or macOS: leave it out on this system")
        self.size = size
        self.vectors: list[ndarray] = []
        self.channels: list[Channel] = []
        self.processes: list[subprocess.Popen] = []
        self.errors: list[Any] = []  # what each worker writes to standard error
        seen, self.lifeline = os.pipe()  # workers read from it, until this process has ended
        path = os.pathsep.join(path or os.getcwd() for path in sys.path)
        try:
            for rank in range(1, size):
                here, there = socket.socketpair()
                with there:
                    self.channels.append(Channel(here, rank))
                    place = f"{there.fileno()} {seen} {rank} {size} {work}"
                    error = tempfile.TemporaryFile()
                    self.errors.append(error)
                    with signals_wait():
                        process = subprocess.Popen(
                            # -P: modules of the current folder must not replace this process's
                            [sys.executable, "-P", "-c", f"from {__name__} import main; main()"],
                            env={**os.environ, **variables, "PYTHONPATH": path, WHERE: place},
                            pass_fds=[there.fileno(), seen],
                            stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL,
                            stderr=error,
                            process_group=0,  # so that Ctrl-C in a terminal reaches rank 0 alone
                        )
                        self.processes.append(process)
        except BaseException:
            self.close(is_failure=True)
            raise
        finally:
            os.close(seen)

    def gather(self, value: Any) -> list[Any]:
        """Return the value of each rank; a barrier."""
        values = [value, *(self.receive(channel) for channel in self.channels)]
        self.send(values)
        return json.loads(json.dumps(values))  # as the workers get them

    def broadcast(self, value: Any = None) -> Any:
        """Send a value to all workers."""
        self.send(value)
        return value

    def share(self, n: int, dtype: np.dtype) -> ndarray:
        """Make memory, and send it to all workers."""
        size = n * dtype.itemsize
        with shared_memory(size) as descriptor:
            for channel in self.channels:
                with channel.watched(self.lost):
                    socket.send_fds(channel.socket, [b"memory"], [descriptor])
            return map_memory(descriptor, size, dtype)

    def own(self, n: int, dtype: np.dtype) -> ndarray:
        """Return a vector of this rank."""
        self.vectors = [self.share(n, dtype) for _ in range(self.size)]
        return self.vectors[self.rank]

    def add_up(self, vector: ndarray) -> None:
        """Add up this rank's part of all vectors, once all are written."""
        self.gather(None)
        part = part_of(len(vector), self.rank, self.size)
        add_in_order([each[part] for each in self.vectors], vector[part])

    def complete(self, vector: ndarray) -> None:
        """Wait for the others: all write to the same memory."""
        self.gather(None)

    # ---- messages

    def send(self, value: Any) -> None:
        """Send a value to all workers."""
        message = pack(value)
        for channel in self.channels:
            with channel.watched(self.lost):
                channel.socket.sendall(message)

    def receive(self, channel: Channel) -> Any:
        """Return the value that a worker sends.

        Raises
        ------
        RankError
            If the worker has ended, or sends the error by which it ends.
        """
        with channel.watched(self.lost):
            value = channel.receive()
        if isinstance(value, dict):  # the `failure` of a worker
            raise RankError(f"rank {channel.rank}: {value['failure']}")
        return value

    def lost(self, rank: int) -> RankError:
        """Return the error that says how a worker ended."""
        process, file = self.processes[rank - 1], self.errors[rank - 1]
        try:
            code = process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return RankError(f"rank {rank} does not answer any more")
        if code < 0:
            names = {signal.value: signal.name for signal in Signals}  # not of all numbers
            return RankError(f"rank {rank} was killed by {names.get(-code, f'signal {-code}')}")
        file.seek(0)
        lines = file.read().decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "no reason is known")
        return RankError(f"rank {rank} ended with exit code {code}: {last}")

    def close(self, is_failure: bool) -> None:
        """End the workers: they end when their sockets close, or are killed."""
        if self.lifeline < 0:
            return
        for channel in self.channels:
            channel.socket.close()
        end = time.monotonic() + (0 if is_failure else GRACE)
        for process in self.processes:
            try:
                process.wait(max(0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for file in self.errors:
            file.close()
        os.close(self.lifeline)
        self.lifeline = -1


class Worker(Group):
    """The group as a worker sees it."""

    is_first_here = False

    def __init__(self, channel: Channel, rank: int, size: int) -> None:
        self.channel, self.rank, self.size = channel, rank, size
        self.vectors: list[ndarray] = []

    def gather(self, value: Any) -> list[Any]:
        """Return the value of each rank; a barrier."""
        self.channel.socket.sendall(pack(value))
        return self.channel.receive()

    def broadcast(self, value: Any = None) -> Any:
        """Return the value that rank 0 sends."""
        return self.channel.receive()

    def share(self, n: int, dtype: np.dtype) -> ndarray:
        """Map the memory that rank 0 made."""
        content, descriptors, _, _ = socket.recv_fds(self.channel.socket, 6, 1)
        if not content:
            raise EOFError
        (descriptor,) = descriptors
        try:
            return map_memory(descriptor, n * dtype.itemsize, dtype)
        finally:
            os.close(descriptor)

    own = Workers.own
    add_up = Workers.add_up
    complete = Workers.complete

    def close(self, is_failure: bool) -> None:
        """Close the socket."""
        self.channel.socket.close()


# ---- messages


class Channel:
    """One end of the socket between rank 0 and a worker; `rank` is that of the worker."""

    def __init__(self, end: socket.socket, rank: int) -> None:
        self.socket, self.rank = end, rank

    @contextmanager
    def watched(self, lost: Callable[[int], Exception] | None = None) -> Iterator[None]:
        """Raise what `lost` returns if the process at the other end is gone."""
        try:
            yield
        except (EOFError, ConnectionError):
            raise (lost(self.rank) if lost else EOFError()) from None

    def receive(self) -> Any:
        """Return the next value.

        Raises
        ------
        EOFError
            If the process at the other end has ended.
        """
        self.wait()
        (size,) = struct.unpack("<Q", self.read(8))
        return json.loads(self.read(size))

    def wait(self) -> None:
        """Look for a message for some time; after this, reading sleeps until one comes."""
        end = time.perf_counter() + PATIENCE
        while time.perf_counter() < end:
            try:
                self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
                return
            except BlockingIOError:
                os.sched_yield()  # the other process may need this processor

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        content = bytearray()
        while len(content) < size:
            found = self.socket.recv(size - len(content))
            if not found:
                raise EOFError
            content += found
        return bytes(content)


def pack(value: Any) -> bytes:
    """Return a value as it is sent: its size, and its text as JSON."""
    content = json.dumps(value).encode()
    return struct.pack("<Q", len(content)) + content


# ---- memory


@contextmanager
def shared_memory(size: int) -> Iterator[int]:
    """Make a file without a name, of zeros; the block gets its descriptor.

    Raises
    ------
    UserError
        If there is no room.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("npgpt", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        if hasattr(os, "posix_fallocate"):  # reserved here: a write to missing memory would kill
            os.posix_fallocate(descriptor, 0, max(1, size))
        else:
            os.ftruncate(descriptor, max(1, size))
        yield descriptor
    except OSError as error:
        raise UserError(
            f"{size / 1e9:,.1f} GB of shared memory cannot be reserved: {error.strerror or error}. "
            "Lower --workers or the model's size"
        ) from None
    finally:
        os.close(descriptor)


def map_memory(descriptor: int, size: int, dtype: np.dtype) -> ndarray:
    """Return the contents of a file as a vector, which all processes that map it share."""
    return np.frombuffer(mmap.mmap(descriptor, max(1, size)), dtype, size // dtype.itemsize)


# ---- what a worker does


def end_with_rank_0(lifeline: int) -> None:
    """End this process as soon as rank 0 has ended, even during a computation."""
    os.read(lifeline, 1)  # which returns when no process can write to it any more
    os._exit(1)


def main() -> None:
    """Do the work that the environment names; if an error stops it, send the error to rank 0."""
    *numbers, work = os.environ.pop(WHERE).split()
    descriptor, lifeline, rank, size = map(int, numbers)
    ignore_signals()
    threading.Thread(target=end_with_rank_0, args=(lifeline,), daemon=True).start()
    end = socket.socket(fileno=descriptor)
    try:
        module, _, function = work.partition(":")
        getattr(import_module(module), function)(Worker(Channel(end, rank), rank, size))
    except EOFError:  # rank 0 has ended
        pass
    except Exception as error:
        with suppress(OSError):
            end.sendall(pack({"failure": describe(error)}))
            while end.recv(4096):  # until rank 0 has read it, and ended
                pass
    os._exit(0)  # without a wait for threads


if __name__ == "__main__":
    main()

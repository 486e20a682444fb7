"""The processes of one job that torchrun has started: which one this is, and what they tell each other.

torchrun starts, watches and restarts the processes; textgen starts none. Decisions and messages are JSON in torchrun's
key-value store; tensors go through a process group of `torch.distributed` (gloo, with nccl on GPUs). A process that is
alone has neither, and every method works for it.

Every process raises the counter of its heartbeat in the store, so that the others can tell one that works long from
one that has stopped. A process whose launcher is gone asks for a stop, and ends itself if that takes too long.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from textgen.errors import TextgenError
from textgen.signals import TERMINATED

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

DEFAULT_TIMEOUT = 600.0
"""The default number of seconds to wait for another process."""

BEAT_SECONDS, ORPHAN_SECONDS, REPORT_SECONDS = 1.0, 7.0, 4.0
"""The time between heartbeats, the time that a process whose launcher is gone has to save and end, and the time to
wait for the other processes to say what happened to them."""

CONNECT_SECONDS = 3.0
"""How long to try to reach the launcher's store, which is there before any process that it starts."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.0005, 0.02
"""The pause between two looks into the store, in seconds: short at first, then longer."""

COMMUNICATION_ERRORS = ("gloo", "nccl", "connection", "timed out", "timeout", "socket", "broken pipe", "process group")
"""Words in the errors of a process group that has lost a process."""

Result = TypeVar("Result")
Item = TypeVar("Item")


class ElsewhereError(TextgenError):
    """Another process of the job has failed, and reports it itself."""


class World:
    """All processes of a job, seen by one of them: `rank` of `size`, and `local_rank` of `local_size` on this machine.

    `orphaned` is set when the launcher is gone: the job should save and end.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1, launched: bool = False
    ) -> None:
        """`launched` says whether a launcher has started this process, so that there is a store."""
        self.rank, self.size = rank, size
        self.local_rank, self.local_size = local_rank, local_size
        self.orphaned = False
        self.timeout = DEFAULT_TIMEOUT
        self._launched = launched
        self._store: TCPStore | None = None
        self._attempt = ""
        self._turn = 0
        self._grouped = self._broken = False
        self._left = threading.Event()

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which writes all files and shows the progress."""
        return self.rank == 0

    def lanes(self, batch: int) -> slice:
        """The lanes of a batch that this process computes: nearly equal, contiguous parts by rank."""
        return slice(*parts(batch, self.size)[self.rank])

    def threads(self, cores: int) -> int:
        """The share of the cores of this machine for each of its processes."""
        return max(1, cores // self.local_size)

    # --- messages, through the store

    def connect(self, timeout: float | None = None) -> None:
        """Connect to the launcher's store, once; `timeout` is how long to wait for another process, in seconds."""
        self.timeout = self.timeout if timeout is None else timeout
        if self._store is not None or self._broken or not self._launched:
            return
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self._attempt = f"attempt/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/"
        hosts = self.leads and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        limit = timedelta(seconds=CONNECT_SECONDS)
        with self._talking():
            self._store = TCPStore(host, port, None, hosts, limit, wait_for_workers=False)
            beats = TCPStore(host, port, None, False, limit, wait_for_workers=False)
        heart = threading.Thread(target=self._beat, args=(beats, os.getppid()), daemon=True)
        heart.start()
        atexit.register(self._leave, heart)

    def _beat(self, store: TCPStore, launcher: int) -> None:
        """Raise the counter of this process, until its launcher is gone; then end the process if it does not."""
        while os.getppid() == launcher:
            with suppress(RuntimeError):
                store.add(f"{self._attempt}beat/{self.rank}", 1)
            if self._left.wait(BEAT_SECONDS):
                return
        self.orphaned = True
        if not self._left.wait(ORPHAN_SECONDS):
            os._exit(TERMINATED)

    def _leave(self, heart: threading.Thread) -> None:
        """End the connections of this process, before the interpreter ends."""
        self._left.set()
        heart.join(ORPHAN_SECONDS)
        if self._broken:  # threads of the process group still wait, and would abort the process
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        if self._grouped:
            import torch.distributed as dist

            self._wait_for_leaving()
            dist.destroy_process_group()

    def _wait_for_leaving(self) -> None:
        """Wait a little until all processes leave: one that still receives must not find the connection closed."""
        assert self._store is not None
        until = time.monotonic() + REPORT_SECONDS
        with suppress(RuntimeError):
            self._store.add(f"{self._attempt}leaving", 1)
            while self._store.add(f"{self._attempt}leaving", 0) < self.size and time.monotonic() < until:
                if self._store.check([f"{self._attempt}failed"]):
                    return
                time.sleep(LONGEST_PAUSE)

    def remember(self, folder: str) -> None:
        """Keep the folder of the run while the launcher lives, so that restarted processes continue it."""
        if self._store is not None and self.leads:
            with self._talking():
                self._store.set("run", folder)

    def remembered(self) -> str | None:
        """The folder of the run that processes of this job have begun before they were restarted."""
        if self._store is None:
            return None
        with self._talking():
            return self._store.get("run").decode() if self._store.check(["run"]) else None

    def share(self, decide: Callable[[], Any]) -> Any:
        """What rank 0 decides, in every process: a JSON value. Raises ElsewhereError if it fails there."""
        if self.size == 1:
            return decide()
        key = self._next_key()
        if self.leads:
            self._put(key, decide())
        return self._take(key, 0)

    def exchange(self, value: Any) -> list[Any]:
        """The values of all processes, by rank: JSON values."""
        if self.size == 1:
            return [value]
        key = self._next_key()
        self._put(f"{key}/{self.rank}", value)
        return [self._take(f"{key}/{rank}", rank) for rank in range(self.size)]

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """The result of `work`, which may fill a cache on this machine: its first process works before the others."""
        if self.size == 1:
            return work()
        result = None if self.local_rank else work()
        self.exchange(None)
        result = work() if self.local_rank else result
        self.exchange(None)
        return result  # type: ignore[return-value]

    def divided(self, blocks: Iterable[Item], work: Callable[[Item], Any]) -> Iterator[Any]:
        """The results of `work` for each block, JSON values, in order: each is computed by one process, and rank 0 gets
        all of them. The others get none."""
        if self.size == 1:
            yield from map(work, blocks)
            return
        turn = self._next_key()
        for number, block in enumerate(blocks):
            owner, key = number % self.size, f"{turn}/{number}"
            if owner == self.rank:
                value = work(block)
                if self.leads:
                    yield value
                else:
                    self._put(key, value)
            elif self.leads:
                yield self._take(key, owner)
                self._forget(key)

    def claims(self, number: int) -> Iterator[int]:
        """The numbers below `number` that this process is to work on: each is claimed by whichever is free."""
        if self.size == 1:
            yield from range(number)
            return
        assert self._store is not None
        key = self._next_key()
        while True:
            with self._talking():
                claimed = self._store.add(key, 1) - 1
            if claimed >= number:
                return
            yield claimed

    def ask_to_stop(self) -> None:
        """Ask all processes to end what they are doing."""
        if self._store is not None:
            with self._talking():
                self._store.set(f"{self._attempt}stop", "1")

    @property
    def is_asked_to_stop(self) -> bool:
        """Whether any process has asked all to end, or the launcher is gone."""
        if self._store is None:
            return False
        with self._talking():
            return self.orphaned or bool(self._store.check([f"{self._attempt}stop"]))

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Raise TextgenError, naming the process and the fact, unless all processes have the same facts."""
        first, *others = self.exchange(dict(facts))
        for rank, found in enumerate(others, start=1):
            for name in {**first, **found}:
                if found.get(name) != first.get(name):
                    raise TextgenError(
                        f"rank {rank} has {name} {found.get(name)!r}, rank 0 has {first.get(name)!r}.",
                        hint="all processes need the same textgen, packages, corpus and options.",
                    )

    def _next_key(self) -> str:
        self.connect()
        self._turn += 1
        return f"{self._attempt}turn/{self._turn}"

    def _forget(self, key: str) -> None:
        assert self._store is not None
        with self._talking():
            self._store.delete_key(key)

    def _put(self, key: str, value: Any) -> None:
        assert self._store is not None
        with self._talking():
            self._store.set(key, json.dumps(value))

    def _take(self, key: str, rank: int) -> Any:
        """The value that a process will put or has put. Raises TextgenError if that process has stopped."""
        assert self._store is not None
        pause, beat, seen = SHORTEST_PAUSE, -1, time.monotonic()
        with self._talking():
            while not self._store.check([key]):
                if self._store.check([f"{self._attempt}failed"]):
                    raise ElsewhereError("another process has failed.")
                if (now := self._store.add(f"{self._attempt}beat/{rank}", 0)) != beat:
                    beat, seen = now, time.monotonic()
                elif time.monotonic() - seen > self.timeout:
                    raise TextgenError(f"rank {rank} has not answered for {self.timeout:g} seconds.")
                time.sleep(pause)
                pause = min(LONGEST_PAUSE, 1.5 * pause)
            return json.loads(self._store.get(key))

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Errors of the store as a sentence."""
        try:
            yield
        except TextgenError:
            raise
        except RuntimeError as error:
            self._broken = True
            raise TextgenError("the connection to torchrun's store is lost: its process has ended.") from error

    # --- failures

    @contextmanager
    def taking_part(self) -> Iterator[None]:
        """A block in which an error of this process ends the others, and the errors of others end this one."""
        try:
            yield
        except ElsewhereError:
            raise
        except Exception as error:
            if self._is_lost(error):
                raise self._lost("the work") from error
            if self.is_said_elsewhere(str(error)):
                raise ElsewhereError(str(error)) from error
            raise

    def _is_lost(self, error: Exception) -> bool:
        """Whether this is the error of a process group that has lost a process."""
        words = str(error).lower()
        return (
            self._grouped
            and not isinstance(error, TextgenError)
            and any(word in words for word in COMMUNICATION_ERRORS)
        )

    def is_said_elsewhere(self, message: str) -> bool:
        """Tell the others that this process fails; returns whether rank 0 says the same."""
        if self.size == 1:
            return False
        with suppress(RuntimeError, TextgenError):
            self.connect()
            if self._store is None:
                return False
            self._store.set(f"{self._attempt}failed/{self.rank}", message)
            self._store.set(f"{self._attempt}failed", "1")
            return not self.leads and self._said(0) == message
        return False

    def _said(self, rank: int) -> str | None:
        """The message of a process that fails, too, within a few seconds."""
        assert self._store is not None
        key, until = f"{self._attempt}failed/{rank}", time.monotonic() + REPORT_SECONDS
        while not self._store.check([key]) and time.monotonic() < until:
            time.sleep(LONGEST_PAUSE)
        return self._store.get(key).decode() if self._store.check([key]) else None

    @contextmanager
    def communicating(self, step: int) -> Iterator[None]:
        """A block that exchanges tensors in a step. Raises TextgenError naming the processes that did not take part."""
        try:
            yield
        except RuntimeError as error:
            if not self._is_lost(error):
                raise
            raise self._lost(f"step {step:,}") from error

    def _lost(self, what: str) -> TextgenError:
        """The error for what some processes did not take part in: those that do not say so, too."""
        assert self._store is not None
        self._broken = True
        present: set[int] = set()
        with suppress(RuntimeError):
            self._store.set(f"{self._attempt}lost/{self.rank}", what)
            until = time.monotonic() + REPORT_SECONDS
            while len(present) < self.size and time.monotonic() < until:
                if self._store.check([f"{self._attempt}failed"]):
                    return ElsewhereError("another process has failed.")
                keys = {rank: f"{self._attempt}lost/{rank}" for rank in range(self.size)}
                present = {rank for rank, key in keys.items() if self._store.check([key])}
                time.sleep(LONGEST_PAUSE)
        missing = [rank for rank in range(self.size) if rank not in present]
        if not missing or self.rank != min(present, default=self.rank):
            return ElsewhereError("another process reports the lost connection.")
        names = " and ".join(f"rank {rank}" for rank in missing)
        return TextgenError(
            f"{names} did not take part in {what} within {self.timeout:g} seconds, or ended.",
            hint="the last checkpoint is intact; torchrun --max-restarts continues from it.",
        )

    # --- tensors, through the process group

    def join(self, device: str) -> None:
        """Set up the process group, once; `device` is that of the gradients."""
        if self.size == 1 or self._grouped:
            return
        import torch.distributed as dist
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]

        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        with self._talking():
            assert self._store is not None
            store = PrefixStore(f"{self._attempt}group", self._store)
            limit = timedelta(seconds=self.timeout)
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=limit)
        self._grouped = True

    def total(self, numbers: Tensor) -> Callable[[], Tensor]:
        """Begin to sum a tensor over all processes; the result is called for the sum, which `numbers` holds, too."""
        if self.size == 1:
            return lambda: numbers
        import torch.distributed as dist

        work = dist.all_reduce(numbers, async_op=True)
        assert work is not None

        def waited() -> Tensor:
            work.wait()
            return numbers

        return waited

    def longest(self, seconds: float) -> float:
        """The longest of the times of all processes."""
        if self.size == 1:
            return seconds
        import torch
        import torch.distributed as dist

        numbers = torch.tensor([seconds], dtype=torch.float64)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return numbers.item()

    def gathered(self, lanes: Tensor, batch: int) -> Tensor:
        """The lanes (B, ...) of all processes, in rank 0; in others only their own."""
        if self.size == 1:
            return lanes
        import torch
        import torch.distributed as dist

        sizes = [len(range(batch)[World(rank, self.size).lanes(batch)]) for rank in range(self.size)]
        padded = lanes.new_zeros((max(sizes), *lanes.shape[1:])).cpu()
        padded[: len(lanes)] = lanes
        found = [torch.empty_like(padded) for _ in sizes] if self.leads else None
        dist.gather(padded, found)
        return lanes if found is None else torch.cat([part[:size] for part, size in zip(found, sizes, strict=True)])

    def broadcast(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of rank 0, on the CPU, in every process."""
        if self.size == 1:
            return dict(tensors)
        import torch
        import torch.distributed as dist

        kinds = {name: [list(each.shape), str(each.dtype).removeprefix("torch.")] for name, each in tensors.items()}
        received = {}
        for name, (shape, dtype) in self.share(lambda: kinds).items():
            empty = torch.empty(shape, dtype=getattr(torch, dtype))
            received[name] = tensors[name].cpu().contiguous() if self.leads else empty
            dist.broadcast(received[name], 0)
        return received


def parts(batch: int, number: int) -> list[tuple[int, int]]:
    """The first and last lane of each of `number` nearly equal parts of a batch."""
    edges = [round(part * batch / number) for part in range(number + 1)]
    return list(pairwise(edges))


def rank() -> int:
    """The rank of this process; 0 for one that is alone."""
    return int(os.environ.get("RANK", "0")) if is_launched() else 0


def is_launched() -> bool:
    """Whether a launcher such as torchrun has started this process as one of a job."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def world() -> World:
    """The job of this process, as torchrun's environment describes it; in a block of `alone`, that of one process."""
    job = _job()
    return World(local_size=job.local_size) if _working_alone.get() else job


@contextmanager
def alone() -> Iterator[None]:
    """A block in which this process works by itself, for example trains a model that the others know nothing of."""
    before = _working_alone.set(True)
    try:
        yield
    finally:
        _working_alone.reset(before)


@cache
def _job() -> World:
    if not is_launched():
        return ALONE
    given = {"rank": "RANK", "size": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "local_size": "LOCAL_WORLD_SIZE"}
    numbers = {name: int(os.environ[variable]) for name, variable in given.items() if variable in os.environ}
    return World(**numbers, launched=True)


_working_alone: ContextVar[bool] = ContextVar("working_alone", default=False)

ALONE = World()
"""The job of a single process."""

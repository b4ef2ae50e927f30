"""The adaptive batcher: gathers what is waiting and never waits when idle.

A free slot takes work at once; while all slots are busy, items gather and the next batch is as large as its limits
allow. Items of like length go together, because padding a short one to a long one's length costs more than running
them apart. Every item gets its own outcome: one that breaks its batch fails alone, one whose caller has gone is
dropped before it runs, and when more waits than can be answered in time, new ones are turned away.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from errors import FollowupError, InternalFault, Overloaded
from runners.runner import Prediction, Runner

Item = TypeVar("Item")

_BULK_PATIENCE_S: Final = 2.0  # after that a bulk item goes by its age, as an interactive one does


@dataclass(frozen=True, slots=True)
class Limits:
    """What one batch and the queue may hold; tokens are padded tokens (longest item times items)."""

    batch_items: int = 64
    batch_tokens: int = 4096
    queue_items: int = 512
    queue_tokens: int = 262_144
    slots: int = 2  # batches in the pool at once
    long_tokens: int = 1024  # items from here on leave one slot to shorter ones


@dataclass(frozen=True, slots=True)
class Inferred:
    """A prediction and the time its batch took in the model, milliseconds."""

    prediction: Prediction
    inference_time_ms: float


@dataclass(slots=True, eq=False)
class _Ticket(Generic[Item]):
    number: int
    item: Item
    cost: int
    bulk: bool
    queued_at: float
    outcome: asyncio.Future[Inferred]


class Batcher(Generic[Item]):
    """One loaded model and its queue. All methods belong to one event loop."""

    def __init__(self, runner: Runner[Item], executor: Executor, limits: Limits) -> None:
        self.runner = runner
        self._executor = executor
        self._limits = limits
        # By urgency, then by length: a bucket holds items whose cost has the same power of two.
        self._waiting: tuple[dict[int, deque[_Ticket[Item]]], dict[int, deque[_Ticket[Item]]]] = ({}, {})
        self._waiting_items = 0
        self._waiting_tokens = 0
        self._running = 0
        self._running_long = 0
        self._next_number = 0

    @property
    def waiting_items(self) -> int:
        return self._waiting_items

    async def infer(self, item: Item, *, bulk: bool = False) -> Inferred:
        """The item's own prediction.

        Raises Overloaded when the queue is full, InternalFault when the model fails on it.
        """
        cost = max(1, self.runner.cost(item))
        limits = self._limits
        if self._waiting_items >= limits.queue_items or self._waiting_tokens + cost > limits.queue_tokens:
            raise Overloaded("Too many predictions are waiting.", retry_after_s=1)
        loop = asyncio.get_running_loop()
        ticket = _Ticket(self._next_number, item, cost, bulk, loop.time(), loop.create_future())
        self._next_number += 1
        self._waiting[bulk].setdefault(cost.bit_length(), deque()).append(ticket)
        self._waiting_items += 1
        self._waiting_tokens += cost
        self._dispatch(loop)
        return await ticket.outcome

    def _is_long(self, cost: int) -> bool:
        return cost >= self._limits.long_tokens

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._running < self._limits.slots and (batch := self._take(loop.time())):
            self._running += 1
            self._running_long += self._is_long(batch[0].cost)
            work = loop.run_in_executor(self._executor, _run, self.runner, batch)
            work.add_done_callback(lambda done, batch=batch: self._finished(loop, batch, done))  # type: ignore[misc]

    def _take(self, now: float) -> list[_Ticket[Item]]:
        """The oldest waiting item and those of like length behind it, within the limits of a batch."""
        batch: list[_Ticket[Item]] = []
        while (bucket := self._oldest_bucket(now)) is not None and not batch:
            longest = 0
            while bucket and len(batch) < self._limits.batch_items:
                longest = max(longest, bucket[0].cost)
                if batch and longest * (len(batch) + 1) > self._limits.batch_tokens:
                    break
                ticket = bucket.popleft()
                self._waiting_items -= 1
                self._waiting_tokens -= ticket.cost
                if not ticket.outcome.done():  # done: its caller has gone
                    batch.append(ticket)
        return batch

    def _oldest_bucket(self, now: float) -> deque[_Ticket[Item]] | None:
        # One long text after another must not keep every slot: a short note waits for short ones only.
        long_may_run = self._running_long < max(1, self._limits.slots - 1)

        def may_run(bucket: deque[_Ticket[Item]]) -> bool:
            return bool(bucket) and (long_may_run or not self._is_long(bucket[0].cost))

        interactive, bulk = (
            min(filter(may_run, buckets.values()), key=lambda bucket: bucket[0].number, default=None)
            for buckets in self._waiting
        )
        if interactive is None or bulk is None:
            return interactive or bulk
        overdue = now - bulk[0].queued_at > _BULK_PATIENCE_S and bulk[0].number < interactive[0].number
        return bulk if overdue else interactive

    def _finished(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: Sequence[_Ticket[Item]],
        work: asyncio.Future[tuple[dict[int, Prediction | Exception], float]],
    ) -> None:
        self._running -= 1
        self._running_long -= self._is_long(batch[0].cost)
        try:
            outcomes, inference_time_ms = work.result()
        except (Exception, asyncio.CancelledError) as error:  # the pool itself failed, as at shut-down
            outcomes, inference_time_ms = {ticket.number: InternalFault(type(error).__name__) for ticket in batch}, 0.0
        for ticket in batch:
            if ticket.outcome.done():
                continue
            outcome = outcomes[ticket.number]
            if isinstance(outcome, Prediction):
                ticket.outcome.set_result(Inferred(outcome, inference_time_ms))
            else:
                ticket.outcome.set_exception(outcome)
        self._dispatch(loop)


def _run(runner: Runner[Item], batch: Sequence[_Ticket[Item]]) -> tuple[dict[int, Prediction | Exception], float]:
    """In a pool thread: outcomes by ticket number, and milliseconds."""
    started = time.perf_counter()
    try:
        predictions = runner.run([ticket.item for ticket in batch])
        outcomes: dict[int, Prediction | Exception] = {
            ticket.number: prediction for ticket, prediction in zip(batch, predictions, strict=True)
        }
    except Exception as error:
        if len(batch) == 1:
            outcomes = {batch[0].number: _fault(error)}
        else:
            outcomes = {}
            for ticket in batch:
                outcomes.update(_run(runner, [ticket])[0])
    return outcomes, (time.perf_counter() - started) * 1000


def _fault(error: Exception) -> Exception:
    if isinstance(error, FollowupError):
        return error
    fault = InternalFault("The model failed on this input.")
    fault.__cause__ = error
    return fault

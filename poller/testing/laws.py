"""The laws of policies and of batching as plain checks, for our policies and for those that other sources bring.

A check looks at one decision, or at one run of decisions, and raises `Broken` with what is wrong. What to decide about is drawn by whoever
calls it (strategies.py). Numbers of laws: ARCHITECTURE.md, "Laws".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from poller.model import Ack, Action, Batch, Busy, Cause, Discard, Outcome, Partial, Record, Release, Retry
from poller.policy import Redeliver
from poller.protocols import Policy
from poller.settings import Batching
from poller.testing.fakes import FakeRecord
from poller.testing.oracle import Broken

STEPS = 2_000
"""A run of decisions that takes more is taken for endless."""


def records_of(action: Action) -> Sequence[Record]:
    """What an action is about."""
    match action:
        case Ack(records) | Release(records):
            return records
        case Retry(batch):
            return batch.records
        case Discard(failure):
            return failure.records


def retries_of(actions: Sequence[Action]) -> list[Retry]:
    return [action for action in actions if isinstance(action, Retry)]


def require(holds: bool, text: str) -> None:
    """Raises Broken with the text unless it holds."""
    if not holds:
        raise Broken(text)


# --- one decision -----------------------------------------------------------------------------------------------------------------


def check_coverage(batch: Batch, actions: Sequence[Action]) -> None:
    """Law 1: every record of the batch exactly once; in order within an action, and over what is retried."""
    places = {id(record): i for i, record in enumerate(batch.records)}
    covered = Counter[int]()
    for action in actions:
        own = [places.get(id(record), -1) for record in records_of(action)]
        require(bool(own), f"law 1: {action} is about nothing")
        require(own == sorted(own), f"law 1: {action} does not keep the order")
        covered.update(own)
    require(covered == Counter(range(len(batch.records))), f"law 1: records covered so often: {sorted(covered.items())}")
    again = [places[id(record)] for retry in retries_of(actions) for record in retry.batch.records]
    require(again == sorted(again), f"law 1: what is retried runs in the order {again}")


def check_done(batch: Batch, actions: Sequence[Action]) -> None:
    """Law 2: Done gives only Ack."""
    require(all(isinstance(action, Ack) for action in actions), f"law 2: all was done, and {len(batch)} records get {actions}")


def check_busy(batch: Batch, busy: Busy, actions: Sequence[Action]) -> None:
    """Law 4: Busy is free: the same records, the same attempt, when the function said."""
    ours = [(list(retry.batch.records), retry.batch.attempt, retry.delay) for retry in retries_of(actions)]
    require(ours == [(list(batch.records), batch.attempt, busy.after)] and len(actions) == 1, f"law 4: busy, and {actions}")


def check_waits(actions: Sequence[Action]) -> None:
    """Law 5, of streams: the lane waits. Nothing is released."""
    require(not any(isinstance(action, Release) for action in actions), f"law 5: a stream takes nothing back: {actions}")


def limits_of(policy: Redeliver) -> tuple[int | None, int | None]:
    """Our limit of receives, the fallback where there is no other, and the queue's."""
    ours, queues = policy.maximum_receive_count, policy.redrive_count
    return policy.fallback if ours is None and queues is None else ours, queues


def check_limit(policy: Redeliver, batch: Batch, outcome: Outcome, actions: Sequence[Action]) -> None:
    """Law 5, of queues: discarded at our limit, copied at the queue's, of two limits the lower, ours when equal; else released."""
    require(not retries_of(actions), f"law 5: the broker delivers again, nobody else: {actions}")
    failed = set(outcome.indices) if isinstance(outcome, Partial) else set(range(len(batch)))
    receives = {id(record): record.receives for record in batch.records}
    named = {id(batch.records[i]) for i in failed}
    ours, queues = limits_of(policy)
    mine = ours is not None and (queues is None or ours <= queues)
    limit = ours if mine else queues
    for action in actions:
        for record in records_of(action):
            spent = limit is not None and receives[id(record)] >= limit
            text = f"law 5: {record} with limit {limit}, ours: {mine}, gets {action}"
            require(isinstance(action, Discard) == (spent and mine and id(record) in named), text)
            copied = isinstance(action, Release) and action.failure is not None
            require(copied == (spent and not mine) or id(record) not in named, text)


def check_named(batch: Batch, partial: Partial, actions: Sequence[Action], meaning: str) -> None:
    """Law 6: with "cut" nothing from the first failed record on is acked; with "listed" exactly the listed are not."""
    acked = {id(record) for action in actions if isinstance(action, Ack) for record in action.records}
    kept = [i for i, record in enumerate(batch.records) if id(record) not in acked]
    if meaning == "cut":
        require(kept == list(range(partial.indices[0], len(batch))), f"law 6: {partial} is cut to {kept}")
    else:
        require(kept == list(partial.indices), f"law 6: {partial} lists {kept}")
    given_up = [record for action in actions if isinstance(action, Discard) for record in action.failure.records]
    require({id(record) for record in given_up} <= {id(batch.records[i]) for i in partial.indices}, f"law 6: {given_up} was not named")


def check_groups(batch: Batch, partial: Partial, actions: Sequence[Action]) -> None:
    """FIFO: what came after a failed record of its group is not acked."""
    first = dict[bytes, int]()
    for i in partial.indices:
        first.setdefault(batch.records[i].key, i)
    acked = {id(record) for action in actions if isinstance(action, Ack) for record in action.records}
    for i, record in enumerate(batch.records):
        overtakes = record.key is not None and first.get(record.key, i) < i and id(record) in acked
        require(not overtakes, f"{record} is acked, and an earlier one of its group failed")


# --- a run of decisions -------------------------------------------------------------------------------------------------------------


def run_to_the_end(policy: Policy, batch: Batch, answer: Callable[[Batch], Outcome], now: Callable[[], float]) -> Counter[Record]:
    """Drive a policy that waits (streams) as a strand does, until nothing is left; how often each record was invoked, Busy apart.

    Raises Broken when there is no end (law 3), or a record is settled twice or not at all.
    """
    stack, invoked, settled = [batch], Counter[Record](), Counter[Record]()
    for _ in range(STEPS):
        if not stack:
            break
        screened, actions = policy.screen(stack.pop(), now())
        if screened is not None:
            outcome = answer(screened)
            if not isinstance(outcome, Busy):
                invoked.update(screened.records)
            actions = (*actions, *policy.decide(screened, outcome, now(), 0.5))
        settled.update(record for action in actions if not isinstance(action, Retry) for record in records_of(action))
        stack += [retry.batch for retry in reversed(retries_of(actions))]
    require(not stack, f"law 3: no end after {STEPS} steps")
    require(settled == Counter(batch.records), f"law 1: settled so often: {settled}")
    return invoked


def run_of_the_broker(
    policy: Policy, batch: Batch, answer: Callable[[Batch], Outcome], redrive: int | None
) -> tuple[Counter[str], set[str], set[str]]:
    """Drive a policy that gives back (queues), with a broker that counts, until nothing is left. Raises Broken when there is no end.

    Returns how often each was invoked, what the queue moved by its redrive policy, and what was copied before.
    """
    waiting, invoked, moved, copied = [*batch.records], Counter[str](), set[str](), set[str]()
    for _ in range(STEPS):
        moved |= {record.name for record in waiting if redrive is not None and record.receives > redrive}
        waiting = [record for record in waiting if record.name not in moved]
        if not waiting:
            return invoked, moved, copied
        screened, actions = policy.screen(Batch(waiting, batch.format), 0.0)
        while screened is not None:
            outcome = answer(screened)
            if not isinstance(outcome, Busy):
                invoked.update(record.name for record in screened.records)
            decided = policy.decide(screened, outcome, 0.0, 0.5)
            screened = retries_of(decided)[0].batch if retries_of(decided) else None
            actions = (*actions, *decided)
        released = [action for action in actions if isinstance(action, Release)]
        copied |= {record.name for action in released if action.failure is not None for record in action.failure.records}
        waiting = [received_again(record) for action in released for record in action.records]
    raise Broken(f"law 3: no end after {STEPS} receives")


def received_again(record: FakeRecord) -> FakeRecord:
    return record._replace(receives=record.receives + 1)


def bisect_bound(size: int, retries: int) -> int:
    """Law 3: the most invocations of a lone poison record in a batch of `size`, with bisect and full failures."""
    return math.ceil(math.log2(size)) + 1 + retries


# --- batching -----------------------------------------------------------------------------------------------------------------------

Cut = Callable[[Sequence[int], Batching, Cause | None], tuple[int, Cause] | None]


def check_cuts(cut: Cut, sizes: Sequence[int], batching: Batching, limit: int, closing: Cause | None) -> list[tuple[int, Cause]]:
    """Law 8: cutting until nothing comes takes the records in order, leaves none that could go, and keeps count and bytes.

    `limit`: bytes of records in an event. Returns the cuts.
    """
    cuts, left = list[tuple[int, Cause]](), list(sizes)
    while (taken := cut(left, batching, closing)) is not None:
        count, cause = taken
        require(1 <= count <= len(left), f"law 8: {count} of {len(left)} records")
        require(count <= batching.size, f"law 8: {count} records in a batch of {batching.size}")
        bytes_ = sum(left[:count])
        require(bytes_ <= limit or count == 1, f"law 8: {count} records of {bytes_} bytes, {limit} allowed")
        require((cause == "oversize") == (bytes_ > limit), f"law 8: {bytes_} bytes of {limit}, and the cause is {cause}")
        if cause == "bytes":
            require(sum(left[: count + 1]) > limit, "law 8: cut for its bytes, and one more would fit")
        elif cause == "size":
            require(count == batching.size, f"law 8: cut for its size at {count} of {batching.size}")
        elif cause != "oversize":
            require(cause == closing and count == len(left), f"law 8: {cause} cuts {count} of {len(left)}, closing {closing}")
        cuts.append(taken)
        del left[:count]
    fits = len(left) < batching.size and sum(left) <= limit
    require(not left or (closing is None and fits), f"law 8: {len(left)} records stay, {sum(left)} bytes, closing {closing}")
    return cuts

"""An engine that works in steps on a thread of its own, whether vLLM computes them or the simulated device.

The thread takes shards from a queue. It gives the stepper as many pairs as the next step can use, in the order of
weighted fair queueing, and hands each shard's scores to the caller's event loop in one go: no task, future or message
per pair. Pairs wait here and not in the stepper, so a list that arrives late or is cancelled costs nothing there.
"""

import asyncio
import contextlib
import itertools
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Protocol

from prometheus_client import Counter

from reranker.engine import metrics
from reranker.engine.fairness import FairQueue, Turn
from reranker.engine.job import Common, Job
from reranker.engine.pace import BatchSize, Pace
from reranker.errors import EngineFailedError
from reranker.types import EngineScores, FloatArray, ReplicaLoad, Shard

logger = logging.getLogger(__name__)

_LOGGED_REQUESTS = 20
# A pair longer than both is computed in parts, so that nobody waits for all of it: its tokens take longer than others'.
_LONG_BATCHES, _LONG_TOKENS = 4, 4_096


class Stepper(Protocol):
    """Computes pairs in steps, within the limits of a batch. Made, called and closed on one thread."""

    max_batch_tokens: int
    max_batch_pairs: int
    depth: int  # batches that it holds at a time: with two, one is prepared while the other is computed
    in_parts: bool  # whether it can compute a part of a pair in a step; with one batch at a time only

    def add(self, pair: int, prompt: list[int], common: Common, priority: int) -> None:
        """Take in a pair by its number. A lower priority goes first."""

    def repeated_tokens(self, head_tokens: int) -> int:
        """How much of such a head is computed for every pair of its list, not only for the first."""

    def step(self, tokens: int, part_tokens: int = 0) -> Iterable[tuple[int, float]]:
        """Begin a batch of at most so many tokens, and wait for one if there are `depth`, or nothing is left to begin.

        Of one pair beside others it has at most `part_tokens`; 0: the whole pair. Gives the number and logit of each
        pair that is done.
        """

    def abort(self, pairs: Sequence[int]) -> None:
        """Forget these pairs."""

    def stats(self) -> metrics.EngineStats:
        """Figures of its own; from any thread, and cheap."""

    def close(self) -> None:
        """Free the device."""


class Engine:
    """Holds one model on one device and scores shards."""

    def __init__(
        self, make_stepper: Callable[[], Stepper], *, by_arrival: bool = False, target_step_s: float | None = None
    ) -> None:
        """Start the thread and make the stepper on it, whose error is raised here; returns when it can score.

        `by_arrival` serves lists one after the other instead of in turns. The batches under way are limited to what
        takes `target_step_s`, see `BatchSize`; None: only by the stepper.
        """
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._jobs: set[Job] = set()
        self._turns: FairQueue[Job] = FairQueue(by_arrival=by_arrival)
        self._stepping: dict[int, Turn[Job]] = {}  # the stepper's pairs, by number
        self._stepping_tokens = self._pending_tokens = 0
        self._long = -1  # the pair that was begun in parts last
        self._numbers = itertools.count()
        self._pace = Pace()
        self._steps = self._done_pairs = self._done_tokens = 0
        self._busy_s = self._began_s = 0.0  # when the work began whose duration is not recorded yet
        self._step_began_s = 0.0  # when the device began the batch that it is in
        self._counted: metrics.EngineStats = {}
        self._healthy, self._stopping = True, False
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started, make_stepper), name="engine", daemon=True)
        self._thread.start()
        started.result()
        self._begun: deque[int] = deque(maxlen=self._stepper.depth - 1)  # batches beside the next one, in tokens
        self._batch = BatchSize(target_step_s, self._stepper.max_batch_tokens, self._stepper.depth)

    @property
    def healthy(self) -> bool:
        """False once a step has raised. The state of the device is undefined then, and it does not recover."""
        return self._healthy and self._thread.is_alive()

    @property
    def pending_pairs(self) -> int:
        return len(self._turns) + len(self._stepping)

    @property
    def load(self) -> ReplicaLoad:
        return ReplicaLoad(self._pending_tokens, self._pace.tokens_per_s)

    @property
    def busy_s(self) -> float:
        """Seconds in which it had work."""
        return self._busy_s

    def count(self) -> None:
        """Bring the metrics up to its figures and the stepper's, which may be a step behind."""
        now = self._stepper.stats() | {
            metrics.ENGINES: 1,
            metrics.STEPS: self._steps,
            metrics.BUSY_SECONDS: self._busy_s,
            metrics.PAIRS: self._done_pairs,
            metrics.TOKENS: self._done_tokens,
            metrics.QUEUED_PAIRS: self.pending_pairs,
            metrics.QUEUED_TOKENS: self._pending_tokens,
        }
        for metric, value in now.items():
            if isinstance(metric, Counter):
                metric.inc(value - self._counted.get(metric, 0))
            else:
                metric.set(value)
        self._counted = now

    async def score(self, shard: Shard) -> FloatArray:
        """The logits of all pairs, without a timeout."""
        return (await self.score_within(shard, 1.0, None)).logits

    async def score_within(
        self, shard: Shard, weight: float, timeout_s: float | None, list_id: str = ""
    ) -> EngineScores:
        """Score as many pairs as time allows. The rest leaves the engine, also when the call is cancelled.

        `weight` is the share of the engine against other lists; `list_id` is as in `ShardTerms`. Without a timeout all
        pairs are scored.
        EngineFailedError: the engine has stopped working.
        """
        if not self.healthy:
            raise EngineFailedError
        job = Job(shard, weight, list_id)
        if timeout_s is not None and timeout_s <= 0:  # what cannot finish is not started
            return job.scores()
        self._commands.put(lambda: self._add(job))
        if not self._healthy:  # it failed between the two lines above, and may not have seen this shard
            raise EngineFailedError
        timer = None if timeout_s is None else job.loop.call_later(timeout_s, job.set_answer)
        try:
            await job.answer
        finally:
            if timer is not None:
                timer.cancel()
            if job.ended_s is None:  # time is up, or nobody waits any more
                self._commands.put(lambda: self._drop(job))
        return job.scores()

    async def check_integrity(self) -> None:
        """RuntimeError if the engine's counts are not those of its shards, which is a bug. Cheap."""
        checked: Future[None] = Future()
        self._commands.put(lambda: self._check(checked))
        if self.healthy:
            await asyncio.wrap_future(checked)

    def fail(self, why: str) -> None:
        """Score no more: the device is gone. From any thread."""
        self._commands.put(lambda: _fail(why))

    def shutdown(self) -> None:
        """Stop the thread; waiting shards fail with EngineFailedError."""
        self._stopping = True
        self._commands.put(lambda: None)  # wakes the thread
        self._thread.join(timeout=10)

    # Everything below runs on the engine's thread.

    def _run(self, started: Future[None], make_stepper: Callable[[], Stepper]) -> None:
        try:
            self._stepper = make_stepper()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for the start
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            while self._run_commands():
                self._work()
        except Exception:
            requests = sorted({job.request_id for job in self._jobs})
            message = "the engine failed; this replica scores no more. In it were shards of %d requests: %s"
            logger.exception(message, len(requests), ", ".join(requests[:_LOGGED_REQUESTS]))
        finally:
            self._healthy = False
            while not self._commands.empty():  # this thread alone takes them; a shard among them must not wait for ever
                with contextlib.suppress(RuntimeError):  # of `fail`
                    self._commands.get_nowait()()
            for job in self._jobs:
                job.end(EngineFailedError())
            self._jobs.clear()
            self._stepper.close()

    def _run_commands(self) -> bool:
        """Run the waiting commands; without work, wait for one. False: stop."""
        while not self._stopping:
            try:
                idle = not self._jobs
                command = self._commands.get(block=idle)
            except queue.Empty:
                return True
            if idle:
                self._began_s = self._step_began_s = time.monotonic()
            command()
        return False

    def _work(self) -> None:
        """Feed the stepper, step it, hand out the scores and record the pace."""
        step_tokens = self._feed()
        given, done_tokens, in_parts = self._stepping_tokens, 0, self._long in self._stepping
        part_tokens = self._part_tokens if in_parts else 0
        for pair, logit in self._stepper.step(step_tokens, part_tokens) if self._stepping else ():
            done_tokens += self._deliver(pair, logit)
        now_s = time.monotonic()
        if in_parts:
            self._batch.record_in_parts(step_tokens, now_s - self._step_began_s)
        elif done_tokens:
            self._batch.record(given - self._stepping_tokens, now_s - self._step_began_s)
        if done_tokens or in_parts:
            self._step_began_s = now_s
        self._pace.record(done_tokens, now_s - self._began_s)  # with everything between two steps: it is no faster
        self._done_tokens += done_tokens
        self._busy_s += now_s - self._began_s
        self._began_s = now_s

    def _add(self, job: Job) -> None:
        if job.answer.done():  # nobody waits any more
            return
        if not job.left:
            job.end()
            return
        self._jobs.add(job)
        self._pending_tokens += sum(job.costs)
        repeated = self._stepper.repeated_tokens(len(job.head))
        computed = [cost + repeated for cost in job.costs]
        computed[0] -= repeated  # it has the whole head
        self._turns.push(job, computed, job.weight, job.list_id)

    def _feed(self) -> int:
        """Give the stepper its next batch, and no more: what waits there can no longer be reordered.

        Of pairs longer than a batch there is one at a time; one that is computed in parts leaves room for others.
        Returns the tokens of the next step: a step cannot be interrupted, so whoever comes or goes waits for the end of
        those under way.
        """
        most_pairs = self._stepper.max_batch_pairs
        tokens = pairs = 0
        waiting_tokens = max(0, self._stepping_tokens - sum(self._begun))  # it could not begin them yet
        most_whole = min(_LONG_BATCHES * self._batch.next, _LONG_TOKENS) if self._stepper.in_parts else math.inf
        while pairs < most_pairs and len(self._stepping) < self._stepper.depth * most_pairs:
            in_parts = self._long in self._stepping
            if len(self._stepping) > in_parts:
                most: float = (self._batch.in_parts if in_parts else self._batch.next) - waiting_tokens - tokens
            else:  # one more, whatever the room
                most = most_whole if in_parts else math.inf
            turn = self._turns.pop(most, pass_by=in_parts)
            if turn is None:
                break
            job, pair = turn.flow, next(self._numbers)
            if turn.cost > most_whole:
                self._long, turn = pair, turn._replace(cost=self._part_tokens)
            tokens, pairs = tokens + turn.cost, pairs + 1
            if job.began_s is None:
                job.began_s = time.monotonic()
            prompt = job.prompt(turn.position)
            self._stepping[pair] = turn
            self._stepping_tokens += turn.cost
            job.stepping.add(pair)
            try:
                self._stepper.add(pair, prompt, job.common, turn.tag)
            except Exception as error:  # it refuses this prompt; the engine itself is fine
                message = "the engine refused a prompt of %d tokens, of request %s"
                logger.exception(message, len(prompt), job.request_id, extra={"request_id": job.request_id})
                self._drop(job)
                job.end(RuntimeError(f"the engine refused a prompt ({type(error).__name__}). This is a bug."))
        self._begun.append(tokens)
        self._steps += bool(pairs)
        in_parts = self._long in self._stepping
        return self._batch.in_parts if in_parts else min(self._stepper.max_batch_tokens, max(self._batch.next, tokens))

    @property
    def _part_tokens(self) -> int:
        """Of a pair that is computed in parts, beside others."""
        return max(1, self._batch.in_parts // 2)

    def _deliver(self, pair: int, logit: float) -> int:
        """Note a score; give the pair's work in tokens."""
        turn = self._stepping.pop(pair, None)
        if turn is None:  # dropped in the same step
            return 0
        job = turn.flow
        job.logits[turn.position] = logit
        job.scored[turn.position] = True  # after the logit: see Job.scores
        job.stepping.discard(pair)
        job.left -= 1
        self._done_pairs += 1
        self._stepping_tokens -= turn.cost
        tokens = job.costs[turn.position]
        self._pending_tokens -= tokens
        if not job.left:
            self._jobs.discard(job)
            job.end()
        return tokens

    def _drop(self, job: Job) -> None:
        """Take what a job has left out of the engine; nothing if it is done or was never added."""
        if job not in self._jobs:
            return
        self._jobs.discard(job)
        self._turns.remove(job)
        if self._healthy:
            self._stepper.abort(list(job.stepping))
        for pair in job.stepping:
            self._stepping_tokens -= self._stepping.pop(pair).cost
        job.stepping.clear()
        self._pending_tokens -= job.left_tokens

    def _check(self, checked: Future[None]) -> None:
        counted = (len(self._stepping), self.pending_pairs, self._pending_tokens)
        of_jobs = [(len(job.stepping), job.left, job.left_tokens) for job in self._jobs]
        known = tuple(map(sum, zip((0, 0, 0), *of_jobs, strict=True)))
        if counted == known:
            checked.set_result(None)
        else:
            what = "pairs in the stepper, pairs and tokens pending"
            checked.set_exception(RuntimeError(f"{what}: {counted} counted, {known} in shards. This is a bug."))


def _fail(why: str) -> None:
    raise RuntimeError(why)

"""Writes a task's log by hand, past the worker, so that a benchmark of readers says itself what comes when."""

import time
from collections.abc import Sequence

from redis import Redis

from sibyl.core.cursor import Cursor
from sibyl.core.event import Completed, Event, Output, Started
from sibyl.core.task import TaskId, Usage
from sibyl.wire import record
from tests.load.rig import SHARD


class Scribe:
    """The hand that writes one log. No worker may run beside it."""

    def __init__(self, redis: Redis, task_id: TaskId) -> None:
        """Write the start of an attempt."""
        self._redis = redis
        self._key = SHARD.log(task_id)
        self._epoch = int(time.time() * 1000)
        self.outputs = 0
        first = Cursor(0, 1)
        self._write([(0, Started(attempt=1, model="scribe", kept=0, previous=first))])

    def say(self, texts: Sequence[str]) -> None:
        """Write outputs of one token each."""
        first = self.outputs + 1
        outputs = [Output(text=text, token_ids=(1000 + number % 30000,)) for number, text in enumerate(texts)]
        self._write(list(enumerate(outputs, first)))
        self.outputs += len(texts)

    def end(self) -> None:
        """Write the end of the answer."""
        usage = Usage(prompt_tokens=1, completion_tokens=self.outputs)
        end = Completed(text_length=self.outputs, usage=usage, finish_reason="stop", kept=self.outputs)
        self._write([(self.outputs + 1, end)])

    def _write(self, events: Sequence[tuple[int, Event]]) -> None:
        with self._redis.pipeline(transaction=False) as pipe:
            for offset, event in events:
                pipe.execute_command(  # type: ignore[no-untyped-call]
                    "XADD",
                    self._key,
                    f"{self._epoch}-{offset}",
                    *(word for pair in record.encode_event(event).items() for word in pair),
                )
            pipe.execute()

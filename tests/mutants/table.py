"""The mutants: each takes one fence of the protocol away, and names the tests that ought to notice."""

from dataclasses import dataclass
from typing import Final

LOG: Final = "tests/store/test_log.py::"
COMMIT: Final = "tests/store/test_commit.py::"
QUEUE: Final = "tests/store/test_queue.py::"
SCRIPTS: Final = "tests/store/test_scripts.py::"
WORKER: Final = "tests/worker/test_worker.py::"
LOST_LEASE: Final = LOG + "test_who_lost_the_lease_is_refused_every_write"
LOST_REPLY: Final = SCRIPTS + "test_a_lost_reply_changes_nothing"


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change of one place in the source."""

    name: str
    file: str  #: under Backend/sibyl
    old: str  #: stands there once
    new: str
    tests: tuple[str, ...]  #: node ids, as pytest takes them


def _lua(name: str, script: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant(name, f"store/lua/{script}.lua", old, new, tests)


MUTANTS: Final = (
    # Who may write
    _lua(
        "append without the epoch check",
        "append",
        "held[2] ~= epoch or ",
        "",
        LOG + "test_the_right_nonce_under_an_older_epoch_is_refused",
    ),
    _lua(
        "append without the nonce check",
        "append",
        " or held[3] ~= nonce",
        "",
        LOG + "test_the_right_epoch_under_another_nonce_is_refused",
    ),
    _lua(
        "append without the state check",
        "append",
        "held[1] ~= 'running' or ",
        "",
        LOG + "test_nothing_is_appended_after_ones_own_end",
    ),
    _lua(
        "settle without the epoch check",
        "settle",
        "held[1] ~= 'running' or held[2] ~= epoch or ",
        "held[1] ~= 'running' or ",
        LOG + "test_the_right_nonce_under_an_older_epoch_is_refused",
    ),
    _lua(
        "settle without the nonce check",
        "settle",
        "held[2] ~= epoch or held[3] ~= nonce then",
        "held[2] ~= epoch then",
        LOG + "test_the_right_epoch_under_another_nonce_is_refused",
    ),
    _lua(
        "release without the nonce check",
        "release",
        " or held[2] ~= nonce",
        "",
        LOST_LEASE,
    ),
    _lua(
        "a second end of one's own under another name",
        "settle",
        "held[1] ~= 'running' or held[2] ~= epoch or held[3] ~= nonce then",
        "held[2] ~= epoch or held[3] ~= nonce then",
        QUEUE + "test_every_end_is_settled_once",
    ),
    # The claim
    _lua(
        "claim without its entry in the log",
        "claim",
        "redis.call('XADD', keys.log, int(epoch)",
        "redis.call('EXISTS', keys.log, int(epoch)",
        LOG + "test_a_zombie_is_refused_by_redis_itself",
    ),
    _lua(
        "a claim's entry without what it keeps",
        "claim",
        "FIELD.KEPT, task[3], ",
        "",
        LOG + "test_a_stray_output_of_a_torn_write_is_cut_by_the_next_claim",
        QUEUE + "test_a_takeover_goes_on_after_what_is_stored",
    ),
    _lua(
        "a claim's entry without the one before it",
        "claim",
        ",\n  FIELD.KEPT, task[3], FIELD.PREVIOUS, last)",
        ", FIELD.KEPT, task[3])",
        QUEUE + "test_a_claims_entry_names_the_one_before_it",
    ),
    _lua(
        "epochs by counting, not by time",
        "prelude",
        "now_ms(), tonumber(floor) + 1, tonumber(last",
        "tonumber(floor) + 1, tonumber(last",
        QUEUE + "test_each_claim_raises_the_epoch",
    ),
    _lua(
        "the floor ignored",
        "prelude",
        "tonumber(floor) + 1, ",
        "",
        QUEUE + "test_each_claim_raises_the_epoch",
    ),
    _lua(
        "an entry in the log above the epoch ignored",
        "prelude",
        ", tonumber(last:match('^%d+')) + 1)",
        ")",
        QUEUE + "test_a_torn_entry_from_the_future_stops_no_claim",
    ),
    _lua(
        "claim of what another worker holds",
        "claim",
        "state == 'running' and tonumber(task[5]) < now)",
        "state == 'running')",
        QUEUE + "test_a_claim_of_what_another_holds_is_refused",
    ),
    _lua(
        "claim repeated is a second claim",
        "claim",
        "if state == 'running' and task[8] == nonce then",
        "if false then",
        QUEUE + "test_the_same_nonce_gets_the_same_lease",
        LOST_REPLY,
    ),
    _lua(
        "claim without the deadline",
        "claim",
        "if tonumber(task[10]) <= now then",
        "if false then",
        QUEUE + "test_a_claim_past_the_deadline_ends_the_task",
    ),
    _lua(
        "claim of what was cancelled",
        "claim",
        "if task[7] then",
        "if false then",
        QUEUE + "test_a_cancelled_task_is_not_taken_over",
    ),
    _lua(
        "tries without bound",
        "claim",
        "if tries >= most_tries then",
        "if false then",
        QUEUE + "test_a_task_that_loses_every_worker_fails",
    ),
    _lua(
        "tries counted although something was stored",
        "claim",
        "tonumber(task[3]) > tonumber(task[12]) and 0",
        "false and 0",
        QUEUE + "test_a_try_that_stored_something_does_not_count",
    ),
    _lua(
        "virtual time that stands still",
        "claim",
        "  redis.call('SET', keys.clock, int(start))\n",
        "",
        "tests/store/test_fair_share.py",
    ),
    # Gaps and repetitions
    _lua(
        "append without the gap",
        "append",
        "if first > stored + 1 then",
        "if false then",
        LOG + "test_a_number_too_high_is_a_gap",
    ),
    _lua(
        "settle without the gap",
        "settle",
        "if held[4] ~= total then",
        "if false then",
        QUEUE + "test_settling_more_than_redis_holds_is_a_gap",
    ),
    _lua(
        "append again what is stored",
        "append",
        "if number > offset then",
        "if true then",
        LOG + "test_appending_again_changes_nothing",
        LOST_REPLY,
    ),
    _lua(
        "settle repeated is refused",
        "settle",
        "if held[1] == state and held[2] == epoch and held[3] == nonce then",
        "if false then",
        LOST_REPLY,
    ),
    _lua(
        "release repeated is refused",
        "release",
        "return held[4] == nonce and { 'ok' } or",
        "return",
        LOST_REPLY,
    ),
    _lua(
        "submit repeated is a second task",
        "submit",
        "if redis.call('EXISTS', keys.task, keys.gone) > 0 then",
        "if false then",
        LOST_REPLY,
    ),
    _lua(
        "submit repeated after an erasure",
        "submit",
        "redis.call('EXISTS', keys.task, keys.gone)",
        "redis.call('EXISTS', keys.task)",
        QUEUE + "test_a_submit_repeated_after_the_end_accepts_nothing",
    ),
    _lua(
        "the Idempotency-Key not looked up",
        "submit",
        "  if known then",
        "  if false then",
        QUEUE + "test_the_same_idempotency_key_is_the_same_task",
    ),
    _lua(
        "the Idempotency-Key not kept",
        "submit",
        "if keyed then\n  redis.call('SET'",
        "if false then\n  redis.call('SET'",
        QUEUE + "test_the_same_idempotency_key_is_the_same_task",
    ),
    _lua(
        "an Idempotency-Key for another request",
        "submit",
        "return known_request == request and { 'ok', known_id } or { 'mismatch' }",
        "return { 'ok', known_id }",
        QUEUE + "test_a_key_for_another_request_is_refused",
    ),
    # Ends by others than the holder
    _lua(
        "cancel ends what a worker holds",
        "cancel",
        " or tonumber(task[2]) < now_ms() then",
        " or true then",
        QUEUE + "test_cancel_ends_what_nobody_holds",
    ),
    _lua(
        "cancel tells no worker",
        "cancel",
        "ring(keys.bell, 'cancel', id)",
        "",
        QUEUE + "test_cancel_ends_what_nobody_holds",
    ),
    _lua(
        "append tells of no cancel",
        "append",
        "(held[5] and 'cancel ' or 'ok ')",
        "'ok '",
        LOG + "test_every_append_tells_of_a_cancel",
    ),
    _lua(
        "reap ends what a worker holds",
        "reap",
        "local held = state == 'running' and task[3] ~= '' and tonumber(task[2]) >= now",
        "local held = false",
        QUEUE + "test_reaping_leaves_alone_what_a_worker_holds",
    ),
    _lua(
        "an end by others fences nobody",
        "prelude",
        "redis.call('HSET', keys.task, 'epoch', int(epoch), 'nonce', '')",
        "",
        QUEUE + "test_an_end_by_others_is_not_the_late_holders",
    ),
    _lua(
        "erase leaves the log",
        "erase",
        "redis.call('DEL', keys.task, keys.log)",
        "redis.call('DEL', keys.task)",
        QUEUE + "test_erasing_leaves_no_word",
    ),
    _lua(
        "an end gives no place back",
        "prelude",
        "  close_one(keys, old[2])\n",
        "",
        QUEUE + "test_an_owner_has_so_many_unfinished_tasks",
    ),
    # The worker
    _lua(
        "append renews no lease",
        "append",
        "if held[6] - now < lease_ms * 7 / 8 then",
        "if false then",
        LOG + "test_a_heartbeat_renews_and_appends_nothing",
    ),
    _lua(
        "a write that fails keeps others from theirs",
        "append",
        "pcall(append, KEYS[key], KEYS[key + 1], at)",
        "true, append(KEYS[key], KEYS[key + 1], at)",
        COMMIT + "test_what_one_task_cannot_write_keeps_no_other_from_its_own",
    ),
    Mutant(
        "the worker ignores a gap",
        "worker/answer.py",
        "                self._rewind(outcome.stored)\n                self._send()\n",
        "                self._done(None)\n",
        ("tests/worker/test_answer.py::test_what_redis_lost_is_sent_again",),
    ),
    Mutant(
        "a refused append looks written",
        "worker/answer.py",
        "stored.set_exception(error)",
        "stored.set_result(None)",
        ("tests/worker/test_answer.py::test_a_lost_lease_is_told_at_every_write",),
    ),
    Mutant(
        "the worker forgets the highest epoch",
        "worker/worker.py",
        "floor=self._epoch_floor,",
        "floor=0,",
        (WORKER + "test_a_worker_claims_above_every_epoch_it_ever_saw",),
    ),
    Mutant(
        "a zombie is not stopped by the heartbeat",
        "worker/answer.py",
        "            self._refused(error)\n",
        "            pass\n",
        (WORKER + "test_a_worker_that_lost_its_lease_in_a_long_prompt_stops_too",),
    ),
    Mutant(
        "a takeover begins anew",
        "worker/attempt.py",
        "stored=tuple(stored),",
        "stored=(),",
        (WORKER + "test_a_dead_workers_answer_goes_on",),
    ),
    # The reader
    Mutant(
        "the reader never looks in silence",
        "store/tail.py",
        "            if not present:",
        "            if False:",
        ("tests/store/test_follow.py::test_a_lost_claim_is_noticed_in_silence",),
    ),
    Mutant(
        "the reader goes on after a reconnect as if nothing was",
        "store/tail.py",
        "                if failures:\n",
        "                if False:\n",
        ("tests/store/test_tail.py::test_after_a_cut_the_tail_reads_from_what_redis_has",),
    ),
    Mutant(
        "the reader takes what cannot follow",
        "core/fold.py",
        "        if not self.follows(entry):\n            return False\n",
        "",
        ("tests/store/test_follow.py::test_a_lost_tail_and_another_worker_are_a_reset", "tests/core/test_fold.py"),
    ),
    Mutant(
        "the reader compares lengths only",
        "core/fold.py",
        "return event.previous == self.last and event.kept == self.outputs",
        "return event.kept == self.outputs",
        ("tests/core/test_fold.py",),
    ),
    Mutant(
        "the fold without what is kept",
        "core/fold.py",
        "if event.kept < self.outputs or self.terminal:",
        "if self.terminal:",
        ("tests/core/test_fold.py",),
    ),
    Mutant(
        "the fold takes strays",
        "core/fold.py",
        "                if entry.cursor.offset != self.outputs + 1:\n                    return self._skip(entry)",
        "                if False:\n                    return self._skip(entry)",
        ("tests/core/test_fold.py",),
    ),
    Mutant(
        "no reset when the text was taken back",
        "store/follow.py",
        "            if _has_text(seen[self.taken :]):\n",
        "            if False:\n",
        ("tests/store/test_follow.py::test_a_lost_tail_and_another_worker_are_a_reset",),
    ),
    Mutant(
        "a recording outlives its task",
        "store/lua/prelude.lua",
        "  redis.call('ZREM', keys.deadlines, id)\n  drop_audio(keys, id)\n",
        "  redis.call('ZREM', keys.deadlines, id)\n",
        ("tests/store/test_audio.py",),
    ),
    Mutant(
        "a connection that lost its session still feeds it",
        "speech/line.py",
        "        if self._superseded:  # it was on its way; the other line was told up to where all had come\n",
        "        if False:\n",
        ("tests/speech/test_line.py",),
    ),
    Mutant(
        "a resume keeps half a sample",
        "speech/session.py",
        '        self._odd = b""  # of a connection that is half open\n',
        "",
        ("tests/speech/test_session_resume.py", "tests/speech/test_line.py"),
    ),
)

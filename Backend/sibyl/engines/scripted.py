"""A deterministic engine, for tests, demos and load: no model, but a real answer at a real pace.

The answer is a pure function of messages and seed, so a test can say what a reader must have seen, and a generation
that is resumed anywhere joins to the text of an uninterrupted one. Directives in the last user message steer it:

    [tokens=200]    end after so many tokens (1 to 100,000)
    [text=...]      say this, up to the closing bracket, word by word
    [pace=50]       tokens a second; 0 is as fast as possible
    [prompt_s=3]    evaluate the prompt for so long
    [fail] [fail=7] raise EngineError once so many tokens were emitted; without a number, none
    [crash=7]       end the process in the same way, as a failed assertion in a C library does

A number that is out of its range or no number is an InvalidRequest. Every wait ends at once when a stop is requested.
Generations with a pace are called back from one thread for all, in bursts, as a batched model does it (see ``beat``).
"""

import hashlib
import os
import re
import threading
import time
from dataclasses import dataclass

from sibyl.bridge.abort import Abort
from sibyl.core.errors import EngineError, InvalidRequest, PromptTooLong
from sibyl.core.logprobs import TokenLogprob, TokenLogprobs
from sibyl.core.task import Message, SamplingParams, Usage
from sibyl.engines.answer import Answer
from sibyl.engines.base import GenerationRequest, GenerationResult, OnTokens
from sibyl.engines.beat import Beat
from sibyl.wire.constraint import is_constrained

WORDS = (
    "a the river mountain moon wind door lamp road garden bridge stone cloud harbour winter spring bird root mirror"
    " is waits opens turns rests follows answers returns carries keeps finds leaves and but yet before after beneath"
    " slowly gladly again still early late quiet bright patient hidden true small open new"
).split()
DEFAULT_TOKENS = 32
MOST_TOKENS = 100_000
PROMPT_STEPS = 10  # reports of progress while a prompt is evaluated

_DIRECTIVE = re.compile(r"\[(tokens|pace|prompt_s|fail|crash|text)(?:=([^\]]*))?\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Script:
    tokens: tuple[str, ...] | None
    count: int | None
    tokens_per_s: float
    prompt_s: float
    fail_at: int | None
    crash_at: int | None


class ScriptedEngine:
    """An engine that recites. ``generate`` may be called from any number of threads."""

    def __init__(
        self,
        *,
        model: str = "scripted",
        tokens_per_s: float = 0.0,
        prompt_s: float = 0.0,
        context_tokens: int | None = None,
    ) -> None:
        """Set what directives may change.

        Args:
            tokens_per_s: the pace; 0 is as fast as possible.
            prompt_s: how long a prompt is evaluated.
            context_tokens: most words of prompt and answer together; None is any number.
        """
        self._model = model
        self._tokens_per_s = tokens_per_s
        self._prompt_s = prompt_s
        self._context_tokens = context_tokens
        self._beat = Beat()

    @property
    def model(self) -> str:
        """The name it was given."""
        return self._model

    @property
    def context_tokens(self) -> int | None:
        """Most words of prompt and answer together."""
        return self._context_tokens

    @property
    def max_piece_bytes(self) -> int | None:
        """None: a word has any length."""
        return None

    @property
    def counters(self) -> dict[str, int]:
        """Nothing is counted."""
        return {}

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """Return how many words the messages have."""
        return sum(len(message.content.split()) for message in messages)

    def generate(self, request: GenerationRequest, on_tokens: OnTokens) -> GenerationResult:
        """Emit the answer, one token an output; see ``Engine.generate``."""
        request.abort.raise_if_requested()
        if is_constrained(request.sampling):
            raise InvalidRequest("The scripted engine keeps to no grammar and no schema. Use --engine llama.")
        script = self._read(request.messages)
        prompt_tokens = self.count_prompt_tokens(request.messages)
        limit, natural = self._lengths(script, request.sampling, prompt_tokens)
        recital = _Recital(script.tokens, request.messages, request.sampling.seed or 0)
        answer = Answer(request.sampling.stop)
        answer.restore(request.stored, lambda token_id: recital.piece(len(answer.token_ids), token_id), _refuse)
        pause = _Pause(request.abort)
        with request.abort.hook(pause.end):
            self._evaluate_prompt(request, script, prompt_tokens, pause)

        def step() -> bool:
            """Emit the next token; say whether there may be another."""
            written = len(answer.token_ids)
            if answer.ended or written >= min(limit, natural):
                return False
            if written == script.fail_at:
                raise EngineError("The question asked for this failure.")
            if written == script.crash_at:
                os.abort()
            request.abort.raise_if_requested()
            token_id, word = recital.token(written)
            told = None if request.sampling.logprobs is None else recital.logprobs(written, request.sampling.logprobs)
            if output := answer.push(token_id, word.encode("utf-8", "replace"), told):
                on_tokens(output)
            return True

        if script.tokens_per_s:
            self._beat.play(step, tokens_per_s=script.tokens_per_s, rests=request.backlogged, abort=request.abort)
        else:
            while step():
                pass
        request.abort.raise_if_requested()
        written = len(answer.token_ids)
        if not answer.ended and (output := answer.flush()):
            on_tokens(output)
        return GenerationResult(
            finish_reason="stop" if answer.stopped or written >= natural else "length",
            usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=written),
        )

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    def _lengths(self, script: _Script, sampling: SamplingParams, prompt_tokens: int) -> tuple[int, int]:
        """Return after how many tokens the answer is cut, and after how many it ends by itself."""
        limit = sampling.max_tokens or MOST_TOKENS
        if self._context_tokens is not None:
            if prompt_tokens >= self._context_tokens:
                raise PromptTooLong()
            limit = min(limit, self._context_tokens - prompt_tokens)
        if script.tokens is not None:
            return limit, len(script.tokens)
        if script.count is not None:
            return limit, script.count
        # Without a word about the length in the question, max_tokens alone says it.
        return limit, DEFAULT_TOKENS if sampling.max_tokens is None else MOST_TOKENS + 1

    def _evaluate_prompt(
        self, request: GenerationRequest, script: _Script, prompt_tokens: int, pause: "_Pause"
    ) -> None:
        began = time.monotonic()
        steps = PROMPT_STEPS if script.prompt_s else 1
        for step in range(1, steps + 1):
            if script.prompt_s:
                pause.until(began + script.prompt_s * step / steps)
            request.abort.raise_if_requested()
            if request.on_progress is not None:
                request.on_progress(prompt_tokens * step // steps, prompt_tokens)

    def _read(self, messages: tuple[Message, ...]) -> _Script:
        asked = next((message.content for message in reversed(messages) if message.role == "user"), "")
        found = {match[1]: match[2] for match in _DIRECTIVE.finditer(asked)}
        text = found.get("text")
        return _Script(
            tokens=None if text is None else tuple(re.findall(r"\s*\S+|\s+\Z", text)),
            count=_whole(found, "tokens", 1),
            tokens_per_s=_number(found, "pace", self._tokens_per_s),
            prompt_s=_number(found, "prompt_s", self._prompt_s),
            fail_at=_whole(found, "fail", 0),
            crash_at=_whole(found, "crash", 0),
        )


def _whole(found: dict[str, str | None], name: str, least: int) -> int | None:
    if name not in found:
        return None
    text = found[name]
    if text is None:
        return least
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII) or not least <= int(text) <= MOST_TOKENS:
        raise InvalidRequest(f"[{name}=...] takes a whole number from {least} to {MOST_TOKENS}.")
    return int(text)


def _number(found: dict[str, str | None], name: str, default: float) -> float:
    if name not in found:
        return default
    text = found[name] or ""
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text, re.ASCII):
        raise InvalidRequest(f"[{name}=...] takes a number, for example 2.5.")
    return float(text)


def _refuse(text: str) -> list[int]:
    raise EngineError("This answer was begun by another model; it cannot go on here.")


class _Recital:
    """The words of one answer. A word's id is its place in WORDS, or, in a given text, its position there."""

    def __init__(self, tokens: tuple[str, ...] | None, messages: tuple[Message, ...], seed: int) -> None:
        self._tokens = tokens
        asked = repr([(message.role, message.content) for message in messages])
        self._state = hashlib.blake2b(f"{seed}:{asked}".encode("utf-8", "replace"), digest_size=16).digest()

    def token(self, position: int) -> tuple[int, str]:
        """Return id and text of the word at ``position``."""
        if self._tokens is not None:
            return position, self._tokens[position]
        digest = hashlib.blake2b(self._state + position.to_bytes(8, "big"), digest_size=4).digest()
        number = int.from_bytes(digest, "big") % len(WORDS)
        return number, WORDS[number] if position == 0 else " " + WORDS[number]

    def logprobs(self, position: int, count: int) -> TokenLogprobs:
        """Return made-up ones: the word has a probability of one half, and each next word half of the one before."""
        number, word = self.token(position)
        words = [(number, word), *((other, " " + WORDS[other]) for other in range(len(WORDS)) if other != number)]
        likeliest = tuple(
            TokenLogprob(token_id=other, piece=text.encode("utf-8", "replace"), logprob=round(-0.6931 * (place + 1), 4))
            for place, (other, text) in enumerate(words[: max(1, count)])
        )
        return TokenLogprobs(chosen=likeliest[0], likeliest=likeliest[:count])

    def piece(self, position: int, token_id: int) -> bytes | None:
        """Return the bytes of the word at ``position`` if it has this id."""
        if self._tokens is not None and position >= len(self._tokens):
            return None
        expected, word = self.token(position)
        return word.encode("utf-8", "replace") if expected == token_id else None


class _Pause:
    """Waiting that a request to stop ends."""

    def __init__(self, abort: Abort) -> None:
        self._abort = abort
        self._ended = threading.Event()

    def end(self) -> None:
        """Wait no longer."""
        self._ended.set()

    def until(self, moment: float) -> None:
        """Wait until ``moment`` of the monotonic clock, or until the request to stop, which is then raised."""
        remaining_s = moment - time.monotonic()
        if remaining_s > 0 and self._ended.wait(remaining_s):
            self._abort.raise_if_requested()

"""Answers by any server that speaks OpenAI's chat completions: vLLM, SGLang, llama-server, a hosted one.

The contract is that of a model in this process, with the limits that the wire has:

- There are no token ids, and usage is the server's own; where it gives none, pieces are counted.
- A resumed answer is sent back as a trailing assistant message with ``continue_final_message`` (vLLM, SGLang;
  llama-server continues such a message by itself). A server that knows neither begins a new sentence at best, and one
  that refuses unknown fields refuses to resume. Space at the end of the stored text may be lost in the server's
  template, a stop string that spans the cut is not seen, and the tokens already spent of ``max_tokens`` are estimated.
- An answer that is bound by a grammar or a schema cannot be resumed: the server would begin it anew.
- ``top_k`` and ``min_p``, which OpenAI's own servers refuse, are sent only if the client set them.

Each generation has its own connection, because that is what stops it: a request to stop shuts its socket down, also
while the first byte is awaited. Only while the connection is being made does it take up to ``CONNECT_TIMEOUT_S``.
Neither the key nor a prompt is ever logged or put into an error of ours.
"""

import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from sibyl.bridge.abort import Abort
from sibyl.core.errors import EngineError, ModelUnusable, PromptTooLong, SibylError, UpstreamError
from sibyl.core.event import Output
from sibyl.core.logprobs import TokenLogprobs
from sibyl.core.task import Message, Usage
from sibyl.engines.base import GenerationRequest, GenerationResult, OnTokens
from sibyl.engines.sampling import DEFAULT_MAX_TOKENS
from sibyl.engines.upstream_binding import Watch, binding_fields, read_logprobs, refuse_to_resume
from sibyl.wire.sse import FrameTooLarge, Parser

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = (
    300.0  # between two bytes: a long prompt is evaluated, or the server's own queue waited for, in silence
)
TRIES = 4
FIRST_WAIT_S = 0.25  # doubled for each further try
MOST_WAIT_S = 10.0  # also when the server asks for more
ERROR_BYTES = 65_536  # read of an answer that is an error
MESSAGE_LIMIT = 300  # characters of it that are passed on
CHARACTERS_A_TOKEN = 4  # OpenAI's rule of thumb, for what a stored text has cost

_BUSY = frozenset({408, 429, 502, 503, 504})  # nothing was generated, and another try may succeed
_TOO_LONG = (
    "context_length_exceeded",
    "exceed_context_size",
    "context length",
    "context size",
    "context window",
    "maximum model length",
)


@dataclass(slots=True, kw_only=True)
class _Progress:
    """What one generation has brought so far."""

    pieces: int = 0
    finish_reason: str | None = None
    usage: Usage | None = None
    done: bool = False
    logprobs: tuple[TokenLogprobs, ...] = ()  #: of tokens whose text has not come yet


class UpstreamEngine:
    """A remote model. ``generate`` may be called from any number of threads."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        model: str | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        """Use the server at ``base_url``, with or without ``/v1`` at its end.

        Args:
            model: its name there; None asks the server and takes the first that it names.

        Raises:
            ModelUnusable: the address is none, or the server does not say which models it has.
        """
        # Proxies and .netrc come from the environment, which only our settings may read.
        self._client = httpx.Client(
            base_url=_base(base_url),
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(read_timeout_s, connect=connect_timeout_s, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=False,
        )
        self._api_key = api_key
        self._context_tokens: int | None = None
        try:
            self._model = model or self._first_model()
        except BaseException:
            self._client.close()
            raise

    @property
    def model(self) -> str:
        """The model's name on the server."""
        return self._model

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of prompt and answer together, if the server was asked for its models and said so."""
        return self._context_tokens

    @property
    def max_piece_bytes(self) -> int | None:
        """None: the server does not say."""
        return None

    @property
    def counters(self) -> dict[str, int]:
        """Nothing is counted."""
        return {}

    def count_prompt_tokens(self, messages: tuple[Message, ...]) -> int | None:
        """Return None: the server counts them when it gets them."""
        return None

    def close(self) -> None:
        """Close what is open."""
        self._client.close()

    def _first_model(self) -> str:
        hint = "Name the model, or start the server first."
        try:
            response = self._client.get("models")
            entries = response.raise_for_status().json()["data"]
            name, length = entries[0]["id"], entries[0].get("max_model_len")
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            raise ModelUnusable(f"The upstream answered {status} when it was asked for its models. {hint}") from None
        except httpx.HTTPError as error:
            raise ModelUnusable(f"The upstream is out of reach ({_reason(error)}). {hint}") from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ModelUnusable(f"The upstream names no model. {hint}") from None
        if not isinstance(name, str) or not name:
            raise ModelUnusable(f"The upstream names no model. {hint}")
        self._context_tokens = length if isinstance(length, int) and length > 0 else None
        return name

    def generate(self, request: GenerationRequest, on_tokens: OnTokens) -> GenerationResult:
        """Emit the answer through ``on_tokens``; see ``Engine.generate``.

        Raises:
            UpstreamError: the server is out of reach, failed, or broke off; another attempt may succeed.
            EngineError: the server refused the request.
        """
        request.abort.raise_if_requested()
        if request.stored:
            refuse_to_resume(request.sampling)
        line, watch = _Line(), Watch(request.sampling)
        progress = _Progress()

        def emit(output: Output) -> None:
            watch.read(output.text)
            on_tokens(output)

        with request.abort.hook(line.cut):
            try:
                self._exchange(request, line, progress, emit)
            except httpx.HTTPError as error:
                request.abort.raise_if_requested()
                if progress.finish_reason is None:
                    raise UpstreamError(f"The upstream broke off ({_reason(error)}).") from None
            except FrameTooLarge:
                raise UpstreamError("The upstream sent a line without an end.") from None
        request.abort.raise_if_requested()
        if progress.finish_reason is None and not progress.done:
            raise UpstreamError("The upstream's answer ended in the middle.")
        if progress.finish_reason == "content_filter":
            raise EngineError("The upstream's filter withheld the answer.")
        if progress.finish_reason not in (None, "stop", "length"):
            raise UpstreamError(f"The upstream ended the answer: {progress.finish_reason[:MESSAGE_LIMIT]}.")
        finish_reason: Literal["stop", "length"] = "length" if progress.finish_reason == "length" else "stop"
        if finish_reason == "stop":
            watch.end()
        usage = progress.usage or Usage(prompt_tokens=0, completion_tokens=progress.pieces)
        spent = _spent(request)  # the server read it as part of the prompt
        return GenerationResult(
            finish_reason=finish_reason,
            usage=Usage(
                prompt_tokens=max(0, usage.prompt_tokens - spent),
                completion_tokens=usage.completion_tokens + spent,
            ),
        )

    def _exchange(self, request: GenerationRequest, line: "_Line", progress: _Progress, on_tokens: OnTokens) -> None:
        """Send the request until it is accepted, and take in the answer."""
        body = self._body(request)
        wait_s = FIRST_WAIT_S
        for tries_left in reversed(range(TRIES)):
            request.abort.raise_if_requested()
            try:
                with self._open(body, line) as response:
                    if response.status_code == 200:
                        self._read(response, request.abort, progress, on_tokens)
                        return
                    asked_s = _retry_after_s(response)
                    refusal = _refusal(response, self._api_key)
                    if response.status_code not in _BUSY or not tries_left:
                        raise refusal
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                request.abort.raise_if_requested()
                if not tries_left:
                    raise UpstreamError(f"The upstream is out of reach ({_reason(error)}).") from None
                asked_s = None
            pause_s = min(wait_s if asked_s is None else asked_s, MOST_WAIT_S)
            logger.info(
                "upstream not ready, trying again",
                extra={"action": "upstream_retry", "tries_left": tries_left, "wait_s": pause_s},
            )
            line.wait(pause_s)
            wait_s *= 2

    @contextmanager
    def _open(self, body: dict[str, Any], line: "_Line") -> Iterator[httpx.Response]:
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        with self._client.stream(
            "POST", "chat/completions", json=body, headers=headers, extensions={"trace": line.watch}
        ) as response:
            yield response

    def _body(self, request: GenerationRequest) -> dict[str, Any]:
        sampling = request.sampling
        max_tokens = sampling.max_tokens or DEFAULT_MAX_TOKENS
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": max(1, max_tokens - _spent(request)),
        }
        for name in ("temperature", "top_p", "top_k", "min_p", "seed"):
            if (value := getattr(sampling, name)) is not None:
                body[name] = value
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        body |= binding_fields(sampling)
        if request.stored:
            text = "".join(output.text for output in request.stored)
            body["messages"].append({"role": "assistant", "content": text})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return body

    def _read(self, response: httpx.Response, abort: Abort, progress: _Progress, on_tokens: OnTokens) -> None:
        parser = Parser()
        for chunk in response.iter_bytes():
            for frame in parser.feed(chunk):
                abort.raise_if_requested()
                if frame.data == "[DONE]":
                    progress.done = True
                    return
                if text := _take(frame.data, progress):
                    on_tokens(Output(text=text, logprobs=progress.logprobs))
                    progress.logprobs = ()


def _base(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url.strip().rstrip("/"))
    except httpx.InvalidURL:
        raise ModelUnusable("The upstream's address is not valid; it looks like http://host:8000/v1.") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ModelUnusable("The upstream's address is not valid; it looks like http://host:8000/v1.")
    if url.userinfo:
        raise ModelUnusable("The upstream's address must not hold a password; give it as the key.")
    path = url.path.rstrip("/")
    return url.copy_with(path=(path if path else "/v1") + "/", query=None, fragment=None)


def _spent(request: GenerationRequest) -> int:
    """Estimate the tokens of the stored text; 0 without one."""
    characters = sum(len(output.text) for output in request.stored)
    return max(len(request.stored), -(-characters // CHARACTERS_A_TOKEN))


def _take(data: str, progress: _Progress) -> str:
    """Take in one chunk of the answer and return its text.

    Raises:
        UpstreamError: it is no such chunk, or reports a failure.
    """
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        raise UpstreamError("The upstream sent something that is not JSON.") from None
    if not isinstance(chunk, dict):
        raise UpstreamError("The upstream sent something that is no chunk of an answer.")
    if error := chunk.get("error"):
        raise UpstreamError(f"The upstream failed: {_message(error)}")
    if isinstance(usage := chunk.get("usage"), dict):
        read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(read, int) and isinstance(written, int) and min(read, written) >= 0:
            progress.usage = Usage(prompt_tokens=read, completion_tokens=written)
    choices = chunk.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return ""
    if isinstance(reason := choices[0].get("finish_reason"), str):
        progress.finish_reason = reason
    progress.logprobs += read_logprobs(choices[0])
    delta = choices[0].get("delta")
    text = delta.get("content") if isinstance(delta, dict) else None
    if not isinstance(text, str) or not text:
        return ""
    progress.pieces += 1
    # JSON can escape half of a surrogate pair, which is no Unicode and cannot be stored.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _refusal(response: httpx.Response, secret: str | None) -> SibylError:
    """Return the error that an answer other than 200 means."""
    body = b""
    with suppress(httpx.HTTPError):
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) >= ERROR_BYTES:
                break
    text = body[:ERROR_BYTES].decode("utf-8", "replace")
    if secret:
        text = text.replace(secret, "***")  # a proxy may tell which key it refused
    try:
        parsed = json.loads(text)
        error = parsed.get("error", parsed) if isinstance(parsed, dict) else text
    except (ValueError, RecursionError):
        error = text
    status = response.status_code
    if status in (400, 413, 422) and any(word in text.lower() for word in _TOO_LONG):
        return PromptTooLong()
    message = f"The upstream answered {status}: {_message(error)}"
    return EngineError(message) if 400 <= status < 500 and status not in _BUSY else UpstreamError(message)


def _message(error: object) -> str:
    """Return what a server says about an error, in one short line."""
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    line = " ".join(str(error).split()) or "it gave no reason"
    return line if len(line) <= MESSAGE_LIMIT else line[: MESSAGE_LIMIT - 1] + "…"


def _retry_after_s(response: httpx.Response) -> float | None:
    """Return how long the server asks to wait, in seconds; None if it does not say, or says a date."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _reason(error: httpx.HTTPError) -> str:
    return str(error)[:MESSAGE_LIMIT] or type(error).__name__


class _Line:
    """The sockets of one generation, and its waits; all of them end when it is cut."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cut = threading.Event()
        self._socket: socket.socket | None = None

    def watch(self, event: str, info: dict[str, Any]) -> None:
        """Take note of a new connection, as httpx reports it while a request is made."""
        if event not in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            return
        connection = info["return_value"].get_extra_info("socket")
        with self._lock:
            self._socket = connection if isinstance(connection, socket.socket) else None
        if self._cut.is_set():
            self._shut()

    def wait(self, seconds: float) -> None:
        """Wait, but not longer than until it is cut."""
        self._cut.wait(seconds)

    def cut(self) -> None:
        """Wake whoever reads or waits. May be called from any thread."""
        self._cut.set()
        self._shut()

    def _shut(self) -> None:
        with self._lock:
            connection = self._socket
        if connection is not None:
            with suppress(OSError):
                # Closing would not wake a thread that reads; and the method of the plain socket, because the one of
                # TLS would pull the rug from under it.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

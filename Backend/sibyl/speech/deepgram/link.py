"""One connection to Deepgram, with the vendor's SDK; the only file that imports it.

The SDK's client blocks: ``start_listening`` until the socket closes, every send while the other side takes nothing. So
listening has a thread of its own, a send is bounded in time, and ``hang_up``, from any thread, ends both at once.

A callback of the SDK that raises ends the listening for good, so ``on_message`` must not; an error in it is logged by
its kind and swallowed. What the SDK calls ERROR (a close frame with a fault, a broken connection, text that is no JSON)
ends this connection. ``ended`` is set then, and ``fault`` says why.
"""

import logging
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import httpx

from sibyl.core.errors import InvalidRequest, RecogniserBusy, RecogniserFailed, RecogniserUnavailable, VendorRefused

if TYPE_CHECKING:
    from deepgram import DeepgramClient

    Client = DeepgramClient

logger = logging.getLogger(__name__)

REASON_LIMIT = 200  # characters of the vendor's words that are passed on
_DESK = "Check the key at https://console.deepgram.com and set DEEPGRAM_API_KEY."
_MISSING = (
    "Deepgram's SDK is not installed, or is another version: pip install 'deepgram-sdk>=7.17'. "
    "Or choose another --speech-provider."
)

OnMessage = Callable[[object], None]


class LinkLost(Exception):
    """The connection cannot be used any more, or could not be made; another one may."""


class Link:
    """A connection that is open, until ``close``."""

    def __init__(
        self,
        client: "Client",
        query: Mapping[str, Any],
        *,
        on_message: OnMessage,
        on_end: Callable[[], None],
        send_s: float,
    ) -> None:
        """Connect; blocks for 10 s at most, the SDK's own limit.

        Args:
            query: as Deepgram's documentation names it.
            on_message: gets every message, in the thread of ``listen``; None for one that the SDK does not know.
            on_end: called in that thread when the listening has ended.
            send_s: a send that blocks for so long breaks the connection.

        Raises:
            InvalidRequest, VendorRefused, RecogniserBusy, RecogniserFailed: Deepgram's answer, see ``refusal``.
            LinkLost: it is out of reach, or ill.
        """
        from deepgram.core.events import EventType

        self.ended = threading.Event()  #: nothing comes any more
        self.fault: str | None = None  #: why, or None after a close in good order
        self._on_message = on_message
        self._on_end = on_end
        self._thread: threading.Thread | None = None
        self._stack = ExitStack()
        try:
            self._sdk = self._stack.enter_context(client.listen.v1.connect(**query))
        except (AttributeError, TypeError) as error:
            raise RecogniserUnavailable(_MISSING) from error
        except Exception as error:
            refused = _refused_upgrade(error)
            if refused is not None:
                raise refused from error
            raise LinkLost(_told(error)) from error
        with self._stack as undo:  # closes it unless all of this goes well
            # The SDK keeps the connection to itself, and has no way to bound a send or to break off.
            self._connection = self._sdk._websocket
            self._connection.socket.settimeout(send_s)
            self._sdk.on(EventType.MESSAGE, self._took)
            self._sdk.on(EventType.ERROR, self._failed)
            self._stack = undo.pop_all()

    @property
    def request_id(self) -> str | None:
        """Deepgram's name for this connection, which its support asks for."""
        response = self._connection.response
        return None if response is None else response.headers.get("dg-request-id")

    def listen(self) -> None:
        """Let messages come."""
        self._thread = threading.Thread(target=self._listen, name="deepgram", daemon=True)
        self._thread.start()

    def send_audio(self, pcm: bytes) -> None:
        """Send audio; an empty piece, which Deepgram takes for the end, is left out. Raises ``LinkLost``."""
        if pcm:
            self._send(lambda: self._sdk.send_media(pcm))

    def keep_alive(self) -> None:
        """Say that the silence is meant; Deepgram closes after 10 s without this or audio. Raises ``LinkLost``."""
        self._send(self._sdk.send_keep_alive)

    def finalize(self) -> None:
        """Ask for finals of all that was sent. Raises ``LinkLost``."""
        self._send(self._sdk.send_finalize)

    def finish(self) -> None:
        """Say that no audio comes: the rest is told, then a summary, then Deepgram closes. Raises ``LinkLost``."""
        self._send(self._sdk.send_close_stream)

    def hang_up(self) -> None:
        """Break off: whatever blocks on this connection fails at once. From any thread, at any time; never blocks."""
        with suppress(OSError):
            # Not SSLSocket.shutdown, which would take the encryption away from under a send.
            socket.socket.shutdown(self._connection.socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Break off and wait until nothing is left: no thread, no socket. A message that is being taken is awaited."""
        self.hang_up()
        self._connection.close_socket()
        self._stack.close()
        if self._thread is not None:
            self._thread.join()

    def _send(self, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as error:
            raise LinkLost(self.fault or _told(error)) from error

    def _listen(self) -> None:
        try:
            self._sdk.start_listening()
        except Exception as error:
            self._failed(error)
        finally:
            self.ended.set()
            self._on_end()

    def _took(self, message: object) -> None:
        try:
            self._on_message(message)
        except Exception as error:  # it would end the listening
            logger.error(
                "A message of Deepgram was not taken: %s",
                type(error).__name__,
                extra={"action": "deepgram_message", "error": type(error).__name__},
            )

    def _failed(self, error: object) -> None:
        self.fault = _told(error)


def open_client(*, api_key: str, url: str, http: httpx.Client) -> "Client":
    """Return the SDK's client. It opens nothing.

    Raises:
        RecogniserUnavailable: the SDK is not installed.
    """
    try:
        from deepgram import DeepgramClient
        from deepgram.environment import DeepgramClientEnvironment
    except ImportError as error:
        raise RecogniserUnavailable(_MISSING) from error
    sockets = "ws" + url.removeprefix("http")
    environment = DeepgramClientEnvironment(base=url, production=sockets, agent=sockets, agent_rest=url)
    return DeepgramClient(api_key=api_key, environment=environment, httpx_client=http)


def refusal(status: int, words: str) -> Exception:
    """Return the error that an HTTP status of Deepgram stands for; ``LinkLost`` if another try may help."""
    words = " ".join(words.split())[:REASON_LIMIT]
    told = f"{status}: {words}" if words else str(status)
    if status in {401, 403}:
        return VendorRefused(f"Deepgram does not accept the key ({told}). {_DESK}")
    if status == 402:
        return VendorRefused(f"Deepgram wants to be paid first ({told}). Look at https://console.deepgram.com.")
    if status == 429:
        return RecogniserBusy(f"Deepgram has too many requests of this key ({told}). Try again in a moment.")
    if status == 404:
        return RecogniserFailed(f"Deepgram is not at this address ({told}). Check SIBYL_DEEPGRAM_URL.")
    if 400 <= status < 500:
        return InvalidRequest(f"Deepgram cannot do this ({told}). Check language, sample rate and model.")
    return LinkLost(told)


def _refused_upgrade(error: Exception) -> Exception | None:
    # The sync client lets the error of websockets through, the SDK documents its own; both are understood.
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None) or getattr(error, "status_code", None)
    if not isinstance(status, int):
        return None
    headers = getattr(response, "headers", None)
    return refusal(status, str(headers.get("dg-error") or "") if headers is not None else "")


def _told(error: object) -> str:
    """Return a few words without anything that was said: a JSON error would quote it."""
    frame = getattr(error, "rcvd", None)
    if frame is not None:
        return f"closed with {frame.code} {frame.reason}".strip()[:REASON_LIMIT]
    return type(error).__name__

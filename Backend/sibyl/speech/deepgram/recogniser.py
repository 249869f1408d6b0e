"""Speech recognition by Deepgram, or by a server that speaks its protocol, over the vendor's SDK 7.

One recognition is a WebSocket to ``/v1/listen`` of its own; see ``deepgram_hearing``. While a connection is being made
an abort takes effect only when that is over, after 10 s at most, which is the SDK's limit. Neither the key nor anything
said is ever logged or put into an error.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx

from sibyl.core.errors import RecogniserFailed, SibylError
from sibyl.speech.deepgram.hearing import DeepgramHearing, Patience
from sibyl.speech.deepgram.link import Link, OnMessage, open_client, refusal
from sibyl.speech.deepgram.transcript import UTTERANCE_END_S
from sibyl.speech.inlet import AudioInlet
from sibyl.speech.recogniser import OnHeard, RecognitionRequest

if TYPE_CHECKING:
    from sibyl.speech.deepgram.link import Client

URL = "https://api.deepgram.com"
MODEL = "nova-3"
ENDPOINTING_S = 0.3  # Deepgram's own 10 ms would cut a sentence at every breath
CHECK_S = 10.0


class DeepgramRecogniser:
    """A recogniser at a vendor. ``recognise`` may be called from several threads at once."""

    name = "deepgram"

    def __init__(self, *, api_key: str, url: str = URL, model: str = MODEL, patience: Patience | None = None) -> None:
        """Prepare it; nothing is opened or imported yet.

        Args:
            url: http:// or https://, without a path.
            patience: how long is waited for what; None: as suits Deepgram.
        """
        self._api_key = api_key
        self._url = url.rstrip("/")
        self._model = model
        self._patience = patience or Patience()
        self._lock = threading.Lock()
        self._http: httpx.Client | None = None

    def recognise(self, request: RecognitionRequest, audio: AudioInlet, on_heard: OnHeard) -> None:
        """Have it heard; see ``Recogniser.recognise``.

        A lost connection is made anew up to three times in a row; no final is lost or told twice by that.

        Raises:
            InvalidRequest: Deepgram has no such model for this language.
            RecogniserUnavailable: its SDK is not installed.
            RecogniserBusy: the account has as many streams as it may.
            VendorRefused: it does not accept the key.
            RecogniserFailed: it is out of reach.
        """
        client = self._client()
        query = _query(request, self._model)

        def connect(on_message: OnMessage, on_end: Callable[[], None]) -> Link:
            return Link(client, query, on_message=on_message, on_end=on_end, send_s=self._patience.send_s)

        DeepgramHearing(request, audio, on_heard, connect=connect, model=self._model, patience=self._patience).run()

    def check(self) -> str:
        """Return a word on the connection and the key; nothing is transcribed. Blocks for 10 s at most.

        Raises:
            RecogniserUnavailable: the SDK is not installed.
            VendorRefused: Deepgram does not accept the key.
            RecogniserFailed: it is out of reach, or does not answer as Deepgram does.
        """
        self._client()
        try:
            # Through the proxy of the environment, if there is one, since the SDK's connections take it too.
            reply = httpx.get(
                f"{self._url}/v1/projects", headers={"Authorization": f"Token {self._api_key}"}, timeout=CHECK_S
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RecogniserFailed(f"Deepgram is out of reach at {self._url} ({type(error).__name__}).") from error
        if reply.status_code == 200:
            return f"{self._url} accepts the key; model {self._model}"
        if reply.status_code == 403:  # 401 is a wrong key
            return f"{self._url} knows the key, which may not list projects; model {self._model}"
        refused = refusal(reply.status_code, "")
        raise refused if isinstance(refused, SibylError) else RecogniserFailed(f"{self._url} answered {refused}.")

    def close(self) -> None:
        """Let everything go. No recognition may be running."""
        with self._lock:
            if self._http is not None:
                self._http.close()
                self._http = None

    def _client(self) -> "Client":
        """Return a client for one session: Deepgram gets an id with each. They share what costs time to make."""
        with self._lock:
            if self._http is None:
                self._http = httpx.Client()
            return open_client(api_key=self._api_key, url=self._url, http=self._http)


def _query(request: RecognitionRequest, model: str) -> dict[str, Any]:
    endpointing_s = ENDPOINTING_S if request.endpointing_s is None else request.endpointing_s
    return {
        "model": model,
        "language": request.language,
        "encoding": "linear16",
        "sample_rate": request.sample_rate_hz,
        "channels": 1,
        "interim_results": True,  # UtteranceEnd needs them, also where no partials are wanted
        "vad_events": True,
        "endpointing": max(10, round(endpointing_s * 1000)),
        "utterance_end_ms": round(UTTERANCE_END_S * 1000),
        "punctuate": True,
    }

"""Deepgram's dialect of a speech session: its query, its messages, and ours, each turned into the other. Pure.

What it has and we have not is accepted and ignored where the text is merely less pretty (``smart_format``), and refused
where a client would rely on it (``redact``). Where both have a word for the same thing in another order, Deepgram's
order holds: ``speech_final`` and ``from_finalize`` are flags of a final, but separate messages behind it with us. So a
final is held back until the next message, which is there at once, or within half a second, as an ``ack``.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

Json = dict[str, Any]

PIECE_BYTES = 64 * 1024  # of audio, in one frame of ours; Deepgram's clients send any length
CHANNELS: Final = [0, 1]  # the first of one
UNSUPPORTED: Final = ("callback", "callback_method", "diarize", "diarize_model", "detect_entities", "redact", "replace")
CLOSES: Final[Mapping[str, tuple[int, str]]] = {  # by the code of our error
    "bad_config": (1008, "DATA-0000"),
    "unsupported": (1008, "DATA-0000"),
    "too_many_errors": (1008, "DATA-0000"),
    "idle_timeout": (1011, "NET-0001"),
    "internal": (1011, "NET-0000"),
    "drain_timeout": (1011, "NET-0000"),
    "model_unavailable": (1011, "NET-0000"),
    "auth": (1011, "NET-0000"),
    "overloaded": (1011, "NET-0000"),
}


class ListenRefused(Exception):
    """The query asks for something that is not there; the words say what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a client of Deepgram wants to see."""

    config: Json  #: of our session
    interim: bool
    vad_events: bool
    utterance_end: bool
    speech_final: bool


def read_query(query: Mapping[str, str]) -> Wishes:
    """Return what the query of ``/v1/listen`` asks for.

    Raises:
        ListenRefused: it cannot be done.
    """
    for name in UNSUPPORTED:
        if query.get(name, "false") != "false":
            raise ListenRefused(f"{name} is not supported here.")
    if query.get("encoding") != "linear16":
        raise ListenRefused("encoding must be linear16: raw PCM, signed 16 bit; containers and codecs are not decoded.")
    if "sample_rate" not in query:
        raise ListenRefused("sample_rate is missing; with encoding it must be given.")
    if query.get("channels", "1") != "1" or _flag(query, "multichannel"):
        raise ListenRefused("channels must be 1; mix or split the channels before you send them.")
    endpointing = query.get("endpointing", "")
    interim = _flag(query, "interim_results")
    config: Json = {
        "encoding": "linear16",
        "sample_rate": query["sample_rate"],
        "language": query.get("language", "en"),
        "interim": interim,
    }
    if endpointing not in ("", "true", "false"):
        if not (endpointing.isascii() and endpointing.isdecimal()):
            raise ListenRefused("endpointing must be false or a number of milliseconds.")
        config["endpointing_ms"] = max(10, int(endpointing[:9]))
    return Wishes(
        config=config,
        interim=interim,
        vad_events=_flag(query, "vad_events"),
        utterance_end="utterance_end_ms" in query,
        speech_final=endpointing != "false",
    )


def refusal(message: str, request_id: str) -> Json:
    """Return the body of a failed upgrade."""
    return {"err_code": "Bad Request", "err_msg": message, "request_id": request_id}


class Dialect:
    """One session's translation, in both directions."""

    def __init__(self, wishes: Wishes, *, request_id: str, created: str) -> None:
        """Begin.

        Args:
            created: when, in ISO 8601.
        """
        self.request_id = request_id
        self._wishes = wishes
        self._created = created
        self._model = ""
        self._digest = hashlib.sha256()
        self._held: list[Json] = []  # a final, and what came behind it
        self._answers: deque[Json | None] = deque()  # to what our session does not know
        self._told_s = 0.0  # where the last final ended
        self._fault: str | None = None
        self._tellers: Mapping[str, Callable[[Json], Iterable[Json]]] = {
            "ready": self._ready,
            "speech_started": self._speech_started,
            "partial": self._partial,
            "final": self._final,
            "utterance_end": self._utterance_end,
            "finalized": self._finalized,
            "warning": self._warning,
            "error": self._error,
            "session_ended": self._session_ended,
        }

    # From the client -----------------------------------------------------------------------------------------------

    def text(self, text: str) -> str:
        """Return our message for a text frame. What is no JSON object stays as it is; our session knows what to say."""
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            return text
        kind = fields.get("type") if isinstance(fields, dict) else None
        ours = {"KeepAlive": "keepalive", "Finalize": "finalize", "CloseStream": "end_of_stream"}.get(str(kind))
        if ours is not None:
            return json.dumps({"type": ours})
        if kind is None:
            return "no object with a type"
        # Our session warns of what it does not know, once for each; the answer goes out where the warning would.
        self._answers.append(self._configured(fields) if kind == "Configure" else None)
        return json.dumps({"type": "unknown"})

    def audio(self, data: bytes) -> list[bytes]:
        """Return the frames of ours for a binary frame."""
        self._digest.update(data)
        return [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]

    # To the client -------------------------------------------------------------------------------------------------

    def messages(self, message: Json) -> list[Json]:
        """Return Deepgram's messages for one of ours."""
        kind = message["type"]
        out = [] if kind in ("utterance_end", "finalized") else self._release()
        teller = self._tellers.get(kind)
        return out if teller is None else [*out, *teller(message)]

    def closing(self, code: int, reason: str) -> tuple[int, str]:
        """Return Deepgram's close for ours; those that it has no word for stay as they are."""
        if code == 1000 or self._fault is None:
            return code, reason
        return CLOSES.get(self._fault, (code, reason))

    def _ready(self, message: Json) -> Iterable[Json]:
        self._model = str(message.get("model") or "")
        return ()

    def _speech_started(self, message: Json) -> Iterable[Json]:
        if self._wishes.vad_events:
            yield {"type": "SpeechStarted", "channel": CHANNELS, "timestamp": message["t"]}

    def _partial(self, message: Json) -> Iterable[Json]:
        if self._wishes.interim:
            yield self._results(message, final=False)

    def _final(self, message: Json) -> Iterable[Json]:
        self._held = [self._results(message, final=True)]
        self._told_s = message["end"]
        return ()

    def _utterance_end(self, message: Json) -> Iterable[Json]:
        told: list[Json] = []
        if self._held:
            self._held[0]["speech_final"] = self._wishes.speech_final
        elif self._wishes.speech_final:
            told.append(self._nothing() | {"speech_final": True})
        if self._wishes.utterance_end:
            told.append({"type": "UtteranceEnd", "channel": CHANNELS, "last_word_end": message["last_word_end"]})
        if not self._held:
            return told
        self._held += told
        return ()

    def _finalized(self, message: Json) -> Iterable[Json]:
        if not self._held:
            return [self._nothing() | {"from_finalize": True}]
        self._held[0]["from_finalize"] = True
        return self._release()

    def _warning(self, message: Json) -> Iterable[Json]:
        answer = self._answers.popleft() if message["code"] == "unknown_type" and self._answers else None
        return () if answer is None else (answer,)

    def _error(self, message: Json) -> Iterable[Json]:
        code, words = message["code"], message["message"]
        if message["fatal"]:
            self._fault = code
        yield {"type": "Error", "variant": code, "code": code, "description": words, "message": words}

    def _session_ended(self, message: Json) -> Iterable[Json]:
        yield {
            "type": "Metadata",
            "transaction_key": "deprecated",
            "request_id": self.request_id,
            "sha256": self._digest.hexdigest(),
            "created": self._created,
            "duration": message["totals"]["audio_processed_s"],
            "channels": 1,
            "models": [self._model_id],
            "model_info": {self._model_id: self._model_info},
        }

    def _release(self) -> list[Json]:
        held, self._held = self._held, []
        return held

    def _configured(self, fields: Json) -> Json:
        if not fields.get("keyterms"):
            return {"type": "ConfigureSuccess", "request_id": self.request_id}
        return {
            "type": "ConfigureFailure",
            "request_id": self.request_id,
            "code": "CONFIGURE_KEYTERMS_NOT_SUPPORTED",
            "description": "There are no keyterms here.",
        }

    def _nothing(self) -> Json:
        """Return a final that only its flags are told with."""
        at = self._told_s
        return self._results({"text": "", "start": at, "end": at, "confidence": None, "words": []}, final=True)

    def _results(self, message: Json, *, final: bool) -> Json:
        return {
            "type": "Results",
            "channel_index": CHANNELS,
            "start": message["start"],
            "duration": round(message["end"] - message["start"], 6),
            "is_final": final,
            "speech_final": False,
            "from_finalize": False,
            "channel": {
                "alternatives": [
                    {
                        "transcript": message["text"],
                        "confidence": _confidence(message),
                        "words": [_word(word) for word in message["words"]],
                    }
                ]
            },
            "metadata": {
                "request_id": self.request_id,
                "model_uuid": self._model_id,
                "model_info": self._model_info,
            },
        }

    @property
    def _model_id(self) -> str:
        return str(uuid5(NAMESPACE_URL, f"sibyl:{self._model}"))

    @property
    def _model_info(self) -> Json:
        return {"name": self._model, "version": "", "arch": self._model}


def _word(word: Json) -> Json:
    text = word["word"]
    return {
        "word": text.strip(".,;:!?…\"'()").lower() or text,
        "start": word["start"],
        "end": word["end"],
        "confidence": _confidence(word),
        "punctuated_word": text,
    }


def _confidence(thing: Json) -> float:
    """Deepgram always has one; 0 stands for none."""
    return float(thing["confidence"] or 0.0)


def _flag(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "false")
    if value not in ("true", "false"):
        raise ListenRefused(f"{name} must be true or false.")
    return value == "true"

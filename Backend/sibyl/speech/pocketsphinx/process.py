"""The child process in which PocketSphinx computes: its binding holds Python's lock while it does.

It answers one request at a time, for one session at a time, and ends when its parent closes the pipe or is no more.
"""

import os
import signal
import sys
from pathlib import Path
from typing import BinaryIO

from sibyl.speech.pocketsphinx.decoding import Decoder, prepared
from sibyl.speech.pocketsphinx.listener import Listener
from sibyl.speech.pocketsphinx.messages import Ask, Begin, Reply, packed, unpacked

BEAM = 4000  # word parts that are followed in a frame, of 30,000: the same words for half the work (EXPERIMENTS.md)
STUCK_S = 60  # a request that takes longer ends the process, whatever it computes, and also when it has no parent
_READ_BYTES = 256 * 1024


def main() -> None:
    """Say what it is, then answer until there are no requests any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    requests = sys.stdin.buffer
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # nothing that a library prints may get between the replies
    loaded = _load()
    if isinstance(loaded, str):
        _write(replies, Reply(missing=loaded))
        return
    decoder, model = loaded
    _write(replies, Reply(model=model))
    _serve(decoder, requests, replies)


def _load() -> tuple[Decoder, str] | str:
    """Return the decoder and the name of its model, or why there is none."""
    try:
        import pocketsphinx

        folder = Path(pocketsphinx.get_model_path("en-us"))
        # Without the second search an utterance's end costs milliseconds and not a tenth of its length, and the words
        # are no worse (EXPERIMENTS.md).
        decoder = prepared(pocketsphinx.Decoder(loglevel="FATAL", fwdflat=False, maxhmmpf=BEAM))
        return decoder, f"pocketsphinx {folder.name}"
    except ImportError as error:
        return f"it is not installed ({type(error).__name__})"
    except (OSError, RuntimeError, ValueError):
        return "its English model cannot be read"


def _serve(decoder: Decoder, requests: BinaryIO, replies: BinaryIO) -> None:
    import pocketsphinx

    listener: Listener | None = None
    data = bytearray()
    while True:
        message = unpacked(data)
        if message is None:
            more = os.read(requests.fileno(), _READ_BYTES)
            if not more:
                return
            data += more
            continue
        letter, body, size = message
        del data[:size]
        signal.alarm(STUCK_S)  # its default is to end the process, for which no Python has to run
        ask = Ask(letter)
        if ask is Ask.BEGIN:
            if listener is not None:
                listener.abandon()
            listener = Listener(decoder, pocketsphinx.Vad().is_speech, Begin.read(body))
            reply = listener.recall(b"")
        elif listener is None:
            raise ValueError("a session must begin first")
        elif ask is Ask.RECALL:
            reply = listener.recall(body)
        elif ask is Ask.HEAR:
            reply = listener.hear(body)
        else:
            reply = listener.stop()
        signal.alarm(0)
        _write(replies, reply)


def _write(replies: BinaryIO, reply: Reply) -> None:
    message = memoryview(packed(b"=", reply.body()))
    while message:
        message = message[replies.write(message) :]


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the parent is no more
        sys.exit(1)

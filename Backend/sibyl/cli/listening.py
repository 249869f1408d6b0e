"""The command of who speaks: `sibyl listen` writes what is said in a file or a stream, and asks it when told to."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sibyl.cli.asking import URL, run_in_terminal
from sibyl.cli.entry import FAILED, INTERRUPTED, SETTINGS

if TYPE_CHECKING:
    from sibyl.cli.audio_source import AudioSource
    from sibyl.cli.terminal import Terminal
    from sibyl.client import AsyncClient, Pause, Task
    from sibyl.client.listener import Told

RAW_HZ = 16_000
RETRY_S = 2.0  # who speaks wants to know soon that nobody hears
GIVE_UP_S = 60.0  # as far as the kept audio reaches
LIVE_AHEAD_S = 60.0
QUIET_PAUSE_S = 2.0  # a shorter pause is not worth a word


@click.command(context_settings=SETTINGS)
@click.argument("source", metavar="FILE")
@click.option("--url", default=URL, envvar="SIBYL_URL", show_default=True, show_envvar=True, help="Server.")
@click.option("--ask", is_flag=True, help="Ask what was heard, and watch the answer grow.")
@click.option("--json", "as_json", is_flag=True, help="Print one message a line, as JSON.")
@click.option("--language", metavar="TAG", help="What is spoken, such as en or pt-BR; en by default.")
@click.option("--provider", metavar="NAME", help="Who recognises it: pocketsphinx, faster_whisper, deepgram.")
@click.option("--raw", is_flag=True, help="FILE is bare PCM: 16 bit, little-endian, one channel.")
@click.option(
    "--sample-rate",
    "raw_hz",
    type=click.IntRange(8_000, 48_000),
    default=RAW_HZ,
    show_default=True,
    metavar="HZ",
    help="Rate of bare PCM.",
)
@click.option("--real-time", is_flag=True, help="Send a file as fast as somebody speaks; else as fast as it is heard.")
def listen(
    source: str,
    url: str,
    ask: bool,
    as_json: bool,
    language: str | None,
    provider: str | None,
    raw: bool,
    raw_hz: int,
    real_time: bool,
) -> None:
    """Write what is said in FILE, one utterance a line; - is standard input: bare PCM, or a WAV.

    WAV, FLAC, Ogg, MP3 and what else libsndfile reads, at any rate, with any number of channels. On a terminal the
    words show while they are recognised. A lost connection is made anew, and no word is lost or repeated.

    Ctrl-C ends a live source as its own end would: the rest is told, and asked with --ask. Of a file it leaves out what
    was not sent yet. A second one leaves at once.

    \b
    Examples:
      sibyl listen talk.flac > talk.txt
      arecord -q -f S16_LE -r 16000 -t raw | sibyl listen -
      arecord -q -f S16_LE -r 16000 -d 5 -t wav | sibyl listen --ask -
      ffmpeg -v error -i film.mkv -f wav - | sibyl listen --json - | jq -r 'select(.type == "final").text'
      sibyl listen --raw --sample-rate 8000 call.raw

    \b
    Exit codes:
      0    all was told, and answered with --ask
      1    the recogniser failed; nothing was said to ask; the task failed
      2    wrong usage, no audio, a recogniser that is not installed, a key that a vendor refuses
      3    the server is out of reach, or hears as many as it can
      130  Ctrl-C
    """

    async def run(terminal: "Terminal") -> int:
        from sibyl.cli.audio_source import open_file, open_standard_input

        if source == "-":
            audio = await open_standard_input(raw_hz=raw_hz, sniff=not raw)
        else:
            audio = open_file(Path(source), raw_hz=raw_hz if raw else None, real_time=real_time)
        hearing = _Hearing(audio, terminal, url=url, as_json=as_json, ask=ask)
        code = await hearing.run(language=language, provider=provider)
        if not ask or code:
            return code
        return await _ask(hearing.text, url, terminal, as_json=as_json)

    run_in_terminal(run)


async def _ask(text: str, url: str, terminal: "Terminal", *, as_json: bool) -> int:
    from sibyl.cli.watching import Asking

    async def submit(client: "AsyncClient") -> "Task":
        return await client.ask(text)

    return await Asking(url, terminal, as_json=as_json, timeout_s=None).run(submit, lambda task: True)


class _Hearing:
    """One source, listened to in a terminal."""

    def __init__(self, audio: "AudioSource", terminal: "Terminal", *, url: str, as_json: bool, ask: bool) -> None:
        self._audio, self._terminal, self._url = audio, terminal, url
        self._as_json, self._ask = as_json, ask
        self._finals: list[str] = []
        self._partial = ""
        self._heard_s = 0.0
        self._away = False

    @property
    def text(self) -> str:
        """All that was said."""
        return " ".join(self._finals)

    async def run(self, *, language: str | None, provider: str | None) -> int:
        """Return the exit code."""
        from sibyl.cli.watching import CtrlC
        from sibyl.client.listener import SpeechWish
        from sibyl.client.listening import READ_AHEAD_S, Listening

        audio = self._audio
        wish = SpeechWish(
            sample_rate_hz=audio.rate_hz,
            language=language,
            provider=provider,
            interim=self._as_json or self._terminal.shows_status,
        )
        listening = Listening(
            audio.pieces,
            wish,
            self._url,
            on_told=self._show,
            on_pause=self._pause,
            retry_s=RETRY_S,
            give_up_s=GIVE_UP_S,
            read_ahead_s=LIVE_AHEAD_S if audio.live else READ_AHEAD_S,
        )
        with CtrlC(lambda: listening.stop(drop_unsent=not audio.live)) as ctrl_c:
            await listening.run()
        self._terminal.status("")
        if listening.lost_s:
            self._terminal.note(f"{listening.lost_s:.1f} s were not heard: the server was away for too long")
        if ctrl_c.pressed and not audio.live:
            return INTERRUPTED
        if not self._finals:
            self._terminal.note("nothing was said that could be understood")
            return FAILED if self._ask else 0
        return 0

    def _show(self, told: "Told") -> None:
        if self._away:
            self._away = False
            self._terminal.note("connected again")
        if told.type == "final":
            self._finals.append(told.text)
            self._partial = ""
        if self._as_json:
            self._terminal.write(json.dumps(told.message, ensure_ascii=False) + "\n")
            return
        match told.type:
            case "final" if self._ask:
                self._terminal.note(f"heard: {told.text}")
            case "final":
                self._terminal.write(told.text + "\n")
            case "partial":
                self._partial = told.text
            case "ack":
                self._heard_s = told.seconds("audio_processed_s")
            case "warning" if told.message.get("code") != "lag":  # a file is always ahead
                self._terminal.note(told.text)
            case "error" if told.message.get("fatal") is not True:  # else it is said as the end
                self._terminal.note(told.text)
            case _:
                pass
        self._terminal.status(self._standing())

    def _standing(self) -> str:
        """Return how far it is, and the newest words, on one line."""
        length_s = self._audio.length_s
        place = _clock(self._heard_s) + (f" of {_clock(length_s)}" if length_s else "")
        room = shutil.get_terminal_size().columns - len(place) - 4
        words = self._partial if len(self._partial) <= room else f"…{self._partial[-max(room - 1, 0) :]}"
        return f"{place}  {words}"

    def _pause(self, pause: "Pause") -> None:
        if not self._away and pause.failing_s + pause.wait_s > QUIET_PAUSE_S:
            self._away = True
            self._terminal.note(f"{pause.error.message} Trying again.")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes}:{seconds:02d}"

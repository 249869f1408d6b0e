"""Speech in real time: from the end of the audio to the end of the session, and how quick the API stays meanwhile.

Several clients speak at once, in frames of 100 ms at the pace of a speaker, each begun a little later than the one
before. Counted is the time from sending `end_of_stream` to receiving `session_ended`, and that of a `/healthz` asked
every 20 ms. A session must have processed all that it received, and be closed with 1000.
"""

import asyncio
import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect

from tests import human_speech
from tests.load.rig import spread
from tests.processes import serving
from tests.speech.hearing import blocks

FRAME_S = 0.1
FRAME_BYTES = 3200
PROBE_S = 0.02
ROUNDS = 6
SESSIONS = {"scripted": (5, 10), "pocketsphinx": (5, 10)}  #: clients at a time


def measure(*, scale: float = 1.0) -> dict[str, Any]:
    """Return milliseconds for each recogniser and number of clients."""
    rounds = max(1, round(ROUNDS * scale))
    figures: dict[str, Any] = {
        "what": f"end_of_stream to session_ended, {rounds} rounds; clients speak in real time",
        "goal": "5 clients: scripted p99 50 ms, pocketsphinx p99 1,000 ms; 10 clients: healthz p99 50 ms",
    }
    promises = {"all audio was processed, and every close was 1000": True}
    for provider, counts in SESSIONS.items():
        with (
            tempfile.TemporaryDirectory(prefix="sibyl-bench-") as folder,
            serving(Path(folder), "--engine", "scripted", "--speech-provider", provider) as serve,
        ):
            for count in counts:
                talks = asyncio.run(_talks(serve.url, provider, count, rounds))
                figures[f"{provider}, {count} clients"] = talks.pop("figures")
                promises["all audio was processed, and every close was 1000"] &= talks["whole"]
    return figures | {"promises": promises}


async def _talks(url: str, provider: str, count: int, rounds: int) -> dict[str, Any]:
    audio = _audio(provider)
    ends_s: list[float] = []
    probes_s: list[float] = []
    whole = True
    done = asyncio.Event()
    probing = asyncio.create_task(_probe(url, probes_s, done))
    for number in range(rounds):
        talks = [_talk(url, audio[(number + place) % len(audio)], place * FRAME_S / count) for place in range(count)]
        for end_s, good in await asyncio.gather(*talks):
            ends_s.append(end_s)
            whole &= good
    done.set()
    await probing
    return {
        "figures": {
            "end to ended": spread([1000 * end_s for end_s in ends_s], unit="_ms"),
            "healthz": spread([1000 * probe_s for probe_s in probes_s], unit="_ms"),
        },
        "whole": whole,
    }


def _audio(provider: str) -> list[bytes]:
    if provider == "scripted":
        return [blocks(*range(1, 31), 0, 0, 0, 0, *range(31, 51))]
    sentences = human_speech.librivox()  # each client says all five, and begins with another one
    return [human_speech.joined(sentences[place:] + sentences[:place]).pcm for place in range(len(sentences))]


async def _talk(url: str, audio: bytes, delay_s: float) -> tuple[float, bool]:
    """Speak; return seconds from the end of the audio to the end of the session, and whether all was heard."""
    await asyncio.sleep(delay_s)
    async with connect(f"{url.replace('http', 'ws')}/ws/transcribe", compression=None, proxy=None) as socket:
        await socket.send(json.dumps({"sample_rate": 16_000}))
        ended: dict[str, Any] = {}
        ready = asyncio.Event()
        at_s = 0.0

        async def read() -> None:
            nonlocal at_s
            async for frame in socket:
                message = json.loads(frame)
                if message["type"] == "ready":
                    ready.set()
                if message["type"] == "session_ended":
                    at_s = time.perf_counter()
                    ended.update(message)

        reading = asyncio.create_task(read())
        await ready.wait()
        began = time.perf_counter()
        for place in range(0, len(audio), FRAME_BYTES):
            await socket.send(audio[place : place + FRAME_BYTES])
            due_s = began + (place // FRAME_BYTES + 1) * FRAME_S
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        asked_s = time.perf_counter()
        await socket.send('{"type":"end_of_stream"}')
        await reading
        totals = ended["totals"]
        heard = totals["audio_processed_s"] == totals["audio_received_s"] == round(len(audio) / 32_000, 6)
        return at_s - asked_s, heard and socket.close_code == 1000


async def _probe(url: str, probes_s: list[float], done: asyncio.Event) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        while not done.is_set():
            began = time.perf_counter()
            (await client.get(f"{url}/healthz")).raise_for_status()
            probes_s.append(time.perf_counter() - began)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), PROBE_S)

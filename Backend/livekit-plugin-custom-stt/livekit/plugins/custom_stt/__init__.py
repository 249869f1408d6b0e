"""Streaming speech-to-text for LiveKit agents, over the WebSocket of a Sibyl server.

from livekit.plugins import custom_stt

session = AgentSession(stt=custom_stt.STT(url="ws://127.0.0.1:8000/ws/transcribe"), ...)
"""

from livekit.agents import Plugin

from .log import logger
from .stream import SpeechStream
from .stt import STT
from .version import __version__

__all__ = ["STT", "SpeechStream", "__version__"]


class CustomSTTPlugin(Plugin):
    """How the framework knows this plugin."""

    def __init__(self) -> None:
        super().__init__(__name__, __version__, __package__ or __name__, logger)


Plugin.register_plugin(CustomSTTPlugin())

"""Every setting, with its unit, default and limit. Read once, at the edge of a process, and handed down.

Sources, strongest first: flags of the command line, ``SIBYL_*`` environment variables, a ``.env`` file in the working
directory, the defaults here. This is the only file that reads the environment.
"""

import os
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import AliasChoices, Field, PositiveFloat, PositiveInt, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from sibyl.core.errors import ProcessError
from sibyl.speech.catalogue import SpeechSettings
from sibyl.speech.session import SessionLimits


def default_data_dir() -> Path:
    """Where tasks and answers are kept when nothing else is said."""
    return Path.home() / ".local" / "share" / "sibyl"


class Settings(BaseSettings):
    """The effective settings of a process."""

    model_config = SettingsConfigDict(
        env_prefix="SIBYL_",
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
        env_ignore_empty=True,
    )

    # Where it listens and what it keeps
    host: str = Field("127.0.0.1", description="address that the API listens on")
    port: int = Field(8000, ge=0, le=65535, description="port that the API listens on; 0 takes a free one")
    trusted_hosts: str | None = Field(
        None, description="Host names that are answered, by commas, * for all; none: local ones only, on loopback"
    )
    data_dir: Path = Field(default_factory=default_data_dir, description="folder of the embedded Redis")
    redis_url: SecretStr | None = Field(
        None,
        description="redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// URL; none: an embedded Redis",
    )
    durability: Literal["fast", "safe", "ha"] = Field(
        "safe",
        description="fast: power loss may cost a second; safe: costs nothing; ha: nor does the loss of the one Redis",
    )
    shards: PositiveInt = Field(1, le=64, description="parts that the keys are spread over; the same in all processes")

    # The engine
    engine: Literal["llama", "openai", "scripted"] = Field("llama", description="what answers")
    model: str | None = Field(None, description="path of a GGUF, or hf:owner/repo[:file]; none is the bundled model")
    workers: PositiveInt = Field(1, le=64, description="worker processes that sibyl serve runs; two take over at once")
    slots: PositiveInt = Field(4, le=256, description="answers that one worker generates at a time")
    threads: PositiveInt | None = Field(None, le=1024, description="CPU threads of the engine; none leaves a core free")
    context_tokens: PositiveInt | None = Field(
        None, description="context of a slot; none: the model's own, at most 4096"
    )
    pool_tokens: PositiveInt | None = Field(
        None, description="tokens that all slots share memory for; none: a whole context each, which is faster"
    )
    target_gap_ms: PositiveFloat = Field(
        85.0, description="how long running answers may pause for each prompt that is read beside them"
    )
    flash_attention: bool | None = Field(None, description="llama.cpp's flash attention; none: what is faster here")
    gpu_layers: int = Field(0, ge=-1, description="model layers on the GPU; -1 is all")
    split_mode: Literal["layer", "row", "none"] = Field(
        "layer", description="how several GPUs share the model: by layers, by rows, or none: it is on main_gpu alone"
    )
    main_gpu: int = Field(0, ge=0, le=63, description="the GPU of the whole model with split_mode none, from 0")
    tensor_split: str | None = Field(
        None,
        pattern=r"^[0-9]{1,6}(\.[0-9]{1,6})?(,[0-9]{1,6}(\.[0-9]{1,6})?){0,63}$",
        description="shares of several GPUs, by commas, such as 3,1; none: by their free memory",
    )
    upstream_url: str | None = Field(None, description="base URL of an OpenAI-compatible server, for --engine openai")
    upstream_api_key: SecretStr | None = Field(None, description="its key")
    upstream_model: str | None = Field(None, description="its model; none takes the first that it lists")

    # Speech
    speech_provider: Literal["auto", "pocketsphinx", "faster_whisper", "deepgram", "scripted"] = Field(
        "auto", description="what hears when a client does not say; auto: deepgram if it has a key, else pocketsphinx"
    )
    speech_sessions: PositiveInt = Field(10, le=1000, description="people that one API process hears at a time")
    speech_idle_s: PositiveFloat = Field(30.0, description="a speech session without any frame for so long is ended")
    speech_session_s: PositiveFloat = Field(10800.0, le=7 * 86400, description="longest speech session")
    speech_backlog_s: PositiveFloat = Field(30.0, description="audio that may wait for the recogniser")
    speech_grace_s: PositiveFloat = Field(15.0, description="how long a cut speech session waits for its client")
    speech_drain_s: PositiveFloat = Field(30.0, description="how long the rest may be heard after the end of the audio")
    whisper_model: str = Field("base.en", description="folder or hub name of a CTranslate2 Whisper model")
    whisper_sessions: PositiveInt = Field(2, le=1000, description="people that Whisper hears at a time")
    deepgram_api_key: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("deepgram_api_key", "SIBYL_DEEPGRAM_API_KEY", "DEEPGRAM_API_KEY"),
        description="key for Deepgram; DEEPGRAM_API_KEY is read as well",
    )
    deepgram_url: str = Field(
        "https://api.deepgram.com", description="where Deepgram is, for its own servers or a proxy"
    )
    deepgram_model: str = Field("nova-3", description="Deepgram's model")
    upload_bytes: PositiveInt = Field(25 * 1024 * 1024, description="largest audio file to transcribe")

    # Limits of one request; those of single fields stand in wire/tasks.py
    body_bytes: PositiveInt = Field(256 * 1024, description="largest request body")

    # Limits of the whole
    queue_tasks: PositiveInt = Field(10_000, description="most tasks that wait; more are answered with 429")
    owner_tasks: PositiveInt = Field(
        2_000, description="most unfinished tasks of one owner; more are answered with 429"
    )
    followers: PositiveInt = Field(5_000, description="most open event streams of one API process")
    send_timeout_s: PositiveFloat = Field(30.0, description="a reader that takes nothing for so long is cut off")
    keep_alive_s: PositiveFloat = Field(15.0, description="pause between keep-alive comments on an event stream")

    # Time
    lease_s: PositiveFloat = Field(5.0, description="a silent worker loses its task after this")
    heartbeat_s: PositiveFloat = Field(1.0, description="pause between renewals; at most a third of the lease")
    max_attempts: PositiveInt = Field(
        5, description="claims in a row without progress before a task fails as worker_lost"
    )
    deadline_s: float = Field(3600.0, ge=1, description="a task that is not finished after this expires")
    retention_s: float = Field(7 * 86400.0, ge=1, description="how long a finished task is kept")
    drain_s: PositiveFloat = Field(20.0, description="how long running answers may go on after SIGTERM")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log lines shown")
    log_format: Literal["text", "json"] = Field("text", description="log lines for people or for programs")

    @property
    def gpu_shares(self) -> tuple[float, ...]:
        """The share of each GPU; none: by their free memory."""
        return tuple(map(float, self.tensor_split.split(","))) if self.tensor_split else ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.heartbeat_s * 3 > self.lease_s:
            raise ValueError("heartbeat_s must be at most a third of lease_s, so that two may be lost")
        if self.durability == "ha" and self.redis_url is None:
            raise ValueError("durability ha needs a Redis with a replica: give --redis-url")
        if self.gpu_shares and not sum(self.gpu_shares):
            raise ValueError("tensor_split must give at least one GPU a share")
        if self.engine == "openai" and not self.upstream_url:
            raise ValueError("--engine openai needs --upstream URL (SIBYL_UPSTREAM_URL)")
        return self


def speech_settings(settings: Settings) -> SpeechSettings:
    """Return what the recognisers need to know."""
    key = settings.deepgram_api_key
    return SpeechSettings(
        provider=settings.speech_provider,
        sessions=settings.speech_sessions,
        threads=settings.threads or max(1, (os.cpu_count() or 2) - 1),
        whisper_model=settings.whisper_model,
        whisper_sessions=settings.whisper_sessions,
        deepgram_api_key=None if key is None else key.get_secret_value(),
        deepgram_url=settings.deepgram_url,
        deepgram_model=settings.deepgram_model,
        scripted=settings.speech_provider == "scripted",
    )


def session_limits(settings: Settings) -> SessionLimits:
    """Return what a speech session may cost."""
    return SessionLimits(
        idle_s=settings.speech_idle_s,
        session_s=settings.speech_session_s,
        backlog_s=settings.speech_backlog_s,
        grace_s=settings.speech_grace_s,
        drain_s=settings.speech_drain_s,
    )


def child_environment(settings: Settings) -> dict[str, str]:
    """Return the environment in which a child process finds these settings, and all else as it is here."""
    ours = {
        f"SIBYL_{name.upper()}": str(value.get_secret_value() if isinstance(value, SecretStr) else value)
        for name, value in settings
        if value is not None
    }
    others = {name: value for name, value in os.environ.items() if not name.upper().startswith("SIBYL_")}
    return others | ours


def load_settings(**flags: Any) -> Settings:
    """Return the settings in force. ``flags`` are those given on the command line; None means not given.

    Raises:
        ProcessError: a value is wrong; the message names the setting and what it must be.
    """
    try:
        return Settings(**{name: value for name, value in flags.items() if value not in (None, "")})
    except UnicodeDecodeError:
        raise ProcessError("Wrong settings: the file .env is not UTF-8.") from None
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'settings'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False, include_url=False)
        )
        raise ProcessError(f"Wrong settings: {wrong}") from None

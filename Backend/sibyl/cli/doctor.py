"""What Sibyl needs on this machine, looked at without changing anything: each thing with a word on how to get it."""

import asyncio
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import click

from sibyl.cli.entry import FAILED, SETTINGS
from sibyl.cli.processes import masked, settings_flags
from sibyl.config import Settings, load_settings, speech_settings
from sibyl.core.errors import SibylError
from sibyl.speech.catalogue import Catalogue

PROBE_S = 60.0  # llama.cpp with CUDA takes its time
ANSWER_S = 2.0
NODE_MAJOR = 20
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    text: str  #: what was found, or how to get it
    needed: bool = True  #: whether Sibyl cannot serve without it

    @property
    def verdict(self) -> str:
        """A word for it."""
        return "ok" if self.ok else "missing" if self.needed else "absent"


@click.command(context_settings=SETTINGS)
@settings_flags
@click.option("--json", "as_json", is_flag=True, help="Print one finding a line, as JSON.")
def doctor(as_json: bool, **flags: Any) -> None:
    """Say whether Sibyl can serve here with these settings, what is missing and how to get it.

    "missing" is what serving needs; "absent" is what it can do without: a GPU, a recogniser of speech, the page.
    Nothing is changed, started or downloaded; Deepgram is asked whether it knows its key, if there is one. The
    exit code is 0 when sibyl serve can serve.

    \b
    Examples:
      sibyl doctor
      sibyl doctor --port 9000 --model ~/models/some.gguf
    """
    settings = load_settings(**flags)
    findings = []
    for finding in look(settings):
        findings.append(finding)
        if as_json:
            click.echo(json.dumps({"name": finding.name, "verdict": finding.verdict, "text": finding.text}))
        else:
            click.echo(f"{finding.verdict:<8} {finding.name:<14} {finding.text}")
    sys.exit(0 if all(finding.ok or not finding.needed for finding in findings) else FAILED)


def look(settings: Settings) -> Iterator[Finding]:
    """Yield what is found, one by one."""
    checks: list[Callable[[Settings], Finding]] = [_redis, _data, _model, _engine, _gpu, _port]
    checks += [partial(_speech, name) for name in ("pocketsphinx", "faster_whisper", "deepgram")]
    checks += [_page, _node, _browser]
    for check in checks:
        yield check(settings)


def _redis(settings: Settings) -> Finding:
    from sibyl.store.connection import Store
    from sibyl.store.redis_binary import find_redis_binary

    async def check() -> str:
        if settings.redis_url is None:
            binary = await find_redis_binary()
            return f"{binary.version_text}, {binary.path}, started by sibyl serve"
        store = Store(settings.redis_url.get_secret_value(), durability=settings.durability)
        try:
            return f"{await store.check()} at {masked('redis_url', settings.redis_url)}"
        finally:
            await store.close()

    try:
        return Finding(name="redis", ok=True, text=asyncio.run(check()))
    except SibylError as error:
        return Finding(name="redis", ok=False, text=error.message)


def _data(settings: Settings) -> Finding:
    folder = settings.data_dir.expanduser().absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        if not existing.is_dir():
            raise NotADirectoryError(f"{existing} is no folder")
        # Asking the file system itself: rights alone do not tell of a read-only or a full disk.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        why = error.strerror or error
        return Finding(name="data", ok=False, text=f"{folder} cannot be written: {why}. Choose another --data-dir.")
    made = "" if folder == existing else ", made at the first start"
    return Finding(name="data", ok=True, text=f"{folder}{made}")


def _model(settings: Settings) -> Finding:
    from sibyl.engines.library import HUB_PREFIX, resolve_model

    if settings.engine != "llama":
        where = masked("upstream_url", settings.upstream_url) if settings.engine == "openai" else "scripted"
        return Finding(name="model", ok=True, text=f"none needed here, the engine is {settings.engine}: {where}")
    if settings.model is not None and settings.model.startswith(HUB_PREFIX):
        if importlib.util.find_spec("huggingface_hub") is None:
            return Finding(name="model", ok=False, text="hf: needs one more package: pip install 'sibyl[hub]'")
        return Finding(name="model", ok=True, text=f"{settings.model}, downloaded at the first start if need be")
    try:
        path = resolve_model(settings.model).path
        with path.open("rb") as file:
            head = file.read(4)
    except SibylError as error:
        return Finding(name="model", ok=False, text=error.message)
    except OSError as error:
        return Finding(name="model", ok=False, text=f"{settings.model} cannot be read: {error.strerror}")
    if head != b"GGUF":
        return Finding(name="model", ok=False, text=f"{path} is no GGUF file; name one with --model")
    return Finding(name="model", ok=True, text=f"{path}, {path.stat().st_size / 1e6:.1f} MB")


def _engine(settings: Settings) -> Finding:
    if settings.engine != "llama":
        return Finding(name="engine", ok=True, text=settings.engine)
    build, why = _build()
    if build is None:
        text = f"llama-cpp-python does not import ({why}): pip install llama-cpp-python"
        return Finding(name="engine", ok=False, text=text)
    return Finding(
        name="engine", ok=True, text=f"llama-cpp-python {build['version']}; CPU: {' '.join(build['features'])}"
    )


def _gpu(settings: Settings) -> Finding:
    build, _ = (None, "") if settings.engine != "llama" else _build()
    if build is None:
        return Finding(name="gpu", ok=False, text=f"not looked for with the engine {settings.engine}", needed=False)
    vain = f"; --gpu-layers {settings.gpu_layers} has no effect" if settings.gpu_layers else ""
    if not build["offloads"]:
        how = f'llama.cpp was built for the CPU alone{vain}. Build it anew: CMAKE_ARGS="-DGGML_CUDA=on" make setup'
        return Finding(name="gpu", ok=False, text=how, needed=False)
    gpus = [
        f"{gpu['name']}: {gpu['description']}, {gpu['free_bytes'] / 1e9:.1f} of {gpu['total_bytes'] / 1e9:.1f} GB free"
        for gpu in build["gpus"]
    ]
    if not gpus:
        return Finding(name="gpu", ok=False, text=f"llama.cpp could use one, but finds none here{vain}", needed=False)
    unused = "" if settings.gpu_layers else "; --gpu-layers -1 puts the model there"
    return Finding(name="gpu", ok=True, text="; ".join(gpus) + unused, needed=False)


@cache
def _build() -> tuple[dict[str, Any] | None, str]:
    """Return what llama.cpp was built with, or None and why that cannot be told."""
    # In a process of its own: a wrong build may crash the one that imports it. -P: not what lies in this folder.
    probe = (
        "import dataclasses, json; from sibyl.engines.llama_build import installed_build;"
        " print(json.dumps(dataclasses.asdict(installed_build())))"
    )
    told, why = _output(sys.executable, "-P", "-c", probe)
    return (json.loads(told), "") if told else (None, why)


def _port(settings: Settings) -> Finding:
    import httpx

    from sibyl.api.listening import bind

    place = f"{settings.host}:{settings.port}"
    try:
        bind(settings.host, settings.port).close()
        return Finding(name="port", ok=True, text=f"{place} is free")
    except SibylError as error:
        in_use = error.message
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    try:
        address = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/readyz"
        reply = httpx.get(address, timeout=ANSWER_S, trust_env=False)
        status = str(reply.json()["status"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return Finding(name="port", ok=False, text=in_use)
    return Finding(name="port", ok=status == "ready", text=f"a Sibyl serves at {place} already; it is {status}")


def _speech(name: str, settings: Settings) -> Finding:
    catalogue = Catalogue(speech_settings(settings))
    default = "; the default" if name == catalogue.default else ""
    try:
        return Finding(name=name, ok=True, text=catalogue.recogniser(name).check() + default, needed=False)
    except SibylError as error:
        return Finding(name=name, ok=False, text=error.message + default, needed=False)


def _page(settings: Settings) -> Finding:
    from sibyl.api.page import page_directory

    page = page_directory()
    text = "not built; the API serves without it. Install Node, then: make page" if page is None else str(page)
    return Finding(name="page", ok=page is not None, text=text, needed=False)


def _node(settings: Settings) -> Finding:
    how = f"only builds and tests the page; Node {NODE_MAJOR} or newer: https://nodejs.org, or your system's nodejs"
    version, _ = _output("node", "--version")
    major = version.removeprefix("v").partition(".")[0]
    ok = major.isdecimal() and int(major) >= NODE_MAJOR
    return Finding(name="node", ok=ok, text=version if ok else f"{version} {how}".strip(), needed=False)


def _browser(settings: Settings) -> Finding:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    text = found or "only tests the page; Debian, Ubuntu: apt install chromium"
    return Finding(name="chromium", ok=found is not None, text=text, needed=False)


def _output(*command: str) -> tuple[str, str]:
    """Return the last line that a program printed, or "" and why there is none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", type(error).__name__
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    last = lines[-1] if lines else f"exit status {done.returncode}"
    return (last, "") if done.returncode == 0 else ("", last)

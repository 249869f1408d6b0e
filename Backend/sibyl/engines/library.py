"""From what a user calls a model to a file on this machine: a path, a name on a hub, or nothing for the bundled one.

It refuses to know what is in the file. huggingface_hub is optional and is imported only when a name asks for it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from sibyl.core.errors import ModelUnusable

HUB_TIMEOUT_S = 10.0
BUNDLED = "sibyl-oracle.gguf"
HUB_PREFIX = "hf:"

OnDownload = Callable[[int, int], None]
"""Bytes of the model that have come, and how many there are, 0 while that is unknown."""

_HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<file>[\w./+-]+))?", re.ASCII)
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_SHOWN = 6  # candidates that an error lists


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A model's file, and how it was found."""

    path: Path
    source: Literal["bundled", "path", "hub"]


def resolve_model(
    text: str | None,
    *,
    on_download: OnDownload | None = None,
    cache_dir: Path | None = None,
    endpoint: str | None = None,
) -> ResolvedModel:
    """Return the file that ``text`` means, downloading it if it is on a hub and not here yet.

    Args:
        text: a path, ``hf:owner/repo[:file]``, or None for the bundled model. ``file`` is a name in the repository, or
            any part of a name that only one of its GGUF files has, such as ``Q4_K_M``.
        on_download: told of progress, from a thread of its own.
        cache_dir: where downloads are kept; None is where huggingface_hub keeps them.
        endpoint: the hub's address; None is huggingface_hub's default.

    Raises:
        ModelUnusable: there is no such file, no such name, no network, or more than one file it could be.
    """
    if text is None:
        return ResolvedModel(path=_bundled(), source="bundled")
    if text.startswith(HUB_PREFIX):
        match = _HUB_NAME.fullmatch(text.removeprefix(HUB_PREFIX))
        if match is None:
            raise ModelUnusable(f"{text!r} is no model name; write hf:owner/repo or hf:owner/repo:file.gguf.")
        hub = _Hub(cache_dir, endpoint, on_download)
        return ResolvedModel(path=hub.fetch(match["repo"], match["file"]), source="hub")
    path = Path(text).expanduser()
    if not path.exists():
        hint = f" For a model on the hub write hf:{text}." if _HUB_NAME.fullmatch(text) else ""
        raise ModelUnusable(f"There is no model file {path}.{hint}")
    if path.is_dir():
        raise ModelUnusable(f"{path} is a folder; name the .gguf file in it.")
    return ResolvedModel(path=path, source="path")


def _bundled() -> Path:
    path = Path(str(files("sibyl").joinpath("models", BUNDLED)))
    if not path.is_file():
        raise ModelUnusable(
            "This installation has no bundled model; name one with --model PATH or --model hf:owner/repo."
        )
    return path


class _Hub:
    """The part of huggingface_hub that is needed here; its errors become ours."""

    def __init__(self, cache_dir: Path | None, endpoint: str | None, on_download: OnDownload | None) -> None:
        try:
            import huggingface_hub
            import huggingface_hub.errors
        except ImportError:
            raise ModelUnusable("Models named hf:... need one more package: pip install 'sibyl[hub]'.") from None
        self._hub = huggingface_hub
        self._cache_dir = cache_dir
        self._endpoint = endpoint
        self._on_download = on_download

    def fetch(self, repo: str, file: str | None) -> Path:
        """Return the first file of the model that is meant, with all its parts beside it."""
        here = file is not None and self._is_here(repo, file)
        names = [file] if here and file else _choose(repo, file, self._names(repo))
        paths = [self._download(repo, name) for name in names]
        return paths[0]

    def _is_here(self, repo: str, name: str) -> bool:
        """Return whether this very file was downloaded before. Then nothing need be listed."""
        if _SHARD.search(name):
            return False
        try:
            return isinstance(self._hub.try_to_load_from_cache(repo, name, cache_dir=self._cache_dir), str)
        except ValueError:  # a name that no repository may have
            return False

    def _names(self, repo: str) -> list[str]:
        """Return the repository's GGUF files; without a network, those that were downloaded before."""
        errors = self._hub.errors
        try:
            # list_repo_files would try again for half a minute where there is no network
            model = self._hub.HfApi(endpoint=self._endpoint).model_info(repo, timeout=HUB_TIMEOUT_S)
            found = [sibling.rfilename for sibling in model.siblings or ()]
        except (errors.RepositoryNotFoundError, errors.HFValidationError):
            raise ModelUnusable(
                f"There is no model {repo} on the hub, or it is private and HF_TOKEN is not set."
            ) from None
        except Exception:  # whatever HTTP library the hub uses today, with its own errors
            try:
                folder = self._hub.snapshot_download(
                    repo, cache_dir=self._cache_dir, endpoint=self._endpoint, local_files_only=True
                )
            except Exception:
                raise ModelUnusable(f"The hub cannot be reached, and {repo} was not downloaded before.") from None
            found = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.gguf")]
        return sorted(name for name in found if name.endswith(".gguf"))

    def _download(self, repo: str, name: str) -> Path:
        errors = self._hub.errors
        options: dict[str, Any] = {}
        if self._on_download is not None:
            options["tqdm_class"] = _progress_bar(self._on_download)
        try:
            path = self._hub.hf_hub_download(repo, name, cache_dir=self._cache_dir, endpoint=self._endpoint, **options)
        except errors.LocalEntryNotFoundError:
            raise ModelUnusable(f"The hub cannot be reached, and {name} of {repo} was not downloaded before.") from None
        except errors.EntryNotFoundError:
            raise ModelUnusable(f"There is no file {name} in {repo}.") from None
        except (errors.RepositoryNotFoundError, errors.HFValidationError):
            raise ModelUnusable(
                f"There is no model {repo} on the hub, or it is private and HF_TOKEN is not set."
            ) from None
        except OSError as error:
            raise ModelUnusable(
                f"{name} of {repo} could not be stored: {error.strerror or type(error).__name__}."
            ) from None
        except Exception as error:
            raise ModelUnusable(f"{name} of {repo} could not be downloaded: {type(error).__name__}.") from error
        return Path(path)


def _choose(repo: str, wanted: str | None, names: Sequence[str]) -> list[str]:
    """Return the one file that is meant, or all parts of it, in order.

    Raises:
        ModelUnusable: none is, or several are.
    """
    # A projector for pictures is a GGUF file beside the model, and no model.
    models = [name for name in names if not PurePosixPath(name).name.lower().startswith("mmproj")]
    exact = [name for name in models if name == wanted]
    matching = exact or [name for name in models if wanted is None or wanted.lower() in name.lower()]
    by_model: dict[str, list[str]] = {}
    for name in sorted(matching):
        by_model.setdefault(_SHARD.sub(".gguf", name), []).append(name)
    if len(by_model) == 1:
        parts = next(iter(by_model.values()))
        if shard := _SHARD.search(parts[0]):
            parts = [_SHARD.sub(f"-{number:05}-of-{shard[2]}.gguf", parts[0]) for number in range(1, int(shard[2]) + 1)]
        return parts
    listed = ", ".join((list(by_model) or list(models))[:_SHOWN]) or "none"
    if by_model:
        raise ModelUnusable(f"{repo} has several GGUF files; name one as hf:{repo}:FILE. Some are: {listed}.")
    what = "no GGUF file" if wanted is None else f"no GGUF file that matches {wanted!r}"
    raise ModelUnusable(f"{repo} has {what}. It has: {listed}.")


def _progress_bar(on_download: OnDownload) -> type[Any]:
    """Return a progress bar, as huggingface_hub wants one, that draws nothing and tells ``on_download``."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class Report(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread that watches over the drawing

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # huggingface_hub's own
            kwargs["disable"] = False
            kwargs["file"] = _Nowhere()
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> bool | None:
            drawn: bool | None = super().update(n)
            on_download(int(self.n), int(self.total or 0))
            return drawn

    return Report


class _Nowhere:
    """A terminal that shows nothing."""

    def write(self, text: str) -> None: ...

    def flush(self) -> None: ...

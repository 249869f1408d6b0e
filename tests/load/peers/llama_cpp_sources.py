"""llama.cpp's own programs, built from the sources inside the sdist of the llama-cpp-python that we run.

They then run on the llama.cpp libraries of the installed wheel: all sides compute with the very same machine code.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.load.peers.environments import CACHE, Unavailable, run

VERSION = importlib.metadata.version("llama-cpp-python")
_PROGRAMS = ("llama-server", "llama-batched-bench")
# Only these two; and nothing that a build would download (the page of llama-server) or that has to be installed.
_OPTIONS = (
    "CMAKE_BUILD_TYPE=Release",
    "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF",
    "LLAMA_BUILD_APP=OFF",
    "LLAMA_BUILD_UI=OFF",
    "LLAMA_USE_PREBUILT_UI=OFF",
    "LLAMA_OPENSSL=OFF",
    "GGML_CCACHE=OFF",
)


def sources() -> Path:
    """Return the folder of the sdist's content, downloaded at the first call.

    Raises:
        Unavailable: pip cannot get it.
    """
    place = CACHE / f"llama.cpp-{VERSION}" / "source"
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as name:
        what = ("--no-deps", "--no-build-isolation", "--no-binary", ":all:", f"llama-cpp-python=={VERSION}")
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "-q")
        run("llama.cpp", *pip, *what, "-d", name)
        (archive,) = Path(name).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(name, filter="data")
        (content,) = (entry for entry in Path(name).iterdir() if entry.is_dir())
        content.rename(place)
    return place


def program(name: str) -> Path:
    """Return one of llama.cpp's programs; all of them are built at the first call, which takes minutes.

    Raises:
        Unavailable: there is no compiler, or it failed.
    """
    build = CACHE / f"llama.cpp-{VERSION}" / "build"
    found = build / "bin" / name
    if not (build / "built").exists():
        print(f"  building llama.cpp's {' and '.join(_PROGRAMS)}: this takes minutes, once", flush=True)
        _build(sources() / "vendor" / "llama.cpp", build)
    return found


def libraries() -> dict[str, str]:
    """Return the environment in which a program takes llama.cpp from the wheel that we run."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise Unavailable("llama_cpp is not installed")
    build = CACHE / f"llama.cpp-{VERSION}" / "build" / "bin"
    return dict(os.environ) | {"LD_LIBRARY_PATH": f"{Path(spec.origin).parent / 'lib'}:{build}"}


def _build(content: Path, build: Path) -> None:
    if platform.system() != "Linux":
        raise Unavailable("llama.cpp's programs: built on Linux only")
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if cmake is None:
        raise Unavailable("llama.cpp's programs: no cmake (make setup installs it)")
    options = [f"-D{option}" for option in _OPTIONS] + os.environ.get("CMAKE_ARGS", "").split()
    nice = ("nice", "-n", "5", cmake)
    run("llama.cpp", *nice, "-S", str(content), "-B", str(build), *options)
    run("llama.cpp", *nice, "--build", str(build), "--target", *_PROGRAMS, "-j", str(os.cpu_count() or 1))
    (build / "built").touch()

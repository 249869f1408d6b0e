"""Where other programs live that we are compared with: environments of their own, outside git, made once.

What cannot be had is `Unavailable`, with the reason; a benchmark then leaves that side out and says so.
"""

import json
import subprocess
import sys
import venv
from pathlib import Path

CACHE = Path(__file__).parents[3] / ".cache" / "peers"
_OWN_PACKAGES = Path(next(place for place in sys.path if place.endswith("site-packages")))


class Unavailable(Exception):
    """A peer cannot be had on this machine. The message says why."""


def environment(name: str, *packages: str, lends: bool = False) -> Path:
    """Return the Python of an environment that has these packages, made at the first call.

    Args:
        lends: what it does not have itself it takes from our own environment, so that a peer in Python runs the very
            same build of llama.cpp.

    Raises:
        Unavailable: pip cannot install them.
    """
    place = CACHE / "environments" / name
    python, stamp = place / "bin" / "python", place / "installed.json"
    wanted = {"packages": list(packages), "python": sys.version, "lends": lends}
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return python
    venv.create(place, clear=True, with_pip=True)
    if lends:
        (place / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "lent.pth").write_text(
            f"{_OWN_PACKAGES}\n"
        )
    run(name, str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-q", *packages)
    stamp.write_text(json.dumps(wanted))
    return python


def versions(python: Path, *packages: str) -> dict[str, str]:
    """Return the versions of packages in an environment."""
    code = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    found: dict[str, str] = json.loads(subprocess.check_output([python, "-c", code, *packages]))
    return found


def run(name: str, *command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a step of making a peer and return what it printed.

    Raises:
        Unavailable: it failed.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise Unavailable(f"{name}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        raise Unavailable(f"{name}: {Path(command[0]).name} failed: {last}")
    return done.stdout

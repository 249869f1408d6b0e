"""The distribution: built as the official plugins are, and independent of Sibyl."""

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2] / "Backend" / "livekit-plugin-custom-stt"
PACKAGE = PROJECT / "livekit" / "plugins" / "custom_stt"
_PROBE = """
import livekit.agents, livekit.plugins.custom_stt as ours
from livekit.agents import Plugin
assert ours.__file__.startswith({place!r}), ours.__file__
plugin = next(each for each in Plugin.registered_plugins if each.package == "livekit.plugins.custom_stt")
assert plugin.version == ours.__version__, plugin.version
assert plugin.logger.name == "livekit.plugins.custom_stt"
print(ours.STT().label)
"""


@pytest.mark.timeout(60)  # a build and an import of the framework
def test_the_wheel_joins_the_namespace_of_the_framework(tmp_path: Path) -> None:
    """No __init__ in livekit/ or livekit/plugins/, types included, registered when imported; nothing warns."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=PROJECT, check=True, capture_output=True,
    )  # fmt: skip
    [wheel] = tmp_path.glob("livekit_plugin_custom_stt-*-py3-none-any.whl")
    place = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(place)

    assert {"livekit/plugins/custom_stt/py.typed", "livekit/plugins/custom_stt/stt.py"} <= names
    assert not {"livekit/__init__.py", "livekit/plugins/__init__.py"} & names
    probe = [sys.executable, "-W", "error", "-c", _PROBE.format(place=str(place))]
    environment = {**os.environ, "PYTHONPATH": str(place)}
    done = subprocess.run(probe, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "livekit.plugins.custom_stt.stt.STT\n"), done.stderr


def test_it_imports_nothing_of_sibyl_and_only_what_it_depends_on() -> None:
    """So it can be installed beside an agent that never saw this repository."""
    imported = set()
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                imported.add(node.module.partition(".")[0])

    assert imported - sys.stdlib_module_names == {"aiohttp", "livekit", "numpy"}

"""The wheel, alone, in an environment outside the tree."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import httpx
import pytest

from sibyl.api.page import page_directory
from tests.processes import Serve
from tests.system.following import Follower

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(180)
def test_the_wheel_in_an_environment_of_its_own_serves_with_page_and_model(tmp_path: Path) -> None:
    """Built from the tree and installed elsewhere, it asks nothing of the tree: answers, page, model are in it."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    wheel = next(tmp_path.glob("sibyl-*.whl"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True, env=os.environ | {"PIP_FIND_LINKS": ""})

    # Its dependencies come from the tests' environment, whose .pth files are not read in this way: sibyl itself can
    # only come from the wheel.
    dependencies = {"PYTHONPATH": sysconfig.get_path("purelib")}
    where = subprocess.run(
        [str(python), "-c", "import sibyl; print(sibyl.__file__)"],
        cwd=tmp_path,
        env=os.environ | dependencies,
        check=True,
        capture_output=True,
        text=True,
    )
    assert where.stdout.startswith(str(tmp_path))

    serve = Serve(tmp_path / "data", python=str(python), env=dependencies)
    try:
        serve.ready()
        reader = Follower(serve.url, serve.ask("Should I change my job this year?")["task_id"])
        assert reader.wait_for_end()["type"] == "completed"
        page = httpx.get(f"{serve.url}/", trust_env=False)
        assert page.status_code == 200
        if page_directory() is not None:
            assert "<html" in page.text and "assets/" in page.text
        assert serve.task(reader.events[0]["task_id"])["model"] == "Sibyl Oracle"
    finally:
        assert serve.stop() == 0

"""The OpenAPI document against the running API: schemathesis invents requests and judges the answers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import run_api, run_worker

CONFIG = """
hooks = "hooks"

# What a good request to a task may be told about a task that is not there.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "404", "410"]

# Nor can a document say which bytes are audio, and which fields of a form need each other; see test_transcriptions.py.
[[operations]]
include-path = "/v1/audio/transcriptions"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "410", "415", "422"]
"""
# One key names one request: invented requests that share a key are refused, as test_questions.py shows.
HOOKS = """
import re, uuid, schemathesis

GRAMMAR, SCHEMA = 'root ::= "yes" | "no"', {"type": "boolean"}

@schemathesis.hook
def before_call(context, case, kwargs):
    for name, value in (case.headers or {}).items():
        if name.lower() == "idempotency-key" and re.fullmatch("[!-~]{1,255}", str(value)):
            case.headers[name] = uuid.uuid4().hex
    # A document cannot say which texts are grammars and which objects are schemas that can be kept, so those that are
    # invented become ones that are; test_questions.py shows which are refused.
    sampling = case.body.get("sampling") if isinstance(case.body, dict) else None
    if isinstance(sampling, dict):
        if isinstance(sampling.get("grammar"), str) and 0 < len(sampling["grammar"]) <= 16384:
            sampling["grammar"] = GRAMMAR
        if isinstance(sampling.get("json_schema"), dict):
            sampling["json_schema"] = SCHEMA
"""


@pytest.mark.timeout(200)
def test_the_api_keeps_its_contract(redis_url: str, tmp_path: Path) -> None:
    """All checks on every route: examples, boundaries, random bodies, and sequences of calls that follow each other.

    Streams are read to their ends: a worker answers every task at once. Seeded, so that a failure can be had again.
    """
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    (tmp_path / "hooks.py").write_text(HOOKS)
    program = str(Path(sys.executable).with_name("schemathesis"))
    with run_worker(redis_url, slots=8), run_api(redis_url, owner_tasks=10_000) as api:
        ran = subprocess.run(
            [
                *(program, f"--config-file={tmp_path}/schemathesis.toml", "run", f"{api.url}/openapi.json"),
                *("--seed=20", "--max-examples=15", "--mode=all", "--checks=all", "--workers=1"),
                *("--request-timeout=10", "--no-color", "--generation-database=none"),
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=180,
        )

    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]

"""One API for most tests of the API, on the Redis of the session; and a look at what it logged."""

import logging
from collections.abc import Iterator

import httpx
import pytest
from redis import Redis

from sibyl.store.embedded import EmbeddedRedis
from tests.serving import RunningApi, RunningWorker, errors_in, run_api, run_worker
from tests.topology import Servers


@pytest.fixture(scope="module")  # not longer: its reaper would work on the Redis of other tests
def running_api(redis_servers: Servers) -> Iterator[RunningApi]:
    """An API with default settings, but for short patience."""
    with run_api(redis_servers.url, keep_alive_s=0.3, send_timeout_s=5) as api:
        yield api


@pytest.fixture
def api(running_api: RunningApi, redis_url: str) -> RunningApi:
    """The API, on an empty Redis."""
    return running_api


@pytest.fixture
def client(api: RunningApi) -> Iterator[httpx.Client]:
    """A client of the API."""
    with api.client() as client:
        yield client


@pytest.fixture
def worker(redis_url: str) -> Iterator[RunningWorker]:
    """A worker with the scripted engine."""
    with run_worker(redis_url) as worker:
        yield worker


@pytest.fixture(autouse=True)
def no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client does is an error of ours: no test may leave one in the log."""
    caplog.set_level(logging.INFO)
    yield
    assert errors_in(caplog.get_records("call")) == []


@pytest.fixture
def redis_admin(redis_server: EmbeddedRedis) -> Iterator[Redis]:
    """A connection to Redis that may do everything."""
    with Redis.from_url(redis_server.admin_url, decode_responses=True) as admin:
        yield admin

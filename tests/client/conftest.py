"""The server that the client is tested against."""

from collections.abc import Iterator

import pytest

from tests.client.native_server import NativeServer


@pytest.fixture(scope="session")
def running_server() -> Iterator[NativeServer]:
    """One server for all tests."""
    with NativeServer() as server:
        yield server


@pytest.fixture
def api(running_server: NativeServer) -> NativeServer:
    """The server, without tasks, faults and memories."""
    running_server.clear()
    return running_server

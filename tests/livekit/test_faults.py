"""What a server refuses, and what it never says: the framework's errors, and a bound on every wait."""

import asyncio
import http
from collections.abc import AsyncIterator

import pytest
from livekit.agents import APIConnectionError, APIConnectOptions, APIError, APIStatusError, APITimeoutError
from livekit.plugins import custom_stt
from livekit.plugins.custom_stt import sender
from livekit.plugins.custom_stt.faults import REFUSALS
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from tests.livekit.fake_server import Visit, fake_server
from tests.livekit.hearing import hearing

ONCE_MORE = APIConnectOptions(max_retry=1, retry_interval=0.05)


@pytest.mark.parametrize("code", sorted(REFUSALS))
async def test_a_refusal_is_tried_again_only_where_that_may_help(code: str) -> None:
    """The server's error code says so, and its close code is the status of the error (003-5)."""
    status, retryable = REFUSALS[code]

    async def refuse(visit: Visit) -> None:
        await visit.hear("config")
        await visit.say("error", code=code, message="No.", fatal=True)
        await visit.socket.close(status, code)

    async with fake_server(refuse) as server:
        stt = custom_stt.STT(url=server.url)
        async with hearing(stt, stt.stream(conn_options=ONCE_MORE)) as heard:
            with pytest.raises(APIError) as raised:
                await heard.end()

        assert len(server.visits) == (2 if retryable else 1)
    error = raised.value.__cause__ if retryable else raised.value  # the framework wraps what it gave up on
    assert isinstance(error, APIStatusError)
    assert (error.status_code, error.retryable) == (status, retryable)
    assert error.body == {"code": code, "retry_after_s": None}


@pytest.mark.parametrize(
    ("close", "retryable"), [(1003, False), (1007, False), (1008, False), (1009, False), (1013, True), (4000, True)]
)
async def test_a_close_without_an_error_message_tells_by_its_code(close: int, retryable: bool) -> None:
    """For servers that say no more (003-5)."""

    async def refuse(visit: Visit) -> None:
        await visit.greet()
        await visit.socket.close(close, "because")

    async with fake_server(refuse) as server:
        stt = custom_stt.STT(url=server.url)
        async with hearing(stt, stt.stream(conn_options=APIConnectOptions(max_retry=0))) as heard:
            with pytest.raises(APIStatusError, match=f"{close}: because") as raised:
                await heard.end()

    assert (raised.value.status_code, raised.value.retryable) == (close, retryable)


async def test_an_error_in_the_middle_is_raised_after_the_last_finals() -> None:
    """The server tells what it has, then ends; nothing that it said is lost (003-5)."""

    async def too_fast(visit: Visit) -> None:
        await visit.greet()
        await visit.hear(audio_bytes=3200)
        await visit.say("error", code="frame_too_large", message="Too large.", fatal=True)
        await visit.say("final", seq=1, utt=1, text="the rest", start=0.0, end=0.1)
        await visit.end("frame_too_large", code=1009)

    async with fake_server(too_fast) as server, hearing(custom_stt.STT(url=server.url)) as heard:
        heard.push(1)
        with pytest.raises(APIStatusError, match="Too large"):
            await heard.end()

    assert heard.finals == ["the rest"]


async def test_a_recogniser_that_fails_again_and_again_ends_the_stream() -> None:
    """The same audio is sent in each attempt, and the attempts are counted."""

    async def fail(visit: Visit) -> None:
        await visit.greet()
        await visit.hear(audio_bytes=3200)
        await visit.say("error", code="internal", message="", fatal=True)
        await visit.end("internal", code=1011)

    async with fake_server(fail) as server:
        stt = custom_stt.STT(url=server.url)
        async with hearing(stt, stt.stream(conn_options=ONCE_MORE)) as heard:
            heard.push(1)
            with pytest.raises(APIConnectionError):
                await heard.end()

        assert [bytes(visit.audio) for visit in server.visits] == [b"\1\0" * 1600] * 2


async def test_a_server_that_is_cut_at_once_each_time_is_given_up() -> None:
    """It gets ready and closes, and nothing ever moves: the attempts of the plugin are bounded."""

    async def useless(visit: Visit) -> None:
        await visit.greet()
        visit.socket.transport.abort()

    async with fake_server(useless) as server:
        stt = custom_stt.STT(url=server.url, reconnect_attempts=3)
        async with hearing(stt, stt.stream(conn_options=APIConnectOptions(max_retry=0))) as heard:
            with pytest.raises(APIConnectionError, match="did not come back"):
                await heard.end()

        assert len(server.visits) == 4


async def test_a_server_that_never_gets_ready_is_left() -> None:
    """After ``ready_s``."""

    async def silent(visit: Visit) -> None:
        await visit.socket.wait_closed()

    async with fake_server(silent) as server:
        stt = custom_stt.STT(url=server.url, ready_s=0.2)
        async with hearing(stt, stt.stream(conn_options=APIConnectOptions(max_retry=0))) as heard:
            with pytest.raises(APITimeoutError, match=r"not ready within 0\.2 s"):
                await heard.end()


async def test_a_session_that_will_be_resumed_is_not_said_goodbye_to() -> None:
    """A server lets a session go at once when its client closes with 1000."""

    async def cut(visit: Visit) -> None:
        await visit.greet()
        visit.socket.transport.abort()

    async def silent(visit: Visit) -> None:
        await visit.socket.wait_closed()

    async def well(visit: Visit) -> None:
        config = await visit.greet(resumed=True)
        assert config["resume"] == {"token": "token-1", "last_seq": 0}
        await visit.hear("end_of_stream")
        await visit.end()

    async with fake_server(cut, silent, well) as server:
        async with hearing(custom_stt.STT(url=server.url, ready_s=0.2)) as heard:
            heard.stream.end_input()
            await heard.end()

        assert [visit.socket.close_code for visit in server.visits[1:]] == [1001, 1000]


async def test_a_server_that_does_not_tell_the_rest_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its own limit and five seconds; that is an error, since what was said last may be missing."""
    assert sender.DRAIN_MARGIN_S == 5.0
    monkeypatch.setattr(sender, "DRAIN_MARGIN_S", 0.1)

    async def silent(visit: Visit) -> None:
        await visit.greet(limits={"drain_s": 0.2})
        await visit.socket.wait_closed()

    async with fake_server(silent) as server, hearing(custom_stt.STT(url=server.url)) as heard:
        heard.push(1)
        heard.stream.end_input()
        with pytest.raises(APITimeoutError, match=r"did not tell the rest within 0\.3"):
            await heard.end()

        assert len(server.visits) == 1


async def test_a_server_that_closes_normally_after_the_end_has_ended() -> None:
    """Also one that says nothing before (002-1)."""

    async def terse(visit: Visit) -> None:
        await visit.greet()
        await visit.hear("end_of_stream")
        await visit.say("final", text="yes")
        await visit.socket.close()

    async with fake_server(terse) as server, hearing(custom_stt.STT(url=server.url)) as heard:
        heard.push(1)
        heard.stream.end_input()
        await heard.end()

    assert heard.finals == ["yes"]


async def test_a_server_that_hears_nothing_any_more_is_left_for_another_session() -> None:
    """All that it can hold was sent, and it moves no more; a live stream must not wait for it for ever."""

    async def stuck(visit: Visit) -> None:
        await visit.greet(limits={"keepalive_s": 0.05, "max_backlog_s": 0.4})
        await visit.hear(audio_bytes=6400)
        await visit.hear("never")

    async def well(visit: Visit) -> None:
        assert "resume" not in await visit.greet(session_id="session-2")
        await visit.hear("end_of_stream")
        assert len(visit.audio) == 16_000
        await visit.end()

    async with fake_server(stuck, well) as server:
        async with hearing(custom_stt.STT(url=server.url, stall_s=0.3)) as heard:
            heard.push(1, 2, 3, 4, 5)
            heard.stream.end_input()
            await heard.end()

        assert len(server.visits[0].audio) == 6400
        assert server.visits[0].socket.close_code == 1000  # the server need not wait for us


@pytest.fixture
async def closed_door() -> AsyncIterator[int]:
    """The port of a server that answers with 401, or 503, as the path says."""

    def answer(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(http.HTTPStatus(int(request.path[1:])), "no\n")

    async def nothing(connection: ServerConnection) -> None:
        pass

    async with serve(nothing, "127.0.0.1", 0, process_request=answer) as listening:
        yield next(iter(listening.sockets)).getsockname()[1]


@pytest.mark.parametrize(("status", "retryable"), [(401, False), (403, False), (429, True), (503, True)])
async def test_an_answer_that_is_no_websocket_is_the_framework_s_status_error(
    closed_door: int, status: int, retryable: bool
) -> None:
    """With its own rule for which of them may go better (003-5)."""
    stt = custom_stt.STT(url=f"ws://127.0.0.1:{closed_door}/{status}")
    async with hearing(stt, stt.stream(conn_options=APIConnectOptions(max_retry=0))) as heard:
        with pytest.raises(APIStatusError) as raised:
            await heard.end()

    assert (raised.value.status_code, raised.value.retryable) == (status, retryable)


async def test_closing_while_the_connection_is_being_made_leaves_nothing() -> None:
    """At each moment from the first step on; the fixture looks for tasks (002-4)."""

    async def slow(visit: Visit) -> None:
        await visit.hear("config")
        await visit.socket.wait_closed()

    async with fake_server(slow) as server:
        for steps in range(0, 40, 3):
            async with custom_stt.STT(url=server.url) as stt:
                stream = stt.stream()
                for _ in range(steps):
                    await asyncio.sleep(0)
                await stream.aclose()

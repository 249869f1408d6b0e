"""The other peer of ``fan_out``: nginx with the nchan module, from Debian (``nginx libnginx-mod-nchan``)."""

import contextlib
import http.client
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.processes import free_port, until

NGINX = Path("/usr/sbin/nginx")
MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
_CONFIGURATION = """
load_module {module};
daemon off;
worker_processes 1;
worker_rlimit_nofile 8192;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 10000000;
  tcp_nodelay on;
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location /publish {{ nchan_publisher; nchan_channel_id answer; nchan_message_buffer_length 100000; }}
    location /events {{
      nchan_subscriber eventsource; nchan_channel_id answer; nchan_subscriber_first_message newest;
      nchan_eventsource_ping_interval 0;
    }}
  }}
}}
"""


class Nchan:
    """A running nginx with one channel."""

    def __init__(self, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.port = port
        self._process = process

    @property
    def worker(self) -> int:
        """The process that does the work."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0])

    def open(self) -> None:
        """Write a first event: nginx answers a subscriber only when it has something for it."""
        self._publish([("queued", '{"type":"queued"}')], 0)

    def publish(self, events: int, rate: float) -> None:
        """Publish events, at so many a second or as fast as they go with 0, then the end."""
        outputs = [
            (
                "llm_streaming",
                json.dumps({"type": "llm_streaming", "token": " word", "index": number}, separators=(",", ":")),
            )
            for number in range(events)
        ]
        self._publish([*outputs, ("completed", '{"type":"completed"}')], rate)

    def _publish(self, events: list[tuple[str, str]], rate: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        began = time.monotonic()
        for number, (event, data) in enumerate(events):
            if rate:
                time.sleep(max(0.0, began + number / rate - time.monotonic()))
            connection.request("POST", "/publish", data, {"X-EventSource-Event": event})
            reply = connection.getresponse()
            reply.read()
            assert reply.status in (201, 202), reply.status
        connection.close()


def available() -> bool:
    """Whether it is installed."""
    return NGINX.exists() and MODULE.exists()


@contextlib.contextmanager
def nchan(folder: Path) -> Iterator[Nchan]:
    """Run it while the block runs."""
    folder.mkdir()
    port = free_port()
    path = folder / "nginx.conf"
    path.write_text(_CONFIGURATION.format(module=MODULE, folder=folder, port=port))
    process = subprocess.Popen([str(NGINX), "-p", str(folder), "-c", str(path)], stderr=subprocess.DEVNULL)
    try:
        until((folder / "nginx.pid").exists, limit_s=10, what="nginx")
        yield Nchan(port, process)
    finally:
        process.terminate()
        process.wait(10)

"""The peer of ``fan_out``: a plain sse-starlette app as its documentation shows it, a queue for each client.

`python -m tests.load.plain_sse PORT`. ``POST /publish?events=&rate=`` has it make events itself, at so many a second,
or as fast as they go with 0; nothing is stored, so a client that comes later has missed what was before.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI
from sse_starlette.sse import EventSourceResponse

app = FastAPI()
_clients: "list[asyncio.Queue[dict[str, str] | None]]" = []


@app.get("/events")
async def events() -> EventSourceResponse:
    """Follow."""
    return EventSourceResponse(_follow())


async def _follow() -> AsyncIterator[dict[str, str]]:
    queue: asyncio.Queue[dict[str, str] | None] = asyncio.Queue()
    _clients.append(queue)
    try:
        yield {"event": "queued", "data": '{"type":"queued"}'}
        while (event := await queue.get()) is not None:
            yield event
    finally:
        _clients.remove(queue)


@app.post("/publish")
async def publish(events: int, rate: float) -> int:
    """Make events, then the end; return how many clients there were."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(events):
        if rate:
            await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        else:
            await asyncio.sleep(0)
        _publish("llm_streaming", number, token=" word", index=number)
    clients = len(_clients)
    _publish("completed", events, text_length=events)
    for queue in _clients:
        queue.put_nowait(None)
    return clients


def _publish(event: str, number: int, **fields: object) -> None:
    data = json.dumps({"type": event, **fields}, separators=(",", ":"))
    for queue in _clients:
        queue.put_nowait({"id": f"1-{number}", "event": event, "data": data})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning", backlog=2048)

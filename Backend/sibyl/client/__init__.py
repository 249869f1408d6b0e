"""For programs that ask: submit a question, follow its answer over as many connections as that takes, cancel it.
`Client` blocks, `AsyncClient` awaits; both hand out each event once and in order. This package speaks only the native
wire: it knows neither Redis nor the model."""

from sibyl.client.async_client import AsyncClient
from sibyl.client.blocking_client import Client
from sibyl.client.errors import CannotConnect, Refused, ServerFailed, TaskFailed, UnexpectedReply
from sibyl.client.events import (
    Cancelled,
    ClientEvent,
    Completed,
    Expired,
    Failed,
    Output,
    Position,
    Progress,
    Queued,
    Reset,
    Started,
)
from sibyl.client.reconnect import Pause
from sibyl.client.tasks import Poem, Task, TaskPage
from sibyl.core.errors import SibylError
from sibyl.core.logprobs import TokenLogprob, TokenLogprobs
from sibyl.core.state import State
from sibyl.core.task import Message, SamplingParams, TaskError, Usage

__all__ = [
    "AsyncClient",
    "Cancelled",
    "CannotConnect",
    "Client",
    "ClientEvent",
    "Completed",
    "Expired",
    "Failed",
    "Message",
    "Output",
    "Pause",
    "Poem",
    "Position",
    "Progress",
    "Queued",
    "Refused",
    "Reset",
    "SamplingParams",
    "ServerFailed",
    "SibylError",
    "Started",
    "State",
    "Task",
    "TaskError",
    "TaskFailed",
    "TaskPage",
    "TokenLogprob",
    "TokenLogprobs",
    "UnexpectedReply",
    "Usage",
]

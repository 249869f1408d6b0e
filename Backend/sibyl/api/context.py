"""What a handler may reach, made once per process; and who asks."""

from typing import Annotated

from fastapi import Depends, Request

from sibyl.api.draining import Draining
from sibyl.api.upload import UploadRoom
from sibyl.config import Settings, session_limits, speech_settings
from sibyl.core.errors import TooManyFollowers
from sibyl.core.task import LOCAL_OWNER, Owner, TaskId
from sibyl.speech.catalogue import Catalogue
from sibyl.speech.sessions import Sessions
from sibyl.store.audio import AudioFiles
from sibyl.store.connection import Store
from sibyl.store.counting import PromptCounting
from sibyl.store.feed import Feed
from sibyl.store.queue import Limits, TaskQueue
from sibyl.store.tail import Tail
from sibyl.store.tasks import TaskViews
from sibyl.store.workers import WorkerRegistry


class Context:
    """The parts of one API process."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.queue = TaskQueue(store)
        self.views = TaskViews(store)
        self.tail = Tail(store)
        self.registry = WorkerRegistry(store)
        self.counting = PromptCounting(store)
        self.audio_files = AudioFiles(store)
        self.uploads = UploadRoom(file_bytes=settings.upload_bytes)
        self.limits = Limits(
            queue_tasks=settings.queue_tasks,
            owner_tasks=settings.owner_tasks,
            deadline_s=settings.deadline_s,
            retention_s=settings.retention_s,
        )
        self.sessions = Sessions(
            Catalogue(speech_settings(settings)), session_limits(settings), most=settings.speech_sessions
        )
        self.sockets = 0  #: open speech connections
        self.draining = Draining()  #: set: event streams are cut, for their followers to go elsewhere
        self.followers = 0  #: open event streams

    def join(self, task_id: TaskId) -> Feed:
        """Take a follower's place, which ``leave`` gives back. Raises TooManyFollowers at the limit."""
        if self.followers >= self.settings.followers:
            raise TooManyFollowers()
        feed = self.tail.join(task_id)
        self.followers += 1
        return feed

    def leave(self, feed: Feed) -> None:
        """Give a follower's place back."""
        self.followers -= 1
        self.tail.leave(feed)


# Both are coroutines though they wait for nothing: FastAPI calls functions in a thread, for each request anew.
async def context(request: Request) -> Context:
    """Return the process' parts."""
    found = request.app.state.context
    assert isinstance(found, Context)
    return found


async def owner() -> Owner:
    """Return who asks: everybody is one owner until API keys exist."""
    return LOCAL_OWNER


ContextParam = Annotated[Context, Depends(context)]
OwnerParam = Annotated[Owner, Depends(owner)]

"""Clients that ask, follow to the end and ask again, and know what they must have read."""

import asyncio
from collections.abc import Sequence

import httpx

from tests.load.asking import ask
from tests.system.reading import Cut, Reader, broken

ANSWER_LIMIT_S = 90.0


def words(number: int, count: int) -> str:
    """An answer that the scripted engine can be told to give, unlike that of any other number."""
    return " ".join(f"{number}.{place}" for place in range(count))


class Client:
    """One client and all that it read."""

    def __init__(self, number: int, urls: Sequence[str], *, outputs: int, pace: int) -> None:
        """Prepare it; ``run`` asks for answers of so many outputs, at so many a second."""
        self.readers: list[Reader] = []
        self._texts: list[str] = []
        self.number = number
        self._urls = urls
        self._outputs = outputs
        self._pace = pace

    async def run(self, over: asyncio.Event) -> None:
        """Ask again and again; end with the answer under way when it is over."""
        while not over.is_set():
            turn = len(self.readers)
            text = words(self.number * 1000 + turn, self._outputs)
            question = f"[pace={self._pace}] [text={text}]"
            task_id = await self._ask(question, key=f"client-{self.number}-{turn}")
            reader = Reader(self._urls, task_id, first=self.number)
            self.readers.append(reader)
            self._texts.append(text)
            async with asyncio.timeout(ANSWER_LIMIT_S):
                await reader.run()

    @property
    def newest_at(self) -> float:
        """When its newest event came."""
        return max((reader.times[-1] for reader in self.readers[-2:] if reader.times), default=0.0)

    @property
    def cuts(self) -> list[Cut]:
        """Its broken connections."""
        return [cut for reader in self.readers for cut in reader.cuts]

    @property
    def wrong(self) -> list[str]:
        """What is wrong with what it read, in words."""
        pairs = zip(self.readers, self._texts, strict=True)
        return [why for reader, text in pairs for why in broken([reader], text)]

    async def _ask(self, question: str, *, key: str) -> str:
        """Ask whoever answers. With a key: an API that ends may have accepted it and not said so."""
        for attempt in range(400):
            url = self._urls[(self.number + attempt) % len(self._urls)]
            try:
                return await asyncio.to_thread(ask, url, question, key=key)
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            except httpx.HTTPStatusError as error:
                if error.response.status_code not in (429, 503):
                    raise
                await asyncio.sleep(0.05)
        raise TimeoutError("No API took the question.")

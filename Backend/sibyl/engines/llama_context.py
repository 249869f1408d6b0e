"""The state of one model after several sequences of tokens, each in a place of its own, computed together.

A place holds one sequence; a batch goes on with some of them. Used by one thread at a time. What llama.cpp would answer
by ending the process (a batch above its size, a copy of a part where whole places are copied, scores that were never
computed) is refused or avoided before the call is made, and ``held`` says at every moment what a place really holds,
also after a computation failed in the middle.
"""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from sibyl.core.errors import EngineError, ModelUnusable
from sibyl.engines import llama_binding as llama
from sibyl.engines.llama_model import Model


class ComputationAborted(EngineError):
    """The computation was aborted on request."""


class PoolFull(EngineError):
    """The shared room holds no more tokens."""


@dataclass(frozen=True, slots=True)
class Part:
    """The next tokens of one place, and whether the scores after the last of them are wanted."""

    place: int
    token_ids: Sequence[int]
    scored: bool


_place = attrgetter("place")


class Context:
    """Places for sequences of tokens."""

    def __init__(
        self,
        model: Model,
        *,
        places: int,
        place_tokens: int,
        batch_tokens: int,
        threads: int,
        batch_threads: int | None = None,
        pool_tokens: int | None = None,
        flash_attention: bool | None = None,
    ) -> None:
        """Make room.

        Args:
            place_tokens: most tokens of one sequence.
            batch_tokens: most tokens computed at once.
            threads: that compute a batch of one token; ``batch_threads``, a larger one, None for as many.
            pool_tokens: the places share room for so many tokens, and what is copied from one to another is there
                once; None gives each its own. Its own is faster: in a shared pool each token passes all others by.

            flash_attention: None lets llama.cpp choose.

        Raises:
            ModelUnusable: llama.cpp cannot make one, for example because memory is short.
        """
        params = llama.native.llama_context_default_params()
        params.n_ctx = pool_tokens or places * _padded(place_tokens)
        params.kv_unified = pool_tokens is not None
        params.n_batch = params.n_ubatch = max(batch_tokens, places)
        params.n_seq_max = params.n_outputs_max = places
        params.n_threads, params.n_threads_batch = threads, batch_threads or threads
        params.flash_attn_type = -1 if flash_attention is None else int(flash_attention)
        params.no_perf = True
        self._offloaded = model.offloaded
        self._divisible = model.divisible
        self._vocabulary_size = model.vocabulary.size
        self._pooled = pool_tokens is not None
        self._pointer = llama.context_new(model.pointer, params)
        if not self._pointer:
            raise ModelUnusable(
                f"No room for {places} times {place_tokens} tokens of context. Set a smaller context, or fewer slots."
            )
        self._memory = llama.memory(self._pointer)
        self.places = places
        self.place_tokens = min(place_tokens, int(llama.n_ctx_seq(self._pointer)))
        self.pool_tokens = int(llama.n_ctx(self._pointer)) if self._pooled else None
        self.batch_tokens = int(llama.n_batch(self._pointer))
        self.held = [0] * places  #: tokens of each place
        self._rows = _Rows(self.batch_tokens)
        self._scored: frozenset[int] = frozenset()
        self._views: dict[int, NDArray[np.float32]] = {}
        self._flag = ctypes.create_string_buffer(2)
        llama.set_abort(self._pointer, llama.is_not_empty, self._flag)

    def abort(self) -> None:
        """Have the computation under way, or else the next one, end at the next node of its graph. From any thread."""
        self._flag[0] = b"\x01"

    def compute(self, parts: Sequence[Part]) -> list[int]:
        """Go on with these places, and return for each the row of its scores, or of its last token.

        Raises:
            ComputationAborted, PoolFull, EngineError: nothing was computed, or it was taken back; a place of a model
                that can take nothing back is empty then, as ``held`` says.
        """
        count = sum(len(part.token_ids) for part in parts)
        if not 0 < count <= self.batch_tokens:
            raise EngineError(f"{count} tokens cannot be computed at once; {self.batch_tokens} can.")
        rows, last = self._rows, -1
        ends, scored = dict[int, int](), []
        for part in sorted(parts, key=_place):  # only neighbours in a batch are computed in one go
            first, size = last + 1, len(part.token_ids)
            held = self.held[part.place]
            if not size or held + size > self.place_tokens:
                raise EngineError(f"{size} tokens cannot be computed after {held} of {self.place_tokens}.")
            last += size
            rows.fill(first, part.token_ids, held, part.place)
            ends[part.place] = last
            if part.scored:
                rows.scored[last] = 1
                scored.append(last)
        self._scored = frozenset()
        self._decode(parts, count)
        for part in parts:
            self.held[part.place] += len(part.token_ids)
        self._scored = frozenset(scored)
        return [ends[part.place] for part in parts]

    def _decode(self, parts: Sequence[Part], count: int) -> None:
        code = llama.decode(self._pointer, self._rows.batch(count))
        if code == 0:
            if self._offloaded:
                llama.synchronize(self._pointer)  # waiting for a GPU is no quick call
            return
        self._flag[0] = b"\x00"
        for part in parts:  # a part of the batch may have been computed
            self.trim(part.place, self.held[part.place])
        match code:
            case 1:
                raise PoolFull("The model's memory for tokens is full.")
            case 2:
                raise ComputationAborted()
            case _:
                raise EngineError(f"llama.cpp could not compute (code {code}).")

    def trim(self, place: int, tokens: int) -> None:
        """Keep only the first ``tokens`` of a place; none, if the model cannot take back a part. See ``held``."""
        if not self._divisible or not llama.sequence_remove(self._memory, place, tokens, -1):
            llama.sequence_remove(self._memory, place, -1, -1)
            tokens = 0
        self.held[place] = min(tokens, self.held[place])

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Have ``target`` hold the first ``tokens`` of ``source``, and nothing else. See ``held``."""
        if not self._divisible or source == target or not 0 <= tokens <= self.held[source]:
            raise EngineError(f"{tokens} of {self.held[source]} tokens cannot be copied from {source} to {target}.")
        llama.sequence_remove(self._memory, target, -1, -1)
        if self._pooled:
            llama.sequence_copy(self._memory, source, target, 0, tokens)
            self.held[target] = tokens
        else:  # places of their own are copied whole, at the next computation; a part would be an assertion
            llama.sequence_copy(self._memory, source, target, -1, -1)
            self.held[target] = self.held[source]
            self.trim(target, tokens)

    def set_threads(self, threads: int, batch_threads: int) -> None:
        """Compute with so many from now on: batches of one token, and larger ones."""
        llama.set_threads(self._pointer, threads, batch_threads)

    def scores(self, row: int) -> NDArray[np.float32]:
        """Return the scores of the token after a row of the last batch; valid until the next ``compute``.

        Raises:
            EngineError: they were not wanted, or the batch failed.
        """
        address = llama.logits(self._pointer, row) if row in self._scored else None
        if not address:
            raise EngineError("There are no scores to choose a token from.")
        view = self._views.get(address)
        if view is None:
            scores = (ctypes.c_float * self._vocabulary_size).from_address(address)
            if len(self._views) > 4 * self.places:
                self._views.clear()
            view = self._views[address] = np.ctypeslib.as_array(scores)
        return view

    def likeliest(self, row: int) -> int:
        """Return the token with the highest score.

        Raises:
            EngineError: as ``scores``, or the scores are not numbers, as after damage to the weights.
        """
        scores = self.scores(row)
        best = int(scores.argmax())  # where one is not a number, that one; and faster than max
        if not math.isfinite(scores[best]):
            raise EngineError("The model's scores are not finite numbers; its file may be damaged.")
        return best

    def close(self) -> None:
        """Free it. Twice is once."""
        pointer, self._pointer = self._pointer, None
        self._scored = frozenset()
        if pointer:
            llama.context_free(pointer)

    @property
    def pointer(self) -> int:
        """llama.cpp's own handle.

        Raises:
            EngineError: it was closed.
        """
        if not self._pointer:
            raise EngineError("The context is closed.")
        return int(self._pointer)


class _Rows:
    """A batch's arrays, made once. llama.cpp reads them where they are."""

    def __init__(self, most: int) -> None:
        self._token_ids = np.zeros(most, np.int32)
        self._positions = np.zeros(most, np.int32)
        self._places = np.zeros(most, np.int32)
        self._ones = np.ones(most, np.int32)  # each row belongs to one sequence
        self._addresses = (self._places.ctypes.data + 4 * np.arange(most)).astype(np.uint64)
        self.scored = np.zeros(most, np.int8)
        self._pointers = (
            _pointer(self._token_ids, ctypes.c_int32),
            None,
            _pointer(self._positions, ctypes.c_int32),
            _pointer(self._ones, ctypes.c_int32),
            _pointer(self._addresses, ctypes.POINTER(ctypes.c_int32)),
            _pointer(self.scored, ctypes.c_int8),
        )

    def fill(self, first: int, token_ids: Sequence[int], position: int, place: int) -> None:
        """Write one part, whose first token goes to row ``first`` and to ``position`` of its place, unscored."""
        size = len(token_ids)
        if size == 1:
            self._token_ids[first], self._positions[first] = token_ids[0], position
            self._places[first], self.scored[first] = place, 0
            return
        rows = slice(first, first + size)
        self._token_ids[rows] = token_ids
        self._positions[rows] = range(position, position + size)
        self._places[rows] = place
        self.scored[rows] = 0

    def batch(self, count: int) -> ctypes.Structure:
        """Return the first ``count`` rows as llama.cpp takes them."""
        batch: ctypes.Structure = llama.native.llama_batch(count, *self._pointers)
        return batch


def _pointer(array: NDArray[np.generic], to: type) -> object:
    return ctypes.cast(ctypes.c_void_p(array.ctypes.data), ctypes.POINTER(to))


def _padded(tokens: int) -> int:
    """Return what llama.cpp would make of it anyway."""
    return -(-tokens // 256) * 256

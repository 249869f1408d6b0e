"""The tokens of a model: their bytes, which of them end an answer, and text cut into them. Safe from any thread."""

import ctypes
import re

from sibyl.core.errors import EngineError
from sibyl.engines import llama_binding as llama
from sibyl.engines.chat_template import ControlToken

SEGMENT_CHARACTERS = 4096
"""Most text that a BPE pre-tokenizer sees at once. Those that fall back on std::regex (deepseek, gpt-4o, tekken, ...)
recurse for each character: with 8 MiB of stack a word of 10,000 letters passed and one of 50,000 crashed (measured)."""


class Vocabulary:
    """The tokens of a model. Valid while the model is open."""

    def __init__(self, pointer: int) -> None:
        self._pointer: int | None = pointer
        self._type = int(llama.vocab_type(pointer))
        # Reading the tokens of a model that has none ends the process.
        self.size = int(llama.vocab_size(pointer)) if self._type != llama.native.LLAMA_VOCAB_TYPE_NONE else 0
        self.pieces = [self._read_piece(token_id) for token_id in range(self.size)]  #: nothing for control tokens
        self.end_ids = frozenset(token_id for token_id in range(self.size) if llama.is_eog(pointer, token_id))
        self.control = tuple(
            ControlToken(
                token_id=token_id,
                text=(llama.vocab_text(pointer, token_id) or b"").decode("utf-8", "replace"),
                strips_left=bool(attributes & llama.native.LLAMA_TOKEN_ATTR_LSTRIP),
                strips_right=bool(attributes & llama.native.LLAMA_TOKEN_ATTR_RSTRIP),
            )
            for token_id in range(self.size)
            if (attributes := llama.vocab_attr(pointer, token_id))
            & (llama.native.LLAMA_TOKEN_ATTR_CONTROL | llama.native.LLAMA_TOKEN_ATTR_UNKNOWN)
        )
        texts = {token.token_id: token.text for token in self.control}
        bos, eos = (int(llama.bos(pointer)), int(llama.eos(pointer))) if self.size else (-1, -1)
        self.bos = texts.get(bos, "")
        self.eos = texts.get(eos, "")
        #: the token to put before every prompt, if the model wants one
        self.first_id = bos if 0 <= bos < self.size and llama.adds_bos(pointer) else None

    def _read_piece(self, token_id: int) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        length = llama.piece(self._pointer, token_id, buffer, len(buffer), 0, False)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = llama.piece(self._pointer, token_id, buffer, len(buffer), 0, False)
        return buffer.raw[: max(length, 0)]

    def piece(self, token_id: int) -> bytes | None:
        """Return the bytes of a token; None for an id that is none of ours."""
        return self.pieces[token_id] if 0 <= token_id < self.size else None

    def close(self) -> None:
        """Tokenize no more; the pieces stay."""
        self._pointer = None

    @property
    def max_piece_bytes(self) -> int | None:
        """Longest token; None where a token may stand for any amount of text."""
        if self._type not in (llama.native.LLAMA_VOCAB_TYPE_SPM, llama.native.LLAMA_VOCAB_TYPE_BPE):
            return None
        return max(4, *map(len, self.pieces))  # an unknown character is one token of up to four bytes

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of ``text``, in which no control token is read."""
        ids: list[int] = []
        for segment in _segments(text) if self._type == llama.native.LLAMA_VOCAB_TYPE_BPE else (text,):
            ids += self._tokenize_segment(segment.encode("utf-8", "replace"))
        return ids

    def _tokenize_segment(self, text: bytes) -> list[int]:
        if not self._pointer:
            raise EngineError("The model is closed.")
        room = len(text) + 8
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = int(llama.tokenize(self._pointer, text, len(text), buffer, room, False, False))
            if count >= 0:
                return buffer[:count]
            if -count <= room or -count >= 2**31:
                raise EngineError("The text could not be tokenized.")
            room = -count


def _segments(text: str) -> list[str]:
    """Cut a long text into parts that a pre-tokenizer survives, where it would cut anyway if there is such a place."""
    segments = []
    while len(text) > SEGMENT_CHARACTERS:
        window = text[:SEGMENT_CHARACTERS]
        cut = max((match.start() for match in re.finditer(r"(?<=\w) (?=\w)", window)), default=0) or len(window)
        segments.append(text[:cut])
        text = text[cut:]
    return [*segments, text]

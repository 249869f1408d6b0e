"""A model for llama.cpp whose every answer is known beforehand, and is wrong if the KV cache held anything else.

Its words are single characters, one for each pair of a dialect and a place. A question begins with the mark of a
dialect and ends with a word; the answer goes on from the place of that word, place by place, in that dialect. The last
token says which place comes next, as in a chain model. The dialect stands nowhere but at the beginning of the prompt:
attention brings it from there for each token, so whoever reads the cells of another prompt speaks its dialect.

The right token is ahead of all others by so much that neither the shape of a batch, nor rounding, nor temperature
changes it. In some dialects the last place is followed by the end of the answer, in the others by the first place.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tests.load.make_random_gguf import EOS, FIRST_PIECE, ModelFile, Shape, layer_shapes

DIALECTS: Final = 8
ENDING: Final = 4  # in so many of them an answer ends after the last place
PLACES: Final = 366
MARKS: Final = tuple(chr(0x2460 + dialect) for dialect in range(DIALECTS))
CONTEXT_TOKENS: Final = 2048
TEMPLATE: Final = "{{ bos_token }}{{ messages[-1].content }}"

_WORDS: Final = tuple(chr(0x4E00 + number) for number in range(DIALECTS * PLACES))  # dialect by dialect
_FIRST_MARK: Final = FIRST_PIECE
_FIRST_WORD: Final = _FIRST_MARK + DIALECTS

# What each component of the residual stream says.
_ANY: Final = 0  # there is a token
_NEITHER: Final = 1  # which is neither word nor mark
_MARK: Final = 2  # from here: which mark it is
_DIALECT: Final = _MARK + DIALECTS  # from here: which dialect is spoken, brought by attention
_PLACE: Final = _DIALECT + DIALECTS  # from here: at which place of the chain the token stands
_WIDTH: Final = _PLACE + PLACES
_HEADS: Final = 6
_SHAPE: Final = Shape(
    vocabulary=_FIRST_WORD + len(_WORDS),
    width=_WIDTH,
    layers=2,
    heads=_HEADS,
    kv_heads=1,
    hidden=256,  # of zeros
)
_LOUD: Final = math.sqrt(_WIDTH / 2)  # a component of a token's own two, after the norm
_SLOW: Final = _WIDTH // _HEADS - 2  # the first of the two components of a head that positions turn least
_ATTENTION: Final = 2.0  # e to the power of 40 for the mark, against 1 for every other token
_LEAD: Final = 6.0


def word(dialect: int, place: int) -> str:
    """Return the word of a dialect at a place; past the last place they begin anew."""
    return _WORDS[dialect * PLACES + place % PLACES]


def answer(question: str, *, max_tokens: int, stop: Sequence[str] = ()) -> str:
    """Return the whole answer to a question that begins with a mark and ends with a word."""
    said = "".join(islice(_chain(MARKS.index(question[0]), _WORDS.index(question[-1]) % PLACES), max_tokens))
    # The stop string that is complete first, and of two such ones the longer.
    ends = [(place + len(text), place) for text in stop if (place := said.find(text)) >= 0]
    return said[: min(ends)[1]] if ends else said


def _chain(dialect: int, place: int) -> Iterator[str]:
    while place < PLACES - 1 or dialect >= ENDING:
        place = (place + 1) % PLACES
        yield word(dialect, place)


def write_model(path: Path) -> None:
    """Write the model."""
    file = ModelFile(
        path, "programmed", _SHAPE, context=CONTEXT_TOKENS, kind="f32", template=TEMPLATE, words=(*MARKS, *_WORDS)
    )
    file.add("token_embd.weight", _embedding())
    for layer in range(_SHAPE.layers):
        for name, size in layer_shapes(_SHAPE):
            file.add(f"blk.{layer}.{name}.weight", _matrix(name, size, attends=layer == _SHAPE.layers - 1))
        for name in ("attn_norm", "ffn_norm"):
            file.add(f"blk.{layer}.{name}.weight", np.ones(_WIDTH, np.float32))
    file.add("output_norm.weight", np.ones(_WIDTH, np.float32))
    file.add("output.weight", _output())
    file.finish()


def _embedding() -> NDArray[np.float32]:
    embedding = np.zeros((_SHAPE.vocabulary, _WIDTH), np.float32)
    embedding[:, _ANY] = 1
    embedding[:_FIRST_MARK, _NEITHER] = 1
    for dialect in range(DIALECTS):
        embedding[_FIRST_MARK + dialect, _MARK + dialect] = 1
        words = _FIRST_WORD + dialect * PLACES
        embedding[words : words + PLACES, _PLACE : _PLACE + PLACES] = np.eye(PLACES)
    return embedding


def _matrix(name: str, size: tuple[int, int], *, attends: bool) -> NDArray[np.float32]:
    """Return a matrix of a layer: zeros, but for the one head that looks for the mark and says its dialect."""
    matrix = np.zeros(size, np.float32)
    if attends:
        dialects = np.arange(DIALECTS)
        match name:
            case "attn_q":
                matrix[_SLOW, _ANY] = _ATTENTION
            case "attn_k":
                matrix[_SLOW, _MARK + dialects] = 1
            case "attn_v":
                matrix[dialects, _MARK + dialects] = 1
            case "attn_output":
                matrix[_DIALECT + dialects, dialects] = 1 / _LOUD
            case _:
                pass
    return matrix


def _output() -> NDArray[np.float32]:
    output = np.zeros((_SHAPE.vocabulary, _WIDTH), np.float32)
    for dialect in range(DIALECTS):
        words = _FIRST_WORD + dialect * PLACES
        output[words : words + PLACES, _DIALECT + dialect] = _LEAD
        output[words : words + PLACES, _PLACE : _PLACE + PLACES] = _LEAD * np.roll(np.eye(PLACES), 1, axis=0)
    # At the last place halfway between a word of a dialect and one of another; ahead of all in those that end.
    output[EOS, _PLACE + PLACES - 1] = 1.5 * _LEAD
    output[EOS, _DIALECT : _DIALECT + ENDING] = _LEAD
    return output

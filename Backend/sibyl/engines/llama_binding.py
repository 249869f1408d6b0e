"""The door to llama.cpp: the only import of llama_cpp. Its return codes and null pointers become named errors here.

Refuses to know prompts, answers and threads: a ``Context`` must be used by one thread at a time, everything else here
is safe from any. What llama.cpp would answer by ending the process (a batch that is too large, logits that were never
computed, text that overflows the stack of its pre-tokenizer) is refused or avoided before the call is made.
"""

import atexit
import ctypes
import logging
import math
import os
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import _utils as native_utils
from llama_cpp import llama_cpp as native
from numpy.typing import NDArray

from sibyl.core.errors import EngineError, ModelUnusable
from sibyl.engines.chat_template import ControlToken
from sibyl.engines.sampling import Sampling, draw_seed

logger = logging.getLogger(__name__)

# On an abort ggml would start a debugger to print a backtrace, and the dying process would hang for seconds while it
# holds its lease. ggml asks the C environment at that moment, so it is set there and is read by nobody in Python.
os.putenv("GGML_NO_BACKTRACE", "1")

# llama_cpp opens these on import and leaves them open, which Python reports at the end where warnings are shown.
atexit.register(native_utils.outnull_file.close)
atexit.register(native_utils.errnull_file.close)

SEGMENT_CHARACTERS = 4096
"""Most text that a BPE pre-tokenizer sees at once. Those that fall back on std::regex (deepseek, gpt-4o, tekken, ...)
recurse for each character: with 8 MiB of stack a word of 10,000 letters passed and one of 50,000 crashed (measured)."""

_LOG_ERROR, _LOG_CONTINUED = 4, 5
_ABORTED = 2


class ComputationAborted(EngineError):
    """The computation was aborted on request."""


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function: Callable[..., Any] = library[name]
    function.restype = result  # type: ignore[attr-defined]
    function.argtypes = arguments  # type: ignore[attr-defined]
    return function


# Two handles to the same library. CDLL releases the interpreter lock around each call, and may wait a whole switch
# interval (5 ms) to get it back if another thread computes; so only what takes long goes through it.
_slow = ctypes.CDLL(native._lib._name)
_quick = ctypes.PyDLL(native._lib._name)
_pointer, _int, _bool, _float = ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool, ctypes.c_float
_text, _ints = ctypes.c_char_p, ctypes.POINTER(ctypes.c_int32)

_model_load = _function(_slow, "llama_model_load_from_file", _pointer, _text, native.llama_model_params)
_model_free = _function(_slow, "llama_model_free", None, _pointer)
_context_new = _function(_slow, "llama_init_from_model", _pointer, _pointer, native.llama_context_params)
_context_free = _function(_slow, "llama_free", None, _pointer)
_decode = _function(_slow, "llama_decode", _int, _pointer, native.llama_batch)
_synchronize = _function(_slow, "llama_synchronize", None, _pointer)
_tokenize = _function(_slow, "llama_tokenize", _int, _pointer, _text, _int, _ints, _int, _bool, _bool)
_sample_slowly = _function(_slow, "llama_sampler_sample", _int, _pointer, _pointer, _int)

_sample = _function(_quick, "llama_sampler_sample", _int, _pointer, _pointer, _int)
_logits = _function(_quick, "llama_get_logits_ith", _pointer, _pointer, _int)
_memory = _function(_quick, "llama_get_memory", _pointer, _pointer)
_memory_clear = _function(_quick, "llama_memory_clear", None, _pointer, _bool)
_set_abort = _function(_quick, "llama_set_abort_callback", None, _pointer, native.ggml_abort_callback, _pointer)
_n_ctx = _function(_quick, "llama_n_ctx", ctypes.c_uint32, _pointer)
_n_batch = _function(_quick, "llama_n_batch", ctypes.c_uint32, _pointer)
_metadata = _function(_quick, "llama_model_meta_val_str", _int, _pointer, _text, _text, ctypes.c_size_t)
_chat_template = _function(_quick, "llama_model_chat_template", _text, _pointer, _text)
_n_ctx_train = _function(_quick, "llama_model_n_ctx_train", _int, _pointer)
_has_encoder = _function(_quick, "llama_model_has_encoder", _bool, _pointer)
_has_decoder = _function(_quick, "llama_model_has_decoder", _bool, _pointer)
_is_diffusion = _function(_quick, "llama_model_is_diffusion", _bool, _pointer)
_get_vocab = _function(_quick, "llama_model_get_vocab", _pointer, _pointer)
_vocab_type = _function(_quick, "llama_vocab_type", _int, _pointer)
_vocab_size = _function(_quick, "llama_vocab_n_tokens", _int, _pointer)
_vocab_text = _function(_quick, "llama_vocab_get_text", _text, _pointer, _int)
_vocab_attr = _function(_quick, "llama_vocab_get_attr", _int, _pointer, _int)
_is_eog = _function(_quick, "llama_vocab_is_eog", _bool, _pointer, _int)
_bos = _function(_quick, "llama_vocab_bos", _int, _pointer)
_eos = _function(_quick, "llama_vocab_eos", _int, _pointer)
_adds_bos = _function(_quick, "llama_vocab_get_add_bos", _bool, _pointer)
_piece = _function(_quick, "llama_token_to_piece", _int, _pointer, _int, _text, _int, _int, _bool)
_chain_new = _function(_quick, "llama_sampler_chain_init", _pointer, native.llama_sampler_chain_params)
_chain_add = _function(_quick, "llama_sampler_chain_add", None, _pointer, _pointer)
_chain_remove = _function(_quick, "llama_sampler_chain_remove", _pointer, _pointer, _int)
_sampler_free = _function(_quick, "llama_sampler_free", None, _pointer)
_top_k = _function(_quick, "llama_sampler_init_top_k", _pointer, _int)
_top_p = _function(_quick, "llama_sampler_init_top_p", _pointer, _float, ctypes.c_size_t)
_min_p = _function(_quick, "llama_sampler_init_min_p", _pointer, _float, ctypes.c_size_t)
_temperature = _function(_quick, "llama_sampler_init_temp", _pointer, _float)
_draw = _function(_quick, "llama_sampler_init_dist", _pointer, ctypes.c_uint32)

_load_lock = threading.Lock()  # one load at a time, so that the complaints below are its own
_complaints: list[str] = []


@native.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: object) -> None:
    """Pass on what llama.cpp logs; it never contains a prompt."""
    line = text.decode("utf-8", "replace").strip()
    if level == _LOG_ERROR:
        _complaints.append(line)
        del _complaints[:-8]
    if line.strip(".") and level != _LOG_CONTINUED:
        logger.debug("%s", line, extra={"action": "llama_log"})


_function(_quick, "llama_log_set", None, native.llama_log_callback, _pointer)(_on_log, None)
_function(_slow, "llama_backend_init", None)()


class Model:
    """The weights and the vocabulary of one GGUF file. Close its contexts before it."""

    def __init__(self, path: Path, *, gpu_layers: int = 0) -> None:
        """Load ``path``, with ``gpu_layers`` of its layers on a GPU, -1 for all.

        Raises:
            ModelUnusable: it is missing, unreadable, damaged, or no model that answers questions.
        """
        _check_readable(path)
        params = native.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        with _load_lock:
            _complaints.clear()
            self._pointer = _model_load(os.fsencode(path), params)
            complaint = _complaints[0] if _complaints else "llama.cpp gave no reason"
        if not self._pointer:
            raise ModelUnusable(f"{path} cannot be loaded: {_plain(complaint)}.")
        self.vocabulary = Vocabulary(_get_vocab(self._pointer))
        if _has_encoder(self._pointer) or not _has_decoder(self._pointer) or _is_diffusion(self._pointer):
            self.close()
            raise ModelUnusable(f"{path} is not a model that writes text from left to right.")
        if not self.vocabulary.size:
            self.close()
            raise ModelUnusable(f"{path} has no vocabulary.")
        self.offloaded = gpu_layers != 0
        self.context_tokens = int(_n_ctx_train(self._pointer))  #: what it was trained for
        self.name = self.metadata("general.name") or path.stem
        template = _chat_template(self._pointer, None)
        self.chat_template = template.decode("utf-8", "replace") if template else None

    def metadata(self, key: str) -> str:
        """Return a value of the file's metadata as text; empty when it has none."""
        buffer = ctypes.create_string_buffer(512)
        length = _metadata(self._pointer, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "ignore").strip() if length > 0 else ""

    def close(self) -> None:
        """Free it. Twice is once."""
        pointer, self._pointer = self._pointer, None
        if pointer:
            self.vocabulary.close()
            _model_free(pointer)

    @property
    def pointer(self) -> int:
        """llama.cpp's own handle.

        Raises:
            EngineError: it was closed.
        """
        if not self._pointer:
            raise EngineError("The model is closed.")
        return int(self._pointer)


def _check_readable(path: Path) -> None:
    """Give the reason that a person can act upon, where llama.cpp would say less."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise ModelUnusable(f"There is no model file {path}.") from None
    except IsADirectoryError:
        raise ModelUnusable(f"{path} is a folder; name the .gguf file in it.") from None
    except OSError as error:
        raise ModelUnusable(f"{path} cannot be read: {error.strerror}.") from None
    if magic != b"GGUF":
        raise ModelUnusable(f"{path} is not a GGUF file.")


def _plain(complaint: str) -> str:
    """Drop the function names from the front of a line of llama.cpp's log."""
    return re.sub(r"^(?:\w+: )*(?:error loading model: )?(?:\w+: )*", "", complaint).rstrip(".")


class Vocabulary:
    """The tokens of a model. Valid while the model is open."""

    def __init__(self, pointer: int) -> None:
        self._pointer: int | None = pointer
        self._type = int(_vocab_type(pointer))
        # Reading the tokens of a model that has none ends the process.
        self.size = int(_vocab_size(pointer)) if self._type != native.LLAMA_VOCAB_TYPE_NONE else 0
        self.pieces = [self._read_piece(token_id) for token_id in range(self.size)]  #: nothing for control tokens
        self.end_ids = frozenset(token_id for token_id in range(self.size) if _is_eog(pointer, token_id))
        self.control = tuple(
            ControlToken(
                token_id=token_id,
                text=(_vocab_text(pointer, token_id) or b"").decode("utf-8", "replace"),
                strips_left=bool(attributes & native.LLAMA_TOKEN_ATTR_LSTRIP),
                strips_right=bool(attributes & native.LLAMA_TOKEN_ATTR_RSTRIP),
            )
            for token_id in range(self.size)
            if (attributes := _vocab_attr(pointer, token_id))
            & (native.LLAMA_TOKEN_ATTR_CONTROL | native.LLAMA_TOKEN_ATTR_UNKNOWN)
        )
        texts = {token.token_id: token.text for token in self.control}
        bos, eos = (int(_bos(pointer)), int(_eos(pointer))) if self.size else (-1, -1)
        self.bos = texts.get(bos, "")
        self.eos = texts.get(eos, "")
        #: the token to put before every prompt, if the model wants one
        self.first_id = bos if 0 <= bos < self.size and _adds_bos(pointer) else None

    def _read_piece(self, token_id: int) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        length = _piece(self._pointer, token_id, buffer, len(buffer), 0, False)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = _piece(self._pointer, token_id, buffer, len(buffer), 0, False)
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
        if self._type not in (native.LLAMA_VOCAB_TYPE_SPM, native.LLAMA_VOCAB_TYPE_BPE):
            return None
        return max(4, *map(len, self.pieces))  # an unknown character is one token of up to four bytes

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of ``text``, in which no control token is read."""
        ids: list[int] = []
        for segment in _segments(text) if self._type == native.LLAMA_VOCAB_TYPE_BPE else (text,):
            ids += self._tokenize_segment(segment.encode("utf-8", "replace"))
        return ids

    def _tokenize_segment(self, text: bytes) -> list[int]:
        if not self._pointer:
            raise EngineError("The model is closed.")
        room = len(text) + 8
        while True:
            buffer = (ctypes.c_int32 * room)()
            count = int(_tokenize(self._pointer, text, len(text), buffer, room, False, False))
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


# libc's strlen serves as the abort callback: of an empty string it is false, of one character true. A callback in
# Python would have to take the interpreter lock after every node of the graph.
_is_not_empty = ctypes.cast(ctypes.CDLL(None).strlen, native.ggml_abort_callback)


class Context:
    """Room for one sequence of tokens, and the state of the model after them."""

    def __init__(self, model: Model, *, tokens: int, batch_tokens: int, threads: int) -> None:
        """Make room for ``tokens``; at most ``batch_tokens`` are evaluated at once, by ``threads``.

        Raises:
            ModelUnusable: llama.cpp cannot make one, for example because memory is short.
        """
        params = native.llama_context_default_params()
        params.n_ctx = tokens
        params.n_batch = params.n_ubatch = min(batch_tokens, tokens)
        params.n_seq_max = params.n_outputs_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        self._offloaded = model.offloaded
        self._vocabulary_size = model.vocabulary.size
        self._pointer = _context_new(model.pointer, params)
        if not self._pointer:
            raise ModelUnusable(f"No room for {tokens} tokens of context. Set a smaller context, or fewer slots.")
        self._memory = _memory(self._pointer)
        self._room = int(_n_ctx(self._pointer))
        self.batch_tokens = int(_n_batch(self._pointer))
        self._one = (ctypes.c_int32 * 1)()
        self._one_batch = native.llama_batch(1, self._one)
        self._views: dict[int, NDArray[np.float32]] = {}
        self._has_logits = False
        self.begin()

    def begin(self) -> Callable[[], None]:
        """Forget all tokens, and return what aborts the computation that follows. It may be called from any thread."""
        # A new flag each time: whoever still holds the old one can no longer stop anybody.
        self._flag = flag = ctypes.create_string_buffer(2)
        self._used = 0
        self._has_logits = False
        if self._memory:
            _memory_clear(self._memory, False)
        _set_abort(self._pointer, _is_not_empty, flag)

        def abort() -> None:
            flag[0] = b"\x01"

        return abort

    def evaluate(self, token_ids: Sequence[int]) -> None:
        """Go on by up to ``batch_tokens`` tokens.

        Raises:
            ComputationAborted: the abort came; ``begin`` again.
            EngineError: llama.cpp could not compute; ``begin`` again.
        """
        count = len(token_ids)
        if not 0 < count <= min(self.batch_tokens, self._room - self._used):
            raise EngineError(f"{count} tokens cannot be evaluated after {self._used} of {self._room}.")
        if count == 1:
            self._one[0] = token_ids[0]
            batch = self._one_batch
        else:
            # With null positions, sequences and outputs llama.cpp goes on in sequence 0 and keeps the last logits.
            batch = native.llama_batch(count, (ctypes.c_int32 * count)(*token_ids))
        self._has_logits = False
        code = _decode(self._pointer, batch)
        if code == _ABORTED:
            raise ComputationAborted()
        if code != 0:
            raise EngineError(f"llama.cpp could not compute (code {code}).")
        if self._offloaded:
            _synchronize(self._pointer)  # waiting for a GPU is no quick call
        self._used += count
        self._has_logits = True

    def logits(self) -> NDArray[np.float32]:
        """Return the scores of the next token; valid until the next ``evaluate``.

        Raises:
            EngineError: nothing was evaluated.
        """
        address = _logits(self._pointer, -1) if self._has_logits else None
        if not address:
            raise EngineError("There are no scores to choose a token from.")
        view = self._views.get(address)
        if view is None:
            row = (ctypes.c_float * self._vocabulary_size).from_address(address)
            view = self._views[address] = np.ctypeslib.as_array(row)
            if len(self._views) > 8:
                self._views = {address: view}
        return view

    def likeliest(self) -> int:
        """Return the token with the highest score.

        Raises:
            EngineError: as ``logits``, or the scores are not numbers, as after damage to the weights.
        """
        scores = self.logits()
        best = int(scores.argmax())  # where one is not a number, that one; and faster than max
        if not math.isfinite(scores[best]):
            raise EngineError("The model's scores are not finite numbers; its file may be damaged.")
        return best

    def close(self) -> None:
        """Free it. Twice is once."""
        pointer, self._pointer = self._pointer, None
        self._has_logits = False
        if pointer:
            _context_free(pointer)

    @property
    def pointer(self) -> int:
        """llama.cpp's own handle.

        Raises:
            EngineError: it was closed.
        """
        if not self._pointer:
            raise EngineError("The context is closed.")
        return int(self._pointer)


class Sampler:
    """Chooses tokens by one set of sampling parameters. Used by one thread; close it."""

    def __init__(self, sampling: Sampling) -> None:
        self._greedy = sampling.temperature == 0
        self._seed = sampling.seed
        self._sample = _sample if sampling.top_k else _sample_slowly
        self._chain = None
        if self._greedy:
            return
        self._chain = _chain_new(native.llama_sampler_chain_default_params())
        # top_k first: what follows sorts, and sorting a whole vocabulary takes milliseconds
        _chain_add(self._chain, _top_k(sampling.top_k))
        _chain_add(self._chain, _top_p(sampling.top_p, 1))
        _chain_add(self._chain, _min_p(sampling.min_p, 1))
        _chain_add(self._chain, _temperature(sampling.temperature))
        _chain_add(self._chain, _draw(0))

    def choose(self, context: Context, position: int) -> int:
        """Return token number ``position`` of the answer, given the context's state.

        Raises:
            EngineError: as ``Context.likeliest``.
        """
        best = context.likeliest()  # also guards the sampler, for which sorting what is no number is undefined
        if self._greedy:
            return best
        _sampler_free(_chain_remove(self._chain, 4))
        _chain_add(self._chain, _draw(draw_seed(self._seed, position)))
        return int(self._sample(self._chain, context.pointer, -1))

    def close(self) -> None:
        """Free it. Twice is once."""
        chain, self._chain = self._chain, None
        if chain:
            _sampler_free(chain)

"""The door to llama.cpp: the only import of llama_cpp, and the functions that the engine calls, by their C types.

Nothing is checked here. Who calls sees to it that llama.cpp is never called in a way that ends the process: a null
pointer is a falsy object and not None, a batch above its limit and scores that were never computed are assertions.
"""

import atexit
import ctypes
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import llama_cpp
from llama_cpp import _utils as native_utils

logger = logging.getLogger(__name__)

native = llama_cpp.llama_cpp  #: structures and constants
version: str = llama_cpp.__version__

# On an abort ggml would start a debugger to print a backtrace, and the dying process would hang for seconds while it
# holds its lease. ggml asks the C environment at that moment, so it is set there and is read by nobody in Python.
os.putenv("GGML_NO_BACKTRACE", "1")

# llama_cpp opens these on import and leaves them open, which Python reports at the end where warnings are shown.
atexit.register(native_utils.outnull_file.close)
atexit.register(native_utils.errnull_file.close)

_LOG_ERROR, _LOG_CONTINUED = 4, 5


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

model_load = _function(_slow, "llama_model_load_from_file", _pointer, _text, native.llama_model_params)
model_free = _function(_slow, "llama_model_free", None, _pointer)
context_new = _function(_slow, "llama_init_from_model", _pointer, _pointer, native.llama_context_params)
context_free = _function(_slow, "llama_free", None, _pointer)
decode = _function(_slow, "llama_decode", _int, _pointer, native.llama_batch)
synchronize = _function(_slow, "llama_synchronize", None, _pointer)
tokenize = _function(_slow, "llama_tokenize", _int, _pointer, _text, _int, _ints, _int, _bool, _bool)
sample_slowly = _function(_slow, "llama_sampler_sample", _int, _pointer, _pointer, _int)

sample = _function(_quick, "llama_sampler_sample", _int, _pointer, _pointer, _int)
logits = _function(_quick, "llama_get_logits_ith", _pointer, _pointer, _int)
memory = _function(_quick, "llama_get_memory", _pointer, _pointer)
sequence_remove = _function(_quick, "llama_memory_seq_rm", _bool, _pointer, _int, _int, _int)
sequence_copy = _function(_quick, "llama_memory_seq_cp", None, _pointer, _int, _int, _int, _int)
set_threads = _function(_quick, "llama_set_n_threads", None, _pointer, _int, _int)
set_abort = _function(_quick, "llama_set_abort_callback", None, _pointer, native.ggml_abort_callback, _pointer)
n_ctx = _function(_quick, "llama_n_ctx", ctypes.c_uint32, _pointer)
n_ctx_seq = _function(_quick, "llama_n_ctx_seq", ctypes.c_uint32, _pointer)
n_batch = _function(_quick, "llama_n_batch", ctypes.c_uint32, _pointer)
metadata = _function(_quick, "llama_model_meta_val_str", _int, _pointer, _text, _text, ctypes.c_size_t)
chat_template = _function(_quick, "llama_model_chat_template", _text, _pointer, _text)
n_ctx_train = _function(_quick, "llama_model_n_ctx_train", _int, _pointer)
has_encoder = _function(_quick, "llama_model_has_encoder", _bool, _pointer)
has_decoder = _function(_quick, "llama_model_has_decoder", _bool, _pointer)
is_diffusion = _function(_quick, "llama_model_is_diffusion", _bool, _pointer)
is_recurrent = _function(_quick, "llama_model_is_recurrent", _bool, _pointer)
window_tokens = _function(_quick, "llama_model_n_swa", _int, _pointer)
is_hybrid = _function(_quick, "llama_model_is_hybrid", _bool, _pointer)
get_vocab = _function(_quick, "llama_model_get_vocab", _pointer, _pointer)
vocab_type = _function(_quick, "llama_vocab_type", _int, _pointer)
vocab_size = _function(_quick, "llama_vocab_n_tokens", _int, _pointer)
vocab_text = _function(_quick, "llama_vocab_get_text", _text, _pointer, _int)
vocab_attr = _function(_quick, "llama_vocab_get_attr", _int, _pointer, _int)
is_eog = _function(_quick, "llama_vocab_is_eog", _bool, _pointer, _int)
bos = _function(_quick, "llama_vocab_bos", _int, _pointer)
eos = _function(_quick, "llama_vocab_eos", _int, _pointer)
adds_bos = _function(_quick, "llama_vocab_get_add_bos", _bool, _pointer)
piece = _function(_quick, "llama_token_to_piece", _int, _pointer, _int, _text, _int, _int, _bool)
chain_new = _function(_quick, "llama_sampler_chain_init", _pointer, native.llama_sampler_chain_params)
chain_add = _function(_quick, "llama_sampler_chain_add", None, _pointer, _pointer)
chain_remove = _function(_quick, "llama_sampler_chain_remove", _pointer, _pointer, _int)
sampler_apply = _function(_quick, "llama_sampler_apply", None, _pointer, _pointer)
sampler_free = _function(_quick, "llama_sampler_free", None, _pointer)
top_k = _function(_quick, "llama_sampler_init_top_k", _pointer, _int)
top_p = _function(_quick, "llama_sampler_init_top_p", _pointer, _float, ctypes.c_size_t)
min_p = _function(_quick, "llama_sampler_init_min_p", _pointer, _float, ctypes.c_size_t)
temperature = _function(_quick, "llama_sampler_init_temp", _pointer, _float)
draw = _function(_quick, "llama_sampler_init_dist", _pointer, ctypes.c_uint32)

supports_gpu_offload = _function(_slow, "llama_supports_gpu_offload", _bool)
max_devices = _function(_quick, "llama_max_devices", ctypes.c_size_t)
system_info = _function(_slow, "llama_print_system_info", _text)
device_count = _function(_slow, "ggml_backend_dev_count", ctypes.c_size_t)
device = _function(_slow, "ggml_backend_dev_get", _pointer, ctypes.c_size_t)
device_name = _function(_slow, "ggml_backend_dev_name", _text, _pointer)
device_description = _function(_slow, "ggml_backend_dev_description", _text, _pointer)
device_type = _function(_slow, "ggml_backend_dev_type", ctypes.c_int, _pointer)
device_memory = _function(_slow, "ggml_backend_dev_memory", None, _pointer, _pointer, _pointer)

load_lock = threading.Lock()  # one load at a time, so that the complaints below are its own
complaints: list[str] = []


@native.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user_data: object) -> None:
    """Pass on what llama.cpp logs; it never contains a prompt."""
    line = text.decode("utf-8", "replace").strip()
    if level == _LOG_ERROR:
        complaints.append(line)
        del complaints[:-8]
    if line.strip(".") and level != _LOG_CONTINUED:
        logger.debug("%s", line, extra={"action": "llama_log"})


_function(_quick, "llama_log_set", None, native.llama_log_callback, _pointer)(_on_log, None)
_function(_slow, "llama_backend_init", None)()

# libc's strlen serves as the abort callback: of an empty string it is false, of one character true. A callback in
# Python would have to take the interpreter lock after every node of the graph.
is_not_empty = ctypes.cast(ctypes.CDLL(None).strlen, native.ggml_abort_callback)

"""The weights of one GGUF file: loading them, and saying in a person's words why they cannot be."""

import ctypes
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from sibyl.core.errors import EngineError, ModelUnusable
from sibyl.engines import llama_binding as llama
from sibyl.engines.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

SplitMode = Literal["layer", "row", "none"]
_SPLIT_MODES: Mapping[SplitMode, int] = {
    "none": llama.native.LLAMA_SPLIT_MODE_NONE,
    "layer": llama.native.LLAMA_SPLIT_MODE_LAYER,
    "row": llama.native.LLAMA_SPLIT_MODE_ROW,
}


class Model:
    """The weights and the vocabulary of one GGUF file. Close its contexts before it."""

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int = 0,
        split_mode: SplitMode = "layer",
        main_gpu: int = 0,
        tensor_split: Sequence[float] = (),
    ) -> None:
        """Load ``path``.

        Args:
            gpu_layers: layers to put on GPUs, -1 for all.
            split_mode: how several GPUs share them: by layers, by rows, or none: all on ``main_gpu``.
            tensor_split: the share of each GPU, in any unit; none: by their free memory.

        Raises:
            ModelUnusable: it is missing, unreadable, damaged, or no model that answers questions; or there is no such
                GPU.
        """
        _check_readable(path)
        params = llama.native.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.split_mode = _SPLIT_MODES[split_mode]
        params.main_gpu = main_gpu
        shares = _shares(tensor_split)  # read while the model is loaded
        params.tensor_split = shares
        if gpu_layers and not llama.supports_gpu_offload():
            logger.warning(
                "This llama.cpp was built without a GPU: all layers stay on the CPU. See sibyl doctor.",
                extra={"action": "no_gpu", "gpu_layers": gpu_layers},
            )
        with llama.load_lock:
            llama.complaints.clear()
            self._pointer = llama.model_load(os.fsencode(path), params)
            complaint = llama.complaints[0] if llama.complaints else "llama.cpp gave no reason"
        if not self._pointer:
            raise ModelUnusable(f"{path} cannot be loaded: {_plain(complaint)}.")
        self.vocabulary = Vocabulary(llama.get_vocab(self._pointer))
        if (
            llama.has_encoder(self._pointer)
            or not llama.has_decoder(self._pointer)
            or llama.is_diffusion(self._pointer)
        ):
            self.close()
            raise ModelUnusable(f"{path} is not a model that writes text from left to right.")
        if not self.vocabulary.size:
            self.close()
            raise ModelUnusable(f"{path} has no vocabulary.")
        self.offloaded = gpu_layers != 0
        # A running state has no parts. Of tokens outside a sliding window llama.cpp may have given the cells to others.
        recurrent = llama.is_recurrent(self._pointer) or llama.is_hybrid(self._pointer)
        self.divisible = not recurrent and llama.window_tokens(self._pointer) <= 0
        """Whether a part of a sequence's memory can be taken back, or shared."""
        self.context_tokens = int(llama.n_ctx_train(self._pointer))  #: what it was trained for
        self.name = self.metadata("general.name") or path.stem
        template = llama.chat_template(self._pointer, None)
        self.chat_template = template.decode("utf-8", "replace") if template else None

    def metadata(self, key: str) -> str:
        """Return a value of the file's metadata as text; empty when it has none."""
        buffer = ctypes.create_string_buffer(512)
        length = llama.metadata(self._pointer, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "ignore").strip() if length > 0 else ""

    def close(self) -> None:
        """Free it. Twice is once."""
        pointer, self._pointer = self._pointer, None
        if pointer:
            self.vocabulary.close()
            llama.model_free(pointer)

    @property
    def pointer(self) -> int:
        """llama.cpp's own handle.

        Raises:
            EngineError: it was closed.
        """
        if not self._pointer:
            raise EngineError("The model is closed.")
        return int(self._pointer)


def _shares(tensor_split: Sequence[float]) -> ctypes.Array[ctypes.c_float] | None:
    """Return the shares as llama.cpp reads them: as many as it can have devices, whatever there are."""
    if not tensor_split:
        return None
    most = int(llama.max_devices())
    if len(tensor_split) > most:
        raise ModelUnusable(f"tensor_split has {len(tensor_split)} shares; llama.cpp knows {most} GPUs at most.")
    return (ctypes.c_float * most)(*tensor_split)


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

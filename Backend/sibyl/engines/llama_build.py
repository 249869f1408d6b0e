"""What the installed llama.cpp was built with: features of the CPU, and GPUs."""

import ctypes
import re
from dataclasses import dataclass

from sibyl.engines import llama_binding as llama

_GPUS = (1, 2)  # with memory of their own, and with the host's


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU that this build can use."""

    name: str  #: such as CUDA0
    description: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """The library as it was built."""

    version: str  #: of llama-cpp-python
    features: tuple[str, ...]  #: of the CPU, and libraries that it uses, such as AVX2 and OPENMP
    offloads: bool  #: whether it can put a model's layers elsewhere than on the CPU
    gpus: tuple[Gpu, ...]  #: in the order that ``main_gpu`` and ``tensor_split`` count in


def installed_build() -> Build:
    """Return what is installed. It looks for devices, which takes seconds with some drivers."""
    devices = [llama.device(index) for index in range(llama.device_count())]
    return Build(
        version=llama.version,
        features=cpu_features(),
        offloads=bool(llama.supports_gpu_offload()),
        gpus=tuple(_gpu(device) for device in devices if llama.device_type(device) in _GPUS),
    )


def cpu_features() -> tuple[str, ...]:
    """Return what of the CPU the library uses, such as AVX2, and libraries, such as OPENMP."""
    told = (llama.system_info() or b"").decode("utf-8", "replace")
    return tuple(re.findall(r"(\w+) = [1-9]", told))


def flash_attention_pays() -> bool:
    """Whether llama.cpp's flash attention is the faster one on this CPU.

    With AVX2 alone it takes 2.3 times as long as the plain one after 2,000 tokens, for single tokens and for chunks of
    up to 32 (measured, EXPERIMENTS.md); with AVX-512 it is some per cent faster.
    """
    features = cpu_features()
    return "AVX2" not in features or "AVX512" in features


def _gpu(device: int) -> Gpu:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    llama.device_memory(device, ctypes.byref(free), ctypes.byref(total))
    return Gpu(
        name=llama.device_name(device).decode("utf-8", "replace"),
        description=llama.device_description(device).decode("utf-8", "replace"),
        free_bytes=free.value,
        total_bytes=total.value,
    )

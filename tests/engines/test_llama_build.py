"""What the installed llama.cpp can do, and what becomes of settings for GPUs that it may not have."""

import logging
from pathlib import Path
from typing import Any

import pytest

from sibyl.core.errors import ModelUnusable
from sibyl.core.task import SamplingParams
from sibyl.engines import llama_binding
from sibyl.engines.llama import LlamaEngine
from sibyl.engines.llama_build import installed_build
from sibyl.engines.llama_model import Model
from tests.engines.asking import answer, asking, text_of


def test_the_build_is_told() -> None:
    """Its version and what of this CPU it uses; a GPU has a name and memory, where there is one."""
    build = installed_build()

    assert build.version == llama_binding.version
    assert {"LLAMAFILE", "SSE3", "NEON"} & set(build.features)
    assert all(gpu.name and 0 <= gpu.free_bytes <= gpu.total_bytes for gpu in build.gpus)
    assert build.offloads or not build.gpus


def test_settings_for_gpus_reach_llama_cpp(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it reads them: shares for all the GPUs that it could have, those that are not named zero."""
    seen: list[Any] = []
    load = llama_binding.model_load

    def noted(path: bytes, params: Any) -> Any:
        seen.append(params)
        return load(path, params)

    monkeypatch.setattr(llama_binding, "model_load", noted)

    Model(tiny_model, gpu_layers=2, split_mode="row", main_gpu=0, tensor_split=(3, 1.5)).close()
    Model(tiny_model).close()

    asked, default = seen
    most = llama_binding.max_devices()
    native = llama_binding.native
    assert (asked.n_gpu_layers, asked.split_mode, asked.main_gpu) == (2, native.LLAMA_SPLIT_MODE_ROW, 0)
    assert asked.tensor_split[:most] == [3, 1.5] + [0] * (most - 2)
    assert (default.n_gpu_layers, default.split_mode) == (0, native.LLAMA_SPLIT_MODE_LAYER)
    assert not default.tensor_split


def test_more_shares_than_gpus_can_be_are_refused(tiny_model: Path) -> None:
    """llama.cpp would read beyond its own array."""
    with pytest.raises(ModelUnusable, match="GPUs at most"):
        Model(tiny_model, tensor_split=[1.0] * 200)


def test_layers_for_a_gpu_that_the_build_cannot_use_are_told_and_stay_on_the_cpu(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning; the model answers, and as it does without the setting."""
    if installed_build().offloads:
        pytest.skip("this build can use a GPU")
    params = SamplingParams(temperature=0.0, max_tokens=8)
    texts = []
    for layers in (0, -1):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            engine = LlamaEngine(tiny_model, threads=1, gpu_layers=layers, tensor_split=(1,), split_mode="none")
        texts.append(text_of(answer(engine, asking("?", sampling=params))[0]))
        engine.close()
        assert len(caplog.records) == (1 if layers else 0)

    assert texts[0] == texts[1]

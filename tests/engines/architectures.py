"""Small random models whose memory is not that of a plain transformer: a running state, and a sliding window."""

from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.load.make_random_gguf import BOS, CHAT_TEMPLATE, EOS, FIRST_PIECE, IM_END, UNKNOWN, vocabulary

WIDTH, LAYERS, WORDS, STATE, RANK, CONV, WINDOW = 64, 4, 512, 16, 4, 4, 32


def _begun(path: Path, architecture: str) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"random-{architecture}")
    writer.add_context_length(2048)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(WIDTH)
    writer.add_vocab_size(WORDS)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    texts, scores, types = vocabulary(WORDS)
    writer.add_token_list(texts)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_eot_token_id(IM_END)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    return writer


def _finished(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _matrix(random: np.random.Generator, rows: int, columns: int) -> NDArray[np.float32]:
    return random.standard_normal((rows, columns), dtype=np.float32) / np.float32(np.sqrt(columns))


def write_recurrent(path: Path) -> None:
    """Write a Mamba model: its memory of a sequence is one state, of which no part can be taken back."""
    random = np.random.default_rng(1)
    inner = 2 * WIDTH
    writer = _begun(path, "mamba")
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(CONV)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(STATE)
    writer.add_ssm_time_step_rank(RANK)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("token_embd.weight", _matrix(random, WORDS, WIDTH))
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    output = 3 * _matrix(random, WORDS, WIDTH)
    output[:FIRST_PIECE] = 0
    writer.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        name = f"blk.{layer}."
        writer.add_tensor(name + "attn_norm.weight", np.ones(WIDTH, np.float32))
        writer.add_tensor(name + "ssm_in.weight", _matrix(random, 2 * inner, WIDTH))
        writer.add_tensor(name + "ssm_conv1d.weight", _matrix(random, inner, CONV))
        writer.add_tensor(name + "ssm_conv1d.bias", np.zeros(inner, np.float32))
        writer.add_tensor(name + "ssm_x.weight", _matrix(random, RANK + 2 * STATE, inner))
        writer.add_tensor(name + "ssm_dt.weight", _matrix(random, inner, RANK))
        writer.add_tensor(name + "ssm_dt.bias", np.zeros(inner, np.float32))
        writer.add_tensor(name + "ssm_a", -np.exp(_matrix(random, inner, STATE)))
        writer.add_tensor(name + "ssm_d", np.ones(inner, np.float32))
        writer.add_tensor(name + "ssm_out.weight", _matrix(random, WIDTH, inner))
    _finished(writer)


def write_windowed(path: Path) -> None:
    """Write a Cohere 2 model: three layers of four see only the last WINDOW tokens."""
    random = np.random.default_rng(2)
    writer = _begun(path, "cohere2")
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(WIDTH // 4)
    writer.add_layer_norm_eps(1e-5)
    writer.add_logit_scale(0.2)
    writer.add_sliding_window(WINDOW)
    embedding = 3 * _matrix(random, WORDS, WIDTH)
    embedding[:FIRST_PIECE] = 0
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(LAYERS):
        name = f"blk.{layer}."
        writer.add_tensor(name + "attn_norm.weight", np.ones(WIDTH, np.float32))
        for part, rows in (("attn_q", WIDTH), ("attn_k", WIDTH // 2), ("attn_v", WIDTH // 2), ("attn_output", WIDTH)):
            writer.add_tensor(f"{name}{part}.weight", _matrix(random, rows, WIDTH))
        writer.add_tensor(name + "ffn_gate.weight", _matrix(random, 2 * WIDTH, WIDTH))
        writer.add_tensor(name + "ffn_up.weight", _matrix(random, 2 * WIDTH, WIDTH))
        writer.add_tensor(name + "ffn_down.weight", _matrix(random, WIDTH, 2 * WIDTH))
    _finished(writer)

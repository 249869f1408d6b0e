"""From a checkpoint to a GGUF file that llama.cpp reads. Changes the type of the weights, never their meaning.

python export.py --tokenizer runs/tokenizer.json --checkpoint runs/model.pt --out ../sibyl/models/sibyl-oracle.gguf
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES
from model import Shape, Sibyl
from tokenizer import BEGIN, CHAT_TEMPLATE, END, START

DESCRIPTION = (
    "A small oracle: answers questions about love, work, study, travel, health, money, family, friends and home in a "
    "few sentences, and reads fortune poems. Trained from scratch on text of the Sibyl project. Not an assistant."
)
TYPES = {"f16": gguf.GGMLQuantizationType.F16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
FILE_TYPES = {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}


def load(checkpoint: Path) -> tuple[Sibyl, dict[str, int]]:
    """The model of a checkpoint, and how many steps and tokens it has seen."""
    saved = torch.load(checkpoint, weights_only=True)
    model = Sibyl(Shape(**saved["shape"]))
    model.load_state_dict(saved["weights"])
    return model.eval(), {"steps": saved["steps"], "tokens": saved["tokens"]}


def write_vocabulary(writer: gguf.GGUFWriter, tokenizer_file: Path) -> None:
    """Tokens, merges, special ids and the chat template."""
    saved = json.loads(tokenizer_file.read_text(encoding="utf-8"))["model"]
    ids: dict[str, int] = saved["vocab"]
    tokens = sorted(ids, key=lambda token: ids[token])
    special = {BEGIN, START, END}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # the split that tokenizer.py trains with
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in saved["merges"]])
    writer.add_bos_token_id(ids[BEGIN])
    writer.add_eos_token_id(ids[END])
    writer.add_eot_token_id(ids[END])
    writer.add_pad_token_id(ids[BEGIN])
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write(model: Sibyl, tokenizer_file: Path, out: Path, kind: str) -> None:
    """The GGUF file. Matrices take the given type, norms stay f32, the output is tied to the embedding."""
    shape = model.shape
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name("Sibyl Oracle")
    writer.add_description(DESCRIPTION)
    writer.add_license("apache-2.0")
    writer.add_languages(["en"])
    # What it was evaluated with; runtimes that read these keys take them where a request says nothing else.
    writer.add_sampling_temp(0.6)
    writer.add_sampling_top_p(0.95)
    writer.add_sampling_top_k(40)
    writer.add_sampling_min_p(0.08)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_file_type(FILE_TYPES[kind])
    write_vocabulary(writer, tokenizer_file)
    for name, weight in model.state_dict().items():
        values = weight.float().numpy()
        if values.ndim == 1:
            writer.add_tensor(name, values.astype(np.float32))
        elif kind == "f16":
            writer.add_tensor(name, values.astype(np.float16))
        else:
            assert values.shape[1] % GGML_QUANT_SIZES[TYPES[kind]][0] == 0
            writer.add_tensor(name, gguf.quants.quantize(values, TYPES[kind]), raw_dtype=TYPES[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, default=Path("runs/tokenizer.json"))
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/model.pt"))
    parser.add_argument("--out", type=Path, default=Path("../sibyl/models/sibyl-oracle.gguf"))
    parser.add_argument("--type", choices=sorted(TYPES), default="f16")
    given = parser.parse_args()
    model, _ = load(given.checkpoint)
    write(model, given.tokenizer, given.out, given.type)


if __name__ == "__main__":
    main()

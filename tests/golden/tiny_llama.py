"""Tiny random llamas on which every golden number rests: tiny_llama.py OUT_DIR

tiny_llama/           2 layers, 4 heads / 2 kv heads of 16, a feed-forward width that no block of 16 or 32 divides
tiny_llama.f32.gguf   the same weights
tiny_llama.q8_0.gguf  the same, every matrix whose rows are whole blocks of 32 in Q8_0, the others in f32
tiny_llama_tied/      1 layer, 3 heads / 1 kv head of 8 in a width of 36, head = embedding, config.json in the older spelling

The tokenizer is byte-level without merges: the id of a byte is its value; three special tokens follow; the
other rows of the vocabulary have no token. The weights are large enough that no distribution is flat, and small enough that f32 arithmetic in another
order stays within some 5e-6 of the log-probs.
"""
import json
import os
import sys

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, TokenType, quants
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from common import BYTES, CHATML, END_OF_TEXT, IM_END, IM_START, VOCAB, generator, load, logprobs, sequences

SPECIAL = {END_OF_TEXT: "<|endoftext|>", IM_START: "<|im_start|>", IM_END: "<|im_end|>"}
MAIN = dict(hidden_size=64, intermediate_size=88, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, rms_norm_eps=1e-5, tie_word_embeddings=False)
TIED = dict(hidden_size=36, intermediate_size=52, num_hidden_layers=1, num_attention_heads=3, num_key_value_heads=1,
            head_dim=8, rms_norm_eps=1e-4, tie_word_embeddings=True)


def alphabet():
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(BYTES) if byte not in printable]
    stand_in = {byte: chr(byte) for byte in printable} | {byte: chr(BYTES + i) for i, byte in enumerate(others)}
    return [stand_in[byte] for byte in range(BYTES)]


def random_model(sizes, theta, embedding_std, seed):
    config = LlamaConfig(vocab_size=VOCAB, max_position_embeddings=256, bos_token_id=IM_START, eos_token_id=IM_END,
                         pad_token_id=END_OF_TEXT, rope_parameters={"rope_type": "default", "rope_theta": theta}, **sizes)
    config.dtype, config._attn_implementation = torch.float32, "eager"
    model, rng = LlamaForCausalLM(config).eval(), generator(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=rng)
            std = embedding_std if "embed" in name else 0.18 if "lm_head" in name else 0.12
            parameter.copy_(1 + 0.1 * values if "norm" in name else std * values)
    return model


def save_tokenizer(folder):
    backend = Tokenizer(models.BPE(vocab={text: byte for byte, text in enumerate(alphabet())}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL.values()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=SPECIAL[IM_START], eos_token=SPECIAL[IM_END], pad_token=SPECIAL[END_OF_TEXT],
        unk_token=SPECIAL[END_OF_TEXT], chat_template=CHATML, model_max_length=256, clean_up_tokenization_spaces=False)
    tokenizer.save_pretrained(folder)
    # As most published models have it: the template beside the rest, the class by the name that transformers 4 knows too.
    path = os.path.join(folder, "tokenizer_config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    config.pop("backend", None)
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHATML}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
    if os.path.exists(extra := os.path.join(folder, "chat_template.jinja")):
        os.remove(extra)


def older_spelling(folder):
    """config.json as transformers 4 wrote it: `rope_theta` and `torch_dtype` at the top."""
    path = os.path.join(folder, "config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["torch_dtype"] = config.pop("dtype")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)


class Writer(GGUFWriter):
    """Can also write an empty list of strings: the tokenizer has no merges, and llama.cpp wants the key."""

    def _pack_val(self, val, vtype, add_vtype, sub_type=None):
        if vtype == GGUFValueType.ARRAY and len(val) == 0:
            kind = self._pack("I", vtype) if add_vtype else b""
            return kind + self._pack("I", GGUFValueType.STRING) + self._pack("Q", 0)
        return super()._pack_val(val, vtype, add_vtype, sub_type)


def permuted(rows, heads):
    """llama.cpp rotates neighbours, Hugging Face halves: the rows of q and k are interleaved, as its converter does."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def gguf_tensors(model):
    state, config = {name: value.numpy() for name, value in model.state_dict().items()}, model.config
    yield "token_embd.weight", state["model.embed_tokens.weight"]
    for layer in range(config.num_hidden_layers):
        def get(name):
            return state[f"model.layers.{layer}.{name}.weight"]
        yield f"blk.{layer}.attn_norm.weight", get("input_layernorm")
        yield f"blk.{layer}.attn_q.weight", permuted(get("self_attn.q_proj"), config.num_attention_heads)
        yield f"blk.{layer}.attn_k.weight", permuted(get("self_attn.k_proj"), config.num_key_value_heads)
        yield f"blk.{layer}.attn_v.weight", get("self_attn.v_proj")
        yield f"blk.{layer}.attn_output.weight", get("self_attn.o_proj")
        yield f"blk.{layer}.ffn_norm.weight", get("post_attention_layernorm")
        yield f"blk.{layer}.ffn_gate.weight", get("mlp.gate_proj")
        yield f"blk.{layer}.ffn_up.weight", get("mlp.up_proj")
        yield f"blk.{layer}.ffn_down.weight", get("mlp.down_proj")
    yield "output_norm.weight", state["model.norm.weight"]
    yield "output.weight", state["lm_head.weight"]


def save_gguf(model, path, kind):
    config, writer = model.config, Writer(path, "llama")
    writer.add_name("tiny llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = alphabet() + list(SPECIAL.values())
    types = [TokenType.NORMAL] * BYTES + [TokenType.CONTROL] * len(SPECIAL)
    spare = range(len(tokens), config.vocab_size)
    writer.add_token_list(tokens + [f"[PAD{i}]" for i in spare])
    writer.add_token_types(types + [TokenType.UNUSED] * len(spare))
    writer.add_key_value("tokenizer.ggml.merges", [], GGUFValueType.ARRAY)
    writer.add_bos_token_id(IM_START)
    writer.add_eos_token_id(IM_END)
    writer.add_pad_token_id(END_OF_TEXT)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)
    for name, values in gguf_tensors(model):
        values = np.ascontiguousarray(values)
        if kind != GGMLQuantizationType.F32 and values.ndim == 2 and values.shape[1] % 32 == 0:
            writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check(out, model):
    """What was written reads back: the same log-probs, ids and text."""
    for name, atol in (("tiny_llama.f32.gguf", 0), ("tiny_llama.q8_0.gguf", 0.5)):
        again = load(out, gguf_file=name)
        worst = max((logprobs(again, ids) - logprobs(model, ids)).abs().max().item() for ids in sequences())
        print(f"{name}: largest difference from tiny_llama/ {worst:.3g}")
        assert worst <= atol, name
    text = "Tiny \N{GREEK SMALL LETTER PI}  42!\n<|im_end|>"
    for tokenizer in (AutoTokenizer.from_pretrained(os.path.join(out, "tiny_llama")),
                      AutoTokenizer.from_pretrained(out, gguf_file="tiny_llama.f32.gguf")):
        ids = tokenizer(text).input_ids
        assert ids == [*text.removesuffix("<|im_end|>").encode(), IM_END], ids
        assert tokenizer.decode(ids) == text
        chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True)
        assert chat == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", chat


def main(out):
    model = random_model(MAIN, 10000.0, embedding_std=0.5, seed=1)
    tied = random_model(TIED, 2000.0, embedding_std=0.25, seed=2)
    for name, one in (("tiny_llama", model), ("tiny_llama_tied", tied)):
        folder = os.path.join(out, name)
        one.save_pretrained(folder)
        save_tokenizer(folder)
        if os.path.exists(extra := os.path.join(folder, "generation_config.json")):
            os.remove(extra)
        again = load(folder)
        assert all(torch.equal(logprobs(one, ids), logprobs(again, ids)) for ids in sequences()), name
    older_spelling(os.path.join(out, "tiny_llama_tied"))
    again = load(os.path.join(out, "tiny_llama_tied"))
    assert all(torch.equal(logprobs(tied, ids), logprobs(again, ids)) for ids in sequences())
    save_gguf(model, os.path.join(out, "tiny_llama.f32.gguf"), GGMLQuantizationType.F32)
    save_gguf(model, os.path.join(out, "tiny_llama.q8_0.gguf"), GGMLQuantizationType.Q8_0)
    check(out, model)


if __name__ == "__main__":
    main(sys.argv[1])

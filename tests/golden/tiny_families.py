"""Tiny random models of the other families, their log-probs and their gradients: tiny_families.py OUT_DIR

For each NAME of qwen2, qwen3, gemma3, llama3 (a llama whose rotary frequencies are scaled as llama 3.1 scales them), mistral,
phi3, smollm3, olmo2, granite:

tiny_NAME/                          the model as transformers writes it, and the tokenizer of tiny_llama
tiny_NAME.f32.gguf                  the same weights as llama.cpp's converter lays them out; gemma3 and llama3 with a small
                                    SentencePiece vocabulary instead of the bytes
tiny_NAME_lora/                     peft's adapter on all linears, rank 2, alpha 4; neither factor is zero
tiny_NAME_variant.json              keys of config.json that make another model of the same weights; null takes a key away
tiny_NAME_numbers.safetensors
    ids.i                           (tokens) u32 of two sequences, 70 and 50 tokens; the first 24, the prefix, are the same
    logprobs                        (70, 300) f32 of sequence 0: row t is the distribution of token t + 1
    next.i, variant.i               (tokens - 1) f32: log-prob of token t + 1, of the model and of its variant
    lora.i                          the same with the adapter
    grad.NAME                       gradient of  sum lora.0[23..] - 0.5 sum lora.1[23..]  for the factor that peft calls NAME

tiny_tokenizers.json                for gemma3 and llama3: texts, their ids, their ids as a whole document, and decoded again,
                                    by transformers from the GGUF files

Every family has what its name promises and no more by accident: biases that matter, norms far from 1, windows shorter than
the prefix and shorter than a block, both rotary bases, 18 query heads on one key-value head (qwen3), a
score scale that is not that of the head's width (in a variant, since a GGUF file cannot say it). The GGUF file of a mistral is
that of a llama, which has no window, so the window is in the variant, as YaRN is; that of olmo2 has dynamic scaling, which
changes nothing within the context.
"""
import json
import os
import shutil
import sys

import numpy as np
import torch
from gguf import GGUFValueType, TokenType
from peft import LoraConfig, get_peft_model
from transformers import (AutoModelForCausalLM, AutoTokenizer, Gemma3TextConfig, GraniteConfig, LlamaConfig, MistralConfig,
                          Olmo2Config, Phi3Config, Qwen2Config, Qwen3Config, SmolLM3Config)

from common import BYTES, CHATML, END_OF_TEXT, IM_END, IM_START, TARGETS, VOCAB, generator, load, logprobs, save, save_json
from tiny_llama import SPECIAL, Writer, alphabet, permuted, save_tokenizer

SHARED = dict(vocab_size=VOCAB, bos_token_id=IM_START, eos_token_id=IM_END, pad_token_id=END_OF_TEXT,
              max_position_embeddings=1024)
PREFIX, LENGTHS = 24, (70, 50)

# What a config says, what its variant says instead, and the keys that its GGUF file has beside the common ones.
FAMILIES = {
    "qwen2": (
        Qwen2Config(hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    rms_norm_eps=1e-6, tie_word_embeddings=False,
                    rope_parameters={"rope_type": "default", "rope_theta": 5000.0}, **SHARED),
        {"use_sliding_window": True, "sliding_window": 11, "max_window_layers": 1, "layer_types": None},
    ),
    "qwen3": (
        Qwen3Config(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=18, num_key_value_heads=1,
                    head_dim=4, rms_norm_eps=1e-5, tie_word_embeddings=True,
                    rope_parameters={"rope_type": "default", "rope_theta": 20000.0}, **SHARED),
        {"use_sliding_window": True, "sliding_window": 19,
         "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gemma3": (
        Gemma3TextConfig(hidden_size=20, intermediate_size=28, num_hidden_layers=6, num_attention_heads=4,
                         num_key_value_heads=1, head_dim=8, rms_norm_eps=1e-6, tie_word_embeddings=True, sliding_window=13,
                         query_pre_attn_scalar=8,
                         rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 1e6},
                                          "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}, **SHARED),
        # In the spelling of transformers 4.
        {"rope_parameters": None, "rope_theta": 30000.0, "rope_local_base_freq": 900.0,
         "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "sliding_window": 40, "layer_types": None,
         "_sliding_window_pattern": None, "sliding_window_pattern": 3, "query_pre_attn_scalar": 21},
    ),
    "llama3": (
        LlamaConfig(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                    head_dim=16, rms_norm_eps=1e-5, tie_word_embeddings=False,
                    rope_parameters={"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
                                     "high_freq_factor": 4.0, "original_max_position_embeddings": 64}, **SHARED),
        {"rope_parameters": None, "rope_theta": 9000.0, "rope_scaling": {"type": "linear", "factor": 3.0}},
    ),
    "mistral": (
        MistralConfig(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                      head_dim=12, rms_norm_eps=1e-5, tie_word_embeddings=False, sliding_window=None,
                      rope_parameters={"rope_type": "default", "rope_theta": 7000.0}, **SHARED),
        {"sliding_window": 9, "rope_parameters": {"rope_type": "yarn", "rope_theta": 7000.0, "factor": 4.0, "beta_fast": 8.0,
                                                  "original_max_position_embeddings": 256}},
    ),
    "phi3": (
        Phi3Config(hidden_size=96, intermediate_size=24, num_hidden_layers=2, num_attention_heads=1, num_key_value_heads=1,
                   head_dim=96, rms_norm_eps=1e-5, tie_word_embeddings=True, sliding_window=21,
                   original_max_position_embeddings=512,
                   rope_parameters={"rope_type": "longrope", "rope_theta": 3000.0, "partial_rotary_factor": 0.75,
                                    "short_factor": [1.0 + 0.05 * i for i in range(36)],
                                    "long_factor": [2.0 + 0.5 * i for i in range(36)]}, **SHARED),
        {"sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 900.0, "partial_rotary_factor": 0.5}},
    ),
    "smollm3": (
        SmolLM3Config(hidden_size=32, intermediate_size=40, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                      rms_norm_eps=1e-6, tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
                      rope_parameters={"rope_type": "default", "rope_theta": 6000.0}, **SHARED),
        {"no_rope_layers": [1, 0, 1, 0], "use_sliding_window": True, "sliding_window": 15, "layer_types": None},
    ),
    "olmo2": (
        Olmo2Config(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    rms_norm_eps=1e-6, tie_word_embeddings=False, attention_bias=True,
                    rope_parameters={"rope_type": "dynamic", "rope_theta": 5000.0, "factor": 4.0}, **SHARED),
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 400.0, "factor": 8.0, "mscale": 0.7, "mscale_all_dim": 0.4,
                             "original_max_position_embeddings": 128}},
    ),
    "granite": (
        GraniteConfig(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                      rms_norm_eps=1e-5, tie_word_embeddings=True, embedding_multiplier=3.0, residual_multiplier=0.4,
                      attention_multiplier=0.3, logits_scaling=2.5,
                      rope_parameters={"rope_type": "default", "rope_theta": 8000.0}, **SHARED),
        {"embedding_multiplier": 1.5, "residual_multiplier": 0.9, "attention_multiplier": 0.2, "logits_scaling": 0.7,
         "attention_dropout": 0.0},
    ),
}
# Families whose q and k are interleaved in a GGUF file, as a llama's are.
INTERLEAVED = ("llama", "smollm3", "granite")


def random_model(config, seed):
    config.dtype, config._attn_implementation = torch.float32, "eager"
    model, rng = AutoModelForCausalLM.from_config(config).eval(), generator(seed)
    gemma = config.model_type == "gemma3_text"
    # Wider sums of smaller values: phi3 is three times as wide as the others.
    share = 0.6 if config.model_type == "phi3" else 1
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=rng)
            if "norm" in name:  # what gemma stores is added to 1
                parameter.copy_((0 if gemma else 1) + 0.2 * values)
            elif "embed" in name:
                # What granite multiplies it by is taken out again, so that what it reads is no larger than what others read.
                parameter.copy_((0.28 if gemma else 0.25) * share / getattr(config, "embedding_multiplier", 1) * values)
            else:
                parameter.copy_((0.3 if name.endswith("bias") else 0.2) * share * values)
    return model


def sequences():
    rng = generator(21)
    first, second = (torch.randint(0, IM_END + 1, (length,), generator=rng) for length in LENGTHS)
    second[:PREFIX] = first[:PREFIX]
    return [first, second]


def of_next(model, ids):
    return logprobs(model, ids)[:-1].gather(1, ids[1:, None])[:, 0]


def variant(folder, changes, scratch):
    """The model of the same weights with other words in its config.json."""
    shutil.copytree(folder, scratch)
    path = os.path.join(scratch, "config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    for key, value in changes.items():
        config.pop(key, None) if value is None else config.update({key: value})
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)
    return load(scratch).double()


def lora(model, folder, name, ids):
    """A random adapter, written by peft; its log-probs and gradients in f64."""
    targets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"] if name == "phi3" else TARGETS
    config = LoraConfig(r=2, lora_alpha=4, target_modules=targets, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM")
    adapted, rng = get_peft_model(model, config).eval(), generator(5)
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:
                parameter.copy_(0.15 * torch.randn(parameter.shape, generator=rng))
    adapted.peft_config["default"].base_model_name_or_path = f"tiny_{name}"
    adapted.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    path = os.path.join(folder, "adapter_config.json")
    with open(path, encoding="utf-8") as file:
        written = json.load(file)
    written["target_modules"] = sorted(written["target_modules"], key=targets.index)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(written, file, indent=2)
    adapted = adapted.double()
    scored = []
    for sequence in ids:
        rows = adapted(input_ids=sequence[None], use_cache=False).logits[0].log_softmax(-1)
        scored.append(rows[:-1].gather(1, sequence[1:, None])[:, 0])
    (scored[0][PREFIX - 1:].sum() - 0.5 * scored[1][PREFIX - 1:].sum()).backward()
    gradients = {key.replace(".default", ""): p.grad for key, p in adapted.named_parameters() if "lora_" in key}
    assert len(gradients) == 2 * len(targets) * model.config.num_hidden_layers
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    return scored, gradients


NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}
NORMS = {"gemma3": {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
                    "post_feedforward_layernorm": "post_ffw_norm"},
         "olmo2": {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}}


def gguf_tensors(model, arch):
    """As llama.cpp's converter does it: gemma's norms with their 1, llama's q and k interleaved and its scaled
    frequencies as divisors, no head where it is the embedding."""
    config, names = model.config, NAMES | NORMS.get(arch, {"post_attention_layernorm": "ffn_norm"})
    if config.rope_parameters.get("rope_type") == "llama3":
        base = config.rope_parameters["rope_theta"]
        plain = 1.0 / (base ** (torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim))
        yield "rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy()
    if config.rope_parameters.get("rope_type") == "longrope":
        for kind in ("long", "short"):
            yield f"rope_factors_{kind}.weight", np.array(config.rope_parameters[f"{kind}_factor"], dtype=np.float32)
    for name, value in model.state_dict().items():
        value = value.numpy() + np.float32(arch == "gemma3" and name.endswith("norm.weight"))
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if name.startswith("model.layers."):
            layer, inner = name.removeprefix("model.layers.").split(".", 1)
            inner, kind = inner.rsplit(".", 1)
            if arch in INTERLEAVED and inner.endswith(("q_proj", "k_proj")):
                heads = config.num_attention_heads if inner.endswith("q_proj") else config.num_key_value_heads
                value = permuted(value.reshape(len(value), -1), heads).reshape(value.shape)
            yield f"blk.{layer}.{names[inner]}.{kind}", value
        else:
            top = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output"}
            yield f"{top[name]}.weight", value


def save_gguf(model, path):
    config = model.config
    arch = {"gemma3_text": "gemma3", "mistral": "llama"}.get(config.model_type, config.model_type)
    writer = Writer(path, arch)
    writer.add_name(f"tiny {arch}")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if arch != "qwen2" and getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if arch in ("gemma3", "phi3"):
        writer.add_sliding_window(config.sliding_window)
    if arch == "phi3":
        rope = config.rope_parameters
        writer.add_rope_dimension_count(int(config.head_dim * rope["partial_rotary_factor"]))
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
        stretched = config.max_position_embeddings / config.original_max_position_embeddings
        factor = np.sqrt(1 + np.log(stretched) / np.log(config.original_max_position_embeddings))
        writer.add_rope_scaling_attn_factors(float(factor))
    if arch == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    writer.add_rope_freq_base(config.rope_parameters.get("full_attention", config.rope_parameters)["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if config.model_type in ("gemma3_text", "llama"):
        add_sentencepiece(writer, arch)
    else:
        add_bytes(writer, config)
    for name, values in gguf_tensors(model, arch):
        writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# Characters, then what they are merged to, the best first. On purpose not every merge has a piece for each of its cuts.
CHARACTERS = ["\u2581", *"etaoinsrhdl.,é"]
MERGED = ["\u2581t", "he", "in", "\u2581a", "re", "\u2581the", "on", "er", "\u2581s", "ing", "\u2581an", "at", "and", "\u2581and", "ed",
          "ll", "\u2581\u2581\u2581", "ther"]


def add_sentencepiece(writer, arch):
    """A vocabulary as SentencePiece trains one. Gemma's runs of spaces and line ends are the user's own, spelled with real
    spaces, of no score, before all pieces; the llama's pieces lie in another order than their scores."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>"] if arch == "gemma3" else ["<unk>", "<s>", "</s>"]
    own = ["\n", "\n\n", "  ", "   ", "<b>"] if arch == "gemma3" else []
    tokens = [(text, -1000.0, TokenType.CONTROL if text != "<unk>" else TokenType.UNKNOWN) for text in special]
    tokens += [(text, -1000.0, TokenType.USER_DEFINED) for text in own]
    tokens += [(f"<0x{byte:02X}>", 0.0, TokenType.BYTE) for byte in range(BYTES)]
    # A run of spaces is one of gemma's own already.
    merged = [text for text in MERGED if arch != "gemma3" or text.strip("\u2581")]
    pieces = [(text, -float(i), TokenType.NORMAL) for i, text in enumerate(merged + CHARACTERS)]
    tokens += pieces if arch == "gemma3" else pieces[::-1]
    assert len(tokens) <= VOCAB
    tokens += [(f"<unused{i}>", -1000.0, TokenType.CONTROL) for i in range(VOCAB - len(tokens))]
    texts, scores, types = zip(*tokens)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(list(texts))
    writer.add_token_scores(list(scores))
    writer.add_token_types([int(kind) for kind in types])
    writer.add_unk_token_id(texts.index("<unk>"))
    writer.add_bos_token_id(texts.index("<bos>" if arch == "gemma3" else "<s>"))
    writer.add_eos_token_id(texts.index("<eos>" if arch == "gemma3" else "</s>"))
    if arch == "gemma3":
        writer.add_add_space_prefix(False)
        writer.add_add_bos_token(True)


TEXTS = [
    "", " ", "the", " the", "  the", "the rest and the other thing", "the  rest   and    the     other", "and\n\nthe\n\n\nend",
    "ing in the sand, and on the land.", "  leading", "trailing  ", "a\tb\r\n", "zebra Quick 42!", "é e\u0301 ñ", "日本語 and 🎉👩‍👩‍👧",
    "\u2581\u2581the\u2581 real\u2581letter", "<b>the</b> <start_of_turn>and</s> <s>the", "the<bos> the", "\u0000\u0007 \ufffd",
    "llllllll hehehehe thethethe anandanand", "the rest. " * 12,
]


def tokenized(out, name):
    tokenizer = AutoTokenizer.from_pretrained(out, gguf_file=f"tiny_{name}.f32.gguf")

    def one(text):
        ids = tokenizer.encode(text, add_special_tokens=False)
        return {"text": text, "ids": ids, "document": tokenizer.encode(text),
                "decoded": tokenizer.decode(ids, skip_special_tokens=True)}

    return [one(text) for text in TEXTS]


def add_bytes(writer, config):
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


def main(out):
    ids = sequences()
    for seed, (name, (config, changes)) in enumerate(FAMILIES.items(), 11):
        folder, scratch = os.path.join(out, f"tiny_{name}"), os.path.join(out, "scratch")
        model = random_model(config, seed)
        model.save_pretrained(folder)
        save_tokenizer(folder)
        if os.path.exists(extra := os.path.join(folder, "generation_config.json")):
            os.remove(extra)
        exact = load(folder).double()
        tensors = {f"ids__{i}": sequence for i, sequence in enumerate(ids)} | {"logprobs": logprobs(exact, ids[0])}
        with open(os.path.join(out, f"tiny_{name}_variant.json"), "w", encoding="utf-8") as file:
            json.dump(changes, file, indent=1)
            file.write("\n")
        other = variant(folder, changes, scratch)
        shutil.rmtree(scratch)
        for i, sequence in enumerate(ids):
            tensors |= {f"next__{i}": of_next(exact, sequence), f"variant__{i}": of_next(other, sequence)}
        scored, gradients = lora(load(folder), os.path.join(out, f"tiny_{name}_lora"), name, ids)
        tensors |= {f"lora__{i}": row for i, row in enumerate(scored)}
        tensors |= {f"grad.{key}": value for key, value in gradients.items()}
        save(os.path.join(out, f"tiny_{name}_numbers.safetensors"), **tensors)
        path = os.path.join(out, f"tiny_{name}.f32.gguf")
        save_gguf(model, path)
        spread = [(tensors[f"{kind}__0"] - tensors["next__0"]).abs().max().item() for kind in ("variant", "lora")]
        f32 = (logprobs(load(folder), ids[0]) - tensors["logprobs"]).abs().max().item()
        entropy = -(tensors["logprobs"].exp() * tensors["logprobs"]).sum(-1)
        print(f"{name}: variant moves {spread[0]:.2f}, lora {spread[1]:.2f}; f32 is off by {f32:.1e}; "
              f"entropy {entropy.min():.2f} to {entropy.max():.2f}; {os.path.getsize(path)} bytes of GGUF")
        if name in ("qwen2", "gemma3"):  # it reads no rope_freqs.weight, and no key_length of a qwen3
            # A GGUF file does not say it: llama.cpp takes the head's width, transformers 256.
            scalar = {"query_pre_attn_scalar": config.head_dim} if name == "gemma3" else {}
            again = load(out, gguf_file=os.path.basename(path), **scalar)
            off = (logprobs(again, ids[0]) - tensors["logprobs"]).abs().max().item()
            print(f"  read back from GGUF: off by {off:.1e}")
    save_json(os.path.join(out, "tiny_tokenizers.json"), {name: tokenized(out, name) for name in ("gemma3", "llama3")})


if __name__ == "__main__":
    main(sys.argv[1])

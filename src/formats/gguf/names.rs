//! Names of tensors: from Hugging Face's to llama.cpp's.

use crate::formats::spec::LayerSpec;

/// The name in a GGUF file of the tensor that Hugging Face calls `name`, in a model with layers made of `layer_spec`.
pub(crate) fn gguf_name(name: &str, layer_spec: &LayerSpec) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".to_owned()),
        "model.norm.weight" => return Some("output_norm.weight".to_owned()),
        "lm_head.weight" => return Some("output.weight".to_owned()),
        _ => {}
    }
    let (layer, tensor) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (tensor, kind) = tensor.rsplit_once('.')?;
    let inner = match tensor {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" if layer_spec.sandwich_norms || layer_spec.post_norms => "post_attention_norm",
        "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "self_attn.q_proj" | "self_attn.k_proj" | "self_attn.v_proj" if layer_spec.fused => "attn_qkv",
        // Gate and up in one.
        "mlp.gate_proj" | "mlp.up_proj" if layer_spec.fused => "ffn_up",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{inner}.{kind}"))
}

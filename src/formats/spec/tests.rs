//! A small spec for tests of every room, and the promises of the spec itself.
use super::*;

/// Two layers, four query heads on two key-value heads.
pub(crate) fn tiny() -> ModelSpec {
    ModelSpec {
        family: Family::Llama,
        layer_spec: Family::Llama.layer_spec(),
        embedding_scale: 1.0,
        score_scale: 1.0 / 8f32.sqrt(),
        sliding: None,
        vocab: 260,
        hidden: 32,
        intermediate: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        rotary: Rotary::new(10_000.0, 8),
        norm_epsilon: 1e-5,
        context_tokens: 128,
        tied: true,
        residual_scale: 1.0,
        logit_divisor: 1.0,
        unrotated: Vec::new(),
    }
}

#[test]
fn the_135m_model_has_as_many_weights_as_its_card_says() {
    let spec = ModelSpec {
        vocab: 49_152,
        hidden: 576,
        intermediate: 1536,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        rotary: Rotary::new(100_000.0, 64),
        ..tiny()
    };
    assert_eq!(spec.parameters(), 134_515_008);
    assert_eq!(spec.complaint(), None);
}

fn sliding() -> Sliding {
    Sliding { window_tokens: 4, rotary: Rotary::new(100.0, 8), layers: vec![true, false] }
}

#[test]
fn what_a_family_adds_is_counted() {
    let of = |family: Family| {
        ModelSpec { family, layer_spec: family.layer_spec(), ..tiny() }.parameters() - tiny().parameters()
    };
    // Per layer: biases of q, k and v; a norm of q and one of k; those and two of the stream.
    assert_eq!([of(Family::Qwen2), of(Family::Qwen3), of(Family::Gemma3)], [2 * 64, 2 * 16, 2 * (16 + 64)]);
}

#[test]
fn an_untied_head_is_counted() {
    let tied = tiny();
    let untied = ModelSpec { tied: false, ..tiny() };
    assert_eq!(untied.parameters() - tied.parameters(), 260 * 32);
}

#[test]
fn impossible_sizes_are_named() {
    for (spec, word) in [
        (ModelSpec { kv_heads: 3, ..tiny() }, "multiple of 3"),
        (ModelSpec { head_dim: 7, ..tiny() }, "even"),
        (ModelSpec { layers: 0, ..tiny() }, "layers"),
        (ModelSpec { score_scale: f32::INFINITY, ..tiny() }, "attention scale"),
        (ModelSpec { rotary: Rotary::new(10_000.0, 16), ..tiny() }, "rotary frequencies: expected 1 to 4, got 8"),
        (ModelSpec { rotary: Rotary::new(0.5, 8), ..tiny() }, "rotary frequency"),
        (ModelSpec { sliding: Some(Sliding { window_tokens: 0, ..sliding() }), ..tiny() }, "sliding window"),
        (ModelSpec { sliding: Some(Sliding { layers: vec![true], ..sliding() }), ..tiny() }, "sliding window"),
        (ModelSpec { vocab: usize::MAX, ..tiny() }, "vocabulary"),
        (ModelSpec { norm_epsilon: f32::NAN, ..tiny() }, "epsilon"),
    ] {
        let complaint = spec.complaint().unwrap_or_default();
        assert!(complaint.contains(word), "{complaint}");
    }
}

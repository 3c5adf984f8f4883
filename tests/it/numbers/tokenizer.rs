//! The quickstart's model, fetched as its config says, against what transformers makes of it.
//!
//! Golden ids and texts with the program that wrote them: `tests/golden/tokenizer.py`.

#![allow(clippy::unwrap_used)]

use rco_node::formats::rotary::Rotary;
use rco_node::formats::source::Source;
use rco_node::formats::template::ChatTemplate;
use rco_node::formats::{OpenedModel, open};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Golden {
    texts: Vec<Text>,
    digits_matter: Vec<String>,
    bos: String,
    eos: String,
    template: String,
    conversations: Vec<Conversation>,
    features: String,
    feature_conversations: Vec<Conversation>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    decoded: String,
    /// The ids where special tokens are read as text, if they differ.
    as_text: Option<Vec<u32>>,
}

#[derive(Deserialize)]
struct Conversation {
    turns: Vec<Value>,
    closed: String,
    open: String,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../golden/tokenizer_smollm2.json")).unwrap()
}

fn quickstart_model() -> OpenedModel {
    let config: toml::Table = toml::from_str(include_str!("../../../configs/quickstart.toml")).unwrap();
    let source = Source::parse(config["model"]["source"].as_str().unwrap()).unwrap();
    open(&source.fetch().unwrap()).unwrap()
}

fn assert_renders(template: &ChatTemplate, conversations: &[Conversation]) {
    for conversation in conversations {
        assert_eq!(template.render(&conversation.turns, false).unwrap(), conversation.closed);
        assert_eq!(template.render(&conversation.turns, true).unwrap(), conversation.open);
    }
}

#[test]
fn the_quickstarts_tokenizer_and_template_are_those_of_transformers() {
    let (model, golden) = (quickstart_model(), golden());
    assert!(golden.texts.len() > 50 && !golden.digits_matter.is_empty());
    for Text { text, ids, decoded, as_text } in &golden.texts {
        assert_eq!(model.tokenizer.encode(text).unwrap(), *ids, "{text:?}");
        assert_eq!(model.tokenizer.encode_text(text).unwrap(), *as_text.as_ref().unwrap_or(ids), "{text:?} as text");
        assert_eq!(model.tokenizer.decode(ids).unwrap(), *decoded);
    }
    assert_eq!(model.tokenizer.len(), 49_152);
    assert_eq!(model.tokenizer.stop_ids(), [0, 2]);
    assert_renders(&model.template, &golden.conversations);
}

#[test]
fn the_quickstarts_model_has_the_sizes_of_its_card() {
    let model = quickstart_model();
    let spec = &model.spec;
    assert_eq!((spec.layers, spec.hidden, spec.heads, spec.kv_heads, spec.head_dim), (30, 576, 9, 3, 64));
    assert_eq!((spec.intermediate, spec.vocab, spec.context_tokens, spec.tied), (1536, 49_152, 8192, true));
    assert_eq!(spec.parameters(), 134_515_008);
    assert_eq!(spec.rotary, Rotary::new(100_000.0, 64));
    let norm = model.weights.get("model.norm.weight", &[576]).unwrap();
    assert!(norm.iter().all(|x| x.is_finite()));
}

#[test]
fn chat_templates_render_as_transformers_renders_them() {
    let golden = golden();
    let own = ChatTemplate::new(&golden.template, &golden.bos, &golden.eos).unwrap();
    assert_renders(&own, &golden.conversations);
    let features = ChatTemplate::new(&golden.features, &golden.bos, &golden.eos).unwrap();
    assert_renders(&features, &golden.feature_conversations);
}

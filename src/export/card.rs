//! The model card of an exported critic: what it is, where it came from, what it was worth.
//!
//! Markdown with the head that the Hub reads. Says only what it was told; knows no run.

use super::error::Result;
use super::output;
use crate::types::ModelId;
use std::fmt::Write as _;
use std::path::Path;

/// The card's file name.
const CARD_FILE: &str = "README.md";

/// What a card says. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelCard {
    /// The licence of the weights, as SPDX names it.
    pub licence: Option<String>,
    /// What it was trained on.
    pub data: Vec<String>,
    /// Learner steps taken.
    pub steps: Option<u64>,
    /// Settings of the training: key and value.
    pub settings: Vec<(String, String)>,
    /// Evaluations on held-out prompts.
    pub evaluations: Vec<CardEvaluation>,
}

/// A critic's figures on held-out prompts, each a value with its 95 % interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CardEvaluation {
    /// The learner step.
    pub step: u64,
    /// How many prompts.
    pub prompts: Option<u64>,
    /// Critique utility.
    pub utility: Option<[f64; 3]>,
    /// Accuracy of the refinements.
    pub accuracy: Option<[f64; 3]>,
}

impl ModelCard {
    /// Writes the card into `folder`, for weights made from `base`.
    pub(super) fn write(&self, folder: &Path, base: &ModelId, is_adapter: bool) -> Result<()> {
        output::write(&folder.join(CARD_FILE), self.text(base, is_adapter).as_bytes())
    }

    fn text(&self, base: &ModelId, is_adapter: bool) -> String {
        let mut text = self.head(base, is_adapter);
        let kind = if is_adapter { "A LoRA adapter" } else { "A model" };
        text += &format!(
            "\n# Critic for {}\n\n{kind} that criticises answers of a language model, so that the answers get better when they are \
             refined. Trained by rco-node with RCO (arXiv 2506.22157).\n\n| | |\n|---|---|\n",
            line(&base.name)
        );
        let mut row = |name: &str, value: &str| text += &format!("| {name} | {} |\n", cell(value));
        row("base model", &base.name);
        row("sha256 of the base", &base.sha256);
        if let Some(steps) = self.steps {
            row("learner steps", &steps.to_string());
        }
        self.data.iter().for_each(|data| row("data", data));
        row("licence", self.licence.as_deref().unwrap_or("not stated; that of the base model applies"));
        text += &self.evaluation();
        if !self.settings.is_empty() {
            text += "\n## Training\n\n| key | value |\n|---|---|\n";
            self.settings.iter().for_each(|(key, value)| text += &format!("| `{key}` | `{}` |\n", cell(value)));
        }
        text
    }

    /// The head in YAML. Texts are written as JSON, which YAML contains.
    fn head(&self, base: &ModelId, is_adapter: bool) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let library = if is_adapter { "peft" } else { "transformers" };
        let licence = self.licence.as_deref().unwrap_or("other");
        format!(
            "---\nbase_model: {}\nlibrary_name: {library}\nlicense: {}\npipeline_tag: text-generation\ntags:\n- critic\n- rco\n---\n",
            quoted(&base.name),
            quoted(licence)
        )
    }

    fn evaluation(&self) -> String {
        if self.evaluations.is_empty() {
            return String::new();
        }
        let mut text = "\n## Evaluation\n\nOn held-out prompts while it was trained; times 100, with 95 % intervals by prompt. A \
                        critique utility of 50 means that refinements are as good as the answers. The last row is this critic or \
                        the newest that was evaluated before it.\n\n| step | prompts | critique utility | accuracy after |\n\
                        |---|---|---|---|\n"
            .to_owned();
        let figure = |value: Option<[f64; 3]>| {
            let [value, low, high] = value?.map(|figure| 100.0 * figure);
            Some(format!("{value:.1} [{low:.1}, {high:.1}]"))
        };
        for evaluation in &self.evaluations {
            let prompts = evaluation.prompts.map(|prompts| prompts.to_string()).unwrap_or_default();
            let [utility, accuracy] =
                [evaluation.utility, evaluation.accuracy].map(|it| figure(it).unwrap_or_default());
            let _ = writeln!(text, "| {} | {prompts} | {utility} | {accuracy} |", evaluation.step);
        }
        text
    }
}

/// `text` on one line.
fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `text` as the content of a table's cell.
fn cell(text: &str) -> String {
    line(text).replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_names_base_data_steps_settings_figures_and_licence() {
        let base = ModelId { name: "owner/na\"me".to_owned(), sha256: "ab12".to_owned() };
        let card = ModelCard {
            licence: Some("Apache-2.0".to_owned()),
            data: vec!["prompts.file = bundled:a | b".to_owned()],
            steps: Some(120),
            settings: vec![("learner.beta".to_owned(), "0.05".to_owned())],
            evaluations: vec![CardEvaluation {
                step: 100,
                prompts: Some(24),
                utility: Some([0.6321, 0.59, 0.67]),
                accuracy: None,
            }],
        };
        let text = card.text(&base, true);
        for part in [
            "---\nbase_model: \"owner/na\\\"me\"\nlibrary_name: peft\nlicense: \"Apache-2.0\"\n",
            "| sha256 of the base | ab12 |",
            "| learner steps | 120 |",
            "| data | prompts.file = bundled:a \\| b |",
            "| 100 | 24 | 63.2 [59.0, 67.0] |  |",
            "| `learner.beta` | `0.05` |",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let bare = ModelCard::default().text(&base, false);
        assert!(bare.contains("library_name: transformers\nlicense: \"other\""), "{bare}");
        assert!(bare.contains("| licence | not stated") && !bare.contains("## "), "{bare}");
    }
}

//! The models that a request may name: `generator`, `critic`, `critic@VERSION` and `judge`.

use super::api::Open;
use super::problem::Problem;
use crate::device::Device;
use crate::engine::Policy;
use crate::episode::judge::JudgeSource;
use crate::episode::models::Models;
use crate::formats::{template::ChatTemplate, tokenizer::Tokenizer};
use crate::transformer::load::Loaded;
use crate::types::CriticVersion;

/// A model that a request names.
#[derive(Clone)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) policy: Policy,
    pub(super) device: Device,
    pub(super) template: ChatTemplate,
    pub(super) tokenizer: Tokenizer,
    /// The longest prompt and text together, in tokens.
    pub(super) context_tokens_max: usize,
}

/// A name of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Generator,
    Critic(Option<CriticVersion>),
    Judge,
}

impl Name {
    /// The name that `text` is, if it is one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "generator" => Some(Self::Generator),
            "critic" => Some(Self::Critic(None)),
            "judge" => Some(Self::Judge),
            // The number as it is written: no sign and no leading zero.
            _ => text
                .strip_prefix("critic@")
                .and_then(|number| number.parse().ok().filter(|parsed: &u64| parsed.to_string() == number))
                .map(|version| Self::Critic(Some(CriticVersion(version)))),
        }
    }
}

/// Whether the judge is a model of this node.
pub(super) fn has_judge(models: &Models) -> bool {
    let asks = matches!(models.judges.verdicts, JudgeSource::Model(_)) || models.judges.preferences.is_some();
    asks && models.remotes.judge.is_none()
}

/// Whether the generator is a model of this node.
pub(super) fn has_generator(models: &Models) -> bool {
    models.remotes.generator.is_none()
}

impl Open {
    /// The model that is named `name`.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn model(&self, name: &str) -> Result<Model, Problem> {
        let models = &self.served.models;
        let judge =
            || models.judge_model.as_ref().map_or((&models.model, &models.engine), |(model, engine)| (model, engine));
        let own = (&models.model, &models.engine);
        let (policy, device, (loaded, engine)) = match Name::parse(name) {
            Some(Name::Generator) if has_generator(models) => (Policy::Base, self.device.clone(), own),
            Some(Name::Critic(None)) => (Policy::Serving, self.device.clone(), own),
            Some(Name::Critic(Some(version))) => (Policy::Version(version), self.device.clone(), own),
            Some(Name::Judge) if has_judge(models) => (Policy::Base, self.device.for_judge(), judge()),
            Some(_) => return Err(Problem::no_model(format!("model: {name:?} is no model of this node"))),
            None => {
                let expected = "expected one of those that /v1/models lists";
                return Err(Problem::no_model(format!("model: {expected}, got {name:?}")));
            }
        };
        let Loaded { template, tokenizer, .. } = loaded;
        Ok(Model {
            name: name.to_owned(),
            policy,
            device,
            template: template.clone(),
            tokenizer: tokenizer.clone(),
            context_tokens_max: engine.context_tokens_max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_critic_is_named_by_its_number_as_it_is_written() {
        assert_eq!(Name::parse("critic@7"), Some(Name::Critic(Some(CriticVersion(7)))));
        assert_eq!(Name::parse("critic@0"), Some(Name::Critic(Some(CriticVersion::BASE))));
        for other in ["critic@", "critic@+7", "critic@07", "critic@-1", "critic@7 ", "Critic", "gpt-4o", ""] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }
}

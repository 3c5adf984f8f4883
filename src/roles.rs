//! The roles: what each is asked, and how its answer is parsed.
//!
//! A role is a template and a function that builds the conversation a model sees; the judge's role also parses the
//! model's words. Nothing here knows a model, a token or how texts are sampled: sampling belongs to the engine, and its
//! config tables are beside these.
//!
//! Invariants: a template is tried when it is made, so that an invalid one is a start-up error that names its key; the
//! part that two roles' conversations share comes first in both.

use crate::types::thoughts::without_thoughts;
use crate::types::{ChatRole, Turn};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub mod critic;
pub mod generator;
pub mod judge;
mod parse_choice;
pub mod refiner;

/// What all roles have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolesConfig {
    /// Whether one role's thoughts are shown to the next.
    pub reasoning: Reasoning,
}

/// What becomes of the thoughts that a model writes before its answer, where the text is shown to another role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reasoning {
    /// They are left out.
    #[default]
    Strip,
    /// They are shown.
    Keep,
}

impl Reasoning {
    /// What the next role sees of `text`.
    pub fn shown(self, text: &str) -> &str {
        match self {
            Self::Strip => without_thoughts(text),
            Self::Keep => text,
        }
    }
}

/// Why a role cannot be made from its configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The template does not parse, or fails on a trial input.
    #[error("{key}: expected a template that renders, got {fault}")]
    InvalidTemplate {
        /// Its config key.
        key: &'static str,
        /// The template engine's error.
        fault: String,
    },
    /// The template does not use a required variable.
    #[error("{key}: expected {{{{ {variable} }}}} in the template, got none")]
    MissingVariable {
        /// Its config key.
        key: &'static str,
        /// The missing variable.
        variable: &'static str,
    },
    /// The template uses a variable that the role does not have.
    #[error("{key}: expected no variables but {known}, got `{variable}`")]
    UnknownVariable {
        /// Its config key.
        key: &'static str,
        /// The unknown variable.
        variable: String,
        /// The known variables.
        known: String,
    },
}

/// Trial inputs for a template: empty, short, template and markup syntax, several lines.
const TRIALS: [&str; 4] = ["", "7", "{{ a }} <b> & \"c\" %}", "line\n\nline\n"];

/// A template from the config. Its variables are texts; some are required, others optional, and no others are allowed.
/// One trailing line break is dropped.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    key: &'static str,
    needed: &'static [&'static str],
    optional: &'static [&'static str],
}

impl Template {
    /// Parses the template `source` of the config key `key`, which must use all of `variables`. Returns every error.
    pub(crate) fn parse(
        key: &'static str,
        source: &str,
        variables: &'static [&'static str],
    ) -> Result<Self, Vec<Error>> {
        Self::parse_with(key, source, variables, &[])
    }

    /// The same, with `optional` variables.
    pub(crate) fn parse_with(
        key: &'static str,
        source: &str,
        needed: &'static [&'static str],
        optional: &'static [&'static str],
    ) -> Result<Self, Vec<Error>> {
        let broken = |error: &minijinja::Error| vec![Error::InvalidTemplate { key, fault: error.to_string() }];
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.add_template_owned(key, source.to_owned()).map_err(|error| broken(&error))?;
        let template = Self { environment, key, needed, optional };
        let faults = template.faults();
        if !faults.is_empty() {
            return Err(faults);
        }
        for trial in TRIALS {
            template.try_render(&vec![trial; needed.len() + optional.len()]).map_err(|error| broken(&error))?;
        }
        Ok(template)
    }

    /// All allowed variables, the required ones first.
    fn variables(&self) -> impl Iterator<Item = &'static str> + Clone {
        self.needed.iter().chain(self.optional).copied()
    }

    /// Missing and unknown variables.
    fn faults(&self) -> Vec<Error> {
        let key = self.key;
        let Ok(template) = self.environment.get_template(key) else { return Vec::new() };
        let named = template.undeclared_variables(false);
        let lacks = self.needed.iter().filter(|variable| !named.contains(**variable));
        let known = self.variables().collect::<Vec<_>>().join(", ");
        // The template engine lists its own functions, such as `range`, among the variables.
        let is_global = |name: &str| self.environment.globals().any(|(global, _)| global == name);
        let mut unknown: Vec<_> = named
            .iter()
            .filter(|name| !self.variables().any(|known| known == name.as_str()) && !is_global(name))
            .collect();
        unknown.sort();
        lacks
            .map(|variable| Error::MissingVariable { key, variable })
            .chain(unknown.into_iter().map(|name| Error::UnknownVariable {
                key,
                variable: name.clone(),
                known: known.clone(),
            }))
            .collect()
    }

    fn try_render(&self, values: &[&str]) -> Result<String, minijinja::Error> {
        let values = values.iter().map(|value| Value::from(*value));
        let context: BTreeMap<&str, Value> = self.variables().zip(values).collect();
        self.environment.get_template(self.key)?.render(context)
    }

    /// Renders it with `values`, in the order the variables were declared, the optional ones last.
    ///
    /// # Panics
    /// If the template fails on these values although it passed the trials. That needs a template that computes with its
    /// variables; one that only inserts them cannot fail.
    pub(crate) fn render(&self, values: &[&str]) -> String {
        debug_assert_eq!(values.len(), self.variables().count());
        self.try_render(values)
            .unwrap_or_else(|error| panic!("{}: the template failed on {values:?}: {error}", self.key))
    }
}

/// The first of a template's errors.
fn first(mut errors: Vec<Error>) -> Error {
    errors.swap_remove(0)
}

/// Complaints about one template.
fn complaints(key: &'static str, source: &str, variables: &'static [&'static str]) -> Vec<String> {
    complaints_with(key, source, variables, &[])
}

/// The same, with `optional` variables.
fn complaints_with(
    key: &'static str,
    source: &str,
    needed: &'static [&'static str],
    optional: &'static [&'static str],
) -> Vec<String> {
    let faults = Template::parse_with(key, source, needed, optional).err().unwrap_or_default();
    faults.iter().map(Error::to_string).collect()
}

/// The first turns of a conversation: the system text if it is not empty, and the user's text.
fn initial_turns(system: &str, user: String) -> Vec<Turn> {
    let system = (!system.is_empty()).then(|| Turn::new(ChatRole::System, system));
    system.into_iter().chain([Turn::new(ChatRole::User, user)]).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const BOTH: &[&str] = &["prompt", "response"];

    fn faults(source: &str) -> Vec<String> {
        complaints("critic.prompt", source, BOTH)
    }

    #[test]
    fn a_template_that_lacks_a_variable_names_its_key_and_the_variable() {
        assert_eq!(
            faults("no variable, {# not even {{ prompt }} #} here"),
            [
                "critic.prompt: expected {{ prompt }} in the template, got none",
                "critic.prompt: expected {{ response }} in the template, got none",
            ]
        );
        assert!(faults("{{ prompt }} {{ response }}").is_empty());
    }

    #[test]
    fn a_template_that_names_an_unknown_variable_is_refused() {
        let expected = ["critic.prompt: expected no variables but prompt, response, got `anwser`"];
        assert_eq!(faults("{{ prompt }} {{ response }} {{ anwser }}"), expected);
    }

    #[test]
    fn a_template_that_does_not_parse_or_fails_on_a_trial_is_refused() {
        for source in [
            "{{ prompt }} {{ response",
            "{{ prompt | nofilter }} {{ response }}",
            "{{ prompt[0].x }} {{ response }}",
            "{{ prompt }} {{ response }} {% include 'other' %}",
        ] {
            let faults = faults(source);
            assert_eq!(faults.len(), 1, "{source}");
            assert!(faults[0].starts_with("critic.prompt: expected a template that renders, got "), "{faults:?}");
        }
    }

    #[test]
    fn values_are_shown_as_they_are_and_never_rendered_again() {
        let template = Template::parse("critic.prompt", "{{ prompt }}|{{ response }}\n", BOTH).unwrap();
        assert_eq!(template.render(&["<a> & 'b'", "{{ prompt }}\n"]), "<a> & 'b'|{{ prompt }}\n");
    }

    #[test]
    fn templates_may_use_the_language_around_their_variables() {
        let source = "{% for n in range(2) %}{{ n }}{% endfor %}{% if response %}{{ prompt | trim }}{% endif %}";
        let template = Template::parse("critic.prompt", source, BOTH).unwrap();
        assert_eq!(template.render(&[" x ", "y"]), "01x");
    }

    #[test]
    fn the_quickstarts_roles_have_no_complaint() {
        #[derive(serde::Deserialize)]
        struct Roles {
            generator: generator::GeneratorConfig,
            critic: critic::CriticConfig,
            refiner: refiner::RefinerConfig,
            judge: judge::JudgeConfig,
        }
        let roles: Roles = toml::from_str(include_str!("../configs/quickstart.toml")).unwrap();
        let complaints = [
            roles.generator.complaints(),
            roles.critic.complaints(),
            roles.refiner.complaints(),
            roles.judge.complaints(0.0),
        ];
        assert_eq!(complaints.concat(), [""; 0]);
    }

    #[test]
    fn a_template_may_leave_out_what_is_optional() {
        let parse = |source| Template::parse_with("judge.prompt", source, BOTH, &["criteria"]);
        for (source, expected) in
            [("{{ prompt }}{{ response }}", "xy"), ("{{ criteria }}{{ prompt }}{{ response }}", "zxy")]
        {
            assert_eq!(parse(source).unwrap().render(&["x", "y", "z"]), expected);
        }
        let lacks = parse("{{ criteria }}{{ prompt }}").unwrap_err();
        assert_eq!(lacks, [Error::MissingVariable { key: "judge.prompt", variable: "response" }]);
    }

    #[test]
    fn an_empty_system_text_is_no_turn() {
        assert_eq!(initial_turns("", "hi".into()), [Turn::new(ChatRole::User, "hi")]);
        assert_eq!(initial_turns("be brief", "hi".into())[0], Turn::new(ChatRole::System, "be brief"));
    }
}

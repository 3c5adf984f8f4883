//! What is asked of each role and how its answer is read.
//!
//! A role is a template and a way to build the conversation a model is shown; the judge's role also reads
//! the model's words. Nothing here knows a model, a token or how texts are sampled: sampling is the
//! engine's business, and its table in the config stands beside these.
//!
//! Invariants: a template is tried out when it is made, so that a bad one is an error at start-up that names
//! its key; what two roles' conversations share comes first in both.

use crate::types::{ChatRole, Turn};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};
use std::collections::BTreeMap;

pub mod critic;
pub mod generator;
pub mod judge;
mod parse_choice;
pub mod refiner;

/// Why a role cannot be made of its configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The template does not parse, or fails on a trial.
    #[error("{key}: expected a template that renders, got {fault}")]
    InvalidTemplate {
        /// Where it stands in the config.
        key: &'static str,
        /// What the template engine says.
        fault: String,
    },
    /// The template never shows something the role cannot do without.
    #[error("{key}: expected {{{{ {variable} }}}} in the template, got none")]
    MissingVariable {
        /// Where it stands in the config.
        key: &'static str,
        /// What is missing.
        variable: &'static str,
    },
    /// The template names something that the role does not have.
    #[error("{key}: expected no variables but {known}, got `{variable}`")]
    UnknownVariable {
        /// Where it stands in the config.
        key: &'static str,
        /// What it names.
        variable: String,
        /// What there is.
        known: String,
    },
}

/// Texts that a template is tried on: nothing, little, much, and what templates and markup are made of.
const TRIALS: [&str; 4] = ["", "7", "{{ a }} <b> & \"c\" %}", "line\n\nline\n"];

/// A template of the config: its variables are texts, it may show no others, and there are those that it must show.
/// One line break at its end is dropped.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    key: &'static str,
    needed: &'static [&'static str],
    optional: &'static [&'static str],
}

impl Template {
    /// The template `source` of the config's `key`, which shows all of `variables`; or everything that is wrong
    /// with it.
    pub(crate) fn parse(
        key: &'static str,
        source: &str,
        variables: &'static [&'static str],
    ) -> Result<Self, Vec<Error>> {
        Self::parse_with(key, source, variables, &[])
    }

    /// The same, where the template may show `optional` too.
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

    /// All that it may show, the needed ones first.
    fn variables(&self) -> impl Iterator<Item = &'static str> + Clone {
        self.needed.iter().chain(self.optional).copied()
    }

    /// Variables it lacks and variables that do not exist.
    fn faults(&self) -> Vec<Error> {
        let key = self.key;
        let Ok(template) = self.environment.get_template(key) else { return Vec::new() };
        let named = template.undeclared_variables(false);
        let lacks = self.needed.iter().filter(|variable| !named.contains(**variable));
        let known = self.variables().collect::<Vec<_>>().join(", ");
        // The template engine's own functions, such as `range`, are named like variables.
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

    /// The text with `values` in place of its variables, in the order they were declared, the optional ones last.
    ///
    /// # Panics
    /// If the template fails on these values though it did not on the trials: a template that computes with
    /// its variables can be made to; one that shows them cannot.
    pub(crate) fn render(&self, values: &[&str]) -> String {
        debug_assert_eq!(values.len(), self.variables().count());
        self.try_render(values)
            .unwrap_or_else(|error| panic!("{}: the template failed on {values:?}: {error}", self.key))
    }
}

/// The one error to report of a template's many.
fn first(mut errors: Vec<Error>) -> Error {
    errors.swap_remove(0)
}

/// A config's complaints about one template.
fn complaints(key: &'static str, source: &str, variables: &'static [&'static str]) -> Vec<String> {
    complaints_with(key, source, variables, &[])
}

/// The same, where the template may show `optional` too.
fn complaints_with(
    key: &'static str,
    source: &str,
    needed: &'static [&'static str],
    optional: &'static [&'static str],
) -> Vec<String> {
    let faults = Template::parse_with(key, source, needed, optional).err().unwrap_or_default();
    faults.iter().map(Error::to_string).collect()
}

/// A conversation's opening: what the user says, under `system` where that says anything.
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

//! Renders a conversation as text with the model's Jinja template.
//!
//! The result is that of transformers' `apply_chat_template`: trimmed blocks, Python's string methods and `%`, `generation`
//! blocks, `raise_exception`, `strftime_now`, a `tojson` without HTML escapes. Knows no ids and no roles.

mod bounded;
mod dates;
mod json;
mod methods;
mod refused;
mod source;

use super::error::{Error, Result};
use super::time_limit::{self, Limits, NoResult};
use bounded::{Bounded, RENDERED_BYTES_MAX};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind, context, escape_formatter};
use refused::SourceDigest;
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The only template of the environment.
const NAME: &str = "chat template";

/// The longest source. That of a model with tools has some ten thousand bytes.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// The work that one text may cost, in steps of the template engine; it counts a step for each 64 bytes too. The longest
/// templates take some thousand steps, and ten for each turn.
const FUEL: u64 = 1 << 19;
/// The stack of the thread that renders. A list within a list costs six steps, and values are dropped, compared and written by
/// calls within calls: the deepest that the fuel can pay for takes a part of this. Pages that are not touched take no memory.
const STACK_BYTES: usize = 512 << 20;
/// The most processor time to compile the source, and for one text. The fuel is used up in a tenth of a second, but the
/// engine charges nothing for a list that is repeated (`[1] * 99999999`) until it is written, and some filters write it to
/// its end after the first error.
const TIME_MAX: Duration = Duration::from_millis(500);
/// The most memory that one text may cost. A step of the fuel pays for 64 bytes of text, so all steps for 32 MiB; the engine
/// charges nothing for the texts and lists that a list makes as it is written.
const HEAP_BYTES_MAX: usize = 128 << 20;
/// Calls within calls.
const RECURSION_MAX: usize = 64;

/// ChatML, the format of most small models: `<|im_start|>role`, content, `<|im_end|>`.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + \
                      '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' \
                      }}{% endif %}";

/// A compiled chat template, or the absence of one.
#[derive(Clone)]
pub struct ChatTemplate {
    /// If there is no template, the place where one was expected.
    environment: std::result::Result<Arc<Environment<'static>>, &'static str>,
    source: SourceDigest,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles `source`; `bos` and `eos` are its variables `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// If `source` is not a Jinja template, or takes too long to compile.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        if source.len() > SOURCE_BYTES_MAX {
            let got = source.len();
            return Err(Error::Template(format!("expected a source of at most {SOURCE_BYTES_MAX} bytes, got {got}")));
        }
        let digest = SourceDigest::of(source);
        let source = source.to_owned();
        // Compiling computes constant expressions, without fuel.
        let environment = within_limits(digest, move || compile(source))?;
        Ok(Self { environment: Ok(Arc::new(environment)), source: digest, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The absent template of a base model; `place` is where one was expected.
    pub(crate) fn absent(place: &'static str) -> Self {
        Self { environment: Err(place), source: SourceDigest::of(""), bos: String::new(), eos: String::new() }
    }

    /// The template, if the model has one.
    ///
    /// # Errors
    /// If it has none.
    pub fn present(&self) -> Result<&Self> {
        self.environment().map(|_| self)
    }

    fn environment(&self) -> Result<&Arc<Environment<'static>>> {
        match &self.environment {
            Ok(environment) => Ok(environment),
            Err(place) => Err(Error::Template(format!("the model has none ({place})"))),
        }
    }

    /// ChatML without a default system turn.
    pub fn chatml() -> Self {
        Self::new(CHATML, "<|im_start|>", "<|im_end|>").expect("the constant template compiles: a test renders it")
    }

    /// The text of `turns`, each of which serializes to `role` and `content`. With `add_generation_prompt`, the text ends
    /// where the assistant's next turn starts.
    ///
    /// # Errors
    /// If the model has no template, the template refuses the conversation or cannot be evaluated, or it takes too much work
    /// or writes too much.
    pub fn render<T: Serialize>(&self, turns: &[T], add_generation_prompt: bool) -> Result<String> {
        let environment = Arc::clone(self.environment()?);
        let variables = context! {
            messages => Value::from(Serde(turns)),
            add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            tools => (),
            documents => (),
        };
        within_limits(self.source, move || render_bounded(&environment, variables))
    }
}

/// The result of `work`, which runs code of the template `source`. What takes too much once is never run again: its thread,
/// and the memory it holds, stay behind.
fn within_limits<T: Send + 'static>(
    source: SourceDigest,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if let Some(why) = refused::why(source) {
        return Err(Error::Template(why));
    }
    let limits = Limits { time: TIME_MAX, bytes_max: Some(HEAP_BYTES_MAX), stack_bytes: STACK_BYTES };
    time_limit::within(limits, "rco-template", work).unwrap_or_else(|no_result| {
        Err(Error::Template(match no_result {
            NoResult::Panicked => "the template engine panicked".to_owned(),
            NoResult::Late(_) | NoResult::Large(_) => {
                refused::remember(source, format!("{no_result}; the template is not used again"))
            }
            NoResult::Thread(error) => error.to_string(),
        }))
    })
}

fn compile(source: String) -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_MAX);
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| failed(&error))?);
    environment.set_formatter(|out, state, value| {
        bounded::charge_items(state, value)?;
        escape_formatter(out, state, value)
    });
    environment.set_unknown_method_callback(methods::call);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", |format: &str| dates::strftime(SystemTime::now(), format));
    environment.add_filter("tojson", json::tojson);
    environment.add_template_owned(NAME, source::in_this_dialect(&source)).map_err(|error| failed(&error))?;
    Ok(environment)
}

fn render_bounded(environment: &Environment<'_>, variables: Value) -> Result<String> {
    let template = environment.get_template(NAME).map_err(|error| failed(&error))?;
    let mut text = Bounded::new(RENDERED_BYTES_MAX);
    // What the template made is dropped here, on this stack.
    let rendered = template.render_captured_to(variables, &mut text).map(drop);
    if text.is_full() {
        let why = format!("expected a text of at most {RENDERED_BYTES_MAX} bytes, got more");
        return Err(Error::Template(why));
    }
    rendered.map_err(|error| failed(&error))?;
    text.into_text().map_err(|error| Error::Template(error.to_string()))
}

fn failed(error: &minijinja::Error) -> Error {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    Error::Template(text)
}

fn raise_exception(message: &str) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(source, "<s>", "</s>").unwrap()
    }

    #[test]
    fn chatml_opens_the_assistants_turn_only_when_asked() {
        let turns = [json!({"role": "user", "content": "Hi <b>&\"'"})];
        let closed = "<|im_start|>user\nHi <b>&\"'<|im_end|>\n";
        assert_eq!(ChatTemplate::chatml().render(&turns, false).unwrap(), closed);
        let open = format!("{closed}<|im_start|>assistant\n");
        assert_eq!(ChatTemplate::chatml().render(&turns, true).unwrap(), open);
    }

    #[test]
    fn an_exception_of_the_template_reaches_the_caller() {
        let refuses = template("{{ raise_exception('roles must alternate') }}");
        let error = refuses.render(&[json!({})], true).unwrap_err().to_string();
        assert!(error.contains("roles must alternate"), "{error}");
    }

    #[test]
    fn a_broken_template_is_an_error_when_it_is_compiled() {
        let error = ChatTemplate::new("{% for %}", "", "").err().unwrap().to_string();
        assert!(error.starts_with("chat template: "), "{error}");
    }

    #[test]
    fn extensions_of_transformers_give_its_texts() {
        #[derive(serde::Deserialize)]
        struct Rendered {
            template: String,
            text: String,
        }
        #[derive(serde::Deserialize)]
        struct Golden {
            messages: serde_json::Value,
            templates: Vec<Rendered>,
        }
        let golden: Golden = serde_json::from_str(include_str!("../../tests/golden/templates.json")).unwrap();
        assert!(golden.templates.len() > 8);
        for Rendered { template: source, text } in golden.templates {
            assert_eq!(template(&source).render(golden.messages.as_array().unwrap(), false).unwrap(), text, "{source}");
        }
    }

    #[test]
    fn the_special_tokens_are_variables() {
        let text = template("{{ bos_token }}{{ eos_token }}{{ tools is none }}").render(&[(); 0], false).unwrap();
        assert_eq!(text, "<s></s>True");
    }
}

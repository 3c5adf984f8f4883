//! Renders a conversation as text with the model's Jinja template.
//!
//! The result is that of transformers' `apply_chat_template`: trimmed blocks, Python's string methods,
//! `raise_exception`, `strftime_now`, a `tojson` without HTML escapes. Knows no ids and no roles.

mod bounded;
mod methods;
mod refused;

use super::error::{Error, Result};
use super::time_limit::{self, Limits, NoResult};
use bounded::Bounded;
use minijinja::State;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind, context, escape_formatter};
use refused::SourceDigest;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The only template of the environment.
const NAME: &str = "chat template";

/// The longest source. That of a model with tools has some ten thousand bytes.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// The longest text that is rendered. A context of a million tokens has some four million bytes.
const RENDERED_BYTES_MAX: usize = 16 << 20;
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
/// Spaces of `tojson`'s indent.
const INDENT_MAX: usize = 64;

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
    environment.add_function("strftime_now", |format: &str| strftime(SystemTime::now(), format));
    environment.add_filter("tojson", tojson);
    environment.add_template_owned(NAME, source).map_err(|error| failed(&error))?;
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

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn tojson(state: &State<'_, '_>, value: Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let invalid = |error: &dyn std::fmt::Display| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string());
    let indent: Option<usize> = options.get("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(invalid(&"tojson: expected ensure_ascii to be false, got true"));
    }
    options.assert_all_used()?;
    if indent.is_some_and(|spaces| spaces > INDENT_MAX) {
        return Err(invalid(&format!(
            "tojson: expected an indent of at most {INDENT_MAX}, got {}",
            indent.unwrap_or(0)
        )));
    }
    let mut text = Bounded::new(RENDERED_BYTES_MAX);
    let written = match indent {
        Some(spaces) => {
            let spaces = " ".repeat(spaces);
            value.serialize(&mut Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(spaces.as_bytes())))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut text, PythonFormatter)),
    };
    written.map_err(|error| invalid(&error))?;
    let text = text.into_text().map_err(|error| invalid(&error))?;
    bounded::charge(state, text.len())?;
    Ok(Value::from_safe_string(text))
}

/// A space after each comma and colon, as Python writes JSON.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// `time` in UTC, with those conversions of `strftime` that dates in prompts use.
fn strftime(time: SystemTime, format: &str) -> Result<String, minijinja::Error> {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (month_name, weekday) = (MONTHS[month as usize - 1], WEEKDAYS[(days % 7) as usize]);
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let conversion = rest.next();
        let (bare, conversion) = if conversion == Some('-') { (true, rest.next()) } else { (false, conversion) };
        let two = |number: u64| if bare { number.to_string() } else { format!("{number:02}") };
        text.push_str(&match conversion {
            Some('Y') => year.to_string(),
            Some('y') => two(year % 100),
            Some('m') => two(month),
            Some('d') => two(day),
            Some('H') => two(hour),
            Some('I') => two((hour + 11) % 12 + 1),
            Some('M') => two(minute),
            Some('S') => two(second),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('%') => "%".to_owned(),
            other => {
                let other = other.map(String::from).unwrap_or_default();
                let why = format!("strftime_now: conversion %{other} in {format:?} is not supported");
                return Err(minijinja::Error::new(ErrorKind::InvalidOperation, why));
            }
        });
    }
    Ok(text)
}

/// Year, month and day of a number of days since 1970-01-01 (Hinnant, "chrono-compatible low-level date
/// algorithms"): years start in March, so that the leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day_of_year - (153 * from_march + 2) / 5 + 1)
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
    fn json_is_written_as_python_writes_it() {
        let turns = [json!({"b": "<é\">", "a": [1, 2.5, null, true], "e": {}})];
        let text = template("{{ messages[0] | tojson }}").render(&turns, false).unwrap();
        assert_eq!(text, r#"{"b": "<é\">", "a": [1, 2.5, null, true], "e": {}}"#);
        let text = template("{{ messages[0].a | tojson(indent=2) }}").render(&turns, false).unwrap();
        assert_eq!(text, "[\n  1,\n  2.5,\n  null,\n  true\n]");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "01 Jan 1970 00:00:00 Thursday AM"),
            (951_827_696, "29 Feb 2000 12:34:56 Tuesday PM"),
            (1_735_689_599, "31 Dec 2024 23:59:59 Tuesday PM"),
            (4_107_542_400, "01 Mar 2100 00:00:00 Monday AM"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(strftime(time, "%d %b %Y %H:%M:%S %A %p").unwrap(), expected);
        }
        assert_eq!(strftime(UNIX_EPOCH, "%-d/%-m/%y %I%%").unwrap(), "1/1/70 12%");
        assert!(strftime(UNIX_EPOCH, "%Q").is_err());
    }

    #[test]
    fn the_special_tokens_are_variables() {
        let text = template("{{ bos_token }}{{ eos_token }}{{ tools is none }}").render(&[(); 0], false).unwrap();
        assert_eq!(text, "<s></s>True");
    }
}

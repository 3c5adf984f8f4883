//! Which linears of a model an `adapter_config.json` means: names, regular expressions, layers.
//!
//! The rules are those of PEFT's `check_target_module_exists` and `get_pattern_key`. Expressions come from a file, so they are
//! limited in length, and in the steps of each match.

use crate::formats::spec::{ModelSpec, Projection};
use fancy_regex::{Regex, RegexBuilder};
use serde_json::Value;
use std::collections::BTreeSet;

/// The longest expression. Those of Unsloth have some 400 bytes.
const PATTERN_BYTES_MAX: usize = 4096;
/// Expressions, or names, in one list. A rank for each linear of the largest models takes 1,000.
const PATTERNS_MAX: usize = 8192;
/// Steps of one match.
const STEPS_MAX: usize = 10_000;
/// What PEFT calls all linears but the head.
const ALL_LINEAR: &str = "all-linear";

/// A module that PEFT can give factors to, and what it is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// Its path in transformers, such as `model.layers.0.self_attn.q_proj`.
    pub(super) key: String,
    pub(super) place: Place,
}

/// What a module is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A linear of a layer; of several projections where the family fuses them.
    Layer(usize, &'static [Projection]),
    /// The embedding.
    Embedding,
    /// The head.
    Head,
}

impl Module {
    /// Every module of a model.
    pub(super) fn all(spec: &ModelSpec) -> Vec<Self> {
        let in_layer = |layer: usize| {
            let module = move |&(name, projections): &(&str, &'static [Projection])| Self {
                key: format!("model.layers.{layer}.{name}"),
                place: Place::Layer(layer, projections),
            };
            spec.linears().iter().map(module)
        };
        let ends = [("model.embed_tokens", Place::Embedding), ("lm_head", Place::Head)];
        let ends = ends.into_iter().map(|(key, place)| Self { key: key.to_owned(), place });
        (0..spec.layers).flat_map(in_layer).chain(ends).collect()
    }

    /// `(inputs, outputs)`, where the embedding maps ids to states.
    pub(super) fn sizes(&self, spec: &ModelSpec) -> (usize, usize) {
        match self.place {
            Place::Layer(_, projections) => {
                let sizes = projections.iter().map(|projection| projection.sizes(spec));
                sizes.fold((0, 0), |(_, sum), (inputs, outputs)| (inputs, sum + outputs))
            }
            Place::Embedding => (spec.vocab, spec.hidden),
            Place::Head => (spec.hidden, spec.vocab),
        }
    }

    /// Names of its factors in a file.
    pub(super) fn factor_names(&self) -> [String; 2] {
        let key = &self.key;
        ['A', 'B'].map(|factor| match self.place {
            Place::Embedding => format!("base_model.model.{key}.lora_embedding_{factor}"),
            _ => format!("base_model.model.{key}.lora_{factor}.weight"),
        })
    }

    /// The name of the module's own weight in a file. PEFT stores that of an embedding or a head beside its factors.
    pub(super) fn weight_name(&self) -> String {
        format!("base_model.model.{}.base_layer.weight", self.key)
    }
}

/// A name or an expression that modules are matched with.
#[derive(Debug)]
enum Pattern {
    /// The module's whole path, or its end.
    Name(String),
    /// A path, or its end, as an expression.
    Expression(Box<Regex>),
}

impl Pattern {
    /// A pattern for a path or its end, as the keys of `rank_pattern` are.
    fn of_end(text: &str) -> Result<Self, String> {
        if text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.') {
            return Ok(Self::Name(text.to_owned()));
        }
        compile(text, &format!(r"\A(?:.*\.)?(?:{text})\z")).map(Self::Expression)
    }

    fn matches(&self, key: &str) -> Result<bool, String> {
        match self {
            Self::Name(name) => Ok(ends_with(key, name)),
            Self::Expression(expression) => run(expression, key),
        }
    }
}

/// Whether `key` is `name`, or ends with it behind a dot.
fn ends_with(key: &str, name: &str) -> bool {
    key.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn compile(text: &str, whole: &str) -> Result<Box<Regex>, String> {
    if text.len() > PATTERN_BYTES_MAX {
        return Err(format!("expected expressions of at most {PATTERN_BYTES_MAX} bytes, got {}", text.len()));
    }
    let built = RegexBuilder::new(whole).backtrack_limit(STEPS_MAX).delegate_size_limit(1 << 20).build();
    built.map(Box::new).map_err(|error| format!("expected an expression, got {text:?}: {error}"))
}

fn run(expression: &Regex, key: &str) -> Result<bool, String> {
    expression.is_match(key).map_err(|error| format!("expression {:?}: {error}", expression.as_str()))
}

/// What `target_modules` or `exclude_modules` says.
#[derive(Debug)]
pub(super) enum Selection {
    /// Every linear but the head.
    AllLinear,
    /// Modules whose path is or ends with one of these names.
    Names(Vec<String>),
    /// Modules whose whole path matches.
    Expression(Box<Regex>),
}

impl Selection {
    /// Reads the value of a key; none where it is null or an empty list.
    ///
    /// # Errors
    /// What was expected.
    pub(super) fn read(value: &Value) -> Result<Option<Self>, String> {
        match value {
            Value::Null => Ok(None),
            Value::String(text) if text == ALL_LINEAR => Ok(Some(Self::AllLinear)),
            Value::String(text) => compile(text, &format!(r"\A(?:{text})\z")).map(|it| Some(Self::Expression(it))),
            Value::Array(list) if list.is_empty() => Ok(None),
            Value::Array(list) if list.len() <= PATTERNS_MAX => {
                let names = list.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
                names.map(|names| Some(Self::Names(names))).ok_or_else(|| "expected a list of names".to_owned())
            }
            _ => Err(format!("expected {ALL_LINEAR:?}, an expression, or a list of at most {PATTERNS_MAX} names")),
        }
    }

    /// Whether it means `module`.
    pub(super) fn selects(&self, module: &Module) -> Result<bool, String> {
        match self {
            Self::AllLinear => Ok(matches!(module.place, Place::Layer(..))),
            Self::Names(names) => Ok(names.iter().any(|name| ends_with(&module.key, name))),
            Self::Expression(expression) => run(expression, &module.key),
        }
    }

    /// Whether it names the whole path of `module`, which then counts whatever its layer.
    pub(super) fn names(&self, module: &Module) -> bool {
        matches!(self, Self::Names(names) if names.contains(&module.key))
    }

    /// The first name that means none of `modules`.
    pub(super) fn stranger(&self, modules: &[Module]) -> Option<&str> {
        let Self::Names(names) = self else { return None };
        let is_known = |name: &&String| modules.iter().any(|module| ends_with(&module.key, name));
        names.iter().find(|name| !is_known(name)).map(String::as_str)
    }
}

/// Numbers for some modules: `rank_pattern`, `alpha_pattern`. The first pattern that matches counts.
#[derive(Debug, Default)]
pub(super) struct Numbers(Vec<(Pattern, f64)>);

impl Numbers {
    /// Reads the value of a key.
    ///
    /// # Errors
    /// What was expected.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let map = match value {
            Value::Null => return Ok(Self::default()),
            Value::Object(map) if map.len() <= PATTERNS_MAX => map,
            _ => return Err(format!("expected a map of at most {PATTERNS_MAX} numbers")),
        };
        let number = |(key, value): (&String, &Value)| {
            let number = value.as_f64().filter(|number| number.is_finite());
            let number = number.ok_or_else(|| format!("expected a number for {key:?}, got {value}"))?;
            Ok((Pattern::of_end(key)?, number))
        };
        map.iter().map(number).collect::<Result<_, String>>().map(Self)
    }

    /// The number for `module`.
    pub(super) fn of(&self, module: &Module) -> Result<Option<f64>, String> {
        for (pattern, number) in &self.0 {
            if pattern.matches(&module.key)? {
                return Ok(Some(*number));
            }
        }
        Ok(None)
    }
}

/// `layers_to_transform`: one layer or several; none where it is null.
///
/// # Errors
/// What was expected.
pub(super) fn layers(value: &Value) -> Result<Option<BTreeSet<usize>>, String> {
    let one = |value: &Value| {
        let layer = value.as_u64().and_then(|layer| usize::try_from(layer).ok());
        layer.ok_or_else(|| format!("expected numbers of layers, got {value}"))
    };
    match value {
        Value::Null => Ok(None),
        Value::Array(list) if list.is_empty() => Ok(None),
        Value::Array(list) => list.iter().map(one).collect::<Result<_, _>>().map(Some),
        value => Ok(Some(BTreeSet::from([one(value)?]))),
    }
}

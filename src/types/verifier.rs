//! How a prompt's answers are checked: the `verifier` field of a prompt file's line, as data.
//!
//! This file only defines the format; `verify` implements the checks. Unknown kinds, unknown arguments and arguments of
//! the wrong type are refused when the line is parsed.

use serde::{Deserialize, Serialize};

/// The checker of a prompt and its arguments; a prompt that names none and has an answer is checked as a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Verifier {
    /// The text gives the prompt's answer, a number or a simple expression.
    Number {},
    /// The text equals the answer exactly, apart from surrounding white space.
    Exact {
        /// Other correct answers.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        accept: Vec<String>,
    },
    /// The text gives the answer, ignoring case, articles, punctuation and white space.
    Text {
        /// Other correct answers.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        accept: Vec<String>,
    },
    /// The text chooses the option whose letter is the prompt's answer.
    Choice {
        /// The options' texts: A, B, C and so on.
        options: Vec<String>,
    },
    /// The text follows instructions that a program can check.
    Ifeval {
        /// At least one.
        instructions: Vec<Instruction>,
        /// Judge as the instructions say, without the oddities of the published checker.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        repaired: bool,
    },
    /// The text contains a Python function that passes tests.
    Code {
        /// The function's name.
        entry_point: String,
        /// Python that defines `check(candidate)`, which raises if the function is wrong.
        test: String,
        /// Code before a completion that does not define the function itself: imports, signature, docstring.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        preamble: String,
    },
    /// A program of the user's scores the text: a line of JSON in, `{"id", "task", "prompt", "answer", "text"}`, one out,
    /// `{"score"}`.
    Command {
        /// The program and its arguments.
        argv: Vec<String>,
        /// Time for one text.
        #[serde(default = "timeout_seconds")]
        timeout_seconds: u64,
    },
    /// A server of the user's scores the text: the same as the body of a request and of its response.
    Http {
        /// Its address.
        url: String,
        /// Time for one text.
        #[serde(default = "timeout_seconds")]
        timeout_seconds: u64,
    },
}

/// Time for one text of a verifier that is not ours, in seconds.
fn timeout_seconds() -> u64 {
    10
}

/// The relation between a count and its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    /// Not fewer.
    #[serde(rename = "at least")]
    AtLeast,
    /// Fewer.
    #[serde(rename = "less than")]
    LessThan,
}

impl Relation {
    /// Whether the relation holds between `count` and `bound`.
    pub fn holds(self, count: usize, bound: usize) -> bool {
        match self {
            Self::AtLeast => count >= bound,
            Self::LessThan => count < bound,
        }
    }
}

/// One of the 25 verifiable instructions of IFEval (arXiv 2311.07911), by its id and its arguments' names there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "id", deny_unknown_fields)]
#[allow(missing_docs, reason = "the ids and arguments are IFEval's own words")]
pub enum Instruction {
    #[serde(rename = "keywords:existence")]
    Existence { keywords: Vec<String> },
    #[serde(rename = "keywords:frequency")]
    Frequency { keyword: String, frequency: usize, relation: Relation },
    #[serde(rename = "keywords:forbidden_words")]
    ForbiddenWords { forbidden_words: Vec<String> },
    #[serde(rename = "keywords:letter_frequency")]
    LetterFrequency { letter: char, let_frequency: usize, let_relation: Relation },
    #[serde(rename = "language:response_language")]
    ResponseLanguage { language: String },
    #[serde(rename = "length_constraints:number_sentences")]
    NumberSentences { num_sentences: usize, relation: Relation },
    #[serde(rename = "length_constraints:number_paragraphs")]
    NumberParagraphs { num_paragraphs: usize },
    #[serde(rename = "length_constraints:number_words")]
    NumberWords { num_words: usize, relation: Relation },
    #[serde(rename = "length_constraints:nth_paragraph_first_word")]
    NthParagraphFirstWord { num_paragraphs: usize, nth_paragraph: usize, first_word: String },
    #[serde(rename = "detectable_content:number_placeholders")]
    NumberPlaceholders { num_placeholders: usize },
    #[serde(rename = "detectable_content:postscript")]
    Postscript { postscript_marker: String },
    #[serde(rename = "detectable_format:number_bullet_lists")]
    NumberBulletLists { num_bullets: usize },
    #[serde(rename = "detectable_format:constrained_response")]
    ConstrainedResponse {},
    #[serde(rename = "detectable_format:number_highlighted_sections")]
    NumberHighlightedSections { num_highlights: usize },
    #[serde(rename = "detectable_format:multiple_sections")]
    MultipleSections { section_spliter: String, num_sections: usize },
    #[serde(rename = "detectable_format:json_format")]
    JsonFormat {},
    #[serde(rename = "detectable_format:title")]
    Title {},
    #[serde(rename = "combination:two_responses")]
    TwoResponses {},
    #[serde(rename = "combination:repeat_prompt")]
    RepeatPrompt { prompt_to_repeat: String },
    #[serde(rename = "startend:end_checker")]
    EndChecker { end_phrase: String },
    #[serde(rename = "startend:quotation")]
    Quotation {},
    #[serde(rename = "change_case:capital_word_frequency")]
    CapitalWordFrequency { capital_frequency: usize, capital_relation: Relation },
    #[serde(rename = "change_case:english_capital")]
    EnglishCapital {},
    #[serde(rename = "change_case:english_lowercase")]
    EnglishLowercase {},
    #[serde(rename = "punctuation:no_comma")]
    NoComma {},
}

impl Instruction {
    /// Its id, such as `punctuation:no_comma`.
    pub fn id(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        value["id"].as_str().unwrap_or_default().to_owned()
    }
}

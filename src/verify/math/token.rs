//! Tokens of a formula, in LaTeX or plain.

use super::super::marker::braced;
use super::numeral::{Comma, numeral};
use super::prose::is_cjk;
use num_rational::BigRational;

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A number with its digits as written.
    Number(BigRational, String),
    /// A variable or constant.
    Name(String),
    /// A run of letters.
    Word(String),
    /// Words in `\text{}` and its like.
    Text(String),
    /// A command with arguments, or a function: `frac`, `sqrt`, `sin`.
    Command(String),
    /// One of the signs, some of which stand for a command.
    Sign(char),
}

/// A token and whether white space stands before it.
#[derive(Clone, Debug)]
pub(super) struct Spaced {
    pub token: Token,
    pub spaced: bool,
}

/// Maximum tokens of a formula.
const TOKENS_MAX: usize = 2_000;

/// Commands that stand for a sign.
const SIGNS: [(&str, char); 38] = [
    ("le", '≤'),
    ("leq", '≤'),
    ("leqslant", '≤'),
    ("ge", '≥'),
    ("geq", '≥'),
    ("geqslant", '≥'),
    ("ne", '≠'),
    ("neq", '≠'),
    ("lt", '<'),
    ("gt", '>'),
    ("approx", '≈'),
    ("simeq", '≈'),
    ("sim", '≈'),
    ("equiv", '='),
    ("pm", '±'),
    ("times", '*'),
    ("cdot", '*'),
    ("ast", '*'),
    ("div", '/'),
    ("cup", '∪'),
    ("cap", '∩'),
    ("setminus", '∖'),
    ("in", '∈'),
    ("mid", '|'),
    ("vert", '|'),
    ("lvert", '|'),
    ("rvert", '|'),
    ("langle", '('),
    ("rangle", ')'),
    ("lbrace", '⦃'),
    ("rbrace", '⦄'),
    ("lbrack", '['),
    ("rbrack", ']'),
    ("colon", ':'),
    ("lfloor", '⌊'),
    ("rfloor", '⌋'),
    ("lceil", '⌈'),
    ("rceil", '⌉'),
];

/// Commands whose argument is words, or a symbol in another face.
const FACES: [&str; 16] = [
    "text",
    "textbf",
    "textit",
    "textrm",
    "textsf",
    "texttt",
    "mathrm",
    "mathbf",
    "mathit",
    "mathsf",
    "mathbb",
    "mathcal",
    "mbox",
    "hbox",
    "operatorname",
    "boldsymbol",
];

/// Commands that only lay out, or group.
const LAYOUT: [&str; 22] = [
    "left",
    "right",
    "big",
    "Big",
    "bigg",
    "Bigg",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "displaystyle",
    "textstyle",
    "limits",
    "mathstrut",
    "quad",
    "qquad",
    "hspace",
    "underline",
    "bf",
    "rm",
    "it",
    "bm",
];

/// Functions and commands with arguments.
const COMMANDS: [&str; 27] = [
    "frac", "sqrt", "binom", "over", "choose", "overline", "log", "ln", "lg", "exp", "sin", "cos", "tan", "cot", "sec",
    "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "min", "max", "gcd", "lcm", "det",
];

/// The tokens of `text`, in which a comma stands for `comma`; `None` if there are too many, or a sign that no formula has.
pub(super) fn tokens(text: &str, comma: Comma) -> Option<Vec<Spaced>> {
    let mut lexer = Lexer { rest: text, comma, brackets: 0, found: Vec::new(), spaced: false, depth: 0 };
    lexer.all()?;
    Some(lexer.found)
}

struct Lexer<'a> {
    rest: &'a str,
    comma: Comma,
    brackets: usize,
    found: Vec<Spaced>,
    spaced: bool,
    /// Faces within faces.
    depth: usize,
}

impl Lexer<'_> {
    fn all(&mut self) -> Option<()> {
        while let Some(first) = self.rest.chars().next() {
            if self.found.len() >= TOKENS_MAX {
                return None;
            }
            if first.is_whitespace() || "$€£¥₹".contains(first) {
                self.spaced |= first.is_whitespace();
                self.rest = &self.rest[first.len_utf8()..];
            } else {
                self.one(first)?;
            }
        }
        Some(())
    }

    fn one(&mut self, first: char) -> Option<()> {
        let comma = if self.brackets > 0 { Comma::Lists } else { self.comma };
        // `\log_2 128` has two numbers, which a space parts.
        let is_script = self.found.last().is_some_and(|last| matches!(last.token, Token::Sign('_' | '^')));
        let script = self.rest.split(char::is_whitespace).next().filter(|_| is_script).unwrap_or(self.rest);
        if let Some((value, length)) = numeral(script, comma) {
            let (written, rest) = self.rest.split_at(length);
            self.rest = rest;
            self.push(Token::Number(value, written.to_owned()));
        } else if first.is_alphabetic() {
            self.word();
        } else if first == '\\' {
            self.command()?;
        } else {
            self.rest = &self.rest[first.len_utf8()..];
            self.sign(first)?;
        }
        Some(())
    }

    fn push(&mut self, token: Token) {
        self.found.push(Spaced { token, spaced: std::mem::take(&mut self.spaced) });
    }

    fn word(&mut self) {
        let end = self.rest.find(|c: char| !c.is_alphabetic()).unwrap_or(self.rest.len());
        // The primes of `f'`.
        let primes = self.rest[end..].find(|c| c != '\'').unwrap_or(self.rest.len() - end);
        let is_word = self.rest[end + primes..].starts_with(char::is_alphabetic);
        let end = if end == 1 && !is_word { end + primes } else { end };
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        let single = word.trim_end_matches('\'').chars().count() == 1;
        self.push(match word {
            _ if word.contains(is_cjk) => Token::Text(word.to_owned()),
            _ if single => Token::Name(word.to_owned()),
            "pi" => Token::Name("π".to_owned()),
            "inf" | "infinity" | "oo" => Token::Name("∞".to_owned()),
            "sqrt" | "log" | "ln" | "exp" | "sin" | "cos" | "tan" => Token::Command(word.to_owned()),
            "gcd" | "lcm" | "max" | "min" if rest.starts_with('(') => Token::Command(word.to_owned()),
            _ => Token::Word(word.to_owned()),
        });
    }

    fn sign(&mut self, sign: char) -> Option<()> {
        match sign {
            '(' | '[' | '⦃' => self.brackets += 1,
            ')' | ']' | '⦄' => self.brackets = self.brackets.saturating_sub(1),
            '*' if self.rest.starts_with('*') => {
                self.rest = &self.rest[1..];
                self.push(Token::Sign('^'));
                return Some(());
            }
            '<' | '>' if self.rest.starts_with('=') => {
                self.rest = &self.rest[1..];
                self.push(Token::Sign(if sign == '<' { '≤' } else { '≥' }));
                return Some(());
            }
            '+' | '-' | '*' | '/' | '^' | '_' | '=' | '<' | '>' | '{' | '}' | '|' | ',' | ';' | ':' | '!' | '%'
            | '&' | '±' | '≈' | '∪' | '∩' | '∖' | '∈' | '≤' | '≥' | '≠' | '\n' => {}
            _ => return None,
        }
        self.push(Token::Sign(sign));
        Some(())
    }

    /// A command of one sign: `\{`, `\%`, a line's end.
    fn signed_command(&mut self) -> Option<()> {
        let behind = &self.rest[1..];
        let sign = behind.chars().next()?;
        self.rest = &behind[sign.len_utf8()..];
        match sign {
            '{' => self.sign('⦃'),
            '}' => self.sign('⦄'),
            '|' => self.sign('|'),
            '\\' => {
                // `\\[2mm]` sets the lines apart.
                let apart = self.rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
                if let Some((_, rest)) = apart.filter(|(length, _)| length.ends_with(['m', 'x', 't'])) {
                    self.rest = rest;
                }
                self.push(Token::Sign('\n'));
                Some(())
            }
            '#' | '_' | '&' => None,
            _ => {
                self.spaced = true;
                Some(())
            }
        }
    }

    fn command(&mut self) -> Option<()> {
        let behind = &self.rest[1..];
        let length = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        if length == 0 {
            return self.signed_command();
        }
        let (name, rest) = behind.split_at(length);
        self.rest = rest;
        let name = match name {
            "dfrac" | "tfrac" | "cfrac" => "frac",
            "dbinom" | "tbinom" => "binom",
            "bar" | "dot" => "overline",
            name => name,
        };
        if let Some((_, sign)) = SIGNS.iter().find(|(known, _)| *known == name) {
            if "()[]⦃⦄".contains(*sign) {
                return self.sign(*sign);
            }
            self.push(Token::Sign(*sign));
            return Some(());
        }
        if matches!(name, "color" | "textcolor" | "pmod") {
            // The colour, or the modulus of a congruence, is no part of the value.
            self.rest = braced(self.rest.trim_start())?.1;
            return Some(());
        }
        if FACES.contains(&name) {
            return self.face();
        }
        if LAYOUT.contains(&name) {
            // `\left.` is no bracket.
            if matches!(name, "left" | "right") {
                self.rest = self.rest.strip_prefix('.').unwrap_or(self.rest);
            }
            self.spaced |= name.contains("quad");
            return Some(());
        }
        if name == "begin" || name == "end" {
            let (inside, rest) = braced(self.rest.trim_start())?;
            self.rest = rest;
            self.push(Token::Command(format!("{name} {}", inside.trim_end_matches('*'))));
            // The columns of an array.
            if inside == "array" && self.rest.starts_with('{') {
                self.rest = braced(self.rest)?.1;
            }
            return Some(());
        }
        self.push(match name {
            "pi" => Token::Name("π".to_owned()),
            "infty" => Token::Name("∞".to_owned()),
            "circ" => Token::Name("°".to_owned()),
            name if COMMANDS.contains(&name) => Token::Command(name.to_owned()),
            name => Token::Name(name.to_owned()),
        });
        Some(())
    }

    /// The argument of a face: a formula where it begins as one, a name where it is one letter, else words.
    fn face(&mut self) -> Option<()> {
        let from = self.rest.trim_start();
        let Some((inside, rest)) = braced(from) else { return Some(()) };
        let bare = inside.trim();
        // `(B)` and `(five)` are no formulas.
        let words = bare.strip_prefix('(').is_some_and(|rest| rest.starts_with(char::is_alphabetic));
        let formula = bare.starts_with(|c: char| c.is_ascii_digit() || "-\\(".contains(c)) && !words;
        let mut letters = bare.chars();
        if letters.next().is_some_and(char::is_alphabetic) && letters.next().is_none() && inside == bare {
            self.rest = rest;
            self.push(Token::Name(bare.to_owned()));
        } else if formula && self.depth < 4 {
            self.depth += 1;
            self.rest = inside;
            self.all()?;
            self.depth -= 1;
            self.rest = rest;
        } else if matches!(bare, "gcd" | "lcm" | "max" | "min" | "sin" | "cos" | "tan" | "arcsin" | "arccos" | "arctan")
            && rest.trim_start().starts_with(['(', '\\', '{'])
        {
            self.rest = rest;
            self.push(Token::Command(bare.to_owned()));
        } else {
            self.rest = rest;
            if !bare.is_empty() {
                self.push(Token::Text(bare.to_owned()));
            }
        }
        Some(())
    }
}

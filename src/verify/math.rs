//! Answers to mathematical tasks: the number that a text arrives at, however it is written.
//!
//! A text's answer is its last `\boxed{...}`, else what follows its last `####`, else the formula `$...$` or the number at
//! its end. LaTeX is parsed as far as numbers need it (`\frac`, `\%`, `{,}`, `\text`). A box or formula may contain an
//! expression of `+ - * / ^` and brackets, or an equation, whose right side counts; it is computed exactly, in fractions.
//! `50%` equals 50 and also 0.5, in either direction. Units are ignored.

use super::number::Number;

/// The answer of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MathAnswer {
    number: Number,
    percent: bool,
}

/// Maximum nesting of brackets in an expression.
const DEPTH_MAX: usize = 16;

impl MathAnswer {
    /// The answer of `text`.
    pub(super) fn of(text: &str) -> Option<Self> {
        let place =
            boxed(text).or_else(|| text.rsplit_once("####").map(|(_, rest)| rest.lines().next().unwrap_or(rest)));
        match place {
            Some(place) => Self::alone(place).or_else(|| Self::last(&plain(place))),
            None => in_dollars(text).and_then(Self::alone).or_else(|| Self::last(&plain(text))),
        }
    }

    /// A prompt's own answer: an expression, or a text with exactly one number.
    pub(super) fn expected(text: &str) -> Option<Self> {
        let place = boxed(text).unwrap_or(text);
        let plain = plain(place);
        Self::alone(place).or_else(|| Number::only_in(&plain).and_then(|_| Self::last(&plain)))
    }

    /// Whether both are equal, with percent as a share too.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        let share = |percent: &Self, plain: &Self| percent.number.hundredth().as_ref() == Some(&plain.number);
        self.number == other.number
            || self.percent && !other.percent && share(self, other)
            || other.percent && !self.percent && share(other, self)
    }

    /// The value of a text that is one expression, optionally followed by a unit or percent sign.
    fn alone(text: &str) -> Option<Self> {
        let plain = plain(text);
        let right = plain.rsplit('=').next()?.trim().trim_matches('$').trim_end_matches('.').trim();
        let digits_end = right.rfind(|c: char| c.is_ascii_digit() || c == ')')? + 1;
        let (expression, unit) = right.split_at(digits_end);
        let unit = unit.trim();
        let is_unit = unit.chars().all(|c| c.is_alphabetic() || " %/\u{b0}\u{b2}\u{b3}".contains(c));
        let (over, under) = Expression::value(expression.trim().trim_start_matches('$')).filter(|_| is_unit)?;
        Some(Self { number: Number::ratio(over, under)?, percent: is_percent(unit) })
    }

    fn last(plain: &str) -> Option<Self> {
        let (number, rest) = Number::last_with_rest(plain)?;
        Some(Self { number, percent: is_percent(rest.trim_start()) })
    }
}

fn is_percent(rest: &str) -> bool {
    rest.starts_with('%') || rest.starts_with("percent") || rest.starts_with("per cent")
}

/// The content of the last `\boxed{...}` with matching brackets; `None` if it is never closed.
fn boxed(text: &str) -> Option<&str> {
    let from = text.rfind("\\boxed{")? + "\\boxed{".len();
    braced(&text[from - 1..]).map(|(inside, _)| inside)
}

/// The last formula between dollar signs, if no digit follows it.
fn in_dollars(text: &str) -> Option<&str> {
    let end = text.rfind('$').filter(|end| !text[*end..].contains(|c: char| c.is_ascii_digit()))?;
    let start = text[..end].rfind('$')? + 1;
    Some(&text[start..end])
}

/// The content of the braces that `text` begins with, and the rest.
fn braced(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return (at > 0).then(|| (&text[1..at], &text[at + 1..]));
        }
    }
    None
}

/// `text` with LaTeX notation for numbers replaced by plain notation.
fn plain(text: &str) -> String {
    const SAME: [(&str, &str); 26] = [
        ("\u{2212}", "-"),
        ("\u{d7}", "*"),
        ("\u{f7}", "/"),
        ("{,}", ","),
        ("\\,", ""),
        ("\\!", ""),
        ("\\;", " "),
        ("\\ ", " "),
        ("\\%", "%"),
        ("\\$", "$"),
        ("\\cdot", "*"),
        ("\\times", "*"),
        ("\\div", "/"),
        ("\\left", ""),
        ("\\right", ""),
        ("\\dfrac", "\\frac"),
        ("\\tfrac", "\\frac"),
        ("^{\\circ}", ""),
        ("^\\circ", ""),
        ("\\textbf{", "\\text{"),
        ("\\mathrm{", "\\text{"),
        ("\\mbox{", "\\text{"),
        ("\\(", " "),
        ("\\)", " "),
        ("\\[", " "),
        ("\\]", " "),
    ];
    if !text.contains(['\\', '{']) && text.is_ascii() {
        return text.to_owned();
    }
    let text = SAME.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find("\\frac").into_iter().chain(rest.find("\\text{")).min() {
        out += &rest[..at];
        let word = &rest[at + "\\frac".len()..];
        let (written, after) = match rest[at..].starts_with("\\frac") {
            true => fraction(&mut out, word).unwrap_or_else(|| (String::new(), word)),
            false => braced(word).map_or((String::new(), word), |(inside, after)| (format!(" {inside} "), after)),
        };
        out += &written;
        rest = after;
    }
    out + rest
}

/// The arguments of `\frac` as a plain fraction, and the rest. Digits right before it make a mixed number (`1\frac12` is 3/2).
fn fraction<'a>(before: &mut String, text: &'a str) -> Option<(String, &'a str)> {
    let part = |text: &'a str| match text.chars().next()? {
        '{' => braced(text),
        c if c.is_ascii_digit() => Some(text.split_at(1)),
        _ => None,
    };
    let (over, rest) = part(text)?;
    let (under, rest) = part(rest)?;
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(over) || !all_digits(under) {
        return Some((format!("({over})/({under})"), rest));
    }
    let whole_from = before.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    let mixed = || -> Option<i128> {
        let (whole, over, under): (i128, i128, i128) =
            (before[whole_from..].parse().ok()?, over.parse().ok()?, under.parse().ok()?);
        whole.checked_mul(under)?.checked_add(over)
    };
    match mixed() {
        Some(sum) => {
            before.truncate(whole_from);
            Some((format!("{sum}/{under}"), rest))
        }
        None => Some((format!("{over}/{under}"), rest)),
    }
}

/// A parser of expressions in ASCII.
struct Expression<'a> {
    rest: &'a str,
    depth: usize,
}

/// Numerator and denominator.
type Ratio = (i128, i128);

impl<'a> Expression<'a> {
    /// The value of a text that is entirely one expression.
    fn value(text: &'a str) -> Option<Ratio> {
        let mut expression = Self { rest: text, depth: 0 };
        let value = expression.sum()?;
        expression.rest.trim().is_empty().then_some(value)
    }

    /// Consumes one of `signs` after optional white space.
    fn take(&mut self, signs: &str) -> Option<char> {
        let rest = self.rest.trim_start();
        let sign = rest.chars().next().filter(|c| signs.contains(*c))?;
        self.rest = &rest[sign.len_utf8()..];
        Some(sign)
    }

    fn sum(&mut self) -> Option<Ratio> {
        let mut sum = self.product()?;
        while let Some(sign) = self.take("+-") {
            let (over, under) = self.product()?;
            let over = if sign == '-' { over.checked_neg()? } else { over };
            let (left, right) = (sum.0.checked_mul(under)?, over.checked_mul(sum.1)?);
            sum = lowest(left.checked_add(right)?, sum.1.checked_mul(under)?)?;
        }
        Some(sum)
    }

    fn product(&mut self) -> Option<Ratio> {
        let mut product = self.power()?;
        while let Some(sign) = self.take("*/") {
            let (over, under) = self.power()?;
            let (over, under) = if sign == '/' { (under, over) } else { (over, under) };
            product = lowest(product.0.checked_mul(over)?, product.1.checked_mul(under)?)?;
        }
        Some(product)
    }

    fn power(&mut self) -> Option<Ratio> {
        if self.take("-").is_some() {
            self.depth += 1;
            let (over, under) = if self.depth > DEPTH_MAX { None } else { self.power() }?;
            self.depth -= 1;
            return Some((over.checked_neg()?, under));
        }
        let base = self.atom()?;
        if self.take("^").is_none() {
            return Some(base);
        }
        let braced = self.take("{").is_some();
        let (exponent, one) = self.number()?;
        let closed = !braced || self.take("}").is_some();
        let exponent = u32::try_from(exponent).ok().filter(|_| one == 1 && closed)?;
        Some((base.0.checked_pow(exponent)?, base.1.checked_pow(exponent)?))
    }

    fn atom(&mut self) -> Option<Ratio> {
        if self.take("(").is_none() {
            return self.number();
        }
        self.depth += 1;
        let inside = if self.depth > DEPTH_MAX { None } else { self.sum() }?;
        self.depth -= 1;
        self.take(")").map(|_| inside)
    }

    /// Digits, optionally in groups of three, and an optional decimal part.
    fn number(&mut self) -> Option<Ratio> {
        let text = self.rest.trim_start();
        let end = text.find(|c: char| !(c.is_ascii_digit() || ",.".contains(c))).unwrap_or(text.len());
        let (written, rest) = text.split_at(end);
        let (whole, part) = written.split_once('.').unwrap_or((written, ""));
        let groups: Vec<&str> = whole.split(',').collect();
        let grouped =
            groups.len() == 1 || (1..=3).contains(&groups[0].len()) && groups[1..].iter().all(|group| group.len() == 3);
        let digits = groups.concat() + part;
        if digits.is_empty() || !grouped || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        self.rest = rest;
        lowest(digits.parse().ok()?, 10i128.checked_pow(part.len() as u32)?)
    }
}

/// In lowest terms with a positive denominator; `None` if the denominator is 0.
fn lowest(over: i128, under: i128) -> Option<Ratio> {
    let divisor =
        std::iter::successors(Some((over.checked_abs()?, under.checked_abs()?)), |&(a, b)| (b > 0).then(|| (b, a % b)));
    let divisor = divisor.last()?.0;
    let sign = if under < 0 { -1 } else { 1 };
    (under != 0).then(|| (sign * over / divisor, sign * under / divisor))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn right(text: &str, expected: &str) -> bool {
        let expected = MathAnswer::expected(expected).unwrap_or_else(|| panic!("no answer in {expected:?}"));
        MathAnswer::of(text).is_some_and(|given| given.agrees(&expected))
    }

    #[test]
    fn answers_are_found_however_they_are_set_down() {
        for (text, expected) in [
            (r"So $x = \boxed{42}$ as the 3 cases show.", "42"),
            (r"\boxed{1} and then \boxed{\frac{3}{4}}", "0.75"),
            (r"\boxed{-\dfrac{1}{3}}", "-1/3"),
            (r"It is $1\frac{1}{2}$ cups", "1.5"),
            (r"\boxed{2\frac12}", "5/2"),
            (r"\boxed{\frac{2+4}{3}}", "2"),
            (r"\boxed{12{,}345}", "12345"),
            (r"\boxed{x = 3^2 + 1}", "10"),
            (r"\boxed{2 \cdot (3 - 5)}", "-4"),
            (r"\boxed{45^\circ}", "45"),
            (r"\boxed{15 \text{ cm}}", "15"),
            (r"\boxed{12\%}", "12%"),
            ("That makes 50%.", "0.5"),
            ("a share of 0.5", "50%"),
            ("fifty, that is 50 percent", "1/2"),
            ("50%", "50"),
            ("First 10, then 20.\n#### 1,234", "1234"),
            ("#### -5 apples\nbye 7", "-5"),
            ("The answer is **85**!", "85"),
            (r"\boxed{\text{about } 7}", "7"),
            (r"\boxed{7", "7"),
            ("1/3 of it", "2/6"),
            (r"\(\frac{10}{4}\)", "2.5"),
            ("3 \u{d7} 4 = 12", "12"),
            ("7", r"\boxed{7}"),
            ("2", "6/3"),
            ("7", "3 + 4"),
        ] {
            assert!(right(text, expected), "{text:?} is {:?}, expected {expected}", MathAnswer::of(text));
        }
        for (text, expected) in [
            (r"\boxed{41}", "42"),
            ("50%", "5"),
            ("50%", "5000"),
            (r"the 42 is \boxed{none}", "42"),
            (r"\boxed{1/0}", "1"),
            (r"\boxed{3, 4}", "3"),
            ("no number", "1"),
            ("", "0"),
            ("0.333", "1/3"),
        ] {
            assert!(!right(text, expected), "{text:?} is {:?}, not {expected}", MathAnswer::of(text));
        }
        for none in ["", "seven", "3 or 4", "1, 2"] {
            assert_eq!(MathAnswer::expected(none), None, "{none:?}");
        }
    }

    #[test]
    fn answers_are_right_where_math_verify_says_so() {
        #[derive(serde::Deserialize)]
        struct Line {
            answer: String,
            text: String,
            right: bool,
        }
        let golden = include_str!("../../tests/golden/math_answers.jsonl");
        let lines: Vec<Line> = golden.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 600);
        let differs = |line: &&Line| right(&line.text, &line.answer) != line.right;
        let differing: Vec<_> =
            lines.iter().filter(differs).map(|line| (&line.answer, &line.text, line.right)).collect();
        assert!(differing.is_empty(), "{} differ: {differing:#?}", differing.len());
    }

    #[test]
    fn deep_or_huge_expressions_are_no_answer_and_no_panic() {
        let deep = format!("\\boxed{{{}1{}}}", "(".repeat(10_000), ")".repeat(10_000));
        assert!(MathAnswer::of(&deep).is_some(), "its last number is left");
        for text in [format!("\\boxed{{{}1}}", "-".repeat(10_000)), r"\boxed{9^9^9}".into(), r"\boxed{99^99}".into()] {
            let _ = MathAnswer::of(&text);
        }
        assert!(MathAnswer::of(&"\\frac".repeat(5_000)).is_none());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in r"(\\boxed\{|\\frac|[{}0-9.,/+*^()%= -]|####){0,40}|\PC{0,60}") {
            let _ = MathAnswer::of(&text);
            let _ = MathAnswer::expected(&text);
        }

        #[test]
        fn a_sum_in_a_box_is_its_value(a in -999i64..999, b in 1i64..999, c in 1i64..99) {
            let text = format!(r"\boxed{{({a} + {b}) * {c} / {b}}}");
            let value = format!("{}/{}", ((a + b) * c).abs(), b);
            let sign = if a + b < 0 { "-" } else { "" };
            let expected = format!("{}{}", sign, value);
            prop_assert!(right(&text, &expected), "{}", text);
        }
    }
}

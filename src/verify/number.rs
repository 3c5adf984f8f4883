//! Numbers in prose: finds them and compares them exactly, without floating point.
//!
//! Recognised are digits with or without groups of three (`1,234`), decimals (`2.50`, `.5`), powers of ten (`1.5e3`), simple
//! fractions (`3/4`), and a minus (`-` or U+2212) right before the number or its currency sign, unless it follows a letter, a
//! digit or a closing bracket (`7-5` is 7 and 5). Currency, percent signs and units are ignored: `50%` is 50. Digits after a
//! letter (`x2`) and number words (`seven`) are not numbers.
//!
//! The last number of a text is its answer. That is wrong for "7, which is 3 + 4", so prompts should ask for the number
//! alone. More than 400 digits are not a number, which bounds the time.

use std::num::NonZeroU64;

/// An exact number; equal values compare equal however they were written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Number(Value);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Value {
    /// `digits` times ten to the `exponent`, without leading or trailing zeros; zero has no digits.
    Decimal { negative: bool, digits: String, exponent: i64 },
    /// A fraction in lowest terms that has no finite decimal.
    Fraction { negative: bool, over: u64, under: u64 },
}

/// Maximum digits and maximum power of ten of a number.
const DIGITS_MAX: usize = 400;

/// Maximum digits of a numerator or denominator; with more, a slash separates two numbers.
const FRACTION_DIGITS_MAX: usize = 9;

impl Number {
    /// The last number in `text`.
    #[cfg(test)]
    fn last_in(text: &str) -> Option<Self> {
        Self::last_with_rest(text).map(|(number, _)| number)
    }

    /// The last number in `text` and the text after it.
    pub(super) fn last_with_rest(text: &str) -> Option<(Self, &str)> {
        let (number, end) = all_in(text).into_iter().next_back()?;
        // A number ends after an ASCII digit, so this is a character boundary.
        Some((number, text.get(end..).unwrap_or_default()))
    }

    /// The number in `text`, if there is exactly one.
    pub fn only_in(text: &str) -> Option<Self> {
        let mut found = all_in(text);
        if found.len() == 1 { found.pop().map(|(number, _)| number) } else { None }
    }

    /// `over` / `under`; `None` if the result is too long for a number.
    pub(super) fn ratio(over: i128, under: i128) -> Option<Self> {
        let (negative, over, under) = ((over < 0) != (under < 0), over.unsigned_abs(), under.unsigned_abs());
        let divisor = std::iter::successors(Some((over, under)), |&(a, b)| (b > 0).then(|| (b, a % b))).last()?.0;
        let (over, under) = (over.checked_div(divisor)?, under.checked_div(divisor)?);
        if under == 1 {
            return Some(Self::decimal(negative, &over.to_string(), "", 0));
        }
        let small = 10u128.pow(FRACTION_DIGITS_MAX as u32);
        if over < small && under < small {
            return Some(Self::fraction(negative, over as u64, NonZeroU64::new(under as u64)?));
        }
        // A longer decimal: its denominator divides a power of ten.
        (1..=27).map(|places| (places, 10u128.pow(places))).find(|(_, ten)| ten.is_multiple_of(under)).and_then(
            |(places, ten)| {
                Some(Self::decimal(negative, &over.checked_mul(ten / under)?.to_string(), "", -i64::from(places)))
            },
        )
    }

    /// A hundredth of it; `None` if the result is too long for a number.
    pub(super) fn hundredth(&self) -> Option<Self> {
        Some(Self(match &self.0 {
            Value::Decimal { digits, .. } if digits.is_empty() => self.0.clone(),
            Value::Decimal { negative, digits, exponent } => {
                Value::Decimal { negative: *negative, digits: digits.clone(), exponent: exponent - 2 }
            }
            Value::Fraction { negative, over, under } => {
                let over = i128::from(*over);
                return Self::ratio(if *negative { -over } else { over }, i128::from(*under) * 100);
            }
        }))
    }

    fn decimal(negative: bool, whole: &str, part: &str, power: i64) -> Self {
        let all = format!("{whole}{part}");
        let kept = all.trim_end_matches('0');
        let exponent = power - part.len() as i64 + (all.len() - kept.len()) as i64;
        let digits = kept.trim_start_matches('0').to_owned();
        if digits.is_empty() {
            return Self(Value::Decimal { negative: false, digits, exponent: 0 });
        }
        Self(Value::Decimal { negative, digits, exponent })
    }

    /// A fraction of parts with at most [`FRACTION_DIGITS_MAX`] digits.
    fn fraction(negative: bool, over: u64, under: NonZeroU64) -> Self {
        let divisor = greatest_common_divisor(over, under.get());
        let (over, under) = (over / divisor, under.get() / divisor);
        let (mut rest, mut twos, mut fives) = (under, 0, 0);
        while rest.is_multiple_of(2) {
            (rest, twos) = (rest / 2, twos + 1);
        }
        while rest.is_multiple_of(5) {
            (rest, fives) = (rest / 5, fives + 1);
        }
        if rest > 1 {
            return Self(Value::Fraction { negative, over, under });
        }
        // A denominator of twos and fives divides a power of ten: the fraction is a decimal. Nine digits make
        // at most 29 twos, so the product stays below 10^9 * 5^29 < 2^128.
        let places: u32 = std::cmp::max(twos, fives);
        let digits = u128::from(over) * 2u128.pow(places - twos) * 5u128.pow(places - fives);
        Self::decimal(negative, &digits.to_string(), "", -i64::from(places))
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// All numbers with their end positions, in bytes.
fn all_in(text: &str) -> Vec<(Number, usize)> {
    let mut scanner = NumberScanner { text: text.as_bytes(), at: 0 };
    let mut found = Vec::new();
    while scanner.at < text.len() {
        let from = scanner.at;
        found.extend(scanner.number().map(|number| (number, scanner.at)));
        if scanner.at == from {
            scanner.at += 1;
        }
    }
    found
}

/// Scans a text by bytes: numbers are ASCII, and the few other signs are compared as whole byte sequences.
struct NumberScanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl NumberScanner<'_> {
    /// Consumes and returns the number here. Also consumes what looks like a number and is not.
    fn number(&mut self) -> Option<Number> {
        let here = self.text.get(self.at)?;
        let point = *here == b'.' && self.is_digit(self.at + 1) && !self.follows_a_word(self.at);
        if !here.is_ascii_digit() && !point {
            return None;
        }
        let negative = self.is_negative(self.at);
        let glued = here.is_ascii_digit() && self.follows_a_letter(self.at);
        let whole = self.whole();
        let part = self.part();
        let number = if let Some(under) = self.under(&whole, &part) {
            Some(Number::fraction(negative, whole.parse().unwrap_or_default(), under))
        } else {
            let power = self.power();
            let fits = whole.len() + part.len() <= DIGITS_MAX && power.unsigned_abs() <= DIGITS_MAX as u64;
            fits.then(|| Number::decimal(negative, &whole, &part, power))
        };
        number.filter(|_| !glued)
    }

    fn is_digit(&self, at: usize) -> bool {
        self.text.get(at).is_some_and(u8::is_ascii_digit)
    }

    fn digits_from(&self, from: usize) -> usize {
        self.text.get(from..).map_or(0, |rest| rest.iter().take_while(|byte| byte.is_ascii_digit()).count())
    }

    fn take(&mut self, count: usize) -> String {
        let from = self.at;
        self.at += count;
        self.text[from..self.at].iter().map(|byte| char::from(*byte)).collect()
    }

    /// Digits before the point, without commas: `1,234` is one number, `12,34` two.
    fn whole(&mut self) -> String {
        let first = self.digits_from(self.at);
        let mut digits = self.take(first);
        if !(1..=3).contains(&first) {
            return digits;
        }
        while self.text.get(self.at) == Some(&b',') && self.digits_from(self.at + 1) == 3 {
            self.at += 1;
            digits += &self.take(3);
        }
        digits
    }

    /// Digits after the point; a point without digits ends a sentence.
    fn part(&mut self) -> String {
        if self.text.get(self.at) != Some(&b'.') || !self.is_digit(self.at + 1) {
            return String::new();
        }
        self.at += 1;
        self.take(self.digits_from(self.at))
    }

    /// The denominator of `3/4`; `None` for `1/2/2024` and `3/4.5`, whose parts are separate numbers.
    fn under(&mut self, whole: &str, part: &str) -> Option<NonZeroU64> {
        let digits = self.digits_from(self.at + 1);
        let end = self.at + 1 + digits;
        let decimal = self.text.get(end) == Some(&b'.') && self.is_digit(end + 1);
        let goes_on = decimal || self.text.get(end) == Some(&b'/') || self.follows_a_slash();
        let fits = |digits| (1..=FRACTION_DIGITS_MAX).contains(&digits);
        if self.text.get(self.at) != Some(&b'/') || goes_on || !part.is_empty() || !fits(whole.len()) || !fits(digits) {
            return None;
        }
        let under = std::str::from_utf8(&self.text[self.at + 1..end]).ok()?.parse().ok()?;
        self.at = end;
        Some(under)
    }

    /// Whether the digits that end here follow a slash, like the month in `1/2/2024`.
    fn follows_a_slash(&self) -> bool {
        let before = self.text[..self.at].iter().rev().find(|byte| !byte.is_ascii_digit());
        before == Some(&b'/')
    }

    /// The power of ten in `1.5e3`; `2 em` and `2e` have none.
    fn power(&mut self) -> i64 {
        let sign = matches!(self.text.get(self.at + 1), Some(b'+' | b'-')) as usize;
        let digits = self.digits_from(self.at + 1 + sign);
        let end = self.at + 1 + sign + digits;
        let glued = self.text.get(end).is_some_and(u8::is_ascii_alphabetic);
        if !matches!(self.text.get(self.at), Some(b'e' | b'E')) || !(1..=6).contains(&digits) || glued {
            return 0;
        }
        self.at += 1;
        let sign = self.take(sign);
        let size: i64 = self.take(digits).parse().unwrap_or(0);
        if sign == "-" { -size } else { size }
    }

    /// Whether a minus is right before `at`, or before a currency sign right before `at`.
    fn is_negative(&self, at: usize) -> bool {
        let before = |at: usize, sign: &str| self.text[..at].ends_with(sign.as_bytes()).then(|| at - sign.len());
        let minus = |at| ["-", "\u{2212}"].iter().find_map(|sign| before(at, sign));
        let money = ["$", "\u{20ac}", "\u{a3}", "\u{a5}"].iter().find_map(|sign| before(at, sign));
        minus(at).or_else(|| money.and_then(minus)).is_some_and(|at| !self.follows_a_word(at))
    }

    /// Whether an ASCII letter is right before `at`.
    fn follows_a_letter(&self, at: usize) -> bool {
        self.text[..at].last().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
    }

    fn follows_a_word(&self, at: usize) -> bool {
        self.follows_a_letter(at)
            || self.text[..at].last().is_some_and(|byte| byte.is_ascii_digit() || b")]}".contains(byte))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn same(a: &str, b: &str) -> bool {
        Number::last_in(a).unwrap_or_else(|| panic!("no number in {a:?}")) == Number::only_in(b).unwrap()
    }

    #[test]
    fn the_last_number_is_found_among_words_units_and_signs() {
        for (text, number) in [
            ("3 + 4 = 7", "7"),
            ("The answer is 1,234.", "1234"),
            ("The answer is **85**!", "85"),
            ("It costs $1,250.50 in all.", "1250.5"),
            ("12kg", "12"),
            ("about 50%", "50"),
            ("\\boxed{42}", "42"),
            ("#42", "42"),
            ("(42)", "42"),
            ("x = -5", "-5"),
            ("7 - 5", "5"),
            ("7-5", "5"),
            ("f(x)-5", "5"),
            ("\u{2212}5 degrees", "-5"),
            ("-$5", "-5"),
            ("$-5", "-5"),
            ("-\u{20ac}5", "-5"),
            ("about .5 litres", "0.5"),
            ("1.5e3", "1500"),
            ("2e-2", "0.02"),
            ("3 em", "3"),
            ("half of 84/7", "12"),
            ("-3/4", "-0.75"),
            ("1/3", "2/6"),
            ("on 1/2/2024", "2024"),
            ("5/0", "0"),
            ("1, 2, 3", "3"),
            ("12,34", "34"),
            ("1,234,567", "1234567"),
            ("caf\u{e9} 7 \u{1F600}", "7"),
            ("the 3rd of x2", "3"),
            ("line 4\n", "4"),
        ] {
            assert!(same(text, number), "{text:?} is {:?}, expected {number}", Number::last_in(text));
        }
    }

    #[test]
    fn a_text_without_a_number_has_none() {
        for text in ["", "seven", "x2", "-", ".", "...", "e5", "H2O", "Q4_1", "\u{2212}"] {
            assert_eq!(Number::last_in(text), None, "{text:?}");
        }
    }

    #[test]
    fn different_numbers_differ() {
        for (a, b) in
            [("7", "8"), ("0.5", "5"), ("1/3", "0.333333"), ("-5", "5"), ("100", "1"), ("50%", "0.5"), ("1e2", "1e3")]
        {
            assert!(!same(a, b), "{a} and {b}");
        }
    }

    #[test]
    fn only_one_number_makes_an_answer() {
        assert!(Number::only_in("12 apples").is_some());
        assert_eq!(Number::only_in("12 or 13"), None);
        assert_eq!(Number::only_in("none"), None);
    }

    #[test]
    fn what_floats_confuse_stays_apart() {
        assert!(same("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827000"));
        assert!(!same("0.1", "0.1000000000000000055511151231257827"));
        assert!(!same("9007199254740993", "9007199254740992"));
    }

    #[test]
    fn overlong_digits_are_no_number_and_no_panic() {
        let nines = |count| "9".repeat(count);
        assert_eq!(Number::last_in(&nines(401)), None);
        assert!(Number::last_in(&nines(400)).is_some());
        assert_eq!(Number::last_in("1e999999"), None);
        assert!(Number::last_in(&format!("{}/{}", nines(30), nines(30))).is_some());
        assert!(same(&format!("{}/{}", nines(9), nines(9)), "1"));
        assert!(same(&format!("{}/{}", nines(9), 1 << 29), "1.862645147368311882019042968750"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[0-9.,/e+$ -\u{2212}]{0,40}|\\PC{0,60}") {
            let _ = Number::last_in(&text);
        }

        #[test]
        fn a_number_survives_however_it_is_written(value in -10_000_000i64..10_000_000, zeros in 0usize..4) {
            let plain = value.to_string();
            let mut grouped = String::new();
            for (place, digit) in value.abs().to_string().bytes().rev().enumerate() {
                if place > 0 && place % 3 == 0 {
                    grouped.insert(0, ',');
                }
                grouped.insert(0, char::from(digit));
            }
            let sign = if value < 0 { "\u{2212}" } else { "" };
            for text in [format!("so it is {sign}{grouped}."), format!("{plain}.{}", "0".repeat(zeros)), format!("{plain}/1")] {
                prop_assert!(same(&text, &plain), "{}", text);
            }
            let next = (value + 1).to_string();
            prop_assert!(!same(&plain, &next));
        }

        #[test]
        fn fractions_agree_with_cross_multiplication(a in 0u64..200, b in 1u64..200, c in 0u64..200, d in 1u64..200) {
            let given = Number::last_in(&format!("{a}/{b}")) == Number::last_in(&format!("{c}/{d}"));
            prop_assert_eq!(given, a * d == c * b);
        }
    }
}

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
        ("1/3 of it", "2/6"),
        (r"\(\frac{10}{4}\)", "2.5"),
        ("3 \u{d7} 4 = 12", "12"),
        ("7", r"\boxed{7}"),
        ("2", "6/3"),
        ("7", "3 + 4"),
        ("The answer is the sum of 3 and 4, which is 7.", "7"),
        (r"\boxed{(x+1)^2}", "x^2 + 2x + 1"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{\sqrt{2}}{2}"),
        (r"\boxed{\{1, 2\}}", "2, 1"),
        (r"\boxed{5 < x}", "x > 5"),
        (r"\boxed{0.1\overline{6}}", "1/6"),
        (r"\boxed{\log_2 8}", "3"),
        (r"\boxed{3 \pm \sqrt 2}", r"3 + \sqrt{2}, 3 - \sqrt{2}"),
        (r"\boxed{y = 2x + 3}", "2x+3"),
        (r"\boxed{2y = 4x + 6}", "y - 2x - 3 = 0"),
        (r"\boxed{(-\infty, 2) \cup (3, \infty)}", r"(-\infty,2)\cup(3,\infty)"),
        (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"The answer is 3 or 4.", "4, 3"),
        ("seven", "7"),
        ("10 000 m", "10000"),
        ("about \u{2013}5 degrees", "-5"),
        ("The roots are 2 and 3.", "2, 3"),
        ("The point is (2, 4).", "(2,4)"),
        ("The ratio is 3:5.", "3:5"),
        ("So f'(x) = 2x.", "2x"),
        ("The answer is negative seven.", "-7"),
        ("There are five apples.", "5"),
        ("10 is the answer, after 3 steps.", "10"),
        ("x=18, where x > 3", "18"),
        (r"\boxed{\frac{2}{3} \approx 0.67}", "2/3"),
        (r"\boxed{\textbf{(C)}\ 7}", "7"),
        (r"\boxed{7 \pmod{10}}", "7"),
        (r"\boxed{7^{\text{th}}}", "7"),
        (r"\boxed{90^\circ\text{C}}", "90"),
        (r"\boxed{0.\overline{27}}", "3/11"),
        (r"\boxed{x \ge 2}", r"[2, \infty)"),
        (r"\boxed{(-\infty, 2)\cup(3, \infty)}", "x < 2 or x > 3"),
        (r"\boxed{x = 2, y = 4}", "(2, 4)"),
        (r"\boxed{P(2, 4)}", "(2, 4)"),
        (r"\boxed{6 : 10}", "3:5"),
        (r"\boxed{\varnothing}", r"\{\}"),
        (r"\boxed{2 \cdot 2^n}", "2^{n+1}"),
        (r"\boxed{2^{2x}}", "4^x"),
        (r"\boxed{2\ln 2}", r"\ln 4"),
        (r"\boxed{\exp(2)}", "e^2"),
        (r"\boxed{x_{1}}", "x_1"),
        (r"\boxed{2x - y + 3 = 0}", "y = 2x + 3"),
        (r"\boxed{\left(\begin{array}{c} 1 \\ 2 \end{array}\right)}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r#"{"answer": "1,234"}"#, "1234"),
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
        (r"\boxed{7", "7"),
        ("no number", "1"),
        ("", "0"),
        ("0.333", "1/3"),
        (r"\boxed{(2, 4)}", "(4, 2)"),
        (r"\boxed{x \ge 5}", "x > 5"),
        (r"\boxed{x^3}", "x^2"),
        ("The answer is 3x + 1.", "1"),
        ("The answer is 3x + 1.", "3"),
        ("It is 3\u{3c0} cm", "3"),
        ("So we have 2\u{221a}5", "2"),
        ("giving sqrt(5)", "5"),
        ("The point is (2, 4).", "4"),
        ("The roots are 2 and 3.", "3"),
        ("a ratio of 2:3", "3"),
        ("The answer is less than 10.", "10"),
        ("8 is not the answer.", "8"),
        ("18 are left, out of 20", "20"),
        ("1. First\n2. Second", "2"),
        (r"\boxed{50 \approx 51}", "50"),
        (r"\boxed{0.5}", "0.5%"),
        (r"\boxed{x > 2}", r"[2, \infty)"),
        (r"\boxed{|x| < 2}", r"(-\infty, 2)"),
        (r"\boxed{1:2}", "1:2:3"),
        (r"\boxed{1/3}", "10:30"),
        (r"\boxed{2:5}", "12:30"),
        (r"\boxed{3:5}", "0.6"),
        (r"\boxed{y = 4, x = 2}", "(4, 2)"),
        (r"\boxed{2^x \cdot 2^y}", "2^{xy}"),
        (r"\boxed{\ln 3}", r"\ln 2"),
    ] {
        assert!(!right(text, expected), "{text:?} is {:?}, not {expected}", MathAnswer::of(text));
    }
}

#[test]
fn equal_sides_that_differ_state_nothing() {
    for (text, expected) in [
        (r"\boxed{2+3=6}", "6"),
        (r"\boxed{2+3=6}", "5"),
        (r"\boxed{x = 4+4 = 9}", "9"),
        (r"\boxed{50 \approx 51}", "51"),
        (r"\boxed{\sqrt{8} = 3}", "3"),
        (r"\boxed{1/2 = 60\%}", "60%"),
        (r"\boxed{5 \cdot 12 = 61 \text{ cm}}", "61"),
        (r"\[3+4=8\]", "8"),
        ("gcd(12, 20) = 5", "5"),
        (r"\boxed{3x+2=14}", "x = 4"),
        (r"\boxed{2x = 8}", "x = 4"),
        (r"\boxed{5}", "x + y = 5"),
    ] {
        assert!(!right(text, expected), "{text:?} is {:?}, not {expected}", MathAnswer::of(text));
    }
    for (text, expected) in [
        (r"\boxed{\frac{2}{3} = 0.67}", "2/3"),
        (r"\boxed{\frac{10}{20} \times 100 = 50\%}", "50"),
        (r"\boxed{2 \text{ hours} = 120 \text{ minutes}}", "120"),
        (r"\boxed{\frac{\pi}{2} = 90^\circ}", "90"),
        (r"\boxed{f(2) = 5}", "5"),
        (r"\boxed{\ln 2 \approx 0.693}", r"\ln 2"),
        (r"\boxed{m+n = 113+3 = 116}", "116"),
        (r"\boxed{x - 4 = 0}", "x = 4"),
    ] {
        assert!(right(text, expected), "{text:?} is {:?}, expected {expected}", MathAnswer::of(text));
    }
}

#[test]
fn what_prose_does_not_state_is_no_answer() {
    for (text, expected) in [
        ("It takes 3-5 days.", "5"),
        ("The answer is 10-12.", "-2"),
        ("between 10 and 12", "12"),
        ("more than 7", "7"),
        ("7+", "7"),
        ("Is it 7?", "7"),
        ("The answer is 7, no wait, 8.", "7"),
        (r"\boxed{7}. Wait, that's wrong.", "7"),
        ("Step 7: Add the numbers", "7"),
        ("I have tried 3 times but cannot solve it.", "3"),
        ("three and a half", "1/2"),
        ("two three", "5"),
    ] {
        assert!(!right(text, expected), "{text:?} is {:?}, not {expected}", MathAnswer::of(text));
    }
    for (text, expected) in
        [("It rose from 3 to 5.", "5"), ("three and a half", "3.5"), ("How many? 7", "7"), ("{2, 1}", r"\{1,2\}")]
    {
        assert!(right(text, expected), "{text:?} is {:?}, expected {expected}", MathAnswer::of(text));
    }
}

#[test]
fn functions_of_numbers_have_exact_values() {
    for (text, expected) in [
        (r"\boxed{20\cos 30^\circ}", r"10\sqrt{3}"),
        (r"\boxed{\sin 15^\circ}", r"\frac{\sqrt6-\sqrt2}{4}"),
        (r"\boxed{\sin^2 60^\circ}", "3/4"),
        (r"\boxed{\tan^{-1}(1)}", r"\frac{\pi}{4}"),
        (r"\boxed{\left\lfloor \frac{7}{2} \right\rfloor}", "3"),
        (r"\boxed{\lceil \pi \rceil}", "4"),
        (r"\boxed{\text{lcm}(4, 6)}", "12"),
        (r"\boxed{\max\{3, 5\}}", "5"),
        (r"\boxed{17 \bmod 5}", "2"),
        (r"\boxed{\frac{5!}{3!2!}}", r"\binom{5}{2}"),
        (r"\boxed{\binom{n}{2}}", r"\frac{n(n-1)}{2}"),
        ("x \u{2261} 3 (mod 5)", "3"),
    ] {
        assert!(right(text, expected), "{text:?} is {:?}, expected {expected}", MathAnswer::of(text));
    }
    assert!(!right(r"\boxed{\sin(40)}", r"\sin 40^\circ"));
    assert!(MathAnswer::expected(r"\tan 90^\circ").is_none());
}

#[test]
fn a_prompts_answer_is_read_whole_or_refused() {
    for text in [
        "10-12",
        "10-2",
        "3-5 days",
        "10 to 12",
        "2023-10",
        "",
        "none of these",
        "Paris",
        r"\boxed{",
        "12 of the 40",
        "see step 3",
        "2024-01-05",
    ] {
        assert!(MathAnswer::expected(text).is_none(), "{text:?} is {:?}", MathAnswer::expected(text));
    }
    for text in [
        "$1,234.50",
        "15 cm",
        "5 apples",
        r"2\pi",
        r"\sqrt{2}",
        "x^2",
        r"\log_2 8",
        "5!",
        "x > 5",
        "2i",
        "1011_2",
        "(2,4)",
    ] {
        assert!(MathAnswer::expected(text).is_some(), "{text:?}");
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
    let golden = include_str!("../../../tests/golden/math_answers.jsonl");
    let lines: Vec<Line> = golden.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1_200);
    let differs = |line: &&Line| right(&line.text, &line.answer) != line.right;
    let differing: Vec<_> = lines.iter().filter(differs).map(|line| (&line.answer, &line.text, line.right)).collect();
    assert!(differing.is_empty(), "{} differ: {differing:#?}", differing.len());
}

#[test]
fn deep_or_huge_expressions_are_no_answer_and_no_panic() {
    let deep = format!("\\boxed{{{}1{}}}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(MathAnswer::of(&deep).is_none());
    for text in [format!("\\boxed{{{}1}}", "-".repeat(10_000)), r"\boxed{9^9^9}".into(), r"\boxed{99^99^99}".into()] {
        assert!(MathAnswer::of(&text).is_none(), "{text:.40}");
    }
    assert!(MathAnswer::of(&"\\frac".repeat(5_000)).is_none());
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in r"(\\boxed\{|\\frac|\\sqrt|\\text\{|[{}0-9.,/+*^()%=<xi&_!|\[\] -]|####|\*\*|answer is|\\\\){0,40}|\PC{0,60}") {
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

//! The figures as an SVG picture: one bar per critic with its interval, utilities on the left, accuracies on the right.
//!
//! The critics of interest are in colour and all others grey, whatever their order. A legend says what each bar, line and whisker
//! is. No fonts, no scripts; each bar has its numbers as a title.

use super::bootstrap::Estimate;
use super::figures::Figures;
use std::fmt::Write;

const CHART_WIDTH: f64 = 420.0;
const HEIGHT: f64 = 356.0;
/// Margins for the axis on the left, names and the legend below, and the title above.
const LEFT: f64 = 44.0;
const BELOW: f64 = 84.0;
const ABOVE: f64 = 56.0;
/// Of the critics of interest, the first ones; and of all others.
const COLOURS: [&str; 3] = ["#c8572b", "#2f6fa8", "#5b8c3a"];
const OTHER: &str = "#b4bcc6";
/// The width of a character of the legend, as browsers' own fonts have it at most.
const CHARACTER: f64 = 6.2;
/// The longest name below a bar, in characters.
const NAME_CHARS_MAX: usize = 14;

/// One bar chart: its title, bars with their colours, and reference line.
struct Chart {
    title: String,
    bars: Vec<(String, &'static str, Option<Estimate>)>,
    line: Option<(f64, &'static str)>,
}

/// The colour of the critic `name`.
fn colour(name: &str, of_interest: &[&str]) -> &'static str {
    let place = of_interest.iter().position(|known| *known == name);
    place.map_or(OTHER, |place| COLOURS[place % COLOURS.len()])
}

/// The figures as SVG, with `title`. The critics `of_interest` are in colour.
pub fn svg(figures: &Figures, title: &str, of_interest: &[&str]) -> String {
    let bars = |of: fn(&super::figures::CriticFigures) -> Option<Estimate>| {
        let bar = |critic: &super::figures::CriticFigures| {
            (critic.critic.clone(), colour(&critic.critic, of_interest), of(critic))
        };
        figures.critics.iter().map(bar).collect::<Vec<_>>()
    };
    let mut panels = vec![Chart {
        title: "critique utility (CU)".to_owned(),
        bars: bars(|critic| critic.cu),
        line: Some((50.0, "as good as the response")),
    }];
    if figures.response.accuracy.is_some() {
        panels.push(Chart {
            title: "accuracy of the refinements".to_owned(),
            bars: bars(|critic| critic.accuracy),
            line: figures.response.accuracy.map(|estimate| (estimate.value, "accuracy of the responses")),
        });
    }
    let width = CHART_WIDTH * panels.len() as f64;
    let mut out = head(width, HEIGHT, 12, title);
    for (place, panel) in panels.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "<g transform=\"translate({} 0)\">", CHART_WIDTH * place as f64);
        panel.draw(&mut out);
        panel.draw_legend(&mut out, of_interest);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

/// The beginning of a picture: white, with a title over its whole width.
pub(crate) fn head(width: f64, height: f64, font_size: usize, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"{font_size}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{}\" y=\"20\" text-anchor=\"middle\" font-size=\"14\">{}</text>\n",
        width / 2.0,
        escaped(title)
    )
}

/// The y coordinate of a share from 0 to 100.
fn height(share: f64) -> f64 {
    let (top, bottom) = (ABOVE, HEIGHT - BELOW);
    bottom - (bottom - top) * share.clamp(0.0, 100.0) / 100.0
}

impl Chart {
    fn draw(&self, out: &mut String) {
        let right = CHART_WIDTH - 12.0;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"42\" text-anchor=\"middle\">{}</text>",
            (LEFT + right) / 2.0,
            self.title
        );
        for share in [0.0, 25.0, 50.0, 75.0, 100.0] {
            let y = height(share);
            let _ = writeln!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{share}</text>",
                LEFT - 6.0,
                y + 4.0
            );
        }
        let slot = (right - LEFT) / self.bars.len().max(1) as f64;
        for (place, (name, colour, estimate)) in self.bars.iter().enumerate() {
            bar(out, LEFT + slot * place as f64, slot, colour, name, *estimate);
        }
        if let Some((share, what)) = self.line {
            let y = height(share);
            let _ = writeln!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#333\" \
                 stroke-dasharray=\"4 3\"><title>{share:.1}: {what}</title></line>"
            );
        }
    }

    /// What each colour, line and whisker stands for, in two lines below the names.
    fn draw_legend(&self, out: &mut String, of_interest: &[&str]) {
        let is_other = |(name, ..): &(String, &str, Option<Estimate>)| !of_interest.contains(&name.as_str());
        let shown = self.bars.iter().filter(|bar| !is_other(bar)).take(COLOURS.len());
        let square = |colour: &str, x: f64, y: f64| {
            format!("<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>", y - 9.0)
        };
        let (mut x, first, second) = (LEFT, HEIGHT - 36.0, HEIGHT - 16.0);
        let mut add = |sign: String, text: &str, y: f64, x: &mut f64| {
            let text: String = text.chars().take(3 * NAME_CHARS_MAX).collect();
            let _ = writeln!(out, "{sign}<text x=\"{:.1}\" y=\"{y:.1}\">{}</text>", *x + 16.0, escaped(&text));
            *x += 16.0 + CHARACTER * text.chars().count() as f64 + 14.0;
        };
        for (name, colour, _) in shown {
            add(square(colour, x, first), name, first, &mut x);
        }
        if self.bars.iter().any(is_other) {
            add(square(OTHER, x, first), "to compare with", first, &mut x);
        }
        x = LEFT;
        let whisker =
            format!("<path d=\"M{:.1} {:.1}v-10m-4 0h8m-8 10h8\" stroke=\"black\" fill=\"none\"/>", x + 5.0, second);
        add(whisker, "95 % interval", second, &mut x);
        if let Some((share, what)) = self.line {
            let y = second - 4.0;
            let line = format!(
                "<line x1=\"{x:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#333\" stroke-dasharray=\"4 3\"/>",
                x + 12.0
            );
            add(line, &format!("{share:.1}: {what}"), second, &mut x);
        }
    }
}

fn bar(out: &mut String, left: f64, slot: f64, colour: &str, name: &str, estimate: Option<Estimate>) {
    // No wider than its slot.
    let most = ((slot / CHARACTER) as usize).clamp(2, NAME_CHARS_MAX);
    let shown = match name.chars().count() > most {
        true => format!("{}…", name.chars().take(most - 1).collect::<String>()),
        false => name.to_owned(),
    };
    let (middle, shown, name) = (left + slot / 2.0, escaped(&shown), escaped(name));
    let _ = writeln!(
        out,
        "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{shown}</text>",
        HEIGHT - BELOW + 18.0
    );
    let Some(Estimate { value, low, high, .. }) = estimate else { return };
    let (top, width) = (height(value), slot * 0.6);
    let _ = writeln!(
        out,
        "<rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{colour}\">\
         <title>{name}: {value:.1} [{low:.1}, {high:.1}]</title></rect>",
        middle - width / 2.0,
        height(0.0) - top
    );
    let (low_y, high_y) = (height(low), height(high));
    let _ = writeln!(
        out,
        "<path d=\"M{middle:.1} {low_y:.1}V{high_y:.1}M{:.1} {low_y:.1}h10M{:.1} {high_y:.1}h10\" stroke=\"black\" \
         fill=\"none\"/>\n<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" stroke=\"white\" stroke-width=\"3\" \
         paint-order=\"stroke\">{value:.1}</text>",
        middle - 5.0,
        middle - 5.0,
        high_y - 5.0
    );
}

/// Text escaped for XML and HTML, within elements and within attributes in double quotes. Characters that neither may hold, such as
/// the control characters that a model wrote, become U+FFFD.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            _ if c.is_control() || is_noncharacter(c) => out.push(char::REPLACEMENT_CHARACTER),
            _ => out.push(c),
        }
    }
    out
}

/// Whether Unicode gives `c` no character for ever.
fn is_noncharacter(c: char) -> bool {
    let code = u32::from(c);
    (0xfdd0..=0xfdef).contains(&code) || code & 0xfffe == 0xfffe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::figures::ResponseFigures;

    #[test]
    fn a_share_stands_where_its_axis_says() {
        assert_eq!((height(0.0), height(100.0)), (HEIGHT - BELOW, ABOVE));
        assert_eq!(height(50.0), (height(0.0) + height(100.0)) / 2.0);
        assert_eq!(height(140.0), ABOVE);
    }

    #[test]
    fn the_critic_of_interest_is_in_colour_and_every_line_has_a_legend() {
        let chart = |line| Chart {
            title: "t".to_owned(),
            bars: ["base", "trained"].map(|name| (name.to_owned(), colour(name, &["trained"]), None)).to_vec(),
            line,
        };
        let mut out = String::new();
        chart(Some((50.0, "as good as the response"))).draw_legend(&mut out, &["trained"]);
        for part in
            ["trained</text>", "to compare with", "95 % interval", "50.0: as good as the response", COLOURS[0], OTHER]
        {
            assert!(out.contains(part), "{part}: {out}");
        }
        assert_eq!((colour("base", &["trained"]), colour("trained", &["trained"])), (OTHER, COLOURS[0]));
    }

    #[test]
    fn names_are_shown_and_never_read_as_markup() {
        let figures =
            Figures { prompts: 1, response: ResponseFigures { score: None, accuracy: None }, critics: Vec::new() };
        let drawn = svg(&figures, "a <b> & \"c\"", &[]);
        assert!(drawn.contains("a &lt;b&gt; &amp; &quot;c&quot;</text>"), "{drawn}");
        assert_eq!(escaped("a\u{1}\u{7f}\u{ffff}\n\u{e9}"), "a\u{fffd}\u{fffd}\u{fffd}\n\u{e9}");
        let mut out = String::new();
        let estimate = Estimate { value: 61.25, low: 50.0, high: 70.0, prompts: 9 };
        bar(&mut out, 0.0, 100.0, "#000", "<run>", Some(estimate));
        assert!(out.contains("&lt;run&gt;: 61.2 [50.0, 70.0]") && !out.contains("<run>"), "{out}");
        assert!(out.contains(&format!("y=\"{:.1}\"", height(61.25))), "{out}");
    }
}

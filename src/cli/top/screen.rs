//! Draws the state of a node into a terminal of any size; at 80 x 24 all of it is seen.

use super::app::{App, Dialog};
use super::look::{ActorLine, Look};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::symbols;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, LineGauge, Paragraph, Row, Sparkline, Table, Wrap};
use std::time::Duration;
use time::UtcDateTime;

/// A look that is older than this is said to be old.
const OLD: Duration = Duration::from_secs(4);
/// The height of a sparkline's cells, in eighths.
const EIGHTHS: u64 = 8;
/// Utilities that differ by less than this are drawn level.
const UTILITY_SPAN: f64 = 0.1;

const KEYS: &[(&str, &str)] = &[
    ("p", "pause or resume the rollout"),
    ("l", "pause or resume the learner"),
    ("c", "write a checkpoint"),
    ("s", "put another critic into service"),
    ("b", "go back to the critic that served before"),
    ("?", "this help"),
    ("q", "leave; the node goes on"),
];

/// Draws all of `app`.
pub(super) fn draw(frame: &mut Frame<'_>, app: &App) {
    let [title, body, footer] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
    draw_title(frame, title, app);
    match &app.look {
        Some(look) => draw_look(frame, body, app, look),
        None => {
            let why = app.silent.as_deref().unwrap_or("waiting for the node's first answer");
            frame.render_widget(Paragraph::new(why).wrap(Wrap { trim: true }), body);
        }
    }
    draw_footer(frame, footer, app);
    draw_dialog(frame, app);
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let mut spans = vec![Span::from(format!(" {} ", app.title)).bold().reversed(), Span::from("  ")];
    if let Some(look) = &app.look {
        spans.push(Span::from(critics(look)));
        spans.push(Span::from("  "));
        spans.push(match look.waits_for.as_str() {
            _ if !app.is_live => Span::from(format!("ended at step {}", look.step)),
            "" | "nothing" => Span::from("running").green(),
            what => Span::from(format!("waits for {what}")).yellow(),
        });
        for (is_paused, what) in [(look.rollout_paused, "rollout"), (look.learner_paused, "learner")] {
            if is_paused {
                spans.push(Span::from(format!("  {what} paused")).yellow().bold());
            }
        }
        if look.restarts > 0 {
            spans.push(Span::from(format!("  {} restarts", look.restarts)).red());
        }
    }
    frame.render_widget(Line::from(spans), area);
}

/// The critics in service, pinned and on trial.
fn critics(look: &Look) -> String {
    let mut text = format!("critic v{}", look.serving);
    if let Some(version) = look.pinned {
        text += &format!(", pinned v{version}");
    }
    if let Some((version, share)) = look.on_trial {
        text += &format!(", v{version} tried on {:.0} %", 100.0 * share);
    }
    text
}

fn draw_look(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look) {
    let actors = look.actors.len() as u16 + 2;
    // The events take what is left of a low terminal, the curves of a high one.
    let [curves, middle, events] = match area.height {
        height if height >= actors + 14 => {
            Layout::vertical([Constraint::Fill(3), Constraint::Length(actors), Constraint::Fill(2)]).areas(area)
        }
        _ => Layout::vertical([Constraint::Length(7), Constraint::Max(actors), Constraint::Min(0)]).areas(area),
    };
    let [utility, learner] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(curves);
    draw_utilities(frame, utility, app);
    draw_learner(frame, learner, app, look);
    let [left, right] = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).areas(middle);
    draw_actors(frame, left, look);
    draw_engine(frame, right, app, look);
    draw_events(frame, events, app);
}

fn panel(title: &str) -> Block<'_> {
    Block::bordered().title(title.bold()).border_style(Style::new().fg(Color::DarkGray))
}

/// A curve for each task, as high as there is room for.
fn draw_utilities(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let block = panel(" critique utility by task ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    if app.history.utilities.is_empty() {
        let mean = app.look.as_ref().and_then(|look| look.utility_mean);
        let text = mean.map_or_else(|| "no critique is scored yet".to_owned(), |mean| format!("mean {mean:.3}"));
        return frame.render_widget(Paragraph::new(text).dim(), inner);
    }
    let shown = app.history.utilities.len().min(usize::from(inner.height).max(1));
    let rows = Layout::vertical(vec![Constraint::Fill(1); shown]).split(inner);
    // Bounds are the first to go where there is little room.
    let value_width = if inner.width < 36 { 6 } else { 19 };
    for ((task, curve), row) in app.history.utilities.iter().zip(rows.iter()) {
        let [name, bars, value] =
            Layout::horizontal([Constraint::Max(14), Constraint::Fill(1), Constraint::Length(value_width)]).areas(*row);
        let top = u64::from(bars.height) * EIGHTHS;
        let (heights, bounds) = curve.heights(usize::from(bars.width), top, UTILITY_SPAN);
        frame.render_widget(Paragraph::new(task.as_str()), name);
        frame.render_widget(Sparkline::default().data(&heights).max(top).style(Color::Cyan), bars);
        if let (Some(last), Some((least, most))) = (curve.last(), bounds) {
            let text = Line::from(vec![
                Span::from(format!(" {last:.2} ")).bold(),
                Span::from(format!("[{least:.2}, {most:.2}]")).dim(),
            ]);
            frame.render_widget(text, value);
        }
    }
}

fn draw_learner(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look) {
    let block = panel(" learner and rollout ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let of =
        |value: Option<f64>, digits: usize| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"));
    let lines = vec![
        Line::from(format!("step {}  {:.1} steps/min  loss {}", look.step, look.steps_per_minute, of(look.loss, 4))),
        Line::from(format!("utility {}  age of critiques {}", of(look.utility_mean, 3), of(look.age_mean, 1))),
        Line::from(format!(
            "{} episodes  {:.1}/min  {} dropped",
            look.episodes, look.episodes_per_minute, look.dropped
        )),
        Line::from(format!("{} groups  {} zero-variance  {} held", look.groups, look.zero_variance, look.held)),
    ];
    let [text, loss] = Layout::vertical([Constraint::Length(lines.len() as u16), Constraint::Min(0)]).areas(inner);
    frame.render_widget(Paragraph::new(lines), text);
    let [name, bars] = Layout::horizontal([Constraint::Length(5), Constraint::Fill(1)]).areas(loss);
    let top = u64::from(bars.height) * EIGHTHS;
    let (heights, _) = app.history.loss.heights(usize::from(bars.width), top, 1e-6);
    frame.render_widget(Paragraph::new("loss").dim(), name);
    frame.render_widget(Sparkline::default().data(&heights).max(top).style(Color::Magenta), bars);
}

fn draw_actors(frame: &mut Frame<'_>, area: Rect, look: &Look) {
    let row = |actor: &ActorLine| {
        let is_slowest = look.slowest.as_deref() == Some(actor.name.as_str()) && actor.oldest.is_some();
        let style = match (&actor.oldest, is_slowest) {
            (_, true) => Style::new().fg(Color::Yellow),
            (None, _) => Style::new().add_modifier(Modifier::DIM),
            _ => Style::new(),
        };
        let cells = match &actor.oldest {
            Some((what, subject, seconds)) => {
                let subject = if subject.is_empty() { String::new() } else { format!(" ({subject})") };
                [actor.in_flight.to_string(), format!("{seconds:.1} s"), format!("{what}{subject}")]
            }
            None => [String::new(), String::new(), "idle".to_owned()],
        };
        Row::new([actor.name.clone()].into_iter().chain(cells).map(Cell::from)).style(style)
    };
    let widths = [Constraint::Length(9), Constraint::Length(4), Constraint::Length(8), Constraint::Fill(1)];
    let table = Table::new(look.actors.iter().map(row), widths);
    frame.render_widget(table.block(panel(" actors: jobs, the oldest, for how long ")), area);
}

fn draw_engine(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look) {
    let block = panel(" engine ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let roles = app.history.role_rates.len() as u16;
    let [rate, by_role, sequences, kv, memory, rest] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(roles),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
    ])
    .areas(inner);
    frame.render_widget(Line::from(format!("{:.0} tokens/s", look.tokens_per_second)).bold(), rate);
    let all = app.history.role_rates.values().sum::<f64>();
    let row = |(role, rate): (&String, &f64)| {
        let bar = usize::from(by_role.width.saturating_sub(18));
        let filled = if all > 0.0 { (rate / all * bar as f64).round() as usize } else { 0 };
        Line::from(vec![
            Span::from(format!("{role:<10}")),
            Span::from(format!("{rate:>6.0} ")),
            Span::from("▪".repeat(filled)).cyan(),
        ])
    };
    frame.render_widget(Paragraph::new(app.history.role_rates.iter().map(row).collect::<Vec<_>>()), by_role);
    let text = format!("{} sequences, {} waiting", look.running, look.waiting);
    frame.render_widget(Line::from(text), sequences);
    frame.render_widget(gauge(format!("KV {:>3.0} %", 100.0 * look.kv_usage), look.kv_usage), kv);
    let (held, planned) = look.memory;
    let gib = |bytes: f64| bytes / f64::from(1 << 30);
    let label = format!("memory {:.1}/{:.1} GiB", gib(held), gib(planned));
    frame.render_widget(gauge(label, if planned > 0.0 { held / planned } else { 0.0 }), memory);
    let top = u64::from(rest.height) * EIGHTHS;
    let (heights, _) = app.history.tokens_per_second.heights(usize::from(rest.width), top, 1.0);
    frame.render_widget(Sparkline::default().data(&heights).max(top.max(1)).style(Color::Cyan), rest);
}

/// A bar of `share`, which is marked where it is above one.
fn gauge(label: String, share: f64) -> LineGauge<'static> {
    let color = if share > 1.0 { Color::Red } else { Color::Green };
    let ratio = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    let symbols = (symbols::line::THICK_HORIZONTAL, symbols::line::HORIZONTAL);
    let gauge = LineGauge::default().filled_symbol(symbols.0).unfilled_symbol(symbols.1);
    gauge.label(label).ratio(ratio).filled_style(Style::new().fg(color))
}

fn draw_events(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let block = panel(" events ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let shown = app.happened.iter().rev().take(usize::from(inner.height));
    let line = |event: &super::look::Happened| {
        let time = UtcDateTime::from_unix_timestamp((event.time / 1000) as i64).map(UtcDateTime::time);
        let clock = time.map_or_else(
            |_| "--:--:--".to_owned(),
            |time| format!("{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second()),
        );
        Line::from(vec![Span::from(clock).dim(), Span::from("  "), Span::from(event.text.clone())])
    };
    frame.render_widget(Paragraph::new(shown.map(line).collect::<Vec<_>>()), inner);
}

fn draw_footer(frame: &mut Frame<'_>, area: Rect, app: &App) {
    let line = match (&app.silent, app.answer()) {
        (Some(why), _) => {
            Line::from(format!(" no answer for {} s: {why}", app.since_look().as_secs())).white().on_red()
        }
        (None, Some(Ok(answer))) => Line::from(format!(" {answer}")).green(),
        (None, Some(Err(why))) => Line::from(format!(" {why}")).red(),
        (None, None) if app.is_live && app.look.is_some() && app.since_look() > OLD => {
            Line::from(format!(" no answer for {} s", app.since_look().as_secs())).yellow()
        }
        (None, None) if app.is_live => {
            Line::from(" p rollout  l learner  c checkpoint  s swap  b back  ? help  q quit").dim()
        }
        (None, None) => Line::from(" a run's files; no node runs  ? help  q quit").dim(),
    };
    frame.render_widget(line, area);
}

fn draw_dialog(frame: &mut Frame<'_>, app: &App) {
    let (title, lines) = match &app.dialog {
        Dialog::None => return,
        Dialog::Help => {
            let line = |(key, what): &(&str, &'static str)| {
                Line::from(vec![Span::from(format!("{key:>3}  ")).bold(), Span::from(*what)])
            };
            let lines: Vec<Line<'_>> = KEYS.iter().map(line).collect();
            (" keys ", lines)
        }
        Dialog::Critic(text) => {
            let lines = vec![
                Line::from("A version, a folder, RUN, RUN@STEP or RUN@best:"),
                Line::from(vec![Span::from(text.as_str()).bold(), Span::from("█")]),
                Line::from("Enter goes on, Esc goes back.").dim(),
            ];
            (" put a critic into service ", lines)
        }
        Dialog::Confirm(request) => {
            let lines = vec![Line::from(request.question()).bold(), Line::from("y: yes, any other key: no").dim()];
            (" sure? ", lines)
        }
    };
    let area = frame.area();
    let (width, height) = (60.min(area.width), (lines.len() as u16 + 2).min(area.height));
    let at = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, at);
    let block = Block::bordered().title(title.bold()).title_alignment(Alignment::Center);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }).block(block), at);
}

#[cfg(test)]
mod tests {
    use super::super::app::{News, Request};
    use super::super::look::{Happened, UtilitySum};
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::collections::BTreeMap;

    fn look(critiques: f64) -> Look {
        let names =
            ["device", "replay", "swap", "generator", "critic", "refiner", "judge", "learner", "rollout", "http"];
        let job =
            |name: &str| (name == "judge").then(|| ("judges refinements".to_owned(), "p\u{1b}[31m1".to_owned(), 9.5));
        let actor = |name: &&str| ActorLine { name: (*name).to_owned(), in_flight: 2, oldest: job(name) };
        let utility = UtilitySum { sum: 0.6 * critiques, count: critiques };
        Look {
            waits_for: "groups".into(),
            learner_paused: true,
            serving: 12,
            step: 345,
            kv_usage: 0.42,
            memory: (3e9, 2e9),
            actors: names.iter().map(actor).collect(),
            slowest: Some("judge".into()),
            tokens: ["critic", "generator", "judge", "refiner"].map(|role| (role.to_owned(), critiques)).into(),
            utilities: BTreeMap::from([("arithmetic".to_owned(), utility), ("words".to_owned(), utility)]),
            happened: vec![Happened { id: critiques as u64, time: 0, text: "critic v12 is in service".into() }],
            ..Look::default()
        }
    }

    fn app() -> App {
        let mut app = App::new("runs/quickstart".into());
        [10.0, 20.0, 30.0].into_iter().for_each(|critiques| app.take(News::Look(Box::new(look(critiques)))));
        app
    }

    /// What a terminal of this size shows.
    fn shown(app: &App, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, app)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn at_80_by_24_everything_is_seen() {
        let text = shown(&app(), 80, 24);
        for expected in [
            "runs/quickstart",
            "critic v12",
            "waits for groups",
            "learner paused",
            "arithmetic",
            "0.60 [0.60, 0.60]",
            "step 345",
            "judges refinements (p",
            "9.5 s",
            "http",
            "critic",
            "KV  42 %",
            "memory 2.8/1.9 GiB",
            "critic v12 is in service",
            "q quit",
        ] {
            assert!(text.contains(expected), "{expected}:\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "no control character reaches the terminal");
    }

    #[test]
    fn files_are_shown_as_a_run_that_has_ended() {
        let App { look, history, .. } = app();
        let look = Look { actors: vec![], ..look.unwrap() };
        let text = shown(&App::of_files("runs/old".into(), look, history), 80, 24);
        for expected in ["runs/old", "ended at step 345", "arithmetic", "no node runs"] {
            assert!(text.contains(expected), "{expected}:\n{text}");
        }
    }

    #[test]
    fn every_size_is_drawn() {
        let mut app = app();
        for dialog in
            [Dialog::None, Dialog::Help, Dialog::Critic("x".repeat(300)), Dialog::Confirm(Request::Checkpoint)]
        {
            app.dialog = dialog;
            for (width, height) in [(200, 60), (80, 24), (40, 10), (20, 5), (7, 3), (1, 1)] {
                shown(&app, width, height);
            }
        }
    }

    #[test]
    fn a_node_that_does_not_answer_is_said_to_and_what_was_seen_stays() {
        let mut app = app();
        app.take(News::Silent("connection refused".into()));
        let text = shown(&app, 80, 24);
        assert!(text.contains("no answer for 0 s: connection refused") && text.contains("step 345"), "{text}");
        app.take(News::Look(Box::new(look(40.0))));
        app.take(News::Answer(Err("the token is missing".into())));
        assert!(shown(&app, 80, 24).contains("the token is missing"));
    }

    #[test]
    fn a_request_is_confirmed_on_the_screen() {
        let mut app = app();
        app.dialog = Dialog::Confirm(Request::Swap("runs/x@best".into()));
        assert!(shown(&app, 80, 24).contains("Put critic runs/x@best into service, after its canary?"));
    }
}

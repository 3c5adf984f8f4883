//! What the screen shows, and what a key does. Knows no terminal.

use super::history::History;
use super::look::{Happened, Look};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Events that are kept.
const HAPPENED_MAX: usize = 64;
/// How long the answer to a request is shown.
const ANSWER_SHOWN: Duration = Duration::from_secs(6);

/// What is asked of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Pauses `what`, or resumes it.
    Pause { what: &'static str, paused: bool },
    /// Writes a checkpoint.
    Checkpoint,
    /// Puts a critic into service.
    Swap(String),
    /// Goes back to what served before.
    Rollback,
}

impl Request {
    /// What it does, as a question.
    pub(super) fn question(&self) -> String {
        match self {
            Self::Pause { what, paused: true } => format!("Pause the {what}?"),
            Self::Pause { what, paused: false } => format!("Resume the {what}?"),
            Self::Checkpoint => "Write a checkpoint now?".to_owned(),
            Self::Swap(critic) => format!("Put critic {critic} into service, after its canary?"),
            Self::Rollback => "Go back to the critic that served before?".to_owned(),
        }
    }
}

/// What is in front of the figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Dialog {
    #[default]
    None,
    Help,
    /// The name of a critic is typed.
    Critic(String),
    /// A request waits for a yes.
    Confirm(Request),
}

/// What is heard of the node.
#[derive(Debug)]
pub(super) enum News {
    /// It answered.
    Look(Box<Look>),
    /// It did not, and why.
    Silent(String),
    /// What became of a request.
    Answer(Result<String, String>),
}

/// What follows from a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Then {
    Nothing,
    Quit,
    Ask(Request),
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct App {
    /// What the title names.
    pub(super) title: String,
    /// Whether a node answers requests; files do not.
    pub(super) is_live: bool,
    pub(super) look: Option<Look>,
    pub(super) history: History,
    /// The newest last.
    pub(super) happened: VecDeque<Happened>,
    pub(super) dialog: Dialog,
    /// Why the node does not answer.
    pub(super) silent: Option<String>,
    answer: Option<(Instant, Result<String, String>)>,
    looked: Instant,
}

impl App {
    /// What files tell of the run called `title`.
    pub(super) fn of_files(title: String, look: Look, history: History) -> Self {
        Self { is_live: false, look: Some(look), history, ..Self::new(title) }
    }

    /// Nothing is known of the node called `title` yet.
    pub(super) fn new(title: String) -> Self {
        Self {
            title,
            is_live: true,
            look: None,
            history: History::default(),
            happened: VecDeque::new(),
            dialog: Dialog::None,
            silent: None,
            answer: None,
            looked: Instant::now(),
        }
    }

    /// Takes what was heard.
    pub(super) fn take(&mut self, news: News) {
        match news {
            News::Look(look) => {
                self.history.add(&look, self.looked.elapsed().as_secs_f64());
                // A node that was started anew counts its events from 1 again.
                if look.happened.first().is_some_and(|new| self.happened.back().is_some_and(|old| new.id <= old.id)) {
                    self.happened.clear();
                }
                self.happened.extend(look.happened.iter().cloned());
                let surplus = self.happened.len().saturating_sub(HAPPENED_MAX);
                self.happened.drain(..surplus);
                (self.look, self.silent, self.looked) = (Some(*look), None, Instant::now());
            }
            News::Silent(why) => self.silent = Some(why),
            News::Answer(answer) => self.answer = Some((Instant::now(), answer)),
        }
    }

    /// How long ago the node answered last.
    pub(super) fn since_look(&self) -> Duration {
        self.looked.elapsed()
    }

    /// What became of the last request, while it is news.
    pub(super) fn answer(&self) -> Option<&Result<String, String>> {
        self.answer.as_ref().filter(|(at, _)| at.elapsed() < ANSWER_SHOWN).map(|(_, answer)| answer)
    }

    /// What `key` does.
    pub(super) fn key(&mut self, key: KeyEvent) -> Then {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Then::Quit;
        }
        match std::mem::take(&mut self.dialog) {
            Dialog::None => self.command(key.code),
            Dialog::Help => Then::Nothing,
            Dialog::Critic(text) => {
                self.dialog = typed(text, key.code);
                Then::Nothing
            }
            Dialog::Confirm(request) => match key.code {
                KeyCode::Char('y' | 'Y') | KeyCode::Enter => Then::Ask(request),
                _ => Then::Nothing,
            },
        }
    }

    fn command(&mut self, key: KeyCode) -> Then {
        if matches!(key, KeyCode::Char('q') | KeyCode::Esc) {
            return Then::Quit;
        }
        let paused = |of: fn(&Look) -> bool| self.look.as_ref().is_some_and(of);
        let dialog = match key {
            KeyCode::Char('?' | 'h') => Dialog::Help,
            _ if !self.is_live => Dialog::None,
            KeyCode::Char('p') => {
                Dialog::Confirm(Request::Pause { what: "rollout", paused: !paused(|look| look.rollout_paused) })
            }
            KeyCode::Char('l') => {
                Dialog::Confirm(Request::Pause { what: "learner", paused: !paused(|look| look.learner_paused) })
            }
            KeyCode::Char('c') => Dialog::Confirm(Request::Checkpoint),
            KeyCode::Char('s') => Dialog::Critic(String::new()),
            KeyCode::Char('b') => Dialog::Confirm(Request::Rollback),
            _ => Dialog::None,
        };
        self.dialog = dialog;
        Then::Nothing
    }
}

/// The dialog after `key`, while `text` is the name of a critic so far.
fn typed(mut text: String, key: KeyCode) -> Dialog {
    match key {
        KeyCode::Esc => return Dialog::None,
        KeyCode::Enter if text.trim().is_empty() => return Dialog::None,
        KeyCode::Enter => return Dialog::Confirm(Request::Swap(text.trim().to_owned())),
        KeyCode::Backspace => drop(text.pop()),
        KeyCode::Char(char) if !char.is_control() => text.push(char),
        _ => {}
    }
    Dialog::Critic(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(app: &mut App, keys: &str) -> Vec<Then> {
        let code = |char| match char {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            char => KeyCode::Char(char),
        };
        keys.chars().map(|char| app.key(KeyEvent::new(code(char), KeyModifiers::NONE))).collect()
    }

    #[test]
    fn nothing_is_asked_without_a_yes() {
        let mut app = App::new("n".into());
        let rollback = || Then::Ask(Request::Rollback);
        assert_eq!(press(&mut app, "bn"), [Then::Nothing, Then::Nothing]);
        assert_eq!(press(&mut app, "by"), [Then::Nothing, rollback()]);
        assert_eq!(press(&mut app, "b\u{1b}q"), [Then::Nothing, Then::Nothing, Then::Quit]);
        let asked = press(&mut app, "s 12x\u{8}\n");
        assert!(asked.iter().all(|then| *then == Then::Nothing), "{asked:?}");
        assert_eq!(app.dialog, Dialog::Confirm(Request::Swap("12".into())));
        assert_eq!(press(&mut app, "y"), [Then::Ask(Request::Swap("12".into()))]);
        press(&mut app, "s\n");
        assert_eq!(app.dialog, Dialog::None, "no critic is named");
    }

    #[test]
    fn what_is_paused_is_resumed() {
        let mut app = App::new("n".into());
        app.take(News::Look(Box::new(Look { learner_paused: true, ..Look::default() })));
        let pause = |what, paused| Then::Ask(Request::Pause { what, paused });
        assert_eq!(press(&mut app, "py")[1], pause("rollout", true));
        assert_eq!(press(&mut app, "ly")[1], pause("learner", false));
    }

    #[test]
    fn files_are_asked_for_nothing_and_control_c_always_quits() {
        let mut app = App::of_files("n".into(), Look::default(), History::default());
        press(&mut app, "pcsb");
        assert_eq!(app.dialog, Dialog::None);
        app.dialog = Dialog::Critic("c".into());
        assert_eq!(app.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Then::Quit);
    }

    #[test]
    fn events_of_a_node_that_was_started_anew_replace_those_before() {
        let mut app = App::new("n".into());
        let looks = |ids: &[u64]| {
            let happened = ids.iter().map(|id| Happened { id: *id, time: 0, text: String::new() }).collect();
            News::Look(Box::new(Look { happened, ..Look::default() }))
        };
        app.take(looks(&[1, 2]));
        app.take(looks(&[3]));
        assert_eq!(app.happened.iter().map(|event| event.id).collect::<Vec<_>>(), [1, 2, 3]);
        app.take(looks(&[1]));
        assert_eq!(app.happened.len(), 1);
    }
}

//! `rco-node top`: a running node in a terminal, and keys that change it; or a run that nobody works on.
//!
//! The screen is drawn on this thread; who asks the node waits on threads of their own.

mod app;
mod history;
mod look;
mod recorded;
mod screen;
mod source;

use crate::cli::exit::{CommandError, Exit, OrExit};
use crate::cli::node_client::NodeArguments;
use crate::config::Config;
use crate::tracking;
use anyhow::anyhow;
use app::{App, Then};
use clap::Args;
use crossbeam_channel::{Receiver, Sender, unbounded};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use std::io::IsTerminal;
use std::time::Duration;

/// How long a key is waited for before the screen is drawn again.
const REDRAWN: Duration = Duration::from_millis(250);

/// Arguments of `top`.
#[derive(Debug, Args)]
pub(super) struct TopArguments {
    #[command(flatten)]
    node: NodeArguments,
}

/// Runs the command.
///
/// # Errors
/// If standard input or output is no terminal, or no node runs and the run has no figures.
pub(super) fn run(config: &Config, arguments: &TopArguments) -> Result<Exit, CommandError> {
    if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        return Err(anyhow!("top: expected a terminal; `status` prints the same as text")).or_exit(Exit::Usage);
    }
    let node = &arguments.node;
    let run = node.run(config);
    // Names the node, or says that none runs, while errors are still printed.
    let url = match node.url(config) {
        Ok(url) => url,
        Err(none) if node.names_an_address() => return Err(none),
        Err(none) => {
            let (look, history) = recorded::read(&tracking::read(&run).or_exit(Exit::Usage)?.lines).ok_or(none)?;
            return show_alone(App::of_files(run.display().to_string(), look, history));
        }
    };
    let title = if node.names_an_address() { url } else { run.display().to_string() };
    let (news_sender, news) = unbounded();
    let (request_sender, requests) = unbounded();
    let of_thread = (config.clone(), node.clone(), news_sender.clone());
    std::thread::spawn(move || source::look(&of_thread.0, &of_thread.1, &of_thread.2));
    let of_thread = (config.clone(), node.clone());
    std::thread::spawn(move || source::ask(&of_thread.0, &of_thread.1, &requests, &news_sender));
    in_terminal(|terminal| show(terminal, App::new(title), &news, &request_sender))
}

/// Shows a run that nobody works on: nothing is heard of it, and nothing can be asked.
fn show_alone(app: App) -> Result<Exit, CommandError> {
    let (_, news) = unbounded();
    let (requests, _) = unbounded();
    in_terminal(|terminal| show(terminal, app, &news, &requests))
}

/// Runs `show` with the terminal taken, and gives it back.
fn in_terminal(show: impl FnOnce(&mut DefaultTerminal) -> std::io::Result<()>) -> Result<Exit, CommandError> {
    let mut terminal = ratatui::try_init()?;
    let ended = show(&mut terminal);
    ratatui::try_restore()?;
    ended?;
    Ok(Exit::Done)
}

/// Shows `app` until a key ends it.
fn show(
    terminal: &mut DefaultTerminal,
    mut app: App,
    news: &Receiver<app::News>,
    requests: &Sender<app::Request>,
) -> std::io::Result<()> {
    loop {
        news.try_iter().for_each(|heard| app.take(heard));
        terminal.draw(|frame| screen::draw(frame, &app))?;
        if !event::poll(REDRAWN)? {
            continue;
        }
        // After a resize the next drawing takes the new size.
        let Event::Key(key) = event::read()? else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        match app.key(key) {
            Then::Quit => return Ok(()),
            // The thread that asks lives as long as this one.
            Then::Ask(request) => drop(requests.send(request)),
            Then::Nothing => {}
        }
    }
}

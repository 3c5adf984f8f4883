//! A run as one page of HTML: curves, evaluations, critics, critiques, settings, environment.
//!
//! The page stands alone: styles and pictures are within it, it has no script and asks for nothing over the network. Pure:
//! what is shown is handed in, the page is a text. Knows no file, no model and no actor.
//!
//! Invariant: every text that a model, a file or a user wrote is escaped.

mod axis;
mod chart;
mod contents;
mod critiques;
mod curves;
mod evaluation;
mod format;
mod page;
mod smooth;
mod summary;
mod table;

pub use contents::{Contents, CriticRow, Critique, CritiqueSet, NamedFigures, Setting};
pub use page::html;

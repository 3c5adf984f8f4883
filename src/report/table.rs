//! A table of the page.

use crate::eval::plot::escaped;

/// A cell.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    /// Text.
    Text(String),
    /// A number, aligned to the right.
    Number(String),
    /// Code, such as a key.
    Code(String),
}

impl Cell {
    /// A number; a dash if there is none.
    pub(super) fn number(value: Option<String>) -> Self {
        Self::Number(value.unwrap_or_else(|| "\u{2013}".to_owned()))
    }

    fn html(&self) -> String {
        match self {
            Self::Text(text) => format!("<td>{}</td>", escaped(text)),
            Self::Number(text) => format!("<td class=\"number\">{}</td>", escaped(text)),
            Self::Code(text) => format!("<td><code>{}</code></td>", escaped(text)),
        }
    }
}

/// A table with a row of heads; a head that begins with `#` is that of numbers.
pub(super) fn html(heads: &[&str], rows: &[Vec<Cell>]) -> String {
    let head = |head: &&str| match head.strip_prefix('#') {
        Some(number) => format!("<th class=\"number\">{}</th>", escaped(number)),
        None => format!("<th>{}</th>", escaped(head)),
    };
    let row = |cells: &Vec<Cell>| format!("<tr>{}</tr>\n", cells.iter().map(Cell::html).collect::<String>());
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody>\n</table></div>\n",
        heads.iter().map(head).collect::<String>(),
        rows.iter().map(row).collect::<String>()
    )
}

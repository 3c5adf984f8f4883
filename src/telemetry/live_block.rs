//! The live block: some rows at the bottom of a terminal that are drawn again and again, while log lines scroll above them.
//!
//! Pure: it makes the text that a terminal is to be written. Whoever writes it says how large the terminal is now.
//!
//! Invariants: a row never takes more than one line of the terminal; what does not fit is dropped, the least important first; the
//! cursor is below the block, so a process that is killed leaves a clean line behind.

/// A part of a row, with its importance: the larger number is dropped first.
pub(super) type Part = (u8, String);

/// A row: parts beside each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    /// Its importance among rows: the larger number is dropped first.
    pub(super) importance: u8,
    pub(super) parts: Vec<Part>,
}

/// Between two parts.
const GAP: &str = "  ";
/// A wider row is hard to read, and would wrap when a wide terminal gets narrower.
const COLUMNS_MAX: usize = 100;

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// What is drawn.
#[derive(Debug, Default)]
pub(super) struct LiveBlock {
    rows: Vec<Row>,
    /// The widths of the rows on the terminal.
    drawn: Vec<usize>,
    /// Whether the terminal wraps a row anew once it is narrower than that.
    reflows: bool,
}

impl LiveBlock {
    /// A block of nothing, on a terminal that wraps rows anew if it `reflows`.
    pub(super) fn new(reflows: bool) -> Self {
        Self { reflows, ..Self::default() }
    }

    /// The text that shows `rows` in place of those that are drawn.
    pub(super) fn replace(&mut self, rows: Vec<Row>, size: Size) -> String {
        self.rows = rows;
        self.write_above("", size)
    }

    /// The text that writes `lines` above the block.
    pub(super) fn write_above(&mut self, lines: &str, size: Size) -> String {
        let mut text = self.clear(size);
        text += lines;
        let shown = fit(&self.rows, size);
        self.drawn = shown.iter().map(|row| console::measure_text_width(row)).collect();
        for row in shown {
            text += &row;
            text += "\r\n";
        }
        text
    }

    /// Takes down what is drawn. A narrower terminal may have wrapped it.
    fn clear(&mut self, size: Size) -> String {
        let wrapped = |width: &usize| if self.reflows { width.div_ceil(size.columns.max(1)).max(1) } else { 1 };
        let up: usize = self.drawn.iter().map(wrapped).sum();
        self.drawn.clear();
        // tmux keeps a screen that is cleared from its first row on in its history, so the first row is cleared by itself.
        if up == 0 { String::new() } else { format!("\x1b[{up}A\r\x1b[K\x1b[1B\x1b[J\x1b[1A") }
    }
}

/// The rows that fit, each with the parts that fit.
fn fit(rows: &[Row], size: Size) -> Vec<String> {
    // One line for the cursor, and one for the log.
    let most = size.rows.saturating_sub(2).max(1);
    let mut kept: Vec<&Row> = rows.iter().filter(|row| !row.parts.is_empty()).collect();
    while kept.len() > most {
        let least = (0..kept.len()).rev().max_by_key(|index| kept[*index].importance).unwrap_or_default();
        kept.remove(least);
    }
    // The last column stays free: a terminal may wrap after it.
    let columns = size.columns.saturating_sub(1).clamp(1, COLUMNS_MAX);
    kept.into_iter().map(|row| fit_row(&row.parts, columns)).collect()
}

fn fit_row(parts: &[Part], columns: usize) -> String {
    let mut kept: Vec<&Part> = parts.iter().collect();
    let joined = |kept: &[&Part]| kept.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(GAP);
    while kept.len() > 1 && console::measure_text_width(&joined(&kept)) > columns {
        let least = (0..kept.len()).rev().max_by_key(|index| kept[*index].0).unwrap_or_default();
        kept.remove(least);
    }
    // A line break or a control sequence in a text of others would break the block.
    let row: String = joined(&kept).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    console::truncate_str(&row, columns, "…").into_owned()
}

/// Whether this terminal is known to wrap rows anew when it gets narrower. One that does not must not be taken for one that does:
/// log lines above the block would be erased.
pub(super) fn reflows(variable: impl Fn(&str) -> Option<String>) -> bool {
    const KNOWN: [&str; 7] = [
        "TMUX",
        "VTE_VERSION",
        "KITTY_WINDOW_ID",
        "ALACRITTY_WINDOW_ID",
        "WEZTERM_PANE",
        "WT_SESSION",
        "KONSOLE_VERSION",
    ];
    let programs = ["iTerm.app", "Apple_Terminal", "vscode", "ghostty", "WezTerm"];
    KNOWN.iter().any(|name| variable(name).is_some())
        || variable("TERM_PROGRAM").is_some_and(|program| programs.contains(&program.as_str()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A terminal that knows what the block uses.
    struct Screen {
        size: Size,
        lines: Vec<String>,
        row: usize,
        column: usize,
    }

    impl Screen {
        fn new(rows: usize, columns: usize) -> Self {
            Self { size: Size { rows, columns }, lines: vec![String::new()], row: 0, column: 0 }
        }

        fn write(&mut self, text: &str) {
            let mut rest = text.chars();
            while let Some(c) = rest.next() {
                match c {
                    '\r' => self.column = 0,
                    '\n' => self.down(),
                    '\x1b' => {
                        assert_eq!(rest.next(), Some('['));
                        let number: String = rest.clone().take_while(char::is_ascii_digit).collect();
                        let code = rest.nth(number.len()).expect("a whole code");
                        self.control(code, number.parse().unwrap_or_default());
                    }
                    c => {
                        if self.column == self.size.columns {
                            (self.column, self.row) = (0, self.row + 1);
                            self.lines.insert(self.row, String::new());
                        }
                        self.lines[self.row].push(c);
                        self.column += 1;
                    }
                }
            }
        }

        /// Its lines, and the one that the cursor is on.
        fn shown(&self) -> Vec<&str> {
            let last = self.lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
            self.lines[..last.max(self.row)].iter().map(String::as_str).chain([""]).collect()
        }

        fn control(&mut self, code: char, number: usize) {
            match code {
                'A' => self.row = self.row.checked_sub(number).expect("not above the top"),
                'B' => self.row = (self.row + number).min(self.lines.len() - 1),
                'K' => self.lines[self.row].truncate(self.column),
                'J' => {
                    assert_ne!(self.row, 0, "what is cleared from the first row on goes into the history");
                    self.lines.truncate(self.row + 1);
                    self.lines[self.row].truncate(self.column);
                }
                other => panic!("{other}"),
            }
        }

        fn down(&mut self) {
            (self.row, self.column) = (self.row + 1, 0);
            if self.row == self.lines.len() {
                self.lines.push(String::new());
            }
        }

        /// Gets narrower, and wraps every line anew.
        fn reflow(&mut self, columns: usize) {
            self.size.columns = columns;
            let wrapped = |line: &String| match line.is_empty() {
                true => vec![String::new()],
                false => line.chars().collect::<Vec<_>>().chunks(columns).map(|c| c.iter().collect()).collect(),
            };
            self.lines = self.lines.iter().flat_map(wrapped).collect();
            self.row = self.lines.len() - 1;
        }
    }

    fn row(importance: u8, parts: &[(u8, &str)]) -> Row {
        Row { importance, parts: parts.iter().map(|(rank, text)| (*rank, (*text).to_owned())).collect() }
    }

    fn rows() -> Vec<Row> {
        vec![row(1, &[(1, "step 3"), (9, "00:12"), (2, "CU 0.5")]), row(2, &[(1, "groups 9")]), row(0, &[(1, "waits")])]
    }

    #[test]
    fn log_lines_scroll_above_the_block() {
        let (mut screen, mut block) = (Screen::new(24, 80), LiveBlock::new(false));
        let size = screen.size;
        screen.write(&block.replace(rows(), size));
        for line in ["INFO one\n", "INFO two\n"] {
            screen.write(&block.write_above(line, size));
            screen.write(&block.replace(rows(), size));
        }
        assert_eq!(screen.shown(), ["INFO one", "INFO two", "step 3  00:12  CU 0.5", "groups 9", "waits", ""]);
        screen.write(&block.replace(Vec::new(), size));
        assert_eq!(screen.shown(), ["INFO one", "INFO two", ""]);
    }

    #[test]
    fn a_narrower_terminal_has_the_block_once_and_every_log_line() {
        let (mut screen, mut block) = (Screen::new(24, 80), LiveBlock::new(true));
        screen.write(&block.write_above("INFO one\n", screen.size));
        screen.write(&block.replace(rows(), screen.size));
        screen.reflow(10);
        screen.write(&block.replace(rows(), screen.size));
        assert_eq!(screen.shown(), ["INFO one", "step 3", "groups 9", "waits", ""]);
        // One that cuts its lines off instead has as many as before.
        let (mut screen, mut block) = (Screen::new(24, 80), LiveBlock::new(false));
        screen.write(&block.write_above("INFO one\n", screen.size));
        screen.write(&block.replace(rows(), screen.size));
        screen.size.columns = 10;
        screen.write(&block.replace(rows(), screen.size));
        assert_eq!(screen.shown(), ["INFO one", "step 3", "groups 9", "waits", ""]);
    }

    #[test]
    fn what_does_not_fit_is_dropped_the_least_important_first() {
        let shown = |rows_max, columns| fit(&rows(), Size { rows: rows_max, columns });
        assert_eq!(shown(24, 80), ["step 3  00:12  CU 0.5", "groups 9", "waits"]);
        assert_eq!(shown(24, 20), ["step 3  CU 0.5", "groups 9", "waits"]);
        assert_eq!(shown(24, 9), ["step 3", "groups 9", "waits"]);
        assert_eq!(shown(24, 5), ["ste…", "gro…", "wai…"]);
        assert_eq!(shown(4, 80), ["step 3  00:12  CU 0.5", "waits"]);
        assert_eq!(shown(1, 80), ["waits"]);
        let hostile = [row(0, &[(0, "server said\x1b[2J\nno")])];
        assert_eq!(fit(&hostile, Size { rows: 24, columns: 80 }), ["server said [2J no"]);
    }
}

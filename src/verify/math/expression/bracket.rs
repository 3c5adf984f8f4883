//! What brackets hold: pairs, intervals, sets and matrices.

use super::super::answer::Answer;
use super::super::token::Token;
use super::Parser;

impl Parser<'_> {
    /// What brackets hold that are no group: a pair, an interval, a set; or a matrix.
    pub(super) fn structure(&mut self) -> Option<Answer> {
        if let Some(Token::Command(name)) = self.peek()
            && let Some(kind) = name.strip_prefix("begin ")
        {
            let end = Token::Command(format!("end {kind}"));
            self.at += 1;
            return self.nested(|parser| parser.matrix(&end));
        }
        let open = self.take_one("([⦃")?;
        if open == '⦃' && self.take('⦄') {
            return Some(Answer::Several(Vec::new()));
        }
        let items = self.nested(Self::parts)?;
        let close = self.take_one(")]⦄")?;
        match (open, close, items.len()) {
            ('⦃', '⦄', _) => Some(Answer::Several(items)),
            ('⦃', ..) | (_, '⦄', _) | (.., 1) => None,
            _ => Some(Answer::Sequence(open, items, close)),
        }
        // A product of brackets is no structure.
        .filter(|_| !matches!(self.peek(), Some(Token::Sign('+' | '-' | '*' | '/' | '^' | '('))))
    }

    fn matrix(&mut self, end: &Token) -> Option<Answer> {
        let mut rows = vec![Vec::new()];
        loop {
            rows.last_mut()?.push(self.sum()?);
            match self.peek()? {
                Token::Sign('&') => self.at += 1,
                Token::Sign('\n') => {
                    self.at += 1;
                    if self.peek() == Some(end) {
                        break;
                    }
                    rows.push(Vec::new());
                }
                token if token == end => break,
                _ => return None,
            }
        }
        self.at += 1;
        Some(Answer::Matrix(rows))
    }
}

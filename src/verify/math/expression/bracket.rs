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
        if self.peek() == Some(&Token::Name("emptyset".to_owned())) {
            self.at += 1;
            return Some(Answer::Several(Vec::new()));
        }
        // The name of a point: `P(2, 4)`.
        let is_name = |token: &Token| matches!(token, Token::Name(name) if name.chars().all(char::is_uppercase));
        self.at += usize::from(self.peek().is_some_and(is_name) && self.sign(self.at + 1) == Some('('));
        let open = self.take_one("([⦃")?;
        if open == '⦃' && self.take('⦄') {
            return Some(Answer::Several(Vec::new()));
        }
        let mut items = self.nested(Self::parts)?;
        let close = self.take_one(")]⦄")?;
        if let [Answer::Matrix(_)] = items[..] {
            return items.pop();
        }
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

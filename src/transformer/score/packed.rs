//! One prefix and the texts behind it, packed into one sequence of rows: the position and the mask of each row.
//!
//! Within the prefix, attention is causal. A text's rows attend to the prefix and to their own text, never to another one,
//! and have positions as if the text followed the prefix directly. Knows no tensor.

use std::ops::Range;

/// One prefix and the texts that follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed<'a> {
    /// The prompt; at least one id.
    pub prefix: &'a [u32],
    /// The texts; each at least one id.
    pub texts: Vec<&'a [u32]>,
}

impl Packed<'_> {
    /// Tokens of the packed pass.
    pub fn tokens(&self) -> usize {
        self.prefix.len() + self.texts.iter().map(|text| text.len()).sum::<usize>()
    }

    /// Ids of the prefix and the texts.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> {
        self.prefix.iter().chain(self.texts.iter().copied().flatten()).copied()
    }

    /// The first row of each text.
    fn starts(&self) -> impl Iterator<Item = usize> {
        self.texts.iter().scan(self.prefix.len(), |next, text| {
            let start = *next;
            *next += text.len();
            Some(start)
        })
    }

    /// Rows whose logits predict the texts' ids, text after text.
    pub(crate) fn predicting_rows(&self) -> Vec<u32> {
        let last_of_prefix = self.prefix.len() - 1;
        let of_text = |(start, text): (usize, &&[u32])| {
            std::iter::once(last_of_prefix)
                .chain(start..start + text.len() - 1)
                .map(|row| row as u32)
                .collect::<Vec<_>>()
        };
        self.starts().zip(&self.texts).flat_map(of_text).collect()
    }
}

/// Which keys each row attends to: the prefix, and its own text up to itself.
#[derive(Debug)]
pub(crate) struct Segments {
    prefix: usize,
    /// First row of the text that a row belongs to; 0 inside the prefix.
    starts: Vec<usize>,
}

impl Segments {
    pub(crate) fn of(packed: &Packed<'_>) -> Self {
        let texts = packed.starts().zip(&packed.texts).flat_map(|(start, text)| std::iter::repeat_n(start, text.len()));
        let starts = std::iter::repeat_n(0, packed.prefix.len()).chain(texts).collect();
        Self { prefix: packed.prefix.len(), starts }
    }

    /// The rows of the prefix, then those of each text.
    pub(in crate::transformer) fn spans(&self) -> Vec<Range<usize>> {
        let mut spans = Vec::from([Range { start: 0, end: self.prefix }]);
        let texts = self.starts.iter().enumerate().skip(self.prefix);
        spans.extend(texts.filter(|&(row, &start)| row == start).map(|(row, _)| row..row + 1));
        for span in 1..spans.len() {
            spans[span].end = spans.get(span + 1).map_or(self.starts.len(), |next| next.start);
        }
        spans
    }

    /// A row's position: a text starts right behind the prefix, whatever was packed before it.
    pub(crate) fn position(&self, row: usize) -> usize {
        if row < self.prefix { row } else { self.prefix + row - self.starts[row] }
    }

    /// The keys that a row attends to, as two ranges of rows: of the newest `window` tokens, those of the prefix and those of
    /// its own text.
    pub(in crate::transformer) fn visible(&self, row: usize, window: usize) -> [Range<usize>; 2] {
        let oldest = (self.position(row) + 1).saturating_sub(window);
        if row < self.prefix {
            return [oldest..row + 1, 0..0];
        }
        [oldest.min(self.prefix)..self.prefix, self.starts[row] + oldest.saturating_sub(self.prefix)..row + 1]
    }

    /// The mask added to the scores, `(rows, rows)` row-major: 0 where a row attends to a key, else -infinity.
    pub(crate) fn mask(&self, window: usize) -> Vec<f32> {
        let rows = self.starts.len();
        let mut mask = vec![f32::NEG_INFINITY; rows * rows];
        for (row, mask) in mask.chunks_exact_mut(rows).enumerate() {
            for keys in self.visible(row, window) {
                mask[keys].fill(0.0);
            }
        }
        mask
    }
}

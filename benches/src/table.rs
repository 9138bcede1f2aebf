//! The table of a command whose rows are named figures.
//!
//! Promises the rules of `run`'s table: medians of the rounds, and ratios that are taken between
//! rounds that ran next to each other.

use std::fmt::Write as _;

use crate::report::{Measurement, median, ratios};

/// A figure of every row.
pub(crate) struct Column<Row> {
    title: &'static str,
    digits: usize,
    figure: fn(&Row) -> f64,
    compared: bool,
}

impl<Row> Column<Row> {
    /// A figure beside which its ratio to the first target's stands.
    pub(crate) fn compared(title: &'static str, digits: usize, figure: fn(&Row) -> f64) -> Self {
        Self { title, digits, figure, compared: true }
    }

    /// A figure alone.
    pub(crate) fn plain(title: &'static str, digits: usize, figure: fn(&Row) -> f64) -> Self {
        Self { title, digits, figure, compared: false }
    }
}

/// One line for every case and target, under a sentence about what was measured.
pub(crate) fn table<Row: Measurement>(
    about: &str,
    rows: &[Row],
    columns: &[Column<Row>],
) -> String {
    let mut text = format!(
        "{about} Medians of the rounds. × is the first target's figure ÷ this target's, the \
         median of the pairs (their range).\n\n| case | target |"
    );
    let mut rule = "|---|---|".to_owned();
    for column in columns {
        let more = if column.compared { (" × (range) |", "--:|") } else { ("", "") };
        let _fits = write!(text, " {} |{}", column.title, more.0);
        let _fits = write!(rule, "--:|{}", more.1);
    }
    let _fits = writeln!(text, "\n{rule}");
    let mut cases: Vec<String> = Vec::new();
    for row in rows {
        if !cases.contains(&row.case()) {
            cases.push(row.case());
        }
    }
    for case in cases {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.case() == case).collect();
        let mut targets: Vec<&str> = Vec::new();
        for row in &rows {
            if !targets.contains(&row.target()) {
                targets.push(row.target());
            }
        }
        for target in &targets {
            let _fits = write!(text, "| {case} | {target} |");
            for column in columns {
                text.push_str(&cells(&rows, targets[0], target, column));
            }
            text.push('\n');
        }
    }
    text
}

fn cells<Row: Measurement>(
    rows: &[&Row],
    first: &str,
    target: &str,
    column: &Column<Row>,
) -> String {
    let own = rows.iter().filter(|row| row.target() == target);
    let middle = median(own.map(|row| (column.figure)(row)).collect());
    let mut text = format!(" {middle:.*} |", column.digits);
    if column.compared {
        let pairs = ratios(rows, first, target, column.figure);
        let low = pairs.iter().copied().fold(f64::INFINITY, f64::min);
        let high = pairs.iter().copied().fold(0.0, f64::max);
        let _fits = write!(text, " {:.2} ({low:.2}–{high:.2}) |", median(pairs));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Row(&'static str, usize, f64);

    impl Measurement for Row {
        fn case(&self) -> String {
            "walk".to_owned()
        }

        fn target(&self) -> &str {
            self.0
        }

        fn round(&self) -> usize {
            self.1
        }
    }

    #[test]
    fn a_column_has_the_median_and_the_ratios_of_the_pairs() {
        let rows = [Row("a", 1, 20.0), Row("b", 1, 10.0), Row("a", 2, 60.0), Row("b", 2, 20.0)];
        let columns = [Column::compared("steps", 1, |row: &Row| row.2)];
        let table = table("Walks.", &rows, &columns);
        assert!(table.contains("| walk | a | 40.0 | 1.00 (1.00–1.00) |\n"), "{table}");
        assert!(table.contains("| walk | b | 15.0 | 2.50 (2.00–3.00) |\n"), "{table}");
    }
}

//! The table form: centred titles, cells to the right.

use super::{Columns, Reply, columns};

pub(super) fn print(reply: &Reply) -> String {
    columns(reply).map(|columns| draw(&columns)).unwrap_or_default()
}

fn draw(columns: &Columns) -> String {
    let titles: Vec<String> = columns.titles.iter().map(|title| shown(title)).collect();
    let widths: Vec<usize> = (0..titles.len())
        .map(|at| {
            let cells = columns.rows.iter().map(|row| width(&row[at]));
            cells.chain([width(&titles[at])]).max().unwrap_or(0)
        })
        .collect();
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    let rule = format!("+{}+\n", rules.join("+"));

    let mut table = rule.clone();
    table.push_str(&line(&titles, &widths, |gap| gap / 2));
    table.push_str(&rule);
    for row in &columns.rows {
        table.push_str(&line(row, &widths, |gap| gap));
    }
    table.push_str(&rule);
    table
}

/// `left` says how many of a gap's blanks stand left of the text.
fn line(cells: &[String], widths: &[usize], left: impl Fn(usize) -> usize) -> String {
    let mut line = String::from("|");
    for (cell, column) in cells.iter().zip(widths) {
        let gap = column.saturating_sub(width(cell));
        let before = left(gap);
        let blanks = |count: usize| " ".repeat(count);
        line.push_str(&format!(" {}{cell}{} |", blanks(before), blanks(gap - before)));
    }
    line.push('\n');
    line
}

fn shown(title: &str) -> String {
    title.replace('_', " ").to_uppercase()
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_gap_leaves_titles_one_blank_to_the_left() {
        let columns = Columns {
            titles: vec!["raft_term", "a"],
            rows: vec![vec!["123456789012".to_owned(), "xy".to_owned()], vec!["1".to_owned(); 2]],
        };
        let expected = "\
+--------------+----+
|  RAFT TERM   | A  |
+--------------+----+
| 123456789012 | xy |
|            1 |  1 |
+--------------+----+
";
        assert_eq!(draw(&columns), expected);
    }
}

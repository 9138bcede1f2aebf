//! The table form: centred titles, cells to the right, long cells on several lines.

use super::{Columns, Reply, columns};

/// Characters of a cell beyond which it is cut at blanks, as etcdctl's tables do.
const CELL_WIDTH_MAX: usize = 30;

pub(super) fn print(reply: &Reply) -> String {
    columns(reply).map(|columns| draw(&columns)).unwrap_or_default()
}

fn draw(columns: &Columns) -> String {
    let titles: Vec<String> = columns.titles.iter().map(|title| shown(title)).collect();
    let widths: Vec<usize> = (0..titles.len())
        .map(|at| {
            let cells = columns.rows.iter().map(|row| cell_width(&row[at]));
            cells.chain([width(&titles[at])]).max().unwrap_or(0)
        })
        .collect();
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    let rule = format!("+{}+\n", rules.join("+"));

    let mut table = rule.clone();
    table.push_str(&line(&titles, &widths, |gap| gap / 2));
    table.push_str(&rule);
    for row in &columns.rows {
        let cells: Vec<Vec<String>> = row.iter().map(|cell| wrapped(cell)).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(0);
        for at in 0..height {
            let part = |cell: &Vec<String>| cell.get(at).cloned().unwrap_or_default();
            table.push_str(&line(&cells.iter().map(part).collect::<Vec<_>>(), &widths, |gap| gap));
        }
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

/// The lines of a cell.
fn wrapped(cell: &str) -> Vec<String> {
    if width(cell) <= CELL_WIDTH_MAX {
        return vec![cell.to_owned()];
    }
    let mut lines: Vec<String> = Vec::new();
    for word in cell.split(' ') {
        match lines.last_mut() {
            Some(line) if width(line) + 1 + width(word) <= cell_width(cell) => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A long cell takes the full width even if its lines are shorter.
fn cell_width(cell: &str) -> usize {
    let longest_word = cell.split(' ').map(width).max().unwrap_or(0);
    width(cell).min(CELL_WIDTH_MAX.max(longest_word))
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

    /// As etcdctl 3.5.16 shows a member out of space, one blank at the end included.
    #[test]
    fn long_cells_are_cut_at_blanks() {
        let alarm = "memberID:13668033151171901709 alarm:NOSPACE ";
        let columns = Columns { titles: vec!["errors"], rows: vec![vec![alarm.to_owned()]] };
        let expected = "\
+--------------------------------+
|             ERRORS             |
+--------------------------------+
|  memberID:13668033151171901709 |
|                 alarm:NOSPACE  |
+--------------------------------+
";
        assert_eq!(draw(&columns), expected);
    }
}

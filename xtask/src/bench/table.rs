//! Tables that read well on a terminal and are Markdown at the same time, so that what is published is what was printed.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets::ASCII_MARKDOWN};

/// The first column is text, to the left; all others are numbers, to the right.
#[must_use]
pub fn render(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(ASCII_MARKDOWN)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header)
        .add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    // A table's lines are padded at their ends.
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// With two digits after the point, which is finer than any noise here.
#[must_use]
pub fn number(value: f64) -> String {
    format!("{value:.2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown() {
        let text = render(&["what", "µs"], [vec!["empty".to_owned(), number(2.5)]]);
        let cells: Vec<Vec<&str>> =
            text.lines().map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect();
        assert_eq!(cells.len(), 3);
        assert_eq!(cells[0], ["what", "µs"]);
        assert!(cells[1].iter().all(|cell| cell.trim_matches(':').chars().all(|sign| sign == '-')));
        assert_eq!(cells[2], ["empty", "2.50"]);
    }
}

//! What holds without running a cell.

use ferrotune_course::{check, source};

use crate::course;

/// Pages, both languages, records, notebooks: `cargo course check` says what to do about each finding.
#[test]
fn lessons_keep_their_promises() {
    check::all(&course()).unwrap_or_else(|findings| panic!("{findings}"));
}

#[test]
fn both_books_build_and_every_link_in_them_leads_somewhere() {
    let folder = tempfile::tempdir().unwrap();
    check::book(&course(), folder.path()).unwrap_or_else(|findings| panic!("{findings}"));
}

/// Cells that cannot run in a notebook: its variables live on without what they borrow.
#[test]
fn cells_print_by_statements_alone() {
    for lesson in course().lessons().unwrap() {
        for cell in course().cells(&lesson).unwrap() {
            let last = cell.code.lines().last().unwrap_or_default();
            assert!(last.ends_with([';', '}']), "the cell `{}` of `{lesson}` ends in an expression: `{last}`", cell.id);
        }
    }
    assert!(source::cells("").unwrap().is_empty());
}

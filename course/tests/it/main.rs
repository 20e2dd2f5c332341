//! The lessons as they are, checked and run.

mod pages;
mod records;

use ferrotune_course::Course;

/// This repository's course.
fn course() -> Course {
    Course::at(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

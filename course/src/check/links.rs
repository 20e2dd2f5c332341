//! Links lead somewhere, and pages load nothing from another host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::course::read;
use crate::{Course, Error, Page, Result};

/// Links between pages, as written in Markdown.
pub(super) fn check(course: &Course, page: &Page) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for section in &page.sections {
        let targets = section.body.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let name = file.trim_end_matches(".md");
            let found = if file.is_empty() {
                page.sections.iter().any(|section| section.id == anchor)
            } else {
                let known = course.pages(page.language)?.iter().any(|page| page == name) && file.ends_with(".md");
                known
                    && (anchor.is_empty()
                        || Page::read(course, page.language, name)?.sections.iter().any(|s| s.id == anchor))
            };
            if !found {
                findings.push(format!(
                    "{}, section `{}`: the link `{target}` leads nowhere. Name a page of the summary, and the id of one of its headings.",
                    page.place, section.id
                ));
            }
        }
    }
    Ok(findings)
}

/// Links, pictures, styles and scripts of a built book.
///
/// Errors: [`Error::File`].
pub fn in_book(folder: &Path) -> Result<Vec<String>> {
    let mut pages: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::read(&folder))? {
            let path = entry.map_err(Error::read(&folder))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "html") {
                let html = read(&path)?;
                pages.insert(path, html);
            }
        }
    }
    let mut findings = Vec::new();
    for (path, html) in &pages {
        let shown = path.strip_prefix(folder).unwrap_or(path).display();
        for tag in html.split('<').filter_map(|rest| rest.split('>').next()) {
            let attribute = |name: &str| {
                let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
                rest.split('"').next()
            };
            let loads = attribute("src").or_else(|| attribute("href").filter(|_| tag.starts_with("link")));
            if let Some(target) = loads.filter(|target| target.contains("://") || target.starts_with("//")) {
                findings.push(format!("`{shown}` loads `{target}` from another host."));
            }
            let target = attribute("src").or_else(|| attribute("href")).unwrap_or_default();
            if target.is_empty() || target.contains(':') {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { normal(&path.with_file_name("").join(file)) };
            let has_anchor = |html: &String| anchor.is_empty() || html.contains(&format!("id=\"{anchor}\""));
            if !file.exists() || !pages.get(&file).is_none_or(has_anchor) {
                findings.push(format!("`{shown}` links to `{target}`, which is not there."));
            }
        }
    }
    Ok(findings)
}

/// Without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        if part.as_os_str() == ".." {
            out.pop();
        } else {
            out.push(part);
        }
    }
    out
}

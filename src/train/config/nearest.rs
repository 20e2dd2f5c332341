//! The known name that a misspelt one most likely means.

/// The name in `names` that is nearest to `unknown`; the first of equals.
///
/// A name that holds all of `unknown` (`batch_size` in `per_device_train_batch_size`) is nearer than any misspelling.
pub(super) fn nearest<'a>(unknown: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let unknown = unknown.to_lowercase().replace('-', "_");
    let mut best: Option<(f64, &str)> = None;
    for name in names {
        let part = if unknown.len() > 1 && name.contains(&unknown) { 1.0 } else { 0.0 };
        let score = part + strsim::normalized_damerau_levenshtein(&unknown, name);
        if best.is_none_or(|(top, _)| score > top) {
            best = Some((score, name));
        }
    }
    best.map(|(_, name)| name)
}

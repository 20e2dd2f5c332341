//! Where displays go: to a kernel that takes frames, to evcxr as it is, or to a terminal.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::content::Bundle;

/// What reads this process's standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::show) enum Backend {
    /// A kernel that takes frames: each the byte 0x1E, one line of JSON, and a line feed. It shows them at once.
    Frames,
    /// evcxr: it shows one content of each MIME type, the last, when the cell ends, and text at once.
    Evcxr,
    /// A terminal or a file: text.
    Text,
}

/// Whether a content is new or takes an older one's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::show) enum Place {
    New,
    Update,
}

impl Backend {
    /// This process's, which its environment tells.
    pub(in crate::show) fn current() -> Self {
        static CURRENT: OnceLock<Backend> = OnceLock::new();
        *CURRENT.get_or_init(|| Self::choose(|name| std::env::var_os(name).is_some()))
    }

    fn choose(is_set: impl Fn(&str) -> bool) -> Self {
        match (is_set("JUPYTER_RICH_STDOUT"), is_set("EVCXR_IS_RUNTIME")) {
            (true, _) => Self::Frames,
            (false, true) => Self::Evcxr,
            (false, false) => Self::Text,
        }
    }

    /// What is written so that `bundle` is shown.
    pub(in crate::show) fn display(self, bundle: &Bundle, id: &str, place: Place) -> String {
        match self {
            Self::Frames => {
                let msg_type = if place == Place::New { "display_data" } else { "update_display_data" };
                let content = json!({"data": bundle.data(), "metadata": {}, "transient": {"display_id": id}});
                frame(msg_type, content)
            }
            Self::Evcxr => content(bundle.mime, &bundle.data) + &content("text/plain", &bundle.text),
            Self::Text => line(&bundle.text),
        }
    }
}

/// A message for a kernel that takes frames.
pub(in crate::show) fn frame(msg_type: &str, content: Value) -> String {
    let json = json!({"msg_type": msg_type, "content": content}).to_string();
    // evcxr looks for its own words anywhere in a line.
    format!("\u{1e}{}\n", json.replace("EVCXR_", "\\u0045VCXR_"))
}

fn content(mime: &str, data: &str) -> String {
    format!("EVCXR_BEGIN_CONTENT {mime}\n{}EVCXR_END_CONTENT\n", line(data))
}

/// `text`, ended by a line feed.
pub(in crate::show) fn line(text: &str) -> String {
    if text.ends_with('\n') { text.into() } else { format!("{text}\n") }
}

/// Writes whole, so that no other thread's text comes between.
pub(in crate::show) fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody who could be told of an error is there when standard output is closed.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A name that no other display has, in this process or in the kernel's next one.
pub(in crate::show) fn new_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("ferrotune-{}-{:x}-{number}", std::process::id(), since_1970.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::display::content::{Content, Html};

    fn parsed(frame: &str) -> Value {
        let json = frame.strip_prefix('\u{1e}').and_then(|f| f.strip_suffix('\n')).unwrap();
        assert!(!json.contains(['\u{1e}', '\n']) && !json.contains("EVCXR_"), "{json}");
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_environment_tells() {
        assert_eq!(Backend::choose(|_| true), Backend::Frames);
        assert_eq!(Backend::choose(|name| name == "EVCXR_IS_RUNTIME"), Backend::Evcxr);
        assert_eq!(Backend::choose(|_| false), Backend::Text);
    }

    #[test]
    fn a_frame_is_one_line_whatever_it_shows() {
        let html = "\\EVCXR_BEGIN_CONTENT text/html\n\u{1e}<b>đá</b>\r\nEVCXR_EXECUTION_COMPLETE";
        let message = parsed(&Backend::Frames.display(&Html::from(html).bundle(), "a", Place::New));
        assert_eq!(message["msg_type"], "display_data");
        assert_eq!(message["content"]["data"]["text/html"], html);
        assert!(message["content"]["data"]["text/plain"].is_string());
        assert_eq!(message["content"]["transient"]["display_id"], "a");
        let update = parsed(&Backend::Frames.display(&Html::from("x").bundle(), "a", Place::Update));
        assert_eq!(update["msg_type"], "update_display_data");
    }

    #[test]
    fn evcxr_gets_contents_and_a_terminal_text() {
        let bundle = Html::from("<b>x</b>").bundle();
        let expected = "EVCXR_BEGIN_CONTENT text/html\n<b>x</b>\nEVCXR_END_CONTENT\n\
                        EVCXR_BEGIN_CONTENT text/plain\nx\nEVCXR_END_CONTENT\n";
        assert_eq!(Backend::Evcxr.display(&bundle, "a", Place::New), expected);
        assert_eq!(Backend::Text.display(&bundle, "a", Place::New), "x\n");
    }

    #[test]
    fn ids_differ() {
        assert_ne!(new_id(), new_id());
    }
}

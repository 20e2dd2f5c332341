//! What a cell writes, taken apart.
//!
//! Standard output carries three things: text; *frames*, each the byte 0x1E, a JSON object `{"msg_type", "content"}` and a line
//! end, by which code shows pictures and what updates in place; and lines that are meant for evcxr.

use serde_json::Value;

/// Something that code wrote.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    Stdout(String),
    Stderr(String),
    /// A message of the Jupyter protocol, of one of the types `display_data`, `update_display_data`, `clear_output`; or a
    /// `payload` for the reply.
    Message {
        msg_type: String,
        content: Value,
    },
}

/// A piece of standard output.
#[derive(Debug, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Frame {
        msg_type: String,
        content: Value,
    },
    /// A line for evcxr, without its end.
    Control(String),
}

const FRAME: u8 = 0x1e;
const CONTROL: &[u8] = b"EVCXR_";
pub(super) const COMPLETE: &str = "EVCXR_EXECUTION_COMPLETE";
pub(super) const PANIC: &str = "EVCXR_PANIC_NOTIFICATION";
pub(super) const USER_ERROR: &str = "EVCXR_ERROR_OCCURRED";
const BEGIN_CONTENT: &str = "EVCXR_BEGIN_CONTENT ";
const END_CONTENT: &str = "EVCXR_END_CONTENT";
/// The beginnings of evcxr's other lines: `println!` in its runtime, in the code around a cell, and in `evcxr_input`.
const OTHERS: [&str; 2] = ["EVCXR_VARIABLE_CHANGED_TYPE:", "EVCXR_INPUT_REQUEST"];

/// Takes bytes as they come and gives pieces, each as soon as it is whole.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    held: Vec<u8>,
    /// Between the lines that begin and end a content for evcxr.
    in_content: bool,
}

impl Splitter {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next piece, if there is a whole one.
    pub(super) fn next(&mut self) -> Option<Piece> {
        if self.in_content {
            let line = self.line()?;
            self.in_content = line != END_CONTENT && line != PANIC;
            return Some(Piece::Control(line));
        }
        let text = self.text_len();
        if text > 0 {
            return Some(Piece::Text(self.take(text)));
        }
        match self.held.first()? {
            &FRAME => {
                let line = self.line()?;
                Some(frame(&line[1..]).unwrap_or(Piece::Text(format!("{}\n", &line[1..]))))
            }
            _ if self.held.starts_with(CONTROL) => {
                let line = self.line()?;
                self.in_content = line.starts_with(BEGIN_CONTENT);
                let whole = [COMPLETE, PANIC, USER_ERROR].contains(&line.as_str());
                let control = whole || self.in_content || OTHERS.iter().any(|start| line.starts_with(start));
                Some(if control { Piece::Control(line) } else { Piece::Text(format!("{line}\n")) })
            }
            _ => None,
        }
    }

    /// What is left, as text: no more is coming.
    pub(super) fn rest(&mut self) -> Option<String> {
        (!self.held.is_empty()).then(|| self.take(self.held.len()))
    }

    /// How many of the held bytes are text for certain: up to a frame, a line for evcxr, or what may become one of them.
    fn text_len(&self) -> usize {
        let special = (0..self.held.len()).find(|&i| {
            let rest = &self.held[i..];
            rest[0] == FRAME || rest.starts_with(CONTROL) || (rest.len() < CONTROL.len() && CONTROL.starts_with(rest))
        });
        let text = special.unwrap_or(self.held.len());
        // A character of several bytes may have come in part.
        match std::str::from_utf8(&self.held[..text]) {
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            _ => text,
        }
    }

    fn line(&mut self) -> Option<String> {
        let end = self.held.iter().position(|b| *b == b'\n')?;
        let mut line = self.take(end + 1);
        line.pop();
        Some(line)
    }

    fn take(&mut self, n: usize) -> String {
        let rest = self.held.split_off(n);
        let taken = std::mem::replace(&mut self.held, rest);
        String::from_utf8_lossy(&taken).into_owned()
    }
}

fn frame(json: &str) -> Option<Piece> {
    let mut frame: serde_json::Map<String, Value> = serde_json::from_str(json).ok()?;
    let Some(Value::String(msg_type)) = frame.remove("msg_type") else { return None };
    Some(Piece::Frame { msg_type, content: frame.remove("content")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn split(chunks: &[&[u8]]) -> Vec<Piece> {
        let mut splitter = Splitter::default();
        let mut pieces = Vec::new();
        for chunk in chunks {
            splitter.push(chunk);
            pieces.extend(std::iter::from_fn(|| splitter.next()));
        }
        pieces.extend(splitter.rest().map(Piece::Text));
        pieces
    }

    fn text(s: &str) -> Piece {
        Piece::Text(s.into())
    }

    fn control(s: &str) -> Piece {
        Piece::Control(s.into())
    }

    #[test]
    fn text_frames_and_lines_for_evcxr_part() {
        let all =
            b"50 %\x1e{\"msg_type\":\"clear_output\",\"content\":{\"wait\":true}}\ndoneEVCXR_EXECUTION_COMPLETE\nlate";
        let expected = || {
            let content = json!({"wait": true});
            let frame = Piece::Frame { msg_type: "clear_output".into(), content };
            vec![text("50 %"), frame, text("done"), control("EVCXR_EXECUTION_COMPLETE"), text("late")]
        };
        assert_eq!(split(&[all]), expected());
        // Wherever the bytes are cut, the same comes out, text in parts.
        for at in 0..all.len() {
            let pieces = split(&[&all[..at], &all[at..]]);
            let mut joined: Vec<Piece> = Vec::new();
            for piece in pieces {
                match (joined.last_mut(), piece) {
                    (Some(Piece::Text(before)), Piece::Text(more)) => before.push_str(&more),
                    (_, piece) => joined.push(piece),
                }
            }
            assert_eq!(joined, expected(), "cut at {at}");
        }
    }

    #[test]
    fn a_content_goes_to_evcxr_whole() {
        let all = b"EVCXR_BEGIN_CONTENT text/html\n<b>\x1eEVCXR_x</b>\nEVCXR_END_CONTENT\nafter\n";
        let [begin, end] = ["EVCXR_BEGIN_CONTENT text/html", "EVCXR_END_CONTENT"].map(control);
        assert_eq!(split(&[all]), [begin, control("<b>\u{1e}EVCXR_x</b>"), end, text("after\n")]);
    }

    #[test]
    fn what_is_neither_stays_text() {
        assert_eq!(split(&[b"EVCXR_OTHER\n"]), [text("EVCXR_OTHER\n")]);
        assert_eq!(split(&[b"\x1enot json\n"]), [text("not json\n")]);
        assert_eq!(split(&["ch\u{e0}o".as_bytes().split_at(3).0, b"\xa0o"]), [text("ch"), text("\u{e0}o")]);
        assert_eq!(split(&[b"EVC", b"ERT\n"]), [text("EVCERT\n")]);
    }
}

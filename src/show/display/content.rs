//! What can be shown: one value in the forms that a notebook and a terminal take.

use serde_json::{Map, Value};

use crate::show::Table;

/// Something that can be shown.
pub trait Content {
    /// Its forms, by MIME type; `text/plain` among them.
    fn bundle(&self) -> Bundle;
}

/// A value in several forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The MIME type of the picture.
    pub mime: &'static str,
    /// The picture; in base64 where it is not text.
    pub data: String,
    /// What stands for it where only text can be shown.
    pub text: String,
}

impl Bundle {
    /// As the `data` of a Jupyter message.
    pub(super) fn data(&self) -> Value {
        let mut data = Map::new();
        data.insert(self.mime.into(), self.data.clone().into());
        data.insert("text/plain".into(), self.text.clone().into());
        Value::Object(data)
    }
}

macro_rules! text_content {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(pub String);

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }
    };
}

text_content!(
    /// A piece of HTML.
    Html
);
text_content!(
    /// A picture as SVG.
    Svg
);
text_content!(
    /// Text in Markdown.
    Markdown
);

/// A picture as the bytes of a PNG file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Png(pub Vec<u8>);

impl From<Vec<u8>> for Png {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Png {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<&Table> for Table {
    fn from(table: &Table) -> Self {
        table.clone()
    }
}

impl Content for Html {
    fn bundle(&self) -> Bundle {
        Bundle { mime: "text/html", data: self.0.clone(), text: without_tags(&self.0) }
    }
}

impl Content for Svg {
    fn bundle(&self) -> Bundle {
        let title = self.0.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
        let text = title.map_or_else(|| "[picture]".into(), |(title, _)| format!("[picture: {title}]"));
        Bundle { mime: "image/svg+xml", data: self.0.clone(), text }
    }
}

impl Content for Png {
    fn bundle(&self) -> Bundle {
        let data = base64::encode(&self.0);
        Bundle { mime: "image/png", data, text: "[picture]".into() }
    }
}

impl Content for Markdown {
    fn bundle(&self) -> Bundle {
        Bundle { mime: "text/markdown", data: self.0.clone(), text: self.0.clone() }
    }
}

impl Content for Table {
    fn bundle(&self) -> Bundle {
        Bundle { mime: "text/html", data: self.to_html(), text: self.to_text() }
    }
}

/// Text as HTML shows it.
pub(in crate::show) fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html += "&amp;",
            '<' => html += "&lt;",
            '>' => html += "&gt;",
            '"' => html += "&quot;",
            c => html.push(c),
        }
    }
    html
}

/// The words of a piece of HTML.
fn without_tags(html: &str) -> String {
    let mut parts = html.split('<');
    let before = parts.next().unwrap_or_default();
    let after = parts.map(|part| part.split_once('>').map_or("", |(_, words)| words));
    let text = std::iter::once(before).chain(after).collect::<Vec<_>>().join(" ");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_falls_back_to_its_words() {
        let text = |html: &str| Html::from(html).bundle().text;
        assert_eq!(text("<b>x</b>"), "x");
        assert_eq!(text("a <i>b</i>\n<p>c &lt; d</p>"), "a b c < d");
        assert_eq!(text("plain"), "plain");
        assert_eq!(text("&amp;lt;"), "&lt;");
        assert_eq!(text(""), "");
    }

    #[test]
    fn pictures_say_what_they_show() {
        assert_eq!(Svg::from("<svg><title>Loss</title></svg>").bundle().text, "[picture: Loss]");
        let png = Png::from(&b"\x89PNG"[..]).bundle();
        assert_eq!((png.mime, png.data.as_str()), ("image/png", "iVBORw=="));
    }

    #[test]
    fn a_table_keeps_its_cells_out_of_the_markup() {
        let mut table = Table::new(["<h>", "n"]).right(1);
        table.row(["a & b", "1"]);
        let bundle = table.bundle();
        assert!(bundle.data.contains("&lt;h&gt;") && bundle.data.contains("a &amp; b"), "{}", bundle.data);
        assert_eq!(bundle.text, table.to_text());
        assert_eq!(bundle.data().as_object().unwrap().keys().collect::<Vec<_>>(), ["text/html", "text/plain"]);
    }
}

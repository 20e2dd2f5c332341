//! The Hub's token never leaves by an output.

use jupyter_protocol::{JupyterMessage, JupyterMessageContent};

/// What must not be shown.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Vec<String>);

/// Shorter ones would blot out ordinary words.
const SHORTEST: usize = 8;

impl Secrets {
    /// The token from the environment and from huggingface_hub's file.
    pub fn of_this_user() -> Self {
        let folder = |name: &str| std::env::var_os(name).map(std::path::PathBuf::from);
        let home = folder("HF_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache/huggingface")));
        let file = folder("HF_TOKEN_PATH").or_else(|| home.map(|home| home.join("token")));
        let stored = file.and_then(|file| std::fs::read_to_string(file).ok());
        let all = std::env::var("HF_TOKEN").ok().into_iter().chain(stored);
        Self(all.map(|token| token.trim().to_owned()).filter(|token| token.len() >= SHORTEST).collect())
    }

    /// `text` without the secrets that stand in it, if any do.
    pub fn mask(&self, text: &str) -> Option<String> {
        let found = self.0.iter().any(|secret| text.contains(secret.as_str()));
        found.then(|| self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***")))
    }

    /// The message with `***` in the place of secrets.
    pub fn masked(&self, mut message: JupyterMessage) -> JupyterMessage {
        if self.0.is_empty() {
            return message;
        }
        let text = serde_json::to_string(&message.content).ok();
        if let Some(masked) = text.and_then(|text| self.mask(&text))
            && let Ok(value) = serde_json::from_str(&masked)
            && let Ok(content) = JupyterMessageContent::from_type_and_content(&message.header.msg_type, value)
        {
            message.content = content;
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jupyter_protocol::StreamContent;

    #[test]
    fn a_token_is_masked() {
        let secrets = Secrets(vec!["hf_abcdefgh".into()]);
        let text = |message: &JupyterMessage| match &message.content {
            JupyterMessageContent::StreamContent(stream) => stream.text.clone(),
            _ => String::new(),
        };
        let message = |text: &str| JupyterMessage::new(StreamContent::stdout(text), None);
        assert_eq!(text(&secrets.masked(message("token: hf_abcdefgh!"))), "token: ***!");
        assert_eq!(text(&secrets.masked(message("token: none"))), "token: none");
    }
}

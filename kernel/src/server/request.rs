//! Reads requests. Frontends leave out fields that the protocol gives a default for, which the types of `jupyter-protocol` do
//! not all know.

use jupyter_protocol::{Header, JupyterMessage, JupyterMessageContent};
use jupyter_zmq_client::{RawMessage, Result, RouterRecvConnection, RuntimeError};
use serde_json::{Value, json};
use zeromq::SocketRecv;

/// The next message, checked against the key.
///
/// Errors: it is none, or is not signed.
pub(super) async fn read(connection: &mut RouterRecvConnection) -> Result<JupyterMessage> {
    let raw = RawMessage::from_multipart(connection.socket.recv().await?, &connection.mac)?;
    let [header, parent, metadata, content, buffers @ ..] = &raw.jparts[..] else {
        return Err(RuntimeError::InsufficientMessageParts(raw.jparts.len()));
    };
    let header: Header = serde_json::from_slice(header)?;
    let content = with_defaults(&header.msg_type, serde_json::from_slice(content)?);
    let content = JupyterMessageContent::from_type_and_content(&header.msg_type, content)
        .map_err(|source| RuntimeError::ParseError { msg_type: header.msg_type.clone(), source })?;
    Ok(JupyterMessage {
        zmq_identities: raw.zmq_identities.clone(),
        // Empty where there is no parent.
        parent_header: serde_json::from_slice(parent).ok(),
        metadata: serde_json::from_slice(metadata)?,
        buffers: buffers.to_vec(),
        channel: None,
        header,
        content,
    })
}

fn with_defaults(msg_type: &str, mut content: Value) -> Value {
    if msg_type == "history_request"
        && let Value::Object(fields) = &mut content
    {
        let defaults = json!({"output": false, "raw": true, "unique": false, "session": 0, "start": 0, "stop": 0, "n": 10,
            "pattern": "*"});
        for (name, value) in defaults.as_object().into_iter().flatten() {
            let field = fields.entry(name.clone()).or_insert(Value::Null);
            if field.is_null() {
                *field = value.clone();
            }
        }
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;
    use jupyter_protocol::HistoryRequest;

    #[test]
    fn a_history_may_be_asked_for_in_few_words() {
        let read = |content| JupyterMessageContent::from_type_and_content("history_request", content);
        let short = json!({"hist_access_type": "search", "pattern": "a*", "n": null});
        assert!(read(short.clone()).is_err(), "or else the defaults are not needed here");
        match read(with_defaults("history_request", short)).unwrap() {
            JupyterMessageContent::HistoryRequest(HistoryRequest::Search { pattern, unique, n, .. }) => {
                assert_eq!((pattern.as_str(), unique, n), ("a*", false, 10));
            }
            other => panic!("{other:?}"),
        }
    }
}

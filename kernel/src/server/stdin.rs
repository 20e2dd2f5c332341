//! The stdin socket: a cell asks the person in front of the notebook.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jupyter_protocol::{InputRequest, JupyterMessage, JupyterMessageContent};
use jupyter_zmq_client::KernelStdinConnection;
use tokio::sync::mpsc;

use super::next;

/// How often a waiting cell looks whether it was interrupted.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub(super) struct Stdin {
    requests: mpsc::UnboundedSender<JupyterMessage>,
    answers: Arc<Mutex<Receiver<JupyterMessage>>>,
    interrupted: Arc<AtomicBool>,
}

impl Stdin {
    pub(super) fn start(connection: KernelStdinConnection) -> Self {
        let (mut send, mut receive) = connection.split();
        let (requests, mut to_send) = mpsc::unbounded_channel::<JupyterMessage>();
        let (answered, answers) = channel();
        tokio::spawn(async move {
            while let Some(message) = to_send.recv().await {
                let _ = send.send(message).await;
            }
        });
        tokio::spawn(async move { while answered.send(next(&mut receive).await).is_ok() {} });
        Self { requests, answers: Arc::new(Mutex::new(answers)), interrupted: Arc::default() }
    }

    /// Asks whoever sent `cell`; waits for the answer or an interrupt. Not to be called on a task.
    pub(super) fn ask(&self, prompt: &str, password: bool, cell: &JupyterMessage) -> Option<String> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        self.interrupted.store(false, Ordering::SeqCst);
        // Answers to questions that nobody waits for any more.
        while answers.try_recv().is_ok() {}
        let request = JupyterMessage::new(InputRequest { prompt: prompt.into(), password }, Some(cell));
        self.requests.send(request).ok()?;
        loop {
            match answers.recv_timeout(LOOK) {
                Ok(message) => {
                    if let JupyterMessageContent::InputReply(reply) = message.content {
                        // A line is a line: what follows would be taken for a command to the process.
                        return Some(reply.value.replace(['\n', '\r'], " "));
                    }
                }
                Err(RecvTimeoutError::Timeout) if self.interrupted.load(Ordering::SeqCst) => return None,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// A question that is open gets no answer.
    pub(super) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::SeqCst);
    }
}

//! What everybody hears: one task owns the socket, gathers text that comes in many pieces, and welcomes subscribers.

use std::time::Duration;

use jupyter_protocol::{
    ExecutionState, IoPubWelcome, JupyterMessage, JupyterMessageContent, Status, Stdio, StreamContent,
};
use jupyter_zmq_client::{KernelIoPubXPubConnection, SubscriptionEvent};
use tokio::sync::{mpsc, oneshot};

use crate::secrets::Secrets;

/// How long text is gathered before it is sent.
const GATHER: Duration = Duration::from_millis(50);
/// A message gets no longer than about this.
const LARGEST: usize = 1 << 20;

enum Event {
    Text { parent: Option<Box<JupyterMessage>>, name: Stdio, text: String },
    Message(Box<JupyterMessage>),
    Done(oneshot::Sender<()>),
}

/// Publishes; a clone publishes on the same socket, in the order of the calls.
#[derive(Clone)]
pub(super) struct IoPub(mpsc::UnboundedSender<Event>);

impl IoPub {
    pub(super) fn start(connection: KernelIoPubXPubConnection, secrets: Secrets) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        tokio::spawn(Publisher { connection, secrets, gathered: None }.run(events));
        Self(sender)
    }

    /// `parent` is the request that `content` belongs to.
    pub(super) fn send(&self, content: impl Into<JupyterMessageContent>, parent: Option<&JupyterMessage>) {
        let message = JupyterMessage::new(content, parent).with_zmq_identities(Vec::new());
        // The publisher ends with the process.
        let _ = self.0.send(Event::Message(Box::new(message)));
    }

    pub(super) fn text(&self, name: Stdio, text: String, parent: Option<&JupyterMessage>) {
        let _ = self.0.send(Event::Text { parent: parent.cloned().map(Box::new), name, text });
    }

    pub(super) fn status(&self, execution_state: ExecutionState, parent: Option<&JupyterMessage>) {
        self.send(Status { execution_state }, parent);
    }

    /// Waits until all that was sent before has left.
    pub(super) async fn flush(&self) {
        let (sender, done) = oneshot::channel();
        if self.0.send(Event::Done(sender)).is_ok() {
            let _ = done.await;
        }
    }
}

struct Gathered {
    parent: Option<Box<JupyterMessage>>,
    name: Stdio,
    text: String,
}

struct Publisher {
    connection: KernelIoPubXPubConnection,
    secrets: Secrets,
    gathered: Option<Gathered>,
}

impl Publisher {
    async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) {
        let mut tick = tokio::time::interval(GATHER);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.handle(event).await,
                    None => break,
                },
                _ = tick.tick(), if self.gathered.is_some() => self.release().await,
                subscription = self.connection.recv_subscription() => {
                    if let Ok(SubscriptionEvent::Subscribe(topic)) = subscription {
                        self.publish(JupyterMessage::new(IoPubWelcome { subscription: topic }, None)).await;
                    }
                }
            }
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Text { parent, name, text } => {
                let id = |message: &Option<Box<JupyterMessage>>| message.as_ref().map(|m| m.header.msg_id.clone());
                let same = |gathered: &Gathered| {
                    std::mem::discriminant(&gathered.name) == std::mem::discriminant(&name)
                        && id(&gathered.parent) == id(&parent)
                        && gathered.text.len() < LARGEST
                };
                if !self.gathered.as_ref().is_some_and(same) {
                    self.release().await;
                }
                match &mut self.gathered {
                    Some(gathered) => gathered.text.push_str(&text),
                    None => self.gathered = Some(Gathered { parent, name, text }),
                }
            }
            Event::Message(message) => {
                self.release().await;
                self.publish(*message).await;
            }
            Event::Done(done) => {
                self.release().await;
                let _ = done.send(());
            }
        }
    }

    async fn release(&mut self) {
        if let Some(Gathered { parent, name, text }) = self.gathered.take() {
            let message = JupyterMessage::new(StreamContent { name, text }, parent.as_deref());
            self.publish(message.with_zmq_identities(Vec::new())).await;
        }
    }

    async fn publish(&mut self, message: JupyterMessage) {
        // A subscriber that has gone is no reason to stop.
        let _ = self.connection.send(self.secrets.masked(message)).await;
    }
}

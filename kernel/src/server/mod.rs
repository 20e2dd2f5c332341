//! The kernel on the wire: five sockets of the Jupyter protocol, and the thread that runs cells.
//!
//! A socket's task answers at once what needs no compiler. Cells go to the `worker`, one after the other. Everything that
//! is published goes through `iopub`, so that its order is that of the calls. A message that is no message, or is not signed
//! with the key, is told of on standard error and forgotten.

mod control;
mod history;
mod iopub;
mod request;
mod shell;
mod stdin;
mod worker;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use jupyter_protocol::{
    ConnectionInfo, ExecutionState, JupyterMessage, JupyterMessageContent, KernelInfoReply, LanguageInfo, ReplyStatus,
};
use jupyter_zmq_client as zmq;
use jupyter_zmq_client::RuntimeError;
use rustix::process::Pid;
use tokio::sync::mpsc;

use crate::cache::Slot;
use crate::config::Config;
use crate::engine::Interrupter;
use crate::secrets::Secrets;
use crate::{Error, Result, rustc};
use history::History;
use iopub::IoPub;
use stdin::Stdin;
use worker::Job;

/// What the tasks and the worker share.
struct Kernel {
    iopub: IoPub,
    history: Mutex<History>,
    jobs: std::sync::mpsc::Sender<Job>,
    /// There once the engine has started.
    interrupter: OnceLock<Interrupter>,
    /// Whether a cell is in work, or the engine is starting.
    busy: AtomicBool,
    /// How many cells were asked for.
    asked: AtomicU64,
    /// Cells up to this one are not to be run any more.
    aborted: AtomicU64,
    stdin: Stdin,
    /// The request whose cell is in work, or was last: what code writes belongs to it.
    cell: Mutex<Option<JupyterMessage>>,
    slot: Mutex<Option<Slot>>,
}

/// Replies to the requests of one socket.
type Replies = mpsc::UnboundedSender<JupyterMessage>;

/// Serves until a shutdown is asked for.
///
/// Errors: [`Error::Input`] for a connection that other machines could reach; [`Error::Sockets`].
pub fn serve(connection: &ConnectionInfo, config: Config, slot: Slot) -> Result<()> {
    if !connection.ip.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
        let what = format!("the connection file has the address `{}`, which other machines can reach.", connection.ip);
        return Err(Error::Input(format!("{what} This kernel runs whatever code it is sent; use 127.0.0.1.")));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(connection, config, slot)).map_err(|e| Error::Sockets(e.to_string()))
}

async fn run(connection: &ConnectionInfo, config: Config, slot: Slot) -> zmq::Result<()> {
    // Jupyter says by a variable that kernels are to end with it.
    let (jupyter, wants_an_end) = (rustix::process::getppid(), std::env::var_os("JPY_PARENT_PID").is_some());
    let session = &format!("ferrotune-{}", std::process::id());
    let iopub = zmq::create_kernel_iopub_xpub_connection(connection, session).await?;
    let shell = zmq::create_kernel_shell_connection(connection, session).await?;
    let control = zmq::create_kernel_control_connection(connection, session).await?;
    let stdin = zmq::create_kernel_stdin_connection(connection, session).await?;
    let mut heartbeat = zmq::create_kernel_heartbeat_connection(connection).await?;
    tokio::spawn(async move {
        loop {
            if heartbeat.single_heartbeat().await.is_err() {
                tokio::task::yield_now().await;
            }
        }
    });

    let (jobs, queue) = std::sync::mpsc::channel();
    let folder: PathBuf = slot.folder().to_owned();
    let kernel = Arc::new(Kernel {
        iopub: IoPub::start(iopub, Secrets::of_this_user()),
        history: Mutex::new(History::of_this_user()),
        jobs,
        interrupter: OnceLock::new(),
        busy: AtomicBool::new(true),
        asked: AtomicU64::new(0),
        aborted: AtomicU64::new(0),
        stdin: Stdin::start(stdin),
        cell: Mutex::new(None),
        slot: Mutex::new(Some(slot)),
    });
    kernel.iopub.status(ExecutionState::Starting, None);
    if wants_an_end {
        tokio::spawn(ends_with(jupyter, kernel.clone()));
    }
    let (replies, of_shell) = replies(shell);
    worker::start(kernel.clone(), queue, config, folder, replies.clone());
    tokio::spawn(shell::serve(kernel.clone(), of_shell, replies));
    let (replies, of_control) = self::replies(control);
    control::serve(kernel, of_control, replies).await;
    Ok(())
}

/// Ends this process when Jupyter, which started it, is gone.
async fn ends_with(jupyter: Option<Pid>, kernel: Arc<Kernel>) {
    while rustix::process::getppid() == jupyter {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    kernel.end();
}

/// Splits a socket: a task sends what comes into the channel.
fn replies(connection: zmq::KernelShellConnection) -> (Replies, zmq::RouterRecvConnection) {
    let (mut send, receive) = connection.split();
    let (sender, mut messages) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            // The asker may be gone.
            let _ = send.send(message).await;
        }
    });
    (sender, receive)
}

/// The next request that can be read.
async fn next(socket: &mut zmq::RouterRecvConnection) -> JupyterMessage {
    loop {
        match request::read(socket).await {
            Ok(message) => return message,
            Err(error) => {
                eprintln!("a message was dropped: {error}");
                // A socket that fails without waiting must not keep the others from running.
                if matches!(error, RuntimeError::ZmqError(_)) {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            }
        }
    }
}

impl Kernel {
    fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers `request`, between its `busy` and its `idle`.
    fn reply(&self, request: &JupyterMessage, content: impl Into<JupyterMessageContent>, replies: &Replies) {
        self.iopub.status(ExecutionState::Busy, Some(request));
        let _ = replies.send(JupyterMessage::new(content, Some(request)));
        self.iopub.status(ExecutionState::Idle, Some(request));
    }

    /// Ends this process and those that it started, and takes its folder away.
    fn end(&self) -> ! {
        if let Some(interrupter) = self.interrupter.get() {
            interrupter.kill();
        }
        drop(self.slot.lock().unwrap_or_else(PoisonError::into_inner).take());
        std::process::exit(0);
    }

    /// No cell that was asked for until now will run.
    fn abort_queue(&self) {
        self.aborted.store(self.asked.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

fn kernel_info() -> KernelInfoReply {
    let language_info = LanguageInfo {
        name: "rust".into(),
        version: rustc::property("release").into(),
        mimetype: Some("text/rust".into()),
        file_extension: Some(".rs".into()),
        pygments_lexer: Some("rust".into()),
        codemirror_mode: Some(jupyter_protocol::CodeMirrorMode::Simple("rust".into())),
        nbconvert_exporter: Some("script".into()),
    };
    KernelInfoReply {
        status: ReplyStatus::Ok,
        protocol_version: "5.4".into(),
        implementation: "ferrotune-kernel".into(),
        implementation_version: env!("CARGO_PKG_VERSION").into(),
        language_info,
        banner: "Rust (Ferrotune)".into(),
        help_links: Vec::new(),
        debugger: false,
        error: None,
    }
}

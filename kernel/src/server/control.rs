//! The control socket: what must be heard while a cell runs.

use std::sync::{Arc, PoisonError};

use jupyter_protocol::{
    InterruptReply, JupyterMessage, JupyterMessageContent, ReplyStatus, ShutdownReply, ShutdownRequest, Stdio,
};
use jupyter_zmq_client::RouterRecvConnection;

use super::{Kernel, Replies, kernel_info, next};

pub(super) async fn serve(kernel: Arc<Kernel>, mut socket: RouterRecvConnection, replies: Replies) {
    loop {
        let request = next(&mut socket).await;
        handle(&kernel, &request, &replies).await;
    }
}

pub(super) async fn handle(kernel: &Arc<Kernel>, request: &JupyterMessage, replies: &Replies) {
    match &request.content {
        JupyterMessageContent::KernelInfoRequest(_) => kernel.reply(request, kernel_info(), replies),
        JupyterMessageContent::InterruptRequest(_) => {
            interrupt(kernel);
            kernel.reply(request, InterruptReply { status: ReplyStatus::Ok, error: None }, replies);
        }
        JupyterMessageContent::ShutdownRequest(ShutdownRequest { restart }) => {
            let (restart, reply) =
                (*restart, |restart| ShutdownReply { restart, status: ReplyStatus::Ok, error: None });
            if let Some(interrupter) = kernel.interrupter.get() {
                interrupter.kill();
            }
            kernel.reply(request, reply(restart), replies);
            kernel.iopub.flush().await;
            // The reply is on its way by a task of its own.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            kernel.end();
        }
        _ => eprintln!("a message was dropped: this kernel does not know `{}`", request.header.msg_type),
    }
}

/// Stops the cell in work and forgets those that wait.
fn interrupt(kernel: &Arc<Kernel>) {
    kernel.abort_queue();
    kernel.stdin.interrupt();
    let Some(interrupter) = kernel.interrupter.get() else { return };
    let later = kernel.clone();
    interrupter.interrupt(move || {
        let text = "This code does not listen for interrupts and goes on. Interrupt again to end its process; \
                    all variables will be lost.\n";
        later.stderr_of_cell(text.into());
    });
}

impl Kernel {
    /// Text that a person should see, under the cell that is in work.
    pub(super) fn stderr_of_cell(&self, text: String) {
        let cell = self.cell.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.iopub.text(Stdio::Stderr, text, cell.as_ref());
    }
}

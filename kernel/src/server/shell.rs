//! The shell socket: cells, and questions about code.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use jupyter_protocol::{
    CommClose, CommInfoReply, CompleteReply, InspectReply, IsCompleteReply, JupyterMessage, JupyterMessageContent,
    ReplyStatus,
};
use jupyter_zmq_client::RouterRecvConnection;

use super::worker::Job;
use super::{Kernel, Replies, control, kernel_info, next};
use crate::engine::{IsComplete, is_complete};

pub(super) async fn serve(kernel: Arc<Kernel>, mut socket: RouterRecvConnection, replies: Replies) {
    loop {
        let request = next(&mut socket).await;
        handle(&kernel, request, &replies).await;
    }
}

async fn handle(kernel: &Arc<Kernel>, request: JupyterMessage, replies: &Replies) {
    use JupyterMessageContent as Content;
    match &request.content {
        Content::ExecuteRequest(_) => {
            let number = kernel.asked.fetch_add(1, Ordering::SeqCst) + 1;
            // What the warm-up says is seen under the first cell that waits for it.
            kernel.cell.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| request.clone());
            // The worker lives as long as the process.
            let _ = kernel.jobs.send(Job::Execute { number, request });
        }
        Content::CompleteRequest(asked) => {
            if kernel.busy.load(Ordering::SeqCst) {
                // The compiler is at work, and a person who types does not wait for it.
                let nothing = CompleteReply {
                    matches: Vec::new(),
                    cursor_start: asked.cursor_pos,
                    cursor_end: asked.cursor_pos,
                    metadata: Default::default(),
                    status: ReplyStatus::Ok,
                    error: None,
                };
                return kernel.reply(&request, nothing, replies);
            }
            let _ = kernel.jobs.send(Job::Complete { request });
        }
        Content::InspectRequest(_) => {
            if kernel.busy.load(Ordering::SeqCst) {
                return kernel.reply(&request, nothing_found(), replies);
            }
            let _ = kernel.jobs.send(Job::Inspect { request });
        }
        Content::IsCompleteRequest(asked) => {
            let reply = match is_complete(&asked.code) {
                IsComplete::Complete => IsCompleteReply::complete(),
                IsComplete::Incomplete { indent } => IsCompleteReply::incomplete(indent),
                IsComplete::Invalid => IsCompleteReply::invalid(),
            };
            kernel.reply(&request, reply, replies);
        }
        Content::HistoryRequest(asked) => {
            let reply = kernel.history().answer(asked);
            kernel.reply(&request, reply, replies);
        }
        Content::KernelInfoRequest(_) => kernel.reply(&request, kernel_info(), replies),
        Content::CommInfoRequest(_) => {
            // No target is offered, so no comm is ever open.
            let none = CommInfoReply { status: ReplyStatus::Ok, comms: Default::default(), error: None };
            kernel.reply(&request, none, replies);
        }
        Content::CommOpen(open) => {
            let close = CommClose { comm_id: open.comm_id.clone(), data: Default::default() };
            kernel.iopub.status(jupyter_protocol::ExecutionState::Busy, Some(&request));
            kernel.iopub.send(close, Some(&request));
            kernel.iopub.status(jupyter_protocol::ExecutionState::Idle, Some(&request));
        }
        // For comms that are not open.
        Content::CommMsg(_) | Content::CommClose(_) => {}
        // Older frontends ask here what belongs to the control socket.
        _ => control::handle(kernel, &request, replies).await,
    }
}

pub(super) fn nothing_found() -> InspectReply {
    InspectReply {
        found: false,
        data: Default::default(),
        metadata: Default::default(),
        status: ReplyStatus::Ok,
        error: None,
    }
}

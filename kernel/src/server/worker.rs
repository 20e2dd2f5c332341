//! The thread that has the engine: one cell after the other.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use jupyter_protocol::{
    CompleteReply, ErrorOutput, ExecuteInput, ExecuteReply, ExecuteRequest, ExecuteResult, ExecutionCount,
    ExecutionState, ExpressionResult, InspectReply, JupyterMessage, JupyterMessageContent, Payload, ReplyError,
    ReplyStatus, Stdio, Transient,
};
use serde_json::{Value, json};

use super::shell::nothing_found;
use super::{Kernel, Replies};
use crate::config::Config;
use crate::engine::{Engine, Failure, Outcome, Output, Sink, media};
use crate::{rustc, warm_up};

/// Something that needs the compiler.
pub(super) enum Job {
    Execute {
        /// From 1, in the order of the requests.
        number: u64,
        request: JupyterMessage,
    },
    Complete {
        request: JupyterMessage,
    },
    Inspect {
        request: JupyterMessage,
    },
}

/// Starts the thread, which begins with the engine and the prelude.
pub(super) fn start(kernel: Arc<Kernel>, jobs: Receiver<Job>, config: Config, folder: PathBuf, replies: Replies) {
    std::thread::spawn(move || {
        let payload = Arc::default();
        let sink = sink(kernel.clone(), Arc::clone(&payload));
        let (engine, notice) = warm_up(&kernel, &config, &folder, sink);
        if let Ok(engine) = &engine {
            let _ = kernel.interrupter.set(engine.interrupter());
        }
        let mut worker = Worker { kernel, replies, engine, notice, payload, count: 0 };
        worker.kernel.busy.store(false, Ordering::SeqCst);
        while let Ok(job) = jobs.try_recv() {
            worker.work(job);
        }
        // Nobody waits for the compiler now.
        worker.prime();
        jobs.into_iter().for_each(|job| worker.work(job));
    });
}

/// The engine with its prelude, or why there is none; and what the first cell is to say, for frontends show nothing
/// that belongs to no cell. Cells that do without what is missing run all the same.
fn warm_up(kernel: &Kernel, config: &Config, folder: &Path, sink: Sink) -> (Result<Engine, Failure>, String) {
    let tell = |text: &str| {
        eprintln!("{text}");
        kernel.stderr_of_cell(format!("{text}\n"));
    };
    match warm_up::start(config, folder, sink, tell) {
        Ok((engine, failure)) => {
            let prelude = failure.map(|f| format!("the prelude could not be loaded:\n{}\n", f.traceback.join("\n")));
            let sources = rustc::sources().err().map(|missing| format!("{missing}\n"));
            let notice: String = prelude.into_iter().chain(sources).collect();
            eprint!("{notice}");
            (Ok(engine), notice)
        }
        Err(error) => (Err(Failure::new("KernelError", error.to_string())), String::new()),
    }
}

/// Publishes under the cell that is in work, or was last.
fn sink(kernel: Arc<Kernel>, payload: Arc<Mutex<Vec<Payload>>>) -> Sink {
    Arc::new(move |output| {
        let cell = kernel.cell.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match output {
            Output::Stdout(text) => kernel.iopub.text(Stdio::Stdout, text, cell.as_ref()),
            Output::Stderr(text) => kernel.iopub.text(Stdio::Stderr, text, cell.as_ref()),
            Output::Message { msg_type, content } if msg_type == "payload" => {
                if let Ok(page) = serde_json::from_value(content) {
                    payload.lock().unwrap_or_else(PoisonError::into_inner).push(page);
                }
            }
            Output::Message { msg_type, content } => {
                let shown = ["display_data", "update_display_data", "clear_output"].contains(&msg_type.as_str());
                match JupyterMessageContent::from_type_and_content(&msg_type, content) {
                    Ok(content) if shown => kernel.iopub.send(content, cell.as_ref()),
                    _ => kernel.iopub.text(
                        Stdio::Stderr,
                        format!("a frame `{msg_type}` cannot be shown\n"),
                        cell.as_ref(),
                    ),
                }
            }
        }
    })
}

struct Worker {
    kernel: Arc<Kernel>,
    replies: Replies,
    engine: Result<Engine, Failure>,
    /// What the first cell is to say; empty afterwards.
    notice: String,
    /// What the cell sent for its reply.
    payload: Arc<Mutex<Vec<Payload>>>,
    /// Cells counted so far.
    count: usize,
}

impl Worker {
    /// Asks about a variable, as nearly every cell does: the first time rust-analyzer reads the standard library for it.
    fn prime(&mut self) {
        if let Ok(engine) = &mut self.engine {
            engine.complete("let it = 1; it.", 15);
        }
    }

    fn work(&mut self, job: Job) {
        match job {
            Job::Execute { number, request } => {
                if let JupyterMessageContent::ExecuteRequest(asked) = &request.content {
                    self.kernel.busy.store(true, Ordering::SeqCst);
                    self.kernel.iopub.status(ExecutionState::Busy, Some(&request));
                    let reply = self.execute(number, asked, &request);
                    // Who has the reply may ask about code.
                    self.kernel.busy.store(false, Ordering::SeqCst);
                    let _ = self.replies.send(JupyterMessage::new(reply, Some(&request)));
                    self.kernel.iopub.status(ExecutionState::Idle, Some(&request));
                }
            }
            Job::Complete { request } => {
                let JupyterMessageContent::CompleteRequest(asked) = &request.content else { return };
                let engine = self.engine.as_mut().ok();
                let found = engine.map(|engine| engine.complete(&asked.code, asked.cursor_pos)).unwrap_or_default();
                let typed =
                    found.matches.iter().zip(&found.kinds).map(
                        |(text, kind)| json!({"text": text, "type": kind, "start": found.start, "end": found.end}),
                    );
                let metadata = [("_jupyter_types_experimental".to_owned(), Value::Array(typed.collect()))];
                let reply = CompleteReply {
                    matches: found.matches,
                    cursor_start: found.start,
                    cursor_end: found.end,
                    metadata: metadata.into_iter().collect(),
                    status: ReplyStatus::Ok,
                    error: None,
                };
                self.kernel.reply(&request, reply, &self.replies);
            }
            Job::Inspect { request } => {
                let JupyterMessageContent::InspectRequest(asked) = &request.content else { return };
                let engine = self.engine.as_mut().ok();
                let found = engine.and_then(|engine| engine.inspect(&asked.code, asked.cursor_pos));
                let reply = found.map_or_else(nothing_found, |(plain, html)| InspectReply {
                    found: true,
                    data: media(&[("text/plain".to_owned(), plain), ("text/html".to_owned(), html)].into()),
                    ..nothing_found()
                });
                self.kernel.reply(&request, reply, &self.replies);
            }
        }
    }

    fn execute(&mut self, number: u64, asked: &ExecuteRequest, request: &JupyterMessage) -> ExecuteReply {
        let ExecuteRequest { code, silent, .. } = asked;
        let store = asked.store_history && !silent;
        let empty = || ExecuteReply { user_expressions: Some(HashMap::new()), ..ExecuteReply::default() };
        if number <= self.kernel.aborted.load(Ordering::SeqCst) {
            let execution_count = ExecutionCount::new(self.count);
            return ExecuteReply { status: ReplyStatus::Aborted, execution_count, ..empty() };
        }
        if store {
            self.count += 1;
        }
        let execution_count = ExecutionCount::new(self.count);
        *self.kernel.cell.lock().unwrap_or_else(PoisonError::into_inner) = Some(request.clone());
        if !silent {
            let input = ExecuteInput { code: code.clone(), execution_count };
            self.kernel.iopub.send(input, Some(request));
            let notice = std::mem::take(&mut self.notice);
            if !notice.is_empty() {
                self.kernel.iopub.text(Stdio::Stderr, notice, Some(request));
            }
        }
        let outcome = self.run(code, asked.allow_stdin, request);
        let payload = std::mem::take(&mut *self.payload.lock().unwrap_or_else(PoisonError::into_inner));
        let value = match &outcome {
            Outcome::Ok(value) => value.get("text/plain").cloned().unwrap_or_default(),
            Outcome::Failed(_) => String::new(),
        };
        if store {
            self.kernel.history().push(self.count, code, &value);
        }
        match outcome {
            Outcome::Ok(value) => {
                if !value.is_empty() && !silent {
                    let result = ExecuteResult {
                        execution_count,
                        data: media(&value),
                        metadata: Default::default(),
                        transient: Some(Transient::default()),
                    };
                    self.kernel.iopub.send(result, Some(request));
                }
                let expressions = asked.user_expressions.iter().flatten();
                let values = expressions.map(|(name, code)| (name.clone(), self.expression(code, request))).collect();
                ExecuteReply { execution_count, payload, user_expressions: Some(values), ..empty() }
            }
            Outcome::Failed(Failure { ename, evalue, traceback }) => {
                if asked.stop_on_error {
                    self.kernel.abort_queue();
                }
                let error = ErrorOutput { ename: ename.clone(), evalue: evalue.clone(), traceback: traceback.clone() };
                self.kernel.iopub.send(error, Some(request));
                let error = Some(Box::new(ReplyError { ename, evalue, traceback }));
                ExecuteReply { status: ReplyStatus::Error, execution_count, payload, error, ..empty() }
            }
        }
    }

    fn run(&mut self, code: &str, allow_stdin: bool, request: &JupyterMessage) -> Outcome {
        let kernel = &self.kernel;
        match &mut self.engine {
            Err(failure) => Outcome::Failed(failure.clone()),
            Ok(engine) => engine.run(code, &|prompt, password| {
                allow_stdin.then(|| kernel.stdin.ask(prompt, password, request)).flatten()
            }),
        }
    }

    fn expression(&mut self, code: &str, request: &JupyterMessage) -> ExpressionResult {
        match self.run(code, false, request) {
            Outcome::Ok(value) => ExpressionResult::Ok { data: media(&value), metadata: Default::default() },
            Outcome::Failed(Failure { ename, evalue, traceback }) => {
                ExpressionResult::Error { ename, evalue, traceback }
            }
        }
    }
}

//! Reads what the process of the cells writes, and hands on to evcxr what is evcxr's.
//!
//! At the end of a cell everything that it wrote is read before evcxr, and so the kernel, hears of the end: nothing shows up
//! under the next cell.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::output::{COMPLETE, Output, PANIC, Piece, Splitter, USER_ERROR};
use crate::child;

/// Takes what code writes.
pub type Sink = Arc<dyn Fn(Output) + Send + Sync>;

/// How long text on standard error waits for its end: an error's text comes in parts, and is the cell's error if evcxr says
/// so right after it.
const SETTLE_MS: i64 = 30;
/// The longest wait for the buffer of standard output.
const FLUSH: Duration = Duration::from_millis(500);

/// How a cell went wrong while it ran; evcxr does not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Panic {
        message: String,
        place: String,
    },
    /// An error that `?` returned, as its Display text.
    Error(String),
}

/// What is known of the running cell.
#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    /// The latest panic, which may yet be caught.
    panic: Option<Fault>,
    /// The prompt of the latest request for input.
    prompt: String,
    checkpoint: Option<String>,
    /// How many processes there have been.
    processes: usize,
    flush: Option<UnixStream>,
}

/// Lends out what the relay has learnt.
#[derive(Clone)]
pub(super) struct Relay(Arc<Mutex<State>>);

impl Relay {
    /// Listens on `path` from here on.
    pub(super) fn listen(path: &Path, sink: Sink) -> std::io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let relay = Self(Arc::default());
        let of_thread = relay.clone();
        std::thread::spawn(move || of_thread.accept(&listener, &sink));
        Ok(relay)
    }

    /// A cell begins.
    pub(super) fn begin(&self) {
        self.with(|state| (state.fault, state.panic) = (None, None));
    }

    /// How the cell went wrong, if it did; and a panic that somebody caught.
    pub(super) fn end(&self) -> (Option<Fault>, Option<Fault>) {
        self.with(|state| (state.fault.take(), state.panic.take()))
    }

    pub(super) fn prompt(&self) -> String {
        self.with(|state| state.prompt.clone())
    }

    /// The newest checkpoint that code told of.
    pub(super) fn checkpoint(&self) -> Option<String> {
        self.with(|state| state.checkpoint.clone())
    }

    pub(super) fn processes(&self) -> usize {
        self.with(|state| state.processes)
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        // No value in it depends on another.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn accept(&self, listener: &UnixListener, sink: &Sink) {
        let (mut out, mut err) = (None, None);
        for stream in listener.incoming() {
            let mut purpose = [0];
            let Ok(mut stream) = stream else { continue };
            if stream.read_exact(&mut purpose).is_err() {
                continue;
            }
            match purpose[0] {
                child::OUT => out = Some(stream),
                child::ERR => err = Some(stream),
                child::CONTROL => {
                    let (Some(out), Some(err)) = (out.take(), err.take()) else { continue };
                    self.with(|state| (state.processes, state.flush) = (state.processes + 1, None));
                    let pump =
                        Pump { relay: self.clone(), sink: sink.clone(), out, err, control: stream, held: Vec::new() };
                    std::thread::spawn(move || pump.run());
                }
                child::FLUSH => {
                    let _ = stream.set_read_timeout(Some(FLUSH));
                    self.with(|state| state.flush = Some(stream));
                }
                _ => {}
            }
        }
    }
}

/// The connections of one process.
struct Pump {
    relay: Relay,
    sink: Sink,
    out: UnixStream,
    err: UnixStream,
    control: UnixStream,
    /// Text on standard error that waits for its end.
    held: Vec<u8>,
}

impl Pump {
    fn run(mut self) {
        let mut splitter = Splitter::default();
        loop {
            let timeout = if self.held.is_empty() { -1 } else { SETTLE_MS };
            let Some([out, err]) = self.ready(timeout) else { break };
            if err && !self.read_err() && !out {
                break;
            }
            if out && !self.read_out(&mut splitter) {
                break;
            }
            if !out && !err {
                self.release();
            }
            while let Some(piece) = splitter.next() {
                self.handle(piece, &mut splitter);
            }
        }
        while self.ready(0).is_some_and(|[_, err]| err) && self.read_err() {}
        self.release();
        if let Some(text) = splitter.rest() {
            (self.sink)(Output::Stdout(text));
        }
    }

    /// Whether standard output and error have something to read, or have ended.
    fn ready(&self, timeout_ms: i64) -> Option<[bool; 2]> {
        let mut fds = [PollFd::new(&self.out, PollFlags::IN), PollFd::new(&self.err, PollFlags::IN)];
        let timeout = (timeout_ms >= 0).then(|| rustix::event::Timespec { tv_sec: 0, tv_nsec: timeout_ms * 1_000_000 });
        loop {
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) => return Some([!fds[0].revents().is_empty(), !fds[1].revents().is_empty()]),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }

    /// Whether there may be more.
    fn read_out(&mut self, splitter: &mut Splitter) -> bool {
        let mut buffer = [0; 65536];
        match self.out.read(&mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                splitter.push(&buffer[..n]);
                true
            }
        }
    }

    fn read_err(&mut self) -> bool {
        let mut buffer = [0; 65536];
        match self.err.read(&mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.held.extend_from_slice(&buffer[..n]);
                true
            }
        }
    }

    /// Reads all that has been written to standard error.
    fn drain_err(&mut self) {
        while self.ready(0).is_some_and(|[_, err]| err) && self.read_err() {}
    }

    /// Shows the held text, up to a character that has not come whole.
    fn release(&mut self) {
        let whole = match std::str::from_utf8(&self.held) {
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            _ => self.held.len(),
        };
        let rest = self.held.split_off(whole);
        let text = std::mem::replace(&mut self.held, rest);
        if !text.is_empty() {
            (self.sink)(Output::Stderr(String::from_utf8_lossy(&text).into_owned()));
        }
    }

    fn handle(&mut self, piece: Piece, splitter: &mut Splitter) {
        match piece {
            Piece::Text(text) => (self.sink)(Output::Stdout(text)),
            Piece::Frame { msg_type, content } => self.frame(msg_type, content),
            Piece::Control(line) => self.control(line, splitter),
        }
    }

    fn frame(&self, msg_type: String, content: serde_json::Value) {
        let text = |key: &str| content[key].as_str().map(str::to_owned);
        match msg_type.as_str() {
            "panic" => {
                let [message, place] = ["message", "place"].map(|key| text(key).unwrap_or_default());
                self.relay.with(|state| state.panic = Some(Fault::Panic { message, place }));
            }
            "status" => {
                if let Some(checkpoint) = text("checkpoint") {
                    self.relay.with(|state| state.checkpoint = Some(checkpoint));
                }
            }
            _ => (self.sink)(Output::Message { msg_type, content }),
        }
    }

    fn control(&mut self, mut line: String, splitter: &mut Splitter) {
        if line == COMPLETE {
            self.flush();
            // Nobody writes to these connections any more unless a thread of the cell lives on.
            while self.ready(0).is_some_and(|[out, _]| out) && self.read_out(splitter) {}
            self.drain_err();
            self.release();
            while let Some(piece) = splitter.next() {
                self.handle(piece, splitter);
            }
        } else if line == USER_ERROR {
            self.drain_err();
            let text = String::from_utf8_lossy(&std::mem::take(&mut self.held)).trim_end().to_owned();
            self.relay.with(|state| state.fault = Some(Fault::Error(text)));
        } else if line == PANIC {
            let unknown = || Fault::Panic { message: "panicked".into(), place: String::new() };
            self.relay.with(|state| state.fault = Some(state.panic.take().unwrap_or_else(unknown)));
        } else if let Some((command, prompt)) = line.split_once(':')
            && command.starts_with("EVCXR_INPUT_REQUEST")
        {
            self.relay.with(|state| state.prompt = prompt.to_owned());
            line = format!("{command}:");
        }
        line.push('\n');
        // Without the process there is nobody to tell.
        let _ = self.control.write_all(line.as_bytes());
    }

    /// Has the buffer of standard output emptied, if the thread that does it is there.
    fn flush(&self) {
        let Some(mut thread) = self.relay.with(|state| state.flush.as_ref().and_then(|s| s.try_clone().ok())) else {
            return;
        };
        let mut answer = [0];
        if thread.write_all(&[1]).and_then(|()| thread.read_exact(&mut answer)).is_err() {
            self.relay.with(|state| state.flush = None);
        }
    }
}

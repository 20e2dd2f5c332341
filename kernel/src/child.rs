//! The process that runs cells, before evcxr takes it over.
//!
//! Its standard output and error become connections to the kernel, which so sees what is written when it is written, between
//! cells too, and does not lose the last words of a process that dies. evcxr reads the output that the process was born
//! with: the kernel sends it the lines that are meant for it, through a third connection.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The environment variable with the path of the kernel's socket.
pub const SOCKET: &str = "FERROTUNE_KERNEL_SOCKET";
/// What evcxr sets for this process.
const IS_RUNTIME: &str = "EVCXR_IS_RUNTIME";

/// What a connection is for: its first byte.
pub const OUT: u8 = b'o';
pub const ERR: u8 = b'e';
/// Lines for evcxr.
pub const CONTROL: u8 = b'c';
/// Requests to empty the buffer of standard output.
pub const FLUSH: u8 = b'f';

/// Sets this process up, if it is to run cells.
///
/// Errors: the kernel's socket cannot be reached.
pub fn prepare() -> std::io::Result<()> {
    let Some(path) = std::env::var_os(SOCKET).filter(|_| std::env::var_os(IS_RUNTIME).is_some()) else {
        return Ok(());
    };
    // An interrupt is for the code that asks whether there was one; it does not end the process.
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::new(AtomicBool::new(false)))?;
    let connect = |purpose: u8| {
        let mut stream = UnixStream::connect(&path)?;
        stream.write_all(&[purpose])?;
        Ok::<_, std::io::Error>(stream)
    };
    let (out, err, mut control) = (connect(OUT)?, connect(ERR)?, connect(CONTROL)?);
    let mut evcxr = std::fs::File::from(rustix::io::dup(rustix::stdio::stdout())?);
    rustix::stdio::dup2_stdout(&out)?;
    rustix::stdio::dup2_stderr(&err)?;
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = control.read(&mut buffer) {
            if evcxr.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        // The kernel is gone, however it ended.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    });
    Ok(())
}

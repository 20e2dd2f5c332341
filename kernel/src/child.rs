//! The process that runs cells, before evcxr takes it over.
//!
//! Its standard output and error become connections to the kernel, which so sees what is written when it is written, between
//! cells too, and does not lose the last words of a process that dies. evcxr reads the output that the process was born
//! with: the kernel sends it the lines that are meant for it, through a third connection.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::process::{Pid, Signal, getppid, kill_process};

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
    let kernel = getppid();
    // An interrupt is for the code that asks whether there was one; it does not end the process.
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::new(AtomicBool::new(false)))?;
    let connect = |purpose: u8| -> std::io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&path)?;
        stream.write_all(&[purpose])?;
        Ok(stream)
    };
    let (out, err, mut control) = (connect(OUT)?, connect(ERR)?, connect(CONTROL)?);
    let mut evcxr = std::fs::File::from(rustix::io::dup(rustix::stdio::stdout())?);
    rustix::stdio::dup2_stdout(&out)?;
    rustix::stdio::dup2_stderr(&err)?;
    // evcxr would end at the end of its input, before what is left of the kernel is cleaned up.
    let mut commands = std::fs::File::from(rustix::io::dup(rustix::stdio::stdin())?);
    let (reader, mut writer) = std::io::pipe()?;
    rustix::stdio::dup2_stdin(&reader)?;
    let slot: Option<PathBuf> = Path::new(&path).parent().map(Path::to_owned);
    let of_commands = slot.clone();
    std::thread::spawn(move || {
        forward(&mut commands, &mut writer);
        end_with(kernel, of_commands.as_deref());
    });
    std::thread::spawn(move || {
        forward(&mut control, &mut evcxr);
        end_with(kernel, slot.as_deref());
        let _ = kill_process(rustix::process::getpid(), Signal::KILL);
    });
    Ok(())
}

/// Hands on what is read, until the end. Not by `std::io::copy`: its `splice` would keep the other side from writing while
/// it waits.
fn forward(from: &mut impl Read, to: &mut impl Write) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
}

/// Ends this process if the kernel is gone, however it ended, and all that it left.
fn end_with(kernel: Option<Pid>, slot: Option<&Path>) {
    // A process that ends closes its files before those that it started have another parent.
    for _ in 0..100 {
        if getppid() != kernel {
            if let Some(slot) = slot {
                clean_up(slot);
            }
            let _ = kill_process(rustix::process::getpid(), Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends the compilers that a killed kernel left at work in its slot, and removes the slot.
fn clean_up(slot: &Path) {
    let inside = format!("{}/", slot.display());
    let own = std::process::id().to_string();
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.parse().ok().and_then(Pid::from_raw).filter(|_| name != own) else { continue };
        // cargo works in the slot; rustc is told to write there.
        let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let works_there = std::fs::read_link(process.path().join("cwd")).is_ok_and(|folder| folder == slot);
        if works_there || String::from_utf8_lossy(&arguments).contains(&inside) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let _ = std::fs::remove_dir_all(slot);
    let _ = std::fs::remove_file(slot.with_extension("lock"));
}

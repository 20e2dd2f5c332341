//! JupyterLab on this machine.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::setup::Lab;
use crate::failure::Failure;
use crate::{interrupt, output};

/// Jupyter's usual port, and how many after it are tried.
const PORTS: std::ops::Range<u16> = 8888..8988;
/// How often a server that starts is asked whether it is there.
const LOOK: Duration = Duration::from_millis(200);

/// A server, which ends with this value.
pub(super) struct Server {
    process: Child,
    port: u16,
    token: String,
    notebook: String,
}

impl Server {
    /// Starts JupyterLab on `root` and waits until it answers.
    pub(super) fn start(lab: &Lab, root: &Path, notebook: &Path, open: bool) -> Result<Self, Failure> {
        let port = free_port()?;
        let token = token()?;
        let notebook = address(notebook);
        let mut jupyter = lab.program("jupyter-lab");
        // By the environment: other users of this machine see the arguments of a process.
        jupyter.env("JUPYTER_TOKEN", &token);
        jupyter.args([
            "--ServerApp.ip=127.0.0.1",
            "--ServerApp.port_retries=0",
            "--ServerApp.answer_yes=True",
            "--allow-root",
        ]);
        jupyter.arg("--log-level=WARN");
        jupyter.arg(format!("--ServerApp.port={port}")).arg(format!("--LabApp.default_url=/lab/tree/{notebook}"));
        jupyter.arg(format!("--ServerApp.root_dir={}", root.display()));
        if !open {
            jupyter.arg("--no-browser");
        }
        output::status("starting JupyterLab");
        let process = jupyter.stdin(Stdio::null()).spawn().map_err(|e| {
            Failure::Running(format!(
                "JupyterLab could not be started: {e}. Remove `.venv` and run this command again."
            ))
        })?;
        let mut server = Self { process, port, token, notebook };
        while !server.asked("GET /api/status") {
            if interrupt::asked() {
                return Err(Failure::Interrupted("JupyterLab had not started yet.".into()));
            }
            if server.process.try_wait().is_ok_and(|status| status.is_some()) {
                return Err(Failure::Running("JupyterLab ended while it started; it says why above.".into()));
            }
            std::thread::sleep(LOOK);
        }
        Ok(server)
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/lab/tree/{}?token={}", self.port, self.notebook, self.token)
    }

    /// Waits until the server ends, or until this command is asked to stop, which ends the server.
    pub(super) fn wait(mut self) -> Result<(), Failure> {
        while !interrupt::asked() {
            match self.process.try_wait() {
                Ok(Some(status)) if status.success() || interrupt::asked() => return Ok(()),
                Ok(None) => std::thread::sleep(LOOK),
                _ => return Err(Failure::Running("JupyterLab ended; it says why above.".into())),
            }
        }
        Ok(())
    }

    /// Sends a request, and returns whether the server is there, takes the token, and does what is asked.
    fn asked(&self, request: &str) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let Self { port, token, .. } = self;
            let headers = format!("Host: 127.0.0.1:{port}\r\nAuthorization: token {token}\r\nContent-Length: 0");
            write!(stream, "{request} HTTP/1.0\r\n{headers}\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok::<_, std::io::Error>(answer)
        };
        ask().is_ok_and(|answer| answer.lines().next().is_some_and(|status| status.contains(" 200 ")))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killed, it would leave its kernels behind.
        if !self.asked("POST /api/shutdown") && !interrupt::asked() {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

fn free_port() -> Result<u16, Failure> {
    PORTS.into_iter().find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).ok_or_else(|| {
        let what = format!("no port from {} to {} is free on 127.0.0.1", PORTS.start, PORTS.end - 1);
        Failure::Running(format!("{what}. End a server that you do not need any more."))
    })
}

/// 192 random bits, as hexadecimal digits.
fn token() -> Result<String, Failure> {
    let mut bytes = [0; 24];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|e| Failure::Running(format!("there are no random numbers on this machine: {e}.")))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// A path as an address has it.
fn address(path: &Path) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    path.to_string_lossy().bytes().fold(String::new(), |mut text, byte| {
        if plain(byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_an_address() {
        assert_eq!(address(Path::new("notebooks/vi/first one.ipynb")), "notebooks/vi/first%20one.ipynb");
        assert_eq!(address(Path::new("ă")), "%C4%83");
    }

    #[test]
    fn a_token_is_long_and_new() {
        let [a, b] = [token().unwrap(), token().unwrap()];
        assert!(a.len() == 48 && a != b, "{a} {b}");
    }
}

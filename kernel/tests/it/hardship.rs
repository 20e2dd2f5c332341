//! Messages that are none, and ends that nobody prepared for.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;

use jupyter_protocol::{ExecuteRequest, JupyterMessage, JupyterMessageContent as Content};
use jupyter_zmq_client as zmq;
use serde_json::json;

use crate::frontend::{Frontend, command};
use crate::interrupt::{ENDLESS, compiler_runs};

/// Runs a cell that never ends, and returns the number of the process that it runs in.
fn busy(frontend: &mut Frontend) -> String {
    let id = frontend.execute("println!(\"{}\", std::process::id()); loop { std::thread::yield_now(); }");
    loop {
        let message = frontend.published();
        if message.parent_header.is_some_and(|p| p.msg_id == id)
            && let Content::StreamContent(stream) = message.content
        {
            return stream.text.trim().to_owned();
        }
    }
}

#[test]
fn garbage_is_dropped_and_no_process_is_left() {
    let mut frontend = Frontend::start();
    assert_eq!(frontend.run("1 + 1").value(), json!({"text/plain": "2"}));

    // Signed with another key, a thousand times.
    let stranger = jupyter_protocol::ConnectionInfo { key: "another key".into(), ..frontend.connection.clone() };
    frontend.runtime.block_on(async {
        let identity = zmq::peer_identity_for_session("stranger").unwrap();
        let mut shell = zmq::create_client_shell_connection_with_identity(&stranger, "s", identity).await.unwrap();
        for _ in 0..1000 {
            let request = ExecuteRequest::new("std::process::abort();".into());
            shell.send(JupyterMessage::new(request, None)).await.unwrap();
        }
    });
    // Bytes that are not even ZeroMQ.
    for port in [frontend.connection.shell_port, frontend.connection.control_port, frontend.connection.iopub_port] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _ = stream.write_all(&[0x41; 4096]);
    }
    // Signed, but of no known kind.
    frontend.send(jupyter_protocol::UnknownMessage { msg_type: "nonsense_request".into(), content: json!({}) });
    assert_eq!(frontend.run("2 + 2").value(), json!({"text/plain": "4"}));

    // A restart does not wait for the cell.
    let cells = busy(&mut frontend);
    frontend.shut_down(true);
    assert!(!Path::new("/proc").join(&cells).join("exe").exists(), "the process of the cells is gone");
}

#[test]
fn nothing_is_left_of_a_kernel_that_is_killed() {
    // While a cell runs.
    let mut frontend = Frontend::start();
    let cells = busy(&mut frontend);
    frontend.process.kill().unwrap();
    frontend.process.wait().unwrap();
    // It ends when it sees that the kernel is gone; the test would hang if it did not.
    while Path::new("/proc").join(&cells).join("exe").exists() {
        std::thread::yield_now();
    }

    // While one is compiled.
    let mut frontend = Frontend::start();
    frontend.run("();");
    frontend.execute(ENDLESS);
    compiler_runs(&frontend);
    let slot = frontend.slots().remove(0);
    frontend.process.kill().unwrap();
    frontend.process.wait().unwrap();
    let inside = format!("{}/", slot.display());
    let arguments = |pid: &Path| std::fs::read(pid.join("cmdline")).unwrap_or_default();
    let left = || {
        let mut processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes.any(|process| String::from_utf8_lossy(&arguments(&process.path())).contains(&inside))
    };
    while left() || slot.exists() {
        std::thread::yield_now();
    }
}

#[test]
fn a_kernel_ends_with_the_jupyter_that_started_it() {
    let home = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ports = runtime.block_on(zmq::peek_ports([127, 0, 0, 1].into(), 5)).unwrap();
    let connection = json!({"ip": "127.0.0.1", "transport": "tcp", "shell_port": ports[0], "iopub_port": ports[1],
        "stdin_port": ports[2], "control_port": ports[3], "hb_port": ports[4], "key": "k",
        "signature_scheme": "hmac-sha256"});
    let file = home.path().join("connection.json");
    std::fs::write(&file, connection.to_string()).unwrap();
    let kernel = command(home.path());
    let mut jupyter = std::process::Command::new("sh");
    jupyter.args(["-c", "\"$@\" & echo $!; wait", "sh"]).arg(kernel.get_program()).args(["run", "--connection-file"]);
    jupyter.arg(&file).env("JPY_PARENT_PID", "1").stdout(std::process::Stdio::piped());
    jupyter.envs(kernel.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut jupyter = jupyter.stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut pid = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(jupyter.stdout.take().unwrap()), &mut pid).unwrap();
    while TcpStream::connect(("127.0.0.1", ports[0])).is_err() {
        std::thread::yield_now();
    }
    jupyter.kill().unwrap();
    jupyter.wait().unwrap();
    while Path::new("/proc").join(pid.trim()).join("exe").exists() {
        std::thread::yield_now();
    }
}

#[test]
fn only_this_machine_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("connection.json");
    let connection = json!({"ip": "0.0.0.0", "transport": "tcp", "shell_port": 1, "iopub_port": 2, "stdin_port": 3,
        "control_port": 4, "hb_port": 5, "key": "k", "signature_scheme": "hmac-sha256"});
    for (content, what) in [(connection.to_string(), "other machines can reach"), ("{".into(), "is no connection file")]
    {
        std::fs::write(&file, content).unwrap();
        let output = command(folder.path()).args(["run", "--connection-file"]).arg(&file).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(what), "{text}");
    }
}

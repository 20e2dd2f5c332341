//! A frontend for tests: typed messages, each waited for with a limit.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use jupyter_protocol::{
    ConnectionInfo, ErrorOutput, ExecuteReply, ExecuteRequest, ExecutionState, InterruptRequest, JupyterMessage,
    JupyterMessageContent as Content, ShutdownRequest, Transport,
};
use jupyter_zmq_client as zmq;
use tokio::runtime::Runtime;

/// Long enough for a first cell on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

pub(crate) struct Frontend {
    pub(crate) runtime: Runtime,
    pub(crate) process: Child,
    pub(crate) connection: ConnectionInfo,
    shell: zmq::ClientShellConnection,
    control: zmq::ClientControlConnection,
    stdin: zmq::ClientStdinConnection,
    iopub: zmq::ClientIoPubConnection,
    folder: tempfile::TempDir,
}

/// A cell that has run.
pub(crate) struct Ran {
    pub(crate) reply: ExecuteReply,
    pub(crate) outputs: Vec<Content>,
}

impl Frontend {
    /// Starts a kernel whose prelude is the crate `toys`.
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// The same, with settings of the kernel's command.
    pub(crate) fn start_with(set: impl FnOnce(&mut Command)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = toys(folder.path());

        let runtime = Runtime::new().unwrap();
        let ports = runtime.block_on(zmq::peek_ports([127, 0, 0, 1].into(), 5)).unwrap();
        let connection = ConnectionInfo {
            ip: "127.0.0.1".into(),
            transport: Transport::TCP,
            shell_port: ports[0],
            iopub_port: ports[1],
            stdin_port: ports[2],
            control_port: ports[3],
            hb_port: ports[4],
            key: "a key".into(),
            signature_scheme: "hmac-sha256".into(),
            kernel_name: None,
        };
        let file = folder.path().join("connection.json");
        std::fs::write(&file, serde_json::to_string(&connection).unwrap()).unwrap();
        let mut kernel = command(folder.path());
        kernel.args(["run", "--connection-file"]).arg(&file).arg("--config").arg(config).stderr(Stdio::null());
        set(&mut kernel);
        let process = kernel.spawn().unwrap();
        let (shell, control, stdin, iopub) = runtime.block_on(connect(&connection));
        let mut frontend = Self { runtime, process, connection, shell, control, stdin, iopub, folder };
        loop {
            if let Content::IoPubWelcome(_) = frontend.published().content {
                return frontend;
            }
        }
    }

    pub(crate) fn home(&self) -> &Path {
        self.folder.path()
    }

    /// The slots of kernels that run in this home.
    pub(crate) fn slots(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.home().join("cache/ferrotune-kernel/slots")).unwrap();
        entries.flatten().map(|e| e.path()).filter(|path| path.is_dir()).collect()
    }

    pub(crate) fn send(&mut self, content: impl Into<Content>) -> String {
        let message = JupyterMessage::new(content, None);
        let id = message.header.msg_id.clone();
        self.runtime.block_on(self.shell.send(message)).unwrap();
        id
    }

    pub(crate) fn execute(&mut self, code: &str) -> String {
        self.send(ExecuteRequest { allow_stdin: true, ..ExecuteRequest::new(code.into()) })
    }

    fn limited<T>(&self, what: &str, future: impl Future<Output = zmq::Result<T>>) -> T {
        let limited = async { tokio::time::timeout(LIMIT, future).await };
        self.runtime.block_on(limited).unwrap_or_else(|_| panic!("waited too long for {what}")).unwrap()
    }

    /// The next message on iopub.
    pub(crate) fn published(&mut self) -> JupyterMessage {
        let Self { runtime, iopub, .. } = self;
        let limited = async { tokio::time::timeout(LIMIT, iopub.read()).await };
        runtime.block_on(limited).expect("waited too long for iopub").unwrap()
    }

    /// The next reply on the shell socket.
    pub(crate) fn reply(&mut self) -> JupyterMessage {
        let Self { runtime, shell, .. } = self;
        let limited = async { tokio::time::timeout(LIMIT, shell.read()).await };
        runtime.block_on(limited).expect("waited too long for a reply").unwrap()
    }

    /// The reply to an execution.
    pub(crate) fn executed(&mut self) -> ExecuteReply {
        match self.reply().content {
            Content::ExecuteReply(reply) => reply,
            other => panic!("no execute_reply but {other:?}"),
        }
    }

    /// What is published for the request `id`, up to its `idle`.
    pub(crate) fn outputs(&mut self, id: &str) -> Vec<Content> {
        let mut outputs = Vec::new();
        loop {
            let message = self.published();
            if message.parent_header.as_ref().is_none_or(|parent| parent.msg_id != id) {
                continue;
            }
            match message.content {
                Content::Status(status) if status.execution_state == ExecutionState::Idle => return outputs,
                Content::Status(_) | Content::ExecuteInput(_) => {}
                content => outputs.push(content),
            }
        }
    }

    pub(crate) fn run(&mut self, code: &str) -> Ran {
        let id = self.execute(code);
        let outputs = self.outputs(&id);
        Ran { reply: self.executed(), outputs }
    }

    pub(crate) fn interrupt(&mut self) {
        let Self { runtime, control, .. } = self;
        runtime.block_on(async {
            control.send(JupyterMessage::new(InterruptRequest {}, None)).await.unwrap();
            let reply = tokio::time::timeout(LIMIT, control.read()).await.expect("no interrupt_reply").unwrap();
            assert!(matches!(reply.content, Content::InterruptReply(_)), "{reply:?}");
        });
    }

    /// Asks for the end, and waits for it.
    pub(crate) fn shut_down(&mut self, restart: bool) {
        let Self { runtime, control, .. } = self;
        runtime.block_on(async {
            control.send(JupyterMessage::new(ShutdownRequest { restart }, None)).await.unwrap();
            let reply = tokio::time::timeout(LIMIT, control.read()).await.expect("no shutdown_reply").unwrap();
            assert!(matches!(&reply.content, Content::ShutdownReply(r) if r.restart == restart), "{reply:?}");
        });
        self.process.wait().unwrap();
    }

    /// Answers the next question of a cell, and returns it with whether it is for a password. A cell that ends without one
    /// fails the test at once.
    pub(crate) fn answer(&mut self, value: &str) -> (String, bool) {
        let Self { runtime, stdin, shell, .. } = self;
        runtime.block_on(async {
            let question = async {
                tokio::select! {
                    request = stdin.read() => request.unwrap(),
                    reply = shell.read() => panic!("no input_request but {:?}", reply.unwrap().content),
                }
            };
            let request = tokio::time::timeout(LIMIT, question).await.expect("no input_request");
            let Content::InputRequest(asked) = &request.content else { panic!("{request:?}") };
            let reply = jupyter_protocol::InputReply { value: value.into(), ..Default::default() };
            stdin.send(JupyterMessage::new(reply, Some(&request))).await.unwrap();
            (asked.prompt.clone(), asked.password)
        })
    }

    pub(crate) fn heartbeat(&self) {
        self.limited("the heartbeat", async {
            let mut heart = zmq::create_client_heartbeat_connection(&self.connection).await?;
            heart.single_heartbeat().await
        });
    }
}

impl Drop for Frontend {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Ran {
    pub(crate) fn stdout(&self) -> String {
        let text = self.outputs.iter().filter_map(|output| match output {
            Content::StreamContent(s) if matches!(s.name, jupyter_protocol::Stdio::Stdout) => Some(s.text.as_str()),
            _ => None,
        });
        text.collect()
    }

    pub(crate) fn stderr(&self) -> String {
        let text = self.outputs.iter().filter_map(|output| match output {
            Content::StreamContent(s) if matches!(s.name, jupyter_protocol::Stdio::Stderr) => Some(s.text.as_str()),
            _ => None,
        });
        text.collect()
    }

    /// The value of the last expression, as JSON of its bundle.
    pub(crate) fn value(&self) -> serde_json::Value {
        let mut results = self.outputs.iter().filter_map(|output| match output {
            Content::ExecuteResult(result) => Some(serde_json::to_value(&result.data).unwrap()),
            _ => None,
        });
        results.next_back().unwrap_or_default()
    }

    /// The one error, which the reply has, too.
    pub(crate) fn error(&self) -> &ErrorOutput {
        let errors = self.outputs.iter().filter_map(|output| match output {
            Content::ErrorOutput(error) => Some(error),
            _ => None,
        });
        let errors: Vec<_> = errors.collect();
        assert_eq!(errors.len(), 1, "{:?}", self.outputs);
        let replied = self.reply.error.as_ref().expect("the reply is an error, too");
        assert_eq!((&replied.ename, &replied.evalue), (&errors[0].ename, &errors[0].evalue));
        errors[0]
    }
}

async fn connect(
    connection: &ConnectionInfo,
) -> (zmq::ClientShellConnection, zmq::ClientControlConnection, zmq::ClientStdinConnection, zmq::ClientIoPubConnection)
{
    let session = "tests";
    let identity = || zmq::peer_identity_for_session(session).unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], connection.iopub_port));
    // The kernel opens its sockets some time after it was started.
    while tokio::net::TcpStream::connect(address).await.is_err() {
        tokio::task::yield_now().await;
    }
    let shell = zmq::create_client_shell_connection_with_identity(connection, session, identity()).await.unwrap();
    let control = zmq::create_client_control_connection(connection, session).await.unwrap();
    let stdin = zmq::create_client_stdin_connection_with_identity(connection, session, identity()).await.unwrap();
    let iopub = zmq::create_client_iopub_connection(connection, "", session).await.unwrap();
    (shell, control, stdin, iopub)
}

/// Writes the crate `toys` and a configuration that has it as the prelude.
pub(crate) fn toys(home: &Path) -> PathBuf {
    let toys = home.join("toys");
    std::fs::create_dir_all(toys.join("src")).unwrap();
    std::fs::write(toys.join("Cargo.toml"), include_str!("toys.toml")).unwrap();
    std::fs::write(toys.join("src/lib.rs"), include_str!("toys.rs")).unwrap();
    let config = home.join("kernel.toml");
    std::fs::write(&config, "[prelude]\ncrate = \"toys\"\npath = \"toys\"\nuse = [\"toys::*\"]\n").unwrap();
    config
}

/// The kernel's program, with the folders of a user of its own.
pub(crate) fn command(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferrotune-kernel"));
    command.env("XDG_CACHE_HOME", home.join("cache")).env("XDG_DATA_HOME", home.join("data"));
    command.env("HF_TOKEN", "hf_not_to_be_seen");
    command
}

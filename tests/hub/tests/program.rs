//! The program: it says how to reach it, and answers there.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ferrotune-loopback-hub");

/// The answer to a GET, its head and body.
fn get(address: &str, path: &str, token: &str) -> String {
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn it_tells_how_to_reach_it_and_knows_its_user() {
    let folder = std::env::temp_dir().join(format!("loopback-hub-{}", std::process::id()));
    let mut hub = Command::new(PROGRAM).arg(&folder).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(hub.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let value = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)).unwrap_or_default();
    let (address, token) = (value("HF_ENDPOINT="), value("HF_TOKEN="));
    let known = get(address, "/api/whoami-v2", token);
    let stranger = get(address, "/api/whoami-v2", "other");
    hub.kill().unwrap();
    hub.wait().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    assert!(known.starts_with("HTTP/1.1 200") && known.contains("\"name\":\"me\""), "{known}");
    assert!(stranger.starts_with("HTTP/1.1 401"), "{stranger}");
}

#[test]
fn without_a_folder_it_says_how_it_is_used() {
    let out = Command::new(PROGRAM).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("usage: ferrotune-loopback-hub FOLDER"));
}

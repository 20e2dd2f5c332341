//! What runs in the process of the cells before the first one.
//!
//! Cells have a standard library of their own, which this program cannot reach. So a cell that nobody sees starts a thread
//! there that empties the buffer of standard output, ten times a second and whenever the kernel asks for it; and it tells the
//! kernel of a panic as a frame, so that a panic that ends a cell is reported as its error and not twice.

/// Declares nothing that a later cell could see.
pub(super) const CELL: &str = r#"{
    use std::io::{Read as _, Write as _};
    if let Ok(mut kernel) = std::env::var("FERROTUNE_KERNEL_SOCKET").map_err(drop).and_then(|path| {
        std::os::unix::net::UnixStream::connect(path).map_err(drop)
    }) {
        std::thread::spawn(move || {
            let _ = kernel.write_all(b"f");
            let _ = kernel.set_read_timeout(Some(std::time::Duration::from_millis(100)));
            let mut request = [0u8];
            loop {
                let asked = match kernel.read(&mut request) {
                    Ok(0) => break,
                    Ok(_) => true,
                    Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => false,
                    Err(_) => break,
                };
                let _ = std::io::stdout().flush();
                if asked && kernel.write_all(&request).is_err() {
                    break;
                }
            }
        });
    }
    let (default, cells) = (std::panic::take_hook(), std::thread::current().id());
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().id() != cells {
            return default(info);
        }
        let payload = info.payload();
        let message = payload.downcast_ref::<&str>().map(|s| s.to_string());
        let message = message.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        let place = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
        let quoted = |s: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || " .,:;/()[]'`<>=+*-_!?".contains(c);
            let escaped: String = s.encode_utf16().map(|unit| match char::from_u32(unit as u32) {
                Some(c) if plain(c) => c.to_string(),
                _ => format!("\\u{unit:04x}"),
            }).collect();
            format!("\"{escaped}\"")
        };
        let frame = format!("\u{1e}{{\"msg_type\":\"panic\",\"content\":{{\"message\":{},\"place\":{}}}}}\n",
            quoted(&message), quoted(&place));
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(frame.as_bytes()).and_then(|()| out.flush());
    }));
};"#;

//! evcxr's own Jupyter kernel, for comparison: what notebooks do in it, and how fast.

fn main() {
    if let Err(error) = evcxr_jupyter::main() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

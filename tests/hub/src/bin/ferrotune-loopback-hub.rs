//! A Hub for a person or a script to practise on, until it is interrupted.

use ferrotune_loopback_hub::LoopbackHub;

fn main() {
    let Some(folder) = std::env::args().nth(1).filter(|folder| !folder.starts_with('-')) else {
        eprintln!(
            "usage: ferrotune-loopback-hub FOLDER\n\nServes a Hub that keeps its files in FOLDER, and prints how to reach it."
        );
        std::process::exit(2);
    };
    match LoopbackHub::start(&folder) {
        Ok(hub) => {
            println!("export HF_ENDPOINT={} HF_TOKEN={}", hub.url(), hub.token());
            loop {
                std::thread::park();
            }
        }
        Err(e) => {
            eprintln!("the Hub could not start in `{folder}`: {e}");
            std::process::exit(1);
        }
    }
}

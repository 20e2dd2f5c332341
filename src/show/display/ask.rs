//! Questions to the person at the notebook.

use super::backend::Backend;

/// Asks for a line of text.
pub fn input(prompt: &str) -> String {
    ask(prompt, false)
}

/// Asks for a line of text that is not to be seen. In a terminal it is seen.
pub fn password(prompt: &str) -> String {
    ask(prompt, true)
}

fn ask(prompt: &str, hidden: bool) -> String {
    if Backend::current() != Backend::Text {
        return if hidden { evcxr_input::get_password(prompt) } else { evcxr_input::get_string(prompt) };
    }
    super::backend::write(prompt);
    let mut line = String::new();
    // A closed input answers with nothing.
    let _ = std::io::stdin().read_line(&mut line);
    line.trim_end_matches(['\r', '\n']).into()
}

"""Jupyter's own conformance tests, with every attribute set."""

import unittest

import jupyter_kernel_test

FRAME = r'print!("\u{{1e}}{{{{\"msg_type\":\"{msg_type}\",\"content\":{content}}}}}\n");'


def frame(msg_type, content):
    """Code that writes a frame; `content` is JSON in which Rust's format takes `{{` for a brace."""
    return FRAME.format(msg_type=msg_type, content=content.replace('"', '\\"').replace("{", "{{").replace("}", "}}"))


class KernelTests(jupyter_kernel_test.KernelTests):
    kernel_name = "ferrotune"
    language_name = "rust"
    file_extension = ".rs"
    code_hello_world = 'println!("hello, world");'
    code_stderr = 'eprintln!("an error");'
    completion_samples = [{"text": "std::collections::HashMa", "matches": {"HashMap"}}]
    complete_code_samples = ["1 + 1", "fn f() {}", 'let s = "(";']
    incomplete_code_samples = ["fn f() {", "let v = vec![", '"open']
    invalid_code_samples = ["fn f() }", "(]"]
    code_page_something = frame("payload", '{"source":"page","start":0,"data":{"text/plain":"a page"}}')
    code_generate_error = 'panic!("on purpose");'
    code_execute_result = [
        {"code": "1 + 2", "result": "3"},
        {"code": "6 * 7", "result": "42"},
        {"code": '"text"', "result": '"text"'},
    ]
    code_display_data = [
        {"code": frame("display_data", '{"data":{"text/html":"<b>x</b>"},"metadata":{},"transient":{}}'), "mime": "text/html"},
        {"code": frame("display_data", '{"data":{"image/svg+xml":"<svg/>"},"metadata":{},"transient":{}}'), "mime": "image/svg+xml"},
    ]
    supported_history_operations = ("tail", "range", "search")
    code_history_pattern = "1 ? 2*"
    code_inspect_sample = "String"
    code_clear_output = frame("clear_output", '{"wait":false}')


class IopubWelcomeTests(jupyter_kernel_test.IopubWelcomeTests):
    kernel_name = "ferrotune"
    support_iopub_welcome = True


if __name__ == "__main__":
    result = unittest.main(exit=False, verbosity=2).result
    # A test that is left out is a part of the protocol that nobody has tried.
    raise SystemExit(bool(result.skipped) or not result.wasSuccessful())

//! What becomes of cells that nobody disturbs. One kernel for all, for it takes seconds to start.

use jupyter_protocol::{
    ClearOutput, CommInfoRequest, CompleteRequest, ExecuteRequest, ExpressionResult, HistoryRequest, InspectRequest,
    IsCompleteRequest, JupyterMessageContent as Content, KernelInfoRequest, ReplyStatus,
};
use serde_json::json;

use crate::frontend::Frontend;

#[test]
fn cells_run_as_the_protocol_says() {
    let mut frontend = Frontend::start();
    // Answered while the engine is still starting.
    frontend.send(KernelInfoRequest {});
    match frontend.reply().content {
        Content::KernelInfoReply(info) => {
            assert_eq!((info.language_info.name.as_str(), info.protocol_version.as_str()), ("rust", "5.4"));
        }
        other => panic!("{other:?}"),
    }
    frontend.heartbeat();

    values_and_streams(&mut frontend);
    errors(&mut frontend);
    displays(&mut frontend);
    requests(&mut frontend);
    questions(&mut frontend);
    quiet_cells(&mut frontend);

    let slots = frontend.slots();
    assert_eq!(slots.len(), 1, "{slots:?}");
    frontend.shut_down(false);
    assert!(frontend.slots().is_empty(), "the kernel takes its folder with it");
}

fn values_and_streams(frontend: &mut Frontend) {
    let ran = frontend.run("let first = id(); 1 + 1");
    assert_eq!((ran.value(), ran.reply.execution_count.0), (json!({"text/plain": "2"}), 1));
    assert_eq!(frontend.run("for _ in 0..1 {}").outputs.len(), 0, "the value of a loop is nothing to look at");
    // A static that each cell had a copy of would begin anew.
    assert_eq!(frontend.run("(first, id())").value(), json!({"text/plain": "(0, 1)"}));
    assert_eq!(frontend.run("cfg!(debug_assertions)").value(), json!({"text/plain": "false"}));

    let ran = frontend.run("println!(\"a\"); eprintln!(\"b\"); print!(\"c, without an end\");\nlet y = 2;");
    assert_eq!((ran.stdout().as_str(), ran.stderr().as_str()), ("a\nc, without an end", "b\n"));
    let ran = frontend.run("for i in 0..5000 { println!(\"{i}\"); }");
    assert_eq!(ran.stdout().lines().count(), 5000);
    assert!(ran.outputs.len() < 200, "{} messages for 5,000 lines", ran.outputs.len());
    let ran = frontend.run("println!(\"{:?}\", std::env::var(\"HF_TOKEN\"));");
    assert_eq!(ran.stdout(), "Ok(\"***\")\n");

    // A thread that outlives its cell is heard.
    let id = frontend.execute(
        "std::thread::spawn(|| { std::thread::sleep(std::time::Duration::from_millis(300)); println!(\"late\"); });",
    );
    frontend.outputs(&id);
    frontend.executed();
    let late = frontend.published();
    assert!(matches!(&late.content, Content::StreamContent(s) if s.text == "late\n"), "{late:?}");
}

fn errors(frontend: &mut Frontend) {
    let ran = frontend.run("let y: i32 = \"đá\";");
    assert_eq!((ran.error().ename.as_str(), ran.error().evalue.as_str()), ("E0308", "mismatched types"));
    let shown = ran.error().traceback.join("\n");
    assert!(shown.contains("let y: i32 = \"đá\";") && shown.contains("^^^^"), "{shown}");

    let ran = frontend.run("panic!(\"boom {}\", 3);");
    assert_eq!((ran.error().ename.as_str(), ran.error().evalue.as_str()), ("Panic", "boom 3"));
    assert_eq!(ran.outputs.len(), 1, "the error alone: {:?}", ran.outputs);
    let ran = frontend.run("\"q\".parse::<i32>()?;");
    assert_eq!((ran.error().ename.as_str(), ran.error().evalue.as_str()), ("Error", "invalid digit found in string"));
    assert_eq!(ran.outputs.len(), 1, "the error alone: {:?}", ran.outputs);
    assert_eq!(frontend.run("first").value(), json!({"text/plain": "0"}), "variables outlive errors");

    // Cells that wait behind one that fails are not run.
    let ids = ["panic!(\"first of three\");", "1", "2"].map(|code| frontend.execute(code));
    let outputs = ids.map(|id| frontend.outputs(&id).len());
    assert_eq!(outputs, [1, 0, 0]);
    let status = [(); 3].map(|()| frontend.executed().status);
    assert_eq!(status, [ReplyStatus::Error, ReplyStatus::Aborted, ReplyStatus::Aborted]);
}

fn displays(frontend: &mut Frontend) {
    let show = |msg_type: &str, text: &str| {
        let content = json!({"data": {"text/plain": text}, "metadata": {}, "transient": {"display_id": "d"}});
        let frame = json!({"msg_type": msg_type, "content": content}).to_string();
        format!("print!(\"{{}}\", {:?});", format!("\u{1e}{frame}\n"))
    };
    // The cell waits for input after its update: so the update is seen while it runs.
    let code = format!("{}\n{}\nevcxr_input_like();", show("display_data", "0 %"), show("update_display_data", "50 %"));
    let ask = "fn evcxr_input_like() { println!(\"EVCXR_INPUT_REQUEST:go on: now?\"); \
               let mut s = String::new(); std::io::stdin().read_line(&mut s).unwrap(); print!(\"{s}\"); }";
    frontend.run(ask);
    let id = frontend.execute(&code);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match frontend.published().content {
            Content::DisplayData(d) => seen.push(serde_json::to_value(&d.data).unwrap()),
            Content::UpdateDisplayData(d) => seen.push(serde_json::to_value(&d.data).unwrap()),
            _ => {}
        }
    }
    assert_eq!(seen, [json!({"text/plain": "0 %"}), json!({"text/plain": "50 %"})]);
    assert_eq!(frontend.answer("yes\n"), ("go on: now?".into(), false));
    let rest = frontend.outputs(&id);
    assert!(matches!(&rest[..], [Content::StreamContent(s)] if s.text == "yes \n"), "{rest:?}");
    frontend.executed();

    let clear =
        "print!(\"\\u{1e}{{\\\"msg_type\\\":\\\"clear_output\\\",\\\"content\\\":{{\\\"wait\\\":true}}}}\\n\");";
    let ran = frontend.run(clear);
    assert!(matches!(ran.outputs[..], [Content::ClearOutput(ClearOutput { wait: true })]), "{:?}", ran.outputs);
    let html = "println!(\"EVCXR_BEGIN_CONTENT text/html\\n<b>x</b>\\nEVCXR_END_CONTENT\");";
    assert_eq!(frontend.run(html).value(), json!({"text/html": "<b>x</b>"}));
}

fn requests(frontend: &mut Frontend) {
    frontend.run("let pineapple = String::from(\"sweet\");");
    frontend.send(CompleteRequest { code: "let đ = pineapp".into(), cursor_pos: 15 });
    match frontend.reply().content {
        Content::CompleteReply(reply) => {
            assert!(reply.matches.contains(&"pineapple".into()), "{:?}", reply.matches);
            assert_eq!((reply.cursor_start, reply.cursor_end), (8, 15));
        }
        other => panic!("{other:?}"),
    }
    frontend.send(InspectRequest { code: "pineapple".into(), cursor_pos: 4, detail_level: Some(0) });
    match frontend.reply().content {
        Content::InspectReply(reply) => {
            let text = serde_json::to_string(&reply.data).unwrap();
            assert!(reply.found && text.contains("String"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    frontend.send(IsCompleteRequest { code: "fn f() {".into() });
    assert!(matches!(frontend.reply().content, Content::IsCompleteReply(r) if r.indent == "    "));
    frontend.send(CommInfoRequest { target_name: None });
    assert!(matches!(frontend.reply().content, Content::CommInfoReply(r) if r.comms.is_empty()));
    frontend.send(HistoryRequest::Tail { n: 1, output: false, raw: true });
    match frontend.reply().content {
        Content::HistoryReply(reply) => {
            let last = serde_json::to_value(&reply.history[0]).unwrap();
            assert_eq!(last[2], json!("let pineapple = String::from(\"sweet\");"));
        }
        other => panic!("{other:?}"),
    }
    let history = std::fs::read_to_string(frontend.home().join("data/ferrotune-kernel/history.jsonl")).unwrap();
    assert!(history.lines().count() > 10, "it outlives the kernel");
}

fn questions(frontend: &mut Frontend) {
    let password = "println!(\"EVCXR_INPUT_REQUEST_PASSWORD:key\"); let mut s = String::new(); \
                    std::io::stdin().read_line(&mut s)?; s.len()";
    let id = frontend.execute(password);
    assert_eq!(frontend.answer("secret"), ("key".into(), true));
    frontend.outputs(&id);
    assert_eq!(frontend.executed().status, ReplyStatus::Ok);
    let request = ExecuteRequest { allow_stdin: false, ..ExecuteRequest::new("evcxr_input_like();".into()) };
    let id = frontend.send(request);
    let outputs = frontend.outputs(&id);
    let refused = outputs.iter().any(|o| matches!(o, Content::ErrorOutput(e) if e.ename == "StdinNotImplementedError"));
    assert!(refused, "{outputs:?}");
    frontend.executed();
}

fn quiet_cells(frontend: &mut Frontend) {
    let before = frontend.run("1").reply.execution_count.0;
    let id = frontend.send(ExecuteRequest { silent: true, ..ExecuteRequest::new("7".into()) });
    assert!(frontend.outputs(&id).is_empty());
    assert_eq!(frontend.executed().execution_count.0, before);
    let expressions = [("good".to_owned(), "first + 1".to_owned()), ("bad".to_owned(), "nonsense".to_owned())];
    let user_expressions = Some(expressions.into_iter().collect());
    let id = frontend.send(ExecuteRequest { user_expressions, ..ExecuteRequest::new("let z = 1;".into()) });
    frontend.outputs(&id);
    let values = frontend.executed().user_expressions.unwrap();
    assert!(matches!(&values["good"], ExpressionResult::Ok { data, .. }
        if serde_json::to_value(data).unwrap() == json!({"text/plain": "1"})));
    assert!(matches!(&values["bad"], ExpressionResult::Error { ename, .. } if ename == "E0425"), "{values:?}");
}

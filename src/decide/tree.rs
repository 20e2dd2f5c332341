//! The decision tree, as data: the command asks it, the book draws it, tests walk it.

use std::fmt::Write;

use serde::Serialize;

use crate::{Error, Result};

/// A text in the course's languages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Text {
    pub en: &'static str,
    pub vi: &'static str,
}

/// A way to make a model do a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Approach {
    Prompt,
    Retrieval,
    FineTuning,
    FineTuningAndRetrieval,
    /// Make examples first; then fine-tune.
    ExamplesFirst,
}

/// Where an answer leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// To the question with this id.
    Ask(&'static str),
    /// To the advice with this id.
    Take(&'static str),
}

/// A question with two answers.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Question {
    pub id: &'static str,
    /// A few words of it, for a drawing.
    pub short: Text,
    pub text: Text,
    /// Why it is asked, and how to find the answer out.
    pub help: Text,
    pub yes: Next,
    pub no: Next,
}

/// What the tree says at an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    pub id: &'static str,
    pub approach: Approach,
    pub text: Text,
    pub why: Text,
}

/// The questions; the first one is where everybody starts.
pub static QUESTIONS: [Question; 6] = [
    Question {
        id: "knowledge",
        short: Text { en: "Facts that change?", vi: "Dữ kiện hay thay đổi?" },
        text: Text {
            en: "Must answers hold facts from documents, or facts that change?",
            vi: "Câu trả lời có cần dữ kiện lấy từ tài liệu, hoặc dữ kiện hay thay đổi?",
        },
        help: Text {
            en: "Prices, stock, rules, customers' records. What is trained into weights is as old as the training.",
            vi: "Giá, tồn kho, quy định, hồ sơ khách hàng. Điều đã huấn luyện vào trọng số chỉ mới bằng lần huấn luyện ấy.",
        },
        yes: Next::Ask("form-with-facts"),
        no: Next::Ask("form"),
    },
    Question {
        id: "form",
        short: Text { en: "Prompt good enough?", vi: "Prompt đã đủ tốt?" },
        text: Text {
            en: "Does a prompt, with examples in it, give the form you need often enough?",
            vi: "Một prompt có kèm ví dụ đã cho đúng dạng bạn cần, đủ thường xuyên chưa?",
        },
        help: Text {
            en: "Format, style, words. Try it on 50 held-out cases and count: it takes an hour and no training.",
            vi: "Định dạng, văn phong, từ ngữ. Hãy thử trên 50 trường hợp giữ lại rồi đếm: chỉ mất một giờ, không phải huấn luyện.",
        },
        yes: Next::Ask("volume"),
        no: Next::Ask("examples"),
    },
    Question {
        id: "form-with-facts",
        short: Text { en: "Good with the facts in it?", vi: "Kèm dữ kiện là đủ?" },
        text: Text {
            en: "With the facts put into the prompt, is the form right often enough?",
            vi: "Khi đưa các dữ kiện ấy vào prompt, dạng câu trả lời có đúng đủ thường xuyên không?",
        },
        help: Text {
            en: "Find the facts by search, put them before the question, and count on 50 held-out cases.",
            vi: "Tìm dữ kiện bằng truy xuất, đặt chúng trước câu hỏi, rồi đếm trên 50 trường hợp giữ lại.",
        },
        yes: Next::Take("retrieval"),
        no: Next::Ask("examples-with-facts"),
    },
    Question {
        id: "volume",
        short: Text { en: "Beyond break-even?", vi: "Vượt điểm hòa vốn?" },
        text: Text {
            en: "Are there more queries than the long prompt's cost breaks even at?",
            vi: "Số lượt hỏi có vượt điểm hòa vốn của prompt dài không?",
        },
        help: Text {
            en: "A fine-tuned model needs no instructions and no examples in its prompt. `ferrotune compare` measures both and counts.",
            vi: "Mô hình đã tinh chỉnh không cần hướng dẫn hay ví dụ trong prompt. `ferrotune compare` đo cả hai rồi tính.",
        },
        yes: Next::Ask("examples"),
        no: Next::Take("prompt"),
    },
    Question {
        id: "examples",
        short: Text { en: "Hundreds of examples?", vi: "Có vài trăm mẫu?" },
        text: Text {
            en: "Do you have some hundred good examples of question and answer?",
            vi: "Bạn có vài trăm cặp hỏi đáp tốt chưa?",
        },
        help: Text {
            en: "How many are enough shows in a learning curve: train on 50, 100, 300 and 1,000 and look where it goes flat.",
            vi: "Bao nhiêu là đủ thì đường cong học cho thấy: huấn luyện trên 50, 100, 300 và 1000 mẫu rồi xem nó phẳng ra ở đâu.",
        },
        yes: Next::Take("fine-tuning"),
        no: Next::Take("examples-first"),
    },
    Question {
        id: "examples-with-facts",
        short: Text { en: "Examples with facts?", vi: "Có mẫu kèm dữ kiện?" },
        text: Text {
            en: "Do you have some hundred good examples, each with the facts it was answered from?",
            vi: "Bạn có vài trăm mẫu tốt, mỗi mẫu kèm dữ kiện đã dùng để trả lời chưa?",
        },
        help: Text {
            en: "The model is to learn to use what was found, so it must see what will be found.",
            vi: "Mô hình phải học cách dùng điều tìm được, nên nó phải thấy điều sẽ được tìm.",
        },
        yes: Next::Take("fine-tuning-and-retrieval"),
        no: Next::Take("examples-first"),
    },
];

/// The ends.
pub static ADVICE: [Advice; 5] = [
    Advice {
        id: "prompt",
        approach: Approach::Prompt,
        text: Text { en: "Write a prompt", vi: "Viết prompt" },
        why: Text {
            en: "It does the task, costs nothing to set up, and can be changed within a minute.",
            vi: "Nó làm được việc, không tốn chi phí ban đầu, và đổi được trong một phút.",
        },
    },
    Advice {
        id: "retrieval",
        approach: Approach::Retrieval,
        text: Text { en: "Retrieve (RAG)", vi: "Truy xuất (RAG)" },
        why: Text {
            en: "The facts stay in a table that anybody can change; the model as it is can read them.",
            vi: "Dữ kiện nằm trong một bảng ai cũng sửa được; mô hình nguyên bản đã biết đọc chúng.",
        },
    },
    Advice {
        id: "fine-tuning",
        approach: Approach::FineTuning,
        text: Text { en: "Fine-tune", vi: "Tinh chỉnh" },
        why: Text {
            en: "The form goes into the weights, and prompts become short. Keep a held-out set, and look at it before and after.",
            vi: "Dạng trả lời đi vào trọng số, prompt trở nên ngắn. Hãy giữ một tập kiểm tra và xem nó trước và sau khi huấn luyện.",
        },
    },
    Advice {
        id: "fine-tuning-and-retrieval",
        approach: Approach::FineTuningAndRetrieval,
        text: Text { en: "Fine-tune and retrieve", vi: "Tinh chỉnh và truy xuất" },
        why: Text {
            en: "Training gives the form, retrieval the facts: train on examples that have the found rows in them.",
            vi: "Huấn luyện lo dạng trả lời, truy xuất lo dữ kiện: hãy huấn luyện trên những mẫu có sẵn các dòng tìm được.",
        },
    },
    Advice {
        id: "examples-first",
        approach: Approach::ExamplesFirst,
        text: Text { en: "Examples first", vi: "Tạo mẫu trước" },
        why: Text {
            en: "Make some hundred, then fine-tune: by hand, from logs, or by a program that knows the answer before the question, as `datasets/orders` does.",
            vi: "Tạo vài trăm mẫu rồi tinh chỉnh: bằng tay, từ nhật ký, hoặc bằng một chương trình biết đáp án trước khi có câu hỏi, như `datasets/orders`.",
        },
    },
];

/// A question that was answered on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub question: &'static str,
    pub answer: bool,
}

/// The question called `id`.
pub fn question(id: &str) -> Option<&'static Question> {
    QUESTIONS.iter().find(|question| question.id == id)
}

/// The advice called `id`.
pub fn advice(id: &str) -> Option<&'static Advice> {
    ADVICE.iter().find(|advice| advice.id == id)
}

/// The advice for answers that are known, by the questions' ids.
///
/// ```
/// let advice = ferrotune::decide::tree::advise(&[("knowledge", false), ("form", false), ("examples", true)])?;
/// assert_eq!(advice.text.en, "Fine-tune");
/// # Ok::<(), ferrotune::Error>(())
/// ```
///
/// Errors: [`Error::Data`] where a question that is asked has no answer here.
pub fn advise(answers: &[(&str, bool)]) -> Result<Advice> {
    let answer = |question: &Question| Ok(answers.iter().find(|(id, _)| *id == question.id).map(|(_, yes)| *yes));
    Ok(*walk(answer)?.1)
}

/// Walks from the first question to an end. `answer` is asked at each, and says `None` when it has no answer.
///
/// Errors: [`Error::Data`] where a question was left open, with its text; what `answer` fails with.
pub fn walk(mut answer: impl FnMut(&'static Question) -> Result<Option<bool>>) -> Result<(Vec<Step>, &'static Advice)> {
    let mut steps = Vec::new();
    let mut at = &QUESTIONS[0];
    loop {
        let Some(yes) = answer(at)? else {
            let what = format!("the question `{}` is open ({})", at.id, at.text.en);
            let hint = format!("Answer it with `--{0} yes` or `--{0} no`, or at the terminal.", at.id);
            return Err(Error::data("", what, hint));
        };
        steps.push(Step { question: at.id, answer: yes });
        match if yes { at.yes } else { at.no } {
            Next::Ask(id) => at = question(id).unwrap_or(at),
            Next::Take(id) => return Ok((steps, advice(id).unwrap_or(&ADVICE[0]))),
        }
    }
}

/// The tree as a Mermaid flowchart in one language, `en` or `vi`.
pub fn mermaid(language: &str) -> String {
    let text = |text: &Text| if language == "vi" { text.vi } else { text.en };
    let (yes, no) = if language == "vi" { ("có", "không") } else { ("yes", "no") };
    let mut chart = String::from("flowchart TD\n");
    for question in &QUESTIONS {
        let _ = writeln!(chart, "    {}{{\"{}\"}}", question.id, text(&question.text));
    }
    for advice in &ADVICE {
        let _ = writeln!(chart, "    {}([\"{}\"])", advice.id, text(&advice.text));
    }
    for question in &QUESTIONS {
        for (word, next) in [(yes, question.yes), (no, question.no)] {
            let (Next::Ask(to) | Next::Take(to)) = next;
            let _ = writeln!(chart, "    {} -->|{word}| {to}", question.id);
        }
    }
    chart
}

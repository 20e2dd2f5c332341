//! Data: files, templates, masks, packing, and the committed orders.

mod columns;
mod load;
mod orders;
mod pack;
mod template;
mod tokenize;

use ferrotune::data::Record;
use serde_json::json;
use tokenizers::Tokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

const BOS: u32 = 0;
const EOS: u32 = 1;

/// A byte-level tokenizer of 256 bytes, `<s>`, `</s>`, and a token per merge. Merges may cross every border, since nothing
/// splits the text before; spans are trimmed, as GPT-2's are. `post` follows the trimming.
fn tokenizer(merges: &[(&str, &str)], post: Option<serde_json::Value>) -> Tokenizer {
    let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    let special = ["<s>", "</s>"].map(str::to_owned);
    let merged = merges.iter().map(|(a, b)| format!("{a}{b}"));
    let tokens = special.into_iter().chain(bytes.into_iter().map(String::from)).chain(merged);
    let vocab: serde_json::Map<_, _> = tokens.enumerate().map(|(id, token)| (token, json!(id))).collect();
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true})
    };
    let trim = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let processors: Vec<_> = [Some(trim.clone()), post].into_iter().flatten().collect();
    let text = json!({
        "version": "1.0",
        "added_tokens": [added(BOS, "<s>"), added(EOS, "</s>")],
        "pre_tokenizer": trim,
        "post_processor": {"type": "Sequence", "processors": processors},
        "decoder": trim,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    });
    text.to_string().parse().unwrap()
}

/// A post-processor that puts `<s>` before and, if `eos`, `</s>` behind each text.
fn adds_tokens(eos: bool) -> Option<serde_json::Value> {
    let special = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let mut single = vec![special("<s>"), json!({"Sequence": {"id": "A", "type_id": 0}})];
    single.extend(eos.then(|| special("</s>")));
    let token = |id: &str, number: u32| json!({"id": id, "ids": [number], "tokens": [id]});
    Some(json!({
        "type": "TemplateProcessing",
        "single": single,
        "pair": single.clone().into_iter().chain([json!({"Sequence": {"id": "B", "type_id": 1}})]).collect::<Vec<_>>(),
        "special_tokens": {"<s>": token("<s>", BOS), "</s>": token("</s>", EOS)},
    }))
}

fn record(instruction: &str, input: &str, output: &str) -> Record {
    Record { instruction: instruction.into(), input: input.into(), output: output.into(), ..Record::default() }
}
